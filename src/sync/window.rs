//! How many blocks are asked for at a time.
//!
//! Blocks may be a kilobyte or eight megabytes. Windows of about the same size in bytes keep all peers busy, take little
//! memory, and little is lost when the node is stopped with some of them under way.

use crate::{
    ledger::Content,
    primitives::{CommittedBlock, limits::MAX_BLOCKS_PER_REQUEST},
};

/// Bytes that an answer should have: some thousand signatures, enough for batches.
const WINDOW_BYTES: usize = 1 << 20;
/// Blocks in the first windows, when nothing is known of their size.
const FIRST: u64 = 8;
/// Bytes of a block beside its transactions, about.
const FRAME: usize = 1_024;

/// Learns from each answer.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct WindowSize {
    /// Of the blocks that came last.
    block_bytes: Option<usize>,
}

impl WindowSize {
    /// Blocks to ask for.
    pub(super) fn count(self) -> u64 {
        let fitting = |bytes: usize| (WINDOW_BYTES / bytes).max(1) as u64;
        self.block_bytes
            .map_or(FIRST, fitting)
            .min(MAX_BLOCKS_PER_REQUEST.into())
    }

    /// These have come.
    pub(super) fn learn(&mut self, blocks: &[(CommittedBlock, Content)]) {
        let bytes = |(block, _): &(CommittedBlock, Content)| {
            block.block.transactions.iter().map(Vec::len).sum::<usize>() + FRAME
        };
        let all: usize = blocks.iter().map(bytes).sum();
        if let Some(average) = all.checked_div(blocks.len()) {
            self.block_bytes = Some(average);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ledger::testing::Chain;

    #[test]
    fn a_window_is_of_about_the_same_size_whatever_the_blocks() {
        let mut size = WindowSize::default();
        assert_eq!(size.count(), FIRST);
        let chain = Chain::new();
        let content = chain.content(vec![], vec![], vec![]);
        let mut block = chain.committed(&content, &[0, 1, 2]);
        size.learn(&[]);
        assert_eq!(size.count(), FIRST, "nothing is known yet");
        size.learn(&[(block.clone(), content.clone())]);
        assert_eq!(size.count(), u64::from(MAX_BLOCKS_PER_REQUEST), "small ones");
        block.block.transactions = vec![vec![0; 250]; 500];
        size.learn(&[(block.clone(), content.clone())]);
        assert_eq!(size.count(), 8);
        block.block.transactions = vec![vec![0; 80_000]; 100];
        size.learn(&[(block, content)]);
        assert_eq!(size.count(), 1);
    }
}
