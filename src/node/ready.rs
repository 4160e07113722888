//! Whether the node is alive, and whether it is of use.

use super::run::Heartbeat;
use crate::{
    network::PeerTable,
    primitives::{Params, Time, ValidatorIndex, ValidatorSet, message::Electorate},
    replica::Snapshot,
};
use arc_swap::ArcSwap;
use serde::Serialize;
use std::{sync::Arc, time::Duration};

/// A loop that has shown no sign of life for so long is stuck.
pub const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// What the answer is made of.
#[derive(Clone)]
pub struct Watch {
    /// Where the replica stands.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// Who is connected.
    pub peers: Arc<PeerTable>,
    /// Whether the loop is alive.
    pub heartbeat: Arc<Heartbeat>,
    /// Who votes.
    pub electorate: Electorate,
    /// How often blocks come.
    pub params: Params,
}

/// The answer of `/readyz`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Readiness {
    /// Whether a client or a load balancer should use this node.
    pub ready: bool,
    /// Why not; empty when it is.
    pub reasons: Vec<String>,
    /// Last committed block.
    pub height: u64,
    /// Peers connected.
    pub peers: usize,
    /// Whether this node votes.
    pub voting: bool,
}

impl Watch {
    /// Whether the loop has turned lately.
    pub fn is_alive(&self) -> bool {
        self.heartbeat.age() < ALIVE_WITHIN
    }

    /// The answer at `now`.
    pub fn readiness(&self, now: Time) -> Readiness {
        let snapshot = self.snapshot.load();
        let peers = self.peers.connected();
        let set = self.electorate.of_epoch(snapshot.epoch);
        let mut reasons = judge(&snapshot, peers, set, &self.params, now);
        if !self.is_alive() {
            reasons.insert(
                0,
                format!(
                    "the loop has shown no sign of life for {} s",
                    self.heartbeat.age().as_secs()
                ),
            );
        }
        Readiness {
            ready: reasons.is_empty(),
            reasons,
            height: snapshot.height.0,
            peers,
            voting: snapshot.voting,
        }
    }
}

/// Everything that speaks against using this node.
fn judge(snapshot: &Snapshot, peers: usize, set: &ValidatorSet, params: &Params, now: Time) -> Vec<String> {
    let mut reasons = Vec::new();
    let needed = peers_needed(set, snapshot.validator);
    if peers < needed {
        reasons.push(format!(
            "connected to {peers} peers, at least {needed} are needed for a quorum"
        ));
    }
    if snapshot.sync.is_some() {
        reasons.push(snapshot.silent_reason.clone());
        return reasons;
    }
    if snapshot.catching_up {
        let (height, claimed) = (snapshot.height, snapshot.claimed_height);
        reasons.push(format!("catching up: at height {height}, peers claim {claimed}"));
    }
    let (age, allowed) = (now.ms_since(snapshot.block_time), block_age_allowed(params));
    if age > allowed {
        let seconds = age / 1_000;
        reasons.push(format!(
            "no block for {seconds} s, the longest expected is {} s",
            allowed / 1_000
        ));
    }
    if snapshot.validator.is_some() && !snapshot.voting {
        reasons.push(format!("not voting: {}", snapshot.silent_reason));
    }
    reasons
}

/// The fewest peers with which a quorum can be in touch: validators keep direct connections to one another, and a node
/// that does not vote needs somebody to hear from. 0 for a validator that is a quorum by itself.
fn peers_needed(set: &ValidatorSet, own: Option<ValidatorIndex>) -> usize {
    let Some(own) = own else { return 1 };
    let mut others: Vec<u128> = set
        .iter()
        .filter(|(index, _)| *index != own)
        .map(|(_, member)| u128::from(member.power))
        .collect();
    others.sort_unstable_by(|a, b| b.cmp(a));
    let mut power = set.power(own);
    let mut needed = 0;
    for other in others {
        if set.is_quorum(power) {
            break;
        }
        power += other;
        needed += 1;
    }
    needed
}

/// While a quorum is in touch there is a block at least every idle interval; some failed rounds are forgiven.
fn block_age_allowed(params: &Params) -> u64 {
    2 * params.idle_block_interval_ms + 3 * (params.round_base_ms + params.round_step_ms)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{Amount, BlockId, Epoch, Height, LockHash, Phase, PublicKey, Round, Validator};
    use crate::replica::{Counters, PoolStats};

    fn set(powers: &[u64]) -> ValidatorSet {
        let validator = |(index, power): (u8, &u64)| Validator {
            public_key: PublicKey([index; 32]),
            power: *power,
            payout: LockHash([0; 32]),
        };
        ValidatorSet::new((0..).zip(powers).map(validator).collect()).expect("a set")
    }

    fn good() -> Snapshot {
        Snapshot {
            height: Height(5),
            block: BlockId([0; 32]),
            block_time: Time(100_000),
            supply: Amount(0),
            epoch: Epoch(0),
            round: Round(0),
            phase: Phase::Propose,
            validator: Some(0),
            voting: true,
            silent_reason: String::new(),
            claimed_height: Height(5),
            catching_up: false,
            sync: None,
            peers: 3,
            pool: PoolStats::default(),
            counters: Counters::default(),
        }
    }

    #[test]
    fn every_reason_is_given() {
        type Change = fn(&mut Snapshot);
        let rows: [(&str, usize, u64, Change); 6] = [
            ("connected to 1 peers, at least 2", 1, 0, |_| {}),
            ("catching up: at height 5, peers claim 9", 3, 0, |s| {
                s.catching_up = true;
                s.claimed_height = Height(9);
            }),
            ("no block for 60 s, the longest expected is 24 s", 3, 60_000, |_| {}),
            ("not voting: the safety log is missing", 3, 0, |s| {
                s.voting = false;
                s.silent_reason = "the safety log is missing".into();
            }),
            ("connected to 0 peers, at least 1", 0, 0, |s| s.validator = None),
            ("", 3, 20_000, |_| {}),
        ];
        for (expected, peers, later, change) in rows {
            let mut snapshot = good();
            change(&mut snapshot);
            let now = snapshot.block_time.plus_ms(later);
            let reasons = judge(&snapshot, peers, &set(&[1, 1, 1, 1]), &Params::default(), now);
            assert_eq!(
                reasons.len(),
                usize::from(!expected.is_empty()),
                "{expected}: {reasons:?}"
            );
            assert!(
                reasons.iter().all(|reason| reason.starts_with(expected)),
                "{expected}: {reasons:?}"
            );
        }
    }

    #[test]
    fn peers_needed_follow_the_power() {
        let rows: [(&[u64], Option<u32>, usize); 6] = [
            (&[1], Some(0), 0),
            (&[1, 1], Some(0), 1),
            (&[1, 1, 1, 1], Some(0), 2),
            (&[10, 1, 1, 1], Some(0), 0),
            (&[10, 1, 1, 1], Some(1), 1),
            (&[1, 1, 1, 1], None, 1),
        ];
        for (powers, own, expected) in rows {
            assert_eq!(peers_needed(&set(powers), own), expected, "{powers:?} {own:?}");
        }
    }
}
