//! What the operating system says about this process.

use std::fs;

/// Ticks of the scheduler's clock in a second; fixed in Linux's interface to programs.
const TICKS: f64 = 100.0;

/// Bytes of memory in use; 0 where /proc does not exist.
pub fn resident_bytes() -> f64 {
    let status = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kilobytes = line
        .and_then(|rest| rest.split_whitespace().next())
        .and_then(|number| number.parse::<f64>().ok());
    kilobytes.unwrap_or_default() * 1024.0
}

/// Seconds of processor time used, in user and in system mode together.
pub fn cpu_seconds() -> f64 {
    let stat = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The second field is the program's name in brackets and may hold spaces.
    let after = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let ticks = after
        .split_whitespace()
        .skip(11)
        .take(2)
        .filter_map(|number| number.parse::<f64>().ok());
    ticks.sum::<f64>() / TICKS
}

/// Open file descriptors.
pub fn open_files() -> f64 {
    fs::read_dir("/proc/self/fd").map_or(0.0, |entries| entries.count() as f64)
}

/// Threads.
pub fn threads() -> f64 {
    fs::read_dir("/proc/self/task").map_or(0.0, |entries| entries.count() as f64)
}
