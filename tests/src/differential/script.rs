//! What an upstream does, as text.
//!
//! A script is a list of answers, one an attempt; the last one goes on for ever. An answer is a word:
//! a status, or `reset`, `close`, `garbage`, `half`, `never`, and for HTTP/2 `refused`, `cancel`,
//! `goaway`; then what goes with it, by commas: `body=…`, `h.NAME=…` (a header), `t.NAME=…` (a
//! trailer; both with `+` for a space), `wait=MS` (before the head), `pause=MS` (after the head),
//! `early` (it answers before it has read the request's body), `last` (it closes afterwards), `cut` and
//! `abort` (the body breaks off by FIN or RST; on HTTP/2 by the end of the connection or RST_STREAM),
//! `cancel` (by `CANCEL`), `hang` (and by nothing at all), `chunked`.
//!
//! Instead of answers a script can be `refuse` (nothing listens) or `blackhole` (connections are not
//! even refused). `0= …; …` gives endpoint 0 a script of its own.

use std::{collections::BTreeMap, time::Duration};

use anyhow::{Context, Result, bail};

/// The scripts of a scenario's endpoints.
#[derive(Clone, Debug, Default)]
pub struct Scripts {
    all: Script,
    own: BTreeMap<usize, Script>,
}

/// What an endpoint does.
#[derive(Clone, Debug)]
pub enum Script {
    /// Nothing listens.
    Refuse,
    /// Its queue of connections is full: what is dialled stays unanswered.
    Blackhole,
    /// It answers, the last answer for ever.
    Serve(Vec<Answer>),
}

/// One answer.
#[derive(Clone, Debug, Default)]
pub struct Answer {
    /// What kind.
    pub head: Head,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// The body.
    pub body: String,
    /// Trailer fields.
    pub trailers: Vec<(String, String)>,
    /// Before the head.
    pub wait: Duration,
    /// Between head and body.
    pub pause: Duration,
    /// The request's body is left unread.
    pub early: bool,
    /// The connection is closed afterwards.
    pub last: bool,
    /// Without a length.
    pub chunked: bool,
    /// How the body ends.
    pub end: End,
}

/// What comes first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Head {
    /// A response with this status.
    Status(u16),
    /// RST; `INTERNAL_ERROR` on HTTP/2.
    Reset,
    /// FIN; `GOAWAY` and FIN on HTTP/2.
    Close,
    /// Bytes that are not HTTP.
    Garbage,
    /// Half a head, then FIN.
    Half,
    /// Nothing, for ever.
    Never,
    /// `REFUSED_STREAM`.
    Refused,
    /// `CANCEL`.
    Cancel,
    /// `GOAWAY` with this stream not processed.
    GoAway,
}

/// How a body ends.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// In full.
    #[default]
    Whole,
    /// By FIN, half way.
    Cut,
    /// By RST, half way.
    Abort,
    /// By `CANCEL`, half way.
    Cancel,
    /// Half way, with the connection open.
    Hang,
}

impl Default for Head {
    fn default() -> Self {
        Self::Status(200)
    }
}

impl Default for Script {
    fn default() -> Self {
        Self::Serve(vec![Answer {
            body: "ok".into(),
            ..Answer::default()
        }])
    }
}

impl Scripts {
    /// Reads scripts.
    pub fn parse(text: &str) -> Result<Self> {
        let mut scripts = Self::default();
        for part in text.split(';') {
            let (endpoint, script) = match part.split_once("= ") {
                Some((number, script)) if number.trim().parse::<usize>().is_ok() => {
                    (number.trim().parse().ok(), script)
                }
                _ => (None, part),
            };
            let script = Script::parse(script)?;
            match endpoint {
                Some(endpoint) => drop(scripts.own.insert(endpoint, script)),
                None => scripts.all = script,
            }
        }
        Ok(scripts)
    }

    /// The script of an endpoint.
    pub fn of(&self, endpoint: usize) -> &Script {
        self.own.get(&endpoint).unwrap_or(&self.all)
    }

    /// Whether endpoints have scripts of their own: each then counts its own attempts.
    pub fn differ(&self) -> bool {
        !self.own.is_empty()
    }
}

impl Script {
    fn parse(text: &str) -> Result<Self> {
        match text.trim() {
            "refuse" => Ok(Self::Refuse),
            "blackhole" => Ok(Self::Blackhole),
            "" => bail!("an empty script"),
            words => Ok(Self::Serve(
                words
                    .split_whitespace()
                    .map(|word| Answer::parse(word).with_context(|| word.to_owned()))
                    .collect::<Result<_>>()?,
            )),
        }
    }

    /// The answer to attempt `number`, from 0.
    pub fn answer(&self, number: usize) -> Answer {
        match self {
            Self::Serve(answers) => answers
                .get(number)
                .or(answers.last())
                .cloned()
                .unwrap_or_default(),
            Self::Refuse | Self::Blackhole => Answer::default(),
        }
    }
}

impl Answer {
    fn parse(word: &str) -> Result<Self> {
        let mut parts = word.split(',');
        let head = match parts.next().unwrap_or_default() {
            "reset" => Head::Reset,
            "close" => Head::Close,
            "garbage" => Head::Garbage,
            "half" => Head::Half,
            "never" => Head::Never,
            "refused" => Head::Refused,
            "cancel" => Head::Cancel,
            "goaway" => Head::GoAway,
            number => Head::Status(number.parse().context("not an answer")?),
        };
        let mut answer = Self {
            head,
            ..Self::default()
        };
        // What a client may take for a body; an empty one is asked for.
        answer.body = match head {
            Head::Status(200) => "ok".into(),
            Head::Status(status) if status >= 300 && status != 304 => format!("upstream {status}"),
            _ => String::new(),
        };
        for part in parts {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            let value = value.replace('+', " ");
            let millis = || value.parse().map(Duration::from_millis);
            match name {
                "body" => answer.body = value,
                "bytes" => answer.body = "x".repeat(value.parse()?),
                "wait" => answer.wait = millis()?,
                "pause" => answer.pause = millis()?,
                "early" => answer.early = true,
                "last" => answer.last = true,
                "chunked" => answer.chunked = true,
                "cut" => answer.end = End::Cut,
                "abort" => answer.end = End::Abort,
                "cancel" => answer.end = End::Cancel,
                "hang" => answer.end = End::Hang,
                _ => match name.split_once('.') {
                    Some(("h", name)) => answer.headers.push((name.into(), value)),
                    Some(("t", name)) => answer.trailers.push((name.into(), value)),
                    _ => bail!("`{name}` goes with no answer"),
                },
            }
        }
        Ok(answer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scripts_are_read() {
        let scripts =
            Scripts::parse("0= refuse; 503,h.x-a=b+c 200,wait=20,t.grpc-status=0").unwrap();
        assert!(matches!(scripts.of(0), Script::Refuse) && scripts.differ());
        let first = scripts.of(1).answer(0);
        assert_eq!(first.head, Head::Status(503));
        assert_eq!(first.headers, [("x-a".to_owned(), "b c".to_owned())]);
        let later = scripts.of(1).answer(7);
        assert_eq!(later.trailers, [("grpc-status".to_owned(), "0".to_owned())]);
        assert_eq!((later.wait.as_millis(), &*later.body), (20, "ok"));
        for wrong in ["", "20x", "200,x=1", "0= "] {
            assert!(Scripts::parse(wrong).is_err(), "{wrong}");
        }
    }
}
