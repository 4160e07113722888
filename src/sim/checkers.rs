//! What must hold (protocol, section 10), looked at after every step. The checkers see everything that correct nodes
//! sign, write and report, over all time and across restarts; they know nothing of how it came about.

use super::{
    book::{Book, Purpose},
    clock::Micros,
};
use crate::{
    ledger::{Batch, Tip},
    primitives::{
        Amount, BlockId, ChainId, Epoch, Genesis, Gossip, Hash, Height, OutPoint, Round, TxId, ValidatorIndex,
        ValidatorSet, Vote, VoteBatch, VoteKind, vote::Phase,
    },
    replica::{Committed, SafetyRecord},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
};

/// What is looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Checker {
    /// 1: conflicting payments are never both final or in blocks.
    Conflict,
    /// 2: one block at each height.
    Fork,
    /// 3: what was final is committed and never rejected.
    FinalLost,
    /// 4: when faults end, everything valid finishes.
    Liveness,
    /// 5: supply changes only by the schedule.
    Supply,
    /// 6: a correct validator never contradicts itself.
    Contradiction,
    /// 7: the same height, the same coins and root.
    Divergence,
    /// 8: memory stays bounded.
    Memory,
    /// What breaks a rule of the ledger is never final or in a block.
    Invalid,
    /// A receipt proves what it says.
    Receipt,
    /// Correct nodes are never blamed for what they send.
    Blame,
    /// The node does not stop by itself.
    Stopped,
}

/// Something that must not be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who noticed.
    pub checker: Checker,
    /// When, in true time.
    pub at: Micros,
    /// What.
    pub what: String,
}

impl fmt::Display for Violation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (seconds, micros) = (self.at / 1_000_000, self.at % 1_000_000);
        write!(f, "{:?} at {seconds}.{micros:06} s: {}", self.checker, self.what)
    }
}

/// Everything one correct validator has signed.
#[derive(Debug, Default)]
struct Spoken {
    /// By height, round and phase.
    blocks: BTreeMap<(Height, Round, Phase), BlockId>,
    /// By height: view changes with what they claim.
    changes: BTreeMap<(Height, Round), [u8; 32]>,
    /// By epoch and sequence: the batch's digest.
    batches: BTreeMap<(Epoch, u64), [u8; 32]>,
    /// By epoch and transaction.
    finals: BTreeSet<(Epoch, TxId)>,
    abandons: BTreeSet<(Epoch, TxId)>,
    /// By epoch and coin: for whom it is locked.
    locks: BTreeMap<(Epoch, OutPoint), TxId>,
    seals: BTreeMap<Epoch, [u8; 32]>,
}

/// What one correct validator has written down, in its order.
#[derive(Debug, Default)]
struct Decided {
    /// By height: the round that it has left all lower ones for.
    left: BTreeMap<Height, Round>,
    sealed: BTreeSet<Epoch>,
    /// Of these, in earlier turns.
    sealed_before: BTreeSet<Epoch>,
}

/// All checkers and what they remember.
pub struct Checkers {
    chain: ChainId,
    genesis_supply: u128,
    issuance: u128,
    epoch_length: u64,
    now: Micros,
    set: ValidatorSet,
    spoken: BTreeMap<ValidatorIndex, Spoken>,
    decided: BTreeMap<usize, Decided>,
    /// By height, round and block: power of the correct validators that signed Commit.
    commits: BTreeMap<(Height, Round, BlockId), u128>,
    /// By height: the first round and block that a quorum of correct validators signed Commit for, whoever heard of it.
    fixed: BTreeMap<Height, (Round, BlockId)>,
    blocks: BTreeMap<Height, (BlockId, Hash)>,
    tips: BTreeMap<Height, Tip>,
    /// By coin: the transaction that is final or committed and spends it.
    spent: BTreeMap<OutPoint, TxId>,
    finals: BTreeSet<TxId>,
    rejected: BTreeMap<TxId, Height>,
    committed: BTreeMap<TxId, Height>,
}

/// What a check answers.
pub type Verdict = Result<(), Violation>;

impl Checkers {
    /// Checkers that have seen nothing.
    pub fn new(genesis: &Genesis, chain: ChainId) -> Self {
        Self {
            chain,
            genesis_supply: genesis.supply().unwrap_or_default().0.into(),
            issuance: genesis.params.issuance_per_epoch.into(),
            epoch_length: genesis.params.epoch_length,
            now: 0,
            set: genesis.validators.clone(),
            spoken: BTreeMap::new(),
            decided: BTreeMap::new(),
            commits: BTreeMap::new(),
            fixed: BTreeMap::new(),
            blocks: BTreeMap::new(),
            tips: BTreeMap::new(),
            spent: BTreeMap::new(),
            finals: BTreeSet::new(),
            rejected: BTreeMap::new(),
            committed: BTreeMap::new(),
        }
    }

    /// Tells the time, for violations.
    pub fn at(&mut self, now: Micros) {
        self.now = now;
    }

    /// A violation, now.
    pub fn violation(&self, checker: Checker, what: String) -> Violation {
        Violation {
            checker,
            at: self.now,
            what,
        }
    }

    fn require(&self, holds: bool, checker: Checker, what: impl FnOnce() -> String) -> Verdict {
        if holds {
            Ok(())
        } else {
            Err(self.violation(checker, what()))
        }
    }

    /// Payments reported final by correct nodes.
    pub const fn finals(&self) -> &BTreeSet<TxId> {
        &self.finals
    }

    /// Transactions in blocks.
    pub const fn committed(&self) -> &BTreeMap<TxId, Height> {
        &self.committed
    }

    /// Transactions rejected by blocks.
    pub const fn rejected(&self) -> &BTreeMap<TxId, Height> {
        &self.rejected
    }

    /// The blocks decided so far.
    pub const fn blocks(&self) -> &BTreeMap<Height, (BlockId, Hash)> {
        &self.blocks
    }

    /// A correct node reported a payment final.
    pub fn on_final(&mut self, book: &Book, node: usize, txid: &TxId) -> Verdict {
        self.finals.insert(*txid);
        self.require(!self.rejected.contains_key(txid), Checker::FinalLost, || {
            format!("node {node} calls {} final, which a block rejected", txid.short())
        })?;
        self.settles(book, node, txid, "final")
    }

    /// A correct node wrote a block.
    pub fn on_write(&mut self, book: &Book, node: usize, before: &Tip, batch: &Batch) -> Verdict {
        let applied = &batch.applied;
        let tip = &applied.tip;
        let (height, block) = (tip.height, applied.block);
        self.require(height == before.height.next(), Checker::Fork, || {
            format!("node {node} writes block {height} on height {}", before.height)
        })?;
        let known = *self.blocks.entry(height).or_insert((block, tip.utxo_root));
        self.require(known.0 == block, Checker::Fork, || {
            format!(
                "height {height}: node {node} commits {}, others {}",
                block.short(),
                known.0.short()
            )
        })?;
        self.require(known.1 == tip.utxo_root, Checker::Divergence, || {
            format!(
                "height {height}: node {node} has root {}, others {}",
                tip.utxo_root.short(),
                known.1.short()
            )
        })?;
        self.check_supply(node, before, batch)?;
        self.same_accounts(node, tip)?;
        for txid in &applied.transactions {
            self.committed.insert(*txid, height);
            self.require(!self.rejected.contains_key(txid), Checker::Conflict, || {
                format!("node {node}: block {height} has {}, which was rejected", txid.short())
            })?;
            self.settles(book, node, txid, "committed")?;
        }
        for txid in &applied.rejected {
            self.rejected.insert(*txid, height);
            self.require(!self.finals.contains(txid), Checker::FinalLost, || {
                format!("node {node}: block {height} rejects {}, which is final", txid.short())
            })?;
            self.require(!self.committed.contains_key(txid), Checker::Conflict, || {
                format!(
                    "node {node}: block {height} rejects {}, which is in a block",
                    txid.short()
                )
            })?;
            let contested = !book.rivals(txid).is_empty();
            self.require(contested || book.get(txid).is_none(), Checker::Liveness, || {
                format!(
                    "node {node}: block {height} rejects {}, which has no rival",
                    txid.short()
                )
            })?;
        }
        Ok(())
    }

    /// A correct node reported a block committed.
    pub fn on_committed(&self, node: usize, committed: &Committed) -> Verdict {
        let known = self.blocks.get(&committed.height).map(|(block, _)| *block);
        self.require(known == Some(committed.block), Checker::Fork, || {
            format!("node {node} reports another block at height {}", committed.height)
        })
    }

    /// A transaction is final or in a block: nothing else may ever spend its coins.
    fn settles(&mut self, book: &Book, node: usize, txid: &TxId, how: &str) -> Verdict {
        let Some(entry) = book.get(txid) else {
            return Err(self.violation(
                Checker::Invalid,
                format!("node {node}: {} is {how}, which nobody made", txid.short()),
            ));
        };
        self.require(entry.purpose != Purpose::Invalid, Checker::Invalid, || {
            format!("node {node}: {} is {how}, which breaks a rule", txid.short())
        })?;
        for input in entry.transaction.inputs() {
            let other = *self.spent.entry(*input).or_insert(*txid);
            self.require(other == *txid, Checker::Conflict, || {
                format!(
                    "node {node}: {} is {how}, and {} also spends {input}",
                    txid.short(),
                    other.short()
                )
            })?;
        }
        Ok(())
    }

    fn check_supply(&self, node: usize, before: &Tip, batch: &Batch) -> Verdict {
        let tip = &batch.applied.tip;
        let closed = u128::from(tip.height.0 / self.epoch_length);
        let scheduled = self.genesis_supply + self.issuance * closed;
        self.require(u128::from(tip.supply.0) == scheduled, Checker::Supply, || {
            format!(
                "node {node}: supply {} at height {}, scheduled {scheduled}",
                tip.supply.0, tip.height
            )
        })?;
        let sum = |coins: &[(OutPoint, crate::primitives::Coin)]| -> i128 {
            coins.iter().map(|(_, coin)| i128::from(coin.output.value.0)).sum()
        };
        let free = |tip: &Tip| i128::from(tip.supply.0) - i128::from(tip.fees.0);
        let moved = sum(&batch.applied.created) - sum(&batch.applied.spent);
        self.require(moved == free(tip) - free(before), Checker::Supply, || {
            format!(
                "node {node}: block {} makes {moved} units more than it spends",
                tip.height
            )
        })
    }

    /// A correct validator signed something.
    pub fn on_signed(&mut self, book: &Book, node: usize, statement: &Gossip) -> Verdict {
        let digest_of = self.chain;
        match statement {
            Gossip::Votes(batch) => self.on_votes(book, node, batch),
            Gossip::Proposal(proposal) => {
                let block = proposal.block_id(&digest_of);
                let place = (proposal.height, proposal.round, Phase::Propose);
                self.on_block_vote(node, proposal.leader, place, block)
            }
            Gossip::BlockVote(vote) => {
                self.on_block_vote(node, vote.validator, (vote.height, vote.round, vote.phase), vote.block)
            }
            Gossip::ViewChange(change) => {
                let digest = change.digest(&digest_of);
                let spoken = self.spoken.entry(change.validator).or_default();
                let known = *spoken.changes.entry((change.height, change.round)).or_insert(digest);
                self.require(known == digest, Checker::Contradiction, || {
                    format!(
                        "node {node} signs two view changes to {}/{}",
                        change.height, change.round
                    )
                })
            }
            Gossip::Seal(seal) => {
                let digest = seal.digest(&digest_of);
                let spoken = self.spoken.entry(seal.validator).or_default();
                let known = *spoken.seals.entry(seal.epoch).or_insert(digest);
                let omitted = spoken.finals.iter().find(|(epoch, txid)| {
                    let settled = self.committed.contains_key(txid) || self.rejected.contains_key(txid);
                    *epoch == seal.epoch && !seal.txids.contains(txid) && !settled
                });
                let omitted = omitted.map(|(_, txid)| *txid);
                self.require(known == digest, Checker::Contradiction, || {
                    format!("node {node} signs two seals of epoch {}", seal.epoch)
                })?;
                self.require(omitted.is_none(), Checker::Contradiction, || {
                    format!("node {node}: the seal of epoch {} leaves out {omitted:?}", seal.epoch)
                })
            }
            Gossip::Transactions(_) | Gossip::Status(_) => Ok(()),
        }
    }

    fn on_block_vote(
        &mut self,
        node: usize,
        validator: ValidatorIndex,
        place: (Height, Round, Phase),
        block: BlockId,
    ) -> Verdict {
        let (height, round, phase) = place;
        let spoken = self.spoken.entry(validator).or_default();
        let new = !spoken.blocks.contains_key(&place);
        let known = *spoken.blocks.entry(place).or_insert(block);
        self.require(known == block, Checker::Contradiction, || {
            let (one, other) = (known.short(), block.short());
            format!("node {node} signs {phase:?} at {height}/{round} for {one} and for {other}")
        })?;
        if new && phase == Phase::Commit {
            let power = self.commits.entry((height, round, block)).or_default();
            *power += self.set.power(validator);
            if 3 * *power > 2 * self.set.total_power() {
                self.fixed.entry(height).or_insert((round, block));
            }
        }
        let other = self
            .fixed
            .get(&height)
            .filter(|(fixed, kept)| *fixed < round && *kept != block);
        self.require(phase == Phase::Commit || other.is_none(), Checker::Fork, || {
            format!(
                "node {node} signs {phase:?} at {height}/{round} for {}, fixed is {other:?}",
                block.short()
            )
        })
    }

    /// A correct validator wrote something down: this is the order in which it decides.
    pub fn on_remembered(&mut self, node: usize, records: &[SafetyRecord]) -> Verdict {
        for record in records {
            let decided = self.decided.entry(node).or_default();
            match record {
                SafetyRecord::ViewChange(change) => {
                    let left = decided.left.entry(change.height).or_default();
                    *left = change.round.max(*left);
                }
                SafetyRecord::Signed {
                    height, round, phase, ..
                } => {
                    let left = decided.left.get(height).copied().unwrap_or_default();
                    self.require(*round >= left, Checker::Contradiction, || {
                        format!("node {node} decides {phase:?} at {height}/{round} after its view change to {left}")
                    })?;
                }
                SafetyRecord::Seal(seal) => {
                    decided.sealed.insert(seal.epoch);
                }
                _ => {}
            }
        }
        // Votes of the turn that seals were decided before it, though they are written down at its end.
        for record in records {
            let decided = self.decided.entry(node).or_default();
            let SafetyRecord::Votes(batch) = record else { continue };
            let sealed = decided.sealed_before.contains(&batch.epoch);
            self.require(!sealed, Checker::Contradiction, || {
                format!("node {node} votes in epoch {} after sealing it", batch.epoch)
            })?;
        }
        let decided = self.decided.entry(node).or_default();
        decided.sealed_before.clone_from(&decided.sealed);
        Ok(())
    }

    fn on_votes(&mut self, book: &Book, node: usize, batch: &VoteBatch) -> Verdict {
        let digest = batch.head().digest(&self.chain);
        let spoken = self.spoken.entry(batch.validator).or_default();
        let (epoch, sequence) = (batch.epoch, batch.sequence);
        let again = spoken.batches.contains_key(&(epoch, sequence));
        let known = *spoken.batches.entry((epoch, sequence)).or_insert(digest);
        self.require(known == digest, Checker::Contradiction, || {
            format!("node {node} signs two vote batches {sequence} of epoch {epoch}")
        })?;
        if again {
            return Ok(());
        }
        for vote in &batch.votes {
            self.on_vote(book, node, batch, vote)?;
        }
        Ok(())
    }

    fn on_vote(&mut self, book: &Book, node: usize, batch: &VoteBatch, vote: &Vote) -> Verdict {
        let key = (batch.epoch, vote.txid);
        let spoken = self.spoken.entry(batch.validator).or_default();
        match vote.kind {
            VoteKind::Final => spoken.finals.insert(key),
            VoteKind::Abandon => spoken.abandons.insert(key),
            VoteKind::Lock => false,
        };
        let both = spoken.finals.contains(&key) && spoken.abandons.contains(&key);
        self.require(!both, Checker::Contradiction, || {
            format!("node {node} votes Final and Abandon for {}", vote.txid.short())
        })?;
        if vote.kind != VoteKind::Lock {
            return Ok(());
        }
        let inputs = book.get(&vote.txid).map_or(&[][..], |entry| entry.transaction.inputs());
        for input in inputs {
            let spoken = self.spoken.entry(batch.validator).or_default();
            let before = spoken.locks.insert((batch.epoch, *input), vote.txid);
            // Once the validator has committed a block that rejects the other, or that spends one of its coins
            // otherwise, the coin is free.
            let freed = |other: &TxId| {
                self.impossible_since(book, other)
                    .is_some_and(|height| height <= batch.height)
            };
            let held = before.filter(|other| *other != vote.txid && !freed(other));
            self.require(held.is_none(), Checker::Contradiction, || {
                format!("node {node} locks {input} for {} and for {held:?}", vote.txid.short())
            })?;
        }
        Ok(())
    }

    /// The block from which on a transaction can never be committed.
    fn impossible_since(&self, book: &Book, txid: &TxId) -> Option<Height> {
        let rivals = book.rivals(txid).into_iter();
        let spent = rivals.filter_map(|rival| self.committed.get(&rival).copied());
        spent.chain(self.rejected.get(txid).copied()).min()
    }

    /// Evidence against somebody correct.
    pub fn on_evidence(&self, node: usize, validator: ValidatorIndex, what: &str) -> Verdict {
        Err(self.violation(
            Checker::Contradiction,
            format!("node {node} holds evidence against validator {validator}, which is correct: {what}"),
        ))
    }

    /// At the end: all coins of a node and its tip.
    pub fn on_coins(&self, node: usize, tip: &Tip, root: Hash, sum: u128) -> Verdict {
        self.require(root == tip.utxo_root, Checker::Divergence, || {
            format!(
                "node {node}: its coins have root {}, its tip says {}",
                root.short(),
                tip.utxo_root.short()
            )
        })?;
        let free = u128::from(tip.supply.0) - u128::from(tip.fees.0);
        self.require(sum == free, Checker::Supply, || {
            format!("node {node}: its coins add up to {sum}, supply without fees is {free}")
        })
    }

    /// A node has fetched a state: it must be the one that the others had there.
    pub fn on_synced(&mut self, node: usize, tip: &Tip) -> Verdict {
        let known = self.blocks.get(&tip.height).copied();
        self.require(known == Some((tip.block, tip.utxo_root)), Checker::Divergence, || {
            format!(
                "node {node} has fetched the state after block {}, which is another there",
                tip.height
            )
        })?;
        self.same_accounts(node, tip)
    }

    /// What no header commits to and every node must reckon alike: supply, fees, who signed.
    fn same_accounts(&mut self, node: usize, tip: &Tip) -> Verdict {
        let known = self.tips.entry(tip.height).or_insert_with(|| tip.clone()).clone();
        self.require(known == *tip, Checker::Divergence, || {
            format!("node {node} reckons {tip:?}, others {known:?}")
        })
    }

    /// The most that a node's memory may hold.
    pub fn on_memory(&self, node: usize, what: &str, found: u64, most: u64) -> Verdict {
        self.require(found <= most, Checker::Memory, || {
            format!("node {node}: {found} {what}, at most {most} allowed")
        })
    }

    /// What the supply must be.
    pub fn genesis_supply(&self) -> Amount {
        Amount(u64::try_from(self.genesis_supply).unwrap_or(u64::MAX))
    }
}
