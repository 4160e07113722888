"""tests/vectors/ against the client's own rules: what is right here is right on the wire.

`tests/vectors/check.py` does the like with nothing but Python's standard library; this adds BLAKE3 and Protobuf.
"""

import json
import pathlib

from timecoin.v1 import ledger_pb2, sync_pb2

from client import rules
from client.rules import canonical, same, u32, u64

HERE = pathlib.Path(__file__).parent.parent / "vectors"
unhex = bytes.fromhex


class _Tally:
    def __init__(self) -> None:
        self.values = 0

    def same(self, what, found, expected) -> None:
        self.values += 1
        same(f"vectors: {what}", found.hex() if isinstance(found, bytes) else found, expected)


class _Named:
    """As much of a chain as digests need."""

    def __init__(self, chain_id: str):
        self.id = unhex(chain_id)


def check_all() -> int:
    """How many values were compared."""
    tally = _Tally()
    files = {path.stem: json.loads(path.read_text()) for path in HERE.glob("*.json")}
    for check in (_hashes, _keys, _transactions, _votes, _blocks, _coins):
        check(tally, files)
    return tally.values


def _hashes(tally, files) -> None:
    for entry in files["hashes"]["tagged"]:
        tally.same("tagged hash", rules.tagged(entry["tag"], *map(unhex, entry["parts"])), entry["hash"])
    for tree in files["hashes"]["merkle"]:
        leaves = [unhex(leaf) for leaf in tree["leaves"]]
        tally.same("Merkle root", rules.merkle_root(leaves), tree["root"])
        for index, path in enumerate(tree["paths"]):
            tally.same("audit path", [step.hex() for step in rules.merkle_path(leaves, index)], path)
            root = rules.merkle_climb(leaves[index], index, len(leaves), [unhex(step) for step in path])
            tally.same("root of an audit path", root, tree["root"])


def _keys(tally, files) -> None:
    for entry in files["keys"]["keys"]:
        key = rules.Key(unhex(entry["seed"]))
        tally.same("public key", key.public, entry["public_key"])
        tally.same("lock", key.lock, entry["lock"])
        _addresses(tally, key.lock, entry["addresses"])
        for signed in entry["signatures"]:
            tally.same("signature", key.sign(unhex(signed["digest"])), signed["signature"])
    for entry in files["keys"]["multisig"]:
        policy = unhex(entry["bytes"])
        tally.same("policy", [h.hex() for h in canonical(ledger_pb2.Multisig, policy).key_hashes], entry["key_hashes"])
        tally.same("lock", rules.lock_of_policy(policy), entry["lock"])
        _addresses(tally, rules.lock_of_policy(policy), entry["addresses"])


def _addresses(tally, lock, addresses) -> None:
    for prefix, address in zip(("time", "ttime", "ltime"), addresses, strict=True):
        tally.same("address", rules.address(prefix, lock), address)
        tally.same("lock of an address", rules.lock_of_address(prefix, address), lock.hex())


def _transactions(tally, files) -> None:
    for entry in files["transactions"]["transactions"]:
        chain = _Named(entry["chain_id"])
        chain.txid = lambda body, chain=chain: rules.tagged("timecoin/tx", chain.id, body)
        tally.same("txid", rules.Transaction(chain, unhex(entry["bytes"])).txid, entry["txid"])
        if len(entry["witnesses"]) == 1:
            key = rules.Key(unhex(entry["witnesses"][0]["seed"]))
            body = ledger_pb2.TransactionBody(
                version=entry["version"],
                inputs=[ledger_pb2.OutPoint(txid=unhex(i["txid"]), index=i["index"]) for i in entry["inputs"]],
                outputs=[ledger_pb2.Output(value=int(o["value"]), lock=unhex(o["lock"])) for o in entry["outputs"]],
                memo=unhex(entry["memo"]),
            )
            tally.same("built transaction", rules.sign_transaction(chain, key, body), entry["bytes"])


def _electorate(files) -> rules.Chain:
    """The chain that votes and blocks are of: all vectors have the same validators."""
    genesis = unhex(files["genesis"]["bytes"])
    chain = rules.Chain(genesis)
    votes = files["votes"]
    chain.validators = [
        ledger_pb2.Validator(public_key=unhex(v["public_key"]), power=int(v["power"]), payout=unhex(v["payout"]))
        for v in votes["validators"]
    ]
    chain.power = sum(validator.power for validator in chain.validators)
    chain.id = unhex(votes["receipt"]["chain_id"])
    return chain


def _votes(tally, files) -> None:
    chain, votes = _electorate(files), files["votes"]
    tally.same("validators", rules.validator_set_hash(chain.validators), votes["validators_hash"])
    for entry in votes["batches"]:
        batch = canonical(sync_pb2.Gossip, unhex(entry["gossip"])).votes
        found = [
            {"kind": k, "leaf": (bytes([k]) + t).hex(), "txid": t.hex()} for k, t in rules.check_batch(chain, batch)
        ]
        tally.same("votes", found, entry["votes"])
    for name in ("lock_certificate", "receipt", "rejection"):
        certificate = canonical(ledger_pb2.Certificate, unhex(votes[name]["bytes"]))
        rules.check_certificate(chain, certificate)
        tally.same(name, certificate.txid, votes[name]["txid"])


def _blocks(tally, files) -> None:
    chain, blocks = _electorate(files), files["blocks"]
    for entry in blocks["headers"]:
        canonical(ledger_pb2.BlockHeader, unhex(entry["bytes"]))
        tally.same(
            "block id",
            rules.tagged("timecoin/block", unhex(entry["chain_id"]), unhex(entry["bytes"])),
            entry["block_id"],
        )
    for entry in blocks["block_votes"]:
        digest = rules.block_vote_digest(
            chain, entry["phase"], int(entry["height"]), entry["round"], unhex(entry["block_id"])
        )
        tally.same("block vote", digest, entry["signed"]["digest"])
    for name in ("prepare_certificate", "commit_certificate"):
        certificate = canonical(ledger_pb2.BlockCertificate, unhex(blocks[name]["bytes"]))
        rules.check_block_certificate(chain, certificate)
        tally.same(name, rules.commit_hash(certificate), blocks[name]["hash"])
    for entry in blocks["view_changes"]:
        change = canonical(sync_pb2.Gossip, unhex(entry["gossip"])).view_change
        tally.same("view change", rules.view_change_digest(chain, change), entry["signed"]["digest"])
    for entry in blocks["seals"]:
        seal = canonical(sync_pb2.Gossip, unhex(entry["gossip"])).seal
        tally.same("seal", rules.seal_digest(chain, seal), entry["signed"]["digest"])
    canonical(sync_pb2.CommittedBlock, unhex(blocks["committed_block"]))
    for entry in blocks["reward_txids"]:
        txid = rules.tagged("timecoin/reward", unhex(entry["chain_id"]), u64(int(entry["epoch"])))
        tally.same("reward", txid, entry["txid"])


def _coins(tally, files) -> None:
    coins, genesis = files["coins"], files["genesis"]
    listed = {}
    for entry in coins["coins"]:
        point = unhex(entry["outpoint"]["txid"]) + u32(entry["outpoint"]["index"])
        data = rules.coin(int(entry["value"]), unhex(entry["lock"]), int(entry["height"]))
        tally.same("outpoint", point, entry["outpoint_bytes"])
        tally.same("coin", data, entry["bytes"])
        tally.same("bucket", rules.bucket_of(point), entry["bucket"])
        single = rules.LtHash()
        single.insert(point, data)
        tally.same("hash of a coin", single.digest(), entry["state_digest"])
        listed[point] = data
    tally.same("empty bucket", rules.LtHash().digest(), coins["empty_bucket_digest"])
    points = list(listed)
    for entry in coins["roots"]:
        first = {point: listed[point] for point in points[: entry["first_coins"]]}
        tally.same("root", rules.Coins(first).root(), entry["root"])
    # One goes in and out again.
    bucket = rules.LtHash()
    for index in coins["bucket_0"]["coins"]:
        bucket.insert(points[index], listed[points[index]])
    tally.same("bucket 0", bucket.state(), coins["bucket_0"]["state"])
    bucket.remove(points[0], listed[points[0]])
    tally.same("bucket 0 without a coin", bucket.state(), coins["bucket_0_without_coin_0"]["state"])
    chain = rules.Chain(unhex(genesis["bytes"]))
    tally.same("chain id", chain.id, genesis["chain_id"])
    tally.same("first coins", rules.Coins(chain.first_coins).root(), genesis["utxo_root"])
