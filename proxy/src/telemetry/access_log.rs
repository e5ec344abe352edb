//! The access log: one line for each finished request or connection, in Istio's default text
//! format or as JSON with the same fields.
//!
//! A worker formats into a buffer of its own; a thread writes full or aged buffers out. When that
//! thread can't keep up, lines are dropped and counted: a slow reader never slows traffic.

use std::cell::RefCell;
use std::fmt::{self, Display};
use std::io::{self, Write};
use std::net::SocketAddr;
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::time::Duration;

use serde::Serialize;

pub use crate::types::Timestamp;

/// A buffer of this size goes to the writer at once.
const FULL: usize = 32 * 1024;
/// Buffers that may wait for the writer.
const QUEUE: usize = 256;
/// How long a line may wait in a worker's buffer.
pub const MAX_AGE: Duration = Duration::from_millis(100);

/// How lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// No access log.
    Off,
    /// Istio's default text format.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

/// One finished request or connection. Empty strings and `None` are written as `-` or `null`.
#[derive(Debug, Serialize)]
pub struct Record<'a> {
    /// When it began.
    #[serde(serialize_with = "as_text")]
    pub start_time: Timestamp,
    /// Empty for TCP.
    pub method: &'a str,
    /// Path and query as the client sent them.
    pub path: &'a str,
    /// `HTTP/1.1`, `HTTP/2`; empty for TCP.
    pub protocol: &'a str,
    /// 0 for TCP and for a client that went away before an answer.
    pub response_code: u16,
    /// Envoy's short flags, joined by commas.
    pub response_flags: &'a str,
    /// Envoy's name of what answered.
    pub response_code_details: &'a str,
    /// Why the proxy ended the connection (Envoy's `CONNECTION_TERMINATION_DETAILS`); empty for HTTP.
    pub connection_termination_details: &'a str,
    /// Why the upstream could not be reached.
    pub upstream_transport_failure_reason: &'a str,
    /// Bytes of the request's body, or received from the client.
    pub bytes_received: u64,
    /// Bytes of the response's body, or sent to the client.
    pub bytes_sent: u64,
    /// Milliseconds from beginning to end.
    pub duration: u64,
    /// Milliseconds until the upstream's response headers.
    pub upstream_service_time: Option<u64>,
    /// Header of the same name.
    pub x_forwarded_for: &'a str,
    /// Header of the same name.
    pub user_agent: &'a str,
    /// Header of the same name.
    pub request_id: &'a str,
    /// `Host` or `:authority`.
    pub authority: &'a str,
    /// The endpoint chosen.
    pub upstream_host: Option<SocketAddr>,
    /// The cluster's name.
    pub upstream_cluster: &'a str,
    /// Our address on the upstream connection.
    pub upstream_local_address: Option<SocketAddr>,
    /// What the client dialled.
    pub downstream_local_address: Option<SocketAddr>,
    /// The client.
    pub downstream_remote_address: Option<SocketAddr>,
    /// Server name of the TLS ClientHello, where there was one.
    pub requested_server_name: &'a str,
    /// The rule's name.
    pub route_name: &'a str,
    /// Who called, where mutual TLS or the kernel has proved it: a SPIFFE identity without its
    /// scheme. In JSON alone: Istio's text format has no place for it.
    pub downstream_principal: &'a str,
}

fn as_text<S: serde::Serializer>(value: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(value)
}

/// A value of the text format: `-` where there is none; a double quote, a backslash and control
/// characters are escaped, so that a line stays one line whatever a client sends.
struct Field<'a>(&'a str);

impl Display for Field<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("-");
        }
        let mut rest = self.0;
        let special = |c: char| c == '"' || c == '\\' || c.is_control();
        while let Some(at) = rest.find(special) {
            f.write_str(&rest[..at])?;
            let mut tail = rest[at..].chars();
            if let Some(found) = tail.next() {
                write!(f, "{}", found.escape_default())?;
            }
            rest = tail.as_str();
        }
        f.write_str(rest)
    }
}

struct Maybe<T>(Option<T>);

impl<T: Display> Display for Maybe<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.0 {
            Some(value) => value.fmt(f),
            None => f.write_str("-"),
        }
    }
}

impl Record<'_> {
    fn text(&self, out: &mut Vec<u8>) -> io::Result<()> {
        writeln!(
            out,
            "[{}] \"{} {} {}\" {} {} {} {} \"{}\" {} {} {} {} \"{}\" \"{}\" \"{}\" \"{}\" \"{}\" {} {} {} {} {} {}",
            self.start_time,
            Field(self.method),
            Field(self.path),
            Field(self.protocol),
            self.response_code,
            Field(self.response_flags),
            Field(self.response_code_details),
            Field(self.connection_termination_details),
            Field(self.upstream_transport_failure_reason),
            self.bytes_received,
            self.bytes_sent,
            self.duration,
            Maybe(self.upstream_service_time),
            Field(self.x_forwarded_for),
            Field(self.user_agent),
            Field(self.request_id),
            Field(self.authority),
            Maybe(self.upstream_host),
            Field(self.upstream_cluster),
            Maybe(self.upstream_local_address),
            Maybe(self.downstream_local_address),
            Maybe(self.downstream_remote_address),
            Field(self.requested_server_name),
            Field(self.route_name),
        )
    }
}

/// A worker's end of the log.
#[derive(Debug)]
pub struct AccessLog {
    format: Format,
    buffer: RefCell<Vec<u8>>,
    queue: SyncSender<Vec<u8>>,
}

/// What became of a line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Written {
    /// It is in the buffer, which was empty: [`AccessLog::flush`] is due within [`MAX_AGE`].
    First,
    /// It is in the buffer, or on its way to the writer.
    Queued,
    /// This many bytes of lines were dropped: the writer is behind.
    Dropped(usize),
}

impl AccessLog {
    /// The ends for `workers` workers; the thread that writes to `output` ends with the last.
    pub fn start(
        format: Format,
        workers: usize,
        output: impl Write + Send + 'static,
    ) -> io::Result<Vec<Self>> {
        let (queue, lines) = sync_channel(QUEUE);
        if format != Format::Off {
            std::thread::Builder::new()
                .name("access-log".into())
                .spawn(|| drain(lines, output))?;
        }
        Ok((0..workers)
            .map(|_| Self {
                format,
                buffer: RefCell::default(),
                queue: queue.clone(),
            })
            .collect())
    }

    /// Whether lines are wanted at all: values for them need not be kept otherwise.
    pub fn enabled(&self) -> bool {
        self.format != Format::Off
    }

    /// Takes one line.
    pub fn write(&self, record: &Record<'_>) -> Written {
        let mut buffer = self.buffer.borrow_mut();
        let first = buffer.is_empty();
        let line = match self.format {
            Format::Off => return Written::Queued,
            Format::Text => record.text(&mut buffer),
            Format::Json => serde_json::to_writer(&mut *buffer, record)
                .map_err(io::Error::other)
                .and_then(|()| buffer.write_all(b"\n")),
        };
        debug_assert!(line.is_ok(), "a Vec takes every byte");
        if buffer.len() >= FULL {
            return self.send(std::mem::take(&mut *buffer));
        }
        if first {
            Written::First
        } else {
            Written::Queued
        }
    }

    /// Hands what is buffered to the writer.
    pub fn flush(&self) -> Written {
        let buffer = std::mem::take(&mut *self.buffer.borrow_mut());
        if buffer.is_empty() {
            Written::Queued
        } else {
            self.send(buffer)
        }
    }

    fn send(&self, buffer: Vec<u8>) -> Written {
        match self.queue.try_send(buffer) {
            Ok(()) => Written::Queued,
            Err(TrySendError::Full(lost) | TrySendError::Disconnected(lost)) => {
                Written::Dropped(lost.len())
            }
        }
    }
}

fn drain(lines: Receiver<Vec<u8>>, mut output: impl Write) {
    for buffer in lines {
        if let Err(error) = output.write_all(&buffer).and_then(|()| output.flush()) {
            tracing::warn!(%error, "the access log ends here: its output can't be written to");
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    fn record() -> Record<'static> {
        Record {
            start_time: Timestamp(
                SystemTime::UNIX_EPOCH + Duration::from_millis(1_714_557_600_123),
            ),
            method: "GET",
            path: "/api",
            protocol: "HTTP/1.1",
            response_code: 503,
            response_flags: "UH",
            response_code_details: "no_healthy_upstream",
            connection_termination_details: "",
            upstream_transport_failure_reason: "",
            bytes_received: 0,
            bytes_sent: 19,
            duration: 1,
            upstream_service_time: None,
            x_forwarded_for: "",
            user_agent: "cu\"rl\n8",
            request_id: "f00",
            authority: "svc:8080",
            upstream_host: None,
            upstream_cluster: "outbound|8080||svc.ns.svc.cluster.local",
            upstream_local_address: None,
            downstream_local_address: Some(([10, 96, 0, 5], 8080).into()),
            downstream_remote_address: Some(([10, 1, 2, 3], 40000).into()),
            requested_server_name: "",
            route_name: "default",
            downstream_principal: "",
        }
    }

    #[test]
    fn the_text_format_is_istios_and_one_line() {
        let mut line = Vec::new();
        record().text(&mut line).expect("a Vec takes every byte");
        assert_eq!(
            String::from_utf8(line).expect("text"),
            "[2024-05-01T10:00:00.123Z] \"GET /api HTTP/1.1\" 503 UH no_healthy_upstream - \"-\" 0 19 1 - \
             \"-\" \"cu\\\"rl\\n8\" \"f00\" \"svc:8080\" \"-\" outbound|8080||svc.ns.svc.cluster.local - \
             10.96.0.5:8080 10.1.2.3:40000 - default\n"
        );
    }

    #[test]
    fn json_lines_carry_the_same_fields() {
        let value: serde_json::Value =
            serde_json::from_str(&serde_json::to_string(&record()).expect("json")).expect("json");
        assert_eq!(value["response_flags"], "UH");
        assert_eq!(value["downstream_remote_address"], "10.1.2.3:40000");
        assert_eq!(value["start_time"], "2024-05-01T10:00:00.123Z");
    }

    /// Blocks in `write` until the test lets go.
    struct Stuck(std::sync::mpsc::Receiver<()>);

    impl Write for Stuck {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            let _ = self.0.recv();
            Ok(bytes.len())
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_stuck_reader_costs_lines_and_not_time() {
        let (release, gate) = sync_channel(0);
        let log = AccessLog::start(Format::Text, 1, Stuck(gate))
            .expect("thread")
            .remove(0);
        let mut dropped = 0;
        for _ in 0..2 * QUEUE {
            log.write(&record());
            if let Written::Dropped(bytes) = log.flush() {
                dropped += bytes;
            }
        }
        assert!(dropped > 0);
        drop(release);
    }
}
