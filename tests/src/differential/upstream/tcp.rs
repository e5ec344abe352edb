//! An upstream of bytes: it says its number, then echoes.

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
};

use super::Turn;
use crate::differential::{
    book::Seen,
    script::{End, Head},
};

pub(super) async fn play(turn: Turn, mut stream: TcpStream) {
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
