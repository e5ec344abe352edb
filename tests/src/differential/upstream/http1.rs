//! An HTTP/1 upstream that reads what comes byte by byte and writes what its script says, also where
//! that is not HTTP.

use std::io;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Turn;
use crate::differential::{
    book::Seen,
    script::{Answer, End, Head},
};

/// What a connection does after an answer.
enum Next {
    Request,
    Close,
    Reset,
}

struct Reader {
    stream: TcpStream,
    bytes: Vec<u8>,
}

pub(super) async fn play(turn: Turn, stream: TcpStream) {
    let mut reader = Reader {
        stream,
        bytes: Vec::new(),
    };
    loop {
        match exchange(&turn, &mut reader).await {
            Ok(Next::Request) => {}
            Ok(Next::Close) | Err(_) => return,
            Ok(Next::Reset) => return super::reset(reader.stream),
        }
    }
}

async fn exchange(turn: &Turn, reader: &mut Reader) -> io::Result<Next> {
    let head = reader.until(b"\r\n\r\n").await?;
    let seen = parse(turn.role.endpoint, &String::from_utf8_lossy(&head));
    let length = seen
        .header("content-length")
        .first()
        .and_then(|text| text.parse().ok());
    let chunked = seen.header("transfer-encoding") == ["chunked"];
    let expects = !seen.header("expect").is_empty();
    let head_only = seen.method == "HEAD";
    let (number, answer) = turn.arrived(seen);
    let note = |note: &dyn Fn(&mut Seen)| turn.book.note(&turn.entry, number, |seen| note(seen));
    if !answer.early {
        if expects {
            reader
                .stream
                .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")
                .await?;
        }
        if chunked {
            loop {
                let size = reader.until(b"\r\n").await?;
                let size = String::from_utf8_lossy(&size);
                let size = usize::from_str_radix(size.trim(), 16).map_err(io::Error::other)?;
                if size == 0 {
                    break;
                }
                let chunk = reader.exactly(size + 2).await?;
                note(&|seen| seen.body.extend_from_slice(&chunk[..size]));
            }
            loop {
                let line = reader.until(b"\r\n").await?;
                match String::from_utf8_lossy(&line).trim().split_once(':') {
                    Some((name, value)) => {
                        note(&|seen| seen.trailers.push((name.into(), value.trim().into())));
                    }
                    None => break,
                }
            }
        } else if let Some(length) = length {
            let body = reader.exactly(length).await?;
            note(&|seen| seen.body.extend_from_slice(&body));
        }
    }
    if !reader.lasts(answer.wait).await {
        note(&|seen| (seen.complete, seen.given_up) = (true, true));
        return Ok(Next::Close);
    }
    note(&|seen| seen.complete = true);
    match answer.head {
        Head::Status(101) => {
            let head = "HTTP/1.1 101 Switching Protocols\r\nconnection: Upgrade\r\n\
                        upgrade: websocket\r\n\r\n";
            reader.stream.write_all(head.as_bytes()).await?;
            return echo(turn, number, reader, &answer).await;
        }
        Head::Status(status) => return respond(reader, status, head_only, &answer).await,
        Head::Reset => return Ok(Next::Reset),
        Head::Garbage => {
            reader
                .stream
                .write_all(b"\x15\x03\x03 not HTTP\r\n\r\n")
                .await?
        }
        Head::Half => reader.stream.write_all(b"HTTP/1.1 200 OK\r\nconte").await?,
        Head::Never => {
            reader.lasts(crate::PATIENCE).await;
            note(&|seen| seen.given_up = true);
        }
        Head::Close | Head::Refused | Head::Cancel | Head::GoAway => {}
    }
    Ok(Next::Close)
}

pub(super) fn parse(endpoint: usize, head: &str) -> Seen {
    let mut seen = Seen::new(endpoint, "HTTP/1.1");
    let mut lines = head.split("\r\n");
    let mut first = lines.next().unwrap_or_default().split(' ');
    seen.method = first.next().unwrap_or_default().into();
    seen.path = first.next().unwrap_or_default().into();
    if first.next() == Some("HTTP/1.0") {
        seen.version = "HTTP/1.0";
    }
    for (name, value) in lines.filter_map(|line| line.split_once(':')) {
        seen.headers
            .push((name.to_ascii_lowercase(), value.trim().into()));
    }
    seen
}

async fn respond(
    reader: &mut Reader,
    status: u16,
    head_only: bool,
    answer: &Answer,
) -> io::Result<Next> {
    let mut head = format!("HTTP/1.1 {status} Scripted\r\n");
    for (name, value) in &answer.headers {
        head += &format!("{name}: {value}\r\n");
    }
    let chunked = answer.chunked || !answer.trailers.is_empty();
    let bodiless = status == 204 || status == 304;
    if chunked {
        head += "transfer-encoding: chunked\r\n";
    } else if !bodiless {
        head += &format!("content-length: {}\r\n", answer.body.len());
    }
    if answer.last {
        head += "connection: close\r\n";
    }
    head += "\r\n";
    let mut body = if head_only || bodiless {
        String::new()
    } else if chunked {
        let mut body = answer.body.clone();
        if !body.is_empty() {
            body = format!("{:x}\r\n{body}\r\n", body.len());
        }
        body += "0\r\n";
        for (name, value) in &answer.trailers {
            body += &format!("{name}: {value}\r\n");
        }
        body + "\r\n"
    } else {
        answer.body.clone()
    };
    if answer.end != End::Whole {
        body.truncate(body.len() / 2);
    }
    if answer.pause.is_zero() {
        reader.stream.write_all((head + &body).as_bytes()).await?;
    } else {
        reader.stream.write_all(head.as_bytes()).await?;
        if !reader.lasts(answer.pause).await {
            return Ok(Next::Close);
        }
        reader.stream.write_all(body.as_bytes()).await?;
    }
    match answer.end {
        End::Abort => {
            // An RST overtakes bytes that were not read yet: they are given time to arrive.
            reader.lasts(std::time::Duration::from_millis(50)).await;
            Ok(Next::Reset)
        }
        End::Hang | End::Cancel => {
            reader.lasts(crate::PATIENCE).await;
            Ok(Next::Close)
        }
        End::Cut => Ok(Next::Close),
        End::Whole if answer.last => Ok(Next::Close),
        End::Whole => Ok(Next::Request),
    }
}

async fn echo(
    turn: &Turn,
    number: usize,
    reader: &mut Reader,
    answer: &Answer,
) -> io::Result<Next> {
    loop {
        let bytes = std::mem::take(&mut reader.bytes);
        turn.book.note(&turn.entry, number, |seen| {
            seen.body.extend_from_slice(&bytes)
        });
        reader.stream.write_all(&bytes).await?;
        if !bytes.is_empty() && (answer.last || answer.end == End::Abort) {
            // An RST overtakes bytes that were not read yet: they are given time to arrive.
            reader.lasts(std::time::Duration::from_millis(50)).await;
            return Ok(match answer.end {
                End::Abort => Next::Reset,
                _ => Next::Close,
            });
        }
        if reader.stream.read_buf(&mut reader.bytes).await? == 0 {
            return Ok(Next::Close);
        }
    }
}

impl Reader {
    async fn more(&mut self) -> io::Result<()> {
        match self.stream.read_buf(&mut self.bytes).await? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(()),
        }
    }

    async fn until(&mut self, mark: &[u8]) -> io::Result<Vec<u8>> {
        loop {
            if let Some(at) = self.bytes.windows(mark.len()).position(|part| part == mark) {
                return Ok(self.bytes.drain(..at + mark.len()).collect());
            }
            self.more().await?;
        }
    }

    async fn exactly(&mut self, count: usize) -> io::Result<Vec<u8>> {
        while self.bytes.len() < count {
            self.more().await?;
        }
        Ok(self.bytes.drain(..count).collect())
    }

    /// Waits; false as soon as the peer has ended the connection.
    async fn lasts(&mut self, time: std::time::Duration) -> bool {
        if time.is_zero() {
            return true;
        }
        let deadline = crate::clock::Deadline::after(time);
        while let Ok(more) = tokio::time::timeout(deadline.left(), self.more()).await {
            if more.is_err() {
                return false;
            }
        }
        true
    }
}
