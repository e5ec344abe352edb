//! What the client asks, as text.
//!
//! `METHOD /path | name: value | …`, where a part may also be a body: `=text`, `#N` (so many bytes),
//! `~NxMS` (chunks, so far apart), `^name: value` (a trailer), or `!MS`, after which the client goes
//! away (`!!MS`: with its whole connection, also where that is HTTP/2), or `%MS`, by which it puts off reading
//! the next part of an answer. `{}` in it is the number of the request, from 0. Words before the method: `h2`, `20x` (so many
//! one after the other on one connection), `5&` (so many at once), `20x40` and `5&60` (with
//! milliseconds between two), `same` (on the connection of the step before), `after=MS`, `join` (once
//! the Service's last endpoint has joined), `jar` (with the cookies that were set before).
//!
//! Instead of a method: `UPGRADE` is a GET that asks for `websocket` and sends a word over it, `TCP`
//! sends what follows as bytes, `SNI` the first bytes of a TLS client that asks for that name.
//! With `!MS` an upgraded connection stays open so long, or until its end.

use std::time::Duration;

use anyhow::{Context, Result, bail};

/// A number of requests that are alike.
#[derive(Clone, Debug, Default)]
pub struct Ask {
    /// How many.
    pub count: usize,
    /// All at once; otherwise one after the other on one connection.
    pub at_once: bool,
    /// How far apart they begin; those one after the other, when the one before has ended.
    pub apart: Duration,
    /// HTTP/2.
    pub http2: bool,
    /// On the connection of the step before.
    pub same: bool,
    /// Once the Service's last endpoint has joined.
    pub joins: bool,
    /// With the cookies that answers have set.
    pub jar: bool,
    /// How long is waited before.
    pub after: Duration,
    /// The method.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Fields; `host` replaces the Service's name.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: Body,
    /// Trailers of the body.
    pub trailers: Vec<(String, String)>,
    /// When the client goes away.
    pub give_up: Option<Duration>,
    /// Whether its connection goes with it.
    pub hangs_up: bool,
    /// How long it waits before it reads the next part of an answer.
    pub dawdles: Duration,
}

/// The body of a request.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Body {
    /// None.
    #[default]
    None,
    /// All at once, with a length.
    Whole(String),
    /// So many chunks, so far apart, without a length.
    Chunks(usize, Duration),
}

impl Ask {
    /// Reads requests.
    pub fn parse(text: &str) -> Result<Self> {
        let mut ask = Self {
            count: 1,
            ..Self::default()
        };
        let mut parts = text.split(" | ");
        let mut words = parts.next().unwrap_or_default().split(' ');
        loop {
            let word = words.next().context("no method")?;
            match word {
                "h2" => ask.http2 = true,
                "same" => ask.same = true,
                "jar" => ask.jar = true,
                "join" => ask.joins = true,
                _ => {
                    if let Some(millis) = word.strip_prefix("after=") {
                        ask.after = Duration::from_millis(millis.parse()?);
                    } else if let Some((count, millis)) = number(word, 'x') {
                        (ask.count, ask.apart) = (count, millis);
                    } else if let Some((count, millis)) = number(word, '&') {
                        (ask.count, ask.apart, ask.at_once) = (count, millis, true);
                    } else {
                        ask.method = word.into();
                        break;
                    }
                }
            }
        }
        ask.path = words.collect::<Vec<_>>().join(" ");
        for part in parts {
            let rest = part.get(1..).unwrap_or_default();
            match part.chars().next() {
                Some('=') => ask.body = Body::Whole(rest.into()),
                Some('#') => ask.body = Body::Whole("x".repeat(rest.parse()?)),
                Some('~') => {
                    let (count, millis) = rest.split_once('x').context("~NxMS")?;
                    ask.body = Body::Chunks(count.parse()?, Duration::from_millis(millis.parse()?));
                }
                Some('!') => {
                    let millis = rest.trim_start_matches('!');
                    ask.hangs_up = millis != rest;
                    ask.give_up = Some(Duration::from_millis(millis.parse()?));
                }
                Some('%') => ask.dawdles = Duration::from_millis(rest.parse()?),
                Some('^') => ask.trailers.push(field(rest)?),
                _ => ask.headers.push(field(part)?),
            }
        }
        if ask.path.is_empty() {
            bail!("no path");
        }
        Ok(ask)
    }

    /// The path of request `number`.
    pub fn path(&self, number: usize) -> String {
        self.path.replace("{}", &number.to_string())
    }

    /// The fields of request `number`.
    pub fn headers(&self, number: usize) -> impl Iterator<Item = (&str, String)> {
        let fields = self.headers.iter();
        fields.map(move |(name, value)| (name.as_str(), value.replace("{}", &number.to_string())))
    }

    /// Whether bytes are sent instead of HTTP.
    pub fn is_tcp(&self) -> bool {
        matches!(self.method.as_str(), "TCP" | "SNI")
    }

    /// The bytes of request `number`, with `host` for `@`.
    pub fn bytes(&self, number: usize, host: &str) -> Vec<u8> {
        let text = self.path(number).replace('@', host);
        match self.method.as_str() {
            "SNI" => crate::raw::client_hello(&text),
            _ => (text + "\n").into_bytes(),
        }
    }

    /// Whether the protocol of the connection is to change.
    pub fn upgrades(&self) -> bool {
        self.method == "UPGRADE"
    }
}

/// `20x`, or `20x40` with the milliseconds between two.
fn number(word: &str, mark: char) -> Option<(usize, Duration)> {
    let (count, millis) = word.split_once(mark)?;
    let millis = if millis.is_empty() {
        0
    } else {
        millis.parse().ok()?
    };
    Some((count.parse().ok()?, Duration::from_millis(millis)))
}

fn field(text: &str) -> Result<(String, String)> {
    // A pseudo field begins with a colon.
    let at = text[1..].find(':').context("a field without a colon")? + 1;
    Ok((text[..at].into(), text[at + 1..].trim_start().into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_are_read() {
        let ask = Ask::parse("h2 20x after=5 POST /a/{}?b | x-a: c d | =body | ^t: u").unwrap();
        assert!(ask.http2 && !ask.at_once);
        assert_eq!((ask.count, ask.after.as_millis()), (20, 5));
        assert_eq!((&*ask.method, &*ask.path(3)), ("POST", "/a/3?b"));
        assert_eq!(ask.headers(0).next(), Some(("x-a", "c d".to_owned())));
        assert_eq!(ask.body, Body::Whole("body".into()));
        assert_eq!(ask.trailers, [("t".to_owned(), "u".to_owned())]);
        assert!(Ask::parse("5& GET / | !30").unwrap().at_once);
        assert!(Ask::parse("h2 GET / | !!30").unwrap().hangs_up);
        for wrong in ["", "GET", "GET / | x", "GET / | ~5"] {
            assert!(Ask::parse(wrong).is_err(), "{wrong}");
        }
    }
}
