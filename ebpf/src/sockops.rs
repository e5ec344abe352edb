//! What becomes known after `connect`: the source port. Files a captured connection's origin where
//! the proxy finds it by the peer address of what it accepts, and a probe's path where the pod's
//! inbound program finds it. Ends both when the socket is released.

use aquifer_common::{
    Cause, Family, FlowKey, MARK_TRANSPARENT, Origin, OriginKey, PathKey, Redirect, Tag, TagKind,
};
use aya_ebpf::programs::{SockContext, SockOpsContext};
use aya_log_ebpf::debug;

use crate::ctx::{Event, Released};
use crate::maps::{self, ORIGINS, PROBE_FLOWS, REDIRECTS, count};

const AF_INET: u32 = 2;
const LOOPBACK_DEVICE: u32 = 1;

const BPF_SOCK_OPS_TCP_CONNECT_CB: u32 = 3;
const BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB: u32 = 5;
const BPF_SOCK_OPS_STATE_CB: u32 = 10;
const TCP_CLOSE: u32 = 7;

/// One event of a TCP socket.
#[inline(always)]
pub fn run(ctx: &SockOpsContext) {
    let event = Event::new(ctx);
    match event.op() {
        BPF_SOCK_OPS_TCP_CONNECT_CB => connecting(ctx, event),
        BPF_SOCK_OPS_PASSIVE_ESTABLISHED_CB => accepted(event),
        BPF_SOCK_OPS_STATE_CB if event.new_state() == TCP_CLOSE => closed(event),
        _ => {}
    }
}

#[inline(always)]
fn connecting(ctx: &SockOpsContext, event: Event) {
    let Some(tag) = event.tag() else { return };
    if tag.pending == 0 {
        return;
    }
    tag.pending = 0;
    // By the rewritten address and not by the socket: an IPv6 socket that dials an IPv4-mapped
    // address reads as IPv6 here, and is accepted by the IPv4 listener. Both are read before the
    // choice: LLVM would merge the branches' reads into one by a computed address, which the
    // verifier refuses.
    let (v4, v6) = (event.local_v4(), event.local_v6());
    tag.source = if tag.family == Family::V4 as u8 {
        v4
    } else {
        v6
    };
    tag.source_port = event.local_port();
    if tag.is(TagKind::Captured) {
        file(event, tag);
        debug!(ctx, "filed the origin of source port {}", tag.source_port);
    } else if tag.is(TagKind::Probe) && PROBE_FLOWS.insert(&path(tag), &1, 0).is_err() {
        count(Cause::FullProbeFlows);
        // Nothing was filed, so nothing will be missed.
        tag.kind = 0;
    }
}

#[inline(always)]
fn file(event: Event, tag: &Tag) {
    let cookie = event.netns_cookie();
    let key = OriginKey {
        cookie,
        source: tag.source,
        source_port: tag.source_port,
        reserved: [0; 6],
    };
    let origin = Origin {
        address: tag.address,
        port: tag.port,
        reserved: [0; 6],
    };
    if ORIGINS.insert(&key, &origin, 0).is_err() {
        count(Cause::FullOrigins);
    }
    let redirect = Redirect {
        cookie,
        address: tag.address,
        source: tag.source,
        port: tag.port,
        source_port: tag.source_port,
        reserved: [0; 4],
    };
    if REDIRECTS
        .insert(&event.socket_cookie(), &redirect, 0)
        .is_err()
    {
        count(Cause::FullRedirects);
    }
    event.follow_state();
}

/// A captured connection has ended. As a rule its socket was released before; but the connections
/// under an MPTCP socket are the kernel's own, and no release tells their end.
#[inline(always)]
fn closed(event: Event) {
    if let Some(tag) = event.tag()
        && tag.is(TagKind::Captured)
    {
        let _ = REDIRECTS.remove(&event.socket_cookie());
    }
}

/// The application's end of the proxy's transparent dial (its mark came with the SYN), or a
/// connection from outside that was given to the proxy. Both may have the same four addresses: a
/// caller may choose, for its next connection, the source port that a dial of ours bears. So each is
/// bound to the device that its packets come by, and neither stands in the other's way.
#[inline(always)]
fn accepted(event: Event) {
    let cookie = event.netns_cookie();
    if maps::pod(cookie).is_none() {
        return;
    }
    if event.mark() == MARK_TRANSPARENT {
        if !event.bind_to_device(LOOPBACK_DEVICE) {
            count(Cause::UnboundApplication);
        }
        return;
    }
    let v4 = (event.remote_v4(), event.local_v4());
    let v6 = (event.remote_v6(), event.local_v6());
    let (caller, local) = if event.family() == AF_INET { v4 } else { v6 };
    let flow = FlowKey {
        cookie,
        caller,
        local,
        caller_port: event.remote_port(),
        local_port: event.local_port(),
        reserved: [0; 4],
    };
    if let Some(device) = maps::device(&flow)
        && !event.bind_to_device(device)
    {
        count(Cause::UnboundInbound);
    }
}

#[inline(always)]
fn path(tag: &Tag) -> PathKey {
    PathKey {
        source: tag.source,
        destination: tag.address,
        source_port: tag.source_port,
        destination_port: tag.port,
    }
}

/// A socket goes. The origin stays for the proxy: a client may write and close before it is
/// accepted.
#[inline(always)]
pub fn release(ctx: &SockContext) {
    let socket = Released::new(ctx);
    let Some(tag) = socket.tag() else { return };
    if tag.is(TagKind::Captured) {
        let _ = REDIRECTS.remove(&socket.socket_cookie());
    } else if tag.is(TagKind::Probe) && tag.pending == 0 {
        // This program may run again for the same socket, by the next proxy's link.
        tag.kind = 0;
        if PROBE_FLOWS.remove(&path(tag)).is_err() {
            count(Cause::MissedProbeFlow);
        }
    }
}
