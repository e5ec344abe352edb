//! The hooks of a connection's life: `sockops` and `sock_release`.

use core::ptr::{self, addr_of, read_volatile};

use aquifer_common::{Tag, mapped};
use aya_ebpf::bindings::{bpf_sock, bpf_sock_ops};
use aya_ebpf::helpers::{
    bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_setsockopt, bpf_sock_ops_cb_flags_set,
};
use aya_ebpf::programs::{SockContext, SockOpsContext};

use super::{bytes, tag_of, word};

const SOL_SOCKET: i32 = 1;
const SO_BINDTOIFINDEX: i32 = 62;
const BPF_SOCK_OPS_STATE_CB_FLAG: u32 = 4;

/// A `sockops` event.
#[derive(Clone, Copy)]
pub struct Event(*mut bpf_sock_ops);

impl Event {
    #[inline(always)]
    pub fn new(ctx: &SockOpsContext) -> Self {
        Self(ctx.ops)
    }

    #[inline(always)]
    pub fn op(self) -> u32 {
        word!(self.0, op)
    }

    #[inline(always)]
    pub fn local_v4(self) -> [u8; 16] {
        mapped(word!(self.0, local_ip4).to_ne_bytes())
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
    pub fn local_port(self) -> u16 {
        word!(self.0, local_port) as u16
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
        word!(self.0, __bindgen_anon_2.sk)
    }

    /// The mark of a full socket; 0 for none.
    #[inline(always)]
    pub fn mark(self) -> u32 {
        let socket = self.socket();
        if socket.is_null() {
            0
        } else {
            word!(socket, mark)
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

    /// `AF_INET` or `AF_INET6`.
    #[inline(always)]
    pub fn family(self) -> u32 {
        word!(self.0, family)
    }

    #[inline(always)]
    pub fn remote_v4(self) -> [u8; 16] {
        mapped(word!(self.0, remote_ip4).to_ne_bytes())
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
    pub fn remote_port(self) -> u16 {
        u32::from_be(word!(self.0, remote_port)) as u16
    }

    /// Has this hook run too when the connection's state changes.
    #[inline(always)]
    pub fn follow_state(self) {
        let flags = word!(self.0, bpf_sock_ops_cb_flags) | BPF_SOCK_OPS_STATE_CB_FLAG;
        // SAFETY: the helper takes any context of this hook.
        unsafe { bpf_sock_ops_cb_flags_set(self.0, flags as i32) };
    }

    /// The state that a connection has come to.
    #[inline(always)]
    pub fn new_state(self) -> u32 {
        word!(self.0, __bindgen_anon_1.args[1])
    }

    /// Binds the socket to a device, by its index (Linux 6.1; before, the socket stays unbound).
    #[inline(always)]
    pub fn bind_to_device(self, device: u32) -> bool {
        let mut index = device;
        // SAFETY: the value is on the stack and as long as told.
        unsafe {
            bpf_setsockopt(
                self.0.cast(),
                SOL_SOCKET,
                SO_BINDTOIFINDEX,
                (&raw mut index).cast(),
                size_of::<u32>() as i32,
            ) == 0
        }
    }
}

/// A socket that is released.
#[derive(Clone, Copy)]
pub struct Released(*mut bpf_sock);

impl Released {
    #[inline(always)]
    pub fn new(ctx: &SockContext) -> Self {
        Self(ctx.sock)
    }

    #[inline(always)]
    pub fn socket_cookie(self) -> u64 {
        // SAFETY: the helper takes any context of this hook.
        unsafe { bpf_get_socket_cookie(self.0.cast()) }
    }

    #[inline(always)]
    pub fn tag(self) -> Option<&'static mut Tag> {
        tag_of(self.0.cast(), ptr::null_mut(), 0)
    }
}
