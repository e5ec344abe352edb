//! Reads and writes of the hooks' contexts, and the helpers that aya has no safe form of. All that
//! is known about byte order is here: above, ports are in host order and addresses in network order.
//!
//! Fields of a context are read one word at a time and volatile, because the verifier refuses the
//! wider loads that a compiler makes of neighbours.

mod address;
mod event;
mod lookup;

pub use address::Address;
pub use event::{Event, Released};
pub use lookup::Lookup;

use core::ffi::c_void;
use core::ptr;

use aquifer_common::{ListenerKey, RangeKey, Tag};
use aya_ebpf::helpers::{
    bpf_get_current_pid_tgid, bpf_map_lookup_elem, bpf_sk_release, bpf_sk_storage_get,
};

use crate::maps::{EXCLUDED_RANGES, LISTENERS, SOCKETS};

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

use {set, word};

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
