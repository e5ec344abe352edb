//! The hooks of a socket's addresses: `connect`, `getpeername`, `getsockname`.

use core::ffi::c_void;
use core::ptr::{self, addr_of, addr_of_mut, read_volatile, write_volatile};

use aquifer_common::{Tag, mapped};
use aya_ebpf::bindings::{bpf_sock, bpf_sock_addr};
use aya_ebpf::helpers::{bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_sk_storage_delete};
use aya_ebpf::programs::SockAddrContext;

use super::{bytes, set, tag_of, word, words};
use crate::maps::SOCKETS;

/// `127.0.0.1` in network order.
const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);
const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;

/// A socket's address hooks: `connect`, `getpeername`, `getsockname`.
#[derive(Clone, Copy)]
pub struct Address(*mut bpf_sock_addr);

impl Address {
    #[inline(always)]
    pub fn new(ctx: &SockAddrContext) -> Self {
        Self(ctx.sock_addr)
    }

    /// `SOCK_STREAM` and so on.
    #[inline(always)]
    pub fn kind(self) -> u32 {
        word!(self.0, type_)
    }

    /// `IPPROTO_TCP` and so on.
    #[inline(always)]
    pub fn protocol(self) -> u32 {
        word!(self.0, protocol)
    }

    #[inline(always)]
    pub fn port(self) -> u16 {
        u16::from_be(word!(self.0, user_port) as u16)
    }

    #[inline(always)]
    pub fn v4(self) -> [u8; 16] {
        mapped(word!(self.0, user_ip4).to_ne_bytes())
    }

    #[inline(always)]
    pub fn v6(self) -> [u8; 16] {
        bytes([
            word!(self.0, user_ip6[0]),
            word!(self.0, user_ip6[1]),
            word!(self.0, user_ip6[2]),
            word!(self.0, user_ip6[3]),
        ])
    }

    /// The last four bytes of a mapped address.
    #[inline(always)]
    pub fn set_v4(self, address: [u8; 4]) {
        set!(self.0, user_ip4, u32::from_ne_bytes(address));
    }

    #[inline(always)]
    pub fn set_v6(self, address: [u8; 16]) {
        let [a, b, c, d] = words(address);
        set!(self.0, user_ip6[0], a);
        set!(self.0, user_ip6[1], b);
        set!(self.0, user_ip6[2], c);
        set!(self.0, user_ip6[3], d);
    }

    #[inline(always)]
    pub fn set_port(self, port: u16) {
        set!(self.0, user_port, u32::from(port.to_be()));
    }

    #[inline(always)]
    pub fn set_loopback_v4(self) {
        set!(self.0, user_ip4, LOOPBACK_V4);
    }

    #[inline(always)]
    pub fn netns_cookie(self) -> u64 {
        // SAFETY: the helper takes any context of this hook.
        unsafe { bpf_get_netns_cookie(self.0.cast()) }
    }

    #[inline(always)]
    pub fn socket_cookie(self) -> u64 {
        // SAFETY: the helper takes any context of this hook.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    fn socket(self) -> *mut bpf_sock {
        word!(self.0, __bindgen_anon_1.sk)
    }

    /// The device that the socket is bound to; 0 for none.
    #[inline(always)]
    pub fn bound_device(self) -> u32 {
        let socket = self.socket();
        if socket.is_null() {
            0
        } else {
            word!(socket, bound_dev_if)
        }
    }

    #[inline(always)]
    pub fn tag(self) -> Option<&'static mut Tag> {
        let socket = self.socket();
        if socket.is_null() {
            return None;
        }
        tag_of(socket.cast(), ptr::null_mut(), 0)
    }

    /// Tags the socket. `false` where there is no memory for it.
    #[inline(always)]
    pub fn set_tag(self, mut tag: Tag) -> bool {
        let socket = self.socket();
        if socket.is_null() {
            return false;
        }
        match tag_of(socket.cast(), &raw mut tag, BPF_SK_STORAGE_GET_F_CREATE) {
            Some(stored) => {
                *stored = tag;
                true
            }
            None => false,
        }
    }

    #[inline(always)]
    pub fn forget_tag(self) {
        let socket = self.socket();
        if !socket.is_null() {
            let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
            // SAFETY: the socket is the context's, checked above.
            unsafe { bpf_sk_storage_delete(map, socket.cast()) };
        }
    }
}
