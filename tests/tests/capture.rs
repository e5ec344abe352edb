//! Outbound capture by the kernel side alone: no proxy, but a plain acceptor in its place, driven
//! through the same interface that enrolment and data plane use.

mod bare;

use std::io::{Read, Write};
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;
use bare::Bare;

#[test]
fn a_connection_reaches_the_proxy_with_its_origin() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    for to in ["192.0.2.7:80", "[2001:db8::7]:443"] {
        let to: SocketAddr = to.parse()?;
        let mut client = pod.dial(to)?;
        let (mut accepted, origin) = pod.accept_outbound()?;
        assert_eq!(origin, Some(to));
        assert_eq!(
            client.peer_addr()?,
            to,
            "getpeername shows what was asked for"
        );
        let own: std::net::IpAddr = if to.is_ipv4() {
            pod.net.v4.into()
        } else {
            pod.net.v6.into()
        };
        assert_eq!(
            client.local_addr()?.ip(),
            own,
            "getsockname shows the pod's address"
        );
        client.write_all(b"hello")?;
        let mut read = [0; 5];
        accepted.read_exact(&mut read)?;
        assert_eq!(&read, b"hello");
        assert_eq!(bare.redirects()?, 1);
        drop(client);
        assert_eq!(bare.redirects()?, 0, "the release ends the entry");
    }
    Ok(())
}

#[test]
fn a_mapped_address_reaches_the_ipv4_listener() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    let mapped = SocketAddr::new(Ipv4Addr::new(192, 0, 2, 7).to_ipv6_mapped().into(), 80);
    let client = pod.dial(mapped)?;
    let (accepted, origin) = pod.accept_outbound()?;
    assert_eq!(origin, Some("192.0.2.7:80".parse()?));
    assert!(accepted.local_addr()?.is_ipv4());
    assert_eq!(client.peer_addr()?, mapped);
    assert_eq!(client.local_addr()?.ip(), pod.net.v4.to_ipv6_mapped());
    Ok(())
}

#[test]
fn loopback_and_own_addresses_pass() -> Result<()> {
    let bare = Bare::new()?;
    let pod = bare.pod("client")?;
    for at in [
        SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 8080),
        SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 8080),
        pod.net.at(8081),
        pod.net.at6(8081),
    ] {
        let server = pod.listen(at)?;
        let client = pod.dial(at)?;
        let (_, peer) = server.accept()?;
        assert_eq!(client.local_addr()?, peer, "{at}");
        assert_eq!(client.peer_addr()?, at);
    }
    Ok(())
}
