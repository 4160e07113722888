//! Answers peers' questions for blocks and coins from the store, on a thread of its own: reading a hundred blocks must
//! not hold the loop up.

use super::bridge;
use crate::{
    network::{Commands, Ticket},
    primitives::Request,
    store::ledger_store::LedgerStore,
    sync::serve,
};
use crossbeam_channel::{Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};

/// Questions that may wait.
const MAX_WAITING: usize = 64;

struct Question {
    ticket: Ticket,
    request: Request,
}

/// The door to the thread.
pub struct StoreServer {
    sender: Mutex<Option<Sender<Question>>>,
}

/// The thread's part.
pub struct StoreWorker {
    receiver: Receiver<Question>,
    store: Arc<LedgerStore>,
    commands: Commands,
}

impl StoreServer {
    /// The door, and what the thread runs.
    pub fn new(store: Arc<LedgerStore>, commands: Commands) -> (Arc<Self>, StoreWorker) {
        let (sender, receiver) = crossbeam_channel::bounded(MAX_WAITING);
        let worker = StoreWorker {
            receiver,
            store,
            commands,
        };
        let sender = Mutex::new(Some(sender));
        (Arc::new(Self { sender }), worker)
    }

    /// Brings a question; `false` when too many wait.
    pub fn offer(&self, ticket: Ticket, request: Request) -> bool {
        let sender = self.sender.lock().unwrap_or_else(PoisonError::into_inner);
        let question = Question { ticket, request };
        sender.as_ref().is_some_and(|sender| sender.try_send(question).is_ok())
    }

    /// Ends the thread.
    pub fn close(&self) {
        self.sender.lock().unwrap_or_else(PoisonError::into_inner).take();
    }
}

impl StoreWorker {
    /// Runs until the door is closed.
    pub fn run(self) {
        for Question { ticket, request } in self.receiver {
            let answer = serve::answer(self.store.as_ref(), &request);
            let answer = answer.map(|answer| answer.encode()).unwrap_or_else(|error| {
                tracing::error!(%error, what = request.name(), "the store cannot be read for a peer");
                bridge::refusal("the store cannot be read")
            });
            self.commands.answer(ticket, answer);
        }
    }
}
