//! Reads of the store, away from the async threads, a bounded number at a time.

use super::Refusal;
use crate::ledger::{ViewError, view::Query};
use std::{sync::Arc, time::Duration};
use tokio::sync::Semaphore;

/// How long a request waits for its turn to read.
const PATIENCE: Duration = Duration::from_secs(5);

pub(super) struct Reads {
    chain: Arc<dyn Query>,
    turns: Arc<Semaphore>,
}

impl Reads {
    pub(super) fn new(chain: Arc<dyn Query>, at_a_time: usize) -> Self {
        Self {
            chain,
            turns: Arc::new(Semaphore::new(at_a_time.min(Semaphore::MAX_PERMITS))),
        }
    }

    /// Runs `read` on a blocking thread.
    pub(super) async fn run<T, F>(&self, read: F) -> Result<T, Refusal>
    where
        T: Send + 'static,
        F: FnOnce(&dyn Query) -> Result<T, ReadError> + Send + 'static,
    {
        let turn = tokio::time::timeout(PATIENCE, self.turns.clone().acquire_owned())
            .await
            .map_err(|_| Refusal::overloaded("too many reads are waiting: try again in a moment"))?
            .map_err(|_| Refusal::shutting_down())?;
        let chain = self.chain.clone();
        let task = tokio::task::spawn_blocking(move || {
            // Given back when the read has ended, even if the client has gone.
            let _turn = turn;
            read(&*chain)
        });
        match task.await {
            Ok(result) => result.map_err(ReadError::into_refusal),
            Err(error) => Err(Refusal::internal(format!("a read of the store failed: {error}"))),
        }
    }
}

/// What can go wrong in a read.
pub(super) enum ReadError {
    /// The store cannot be read.
    View(ViewError),
    /// The answer is no.
    Refused(Refusal),
}

impl From<ViewError> for ReadError {
    fn from(error: ViewError) -> Self {
        Self::View(error)
    }
}

impl From<Refusal> for ReadError {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(refusal)
    }
}

impl ReadError {
    fn into_refusal(self) -> Refusal {
        match self {
            Self::View(error) => {
                tracing::error!(%error, "a client's read failed");
                Refusal::internal(error.to_string())
            }
            Self::Refused(refusal) => refusal,
        }
    }
}
