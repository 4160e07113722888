//! The clock that the loop gives the replica: the machine's, but never backwards and never standing still.

use crate::primitives::Time;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since the Unix epoch by the operating system's clock; for readers outside the loop.
pub fn wall() -> Time {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Time(u64::try_from(since.as_millis()).unwrap_or(u64::MAX))
}

/// Follows the operating system's clock. When that is set back, this one goes on at half speed until the two agree
/// again, so that every deadline still comes; when it is set forward, this one follows at once.
#[derive(Debug)]
pub struct Clock {
    /// Microseconds since the Unix epoch, as answered last.
    last: u64,
    at: Instant,
}

impl Clock {
    /// A clock that shows the operating system's time.
    pub fn new() -> Self {
        Self {
            last: wall_micros(),
            at: Instant::now(),
        }
    }

    /// The time now; not earlier than any answer before.
    pub fn now(&mut self) -> Time {
        let at = Instant::now();
        self.last = follow(self.last, at - self.at, wall_micros());
        self.at = at;
        Time(self.last / 1_000)
    }

    /// How long until `deadline`, by the answer given last.
    pub fn until(&self, deadline: Time) -> Duration {
        Duration::from_micros(deadline.0.saturating_mul(1_000).saturating_sub(self.last))
    }
}

impl Default for Clock {
    fn default() -> Self {
        Self::new()
    }
}

/// The next answer, `elapsed` after `last` was given, when the operating system says `wall`.
fn follow(last: u64, elapsed: Duration, wall: u64) -> u64 {
    let elapsed = u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX);
    wall.max(last.saturating_add(elapsed / 2))
}

fn wall_micros() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn follows_forward_at_once_and_backward_at_half_speed() {
        let second = Duration::from_secs(1);
        assert_eq!(follow(10_000_000, second, 11_000_000), 11_000_000);
        assert_eq!(follow(10_000_000, second, 99_000_000), 99_000_000);
        assert_eq!(follow(10_000_000, second, 3_000_000), 10_500_000);
        // Set back by four seconds: after eight the two agree again.
        let (mut shown, mut wall) = (10_000_000, 6_000_000);
        for _ in 0..8 {
            wall += 1_000_000;
            shown = follow(shown, second, wall);
        }
        assert_eq!(shown, wall);
    }
}
