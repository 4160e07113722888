//! Every type of message that nodes exchange, in one table: its name, how large it may be, how many of what it may
//! hold, and how often one peer may send it.
//!
//! Whatever arrives is looked up here by the few bytes it begins with, and refused before the rest is decoded when it
//! is larger than its type allows. Counts are taken by walking over the fields without keeping any of them: a list
//! entry costs a sender two bytes and a decoder a hundred, so ten megabytes of nothing would become a gigabyte.
//!
//! The rates are part of the protocol: what a node accepts from a peer is what every other may send it. They are far
//! above what an honest validator needs at 10,000 payments a second, and an honest node stays below them by itself.

use super::{
    limits::{
        MAX_ADDRESSES_PER_ANNOUNCEMENT, MAX_BLOCK_REJECTIONS, MAX_BLOCK_TRANSACTIONS, MAX_BLOCKS_PER_REQUEST,
        MAX_HEADERS_PER_REQUEST, MAX_MESSAGE_SIZE, MAX_NEIGHBOURS, MAX_PEER_BYTES, MAX_TRANSACTION_BYTES_PER_MESSAGE,
        MAX_TRANSACTIONS_PER_MESSAGE, MAX_TXIDS_PER_REQUEST, MAX_UTXOS_PER_PAGE, MAX_VALIDATORS,
        MAX_VOTE_BATCHES_PER_REQUEST, MAX_VOTES_PER_BATCH,
    },
    state::UTXO_BUCKETS,
    wire::DecodeError,
};

/// A subject of gossip.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Topic {
    /// Payments.
    Transactions,
    /// Votes on payments.
    Votes,
    /// Blocks: proposals and the votes on them. Also where nodes stand and where validators are found.
    Consensus,
}

impl Topic {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Transactions, Self::Votes, Self::Consensus];

    /// The name, as in `/timecoin/<chain>/<name>/1`.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Transactions => "transactions",
            Self::Votes => "votes",
            Self::Consensus => "consensus",
        }
    }
}

/// How a message travels.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Channel {
    /// To everybody who listens to the topic.
    Gossip(Topic),
    /// To one peer, to be answered.
    Request,
    /// Back to whoever asked.
    Answer,
}

impl Channel {
    const fn name(self) -> &'static str {
        match self {
            Self::Gossip(_) => "gossip",
            Self::Request => "request",
            Self::Answer => "answer",
        }
    }

    /// Gossip is one message on the wire, whatever the topic.
    const fn is_like(self, other: Self) -> bool {
        matches!(
            (self, other),
            (Self::Gossip(_), Self::Gossip(_)) | (Self::Request, Self::Request) | (Self::Answer, Self::Answer)
        )
    }
}

/// A list inside of a message: a field that may be there `max` times, with lists of its own.
#[derive(Debug)]
struct List {
    field: u64,
    name: &'static str,
    max: usize,
    inside: &'static [Self],
}

const fn list(field: u64, name: &'static str, max: usize, inside: &'static [List]) -> List {
    List {
        field,
        name,
        max,
        inside,
    }
}

/// How often: so many a second, and so many at once after a silence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rate {
    /// Messages in a second, for ever.
    pub per_second: u32,
    /// Messages at once.
    pub burst: u32,
}

/// A row of the table.
#[derive(Debug)]
struct Row {
    channel: Channel,
    /// Field of the type in the `oneof` of its channel (`sync.proto`).
    field: u64,
    name: &'static str,
    /// Of the whole message, decompressed.
    max_bytes: usize,
    lists: &'static [List],
    /// Answers have none: each was asked for.
    rate: Option<Rate>,
}

const fn gossip(
    topic: Topic,
    field: u64,
    name: &'static str,
    max_bytes: usize,
    (per_second, burst): (u32, u32),
    lists: &'static [List],
) -> Row {
    Row {
        channel: Channel::Gossip(topic),
        field,
        name,
        max_bytes,
        lists,
        rate: Some(Rate { per_second, burst }),
    }
}

const fn request(field: u64, name: &'static str, max_bytes: usize, (per_second, burst): (u32, u32)) -> Row {
    Row {
        channel: Channel::Request,
        field,
        name,
        max_bytes,
        lists: &[],
        rate: Some(Rate { per_second, burst }),
    }
}

const fn answer(field: u64, name: &'static str, max_bytes: usize, lists: &'static [List]) -> Row {
    Row {
        channel: Channel::Answer,
        field,
        name,
        max_bytes,
        lists,
        rate: None,
    }
}

// Lists that are found in several messages.
const PROOFS: &[List] = &[list(4, "certificate votes", MAX_VALIDATORS, &[])];
const SIGNATURES: &[List] = &[list(5, "certificate signatures", MAX_VALIDATORS, &[])];
const PROPOSAL: &[List] = &[
    list(5, "proposal rejections", MAX_BLOCK_REJECTIONS, PROOFS),
    list(6, "proposal seals", MAX_VALIDATORS, &[]),
    list(7, "last commit", 1, SIGNATURES),
    list(
        8,
        "justification",
        1,
        &[
            list(3, "round certificate votes", MAX_VALIDATORS, &[]),
            list(4, "prepare certificate", 1, SIGNATURES),
        ],
    ),
];
const BLOCK: &[List] = &[
    list(2, "block transactions", MAX_BLOCK_TRANSACTIONS, &[]),
    list(3, "block rejections", MAX_BLOCK_REJECTIONS, PROOFS),
    list(4, "block seals", MAX_VALIDATORS, &[]),
    list(5, "last commit", 1, SIGNATURES),
];
const COMMITTED_BLOCK: &[List] = &[list(1, "block", 1, BLOCK), list(2, "commit certificate", 1, SIGNATURES)];
const CERTIFIED_HEADER: &[List] = &[list(2, "commit certificate", 1, SIGNATURES)];
const ADDRESSES: &[List] = &[list(3, "addresses", MAX_ADDRESSES_PER_ANNOUNCEMENT, &[])];

/// Bytes of a transaction's frame in a list, and of a message's own frame.
const FRAME: usize = 16;
/// Bytes of a list of txids.
const TXIDS: usize = 32 * MAX_TXIDS_PER_REQUEST + 4 * FRAME;
/// Bytes of a coin with its outpoint.
const COIN: usize = 128;
/// Bytes of a header with the frame of its certificate.
const HEADER: usize = 1_024;
/// Bytes of an announcement.
const ANNOUNCEMENT: usize = 4_096;

/// The table. Bytes are of the decompressed message; rates are (a second, at once).
const KINDS: &[Row] = &[
    gossip(
        Topic::Transactions,
        1,
        "gossip/transactions",
        MAX_TRANSACTION_BYTES_PER_MESSAGE + FRAME * MAX_TRANSACTIONS_PER_MESSAGE,
        (4_000, 8_000),
        &[list(1, "transactions in a message", MAX_TRANSACTIONS_PER_MESSAGE, &[])],
    ),
    gossip(
        Topic::Votes,
        2,
        "gossip/votes",
        33 * MAX_VOTES_PER_BATCH + 256,
        (10_000, 20_000),
        &[],
    ),
    gossip(
        Topic::Consensus,
        3,
        "gossip/proposal",
        MAX_MESSAGE_SIZE,
        (50, 200),
        PROPOSAL,
    ),
    gossip(Topic::Consensus, 4, "gossip/block_vote", 256, (4_000, 8_000), &[]),
    gossip(
        Topic::Consensus,
        5,
        "gossip/view_change",
        256 + 96 * MAX_VALIDATORS,
        (2_000, 4_000),
        &[list(4, "prepare certificate", 1, SIGNATURES)],
    ),
    gossip(
        Topic::Consensus,
        6,
        "gossip/seal",
        256 + 32 * MAX_BLOCK_TRANSACTIONS,
        (1_000, 4_000),
        &[],
    ),
    gossip(
        Topic::Consensus,
        7,
        "gossip/status",
        256 + 10 * MAX_VALIDATORS,
        (20, 100),
        &[],
    ),
    gossip(
        Topic::Consensus,
        14,
        "gossip/neighbours",
        FRAME + (MAX_PEER_BYTES + FRAME) * MAX_NEIGHBOURS,
        (20, 100),
        &[list(1, "neighbours", MAX_NEIGHBOURS, &[])],
    ),
    gossip(
        Topic::Consensus,
        15,
        "gossip/announcement",
        ANNOUNCEMENT,
        (100, 1_000),
        ADDRESSES,
    ),
    request(1, "request/blocks", 64, (100, 400)),
    request(2, "request/votes", 64, (1_000, 4_000)),
    request(3, "request/transactions", TXIDS, (1_000, 4_000)),
    request(4, "request/certificates", TXIDS, (1_000, 4_000)),
    request(5, "request/proposal", 64, (200, 1_000)),
    request(6, "request/coins", 128, (1_000, 4_000)),
    request(7, "request/digests", 8, (2, 40)),
    request(8, "request/closing_headers", 64, (20, 100)),
    request(15, "request/announcements", 8, (1, 20)),
    answer(
        1,
        "answer/blocks",
        MAX_MESSAGE_SIZE,
        &[list(1, "blocks", MAX_BLOCKS_PER_REQUEST as usize, COMMITTED_BLOCK)],
    ),
    answer(
        2,
        "answer/votes",
        MAX_MESSAGE_SIZE,
        &[list(1, "vote batches", MAX_VOTE_BATCHES_PER_REQUEST as usize, &[])],
    ),
    answer(
        3,
        "answer/transactions",
        MAX_MESSAGE_SIZE,
        &[list(1, "transactions", MAX_TXIDS_PER_REQUEST, &[])],
    ),
    answer(
        4,
        "answer/certificates",
        MAX_MESSAGE_SIZE,
        &[list(1, "certificates", MAX_TXIDS_PER_REQUEST, PROOFS)],
    ),
    answer(5, "answer/proposal", MAX_MESSAGE_SIZE, PROPOSAL),
    answer(6, "answer/refused", 1_024, &[]),
    answer(
        7,
        "answer/coins",
        256 + COIN * MAX_UTXOS_PER_PAGE as usize,
        &[list(2, "coins of a page", MAX_UTXOS_PER_PAGE as usize, &[])],
    ),
    answer(8, "answer/digests", 64 + 32 * UTXO_BUCKETS, &[]),
    answer(
        9,
        "answer/closing_headers",
        FRAME + (HEADER + 96 * MAX_VALIDATORS) * MAX_HEADERS_PER_REQUEST as usize,
        &[list(
            1,
            "closing headers",
            MAX_HEADERS_PER_REQUEST as usize,
            CERTIFIED_HEADER,
        )],
    ),
    answer(10, "answer/pruned", FRAME, &[]),
    answer(
        15,
        "answer/announcements",
        FRAME + (ANNOUNCEMENT + FRAME) * MAX_VALIDATORS,
        &[list(1, "announcements", MAX_VALIDATORS, ADDRESSES)],
    ),
];

const fn first_answer() -> usize {
    let mut at = 0;
    while at < KINDS.len() && KINDS[at].rate.is_some() {
        at += 1;
    }
    at
}

/// Answers that fit every request: they say why there is no other.
const REFUSALS: &[&str] = &["refused", "pruned"];

/// A type of message.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Kind(u8);

impl std::fmt::Debug for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.name())
    }
}

impl Kind {
    /// How many there are.
    pub const COUNT: usize = KINDS.len();
    /// How many of them have a rate: all but the answers, which are last.
    pub const RATED: usize = first_answer();
    /// Whom a peer hears first hand.
    pub const NEIGHBOURS: Self = Self::named("gossip/neighbours");
    /// A validator's addresses, by gossip.
    pub const ANNOUNCEMENT: Self = Self::named("gossip/announcement");
    /// All of them, asked for.
    pub const GET_ANNOUNCEMENTS: Self = Self::named("request/announcements");
    /// All of them.
    pub const ANNOUNCEMENTS: Self = Self::named("answer/announcements");

    /// All of them, in the order of the table.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..Self::COUNT as u8).map(Self)
    }

    const fn named(name: &str) -> Self {
        let (mut at, wanted) = (0, name.as_bytes());
        while at < KINDS.len() {
            let found = KINDS[at].name.as_bytes();
            let mut same = 0;
            while same < wanted.len() && same < found.len() && wanted[same] == found[same] {
                same += 1;
            }
            if same == wanted.len() && same == found.len() {
                return Self(at as u8);
            }
            at += 1;
        }
        panic!("no such row")
    }

    const fn row(self) -> &'static Row {
        &KINDS[self.0 as usize]
    }

    /// Its place in the table, below [`Kind::COUNT`].
    pub const fn index(self) -> usize {
        self.0 as usize
    }

    /// Channel and type, such as `gossip/votes`: for errors and metrics.
    pub const fn name(self) -> &'static str {
        self.row().name
    }

    /// How it travels.
    pub const fn channel(self) -> Channel {
        self.row().channel
    }

    /// Bytes of the decompressed message.
    pub const fn max_bytes(self) -> usize {
        self.row().max_bytes
    }

    /// How often one peer may send it; `None` for an answer, which was asked for.
    pub const fn rate(self) -> Option<Rate> {
        self.row().rate
    }

    /// The name without the channel: the same for a request and its answer.
    fn subject(self) -> &'static str {
        self.name().split_once('/').map_or(self.name(), |(_, subject)| subject)
    }

    /// Whether this answer belongs to that request.
    pub fn answers(self, request: Self) -> bool {
        REFUSALS.contains(&self.subject()) || self.subject() == request.subject()
    }

    /// The largest answer to this request.
    pub fn max_answer(self) -> usize {
        let answers = Self::all().filter(|kind| kind.channel() == Channel::Answer && kind.answers(self));
        answers.map(Self::max_bytes).max().unwrap_or(0)
    }

    /// The type of a message, told by its first bytes; looks at nothing else. `size` is the length of the whole, of
    /// which `start` may be only the beginning.
    ///
    /// # Errors
    /// No type of this channel, or larger than its type allows, or more than one message.
    pub fn of(channel: Channel, start: &[u8], size: usize) -> Result<Self, DecodeError> {
        let malformed = |reason: &str| DecodeError::Malformed {
            what: channel.name(),
            reason: reason.to_owned(),
        };
        if size == 0 {
            return Err(DecodeError::Missing { what: channel.name() });
        }
        let mut rest = start;
        let (field, wire) = tag(&mut rest).ok_or_else(|| malformed("it does not begin with a field"))?;
        let found = Self::all().find(|kind| kind.channel().is_like(channel) && kind.row().field == field);
        let kind = found.ok_or(DecodeError::UnknownKind {
            what: channel.name(),
            field,
        })?;
        if size > kind.max_bytes() {
            return Err(DecodeError::TooLarge {
                what: kind.name(),
                bytes: size,
                max: kind.max_bytes(),
            });
        }
        let value = number(&mut rest).ok_or_else(|| malformed("the length of its content is missing"))?;
        // A number is its own content, everything else has its length before it.
        let length = match wire {
            NUMBER => 0,
            LENGTH => value,
            _ => return Err(malformed("its content is neither a number nor has a length")),
        };
        let head = (start.len() - rest.len()) as u64;
        if head.checked_add(length) != Some(size as u64) {
            return Err(malformed("its content is not the rest of it"));
        }
        Ok(kind)
    }

    /// The type of a whole message; counts what its lists hold.
    ///
    /// # Errors
    /// As [`Kind::of`], or a list that is too long.
    pub fn check(channel: Channel, message: &[u8]) -> Result<Self, DecodeError> {
        let kind = Self::of(channel, message, message.len())?;
        let mut rest = message;
        // Both were read a moment ago.
        let _ = (tag(&mut rest), number(&mut rest));
        walk(kind.name(), rest, kind.row().lists)?;
        Ok(kind)
    }
}

/// The largest message of a channel, whatever its type.
pub fn max_bytes(channel: Channel) -> usize {
    let kinds = Kind::all().filter(|kind| kind.channel() == channel);
    kinds.map(Kind::max_bytes).max().unwrap_or(0)
}

/// The wire type of a number.
const NUMBER: u64 = 0;
/// The wire type of a field with a length before it.
const LENGTH: u64 = 2;

/// Counts the entries of lists, to any depth that the table knows. Keeps nothing.
fn walk(what: &'static str, mut rest: &[u8], lists: &[List]) -> Result<(), DecodeError> {
    if lists.is_empty() {
        return Ok(());
    }
    let broken = || DecodeError::Malformed {
        what,
        reason: "a field is cut off or of an unknown form".to_owned(),
    };
    // No message has more lists than that; a test looks.
    let mut counts = [0_usize; MAX_LISTS];
    while !rest.is_empty() {
        let (field, wire) = tag(&mut rest).ok_or_else(broken)?;
        let content = content(&mut rest, wire).ok_or_else(broken)?;
        let Some(at) = lists.iter().position(|list| list.field == field) else {
            continue;
        };
        counts[at] += 1;
        if counts[at] > lists[at].max {
            return Err(DecodeError::Count {
                what: lists[at].name,
                count: counts[at],
                min: 0,
                max: lists[at].max,
            });
        }
        walk(what, content, lists[at].inside)?;
    }
    Ok(())
}

const MAX_LISTS: usize = 4;

/// The number and the wire type of the next field.
fn tag(rest: &mut &[u8]) -> Option<(u64, u64)> {
    number(rest).map(|tag| (tag >> 3, tag & 7))
}

/// What is in the next field; nothing for a number.
fn content<'a>(rest: &mut &'a [u8], wire: u64) -> Option<&'a [u8]> {
    let length = match wire {
        NUMBER => return number(rest).map(|_| &[][..]),
        1 => 8,
        LENGTH => number(rest)?,
        5 => 4,
        _ => return None,
    };
    let (content, after) = rest.split_at_checked(usize::try_from(length).ok()?)?;
    *rest = after;
    Some(content)
}

/// An unsigned LEB128 number of at most 64 bits.
fn number(rest: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for (at, byte) in rest.iter().take(10).enumerate() {
        let digit = u64::from(byte & 0x7F);
        if at == 9 && digit > 1 {
            return None;
        }
        value |= digit << (7 * at);
        if byte & 0x80 == 0 {
            *rest = &rest[at + 1..];
            return Some(value);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Gossip, Request, Response};

    /// A message of one field with this content.
    fn message(field: u8, content: &[u8]) -> Vec<u8> {
        [&[field << 3 | 2][..], &length(content.len()), content].concat()
    }

    fn length(mut length: usize) -> Vec<u8> {
        let mut bytes = Vec::new();
        while length >= 0x80 {
            bytes.push(length as u8 | 0x80);
            length >>= 7;
        }
        bytes.push(length as u8);
        bytes
    }

    fn lists_inside(lists: &'static [List]) -> usize {
        let deeper = lists.iter().map(|list| lists_inside(list.inside)).max();
        deeper.unwrap_or(0).max(lists.len())
    }

    /// What the definitions say: message, field, name.
    fn defined() -> Vec<(&'static str, u64, &'static str)> {
        let mut message = "";
        let mut all = Vec::new();
        for line in include_str!("../../proto/timecoin/v1/sync.proto").lines() {
            let words: Vec<&str> = line.split([' ', ';']).filter(|word| !word.is_empty()).collect();
            match words[..] {
                ["message", name, "{"] => message = name,
                [_, name, "=", field, ..] if ["Gossip", "Request", "Response"].contains(&message) => {
                    all.push((message, field.parse().expect("a number"), name));
                }
                _ => {}
            }
        }
        all
    }

    #[test]
    fn every_type_that_is_defined_has_a_row_under_its_name_and_no_other() {
        let of = |kind: Kind| match kind.channel() {
            Channel::Gossip(_) => ("Gossip", kind.row().field, kind.subject()),
            Channel::Request => ("Request", kind.row().field, kind.subject()),
            Channel::Answer => ("Response", kind.row().field, kind.subject()),
        };
        let rows: Vec<_> = Kind::all().map(of).collect();
        assert_eq!(rows, defined());
        assert!(Kind::all().all(|kind| lists_inside(kind.row().lists) <= MAX_LISTS));
        assert!(Kind::all().all(|kind| kind.max_bytes() <= MAX_MESSAGE_SIZE));
        assert_eq!(Kind::ANNOUNCEMENT.name(), "gossip/announcement");
        let rated = |kind: Kind| kind.rate().is_some() == (kind.index() < Kind::RATED);
        assert!(Kind::all().all(rated), "answers are last");
    }

    #[test]
    fn the_largest_of_what_may_be_said_fits() {
        let transactions = vec![vec![7; 500]; MAX_TRANSACTIONS_PER_MESSAGE];
        let txids = vec![crate::primitives::TxId([7; 32]); MAX_TXIDS_PER_REQUEST];
        let kind = Kind::check(
            Channel::Gossip(Topic::Transactions),
            &Gossip::Transactions(transactions).encode(),
        );
        assert_eq!(kind.expect("fits").name(), "gossip/transactions");
        let request = Request::Transactions(txids).encode();
        assert_eq!(
            Kind::check(Channel::Request, &request).expect("fits").name(),
            "request/transactions"
        );
        let refused = Response::Refused("x".repeat(1_000)).encode();
        assert_eq!(
            Kind::check(Channel::Answer, &refused).expect("fits").name(),
            "answer/refused"
        );
    }

    #[test]
    fn too_large_is_told_by_the_first_bytes_with_the_name_of_the_type() {
        for kind in Kind::all() {
            let bytes = kind.max_bytes() + 1;
            let start = [&[(kind.row().field as u8) << 3 | 2][..], &length(bytes)].concat();
            assert_eq!(
                Kind::of(kind.channel(), &start, bytes),
                Err(DecodeError::TooLarge {
                    what: kind.name(),
                    bytes,
                    max: kind.max_bytes()
                })
            );
        }
    }

    #[test]
    fn what_begins_wrong_is_named() {
        let rows: [(&[u8], &str); 8] = [
            (&[], "gossip is missing"),
            (&[0xFF; 12], "does not begin with a field"),
            (&[0x6A, 0], "unknown type 13"),
            (&[0x09, 0], "neither a number nor has a length"),
            (&[0x08, 0, 0], "its content is not the rest of it"),
            (&[0x0A], "the length of its content is missing"),
            (&[0x0A, 1, 0, 0], "its content is not the rest of it"),
            (&[0x0A, 0, 0x12, 0], "its content is not the rest of it"),
        ];
        for (bytes, expected) in rows {
            let error = Kind::check(Channel::Gossip(Topic::Votes), bytes).expect_err(expected);
            assert!(error.to_string().contains(expected), "{error}, expected {expected}");
        }
    }

    #[test]
    fn lists_are_counted_to_any_depth_before_anything_is_decoded() {
        let empty = |field: u8, count: usize| [field << 3 | 2, 0].repeat(count);
        let blocks = |content: &[u8]| message(1, content);
        let rows = [
            ("transactions", Channel::Answer, message(3, &empty(1, 1_001))),
            ("vote batches", Channel::Answer, message(2, &empty(1, 1_001))),
            ("blocks", Channel::Answer, blocks(&empty(1, 101))),
            (
                "block transactions",
                Channel::Answer,
                blocks(&message(1, &message(1, &empty(2, 20_001)))),
            ),
            (
                "certificate signatures",
                Channel::Answer,
                blocks(&message(1, &message(2, &empty(5, 257)))),
            ),
            (
                "proposal rejections",
                Channel::Gossip(Topic::Consensus),
                message(3, &empty(5, 257)),
            ),
            (
                "certificate votes",
                Channel::Gossip(Topic::Consensus),
                message(3, &message(5, &empty(4, 257))),
            ),
            (
                "round certificate votes",
                Channel::Gossip(Topic::Consensus),
                message(3, &message(8, &empty(3, 257))),
            ),
            (
                "last commit",
                Channel::Gossip(Topic::Consensus),
                message(3, &empty(7, 2)),
            ),
            (
                "addresses",
                Channel::Gossip(Topic::Consensus),
                message(15, &empty(3, 9)),
            ),
        ];
        for (name, channel, bytes) in rows {
            let error = Kind::check(channel, &bytes).expect_err(name);
            assert!(
                matches!(error, DecodeError::Count { what, .. } if what == name),
                "{error}, expected {name}"
            );
        }
        assert!(Kind::check(Channel::Answer, &message(3, &empty(1, 1_000))).is_ok());
        let cut = Kind::check(Channel::Answer, &message(3, &[0x0A, 5, 1])).expect_err("cut");
        assert!(cut.to_string().contains("cut off"), "{cut}");
    }

    #[test]
    fn an_answer_belongs_to_its_request() {
        let named = |name: &str| Kind::all().find(|kind| kind.name() == name).expect("a row");
        assert!(named("answer/votes").answers(named("request/votes")));
        assert!(!named("answer/blocks").answers(named("request/votes")));
        assert!(named("answer/refused").answers(named("request/votes")));
        assert_eq!(named("request/votes").max_answer(), MAX_MESSAGE_SIZE);
        assert!(Kind::GET_ANNOUNCEMENTS.max_answer() < 1_100_000);
        assert!(Kind::ANNOUNCEMENTS.answers(Kind::GET_ANNOUNCEMENTS));
        for request in Kind::all().filter(|kind| kind.channel() == Channel::Request) {
            let own = |kind: &Kind| kind.channel() == Channel::Answer && kind.subject() == request.subject();
            assert_eq!(Kind::all().filter(own).count(), 1, "{request:?}");
        }
    }
}
