//! Answers that need nothing but the store: made wherever reading is allowed, not in the replica's loop.

use crate::{
    ledger::{LtHash, StateView, UTXO_BUCKETS, ViewError},
    primitives::{
        CertifiedHeader, CoinPage, CommittedBlock, Epoch, Hash, Height, OutPoint, Request, Response,
        limits::{ANSWER_BYTES, MAX_BLOCKS_PER_REQUEST, MAX_HEADERS_PER_REQUEST, MAX_UTXOS_PER_PAGE},
    },
};

/// Whether [`answer`] answers the question.
pub const fn is_for_store(request: &Request) -> bool {
    matches!(
        request,
        Request::Blocks { .. } | Request::Coins { .. } | Request::Digests | Request::ClosingHeaders { .. }
    )
}

/// The answer to a peer's question for what the store holds.
pub fn answer(view: &dyn StateView, request: &Request) -> Result<Response, ViewError> {
    if view.sync_progress()?.is_some() {
        return Ok(Response::Refused("this node is syncing its state itself".to_owned()));
    }
    match request {
        Request::Blocks { from, max_count } => blocks(view, *from, *max_count),
        Request::Coins { cursor, limit, end } => coins(view, cursor, *limit, end),
        Request::Digests => digests(view),
        Request::ClosingHeaders { from, max_count } => closing_headers(view, *from, *max_count),
        _ => Ok(Response::Refused(format!("{} are not in the store", request.name()))),
    }
}

/// Blocks from a height on: as many as asked for, as there are, and as fit into one message. At least one, if there is
/// one.
fn blocks(view: &dyn StateView, from: Height, max_count: u32) -> Result<Response, ViewError> {
    let (tip, first) = (view.tip()?.height, view.first_block()?);
    let mut height = Height(from.0.max(1));
    if height < first && height <= tip {
        return Ok(Response::Pruned { from: first });
    }
    let mut blocks = Vec::new();
    let mut bytes = 0;
    while height <= tip && blocks.len() < max_count.min(MAX_BLOCKS_PER_REQUEST) as usize {
        let Some(encoded) = view.block_bytes(height)? else {
            break;
        };
        bytes += encoded.len();
        if bytes > ANSWER_BYTES && !blocks.is_empty() {
            break;
        }
        let block = CommittedBlock::decode(&encoded);
        blocks.push(block.map_err(|error| ViewError(format!("block {height} cannot be read: {error}")))?);
        height = height.next();
    }
    Ok(Response::Blocks { blocks, tip })
}

/// One page: one bounded scan of the coins of one height.
fn coins(view: &dyn StateView, cursor: &[u8], limit: u32, end: &[u8]) -> Result<Response, ViewError> {
    let limit = limit.min(MAX_UTXOS_PER_PAGE) as usize;
    let (height, mut entries) = view.coins_after(cursor, limit)?;
    let full = entries.len() >= limit;
    let inside = |(outpoint, _): &(OutPoint, _)| end.is_empty() || outpoint.to_bytes()[..] < *end;
    entries.truncate(entries.partition_point(inside));
    let more = full && entries.len() >= limit;
    Ok(Response::Coins(CoinPage { height, entries, more }))
}

fn digests(view: &dyn StateView) -> Result<Response, ViewError> {
    let (height, buckets) = view.buckets()?;
    let mut digests: Vec<Hash> = vec![LtHash::new().digest(); UTXO_BUCKETS];
    for (index, state) in buckets {
        let state = LtHash::from_bytes(&state).map_err(|error| ViewError(format!("coin bucket {index}: {error}")))?;
        if let Some(digest) = digests.get_mut(usize::from(index)) {
            *digest = state.digest();
        }
    }
    Ok(Response::Digests { height, digests })
}

fn closing_headers(view: &dyn StateView, from: Epoch, max_count: u32) -> Result<Response, ViewError> {
    let mut headers: Vec<CertifiedHeader> = Vec::new();
    let (mut epoch, mut bytes) = (from, 0);
    while headers.len() < max_count.min(MAX_HEADERS_PER_REQUEST) as usize
        && bytes < ANSWER_BYTES
        && let Some(header) = view.closing_header(epoch)?
    {
        bytes += header.encode().len();
        headers.push(header);
        epoch = epoch.next();
    }
    Ok(Response::ClosingHeaders(headers))
}
