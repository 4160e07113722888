//! Every metric there is: name, meaning, and where its value is read.

use super::{Sources, TOPICS, process};
use crate::{
    network::stats::PerKind,
    node::clock,
    primitives::{Phase, Time, kinds::Kind},
    replica::Snapshot,
};
use std::fmt::Write as _;

/// The value of each label; "" where a metric has no label.
type Values = Vec<(&'static str, f64)>;

/// A counter or a gauge.
pub(super) struct Row {
    pub name: &'static str,
    pub help: &'static str,
    /// The label's name; "" for none.
    pub label: &'static str,
    pub read: fn(&Sources) -> Values,
}

/// A histogram.
pub(super) struct HistogramRow {
    pub name: &'static str,
    pub help: &'static str,
    pub buckets: &'static [f64],
}

/// From ten microseconds to ten seconds.
const SECONDS: &[f64] = &[
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.015, 0.025,
    0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
];
const COUNTS: &[f64] = &[
    1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0, 1024.0, 2048.0,
];
const INTERVALS: &[f64] = &[
    0.1, 0.25, 0.5, 0.9, 1.0, 1.1, 1.25, 1.5, 2.0, 3.0, 5.0, 10.0, 15.0, 30.0, 60.0,
];

pub(super) const HISTOGRAMS: &[HistogramRow] = &[
    seconds(
        "timecoin_finality_seconds",
        "From the arrival of a client's transaction at this node to its finality here.",
    ),
    seconds(
        "timecoin_turn_seconds",
        "One turn of the loop: inputs handled, remembered, signed and sent.",
    ),
    HistogramRow {
        name: "timecoin_turn_inputs",
        help: "Inputs in one turn of the loop.",
        buckets: COUNTS,
    },
    seconds(
        "timecoin_safety_sync_seconds",
        "Appending to the safety log and syncing it, once for each turn with something to remember.",
    ),
    seconds("timecoin_sign_seconds", "Signing all statements of a turn."),
    seconds(
        "timecoin_check_seconds",
        "Decoding a batch of messages and checking their signatures.",
    ),
    seconds(
        "timecoin_queue_seconds",
        "From the arrival of bytes to the loop taking what they say, checks included.",
    ),
    HistogramRow {
        name: "timecoin_block_interval_seconds",
        help: "Between two blocks committed here while not catching up.",
        buckets: INTERVALS,
    },
    seconds("timecoin_block_write_seconds", "Writing one block as one atomic batch."),
    seconds(
        "timecoin_store_flush_seconds",
        "Making all written blocks survive a loss of power.",
    ),
];

const fn seconds(name: &'static str, help: &'static str) -> HistogramRow {
    HistogramRow {
        name,
        help,
        buckets: SECONDS,
    }
}

const fn row(name: &'static str, help: &'static str, read: fn(&Sources) -> Values) -> Row {
    Row {
        name,
        help,
        label: "",
        read,
    }
}

const fn labelled(name: &'static str, label: &'static str, help: &'static str, read: fn(&Sources) -> Values) -> Row {
    Row {
        name,
        help,
        label,
        read,
    }
}

fn one(value: impl IntoF64) -> Values {
    vec![("", value.into_f64())]
}

/// Numbers as Prometheus has them.
trait IntoF64 {
    fn into_f64(self) -> f64;
}

impl IntoF64 for u64 {
    fn into_f64(self) -> f64 {
        self as f64
    }
}

impl IntoF64 for usize {
    fn into_f64(self) -> f64 {
        self as f64
    }
}

impl IntoF64 for bool {
    fn into_f64(self) -> f64 {
        f64::from(u8::from(self))
    }
}

impl IntoF64 for f64 {
    fn into_f64(self) -> f64 {
        self
    }
}

/// Of all types that have a rate: all but the answers.
fn by_type(counters: &PerKind) -> Values {
    of_types(counters, |kind| kind.rate().is_some())
}

fn of_types(counters: &PerKind, wanted: impl Fn(&Kind) -> bool) -> Values {
    Kind::all()
        .filter(wanted)
        .map(|kind| (kind.name(), counters.of(kind).get().into_f64()))
        .collect()
}

fn snapshot<T: IntoF64>(sources: &Sources, read: impl Fn(&Snapshot) -> T) -> Values {
    one(read(&sources.snapshot.load()))
}

pub(super) const COUNTERS: &[Row] = &[
    row(
        "timecoin_transactions_admitted_total",
        "Transactions admitted to the pool.",
        |s| snapshot(s, |n| n.counters.admitted),
    ),
    row(
        "timecoin_transactions_refused_total",
        "Transactions refused by a rule or a limit of the pool.",
        |s| snapshot(s, |n| n.counters.refused),
    ),
    row(
        "timecoin_transactions_evicted_total",
        "Transactions evicted from the pool by better paying ones.",
        |s| snapshot(s, |n| n.counters.evicted),
    ),
    row(
        "timecoin_transactions_final_total",
        "Payments that became final here.",
        |s| snapshot(s, |n| n.counters.finals),
    ),
    row(
        "timecoin_transactions_committed_total",
        "Transactions committed in blocks.",
        |s| snapshot(s, |n| n.counters.committed),
    ),
    row(
        "timecoin_transactions_rejected_total",
        "Transactions rejected by blocks.",
        |s| snapshot(s, |n| n.counters.rejected),
    ),
    row("timecoin_blocks_total", "Blocks committed since the start.", |s| {
        snapshot(s, |n| n.counters.blocks)
    }),
    row("timecoin_payment_votes_total", "Votes on payments counted.", |s| {
        snapshot(s, |n| n.counters.payment_votes)
    }),
    row("timecoin_block_votes_total", "Votes on blocks counted.", |s| {
        snapshot(s, |n| n.counters.block_votes)
    }),
    row(
        "timecoin_round_timeouts_total",
        "Rounds of block consensus that timed out.",
        |s| snapshot(s, |n| n.counters.round_timeouts),
    ),
    row("timecoin_proposals_total", "Blocks proposed by this node.", |s| {
        snapshot(s, |n| n.counters.proposals)
    }),
    row(
        "timecoin_votes_asked_total",
        "Vote batches that were missed and asked for.",
        |s| snapshot(s, |n| n.counters.votes_asked),
    ),
    row(
        "timecoin_bodies_asked_total",
        "Transactions that were missed and asked for.",
        |s| snapshot(s, |n| n.counters.bodies_asked),
    ),
    row("timecoin_state_syncs_total", "State syncs that ended well.", |s| {
        snapshot(s, |n| n.counters.state_syncs)
    }),
    row("timecoin_blocks_fetched_total", "Blocks fetched from peers.", |s| {
        snapshot(s, |n| n.counters.blocks_fetched)
    }),
    row(
        "timecoin_evidence_total",
        "Pieces of evidence against validators.",
        |s| one(s.meters.evidence.get()),
    ),
    row(
        "timecoin_inputs_ignored_total",
        "Messages dropped as duplicate, stale or too early.",
        |s| snapshot(s, |n| n.counters.ignored),
    ),
    row(
        "timecoin_troubles_total",
        "Things that should not happen and were dealt with; each is in the log.",
        |s| one(s.meters.troubles.get()),
    ),
    row(
        "timecoin_checked_total",
        "Messages and submissions whose form and signatures are right.",
        |s| one(s.meters.checked.get()),
    ),
    row(
        "timecoin_check_refused_total",
        "Messages and submissions whose form or signatures are wrong.",
        |s| one(s.meters.check_refused.get()),
    ),
    labelled(
        "timecoin_overload_total",
        "what",
        "Turned away because too much waits.",
        |s| {
            vec![
                ("gossip", s.meters.gossip_overload.get().into_f64()),
                ("submission", s.meters.submit_overload.get().into_f64()),
                ("request", s.meters.request_overload.get().into_f64()),
            ]
        },
    ),
    labelled(
        "timecoin_peer_faults_total",
        "fault",
        "Faults of peers found by the checks or the replica.",
        |s| {
            vec![
                ("careless", s.meters.faults_careless.get().into_f64()),
                ("hostile", s.meters.faults_hostile.get().into_f64()),
            ]
        },
    ),
    row(
        "timecoin_safety_log_rewrites_total",
        "Times that the safety log was trimmed.",
        |s| one(s.meters.safety_log_rewrites.get()),
    ),
    labelled(
        "timecoin_gossip_received_total",
        "topic",
        "Gossip messages received, each once.",
        |s| {
            TOPICS
                .iter()
                .map(|topic| (topic.name(), s.network.gossip_in.of(*topic).get().into_f64()))
                .collect()
        },
    ),
    labelled(
        "timecoin_gossip_published_total",
        "topic",
        "Gossip messages published.",
        |s| {
            TOPICS
                .iter()
                .map(|topic| (topic.name(), s.network.gossip_out.of(*topic).get().into_f64()))
                .collect()
        },
    ),
    labelled(
        "timecoin_messages_over_limit_total",
        "type",
        "Messages of peers that came faster than their type allows, and were not taken in.",
        |s| by_type(&s.network.limited_in),
    ),
    labelled(
        "timecoin_messages_held_back_total",
        "type",
        "Own messages held back because peers would not take them so fast.",
        |s| by_type(&s.network.limited_out),
    ),
    labelled(
        "timecoin_answer_bytes_total",
        "type",
        "Bytes of the answers to own questions, decompressed.",
        |s| of_types(&s.network.answer_bytes, |kind| kind.rate().is_none()),
    ),
    labelled(
        "timecoin_network_total",
        "event",
        "Everything else that the network counts.",
        |s| {
            s.network
                .list()
                .into_iter()
                .filter(|(name, _)| !NETWORK_GAUGES.contains(name))
                .map(|(name, value)| (name, value.into_f64()))
                .collect()
        },
    ),
    row(
        "timecoin_process_cpu_seconds_total",
        "Processor time used by this process.",
        |_| one(process::cpu_seconds()),
    ),
];

/// Of the network's numbers, those that go up and down.
const NETWORK_GAUGES: [&str; 4] = ["reconnecting", "waiting_verdicts", "waiting_retries", "meshless_topics"];

pub(super) const GAUGES: &[Row] = &[
    labelled(
        "timecoin_info",
        "version",
        "Always 1; the version is in the label.",
        |_| vec![(env!("CARGO_PKG_VERSION"), 1.0)],
    ),
    row("timecoin_ready", "Whether /readyz says yes.", |s| {
        one(*s.ready.borrow())
    }),
    row("timecoin_height", "Last committed block.", |s| {
        snapshot(s, |n| n.height.0)
    }),
    row(
        "timecoin_flushed_height",
        "Last block that survives a loss of power.",
        |s| one(s.meters.flushed_height.get()),
    ),
    row(
        "timecoin_claimed_height",
        "Highest block that a peer claims; not proven.",
        |s| snapshot(s, |n| n.claimed_height.0),
    ),
    row(
        "timecoin_block_age_seconds",
        "Since the time of the last committed block.",
        |s| snapshot(s, |n| clock::wall().ms_since(n.block_time) as f64 / 1_000.0),
    ),
    row("timecoin_epoch", "Epoch of the next block.", |s| {
        snapshot(s, |n| n.epoch.0)
    }),
    row(
        "timecoin_round",
        "Round of the next block; more than 0 when leaders fail.",
        |s| snapshot(s, |n| u64::from(n.round.0)),
    ),
    labelled(
        "timecoin_phase",
        "phase",
        "1 for the phase reached in the round, 0 for the others.",
        |s| {
            let phase = s.snapshot.load().phase;
            [
                (Phase::Propose, "propose"),
                (Phase::Prepare, "prepare"),
                (Phase::Commit, "commit"),
            ]
            .into_iter()
            .map(|(known, name)| (name, (known == phase).into_f64()))
            .collect()
        },
    ),
    row(
        "timecoin_validator",
        "Whether this node is in the validator set.",
        |s| snapshot(s, |n| n.validator.is_some()),
    ),
    row("timecoin_voting", "Whether this node votes.", |s| {
        snapshot(s, |n| n.voting)
    }),
    row(
        "timecoin_state_syncing",
        "Whether the state is being fetched by pages of coins.",
        |s| snapshot(s, |n| n.sync.is_some()),
    ),
    row(
        "timecoin_state_sync_buckets",
        "Buckets of coins that are there, of 1,024, while the state is being fetched.",
        |s| snapshot(s, |n| n.sync.as_ref().map_or(0, |sync| sync.buckets)),
    ),
    row(
        "timecoin_state_sync_coins",
        "Coins fetched so far, while the state is being fetched; those thrown away again included.",
        |s| snapshot(s, |n| n.sync.as_ref().map_or(0, |sync| sync.coins)),
    ),
    row(
        "timecoin_state_sync_height",
        "Last block that is stored, while the state is being fetched.",
        |s| snapshot(s, |n| n.sync.as_ref().map_or(0, |sync| sync.blocks_to.0)),
    ),
    row(
        "timecoin_state_sync_bad_buckets",
        "Buckets that did not match their digest and were fetched again, while the state is being fetched.",
        |s| snapshot(s, |n| n.sync.as_ref().map_or(0, |sync| sync.bad_buckets)),
    ),
    row("timecoin_catching_up", "Whether blocks are being fetched.", |s| {
        snapshot(s, |n| n.catching_up)
    }),
    row(
        "timecoin_supply_units",
        "All coins together, in the smallest unit.",
        |s| snapshot(s, |n| n.supply.0),
    ),
    row("timecoin_pool_pending", "Transactions waiting for a block.", |s| {
        snapshot(s, |n| n.pool.pending)
    }),
    row("timecoin_pool_bytes", "Memory that they take.", |s| {
        snapshot(s, |n| n.pool.bytes)
    }),
    row(
        "timecoin_pool_average_fee_rate",
        "Their average fee rate, in units per byte.",
        |s| snapshot(s, |n| n.pool.average_fee_rate_milli as f64 / 1_000.0),
    ),
    row(
        "timecoin_pool_oldest_seconds",
        "How long the oldest of them has waited; 0 when there is none.",
        |s| {
            snapshot(s, |n| {
                clock::wall().ms_since(n.pool.oldest.unwrap_or(Time(u64::MAX))) as f64 / 1_000.0
            })
        },
    ),
    row(
        "timecoin_pool_certified",
        "Of them: certified by a quorum of Lock.",
        |s| snapshot(s, |n| n.pool.certified),
    ),
    row("timecoin_pool_final", "Of them: final.", |s| {
        snapshot(s, |n| n.pool.final_)
    }),
    row(
        "timecoin_pool_contested",
        "Of them: contested by another transaction.",
        |s| snapshot(s, |n| n.pool.contested),
    ),
    row("timecoin_peers", "Peers of this chain that are connected.", |s| {
        one(s.peers.connected())
    }),
    labelled("timecoin_connections", "direction", "Connections now.", |s| {
        vec![
            ("inbound", s.peers.inbound().into_f64()),
            ("outbound", s.peers.outbound().into_f64()),
            ("reconnecting", s.network.reconnecting.get().into_f64()),
        ]
    }),
    row(
        "timecoin_gossip_meshless_topics",
        "Topics on which peers are connected but none relays; should be 0.",
        |s| one(s.network.meshless_topics.get()),
    ),
    labelled("timecoin_network_waiting", "what", "What waits in the network.", |s| {
        vec![
            ("verdicts", s.network.waiting_verdicts.get().into_f64()),
            ("retries", s.network.waiting_retries.get().into_f64()),
        ]
    }),
    labelled(
        "timecoin_inbox_waiting",
        "lane",
        "Checked messages and transactions that wait for the loop.",
        |s| {
            let (urgent, bulk) = s.inbox.waiting();
            vec![("urgent", urgent.into_f64()), ("bulk", bulk.into_f64())]
        },
    ),
    labelled(
        "timecoin_check_waiting",
        "lane",
        "Messages and submissions that wait to be checked.",
        |s| {
            let (urgent, bulk) = s.jobs.waiting();
            vec![("urgent", urgent.into_f64()), ("bulk", bulk.into_f64())]
        },
    ),
    row(
        "timecoin_safety_log_bytes",
        "Size of the safety log; 0 without one.",
        |s| one(s.meters.safety_log_bytes.get()),
    ),
    row("timecoin_store_disk_bytes", "Size of the store's files.", |s| {
        one(s.store.size().map_or(0, |size| size.disk_bytes))
    }),
    row("timecoin_store_keys", "Keys in the store, about.", |s| {
        one(s.store.size().map_or(0, |size| size.keys))
    }),
    row("timecoin_process_resident_bytes", "Memory of this process.", |_| {
        one(process::resident_bytes())
    }),
    row(
        "timecoin_process_open_files",
        "Open file descriptors of this process.",
        |_| one(process::open_files()),
    ),
    row("timecoin_process_threads", "Threads of this process.", |_| {
        one(process::threads())
    }),
];

/// The page docs/metrics.md.
pub fn markdown() -> String {
    let mut text = String::from(
        "# Metrics\n\n\
         <!-- Made from src/node/metrics/table.rs; a test keeps it true (TIMECOIN_WRITE_DOCS=1 writes it). -->\n\n\
         `GET /metrics` at `http.listen` answers in Prometheus' text format. Every metric exists from the start of the\n\
         node, at zero. Durations are in seconds.\n\n\
         | metric | kind | label | meaning |\n|---|---|---|---|\n",
    );
    let mut rows: Vec<(&str, &str, &str, &str)> = Vec::new();
    rows.extend(COUNTERS.iter().map(|row| (row.name, "counter", row.label, row.help)));
    rows.extend(GAUGES.iter().map(|row| (row.name, "gauge", row.label, row.help)));
    rows.extend(HISTOGRAMS.iter().map(|row| (row.name, "histogram", "", row.help)));
    rows.sort_unstable();
    for (name, kind, label, help) in rows {
        let label = if label.is_empty() {
            String::new()
        } else {
            format!("`{label}`")
        };
        let _ = writeln!(text, "| `{name}` | {kind} | {label} | {help} |");
    }
    text
}

/// The names of all metrics.
#[cfg(test)]
pub(in crate::node) fn names() -> std::collections::BTreeSet<&'static str> {
    let rows = COUNTERS.iter().chain(GAUGES).map(|row| row.name);
    rows.chain(HISTOGRAMS.iter().map(|row| row.name)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_is_up_to_date() {
        crate::node::docs::check("docs/metrics.md", &markdown());
    }

    #[test]
    fn no_name_is_used_twice_and_counters_are_called_so() {
        assert_eq!(names().len(), COUNTERS.len() + GAUGES.len() + HISTOGRAMS.len());
        assert!(COUNTERS.iter().all(|row| row.name.ends_with("_total")));
        assert!(GAUGES.iter().all(|row| !row.name.ends_with("_total")));
    }
}
