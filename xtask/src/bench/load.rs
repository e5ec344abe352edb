//! The loads, and what their tools report.

use std::{net::SocketAddr, process::Command};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{netns::Netns, process};

use super::cores;

/// One kind of traffic.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Load {
    /// Small responses over 32 connections that stay.
    Keepalive,
    /// Small responses, a new connection each, 32 at a time.
    Fresh,
    /// Responses of 64 KiB over 32 connections that stay.
    Large,
    /// Small responses over HTTP/2, 8 connections with 10 streams each.
    Http2,
    /// Responses of [`BULK`] bytes over one connection that stays.
    Bulk,
}

/// What a response of [`Load::Bulk`] has, in bytes.
pub(super) const BULK: u64 = 16 << 20;
const GIB: f64 = (1_u64 << 30) as f64;

impl Load {
    /// The heading of its columns.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Keepalive => "32 keep-alive",
            Self::Fresh => "new connections",
            Self::Large => "64 KiB responses",
            Self::Http2 => "HTTP/2",
            Self::Bulk => "bulk, one connection",
        }
    }

    /// The file that is asked for.
    fn path(self) -> &'static str {
        match self {
            Self::Keepalive | Self::Fresh | Self::Http2 => "/",
            Self::Large => "/64k",
            Self::Bulk => "/16m",
        }
    }

    /// How many requests its CPU is told for: 100,000 of them, or a GiB.
    pub(super) fn unit(self) -> f64 {
        match self {
            Self::Bulk => GIB / BULK as f64,
            _ => 100_000.0,
        }
    }

    /// Its rate, of the requests a second.
    pub(super) fn rate(self, requests: f64) -> String {
        match self {
            Self::Bulk => format!("{:.1} Gbit/s", requests * BULK as f64 * 8.0 / 1e9),
            _ => format!("{requests:.0}"),
        }
    }
}

/// What a run of a load gave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outcome {
    /// Requests answered.
    pub(super) requests: u64,
    /// The 99th percentile of the time to an answer, in microseconds, where the tool tells it.
    pub(super) p99_us: Option<f64>,
}

/// Sends `load` to `target` from inside `netns` for so many seconds.
pub(super) fn run(load: Load, netns: &Netns, target: SocketAddr, seconds: u32) -> Result<Outcome> {
    let url = format!("http://{target}{}", load.path());
    let duration = format!("-D{seconds}");
    let mut command = if load == Load::Http2 {
        let mut command = Command::new("h2load");
        command.args(["-t1", "-c8", "-m10", &duration, &url]);
        command
    } else {
        let mut command = Command::new("wrk");
        let connections = if load == Load::Bulk { "-c1" } else { "-c32" };
        command.args(["-t1", connections, &format!("-d{seconds}s"), "--latency"]);
        if load == Load::Fresh {
            command.args(["-H", "Connection: close"]);
        }
        command.arg(&url);
        command
    };
    let said = cores::on(cores::LOAD, || {
        netns.run(|| process::finish(&mut command))?
    })?;
    let outcome = if load == Load::Http2 {
        h2load(&said)
    } else {
        wrk(&said)
    };
    outcome.with_context(|| format!("{} said:\n{said}", process::shown(&command)))
}

fn wrk(said: &str) -> Result<Outcome> {
    for bad in ["Non-2xx", "Socket errors"] {
        ensure!(!said.contains(bad), "not every request was answered well");
    }
    let lines = || said.lines().map(str::trim);
    let requests = lines()
        .find_map(|line| line.split_once(" requests in "))
        .context("no count")?;
    let p99 = lines()
        .find_map(|line| line.strip_prefix("99%"))
        .context("no p99")?;
    Ok(Outcome {
        requests: requests.0.parse()?,
        p99_us: Some(microseconds(p99.trim())?),
    })
}

fn h2load(said: &str) -> Result<Outcome> {
    // requests: 10 total, 10 started, 10 done, 10 succeeded, 0 failed, 0 errored, 0 timeout
    let line = said
        .lines()
        .find_map(|line| line.strip_prefix("requests: "))
        .context("no count")?;
    let number = |word: &str| -> Result<u64> {
        let part = line.split(", ").find_map(|part| part.strip_suffix(word));
        Ok(part.with_context(|| format!("no {word}"))?.trim().parse()?)
    };
    let lost = number("failed")? + number("errored")? + number("timeout")?;
    ensure!(lost == 0, "not every request was answered well");
    Ok(Outcome {
        requests: number("succeeded")?,
        p99_us: None,
    })
}

/// Reads `509.00us`, `1.91ms` or `2.00s`.
fn microseconds(text: &str) -> Result<f64> {
    let units = [("us", 1.0), ("ms", 1e3), ("s", 1e6)];
    let parsed = units
        .iter()
        .find_map(|(unit, factor)| Some(text.strip_suffix(unit)?.parse::<f64>().ok()? * factor));
    parsed.with_context(|| format!("`{text}` is no duration"))
}

#[cfg(test)]
mod tests {
    use super::{Outcome, h2load, wrk};

    #[test]
    fn the_reports_of_the_tools_are_read() {
        let good = "  Latency Distribution\n     50%  212.00us\n     99%    1.91ms\n  \
                    123456 requests in 2.00s, 30.00MB read\nRequests/sec:  61728.00\n";
        let expected = Outcome {
            requests: 123_456,
            p99_us: Some(1910.0),
        };
        assert_eq!(wrk(good).unwrap(), expected);
        assert!(wrk(&format!("{good}  Non-2xx or 3xx responses: 3\n")).is_err());
        assert!(wrk(&format!("{good}  Socket errors: connect 0, read 1\n")).is_err());
        let good = "requests: 10 total, 12 started, 10 done, 10 succeeded, 0 failed, 0 errored, \
                    0 timeout\n";
        assert_eq!(
            h2load(good).unwrap(),
            Outcome {
                requests: 10,
                p99_us: None
            }
        );
        assert!(h2load(&good.replace("0 errored", "1 errored")).is_err());
        assert!(h2load("").is_err());
    }
}
