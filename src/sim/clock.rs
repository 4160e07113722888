//! Virtual time, and the wrong clocks that nodes read it from.

use crate::primitives::Time;

/// Microseconds since the world began. True time: only the world knows it.
pub type Micros = u64;

/// One second.
pub const SECOND: Micros = 1_000_000;
/// One millisecond.
pub const MILLI: Micros = 1_000;

/// A node's clock: off by an offset, and running a little too fast or too slow.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// What a right clock shows when the world begins.
    pub start: Time,
    /// How far this one is ahead (or, negative, behind).
    pub offset_us: i64,
    /// Microseconds gained in each second.
    pub drift_ppm: i64,
}

impl Clock {
    /// What it shows at an instant.
    pub fn read(&self, now: Micros) -> Time {
        let now = now as i128;
        let shown = i128::from(self.start.0) * 1000
            + now
            + i128::from(self.offset_us)
            + now * i128::from(self.drift_ppm) / 1_000_000;
        Time(u64::try_from(shown.max(0) / 1000).unwrap_or(u64::MAX))
    }

    /// The first instant, not before `now`, at which it shows at least `time`.
    pub fn when(&self, time: Time, now: Micros) -> Micros {
        let ahead = i128::from(time.0) * 1000 - i128::from(self.start.0) * 1000 - i128::from(self.offset_us);
        let guess = ahead * 1_000_000 / (1_000_000 + i128::from(self.drift_ppm));
        let mut instant = u64::try_from(guess.max(0))
            .unwrap_or(u64::MAX / 2)
            .saturating_sub(2)
            .max(now);
        while self.read(instant) < time && instant < u64::MAX / 2 {
            instant += 1;
        }
        instant
    }

    /// Sets it forward or back.
    pub fn step(&mut self, by_us: i64) {
        self.offset_us += by_us;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn when_is_the_first_instant_that_shows_the_time() {
        for (offset_us, drift_ppm) in [(0, 0), (1_500_000, 300), (-2_000_123, -450), (7, 1), (-7, -1)] {
            let clock = Clock {
                start: Time(1_700_000_000_000),
                offset_us,
                drift_ppm,
            };
            for now in [0, 1, 999, 5_000_000, 77_777_777] {
                for ahead in [0, 1, 2, 999, 10_000] {
                    let time = clock.read(now).plus_ms(ahead);
                    let instant = clock.when(time, now);
                    assert!(instant >= now && clock.read(instant) >= time);
                    assert!(
                        instant == now || clock.read(instant - 1) < time,
                        "a later instant than needed"
                    );
                }
            }
        }
    }

    #[test]
    fn a_deadline_in_the_past_is_now() {
        let clock = Clock {
            start: Time(1000),
            offset_us: 0,
            drift_ppm: 0,
        };
        assert_eq!(clock.when(Time(0), 42), 42);
    }
}
