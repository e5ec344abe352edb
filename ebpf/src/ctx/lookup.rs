//! The hook of what arrives: `sk_lookup`.

use core::ptr::{addr_of, read_volatile};

use aquifer_common::{ListenerKey, mapped};
use aya_ebpf::bindings::bpf_sk_lookup;
use aya_ebpf::helpers::{bpf_sk_assign, bpf_sk_release};
use aya_ebpf::programs::SkLookupContext;

use super::{bytes, listener, word};

const BPF_SK_LOOKUP_F_REPLACE: u64 = 1;

/// A connection from outside that looks for its listener.
#[derive(Clone, Copy)]
pub struct Lookup(*mut bpf_sk_lookup);

impl Lookup {
    #[inline(always)]
    pub fn new(ctx: &SkLookupContext) -> Self {
        Self(ctx.lookup)
    }

    #[inline(always)]
    pub fn protocol(self) -> u32 {
        word!(self.0, protocol)
    }

    /// `AF_INET` or `AF_INET6`, by the packet.
    #[inline(always)]
    pub fn family(self) -> u32 {
        word!(self.0, family)
    }

    /// The device that owns the destination address; 1 is `lo`.
    #[inline(always)]
    pub fn ingress_device(self) -> u32 {
        word!(self.0, ingress_ifindex)
    }

    #[inline(always)]
    pub fn remote_v4(self) -> [u8; 16] {
        mapped(word!(self.0, remote_ip4).to_ne_bytes())
    }

    #[inline(always)]
    pub fn local_v4(self) -> [u8; 16] {
        mapped(word!(self.0, local_ip4).to_ne_bytes())
    }

    #[inline(always)]
    pub fn remote_v6(self) -> [u8; 16] {
        bytes([
            word!(self.0, remote_ip6[0]),
            word!(self.0, remote_ip6[1]),
            word!(self.0, remote_ip6[2]),
            word!(self.0, remote_ip6[3]),
        ])
    }

    #[inline(always)]
    pub fn local_v6(self) -> [u8; 16] {
        bytes([
            word!(self.0, local_ip6[0]),
            word!(self.0, local_ip6[1]),
            word!(self.0, local_ip6[2]),
            word!(self.0, local_ip6[3]),
        ])
    }

    #[inline(always)]
    pub fn remote_port(self) -> u16 {
        u16::from_be(word!(self.0, remote_port))
    }

    #[inline(always)]
    pub fn local_port(self) -> u16 {
        word!(self.0, local_port) as u16
    }

    /// Gives the connection to the listener under `key`. The kernel spreads over the group that the
    /// socket belongs to. `false` where none lives.
    #[inline(always)]
    pub fn assign(self, key: &ListenerKey) -> bool {
        let socket = listener(key);
        if socket.is_null() {
            return false;
        }
        // Replaces the choice of another program: our own of a moment ago, or a stranger's.
        // SAFETY: the look-up took a reference, given back here and once.
        let assigned = unsafe { bpf_sk_assign(self.0.cast(), socket, BPF_SK_LOOKUP_F_REPLACE) };
        // SAFETY: as above.
        unsafe { bpf_sk_release(socket) };
        assigned == 0
    }
}
