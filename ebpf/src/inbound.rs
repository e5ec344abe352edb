//! What arrives from outside a pod is given to the proxy's inbound listener in its namespace,
//! whatever port it was for. One copy of the program a pod, loaded with its cookie.
//!
//! Where no listener lives the pod's failure mode decides. Connections inside the pod, excluded
//! ports and the host's probes pass to the application.

use aquifer_common::{Cause, Direction, Family, FlowKey, ListenerKey, PathKey, Pod, PortKey};
use aya_ebpf::programs::SkLookupContext;
use aya_log_ebpf::debug;

use crate::ctx::Lookup;
use crate::maps::{self, COOKIE, INBOUND_FLOWS, PROBE_FLOWS, count};

const IPPROTO_TCP: u32 = 6;
const AF_INET: u32 = 2;
const LOOPBACK_DEVICE: u32 = 1;

const DROP: u32 = 0;
const PASS: u32 = 1;

/// One packet that looks for a listener.
#[inline(always)]
pub fn run(ctx: &SkLookupContext) -> u32 {
    let lookup = Lookup::new(ctx);
    // `lo` shows for loopback addresses and for sockets bound to it: the proxy's transparent dials.
    if lookup.protocol() != IPPROTO_TCP || lookup.ingress_device() == LOOPBACK_DEVICE {
        return PASS;
    }
    let cookie = COOKIE.load();
    let Some(pod) = maps::pod(cookie) else {
        return PASS;
    };
    // All are read before the choice: LLVM would merge the branches' reads into one by a computed
    // address, which the verifier refuses.
    let v4 = (Family::V4, lookup.remote_v4(), lookup.local_v4());
    let v6 = (Family::V6, lookup.remote_v6(), lookup.local_v6());
    let (family, remote, local) = if lookup.family() == AF_INET { v4 } else { v6 };
    // The pod calls itself at its own address: that shows the device which owns the address.
    if remote == local {
        return PASS;
    }
    let port = lookup.local_port();
    if pod.flags & Pod::EXCLUDES_INBOUND_PORTS != 0
        && maps::excludes_port(&PortKey::new(cookie, Direction::Inbound, port))
    {
        count(Cause::PassedInboundExcludedPort);
        return PASS;
    }
    let remote_port = lookup.remote_port();
    let path = PathKey {
        source: remote,
        destination: local,
        source_port: remote_port,
        destination_port: port,
    };
    // SAFETY: only presence is asked.
    if unsafe { PROBE_FLOWS.get(&path) }.is_some() {
        count(Cause::PassedInboundProbe);
        return PASS;
    }
    // Before the connection exists. From now on no dial of the proxy's may take this source port.
    let flow = FlowKey {
        cookie,
        caller: remote,
        local,
        caller_port: remote_port,
        local_port: port,
        reserved: [0; 4],
    };
    if INBOUND_FLOWS
        .insert(&flow, &lookup.ingress_device(), 0)
        .is_err()
    {
        count(Cause::FullInboundFlows);
    }
    if lookup.assign(&ListenerKey::new(cookie, Direction::Inbound, family)) {
        count(match family {
            Family::V4 => Cause::CapturedInboundV4,
            Family::V6 => Cause::CapturedInboundV6,
        });
        debug!(
            ctx,
            "gave a connection to port {} of {} to the proxy", port, cookie
        );
        return PASS;
    }
    let _ = INBOUND_FLOWS.remove(&flow);
    if pod.fails_open() {
        count(Cause::PassedInboundOpen);
        PASS
    } else {
        count(Cause::DroppedInboundClosed);
        DROP
    }
}
