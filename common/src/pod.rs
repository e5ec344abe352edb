//! The enrolment of a pod as the kernel knows it: its listeners, its failure mode, what is left
//! alone. A pod is known by the cookie of its network namespace (`SO_NETNS_COOKIE`), never by an
//! address.

use crate::plain;

/// The ports from which a proxy takes its listeners' ports, the first free. Reserved, so that no
/// application's own port is taken by chance.
pub const LISTEN_PORTS: core::ops::RangeInclusive<u16> = 15100..=15499;

/// What a connection is refused or passed for when no proxy can take it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FailureMode {
    /// Refused.
    Closed = 0,
    /// Passed as if the pod were not enrolled.
    Open = 1,
}

/// Which way a connection goes, seen from the pod.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Direction {
    /// The pod called.
    Outbound = 0,
    /// The pod was called.
    Inbound = 1,
}

/// An address family, by the address on the wire: a v4-mapped IPv6 address is IPv4.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Family {
    /// IPv4.
    V4 = 4,
    /// IPv6.
    V6 = 6,
}

/// Value of the map `PODS`, keyed by the cookie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Pod {
    /// Port of the outbound listener on 127.0.0.1; 0 where there is none.
    pub outbound_v4: u16,
    /// Port of the outbound listener on `::1`; 0 where there is none.
    pub outbound_v6: u16,
    /// Port of the inbound IPv4 listener; 0 where there is none.
    pub inbound_v4: u16,
    /// Port of the inbound IPv6 listener; 0 where there is none.
    pub inbound_v6: u16,
    /// A [`FailureMode`].
    pub failure_mode: u8,
    /// Bits of `Pod::EXCLUDES_…`.
    pub flags: u8,
    /// Zero.
    pub reserved: [u8; 2],
    /// The pod's IPv4 address for `getsockname`; zero where it has none.
    pub address_v4: [u8; 4],
    /// The pod's IPv6 address for `getsockname`; zero where it has none.
    pub address_v6: [u8; 16],
}
plain!(Pod, 4 * 2 + 4 + 4 + 16);

impl Pod {
    /// Set where the map `EXCLUDED_PORTS` has outbound ports of this pod.
    pub const EXCLUDES_OUTBOUND_PORTS: u8 = 1;
    /// Set where the map `EXCLUDED_PORTS` has inbound ports of this pod.
    pub const EXCLUDES_INBOUND_PORTS: u8 = 2;
    /// Set where the map `EXCLUDED_RANGES` has ranges of this pod.
    pub const EXCLUDES_RANGES: u8 = 4;

    /// Whether a connection that no proxy can take passes.
    #[inline(always)]
    pub const fn fails_open(&self) -> bool {
        self.failure_mode == FailureMode::Open as u8
    }

    /// Port of the outbound listener for `family`; 0 where there is none.
    #[inline(always)]
    pub const fn outbound(&self, family: Family) -> u16 {
        match family {
            Family::V4 => self.outbound_v4,
            Family::V6 => self.outbound_v6,
        }
    }
}

/// Key of the map `LISTENERS`: one socket of the proxy's group of listeners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct ListenerKey {
    /// The pod.
    pub cookie: u64,
    /// A [`Direction`].
    pub direction: u8,
    /// A [`Family`].
    pub family: u8,
    /// Zero.
    pub reserved: [u8; 6],
}
plain!(ListenerKey, 8 + 1 + 1 + 6);

impl ListenerKey {
    /// The key of one listener.
    #[inline(always)]
    pub const fn new(cookie: u64, direction: Direction, family: Family) -> Self {
        Self {
            cookie,
            direction: direction as u8,
            family: family as u8,
            reserved: [0; 6],
        }
    }
}

/// Key of the map `OWN_ADDRESSES`: a destination that is the pod itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct AddressKey {
    /// The pod.
    pub cookie: u64,
    /// IPv6, or IPv4-mapped. Network order.
    pub address: [u8; 16],
}
plain!(AddressKey, 8 + 16);

/// Key of the map `EXCLUDED_PORTS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PortKey {
    /// The pod.
    pub cookie: u64,
    /// The destination port.
    pub port: u16,
    /// A [`Direction`].
    pub direction: u8,
    /// Zero.
    pub reserved: [u8; 5],
}
plain!(PortKey, 8 + 2 + 1 + 5);

impl PortKey {
    /// The key of one excluded port.
    #[inline(always)]
    pub const fn new(cookie: u64, direction: Direction, port: u16) -> Self {
        Self {
            cookie,
            port,
            direction: direction as u8,
            reserved: [0; 5],
        }
    }
}

/// Data of a key of the trie `EXCLUDED_RANGES`. The prefix covers the cookie and the first bits of
/// the address. The cookie is stored big-endian as two halves so that the key needs no alignment
/// beyond four bytes (the trie's prefix length stands before it).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct RangeKey {
    /// The pod: high half, low half.
    pub cookie: [u32; 2],
    /// IPv6, or IPv4-mapped. Network order.
    pub address: [u8; 16],
}
plain!(RangeKey, 8 + 16);

impl RangeKey {
    /// Bits of a key that are compared whole.
    pub const BITS: u32 = 64 + 128;

    /// The key of an address or of a range's first address.
    #[inline(always)]
    pub const fn new(cookie: u64, address: [u8; 16]) -> Self {
        Self {
            cookie: [(cookie >> 32) as u32, cookie as u32],
            address,
        }
    }
}

/// Value of the map `NAMES`, keyed by the cookie: how people call the pod. For user space alone;
/// it lies beside the others so that the maps can be read where no proxy runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Name {
    /// `namespace/name` in UTF-8, the rest zero. Kubernetes allows 63 and 253 bytes.
    pub bytes: [u8; 320],
}
plain!(Name, 320);

impl Name {
    /// Cuts off what does not fit.
    pub fn new(name: &str) -> Self {
        let mut bytes = [0; 320];
        let mut end = name.len().min(bytes.len());
        while !name.is_char_boundary(end) {
            end -= 1;
        }
        bytes[..end].copy_from_slice(&name.as_bytes()[..end]);
        Self { bytes }
    }

    /// The name; empty where the bytes are not UTF-8.
    pub fn as_str(&self) -> &str {
        let end = self
            .bytes
            .iter()
            .position(|byte| *byte == 0)
            .unwrap_or(self.bytes.len());
        core::str::from_utf8(&self.bytes[..end]).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_survives_the_bytes() {
        for (name, expected) in [
            ("default/client", "default/client"),
            ("", ""),
            (&"é".repeat(200), &"é".repeat(160)),
        ] {
            assert_eq!(Name::new(name).as_str(), expected);
        }
    }
}
