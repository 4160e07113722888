//! What several test programs make chains from.

use timecoin::{
    primitives::{Amount, Genesis, Output, Params, Validator, ValidatorSet},
    signer::{KeyFile, KeyKind},
};

/// So many validator keys, and a genesis that begins now with these validators and one coin of the first.
pub fn chain(validators: usize, params: Params) -> (Vec<KeyFile>, Genesis) {
    let keys: Vec<KeyFile> = (0..validators).map(|_| KeyFile::generate(KeyKind::Validator)).collect();
    let validator = |key: &KeyFile| Validator {
        public_key: key.public_key(),
        power: 1,
        payout: key.public_key().lock(),
    };
    let genesis = Genesis {
        network: "ltime".into(),
        time: timecoin::node::clock::wall(),
        params,
        validators: ValidatorSet::new(keys.iter().map(validator).collect()).expect("a set"),
        coins: vec![Output {
            value: Amount(1_000_000),
            lock: keys[0].public_key().lock(),
        }],
    };
    (keys, genesis)
}
