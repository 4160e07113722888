//! The validators as processes.
//!
//! Each child holds the reading end of a pipe whose writing end is ours. It stops when the pipe closes: when we say so,
//! and also when we are gone, however we went.

use super::layout::{Layout, NodeFiles};
use anyhow::{Context as _, bail};
use std::{
    fs,
    io::{Read as _, Seek as _, SeekFrom},
    path::{Path, PathBuf},
    process::Stdio,
    time::Duration,
};
use tokio::process::{Child, Command};

/// A child that has not ended by then is killed.
const STOP_WITHIN: Duration = Duration::from_secs(5);
/// How much of a log is shown when its process has failed.
const TAIL: u64 = 2_000;

pub(super) struct Children {
    program: PathBuf,
    filter: String,
    children: Vec<Slot>,
}

/// One node: no child while it is down on purpose.
struct Slot {
    /// For people.
    name: String,
    child: Option<Child>,
    config: PathBuf,
    log: PathBuf,
}

impl Children {
    /// Starts a process for each validator, except for those that are away.
    pub(super) fn start(layout: &Layout, away: &[usize], filter: &str) -> anyhow::Result<Self> {
        let named = |number| format!("validator {number}");
        let nodes = layout.nodes.iter().enumerate();
        let mut children = Self::of(nodes.map(|(number, node)| (named(number), node)), filter)?;
        for number in (0..layout.nodes.len()).filter(|number| !away.contains(number)) {
            children.run(number)?;
        }
        Ok(children)
    }

    /// These nodes, by name; none is started yet.
    pub(super) fn of<'a>(
        nodes: impl IntoIterator<Item = (String, &'a NodeFiles)>,
        filter: &str,
    ) -> anyhow::Result<Self> {
        let slot = |(name, node): (String, &NodeFiles)| Slot {
            name,
            child: None,
            config: node.config(),
            log: node.log(),
        };
        Ok(Self {
            program: std::env::current_exe().context("this program's own file is not known")?,
            filter: filter.to_owned(),
            children: nodes.into_iter().map(slot).collect(),
        })
    }

    /// Starts the process of one node, which is down.
    pub(super) fn run(&mut self, number: usize) -> anyhow::Result<()> {
        let slot = &mut self.children[number];
        let log = fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&slot.log)
            .with_context(|| format!("{} cannot be written", slot.log.display()))?;
        let mut command = Command::new(&self.program);
        // Settings meant for us are not meant for them.
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("TIMECOIN_") {
                command.env_remove(name);
            }
        }
        let child = command
            .arg("node")
            .arg("--config")
            .arg(&slot.config)
            .arg("--stop-with-parent")
            .arg("--log")
            .arg(&self.filter)
            .stdin(Stdio::piped())
            .stdout(log.try_clone()?)
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("{} cannot be started", self.program.display()))?;
        slot.child = Some(child);
        Ok(())
    }

    /// Kills one node with SIGKILL: it can do nothing about it.
    pub(super) async fn kill(&mut self, number: usize) -> anyhow::Result<()> {
        let slot = &mut self.children[number];
        if let Some(mut child) = slot.child.take() {
            let killed = child.kill().await;
            killed.with_context(|| format!("{} cannot be killed", slot.name))?;
        }
        Ok(())
    }

    /// An error when a process has ended by itself, with the end of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for slot in &mut self.children {
            let Some(child) = &mut slot.child else { continue };
            if let Some(status) = child.try_wait()? {
                bail!(
                    "{} has ended ({status}); the end of {}:\n{}",
                    slot.name,
                    slot.log.display(),
                    tail(&slot.log)
                );
            }
        }
        Ok(())
    }

    /// Process ids; `None` for what is down.
    pub(super) fn pids(&self) -> Vec<Option<u32>> {
        self.children
            .iter()
            .map(|slot| slot.child.as_ref().and_then(Child::id))
            .collect()
    }

    /// Stops all and waits for them. An error when one had to be killed or did not end well.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for slot in &mut self.children {
            drop(slot.child.as_mut().and_then(|child| child.stdin.take()));
        }
        let mut failed = Vec::new();
        for slot in &mut self.children {
            let (name, Some(child)) = (&slot.name, &mut slot.child) else {
                continue;
            };
            match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => failed.push(format!("{name} ended with {status}:\n{}", tail(&slot.log))),
                Ok(Err(error)) => failed.push(format!("{name}: {error}")),
                Err(_) => {
                    let killed = child.kill().await;
                    killed.with_context(|| format!("{name} cannot be killed"))?;
                    failed.push(format!("{name} did not stop within {} s", STOP_WITHIN.as_secs()));
                }
            }
        }
        if !failed.is_empty() {
            bail!("{}", failed.join("\n"));
        }
        Ok(())
    }
}

fn tail(path: &Path) -> String {
    let read = || -> std::io::Result<String> {
        let mut file = fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(length.saturating_sub(TAIL)))?;
        let mut bytes = Vec::new();
        file.take(TAIL).read_to_end(&mut bytes)?;
        Ok(String::from_utf8_lossy(&bytes).into_owned())
    };
    read().unwrap_or_else(|error| format!("({error})"))
}

/// Resident memory of a process in MB, where the system tells.
pub(super) fn resident_mb(pid: u32) -> Option<u64> {
    status_mb(pid, "VmRSS:")
}

/// The most that it ever was.
pub(super) fn peak_mb(pid: u32) -> Option<u64> {
    status_mb(pid, "VmHWM:")
}

fn status_mb(pid: u32, name: &str) -> Option<u64> {
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with(name))?;
    let kilobytes: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
    Some(kilobytes / 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_log() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("log");
        fs::write(&path, format!("{}the end\n", "x".repeat(10_000))).expect("writes");
        let tail = tail(&path);
        assert!(tail.ends_with("the end\n") && tail.len() as u64 <= TAIL);
        assert!(super::tail(&dir.path().join("none")).starts_with('('));
    }

    #[cfg(target_os = "linux")]
    #[test]
    fn memory_of_a_process() {
        let id = std::process::id();
        let (now, peak) = (resident_mb(id), peak_mb(id));
        assert!(now.is_some_and(|mb| mb > 0) && peak >= now, "{now:?} {peak:?}");
    }
}
