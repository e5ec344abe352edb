//! A stand-in for kubelet: dials each address that it reads from standard input, a line each, and
//! prints `open` or `refused`. Tests give its name to the proxy as that of the probing process.

use std::{
    io::BufRead,
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;

fn main() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let target: SocketAddr = line?.parse()?;
        let dialled = TcpStream::connect_timeout(&target, Duration::from_secs(2));
        println!("{}", if dialled.is_ok() { "open" } else { "refused" });
    }
    Ok(())
}
