"""The wrapper around every payload (section 4)."""

import zlib

import cramjam
from timecoin.v1.envelope_pb2 import Compression, Envelope, EnvelopeRefusal

from .rules import Wrong, canonical

MAX_MESSAGE = 10_000_000
# Of an envelope, beyond what is in it.
OVERHEAD = 128
MAX_ATTEMPT = 32
MAX_ORIGIN = 64
THRESHOLD = 1_024
SNAPPY_RATIO, GZIP_RATIO = 22, 1_033


class Refused(Exception):
    """The node says why there is no answer."""

    def __init__(self, refusal: int):
        self.refusal = refusal
        super().__init__(EnvelopeRefusal.Name(refusal))


def wrap(payload: bytes, attempt: int = 0, compression: int | None = None, origin: bytes = b"") -> bytes:
    """The bytes of an envelope. Without a `compression`: Snappy above the threshold, if it helps."""
    squeezed, used = payload, Compression.COMPRESSION_NONE
    if compression == Compression.COMPRESSION_GZIP:
        deflate = zlib.compressobj(wbits=31)
        squeezed, used = deflate.compress(payload) + deflate.flush(), compression
    elif compression is None and len(payload) > THRESHOLD:
        smaller = bytes(cramjam.snappy.compress_raw(payload))
        if len(smaller) <= len(payload) - len(payload) // 16:
            squeezed, used = smaller, Compression.COMPRESSION_SNAPPY
    envelope = Envelope(compression=used, size=len(payload), attempt=attempt, payload=squeezed, origin=origin)
    return envelope.SerializeToString(deterministic=True)


def unwrap(data: bytes, is_answer: bool = False) -> bytes:
    """The payload of an envelope; sizes are checked before anything is decompressed, and while it is."""
    return unwrap_from(data, is_answer)[0]


def unwrap_from(data: bytes, is_answer: bool = False) -> tuple[bytes, bytes]:
    """The payload, and who says to have published it."""
    if len(data) > MAX_MESSAGE + OVERHEAD:
        raise Wrong(f"an envelope of {len(data)} bytes")
    envelope = canonical(Envelope, data)
    if envelope.size > MAX_MESSAGE or envelope.attempt > MAX_ATTEMPT or len(envelope.origin) > MAX_ORIGIN:
        raise Wrong(f"an envelope of size {envelope.size}, attempt {envelope.attempt}, origin {envelope.origin.hex()}")
    if envelope.refusal:
        if not is_answer or envelope.payload or envelope.size:
            raise Wrong("a refusal where none belongs")
        raise Refused(envelope.refusal)
    payload = _open(envelope)
    if len(payload) != envelope.size:
        raise Wrong(f"{envelope.size} bytes declared, {len(payload)} found")
    return payload, envelope.origin


def _open(envelope: Envelope) -> bytes:
    compressed, size = envelope.payload, envelope.size
    if envelope.compression == Compression.COMPRESSION_NONE:
        return compressed
    if envelope.compression == Compression.COMPRESSION_SNAPPY:
        # The format has a length of its own; it must be the declared one before memory is reserved for it.
        if size > SNAPPY_RATIO * len(compressed) or cramjam.snappy.decompress_raw_len(compressed) != size:
            raise Wrong("Snappy of another length than declared")
        return bytes(cramjam.snappy.decompress_raw(compressed))
    if envelope.compression == Compression.COMPRESSION_GZIP:
        if size > GZIP_RATIO * len(compressed):
            raise Wrong("gzip cannot grow so much")
        inflate = zlib.decompressobj(wbits=31)
        payload = inflate.decompress(compressed, size + 1)
        if not inflate.eof or inflate.unused_data:
            raise Wrong("not one whole gzip member")
        return payload
    raise Wrong(f"unknown compression {envelope.compression}")
