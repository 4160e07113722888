//! The load itself: what is due goes out, what comes back is measured.

use super::{
    Target,
    conditions::cpu_seconds,
    lanes::{LaneEvent, Lanes},
    payers::{Prepared, Signing},
    report::{Line, new_histogram},
};
use crate::{
    api::{Refusal, client::state_from},
    primitives::TxId,
    proto::{self, PaymentState, Wait, submit_reply},
};
use anyhow::ensure;
use hdrhistogram::Histogram;
use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    thread,
    time::{Duration, Instant},
};
use tokio::sync::{mpsc, oneshot};
use tonic::Code;

/// What is offered.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    /// Payments a second.
    pub(super) rate: f64,
    /// Payments in all.
    pub(super) total: u64,
    /// Coins that they are paid from, in turn.
    pub(super) coins: usize,
    /// How long to wait for blocks at the end.
    pub(super) drain: Duration,
    /// Lines as comma-separated values.
    pub(super) csv: bool,
}

/// Payments are sent together when they are due within this time: a message costs far more than its bytes.
const GATHER: Duration = Duration::from_millis(1);
/// Items in one message; the node takes 1,000.
const MAX_ITEMS: usize = 500;
/// How long a node may keep a payment before it says that it is not final.
const ANSWER_MS: u32 = 60_000;
/// How long after the start of the connections the first payment is due.
const LEAD: Duration = Duration::from_millis(200);
/// Before a payment is submitted again that a node had no room for.
const RETRY: Duration = Duration::from_millis(100);
/// Submissions of one payment whose parent a node does not know, before it counts as refused: the parent is final, and
/// the node will hear of it.
const ORPHAN_TRIES: u32 = 50;
/// Tries for each final payment to be found in a block, node by node, at the end.
const LOOKUPS: usize = 20;

/// What was measured.
pub(super) struct Figures {
    pub(super) offered: u64,
    pub(super) finals: u64,
    pub(super) committed: u64,
    /// Final, and in no block although waited for.
    pub(super) lost: Vec<TxId>,
    /// Accepted, and neither final nor refused in time.
    pub(super) unfinished: u64,
    /// Never sent, since the payment whose change they spend failed.
    pub(super) skipped: u64,
    /// Refusals by reason, the first sentence of each.
    pub(super) refused: BTreeMap<String, (u64, String)>,
    /// Submitted again: reasons.
    pub(super) retried: BTreeMap<String, u64>,
    /// Payments that waited for the one before in the same coin.
    pub(super) late: u64,
    pub(super) to_final: Histogram<u64>,
    pub(super) to_committed: Histogram<u64>,
    /// From the first to the last instant at which payments were due.
    pub(super) offered_seconds: f64,
    /// Until the last payment was final.
    pub(super) final_seconds: f64,
    /// Until the last payment was in a block.
    pub(super) committed_seconds: f64,
    pub(super) lines: Vec<Line>,
    /// Latencies by the second in which the payment was due.
    pub(super) by_second: Vec<Histogram<u64>>,
    /// CPU of this process from the first payment due to the last one final.
    pub(super) cpu_seconds: Option<f64>,
}

/// One coin: its payments go out one after the other.
#[derive(Default)]
struct Slot {
    /// Sent and not answered: number, payment, lane.
    current: Option<(u64, Prepared, usize)>,
    /// Due, and waiting for the one before.
    waiting: VecDeque<(u64, Prepared)>,
    /// How often the current one was refused for want of its parent.
    orphaned: u32,
    /// A payment failed: what it was to hand on does not exist.
    dead: bool,
}

struct Engine<'a> {
    plan: &'a Plan,
    start: Instant,
    lanes: Lanes,
    up: Vec<bool>,
    outgoing: Vec<Vec<proto::SubmitItem>>,
    slots: Vec<Slot>,
    /// Coins whose payments follow one another to the same node.
    group: usize,
    next_lane: usize,
    /// Due, and not seen in a block: number, and whether final.
    open: HashMap<TxId, (u64, bool)>,
    in_flight: u64,
    retries: VecDeque<(Instant, u64)>,
    interval: Interval,
    figures: Figures,
}

/// What happened in the current second.
struct Interval {
    number: u64,
    offered: u64,
    finals: u64,
    committed: u64,
    refused: u64,
    latency: Histogram<u64>,
}

impl Interval {
    fn new(number: u64) -> Self {
        Self {
            number,
            offered: 0,
            finals: 0,
            committed: 0,
            refused: 0,
            latency: new_histogram(),
        }
    }
}

pub(super) async fn run(
    target: &Target,
    plan: &Plan,
    signing: Signing,
    started: Option<oneshot::Sender<Instant>>,
) -> anyhow::Result<Figures> {
    let mut lanes = Lanes::open(&target.clients);
    let mut up = vec![false; target.clients.len()];
    while !up.iter().all(|up| *up) {
        match lanes.events.recv().await {
            Some((lane, LaneEvent::Up)) => up[lane] = true,
            Some((lane, LaneEvent::Down(reason))) => {
                anyhow::bail!("node {} does not take a stream: {reason}", target.addresses[lane])
            }
            _ => {}
        }
    }
    let start = Instant::now() + LEAD;
    if let Some(started) = started {
        // Whoever asked may have lost interest.
        let _ = started.send(start);
    }
    let (sender, mut due) = mpsc::unbounded_channel();
    let (rate, total) = (plan.rate, plan.total);
    let scheduler = thread::spawn(move || schedule(start, rate, total, signing.into_payments(), &sender));
    let mut engine = Engine::new(plan, start, lanes, up);
    engine.offer(&mut due).await?;
    engine.await_blocks(target).await;
    drop(due);
    ensure!(scheduler.join().is_ok(), "the scheduler thread failed");
    Ok(engine.figures)
}

/// Hands out payments when they are due, however the nodes keep up.
fn schedule(
    start: Instant,
    rate: f64,
    total: u64,
    mut payments: impl Iterator<Item = Prepared>,
    due: &mpsc::UnboundedSender<Vec<(u64, Prepared)>>,
) {
    let mut next = 0;
    while next < total {
        let now = Instant::now();
        let passed = now.saturating_duration_since(start).as_secs_f64();
        let reached = if now < start {
            0
        } else {
            ((passed * rate) as u64 + 1).min(total)
        };
        if reached <= next {
            let wait = (start + Duration::from_secs_f64(next as f64 / rate)).saturating_duration_since(now);
            thread::sleep(wait.max(GATHER));
            continue;
        }
        let batch: Vec<(u64, Prepared)> = (next..reached).zip(payments.by_ref()).collect();
        next = reached;
        if batch.is_empty() || due.send(batch).is_err() {
            return;
        }
    }
}

impl<'a> Engine<'a> {
    fn new(plan: &'a Plan, start: Instant, lanes: Lanes, up: Vec<bool>) -> Self {
        Self {
            outgoing: up.iter().map(|_| Vec::new()).collect(),
            slots: (0..plan.coins).map(|_| Slot::default()).collect(),
            group: (plan.rate * GATHER.as_secs_f64()).ceil() as usize,
            plan,
            start,
            lanes,
            up,
            next_lane: 0,
            open: HashMap::new(),
            in_flight: 0,
            retries: VecDeque::new(),
            interval: Interval::new(1),
            figures: Figures {
                offered: 0,
                finals: 0,
                committed: 0,
                lost: vec![],
                unfinished: 0,
                skipped: 0,
                refused: BTreeMap::new(),
                retried: BTreeMap::new(),
                late: 0,
                to_final: new_histogram(),
                to_committed: new_histogram(),
                offered_seconds: plan.total as f64 / plan.rate,
                final_seconds: 0.0,
                committed_seconds: 0.0,
                lines: vec![],
                by_second: vec![new_histogram(); (plan.total as f64 / plan.rate).ceil() as usize],
                cpu_seconds: None,
            },
        }
    }

    fn due_at(&self, number: u64) -> Instant {
        self.start + Duration::from_secs_f64(number as f64 / self.plan.rate)
    }

    fn slot_of(&self, number: u64) -> usize {
        (number % self.plan.coins as u64) as usize
    }

    /// Until every payment was offered and answered.
    async fn offer(&mut self, due: &mut mpsc::UnboundedReceiver<Vec<(u64, Prepared)>>) -> anyhow::Result<()> {
        let cpu = cpu_seconds();
        let mut offering = true;
        let mut ticks = tokio::time::interval_at((self.start + Duration::from_secs(1)).into(), Duration::from_secs(1));
        if self.plan.csv {
            super::say!("{}", Line::CSV_HEADER)?;
        }
        while offering || self.in_flight > 0 {
            let retry = self.retries.front().map(|(at, _)| *at);
            tokio::select! {
                biased;
                batch = due.recv(), if offering => match batch {
                    Some(batch) => self.on_due(batch),
                    None => offering = false,
                },
                Some((lane, event)) = self.lanes.events.recv() => self.on_lane(lane, event),
                Some(txids) = self.lanes.commits.recv() => self.on_committed(&txids),
                _ = ticks.tick() => self.end_interval()?,
                () = sleep_until(retry), if retry.is_some() => self.on_retry(),
                _ = tokio::signal::ctrl_c() => anyhow::bail!("interrupted"),
            }
            self.flush();
        }
        if let (Some(before), Some(after)) = (cpu, cpu_seconds()) {
            self.figures.cpu_seconds = Some(after - before);
        }
        Ok(())
    }

    fn on_due(&mut self, batch: Vec<(u64, Prepared)>) {
        for (number, payment) in batch {
            self.figures.offered += 1;
            self.interval.offered += 1;
            self.open.insert(payment.txid, (number, false));
            let slot = self.slot_of(number);
            if self.slots[slot].dead {
                self.open.remove(&payment.txid);
                self.figures.skipped += 1;
            } else if self.slots[slot].current.is_some() || !self.slots[slot].waiting.is_empty() {
                self.figures.late += 1;
                self.slots[slot].waiting.push_back((number, payment));
                self.in_flight += 1;
            } else {
                self.in_flight += 1;
                let lane = self.lane_of(slot);
                self.send(lane, number, payment);
            }
        }
    }

    /// A coin stays with one node, which so knows its payment's parent for certain; and coins that are due together go
    /// to the same node, so that one message carries them.
    fn lane_of(&mut self, slot: usize) -> usize {
        let lane = slot / self.group.max(1) % self.up.len();
        if self.up[lane] { lane } else { self.pick_lane() }
    }

    fn pick_lane(&mut self) -> usize {
        for _ in 0..self.up.len() {
            self.next_lane = (self.next_lane + 1) % self.up.len();
            if self.up[self.next_lane] {
                break;
            }
        }
        self.next_lane
    }

    fn send(&mut self, lane: usize, number: u64, payment: Prepared) {
        self.outgoing[lane].push(proto::SubmitItem {
            id: number,
            transaction: payment.bytes.clone(),
            wait: Wait::Final.into(),
            timeout_ms: ANSWER_MS,
            want_receipt: false,
        });
        let slot = self.slot_of(number);
        self.slots[slot].current = Some((number, payment, lane));
    }

    fn flush(&mut self) {
        for (lane, items) in self.outgoing.iter_mut().enumerate() {
            while !items.is_empty() {
                let rest = items.split_off(items.len().min(MAX_ITEMS));
                let items = std::mem::replace(items, rest);
                // A lane ends only with the engine.
                let _ = self.lanes.batches[lane].send(proto::SubmitBatch { items });
            }
        }
    }

    fn on_lane(&mut self, lane: usize, event: LaneEvent) {
        match event {
            LaneEvent::Up => {
                // What was meant for this lane while it was down has not been sent.
                self.up[lane] = false;
                let lost = self.unsent();
                self.up[lane] = true;
                self.send_again(lost);
            }
            LaneEvent::Replies(replies) => {
                let now = Instant::now();
                for reply in replies {
                    self.on_reply(lane, now, reply);
                }
            }
            LaneEvent::Down(_) => {
                self.up[lane] = false;
                if self.up.contains(&true) {
                    let lost = self.unsent();
                    self.send_again(lost);
                }
            }
        }
    }

    /// Coins whose payments were given to lanes that are down.
    fn unsent(&self) -> Vec<usize> {
        let is_unsent = |slot: &Slot| slot.current.as_ref().is_some_and(|(_, _, lane)| !self.up[*lane]);
        (0..self.slots.len())
            .filter(|slot| is_unsent(&self.slots[*slot]))
            .collect()
    }

    /// Gives what broken lanes have not answered to others: the same bytes, so nothing is paid twice.
    fn send_again(&mut self, slots: Vec<usize>) {
        for slot in slots {
            if let Some((number, payment, _)) = self.slots[slot].current.take() {
                *self.figures.retried.entry("CONNECTION_LOST".to_owned()).or_default() += 1;
                let lane = self.pick_lane();
                self.send(lane, number, payment);
            }
        }
    }

    fn on_reply(&mut self, lane: usize, now: Instant, reply: proto::SubmitReply) {
        let slot = self.slot_of(reply.id);
        match &self.slots[slot].current {
            Some((number, _, at)) if *number == reply.id && *at == lane => {}
            // Answered before, by another node.
            _ => return,
        }
        match reply.outcome {
            Some(submit_reply::Outcome::Done(done)) if done.reached => self.on_final(slot, now, &done),
            Some(submit_reply::Outcome::Done(done)) => {
                let state = state_from(done.state).unwrap_or(PaymentState::Unspecified);
                self.figures.unfinished += 1;
                self.fail(slot, "NOT_FINAL_IN_TIME", state.as_str_name());
            }
            Some(submit_reply::Outcome::Refused(refusal)) => {
                let refusal = Refusal::from_proto(refusal);
                let orphan = refusal.reason == "UNKNOWN_INPUT" && self.slots[slot].orphaned < ORPHAN_TRIES;
                self.slots[slot].orphaned += u32::from(orphan);
                if orphan
                    || matches!(
                        refusal.code,
                        Code::ResourceExhausted | Code::Unavailable | Code::DeadlineExceeded
                    )
                {
                    *self.figures.retried.entry(refusal.reason).or_default() += 1;
                    self.retries.push_back((now + RETRY, reply.id));
                } else {
                    self.fail(slot, &refusal.reason, &refusal.message);
                }
            }
            None => self.fail(slot, "NO_OUTCOME", "the node sent an empty reply"),
        }
    }

    fn on_final(&mut self, slot: usize, now: Instant, _done: &proto::SubmitResponse) {
        let Some((number, payment, lane)) = self.slots[slot].current.take() else {
            return;
        };
        self.slots[slot].orphaned = 0;
        self.in_flight -= 1;
        self.figures.finals += 1;
        self.interval.finals += 1;
        let latency = micros(now.saturating_duration_since(self.due_at(number)));
        self.figures.to_final.saturating_record(latency);
        self.interval.latency.saturating_record(latency);
        if let Some(second) = self
            .figures
            .by_second
            .get_mut((number as f64 / self.plan.rate) as usize)
        {
            second.saturating_record(latency);
        }
        self.figures.final_seconds = now.saturating_duration_since(self.start).as_secs_f64();
        // Absent: a block had it before we were told.
        if let Some((_, is_final)) = self.open.get_mut(&payment.txid) {
            *is_final = true;
        }
        // The next one spends this one's change, which is final at this node for certain.
        if let Some((number, payment)) = self.slots[slot].waiting.pop_front() {
            self.send(lane, number, payment);
        }
    }

    fn fail(&mut self, slot: usize, reason: &str, message: &str) {
        let Some((_, payment, _)) = self.slots[slot].current.take() else {
            return;
        };
        self.open.remove(&payment.txid);
        self.interval.refused += 1;
        let entry = self.figures.refused.entry(reason.to_owned());
        entry.or_insert_with(|| (0, message.to_owned())).0 += 1;
        let waiting = std::mem::take(&mut self.slots[slot].waiting);
        let skipped = waiting.len() as u64;
        for (_, payment) in waiting {
            self.open.remove(&payment.txid);
        }
        self.slots[slot].dead = true;
        self.figures.skipped += skipped;
        self.in_flight -= 1 + skipped;
    }

    fn on_retry(&mut self) {
        let now = Instant::now();
        while let Some((at, number)) = self.retries.front().copied()
            && at <= now
        {
            self.retries.pop_front();
            let slot = self.slot_of(number);
            if let Some((current, payment, _)) = self.slots[slot].current.take_if(|(current, ..)| *current == number) {
                let lane = self.lane_of(slot);
                self.send(lane, current, payment);
            }
        }
    }

    fn on_committed(&mut self, txids: &[TxId]) {
        let now = Instant::now();
        for txid in txids {
            let Some((number, _)) = self.open.remove(txid) else {
                continue;
            };
            self.figures.committed += 1;
            self.interval.committed += 1;
            let latency = micros(now.saturating_duration_since(self.due_at(number)));
            self.figures.to_committed.saturating_record(latency);
            self.figures.committed_seconds = now.saturating_duration_since(self.start).as_secs_f64();
        }
    }

    fn end_interval(&mut self) -> anyhow::Result<()> {
        let next = Interval::new(self.interval.number + 1);
        let done = std::mem::replace(&mut self.interval, next);
        let line = Line {
            second: done.number,
            offered: done.offered,
            finals: done.finals,
            committed: done.committed,
            refused: done.refused,
            in_flight: self.in_flight,
            nodes: self.up.iter().filter(|up| **up).count(),
            p50_ms: done.latency.value_at_quantile(0.5) as f64 / 1e3,
            p99_ms: done.latency.value_at_quantile(0.99) as f64 / 1e3,
            max_ms: done.latency.max() as f64 / 1e3,
        };
        if self.plan.csv {
            super::say!("{}", line.csv())?;
        } else {
            super::say!("{}", line.text())?;
        }
        self.figures.lines.push(line);
        Ok(())
    }

    /// Until everything is in a block; what the subscription has missed is asked for.
    async fn await_blocks(&mut self, target: &Target) {
        let deadline = Instant::now() + self.plan.drain;
        let mut quiet_until = Instant::now() + Duration::from_secs(3);
        while !self.open.is_empty() && Instant::now() < deadline.min(quiet_until) {
            tokio::select! {
                Some(txids) = self.lanes.commits.recv() => {
                    self.on_committed(&txids);
                    quiet_until = Instant::now() + Duration::from_secs(3);
                }
                () = tokio::time::sleep(Duration::from_millis(100)) => {}
            }
        }
        for attempt in 0..LOOKUPS {
            let left: Vec<TxId> = self.open.keys().copied().collect();
            if left.is_empty() || (attempt > 0 && Instant::now() >= deadline) {
                break;
            }
            for chunk in left.chunks(256) {
                let lookups = chunk.iter().map(|txid| is_committed(target, *txid));
                let found = futures::future::join_all(lookups).await;
                let found: Vec<TxId> = found.into_iter().flatten().collect();
                self.on_committed(&found);
            }
            if !self.open.is_empty() {
                tokio::time::sleep(Duration::from_millis(500)).await;
            }
        }
        self.figures.lost = self
            .open
            .iter()
            .filter(|(_, (_, is_final))| *is_final)
            .map(|(txid, _)| *txid)
            .collect();
    }
}

async fn is_committed(target: &Target, txid: TxId) -> Option<TxId> {
    for client in &target.clients {
        if let Ok(Some(answer)) = client.transaction(&txid, false, false).await
            && answer.state() == PaymentState::Committed
        {
            return Some(txid);
        }
    }
    None
}

async fn sleep_until(instant: Option<Instant>) {
    match instant {
        Some(instant) => tokio::time::sleep_until(instant.into()).await,
        None => std::future::pending().await,
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn payments_are_handed_out_at_the_rate_and_each_once() {
        let payment = |n: u64| Prepared {
            txid: TxId([n as u8; 32]),
            bytes: vec![],
        };
        let (sender, mut due) = mpsc::unbounded_channel();
        let start = Instant::now();
        schedule(start, 1_000.0, 100, (0..100).map(payment), &sender);
        drop(sender);
        let took = start.elapsed();
        assert!(took >= Duration::from_millis(99), "{took:?}");
        let mut numbers = Vec::new();
        while let Ok(batch) = due.try_recv() {
            numbers.extend(batch.into_iter().map(|(number, payment)| {
                assert_eq!(payment.txid.0[0], number as u8);
                number
            }));
        }
        assert_eq!(numbers, (0..100).collect::<Vec<_>>());
    }
}
