//! The store in memory, for the simulator and for tests; it can lose what was not flushed, as a machine does.

use std::collections::BTreeMap;
use std::sync::{PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use super::backend::{Backend, Entry, Op, StoreError, StoreSize, Table, check_batch};

type Map = BTreeMap<Vec<u8>, Vec<u8>>;

/// What a key held before a batch touched it.
struct Undo {
    table: Table,
    key: Vec<u8>,
    before: Option<Vec<u8>>,
}

#[derive(Default)]
struct State {
    tables: [Map; Table::ALL.len()],
    /// One entry for each batch since the last flush, oldest first: how to take it back.
    unflushed: Vec<Vec<Undo>>,
}

/// A [`Backend`] in memory. Batches applied since the last flush can be lost by [`MemoryBackend::crash`].
#[derive(Default)]
pub struct MemoryBackend {
    state: RwLock<State>,
}

impl MemoryBackend {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// What a machine that goes down now finds on its disk: all that was flushed, and of the batches since the first
    /// `keep`. Batches are lost whole and from the end. What was kept counts as flushed in the store returned.
    pub fn crash(&self, keep: usize) -> MemoryBackend {
        let state = self.read();
        let mut tables = state.tables.clone();
        for batch in state.unflushed.iter().skip(keep).rev() {
            for undo in batch.iter().rev() {
                let table = &mut tables[undo.table.index()];
                match &undo.before {
                    Some(value) => table.insert(undo.key.clone(), value.clone()),
                    None => table.remove(&undo.key),
                };
            }
        }
        MemoryBackend {
            state: RwLock::new(State {
                tables,
                unflushed: Vec::new(),
            }),
        }
    }

    /// How many batches a crash could lose.
    pub fn unflushed_batches(&self) -> usize {
        self.read().unflushed.len()
    }

    // A panic while the lock is held cannot leave a half-applied batch behind that matters: the only panics under it
    // are failed allocations, which end the process.
    fn read(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, State> {
        self.state.write().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Backend for MemoryBackend {
    fn get(&self, table: Table, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.read().tables[table.index()].get(key).cloned())
    }

    fn scan(&self, table: Table, from: &[u8], limit: usize) -> Result<Vec<Entry>, StoreError> {
        let state = self.read();
        let entries =
            state.tables[table.index()].range::<[u8], _>((std::ops::Bound::Included(from), std::ops::Bound::Unbounded));
        Ok(entries
            .take(limit)
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect())
    }

    fn apply(&self, batch: Vec<Op>) -> Result<(), StoreError> {
        check_batch(&batch)?;
        let mut state = self.write();
        let mut undo = Vec::with_capacity(batch.len());
        for op in batch {
            let (table, key, value) = op.into_parts();
            let map = &mut state.tables[table.index()];
            let before = match value {
                Some(value) => map.insert(key.clone(), value),
                None => map.remove(&key),
            };
            undo.push(Undo { table, key, before });
        }
        state.unflushed.push(undo);
        Ok(())
    }

    fn flush(&self) -> Result<(), StoreError> {
        self.write().unflushed.clear();
        Ok(())
    }

    fn size(&self) -> Result<StoreSize, StoreError> {
        let keys = self.read().tables.iter().map(BTreeMap::len).sum::<usize>();
        Ok(StoreSize {
            disk_bytes: 0,
            keys: keys as u64,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put(key: u8, value: u8) -> Op {
        Op::Put {
            table: Table::Coins,
            key: vec![key],
            value: vec![value],
        }
    }

    fn delete(key: u8) -> Op {
        Op::Delete {
            table: Table::Coins,
            key: vec![key],
        }
    }

    fn coins(store: &MemoryBackend) -> Vec<(u8, u8)> {
        let entries = store.scan(Table::Coins, &[], 100).unwrap();
        entries.into_iter().map(|(key, value)| (key[0], value[0])).collect()
    }

    #[test]
    fn a_crash_loses_whole_batches_from_the_end() {
        let store = MemoryBackend::new();
        store.apply(vec![put(1, 1), put(2, 1)]).unwrap();
        store.flush().unwrap();
        store.apply(vec![put(1, 2), put(3, 2), delete(2)]).unwrap();
        store
            .apply(vec![put(1, 3), put(1, 4), delete(3), put(2, 3), delete(9)])
            .unwrap();
        assert_eq!(store.unflushed_batches(), 2);
        assert_eq!(coins(&store), [(1, 4), (2, 3)]);
        assert_eq!(coins(&store.crash(0)), [(1, 1), (2, 1)]);
        assert_eq!(coins(&store.crash(1)), [(1, 2), (3, 2)]);
        assert_eq!(coins(&store.crash(2)), [(1, 4), (2, 3)]);
        assert_eq!(coins(&store.crash(usize::MAX)), [(1, 4), (2, 3)]);
        assert_eq!(coins(&store), [(1, 4), (2, 3)], "the store itself goes on as it was");
        assert_eq!(
            store.crash(1).unflushed_batches(),
            0,
            "what survived a crash is on disk"
        );
    }
}
