//! Answers that need nothing but the store: made wherever reading is allowed, not in the replica's loop.

use crate::{
    ledger::{View, ViewError},
    primitives::{
        Height, Response,
        limits::{ANSWER_BYTES, MAX_BLOCKS_PER_REQUEST},
    },
};

/// Blocks from a height on: as many as asked for, as there are, and as fit into one message. At least one, if there is
/// one.
pub fn blocks(view: &dyn View, from: Height, max_count: u32) -> Result<Response, ViewError> {
    let tip = view.tip()?.height;
    let mut blocks = Vec::new();
    let mut bytes = 0;
    let mut height = Height(from.0.max(1));
    while height <= tip && blocks.len() < max_count.min(MAX_BLOCKS_PER_REQUEST) as usize {
        let Some(block) = view.block(height)? else { break };
        bytes += block.encode().len();
        if bytes > ANSWER_BYTES && !blocks.is_empty() {
            break;
        }
        blocks.push(block);
        height = height.next();
    }
    Ok(Response::Blocks { blocks, tip })
}
