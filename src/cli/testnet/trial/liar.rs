//! A peer that lies to a newcomer. It knows the truth: it asks an honest peer whatever it is asked, and passes the answer
//! on with a lie in it.

use crate::{
    ledger::commitment::bucket_of,
    network::{self, Event, RequestId, Ticket, Topic},
    primitives::{
        Amount, ChainId, Coin, CoinPage, Gossip, Height, LockHash, OutPoint, Output, Request, Response, TxId,
        limits::MAX_UTXOS_PER_PAGE,
    },
    proto,
};
use anyhow::Context as _;
use serde::Deserialize;
use std::{collections::HashMap, time::Duration};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;

/// How often it says where it stands.
const STATUS: Duration = Duration::from_millis(500);
/// It tries to reach the newcomer at least so often, in milliseconds.
const REDIAL_MS: u64 = 250;
/// Bytes of nothing: as many as an answer may have.
const NOTHING: usize = 9_900_000;
/// How far ahead of the truth stale pages claim to be.
const STALE_BLOCKS: u64 = 20;

/// What it lies about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Lie {
    /// A coin of each page is worth more than it is.
    WrongCoins,
    /// A coin of each page is left out.
    MissingCoins,
    /// Each page has a coin that never was.
    InventedCoins,
    /// Pages claim to be of a later block than they are.
    StalePages,
    /// Pages of invented coins that never end.
    EndlessPages,
    /// Blocks of almost 10 MB with nothing in them.
    Oversized,
    /// No answer.
    Silence,
}

impl Lie {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::WrongCoins => "wrong coins",
            Self::MissingCoins => "missing coins",
            Self::InventedCoins => "invented coins",
            Self::StalePages => "stale pages",
            Self::EndlessPages => "pages without end",
            Self::Oversized => "9.9 MB of nothing",
            Self::Silence => "silence",
        }
    }

    /// Whether no honest peer could look like this: a slow one is silent too, and one may be some blocks ahead.
    pub(super) const fn is_provable(self) -> bool {
        !matches!(self, Self::StalePages | Self::Silence)
    }

    /// The answer to a question, given the true one; `None`: there is none.
    fn told(self, request: &Request, truth: &[u8]) -> Option<Vec<u8>> {
        match (self, request) {
            (Self::Silence, _) => None,
            (Self::Oversized, Request::Blocks { max_count, .. }) if *max_count > 1 => Some(nothing()),
            (Self::WrongCoins | Self::MissingCoins | Self::InventedCoins | Self::StalePages, Request::Coins { .. }) => {
                let Ok(Response::Coins(page)) = Response::decode(truth) else {
                    return None;
                };
                Some(Response::Coins(self.changed(page)).encode())
            }
            (Self::EndlessPages, Request::Coins { cursor, limit, .. }) => {
                let Ok(Response::Coins(page)) = Response::decode(truth) else {
                    return None;
                };
                Some(Response::Coins(endless(page.height, cursor, *limit)).encode())
            }
            _ => None,
        }
    }

    /// Whether this question is answered with a lie.
    const fn is_about(self, request: &Request) -> bool {
        match self {
            Self::Silence => true,
            // It must prove that it is ahead, with one block, or it is not asked for more.
            Self::Oversized => matches!(request, Request::Blocks { max_count, .. } if *max_count > 1),
            _ => matches!(request, Request::Coins { .. }),
        }
    }

    fn changed(self, mut page: CoinPage) -> CoinPage {
        match self {
            Self::WrongCoins => {
                if let Some((_, coin)) = page.entries.first_mut() {
                    coin.output.value = Amount(coin.output.value.0 + 1);
                }
            }
            // The last one stays: it is the cursor.
            Self::MissingCoins if page.entries.len() > 1 => drop(page.entries.remove(0)),
            Self::InventedCoins => {
                let invented = page.entries.first().map(|(outpoint, coin)| {
                    let index = outpoint.index + 2;
                    (OutPoint { index, ..*outpoint }, *coin)
                });
                let next = page.entries.get(1).map(|(outpoint, _)| *outpoint);
                let fits = |(outpoint, _): &(OutPoint, Coin)| next.is_some_and(|next| next > *outpoint);
                if let Some(invented) = invented.filter(fits) {
                    page.entries.insert(1, invented);
                }
                page.more |= page.entries.len() > MAX_UTXOS_PER_PAGE as usize;
                page.entries.truncate(MAX_UTXOS_PER_PAGE as usize);
            }
            Self::StalePages => page.height = Height(page.height.0 + STALE_BLOCKS),
            _ => {}
        }
        page.more &= !page.entries.is_empty();
        page
    }
}

/// Coins of one bucket right after the cursor, and always more.
fn endless(height: Height, cursor: &[u8], limit: u32) -> CoinPage {
    let mut next = [0; 36];
    next[..cursor.len()].copy_from_slice(cursor);
    let bucket = bucket_of(&txid(&next));
    let invented = (0..limit).map_while(|_| {
        // The middle of the txid counts: room for 2^64 coins in a bucket.
        let count = u64::from_be_bytes(next[8..16].try_into().ok()?);
        next[8..16].copy_from_slice(&count.checked_add(1)?.to_be_bytes());
        let outpoint = OutPoint {
            txid: txid(&next),
            index: 0,
        };
        let output = Output {
            value: Amount(1_000),
            lock: LockHash([7; 32]),
        };
        let coin = Coin {
            output,
            height: Height(1),
        };
        Some((outpoint, coin))
    });
    let entries: Vec<(OutPoint, Coin)> = invented.collect();
    debug_assert!(entries.iter().all(|(outpoint, _)| bucket_of(&outpoint.txid) == bucket));
    CoinPage {
        height,
        more: !entries.is_empty(),
        entries,
    }
}

fn txid(cursor: &[u8; 36]) -> TxId {
    TxId(*cursor.first_chunk().expect("36 bytes begin with 32"))
}

/// A message of the right type, with a block that is none.
fn nothing() -> Vec<u8> {
    use prost::Message as _;
    let block = proto::CommittedBlock {
        block: Some(proto::Block {
            transactions: vec![vec![0; NOTHING]],
            ..proto::Block::default()
        }),
        ..proto::CommittedBlock::default()
    };
    let blocks = proto::Blocks {
        blocks: vec![block],
        ..proto::Blocks::default()
    };
    proto::Response {
        kind: Some(proto::response::Kind::Blocks(blocks)),
    }
    .encode_to_vec()
}

/// Between whom it stands.
pub(super) struct Place {
    /// Whom it lies to: identity and address.
    pub(super) newcomer: (libp2p::PeerId, String),
    /// Where it gets the truth.
    pub(super) source: String,
    pub(super) chain: ChainId,
}

/// What it came to.
pub(super) struct Told {
    pub(super) lies: u64,
    /// Who it was.
    pub(super) identity: String,
}

/// Lies until cancelled. `ready` is told when it knows the truth: a newcomer that starts then meets it in time.
pub(super) async fn run(
    lie: Lie,
    place: Place,
    ready: oneshot::Sender<()>,
    cancel: CancellationToken,
) -> anyhow::Result<Told> {
    let config = network::Config {
        listen: vec![],
        bootstrap: vec![place.newcomer.1.parse()?, place.source.parse()?],
        target_peers: 0,
        redial_min_ms: REDIAL_MS,
        redial_max_ms: REDIAL_MS,
        ..network::Config::default()
    };
    let mut identity = [0; 32];
    rand::fill(&mut identity);
    let stop = CancellationToken::new();
    let network = network::spawn(config, identity, place.chain.0, vec![], stop.clone());
    let network = network.await.context("the liar's own network")?;
    let mut liar = Liar {
        lie,
        newcomer: place.newcomer.0,
        network,
        truth: None,
        questions: HashMap::new(),
        height: Height(0),
        ready: Some(ready),
        lies: 0,
    };
    liar.speak(&cancel).await;
    stop.cancel();
    Ok(Told {
        lies: liar.lies,
        identity: liar.network.local.to_string(),
    })
}

struct Liar {
    lie: Lie,
    newcomer: libp2p::PeerId,
    network: network::Network,
    /// The honest peer.
    truth: Option<network::PeerId>,
    /// Passed on, by the number under which the honest peer was asked.
    questions: HashMap<RequestId, (Ticket, Option<Request>)>,
    /// What the honest peer claims.
    height: Height,
    ready: Option<oneshot::Sender<()>>,
    lies: u64,
}

impl Liar {
    async fn speak(&mut self, cancel: &CancellationToken) {
        let mut ticks = tokio::time::interval(STATUS);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                _ = ticks.tick() => self.claim(),
                event = self.network.events.recv() => match event {
                    Some(event) => self.take(event),
                    None => return,
                },
            }
        }
    }

    /// Says that it is where the honest peer is.
    fn claim(&self) {
        if self.height > Height(0) {
            let status = crate::primitives::message::Status {
                height: self.height,
                ..Default::default()
            };
            let status = Gossip::Status(status).encode();
            self.network.commands.publish(Topic::Consensus, status);
        }
    }

    fn take(&mut self, event: Event) {
        match event {
            Event::PeerUp { peer, .. } if self.network.peers.identity(peer) != Some(self.newcomer) => {
                self.truth = Some(peer);
            }
            Event::PeerUp { .. } => self.claim(),
            Event::Gossip { from, id, payload, .. } => {
                self.network.commands.verdict(id, network::Verdict::Ignore);
                if Some(from) == self.truth
                    && let Ok(Gossip::Status(status)) = Gossip::decode(&payload)
                {
                    self.height = self.height.max(status.height);
                    if let Some(ready) = self.ready.take() {
                        // Whoever does not wait any more has its own reasons.
                        let _ = ready.send(());
                    }
                }
            }
            Event::Request { ticket, payload, .. } => {
                let Some(truth) = self.truth else { return };
                let request = Request::decode(&payload).ok();
                let asked = self.network.commands.ask(truth, payload.to_vec());
                self.questions.insert(asked, (ticket, request));
            }
            Event::Response { request, result, .. } => {
                if let (Some((ticket, question)), Ok(truth)) = (self.questions.remove(&request), result) {
                    self.answer(ticket, question.as_ref(), &truth);
                }
            }
            _ => {}
        }
    }

    fn answer(&mut self, ticket: Ticket, question: Option<&Request>, truth: &[u8]) {
        let answer = match question {
            Some(question) if self.lie.is_about(question) => {
                self.lies += 1;
                self.lie.told(question, truth)
            }
            _ => Some(truth.to_vec()),
        };
        if let Some(answer) = answer {
            self.network.commands.answer(ticket, answer);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn page() -> CoinPage {
        let entry = |first: u8| {
            let coin = Coin {
                output: Output {
                    value: Amount(5),
                    lock: LockHash([3; 32]),
                },
                height: Height(2),
            };
            let txid = TxId([first; 32]);
            (OutPoint { txid, index: 0 }, coin)
        };
        CoinPage {
            height: Height(9),
            entries: (1..4).map(entry).collect(),
            more: true,
        }
    }

    #[test]
    fn each_lie_is_of_the_right_form_and_not_the_truth() {
        let question = Request::Coins {
            cursor: vec![1, 1],
            limit: 50,
            end: vec![],
        };
        let truth = Response::Coins(page()).encode();
        for lie in [
            Lie::WrongCoins,
            Lie::MissingCoins,
            Lie::InventedCoins,
            Lie::StalePages,
            Lie::EndlessPages,
        ] {
            let told = lie.told(&question, &truth).expect("an answer");
            assert_ne!(told, truth, "{lie:?}");
            assert!(matches!(Response::decode(&told), Ok(Response::Coins(_))), "{lie:?}");
        }
        assert!(Lie::Silence.told(&question, &truth).is_none());
        assert!(nothing().len() > NOTHING);
    }

    #[test]
    fn pages_without_end_stay_in_their_bucket_and_go_on() {
        let first = endless(Height(1), &[0x12, 0x40], 1_000);
        let last = first.entries.last().expect("coins").0;
        let second = endless(Height(1), &last.to_bytes(), 1_000);
        assert!(second.entries[0].0 > last && second.more);
        let all = first.entries.iter().chain(&second.entries);
        assert!(all.clone().count() == 2_000 && all.clone().all(|(o, _)| bucket_of(&o.txid) == bucket_of(&last.txid)));
    }
}
