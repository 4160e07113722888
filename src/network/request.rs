//! Requests and answers: one protocol, one stream each.
//!
//! On the wire a request or an answer is an unsigned varint with the length of an [envelope](super::envelope), then the
//! envelope. The length is checked before anything is reserved, against the largest request there is or the largest
//! answer to what was asked; memory grows with what really arrives, and all half-read frames together stay within one
//! budget. What is wrong with a frame comes out of the codec as a value rather than as
//! an I/O error, because only then does anybody learn of it: the peer by a refusal, the score by its price.

use std::collections::HashMap;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::{
    self, Codec, InboundRequestId, OutboundFailure, OutboundRequestId, ProtocolSupport, ResponseChannel,
};
use prost::bytes::Bytes;

use super::envelope::{ENVELOPE_OVERHEAD, Envelope, EnvelopeError, INLINE_LIMIT, Refusal};
use super::stats::Stats;
use super::{PeerId, RequestError, RequestId, Ticket};
use crate::primitives::kinds::{self, Channel, Kind};

/// Bytes of all half-read frames together.
const READING_MAX: usize = 128_000_000;
/// How much is read, and reserved, at a time.
const CHUNK: usize = 64 * 1_024;

/// What a stream carries.
#[derive(Debug)]
pub(super) enum Frame {
    /// A payload.
    Payload(Bytes),
    /// No answer, and why. Also a request that this node has no room to read.
    Refused(Refusal),
    /// Received, and wrong.
    Bad(EnvelopeError),
}

pub(super) type Behaviour = request_response::Behaviour<FrameCodec>;

/// Reads and writes frames. Runs in the task of a connection, not in that of the swarm.
#[derive(Clone, Debug)]
pub(super) struct FrameCodec {
    reading: Arc<AtomicUsize>,
    stats: Arc<Stats>,
    /// What was asked on this stream: every stream has a codec of its own.
    asked: Option<Kind>,
}

/// What a frame may hold.
#[derive(Clone, Copy, Debug)]
enum Expected {
    Request,
    /// To a request of this type; `None` if none was written, and then there can be no answer.
    AnswerTo(Option<Kind>),
}

impl Expected {
    fn name(self) -> &'static str {
        match self {
            Self::Request => "request",
            Self::AnswerTo(asked) => asked.map_or("answer", Kind::name),
        }
    }

    /// Bytes of the message.
    fn max(self) -> usize {
        match self {
            Self::Request => kinds::max_bytes(Channel::Request),
            Self::AnswerTo(asked) => asked.map_or(0, Kind::max_answer),
        }
    }

    fn check(self, payload: Bytes) -> Result<Bytes, EnvelopeError> {
        match self {
            Self::Request => {
                Kind::of(Channel::Request, &payload, payload.len())?;
            }
            Self::AnswerTo(asked) => {
                let answer = Kind::of(Channel::Answer, &payload, payload.len())?;
                if !asked.is_some_and(|asked| answer.answers(asked)) {
                    return Err(EnvelopeError::WrongAnswer {
                        answer: answer.name(),
                        request: self.name(),
                    });
                }
            }
        }
        Ok(payload)
    }
}

/// Bytes taken from the reading budget; given back when dropped.
struct Reservation<'a> {
    reading: &'a AtomicUsize,
    taken: usize,
}

impl Reservation<'_> {
    fn grow(&mut self, bytes: usize) -> bool {
        let before = self.reading.fetch_add(bytes, Ordering::Relaxed);
        self.taken += bytes;
        before + bytes <= READING_MAX
    }
}

impl Drop for Reservation<'_> {
    fn drop(&mut self) {
        self.reading.fetch_sub(self.taken, Ordering::Relaxed);
    }
}

pub(super) fn behaviour(protocol: StreamProtocol, timeout: Duration, streams: usize, stats: Arc<Stats>) -> Behaviour {
    let codec = FrameCodec {
        reading: Arc::default(),
        stats,
        asked: None,
    };
    let config = request_response::Config::default()
        .with_request_timeout(timeout)
        .with_max_concurrent_streams(streams);
    request_response::Behaviour::with_codec(codec, [(protocol, ProtocolSupport::Full)], config)
}

/// Reads an unsigned LEB128 number. Ten bytes at most, since that is what a u64 takes.
async fn read_length<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<Result<u64, EnvelopeError>> {
    let mut length = 0_u64;
    for shift in (0..).step_by(7).take(10) {
        let mut byte = [0];
        io.read_exact(&mut byte).await?;
        let digit = u64::from(byte[0] & 0x7F);
        if shift == 63 && digit > 1 {
            break;
        }
        length |= digit << shift;
        if byte[0] & 0x80 == 0 {
            return Ok(Ok(length));
        }
    }
    Ok(Err(EnvelopeError::Malformed(
        "the length before it is no number of 64 bits".into(),
    )))
}

fn write_length(mut length: usize, frame: &mut Vec<u8>) {
    while length >= 0x80 {
        frame.push((length & 0x7F) as u8 | 0x80);
        length >>= 7;
    }
    frame.push(length as u8);
}

impl FrameCodec {
    async fn read<T: AsyncRead + Unpin + Send>(&self, io: &mut T, expected: Expected) -> io::Result<Frame> {
        let limit = expected.max() + ENVELOPE_OVERHEAD;
        let length = match read_length(io).await? {
            Ok(length) => length,
            Err(error) => return Ok(Frame::Bad(error)),
        };
        let length = match usize::try_from(length) {
            Ok(length) if length <= limit => length,
            _ => {
                return Ok(Frame::Bad(EnvelopeError::EnvelopeTooLarge { bytes: length, limit }));
            }
        };
        let mut reservation = Reservation {
            reading: &self.reading,
            taken: 0,
        };
        let mut bytes = Vec::new();
        while bytes.len() < length {
            let chunk = CHUNK.min(length - bytes.len());
            if !reservation.grow(chunk) {
                return Ok(Frame::Refused(Refusal::Busy));
            }
            let start = bytes.len();
            bytes.resize(start + chunk, 0);
            io.read_exact(&mut bytes[start..]).await?;
        }
        self.stats.bytes_in.add(length as u64);
        Ok(open(bytes.into(), expected).await)
    }

    async fn write<T: AsyncWrite + Unpin + Send>(&self, io: &mut T, frame: Frame) -> io::Result<()> {
        let envelope = match frame {
            Frame::Payload(payload) => wrap(payload).await,
            Frame::Refused(refusal) => Envelope::refuse(refusal),
            // Never given to be written; if it were, this is what it means.
            Frame::Bad(error) => Envelope::refuse(error.refusal()),
        };
        let body = envelope.encode(0);
        let mut head = Vec::with_capacity(4);
        write_length(body.len(), &mut head);
        if body.len() <= CHUNK {
            // One write, one packet.
            head.extend_from_slice(&body);
            io.write_all(&head).await?;
        } else {
            io.write_all(&head).await?;
            io.write_all(&body).await?;
        }
        self.stats.bytes_out.add(body.len() as u64);
        io.flush().await
    }
}

async fn open(bytes: Bytes, expected: Expected) -> Frame {
    let envelope = Envelope::parse(bytes).and_then(|envelope| envelope.expect_at_most(expected.name(), expected.max()));
    let envelope = match envelope {
        Ok(envelope) => envelope,
        Err(error) => return Frame::Bad(error),
    };
    if let Some(refusal) = envelope.refusal() {
        return Frame::Refused(refusal);
    }
    let opened = if envelope.is_heavy() {
        blocking(move || envelope.open())
            .await
            .unwrap_or_else(|| Err(EnvelopeError::Damaged("not decompressed".into())))
    } else {
        envelope.open()
    };
    opened
        .and_then(|payload| expected.check(payload))
        .map_or_else(Frame::Bad, Frame::Payload)
}

async fn wrap(payload: Bytes) -> Envelope {
    let large = payload.len() > INLINE_LIMIT;
    // Made from a Vec that nobody else holds, so this takes it back instead of copying it.
    let payload = Vec::from(payload);
    let wrapped = if large {
        blocking(move || Envelope::wrap(payload)).await
    } else {
        Some(Envelope::wrap(payload))
    };
    match wrapped {
        Some(Ok(envelope)) => envelope,
        Some(Err(_)) => Envelope::refuse(Refusal::AnswerTooLarge),
        None => Envelope::refuse(Refusal::Busy),
    }
}

/// `None` only while the runtime shuts down.
async fn blocking<R: Send + 'static>(work: impl FnOnce() -> R + Send + 'static) -> Option<R> {
    tokio::task::spawn_blocking(work).await.ok()
}

impl Codec for FrameCodec {
    type Protocol = StreamProtocol;
    type Request = Frame;
    type Response = Frame;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io, Expected::Request).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Frame>
    where
        T: AsyncRead + Unpin + Send,
    {
        self.read(io, Expected::AnswerTo(self.asked)).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, frame: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        if let Frame::Payload(payload) = &frame {
            self.asked = Kind::of(Channel::Request, payload, payload.len()).ok();
        }
        self.write(io, frame).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, frame: Frame) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        self.write(io, frame).await
    }
}

/// What went wrong, in our words.
pub(super) fn outbound_error(failure: OutboundFailure) -> RequestError {
    match failure {
        OutboundFailure::DialFailure => RequestError::NotConnected,
        OutboundFailure::Timeout => RequestError::Timeout,
        OutboundFailure::ConnectionClosed => RequestError::Disconnected,
        OutboundFailure::UnsupportedProtocols => RequestError::Unsupported,
        OutboundFailure::Io(error) if error.kind() == io::ErrorKind::UnexpectedEof => RequestError::Unanswered,
        OutboundFailure::Io(error) => RequestError::Stream(error.to_string()),
    }
}

/// A request of this node that is under way.
#[derive(Debug)]
pub(super) struct Asked {
    pub(super) id: RequestId,
    pub(super) peer: libp2p::PeerId,
    pub(super) number: PeerId,
    until: Instant,
}

/// A request of another that waits for this node's answer.
#[derive(Debug)]
struct Waiting {
    ticket: Ticket,
    peer: libp2p::PeerId,
    /// Taken when the answer is given; the entry stays until that has been sent.
    channel: Option<ResponseChannel<Frame>>,
    until: Instant,
}

/// Limits of [`Requests`].
#[derive(Clone, Copy, Debug)]
pub(super) struct Limits {
    pub(super) per_peer: usize,
    pub(super) total: usize,
    pub(super) timeout: Duration,
}

/// What is under way in both directions.
#[derive(Debug)]
pub(super) struct Requests {
    limits: Limits,
    asked: HashMap<OutboundRequestId, Asked>,
    asked_per_peer: HashMap<libp2p::PeerId, usize>,
    waiting: HashMap<InboundRequestId, Waiting>,
    tickets: HashMap<Ticket, InboundRequestId>,
    waiting_per_peer: HashMap<libp2p::PeerId, usize>,
    next_ticket: u64,
}

impl Requests {
    pub(super) fn new(limits: Limits) -> Self {
        Self {
            limits,
            asked: HashMap::new(),
            asked_per_peer: HashMap::new(),
            waiting: HashMap::new(),
            tickets: HashMap::new(),
            waiting_per_peer: HashMap::new(),
            next_ticket: 1,
        }
    }

    /// Whether one more request may be sent to the peer.
    pub(super) fn may_ask(&self, peer: &libp2p::PeerId) -> bool {
        self.asked.len() < self.limits.total && count(&self.asked_per_peer, peer) < self.limits.per_peer
    }

    pub(super) fn on_asked(
        &mut self,
        sent: OutboundRequestId,
        id: RequestId,
        peer: libp2p::PeerId,
        number: PeerId,
        now: Instant,
    ) {
        // Later than libp2p's own limit: a net under it, should an event ever be missing.
        let until = now + 2 * self.limits.timeout;
        self.asked.insert(
            sent,
            Asked {
                id,
                peer,
                number,
                until,
            },
        );
        *self.asked_per_peer.entry(peer).or_default() += 1;
    }

    /// The request is over, one way or another. `None` if it was before.
    pub(super) fn finish(&mut self, sent: OutboundRequestId) -> Option<Asked> {
        let asked = self.asked.remove(&sent)?;
        decrement(&mut self.asked_per_peer, &asked.peer);
        Some(asked)
    }

    /// Takes in a request of another; gives the channel back if there are too many.
    pub(super) fn admit(
        &mut self,
        id: InboundRequestId,
        peer: libp2p::PeerId,
        channel: ResponseChannel<Frame>,
        now: Instant,
    ) -> Result<Ticket, ResponseChannel<Frame>> {
        let full = self.waiting.len() >= self.limits.total;
        if full || count(&self.waiting_per_peer, &peer) >= self.limits.per_peer {
            return Err(channel);
        }
        let ticket = Ticket(self.next_ticket);
        self.next_ticket += 1;
        let until = now + 2 * self.limits.timeout;
        self.waiting.insert(
            id,
            Waiting {
                ticket,
                peer,
                channel: Some(channel),
                until,
            },
        );
        self.tickets.insert(ticket, id);
        *self.waiting_per_peer.entry(peer).or_default() += 1;
        Ok(ticket)
    }

    /// The channel for an answer; `None` if the ticket has expired or was used.
    pub(super) fn redeem(&mut self, ticket: Ticket) -> Option<ResponseChannel<Frame>> {
        let id = self.tickets.remove(&ticket)?;
        self.waiting.get_mut(&id)?.channel.take()
    }

    /// The request of another is over. Whether it had been given an answer; `None` if unknown.
    pub(super) fn close(&mut self, id: InboundRequestId) -> Option<bool> {
        let waiting = self.waiting.remove(&id)?;
        self.tickets.remove(&waiting.ticket);
        decrement(&mut self.waiting_per_peer, &waiting.peer);
        Some(waiting.channel.is_none())
    }

    /// Forgets what is long over. Gives the own requests that must still be reported, and how many of others there were.
    pub(super) fn expire(&mut self, now: Instant) -> (Vec<Asked>, usize) {
        let late: Vec<_> = self
            .asked
            .iter()
            .filter(|(_, asked)| asked.until <= now)
            .map(|(id, _)| *id)
            .collect();
        let asked = late.into_iter().filter_map(|id| self.finish(id)).collect();
        let stale: Vec<_> = self
            .waiting
            .iter()
            .filter(|(_, waiting)| waiting.until <= now)
            .map(|(id, _)| *id)
            .collect();
        let count = stale.len();
        for id in stale {
            self.close(id);
        }
        (asked, count)
    }

    /// Ends everything; gives the own requests, each of which is owed an event.
    pub(super) fn drain(&mut self) -> Vec<Asked> {
        self.asked_per_peer.clear();
        self.asked.drain().map(|(_, asked)| asked).collect()
    }
}

fn count(per_peer: &HashMap<libp2p::PeerId, usize>, peer: &libp2p::PeerId) -> usize {
    per_peer.get(peer).copied().unwrap_or(0)
}

fn decrement(per_peer: &mut HashMap<libp2p::PeerId, usize>, peer: &libp2p::PeerId) {
    if let Some(count) = per_peer.get_mut(peer) {
        *count -= 1;
        if *count == 0 {
            per_peer.remove(peer);
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::io::Cursor;
    use proptest::prelude::*;

    use super::*;
    use crate::network::MAX_MESSAGE_SIZE;
    use crate::primitives::DecodeError;

    fn kind(name: &str) -> Kind {
        Kind::all().find(|kind| kind.name() == name).expect("a row")
    }

    /// A codec that has asked for transactions.
    fn codec() -> FrameCodec {
        FrameCodec {
            reading: Arc::default(),
            stats: Arc::default(),
            asked: Some(kind("request/transactions")),
        }
    }

    /// A message with its type's field before so many bytes.
    fn message(field: u8, size: usize) -> Vec<u8> {
        let mut bytes = vec![field << 3 | 2];
        write_length(size, &mut bytes);
        bytes.extend((0..size).map(|at| (at % 251) as u8));
        bytes
    }

    async fn written(frame: Frame) -> Vec<u8> {
        let mut io = Cursor::new(Vec::new());
        codec().write(&mut io, frame).await.expect("a Vec takes everything");
        io.into_inner()
    }

    async fn read_answer(bytes: Vec<u8>) -> io::Result<Frame> {
        let codec = codec();
        codec
            .read(&mut Cursor::new(bytes), Expected::AnswerTo(codec.asked))
            .await
    }

    async fn read_request(bytes: Vec<u8>) -> io::Result<Frame> {
        codec().read(&mut Cursor::new(bytes), Expected::Request).await
    }

    #[tokio::test]
    async fn frames_come_back() {
        for size in [0, 1, 127, 128, 5_000, CHUNK, CHUNK + 1, 3_000_000, MAX_MESSAGE_SIZE - 5] {
            let payload = message(3, size);
            let bytes = written(Frame::Payload(payload.clone().into())).await;
            match read_answer(bytes).await.expect("complete") {
                Frame::Payload(back) => assert_eq!(back, payload),
                other => panic!("{size}: {other:?}"),
            }
        }
        let refusal = read_answer(written(Frame::Refused(Refusal::Busy)).await)
            .await
            .expect("complete");
        assert!(matches!(refusal, Frame::Refused(Refusal::Busy)), "{refusal:?}");
    }

    #[tokio::test]
    async fn an_answer_over_the_limit_becomes_a_refusal() {
        let bytes = written(Frame::Payload(vec![0; MAX_MESSAGE_SIZE + 1].into())).await;
        let frame = read_answer(bytes).await.expect("complete");
        assert!(matches!(frame, Frame::Refused(Refusal::AnswerTooLarge)), "{frame:?}");
    }

    #[tokio::test]
    async fn an_answer_to_another_question_is_wrong() {
        let bytes = written(Frame::Payload(message(1, 10).into())).await;
        let frame = read_answer(bytes).await.expect("complete");
        let Frame::Bad(EnvelopeError::WrongAnswer { answer, request }) = frame else {
            panic!("{frame:?}");
        };
        assert_eq!((answer, request), ("answer/blocks", "request/transactions"));
    }

    #[tokio::test]
    async fn a_length_over_the_limit_is_refused_before_anything_is_read() {
        let requests = kinds::max_bytes(Channel::Request) + ENVELOPE_OVERHEAD;
        let answers = MAX_MESSAGE_SIZE + ENVELOPE_OVERHEAD;
        for (length, expected, allowed) in [
            (requests + 1, Expected::Request, requests),
            (answers + 1, Expected::AnswerTo(codec().asked), answers),
            (usize::MAX, Expected::AnswerTo(codec().asked), answers),
        ] {
            let mut bytes = Vec::new();
            write_length(length, &mut bytes);
            let frame = codec().read(&mut Cursor::new(bytes), expected).await;
            let frame = frame.expect("the length is all that is looked at");
            let Frame::Bad(EnvelopeError::EnvelopeTooLarge { bytes, limit }) = frame else {
                panic!("{frame:?}")
            };
            assert_eq!((bytes, limit), (length as u64, allowed));
        }
        let endless = read_answer(vec![0xFF; 20])
            .await
            .expect("ten bytes are all that is looked at");
        assert!(
            matches!(endless, Frame::Bad(EnvelopeError::Malformed(_))),
            "{endless:?}"
        );
    }

    #[tokio::test]
    async fn a_request_larger_than_its_type_is_refused_by_name_before_it_is_decompressed() {
        // Each is small on the wire, since it compresses well.
        let rows: [(Vec<u8>, &str); 2] = [
            ([&[0x1A, 0xA0, 0xC2, 0x1E][..], &vec![0; 500_000]].concat(), "request"),
            ([&[0x0A, 0xE8, 0x07][..], &vec![0; 1_000]].concat(), "request/blocks"),
        ];
        for (payload, name) in rows {
            let bytes = written(Frame::Payload(payload.into())).await;
            let frame = read_request(bytes).await.expect("complete");
            assert!(
                matches!(frame, Frame::Bad(EnvelopeError::Content(DecodeError::TooLarge { what, .. })) if what == name),
                "{frame:?}"
            );
        }
    }

    #[tokio::test]
    async fn a_frame_that_ends_early_is_an_io_error() {
        let mut bytes = written(Frame::Payload(message(3, 1_000).into())).await;
        bytes.pop();
        assert_eq!(
            read_answer(bytes).await.expect_err("cut").kind(),
            io::ErrorKind::UnexpectedEof
        );
        assert_eq!(
            read_answer(vec![]).await.expect_err("empty").kind(),
            io::ErrorKind::UnexpectedEof
        );
    }

    #[tokio::test]
    async fn half_read_frames_share_one_budget_and_give_it_back() {
        let codec = codec();
        let bytes = written(Frame::Payload(message(3, 1_000).into())).await;
        codec.reading.store(READING_MAX - 500, Ordering::Relaxed);
        let frame = codec
            .read(&mut Cursor::new(&bytes), Expected::AnswerTo(codec.asked))
            .await
            .expect("an answer, not an error");
        assert!(matches!(frame, Frame::Refused(Refusal::Busy)), "{frame:?}");
        assert_eq!(codec.reading.load(Ordering::Relaxed), READING_MAX - 500);
        codec.reading.store(0, Ordering::Relaxed);
        assert!(matches!(
            codec
                .read(&mut Cursor::new(&bytes), Expected::AnswerTo(codec.asked))
                .await,
            Ok(Frame::Payload(_))
        ));
        assert_eq!(codec.reading.load(Ordering::Relaxed), 0);
    }

    proptest! {
        #[test]
        fn lengths_come_back(length in any::<u64>()) {
            let mut bytes = Vec::new();
            write_length(length as usize, &mut bytes);
            let back = futures::executor::block_on(read_length(&mut Cursor::new(bytes)));
            prop_assert_eq!(back.expect("complete").expect("a number"), length);
        }

        #[test]
        fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = futures::executor::block_on(read_request(bytes.clone()));
            let _ = futures::executor::block_on(read_answer(bytes));
        }
    }
}
