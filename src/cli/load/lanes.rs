//! One stream of submissions to each node, and one of commits from some node; opened again when they break.

use crate::{
    api::client::Client,
    primitives::TxId,
    proto::{self, PaymentEventKind, node_event},
};
use std::time::Duration;
use tokio::{sync::mpsc, task::JoinSet};
use tokio_stream::wrappers::UnboundedReceiverStream;

/// How long to wait before a broken stream is opened again.
const PAUSE: Duration = Duration::from_millis(300);

/// What a lane has to say.
#[derive(Debug)]
pub(super) enum LaneEvent {
    /// It takes submissions.
    Up,
    /// Answers.
    Replies(Vec<proto::SubmitReply>),
    /// It is broken: nothing that it was given and has not answered will be answered.
    Down(String),
}

/// Follows a node's stream of submissions for as long as somebody listens.
pub(super) async fn run_lane(
    number: usize,
    client: Client,
    mut batches: mpsc::UnboundedReceiver<proto::SubmitBatch>,
    events: mpsc::UnboundedSender<(usize, LaneEvent)>,
) {
    loop {
        // What was meant for the broken stream has been given to another lane.
        while batches.try_recv().is_ok() {}
        let reason = match follow(number, &client, &mut batches, &events).await {
            Some(reason) => reason,
            None => return,
        };
        if events.send((number, LaneEvent::Down(reason))).is_err() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

/// `None`: nobody listens any more.
async fn follow(
    number: usize,
    client: &Client,
    batches: &mut mpsc::UnboundedReceiver<proto::SubmitBatch>,
    events: &mpsc::UnboundedSender<(usize, LaneEvent)>,
) -> Option<String> {
    let (to_node, outgoing) = mpsc::unbounded_channel();
    let mut replies = match client.submit_stream(UnboundedReceiverStream::new(outgoing)).await {
        Ok(replies) => replies,
        Err(error) => return Some(error.to_string()),
    };
    events.send((number, LaneEvent::Up)).ok()?;
    loop {
        tokio::select! {
            batch = batches.recv() => {
                if to_node.send(batch?).is_err() {
                    return Some("the stream was closed".to_owned());
                }
            }
            message = replies.message() => match message {
                Ok(Some(message)) => events.send((number, LaneEvent::Replies(message.replies))).ok()?,
                Ok(None) => return Some("the node ended the stream".to_owned()),
                Err(status) => return Some(status.message().to_owned()),
            },
        }
    }
}

/// Committed payments as nodes report them. When one breaks off, the next is asked.
pub(super) async fn run_commits(clients: Vec<Client>, commits: mpsc::UnboundedSender<Vec<TxId>>) {
    let request = proto::SubscribeRequest {
        kinds: vec![PaymentEventKind::Committed.into()],
        ..Default::default()
    };
    for client in clients.iter().cycle() {
        if let Ok(mut events) = client.subscribe(request.clone()).await {
            while let Ok(Some(message)) = events.message().await {
                let txids = message.events.into_iter().filter_map(committed).collect();
                if commits.send(txids).is_err() {
                    return;
                }
            }
        }
        if commits.is_closed() {
            return;
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn committed(event: proto::NodeEvent) -> Option<TxId> {
    match event.event? {
        node_event::Event::Payment(event) => TxId::try_from(event.txid.as_slice()).ok(),
        _ => None,
    }
}

/// All lanes, and the tasks behind them.
pub(super) struct Lanes {
    pub(super) batches: Vec<mpsc::UnboundedSender<proto::SubmitBatch>>,
    pub(super) events: mpsc::UnboundedReceiver<(usize, LaneEvent)>,
    pub(super) commits: mpsc::UnboundedReceiver<Vec<TxId>>,
    _tasks: JoinSet<()>,
}

impl Lanes {
    pub(super) fn open(clients: &[Client]) -> Self {
        let mut tasks = JoinSet::new();
        let (to_engine, events) = mpsc::unbounded_channel();
        let mut batches = Vec::new();
        for (number, client) in clients.iter().enumerate() {
            let (sender, receiver) = mpsc::unbounded_channel();
            tasks.spawn(run_lane(number, client.clone(), receiver, to_engine.clone()));
            batches.push(sender);
        }
        let (to_engine, commits) = mpsc::unbounded_channel();
        tasks.spawn(run_commits(clients.to_vec(), to_engine));
        Self {
            batches,
            events,
            commits,
            _tasks: tasks,
        }
    }
}
