//! The state before the first block.

use crate::{
    ledger::{Commitment, Tip},
    primitives::{Amount, BlockId, Coin, Genesis, Height, OutPoint, genesis::GenesisError},
};

/// A tip, all its coins, and the commitment to them.
pub type GenesisState = (Tip, Vec<(OutPoint, Coin)>, Commitment);

/// The tip at height 0, its coins, and the commitment to them. Fails on a genesis that [`Genesis::check`] refuses; one
/// that was decoded has passed it.
pub fn genesis_tip(genesis: &Genesis) -> Result<GenesisState, GenesisError> {
    genesis.check()?;
    let supply = genesis.supply().ok_or(GenesisError::Supply)?;
    let coins: Vec<(OutPoint, Coin)> = genesis.named_coins().collect();
    let commitment = Commitment::of_coins(coins.iter().map(|(outpoint, coin)| (outpoint, coin)));
    let tip = Tip {
        height: Height(0),
        block: BlockId(genesis.chain_id().0),
        time: genesis.time,
        utxo_root: commitment.root(),
        supply,
        fees: Amount::ZERO,
        signed: vec![0; genesis.validators.len()],
    };
    Ok((tip, coins, commitment))
}
