//! The model: which steps are possible in a state, and where they lead.

use crate::rules::{FreedBy, LostLog, Parent, Rules};
use crate::state::{CORRECT, EPOCHS, Seal, Set, State, TRANSACTIONS, Validator, Votes, has, members, subsets};
use stateright::{Model, Property};

/// A transaction: the coins it spends and the transactions whose outputs are among them.
#[derive(Clone, Copy, Debug)]
pub struct Transaction {
    /// One bit per coin.
    pub coins: u8,
    pub parents: Set,
}

/// The transactions of a scenario and the bounds it is explored within.
#[derive(Clone, Copy, Debug)]
pub struct Scenario {
    pub name: &'static str,
    pub transactions: &'static [Transaction],
    /// Permutations of the transactions that change nothing; the identity is not listed.
    pub symmetries: &'static [[usize; TRANSACTIONS]],
    /// Blocks in an epoch, the closing block included.
    pub epoch_length: u8,
    /// Blocks in all.
    pub max_height: u8,
    /// How many safety logs are lost in all.
    pub max_losses: u8,
    /// The chain may be lost together with the safety log.
    pub chain_may_be_lost: bool,
    /// What must be reachable here, so that the check is not about an empty world.
    pub reachable: fn() -> Vec<Property<World>>,
}

/// A scenario under some rules.
pub struct World {
    pub scenario: Scenario,
    pub rules: Rules,
    /// Leave out steps that cannot matter: see `useful_votes`, `abandons_wait`, `catch_up` and `forget_closed_epochs`.
    pub reduced: bool,
    /// What must hold, and what must be reachable.
    pub expected: fn(&Scenario) -> Vec<Property<World>>,
}

/// What may happen next. Validators are named by their place in the sorted state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    Lock(usize, usize),
    Final(usize, usize),
    Abandon(usize, usize),
    Seal(usize),
    /// The validator commits the next decided block.
    Commit(usize),
    LoseLog {
        validator: usize,
        chain_too: bool,
    },
    /// The next block is decided. Bits for correct validators: whose seals it takes, if it closes an epoch, and who
    /// cast Abandon for each transaction just before, where such votes are not steps of their own.
    Decide {
        commits: Set,
        rejects: Set,
        seals: u8,
        abandons: [u8; TRANSACTIONS],
    },
}

impl World {
    fn all(&self) -> Set {
        ((1u16 << self.scenario.transactions.len()) - 1) as Set
    }

    /// Two different transactions that spend one coin.
    pub fn conflict(&self, tx: usize, other: usize) -> bool {
        tx != other && self.scenario.transactions[tx].coins & self.scenario.transactions[other].coins != 0
    }

    /// Everything that conflicts with a transaction.
    pub fn conflicts_of(&self, tx: usize) -> Set {
        members(self.all())
            .filter(|other| self.conflict(tx, *other))
            .fold(0, |set, other| set | 1 << other)
    }

    /// Does a set hold two conflicting transactions?
    pub fn contradicts_itself(&self, set: Set) -> bool {
        members(set).any(|tx| set & self.conflicts_of(tx) != 0)
    }

    /// The epoch that the block at a height belongs to; heights count from 1.
    pub fn epoch_of_block(&self, height: u8) -> u8 {
        (height - 1) / self.scenario.epoch_length
    }

    fn closes(&self, height: u8) -> bool {
        height.is_multiple_of(self.scenario.epoch_length)
    }

    fn epochs(&self) -> u8 {
        self.scenario.max_height.div_ceil(self.scenario.epoch_length)
    }

    /// The epoch that a validator votes in.
    pub fn epoch_of(&self, v: &Validator) -> u8 {
        let by_chain = v.height / self.scenario.epoch_length;
        let ahead = !self.rules.next_epoch_at_closing_block && v.seal.is_some_and(|seal| seal.epoch == by_chain);
        by_chain + u8::from(ahead)
    }

    /// Is there a quorum, the faulty validator included, among the correct ones that match?
    fn quorum(&self, state: &State, needed: usize, matches: impl Fn(&Validator) -> bool) -> bool {
        state.validators.iter().filter(|v| matches(v)).count() + 1 >= needed
    }

    fn cast_in(v: &Validator, epoch: u8, kind: fn(&Votes) -> Set) -> Set {
        v.cast.get(usize::from(epoch)).map_or(0, kind)
    }

    fn cast_ever(v: &Validator, kind: fn(&Votes) -> Set) -> Set {
        v.cast.iter().fold(0, |set, votes| set | kind(votes))
    }

    /// The transactions with a quorum of one kind of vote in an epoch.
    fn with_quorum(&self, state: &State, needed: usize, epoch: u8, kind: fn(&Votes) -> Set) -> Set {
        members(self.all())
            .filter(|tx| self.quorum(state, needed, |v| has(Self::cast_in(v, epoch, kind), *tx)))
            .fold(0, |set, tx| set | 1 << tx)
    }

    /// Transactions with a lock certificate of an epoch.
    pub fn certified(&self, state: &State, epoch: u8) -> Set {
        self.with_quorum(state, self.rules.lock_quorum, epoch, |votes| votes.lock)
    }

    /// Transactions with a quorum of Abandon votes of an epoch.
    pub fn abandoned(&self, state: &State, epoch: u8) -> Set {
        self.with_quorum(state, self.rules.abandon_quorum, epoch, |votes| votes.abandon)
    }

    /// Transactions with a finality certificate of an epoch.
    pub fn final_in(&self, state: &State, epoch: u8) -> Set {
        self.with_quorum(state, self.rules.final_quorum, epoch, |votes| votes.fin)
    }

    /// Transactions with a finality certificate of whatever epoch.
    pub fn final_ever(&self, state: &State) -> Set {
        if self.rules.finals_of_one_epoch {
            return (0..self.epochs()).fold(0, |set, epoch| set | self.final_in(state, epoch));
        }
        members(self.all())
            .filter(|tx| {
                self.quorum(state, self.rules.final_quorum, |v| {
                    has(Self::cast_ever(v, |votes| votes.fin), *tx)
                })
            })
            .fold(0, |set, tx| set | 1 << tx)
    }

    /// Transactions that blocks up to a height have made impossible: another one spends a coin of theirs.
    pub fn dead(&self, state: &State, height: u8) -> Set {
        let committed = state.committed_by(height);
        members(self.all())
            .filter(|tx| self.conflicts_of(*tx) & committed != 0)
            .fold(0, |set, tx| set | 1 << tx)
    }

    /// What counts as rejected for one that stands at a height.
    fn rejected(&self, state: &State, height: u8) -> Set {
        let rejected = state.rejected_by(height);
        if self.rules.rejections_last {
            return rejected;
        }
        let epoch = height / self.scenario.epoch_length;
        members(rejected)
            .filter(|tx| self.epoch_of_block(state.fate[*tx].rejected) == epoch)
            .fold(0, |set, tx| set | 1 << tx)
    }

    /// Does the validator's lock for a transaction still hold its coins?
    fn holds(&self, state: &State, v: &Validator, tx: usize) -> bool {
        let epoch = self.epoch_of(v);
        let freed = self.rejected(state, v.height)
            | self.dead(state, v.height)
            | match self.rules.freed_by {
                FreedBy::CommittedBlock => 0,
                FreedBy::OwnAbandon => v.remembers.abandon,
                FreedBy::AbandonQuorum => self.abandoned(state, epoch),
                FreedBy::ConflictingCertificate => members(self.all())
                    .filter(|tx| self.conflicts_of(*tx) & self.certified(state, epoch) != 0)
                    .fold(0, |set, tx| set | 1 << tx),
            };
        has(v.remembers.lock & !freed, tx)
    }

    /// May the coins of a transaction be spent, as far as the validator can know?
    fn coins_are_there(&self, state: &State, v: &Validator, tx: usize) -> bool {
        let committed = state.committed_by(v.height);
        let outside_blocks = match self.rules.parent {
            Parent::Final => self.final_ever(state),
            Parent::Certified => self.certified(state, self.epoch_of(v)),
        };
        let unspent = !has(committed, tx) && self.conflicts_of(tx) & committed == 0;
        unspent && self.scenario.transactions[tx].parents & !(committed | outside_blocks) == 0
    }

    fn may_lock(&self, state: &State, v: &Validator, tx: usize) -> bool {
        let refused = v.remembers.lock | v.remembers.abandon | self.rejected(state, v.height);
        !has(refused, tx)
            && self.coins_are_there(state, v, tx)
            && (!self.rules.locks_exclude || members(self.conflicts_of(tx)).all(|other| !self.holds(state, v, other)))
    }

    fn may_finalise(&self, state: &State, v: &Validator, tx: usize) -> bool {
        let certificate = !self.rules.final_needs_certificate || has(self.certified(state, self.epoch_of(v)), tx);
        certificate
            && !has(v.remembers.fin | self.rejected(state, v.height), tx)
            && (self.rules.final_after_abandon || !has(v.remembers.abandon, tx))
    }

    /// The time that must have passed without a certificate is the adversary's to choose, so only the conflict counts.
    fn may_abandon(&self, state: &State, v: &Validator, tx: usize) -> bool {
        let settled = state.committed_by(v.height) | self.rejected(state, v.height);
        self.conflicts_of(tx) != 0
            && !has(v.remembers.abandon | settled, tx)
            && (self.rules.abandon_after_final || !has(v.remembers.fin, tx))
    }

    fn may_sign(&self, v: &Validator, seals: bool) -> bool {
        let epoch = self.epoch_of(v);
        let awake = epoch >= v.silent_before || (seals && self.rules.lost_log == LostLog::StillSeals);
        let sealed = v.seal.is_some_and(|seal| seal.epoch == epoch);
        awake && epoch < self.epochs() && (!sealed || (!seals && !self.rules.silent_after_seal))
    }

    /// A seal after the decision for the closing block would help nobody, so it is not a step.
    fn may_seal(&self, state: &State, v: &Validator) -> bool {
        let last = v.height % self.scenario.epoch_length == self.scenario.epoch_length - 1;
        let closing = (v.height / self.scenario.epoch_length + 1) * self.scenario.epoch_length;
        self.may_sign(v, true)
            && v.seal.is_none()
            && (last || !self.rules.seal_at_last_height)
            && state.tip < closing
            && closing <= self.scenario.max_height
    }

    fn validator_steps(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        let v = &state.validators[at];
        if v.height < state.tip {
            steps.push(Step::Commit(at));
        }
        if state.losses < self.scenario.max_losses {
            steps.push(Step::LoseLog {
                validator: at,
                chain_too: false,
            });
            if self.scenario.chain_may_be_lost && v.height > 0 {
                steps.push(Step::LoseLog {
                    validator: at,
                    chain_too: true,
                });
            }
        }
        if !self.reduced && self.may_seal(state, v) {
            steps.push(Step::Seal(at));
        }
        if !self.may_sign(v, false) {
            return;
        }
        for tx in members(self.all()) {
            let useful = if self.reduced {
                self.useful_votes(state, v, tx)
            } else {
                Useful::ALL
            };
            if useful.lock && self.may_lock(state, v, tx) {
                steps.push(Step::Lock(at, tx));
            }
            if useful.fin && self.may_finalise(state, v, tx) {
                steps.push(Step::Final(at, tx));
            }
            if useful.abandon && !self.abandons_wait() && self.may_abandon(state, v, tx) {
                steps.push(Step::Abandon(at, tx));
            }
        }
    }

    /// Every next block that the votes allow. Whether its transactions can be applied is no condition here: that they
    /// always can is one of the properties.
    fn blocks(&self, state: &State, steps: &mut Vec<Step>) {
        let height = state.tip + 1;
        // A block needs votes of a quorum, and one votes on a block only after committing the one before it.
        let present = self.quorum(state, 3, |v| v.height >= state.tip);
        if height > self.scenario.max_height || !present {
            return;
        }
        let epoch = self.epoch_of_block(height);
        let epochs = |only_this: bool| if only_this { epoch..=epoch } else { 0..=epoch };
        let certified = epochs(self.rules.locks_of_this_epoch).fold(0, |set, epoch| set | self.certified(state, epoch));
        let committed = state.committed_by(state.tip);
        let rejected = self.rejected(state, state.tip);
        let open = !committed & !rejected;
        let rejectable = self.all() & if self.rules.committed_stays { open } else { !rejected };
        let mut ways: [Vec<u8>; TRANSACTIONS] = Default::default();
        for tx in members(rejectable) {
            ways[tx] = epochs(self.rules.abandons_of_this_epoch)
                .flat_map(|epoch| self.ways_to_reject(state, epoch, tx))
                .collect();
        }
        if !self.closes(height) {
            push_blocks(certified & open, 0, &ways, 0, steps);
            return;
        }
        let sealed = |at: usize| {
            let v = &state.validators[at];
            let now = (self.reduced && self.may_seal(state, v)).then(|| self.seal_of(state, v));
            v.seal.or(now).filter(|seal| seal.epoch == epoch)
        };
        for seals in
            subsets((1 << CORRECT) - 1).filter(|seals| seals.count_ones() as usize + 1 == self.rules.seal_quorum)
        {
            let lists: Option<Set> = (0..CORRECT)
                .filter(|at| seals & (1 << at) != 0)
                .try_fold(0, |set, at| sealed(at).map(|seal| set | seal.list));
            let Some(listed) = lists else { continue };
            if self.rules.sealed_needs_certificate && listed & !certified != 0 {
                continue;
            }
            let exempt = committed | if self.rules.rejected_stay_out { rejected } else { 0 };
            let required = if self.rules.closing_carries_sealed {
                listed & !exempt
            } else {
                0
            };
            // The faulty validator's own seal may list whatever it likes, and so make anything required.
            let faulty = if self.rules.sealed_needs_certificate {
                0
            } else {
                self.all() & open
            };
            push_blocks(certified & open | required | faulty, required, &ways, seals, steps);
        }
    }

    /// What a validator's seal says if it makes one now.
    fn seal_of(&self, state: &State, v: &Validator) -> Seal {
        let listed = v.remembers.fin & !state.committed_by(v.height);
        Seal {
            epoch: self.epoch_of(v),
            list: if self.rules.seals_list_finals { listed } else { 0 },
        }
    }

    /// Votes that could still lead anywhere. A vote that no certificate needs any more only takes choices away from
    /// the one who casts it, so every behaviour with it is also one without it. In a closed epoch a single voter left
    /// behind can at best complete a finality certificate that somebody else began.
    fn useful_votes(&self, state: &State, v: &Validator, tx: usize) -> Useful {
        let epoch = self.epoch_of(v);
        let closing = (epoch + 1) * self.scenario.epoch_length;
        let closed = closing <= state.tip;
        let left_behind = closed && self.voters_left(state, epoch) == 1;
        let carried = closed && has(state.committed_by(closing), tx);
        let hopeless = left_behind && !has(self.begun(state, epoch), tx);
        Useful {
            lock: !has(self.certified(state, epoch), tx) && !left_behind,
            fin: !has(self.final_in(state, epoch), tx) && !carried && !hopeless,
            // Once the epoch is closed no block asks for a rejection's votes.
            abandon: !has(self.abandoned(state, epoch), tx) && !closed,
        }
    }

    /// How many correct validators may still sign something for an epoch.
    fn voters_left(&self, state: &State, epoch: u8) -> usize {
        state
            .validators
            .iter()
            .filter(|v| self.epoch_of(v) <= epoch && v.silent_before <= epoch)
            .count()
    }

    /// Transactions with a Final vote of somebody correct in an epoch.
    fn begun(&self, state: &State, epoch: u8) -> Set {
        state
            .validators
            .iter()
            .fold(0, |set, v| set | Self::cast_in(v, epoch, |votes| votes.fin))
    }

    /// Are Abandon votes cast only when a block is decided that needs them? Until then they would only keep those who
    /// cast them from other votes, and whoever could cast one before can still do so then, unless it lost its log.
    fn abandons_wait(&self) -> bool {
        self.reduced && self.scenario.max_losses == 0
    }

    /// The ways to bring about the Abandon votes for a transaction: sets of correct validators who cast theirs now.
    fn ways_to_reject(&self, state: &State, epoch: u8, tx: usize) -> Vec<u8> {
        let voters = |wanted: &dyn Fn(&Validator) -> bool| {
            (0..CORRECT)
                .filter(|at| wanted(&state.validators[*at]))
                .fold(0u8, |set, at| set | 1 << at)
        };
        let have = voters(&|v| has(Self::cast_in(v, epoch, |votes| votes.abandon), tx));
        let can = voters(&|v| self.epoch_of(v) == epoch && self.may_sign(v, false) && self.may_abandon(state, v, tx));
        let missing = (self.rules.abandon_quorum - 1).saturating_sub(have.count_ones() as usize);
        let can = if self.abandons_wait() { can & !have } else { 0 };
        subsets(can)
            .filter(|set| set.count_ones() as usize == missing)
            .collect()
    }

    fn decide(&self, state: &mut State, commits: Set, rejects: Set) {
        state.tip += 1;
        for tx in members(commits) {
            state.fate[tx].committed = state.tip;
        }
        for tx in members(rejects) {
            state.fate[tx].rejected = state.tip;
        }
    }

    fn commit(&self, v: &mut Validator) {
        v.height += 1;
        if self.closes(v.height) {
            let sealed = v
                .seal
                .is_some_and(|seal| seal.epoch < v.height / self.scenario.epoch_length);
            if self.rules.next_epoch_at_closing_block || !sealed {
                v.remembers = Votes::default();
            }
            v.seal = v
                .seal
                .filter(|seal| seal.epoch >= v.height / self.scenario.epoch_length);
        }
    }

    fn seal(&self, v: &mut Validator, seal: Seal) {
        v.seal = Some(seal);
        if !self.rules.next_epoch_at_closing_block {
            v.remembers = Votes::default();
        }
    }

    /// Steps that follow a decision without a choice. Those whose seals a closing block takes may as well have sealed
    /// just before it, since a sealed validator does nothing, and may as well commit it at once, since it can do
    /// nothing else. An empty block that closes nothing takes no choice away from those who commit it.
    fn catch_up(&self, before: &State, state: &mut State, changes: Set, seals: u8) {
        for at in (0..CORRECT).filter(|at| seals & (1 << at) != 0 && before.validators[*at].seal.is_none()) {
            let seal = self.seal_of(before, &before.validators[at]);
            self.seal(&mut state.validators[at], seal);
        }
        let idle_after_seal = self.rules.silent_after_seal && self.rules.next_epoch_at_closing_block;
        let harmless = !self.closes(state.tip) && changes == 0;
        for at in 0..CORRECT {
            let sealed = seals & (1 << at) != 0 && idle_after_seal;
            while (sealed && state.validators[at].height < state.tip)
                || (harmless && state.validators[at].height + 1 == state.tip)
            {
                self.commit(&mut state.validators[at]);
            }
        }
    }

    fn lose(&self, state: &mut State, at: usize, chain_too: bool) {
        state.losses += 1;
        let known = if chain_too {
            state.tip
        } else {
            state.validators[at].height
        };
        let v = &mut state.validators[at];
        let kept = if self.rules.lost_log == LostLog::KeepsOwnLocks {
            v.remembers.lock
        } else {
            0
        };
        v.remembers = v.remembers.map(|set| set & kept);
        if chain_too {
            v.height = 0;
        }
        let own = v.height / self.scenario.epoch_length;
        v.silent_before = match self.rules.lost_log {
            LostLog::SilentUntilFreshEpoch | LostLog::StillSeals => known / self.scenario.epoch_length + 1,
            LostLog::SilentUntilOwnNextEpoch => own + 1,
            LostLog::KeepsOwnLocks | LostLog::GoesOn => 0,
        };
    }

    /// Forgets what can make no difference any more, so that states that differ only in it become one.
    fn forget(&self, state: &mut State) {
        let lowest = state.lowest();
        for v in &mut state.validators {
            // The decision for a closing block ends the use of the seals; that the validator is silent stays.
            if let Some(seal) = &mut v.seal
                && (seal.epoch + 1) * self.scenario.epoch_length <= state.tip
            {
                seal.list = 0;
            }
        }
        if !self.rules.rejections_last {
            return;
        }
        // Votes of an epoch that every correct validator has left: no certificate of it can still come about, and
        // those that exist were judged when its closing block was decided.
        let left = usize::from(lowest / self.scenario.epoch_length).min(EPOCHS);
        if self.rules.locks_of_this_epoch && self.rules.abandons_of_this_epoch && self.rules.finals_of_one_epoch {
            for v in &mut state.validators {
                v.cast[..left].fill(Votes::default());
            }
            if self.reduced {
                self.forget_closed_epochs(state);
            }
        }
        // Transactions whose fate every correct validator has committed: no vote on them can follow.
        let settled = state.committed_by(lowest) | state.rejected_by(lowest) | self.dead(state, lowest);
        for v in &mut state.validators {
            v.remembers = v.remembers.map(|set| set & !settled);
            for votes in &mut v.cast {
                *votes = votes.map(|set| set & !settled);
            }
            if let Some(seal) = &mut v.seal {
                seal.list &= !settled;
            }
        }
        // When it happened matters no more, unless somebody may go through those heights again and vote.
        if self.scenario.chain_may_be_lost && self.rules.lost_log != LostLog::SilentUntilFreshEpoch {
            return;
        }
        for fate in &mut state.fate {
            for height in [&mut fate.committed, &mut fate.rejected] {
                *height = if *height != 0 && *height <= lowest { 1 } else { *height };
            }
        }
    }

    /// In a closed epoch where one voter is left, all that can still happen is that it completes a finality certificate
    /// of something that the closing block does not carry. Where it cannot do even that, nobody needs the epoch's votes.
    fn forget_closed_epochs(&self, state: &mut State) {
        for epoch in 0..(state.tip / self.scenario.epoch_length).min(EPOCHS as u8) {
            let (closing, left) = ((epoch + 1) * self.scenario.epoch_length, self.voters_left(state, epoch));
            let open = self.begun(state, epoch) & !state.committed_by(closing);
            if left > 1 || (left == 1 && open != 0) {
                continue;
            }
            for v in &mut state.validators {
                v.cast[usize::from(epoch)] = Votes::default();
                if self.epoch_of(v) == epoch {
                    v.remembers = Votes::default();
                }
            }
        }
    }

    /// The state that stands for all that differ from it by a renaming of validators or of transactions.
    fn representative(&self, mut state: State) -> State {
        self.forget(&mut state);
        state.validators.sort_unstable();
        let renamed = self.scenario.symmetries.iter().map(|names| rename(&state, names));
        renamed.fold(state, |least, other| least.min(other))
    }
}

/// Which votes on a transaction could lead anywhere.
struct Useful {
    lock: bool,
    fin: bool,
    abandon: bool,
}

impl Useful {
    const ALL: Useful = Useful {
        lock: true,
        fin: true,
        abandon: true,
    };
}

/// Every block that carries all that is required and nothing but what is carriable, with every choice of rejections.
fn push_blocks(carriable: Set, required: Set, ways: &[Vec<u8>; TRANSACTIONS], seals: u8, steps: &mut Vec<Step>) {
    for commits in subsets(carriable).filter(|commits| required & !commits == 0) {
        let mut blocks = vec![(0, [0; TRANSACTIONS])];
        for tx in (0..TRANSACTIONS).filter(|tx| !has(commits, *tx)) {
            let with = |(rejects, abandons): (Set, [u8; TRANSACTIONS]), voters: u8| {
                let mut abandons = abandons;
                abandons[tx] = voters;
                (rejects | 1 << tx, abandons)
            };
            let longer: Vec<_> = blocks
                .iter()
                .flat_map(|block| ways[tx].iter().map(|voters| with(*block, *voters)))
                .collect();
            blocks.extend(longer);
        }
        steps.extend(blocks.into_iter().map(|(rejects, abandons)| Step::Decide {
            commits,
            rejects,
            seals,
            abandons,
        }));
    }
}

/// A set with transaction `i` called `names[i]`.
pub fn renamed(set: Set, names: &[usize; TRANSACTIONS]) -> Set {
    members(set).fold(0, |renamed, tx| renamed | 1 << names[tx])
}

/// The state with transaction `i` called `names[i]`.
fn rename(state: &State, names: &[usize; TRANSACTIONS]) -> State {
    let set = |set: Set| renamed(set, names);
    let mut state = *state;
    let before = state.fate;
    for (tx, name) in names.iter().enumerate() {
        state.fate[*name] = before[tx];
    }
    for v in &mut state.validators {
        v.remembers = v.remembers.map(set);
        v.cast = v.cast.map(|votes| votes.map(set));
        v.seal = v.seal.map(|seal| Seal {
            list: set(seal.list),
            ..seal
        });
    }
    state.validators.sort_unstable();
    state
}

impl Model for World {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::default()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        for at in 0..CORRECT {
            // Equal validators have equal futures: one of them is enough.
            if at == 0 || state.validators[at] != state.validators[at - 1] {
                self.validator_steps(state, at, steps);
            }
        }
        self.blocks(state, steps);
    }

    fn next_state(&self, state: &State, step: Step) -> Option<State> {
        let mut next = *state;
        let mut vote = |at: usize, tx: usize, kind: fn(&mut Votes) -> &mut Set| {
            let epoch = usize::from(self.epoch_of(&next.validators[at]));
            let v = &mut next.validators[at];
            *kind(&mut v.remembers) |= 1 << tx;
            *kind(&mut v.cast[epoch]) |= 1 << tx;
        };
        match step {
            Step::Lock(at, tx) => vote(at, tx, |votes| &mut votes.lock),
            Step::Final(at, tx) => vote(at, tx, |votes| &mut votes.fin),
            Step::Abandon(at, tx) => vote(at, tx, |votes| &mut votes.abandon),
            Step::Seal(at) => {
                let seal = self.seal_of(state, &state.validators[at]);
                self.seal(&mut next.validators[at], seal);
            }
            Step::Commit(at) => self.commit(&mut next.validators[at]),
            Step::LoseLog { validator, chain_too } => self.lose(&mut next, validator, chain_too),
            Step::Decide {
                commits,
                rejects,
                seals,
                abandons,
            } => {
                for (tx, voters) in abandons.iter().enumerate() {
                    for at in (0..CORRECT).filter(|at| voters & (1 << at) != 0) {
                        vote(at, tx, |votes| &mut votes.abandon);
                    }
                }
                self.decide(&mut next, commits, rejects);
                if self.reduced {
                    self.catch_up(state, &mut next, commits | rejects, seals);
                }
            }
        }
        Some(self.representative(next))
    }

    fn properties(&self) -> Vec<Property<World>> {
        (self.expected)(&self.scenario)
    }
}
