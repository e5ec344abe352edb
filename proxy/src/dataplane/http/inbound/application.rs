//! The application's side of one caller's connection: one connection of its own, in the version of
//! HTTP that the caller speaks, opened when the first request is allowed and used for those that
//! follow.

use std::cell::RefCell;
use std::rc::Rc;

use http::{Request, Response, StatusCode};
use hyper::body::Incoming;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::TcpStream;
use tokio::sync::Mutex;

use super::super::attempt::{classify, left_out};
use super::super::message::Message;
use super::super::upload::{RequestBody, Upload};
use super::super::{
    CONNECTION_WINDOW, DELAYED_CLOSE, LIST_LIMIT, LocalExecutor, READ_BUFFER, SEND_BUFFER,
    STREAM_WINDOW,
};
use super::Inbound;
use crate::dataplane::connect;
use crate::dataplane::error::Error;
use crate::dataplane::outcome::Exchange;
use crate::dataplane::protocol::Version;
use crate::dataplane::task;
use crate::net::gather::Gather;
use crate::net::last_words::LastWords;

/// The connection, once there is one.
pub(super) struct Application {
    /// One that was opened before anything was known of requests.
    early: RefCell<Option<TcpStream>>,
    protocol: Protocol,
}

enum Protocol {
    /// A caller's requests come one after the other.
    Http1(RefCell<Option<Kept>>),
    /// They come side by side: whoever needs a connection first opens it for all.
    Http2(Mutex<Option<Shared>>),
}

/// A connection between two requests.
struct Kept {
    sender: http1::SendRequest<RequestBody>,
    local: Option<std::net::SocketAddr>,
    /// The body of the last request.
    upload: Option<Rc<Upload>>,
}

#[derive(Clone)]
struct Shared {
    sender: http2::SendRequest<RequestBody>,
    local: Option<std::net::SocketAddr>,
}

impl Application {
    /// `early`: a connection to it that is open already.
    pub(super) fn new(version: Version, early: Option<TcpStream>) -> Self {
        Self {
            early: RefCell::new(early),
            protocol: match version {
                Version::Http1 => Protocol::Http1(RefCell::default()),
                Version::Http2 => Protocol::Http2(Mutex::default()),
            },
        }
    }

    /// Sends a request, and gives the head of the answer. It is sent again where the connection turned
    /// out to be closed before the application heard of it; `again` makes it once more, where it is
    /// not given back.
    pub(super) async fn send(
        &self,
        inbound: &Rc<Inbound>,
        exchange: &mut Exchange,
        message: Message,
        again: impl Fn() -> Result<Message, Error>,
    ) -> Result<Response<Incoming>, Error> {
        exchange.upstream_host = Some(inbound.admitted.arrival().destination);
        let request = message.into_request();
        match &self.protocol {
            Protocol::Http1(kept) => {
                exchange.upstream_protocol = Some("HTTP/1.1");
                self.http1(kept, inbound, exchange, request).await
            }
            Protocol::Http2(shared) => {
                exchange.upstream_protocol = Some("HTTP/2");
                self.http2(shared, inbound, exchange, request, again).await
            }
        }
    }

    async fn http1(
        &self,
        kept: &RefCell<Option<Kept>>,
        inbound: &Rc<Inbound>,
        exchange: &mut Exchange,
        mut request: Request<RequestBody>,
    ) -> Result<Response<Incoming>, Error> {
        let before = kept.take();
        // Where the last request's body is still under way, its connection can't be used.
        let before = before.filter(|one| one.upload.as_ref().is_none_or(|upload| upload.ended()));
        let mut before = before;
        let mut reused = match &mut before {
            Some(before) => before.sender.ready().await.is_ok(),
            None => false,
        };
        let mut connection = match before {
            Some(before) if reused => before,
            _ => self.open1(inbound).await?,
        };
        loop {
            connection.upload.clone_from(&exchange.received);
            exchange.seen_from(connection.local);
            let mut failure = match connection.sender.try_send_request(request).await {
                Ok(response) => {
                    if response.status() != StatusCode::SWITCHING_PROTOCOLS {
                        kept.replace(Some(connection));
                    }
                    return Ok(response);
                }
                Err(failure) => failure,
            };
            // It comes back where not a byte of it was written.
            request = match failure.take_message() {
                Some(request) if reused => request,
                _ => return Err(classify(failure.error(), false)),
            };
            reused = false;
            inbound.worker.counters.upstream_rq_stale_retry.increment();
            connection = self.open1(inbound).await?;
        }
    }

    async fn open1(&self, inbound: &Rc<Inbound>) -> Result<Kept, Error> {
        let stream = self.dial(inbound).await?;
        let local = stream.local_addr().ok();
        let (sender, connection) = http1::Builder::new()
            .max_buf_size(READ_BUFFER)
            .allow_obsolete_multiline_headers_in_responses(true)
            .handshake(TokioIo::new(LastWords::new(Gather(stream), DELAYED_CLOSE)))
            .await
            .map_err(|_| Error::Closed)?;
        task::spawn(&inbound.worker, &inbound.pod, async move {
            // Its error is told to whoever waits for an answer on it.
            let _ = connection.with_upgrades().await;
        });
        Ok(Kept {
            sender,
            local,
            upload: None,
        })
    }

    async fn http2(
        &self,
        shared: &Mutex<Option<Shared>>,
        inbound: &Rc<Inbound>,
        exchange: &mut Exchange,
        mut request: Request<RequestBody>,
        again: impl Fn() -> Result<Message, Error>,
    ) -> Result<Response<Incoming>, Error> {
        let mut first = true;
        loop {
            let mut connection = self.open2(shared, inbound).await?;
            exchange.seen_from(connection.local);
            let mut failure = match connection.sender.try_send_request(request).await {
                Ok(response) => return Ok(response),
                Err(failure) => failure,
            };
            let unsent = failure.take_message();
            let unheard = unsent.is_some() || left_out(failure.error());
            let sent = exchange.bytes_received() > 0;
            if !(first && unheard) || sent {
                return Err(classify(failure.error(), false));
            }
            request = match unsent {
                Some(request) => request,
                None => again()?.into_request(),
            };
            first = false;
            inbound.worker.counters.upstream_rq_stale_retry.increment();
            // A connection that leaves requests out takes no more.
            shared.lock().await.take();
        }
    }

    async fn open2(
        &self,
        shared: &Mutex<Option<Shared>>,
        inbound: &Rc<Inbound>,
    ) -> Result<Shared, Error> {
        let mut shared = shared.lock().await;
        if let Some(open) = shared.as_ref().filter(|one| !one.sender.is_closed()) {
            return Ok(open.clone());
        }
        let stream = self.dial(inbound).await?;
        let local = stream.local_addr().ok();
        let (sender, connection) = http2::Builder::new(LocalExecutor)
            .timer(TokioTimer::new())
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(LIST_LIMIT)
            .max_send_buf_size(SEND_BUFFER)
            .handshake(TokioIo::new(Gather(stream)))
            .await
            .map_err(|_| Error::Closed)?;
        task::spawn(&inbound.worker, &inbound.pod, async move {
            let _ = connection.await;
        });
        let open = Shared { sender, local };
        *shared = Some(open.clone());
        Ok(open)
    }

    async fn dial(&self, inbound: &Inbound) -> Result<TcpStream, Error> {
        if let Some(early) = self.early.take() {
            return Ok(early);
        }
        let arrival = inbound.admitted.arrival();
        connect::application(
            &inbound.worker,
            &inbound.pod,
            arrival.source,
            arrival.destination,
        )
        .await
    }
}
