//! A file whose lock says that one process, and only one, is at work beside it.

use std::fs::{File, TryLockError};
use std::io;
use std::path::Path;

/// A lock that is held. The operating system lets it go when the process ends, however it ends; the file stays.
pub(super) struct LockFile(File);

impl LockFile {
    /// Takes the lock, or says `None` when somebody else has it.
    pub fn take(path: &Path) -> io::Result<Option<LockFile>> {
        let file = File::options().create(true).truncate(false).write(true).open(path)?;
        match file.try_lock() {
            Ok(()) => Ok(Some(LockFile(file))),
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

impl Drop for LockFile {
    /// Closing the file is not enough: a process that is just being spawned holds a copy of it for a moment.
    fn drop(&mut self) {
        let _ = self.0.unlock();
    }
}
