//! An upstream of bytes: it says its number, then echoes.

use anyhow::Result;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Turn;
use crate::differential::{
    book::Seen,
    script::{End, Head},
};
use crate::raw;

/// An HTTP proxy, which answers as its script says and then is the one that was asked for.
async fn tunnelled(turn: Turn, mut stream: TcpStream) -> Result<()> {
    let head = raw::read_until_exactly(&mut stream, b"\r\n\r\n").await?;
    let seen = super::http1::parse(turn.role.endpoint, &String::from_utf8_lossy(&head));
    let posts = seen.method == "POST";
    let (number, answer) = turn.arrived(seen);
    let note = |note: &dyn Fn(&mut Seen)| turn.book.note(&turn.entry, number, |seen| note(seen));
    let Head::Status(status) = answer.head else {
        return Ok(());
    };
    let agrees = (200..300).contains(&status);
    let framing = match (agrees, posts) {
        (true, false) => "",
        (true, true) => "transfer-encoding: chunked\r\n",
        (false, _) => "content-length: 0\r\n",
    };
    let head = format!("HTTP/1.1 {status} Scripted\r\n{framing}\r\n");
    stream.write_all(head.as_bytes()).await?;
    let framed = |bytes: &[u8]| match posts {
        true => [format!("{:x}\r\n", bytes.len()).as_bytes(), bytes, b"\r\n"].concat(),
        false => bytes.to_vec(),
    };
    let greeting = format!("endpoint {}\n", turn.role.endpoint);
    if agrees {
        stream.write_all(&framed(greeting.as_bytes())).await?;
        loop {
            let bytes = if posts {
                let line = raw::read_until_exactly(&mut stream, b"\r\n").await?;
                let size = usize::from_str_radix(String::from_utf8_lossy(&line).trim(), 16)?;
                let chunk = raw::read_exactly(&mut stream, size + 2).await?;
                chunk[..size].to_vec()
            } else {
                let mut bytes = vec![0; 4096];
                let count = stream.read(&mut bytes).await?;
                bytes.truncate(count);
                bytes
            };
            note(&|seen| seen.body.extend_from_slice(&bytes));
            stream.write_all(&framed(&bytes)).await?;
            if bytes.is_empty() {
                break;
            }
        }
    }
    note(&|seen| seen.complete = true);
    Ok(())
}

pub(super) async fn play(turn: Turn, mut stream: TcpStream) {
    if turn.role.tunnelled {
        // What goes wrong shows in what the client gets.
        let _ = tunnelled(turn, stream).await;
        return;
    }
    let (number, answer) = turn.arrived(Seen::new(turn.role.endpoint, "TCP"));
    if !answer.wait.is_zero() {
        tokio::time::sleep(answer.wait).await;
    }
    match answer.head {
        Head::Reset => return super::reset(stream),
        Head::Close => {
            // Closed with something unread it would be reset.
            let _ = stream.read(&mut [0; 4096]).await;
            return;
        }
        _ => {}
    }
    let greeting = format!("endpoint {}\n", turn.role.endpoint);
    let mut sent = stream.write_all(greeting.as_bytes()).await.is_ok();
    let mut bytes = [0; 4096];
    while let Ok(count @ 1..) = stream.read(&mut bytes).await {
        turn.book.note(&turn.entry, number, |seen| {
            seen.body.extend_from_slice(&bytes[..count]);
        });
        sent = sent && stream.write_all(&bytes[..count]).await.is_ok();
        if answer.end == End::Abort {
            // An RST overtakes bytes that were not read yet: they are given time to arrive.
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            return super::reset(stream);
        }
        if answer.last {
            break;
        }
    }
    turn.book
        .note(&turn.entry, number, |seen| seen.complete = true);
}
