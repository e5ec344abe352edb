//! capture: a pod's `connect` is sent to the proxy's listener in the pod's own namespace, and the
//! address asked for is kept on the socket.
//!
//! Knows nothing of services or policy: all TCP of an enrolled pod is captured, but for loopback,
//! the pod's own addresses, what its annotations exclude, and the proxy's own dials. Where no
//! listener lives the pod's failure mode decides. Next: `sockops`.

use aquifer_common::{Cause, Direction, Family, ListenerKey, Pod, PortKey, RangeKey, Tag, TagKind};
use aya_ebpf::programs::SockAddrContext;
use aya_log_ebpf::debug;

use crate::ctx::{self, Address};
use crate::maps::{self, HOST, PROBE_PROCESSES, REDIRECTS, count};

const SOCK_STREAM: u32 = 1;
const IPPROTO_TCP: u32 = 6;
const IPPROTO_MPTCP: u32 = 262;
/// `lo` is the first device of every network namespace.
const LOOPBACK_DEVICE: u32 = 1;

const PASS: i32 = 1;
const REFUSE: i32 = 0;

/// How the address in the context is spelled.
#[derive(Clone, Copy)]
enum Form {
    V4,
    V6,
    Mapped,
}

impl Form {
    /// The family of the connection on the wire.
    #[inline(always)]
    fn family(self) -> Family {
        match self {
            Self::V4 | Self::Mapped => Family::V4,
            Self::V6 => Family::V6,
        }
    }
}

/// An IPv4 socket.
#[inline(always)]
pub fn v4(ctx: &SockAddrContext) -> i32 {
    let address = Address::new(ctx);
    connect(ctx, address, Form::V4, address.v4())
}

/// An IPv6 socket, whose destination may be IPv4.
#[inline(always)]
pub fn v6(ctx: &SockAddrContext) -> i32 {
    let address = Address::new(ctx);
    let destination = address.v6();
    let form = if is_mapped(&destination) {
        Form::Mapped
    } else {
        Form::V6
    };
    connect(ctx, address, form, destination)
}

#[inline(always)]
fn is_mapped(address: &[u8; 16]) -> bool {
    let [a, b, c, _] = ctx::words(*address);
    a == 0 && b == 0 && c == u32::from_ne_bytes([0, 0, 0xff, 0xff])
}

#[inline(always)]
fn connect(ctx: &SockAddrContext, at: Address, form: Form, to: [u8; 16]) -> i32 {
    if at.kind() != SOCK_STREAM || !matches!(at.protocol(), IPPROTO_TCP | IPPROTO_MPTCP) {
        return PASS;
    }
    let tag = at.tag();
    if let Some(tag) = &tag
        && tag.is(TagKind::Own)
    {
        count(Cause::PassedOwnDial);
        return PASS;
    }
    let tagged = tag.is_some();
    let cookie = at.netns_cookie();
    let Some(pod) = maps::pod(cookie) else {
        return stranger(at, form, to, cookie, tagged);
    };
    let port = at.port();
    if is_loopback(form, &to) {
        // The listener itself: this program of another proxy has captured it a moment ago, and the
        // tag is that capture's. (Or the pod dials it on purpose; then nothing is pending.)
        if port != pod.outbound(form.family()) {
            forget(at, tagged);
        }
        count(Cause::PassedLoopback);
        return PASS;
    }
    if let Some(cause) = excluded(pod, cookie, &to, port) {
        forget(at, tagged);
        count(cause);
        return PASS;
    }
    // Rewritten to loopback, a socket that is bound to another device would hang.
    if !matches!(at.bound_device(), 0 | LOOPBACK_DEVICE) {
        forget(at, tagged);
        return fail(pod, Cause::PassedBoundDevice, Cause::DroppedBoundDevice);
    }
    let family = form.family();
    let listener = pod.outbound(family);
    if listener == 0 || !ctx::listens(&ListenerKey::new(cookie, Direction::Outbound, family)) {
        forget(at, tagged);
        return fail(pod, Cause::PassedOpen, Cause::DroppedClosed);
    }
    if !at.set_tag(Tag::pending(TagKind::Captured, family, to, port)) {
        count(Cause::FullSockets);
        return fail(pod, Cause::PassedOpen, Cause::DroppedClosed);
    }
    match form {
        Form::V4 => at.set_loopback_v4(),
        Form::Mapped => at.set_v6(aquifer_common::mapped([127, 0, 0, 1])),
        Form::V6 => at.set_v6([0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]),
    }
    at.set_port(listener);
    count(match family {
        Family::V4 => Cause::CapturedV4,
        Family::V6 => Cause::CapturedV6,
    });
    debug!(ctx, "captured a connection of {} to port {}", cookie, port);
    PASS
}

/// Of a namespace that is not enrolled: passes, and if it is a probe process's, is remembered.
#[inline(always)]
fn stranger(at: Address, form: Form, to: [u8; 16], cookie: u64, tagged: bool) -> i32 {
    if cookie == HOST.load() {
        // SAFETY: only presence is asked.
        let probes = unsafe { PROBE_PROCESSES.get(&ctx::thread_group()) }.is_some();
        if probes && !is_loopback(form, &to) {
            let tag = Tag::pending(TagKind::Probe, form.family(), to, at.port());
            if at.set_tag(tag) {
                count(Cause::PassedProbe);
            } else {
                count(Cause::FullSockets);
            }
            return PASS;
        }
    }
    forget(at, tagged);
    PASS
}

/// A socket that was captured, disconnected and used again must not find its old entry.
#[inline(always)]
fn forget(at: Address, tagged: bool) {
    if tagged {
        let _ = REDIRECTS.remove(&at.socket_cookie());
        at.forget_tag();
    }
}

#[inline(always)]
fn fail(pod: &Pod, open: Cause, closed: Cause) -> i32 {
    if pod.fails_open() {
        count(open);
        PASS
    } else {
        count(closed);
        REFUSE
    }
}

/// 127.0.0.0/8 and `::1`, and the unspecified addresses, which mean the same to `connect`.
#[inline(always)]
fn is_loopback(form: Form, to: &[u8; 16]) -> bool {
    let [a, b, c, d] = ctx::words(*to);
    match form {
        Form::V4 | Form::Mapped => d.to_ne_bytes()[0] == 127 || d == 0,
        Form::V6 => a == 0 && b == 0 && c == 0 && u32::from_be(d) <= 1,
    }
}

#[inline(always)]
fn excluded(pod: &Pod, cookie: u64, to: &[u8; 16], port: u16) -> Option<Cause> {
    if maps::is_own(cookie, *to) {
        return Some(Cause::PassedOwnAddress);
    }
    if pod.flags & Pod::EXCLUDES_OUTBOUND_PORTS != 0
        && maps::excludes_port(&PortKey::new(cookie, Direction::Outbound, port))
    {
        return Some(Cause::PassedExcludedPort);
    }
    if pod.flags & Pod::EXCLUDES_RANGES != 0 {
        if ctx::in_range(&RangeKey::new(cookie, *to)) {
            return Some(Cause::PassedExcludedRange);
        }
    }
    None
}
