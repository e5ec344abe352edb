//! The TCP connections that a namespace has already, from /proc/net/tcp.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, BufRead, BufReader};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use super::Namespace;

/// Connections of the namespace as (remote, local) that `wanted` takes, IPv4 in its own form. Neither
/// listeners nor what is only remembered (TIME_WAIT): a busy pod has tens of thousands of those, and
/// nothing is said on them any more.
pub fn open(
    netns: &Namespace,
    wanted: impl Fn(SocketAddr, SocketAddr) -> bool,
) -> io::Result<HashSet<(SocketAddr, SocketAddr)>> {
    let mut found = HashSet::new();
    for path in ["/proc/thread-self/net/tcp", "/proc/thread-self/net/tcp6"] {
        let table = match netns.run(|| File::open(path))? {
            Ok(table) => table,
            // No IPv6.
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(error) => return Err(error),
        };
        let mut table = BufReader::new(table);
        let mut line = String::new();
        while table.read_line(&mut line)? > 0 {
            found.extend(connection(&line).filter(|&(remote, local)| wanted(remote, local)));
            line.clear();
        }
    }
    Ok(found)
}

/// One line: number, local, remote, state.
fn connection(line: &str) -> Option<(SocketAddr, SocketAddr)> {
    // include/net/tcp_states.h
    const TIME_WAIT: &str = "06";
    const LISTEN: &str = "0A";
    let mut fields = line.split_ascii_whitespace().skip(1);
    let (local, remote, state) = (fields.next()?, fields.next()?, fields.next()?);
    let open = state != LISTEN && state != TIME_WAIT;
    open.then_some((endpoint(remote)?, endpoint(local)?))
}

/// `0100007F:1F90`: words of the address as the machine reads them, the port as a number.
fn endpoint(field: &str) -> Option<SocketAddr> {
    let (address, port) = field.split_once(':')?;
    let port = u16::from_str_radix(port, 16).ok()?;
    let word = |index: usize| {
        let digits = address.get(index * 8..index * 8 + 8)?;
        u32::from_str_radix(digits, 16).ok().map(u32::to_ne_bytes)
    };
    let address = match address.len() {
        8 => IpAddr::from(Ipv4Addr::from(word(0)?)),
        32 => {
            let mut octets = [0; 16];
            for (index, chunk) in octets.chunks_exact_mut(4).enumerate() {
                chunk.copy_from_slice(&word(index)?);
            }
            IpAddr::from(Ipv6Addr::from(octets)).to_canonical()
        }
        _ => return None,
    };
    Some(SocketAddr::new(address, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[cfg(target_endian = "little")]
    #[test]
    fn lines_of_the_kernels_table_are_read() {
        for (line, expected) in [
            (
                "   1: 0A01A8C0:1F90 0B01A8C0:C350 01 00000000:00000000 00:00000000 00000000 0",
                Some(("192.168.1.11:50000", "192.168.1.10:8080")),
            ),
            (
                "   0: 00000000:1F90 00000000:0000 0A 00000000:00000000",
                None,
            ),
            (
                "   2: 0000000000000000FFFF00000A01A8C0:0050 \
                 000080FE00000000FF565702BBFE7E1C:C350 01 0",
                Some(("[fe80::257:56ff:1c7e:febb]:50000", "192.168.1.10:80")),
            ),
            (
                "   3: 0A01A8C0:1F90 0B01A8C0:C350 06 00000000:00000000 03:00001000",
                None,
            ),
            (
                "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when",
                None,
            ),
            ("garbage", None),
            ("", None),
            ("   3: 0A:1 0B:2 01", None),
        ] {
            let expected = expected.map(|(a, b)| (a.parse().unwrap(), b.parse().unwrap()));
            assert_eq!(connection(line), expected, "{line}");
        }
    }
}
