"""One connection to one node, over py-libp2p: requests with answers, and gossip (sections 3 to 6).

py-libp2p is used as it comes, but for what wire.md asks of every client:

- identify must name the chain, and py-libp2p's own name for the protocol is a constant;
- gossip carries neither author, sequence number nor signature, and message ids are hashes of what is said. py-libp2p
  names messages by author and sequence number in three places, and takes all anonymous ones for the same.
"""

import hashlib
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress

import trio
from libp2p import new_host
from libp2p.crypto.ed25519 import create_new_key_pair
from libp2p.host.basic_host import BasicHost
from libp2p.identity.identify import identify
from libp2p.identity.identify.pb.identify_pb2 import Identify
from libp2p.network.stream.exceptions import StreamEOF, StreamError
from libp2p.peer.id import ID
from libp2p.peer.peerinfo import info_from_p2p_addr
from libp2p.pubsub.gossipsub import PROTOCOL_ID_V11, PROTOCOL_ID_V12, GossipSub
from libp2p.pubsub.mcache import CacheEntry, MessageCache
from libp2p.pubsub.pb import rpc_pb2
from libp2p.pubsub.pubsub import Pubsub
from libp2p.request_response import BytesCodec, RequestResponse, RequestResponseConfig
from libp2p.tools.anyio_service import background_trio_service
from libp2p.utils.varint import encode_uvarint
from multiaddr import Multiaddr
from timecoin.v1 import sync_pb2

from . import envelope
from .rules import Chain, Wrong, canonical, encode, require

TRANSACTIONS, VOTES, CONSENSUS = "transactions", "votes", "consensus"
# Which topic each type of message belongs to.
TOPIC_OF = {
    "transactions": TRANSACTIONS,
    "votes": VOTES,
    "proposal": CONSENSUS,
    "block_vote": CONSENSUS,
    "view_change": CONSENSUS,
    "seal": CONSENSUS,
    "status": CONSENSUS,
    "neighbours": CONSENSUS,
    "announcement": CONSENSUS,
}
PATIENCE = 10.0
GOODBYE = 2.0


def topic(chain: Chain, name: str) -> str:
    return f"/timecoin/{chain.short}/{name}/1"


def message_id(message: rpc_pb2.Message) -> bytes:
    return hashlib.sha256(message.topicIDs[0].encode() + b"\x00" + message.data).digest()


class _Cache(MessageCache):
    def put(self, msg: rpc_pb2.Message) -> None:
        name = message_id(msg)
        if name not in self.msgs:
            self.msgs[name] = msg
            self.history[0].append(CacheEntry(name, msg.topicIDs))


class _Router(GossipSub):
    def __init__(self) -> None:
        super().__init__(
            protocols=[PROTOCOL_ID_V12, PROTOCOL_ID_V11],
            degree=8,
            degree_low=6,
            degree_high=12,
            heartbeat_interval=1,
            # Ten messages a second, which is what one validator says in a moment.
            spam_protection_enabled=False,
        )
        self.mcache = _Cache(3, 5)

    def _check_equivocation(self, msg: rpc_pb2.Message) -> bool:
        return True


class Peer:
    """A connection to one node. Made by `connect`."""

    def __init__(self, chain: Chain, host: BasicHost, pubsub: Pubsub | None, nursery: trio.Nursery, node):
        self.chain, self.host, self.node = chain, host, node
        self.protocol = f"/timecoin/{chain.short}/request/1"
        self._pubsub, self._nursery = pubsub, nursery
        self._requests = RequestResponse(host)
        self._heard, self.heard = trio.open_memory_channel[sync_pb2.Gossip](100_000)
        # Messages that the node had published itself, and others.
        self.first_hand = self.relayed = 0
        # What came by gossip and was not as it should be.
        self.broken: list[str] = []

    # ---- identify (section 3) -------------------------------------------------------------------------------

    async def identify(self) -> Identify:
        """What the node says about itself."""
        with trio.fail_after(PATIENCE):
            stream = await self.host.new_stream(self.node.peer_id, [identify.ID])
            data = b""
            # The answer ends with the stream, which this library reports as an error.
            with suppress(StreamEOF):
                while part := await stream.read(65_536):
                    data += part
        return identify.parse_identify_response(data)

    # ---- requests (section 5) -------------------------------------------------------------------------------

    async def ask(self, compression: int | None = None, **kind) -> sync_pb2.Response:
        """Asks one question. Raises `Refused` when the node says why it does not answer."""
        request = encode(sync_pb2.Request(**kind))
        return self.answer(await self.exchange(envelope.wrap(request, compression=compression)))

    async def exchange(self, frame: bytes) -> bytes:
        """One envelope out, one back: each behind its length, on a stream of its own."""
        return await self._requests.send_request(
            self.node.peer_id,
            [self.protocol],
            frame,
            BytesCodec(),
            RequestResponseConfig(
                timeout=PATIENCE, max_request_size=2**62, max_response_size=envelope.MAX_MESSAGE + envelope.OVERHEAD
            ),
        )

    async def exchange_head(self, length: int) -> bytes:
        """Announces a request of this length, sends nothing of it, and reads what the node answers to that."""
        with trio.fail_after(PATIENCE):
            stream = await self.host.new_stream(self.node.peer_id, [self.protocol])
            await stream.write(encode_uvarint(length))
            first = await stream.read(1)
            require("a refusal is shorter than 128 bytes", bool(first) and first[0] < 128)
            data = b""
            while len(data) < first[0] and (part := await stream.read(first[0] - len(data))):
                data += part
        return data

    @staticmethod
    def answer(frame: bytes) -> sync_pb2.Response:
        return canonical(sync_pb2.Response, envelope.unwrap(frame, is_answer=True))

    # ---- gossip (section 6) ---------------------------------------------------------------------------------

    async def subscribe(self) -> None:
        """Listens to all three topics, and waits until the node knows."""
        pubsub = self._pubsub
        require("gossip is on", pubsub is not None)
        for name in (TRANSACTIONS, VOTES, CONSENSUS):
            # The validator hears every message once; a subscription's own queue holds 32 and drops the rest, so it is
            # only kept empty.
            pubsub.set_topic_validator(topic(self.chain, name), self._judge, is_async_validator=False)
            self._nursery.start_soon(_drain, await pubsub.subscribe(topic(self.chain, name)))
            await pubsub.wait_for_subscription(self.node.peer_id, topic(self.chain, name), timeout=PATIENCE)

    def _judge(self, source: ID, message: rpc_pb2.Message) -> bool:
        """Whether a message may be passed on."""
        if source == self.host.get_id():
            return True
        try:
            if message.from_id or message.seqno or message.signature or message.key:
                raise Wrong("gossip with an author")
            payload, origin = envelope.unwrap_from(message.data)
            gossip = canonical(sync_pb2.Gossip, payload)
            kind = gossip.WhichOneof("kind")
            if topic(self.chain, TOPIC_OF.get(kind, "unknown")) != message.topicIDs[0]:
                raise Wrong(f"{kind} on topic {message.topicIDs[0]}")
        except (Wrong, envelope.Refused) as error:
            self.broken.append(str(error))
            return False
        if origin == source.to_bytes():
            self.first_hand += 1
        else:
            self.relayed += 1
        try:
            self._heard.send_nowait(gossip)
        except trio.WouldBlock:
            self.broken.append("too much waits to be read")
        return True

    async def publish(self, name: str, attempt: int = 0, compression: int | None = None, **kind) -> None:
        """Says something to everybody."""
        data = envelope.wrap(encode(sync_pb2.Gossip(**kind)), attempt, compression, self.host.get_id().to_bytes())
        # Not Pubsub.publish: that would put author, sequence number and signature into the message.
        message = rpc_pb2.Message(data=data, topicIDs=[topic(self.chain, name)])
        await self._pubsub.push_msg(self.host.get_id(), message)

    async def publish_signed(self, name: str, **kind) -> None:
        """Says something in the form that nodes refuse: with author and sequence number."""
        data = envelope.wrap(encode(sync_pb2.Gossip(**kind)))
        await self._pubsub.publish(topic(self.chain, name), data)

    # ---- the connection -------------------------------------------------------------------------------------

    def is_connected(self) -> bool:
        return bool(self.host.get_network().connections.get(self.node.peer_id))

    async def closed_within(self, seconds: float) -> bool:
        with trio.move_on_after(seconds):
            while self.is_connected():
                await trio.sleep(0.02)
            return True
        return False


@asynccontextmanager
async def connect(
    chain: Chain, address: str, gossip: bool = False, key_pair=None, protocol_version: str | None = None
) -> AsyncIterator[Peer]:
    """A host of its own with one connection to the node at a multiaddr that ends in /p2p/ and its identity."""
    host = new_host(key_pair=key_pair or create_new_key_pair(), muxer_preference="YAMUX")
    host.set_stream_handler(identify.ID, _identify_as(host, protocol_version or f"/timecoin/{chain.short}/1"))
    node = info_from_p2p_addr(Multiaddr(address))
    pubsub = None
    if gossip:
        pubsub = Pubsub(
            host,
            _Router(),
            strict_signing=False,
            msg_id_constructor=message_id,
            max_inbound_rpc_size=envelope.MAX_MESSAGE + 2_048,
        )
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(host.run(listen_addrs=[]))
        if pubsub is not None:
            await stack.enter_async_context(background_trio_service(pubsub))
            await stack.enter_async_context(background_trio_service(pubsub.router))
            await pubsub.wait_until_ready()
        nursery = await stack.enter_async_context(trio.open_nursery())
        peer = Peer(chain, host, pubsub, nursery, node)
        with trio.fail_after(PATIENCE):
            await host.connect(node)
        try:
            yield peer
        finally:
            nursery.cancel_scope.cancel()
            # First the connection, then the gossip service: a message that came in between would be an error to it.
            with trio.move_on_after(GOODBYE, shield=True):
                await host.disconnect(node.peer_id)
                while pubsub is not None and node.peer_id in pubsub.peers:
                    await trio.sleep(0.01)
                await trio.sleep(0.1)


async def _drain(subscription) -> None:
    async for _ in subscription:
        pass


def _identify_as(host: BasicHost, protocol_version: str):
    async def handle(stream) -> None:
        message = Identify(
            protocol_version=protocol_version,
            agent_version="timecoin-python-client/1",
            public_key=host.get_public_key().serialize(),
            protocols=[str(protocol) for protocol in host.get_mux().get_protocols() if protocol],
        ).SerializeToString()
        try:
            await stream.write(encode_uvarint(len(message)) + message)
            await stream.close()
        except StreamError:
            await stream.reset()

    return handle
