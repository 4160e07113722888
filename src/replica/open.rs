//! From a store and a safety log to a replica that contradicts neither.

use super::{Effects, Ended, OpenError, Payments, Records, Replica, SafetyRecord, Setup, Silence, Statement, chores};
use crate::{
    consensus::{self, Consensus, LEADER_WINDOW, Mark},
    epoch::Seals,
    finality::Finality,
    ledger::{CheckedTransaction, Commitment, View, ViewError, check},
    pool::{self, Backing, Pool},
    primitives::{Amount, BlockCertificate, Certificate, Epoch, EpochSeal, Height, Time, Transaction, TxId, VoteBatch},
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
            unheard: Vec::new(),
            later: Vec::new(),
            orphans: BTreeMap::new(),
            sealed: false,
            peers: BTreeSet::new(),
            asked: BTreeMap::new(),
            bodies_asked: BTreeSet::new(),
            next_request: 0,
            rng: ChaCha8Rng::seed_from_u64(setup.seed),
            awaiting: super::awaiting::Awaiting::default(),
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

    /// Takes back everything that was said and still binds. Own votes are signed and published once more: whether they had
    /// left before the stop is not known, and signing is deterministic. The store may have lost its last blocks, which
    /// the log has not: what was said about later heights and epochs waits until they are reached again.
    fn restore(
        &mut self,
        now: Time,
        view: &dyn View,
        records: Vec<SafetyRecord>,
        effects: &mut Effects,
    ) -> Result<(), OpenError> {
        let epoch = self.finality.epoch();
        let mut bodies = Vec::new();
        let mut silent: Option<Epoch> = None;
        for record in records {
            match record {
                SafetyRecord::Transaction(bytes) => bodies.push(bytes),
                SafetyRecord::Votes(VoteBatch { epoch: of, .. })
                | SafetyRecord::Seen(VoteBatch { epoch: of, .. })
                | SafetyRecord::Certificate(Certificate { epoch: of, .. })
                | SafetyRecord::Seal(EpochSeal { epoch: of, .. }) => {
                    if of >= epoch {
                        self.later.push(record);
                    }
                }
                SafetyRecord::Signed {
                    height,
                    round,
                    phase,
                    block,
                } => {
                    self.consensus.restore(&Mark::Signed {
                        height,
                        round,
                        phase,
                        block,
                    });
                }
                SafetyRecord::ViewChange(change) => self.consensus.restore(&Mark::ViewChanged(change)),
                SafetyRecord::Prepared { proposal, certificate } => {
                    self.consensus.restore(&Mark::Prepared { proposal, certificate });
                }
                SafetyRecord::Silent(until) => silent = silent.max(Some(until)),
            }
        }
        self.silence = silent.filter(|until| *until >= epoch).map(Silence::LostLog);
        let bodies = self.open_bodies(view, bodies)?;
        self.readmit(now, view, bodies)?;
        self.restore_votes(now, view, effects)?;
        self.revive_pending(view)?;
        Ok(())
    }

    /// Whether something said in the epoch that the store has reached is not yet taken back.
    pub(super) fn must_restore_votes(&self) -> bool {
        let epoch = self.finality.epoch();
        self.later.iter().any(|record| match record {
            SafetyRecord::Votes(VoteBatch { epoch: of, .. }) | SafetyRecord::Seal(EpochSeal { epoch: of, .. }) => {
                *of == epoch
            }
            _ => false,
        })
    }

    /// Takes back what was said in the epoch that the store has reached.
    pub(super) fn restore_votes(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        let epoch = self.finality.epoch();
        let mut batches: BTreeMap<u64, VoteBatch> = BTreeMap::new();
        let (mut seen, mut certificates) = (Vec::new(), Vec::new());
        for record in std::mem::take(&mut self.later) {
            match record {
                SafetyRecord::Votes(batch) if batch.epoch == epoch => {
                    batches.insert(batch.sequence, batch);
                }
                SafetyRecord::Seal(seal) if seal.epoch == epoch => {
                    self.sealed = true;
                    self.finality.seal();
                    self.unheard.push(SafetyRecord::Seal(seal.clone()));
                    effects.sign.push(Statement::Seal(seal));
                }
                SafetyRecord::Seen(batch) if batch.epoch == epoch => seen.push(batch),
                SafetyRecord::Certificate(certificate) if certificate.epoch == epoch => certificates.push(certificate),
                SafetyRecord::Votes(VoteBatch { epoch: of, .. })
                | SafetyRecord::Seen(VoteBatch { epoch: of, .. })
                | SafetyRecord::Certificate(Certificate { epoch: of, .. })
                | SafetyRecord::Seal(EpochSeal { epoch: of, .. })
                    if of > epoch =>
                {
                    self.later.push(record);
                }
                _ => {}
            }
        }
        let mut settled = BTreeSet::new();
        for vote in batches.values().flat_map(|batch| &batch.votes) {
            if view.location(&vote.txid)?.is_some() || view.rejected(&vote.txid)?.is_some() {
                settled.insert(vote.txid);
            }
        }
        let last = batches.last_key_value().map(|(sequence, _)| *sequence);
        for batch in batches.into_values() {
            let (pool, orphans) = (&self.pool, &self.orphans);
            // A lock holds whether or not its inputs are known here again.
            let body = |txid: &TxId| {
                let pooled = pool.get(txid).zip(pool.rate_milli(txid));
                pooled.or_else(|| orphans.get(txid).map(|orphan| (orphan.clone(), 0)))
            };
            self.finality.restore(now, &batch, |txid| settled.contains(txid), body);
            // What is settled interests nobody; but the last one says how far was counted.
            if Some(batch.sequence) == last || !batch.votes.iter().all(|vote| settled.contains(&vote.txid)) {
                self.unheard.push(SafetyRecord::Votes(batch.clone()));
                effects.sign.push(Statement::Votes(batch));
            }
        }
        // Refusals are duplicates: the others may have repeated these meanwhile.
        for batch in seen {
            drop(self.finality.on_batch(now, batch));
        }
        for certificate in certificates {
            drop(self.finality.on_certificate(now, certificate));
        }
        Ok(())
    }

    /// Remembered transactions that are not settled, in the order of their txids. A log holds many that are, so their
    /// signatures are not even looked at.
    fn open_bodies(&self, view: &dyn View, records: Vec<Vec<u8>>) -> Result<Vec<CheckedTransaction>, OpenError> {
        let chain = &self.setup.electorate.chain;
        let wrong = |error: String| OpenError::Record(format!("a remembered transaction: {error}"));
        let mut open = BTreeMap::new();
        for bytes in records {
            let txid = Transaction::decode(chain, &bytes)
                .map_err(|error| wrong(error.to_string()))?
                .txid();
            if view.location(&txid)?.is_none() && view.rejected(&txid)?.is_none() {
                open.insert(txid, bytes);
            }
        }
        let open: Vec<Vec<u8>> = open.into_values().collect();
        let mut bodies = Vec::with_capacity(open.len());
        for body in check::check_all(chain, &open) {
            let body = body.map_err(|error| wrong(error.to_string()))?;
            if !is_dead(view, &body)? {
                bodies.push(body);
            }
        }
        Ok(bodies)
    }

    /// Puts remembered transactions back into the pool, parents first. What has an input that is not known here (yet) is
    /// kept aside.
    fn readmit(&mut self, now: Time, view: &dyn View, mut open: Vec<CheckedTransaction>) -> Result<(), OpenError> {
        loop {
            let before = open.len();
            let mut left = Vec::new();
            for body in open {
                match self.restored_fee(view, &body)? {
                    // It was admitted before, and limits have not shrunk; were they to have, the lock still counts.
                    Some(fee) if self.pool.admit(now, body.clone(), fee, Backing::Lock).is_ok() => {
                        let rate = pool::rate_milli(fee, body.bytes().len());
                        self.finality.on_transaction(now, &body, rate, false);
                        self.payments.admit(body);
                    }
                    Some(_) => drop(self.orphans.insert(body.txid(), body)),
                    None => left.push(body),
                }
            }
            if left.is_empty() || left.len() == before {
                self.orphans.extend(left.into_iter().map(|body| (body.txid(), body)));
                return Ok(());
            }
            open = left;
        }
    }

    /// Blocks have come that were lost: what waited for them goes back into the pool.
    pub(super) fn adopt_orphans(&mut self, now: Time, view: &dyn View, effects: &mut Effects) -> Result<(), ViewError> {
        for (txid, orphan) in std::mem::take(&mut self.orphans) {
            let settled = view.location(&txid)?.is_some() || view.rejected(&txid)?.is_some();
            if settled || is_dead(view, &orphan)? {
                continue;
            }
            match self.admit(now, view, &orphan, effects)? {
                Ok(_) => self.pool.protect(&txid),
                Err(_) => drop(self.orphans.insert(txid, orphan)),
            }
        }
        Ok(())
    }

    fn restored_fee(&self, view: &dyn View, body: &CheckedTransaction) -> Result<Option<Amount>, OpenError> {
        let mut inputs = Vec::new();
        for outpoint in body.inputs() {
            match view.coin(outpoint)?.or_else(|| self.pending_coin(outpoint)) {
                Some(coin) => inputs.push(coin.output.value),
                None => return Ok(None),
            }
        }
        let spent = Amount::sum(inputs);
        let made = Amount::sum(body.outputs().iter().map(|output| output.value));
        Ok(spent.zip(made).and_then(|(spent, made)| spent.checked_sub(made)))
    }
}

/// Whether a block has spent one of its coins otherwise: the coin is gone though what made it is in a block.
fn is_dead(view: &dyn View, body: &CheckedTransaction) -> Result<bool, ViewError> {
    for outpoint in body.inputs() {
        if view.coin(outpoint)?.is_none() && view.location(&outpoint.txid)?.is_some() {
            return Ok(true);
        }
    }
    Ok(false)
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
