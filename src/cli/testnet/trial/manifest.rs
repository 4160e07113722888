//! What a trial is made of: a TOML file.

use super::liar::Lie;
use crate::{
    cli::{
        load::Offer,
        testnet::{
            history::{self, History},
            layout::Blueprint,
        },
    },
    primitives::Params,
};
use anyhow::{Context as _, ensure};
use serde::Deserialize;
use std::path::Path;

/// A trial: a network, a load, what is done to the network meanwhile, and what must be true of it.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Manifest {
    /// One line for people.
    pub(super) about: String,
    /// How many validators.
    #[serde(default = "four")]
    pub(super) validators: u32,
    /// Blocks in an epoch; without it, as many as usual.
    pub(super) epoch_length: Option<u64>,
    /// What the chain was before.
    pub(super) history: Option<History>,
    /// What is paid all the while.
    pub(super) load: Offer,
    /// Nodes that begin with nothing, one after the other.
    #[serde(default, rename = "newcomer")]
    pub(super) newcomers: Vec<Newcomer>,
    /// Validators that were away for the last blocks of the history.
    #[serde(default)]
    pub(super) away: Vec<Away>,
    /// What happens to validators.
    #[serde(default, rename = "fault")]
    pub(super) faults: Vec<Fault>,
    /// What a stranger does.
    #[serde(default, rename = "attack")]
    pub(super) attacks: Vec<Attack>,
    /// What must be true.
    #[serde(default)]
    pub(super) expect: Expect,
}

const fn four() -> u32 {
    4
}

/// A validator whose store ends some blocks before the others', and that comes back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Away {
    /// Its number.
    pub(super) validator: usize,
    /// Blocks of the history that it lacks.
    pub(super) blocks: u64,
    /// It is started so many seconds after the first payment is due.
    pub(super) at: f64,
}

/// A node that begins with nothing but the genesis. All of it must be while payments go on.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Newcomer {
    /// What it fetches.
    pub(super) sync: Way,
    /// Numbers of the validators that it knows; without it, all.
    #[serde(default)]
    pub(super) from: Vec<usize>,
    /// A peer beside them lies to it about this.
    pub(super) lie: Option<Lie>,
    /// It is killed so many times on the way, and started again at once.
    #[serde(default)]
    pub(super) kill: u32,
    /// Seconds from its start until it is live.
    pub(super) live_within: Option<f64>,
    /// Its memory, at any moment.
    pub(super) resident_mb: Option<u64>,
    /// How much of what it fetched it may fetch again for having been killed, as a part of what an earlier newcomer
    /// fetched that was not.
    pub(super) refetched: Option<f64>,
    /// Payments of blocks applied in a second, over the whole time, at least.
    pub(super) payments_per_second: Option<f64>,
}

/// What a newcomer fetches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Way {
    /// The coins, and the blocks since the last epoch.
    State,
    /// The whole history.
    Blocks,
}

impl Way {
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::State => "the state",
            Self::Blocks => "all blocks",
        }
    }
}

/// Validators die and come back.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Fault {
    /// Seconds after the first payment is due.
    pub(super) at: f64,
    /// Numbers of the validators that get SIGKILL, all at the same moment.
    pub(super) kill: Vec<usize>,
    /// They are started again after so many seconds.
    #[serde(rename = "for")]
    pub(super) down: f64,
    /// The same again, so many times in all,
    #[serde(default = "once")]
    pub(super) times: u32,
    /// so many seconds later each.
    #[serde(default)]
    pub(super) every: f64,
}

const fn once() -> u32 {
    1
}

/// A peer that is no validator, and means harm.
#[derive(Clone, Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Attack {
    /// Seconds after the first payment is due.
    pub(super) at: f64,
    /// For so many seconds.
    #[serde(rename = "for")]
    pub(super) length: f64,
    /// What it sends.
    pub(super) kind: AttackKind,
    /// How many a second.
    pub(super) rate: f64,
    /// Numbers of the validators that it connects to.
    pub(super) to: Vec<usize>,
}

/// What an attacker sends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum AttackKind {
    /// Payments of the right form whose signatures are wrong, 500 in a message.
    WrongSignatures,
    /// Payments rightly signed that spend coins which never were, 500 in a message.
    UnknownCoins,
    /// A payment of one megabyte, by gossip and by the API.
    LargePayment,
    /// A proposal that lists more transactions than a block may have.
    LargeBlock,
}

impl AttackKind {
    /// For people.
    pub(super) const fn text(self) -> &'static str {
        match self {
            Self::WrongSignatures => "payments with wrong signatures",
            Self::UnknownCoins => "payments of coins that never were",
            Self::LargePayment => "payments of 1 MB",
            Self::LargeBlock => "proposals of too many transactions",
        }
    }
}

/// What must be true, besides: nothing final is lost, everything offered becomes final and committed, all validators
/// are on one chain, vote again, and have no evidence against anybody.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub(super) struct Expect {
    /// Submit→final of all payments but those that are due in the second that follows a kill.
    pub(super) p99_ms: Option<f64>,
    /// Resident memory of each validator, at any moment.
    pub(super) resident_mb: Option<u64>,
    /// From its start until a validator that was killed votes again.
    pub(super) votes_again_seconds: Option<f64>,
}

impl Manifest {
    pub(super) fn read(path: &Path) -> anyhow::Result<Self> {
        let text = std::fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let manifest: Self =
            toml::from_str(&text).with_context(|| format!("{} is not a manifest of a trial", path.display()))?;
        manifest.check().with_context(|| path.display().to_string())?;
        Ok(manifest)
    }

    /// The network that it needs.
    pub(super) fn blueprint(&self) -> Blueprint {
        let mut blueprint = Blueprint::of(self.validators);
        if let Some(length) = self.epoch_length {
            blueprint.params.epoch_length = length;
        }
        let blocks = self.history.as_ref().map_or(0, |history| history.blocks);
        blueprint.age_ms = blocks * blueprint.params.block_interval_ms;
        blueprint
    }

    /// Who was away in the history.
    pub(super) fn absences(&self) -> Vec<history::Away> {
        let absence = |away: &Away| history::Away {
            validator: away.validator,
            blocks: away.blocks,
        };
        self.away.iter().map(absence).collect()
    }

    fn check_history(&self) -> anyhow::Result<()> {
        let history = self.history.as_ref();
        if let Some(history) = history {
            let most = Params::default().max_block_transactions as usize / 4;
            ensure!(
                history.blocks > 0 && (1..=most).contains(&history.payments),
                "history: expected at least 1 block, and 1 to {most} payments in each"
            );
        }
        for away in &self.away {
            let blocks = history.map_or(0, |history| history.blocks);
            ensure!(
                away.validator < self.validators as usize && (1..=blocks).contains(&away.blocks),
                "away: validator {} and {} blocks: expected a validator's number, 0 to {}, and 1 to {blocks} blocks of the \
                 history",
                away.validator,
                away.blocks,
                self.validators - 1
            );
            ensure!(
                away.at >= 0.0 && away.at < self.load.duration,
                "away.at: expected seconds within the load of {} s",
                self.load.duration
            );
        }
        let mut absent: Vec<usize> = self.away.iter().map(|away| away.validator).collect();
        absent.sort_unstable();
        absent.dedup();
        ensure!(
            absent.len() == self.away.len() && 3 * absent.len() < self.validators as usize,
            "away {absent:?}: expected each validator once, and fewer than a third of them"
        );
        Ok(())
    }

    fn check_newcomers(&self) -> anyhow::Result<()> {
        for (number, newcomer) in self.newcomers.iter().enumerate() {
            ensure!(
                newcomer.from.iter().all(|from| *from < self.validators as usize),
                "newcomer.from {:?}: expected numbers of validators, 0 to {}",
                newcomer.from,
                self.validators - 1
            );
            let whole = |other: &Newcomer| other.sync == newcomer.sync && other.kill == 0;
            ensure!(
                newcomer.refetched.is_none() || self.newcomers[..number].iter().any(whole),
                "newcomer.refetched: expected a newcomer before this one that fetches the same and is not killed, to \
                 compare with"
            );
        }
        Ok(())
    }

    fn check(&self) -> anyhow::Result<()> {
        self.check_history()?;
        self.check_newcomers()?;
        let end = self.load.duration;
        let known = |numbers: &[usize]| numbers.iter().all(|number| *number < self.validators as usize);
        ensure!(
            self.load.rate.is_finite() && self.load.rate > 0.0 && end.is_finite() && end > 0.0 && self.load.payers > 0,
            "load: rate, duration and payers must be more than 0"
        );
        ensure!((1..=32).contains(&self.validators), "validators: expected 1 to 32");
        for fault in &self.faults {
            let last = fault.at + f64::from(fault.times.max(1) - 1) * fault.every + fault.down;
            ensure!(
                known(&fault.kill) && !fault.kill.is_empty(),
                "fault.kill {:?}: expected numbers of validators, 0 to {}",
                fault.kill,
                self.validators - 1
            );
            ensure!(
                fault.at >= 0.0 && fault.down > 0.0 && last <= end,
                "fault at {} s: it must begin and end within the load of {end} s (it ends after {last} s)",
                fault.at
            );
            ensure!(
                fault.times <= 1 || fault.every > fault.down,
                "fault.every: expected more than the {} s that the validators are down for",
                fault.down
            );
        }
        for attack in &self.attacks {
            ensure!(
                known(&attack.to) && !attack.to.is_empty(),
                "attack.to {:?}: expected numbers of validators, 0 to {}",
                attack.to,
                self.validators - 1
            );
            ensure!(
                attack.at >= 0.0 && attack.length > 0.0 && attack.rate > 0.0 && attack.at + attack.length <= end,
                "attack at {} s: it must begin and end within the load of {end} s, at a rate above 0",
                attack.at
            );
        }
        Ok(())
    }

    /// What happens to validators, in order: seconds, and their numbers; `true` for the kill, `false` for the start.
    pub(super) fn schedule(&self) -> Vec<(f64, bool, Vec<usize>)> {
        let mut schedule = Vec::new();
        for fault in &self.faults {
            for time in 0..fault.times {
                let at = fault.at + f64::from(time) * fault.every;
                schedule.push((at, true, fault.kill.clone()));
                schedule.push((at + fault.down, false, fault.kill.clone()));
            }
        }
        let returns = self.away.iter().map(|away| (away.at, false, vec![away.validator]));
        schedule.extend(returns);
        schedule.sort_by(|a, b| a.0.total_cmp(&b.0));
        schedule
    }

    /// Whether payments due in a second after the start of the load count for the latency that is expected.
    pub(super) fn counts(&self, second: usize) -> bool {
        let within = |at: f64| second as f64 + 1.0 > at && (second as f64) < at + 1.0;
        !self.schedule().iter().any(|(at, kill, _)| *kill && within(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_trials_that_come_with_the_program_are_right() {
        let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/trials");
        let mut count = 0;
        for entry in std::fs::read_dir(dir).expect("a directory") {
            let path = entry.expect("an entry").path();
            if let Err(error) = Manifest::read(&path) {
                panic!("{error:#}");
            }
            count += 1;
        }
        assert!(count >= 4, "{count}");
    }

    fn manifest(text: &str) -> anyhow::Result<Manifest> {
        let manifest: Manifest = toml::from_str(&format!("about = 'x'\n[load]\nduration = 20\n{text}"))?;
        manifest.check()?;
        Ok(manifest)
    }

    #[test]
    fn faults_repeat_and_the_second_after_a_kill_does_not_count() {
        let manifest = manifest("[[fault]]\nat = 2.5\nkill = [1]\nfor = 1\ntimes = 2\nevery = 5").expect("a manifest");
        let times: Vec<(f64, bool)> = manifest.schedule().iter().map(|(at, kill, _)| (*at, *kill)).collect();
        assert_eq!(times, [(2.5, true), (3.5, false), (7.5, true), (8.5, false)]);
        let excused: Vec<usize> = (0..20).filter(|second| !manifest.counts(*second)).collect();
        assert_eq!(excused, [2, 3, 7, 8]);
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        for (text, part) in [
            ("[[fault]]\nat = 2\nkill = [4]\nfor = 1", "fault.kill [4]"),
            ("[[fault]]\nat = 2\nkill = []\nfor = 1", "fault.kill []"),
            ("[[fault]]\nat = 19\nkill = [1]\nfor = 2", "ends after 21"),
            ("[[fault]]\nat = 1\nkill = [1]\nfor = 2\ntimes = 2", "fault.every"),
            (
                "[[attack]]\nat = 1\nfor = 2\nrate = 0\nto = [0]\nkind = 'large-block'",
                "rate above 0",
            ),
            (
                "[[attack]]\nat = 1\nfor = 2\nrate = 1\nto = [9]\nkind = 'large-block'",
                "attack.to [9]",
            ),
            ("[expect]\np98_ms = 1", "p98_ms"),
            ("[history]\nblocks = 0\npayments = 9", "at least 1 block"),
            ("[history]\nblocks = 9\npayments = 5_001", "1 to 5000 payments"),
            ("[[away]]\nvalidator = 1\nblocks = 5\nat = 1", "1 to 0 blocks"),
            (
                "[history]\nblocks = 9\npayments = 1\n[[away]]\nvalidator = 4\nblocks = 5\nat = 1",
                "0 to 3",
            ),
            ("[[newcomer]]\nsync = 'state'\nfrom = [7]", "newcomer.from [7]"),
            (
                "[[newcomer]]\nsync = 'state'\nkill = 1\nrefetched = 0.1",
                "to compare with",
            ),
            ("[[newcomer]]\nsync = 'both'", "both"),
        ] {
            let error = format!("{:#}", manifest(text).expect_err(text));
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
