//! Tells people how far a node is that has yet to arrive: a line every few seconds.

use super::ready::Watch;
use crate::{replica::Snapshot, sync::SyncStatus};
use std::time::{Duration, Instant};
use tokio_util::sync::CancellationToken;

/// How often.
const EVERY: Duration = Duration::from_secs(3);

/// Logs until cancelled; says nothing while the node is where the others are.
pub(super) async fn watch(watch: Watch, cancel: CancellationToken) {
    let mut interval = tokio::time::interval(EVERY);
    let mut last: Option<(Instant, u64)> = None;
    loop {
        tokio::select! {
            () = cancel.cancelled() => return,
            _ = interval.tick() => {}
        }
        let snapshot = watch.snapshot.load();
        let Some(done) = done(&snapshot) else {
            last = None;
            continue;
        };
        let now = Instant::now();
        let rate = last.map(|(at, before)| per_second(done.saturating_sub(before), now - at));
        last = Some((now, done));
        tell(&snapshot, rate);
    }
}

/// What is counted: coins while the state is fetched, blocks after that. `None`: nothing has to be fetched.
fn done(snapshot: &Snapshot) -> Option<u64> {
    match &snapshot.sync {
        Some(sync) => Some(sync.coins),
        None => snapshot.catching_up.then_some(snapshot.height.0),
    }
}

fn per_second(count: u64, time: Duration) -> u64 {
    (count as f64 / time.as_secs_f64().max(0.001)) as u64
}

fn tell(snapshot: &Snapshot, rate: Option<u64>) {
    let rate = rate.unwrap_or(0);
    match &snapshot.sync {
        Some(sync) => tracing::info!(
            phase = sync.phase,
            coins = sync.coins,
            percent = sync.buckets * 100 / 1_024,
            coins_per_second = rate,
            seconds_left = coins_left(sync).checked_div(rate),
            height = sync.blocks_to.0,
            target = sync.target.0,
            bad_buckets = sync.bad_buckets,
            "fetching the state"
        ),
        None => tracing::info!(
            height = snapshot.height.0,
            target = snapshot.claimed_height.0,
            blocks_per_second = rate,
            seconds_left = snapshot
                .claimed_height
                .0
                .saturating_sub(snapshot.height.0)
                .checked_div(rate),
            "fetching blocks"
        ),
    }
}

/// Coins that are still to come, if the buckets that are missing hold as many as the others.
const fn coins_left(sync: &SyncStatus) -> u64 {
    match sync.buckets {
        0 => 0,
        buckets => sync.coins / buckets * (1_024 - buckets),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_left_follows_from_what_is_there() {
        let status = |buckets, coins| SyncStatus {
            buckets,
            coins,
            ..SyncStatus::default()
        };
        assert_eq!(coins_left(&status(0, 0)), 0);
        assert_eq!(coins_left(&status(512, 51_200)), 51_200);
        assert_eq!(coins_left(&status(1_024, 102_400)), 0);
        assert_eq!(per_second(300, Duration::from_secs(3)), 100);
    }
}
