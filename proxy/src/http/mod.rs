//! `/livez`, `/readyz` and `/metrics` on a port of their own.
//!
//! No secrets, nothing that changes anything: whoever reaches the port may read it. Connections are few and short:
//! their number and the time a request may take are bounded.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use futures::future::BoxFuture;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tracing::debug;

/// Connections served at a time; more wait in the queue of the socket.
const CONNECTIONS_MAX: usize = 64;
/// How long the head of a request may take.
const HEAD_TIMEOUT: Duration = Duration::from_secs(5);
/// How long a whole connection may last.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(60);

/// What the endpoints say.
pub trait Report: Send + Sync + 'static {
    /// `Err`: the program does no work any more and should be restarted.
    fn live(&self) -> Result<(), String>;
    /// `Err`: clients should not be sent here now, and why.
    fn ready(&self) -> Result<(), String>;
    /// The text of `/metrics`.
    fn metrics(&self) -> BoxFuture<'_, Result<String, std::fmt::Error>>;
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, report: Arc<dyn Report>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    loop {
        let Ok(place) = Arc::clone(&places).acquire_owned().await else {
            return;
        };
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(error) => {
                debug!(%error, "HTTP accept failed");
                tokio::time::sleep(Duration::from_millis(100)).await; // out of descriptors: not in a hot loop
                continue;
            }
        };
        let report = Arc::clone(&report);
        tokio::spawn(async move {
            let service = service_fn(move |request| answer(request, Arc::clone(&report)));
            let served = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIMEOUT)
                .serve_connection(TokioIo::new(socket), service);
            if let Ok(Err(error)) = tokio::time::timeout(CONNECTION_TIMEOUT, served).await {
                debug!(%error, "HTTP connection ended");
            }
            drop(place);
        });
    }
}

async fn answer(
    request: Request<Incoming>,
    report: Arc<dyn Report>,
) -> Result<Response<Full<Bytes>>, Infallible> {
    let read = matches!(*request.method(), Method::GET | Method::HEAD);
    let (status, kind, text) = match request.uri().path() {
        "/livez" | "/readyz" | "/metrics" if !read => {
            (StatusCode::METHOD_NOT_ALLOWED, PLAIN, "GET only\n".to_owned())
        }
        "/livez" => health(report.live()),
        "/readyz" => health(report.ready()),
        "/metrics" => match report.metrics().await {
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

const PLAIN: &str = "text/plain; charset=utf-8";
const OPEN_METRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

fn health(state: Result<(), String>) -> (StatusCode, &'static str, String) {
    match state {
        Ok(()) => (StatusCode::OK, PLAIN, "ok\n".to_owned()),
        Err(reason) => (StatusCode::SERVICE_UNAVAILABLE, PLAIN, format!("{reason}\n")),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpStream;

    use super::*;

    struct Fixed;

    impl Report for Fixed {
        fn live(&self) -> Result<(), String> {
            Ok(())
        }
        fn ready(&self) -> Result<(), String> {
            Err("no master is known".into())
        }
        fn metrics(&self) -> BoxFuture<'_, Result<String, std::fmt::Error>> {
            Box::pin(async { Ok("# EOF\n".into()) })
        }
    }

    async fn ask(request: &str) -> String {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let server = tokio::spawn(serve(listener, Arc::new(Fixed)));
        let mut socket = TcpStream::connect(address).await.unwrap();
        socket.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        socket.read_to_string(&mut answer).await.unwrap();
        server.abort();
        answer
    }

    #[tokio::test]
    async fn the_endpoints_answer_by_their_state() {
        let cases = [
            ("GET /livez", "HTTP/1.1 200", "ok\n"),
            ("GET /readyz", "HTTP/1.1 503", "no master is known\n"),
            ("GET /metrics", "HTTP/1.1 200", "# EOF\n"),
            ("POST /metrics", "HTTP/1.1 405", "GET only\n"),
            ("GET /secret", "HTTP/1.1 404", "/livez /readyz /metrics\n"),
        ];
        for (line, status, body) in cases {
            let answer = ask(&format!(
                "{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
            ))
            .await;
            assert!(
                answer.starts_with(status) && answer.ends_with(body),
                "{line}: {answer}"
            );
        }
    }

    #[tokio::test]
    async fn what_is_not_http_is_turned_away() {
        let answer = ask("\0\0\0\x08\x04\x7f\x16\x2f\r\n\r\n").await;
        assert!(
            answer.starts_with("HTTP/1.1 400") || answer.is_empty(),
            "{answer}"
        );
    }
}
