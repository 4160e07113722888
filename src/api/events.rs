//! Subscriptions: events of the node, filtered for each reader by the reader's own task.

use super::{Api, Refusal};
use crate::{
    primitives::{LockHash, Transaction, TxId, limits::ANSWER_BYTES},
    proto::{self, PaymentEventKind, node_event},
    replica::{Committed, Dropped, Event},
};
use futures::Stream;
use std::{
    collections::BTreeSet,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};
use tokio::sync::{broadcast, mpsc};
use tonic::Status;

/// Turns of the node that a reader may be behind before it misses some.
const TURNS_KEPT: usize = 1_024;
/// Messages that wait for a slow reader, besides the turns kept.
const MESSAGES: usize = 4;
/// Events put into one message.
const EVENTS_PER_MESSAGE: usize = 2_000;
/// Addresses of one subscription.
const MAX_ADDRESSES: usize = 1_000;

/// Where events are handed to subscribers.
pub(super) struct Hub {
    sender: broadcast::Sender<Arc<[Event]>>,
    subscribers: Arc<AtomicUsize>,
    max: usize,
}

/// A subscriber's place; given back when dropped.
struct Place(Arc<AtomicUsize>);

impl Drop for Place {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Hub {
    pub(super) fn new(max: usize) -> Self {
        Self {
            sender: broadcast::Sender::new(TURNS_KEPT),
            subscribers: Arc::new(AtomicUsize::new(0)),
            max,
        }
    }

    /// Hands a turn's events to all subscribers. Nothing happens when there is none.
    pub(super) fn publish(&self, events: &[Event]) {
        if self.sender.receiver_count() != 0 && !events.is_empty() {
            // Fails when the last subscriber has left in between.
            drop(self.sender.send(events.into()));
        }
    }

    fn take_place(&self) -> Result<Place, Refusal> {
        let place = Place(self.subscribers.clone());
        if place.0.fetch_add(1, Ordering::Relaxed) >= self.max {
            return Err(Refusal::too_many("TOO_MANY_SUBSCRIBERS", "subscriptions", self.max));
        }
        Ok(place)
    }
}

/// What a subscriber wants.
#[derive(Debug)]
struct Filter {
    /// Empty: all.
    locks: BTreeSet<LockHash>,
    want_bodies: bool,
    /// Empty: all.
    kinds: Vec<PaymentEventKind>,
    blocks_only: bool,
}

impl Filter {
    fn new(request: &proto::SubscribeRequest, network: &str) -> Result<Self, Refusal> {
        if request.addresses.len() > MAX_ADDRESSES {
            return Err(Refusal::too_many("TOO_MANY_ADDRESSES", "addresses", MAX_ADDRESSES));
        }
        let lock = |text: &String| super::service::lock_of_address(text, network);
        let kind = |number: &i32| {
            PaymentEventKind::try_from(*number).map_err(|_| {
                Refusal::invalid(
                    "UNKNOWN_VALUE",
                    format!("kinds: unknown value {number}"),
                    vec![("what", "kinds".into()), ("value", number.to_string())],
                )
            })
        };
        let mut kinds: Vec<PaymentEventKind> = request.kinds.iter().map(kind).collect::<Result<_, _>>()?;
        kinds.sort_unstable();
        kinds.dedup();
        Ok(Self {
            locks: request.addresses.iter().map(lock).collect::<Result<_, _>>()?,
            want_bodies: request.want_bodies,
            kinds,
            blocks_only: request.blocks_only,
        })
    }

    fn needs_bodies(&self) -> bool {
        self.want_bodies || !self.locks.is_empty()
    }

    fn wants(&self, kind: PaymentEventKind) -> bool {
        !self.blocks_only && (self.kinds.is_empty() || self.kinds.contains(&kind))
    }

    fn concerns(&self, transaction: &Transaction) -> bool {
        self.locks.is_empty() || locks_of(transaction).any(|lock| self.locks.contains(&lock))
    }
}

/// The locks that a transaction pays to or opens.
fn locks_of(transaction: &Transaction) -> impl Iterator<Item = LockHash> {
    let paid = transaction.outputs().iter().map(|output| output.lock);
    let keys = transaction.witnesses().iter().map(|witness| witness.public_key.lock());
    let policies = transaction.policies().iter().map(|policy| policy.lock());
    paid.chain(keys).chain(policies)
}

impl Api {
    /// Events from now on.
    pub(super) fn subscribe(
        self: Arc<Self>,
        request: &proto::SubscribeRequest,
    ) -> Result<impl Stream<Item = Result<proto::SubscribeResponse, Status>> + Send + 'static, Refusal> {
        let place = self.events.take_place()?;
        let filter = Filter::new(request, &self.context.genesis.network)?;
        let turns = self.events.sender.subscribe();
        let (to_client, messages) = mpsc::channel(MESSAGES);
        self.tasks.spawn(self.clone().feed(filter, turns, to_client, place));
        Ok(tokio_stream::wrappers::ReceiverStream::new(messages))
    }

    async fn feed(
        self: Arc<Self>,
        filter: Filter,
        mut turns: broadcast::Receiver<Arc<[Event]>>,
        to_client: mpsc::Sender<Result<proto::SubscribeResponse, Status>>,
        _place: Place,
    ) {
        loop {
            let turn = tokio::select! {
                turn = turns.recv() => turn,
                () = to_client.closed() => return,
                () = self.cancel.cancelled() => {
                    drop(to_client.try_send(Err(Refusal::shutting_down().into_status())));
                    return;
                }
            };
            let events = match turn {
                Ok(turn) => self.translate(&filter, &turn, &mut turns),
                Err(broadcast::error::RecvError::Lagged(missed)) => vec![proto::NodeEvent {
                    event: Some(node_event::Event::Lagged(proto::Lagged { missed })),
                }],
                Err(broadcast::error::RecvError::Closed) => return,
            };
            for part in in_messages(events) {
                tokio::select! {
                    sent = to_client.send(Ok(proto::SubscribeResponse { events: part })) => if sent.is_err() { return },
                    () = self.cancel.cancelled() => return,
                }
            }
        }
    }

    /// The events of a turn, and of those that already wait behind it: one message for many turns.
    fn translate(
        &self,
        filter: &Filter,
        first: &[Event],
        turns: &mut broadcast::Receiver<Arc<[Event]>>,
    ) -> Vec<proto::NodeEvent> {
        let mut events = Vec::new();
        self.translate_turn(filter, first, &mut events);
        while events.len() < EVENTS_PER_MESSAGE {
            match turns.try_recv() {
                Ok(turn) => self.translate_turn(filter, &turn, &mut events),
                Err(broadcast::error::TryRecvError::Lagged(missed)) => events.push(proto::NodeEvent {
                    event: Some(node_event::Event::Lagged(proto::Lagged { missed })),
                }),
                Err(_) => break,
            }
        }
        events
    }

    fn translate_turn(&self, filter: &Filter, turn: &[Event], out: &mut Vec<proto::NodeEvent>) {
        for event in turn {
            match event {
                Event::Accepted(txid) => {
                    out.extend(self.payment(filter, PaymentEventKind::Accepted, txid, 0, ""));
                }
                Event::Final(txid) => out.extend(self.payment(filter, PaymentEventKind::Final, txid, 0, "")),
                Event::Committed(block) => {
                    let height = block.height.0;
                    for txid in &block.transactions {
                        out.extend(self.payment(filter, PaymentEventKind::Committed, txid, height, ""));
                    }
                    out.push(block_event(block));
                }
                Event::Dropped { txid, reason } => {
                    let reason = match reason {
                        Dropped::Rejected => "REJECTED",
                        Dropped::Conflict => "CONFLICT",
                        Dropped::Evicted => "EVICTED",
                    };
                    out.extend(self.payment(filter, PaymentEventKind::Dropped, txid, 0, reason));
                }
                _ => {}
            }
        }
    }

    fn payment(
        &self,
        filter: &Filter,
        kind: PaymentEventKind,
        txid: &TxId,
        height: u64,
        reason: &str,
    ) -> Option<proto::NodeEvent> {
        if !filter.wants(kind) {
            return None;
        }
        let known = if filter.needs_bodies() {
            self.context.payments.get(txid)
        } else {
            None
        };
        // A payment whose body is gone is shown to everybody: too much rather than too little.
        if let Some(known) = &known
            && !filter.concerns(&known.transaction)
        {
            return None;
        }
        let transaction = known
            .filter(|_| filter.want_bodies)
            .map(|known| known.transaction.bytes().to_vec())
            .unwrap_or_default();
        Some(proto::NodeEvent {
            event: Some(node_event::Event::Payment(proto::PaymentEvent {
                kind: kind.into(),
                txid: txid.0.to_vec(),
                height,
                reason: reason.to_owned(),
                transaction,
            })),
        })
    }
}

fn block_event(block: &Committed) -> proto::NodeEvent {
    let count = |items: usize| u32::try_from(items).unwrap_or(u32::MAX);
    proto::NodeEvent {
        event: Some(node_event::Event::Block(proto::BlockEvent {
            height: block.height.0,
            block_id: block.block.0.to_vec(),
            time_ms: block.time.0,
            round: block.round.0,
            transactions: count(block.transactions.len()),
            rejections: count(block.rejected.len()),
        })),
    }
}

/// Cuts events into messages by number and by size.
fn in_messages(events: Vec<proto::NodeEvent>) -> Vec<Vec<proto::NodeEvent>> {
    use prost::Message as _;
    let mut messages = Vec::new();
    let (mut current, mut bytes) = (Vec::new(), 0);
    for event in events {
        bytes += event.encoded_len();
        current.push(event);
        if current.len() >= EVENTS_PER_MESSAGE || bytes >= ANSWER_BYTES / 4 {
            messages.push(std::mem::take(&mut current));
            bytes = 0;
        }
    }
    if !current.is_empty() {
        messages.push(current);
    }
    messages
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Address, Amount, ChainId, Multisig, OutPoint, Output, SecretKey, TransactionBody};

    fn address(network: &str, lock: LockHash) -> String {
        Address::new(network, lock).to_string()
    }

    fn filter(locks: &[LockHash]) -> Filter {
        let addresses = locks.iter().map(|lock| address("ltime", *lock)).collect();
        let request = proto::SubscribeRequest {
            addresses,
            ..Default::default()
        };
        Filter::new(&request, "ltime").expect("valid addresses")
    }

    #[test]
    fn a_payment_concerns_payers_and_payees_and_policies() {
        let key = SecretKey::from_seed([1; 32]);
        let policy = Multisig::new(1, vec![key.public().lock()]).expect("a valid policy");
        let body = TransactionBody {
            inputs: vec![OutPoint {
                txid: TxId([5; 32]),
                index: 0,
            }],
            outputs: vec![Output {
                value: Amount(5),
                lock: LockHash([9; 32]),
            }],
            memo: vec![],
        };
        let chain = ChainId([0; 32]);
        let transaction = Transaction::sign(&chain, &body, &[&key], std::slice::from_ref(&policy)).expect("signs");
        for lock in [LockHash([9; 32]), key.public().lock(), policy.lock()] {
            assert!(filter(&[LockHash([7; 32]), lock]).concerns(&transaction));
        }
        assert!(!filter(&[LockHash([7; 32])]).concerns(&transaction));
        assert!(filter(&[]).concerns(&transaction));
    }

    #[test]
    fn addresses_of_another_network_and_too_many_are_refused() {
        let foreign = proto::SubscribeRequest {
            addresses: vec![address("time", LockHash([1; 32]))],
            ..Default::default()
        };
        assert_eq!(
            Filter::new(&foreign, "ltime").expect_err("foreign").reason,
            "BAD_ADDRESS"
        );
        let many = proto::SubscribeRequest {
            addresses: vec![address("ltime", LockHash([1; 32])); MAX_ADDRESSES + 1],
            ..Default::default()
        };
        let refusal = Filter::new(&many, "ltime").expect_err("too many");
        assert_eq!(refusal.reason, "TOO_MANY_ADDRESSES");
    }

    #[test]
    fn kinds_are_picked() {
        let wanted = |kinds: &[PaymentEventKind], blocks_only| {
            let request = proto::SubscribeRequest {
                kinds: kinds.iter().map(|kind| i32::from(*kind)).collect(),
                blocks_only,
                ..Default::default()
            };
            let filter = Filter::new(&request, "ltime").expect("valid");
            (
                filter.wants(PaymentEventKind::Final),
                filter.wants(PaymentEventKind::Committed),
            )
        };
        assert_eq!(wanted(&[], false), (true, true));
        assert_eq!(wanted(&[PaymentEventKind::Committed], false), (false, true));
        assert_eq!(wanted(&[], true), (false, false));
    }

    #[test]
    fn places_are_limited_and_given_back() {
        let hub = Hub::new(1);
        let place = hub.take_place().expect("the first");
        assert!(hub.take_place().is_err());
        drop(place);
        assert!(hub.take_place().is_ok());
    }

    #[test]
    fn many_events_become_several_messages_in_order() {
        let event = |height| proto::NodeEvent {
            event: Some(node_event::Event::Block(proto::BlockEvent {
                height,
                ..Default::default()
            })),
        };
        let events: Vec<_> = (0..EVENTS_PER_MESSAGE as u64 * 2 + 1).map(event).collect();
        let messages = in_messages(events.clone());
        assert_eq!(messages.len(), 3);
        assert_eq!(messages.concat(), events);
    }
}
