"""Hashes, signatures, certificates, coins and transactions (sections 2 and 8 to 12). Knows nothing of networks.

Every check raises `Wrong`. Ed25519, BLAKE3 and Protobuf are stock libraries; everything else is here.
"""

import hashlib
import struct
from collections.abc import Iterable, Sequence

from blake3 import blake3
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from timecoin.v1 import consensus_pb2, discovery_pb2, ledger_pb2, sync_pb2, votes_pb2

LOCK, FINAL, ABANDON = 1, 2, 3
PROPOSE, PREPARE, COMMIT = 1, 2, 3
BUCKETS = 1_024
# Where the mark of a rejected transaction stands among the coins.
REJECTION_INDEX = 2**32 - 1
NO_LOCK = bytes(32)


class Wrong(Exception):
    """Something is not as the protocol says."""


def same(what: str, found, expected) -> None:
    if found != expected:
        show = lambda value: value.hex() if isinstance(value, bytes) else value
        raise Wrong(f"{what}: {show(found)}, expected {show(expected)}")


def require(what: str, holds: bool) -> None:
    if not holds:
        raise Wrong(f"not so: {what}")


# ---- bytes, hashes, signatures (section 2) ----------------------------------------------------------------------


def canonical(message_class, data: bytes):
    """Decodes, and refuses bytes that are not what encoding the value gives."""
    try:
        message = message_class.FromString(data)
    except Exception as error:
        raise Wrong(f"not a {message_class.DESCRIPTOR.name}: {error}") from error
    # An unknown field would survive decoding and encoding.
    message.DiscardUnknownFields()
    same(f"canonical {message_class.DESCRIPTOR.name}", message.SerializeToString(deterministic=True), data)
    return message


def encode(message) -> bytes:
    return message.SerializeToString(deterministic=True)


def u32(value: int) -> bytes:
    return struct.pack(">I", value)


def u64(value: int) -> bytes:
    return struct.pack(">Q", value)


def sha256(data: bytes) -> bytes:
    return hashlib.sha256(data).digest()


def tagged(tag: str, *parts: bytes) -> bytes:
    prefix = sha256(tag.encode())
    return sha256(prefix + prefix + b"".join(parts))


def verify(what: str, public_key: bytes, digest: bytes, signature: bytes) -> None:
    """Ed25519 by a stock library. It is stricter than ZIP-215, which decides odd signatures: what passes here passes
    there, and what honest signers make passes both."""
    try:
        Ed25519PublicKey.from_public_bytes(public_key).verify(signature, digest)
    except (InvalidSignature, ValueError) as error:
        raise Wrong(f"the signature of the {what} is not valid") from error


def _split(count: int) -> int:
    """The largest power of two below `count`."""
    return 1 << ((count - 1).bit_length() - 1)


def _root(hashes: Sequence[bytes]) -> bytes:
    if len(hashes) == 1:
        return hashes[0]
    split = _split(len(hashes))
    return sha256(b"\x01" + _root(hashes[:split]) + _root(hashes[split:]))


def merkle_root(leaves: Iterable[bytes]) -> bytes:
    hashes = [sha256(b"\x00" + leaf) for leaf in leaves]
    return _root(hashes) if hashes else sha256(b"")


def merkle_path(leaves: Sequence[bytes], index: int) -> list[bytes]:
    """What must be hashed with a leaf, from the leaf up, to come to the root."""
    if len(leaves) == 1:
        return []
    split = _split(len(leaves))
    if index < split:
        return [*merkle_path(leaves[:split], index), merkle_root(leaves[split:])]
    return [*merkle_path(leaves[split:], index - split), merkle_root(leaves[:split])]


def merkle_climb(leaf: bytes, index: int, count: int, path: Sequence[bytes]) -> bytes:
    """The root that an audit path leads to."""
    if count == 1:
        require("an audit path fits its position", index == 0 and not path)
        return sha256(b"\x00" + leaf)
    require("an audit path fits its position", bool(path) and index < count)
    split = _split(count)
    if index < split:
        return sha256(b"\x01" + merkle_climb(leaf, index, split, path[:-1]) + path[-1])
    return sha256(b"\x01" + path[-1] + merkle_climb(leaf, index - split, count - split, path[:-1]))


def chunks(data: bytes, size: int) -> list[bytes]:
    require(f"{len(data)} bytes are whole pieces of {size}", len(data) % size == 0)
    return [data[at : at + size] for at in range(0, len(data), size)]


# ---- addresses (section 9) --------------------------------------------------------------------------------------

_ALPHABET = "qpzry9x8gf2tvdw0s3jn54khce6mua7l"
_BECH32M = 0x2BC830A3


def _checksum(values: Iterable[int]) -> int:
    check = 1
    for value in values:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for bit, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> bit & 1 else 0
    return check


def _spread(prefix: str) -> list[int]:
    return [ord(letter) >> 5 for letter in prefix] + [0] + [ord(letter) & 31 for letter in prefix]


def address(prefix: str, lock: bytes) -> str:
    # 256 bits in words of 5: 52 words, with 4 bits of padding.
    number = int.from_bytes(lock, "big") << 4
    words = [number >> 5 * at & 31 for at in reversed(range(52))]
    check = _checksum([*_spread(prefix), *words, *[0] * 6]) ^ _BECH32M
    words += [check >> 5 * (5 - at) & 31 for at in range(6)]
    return prefix + "1" + "".join(_ALPHABET[word] for word in words)


def lock_of_address(prefix: str, text: str) -> bytes:
    require(f"{text} is an address of the network {prefix}", text.startswith(prefix + "1"))
    words = [_ALPHABET.find(letter) for letter in text[len(prefix) + 1 :]]
    require("an address has 58 letters of the alphabet", len(words) == 58 and -1 not in words)
    same("checksum of an address", _checksum(_spread(prefix) + words), _BECH32M)
    number = 0
    for word in words[:52]:
        number = number << 5 | word
    require("the padding of an address is zero", number & 15 == 0)
    return (number >> 4).to_bytes(32, "big")


def lock_of_key(public_key: bytes) -> bytes:
    return tagged("timecoin/key", public_key)


def lock_of_policy(policy: bytes) -> bytes:
    return tagged("timecoin/multisig", policy)


# ---- the chain (section 8) --------------------------------------------------------------------------------------


class Chain:
    """What a genesis fixes: the name, the rules, the validators, the first coins."""

    def __init__(self, genesis: bytes):
        message = canonical(ledger_pb2.Genesis, genesis)
        self.id = tagged("timecoin/genesis", genesis)
        self.short = self.id[:8].hex()
        self.network = message.network
        self.params = message.params
        self.validators = list(message.validators)
        self.power = sum(validator.power for validator in self.validators)
        keys = [validator.public_key for validator in self.validators]
        require("validators ascend strictly by key", keys == sorted(set(keys)))
        self.set_hash = validator_set_hash(self.validators)
        txid = tagged("timecoin/genesis-coins", self.id)
        self.first_coins = {
            outpoint(txid, index): coin(output.value, output.lock, 0) for index, output in enumerate(message.coins)
        }

    def epoch(self, height: int) -> int:
        return (height - 1) // self.params.epoch_length

    def closes_epoch(self, height: int) -> bool:
        return height % self.params.epoch_length == 0

    def reward_txid(self, epoch: int) -> bytes:
        return tagged("timecoin/reward", self.id, u64(epoch))

    def validator(self, index: int):
        require(f"there is a validator {index}", index < len(self.validators))
        return self.validators[index]

    def require_quorum(self, what: str, indexes: Sequence[int]) -> None:
        require(f"validators of a {what} ascend strictly", list(indexes) == sorted(set(indexes)))
        power = sum(self.validator(index).power for index in indexes)
        require(f"power {power} of {self.power} is a quorum for a {what}", 3 * power > 2 * self.power)

    def txid(self, body: bytes) -> bytes:
        return tagged("timecoin/tx", self.id, body)

    def block_id(self, header: bytes) -> bytes:
        return tagged("timecoin/block", self.id, header)


def validator_set_hash(validators) -> bytes:
    return tagged("timecoin/validators", encode(ledger_pb2.ValidatorSet(validators=validators)))


# ---- votes and certificates (section 10) -------------------------------------------------------------------------


def batch_digest(chain: Chain, epoch, validator, sequence, height, count, root) -> bytes:
    numbers = u64(epoch) + u32(validator) + u64(sequence) + u64(height) + u32(count)
    return tagged("timecoin/votes", chain.id, numbers, root)


def check_batch(chain: Chain, batch: votes_pb2.VoteBatch) -> list[tuple[int, bytes]]:
    """The votes of a batch: kind and txid."""
    leaves = chunks(batch.votes, 33)
    require("a batch has 1 to 10,000 votes", 1 <= len(leaves) <= 10_000)
    digest = batch_digest(
        chain, batch.epoch, batch.validator, batch.sequence, batch.height, len(leaves), merkle_root(leaves)
    )
    verify("vote batch", chain.validator(batch.validator).public_key, digest, batch.signature)
    votes = [(leaf[0], leaf[1:]) for leaf in leaves]
    require("votes are Lock, Final or Abandon", all(LOCK <= kind <= ABANDON for kind, _ in votes))
    return votes


def cut_proof(batch: votes_pb2.VoteBatch, kind: int, txid: bytes) -> ledger_pb2.VoteProof:
    """One vote out of a batch, in a form that is proven without the others."""
    leaves = chunks(batch.votes, 33)
    index = leaves.index(bytes([kind]) + txid)
    return ledger_pb2.VoteProof(
        validator=batch.validator,
        sequence=batch.sequence,
        height=batch.height,
        count=len(leaves),
        index=index,
        path=b"".join(merkle_path(leaves, index)),
        signature=batch.signature,
    )


def check_certificate(chain: Chain, certificate: ledger_pb2.Certificate) -> None:
    """A quorum of votes of one kind for one transaction. With kind Final it is a receipt."""
    chain.require_quorum("certificate", [vote.validator for vote in certificate.votes])
    leaf = bytes([certificate.kind]) + certificate.txid
    require("a vote has 33 bytes", len(leaf) == 33)
    for vote in certificate.votes:
        root = merkle_climb(leaf, vote.index, vote.count, chunks(vote.path, 32))
        digest = batch_digest(chain, certificate.epoch, vote.validator, vote.sequence, vote.height, vote.count, root)
        verify(
            f"vote of validator {vote.validator}", chain.validator(vote.validator).public_key, digest, vote.signature
        )


def block_vote_digest(chain: Chain, phase: int, height: int, round_: int, block_id: bytes) -> bytes:
    return tagged("timecoin/block-vote", chain.id, bytes([phase]), u64(height), u32(round_), block_id)


def check_block_vote(chain: Chain, vote: consensus_pb2.BlockVote) -> None:
    digest = block_vote_digest(chain, vote.phase, vote.height, vote.round, vote.block_id)
    verify("block vote", chain.validator(vote.validator).public_key, digest, vote.signature)


def check_block_certificate(chain: Chain, certificate: ledger_pb2.BlockCertificate) -> None:
    chain.require_quorum("block certificate", [part.validator for part in certificate.signatures])
    digest = block_vote_digest(chain, certificate.phase, certificate.height, certificate.round, certificate.block_id)
    for part in certificate.signatures:
        verify("block certificate", chain.validator(part.validator).public_key, digest, part.signature)


def check_proposal(chain: Chain, proposal: consensus_pb2.Proposal) -> bytes:
    """The leader's signature; gives the block's name."""
    header = canonical(ledger_pb2.BlockHeader, proposal.header)
    same("height of a proposal", proposal.height, header.height)
    name = chain.block_id(proposal.header)
    digest = block_vote_digest(chain, PROPOSE, proposal.height, proposal.round, name)
    verify("proposal", chain.validator(proposal.leader).public_key, digest, proposal.signature)
    same("root of the txids", merkle_root(chunks(proposal.txids, 32)), header.transactions_root)
    return name


def seal_digest(chain: Chain, seal: ledger_pb2.EpochSeal) -> bytes:
    txids = chunks(seal.txids, 32)
    numbers = u64(seal.epoch) + u32(seal.validator) + u32(len(txids))
    return tagged("timecoin/seal", chain.id, numbers, merkle_root(txids))


def view_change_digest(chain: Chain, change: consensus_pb2.ViewChange) -> bytes:
    claimed = change.HasField("prepared")
    block_id = change.prepared.block_id if claimed else bytes(32)
    numbers = u64(change.height) + u32(change.round)
    claim = bytes([claimed]) + u32(change.prepared.round) + block_id
    return tagged("timecoin/view-change", chain.id, numbers, claim)


def announcement_digest(chain: Chain, announcement: discovery_pb2.Announcement) -> bytes:
    lengths = [u64(len(part)) + part for part in (announcement.peer, *announcement.addresses)]
    return tagged("timecoin/announcement", chain.id, announcement.validator, u64(announcement.counter), *lengths)


# ---- blocks (section 11) -----------------------------------------------------------------------------------------


class CertifiedHeader:
    """A header that a quorum has decided."""

    def __init__(self, chain: Chain, data: bytes, commit: ledger_pb2.BlockCertificate):
        header = canonical(ledger_pb2.BlockHeader, data)
        self.header, self.commit, self.id = header, commit, chain.block_id(data)
        self.height = header.height
        what = f"of block {header.height}"
        same(f"version {what}", header.version, 1)
        same(f"epoch {what}", header.epoch, chain.epoch(header.height))
        same(f"validators {what}", header.validators_hash, chain.set_hash)
        same(f"next validators {what}", header.next_validators_hash, chain.set_hash)
        same(f"phase of the certificate {what}", commit.phase, COMMIT)
        same(f"height of the certificate {what}", commit.height, header.height)
        same(f"block of the certificate {what}", commit.block_id, self.id)
        check_block_certificate(chain, commit)


class Block(CertifiedHeader):
    """A block whose form and certificate are right, and that follows the one before."""

    def __init__(self, chain: Chain, committed: sync_pb2.CommittedBlock, parent: "Block | None"):
        block = committed.block
        super().__init__(chain, block.header, committed.commit)
        header, what = self.header, f"of block {self.height}"
        same(f"height {what}", header.height, parent.height + 1 if parent else 1)
        same(f"parent {what}", header.parent, parent.id if parent else chain.id)
        require(f"the time {what} is later than the parent's", not parent or header.time_ms > parent.header.time_ms)

        same(f"a parent's certificate {what}", block.HasField("last_commit"), parent is not None)
        if parent:
            last = block.last_commit
            same(f"hash of the parent's certificate {what}", header.last_commit_hash, commit_hash(last))
            same(f"subject of the parent's certificate {what}", (last.height, last.phase), (parent.height, COMMIT))
            same(f"block of the parent's certificate {what}", last.block_id, parent.id)
            check_block_certificate(chain, last)
        else:
            same(f"hash of the parent's certificate {what}", header.last_commit_hash, bytes(32))

        self.transactions = [Transaction(chain, data) for data in block.transactions]
        txids = [transaction.txid for transaction in self.transactions]
        same(f"root of the transactions {what}", merkle_root(txids), header.transactions_root)
        for rejection in block.rejections:
            same(f"kind of a rejection {what}", rejection.kind, ABANDON)
            check_certificate(chain, rejection)
        self.rejections = [rejection.txid for rejection in block.rejections]
        same(f"root of the rejections {what}", merkle_root(self.rejections), header.rejections_root)
        if chain.closes_epoch(header.height):
            chain.require_quorum("set of seals", [seal.validator for seal in block.seals])
            same(f"epochs of the seals {what}", {seal.epoch for seal in block.seals}, {header.epoch})
        else:
            same(f"seals {what}", len(block.seals), 0)
        self.last_commit = block.last_commit
        digests = [seal_digest(chain, seal) for seal in block.seals]
        for seal, digest in zip(block.seals, digests, strict=True):
            verify("seal", chain.validator(seal.validator).public_key, digest, seal.signature)
        same(f"root of the seals {what}", merkle_root(digests), header.seals_root)

    def changes(self) -> dict[bytes, bytes | None]:
        """What the block does to the set of coins, by outpoint: the new coin, or `None` for one that is spent."""
        changed: dict[bytes, bytes | None] = {}
        for transaction in self.transactions:
            for spent in transaction.spent:
                changed[spent] = None
            for index, output in enumerate(transaction.body.outputs):
                changed[outpoint(transaction.txid, index)] = coin(output.value, output.lock, self.height)
        for txid in self.rejections:
            changed[outpoint(txid, REJECTION_INDEX)] = coin(0, NO_LOCK, self.height)
        return changed


def commit_hash(certificate: ledger_pb2.BlockCertificate) -> bytes:
    return tagged("timecoin/commit", encode(certificate))


# ---- coins (section 12) -----------------------------------------------------------------------------------------


def outpoint(txid: bytes, index: int) -> bytes:
    return txid + u32(index)


def coin(value: int, lock: bytes, height: int) -> bytes:
    return encode(ledger_pb2.Coin(value=value, lock=lock, height=height))


def bucket_of(point: bytes) -> int:
    return point[0] << 2 | point[1] >> 6


def bucket_start(index: int) -> bytes:
    """What stands before every outpoint of a bucket and after every one of the bucket before; empty beyond the last."""
    return struct.pack(">H", index << 6) if index < BUCKETS else b""


class LtHash:
    """1,024 lanes of 16 bits, added and subtracted side by side.

    The 2,048 bytes are two numbers here, one with the even lanes and one with the odd ones, each lane in 32 bits: so a
    carry runs into bits that are masked away.
    """

    _EVEN = int.from_bytes(b"\xff\xff\x00\x00" * 512, "little")

    def __init__(self) -> None:
        self.even = self.odd = 0

    def _lanes(self, point: bytes, data: bytes) -> tuple[int, int]:
        hasher = blake3(derive_key_context="timecoin/utxo")
        hasher.update(point)
        hasher.update(data)
        number = int.from_bytes(hasher.digest(length=2_048), "little")
        return number & self._EVEN, number >> 16 & self._EVEN

    def insert(self, point: bytes, data: bytes) -> None:
        even, odd = self._lanes(point, data)
        self.even, self.odd = self.even + even & self._EVEN, self.odd + odd & self._EVEN

    def remove(self, point: bytes, data: bytes) -> None:
        # Adding 2^16 to every lane first keeps each of them from borrowing of its neighbour.
        even, odd = self._lanes(point, data)
        carry = self._EVEN + int.from_bytes(b"\x01\x00\x00\x00" * 512, "little")
        self.even, self.odd = self.even + carry - even & self._EVEN, self.odd + carry - odd & self._EVEN

    def state(self) -> bytes:
        return (self.even | self.odd << 16).to_bytes(2_048, "little")

    def digest(self) -> bytes:
        return sha256(self.state())


class Coins:
    """The set of coins with its commitment."""

    def __init__(self, coins: dict[bytes, bytes]):
        self.coins: dict[bytes, bytes] = {}
        self.buckets = [LtHash() for _ in range(BUCKETS)]
        self.digests = [LtHash().digest()] * BUCKETS
        self.apply(coins)

    def apply(self, changes: dict[bytes, bytes | None]) -> None:
        touched = set()
        for point, data in changes.items():
            index = bucket_of(point)
            touched.add(index)
            old = self.coins.pop(point, None)
            if old is not None:
                self.buckets[index].remove(point, old)
            if data is not None:
                self.buckets[index].insert(point, data)
                self.coins[point] = data
        for index in touched:
            self.digests[index] = self.buckets[index].digest()

    def root(self) -> bytes:
        return merkle_root(self.digests)


# ---- transactions (section 9) -----------------------------------------------------------------------------------


class Transaction:
    """A signed transaction whose form and signatures are right."""

    def __init__(self, chain: Chain, data: bytes):
        require("a transaction has at most 100,000 bytes", len(data) <= 100_000)
        message = canonical(ledger_pb2.SignedTransaction, data)
        self.bytes = data
        self.body = canonical(ledger_pb2.TransactionBody, message.body)
        self.txid = chain.txid(message.body)
        same("version of a transaction", self.body.version, 1)
        self.spent = [outpoint(point.txid, point.index) for point in self.body.inputs]
        require("inputs are 1 to 256 and distinct", 1 <= len(set(self.spent)) == len(self.spent) <= 256)
        require("outputs are 1 to 256 and above zero", 1 <= len(self.body.outputs) <= 256)
        require("outputs are 1 to 256 and above zero", all(output.value for output in self.body.outputs))
        keys = [witness.public_key for witness in message.witnesses]
        require("witnesses ascend strictly by key", bool(keys) and keys == sorted(set(keys)))
        for witness in message.witnesses:
            verify("transaction", witness.public_key, self.txid, witness.signature)
        self.opened = {lock_of_key(key) for key in keys} | {lock_of_policy(policy) for policy in message.policies}


class Key:
    """A payer's key."""

    def __init__(self, seed: bytes):
        self._secret = Ed25519PrivateKey.from_private_bytes(seed)
        self.public = self._secret.public_key().public_bytes_raw()
        self.lock = lock_of_key(self.public)

    def sign(self, digest: bytes) -> bytes:
        return self._secret.sign(digest)


def sign_transaction(chain: Chain, key: Key, body: ledger_pb2.TransactionBody) -> bytes:
    """A transaction that spends coins of one key."""
    data = encode(body)
    witness = ledger_pb2.Witness(public_key=key.public, signature=key.sign(chain.txid(data)))
    return encode(ledger_pb2.SignedTransaction(body=data, witnesses=[witness]))


def pay(chain: Chain, key: Key, point: bytes, held: bytes, to: bytes, amount: int, memo: bytes = b"") -> bytes:
    """Pays `amount` to a lock out of one coin; what is left, less the fee, goes back to the payer.

    The fee depends on the size, and the size (by a byte or two) on the change that the fee leaves. A signature's
    length never changes, so signing once with a guess tells the size.
    """
    value = ledger_pb2.Coin.FromString(held).value
    fee = 0
    while True:
        change = value - amount - fee
        require("the coin is worth the payment and the fee", change > 0)
        body = ledger_pb2.TransactionBody(
            version=1,
            inputs=[ledger_pb2.OutPoint(txid=point[:32], index=int.from_bytes(point[32:], "big"))],
            outputs=[
                ledger_pb2.Output(value=amount, lock=to),
                ledger_pb2.Output(value=change, lock=key.lock),
            ],
            memo=memo,
        )
        signed = sign_transaction(chain, key, body)
        needed = len(signed) * chain.params.min_fee_rate
        if fee >= needed:
            return signed
        fee = needed
