//! Logs: structured, to standard error, for people or for machines.

use super::config::LogConfig;
use serde::{Deserialize, Serialize};
use std::io::IsTerminal;
use thiserror::Error;
use tracing_subscriber::{EnvFilter, filter::ParseError, fmt};

/// How log lines look.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people; coloured on a terminal.
    Text,
    /// One JSON object a line.
    Json,
}

/// Why there are no logs.
#[derive(Debug, Error)]
pub enum TelemetryError {
    /// The filter is none.
    #[error("log filter '{filter}': {source}")]
    Filter {
        /// As written.
        filter: String,
        /// What the parser says.
        source: ParseError,
    },
    /// Somebody has set up logs already.
    #[error("logs are set up already: {0}")]
    Twice(String),
}

/// Reads a filter in the language of `RUST_LOG`.
pub fn parse_filter(text: &str) -> Result<EnvFilter, ParseError> {
    EnvFilter::builder().parse(text)
}

/// Sets up logs for the whole process; once.
pub fn init(config: &LogConfig) -> Result<(), TelemetryError> {
    let filter = parse_filter(&config.filter).map_err(|source| TelemetryError::Filter {
        filter: config.filter.clone(),
        source,
    })?;
    let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
    let result = match config.format {
        LogFormat::Text => lines.with_ansi(std::io::stderr().is_terminal()).try_init(),
        LogFormat::Json => lines.json().flatten_event(true).with_current_span(false).try_init(),
    };
    result.map_err(|error| TelemetryError::Twice(error.to_string()))
}
