//! Where a captured connection was going, and who is who among connections.

use crate::{Family, plain};

/// Key of the map `ORIGINS`: a connection as the proxy's listener sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct OriginKey {
    /// The pod.
    pub cookie: u64,
    /// The source address. It belongs to the key: a client may bind to the pod's address before it
    /// connects, and then shares its port with another that did not.
    pub source: [u8; 16],
    /// The source port.
    pub source_port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}
plain!(OriginKey, 8 + 16 + 2 + 6);

/// Value of the map `ORIGINS`: the address asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Origin {
    /// The address.
    pub address: [u8; 16],
    /// The port.
    pub port: u16,
    /// Zero.
    pub reserved: [u8; 6],
}
plain!(Origin, 16 + 2 + 6);

/// What a [`Tag`] says of its socket.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum TagKind {
    /// A pod's, rewritten to the proxy.
    Captured = 1,
    /// The proxy's own, written by user space through its descriptor.
    Own = 2,
    /// Of a probe process of the host.
    Probe = 3,
}

/// Value of the socket storage `SOCKETS`: what the programs know about one socket. It goes with the
/// socket, and no pod can write it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[repr(C)]
pub struct Tag {
    /// A [`TagKind`]; 0 says nothing.
    pub kind: u8,
    /// Captured: the [`Family`] of the rewritten address, which is not always the socket's.
    pub family: u8,
    /// 1 from `connect` until the source port is known and the origin filed.
    pub pending: u8,
    /// Zero.
    pub reserved: u8,
    /// Port asked for.
    pub port: u16,
    /// Source port, once known.
    pub source_port: u16,
    /// Address asked for.
    pub address: [u8; 16],
    /// Source address, once known.
    pub source: [u8; 16],
}
plain!(Tag, 4 + 2 + 2 + 16 + 16);

impl Tag {
    /// What user space writes on the proxy's own sockets.
    pub const OWN: Self = Self {
        kind: TagKind::Own as u8,
        family: 0,
        pending: 0,
        reserved: 0,
        port: 0,
        source_port: 0,
        address: [0; 16],
        source: [0; 16],
    };

    /// Of a socket that is about to connect to `address`.
    #[inline(always)]
    pub const fn pending(kind: TagKind, family: Family, address: [u8; 16], port: u16) -> Self {
        Self {
            kind: kind as u8,
            family: family as u8,
            pending: 1,
            reserved: 0,
            port,
            source_port: 0,
            address,
            source: [0; 16],
        }
    }

    /// Whether it says `kind`.
    #[inline(always)]
    pub const fn is(&self, kind: TagKind) -> bool {
        self.kind == kind as u8
    }
}

/// Value of the map `REDIRECTS`, keyed by the socket's cookie: a captured connection, from its
/// `connect` to its release.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Redirect {
    /// The pod.
    pub cookie: u64,
    /// Address asked for.
    pub address: [u8; 16],
    /// Source address, as the proxy sees it.
    pub source: [u8; 16],
    /// Port asked for.
    pub port: u16,
    /// Source port.
    pub source_port: u16,
    /// Zero.
    pub reserved: [u8; 4],
}
plain!(Redirect, 8 + 16 + 16 + 2 + 2 + 4);

/// Key of the map `PROBE_FLOWS`: a connection of a probe process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct PathKey {
    /// The probe's address.
    pub source: [u8; 16],
    /// The pod's address.
    pub destination: [u8; 16],
    /// The probe's port.
    pub source_port: u16,
    /// The pod's port.
    pub destination_port: u16,
}
plain!(PathKey, 16 + 16 + 2 + 2);

/// Key of the map `INBOUND_FLOWS`: a connection from outside that was given to the proxy. The
/// proxy's own dial to the application must not take the same source port while it lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct FlowKey {
    /// The pod.
    pub cookie: u64,
    /// The caller's address.
    pub caller: [u8; 16],
    /// The pod's address.
    pub local: [u8; 16],
    /// The caller's port.
    pub caller_port: u16,
    /// The pod's port.
    pub local_port: u16,
    /// Zero.
    pub reserved: [u8; 4],
}
plain!(FlowKey, 8 + 16 + 16 + 2 + 2 + 4);
