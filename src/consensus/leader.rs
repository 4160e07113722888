//! Who leads: a smooth weighted round-robin over the validators that are alive.
//!
//! A function of the chain alone, so that every node that stands at a height names the same leader for each of its
//! rounds. Alive is who has signed at least one of the commit certificates *inside* the last [`LEADER_WINDOW`] blocks
//! (certificates that a node gathered itself differ from node to node and count for nothing here). While the epoch has
//! fewer such certificates, or their signers are no quorum, everybody counts as alive.
//!
//! The round-robin gives every member its credit (its power) at each step, picks the richest (the lowest index among
//! equals) and takes the whole power of all members from it: picks are spread evenly and in proportion to power. The
//! step of a height is its distance from the epoch's first height, modulo [`ROTATION`]; rounds go on from there, each
//! without the leader of the round before.

use crate::primitives::{BlockCertificate, Height, Round, ValidatorIndex, ValidatorSet, message::Electorate};
use std::{
    collections::{BTreeSet, VecDeque},
    sync::Arc,
};

use super::LEADER_WINDOW;

/// Steps after which the round-robin starts over; bounds what a change among the living costs (256 members: about a
/// millisecond).
const ROTATION: u64 = 4_096;

/// The state of the round-robin before its next step.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Rotation {
    /// Member, its power, its credit. Powers are below 2^64 and members at most 256: no sum leaves an `i128`.
    members: Vec<(ValidatorIndex, i128, i128)>,
    total: i128,
}

impl Rotation {
    fn new(set: &ValidatorSet, alive: &BTreeSet<ValidatorIndex>) -> Self {
        let members: Vec<_> = alive
            .iter()
            .map(|index| (*index, set.power(*index).cast_signed(), 0))
            .collect();
        Self {
            total: members.iter().map(|(_, power, _)| power).sum(),
            members,
        }
    }

    fn step(&mut self, without: Option<ValidatorIndex>) -> ValidatorIndex {
        for (_, power, credit) in &mut self.members {
            *credit += *power;
        }
        let alone = self.members.len() == 1;
        let richest = self
            .members
            .iter_mut()
            .filter(|(index, ..)| alone || Some(*index) != without)
            .max_by_key(|(index, _, credit)| (*credit, std::cmp::Reverse(*index)));
        match richest {
            Some((index, _, credit)) => {
                *credit -= self.total;
                *index
            }
            // A set is never empty, and neither is the part of it that is alive.
            None => 0,
        }
    }

    fn is_of(&self, alive: &BTreeSet<ValidatorIndex>) -> bool {
        self.members.iter().map(|(index, ..)| index).eq(alive)
    }
}

/// The leaders of one height.
#[derive(Clone, Debug)]
pub(super) struct Leaders {
    set: Arc<ValidatorSet>,
    height: Height,
    first: Height,
    /// Signers of the certificates in the last blocks, oldest first, with the height that each certificate is about.
    window: VecDeque<(Height, BTreeSet<ValidatorIndex>)>,
    rotation: Rotation,
}

impl Leaders {
    pub(super) fn new(electorate: &Electorate, height: Height, recent: &[BlockCertificate]) -> Self {
        let mut leaders = Self {
            set: electorate.of_height(height).clone(),
            height,
            first: first_of_epoch(electorate, height),
            window: VecDeque::new(),
            rotation: Rotation::default(),
        };
        recent.iter().for_each(|certificate| leaders.push(certificate));
        leaders.rebuild(&leaders.alive());
        leaders
    }

    /// To the leaders of `height`, the one after a block that carried `last_commit`.
    pub(super) fn advance(&mut self, electorate: &Electorate, height: Height, last_commit: Option<&BlockCertificate>) {
        let follows = height == self.height.next();
        let first = first_of_epoch(electorate, height);
        let same_epoch = first == self.first;
        if let Some(certificate) = last_commit {
            self.push(certificate);
        }
        self.set = electorate.of_height(height).clone();
        self.height = height;
        self.first = first;
        let alive = self.alive();
        if follows && same_epoch && self.position() != 0 && self.rotation.is_of(&alive) {
            self.rotation.step(None);
        } else {
            self.rebuild(&alive);
        }
    }

    /// Who may propose in a round of this height.
    pub(super) fn leader(&self, round: Round) -> ValidatorIndex {
        let mut rotation = self.rotation.clone();
        let mut leader = rotation.step(None);
        for _ in 0..round.0 {
            leader = rotation.step(Some(leader));
        }
        leader
    }

    fn push(&mut self, certificate: &BlockCertificate) {
        let signers = certificate.signatures.iter().map(|(validator, _)| *validator).collect();
        self.window.push_back((certificate.height, signers));
        while self.window.len() > LEADER_WINDOW {
            self.window.pop_front();
        }
    }

    fn position(&self) -> u64 {
        (self.height.0 - self.first.0) % ROTATION
    }

    fn rebuild(&mut self, alive: &BTreeSet<ValidatorIndex>) {
        self.rotation = Rotation::new(&self.set, alive);
        for _ in 0..self.position() {
            self.rotation.step(None);
        }
    }

    fn alive(&self) -> BTreeSet<ValidatorIndex> {
        let everybody = || self.set.iter().map(|(index, _)| index).collect();
        let known = self.window.iter().filter(|(height, _)| *height >= self.first);
        if known.clone().count() < LEADER_WINDOW {
            return everybody();
        }
        let signers: BTreeSet<ValidatorIndex> = known.flat_map(|(_, signers)| signers.iter().copied()).collect();
        let power = signers.iter().map(|index| self.set.power(*index)).sum();
        if self.set.is_quorum(power) {
            signers
        } else {
            everybody()
        }
    }
}

fn first_of_epoch(electorate: &Electorate, height: Height) -> Height {
    Height(height.epoch(electorate.epoch_length).0 * electorate.epoch_length + 1)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::{ChainId, LockHash, Phase, PublicKey, Signature, Validator};

    fn electorate(powers: &[u64], epoch_length: u64) -> Electorate {
        let member = |(index, power): (usize, &u64)| Validator {
            public_key: PublicKey([index as u8; 32]),
            power: *power,
            payout: LockHash([0; 32]),
        };
        let set = ValidatorSet::new(powers.iter().enumerate().map(member).collect()).expect("a valid set");
        Electorate::new(ChainId([7; 32]), epoch_length, Arc::new(set))
    }

    fn certificate(height: u64, signers: &[u32]) -> BlockCertificate {
        BlockCertificate {
            height: Height(height),
            round: Round(0),
            phase: Phase::Commit,
            block: Default::default(),
            signatures: signers.iter().map(|signer| (*signer, Signature([0; 64]))).collect(),
        }
    }

    /// Leaders of round 0 at heights 1, 2, …, when every block's `last_commit` is signed by `signers(height)`.
    fn walk(electorate: &Electorate, heights: u64, signers: impl Fn(u64) -> Vec<u32>) -> Vec<(Leaders, u32)> {
        let mut leaders = Leaders::new(electorate, Height(1), &[]);
        let mut all = vec![(leaders.clone(), leaders.leader(Round(0)))];
        for height in 2..=heights {
            // The block before carries the certificate for the block before that.
            let last_commit = (height > 2).then(|| certificate(height - 2, &signers(height - 2)));
            leaders.advance(electorate, Height(height), last_commit.as_ref());
            all.push((leaders.clone(), leaders.leader(Round(0))));
        }
        all
    }

    #[test]
    fn equals_take_turns_and_powers_get_their_share() {
        let turns: Vec<u32> = walk(&electorate(&[1; 4], 1_000), 8, |_| vec![0, 1, 2, 3])
            .into_iter()
            .map(|(_, leader)| leader)
            .collect();
        assert_eq!(turns, [0, 1, 2, 3, 0, 1, 2, 3]);
        let electorate = electorate(&[5, 1, 1, 3], 1_000);
        let weighted = walk(&electorate, 500, |_| vec![0, 1, 2, 3]);
        let count = |index| weighted.iter().filter(|(_, leader)| *leader == index).count();
        assert_eq!([0, 1, 2, 3].map(count), [250, 50, 50, 150]);
    }

    #[test]
    fn the_dead_are_skipped_when_the_window_has_passed_and_come_back() {
        let window = LEADER_WINDOW as u64;
        let turns = walk(&electorate(&[1; 4], 1_000), 200, |height| match height {
            50..100 => vec![0, 1, 3],
            _ => vec![0, 1, 2, 3],
        });
        for (height, (_, leader)) in (1u64..).zip(&turns) {
            // Certificates 50 .. 100 lack validator 2; the one for height - 2 is the newest known at height.
            let out = (50 + window + 1..=101).contains(&height);
            assert!(!out || *leader != 2, "height {height}");
        }
        assert!(turns[101..].iter().any(|(_, leader)| *leader == 2), "it is back");
    }

    #[test]
    fn signers_below_a_quorum_leave_everybody_in() {
        let turns = walk(&electorate(&[1; 4], 1_000), 60, |_| vec![0, 1]);
        assert!(turns[40..].iter().any(|(_, leader)| *leader == 3));
    }

    #[test]
    fn a_restarted_node_names_the_same_leaders() {
        let electorate = electorate(&[9, 2, 3, 3, 7], 100);
        let signers = |height: u64| match height % 37 {
            0..18 => vec![0, 1, 2, 4],
            _ => vec![0, 2, 3, 4],
        };
        for (height, (walked, _)) in (1u64..).zip(walk(&electorate, 330, signers)) {
            let newest = height.saturating_sub(2);
            let oldest = (newest + 1).saturating_sub(LEADER_WINDOW as u64).max(1);
            let recent: Vec<_> = (oldest..=newest)
                .map(|height| certificate(height, &signers(height)))
                .collect();
            let fresh = Leaders::new(&electorate, Height(height), &recent);
            for round in 0..8 {
                assert_eq!(
                    fresh.leader(Round(round)),
                    walked.leader(Round(round)),
                    "height {height}, round {round}"
                );
            }
        }
    }

    #[test]
    fn each_round_has_another_leader_and_every_validator_gets_its_turn() {
        let leaders = Leaders::new(&electorate(&[90, 1, 1, 1, 1], 100), Height(17), &[]);
        let turns: Vec<u32> = (0..200).map(|round| leaders.leader(Round(round))).collect();
        assert!(turns.windows(2).all(|pair| pair[0] != pair[1]));
        assert!((0..5).all(|index| turns.contains(&index)), "{turns:?}");
        let alone = Leaders::new(&electorate(&[3], 100), Height(1), &[]);
        assert_eq!(alone.leader(Round(9)), 0);
    }

    #[test]
    fn a_full_set_over_a_whole_epoch_is_cheap() {
        let everybody: Vec<u32> = (0..256).collect();
        let electorate = electorate(&[u64::MAX; 256], 3_600);
        let turns = walk(&electorate, 3_600, |_| everybody.clone());
        assert_eq!(turns[256].1, 0, "equals come round after 256 heights, without overflow");
    }
}
