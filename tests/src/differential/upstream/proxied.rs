//! The header of the PROXY protocol, by which an upstream is told whose connection it has.

use std::{
    io,
    net::{Ipv4Addr, SocketAddrV4},
};

use tokio::{io::AsyncReadExt, net::TcpStream};

/// What version 2 begins with.
const SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";

/// Reads the header in front of everything else, as text.
pub(super) async fn header(stream: &mut TcpStream) -> io::Result<String> {
    let mut bytes = vec![0; SIGNATURE.len()];
    stream.read_exact(&mut bytes).await?;
    if bytes != SIGNATURE {
        // Byte by byte: what follows is not this one's.
        while !bytes.ends_with(b"\n") && bytes.len() < 107 {
            bytes.push(stream.read_u8().await?);
        }
        return Ok(line(&String::from_utf8_lossy(&bytes)));
    }
    let (command, family) = (stream.read_u8().await?, stream.read_u8().await?);
    let mut rest = vec![0; stream.read_u16().await?.into()];
    stream.read_exact(&mut rest).await?;
    let Ok(rest) = <[u8; 12]>::try_from(rest) else {
        return Ok(format!("2 {command:x} {family:x}"));
    };
    let [a, b, c, d, e, f, g, h, i, j, k, l] = rest;
    let source = SocketAddrV4::new(Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([i, j]));
    let destination = SocketAddrV4::new(Ipv4Addr::new(e, f, g, h), u16::from_be_bytes([k, l]));
    Ok(format!("2 {command:x} {family:x} {source} {destination}"))
}

/// `PROXY TCP4 A B P Q` with the ports at their addresses.
fn line(text: &str) -> String {
    let words: Vec<&str> = text.trim_end().split(' ').collect();
    match words[..] {
        ["PROXY", family, source, destination, from, to] => {
            format!("1 {family} {source}:{from} {destination}:{to}")
        }
        _ => format!("not one: {text}"),
    }
}
