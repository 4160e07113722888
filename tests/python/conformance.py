"""A stranger's program against real nodes: everything docs/wire.md promises that can be seen from outside.

`tests/python/run` installs what it needs and starts it. The exit code is the verdict.
"""

import argparse
import copy
import logging
import pathlib
import random
import shutil
import signal
import sys
import time
import traceback
from contextlib import suppress

import grpc
import trio
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.request_response import RequestTransportError
from timecoin.v1 import api_pb2, api_pb2_grpc, ledger_pb2, sync_pb2, votes_pb2
from timecoin.v1.envelope_pb2 import Compression, Envelope, EnvelopeRefusal

from client import rules
from client.envelope import Refused, unwrap, wrap
from client.ledger import Ledger, Pages, check_digests
from client.peer import TRANSACTIONS, Peer, connect
from client.rules import COMMIT, FINAL, LOCK, Chain, Wrong, encode, require, same
from network import Network, running
from vectors import check_all

TIME = 100_000_000
WITHIN = 300
started = time.monotonic()


def say(text: str) -> None:
    print(f"{time.monotonic() - started:6.1f} s  {text}", flush=True)


# ---- listening ---------------------------------------------------------------------------------------------------


class Ear:
    """Everything heard by gossip, each statement checked as it comes."""

    def __init__(self, chain: Chain):
        self.chain = chain
        self.counts: dict[str, int] = {}
        self.statuses: list[sync_pb2.Status] = []
        # By epoch, validator and sequence; by kind, txid and epoch, then by validator.
        self.batches: dict[tuple[int, int, int], votes_pb2.VoteBatch] = {}
        self.votes: dict[tuple[int, bytes], dict[int, dict[int, votes_pb2.VoteBatch]]] = {}
        self.proposals: dict[bytes, tuple[int, set[bytes]]] = {}
        self.commits: dict[tuple[int, int, bytes], dict[int, bytes]] = {}

    async def listen(self, peer: Peer) -> None:
        async for gossip in peer.heard:
            kind = gossip.WhichOneof("kind")
            self.counts[kind] = self.counts.get(kind, 0) + 1
            getattr(self, f"_on_{kind}")(getattr(gossip, kind))

    def _on_transactions(self, message) -> None:
        require("1 to 2,000 transactions in a message", 1 <= len(message.transactions) <= 2_000)
        for data in message.transactions:
            rules.Transaction(self.chain, data)

    def _on_votes(self, batch) -> None:
        for kind, txid in rules.check_batch(self.chain, batch):
            by_epoch = self.votes.setdefault((kind, txid), {})
            by_epoch.setdefault(batch.epoch, {})[batch.validator] = batch
        self.batches[batch.epoch, batch.validator, batch.sequence] = batch

    def _on_proposal(self, proposal) -> None:
        name = rules.check_proposal(self.chain, proposal)
        self.proposals[name] = (proposal.height, set(rules.chunks(proposal.txids, 32)))

    def _on_block_vote(self, vote) -> None:
        rules.check_block_vote(self.chain, vote)
        if vote.phase == COMMIT:
            self.commits.setdefault((vote.height, vote.round, vote.block_id), {})[vote.validator] = vote.signature

    def _on_view_change(self, change) -> None:
        key = self.chain.validator(change.validator).public_key
        rules.verify("view change", key, rules.view_change_digest(self.chain, change), change.signature)

    def _on_seal(self, seal) -> None:
        key = self.chain.validator(seal.validator).public_key
        rules.verify("seal", key, rules.seal_digest(self.chain, seal), seal.signature)

    def _on_status(self, status) -> None:
        require("a status counts every validator's batches", len(status.sequences) <= len(self.chain.validators))
        self.statuses.append(status)

    def _on_neighbours(self, neighbours) -> None:
        require("at most 256 neighbours", len(neighbours.peers) <= 256)
        require("peer ids of 1 to 64 bytes", all(1 <= len(peer) <= 64 for peer in neighbours.peers))

    def _on_announcement(self, announcement) -> None:
        check_announcement(self.chain, announcement)

    # ---- what follows from it ----

    def certificate(self, kind: int, txid: bytes) -> ledger_pb2.Certificate | None:
        """Assembled from single votes, once they are a quorum of one epoch."""
        for epoch, votes in self.votes.get((kind, txid), {}).items():
            if 3 * sum(self.chain.validator(index).power for index in votes) > 2 * self.chain.power:
                proofs = [rules.cut_proof(votes[index], kind, txid) for index in sorted(votes)]
                return ledger_pb2.Certificate(kind=kind, txid=txid, epoch=epoch, votes=proofs)
        return None

    def block_certificate(self, height: int, block_id: bytes) -> ledger_pb2.BlockCertificate | None:
        for (voted, round_, name), signatures in self.commits.items():
            power = sum(self.chain.validator(index).power for index in signatures)
            if (voted, name) == (height, block_id) and 3 * power > 2 * self.chain.power:
                parts = [
                    ledger_pb2.ValidatorSignature(validator=v, signature=signatures[v]) for v in sorted(signatures)
                ]
                return ledger_pb2.BlockCertificate(
                    height=height, round=round_, phase=COMMIT, block_id=block_id, signatures=parts
                )
        return None


def check_announcement(chain: Chain, announcement) -> None:
    require("it is a validator's", announcement.validator in [v.public_key for v in chain.validators])
    digest = rules.announcement_digest(chain, announcement)
    rules.verify("announcement", announcement.validator, digest, announcement.signature)


async def until(what: str, condition, seconds: float = 20):
    """The condition's value as soon as it is one."""
    with trio.move_on_after(seconds):
        while True:
            value = condition()
            if value:
                return value
            await trio.sleep(0.02)
    raise Wrong(f"not within {seconds} s: {what}")


async def aside(work, *arguments):
    """Long work goes to a thread: who does not answer pings for 20 seconds is let go, and a busy machine is slow."""
    return await trio.to_thread.run_sync(work, *arguments)


# ---- the steps ---------------------------------------------------------------------------------------------------


async def meet(network: Network, chain: Chain, peer: Peer, ear: Ear) -> None:
    """Who is there, and where it stands: by identify, by request, by gossip, by gRPC."""
    told = await peer.identify()
    same("protocol version", told.protocol_version, f"/timecoin/{chain.short}/1")
    for protocol in (peer.protocol, f"/timecoin/{chain.short}/kad/1", "/ipfs/ping/1.0.0", "/meshsub/1.2.0"):
        require(f"the node speaks {protocol}", protocol in told.protocols)
    tip = (await peer.ask(blocks={"from_height": 2**64 - 1, "max_count": 1})).blocks
    same("blocks from the end of time on", len(tip.blocks), 0)
    status = await until("a status by gossip", lambda: ear.statuses and ear.statuses[-1])
    require("the status is of now", tip.tip <= status.height + 2)
    same("epoch of the status", status.epoch, chain.epoch(status.height + 1))

    def ask() -> api_pb2.GetStatusResponse:
        with grpc.insecure_channel(network.apis[0]) as channel:
            return api_pb2_grpc.NodeStub(channel).GetStatus(api_pb2.GetStatusRequest(), timeout=10)

    by_grpc = await trio.to_thread.run_sync(ask)
    same("chain id by gRPC", by_grpc.chain_id, chain.id)
    same("rules by gRPC", encode(by_grpc.params), encode(chain.params))
    same("validators by gRPC", rules.validator_set_hash(by_grpc.validators), chain.set_hash)
    require("the status by gRPC is of now", by_grpc.height >= tip.tip)
    say(f"status      height {tip.tip}, epoch {status.epoch}, node {told.agent_version}")

    held = (await peer.ask(announcements={})).announcements.announcements
    for announcement in held:
        check_announcement(chain, announcement)
    same("validators announced", len({a.validator for a in held}), len(chain.validators))
    unknown = await peer.ask(proposal={"height": 1, "block_id": bytes(32)})
    same("kind of the answer for an unknown proposal", unknown.WhichOneof("kind"), "refused")
    say(f"validators  {len(held)} announcements, each signed by its validator")


async def read_pages(network: Network, chain: Chain, peer: Peer, ledger: Ledger) -> Pages:
    """All coins by pages, with blocks in between, proven by the digests and a certified header."""
    pages = Pages()
    await pages.read(peer)
    first, paid_from = pages.heights[0], _own_coin(network, pages.coins)
    # What the first page holds is spent before the others are read.
    payment = rules.pay(chain, network.faucet, paid_from, pages.coins[paid_from], rules.Key(bytes(32)).lock, TIME)
    await peer.publish(TRANSACTIONS, transactions={"transactions": [payment]})
    with trio.fail_after(30):
        while ledger.height < first + 2:
            await ledger.follow(peer)
            await trio.sleep(0.2)
    while await pages.read(peer):
        pass
    require("the pages are of different heights", max(pages.heights) >= first + 2)

    answer = (await peer.ask(digests={"version": 1})).digests
    with trio.fail_after(30):
        while ledger.height <= answer.height:
            await ledger.follow(peer)
            await trio.sleep(0.2)
    digests = check_digests(ledger, answer.height, answer.digests)
    require("without the blocks since, the pages are wrong", await aside(pages.wrong_buckets, digests) != [])
    changed = pages.bring_to(answer.height, ledger)
    require("the coin that was paid from is gone", paid_from not in pages.coins)
    same("buckets that are wrong", await aside(pages.wrong_buckets, digests), [])
    say(
        f"coins       {len(pages.coins)} in {len(pages.heights)} pages of heights {min(pages.heights)} to "
        f"{max(pages.heights)}, {changed} changed since; all {len(digests)} buckets and the root of block "
        f"{answer.height + 1} agree"
    )

    # One bucket by itself: from its first byte to the next one's.
    busy = max(range(rules.BUCKETS), key=lambda index: sum(rules.bucket_of(point) == index for point in pages.coins))
    ends = {"cursor": rules.bucket_start(busy), "end": rules.bucket_start(busy + 1)}
    entries = (await peer.ask(coins=ends | {"limit": 1_000})).coins.entries
    require("a range holds its bucket only", {rules.bucket_of(entry.outpoint) for entry in entries} == {busy})
    return pages


def _own_coin(network: Network, coins: dict[bytes, bytes]) -> bytes:
    """Some coin of the faucet that nobody else is likely to take."""
    own = [point for point, data in coins.items() if ledger_pb2.Coin.FromString(data).lock == network.faucet.lock]
    return random.choice(own)


async def pay(network: Network, chain: Chain, peer: Peer, ear: Ear, ledger: Ledger, coins: dict[bytes, bytes]) -> bytes:
    """One payment from its bytes to its block, every claim on the way proven. Gives its receipt."""
    payee = rules.Key(random.randbytes(32))
    point = _own_coin(network, coins)
    signed = rules.pay(chain, network.faucet, point, coins[point], payee.lock, TIME, memo=b"from Python")
    payment = rules.Transaction(chain, signed)

    # With an author it is not heard, and without one it is.
    await peer.publish_signed(TRANSACTIONS, transactions={"transactions": [signed]})
    await trio.sleep(1.5)
    known = await peer.ask(transactions={"txids": payment.txid})
    same("gossip with an author is dropped: transactions known", len(known.transactions.transactions), 0)
    same("gossip with an author is dropped: votes", (LOCK, payment.txid) in ear.votes, False)
    begun = time.monotonic()
    await peer.publish(TRANSACTIONS, attempt=1, transactions={"transactions": [signed]})
    lock = await until("a quorum of Lock votes", lambda: ear.certificate(LOCK, payment.txid))
    receipt = await until("a quorum of Final votes", lambda: ear.certificate(FINAL, payment.txid))
    took = 1_000 * (time.monotonic() - begun)
    rules.check_certificate(chain, lock)
    rules.check_certificate(chain, receipt)
    say(f"payment     {payment.txid.hex()} published; a quorum of Lock and Final votes heard after {took:.0f} ms")

    def find() -> rules.Block | None:
        return next((block for block in ledger.blocks if payment.txid in [t.txid for t in block.transactions]), None)

    # Nodes answer until a block has the payment.
    held = await peer.ask(certificates={"kind": FINAL, "epoch": receipt.epoch, "txids": payment.txid})
    for certificate in held.certificates.certificates:
        same("the receipt is for the payment", (certificate.kind, certificate.txid), (FINAL, payment.txid))
        rules.check_certificate(chain, certificate)
    await ledger.follow(peer)
    require("the node has a receipt, or a block has it", bool(held.certificates.certificates) or find() is not None)

    file = network.folder / "python-receipt.bin"
    file.write_bytes(encode(receipt))
    arguments = ["--genesis", str(network.folder / "genesis.bin"), "--txid", payment.txid.hex()]
    verdict = network.run("receipt", "verify", str(file), *arguments)
    require(f"`timecoin receipt verify` takes the receipt: {verdict.stderr}", verdict.returncode == 0)
    bad = copy.deepcopy(receipt)
    bad.votes[0].signature = bytes([bad.votes[0].signature[0] ^ 1]) + bad.votes[0].signature[1:]
    file.write_bytes(encode(bad))
    verdict = network.run("receipt", "verify", str(file), *arguments)
    require("`timecoin receipt verify` refuses a damaged one", verdict.returncode == 1)
    say("receipt     cut from the votes here, accepted by `timecoin receipt verify`; damaged, refused")

    with trio.fail_after(30):
        while not find():
            await ledger.follow(peer)
            await trio.sleep(0.2)
    block = find()
    height, proposed = await until("its proposal by gossip", lambda: ear.proposals.get(block.id))
    require("the proposal names it", height == block.height and payment.txid in proposed)
    commit = await until("a quorum of Commit votes", lambda: ear.block_certificate(block.height, block.id))
    rules.check_block_certificate(chain, commit)
    same("the certificate is for the block", commit.block_id, block.commit.block_id)
    say(f"block       {block.height} has it: proposal and a quorum of Commit heard, certificate and header checked")

    # A cursor of a txid stands before all its outputs; one byte less of an outpoint, before that outpoint.
    made = (await peer.ask(coins={"cursor": payment.txid, "limit": 2})).coins.entries
    change = payment.body.outputs[1].value
    expected = [
        (rules.outpoint(payment.txid, 0), rules.coin(TIME, payee.lock, block.height)),
        (rules.outpoint(payment.txid, 1), rules.coin(change, network.faucet.lock, block.height)),
    ]
    same("the coins that it made", [(entry.outpoint, encode(entry.coin)) for entry in made], expected)
    after = (await peer.ask(coins={"cursor": point[:-1], "limit": 1})).coins.entries
    require("the coin that it spent is gone", not after or after[0].outpoint != point)
    return encode(receipt)


async def pay_many(network: Network, chain: Chain, peer: Peer, ear: Ear, ledger: Ledger) -> None:
    """Many payments in one compressed message, and many questions in one."""
    payee = rules.Key(random.randbytes(32)).lock
    points = random.sample([p for p, d in ledger.coins.coins.items() if network.faucet.lock in d], 60)
    signed = [rules.pay(chain, network.faucet, p, ledger.coins.coins[p], payee, TIME) for p in points]
    txids = [rules.Transaction(chain, data).txid for data in signed]
    gzip, raw = Compression.COMPRESSION_GZIP, Compression.COMPRESSION_NONE
    await peer.publish(TRANSACTIONS, compression=gzip, transactions={"transactions": signed})
    await until("all are final", lambda: all(ear.certificate(FINAL, txid) for txid in txids))
    request = encode(sync_pb2.Request(transactions={"txids": b"".join(txids)}))
    known = set()
    for compression in (gzip, raw, None):
        frame = await peer.exchange(wrap(request, compression=compression))
        bodies = set(peer.answer(frame).transactions.transactions)
        require("bodies come back as they were sent", bodies <= set(signed))
        known |= bodies
    # Those that a block had before they were asked for are in the block.
    await ledger.follow(peer)
    known |= {transaction.bytes for block in ledger.blocks for transaction in block.transactions}
    require("no body is missing", known >= set(signed))
    say(f"payments    {len(signed)} in one gzip message, all final; asked for with gzip, Snappy and neither")


async def fetch_votes(chain: Chain, peer: Peer, ear: Ear) -> None:
    """What gossip brought can be asked for, byte for byte, until it is settled."""
    found = 0
    for validator in range(len(chain.validators)):
        epoch = max(epoch for epoch, index, _ in ear.batches if index == validator)
        heard = {at: batch for (of, index, at), batch in ear.batches.items() if (of, index) == (epoch, validator)}
        last = max(heard)
        asked = {"epoch": epoch, "validator": validator, "from_sequence": max(0, last - 5), "max_count": 1_000}
        batches = (await peer.ask(votes=asked)).votes.batches
        sequences = [batch.sequence for batch in batches]
        require("batches come in order", sequences == sorted(set(sequences)))
        require("batches come from where they were asked for", all(at >= asked["from_sequence"] for at in sequences))
        found += len(batches)
        for batch in batches:
            rules.check_batch(chain, batch)
            if batch.sequence in heard:
                same("a batch by request and by gossip", encode(batch), encode(heard[batch.sequence]))
    # At the very end of an epoch they may be forgotten already.
    require("batches can be asked for", found > 0 or ear.statuses[-1].epoch > epoch)
    heard = ", ".join(f"{count} {kind}" for kind, count in sorted(ear.counts.items()))
    say(f"gossip      every signature right in {heard}")


async def epochs(chain: Chain, peer: Peer, ledger: Ledger) -> None:
    """Where an epoch ends: its payouts, which the next header commits to, and headers that leave the blocks out."""
    last = chain.params.epoch_length
    with trio.fail_after(90):
        while ledger.height <= last:
            await ledger.follow(peer)
            await trio.sleep(0.2)
    txid = chain.reward_txid(0)
    paid = {point: data for point, data in ledger.changes[last - 1].items() if point.startswith(txid)}
    require("every validator signed something, and is paid", len(paid) == len(chain.validators))
    entries = (await peer.ask(coins={"cursor": txid, "limit": len(paid)})).coins.entries
    same("payouts", {entry.outpoint: encode(entry.coin) for entry in entries}, paid)
    total = sum(ledger_pb2.Coin.FromString(data).value for data in paid.values())

    headers = (await peer.ask(closing_headers={"from_epoch": 0, "max_count": 100})).closing_headers.headers
    require("there is a header for each epoch that has ended", len(headers) >= 1)
    for epoch, certified in enumerate(headers):
        header = rules.CertifiedHeader(chain, certified.header, certified.commit)
        same("height of a closing header", header.height, (epoch + 1) * last)
        if header.height <= ledger.height:
            same("closing header", header.id, ledger.blocks[header.height - 1].id)
    say(f"epochs      {len(headers)} ended; {total} units paid out to {len(paid)} validators, to the unit")


# ---- refusals ----------------------------------------------------------------------------------------------------


async def expect_refusal(what: str, refusal: str, frame) -> None:
    """`frame` is the answer as it came."""
    try:
        answer = unwrap(await frame, is_answer=True)
    except Refused as found:
        same(f"refusal of {what}", EnvelopeRefusal.Name(found.refusal), refusal)
        return
    raise Wrong(f"{what} was answered: {answer[:100].hex()}")


async def refusals(chain: Chain, address: str) -> None:
    """What is wrong is refused by name; what is hostile ends the connection. A new identity for each trial."""
    good = encode(sync_pb2.Request(blocks={"from_height": 1, "max_count": 1}))
    async with connect(chain, address) as peer:
        answer = await peer.ask(blocks={"from_height": 1, "max_count": 101})
        require("101 blocks are refused in words", "101" in answer.refused)
        same("still connected after one fault", peer.is_connected(), True)

    async with connect(chain, address) as peer:
        # Field 99, with nothing in it: a question that a newer client may ask.
        await expect_refusal("an unknown question", "REFUSAL_MALFORMED", peer.exchange(wrap(b"\x9a\x06\x00")))
        long = encode(sync_pb2.Request(proposal={"height": 1, "block_id": bytes(100)}))
        await expect_refusal("a long question", "REFUSAL_TOO_LARGE", peer.exchange(wrap(long)))
        await peer.ask(blocks={"from_height": 1, "max_count": 1})

    key_pair = create_new_key_pair()
    padded = Envelope(size=len(good), payload=good).SerializeToString() + b"\x28\x00"
    async with connect(chain, address) as peer:
        await expect_refusal("an explicit default", "REFUSAL_MALFORMED", peer.exchange(padded))
    async with connect(chain, address, key_pair=key_pair) as peer:
        # A length is refused before the bytes are there.
        await expect_refusal("ten megabytes", "REFUSAL_TOO_LARGE", peer.exchange_head(10_000_000))
        same("still connected after one fault", peer.is_connected(), True)
        # The answer to the last straw may be cut off with the connection.
        with suppress(RequestTransportError):
            await expect_refusal("an explicit default", "REFUSAL_MALFORMED", peer.exchange(padded))
        same("thrown out after two", await peer.closed_within(5), True)
    same("banned", await _is_let_in(chain, address, key_pair), False)
    same("others are not", await _is_let_in(chain, address, create_new_key_pair()), True)
    say("refusals    too large, malformed, unknown, too many: by name; two faults: thrown out and banned")

    async with connect(chain, address) as peer:
        answered = 0
        try:
            for _ in range(30):
                await peer.ask(announcements={})
                answered += 1
            raise Wrong("30 at once were answered, 20 are allowed")
        except Refused as refused:
            same("refusal of what comes too fast", refused.refusal, EnvelopeRefusal.REFUSAL_BUSY)
        require(f"20 at once are answered ({answered})", 20 <= answered < 30)
        await trio.sleep(1.5)
        await peer.ask(announcements={})
    say(f"rates       {answered} at once answered, then BUSY, then answered again; the connection stays")

    async with connect(chain, address, protocol_version="/timecoin/0000000000000000/1") as peer:
        same("a peer of another chain is let go", await peer.closed_within(5), True)

    async with connect(chain, address, gossip=True) as peer:
        await peer.subscribe()
        for _ in range(2):
            body = ledger_pb2.TransactionBody(
                version=1,
                inputs=[ledger_pb2.OutPoint(txid=random.randbytes(32))],
                outputs=[ledger_pb2.Output(value=1, lock=bytes(32))],
            )
            witness = ledger_pb2.Witness(public_key=rules.Key(bytes(32)).public, signature=bytes(64))
            forged = encode(ledger_pb2.SignedTransaction(body=encode(body), witnesses=[witness]))
            await peer.publish(TRANSACTIONS, transactions={"transactions": [forged]})
            # What waits behind a forgery is dropped with it: sent at once, the two would count as one.
            await trio.sleep(0.5)
        same("two forged payments end the connection", await peer.closed_within(5), True)
    say("strangers   another chain: let go; two forged payments by gossip: thrown out")


async def _is_let_in(chain: Chain, address: str, key_pair) -> bool:
    try:
        async with connect(chain, address, key_pair=key_pair) as peer:
            await peer.ask(blocks={"from_height": 1, "max_count": 1})
            return True
    except Exception:
        return False


# ---- the checks themselves -----------------------------------------------------------------------------------------


def flip(data: bytes, at: int = 0) -> bytes:
    return data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :]


async def bite(chain: Chain, peer: Peer, ledger: Ledger, pages: Pages, receipt: bytes) -> None:
    """One thing is made wrong at a time, and the check that ought to find it must."""
    committed = list((await peer.ask(blocks={"from_height": 1, "max_count": 10})).blocks.blocks)
    target = next(at for at, block in enumerate(committed) if at > 0 and block.block.transactions)
    committed = committed[: target + 1]
    digests = (await peer.ask(digests={"version": 1})).digests
    with trio.fail_after(30):
        while ledger.height <= digests.height:
            await ledger.follow(peer)
            await trio.sleep(0.2)

    def append(change) -> None:
        blocks = [copy.deepcopy(block) for block in committed]
        change(blocks[target])
        fresh = Ledger(chain)
        for block in blocks:
            fresh.append(block)

    def with_header(change):
        def apply(block) -> None:
            header = ledger_pb2.BlockHeader.FromString(block.block.header)
            change(header)
            block.block.header = encode(header)

        return apply

    def with_receipt(change) -> None:
        certificate = ledger_pb2.Certificate.FromString(receipt)
        change(certificate)
        rules.check_certificate(chain, certificate)

    def fewer(block) -> None:
        del block.commit.signatures[2:]

    def forge(block) -> None:
        part = block.commit.signatures[0]
        part.signature = flip(part.signature)

    def swap(block) -> None:
        block.commit.signatures[0].validator, block.commit.signatures[1].validator = 0, 0

    def damage_coins() -> None:
        spoiled = copy.copy(pages)
        spoiled.coins = dict(pages.coins)
        point = next(iter(spoiled.coins))
        spoiled.coins[point] = flip(spoiled.coins[point], 1)
        # The last digests that the pages were brought to are those of their own coins.
        same("buckets that are wrong", spoiled.wrong_buckets(rules.Coins(pages.coins).digests), [])

    def cut(certificate) -> None:
        del certificate.votes[2:]

    def other_txid(certificate) -> None:
        certificate.txid = flip(certificate.txid)

    def other_signature(certificate) -> None:
        certificate.votes[1].signature = flip(certificate.votes[1].signature, 40)

    request = wrap(encode(sync_pb2.Request(digests={"version": 1})))
    address = rules.address(chain.network, bytes(32))
    typo = address[:-1] + ("q" if address[-1] != "q" else "p")

    def other_coins() -> None:
        fresh = Ledger(chain)
        point, data = next(iter(chain.first_coins.items()))
        fresh.coins.apply({point: flip(data, 1)})
        fresh.append(committed[0])

    # What is wrong, how it comes about, and what the check says of it.
    wrongs = [
        ("a certificate of two", lambda: append(fewer), "is a quorum"),
        ("a certificate with one signer twice", lambda: append(swap), "ascend strictly"),
        ("a certificate with a wrong signature", lambda: append(forge), "signature of the block certificate"),
        (
            "a header changed",
            lambda: append(with_header(lambda h: setattr(h, "time_ms", h.time_ms + 1))),
            "block of the",
        ),
        (
            "a header with more in it",
            lambda: append(lambda b: setattr(b.block, "header", b.block.header + b"\x78\x01")),
            "canonical",
        ),
        ("a transaction left out", lambda: append(lambda b: b.block.transactions.pop()), "root of the transactions"),
        (
            "a transaction twice",
            lambda: append(lambda b: b.block.transactions.append(b.block.transactions[0])),
            "root of the",
        ),
        (
            "another certificate of the parent",
            lambda: append(lambda b: b.block.last_commit.signatures.pop()),
            "hash of the",
        ),
        ("coins that are not the chain's", other_coins, "root of the coins"),
        ("a coin of another value", damage_coins, "buckets that are wrong"),
        (
            "another digest",
            lambda: check_digests(ledger, digests.height, flip(digests.digests, 77)),
            "root of the coins",
        ),
        (
            "digests of another height",
            lambda: check_digests(ledger, digests.height - 1, digests.digests),
            "root of the coins",
        ),
        ("a receipt of two", lambda: with_receipt(cut), "is a quorum"),
        ("a receipt for another payment", lambda: with_receipt(other_txid), "signature of the vote"),
        ("a receipt with a wrong signature", lambda: with_receipt(other_signature), "signature of the vote"),
        ("an envelope with something behind", lambda: unwrap(request + b"\x78\x01"), "canonical"),
        ("an envelope of another size", lambda: unwrap(request.replace(b"\x10\x04", b"\x10\x05", 1)), "declared"),
        ("a typing error in an address", lambda: rules.lock_of_address(chain.network, typo), "checksum"),
    ]
    await aside(append, lambda block: None)
    with_receipt(lambda certificate: None)
    for name, attempt, expected in wrongs:
        try:
            await aside(attempt)
        except Wrong as found:
            require(f"{name} is found for what it is: {found}", expected in str(found))
            continue
        raise Wrong(f"{name} was not noticed")
    say(f"faults      {len(wrongs)} planted in what the node said, all found")


# ---- all together --------------------------------------------------------------------------------------------------


async def converse(network: Network) -> None:
    chain = Chain(network.genesis)
    with trio.fail_after(WITHIN):
        async with connect(chain, network.addresses[0], gossip=True) as peer:
            await peer.subscribe()
            ear, ledger = Ear(chain), await aside(Ledger, chain)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(ear.listen, peer)
                await meet(network, chain, peer, ear)
                await ledger.follow(peer)
                say(f"blocks      {ledger.height} from genesis on: headers, certificates, payments, roots of the coins")
                pages = await read_pages(network, chain, peer, ledger)
                receipt = await pay(network, chain, peer, ear, ledger, pages.coins)
                await pay_many(network, chain, peer, ear, ledger)
                await fetch_votes(chain, peer, ear)
                # Another node has the same chain.
                async with connect(chain, network.addresses[1]) as other:
                    await (await aside(Ledger, chain)).follow(other, ledger.height - 1)
                await bite(chain, peer, ledger, pages, receipt)
                await epochs(chain, peer, ledger)
                same("gossip that was not as it should be", peer.broken, [])
                # One connection, and no word about neighbours: what the other validators say comes by relay.
                require("gossip came first hand and by relay", peer.first_hand > 0 and peer.relayed > 0)
                nursery.cancel_scope.cancel()
        # Bans are each node's own: this one was not spoken to before.
        await refusals(chain, network.addresses[2])


def leaves(error: BaseException):
    """The errors that others were made of."""
    if isinstance(error, BaseExceptionGroup):
        for part in error.exceptions:
            yield from leaves(part)
    else:
        yield error


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("program", type=pathlib.Path, help="the timecoin program")
    parser.add_argument("folder", type=pathlib.Path, help="where the test network's files go; emptied first")
    arguments = parser.parse_args()
    # A way out that takes the network along.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("told to stop"))
    # Its warnings are about connections that end, which is what is tried here.
    logging.getLogger("libp2p").setLevel(logging.CRITICAL)
    try:
        say(f"vectors     {check_all()} values")
        shutil.rmtree(arguments.folder, ignore_errors=True)
        with running(arguments.program, arguments.folder) as network:
            say("network     four validators")
            trio.run(converse, network)
    except BaseException as error:
        for leaf in leaves(error):
            if not isinstance(leaf, Wrong):
                traceback.print_exception(leaf)
            print(f"FAIL: {type(leaf).__name__}: {leaf}", file=sys.stderr)
        return 1
    say("verdict     PASS")
    return 0


if __name__ == "__main__":
    sys.exit(main())
