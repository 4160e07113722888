//! The validators as processes.
//!
//! Each child holds the reading end of a pipe whose writing end is ours. It stops when the pipe closes: when we say so,
//! and also when we are gone, however we went.

use super::layout::Layout;
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
    children: Vec<(Child, PathBuf)>,
}

impl Children {
    /// Starts a process for each validator.
    pub(super) fn start(layout: &Layout, filter: &str) -> anyhow::Result<Self> {
        let program = std::env::current_exe().context("this program's own file is not known")?;
        let mut children = Vec::new();
        for node in &layout.nodes {
            let log = fs::OpenOptions::new()
                .create(true)
                .append(true)
                .open(node.log())
                .with_context(|| format!("{} cannot be written", node.log().display()))?;
            let mut command = Command::new(&program);
            // Settings meant for us are not meant for them.
            for (name, _) in std::env::vars_os() {
                if name.to_string_lossy().starts_with("TIMECOIN_") {
                    command.env_remove(name);
                }
            }
            let child = command
                .arg("node")
                .arg("--config")
                .arg(node.config())
                .arg("--stop-with-parent")
                .arg("--log")
                .arg(filter)
                .stdin(Stdio::piped())
                .stdout(log.try_clone()?)
                .stderr(log)
                .kill_on_drop(true)
                .spawn()
                .with_context(|| format!("{} cannot be started", program.display()))?;
            children.push((child, node.log()));
        }
        Ok(Self { children })
    }

    /// An error when a process has ended by itself, with the end of its log.
    pub(super) fn check(&mut self) -> anyhow::Result<()> {
        for (number, (child, log)) in self.children.iter_mut().enumerate() {
            if let Some(status) = child.try_wait()? {
                bail!(
                    "validator {number} has ended ({status}); the end of {}:\n{}",
                    log.display(),
                    tail(log)
                );
            }
        }
        Ok(())
    }

    /// Process ids.
    pub(super) fn pids(&self) -> Vec<Option<u32>> {
        self.children.iter().map(|(child, _)| child.id()).collect()
    }

    /// Stops all and waits for them. An error when one had to be killed or did not end well.
    pub(super) async fn stop(mut self) -> anyhow::Result<()> {
        for (child, _) in &mut self.children {
            drop(child.stdin.take());
        }
        let mut failed = Vec::new();
        for (number, (child, log)) in self.children.iter_mut().enumerate() {
            match tokio::time::timeout(STOP_WITHIN, child.wait()).await {
                Ok(Ok(status)) if status.success() => {}
                Ok(Ok(status)) => failed.push(format!("validator {number} ended with {status}:\n{}", tail(log))),
                Ok(Err(error)) => failed.push(format!("validator {number}: {error}")),
                Err(_) => {
                    child
                        .kill()
                        .await
                        .with_context(|| format!("validator {number} cannot be killed"))?;
                    failed.push(format!(
                        "validator {number} did not stop within {} s",
                        STOP_WITHIN.as_secs()
                    ));
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
    let text = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = text.lines().find(|line| line.starts_with("VmRSS:"))?;
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
        assert!(resident_mb(std::process::id()).is_some_and(|mb| mb > 0));
    }
}
