//! The check pool: raw bytes in, checked inputs out.
//!
//! One thread serves only what is urgent (votes, blocks, small answers, requests); the others take that first and then
//! transactions. Each takes what waits, up to a bound, and checks it together: signatures in batches cost half.
//!
//! What waits is bounded in number and in bytes. When it is full, gossip is ignored (not relayed; votes that are missed
//! are asked for later) and clients are told to come back. Answers to our own questions are always taken: their number
//! is bounded by the questions.

use super::{
    bridge,
    inbox::{Inbox, Item, Lane, ReplyTo},
    metrics::{Meters, record},
    roster::{AnnouncementError, Roster},
    serve::StoreServer,
};
use crate::{
    api::SubmitError,
    ledger::check,
    network::{self, Commands, PeerTable, Topic},
    primitives::{Announcement, Fault, PeerId, Request, kinds::Kind, message::Electorate},
    replica::{AnswerTicket, Input, InputError, input},
    sync::serve::is_for_store,
};
use prost::bytes::Bytes;
use std::{
    collections::VecDeque,
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// What a fault is about when it was found in the answer to a question of ours.
const ANSWER: &str = "answer";
/// Answers above this size are not urgent: blocks to catch up with take long to check.
const LARGE_ANSWER: usize = 64 * 1024;
/// Jobs checked together.
const MAX_JOBS: usize = 256;
/// Bytes checked together, when transactions are among them: some milliseconds of work, so that the loop has something
/// to do meanwhile.
const MAX_BULK_BYTES: usize = 64 * 1024;
/// Bytes checked together when everything is urgent.
const MAX_URGENT_BYTES: usize = 1 << 20;

/// One thing to check.
#[derive(Debug)]
pub enum Job {
    /// A gossip message.
    Gossip {
        /// Who passed it on.
        from: network::PeerId,
        /// For the verdict.
        id: network::GossipId,
        /// What it is about.
        topic: Topic,
        /// Its bytes.
        payload: Bytes,
    },
    /// A peer's question.
    Request {
        /// Who asks.
        from: network::PeerId,
        /// For the answer.
        ticket: network::Ticket,
        /// Its bytes.
        payload: Bytes,
    },
    /// The answer to a question of ours.
    Response {
        /// Who was asked.
        from: network::PeerId,
        /// Which question.
        request: network::RequestId,
        /// Its bytes.
        payload: Bytes,
    },
    /// A client's transaction.
    Submit {
        /// Its bytes.
        bytes: Vec<u8>,
        /// For the verdict.
        reply: ReplyTo,
    },
}

impl Job {
    fn lane(&self) -> Lane {
        match self {
            Self::Gossip {
                topic: Topic::Transactions,
                ..
            }
            | Self::Submit { .. } => Lane::Bulk,
            Self::Response { payload, .. } if payload.len() > LARGE_ANSWER => Lane::Bulk,
            _ => Lane::Urgent,
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Gossip { payload, .. } | Self::Request { payload, .. } | Self::Response { payload, .. } => {
                payload.len()
            }
            Self::Submit { bytes, .. } => bytes.len(),
        }
    }
}

#[derive(Default)]
struct Queue {
    jobs: VecDeque<(Job, Instant)>,
    bytes: usize,
}

impl Queue {
    fn take(&mut self, out: &mut Vec<(Job, Instant)>, mut bytes: usize) {
        while out.len() < MAX_JOBS
            && bytes > 0
            && let Some((job, at)) = self.jobs.pop_front()
        {
            let size = job.bytes();
            self.bytes -= size;
            bytes = bytes.saturating_sub(size.max(1));
            out.push((job, at));
        }
    }
}

#[derive(Default)]
struct State {
    urgent: Queue,
    bulk: Queue,
    closed: bool,
}

/// What waits to be checked.
pub struct Jobs {
    state: Mutex<State>,
    urgent: Condvar,
    any: Condvar,
    max: usize,
    max_bytes: usize,
}

impl Jobs {
    /// A queue for so many jobs and bytes in each lane.
    pub fn new(max: usize, max_bytes: usize) -> Self {
        Self {
            state: Mutex::default(),
            urgent: Condvar::new(),
            any: Condvar::new(),
            max,
            max_bytes,
        }
    }

    /// Brings jobs that arrived now; hands back those that there is no room for.
    pub fn offer(&self, jobs: impl IntoIterator<Item = Job>) -> Vec<Job> {
        let now = Instant::now();
        let mut refused = Vec::new();
        let (mut urgent, mut bulk) = (false, false);
        let mut state = self.lock();
        for job in jobs {
            let lane = job.lane();
            let queue = match lane {
                Lane::Urgent => &mut state.urgent,
                Lane::Bulk => &mut state.bulk,
            };
            let full = queue.jobs.len() >= self.max || queue.bytes + job.bytes() > self.max_bytes;
            if full && !matches!(job, Job::Response { .. }) {
                refused.push(job);
                continue;
            }
            queue.bytes += job.bytes();
            queue.jobs.push_back((job, now));
            match lane {
                Lane::Urgent => urgent = true,
                Lane::Bulk => bulk = true,
            }
        }
        drop(state);
        if urgent {
            self.urgent.notify_one();
        }
        if bulk {
            self.any.notify_one();
        }
        refused
    }

    /// Drops what a peer has said that waits to be checked: it has just said something that no honest peer says. Answers
    /// the names of the messages.
    fn forget(&self, peer: network::PeerId) -> Vec<network::GossipId> {
        let mut forgotten = Vec::new();
        let mut state = self.lock();
        let State { urgent, bulk, .. } = &mut *state;
        for queue in [urgent, bulk] {
            let Queue { jobs, bytes } = queue;
            jobs.retain(|(job, _)| match job {
                Job::Gossip { from, id, payload, .. } if *from == peer => {
                    forgotten.push(*id);
                    *bytes -= payload.len();
                    false
                }
                _ => true,
            });
        }
        forgotten
    }

    /// Takes a batch; waits for one. `false` when the queue is closed.
    fn take(&self, lane: Lane, out: &mut Vec<(Job, Instant)>) -> bool {
        let mut state = self.lock();
        loop {
            if state.closed {
                return false;
            }
            state.urgent.take(out, MAX_URGENT_BYTES);
            if out.is_empty() && lane == Lane::Bulk {
                state.bulk.take(out, MAX_BULK_BYTES);
            }
            if !out.is_empty() {
                return true;
            }
            let waiting = match lane {
                Lane::Urgent => &self.urgent,
                Lane::Bulk => &self.any,
            };
            state = waiting.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// What waits: urgent, and the rest.
    pub fn waiting(&self) -> (usize, usize) {
        let state = self.lock();
        (state.urgent.jobs.len(), state.bulk.jobs.len())
    }

    /// Ends the threads; what waits is dropped.
    pub fn close(&self) {
        let mut state = self.lock();
        state.closed = true;
        state.urgent = Queue::default();
        state.bulk = Queue::default();
        drop(state);
        self.urgent.notify_all();
        self.any.notify_all();
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a thread of the pool needs.
#[derive(Clone)]
pub struct Checker {
    /// Who votes.
    pub electorate: Electorate,
    /// What waits.
    pub jobs: Arc<Jobs>,
    /// Where checked inputs go.
    pub inbox: Arc<Inbox>,
    /// For verdicts and punishments.
    pub commands: Commands,
    /// Who is there.
    pub peers: Arc<PeerTable>,
    /// Answers questions for what is in the store.
    pub served: Arc<StoreServer>,
    /// Checks where validators say they are, and answers questions for that.
    pub roster: Arc<Roster>,
    /// Counts.
    pub meters: Arc<Meters>,
}

/// A gossip message that is being checked.
struct Heard {
    from: network::PeerId,
    id: network::GossipId,
    at: Instant,
}

impl Checker {
    /// Runs until the queue is closed. `lane`: whether this thread takes only what is urgent.
    pub fn run(&self, lane: Lane) {
        let mut batch = Vec::new();
        while self.jobs.take(lane, &mut batch) {
            let start = Instant::now();
            self.check(std::mem::take(&mut batch));
            record(&self.meters.check, start.elapsed());
        }
    }

    /// Checks a batch and passes on what is right.
    fn check(&self, batch: Vec<(Job, Instant)>) {
        let (mut heard, mut payloads) = (Vec::new(), Vec::new());
        let (mut submitted, mut bodies) = (Vec::new(), Vec::new());
        for (job, at) in batch {
            match job {
                Job::Gossip { from, id, payload, .. } if is(Kind::ANNOUNCEMENT, &payload) => {
                    self.announcement(from, id, &payload);
                }
                Job::Gossip { from, id, payload, .. } => {
                    heard.push(Heard { from, id, at });
                    payloads.push(payload);
                }
                Job::Submit { bytes, reply } => {
                    submitted.push((reply, at));
                    bodies.push(bytes);
                }
                Job::Request { from, ticket, payload } => self.request(from, ticket, &payload, at),
                Job::Response { from, request, payload } => self.response(from, request, &payload),
            }
        }
        self.gossip(heard, &payloads);
        self.submissions(submitted, &bodies);
    }

    fn gossip(&self, heard: Vec<Heard>, payloads: &[Bytes]) {
        if heard.is_empty() {
            return;
        }
        let (mut urgent, mut bulk) = (Vec::new(), Vec::new());
        let checked = input::check_gossip(&self.electorate, payloads);
        for (Heard { from, id, at }, result) in heard.into_iter().zip(checked) {
            match result {
                Ok(message) => {
                    self.meters.checked.add(1);
                    let lane = match &message {
                        crate::replica::Message::Transactions(_) => &mut bulk,
                        _ => &mut urgent,
                    };
                    let (from, id) = (PeerId(from.0), crate::replica::GossipId(id.0));
                    lane.push(Item::Input(Input::Gossip { from, id, message }, at));
                }
                Err(error) => {
                    self.commands.verdict(id, network::Verdict::Reject);
                    self.punish(from, &error, "gossip");
                    if error.fault() == Fault::Hostile {
                        self.forget(from);
                    }
                }
            }
        }
        self.pass(Lane::Urgent, urgent);
        self.pass(Lane::Bulk, bulk);
    }

    fn forget(&self, from: network::PeerId) {
        let forgotten = self.jobs.forget(from);
        self.meters.check_refused.add(forgotten.len() as u64);
        for id in forgotten {
            self.commands.verdict(id, network::Verdict::Ignore);
        }
    }

    fn submissions(&self, submitted: Vec<(ReplyTo, Instant)>, bodies: &[Vec<u8>]) {
        if submitted.is_empty() {
            return;
        }
        let mut right = Vec::with_capacity(submitted.len());
        let checked = check::check_all(&self.electorate.chain, bodies);
        for ((reply, at), result) in submitted.into_iter().zip(checked) {
            match result {
                Ok(transaction) => {
                    self.meters.checked.add(1);
                    right.push(Item::Submit { transaction, reply, at });
                }
                Err(error) => {
                    self.meters.check_refused.add(1);
                    tracing::debug!(%error, "a submission was refused");
                    // A client that does not listen any more has its own reasons.
                    let _ = reply.send(Err(SubmitError::Check(error)));
                }
            }
        }
        self.pass(Lane::Bulk, right);
    }

    /// Where a validator is. Not for the replica.
    fn announcement(&self, from: network::PeerId, id: network::GossipId, payload: &Bytes) {
        let taken = Announcement::from_gossip(payload).map_err(AnnouncementError::from);
        let verdict = match taken.and_then(|announcement| self.roster.take(announcement)) {
            Ok(true) => network::Verdict::Accept,
            Ok(false) => network::Verdict::Ignore,
            Err(error) => self.wrong_announcement(from, &error),
        };
        self.commands.verdict(id, verdict);
    }

    /// The answer to a question for them.
    fn announcements(&self, from: network::PeerId, payload: &Bytes) {
        let all = Announcement::from_answer(payload).unwrap_or_else(|error| {
            self.wrong_announcement(from, &error.into());
            Vec::new()
        });
        for announcement in all {
            if let Err(error) = self.roster.take(announcement) {
                self.wrong_announcement(from, &error);
                return;
            }
        }
    }

    fn wrong_announcement(&self, from: network::PeerId, error: &AnnouncementError) -> network::Verdict {
        self.meters.check_refused.add(1);
        self.fault(from, error.fault(), "announcement", &error.to_string());
        match error.fault() {
            Fault::None | Fault::Late => network::Verdict::Ignore,
            Fault::Careless | Fault::Hostile => network::Verdict::Reject,
        }
    }

    fn request(&self, from: network::PeerId, ticket: network::Ticket, payload: &Bytes, at: Instant) {
        if is(Kind::GET_ANNOUNCEMENTS, payload) {
            return self.commands.answer(ticket, self.roster.answer());
        }
        let request = match Request::decode(payload) {
            Ok(request) => request,
            Err(error) => {
                self.commands
                    .answer(ticket, bridge::refusal(&format!("not a request: {error}")));
                self.fault(from, error.fault(), "request", &error.to_string());
                return;
            }
        };
        self.meters.checked.add(1);
        if is_for_store(&request) {
            if !self.served.offer(ticket, request) {
                self.meters.request_overload.add(1);
                self.commands
                    .answer(ticket, bridge::refusal("busy: too many questions for the store wait"));
            }
            return;
        }
        let input = Input::Request {
            from: PeerId(from.0),
            ticket: AnswerTicket(ticket.0),
            request,
        };
        self.pass(Lane::Urgent, vec![Item::Input(input, at)]);
    }

    fn response(&self, from: network::PeerId, request: network::RequestId, payload: &Bytes) {
        if is(Kind::ANNOUNCEMENTS, payload) {
            return self.announcements(from, payload);
        }
        let answer = match input::check_response(&self.electorate, payload) {
            Ok(answer) => {
                self.meters.checked.add(1);
                Some(answer)
            }
            Err(error) => {
                self.punish(from, &error, ANSWER);
                None
            }
        };
        let from = PeerId(from.0);
        self.inbox.deliver(Item::Response { from, request, answer });
    }

    fn pass(&self, lane: Lane, items: Vec<Item>) {
        if !items.is_empty() {
            self.inbox.push(lane, items);
        }
    }

    fn punish(&self, from: network::PeerId, error: &InputError, what: &'static str) {
        self.meters.check_refused.add(1);
        self.fault(from, error.fault(), what, &error.to_string());
    }

    fn fault(&self, from: network::PeerId, fault: Fault, what: &'static str, reason: &str) {
        bridge::count_fault(&self.meters, fault);
        // Answers are as many as our questions; of anything else a flooder sends as much as it likes.
        if fault == Fault::Hostile && what == ANSWER {
            let who = bridge::name(&self.peers, from);
            tracing::warn!(peer = from.0, who, reason, "a peer lied");
        } else {
            tracing::debug!(peer = from.0, ?fault, what, reason, "a peer sent something wrong");
        }
        self.commands.punish(from, bridge::fault(fault));
    }
}

/// Whether a message is of this type, told by its first bytes.
fn is(kind: Kind, payload: &[u8]) -> bool {
    Kind::of(kind.channel(), payload, payload.len()) == Ok(kind)
}

/// What becomes of jobs that there is no room for.
pub fn turn_away(jobs: Vec<Job>, commands: &Commands, meters: &Meters) {
    for job in jobs {
        match job {
            Job::Gossip { id, .. } => {
                meters.gossip_overload.add(1);
                commands.verdict(id, network::Verdict::Ignore);
            }
            Job::Request { ticket, .. } => {
                meters.request_overload.add(1);
                commands.answer(ticket, bridge::refusal("busy: too much waits to be checked"));
            }
            Job::Submit { reply, .. } => {
                meters.submit_overload.add(1);
                let _ = reply.send(Err(SubmitError::Overloaded));
            }
            // Always has room.
            Job::Response { .. } => {}
        }
    }
}

#[cfg(test)]
mod tests;
