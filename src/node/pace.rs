//! How long the loop rests after a turn that spoke.
//!
//! A message costs every node that it reaches far more than the payments or votes in it (decision 0007). The more is
//! going on, the longer the rest, and the more goes into one message; when little is going on, the rest is short.

use std::time::{Duration, Instant};

/// The rest when little is going on.
const SHORTEST: Duration = Duration::from_millis(4);
/// The rest when as much is going on as there can be.
const LONGEST: Duration = Duration::from_millis(20);
/// Payments a second up to which the shortest rest will do; beyond, the rest grows in proportion.
const CALM: f64 = 1_200.0;
/// The rate of payments is an average over about so long.
const MEMORY: Duration = Duration::from_millis(500);

/// Follows the rate of payments.
#[derive(Debug)]
pub struct Pace {
    since: Instant,
    counted: f64,
    /// Payments a second.
    rate: f64,
}

impl Pace {
    /// Nothing has come yet.
    pub fn new(now: Instant) -> Self {
        Self {
            since: now,
            counted: 0.0,
            rate: 0.0,
        }
    }

    /// A turn began with so many new payments.
    pub fn count(&mut self, now: Instant, payments: usize) {
        self.counted += payments as f64;
        let passed = now.saturating_duration_since(self.since);
        if passed >= MEMORY / 4 {
            let share = (passed.as_secs_f64() / MEMORY.as_secs_f64()).min(1.0);
            self.rate += (self.counted / passed.as_secs_f64() - self.rate) * share;
            self.counted = 0.0;
            self.since = now;
        }
    }

    /// From the start of a turn that spoke to the start of the next.
    pub fn rest(&self) -> Duration {
        SHORTEST.mul_f64((self.rate / CALM).max(1.0)).min(LONGEST)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The rest after a second of so many payments a second, in turns of 5 ms.
    fn rest_at(rate: usize) -> Duration {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        for turn in 0..200 {
            now += Duration::from_millis(5);
            pace.count(now, rate * (turn + 1) / 200 - rate * turn / 200);
        }
        pace.rest()
    }

    #[test]
    fn the_rest_grows_with_the_rate_within_its_bounds() {
        assert_eq!(rest_at(0), SHORTEST);
        assert_eq!(rest_at(1_000), SHORTEST);
        let busy = rest_at(3_000);
        assert!(
            busy > Duration::from_millis(7) && busy < Duration::from_millis(11),
            "{busy:?}"
        );
        assert_eq!(rest_at(50_000), LONGEST);
    }

    #[test]
    fn after_a_rush_the_rest_is_short_again() {
        let mut now = Instant::now();
        let mut pace = Pace::new(now);
        now += Duration::from_millis(200);
        pace.count(now, 5_000);
        assert!(pace.rest() > SHORTEST);
        now += Duration::from_secs(2);
        pace.count(now, 1);
        assert_eq!(pace.rest(), SHORTEST);
    }
}
