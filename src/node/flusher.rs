//! Brings blocks to the disk, on a thread of its own: one flush for all blocks written since the last.

use super::{
    inbox::{Inbox, Item},
    metrics::{Meters, record},
};
use crate::{
    primitives::Height,
    replica::Input,
    store::{backend::StoreError, ledger_store::LedgerStore},
};
use std::{
    sync::{Condvar, Mutex, PoisonError},
    time::Instant,
};

#[derive(Default)]
struct State {
    written: Height,
    closed: bool,
}

/// What was written and is to be flushed.
#[derive(Default)]
pub struct Flushing {
    state: Mutex<State>,
    changed: Condvar,
}

impl Flushing {
    /// A block was written.
    pub fn wrote(&self, height: Height) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).written = height;
        self.changed.notify_one();
    }

    /// Ends the thread after a last flush.
    pub fn close(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).closed = true;
        self.changed.notify_one();
    }

    /// Waits for more than `flushed`; the height written, and whether this is the last time.
    fn wait(&self, flushed: Height) -> (Height, bool) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        while state.written <= flushed && !state.closed {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        (state.written, state.closed)
    }
}

/// Flushes until closed; tells the loop what is safe.
pub fn run(flushing: &Flushing, store: &LedgerStore, inbox: &Inbox, meters: &Meters) -> Result<(), StoreError> {
    let mut flushed = store.height();
    meters.flushed_height.set(flushed.0);
    loop {
        let (written, last) = flushing.wait(flushed);
        let start = Instant::now();
        store.flush()?;
        record(&meters.flush, start.elapsed());
        if last {
            return Ok(());
        }
        flushed = written;
        meters.flushed_height.set(flushed.0);
        inbox.deliver(Item::Input(Input::Flushed(flushed), Instant::now()));
    }
}
