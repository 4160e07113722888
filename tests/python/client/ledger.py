"""A chain as it is known here: blocks in order, each proven, and the coins after them (sections 11 and 12)."""

from collections import ChainMap

from timecoin.v1 import ledger_pb2, sync_pb2

from .peer import Peer
from .rules import (
    BUCKETS,
    Block,
    Chain,
    Coins,
    LtHash,
    bucket_of,
    chunks,
    coin,
    encode,
    merkle_root,
    outpoint,
    require,
    same,
)


class Ledger:
    """Follows one chain from its genesis."""

    def __init__(self, chain: Chain):
        self.chain = chain
        self.blocks: list[Block] = []
        self.coins = Coins(chain.first_coins)
        # What each block does to the coins, payouts included.
        self.changes: list[dict[bytes, bytes | None]] = []
        # Of the epoch under way: fees, with what the last one could not divide; blocks that each validator signed.
        self._fees = 0
        self._signed = [0] * len(chain.validators)
        self._supply = sum(ledger_pb2.Coin.FromString(data).value for data in chain.first_coins.values())

    @property
    def height(self) -> int:
        return len(self.blocks)

    def append(self, committed: sync_pb2.CommittedBlock) -> Block:
        """Takes the next block if its certificate, its place in the chain and the coins before it are right."""
        block = Block(self.chain, committed, self.blocks[-1] if self.blocks else None)
        same(f"root of the coins before block {block.height}", block.header.utxo_root, self.coins.root())
        self._fees += self._check_payments(block)
        # The certificate of another epoch's last block counts for nothing.
        if block.height > 1 and self.chain.epoch(block.last_commit.height) == block.header.epoch:
            for part in block.last_commit.signatures:
                self._signed[part.validator] += 1
        changes = block.changes()
        if self.chain.closes_epoch(block.height):
            changes |= self._pay_out(block)
        self.coins.apply(changes)
        self.changes.append(changes)
        self.blocks.append(block)
        return block

    def _pay_out(self, block: Block) -> dict[bytes, bytes | None]:
        """What an epoch has earned goes to its validators; no block lists these coins."""
        issued = self.chain.params.issuance_per_epoch
        # Supply ends at 2^64 - 1 units; the schedule ends there, and the chain goes on.
        issued = issued if self._supply + issued < 2**64 else 0
        self._supply += issued
        validators = self.chain.validators
        weights = [validator.power * count for validator, count in zip(validators, self._signed, strict=True)]
        total = self._fees + issued
        shares = [total * weight // sum(weights) if weight else 0 for weight in weights]
        self._fees, self._signed = total - sum(shares), [0] * len(validators)
        txid = self.chain.reward_txid(block.header.epoch)
        return {
            outpoint(txid, index): coin(share, validators[index].payout, block.height)
            for index, share in enumerate(shares)
            if share
        }

    def _check_payments(self, block: Block) -> int:
        """Every input is there once and is opened, and nothing is made of nothing. Gives the fees."""
        fees = 0
        coins = ChainMap({}, self.coins.coins)
        for transaction in block.transactions:
            spent = 0
            for point in transaction.spent:
                held = ledger_pb2.Coin.FromString(coins.get(point) or b"")
                require(f"the coin {point.hex()} is there and opened", held.lock in transaction.opened)
                spent += held.value
                coins[point] = None
            paid = sum(output.value for output in transaction.body.outputs)
            fee = len(transaction.bytes) * self.chain.params.min_fee_rate
            require(f"payment {transaction.txid.hex()} pays its fee", spent >= paid + fee)
            fees += spent - paid
            for index, output in enumerate(transaction.body.outputs):
                coins[outpoint(transaction.txid, index)] = coin(output.value, output.lock, block.height)
        return fees

    async def follow(self, peer: Peer, to: int | None = None) -> None:
        """Fetches and checks what is there, or up to a height that the node is known to have."""
        while to is None or self.height < to:
            wanted = 100 if to is None else min(100, to - self.height)
            answer = await peer.ask(blocks={"from_height": self.height + 1, "max_count": wanted})
            same("kind of the answer", answer.WhichOneof("kind"), "blocks")
            require("no more blocks than asked for", len(answer.blocks.blocks) <= wanted)
            for committed in answer.blocks.blocks:
                self.append(committed)
            if to is None and self.height >= answer.blocks.tip:
                return
            require("a node has the blocks below its tip", bool(answer.blocks.blocks))


class Pages:
    """All coins of one node, read a page at a time while the chain goes on, then brought to one height and proven."""

    def __init__(self) -> None:
        self.coins: dict[bytes, bytes] = {}
        self.heights: list[int] = []
        self.cursor = b""

    async def read(self, peer: Peer, limit: int = 1_000) -> bool:
        """Reads the next page; whether there are more."""
        page = (await peer.ask(coins={"cursor": self.cursor, "limit": limit})).coins
        points = [entry.outpoint for entry in page.entries]
        require("a page is not longer than asked for", len(points) <= limit)
        require("a page ascends strictly after its cursor", points == sorted({p for p in points if p > self.cursor}))
        require("the next cursor is the last entry", page.next_cursor in (b"", points[-1] if points else b""))
        self.coins |= {entry.outpoint: encode(entry.coin) for entry in page.entries}
        self.heights.append(page.height)
        self.cursor = page.next_cursor
        return bool(self.cursor)

    def bring_to(self, height: int, ledger: Ledger) -> int:
        """Replays the blocks after the lowest page. How many coins that changed."""
        require("the digests are not older than a page", height >= max(self.heights))
        before = dict(self.coins)
        for changes in ledger.changes[min(self.heights) : height]:
            for point, data in changes.items():
                if data is None:
                    self.coins.pop(point, None)
                else:
                    self.coins[point] = data
        return len(before.items() ^ self.coins.items())

    def wrong_buckets(self, digests: list[bytes]) -> list[int]:
        """The buckets whose coins are not those that the digests are of."""
        buckets = [LtHash() for _ in range(BUCKETS)]
        for point, data in self.coins.items():
            buckets[bucket_of(point)].insert(point, data)
        return [index for index, bucket in enumerate(buckets) if bucket.digest() != digests[index]]


def check_digests(ledger: Ledger, height: int, digests: bytes) -> list[bytes]:
    """The bucket digests after a block are right when the certified header of the next one has their root."""
    same("bytes of the digests", len(digests), 32 * BUCKETS)
    pieces = chunks(digests, 32)
    same(f"root of the coins after block {height}", merkle_root(pieces), ledger.blocks[height].header.utxo_root)
    return pieces
