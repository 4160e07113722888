//! The commitment to the set of coins.

/// Buckets that the coins are spread over.
pub const UTXO_BUCKETS: usize = 1024;

/// A homomorphic hash of a multiset.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LtHash(Box<[u16; 1024]>);

/// The state of all buckets.
#[derive(Clone, Debug)]
pub struct Commitment(Vec<LtHash>);

impl Commitment {
    /// The buckets as the store has them.
    pub fn load(view: &dyn super::View) -> Result<Self, super::ViewError> {
        let _ = view;
        unimplemented!()
    }

    /// Takes over what a block changed.
    pub fn commit(&mut self, applied: &super::Applied) {
        let _ = applied;
        unimplemented!()
    }
}
