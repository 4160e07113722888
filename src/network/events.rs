//! The door out: a queue of events that is bounded in number and in bytes.
//!
//! When it is full, gossip and requests are refused (the sender of a request is told). Answers and the coming and going
//! of peers are never lost: they wait in a backlog, and while that is long the network stops reading from its peers,
//! who then feel it as ordinary back-pressure.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio::sync::mpsc::{self, error::TryRecvError, error::TrySendError};

use super::Event;

/// Events in the backlog at which the network stops reading.
const CONGESTED: usize = 1_024;

/// Where the node takes events from. Works like a tokio receiver.
#[derive(Debug)]
pub struct Events {
    receiver: mpsc::Receiver<Event>,
    bytes: Arc<AtomicUsize>,
}

impl Events {
    /// The next event; `None` when the network has stopped and everything has been taken.
    pub async fn recv(&mut self) -> Option<Event> {
        let event = self.receiver.recv().await;
        event.inspect(|event| self.release(event))
    }

    /// The same for a thread outside the runtime. Panics inside of it, as tokio's own does.
    pub fn blocking_recv(&mut self) -> Option<Event> {
        let event = self.receiver.blocking_recv();
        event.inspect(|event| self.release(event))
    }

    /// An event that already waits.
    ///
    /// # Errors
    /// As tokio's: nothing waits, or nothing will ever come.
    pub fn try_recv(&mut self) -> Result<Event, TryRecvError> {
        self.receiver.try_recv().inspect(|event| self.release(event))
    }

    /// Waits for at least one event, then takes up to `limit` into `buffer`. Zero when the network has stopped.
    pub async fn recv_many(&mut self, buffer: &mut Vec<Event>, limit: usize) -> usize {
        let before = buffer.len();
        let count = self.receiver.recv_many(buffer, limit).await;
        buffer[before..].iter().for_each(|event| self.release(event));
        count
    }

    fn release(&self, event: &Event) {
        self.bytes.fetch_sub(weight(event), Ordering::Relaxed);
    }
}

fn weight(event: &Event) -> usize {
    match event {
        Event::Gossip { payload, .. } | Event::Request { payload, .. } => payload.len(),
        Event::Response {
            result: Ok(payload), ..
        } => payload.len(),
        Event::Response { .. } | Event::PeerUp { .. } | Event::PeerDown { .. } => 0,
    }
}

/// The network task's end of the queue.
#[derive(Debug)]
pub(super) struct Outbox {
    sender: mpsc::Sender<Event>,
    backlog: VecDeque<Event>,
    bytes: Arc<AtomicUsize>,
    bytes_max: usize,
}

/// A queue of so many events and bytes.
pub(super) fn queue(events_max: usize, bytes_max: usize) -> (Outbox, Events) {
    let (sender, receiver) = mpsc::channel(events_max);
    let bytes = Arc::new(AtomicUsize::new(0));
    let outbox = Outbox {
        sender,
        backlog: VecDeque::new(),
        bytes: Arc::clone(&bytes),
        bytes_max,
    };
    (outbox, Events { receiver, bytes })
}

impl Outbox {
    /// Hands out an event that may be refused. Whether it was taken.
    pub(super) fn offer(&mut self, event: Event) -> bool {
        let weight = weight(&event);
        let room = self.bytes.load(Ordering::Relaxed) + weight <= self.bytes_max;
        if !room || !self.backlog.is_empty() {
            return false;
        }
        self.send(event).is_ok()
    }

    /// Hands out an event that must arrive.
    pub(super) fn deliver(&mut self, event: Event) {
        if !self.backlog.is_empty() {
            self.backlog.push_back(event);
        } else if let Err(event) = self.send(event) {
            self.backlog.push_back(event);
        }
    }

    pub(super) fn has_backlog(&self) -> bool {
        !self.backlog.is_empty()
    }

    pub(super) fn is_congested(&self) -> bool {
        self.backlog.len() >= CONGESTED
    }

    /// Moves the backlog on as the receiver makes room. Returns after one event; safe to drop at any time.
    pub(super) async fn drain_one(&mut self) {
        let permit = self.sender.reserve().await;
        let Some(event) = self.backlog.pop_front() else { return };
        // Nobody listens any more: then nobody misses it either.
        let Ok(permit) = permit else { return };
        self.bytes.fetch_add(weight(&event), Ordering::Relaxed);
        permit.send(event);
    }

    /// `Err` when the queue is full. An event that nobody will ever take counts as sent.
    fn send(&self, event: Event) -> Result<(), Event> {
        let weight = weight(&event);
        // Before sending, since the receiver may subtract at once.
        self.bytes.fetch_add(weight, Ordering::Relaxed);
        match self.sender.try_send(event) {
            Ok(()) => Ok(()),
            Err(error) => {
                self.bytes.fetch_sub(weight, Ordering::Relaxed);
                match error {
                    TrySendError::Full(event) => Err(event),
                    TrySendError::Closed(_) => Ok(()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::network::{GossipId, PeerId, RequestError, RequestId, Topic};

    fn gossip(bytes: usize) -> Event {
        Event::Gossip {
            from: PeerId(1),
            id: GossipId(1),
            topic: Topic::Votes,
            payload: vec![0; bytes].into(),
        }
    }

    fn down(peer: u64) -> Event {
        Event::PeerDown { peer: PeerId(peer) }
    }

    #[tokio::test]
    async fn bytes_in_the_queue_are_bounded_and_come_free() {
        let (mut outbox, mut events) = queue(10, 100);
        assert!(outbox.offer(gossip(60)));
        assert!(!outbox.offer(gossip(41)));
        assert!(outbox.offer(gossip(40)));
        assert!(!outbox.offer(gossip(1)));
        events.recv().await.expect("the first");
        assert!(!outbox.offer(gossip(61)));
        assert!(outbox.offer(gossip(60)));
        let mut rest = Vec::new();
        assert_eq!(events.recv_many(&mut rest, 10).await, 2);
        assert!(outbox.offer(gossip(100)));
    }

    #[tokio::test]
    async fn what_must_arrive_does_in_order_and_gossip_does_not_overtake() {
        let (mut outbox, mut events) = queue(2, 1_000);
        for peer in 0..5 {
            outbox.deliver(down(peer));
        }
        assert!(!outbox.offer(gossip(1)), "full");
        let mut seen = Vec::new();
        while seen.len() < 5 {
            while outbox.has_backlog() {
                tokio::select! {
                    biased;
                    () = outbox.drain_one() => {}
                    () = std::future::ready(()) => break,
                }
            }
            match events.recv().await.expect("an event") {
                Event::PeerDown { peer } => seen.push(peer.0),
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(seen, [0, 1, 2, 3, 4]);
        assert!(outbox.offer(gossip(1)));
    }

    #[tokio::test]
    async fn large_answers_are_never_refused() {
        let (mut outbox, mut events) = queue(10, 100);
        let result: Result<_, RequestError> = Ok(vec![0; 1_000].into());
        outbox.deliver(Event::Response {
            from: PeerId(1),
            request: RequestId(1),
            result,
        });
        assert!(!outbox.offer(gossip(1)));
        events.recv().await.expect("the answer");
        assert!(outbox.offer(gossip(1)));
    }

    #[tokio::test]
    async fn a_receiver_that_is_gone_blocks_nobody() {
        let (mut outbox, events) = queue(1, 100);
        outbox.deliver(down(1));
        outbox.deliver(down(2));
        drop(events);
        outbox.drain_one().await;
        assert!(!outbox.has_backlog());
        assert!(outbox.offer(gossip(1)));
    }
}
