//! `/metrics`, `/healthz` and `/readyz`.

use super::{clock, metrics::Metrics, ready::Watch};
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::{IntoResponse, Response},
    routing::get,
};
use std::{net::SocketAddr, sync::Arc};
use thiserror::Error;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;

/// Why there is no HTTP server.
#[derive(Debug, Error)]
pub enum HttpError {
    /// The address is taken, or not ours.
    #[error("metrics and health cannot be served on {address}: {source}; is another node running? (http.listen)")]
    Bind {
        /// Where.
        address: SocketAddr,
        /// What the operating system says.
        source: std::io::Error,
    },
}

/// What the pages show.
#[derive(Clone)]
pub struct Pages {
    /// `/metrics`.
    pub metrics: Arc<Metrics>,
    /// `/healthz` and `/readyz`.
    pub watch: Watch,
}

/// Opens the socket, so that a taken port is noticed at start.
pub async fn bind(address: SocketAddr) -> Result<TcpListener, HttpError> {
    TcpListener::bind(address)
        .await
        .map_err(|source| HttpError::Bind { address, source })
}

/// Serves until cancelled.
pub async fn serve(listener: TcpListener, pages: Pages, cancel: CancellationToken) {
    let router = Router::new()
        .route("/metrics", get(metrics))
        .route("/healthz", get(health))
        .route("/readyz", get(ready))
        .with_state(pages);
    let stopped = cancel.clone().cancelled_owned();
    let server = axum::serve(listener, router).with_graceful_shutdown(stopped);
    // A scraper that keeps its connection open must not keep the node from ending.
    tokio::select! {
        result = server.into_future() => if let Err(error) = result {
            tracing::error!(%error, "the HTTP server failed");
        },
        () = async {
            cancel.cancelled().await;
            tokio::time::sleep(GRACE).await;
        } => {}
    }
}

/// How long answers under way may take when the node stops.
const GRACE: std::time::Duration = std::time::Duration::from_millis(500);

async fn metrics(State(pages): State<Pages>) -> Response {
    // Reads files: not on this thread.
    let text = tokio::task::spawn_blocking(move || pages.metrics.text()).await;
    match text {
        Ok(Ok(text)) => (
            [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")],
            text,
        )
            .into_response(),
        Ok(Err(error)) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

async fn health(State(pages): State<Pages>) -> Response {
    match pages.watch.is_alive() {
        true => (StatusCode::OK, "alive\n").into_response(),
        false => (StatusCode::SERVICE_UNAVAILABLE, "the loop has shown no sign of life\n").into_response(),
    }
}

async fn ready(State(pages): State<Pages>) -> Response {
    let readiness = pages.watch.readiness(clock::wall());
    let status = match readiness.ready {
        true => StatusCode::OK,
        false => StatusCode::SERVICE_UNAVAILABLE,
    };
    let body = serde_json::to_string(&readiness).unwrap_or_else(|error| format!("{{\"error\":\"{error}\"}}"));
    (status, [(header::CONTENT_TYPE, "application/json")], body).into_response()
}
