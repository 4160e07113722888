//! Every connection takes a file descriptor, and systems start programs with few.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// What the store, the logs, the API and the rest may need.
const BESIDE_PEERS: u64 = 1_024;

/// Raises the limit of open files as far as the system lets this process, and says so when that is too little for as many
/// peers. Answers the limit then in force; `None`: there is none.
pub fn raise(peers: u64) -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    let highest = Rlimit {
        current: limit.maximum,
        ..limit
    };
    if limit.current != limit.maximum
        && let Err(error) = setrlimit(Resource::Nofile, highest)
    {
        tracing::warn!(%error, "the limit of open files cannot be raised");
    }
    let now = getrlimit(Resource::Nofile).current;
    let needed = peers + BESIDE_PEERS;
    if now.is_some_and(|now| now < needed) {
        tracing::warn!(
            limit = now,
            needed,
            "too few files may be open for network.max_connections: raise the hard limit (ulimit -Hn, LimitNOFILE=)"
        );
    }
    now
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_limit_ends_up_at_the_highest_allowed() {
        let before = getrlimit(Resource::Nofile);
        assert_eq!(raise(10), before.maximum);
        assert_eq!(getrlimit(Resource::Nofile).current, before.maximum);
    }
}
