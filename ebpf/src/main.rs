//! The kernel side of aquifer: entry points only. Each says its hook, the oldest kernel it needs,
//! and what happens to traffic when something is missing or full.
//!
//! All programs are harmless when they run twice on one connection: while a proxy is replaced, its
//! programs and its successor's are attached side by side, on the same maps.
//!
//! Next: `connect` (capture), `sockops` (the source port is known), `inbound` (callers from
//! outside), `names` (what the application is told), `maps`, `ctx`.

#![no_std]
#![no_main]

mod connect;
mod ctx;
mod inbound;
mod maps;
mod names;
mod sockops;

use aya_ebpf::macros::{cgroup_sock, cgroup_sock_addr, sk_lookup, sock_ops};
use aya_ebpf::programs::{SkLookupContext, SockAddrContext, SockContext, SockOpsContext};

/// `cgroup/connect4` (Linux 5.14 for the namespace's cookie). 1 lets the call go on, rewritten or
/// not; 0 refuses it with EPERM.
#[cgroup_sock_addr(connect4)]
pub fn aquifer_connect4(ctx: SockAddrContext) -> i32 {
    connect::v4(&ctx)
}

/// `cgroup/connect6`, also for IPv4-mapped addresses: those run this program alone.
#[cgroup_sock_addr(connect6)]
pub fn aquifer_connect6(ctx: SockAddrContext) -> i32 {
    connect::v6(&ctx)
}

/// `cgroup/getpeername4` (Linux 5.8): a captured socket shows the address that was asked for.
#[cgroup_sock_addr(getpeername4)]
pub fn aquifer_peer4(ctx: SockAddrContext) -> i32 {
    names::peer4(&ctx)
}

/// `cgroup/getpeername6`, also for IPv4-mapped addresses.
#[cgroup_sock_addr(getpeername6)]
pub fn aquifer_peer6(ctx: SockAddrContext) -> i32 {
    names::peer6(&ctx)
}

/// `cgroup/getsockname4` (Linux 5.8): a captured socket shows the pod's address for its own.
#[cgroup_sock_addr(getsockname4)]
pub fn aquifer_sock4(ctx: SockAddrContext) -> i32 {
    names::sock4(&ctx)
}

/// `cgroup/getsockname6`, also for IPv4-mapped addresses.
#[cgroup_sock_addr(getsockname6)]
pub fn aquifer_sock6(ctx: SockAddrContext) -> i32 {
    names::sock6(&ctx)
}

/// `sockops`: files the origin of a captured connection once its source port is known. A map that
/// refuses the entry is counted; the proxy then misses it and ends the connection.
#[sock_ops]
pub fn aquifer_sockops(ctx: SockOpsContext) -> u32 {
    sockops::run(&ctx);
    1
}

/// `cgroup/sock_release` (Linux 5.9): what was filed for the life of a socket goes.
#[cgroup_sock(sock_release)]
pub fn aquifer_release(ctx: SockContext) -> i32 {
    sockops::release(&ctx);
    1
}

/// `sk_lookup` (Linux 5.17 for `ingress_ifindex`), in each enrolled pod's network namespace.
#[sk_lookup]
pub fn aquifer_inbound(ctx: SkLookupContext) -> u32 {
    inbound::run(&ctx)
}

/// The helpers ask for it.
#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 13] = *b"Dual MIT/GPL\0";

#[panic_handler]
fn panic(_info: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
