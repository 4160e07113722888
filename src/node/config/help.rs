//! What each setting means, in one table: the example file and docs/configuration.md are made of it.

use super::source::template;
use std::fmt::Write as _;
use toml::Value;

/// Sections in the order they are shown, with a sentence on each.
const SECTIONS: [(&str, &str); 9] = [
    (
        "",
        "Paths in the file are relative to the file; in variables and flags to the working directory.",
    ),
    ("network", "Peers, over libp2p."),
    ("api", "Clients, over gRPC."),
    ("http", "For monitoring: /metrics, /healthz and /readyz."),
    ("log", "Logs go to standard error."),
    ("pool", "Payments that wait for a block."),
    ("store", "The chain on disk."),
    ("check", "The threads that check signatures."),
    ("sync", "Getting what the others have."),
];

/// Every key and what it means.
const HELP: &[(&str, &str)] = &[
    (
        "data_dir",
        "Directory for the store, the safety log and the network key. Never copy it to a second machine that runs: two validators with one key contradict each other.",
    ),
    ("genesis", "The genesis file: the same on all nodes of a network."),
    (
        "validator_key",
        "Key file of the validator. Leave it out on a node that does not vote.",
    ),
    ("network.listen", "Addresses to listen on, TCP or QUIC."),
    (
        "network.bootstrap",
        "Peers to keep a connection to, as /ip4/192.0.2.1/tcp/7310 or /dns4/seed.example.org/tcp/7310; /p2p/<identity> at the end makes sure of whom it is.",
    ),
    (
        "network.announce",
        "Addresses at which others reach this node, if not where it listens: behind a router, or by a name.",
    ),
    (
        "network.target_peers",
        "Connections that this node wants to have opened itself: while there are fewer, it dials peers that it knows or hears of; 0 to dial only bootstrap peers and validators, and to tell others of nobody.",
    ),
    (
        "network.discovery_interval_ms",
        "How often this node asks around for peers while it has too few, in milliseconds; 12 times as long otherwise.",
    ),
    (
        "network.max_connections",
        "Connections in all; bootstrap peers given with their identity are let in beyond it.",
    ),
    (
        "network.max_per_peer",
        "Connections with one peer; at least 2, or two nodes that dial each other at once may lose both.",
    ),
    (
        "network.max_per_address",
        "Connections opened by others from one IPv4 address or IPv6 /64; loopback is not counted.",
    ),
    ("network.max_pending_inbound", "Handshakes of others in progress."),
    ("network.max_pending_outbound", "Dials in progress."),
    (
        "network.max_process_memory_mb",
        "Memory of the process, in MB, above which no new connection is taken; 0 for no limit.",
    ),
    (
        "network.max_requests_per_peer",
        "Requests under way with one peer, in each direction.",
    ),
    (
        "network.max_requests",
        "Requests under way with all peers, in each direction.",
    ),
    (
        "network.request_timeout_ms",
        "How long a request may take, in milliseconds.",
    ),
    ("network.max_events", "Messages that may wait for the node."),
    ("network.max_event_mb", "Their size in MB."),
    (
        "network.ping_interval_ms",
        "How often connections are probed, in milliseconds; one that does not answer within the same time is closed.",
    ),
    (
        "network.identify_timeout_ms",
        "How long a new connection may take to say of which chain it is, in milliseconds.",
    ),
    (
        "network.redial_min_ms",
        "Shortest delay before a lost bootstrap peer is dialed again, in milliseconds.",
    ),
    ("network.redial_max_ms", "Longest such delay, in milliseconds."),
    ("network.ban_base_ms", "How long a first ban lasts, in milliseconds."),
    ("network.ban_max_ms", "How long any ban lasts at most, in milliseconds."),
    ("api.listen", "Where to listen for gRPC."),
    (
        "api.max_connections",
        "Connections at a time; further ones are closed at once.",
    ),
    (
        "api.max_streams_per_connection",
        "Calls that one connection may have under way.",
    ),
    ("api.max_request_bytes", "Bytes of a message that is taken in."),
    (
        "api.max_waiters",
        "Submissions that may wait for finality or a block at a time, over all clients.",
    ),
    (
        "api.max_in_flight_per_stream",
        "Submissions of one SubmitStream that may be unanswered at a time.",
    ),
    ("api.max_subscribers", "Subscriptions to events at a time."),
    (
        "api.max_reads",
        "Reads of the store at a time; more wait for their turn.",
    ),
    ("http.listen", "Where /metrics, /healthz and /readyz are served."),
    (
        "log.filter",
        "What is logged, in the language of RUST_LOG: info, or info,timecoin::replica=debug.",
    ),
    ("log.format", "text for people, json for machines."),
    (
        "pool.max_transactions",
        "Payments held at most; the lowest fee rate goes first.",
    ),
    ("pool.max_bytes", "Bytes of memory that they may take."),
    ("store.cache_bytes", "Bytes of memory for pages of the database."),
    (
        "store.generation_bytes",
        "Bytes that gather in memory before they move into the database; up to four times as much is used. More means fewer writes and a longer start.",
    ),
    (
        "store.coin_cache_bytes",
        "Bytes of memory for coins used lately; 0 for none.",
    ),
    (
        "check.threads",
        "Threads that check payments, beside one for votes and blocks; 0: half the cores, at least one.",
    ),
    (
        "sync.mode",
        "auto: the state when the store is empty and the chain far ahead, or when no peer keeps the blocks that are missing; blocks otherwise. blocks: the whole history, or nothing.",
    ),
    (
        "sync.checkpoint",
        "A block that is trusted without the history before it, as height:id; the height must be the last of an epoch. Empty: none.",
    ),
    (
        "sync.behind_blocks",
        "With an empty store: so many blocks behind, the state is fetched and not the history.",
    ),
    (
        "store.retain_blocks",
        "Blocks that are kept; 0: all. Those of the epoch under way and of the one before are kept in any case.",
    ),
    (
        "check.max_waiting",
        "Messages and submissions that may wait to be checked; more are turned away.",
    ),
    ("check.max_waiting_bytes", "Their size in bytes."),
];

fn section_of(key: &str) -> &str {
    key.rsplit_once('.').map_or("", |(section, _)| section)
}

fn name_of(key: &str) -> &str {
    key.rsplit_once('.').map_or(key, |(_, name)| name)
}

fn variable_of(key: &str) -> String {
    format!("TIMECOIN_{}", key.replace('.', "__").to_uppercase())
}

fn written(value: Option<&Value>) -> String {
    value.map(Value::to_string).unwrap_or_default()
}

/// A configuration file with every setting at its default, and what each means.
pub fn example() -> String {
    let defaults = template();
    let mut text = String::from(
        "# Settings of a TimeCoin node, each at its default. A variable wins over this file, a flag over both:\n\
         # network.max_connections is TIMECOIN_NETWORK__MAX_CONNECTIONS and --set network.max_connections=...\n",
    );
    for (section, about) in SECTIONS {
        let _ = write!(text, "\n# {about}\n");
        if !section.is_empty() {
            let _ = writeln!(text, "[{section}]");
        }
        for (key, help) in HELP.iter().filter(|(key, _)| section_of(key) == section) {
            // Optional: shown, but not set.
            let mark = if *key == "validator_key" { "# " } else { "" };
            let _ = write!(
                text,
                "\n# {help}\n{mark}{} = {}\n",
                name_of(key),
                written(defaults.get(*key))
            );
        }
    }
    text
}

/// The page docs/configuration.md.
pub fn markdown() -> String {
    let defaults = template();
    let mut text = String::from(
        "# Configuration\n\n\
         <!-- Made by `timecoin node --config-reference`; a test keeps it true. -->\n\n\
         `timecoin node --config FILE` reads a TOML file; `timecoin node --example-config` prints one. Every setting can\n\
         also be made by an environment variable or by `--set KEY=VALUE`; a variable wins over the file, a flag over\n\
         both. Lists in variables and flags are separated by commas. Unknown keys and values that cannot work stop the\n\
         node at its start, with the line, the variable or the flag where the mistake was made.\n",
    );
    for (section, about) in SECTIONS {
        let title = if section.is_empty() { "Top level" } else { section };
        let _ = write!(
            text,
            "\n## {title}\n\n{about}\n\n| key | default | variable | meaning |\n|---|---|---|---|\n"
        );
        for (key, help) in HELP.iter().filter(|(key, _)| section_of(key) == section) {
            let default = match *key {
                "validator_key" => "none".to_owned(),
                _ => format!("`{}`", written(defaults.get(*key))),
            };
            let help = help.replace('<', "&lt;").replace('>', "&gt;");
            let _ = writeln!(text, "| `{key}` | {default} | `{}` | {help} |", variable_of(key));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::config::Config;

    #[test]
    fn every_key_is_explained_and_no_other() {
        let explained: std::collections::BTreeSet<&str> = HELP.iter().map(|(key, _)| *key).collect();
        let known = template();
        let known: std::collections::BTreeSet<&str> = known.keys().map(String::as_str).collect();
        assert_eq!(explained, known);
        assert_eq!(HELP.len(), explained.len(), "a key is explained twice");
    }

    #[test]
    fn the_example_is_the_default() {
        let parsed: Config = toml::from_str(&example()).expect("the example can be read");
        assert_eq!(parsed, Config::default());
    }

    #[test]
    fn the_page_is_up_to_date() {
        crate::node::docs::check("docs/configuration.md", &markdown());
    }
}
