//! Every limit that the protocol fixes, in one table (protocol, section 9). Networks' own parameters are in
//! [`crate::primitives::Params`].

/// Bytes of a message, before and after decompression.
pub const MAX_MESSAGE_SIZE: usize = 10_000_000;
/// Blocks asked for in one request.
pub const MAX_BLOCKS_PER_REQUEST: u32 = 100;
/// Coins asked for in one request.
pub const MAX_UTXOS_PER_PAGE: u32 = 1_000;
/// Epoch-closing headers asked for in one request.
pub const MAX_HEADERS_PER_REQUEST: u32 = 100;
/// Bytes of a signed transaction.
pub const MAX_TRANSACTION_SIZE: usize = 100_000;
/// Inputs of a transaction.
pub const MAX_INPUTS: usize = 256;
/// Outputs of a transaction.
pub const MAX_OUTPUTS: usize = 256;
/// Bytes of a transaction's memo.
pub const MAX_MEMO: usize = 256;
/// Witnesses of a transaction.
pub const MAX_WITNESSES: usize = 256;
/// Key hashes in a multisig policy.
pub const MAX_MULTISIG_KEYS: usize = 16;
/// Transactions in a block, at most; `Params` may say less.
pub const MAX_BLOCK_TRANSACTIONS: usize = 20_000;
/// Bytes of transactions in a block, at most; `Params` may say less.
pub const MAX_BLOCK_BYTES: usize = 8_000_000;
/// Rejections in a block.
pub const MAX_BLOCK_REJECTIONS: usize = 256;
/// Votes in a batch.
pub const MAX_VOTES_PER_BATCH: usize = 10_000;
/// Validators in a set.
pub const MAX_VALIDATORS: usize = 256;
/// Transactions in one gossip message.
pub const MAX_TRANSACTIONS_PER_MESSAGE: usize = 2_000;
/// Bytes of transactions in one gossip message.
pub const MAX_TRANSACTION_BYTES_PER_MESSAGE: usize = 1_000_000;
/// Txids in one request.
pub const MAX_TXIDS_PER_REQUEST: usize = 1_000;
/// Vote batches in one request.
pub const MAX_VOTE_BATCHES_PER_REQUEST: u32 = 1_000;
/// Bytes that an answer is filled up to; leaves room below [`MAX_MESSAGE_SIZE`] for the last item and the framing.
pub const ANSWER_BYTES: usize = 8_500_000;
/// Bytes of a genesis.
pub const MAX_GENESIS_SIZE: usize = 256 * 1024 * 1024;
/// Addresses in an announcement.
pub const MAX_ADDRESSES_PER_ANNOUNCEMENT: usize = 8;
/// Bytes of an address.
pub const MAX_ADDRESS_BYTES: usize = 256;
/// Bytes of a peer id.
pub const MAX_PEER_BYTES: usize = 64;
/// Peers in a [`super::Neighbours`] message.
pub const MAX_NEIGHBOURS: usize = 256;
