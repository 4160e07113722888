//! How bad a peer's mistake is.

/// Four levels, no more: what an error says about whoever sent the bytes. What each level costs is decided in one
/// place, `network::peers`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Fault {
    /// No fault: an honest peer sends this every day (a duplicate, something not yet known here).
    None,
    /// Honest but late or early: stale heights, old epochs.
    Late,
    /// A correct program would not do this, a buggy or misconfigured one might.
    Careless,
    /// Only somebody who means harm, or is broken beyond use, sends this: wrong signatures, malformed bytes.
    Hostile,
}
