//! Asks a proxy what a step says, and keeps all that came back.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use anyhow::{Context, Result};
use bytes::{Bytes, BytesMut};
use http::{HeaderMap, HeaderName, HeaderValue, Request};
use http_body_util::BodyExt;
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpSocket,
};

use super::request::{Ask, Body};
use crate::{
    PATIENCE, Pod,
    client::{self, Http},
    clock,
};

/// Where a scenario's requests go.
#[derive(Clone, Debug)]
pub struct Client {
    /// From which pod.
    pub pod: Arc<Pod>,
    /// To which address: the Service's.
    pub to: SocketAddr,
    /// The authority.
    pub host: String,
    /// The mark of its sockets, by which a proxy beside it gets what it sends elsewhere.
    pub mark: Option<u32>,
}

/// What one request came to.
#[derive(Clone, Debug)]
pub struct Outcome {
    /// The request's `x-request-id`; for TCP, the client's own address. Both logs have it.
    pub id: String,
    /// 0 where there was no answer.
    pub status: u16,
    /// The answer's fields, in order.
    pub headers: Vec<(String, String)>,
    /// As much of the body as came.
    pub body: Vec<u8>,
    /// Its trailers.
    pub trailers: Vec<(String, String)>,
    /// How it ended.
    pub end: End,
    /// How long it took.
    pub took: Duration,
}

/// How an exchange ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The answer was complete.
    Whole,
    /// Its body broke off.
    Broken,
    /// There was none.
    NoAnswer,
    /// The client went away.
    GaveUp,
}

/// How long a connection of HTTP/2 stays open of which one stream was given up.
const STAYS: Duration = Duration::from_secs(1);

/// A client in the middle of its scenario: what later steps take up.
#[derive(Debug)]
pub struct Session {
    client: Client,
    connection: Option<Http>,
    cookies: Vec<String>,
}

impl Session {
    /// A client that has asked for nothing yet.
    pub fn new(client: Client) -> Self {
        Self {
            client,
            connection: None,
            cookies: Vec::new(),
        }
    }

    /// Does what step number `step` asks.
    pub async fn perform(&mut self, step: usize, ask: &Ask) -> Result<Vec<Outcome>> {
        tokio::time::sleep(ask.after).await;
        let id = |number: usize| format!("{}.{step}.{number}", self.client.host);
        let mut outcomes = Vec::new();
        if let (Some(patience), true) = (ask.give_up, ask.hangs_up && ask.http2) {
            let (mut connection, cut) = Http::cut2(&self.client.pod, self.client.to).await?;
            tokio::spawn(async move {
                tokio::time::sleep(patience).await;
                // It may be closed already.
                let _ = cut.shutdown(std::net::Shutdown::Both);
            });
            let mut ask = ask.clone();
            ask.give_up = None;
            let (host, id) = (&self.client.host, id(0));
            outcomes.push(exchange(&mut connection, &ask, 0, host, id, &[]).await);
            return Ok(outcomes);
        }
        if ask.is_tcp() || ask.upgrades() || ask.at_once {
            let one = |number: usize| {
                let (client, ask, id) = (self.client.clone(), ask.clone(), id(number));
                let begin = ask.apart * u32::try_from(number).unwrap_or_default();
                async move {
                    tokio::time::sleep(begin).await;
                    match () {
                        () if ask.is_tcp() => client.bytes(&ask, number).await,
                        () if ask.upgrades() => client.upgrade(&ask, id).await,
                        () => {
                            let mut connection = client.connect(ask.http2).await?;
                            Ok(
                                exchange(&mut connection, &ask, number, &client.host, id, &[])
                                    .await,
                            )
                        }
                    }
                }
            };
            let tasks: Vec<_> = (0..ask.count)
                .map(|number| tokio::spawn(one(number)))
                .collect();
            for task in tasks {
                outcomes.push(task.await??);
            }
            return Ok(outcomes);
        }
        if !ask.same {
            self.connection = None;
        }
        for number in 0..ask.count {
            if number > 0 {
                tokio::time::sleep(ask.apart).await;
            }
            let usable = self.connection.take().filter(|open| !open.is_closed());
            let mut connection = match usable {
                Some(open) => open,
                None => self.client.connect(ask.http2).await?,
            };
            let cookies = if ask.jar { &self.cookies[..] } else { &[] };
            let id = id(number);
            let host = &self.client.host;
            let outcome = exchange(&mut connection, ask, number, host, id, cookies).await;
            for (_, cookie) in outcome
                .headers
                .iter()
                .filter(|(name, _)| name == "set-cookie")
            {
                let pair = cookie.split(';').next().unwrap_or_default();
                self.cookies.push(pair.into());
            }
            if ask.http2 && outcome.end == End::GaveUp {
                // The stream's end must not be met together with the connection's.
                tokio::spawn(async move {
                    tokio::time::sleep(STAYS).await;
                    drop(connection);
                });
            } else {
                self.connection = Some(connection);
            }
            outcomes.push(outcome);
        }
        Ok(outcomes)
    }
}

impl Client {
    async fn connect(&self, http2: bool) -> Result<Http> {
        let connecting = self.socket()?.connect(self.to);
        let stream = tokio::time::timeout(PATIENCE, connecting).await;
        let stream = stream.context("no connection in time")??;
        stream.set_nodelay(true)?;
        if http2 {
            Http::over2(stream).await
        } else {
            Http::over1(stream).await
        }
    }

    fn socket(&self) -> Result<TcpSocket> {
        let socket = self.pod.netns.socket(self.to.ip())?;
        if let Some(mark) = self.mark {
            socket2::SockRef::from(&socket).set_mark(mark)?;
        }
        Ok(socket)
    }

    /// Sends bytes and reads until as many came back after the first line, or the end.
    async fn bytes(&self, ask: &Ask, number: usize) -> Result<Outcome> {
        let begun = clock::now();
        let socket = self.socket()?;
        // Bound first, so that the log's entry is found also where the connection fails.
        socket.bind(self.pod.at(0))?;
        let mut outcome = Outcome::new(socket.local_addr()?.to_string());
        let sent = ask.bytes(number, &self.host);
        let exchange = async {
            let mut stream = socket.connect(self.to).await?;
            stream.write_all(&sent).await?;
            let line = |body: &[u8]| body.iter().position(|byte| *byte == b'\n');
            while line(&outcome.body).is_none_or(|at| outcome.body.len() <= at + sent.len()) {
                if stream.read_buf(&mut outcome.body).await? == 0 {
                    return Ok(End::Broken);
                }
            }
            anyhow::Ok(End::Whole)
        };
        outcome.end = match tokio::time::timeout(ask.give_up.unwrap_or(PATIENCE), exchange).await {
            Ok(Ok(end)) => end,
            Ok(Err(_)) => End::Broken,
            Err(_) => End::GaveUp,
        };
        outcome.took = clock::now() - begun;
        Ok(outcome)
    }

    /// Asks for another protocol, and says a word in it.
    async fn upgrade(&self, ask: &Ask, id: String) -> Result<Outcome> {
        let begun = clock::now();
        let mut http = self.connect(false).await?;
        let mut ask = ask.clone();
        ask.method = "GET".into();
        let wanted = [
            ("connection", "Upgrade"),
            ("upgrade", "websocket"),
            ("sec-websocket-version", "13"),
            ("sec-websocket-key", "dGhlIHNhbXBsZSBub25jZQ=="),
        ];
        for (name, value) in wanted {
            ask.headers.push((name.into(), value.into()));
        }
        let request = build(&ask, 0, &self.host, &id, &[])?;
        let mut outcome = Outcome::new(id);
        let response = tokio::time::timeout(PATIENCE, http.send(request)).await??;
        outcome.status = response.status().as_u16();
        outcome.headers = pairs(response.headers());
        if outcome.status == 101 {
            let stream = hyper::upgrade::on(response).await?;
            let mut stream = TokioIo::new(stream);
            stream.write_all(b"a word").await?;
            let mut echo = [0; 6];
            let read = tokio::time::timeout(PATIENCE, stream.read_exact(&mut echo)).await;
            read.context("no echo in time")??;
            outcome.body.extend_from_slice(&echo);
            if let Some(patience) = ask.give_up {
                let rest = stream.read_to_end(&mut outcome.body);
                outcome.end = match tokio::time::timeout(patience, rest).await {
                    Ok(Ok(_)) => End::Whole,
                    Ok(Err(_)) => End::Broken,
                    Err(_) => End::GaveUp,
                };
                outcome.took = clock::now() - begun;
                return Ok(outcome);
            }
        } else {
            outcome.body = response.into_body().collect().await?.to_bytes().to_vec();
        }
        outcome.end = End::Whole;
        outcome.took = clock::now() - begun;
        Ok(outcome)
    }
}

impl Outcome {
    fn new(id: String) -> Self {
        Self {
            id,
            status: 0,
            headers: Vec::new(),
            body: Vec::new(),
            trailers: Vec::new(),
            end: End::NoAnswer,
            took: Duration::ZERO,
        }
    }
}

async fn exchange(
    connection: &mut Http,
    ask: &Ask,
    number: usize,
    host: &str,
    id: String,
    cookies: &[String],
) -> Outcome {
    let begun = clock::now();
    let request = build(ask, number, host, &id, cookies);
    let mut outcome = Outcome::new(id);
    let exchanging = async {
        let response = connection.send(request?).await?;
        outcome.status = response.status().as_u16();
        outcome.headers = pairs(response.headers());
        let mut body = response.into_body();
        outcome.end = End::Broken;
        while let Some(frame) = body.frame().await {
            match frame?.into_data() {
                Ok(data) => {
                    outcome.body.extend_from_slice(&data);
                    tokio::time::sleep(ask.dawdles).await;
                }
                Err(frame) => {
                    if let Some(trailers) = frame.trailers_ref() {
                        outcome.trailers = pairs(trailers);
                    }
                }
            }
        }
        outcome.end = End::Whole;
        anyhow::Ok(())
    };
    // Going away is dropping the exchange: HTTP/1 ends the connection, HTTP/2 the stream.
    let patience = ask.give_up.unwrap_or(PATIENCE);
    if tokio::time::timeout(patience, exchanging).await.is_err() {
        outcome.end = End::GaveUp;
    }
    outcome.took = clock::now() - begun;
    outcome
}

fn build(
    ask: &Ask,
    number: usize,
    host: &str,
    id: &str,
    cookies: &[String],
) -> Result<Request<client::Body>> {
    let given = ask.headers.iter().find(|(name, _)| name == "host");
    let host = given.map_or(host.to_owned(), |(_, given)| given.replace('@', host));
    let mut request = client::request(&ask.method, &host, &ask.path(number));
    if !ask.headers.iter().any(|(name, _)| name == "x-request-id") {
        request = request.header("x-request-id", id);
    }
    for (name, value) in ask.headers(number).filter(|(name, _)| *name != "host") {
        request = request.header(name, value);
    }
    if !cookies.is_empty() {
        request = request.header("cookie", cookies.join("; "));
    }
    let body = match &ask.body {
        Body::None if ask.trailers.is_empty() => client::whole(""),
        Body::Whole(text) if ask.trailers.is_empty() => client::whole(text.clone()),
        Body::None => streamed(vec![], Duration::ZERO, &ask.trailers),
        Body::Whole(text) => streamed(vec![text.clone()], Duration::ZERO, &ask.trailers),
        Body::Chunks(count, pause) => streamed(vec!["chunk".into(); *count], *pause, &ask.trailers),
    };
    Ok(request.body(body)?)
}

/// A body that comes in parts.
fn streamed(chunks: Vec<String>, pause: Duration, trailers: &[(String, String)]) -> client::Body {
    let (mut sender, body) = http_body_util::channel::Channel::<Bytes, std::io::Error>::new(1);
    let fields = trailers.iter().filter_map(|(name, value)| {
        Some((
            HeaderName::try_from(name).ok()?,
            HeaderValue::try_from(value).ok()?,
        ))
    });
    let fields: HeaderMap = fields.collect();
    tokio::spawn(async move {
        for chunk in chunks {
            if sender
                .send_data(BytesMut::from(chunk.as_bytes()).freeze())
                .await
                .is_err()
            {
                return;
            }
            tokio::time::sleep(pause).await;
        }
        if !fields.is_empty() {
            let _ = sender.send_trailers(fields).await;
        }
    });
    body.boxed()
}

fn pairs(headers: &HeaderMap) -> Vec<(String, String)> {
    let pair = |(name, value): (&HeaderName, &HeaderValue)| {
        (
            name.to_string(),
            String::from_utf8_lossy(value.as_bytes()).into_owned(),
        )
    };
    headers.iter().map(pair).collect()
}
