//! A small HTTP/1.1 server for GET requests: a listener, a table of answers.
//!
//! Knows nothing about what it serves.

use std::convert::Infallible;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::header::{ALLOW, CONTENT_TYPE};
use http::{HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpListener;
use tokio::sync::Semaphore;

/// Connections served at once; more wait in the listener's queue.
const CONNECTIONS: usize = 64;
/// A client that sends nothing for this long is closed.
const PATIENCE: Duration = Duration::from_secs(30);

/// What a path is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// A JSON document.
    Json(String),
    /// Plain text with this status.
    Text(StatusCode, String),
    /// Prometheus' text format.
    Metrics(String),
}

/// Answers a path and its query; `None` is a 404.
pub trait Answers: Send + Sync + 'static {
    /// Answers one request.
    fn answer(&self, path: &str, query: Option<&str>) -> Option<Answer>;
}

/// Binds the listener. The error names the address.
pub async fn bind(address: SocketAddr) -> io::Result<TcpListener> {
    TcpListener::bind(address)
        .await
        .map_err(|error| io::Error::new(error.kind(), format!("listen on {address}: {error}")))
}

/// Serves until the future is dropped.
pub async fn serve(listener: TcpListener, answers: Arc<impl Answers>) {
    let room = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok(permit) = Arc::clone(&room).acquire_owned().await else {
            return;
        };
        let stream = match listener.accept().await {
            Ok((stream, _)) => stream,
            Err(error) => {
                tracing::warn!(%error, "an admin connection could not be accepted");
                tokio::time::sleep(Duration::from_millis(100)).await;
                continue;
            }
        };
        let answers = Arc::clone(&answers);
        tokio::spawn(async move {
            let service = service_fn(move |request| {
                let response = respond(&*answers, &request);
                async move { Ok::<_, Infallible>(response) }
            });
            let connection = http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(PATIENCE)
                .serve_connection(TokioIo::new(stream), service);
            if let Err(error) = connection.await {
                tracing::debug!(%error, "an admin connection ended");
            }
            drop(permit);
        });
    }
}

fn respond(answers: &impl Answers, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    if request.method() != Method::GET && request.method() != Method::HEAD {
        let mut response = text(
            StatusCode::METHOD_NOT_ALLOWED,
            "only GET is served here\n".into(),
        );
        response
            .headers_mut()
            .insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match answers.answer(request.uri().path(), request.uri().query()) {
        Some(Answer::Json(body)) => typed(StatusCode::OK, "application/json", body),
        Some(Answer::Metrics(body)) => typed(
            StatusCode::OK,
            "text/plain; version=0.0.4; charset=utf-8",
            body,
        ),
        Some(Answer::Text(status, body)) => text(status, body),
        None => text(
            StatusCode::NOT_FOUND,
            format!("nothing is served at {}\n", request.uri().path()),
        ),
    }
}

fn text(status: StatusCode, body: String) -> Response<Full<Bytes>> {
    typed(status, "text/plain; charset=utf-8", body)
}

fn typed(status: StatusCode, kind: &'static str, body: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(body)));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
