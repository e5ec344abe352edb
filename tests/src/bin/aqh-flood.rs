//! Many connections at once, from a process of its own: `aqh-flood ADDRESS COUNT`. Prints how many
//! were reset, how many hang, and the milliseconds of the slowest reset; holds open what was
//! answered until its standard input ends.

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use aquifer_tests::clock::{self, Deadline};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    task::JoinSet,
};

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let mut arguments = std::env::args().skip(1);
    let target: SocketAddr = arguments.next().context("no address")?.parse()?;
    let count: usize = arguments.next().context("no count")?.parse()?;
    let (keep, mut kept) = mpsc::unbounded_channel();
    let mut tasks = JoinSet::new();
    for _ in 0..count {
        let keep = keep.clone();
        tasks.spawn(async move {
            let start = clock::now();
            let answered = answered(target).await;
            let took = start.elapsed();
            let reset = answered.is_none();
            if let Some(stream) = answered {
                let _ = keep.send(stream);
            }
            (took, reset)
        });
    }
    let (mut reset, mut slowest) = (0, Duration::ZERO);
    let deadline = Deadline::after(Duration::from_secs(30));
    while let Ok(Some(outcome)) = tokio::time::timeout(deadline.left(), tasks.join_next()).await {
        let (took, was_reset) = outcome?;
        if was_reset {
            reset += 1;
            slowest = slowest.max(took);
        }
    }
    println!("{reset} {} {}", tasks.len(), slowest.as_millis());
    tokio::task::spawn_blocking(|| std::io::read_to_string(std::io::stdin())).await??;
    kept.close();
    Ok(())
}

/// The connection, once the server has said a byte over it; none where it was refused or reset.
async fn answered(target: SocketAddr) -> Option<TcpStream> {
    let mut stream = TcpStream::connect(target).await.ok()?;
    stream.write_all(b"x").await.ok()?;
    stream.read_exact(&mut [0; 1]).await.ok()?;
    Some(stream)
}
