//! What a correct validator may sign and what a block may carry, as data: the protocol is one value of [`Rules`], each
//! planted fault another one that differs in a single field.

/// The rules under test. [`Rules::PROTOCOL`] is what the node implements; every other value is a mutant.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rules {
    /// Lock votes in a lock certificate, out of four.
    pub lock_quorum: usize,
    /// Final votes that make a payment final, out of four.
    pub final_quorum: usize,
    /// Abandon votes behind a rejection, out of four.
    pub abandon_quorum: usize,
    /// Seals in a closing block, out of four.
    pub seal_quorum: usize,
    /// A Lock vote is withheld while another live transaction holds one of the coins.
    pub locks_exclude: bool,
    /// What frees a coin that was locked for a transaction, beside the end of the epoch.
    pub freed_by: FreedBy,
    /// Final(T) only with a lock certificate for T at hand.
    pub final_needs_certificate: bool,
    /// Final(T) is possible after Abandon(T).
    pub final_after_abandon: bool,
    /// Abandon(T) is possible after Final(T).
    pub abandon_after_final: bool,
    /// Nothing is signed for an epoch after its seal.
    pub silent_after_seal: bool,
    /// A validator starts on the next epoch when it commits the closing block; if not, as soon as it has sealed.
    pub next_epoch_at_closing_block: bool,
    /// A seal lists what its validator cast Final for; if not, it lists nothing.
    pub seals_list_finals: bool,
    /// A seal is made only when nothing but the closing block is missing in the epoch.
    pub seal_at_last_height: bool,
    /// A closing block carries what its seals list.
    pub closing_carries_sealed: bool,
    /// A seal that lists something without a lock certificate is unusable.
    pub sealed_needs_certificate: bool,
    /// A sealed transaction that an earlier block rejected stays out of the closing block.
    pub rejected_stay_out: bool,
    /// Votes count only together with votes of the same epoch.
    pub finals_of_one_epoch: bool,
    /// A block takes lock certificates of its own epoch only.
    pub locks_of_this_epoch: bool,
    /// A block takes Abandon votes of its own epoch only.
    pub abandons_of_this_epoch: bool,
    /// What a block rejected in an earlier epoch stays rejected.
    pub rejections_last: bool,
    /// A block cannot reject what an earlier block carries.
    pub committed_stays: bool,
    /// What is enough for a parent outside the blocks so that its child may be locked.
    pub parent: Parent,
    /// What a validator does after it lost its safety log.
    pub lost_log: LostLog,
    /// Two Lock votes on one coin count as evidence unless a block rejected, or made impossible, one of the two
    /// transactions; if not, only a rejection excuses.
    pub evidence_knows_the_dead: bool,
    /// Votes of different epochs are no evidence.
    pub evidence_minds_epochs: bool,
}

/// When a lock goes away before its epoch ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FreedBy {
    /// On committing the block that rejects the transaction, or one that spends another of its coins otherwise.
    CommittedBlock,
    /// As soon as the validator itself abandons the transaction.
    OwnAbandon,
    /// As soon as a quorum has abandoned it, no block needed.
    AbandonQuorum,
    /// As soon as a conflicting transaction is certified, no block needed.
    ConflictingCertificate,
}

/// The standing that a parent outside the blocks needs before a child is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Parent {
    /// A finality certificate.
    Final,
    /// A lock certificate.
    Certified,
}

/// What follows the loss of the safety log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LostLog {
    /// Silent until an epoch in which it cannot have voted: the one after the epoch of its own chain, or, if that is
    /// lost too, after the epoch that the network was in.
    SilentUntilFreshEpoch,
    /// Silent until the epoch after the one that its own chain stands in, which may be an old one when the chain was
    /// lost together with the log.
    SilentUntilOwnNextEpoch,
    /// Casts no vote until the next epoch, but seals the running one.
    StillSeals,
    /// Goes on, remembering only what it said about transactions that it locked itself.
    KeepsOwnLocks,
    /// Goes on as if it had never voted.
    GoesOn,
}

impl Rules {
    /// What the node implements.
    pub const PROTOCOL: Rules = Rules {
        lock_quorum: 3,
        final_quorum: 3,
        abandon_quorum: 3,
        seal_quorum: 3,
        locks_exclude: true,
        freed_by: FreedBy::CommittedBlock,
        final_needs_certificate: true,
        final_after_abandon: false,
        abandon_after_final: false,
        silent_after_seal: true,
        next_epoch_at_closing_block: true,
        seals_list_finals: true,
        seal_at_last_height: true,
        closing_carries_sealed: true,
        sealed_needs_certificate: true,
        rejected_stay_out: true,
        finals_of_one_epoch: true,
        locks_of_this_epoch: true,
        abandons_of_this_epoch: true,
        rejections_last: true,
        committed_stays: true,
        parent: Parent::Final,
        lost_log: LostLog::SilentUntilFreshEpoch,
        evidence_knows_the_dead: true,
        evidence_minds_epochs: true,
    };
}
