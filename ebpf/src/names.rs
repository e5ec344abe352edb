//! What the application is told about a captured socket: the peer it asked for, and the pod's
//! address for its own. Other sockets are left as they are.

use aquifer_common::{Tag, TagKind, mapped};
use aya_ebpf::programs::SockAddrContext;

use crate::ctx::Address;
use crate::maps;

const PASS: i32 = 1;

#[inline(always)]
fn captured(at: Address) -> Option<&'static mut Tag> {
    at.tag().filter(|tag| tag.is(TagKind::Captured))
}

#[inline(always)]
fn last(address: [u8; 16]) -> [u8; 4] {
    [address[12], address[13], address[14], address[15]]
}

/// `getpeername` of an IPv4 socket.
#[inline(always)]
pub fn peer4(ctx: &SockAddrContext) -> i32 {
    let at = Address::new(ctx);
    if let Some(tag) = captured(at) {
        at.set_v4(last(tag.address));
        at.set_port(tag.port);
    }
    PASS
}

/// `getpeername` of an IPv6 socket.
#[inline(always)]
pub fn peer6(ctx: &SockAddrContext) -> i32 {
    let at = Address::new(ctx);
    if let Some(tag) = captured(at) {
        at.set_v6(tag.address);
        at.set_port(tag.port);
    }
    PASS
}

/// `getsockname` of an IPv4 socket. One that the application bound itself shows what it chose.
#[inline(always)]
pub fn sock4(ctx: &SockAddrContext) -> i32 {
    let at = Address::new(ctx);
    if captured(at).is_some()
        && at.v4() == mapped([127, 0, 0, 1])
        && let Some(pod) = maps::pod(at.netns_cookie())
        && pod.address_v4 != [0; 4]
    {
        at.set_v4(pod.address_v4);
    }
    PASS
}

/// `getsockname` of an IPv6 socket.
#[inline(always)]
pub fn sock6(ctx: &SockAddrContext) -> i32 {
    let at = Address::new(ctx);
    if captured(at).is_none() {
        return PASS;
    }
    let Some(pod) = maps::pod(at.netns_cookie()) else {
        return PASS;
    };
    let shown = at.v6();
    if shown == mapped([127, 0, 0, 1]) && pod.address_v4 != [0; 4] {
        at.set_v6(mapped(pod.address_v4));
    } else if shown == [0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1] && pod.address_v6 != [0; 16]
    {
        at.set_v6(pod.address_v6);
    }
    PASS
}
