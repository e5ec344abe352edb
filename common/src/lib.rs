//! What aquifer's kernel programs and its node proxy share: keys and values of the maps, the
//! counters, and the names under which both sides know them.
//!
//! Fixed-width fields, padding spelled out, sizes asserted: both sides read the same bytes. Ports
//! are in host order everywhere; addresses are 16 bytes in network order, IPv4 as IPv4-mapped
//! IPv6. Knows neither aya nor the kernel's headers (but for `Pod` under the feature `user`).

#![cfg_attr(not(feature = "user"), no_std)]

pub mod origin;
pub mod pod;
pub mod stats;

pub use origin::{FlowKey, Origin, OriginKey, PathKey, Redirect, Tag, TagKind};
pub use pod::{
    AddressKey, Direction, FailureMode, Family, LISTEN_PORTS, ListenerKey, Name, Pod, PortKey,
    RangeKey,
};
pub use stats::{Cause, ProxyCause};

/// Counts up with every change of a map's key, value, type or meaning. A proxy that finds pins of
/// another layout replaces them.
pub const LAYOUT: u32 = 5;

/// Mark of the proxy's own dials. It serves routing only: nothing is trusted for bearing it.
pub const MARK_DIAL: u32 = 0x539;

/// Mark of the proxy's transparent dial to the application of a pod, and the number of the routing
/// table that brings the replies back.
pub const MARK_TRANSPARENT: u32 = 0x53a;

/// An IPv4 address in its IPv4-mapped form.
#[inline(always)]
pub const fn mapped(address: [u8; 4]) -> [u8; 16] {
    let [a, b, c, d] = address;
    [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, a, b, c, d]
}

/// Implements aya's `Pod` for a type whose size is asserted to have no padding.
macro_rules! plain {
    ($name:ty, $size:expr) => {
        const _: () = assert!(size_of::<$name>() == $size);

        #[cfg(feature = "user")]
        #[expect(
            unsafe_code,
            reason = "aya's marker for plain bytes is an unsafe trait"
        )]
        // SAFETY: `repr(C)`, integers only, no padding (the size asserted above is the sum of the
        // fields), so every bit pattern is a valid value.
        unsafe impl aya::Pod for $name {}
    };
}
pub(crate) use plain;
