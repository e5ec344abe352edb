//! The header of the PROXY protocol, which tells a server whose connection a proxy has opened to it.
//! Source: HAProxy's `proxy-protocol.txt`, sections 2.1 and 2.2; what Envoy's
//! `upstream_proxy_protocol` writes (`source/extensions/common/proxy_protocol/proxy_protocol_header.cc`).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// The form of the header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Version {
    /// A line of text.
    One,
    /// Binary.
    Two,
}

/// The two ends of a client's connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ends {
    /// The client.
    pub source: SocketAddr,
    /// Whom it has dialled.
    pub destination: SocketAddr,
}

/// What version 2 begins with.
const SIGNATURE: &[u8; 12] = b"\r\n\r\n\0\r\nQUIT\n";
/// Version 2, for nobody's connection but the proxy's own.
const LOCAL: u8 = 0x20;
/// Version 2, on behalf of a client.
const PROXY: u8 = 0x21;
/// TCP over IPv4, and over IPv6.
const TCP4: u8 = 0x11;
const TCP6: u8 = 0x21;

impl Version {
    /// The header for a client's connection.
    pub fn header(self, ends: Ends) -> Vec<u8> {
        let Ends {
            source,
            destination,
        } = ends.alike();
        let (from, to) = (source.ip(), destination.ip());
        match self {
            Self::One => {
                let family = if from.is_ipv4() { "TCP4" } else { "TCP6" };
                let (source, destination) = (source.port(), destination.port());
                format!("PROXY {family} {from} {to} {source} {destination}\r\n").into_bytes()
            }
            Self::Two => {
                let mut header = SIGNATURE.to_vec();
                let (family, length) = if from.is_ipv4() {
                    (TCP4, 12_u16)
                } else {
                    (TCP6, 36)
                };
                header.extend([PROXY, family]);
                header.extend(length.to_be_bytes());
                for address in [from, to] {
                    match address {
                        IpAddr::V4(address) => header.extend(address.octets()),
                        IpAddr::V6(address) => header.extend(address.octets()),
                    }
                }
                header.extend(source.port().to_be_bytes());
                header.extend(destination.port().to_be_bytes());
                header
            }
        }
    }

    /// The header for what no client has asked for; `own` are the ends of the proxy's own connection.
    /// Version 1 has no word for that, so it tells of them (Envoy).
    pub fn of_nobody(self, own: Ends) -> Vec<u8> {
        match self {
            Self::One => self.header(own),
            Self::Two => [&SIGNATURE[..], &[LOCAL, 0, 0, 0]].concat(),
        }
    }
}

impl Ends {
    /// Of no connection.
    pub const NOBODY: Self = {
        let nobody = SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0);
        Self {
            source: nobody,
            destination: nobody,
        }
    };

    /// Both in one family: the header has but one.
    fn alike(self) -> Self {
        if self.source.is_ipv4() == self.destination.is_ipv4() {
            return self;
        }
        let mapped = |address: SocketAddr| {
            let ip: Ipv6Addr = match address.ip() {
                IpAddr::V4(ip) => ip.to_ipv6_mapped(),
                IpAddr::V6(ip) => ip,
            };
            SocketAddr::new(ip.into(), address.port())
        };
        Self {
            source: mapped(self.source),
            destination: mapped(self.destination),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(source: &str, destination: &str) -> Ends {
        Ends {
            source: source.parse().expect("an address"),
            destination: destination.parse().expect("an address"),
        }
    }

    #[test]
    fn version_1_is_a_line() {
        for (source, destination, expected) in [
            (
                "10.0.0.1:40000",
                "10.96.0.7:80",
                "PROXY TCP4 10.0.0.1 10.96.0.7 40000 80\r\n",
            ),
            (
                "[fd00::1]:1",
                "[fd00::2]:65535",
                "PROXY TCP6 fd00::1 fd00::2 1 65535\r\n",
            ),
            (
                "10.0.0.1:1",
                "[fd00::2]:2",
                "PROXY TCP6 ::ffff:10.0.0.1 fd00::2 1 2\r\n",
            ),
        ] {
            let ends = ends(source, destination);
            for header in [Version::One.header(ends), Version::One.of_nobody(ends)] {
                assert_eq!(String::from_utf8_lossy(&header), expected);
                // The longest that a receiver has to take.
                assert!(header.len() <= 107);
            }
        }
    }

    #[test]
    fn version_2_is_binary() {
        let four = Version::Two.header(ends("10.0.0.1:258", "10.96.0.7:80"));
        assert_eq!(
            four,
            [
                &SIGNATURE[..],
                &[0x21, 0x11, 0, 12, 10, 0, 0, 1, 10, 96, 0, 7, 1, 2, 0, 80]
            ]
            .concat()
        );
        let six = Version::Two.header(ends("[fd00::1]:1", "[fd00::2]:2"));
        assert_eq!(six[..16], [&SIGNATURE[..], &[0x21, 0x21, 0, 36]].concat());
        assert_eq!((six.len(), six[16], six[31], six[47]), (52, 0xfd, 1, 2));
        assert_eq!(six[48..], [0, 1, 0, 2]);
        let nobody = Version::Two.of_nobody(ends("10.0.0.1:258", "10.96.0.7:80"));
        assert_eq!(nobody, [&SIGNATURE[..], &[0x20, 0, 0, 0]].concat());
    }
}
