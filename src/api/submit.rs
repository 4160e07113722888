//! Submissions: one at a time, or a stream of many.

use super::{
    Api, Refusal, Submission, SubmitError,
    waiters::{Goal, Outcome, Sink, Ticket},
};
use crate::{
    ledger::{Location, view::Query},
    pool::PoolError,
    primitives::{Certificate, Height, TxId, limits::MAX_TRANSACTION_SIZE, transaction},
    proto::{self, PaymentState, Wait, submit_reply},
    replica::{Dropped, State},
};
use futures::{Stream, StreamExt};
use prost::Message as _;
use std::{
    sync::Arc,
    time::{Duration, Instant},
};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tonic::Status;

const DEFAULT_TIMEOUT: Duration = Duration::from_secs(10);
const MAX_TIMEOUT: Duration = Duration::from_secs(60);
/// Submissions in one message of a stream.
const MAX_ITEMS: usize = 1_000;
/// Replies put into one message of a stream.
const REPLIES_PER_MESSAGE: usize = 1_000;
/// Messages of replies that wait for a slow reader.
const REPLY_MESSAGES: usize = 16;

/// Where a payment is, as a client is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Standing {
    pub(super) state: State,
    pub(super) index: Option<u32>,
}

impl Standing {
    pub(super) fn state(&self) -> PaymentState {
        match self.state {
            State::Pending => PaymentState::Pending,
            State::Contested => PaymentState::Contested,
            State::Certified => PaymentState::Certified,
            State::Final => PaymentState::Final,
            State::Committed(_) => PaymentState::Committed,
            State::Rejected(_) => PaymentState::Rejected,
            State::Conflict => PaymentState::Conflict,
        }
    }

    pub(super) fn height(&self) -> u64 {
        match self.state {
            State::Committed(height) | State::Rejected(height) => height.0,
            _ => 0,
        }
    }
}

/// How far a state is from what is wanted.
#[derive(Debug, PartialEq, Eq)]
enum Progress {
    Reached,
    OnTheWay,
    Never(Dropped, Option<Height>),
}

fn progress(goal: Option<Goal>, state: State) -> Progress {
    match (state, goal) {
        (State::Rejected(height), _) => Progress::Never(Dropped::Rejected, Some(height)),
        (State::Conflict, _) => Progress::Never(Dropped::Conflict, None),
        (State::Committed(_), _) | (_, None) | (State::Final, Some(Goal::Final)) => Progress::Reached,
        _ => Progress::OnTheWay,
    }
}

fn goal_of(wait: i32) -> Result<Option<Goal>, Refusal> {
    match Wait::try_from(wait) {
        Ok(Wait::Unspecified | Wait::Accepted) => Ok(None),
        Ok(Wait::Final) => Ok(Some(Goal::Final)),
        Ok(Wait::Committed) => Ok(Some(Goal::Committed)),
        Err(_) => Err(Refusal::invalid(
            "UNKNOWN_VALUE",
            format!("wait: unknown value {wait}"),
            vec![("what", "wait".into()), ("value", wait.to_string())],
        )),
    }
}

fn timeout_of(timeout_ms: u32) -> Duration {
    match timeout_ms {
        0 => DEFAULT_TIMEOUT,
        ms => Duration::from_millis(ms.into()).min(MAX_TIMEOUT),
    }
}

fn check_size(bytes: &[u8]) -> Result<(), Refusal> {
    if bytes.is_empty() || bytes.len() > MAX_TRANSACTION_SIZE {
        return Err(Refusal::invalid(
            "OUT_OF_LIMITS",
            format!(
                "transaction bytes: {}, allowed are 1 to {MAX_TRANSACTION_SIZE}",
                bytes.len()
            ),
            vec![
                ("what", "transaction bytes".into()),
                ("count", bytes.len().to_string()),
                ("min", "1".into()),
                ("max", MAX_TRANSACTION_SIZE.to_string()),
            ],
        ));
    }
    Ok(())
}

/// Stops waiting when the call ends in whatever way.
struct Registration<'a> {
    api: &'a Api,
    txid: TxId,
    number: u64,
}

impl Drop for Registration<'_> {
    fn drop(&mut self) {
        self.api.waiters.cancel(&self.txid, self.number);
    }
}

impl Api {
    /// Where a payment is: from memory, else from the store. `None`: not known here.
    pub(super) async fn standing(&self, txid: TxId) -> Result<Option<Standing>, Refusal> {
        if let Some(state) = self.state_in_memory(&txid) {
            return Ok(Some(Standing { state, index: None }));
        }
        self.reads.run(move |chain| Ok(stored(chain, &txid)?)).await
    }

    fn state_in_memory(&self, txid: &TxId) -> Option<State> {
        self.context.payments.get(txid).map(|known| known.state)
    }

    pub(super) fn receipt(&self, txid: &TxId) -> Option<Certificate> {
        self.context.payments.get(txid).and_then(|known| known.receipt())
    }

    fn response(&self, txid: TxId, state: Standing, reached: bool, want_receipt: bool) -> proto::SubmitResponse {
        let receipt = if want_receipt { self.receipt(&txid) } else { None };
        proto::SubmitResponse {
            txid: txid.0.to_vec(),
            state: state.state().into(),
            reached,
            height: state.height(),
            receipt: receipt.as_ref().map(Certificate::to_proto),
        }
    }

    /// What a refused transaction turns out to be when it is known: submitting again is no error.
    async fn known_after_all(&self, bytes: &[u8], error: SubmitError) -> Result<TxId, Refusal> {
        if !matches!(
            error,
            SubmitError::Pool(PoolError::Invalid(_) | PoolError::Conflict { .. })
        ) {
            return Err(error.into());
        }
        let Ok(message) = proto::SignedTransaction::decode(bytes) else {
            return Err(error.into());
        };
        let txid = transaction::txid(&self.context.electorate.chain, &message.body);
        match self.standing(txid).await? {
            Some(_) => Ok(txid),
            None => Err(error.into()),
        }
    }

    /// One submission, answered when it is where it was wanted, or when time is up.
    pub(super) async fn submit(&self, request: proto::SubmitRequest) -> Result<proto::SubmitResponse, Refusal> {
        let deadline = Instant::now() + timeout_of(request.timeout_ms);
        let goal = goal_of(request.wait)?;
        check_size(&request.transaction)?;
        let (reply, verdict) = oneshot::channel();
        let submission = Submission {
            bytes: request.transaction.clone(),
            reply,
        };
        self.context.submit.try_send(submission).map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => SubmitError::Overloaded,
            mpsc::error::TrySendError::Closed(_) => SubmitError::ShuttingDown,
        })?;
        let verdict = tokio::select! {
            verdict = verdict => verdict.unwrap_or(Err(SubmitError::ShuttingDown)),
            () = tokio::time::sleep_until(deadline.into()) => return Err(Refusal::no_verdict()),
            () = self.cancel.cancelled() => Err(SubmitError::ShuttingDown),
        };
        let txid = match verdict {
            Ok(txid) => txid,
            Err(error) => self.known_after_all(&request.transaction, error).await?,
        };
        let reached = self.wait(txid, goal, deadline).await?;
        let state = self.standing(txid).await?.unwrap_or(Standing {
            state: State::Pending,
            index: None,
        });
        Ok(self.response(txid, state, reached, request.want_receipt))
    }

    /// Waits until a payment is where it was wanted; answers whether it came there in time.
    async fn wait(&self, txid: TxId, goal: Option<Goal>, deadline: Instant) -> Result<bool, Refusal> {
        let Some(wanted) = goal else {
            return match self
                .standing(txid)
                .await?
                .map(|standing| progress(None, standing.state))
            {
                Some(Progress::Never(reason, height)) => Err(Refusal::dropped(&txid, reason, height)),
                _ => Ok(true),
            };
        };
        let (sink, outcome) = oneshot::channel();
        let number = self.waiters.register(txid, wanted, deadline, Sink::Call(sink))?;
        let _registration = Registration {
            api: self,
            txid,
            number,
        };
        // Registered first, looked second: an event between the two is not missed.
        match self
            .standing(txid)
            .await?
            .map(|standing| progress(goal, standing.state))
        {
            Some(Progress::Reached) => return Ok(true),
            Some(Progress::Never(reason, height)) => return Err(Refusal::dropped(&txid, reason, height)),
            Some(Progress::OnTheWay) | None => {}
        }
        tokio::select! {
            outcome = outcome => match outcome {
                Ok(Outcome::Final | Outcome::Committed(_)) => Ok(true),
                Ok(Outcome::Dropped(reason)) => Err(Refusal::dropped(&txid, reason, None)),
                Ok(Outcome::Expired) | Err(_) => Ok(false),
            },
            () = tokio::time::sleep_until(deadline.into()) => Ok(false),
            () = self.cancel.cancelled() => Err(Refusal::shutting_down()),
        }
    }

    /// A stream of submissions; the answer is the stream of replies.
    pub(super) fn submit_stream<S>(
        self: Arc<Self>,
        incoming: S,
    ) -> impl Stream<Item = Result<proto::SubmitReplies, Status>> + Send + 'static
    where
        S: Stream<Item = Result<proto::SubmitBatch, Status>> + Send + Unpin + 'static,
    {
        let (to_client, replies) = mpsc::channel(REPLY_MESSAGES);
        let in_flight = Arc::new(Semaphore::new(
            self.config
                .max_in_flight_per_stream
                .clamp(MAX_ITEMS, Semaphore::MAX_PERMITS),
        ));
        let (done, finished) = mpsc::unbounded_channel();
        let (waited, outcomes) = mpsc::unbounded_channel();
        let lane = Lane {
            api: self.clone(),
            done,
            waited,
            in_flight: in_flight.clone(),
        };
        self.tasks.spawn(lane.read(incoming, to_client.clone()));
        self.tasks
            .spawn(write_replies(self.clone(), finished, outcomes, to_client, in_flight));
        tokio_stream::wrappers::ReceiverStream::new(replies)
    }
}

/// What the store knows of a payment.
pub(super) fn stored(chain: &dyn Query, txid: &TxId) -> Result<Option<Standing>, crate::ledger::ViewError> {
    if let Some(Location { height, index }) = chain.location(txid)? {
        return Ok(Some(Standing {
            state: State::Committed(height),
            index: Some(index),
        }));
    }
    Ok(chain.rejected(txid)?.map(|height| Standing {
        state: State::Rejected(height),
        index: None,
    }))
}

/// The reading half of a stream of submissions.
struct Lane {
    api: Arc<Api>,
    done: mpsc::UnboundedSender<proto::SubmitReply>,
    waited: mpsc::UnboundedSender<(Ticket, Outcome)>,
    in_flight: Arc<Semaphore>,
}

/// An item that has been handed to the check pool.
struct Waiting {
    item: proto::SubmitItem,
    goal: Option<Goal>,
    deadline: Instant,
    verdict: oneshot::Receiver<Result<TxId, SubmitError>>,
}

impl Lane {
    async fn read<S>(self, mut incoming: S, to_client: mpsc::Sender<Result<proto::SubmitReplies, Status>>)
    where
        S: Stream<Item = Result<proto::SubmitBatch, Status>> + Send + Unpin,
    {
        let lane = Arc::new(self);
        loop {
            let batch = tokio::select! {
                batch = incoming.next() => batch,
                () = to_client.closed() => return,
                () = lane.api.cancel.cancelled() => {
                    // Nobody is told twice: the client may have gone already.
                    drop(to_client.try_send(Err(Refusal::shutting_down().into_status())));
                    return;
                }
            };
            let Some(Ok(batch)) = batch else { return };
            if batch.items.len() > MAX_ITEMS {
                let refusal = Refusal::too_many("TOO_MANY_ITEMS", "submissions in one message", MAX_ITEMS);
                drop(to_client.send(Err(refusal.into_status())).await);
                return;
            }
            let Ok(places) = take_places(&lane.in_flight, batch.items.len(), &to_client).await else {
                return;
            };
            // Each place is given back by the writer when the reply has been written.
            places.forget();
            let mut waiting = Vec::with_capacity(batch.items.len());
            for item in batch.items {
                match lane.hand_over(item).await {
                    Ok(item) => waiting.push(item),
                    Err((id, refusal)) => lane.reply(id, submit_reply::Outcome::Refused(refusal.into_proto())),
                }
            }
            lane.api.tasks.spawn(lane.clone().follow(waiting));
        }
    }

    async fn hand_over(&self, item: proto::SubmitItem) -> Result<Waiting, (u64, Refusal)> {
        let refuse = |refusal| (item.id, refusal);
        let goal = goal_of(item.wait).map_err(refuse)?;
        check_size(&item.transaction).map_err(refuse)?;
        let deadline = Instant::now() + timeout_of(item.timeout_ms);
        let (reply, verdict) = oneshot::channel();
        let submission = Submission {
            bytes: item.transaction.clone(),
            reply,
        };
        // A full queue holds the stream back, and by flow control the client.
        let sent = tokio::select! {
            sent = self.api.context.submit.send(submission) => sent.is_ok(),
            () = self.api.cancel.cancelled() => false,
        };
        if !sent {
            return Err((item.id, Refusal::shutting_down()));
        }
        Ok(Waiting {
            item,
            goal,
            deadline,
            verdict,
        })
    }

    /// Takes the verdicts on one message's items, in order: the check pool works in order too.
    async fn follow(self: Arc<Self>, waiting: Vec<Waiting>) {
        for item in waiting {
            let verdict = tokio::select! {
                biased;
                verdict = item.verdict => verdict.unwrap_or(Err(SubmitError::ShuttingDown)),
                () = tokio::time::sleep_until(item.deadline.into()) => {
                    let refused = submit_reply::Outcome::Refused(Refusal::no_verdict().into_proto());
                    self.reply(item.item.id, refused);
                    continue;
                }
                () = self.done.closed() => return,
                () = self.api.cancel.cancelled() => return,
            };
            match verdict {
                Ok(txid) => self.admitted(txid, &item.item, item.goal, item.deadline),
                Err(error) => match self.api.known_after_all(&item.item.transaction, error).await {
                    Ok(txid) => self.admitted(txid, &item.item, item.goal, item.deadline),
                    Err(refusal) => self.reply(item.item.id, submit_reply::Outcome::Refused(refusal.into_proto())),
                },
            }
        }
    }

    fn admitted(&self, txid: TxId, item: &proto::SubmitItem, goal: Option<Goal>, deadline: Instant) {
        let ticket = Ticket {
            id: item.id,
            txid,
            want_receipt: item.want_receipt,
        };
        let registered = match goal {
            Some(goal) => {
                let sink = Sink::Stream(ticket, self.waited.clone());
                match self.api.waiters.register(txid, goal, deadline, sink) {
                    Ok(number) => Some(number),
                    Err(refusal) => {
                        return self.reply(item.id, submit_reply::Outcome::Refused(refusal.into_proto()));
                    }
                }
            }
            None => None,
        };
        // Registered first, looked second. What is not in memory has ended long ago and is looked up by the writer.
        let ended = match self.api.state_in_memory(&txid).map(|state| progress(goal, state)) {
            Some(Progress::OnTheWay) => return,
            Some(Progress::Reached) | None => None,
            Some(Progress::Never(reason, _)) => Some(Outcome::Dropped(reason)),
        };
        if registered.is_none_or(|number| self.api.waiters.cancel(&txid, number)) {
            let outcome = ended.unwrap_or(Outcome::Final);
            // When the writer has gone, so has the client.
            let _ = self.waited.send((ticket, outcome));
        }
    }

    fn reply(&self, id: u64, outcome: submit_reply::Outcome) {
        let reply = proto::SubmitReply {
            id,
            outcome: Some(outcome),
        };
        // When the writer has gone, so has the client.
        drop(self.done.send(reply));
    }
}

async fn take_places<T>(
    in_flight: &Arc<Semaphore>,
    count: usize,
    client: &mpsc::Sender<T>,
) -> Result<OwnedSemaphorePermit, ()> {
    let count = u32::try_from(count).map_err(|_| ())?;
    tokio::select! {
        permit = in_flight.clone().acquire_many_owned(count) => permit.map_err(|_| ()),
        () = client.closed() => Err(()),
    }
}

/// The writing half: gathers what is ready into as few messages as possible.
async fn write_replies(
    api: Arc<Api>,
    mut finished: mpsc::UnboundedReceiver<proto::SubmitReply>,
    mut outcomes: mpsc::UnboundedReceiver<(Ticket, Outcome)>,
    to_client: mpsc::Sender<Result<proto::SubmitReplies, Status>>,
    in_flight: Arc<Semaphore>,
) {
    let mut refused = Vec::new();
    let mut ended = Vec::new();
    loop {
        tokio::select! {
            count = finished.recv_many(&mut refused, REPLIES_PER_MESSAGE), if !finished.is_closed() || !finished.is_empty() => {
                if count == 0 { continue }
            }
            count = outcomes.recv_many(&mut ended, REPLIES_PER_MESSAGE) => {
                // The reader and every waiter of this stream are gone: all has been answered.
                if count == 0 { break }
            }
            () = to_client.closed() => return,
            () = api.cancel.cancelled() => return,
        }
        let mut replies = std::mem::take(&mut refused);
        for (ticket, outcome) in ended.drain(..) {
            replies.push(api.reply_to(ticket, outcome).await);
        }
        in_flight.add_permits(replies.len());
        if to_client.send(Ok(proto::SubmitReplies { replies })).await.is_err() {
            return;
        }
    }
    while let Ok(reply) = finished.try_recv() {
        refused.push(reply);
    }
    if !refused.is_empty() {
        drop(to_client.send(Ok(proto::SubmitReplies { replies: refused })).await);
    }
}

impl Api {
    async fn reply_to(&self, ticket: Ticket, outcome: Outcome) -> proto::SubmitReply {
        let txid = ticket.txid;
        let result = match outcome {
            Outcome::Dropped(reason) => Err(Refusal::dropped(&txid, reason, None)),
            Outcome::Final | Outcome::Committed(_) | Outcome::Expired => match self.state_in_memory(&txid) {
                Some(state) => Ok(Standing { state, index: None }),
                None => self.standing(txid).await.map(|standing| {
                    standing.unwrap_or(Standing {
                        state: State::Pending,
                        index: None,
                    })
                }),
            },
        };
        let outcome = match result {
            Ok(standing) => submit_reply::Outcome::Done(self.response(
                txid,
                standing,
                outcome != Outcome::Expired,
                ticket.want_receipt,
            )),
            Err(refusal) => submit_reply::Outcome::Refused(refusal.into_proto()),
        };
        proto::SubmitReply {
            id: ticket.id,
            outcome: Some(outcome),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_reached_and_what_never_will_be() {
        use Goal::{Committed, Final};
        let never = |reason, height: Option<u64>| Progress::Never(reason, height.map(Height));
        let rows = [
            (None, State::Pending, Progress::Reached),
            (None, State::Contested, Progress::Reached),
            (Some(Final), State::Pending, Progress::OnTheWay),
            (Some(Final), State::Contested, Progress::OnTheWay),
            (Some(Final), State::Certified, Progress::OnTheWay),
            (Some(Final), State::Final, Progress::Reached),
            (Some(Final), State::Committed(Height(3)), Progress::Reached),
            (Some(Committed), State::Final, Progress::OnTheWay),
            (Some(Committed), State::Committed(Height(3)), Progress::Reached),
            (None, State::Rejected(Height(3)), never(Dropped::Rejected, Some(3))),
            (
                Some(Final),
                State::Rejected(Height(3)),
                never(Dropped::Rejected, Some(3)),
            ),
            (Some(Committed), State::Conflict, never(Dropped::Conflict, None)),
        ];
        for (goal, state, expected) in rows {
            assert_eq!(progress(goal, state), expected, "{goal:?} {state:?}");
        }
    }

    #[test]
    fn timeouts_and_sizes_have_limits() {
        assert_eq!(timeout_of(0), DEFAULT_TIMEOUT);
        assert_eq!(timeout_of(u32::MAX), MAX_TIMEOUT);
        assert_eq!(timeout_of(5), Duration::from_millis(5));
        assert!(check_size(&[]).is_err() && check_size(&vec![0; MAX_TRANSACTION_SIZE + 1]).is_err());
        assert!(check_size(&vec![0; MAX_TRANSACTION_SIZE]).is_ok());
        assert_eq!(goal_of(99).expect_err("unknown").reason, "UNKNOWN_VALUE");
    }
}
