//! Under which conditions the figures were measured.

use super::Target;
use serde::Serialize;
use std::fs;

/// What the figures depend on.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Conditions {
    pub(super) cores: usize,
    pub(super) cpu: String,
    pub(super) os: String,
    pub(super) validators: usize,
    pub(super) nodes_offered_to: usize,
    pub(super) program: String,
    pub(super) node_version: String,
    pub(super) build: &'static str,
    pub(super) disk_sync: &'static str,
    pub(super) signatures: &'static str,
    pub(super) generator: &'static str,
}

impl Conditions {
    pub(super) fn of(target: &Target) -> Self {
        Self {
            cores: std::thread::available_parallelism().map_or(0, usize::from),
            cpu: cpu_model(),
            os: os(),
            validators: target.validators,
            nodes_offered_to: target.clients.len(),
            program: env!("CARGO_PKG_VERSION").to_owned(),
            node_version: target.node_version.clone(),
            build: if cfg!(debug_assertions) { "debug" } else { "release" },
            // Neither can be switched off in a node.
            disk_sync: "on: every turn with a vote syncs the safety log before the vote leaves",
            signatures: "on: every validator checks every signature",
            generator: "on this machine, payments signed beforehand",
        }
    }
}

fn cpu_model() -> String {
    let text = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    text.lines()
        .find(|line| line.starts_with("model name"))
        .and_then(|line| line.split(':').nth(1))
        .map_or_else(|| std::env::consts::ARCH.to_owned(), |name| name.trim().to_owned())
}

fn os() -> String {
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    format!("{} {}", std::env::consts::OS, kernel.trim()).trim().to_owned()
}

/// Seconds of CPU that this process has used, where the system tells.
pub(super) fn cpu_seconds() -> Option<f64> {
    let stat = fs::read_to_string("/proc/self/stat").ok()?;
    // The name in parentheses may hold anything; user and system time are the 12th and 13th fields after it, in ticks
    // of a hundredth of a second.
    let mut fields = stat.rsplit_once(')')?.1.split_whitespace().skip(11);
    let user: f64 = fields.next()?.parse().ok()?;
    let system: f64 = fields.next()?.parse().ok()?;
    Some((user + system) / 100.0)
}
