//! Metrics: one table of names, kinds and meanings, from which the instruments and docs/metrics.md are made.
//!
//! Counters and gauges are observed when somebody asks, through OpenTelemetry: from the replica's snapshot, the network's
//! counters and a few of our own. Histograms are written as things happen; they live in the same Prometheus registry
//! directly, since an OpenTelemetry histogram does not exist before its first sample, and a metric that is missing
//! until something happens cannot be alerted on.

mod process;
mod table;

pub use table::markdown;

use crate::{
    network::{PeerTable, Stats, Topic},
    replica::Snapshot,
    store::ledger_store::LedgerStore,
};
use arc_swap::ArcSwap;
use opentelemetry::{KeyValue, metrics::MeterProvider as _};
use opentelemetry_sdk::metrics::SdkMeterProvider;
use prometheus::{Encoder, Histogram, HistogramOpts, Registry, TextEncoder};
use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};
use table::{COUNTERS, GAUGES, HISTOGRAMS};
use thiserror::Error;

/// Why there are no metrics.
#[derive(Debug, Error)]
#[error("metrics cannot be set up: {0}")]
pub struct MetricsError(String);

/// What the shell counts and measures itself. Every field exists from the start; writing costs a few nanoseconds.
pub struct Meters {
    /// From the arrival of a client's transaction to its finality here.
    pub finality: Histogram,
    /// One turn of the loop.
    pub turn: Histogram,
    /// Inputs in one turn.
    pub turn_inputs: Histogram,
    /// One sync of the safety log.
    pub sync: Histogram,
    /// Signing a turn's statements.
    pub sign: Histogram,
    /// One batch in the check pool.
    pub check: Histogram,
    /// From the arrival of bytes to the loop taking them.
    pub queue: Histogram,
    /// Between two blocks committed while running.
    pub block_interval: Histogram,
    /// Writing one block.
    pub block_write: Histogram,
    /// Making everything applied survive a loss of power.
    pub flush: Histogram,
    /// Checked, right.
    pub checked: Count,
    /// Checked, wrong.
    pub check_refused: Count,
    /// Gossip turned away: too much waits to be checked.
    pub gossip_overload: Count,
    /// Submissions turned away for the same reason.
    pub submit_overload: Count,
    /// Requests turned away: too many wait.
    pub request_overload: Count,
    /// Faults of peers: careless.
    pub faults_careless: Count,
    /// Faults of peers: hostile.
    pub faults_hostile: Count,
    /// Bytes of the safety log.
    pub safety_log_bytes: Count,
    /// Times that the safety log was rewritten.
    pub safety_log_rewrites: Count,
    /// Height that survives a loss of power.
    pub flushed_height: Count,
    /// Troubles that the replica reported.
    pub troubles: Count,
    /// Pieces of evidence.
    pub evidence: Count,
}

/// A number that one writes and anyone reads.
#[derive(Debug, Default)]
pub struct Count(AtomicU64);

impl Count {
    /// Counts more.
    pub fn add(&self, amount: u64) {
        self.0.fetch_add(amount, Ordering::Relaxed);
    }

    /// Says what it is now.
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The number.
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Records a duration in seconds.
pub fn record(histogram: &Histogram, duration: Duration) {
    histogram.observe(duration.as_secs_f64());
}

impl Meters {
    /// All of them, at zero, registered.
    fn new(registry: &Registry) -> Result<Self, MetricsError> {
        let mut all = Vec::with_capacity(HISTOGRAMS.len());
        for row in HISTOGRAMS {
            let options = HistogramOpts::new(row.name, row.help).buckets(row.buckets.to_vec());
            let histogram = Histogram::with_opts(options).map_err(|error| MetricsError(error.to_string()))?;
            registry
                .register(Box::new(histogram.clone()))
                .map_err(|error| MetricsError(error.to_string()))?;
            all.push((row.name, histogram));
        }
        let named = |name: &str| {
            let found = all
                .iter()
                .find(|(known, _)| *known == name)
                .map(|(_, histogram)| histogram.clone());
            found.ok_or_else(|| MetricsError(format!("the histogram {name} is not in the table")))
        };
        Ok(Self {
            finality: named("timecoin_finality_seconds")?,
            turn: named("timecoin_turn_seconds")?,
            turn_inputs: named("timecoin_turn_inputs")?,
            sync: named("timecoin_safety_sync_seconds")?,
            sign: named("timecoin_sign_seconds")?,
            check: named("timecoin_check_seconds")?,
            queue: named("timecoin_queue_seconds")?,
            block_interval: named("timecoin_block_interval_seconds")?,
            block_write: named("timecoin_block_write_seconds")?,
            flush: named("timecoin_store_flush_seconds")?,
            checked: Count::default(),
            check_refused: Count::default(),
            gossip_overload: Count::default(),
            submit_overload: Count::default(),
            request_overload: Count::default(),
            faults_careless: Count::default(),
            faults_hostile: Count::default(),
            safety_log_bytes: Count::default(),
            safety_log_rewrites: Count::default(),
            flushed_height: Count::default(),
            troubles: Count::default(),
            evidence: Count::default(),
        })
    }
}

/// What counters and gauges are read from.
pub struct Sources {
    /// Where the replica stands.
    pub snapshot: Arc<ArcSwap<Snapshot>>,
    /// The network's counters.
    pub network: Arc<Stats>,
    /// Who is connected.
    pub peers: Arc<PeerTable>,
    /// The store.
    pub store: Arc<LedgerStore>,
    /// The shell's own.
    pub meters: Arc<Meters>,
    /// What waits for the loop: urgent, bulk.
    pub inbox: Arc<super::inbox::Inbox>,
    /// What waits to be checked: urgent, bulk.
    pub jobs: Arc<super::checker::Jobs>,
    /// Whether the node is ready now.
    pub ready: tokio::sync::watch::Receiver<bool>,
}

/// The metrics of one node.
pub struct Metrics {
    registry: Registry,
    /// Kept alive: the instruments end with it.
    _provider: SdkMeterProvider,
}

/// The registry and the meters, before there is anything to read from.
pub struct Prepared {
    registry: Registry,
    /// To be written by everybody.
    pub meters: Arc<Meters>,
}

impl Prepared {
    /// Meters at zero.
    pub fn new() -> Result<Self, MetricsError> {
        let registry = Registry::new();
        let meters = Arc::new(Meters::new(&registry)?);
        Ok(Self { registry, meters })
    }

    /// Adds everything that is read when somebody asks.
    pub fn with(self, sources: Sources) -> Result<Metrics, MetricsError> {
        let exporter = opentelemetry_prometheus::exporter()
            .with_registry(self.registry.clone())
            .scope_info_enabled(false)
            .without_counter_suffixes()
            .without_units()
            .without_target_info()
            .build()
            .map_err(|error| MetricsError(error.to_string()))?;
        let provider = SdkMeterProvider::builder().with_reader(exporter).build();
        let meter = provider.meter("timecoin");
        let sources = Arc::new(sources);
        for row in COUNTERS {
            let sources = sources.clone();
            let _ = meter
                .f64_observable_counter(row.name)
                .with_description(row.help)
                .with_callback(move |observer| {
                    for (label, value) in (row.read)(&sources) {
                        observer.observe(value, &labels(row.label, label));
                    }
                })
                .build();
        }
        for row in GAUGES {
            let sources = sources.clone();
            let _ = meter
                .f64_observable_gauge(row.name)
                .with_description(row.help)
                .with_callback(move |observer| {
                    for (label, value) in (row.read)(&sources) {
                        observer.observe(value, &labels(row.label, label));
                    }
                })
                .build();
        }
        Ok(Metrics {
            registry: self.registry,
            _provider: provider,
        })
    }
}

fn labels(name: &'static str, value: &'static str) -> Vec<KeyValue> {
    match name.is_empty() {
        true => Vec::new(),
        false => vec![KeyValue::new(name, value)],
    }
}

impl Metrics {
    /// Everything in Prometheus' text format. Reads a few files under /proc and the size of the store: not on an async
    /// thread.
    pub fn text(&self) -> Result<String, MetricsError> {
        let mut bytes = Vec::new();
        TextEncoder::new()
            .encode(&self.registry.gather(), &mut bytes)
            .map_err(|error| MetricsError(error.to_string()))?;
        String::from_utf8(bytes).map_err(|error| MetricsError(error.to_string()))
    }
}

const TOPICS: [Topic; 3] = Topic::ALL;
