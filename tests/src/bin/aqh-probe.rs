//! A stand-in for kubelet: dials each address that it reads from standard input, a line each, and
//! prints `open` or `refused`; after `get ` it asks for a page there, and prints the answer's status, or
//! `refused` where it is reset instead. Tests give its name to the proxy as that of the probing process.

use std::{
    io::{BufRead, Read, Write},
    net::{SocketAddr, TcpStream},
    time::Duration,
};

use anyhow::Result;

fn main() -> Result<()> {
    for line in std::io::stdin().lock().lines() {
        let line = line?;
        let (get, target) = match line.strip_prefix("get ") {
            Some(target) => (true, target),
            None => (false, &*line),
        };
        let target: SocketAddr = target.parse()?;
        match TcpStream::connect_timeout(&target, Duration::from_secs(2)) {
            Ok(stream) if get => println!("{}", status(stream)),
            Ok(_) => println!("open"),
            Err(_) => println!("refused"),
        }
    }
    Ok(())
}

/// The status of an answer.
fn status(mut stream: TcpStream) -> String {
    let request = b"GET / HTTP/1.1\r\nhost: probed\r\nconnection: close\r\n\r\n";
    let mut answer = String::new();
    let asked = stream
        .set_read_timeout(Some(Duration::from_secs(10)))
        .and_then(|()| stream.write_all(request))
        .and_then(|()| stream.read_to_string(&mut answer));
    let status = answer.split(' ').nth(1);
    match (status, asked) {
        (Some(status), _) => status.to_owned(),
        (None, Err(error)) if error.kind() == std::io::ErrorKind::ConnectionReset => {
            "refused".into()
        }
        (None, other) => format!("{other:?}"),
    }
}
