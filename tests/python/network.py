"""A test network of real processes, started by the program itself and ended with it."""

import json
import pathlib
import re
import subprocess
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager

from client.rules import Key, Wrong

# Should this program die without a word, the network ends by itself.
LIFETIME = 400
READY_WITHIN = 90
# Blocks: an epoch ends while the client is there, about once in so many seconds.
EPOCH_LENGTH = 20
STOP_WITHIN = 20


class Network:
    """What a stranger is told of a network: genesis, addresses, and here also where the money is."""

    def __init__(self, program: pathlib.Path, folder: pathlib.Path):
        self.program, self.folder = program, folder
        self.genesis = (folder / "genesis.bin").read_bytes()
        wallet = json.loads((folder / "faucet.json").read_text())
        self.faucet = Key(bytes.fromhex(wallet["keys"][0]["seed"]))
        nodes = json.loads((folder / "testnet.json").read_text())
        self.apis = [node["api"] for node in nodes]
        # Each node's settings name all others with their identities.
        known: dict[str, str] = {}
        for number in range(len(nodes)):
            settings = tomllib.loads((folder / f"node{number}" / "node.toml").read_text())
            for address in settings["network"]["bootstrap"]:
                known[re.search(r"/tcp/(\d+)/", address)[1]] = address
        self.addresses = [known[node["peers"].rsplit(":", 1)[1]] for node in nodes]

    def run(self, *arguments: str) -> subprocess.CompletedProcess:
        """Asks the project's own program."""
        return subprocess.run([self.program, *arguments], capture_output=True, text=True, timeout=30)


@contextmanager
def running(program: pathlib.Path, folder: pathlib.Path) -> Iterator[Network]:
    """A new network of four validators in an empty folder."""
    said = folder.with_suffix(".log")
    with said.open("w") as log:
        command = [program, "testnet", "--dir", folder]
        command += ["--duration", str(LIFETIME), "--epoch-length", str(EPOCH_LENGTH)]
        process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)
    try:
        deadline = time.monotonic() + READY_WITHIN
        # The hints come after the first payment, when everything stands.
        while "try, in another terminal" not in said.read_text():
            if process.poll() is not None or time.monotonic() > deadline:
                raise Wrong(f"the network does not stand:\n{said.read_text()[-2_000:]}")
            time.sleep(0.1)
        yield Network(program, folder)
        if process.poll() is not None:
            raise Wrong(f"the network has ended by itself:\n{said.read_text()[-2_000:]}")
    finally:
        process.terminate()
        try:
            code = process.wait(STOP_WITHIN)
        except subprocess.TimeoutExpired:
            process.kill()
            code = process.wait()
    # A node that fails makes the network fail.
    if code != 0:
        raise Wrong(f"the network ended with {code}:\n{said.read_text()[-2_000:]}")
