//! From a store and a safety log to a replica that contradicts neither.

use super::{Effects, Ended, OpenError, Payments, Records, Replica, SafetyRecord, Setup, Silence, Statement, chores};
use crate::{
    consensus::{self, Consensus, LEADER_WINDOW, Mark},
    epoch::Seals,
    finality::Finality,
    ledger::{CheckedTransaction, Commitment, View, check},
    pool::{self, Pool},
    primitives::{Amount, BlockCertificate, Coin, Epoch, Height, Time, TxId, VoteBatch},
    sync::BlockSync,
};
use rand_chacha::{ChaCha8Rng, rand_core::SeedableRng};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

impl Replica {
    /// Opens the replica over a committed state and what was remembered. The effects are those of a first turn, to be
    /// served like any other's.
    pub fn open(setup: Setup, view: &dyn View, records: Records, now: Time) -> Result<(Self, Effects), OpenError> {
        let params = setup.genesis.params.clone();
        let tip = view.tip()?;
        let commitment = Commitment::load(view)?;
        if commitment.root() != tip.utxo_root {
            return Err(OpenError::Chain(format!(
                "the coins' root {} is not the tip's {} at height {}",
                commitment.root(),
                tip.utxo_root,
                tip.height
            )));
        }
        let epoch = tip.height.next().epoch(params.epoch_length);
        let set = setup.electorate.of_epoch(epoch).clone();
        let own = setup.own.and_then(|key| set.index_of(&key));
        let config = consensus::Config {
            electorate: setup.electorate.clone(),
            params: params.clone(),
            own: setup.own,
        };
        let mut consensus = Consensus::new(config, &tip, &recent_commits(view, tip.height)?, now);
        if let Some(block) = view.block(tip.height)? {
            consensus.set_tip_commit(&block.commit);
        }
        let finality = Finality::new(Self::finality_config(&params, own), set.clone(), epoch, tip.height);
        let mut replica = Self {
            own,
            commitment,
            pool: Pool::new(setup.pool.clone()),
            finality,
            consensus,
            seals: Seals::new(epoch, set),
            sync: BlockSync::new(),
            payments: Arc::new(Payments::default()),
            ended: Ended::default(),
            final_coins: BTreeMap::new(),
            waiting: BTreeMap::new(),
            building: None,
            validating: BTreeMap::new(),
            validated: BTreeMap::new(),
            strays: BTreeMap::new(),
            decided: None,
            silence: None,
            voting: false,
            own_seal: None,
            sealed: false,
            peers: BTreeSet::new(),
            asked: BTreeMap::new(),
            bodies_asked: BTreeSet::new(),
            next_request: 0,
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            fresh: Vec::new(),
            wrote: false,
            revive: false,
            chores: chores::Due::new(now),
            counters: super::Counters::default(),
            tip,
            params,
            setup,
        };
        let mut effects = Effects::default();
        match records {
            Records::Kept(records) => replica.restore(now, view, records, &mut effects)?,
            Records::Missing if replica.setup.own.is_some() => {
                replica.silence = Some(Silence::LostLog(epoch));
                effects.remember.push(SafetyRecord::Silent(epoch));
            }
            Records::Missing => {}
        }
        replica.settle_down(now, view, &mut effects)?;
        replica.finish_turn(&mut effects);
        Ok((replica, effects))
    }

    /// Takes back everything that was said in the current epoch and at the current height. Own votes are signed and
    /// published once more: whether they had left before the stop is not known, and signing is deterministic.
    fn restore(
        &mut self,
        now: Time,
        view: &dyn View,
        records: Vec<SafetyRecord>,
        effects: &mut Effects,
    ) -> Result<(), OpenError> {
        let epoch = self.finality.epoch();
        let mut bodies = BTreeMap::new();
        let mut batches: BTreeMap<u64, VoteBatch> = BTreeMap::new();
        let mut silent: Option<Epoch> = None;
        for record in records {
            match record {
                SafetyRecord::Transaction(bytes) => {
                    let body = check::check(&self.setup.electorate.chain, &bytes)
                        .map_err(|error| OpenError::Record(format!("a remembered transaction: {error}")))?;
                    bodies.insert(body.txid(), body);
                }
                SafetyRecord::Votes(batch) if batch.epoch == epoch => {
                    batches.insert(batch.sequence, batch);
                }
                SafetyRecord::Votes(_) => {}
                SafetyRecord::Signed {
                    height,
                    round,
                    phase,
                    block,
                } => {
                    self.restore_mark(Mark::Signed {
                        height,
                        round,
                        phase,
                        block,
                    });
                }
                SafetyRecord::ViewChange(change) => self.restore_mark(Mark::ViewChanged(change)),
                SafetyRecord::Prepared { proposal, certificate } => {
                    self.restore_mark(Mark::Prepared { proposal, certificate });
                }
                SafetyRecord::Seal(seal) if seal.epoch == epoch => {
                    self.sealed = true;
                    self.finality.seal();
                    effects.sign.push(Statement::Seal(seal));
                }
                SafetyRecord::Seal(_) => {}
                SafetyRecord::Silent(until) => silent = silent.max(Some(until)),
            }
        }
        self.silence = silent.filter(|until| *until >= epoch).map(Silence::LostLog);
        let alive = self.readmit(now, view, bodies)?;
        for batch in batches.into_values() {
            self.finality.restore(now, &batch, |txid| alive.get(txid).cloned());
            effects.sign.push(Statement::Votes(batch));
        }
        self.revive_pending(view)?;
        Ok(())
    }

    fn restore_mark(&mut self, mark: Mark) {
        if mark.height() == self.tip.height.next() {
            self.consensus.restore(&mark);
        }
    }

    /// Puts remembered transactions back into the pool, parents first; those that are settled are left out. Answers them
    /// with their fee rates.
    fn readmit(
        &mut self,
        now: Time,
        view: &dyn View,
        bodies: BTreeMap<TxId, CheckedTransaction>,
    ) -> Result<BTreeMap<TxId, (CheckedTransaction, u64)>, OpenError> {
        let mut open = Vec::new();
        for (txid, body) in bodies {
            if view.location(&txid)?.is_none() && view.rejected(&txid)?.is_none() {
                open.push(body);
            }
        }
        let mut alive: BTreeMap<TxId, (CheckedTransaction, u64)> = BTreeMap::new();
        loop {
            let before = open.len();
            let mut left = Vec::new();
            for body in open {
                match self.restored_fee(view, &body, &alive)? {
                    Some(fee) => {
                        // It was admitted before, and limits have not shrunk; were they to have, the lock still counts.
                        let _ = self.pool.admit(now, body.clone(), fee);
                        self.payments.admit(body.clone());
                        let rate = pool::rate_milli(fee, body.bytes().len());
                        alive.insert(body.txid(), (body, rate));
                    }
                    None => left.push(body),
                }
            }
            if left.is_empty() || left.len() == before {
                return Ok(alive); // what is left spends what a block has spent otherwise
            }
            open = left;
        }
    }

    fn restored_fee(
        &self,
        view: &dyn View,
        body: &CheckedTransaction,
        alive: &BTreeMap<TxId, (CheckedTransaction, u64)>,
    ) -> Result<Option<Amount>, OpenError> {
        let mut inputs = Vec::new();
        for outpoint in body.inputs() {
            let parent = || {
                let (parent, _) = alive.get(&outpoint.txid)?;
                let output = *parent.outputs().get(usize::try_from(outpoint.index).ok()?)?;
                Some(Coin {
                    output,
                    height: self.tip.height.next(),
                })
            };
            match view.coin(outpoint)?.or_else(parent) {
                Some(coin) => inputs.push(coin.output.value),
                None => return Ok(None),
            }
        }
        let spent = Amount::sum(inputs);
        let made = Amount::sum(body.outputs().iter().map(|output| output.value));
        Ok(spent.zip(made).and_then(|(spent, made)| spent.checked_sub(made)))
    }
}

/// The commit certificates inside the last blocks, oldest first.
fn recent_commits(view: &dyn View, tip: Height) -> Result<Vec<BlockCertificate>, OpenError> {
    let from = tip.0.saturating_sub(LEADER_WINDOW as u64 - 1).max(1);
    let mut recent = Vec::new();
    for height in from..=tip.0 {
        recent.extend(view.block(Height(height))?.and_then(|block| block.block.last_commit));
    }
    Ok(recent)
}
