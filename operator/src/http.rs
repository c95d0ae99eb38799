//! `/livez`, `/readyz` and `/metrics`. Nothing here changes anything or tells a secret.

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::debug;

/// Connections at a time.
const CONNECTIONS_MAX: usize = 32;
/// How long one may last.
const CONNECTION_MAX: Duration = Duration::from_secs(30);
const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// What the endpoints say.
pub trait Report: Send + Sync + 'static {
    /// `Err`: the program does no work any more and should be restarted.
    ///
    /// # Errors
    /// Why.
    fn live(&self) -> Result<(), String>;
    /// `Err`: it does not do its work yet.
    ///
    /// # Errors
    /// Why.
    fn ready(&self) -> Result<(), String>;
    /// The text of `/metrics`.
    ///
    /// # Errors
    /// Writing to a string does not fail.
    fn metrics(&self) -> Result<String, std::fmt::Error>;
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, health: Arc<dyn Report>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let Ok((socket, _)) = listener.accept().await else {
            // Out of descriptors: not in a hot loop.
            tokio::time::sleep(Duration::from_millis(100)).await;
            continue;
        };
        let health = Arc::clone(&health);
        tokio::spawn(async move {
            let service = service_fn(|request| answer(request, health.as_ref()));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(Duration::from_secs(5))
                .serve_connection(TokioIo::new(socket), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_MAX, served).await {
                debug!(%error, "HTTP connection ended");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    health: &dyn Report,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let state = |state: Result<(), String>| match state {
        Ok(()) => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{why}\n")),
    };
    let (status, kind, text) = match request.uri().path() {
        "/livez" => state(health.live()),
        "/readyz" => state(health.live().and_then(|()| health.ready())),
        "/metrics" => match health.metrics() {
            Ok(text) => (StatusCode::OK, OPEN_METRICS, text),
            Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, PLAIN, format!("{error}\n")),
        },
        _ => (
            StatusCode::NOT_FOUND,
            PLAIN,
            "/livez /readyz /metrics\n".to_owned(),
        ),
    };
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok(response)
}
