//! The node's threads: named, joined, and if one of them fails or panics, the node stops and says so.

use super::{NodeError, StartError};
use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    thread::JoinHandle,
};
use tokio_util::sync::CancellationToken;

/// All threads of a node. Cheap to clone.
#[derive(Clone)]
pub struct Threads {
    shared: Arc<Shared>,
}

struct Shared {
    cancel: CancellationToken,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    running: Vec<(String, JoinHandle<()>)>,
    /// The first failure: the others are its consequences.
    failure: Option<NodeError>,
}

impl Threads {
    /// None yet. A failure cancels the token.
    pub fn new(cancel: CancellationToken) -> Self {
        let state = Mutex::default();
        Self {
            shared: Arc::new(Shared { cancel, state }),
        }
    }

    /// Starts one.
    pub fn spawn(
        &self,
        name: &str,
        work: impl FnOnce() -> Result<(), NodeError> + Send + 'static,
    ) -> Result<(), StartError> {
        let (all, own) = (self.clone(), name.to_owned());
        let guarded = move || {
            // What the thread shared with others is not used after a panic: the whole node stops.
            let result = std::panic::catch_unwind(AssertUnwindSafe(work));
            if let Err(error) = result.unwrap_or(Err(NodeError::Panic(own))) {
                all.fail(error);
            }
        };
        let handle = std::thread::Builder::new().name(name.to_owned()).spawn(guarded);
        let handle = handle.map_err(|source| StartError::Thread {
            name: name.to_owned(),
            source,
        })?;
        self.lock().running.push((name.to_owned(), handle));
        Ok(())
    }

    /// Notes a failure and stops the node.
    pub fn fail(&self, error: NodeError) {
        tracing::error!(%error, "stopping");
        self.lock().failure.get_or_insert(error);
        self.shared.cancel.cancel();
    }

    /// Waits for the threads whose names are picked.
    pub fn join(&self, pick: impl Fn(&str) -> bool) {
        loop {
            let handle = {
                let mut state = self.lock();
                let found = state.running.iter().position(|(name, _)| pick(name));
                found.map(|index| state.running.swap_remove(index))
            };
            let Some((name, handle)) = handle else { return };
            if handle.join().is_err() {
                self.fail(NodeError::Panic(name));
            }
        }
    }

    /// Those that were not joined and still run.
    pub fn names(&self) -> Vec<String> {
        let state = self.lock();
        state
            .running
            .iter()
            .filter(|(_, handle)| !handle.is_finished())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// The first failure, if any; once.
    pub fn failure(&self) -> Option<NodeError> {
        self.lock().failure.take()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.shared.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_panic_stops_the_node_and_is_named() {
        let cancel = CancellationToken::new();
        let threads = Threads::new(cancel.clone());
        threads.spawn("good", || Ok(())).expect("starts");
        threads.spawn("bad", || panic!("on purpose")).expect("starts");
        threads.join(|_| true);
        assert!(cancel.is_cancelled());
        assert!(matches!(threads.failure(), Some(NodeError::Panic(name)) if name == "bad"));
        assert!(threads.names().is_empty());
    }
}
