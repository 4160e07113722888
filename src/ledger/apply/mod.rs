//! Contextual rules: what a checked transaction or block does to the coins, or which rule it breaks.
//!
//! Nothing here looks at a signature. Transactions come as [`CheckedTransaction`]; the certificates and seals of a
//! [`Content`] were checked, quorums and signatures, with the proposal they came in
//! ([`crate::primitives::Gossip::queue_signatures`]) or by [`super::check::check_certified`].

mod genesis;
mod header;
#[cfg(test)]
mod tests;
mod transaction;

pub use genesis::{GenesisState, genesis_tip};
pub use header::{ContentError, build_header, check_content};
pub use transaction::{TransactionError, validate};

use super::{
    CheckedTransaction, Commitment, View, ViewError, reward,
    view::{Changes, Overlay, Tip},
};
use crate::primitives::{
    Amount, BlockCertificate, BlockHeader, BlockId, Certificate, CertificateError, Coin, CommittedBlock, Epoch,
    EpochSeal, Fault, Hash, Height, OutPoint, Params, Time, TxId, ValidatorIndex, VoteKind,
    limits::MAX_BLOCK_REJECTIONS, message::Electorate,
};
use std::collections::BTreeSet;
use thiserror::Error;

/// Which rule a block breaks.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
pub enum BlockError {
    /// Not the next height.
    #[error("the block is of height {found}, expected {expected}")]
    Height {
        /// The header's.
        found: Height,
        /// One above the tip.
        expected: Height,
    },
    /// Built on another block.
    #[error("the block's parent is {found}, expected {expected}")]
    Parent {
        /// The header's.
        found: BlockId,
        /// The tip.
        expected: BlockId,
    },
    /// The epoch is not that of the height.
    #[error("the block is of epoch {found}, expected {expected}")]
    Epoch {
        /// The header's.
        found: Epoch,
        /// Of the height.
        expected: Epoch,
    },
    /// Not later than the parent.
    #[error("the block's time is {found}, expected later than its parent's, {parent}")]
    Time {
        /// The header's.
        found: Time,
        /// The tip's.
        parent: Time,
    },
    /// No such validator.
    #[error("the block's proposer is validator {found}, but the set has {validators}")]
    Proposer {
        /// The header's.
        found: ValidatorIndex,
        /// How many there are.
        validators: usize,
    },
    /// Another set of coins before the block.
    #[error("the block's utxo root is {found}, expected {expected}")]
    UtxoRoot {
        /// The header's.
        found: Hash,
        /// The tip's.
        expected: Hash,
    },
    /// Another validator set.
    #[error("the hash of {which} block's validators is {found}, expected {expected}")]
    Validators {
        /// Whether the set of this block or of the next.
        which: &'static str,
        /// The header's.
        found: Hash,
        /// The electorate's.
        expected: Hash,
    },
    /// The header does not commit to this content.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The last commit certificate is not the parent's.
    #[error("the block's last commit certificate: {0}")]
    LastCommit(CertificateError),
    /// More of something than fits into a block.
    #[error("the block has {count} {what}, allowed are {max}")]
    TooMany {
        /// What is counted.
        what: &'static str,
        /// How many there are.
        count: usize,
        /// The most allowed.
        max: usize,
    },
    /// A transaction is in the block twice.
    #[error("transaction {0} is in the block twice")]
    Repeated(TxId),
    /// A transaction is in a block already.
    #[error("transaction {txid} is in block {height} already")]
    AlreadyCommitted {
        /// The transaction.
        txid: TxId,
        /// The block that has it.
        height: Height,
    },
    /// A transaction was rejected on chain.
    #[error("transaction {txid} was rejected by block {height}")]
    AlreadyRejected {
        /// The transaction.
        txid: TxId,
        /// The block that rejected it.
        height: Height,
    },
    /// A transaction breaks a rule.
    #[error("transaction {txid}: {error}")]
    Transaction {
        /// The transaction.
        txid: TxId,
        /// The rule.
        #[source]
        error: TransactionError,
    },
    /// A certificate among the rejections that rejects nothing.
    #[error("the rejection of transaction {txid} is a certificate of {kind:?}, expected Abandon")]
    RejectionKind {
        /// The transaction.
        txid: TxId,
        /// What the votes say.
        kind: VoteKind,
    },
    /// A rejection with votes of another epoch.
    #[error("the rejection of transaction {txid} is of epoch {found}, expected {expected}")]
    RejectionEpoch {
        /// The transaction.
        txid: TxId,
        /// Of the votes.
        found: Epoch,
        /// The block's.
        expected: Epoch,
    },
    /// A transaction is rejected twice in the block.
    #[error("transaction {0} is rejected twice in the block")]
    RejectionRepeated(TxId),
    /// A transaction is both in the block and rejected by it.
    #[error("transaction {0} is in the block and rejected by it")]
    RejectionCommitted(TxId),
    /// Seals in a block that does not close its epoch.
    #[error("the block has {count} seals but does not close epoch {epoch}")]
    EarlySeals {
        /// How many.
        count: usize,
        /// The block's.
        epoch: Epoch,
    },
    /// A seal of another epoch.
    #[error("the seal of validator {validator} is of epoch {found}, expected {expected}")]
    SealEpoch {
        /// Whose.
        validator: ValidatorIndex,
        /// The seal's.
        found: Epoch,
        /// The block's.
        expected: Epoch,
    },
    /// Seals not strictly ascending by validator.
    #[error("the seal of validator {0} is not in strictly ascending order")]
    SealOrder(ValidatorIndex),
    /// Too little power sealed the epoch.
    #[error("the seals are of power {power} of {total}: more than two thirds are needed to close epoch {epoch}")]
    SealQuorum {
        /// The block's.
        epoch: Epoch,
        /// Power of those who sealed.
        power: u128,
        /// Power of the set.
        total: u128,
    },
    /// A sealed transaction is left out.
    #[error("transaction {0} is sealed but neither rejected nor in this block or an earlier one")]
    SealedLeftOut(TxId),
    /// The caller's commitment is not the tip's: a fault of this node, not of the block.
    #[error("this node's coin commitment has the root {found}, but its tip says {expected}")]
    Commitment {
        /// The commitment's.
        found: Hash,
        /// The tip's.
        expected: Hash,
    },
    /// The store cannot be read.
    #[error(transparent)]
    View(#[from] ViewError),
}

impl BlockError {
    /// What a proposal that breaks the rule says about its leader: a block for another tip is honest lateness; nothing
    /// else is ever proposed by a correct program.
    pub const fn fault(&self) -> Fault {
        match self {
            Self::View(_) | Self::Commitment { .. } => Fault::None,
            Self::Height { .. } | Self::Parent { .. } => Fault::Late,
            _ => Fault::Careless,
        }
    }
}

/// A block before it is decided: the header and everything it commits to.
#[derive(Clone, Debug)]
pub struct Content {
    /// The header.
    pub header: BlockHeader,
    /// Bodies in block order.
    pub transactions: Vec<CheckedTransaction>,
    /// Quorums of Abandon, signatures checked.
    pub rejections: Vec<Certificate>,
    /// Seals, signatures checked.
    pub seals: Vec<EpochSeal>,
    /// Commit certificate of the parent, signatures checked.
    pub last_commit: Option<BlockCertificate>,
}

/// What a valid block does.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Applied {
    /// The block's name.
    pub block: BlockId,
    /// The tip after it.
    pub tip: Tip,
    /// Coins that are gone, ascending by outpoint. A coin made and spent by the block is in neither list.
    pub spent: Vec<(OutPoint, Coin)>,
    /// Coins that are new, ascending by outpoint; an epoch's rewards and the marks of rejections among them.
    pub created: Vec<(OutPoint, Coin)>,
    /// Committed transactions in block order.
    pub transactions: Vec<TxId>,
    /// Rejected transactions.
    pub rejected: Vec<TxId>,
    /// The coin commitment's buckets that changed, as stored: [`super::LtHash::to_bytes`].
    pub buckets: Vec<(u16, Vec<u8>)>,
}

/// One decided block as one atomic write.
#[derive(Clone, Debug)]
pub struct Batch {
    /// What it does.
    pub applied: Applied,
    /// The block and the quorum behind it.
    pub block: CommittedBlock,
}

/// What a block does to the state that `view` shows, or which rule it breaks. The one validation path: a leader runs
/// it on its own proposal, validators before they prepare, and everybody on blocks that come by sync. The answer is a
/// function of the tip and the block, so one that was worked out to prepare can be kept to commit.
///
/// `commitment` is the one of the view's tip. That the time is not too far from the clock, and that the transactions
/// have lock certificates, is for those to check who have a clock and votes.
pub fn apply_block(
    view: &dyn View,
    commitment: &Commitment,
    params: &Params,
    electorate: &Electorate,
    content: &Content,
) -> Result<Applied, BlockError> {
    let tip = view.tip()?;
    if commitment.root() != tip.utxo_root {
        return Err(BlockError::Commitment {
            found: commitment.root(),
            expected: tip.utxo_root,
        });
    }
    header::check_header(&tip, params, electorate, content)?;
    check_limits(params, content)?;
    let block = BlockRules {
        view,
        params,
        electorate,
        content,
        txids: distinct_txids(content)?,
    };
    let mut coins = Overlay::at_height(view, content.header.height);
    let fees = block.apply_transactions(&mut coins)?;
    let rejected = block.check_rejections()?;
    block.check_seals(&rejected)?;
    let mut tip = block.next_tip(tip, fees);
    if block.closes_epoch() {
        block.close_epoch(&mut tip, &mut coins);
    }
    let Changes { spent, created } = coins.into_changes();
    let created = with_rejections(created, &rejected, tip.height);
    let change = commitment.with_changes(&spent, &created);
    if !planted!(StaleRoot) {
        tip.utxo_root = change.root;
    }
    let state = |(index, state): &(u16, super::LtHash)| (*index, state.to_bytes());
    Ok(Applied {
        block: tip.block,
        tip,
        spent,
        created,
        transactions: content
            .transactions
            .iter()
            .map(|transaction| transaction.txid())
            .collect(),
        rejected: content.rejections.iter().map(|rejection| rejection.txid).collect(),
        buckets: change.buckets.iter().map(state).collect(),
    })
}

/// The marks of a block's rejections in their places among its new coins.
fn with_rejections(
    mut created: Vec<(OutPoint, Coin)>,
    rejected: &BTreeSet<TxId>,
    height: Height,
) -> Vec<(OutPoint, Coin)> {
    let marks = rejected
        .iter()
        .map(|txid| (OutPoint::rejection(*txid), Coin::rejection(height)));
    created.extend(marks);
    created.sort_unstable_by_key(|(outpoint, _)| *outpoint);
    created
}

fn check_limits(params: &Params, content: &Content) -> Result<(), BlockError> {
    let at_most = |what: &'static str, count: usize, max: usize| {
        if count > max {
            Err(BlockError::TooMany { what, count, max })
        } else {
            Ok(())
        }
    };
    let transactions = &content.transactions;
    let bytes = transactions.iter().map(|transaction| transaction.bytes().len()).sum();
    at_most(
        "transactions",
        transactions.len(),
        params.max_block_transactions as usize,
    )?;
    at_most("bytes of transactions", bytes, params.max_block_bytes as usize)?;
    at_most("rejections", content.rejections.len(), MAX_BLOCK_REJECTIONS)
}

fn distinct_txids(content: &Content) -> Result<BTreeSet<TxId>, BlockError> {
    let mut txids = BTreeSet::new();
    for transaction in &content.transactions {
        if !txids.insert(transaction.txid()) {
            return Err(BlockError::Repeated(transaction.txid()));
        }
    }
    Ok(txids)
}

/// The block that is judged, and what it is judged by.
struct BlockRules<'a> {
    view: &'a dyn View,
    params: &'a Params,
    electorate: &'a Electorate,
    content: &'a Content,
    /// Of the block's transactions.
    txids: BTreeSet<TxId>,
}

impl BlockRules<'_> {
    /// Every transaction in its turn, on what those before it left. Answers their fees together.
    fn apply_transactions(&self, coins: &mut Overlay<'_>) -> Result<Amount, BlockError> {
        let mut fees = Amount::ZERO;
        for transaction in &self.content.transactions {
            let txid = transaction.txid();
            self.refuse_rejected(&txid)?;
            let (fee, spent) = match transaction::judge(coins, self.params, transaction) {
                Ok(judged) => judged,
                Err(TransactionError::View(error)) => return Err(error.into()),
                Err(error) => {
                    // A committed transaction has spent its inputs, so this is the only way to meet one, and looking
                    // each one up beforehand would cost a read for nothing.
                    self.refuse_committed(&txid)?;
                    return Err(BlockError::Transaction { txid, error });
                }
            };
            coins.apply_known(transaction, spent);
            fees = fees.checked_add(fee).ok_or(BlockError::Transaction {
                txid,
                error: TransactionError::InputOverflow,
            })?;
        }
        Ok(fees)
    }

    fn refuse_committed(&self, txid: &TxId) -> Result<(), BlockError> {
        match self.view.location(txid)? {
            Some(location) => Err(BlockError::AlreadyCommitted {
                txid: *txid,
                height: location.height,
            }),
            None => Ok(()),
        }
    }

    fn refuse_rejected(&self, txid: &TxId) -> Result<(), BlockError> {
        match self.view.rejected(txid)? {
            Some(height) => Err(BlockError::AlreadyRejected { txid: *txid, height }),
            None => Ok(()),
        }
    }

    /// Protocol, section 4: a rejection is valid with a quorum of Abandon in this epoch, for what is in no block.
    fn check_rejections(&self) -> Result<BTreeSet<TxId>, BlockError> {
        let mut rejected = BTreeSet::new();
        for rejection in &self.content.rejections {
            let txid = rejection.txid;
            if rejection.kind != VoteKind::Abandon {
                let kind = rejection.kind;
                return Err(BlockError::RejectionKind { txid, kind });
            }
            if rejection.epoch != self.content.header.epoch {
                return Err(BlockError::RejectionEpoch {
                    txid,
                    found: rejection.epoch,
                    expected: self.content.header.epoch,
                });
            }
            if self.txids.contains(&txid) {
                return Err(BlockError::RejectionCommitted(txid));
            }
            if !rejected.insert(txid) {
                return Err(BlockError::RejectionRepeated(txid));
            }
            self.refuse_committed(&txid)?;
            self.refuse_rejected(&txid)?;
        }
        Ok(rejected)
    }

    fn closes_epoch(&self) -> bool {
        self.content.header.height.closes_epoch(self.params.epoch_length)
    }

    /// Protocol, section 6: the closing block carries a quorum of seals and leaves out nothing that they list.
    fn check_seals(&self, rejected: &BTreeSet<TxId>) -> Result<(), BlockError> {
        let (seals, epoch) = (&self.content.seals, self.content.header.epoch);
        if !self.closes_epoch() {
            let count = seals.len();
            return if count == 0 {
                Ok(())
            } else {
                Err(BlockError::EarlySeals { count, epoch })
            };
        }
        self.check_seal_quorum()?;
        if planted!(ForgetSealed) {
            return Ok(());
        }
        let sealed: BTreeSet<TxId> = seals.iter().flat_map(|seal| seal.txids.iter().copied()).collect();
        for txid in sealed {
            let settled = self.txids.contains(&txid)
                || rejected.contains(&txid)
                || self.view.location(&txid)?.is_some()
                || self.view.rejected(&txid)?.is_some();
            if !settled {
                return Err(BlockError::SealedLeftOut(txid));
            }
        }
        Ok(())
    }

    fn check_seal_quorum(&self) -> Result<(), BlockError> {
        let expected = self.content.header.epoch;
        let set = self.electorate.of_epoch(expected);
        let (mut power, mut last) = (0, None);
        for seal in &self.content.seals {
            if seal.epoch != expected {
                return Err(BlockError::SealEpoch {
                    validator: seal.validator,
                    found: seal.epoch,
                    expected,
                });
            }
            if last.is_some_and(|last| last >= seal.validator) {
                return Err(BlockError::SealOrder(seal.validator));
            }
            last = Some(seal.validator);
            power += set.power(seal.validator);
        }
        if set.is_quorum(power) {
            return Ok(());
        }
        Err(BlockError::SealQuorum {
            epoch: expected,
            power,
            total: set.total_power(),
        })
    }

    /// The tip after the block, but for its root and for what closing the epoch adds.
    fn next_tip(&self, tip: Tip, fees: Amount) -> Tip {
        let header = &self.content.header;
        let mut next = Tip {
            height: header.height,
            block: header.id(&self.electorate.chain),
            time: header.time,
            fees: within_supply(tip.fees, fees),
            ..tip
        };
        let length = self.params.epoch_length;
        reward::count_signers(&mut next.signed, header, self.content.last_commit.as_ref(), length);
        next
    }

    /// Pays the epoch out and starts to count anew.
    fn close_epoch(&self, tip: &mut Tip, coins: &mut Overlay<'_>) {
        let issued = reward::issuance(tip.supply, Amount(self.params.issuance_per_epoch));
        let total = within_supply(tip.fees, issued);
        let payout = reward::payout(self.electorate, tip.height, &tip.signed, total);
        for (outpoint, coin) in payout.coins {
            coins.create(outpoint, coin);
        }
        tip.supply = within_supply(tip.supply, issued);
        tip.fees = payout.carried;
        tip.signed = vec![0; self.electorate.of_height(tip.height.next()).len()];
    }
}

fn within_supply(one: Amount, other: Amount) -> Amount {
    one.checked_add(other)
        .expect("both are parts of the supply, which reward::issuance keeps below 2^64 units")
}
