//! Bytes through an HTTP proxy, as a DestinationRule's `tunnel` asks for it: an endpoint is asked by
//! CONNECT or by POST for somebody else, and carries what is said once it has agreed (Envoy's
//! `tunneling_config`, HTTP/1.1).

mod posted;

use std::io;
use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use self::posted::Answer;
pub(super) use self::posted::Posted;
use super::error::Error;
use super::http::LIST_LIMIT;
use super::upstream::{Own, Upstream};
use crate::mesh::cluster::Tunnel;

/// Asks the proxy at the other end of `stream` to carry bytes, within `limit`. Any success is a yes
/// (Envoy).
pub(super) async fn ask(
    mut stream: Upstream,
    tunnel: &Tunnel,
    limit: Duration,
) -> Result<Upstream, Error> {
    let target = &tunnel.target;
    let request = match tunnel.posts {
        false => format!("CONNECT {target} HTTP/1.1\r\nhost: {target}\r\n\r\n"),
        true => {
            format!("POST / HTTP/1.1\r\nhost: {target}\r\ntransfer-encoding: chunked\r\n\r\n")
        }
    };
    let answered = async {
        stream.write_all(request.as_bytes()).await?;
        stream.flush().await?;
        loop {
            let head = head(&mut stream).await?;
            match status(&head) {
                Some(200..=299) => return Ok(head),
                // An interim answer; what it would switch to nobody has asked for.
                Some(100 | 102..=199) => {}
                Some(status) => return Err(refused(&format!("answered {status}"))),
                None => return Err(refused("does not speak HTTP/1.1")),
            }
        }
    };
    let answered = tokio::time::timeout(limit, answered).await;
    let head = answered.map_err(|_| Error::ConnectTimeout)?;
    let head = head.map_err(Error::Connect)?;
    // It is not the server that has spoken.
    stream.look_again();
    if !tunnel.posts {
        return Ok(stream);
    }
    let answer = Answer::of(&head)
        .ok_or_else(|| Error::Connect(refused("does not say where its answer ends")))?;
    Ok(Upstream::Posted(Own::new(Box::new(Posted::new(
        stream, answer,
    )))))
}

fn refused(why: &str) -> io::Error {
    io::Error::other(format!("the HTTP proxy of the tunnel {why}"))
}

/// The head of an answer, and not a byte of what follows: that belongs to whoever relays, who wants
/// the stream as it is.
async fn head(stream: &mut Upstream) -> io::Result<Vec<u8>> {
    let mut head = Vec::with_capacity(256);
    while !head.ends_with(b"\r\n\r\n") {
        if head.len() >= LIST_LIMIT as usize {
            return Err(refused("has too much to say"));
        }
        head.push(stream.read_u8().await?);
    }
    Ok(head)
}

/// The status in an answer's first line.
fn status(head: &[u8]) -> Option<u16> {
    let rest = head
        .strip_prefix(b"HTTP/1.1 ")
        .or_else(|| head.strip_prefix(b"HTTP/1.0 "))?;
    let (digits, rest) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !rest.starts_with(b" ") && !rest.starts_with(b"\r")
    {
        return None;
    }
    std::str::from_utf8(digits).ok()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statuses_are_read_strictly() {
        for (head, expected) in [
            ("HTTP/1.1 200 OK\r\n", Some(200)),
            ("HTTP/1.0 200\r\n", Some(200)),
            ("HTTP/1.1 403 No\r\n", Some(403)),
            ("HTTP/1.1 2000 OK\r\n", None),
            ("HTTP/1.1 +20 OK\r\n", None),
            ("HTTP/1.1 20", None),
            ("HTTP/2 200 OK\r\n", None),
            ("220 smtp\r\n", None),
            ("", None),
        ] {
            assert_eq!(status(head.as_bytes()), expected, "{head:?}");
        }
    }
}
