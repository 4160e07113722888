//! What is printed, and what is written to a file.

use super::{Offer, Target, conditions::Conditions, engine::Figures, payers::Signed};
use crate::cli::say;
use hdrhistogram::Histogram;
use serde::Serialize;
use std::collections::BTreeMap;

/// A histogram of microseconds: three digits, one microsecond to ten minutes.
pub(in crate::cli) fn new_histogram() -> Histogram<u64> {
    Histogram::new_with_bounds(1, 600_000_000, 3).expect("the bounds are constants that fit")
}

/// One second of a load.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Line {
    pub(super) second: u64,
    pub(super) offered: u64,
    pub(super) finals: u64,
    pub(super) committed: u64,
    pub(super) refused: u64,
    /// Offered and not answered at the end of the second.
    pub(super) in_flight: u64,
    /// Nodes that take submissions.
    pub(super) nodes: usize,
    pub(super) p50_ms: f64,
    pub(super) p99_ms: f64,
    pub(super) max_ms: f64,
}

impl Line {
    pub(super) const CSV_HEADER: &str = "second,offered,final,committed,refused,in_flight,nodes,p50_ms,p99_ms,max_ms";

    pub(super) fn csv(&self) -> String {
        format!(
            "{},{},{},{},{},{},{},{:.2},{:.2},{:.2}",
            self.second,
            self.offered,
            self.finals,
            self.committed,
            self.refused,
            self.in_flight,
            self.nodes,
            self.p50_ms,
            self.p99_ms,
            self.max_ms
        )
    }

    pub(super) fn text(&self) -> String {
        format!(
            "{:>4} s  offered {:>6}  final {:>6}  committed {:>6}  refused {:>5}  in flight {:>6}  nodes {}  \
             p50 {:>8.2} ms  p99 {:>8.2} ms  max {:>8.2} ms",
            self.second,
            self.offered,
            self.finals,
            self.committed,
            self.refused,
            self.in_flight,
            self.nodes,
            self.p50_ms,
            self.p99_ms,
            self.max_ms
        )
    }
}

/// A distribution in milliseconds.
#[derive(Clone, Debug, Serialize)]
pub(in crate::cli) struct Percentiles {
    p50_ms: f64,
    p90_ms: f64,
    pub(in crate::cli) p99_ms: f64,
    p999_ms: f64,
    max_ms: f64,
    mean_ms: f64,
}

impl Percentiles {
    pub(in crate::cli) fn of(histogram: &Histogram<u64>) -> Self {
        let at = |quantile| histogram.value_at_quantile(quantile) as f64 / 1e3;
        Self {
            p50_ms: at(0.5),
            p90_ms: at(0.9),
            p99_ms: at(0.99),
            p999_ms: at(0.999),
            max_ms: histogram.max() as f64 / 1e3,
            mean_ms: histogram.mean() / 1e3,
        }
    }

    pub(in crate::cli) fn text(&self) -> String {
        format!(
            "p50 {:.2} ms  p90 {:.2} ms  p99 {:.2} ms  p99.9 {:.2} ms  max {:.2} ms  mean {:.2} ms",
            self.p50_ms, self.p90_ms, self.p99_ms, self.p999_ms, self.max_ms, self.mean_ms
        )
    }
}

/// Everything about one load.
#[derive(Serialize)]
pub(in crate::cli) struct Report {
    rate: f64,
    duration_seconds: f64,
    payers: u32,
    offered: u64,
    accepted: u64,
    finals: u64,
    committed: u64,
    lost: Vec<String>,
    unfinished: u64,
    skipped: u64,
    late: u64,
    offered_per_second: f64,
    final_per_second: f64,
    committed_per_second: f64,
    to_final: Percentiles,
    to_committed: Percentiles,
    refused: BTreeMap<String, u64>,
    examples: BTreeMap<String, String>,
    retried: BTreeMap<String, u64>,
    signed_beforehand: u64,
    signing_seconds: f64,
    generator_cpu_micros_per_payment: Option<f64>,
    conditions: Conditions,
    lines: Vec<Line>,
    /// Submit→final of the payments that were due in each second.
    #[serde(skip)]
    by_second: Vec<Histogram<u64>>,
}

impl Report {
    pub(super) fn new(target: &Target, offer: &Offer, figures: Figures, signed: &Signed) -> Self {
        let refused: u64 = figures.refused.values().map(|(count, _)| count).sum();
        let per_second = |count: u64, seconds: f64| count as f64 / seconds.max(f64::MIN_POSITIVE);
        Self {
            rate: offer.rate,
            duration_seconds: offer.duration,
            payers: offer.payers,
            offered: figures.offered,
            accepted: figures.offered - refused - figures.skipped + figures.unfinished,
            finals: figures.finals,
            committed: figures.committed,
            lost: figures.lost.iter().map(ToString::to_string).collect(),
            unfinished: figures.unfinished,
            skipped: figures.skipped,
            late: figures.late,
            offered_per_second: per_second(figures.offered, figures.offered_seconds),
            final_per_second: per_second(figures.finals, figures.final_seconds.max(figures.offered_seconds)),
            committed_per_second: per_second(
                figures.committed,
                figures.committed_seconds.max(figures.offered_seconds),
            ),
            to_final: Percentiles::of(&figures.to_final),
            to_committed: Percentiles::of(&figures.to_committed),
            refused: figures
                .refused
                .iter()
                .map(|(key, (count, _))| (key.clone(), *count))
                .collect(),
            examples: figures
                .refused
                .iter()
                .map(|(key, (_, text))| (key.clone(), text.clone()))
                .collect(),
            retried: figures.retried,
            signed_beforehand: signed.payments,
            signing_seconds: signed.seconds,
            generator_cpu_micros_per_payment: figures
                .cpu_seconds
                .map(|seconds| seconds * 1e6 / figures.offered.max(1) as f64),
            conditions: Conditions::of(target),
            lines: figures.lines,
            by_second: figures.by_second,
        }
    }

    pub(in crate::cli) fn print(&self) -> std::io::Result<()> {
        say!()?;
        say!("offered    {:>9}  {:>10.1} /s", self.offered, self.offered_per_second)?;
        say!("accepted   {:>9}", self.accepted)?;
        say!("final      {:>9}  {:>10.1} /s", self.finals, self.final_per_second)?;
        say!(
            "committed  {:>9}  {:>10.1} /s",
            self.committed,
            self.committed_per_second
        )?;
        say!("submit→final      {}", self.to_final.text())?;
        say!("submit→committed  {}", self.to_committed.text())?;
        for (reason, count) in &self.refused {
            let example = self.examples.get(reason).map_or("", String::as_str);
            say!("refused    {count:>9}  {reason}: {example}")?;
        }
        for (reason, count) in &self.retried {
            say!("retried    {count:>9}  {reason}")?;
        }
        for (what, count) in [
            ("unfinished", self.unfinished),
            ("skipped", self.skipped),
            ("late", self.late),
        ] {
            if count != 0 {
                say!("{what:<10} {count:>9}")?;
            }
        }
        let conditions = &self.conditions;
        say!(
            "conditions: {} cores, {}, {}",
            conditions.cores,
            conditions.cpu,
            conditions.os
        )?;
        say!(
            "  {} validators, payments offered to {}; {} build of {}; nodes run {}",
            conditions.validators,
            conditions.nodes_offered_to,
            conditions.build,
            conditions.program,
            conditions.node_version
        )?;
        say!("  disk sync {}", conditions.disk_sync)?;
        say!("  signatures {}", conditions.signatures)?;
        say!(
            "  generator {}: {} in {:.1} s{}",
            conditions.generator,
            self.signed_beforehand,
            self.signing_seconds,
            self.generator_cpu_micros_per_payment
                .map_or_else(String::new, |micros| format!("; its own CPU {micros:.1} µs a payment"))
        )
    }

    /// Submit→final of the payments that were due in seconds (counted from 0) of which `counts` is true.
    pub(in crate::cli) fn to_final_in(&self, counts: impl Fn(usize) -> bool) -> Percentiles {
        let mut sum = new_histogram();
        for (second, histogram) in self.by_second.iter().enumerate() {
            if counts(second) {
                sum.add(histogram).expect("both have the same bounds");
            }
        }
        Percentiles::of(&sum)
    }

    /// Nothing that was final may be missing from the blocks, and everything offered should be final.
    pub(in crate::cli) fn verdict(&self) -> anyhow::Result<()> {
        anyhow::ensure!(
            self.lost.is_empty(),
            "{} final payments are in no block, the first is {}",
            self.lost.len(),
            self.lost[0]
        );
        anyhow::ensure!(
            self.finals == self.offered,
            "{} of {} payments did not become final",
            self.offered - self.finals,
            self.offered
        );
        anyhow::ensure!(
            self.committed >= self.finals,
            "{} of {} payments are in no block",
            self.finals - self.committed,
            self.finals
        );
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percentiles_are_in_milliseconds() {
        let mut histogram = new_histogram();
        for micros in 1..=1_000u64 {
            histogram.saturating_record(micros * 1_000);
        }
        let percentiles = Percentiles::of(&histogram);
        assert!((percentiles.p50_ms - 500.0).abs() < 1.0, "{}", percentiles.p50_ms);
        assert!((percentiles.p99_ms - 990.0).abs() < 1.0, "{}", percentiles.p99_ms);
        assert!((percentiles.max_ms - 1_000.0).abs() < 1.0, "{}", percentiles.max_ms);
    }
}
