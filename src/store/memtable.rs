//! Changes that are in the journal and not yet in the tree: the newest state of each key that recent batches touched.

use std::collections::BTreeMap;
use std::ops::Bound;

use super::backend::{Op, Table};

/// What an entry takes in memory beside its bytes: two vectors' heads, their allocations' slack, its share of a node.
const ENTRY_OVERHEAD_BYTES: usize = 96;

/// By table and key: the value, or `None` where the key was deleted.
#[derive(Default)]
pub(super) struct Memtable {
    tables: [BTreeMap<Vec<u8>, Option<Vec<u8>>>; Table::ALL.len()],
    bytes: usize,
}

impl Memtable {
    pub fn apply(&mut self, batch: Vec<Op>) {
        for op in batch {
            let (table, key, value) = op.into_parts();
            let (key_bytes, value_bytes) = (key.len(), value.as_ref().map_or(0, Vec::len));
            match self.tables[table.index()].insert(key, value) {
                Some(old) => self.bytes -= old.map_or(0, |old| old.len()),
                None => self.bytes += key_bytes + ENTRY_OVERHEAD_BYTES,
            }
            self.bytes += value_bytes;
        }
    }

    /// `Some(None)`: deleted here. `None`: nothing is known here.
    pub fn get(&self, table: Table, key: &[u8]) -> Option<Option<&[u8]>> {
        self.tables[table.index()].get(key).map(Option::as_deref)
    }

    pub fn range(&self, table: Table, from: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let range = self.tables[table.index()].range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        range.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// Everything, in the order of tables and keys.
    pub fn iter(&self) -> impl Iterator<Item = (Table, &[u8], Option<&[u8]>)> {
        Table::ALL
            .iter()
            .flat_map(|table| self.range(*table, &[]).map(|(key, value)| (*table, key, value)))
    }

    /// About how much memory it takes.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    pub fn is_empty(&self) -> bool {
        self.tables.iter().all(BTreeMap::is_empty)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_follow_what_is_held() {
        let put = |key: &str, bytes| Op::Put {
            table: Table::Meta,
            key: key.into(),
            value: vec![0; bytes],
        };
        let mut table = Memtable::default();
        assert!(table.is_empty());
        table.apply(vec![put("a", 10), put("bc", 20)]);
        assert_eq!(table.bytes(), 3 + 30 + 2 * ENTRY_OVERHEAD_BYTES);
        table.apply(vec![
            put("a", 5),
            Op::Delete {
                table: Table::Meta,
                key: b"bc".to_vec(),
            },
        ]);
        assert_eq!(table.bytes(), 3 + 5 + 2 * ENTRY_OVERHEAD_BYTES);
        assert_eq!(table.get(Table::Meta, b"bc"), Some(None));
        assert_eq!(table.get(Table::Coins, b"bc"), None);
        assert_eq!(table.iter().count(), 2);
    }
}
