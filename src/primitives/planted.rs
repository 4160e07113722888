//! Faults that tests plant, to see that the simulator would notice them.
//!
//! The switch exists only in the library's own test build: in every other build [`planted!`] is the constant `false`
//! and the faulty branch is compiled away.

/// Whether the named fault is planted: always `false` outside the library's own tests.
macro_rules! planted {
    ($fault:ident) => {{
        #[cfg(test)]
        let active = $crate::primitives::planted::is_planted($crate::primitives::planted::Planted::$fault);
        #[cfg(not(test))]
        let active = false;
        active
    }};
}

#[cfg(test)]
pub use switch::*;

#[cfg(test)]
mod switch {
    use std::cell::Cell;

    /// A rule that is broken on purpose.
    #[derive(Clone, Copy, Debug, PartialEq, Eq)]
    pub enum Planted {
        /// A quorum needs one vote less.
        QuorumOneTooLow,
        /// Votes are sent before they are remembered.
        SpeakBeforeRemember,
        /// Final is cast for a transaction that was abandoned here.
        FinalAfterAbandon,
        /// Locks are freed on casting Abandon, not on a committed rejection.
        FreeOnAbandon,
        /// A leader of a later round ignores the prepared block.
        IgnorePrepared,
        /// The closing block leaves out what the seals list.
        ForgetSealed,
        /// Voting on payments goes on after sealing.
        VoteAfterSeal,
        /// A conflicting transaction is locked over an existing lock.
        LockTwice,
        /// A block is committed with its coins but the old root.
        StaleRoot,
        /// A validator starts as if its safety log were new.
        ForgetLog,
        /// A newcomer believes every bucket of coins.
        BucketsUnchecked,
        /// A newcomer does not replay the blocks that came after its pages.
        NoReplay,
    }

    thread_local! {
        static ACTIVE: Cell<Option<Planted>> = const { Cell::new(None) };
    }

    /// Plants `fault` in everything that runs on this thread, until told otherwise.
    pub fn plant(fault: Option<Planted>) {
        ACTIVE.set(fault);
    }

    /// Whether `fault` is planted on this thread.
    pub fn is_planted(fault: Planted) -> bool {
        ACTIVE.get() == Some(fault)
    }
}
