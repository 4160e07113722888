//! When is what due: the block, the end of the round, saying it again, the watchdog.

use super::{MIN_PAUSE_MS, Work};
use crate::primitives::{Params, Round, Time};

/// First pause before own messages are sent again; doubles up to [`RESEND_MAX_MS`].
pub(super) const RESEND_MIN_MS: u64 = 250;
/// Longest pause before own messages are sent again.
pub(super) const RESEND_MAX_MS: u64 = 4_000;
/// How often the watchdog looks, at least.
pub(super) const WATCHDOG_MS: u64 = 5_000;

/// Something that is done again and again, each time after twice the pause.
#[derive(Clone, Copy, Debug)]
pub(super) struct BackOff {
    at: Option<Time>,
    pause_ms: u64,
}

impl BackOff {
    const STOPPED: Self = Self {
        at: None,
        pause_ms: RESEND_MIN_MS,
    };

    /// For the first time at an instant.
    pub(super) const fn at(at: Time) -> Self {
        Self {
            at: Some(at),
            pause_ms: RESEND_MIN_MS,
        }
    }

    /// When it is due next.
    pub(super) const fn next(&self) -> Option<Time> {
        self.at
    }

    /// Whether it is waiting to be done.
    pub(super) const fn is_running(&self) -> bool {
        self.at.is_some()
    }

    /// From the shortest pause on.
    pub(super) const fn start(&mut self, now: Time) {
        self.at = Some(now.plus_ms(RESEND_MIN_MS));
        self.pause_ms = RESEND_MIN_MS;
    }

    /// Whether it is due; then the next pause begins.
    pub(super) fn is_due(&mut self, now: Time) -> bool {
        let due = self.at.is_some_and(|at| at <= now);
        if due {
            self.pause_ms = (self.pause_ms * 2).min(RESEND_MAX_MS);
            self.at = Some(now.plus_ms(self.pause_ms));
        }
        due
    }

    /// Goes with a clock that was set back.
    pub(super) fn move_back(&mut self, back_ms: u64) {
        self.at = self.at.map(|at| Time(at.0.saturating_sub(back_ms)));
    }

    /// Not any more.
    pub(super) const fn stop(&mut self) {
        *self = Self::STOPPED;
    }
}

/// All due times of the machine.
#[derive(Clone, Debug)]
pub(super) struct Pace {
    pub(super) now: Time,
    /// When the last block was committed here.
    pub(super) committed: Time,
    pub(super) work: Work,
    /// When the round ends, once that is fixed.
    pub(super) round_end: Option<Time>,
    pub(super) resend: BackOff,
    pub(super) build: BackOff,
    /// When a block that is ahead of the clock may be judged again.
    pub(super) rejudge: Option<Time>,
    pub(super) watchdog: Time,
    /// Something was changed without a time: look at once.
    pub(super) poked: bool,
}

impl Pace {
    pub(super) fn new(committed: Time, now: Time) -> Self {
        Self {
            now,
            committed,
            work: Work::None,
            round_end: None,
            resend: BackOff::STOPPED,
            build: BackOff::STOPPED,
            rejudge: None,
            watchdog: now.plus_ms(WATCHDOG_MS),
            poked: false,
        }
    }

    /// Takes note of the time. A clock that was set back must not stop what waits: everything due moves with it.
    /// Answers by how many milliseconds.
    pub(super) fn at(&mut self, now: Time) -> u64 {
        let back = self.now.ms_since(now);
        self.now = now;
        if back > 0 {
            let earlier = |time: Time| Time(time.0.saturating_sub(back));
            self.committed = earlier(self.committed);
            self.round_end = self.round_end.map(earlier);
            self.resend.move_back(back);
            self.build.move_back(back);
            self.watchdog = earlier(self.watchdog);
        }
        back
    }

    /// A height begins.
    pub(super) fn new_height(&mut self, now: Time) {
        *self = Self {
            work: self.work,
            watchdog: self.watchdog,
            ..Self::new(now, now)
        };
    }

    /// A round is entered or left: what was due in the one before is not any more.
    pub(super) fn new_round(&mut self) {
        self.round_end = None;
        self.rejudge = None;
        self.build.stop();
        self.resend.start(self.now);
    }

    /// When round 0 should see a proposal, for the work that is known here.
    pub(super) const fn due(&self, params: &Params) -> Time {
        self.committed.plus_ms(match self.work {
            Work::None => params.idle_block_interval_ms,
            Work::Some => params.block_interval_ms,
            Work::Full => MIN_PAUSE_MS,
        })
    }

    /// The round ends a round's time from now.
    pub(super) fn start_round(&mut self, params: &Params, round: Round) {
        self.round_end = Some(self.now.plus_ms(params.round_timeout_ms(round)));
    }

    /// The earliest of all.
    pub(super) fn deadline(&self, due: Option<Time>) -> Time {
        let at_once = self.poked.then_some(self.now);
        let others = [
            self.round_end,
            self.resend.at,
            self.build.at,
            self.rejudge,
            due,
            at_once,
        ];
        others.into_iter().flatten().fold(self.watchdog, Time::min)
    }
}
