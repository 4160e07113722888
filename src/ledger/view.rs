//! What rules may read: the committed state, and an overlay of it with changes that are not committed.

use super::Batch;
use crate::primitives::{
    Amount, BlockId, CertifiedHeader, Coin, CommittedBlock, Epoch, Hash, Height, LockHash, OutPoint, Time, Transaction,
    TxId,
};
use std::{collections::BTreeMap, fmt};
use thiserror::Error;

/// The store could not be read. Nothing can go on without it: the node stops.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("the store cannot be read: {0}")]
pub struct ViewError(pub String);

/// The last committed block and what has to be known to make the next.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tip {
    /// Its height; 0 for genesis.
    pub height: Height,
    /// Its name; the chain id's bytes for genesis.
    pub block: BlockId,
    /// Its time.
    pub time: Time,
    /// Root over all coins after it: the next header's `utxo_root`.
    pub utxo_root: Hash,
    /// All money there is: the coins and `fees` together. Grows by the epochs' issuance and by nothing else.
    pub supply: Amount,
    /// Fees paid in this epoch and what earlier epochs could not share out; in no coin until the epoch closes.
    pub fees: Amount,
    /// By validator: blocks of this epoch whose commit certificates it signed.
    pub signed: Vec<u64>,
}

/// Where a committed transaction is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Location {
    /// The block's height.
    pub height: Height,
    /// Position in the block.
    pub index: u32,
}

/// The committed state, as of the tip.
pub trait View {
    /// The tip.
    fn tip(&self) -> Result<Tip, ViewError>;
    /// An unspent coin.
    fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError>;
    /// Where a transaction was committed.
    fn location(&self, txid: &TxId) -> Result<Option<Location>, ViewError>;
    /// The height of the block that rejected a transaction.
    fn rejected(&self, txid: &TxId) -> Result<Option<Height>, ViewError>;
    /// A block with its commit certificate.
    fn block(&self, height: Height) -> Result<Option<CommittedBlock>, ViewError>;
    /// A bucket of the coin commitment as stored from [`super::Applied::buckets`]; `None`: empty.
    fn bucket(&self, index: u16) -> Result<Option<Vec<u8>>, ViewError>;
}

/// Height of coins that are in no block yet.
pub const UNCOMMITTED: Height = Height(u64::MAX);

/// A view and changes to it that are not committed: a block being built or checked, or payments that are final and wait
/// for their block.
pub struct Overlay<'a> {
    base: &'a dyn View,
    height: Height,
    created: BTreeMap<OutPoint, Coin>,
    /// With the coin when it was the base's; without when it was made in this overlay.
    spent: BTreeMap<OutPoint, Option<Coin>>,
}

impl fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Overlay(+{} -{})", self.created.len(), self.spent.len())
    }
}

impl<'a> Overlay<'a> {
    /// No changes yet. Coins that [`Overlay::apply`] makes have the height [`UNCOMMITTED`].
    pub const fn new(base: &'a dyn View) -> Self {
        Self::at_height(base, UNCOMMITTED)
    }

    /// No changes yet, for the block at `height`: coins that [`Overlay::apply`] makes say so.
    pub const fn at_height(base: &'a dyn View, height: Height) -> Self {
        Self {
            base,
            height,
            created: BTreeMap::new(),
            spent: BTreeMap::new(),
        }
    }

    /// The view below.
    pub const fn base(&self) -> &'a dyn View {
        self.base
    }

    /// A coin that is unspent when the changes are counted in.
    pub fn coin(&self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError> {
        if self.spent.contains_key(outpoint) {
            return Ok(None);
        }
        match self.created.get(outpoint) {
            Some(coin) => Ok(Some(*coin)),
            None => self.base.coin(outpoint),
        }
    }

    /// Takes a coin away and answers it; `None`, and no change, when there is none to take.
    pub fn spend(&mut self, outpoint: &OutPoint) -> Result<Option<Coin>, ViewError> {
        let Some(coin) = self.coin(outpoint)? else {
            return Ok(None);
        };
        self.take(*outpoint, coin);
        Ok(Some(coin))
    }

    fn take(&mut self, outpoint: OutPoint, coin: Coin) {
        let from_base = self.created.remove(&outpoint).is_none();
        self.spent.insert(outpoint, from_base.then_some(coin));
    }

    /// Adds a coin.
    pub fn create(&mut self, outpoint: OutPoint, coin: Coin) {
        self.created.insert(outpoint, coin);
    }

    /// Takes the transaction's inputs away and adds its outputs. Right or wrong is for [`super::apply::validate`] to say
    /// before; an input that is not there is passed over.
    pub fn apply(&mut self, transaction: &Transaction) -> Result<(), ViewError> {
        for input in transaction.inputs() {
            self.spend(input)?;
        }
        self.create_outputs(transaction);
        Ok(())
    }

    /// [`Overlay::apply`] without reading: `spent` are the transaction's inputs with their coins, as they are here.
    pub(super) fn apply_known(&mut self, transaction: &Transaction, spent: Vec<(OutPoint, Coin)>) {
        for (outpoint, coin) in spent {
            self.take(outpoint, coin);
        }
        self.create_outputs(transaction);
    }

    fn create_outputs(&mut self, transaction: &Transaction) {
        for (outpoint, output) in transaction.created() {
            let coin = Coin {
                output: *output,
                height: self.height,
            };
            self.create(outpoint, coin);
        }
    }

    /// What changed, ascending by outpoint: the base's coins that are gone, and the new ones. A coin that was made and
    /// spent here is in neither.
    pub fn into_changes(self) -> Changes {
        let from_base = |(outpoint, coin): (OutPoint, Option<Coin>)| Some((outpoint, coin?));
        Changes {
            spent: self.spent.into_iter().filter_map(from_base).collect(),
            created: self.created.into_iter().collect(),
        }
    }
}

/// The difference between two sets of coins, each list ascending by outpoint.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Changes {
    /// Coins that are gone.
    pub spent: Vec<(OutPoint, Coin)>,
    /// Coins that are new.
    pub created: Vec<(OutPoint, Coin)>,
}

/// States of buckets of the coin commitment by number, ascending.
pub type Buckets = Vec<(u16, Vec<u8>)>;

/// Reading the state whole: to serve it to newcomers, and to build it up as one.
pub trait StateView: View {
    /// The height of the first block that is kept; those before were pruned or never fetched. One above the tip when
    /// there is none.
    fn first_block(&self) -> Result<Height, ViewError>;
    /// A block as its Protobuf bytes.
    fn block_bytes(&self, height: Height) -> Result<Option<Vec<u8>>, ViewError>;
    /// The header that closed an epoch.
    fn closing_header(&self, epoch: Epoch) -> Result<Option<CertifiedHeader>, ViewError>;
    /// Entries of the set of coins (marks of rejections among them) after a cursor, ascending, at most `limit`; and the
    /// height that all of them are of.
    fn coins_after(&self, cursor: &[u8], limit: usize) -> Result<(Height, Vec<(OutPoint, Coin)>), ViewError>;
    /// The states of all buckets and the height that they are of; absent: empty.
    fn buckets(&self) -> Result<(Height, Buckets), ViewError>;
    /// How far a state sync has come, as [`StateWrite::Step`] last said; `None`: none is under way and the state is
    /// whole.
    fn sync_progress(&self) -> Result<Option<Vec<u8>>, ViewError>;
    /// Whether [`StateWrite::Wipe`] has left nothing.
    fn is_wiped(&self) -> Result<bool, ViewError>;
}

/// One atomic write of a state sync. From the first to [`StateWrite::Finish`] the state is not whole, and the plain
/// questions for it ([`View::tip`], [`View::coin`]) mean nothing.
#[derive(Clone, Debug)]
pub enum StateWrite {
    /// Takes some of what is there away: coins, blocks, indexes, everything but the chain's name. To be repeated until
    /// [`StateView::is_wiped`].
    Wipe {
        /// Remembered with it.
        progress: Vec<u8>,
    },
    /// Something was fetched, replayed or thrown away.
    Step(Box<StateStep>),
    /// The state is whole: it becomes the committed one.
    Finish {
        /// Of it.
        tip: Box<Tip>,
        /// The buckets that hold coins.
        buckets: Vec<(u16, Vec<u8>)>,
    },
}

/// What [`StateWrite::Step`] changes.
#[derive(Clone, Debug, Default)]
pub struct StateStep {
    /// Entries that go.
    pub removed: Vec<(OutPoint, Coin)>,
    /// Entries that come; one that is there already is the same.
    pub added: Vec<(OutPoint, Coin)>,
    /// Blocks that follow the last one, with what is needed to find their transactions.
    pub blocks: Vec<(CommittedBlock, BlockId, Vec<TxId>)>,
    /// Headers that closed epochs.
    pub headers: Vec<CertifiedHeader>,
    /// Remembered with it.
    pub progress: Vec<u8>,
}

/// One atomic write.
#[derive(Clone, Debug)]
pub enum Write {
    /// A decided block.
    Block(Box<Batch>),
    /// A step of a state sync.
    State(StateWrite),
}

/// Questions that readers outside the loop ask of the store; rules never do.
pub trait Query: View + Send + Sync {
    /// Unspent coins under a lock, ascending by outpoint, after `after`, at most `limit`.
    fn coins_of(
        &self,
        lock: &LockHash,
        after: Option<&OutPoint>,
        limit: usize,
    ) -> Result<Vec<(OutPoint, Coin)>, ViewError>;
    /// The height of a block.
    fn height_of(&self, block: &BlockId) -> Result<Option<Height>, ViewError>;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        ledger::testing::Chain,
        primitives::{LockHash, Output},
    };
    use proptest::prelude::*;

    fn coin(value: u64) -> Coin {
        Coin {
            output: Output {
                value: Amount(value),
                lock: LockHash([1; 32]),
            },
            height: Height(1),
        }
    }

    fn fresh(index: u32) -> OutPoint {
        OutPoint {
            txid: TxId([0xee; 32]),
            index,
        }
    }

    #[test]
    fn coins_of_payments_that_wait_are_in_no_block() {
        let chain = Chain::new();
        let payment = chain.pay(0, 1);
        let (made, _) = payment.created().next().expect("one output");
        let height = |mut overlay: Overlay<'_>| {
            overlay.apply(&payment).expect("memory");
            overlay.coin(&made).expect("memory").map(|coin| coin.height)
        };
        assert_eq!(height(Overlay::new(&chain.view)), Some(UNCOMMITTED));
        assert_eq!(height(Overlay::at_height(&chain.view, Height(7))), Some(Height(7)));
    }

    proptest! {
        /// An overlay against the same changes made to a copy of the map below it.
        #[test]
        fn an_overlay_is_a_changed_copy(changes in prop::collection::vec((any::<bool>(), 0usize..14, 1u64..100), 0..60)) {
            let chain = Chain::new();
            let names: Vec<OutPoint> = chain.genesis_coins.iter().copied().chain((0..5).map(fresh)).collect();
            let mut overlay = Overlay::new(&chain.view);
            let mut copy = chain.view.coins.clone();
            for (spend, pick, value) in changes {
                let name = names[pick];
                if spend {
                    prop_assert_eq!(overlay.spend(&name), Ok(copy.remove(&name)));
                } else if pick >= chain.genesis_coins.len() && !copy.contains_key(&name) {
                    // As in a chain: a name is given once, so a spent one does not come back.
                    if overlay.spent.contains_key(&name) {
                        continue;
                    }
                    overlay.create(name, coin(value));
                    copy.insert(name, coin(value));
                }
                for name in &names {
                    prop_assert_eq!(overlay.coin(name), Ok(copy.get(name).copied()));
                }
            }
            let Changes { spent, created } = overlay.into_changes();
            let mut rebuilt = chain.view.coins.clone();
            for (name, coin) in &spent {
                prop_assert_eq!(rebuilt.remove(name), Some(*coin));
            }
            for (name, coin) in &created {
                prop_assert_eq!(rebuilt.insert(*name, *coin), None);
            }
            prop_assert_eq!(rebuilt, copy);
        }
    }
}
