//! Answers peers' questions for blocks from the store, on a thread of its own: reading a hundred blocks must not hold the
//! loop up.

use super::bridge;
use crate::{
    ledger::ViewError,
    network::{Commands, Ticket},
    primitives::{
        CommittedBlock, Height, Response,
        limits::{ANSWER_BYTES, MAX_BLOCKS_PER_REQUEST},
    },
    store::ledger_store::LedgerStore,
};
use crossbeam_channel::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

/// Questions that may wait.
const MAX_WAITING: usize = 64;

struct Question {
    ticket: Ticket,
    from: Height,
    max_count: u32,
}

/// The door to the thread.
pub struct BlockServer {
    sender: Mutex<Option<Sender<Question>>>,
}

/// The thread's part.
pub struct BlockWorker {
    receiver: Receiver<Question>,
    store: Arc<LedgerStore>,
    commands: Commands,
}

impl BlockServer {
    /// The door, and what the thread runs.
    pub fn new(store: Arc<LedgerStore>, commands: Commands) -> (Arc<Self>, BlockWorker) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITING);
        let worker = BlockWorker {
            receiver,
            store,
            commands,
        };
        let sender = Mutex::new(Some(sender));
        (Arc::new(Self { sender }), worker)
    }

    /// Brings a question; `false` when too many wait.
    pub fn offer(&self, ticket: Ticket, from: Height, max_count: u32) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let question = Question {
            ticket,
            from,
            max_count,
        };
        sender.as_ref().is_some_and(|sender| sender.try_send(question).is_ok())
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl BlockWorker {
    /// Runs until the door is closed.
    pub fn run(self) {
        for Question {
            ticket,
            from,
            max_count,
        } in self.receiver
        {
            let answer = blocks(&self.store, from, max_count).unwrap_or_else(|error| {
                tracing::error!(%error, height = from.0, "blocks cannot be read for a peer");
                bridge::refusal("the store cannot be read")
            });
            self.commands.answer(ticket, answer);
        }
    }
}

/// The answer's bytes: blocks from a height on, as many as were asked for, as there are, and as fit; at least one.
fn blocks(store: &LedgerStore, from: Height, max_count: u32) -> Result<Vec<u8>, ViewError> {
    let tip = store.height();
    let mut blocks = Vec::new();
    let (mut bytes, mut height) = (0, from.max(Height(1)));
    while blocks.len() < max_count.min(MAX_BLOCKS_PER_REQUEST) as usize && height <= tip {
        let Some(encoded) = store.block_bytes(height)? else {
            break;
        };
        bytes += encoded.len();
        if bytes > ANSWER_BYTES && !blocks.is_empty() {
            break;
        }
        let block = CommittedBlock::decode(&encoded)
            .map_err(|error| ViewError(format!("block {height} cannot be read: {error}")))?;
        blocks.push(block);
        height = height.next();
    }
    Ok(Response::Blocks { blocks, tip }.encode())
}
