//! Reads and writes of the hooks' contexts, and the helpers that aya has no safe form of. All that
//! is known about byte order is here: above, ports are in host order and addresses in network order.
//!
//! Fields of a context are read one word at a time and volatile, because the verifier refuses the
//! wider loads that a compiler makes of neighbours.

use core::ffi::c_void;
use core::ptr::{self, addr_of, addr_of_mut, read_volatile, write_volatile};

use aquifer_common::{ListenerKey, RangeKey, Tag, mapped};
use aya_ebpf::bindings::{bpf_sk_lookup, bpf_sock, bpf_sock_addr, bpf_sock_ops};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_get_netns_cookie, bpf_get_socket_cookie, bpf_map_lookup_elem,
    bpf_setsockopt, bpf_sk_assign, bpf_sk_release, bpf_sk_storage_delete, bpf_sk_storage_get,
};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext, SockOpsContext};

use crate::maps::{EXCLUDED_RANGES, LISTENERS, SOCKETS};

const SOL_SOCKET: i32 = 1;
const SO_BINDTOIFINDEX: i32 = 62;
const BPF_SK_STORAGE_GET_F_CREATE: u64 = 1;
const BPF_SK_LOOKUP_F_REPLACE: u64 = 1;

/// `127.0.0.1` in network order.
const LOOPBACK_V4: u32 = u32::from_ne_bytes([127, 0, 0, 1]);

/// Reads a word of a context.
macro_rules! word {
    ($pointer:expr, $($field:tt)+) => {{
        let pointer = $pointer;
        // SAFETY: the context is valid while the program runs, and the field is one that the
        // verifier lets this hook read (it refuses the program otherwise).
        unsafe { read_volatile(addr_of!((*pointer).$($field)+)) }
    }};
}

/// Writes a word of a context.
macro_rules! set {
    ($pointer:expr, $field:ident $([$index:expr])?, $value:expr) => {{
        let pointer = $pointer;
        // SAFETY: as for `word`, for writing.
        unsafe { write_volatile(addr_of_mut!((*pointer).$field$([$index])?), $value) }
    }};
}

/// Four words in network order as bytes.
#[inline(always)]
fn bytes(words: [u32; 4]) -> [u8; 16] {
    let [a, b, c, d] = words.map(u32::to_ne_bytes);
    [
        a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2],
        d[3],
    ]
}

/// Bytes as four words in network order.
#[inline(always)]
pub fn words(octets: [u8; 16]) -> [u32; 4] {
    let [
        a0,
        a1,
        a2,
        a3,
        b0,
        b1,
        b2,
        b3,
        c0,
        c1,
        c2,
        c3,
        d0,
        d1,
        d2,
        d3,
    ] = octets;
    [
        [a0, a1, a2, a3],
        [b0, b1, b2, b3],
        [c0, c1, c2, c3],
        [d0, d1, d2, d3],
    ]
    .map(u32::from_ne_bytes)
}

#[inline(always)]
fn tag_of(socket: *mut c_void, create: *mut Tag, flags: u64) -> Option<&'static mut Tag> {
    let map = ptr::from_ref(&SOCKETS).cast_mut().cast::<c_void>();
    // SAFETY: the helper returns null or a pointer to the storage of `socket`, which lives as long
    // as the socket; `create` is null or a tag on the stack.
    unsafe {
        bpf_sk_storage_get(map, socket, create.cast(), flags)
            .cast::<Tag>()
            .as_mut()
    }
}

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

/// The thread group of the calling process, in the host's numbering.
#[inline(always)]
pub fn thread_group() -> u32 {
    (bpf_get_current_pid_tgid() >> 32) as u32
}

/// Whether a listener lives under `key`.
#[inline(always)]
pub fn listens(key: &ListenerKey) -> bool {
    let socket = listener(key);
    if socket.is_null() {
        return false;
    }
    // SAFETY: the look-up took a reference, given back here and once.
    unsafe { bpf_sk_release(socket) };
    true
}

#[inline(always)]
fn listener(key: &ListenerKey) -> *mut c_void {
    let map = ptr::from_ref(&LISTENERS).cast_mut().cast::<c_void>();
    // SAFETY: the map's key is a `ListenerKey`.
    unsafe { bpf_map_lookup_elem(map, ptr::from_ref(key).cast()) }
}

/// Whether `key` falls into a range of `EXCLUDED_RANGES`. (aya's own key is a packed struct, and
/// LLVM 22's backend for BPF crashes on copies of it.)
#[inline(always)]
pub fn in_range(key: &RangeKey) -> bool {
    #[repr(C)]
    struct Prefixed {
        bits: u32,
        key: RangeKey,
    }
    let prefixed = Prefixed {
        bits: RangeKey::BITS,
        key: *key,
    };
    let map = ptr::from_ref(&EXCLUDED_RANGES).cast_mut().cast::<c_void>();
    // SAFETY: the map's key is a prefix length and a `RangeKey`, without padding between them.
    !unsafe { bpf_map_lookup_elem(map, ptr::from_ref(&prefixed).cast()) }.is_null()
}

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
