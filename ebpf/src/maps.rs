//! The maps. All are pinned by name under the proxy's `--bpffs`; `SOCKETS` and the log's ring by
//! the loader, since their kinds of definition have no word for it.
//!
//! What a full map means stands at each; `STATS` and `PROXY_STATS` count it.
//!
//! A map that forgets prefers what no program has looked up since it was written: a flood of SYNs
//! does not push out the flows of connections that are open.

use aquifer_common::{
    AddressKey, Cause, FlowKey, LAYOUT as LAYOUT_VERSION, ListenerKey, Name, Origin, OriginKey,
    PathKey, Pod, PortKey, ProxyCause, RangeKey, Redirect, Tag,
};
use aya_ebpf::Global;
use aya_ebpf::bindings::BPF_F_NO_PREALLOC;
use aya_ebpf::btf_maps::SkStorage;
use aya_ebpf::macros::{btf_map, map};
use aya_ebpf::maps::{Array, HashMap, LpmTrie, LruHashMap, PerCpuArray, SockHash};

/// Enrolled pods of one node; four times what a kubelet takes at most today.
const PODS_MAX: u32 = 2048;
/// Connections of one node.
const CONNECTIONS_MAX: u32 = 65536;

/// Cookie of the host's network namespace: set when the object is loaded.
#[unsafe(no_mangle)]
pub static HOST: Global<u64> = Global::new(0);

/// Cookie of the pod that this copy of the inbound program serves: set when it is loaded. The
/// helper that reads the cookie is refused in `sk_lookup`.
#[unsafe(no_mangle)]
pub static COOKIE: Global<u64> = Global::new(0);

/// Written by user space, which compares it before it touches anything.
#[map]
pub static LAYOUT: Array<u32> = Array::pinned(1, 0);

/// Enrolled pods. Full: user space is told and counts it, the pod is not enrolled.
#[map]
pub static PODS: HashMap<u64, Pod> = HashMap::pinned(PODS_MAX, BPF_F_NO_PREALLOC);

/// How people call them; for user space. Full: as `PODS`.
#[map]
pub static NAMES: HashMap<u64, Name> = HashMap::pinned(PODS_MAX, BPF_F_NO_PREALLOC);

/// One listening socket a pod, direction and family. A closed socket leaves by itself, so a look-up
/// tells whether a proxy lives. Full: as `PODS`.
#[map]
pub static LISTENERS: SockHash<ListenerKey> = SockHash::pinned(4 * PODS_MAX, 0);

/// What is known of one socket; goes with it. It has no size of its own, but a socket's options may
/// take no more memory than `net.core.optmem_max` (a namespace's own since Linux 6.9). Full: the
/// failure mode decides, counted.
#[btf_map]
pub static SOCKETS: SkStorage<Tag> = SkStorage::new();

/// Where captured connections were going, until the proxy takes it. Full: the oldest entry is
/// forgotten, and its connection ended by the proxy, which counts the miss.
#[map]
pub static ORIGINS: LruHashMap<OriginKey, Origin> = LruHashMap::pinned(CONNECTIONS_MAX, 0);

/// Captured connections that live, by socket cookie; for people. Full: the connection goes on,
/// unlisted, counted.
#[map]
pub static REDIRECTS: HashMap<u64, Redirect> = HashMap::pinned(CONNECTIONS_MAX, BPF_F_NO_PREALLOC);

/// Destinations that are the pod itself. Full: a pod that was not enrolled is not; of one that was,
/// the change is not in force. User space is told and counts it.
#[map]
pub static OWN_ADDRESSES: HashMap<AddressKey, u8> =
    HashMap::pinned(16 * PODS_MAX, BPF_F_NO_PREALLOC);

/// Ports that are not captured. Full: as `OWN_ADDRESSES`.
#[map]
pub static EXCLUDED_PORTS: HashMap<PortKey, u8> = HashMap::pinned(32 * PODS_MAX, BPF_F_NO_PREALLOC);

/// Destinations that are not captured. Full: as `OWN_ADDRESSES`.
#[map]
pub static EXCLUDED_RANGES: LpmTrie<RangeKey, u8> = LpmTrie::pinned(32 * PODS_MAX, 0);

/// Thread groups of the host whose connections to pods are probes. Full: further ones are treated as
/// strangers, counted.
#[map]
pub static PROBE_PROCESSES: HashMap<u32, u8> = HashMap::pinned(64, BPF_F_NO_PREALLOC);

/// Their connections that live. Full: the one unused for longest is forgotten, and treated as a
/// stranger's if its SYN comes again; counted when it ends.
#[map]
pub static PROBE_FLOWS: LruHashMap<PathKey, u8> = LruHashMap::pinned(8192, 0);

/// Connections from outside that were given to the proxy, and the device they came by. Full: the one
/// unused for longest is forgotten, and its source port unguarded; counted when it ends.
#[map]
pub static INBOUND_FLOWS: LruHashMap<FlowKey, u32> = LruHashMap::pinned(CONNECTIONS_MAX, 0);

/// Counters of the kernel side.
#[map]
pub static STATS: PerCpuArray<u64> = PerCpuArray::pinned(Cause::COUNT, 0);

/// Counters of user space.
#[map]
pub static PROXY_STATS: Array<u64> = Array::pinned(ProxyCause::COUNT, 0);

/// The layout that this object was built for, readable without loading it.
#[unsafe(no_mangle)]
pub static LAYOUT_BUILT: u32 = LAYOUT_VERSION;

/// Counts one.
#[inline(always)]
pub fn count(cause: Cause) {
    if let Some(counter) = STATS.get_ptr_mut(cause as u32) {
        // SAFETY: the pointer is to this CPU's own value of the map, and a program is not preempted
        // by another of its kind on the same CPU.
        unsafe { *counter += 1 };
    }
}

/// The device that a connection from outside came by.
#[inline(always)]
pub fn device(flow: &FlowKey) -> Option<u32> {
    // SAFETY: a word is read whole; an entry that is replaced meanwhile is of the same connection.
    unsafe { INBOUND_FLOWS.get(flow) }.copied()
}

/// A pod's entry.
#[inline(always)]
pub fn pod(cookie: u64) -> Option<&'static Pod> {
    // SAFETY: entries are replaced whole, never written in place, and stay readable until the
    // program ends.
    unsafe { PODS.get(&cookie) }
}

/// Whether a pod excludes this port.
#[inline(always)]
pub fn excludes_port(key: &PortKey) -> bool {
    // SAFETY: only presence is asked.
    unsafe { EXCLUDED_PORTS.get(key) }.is_some()
}

/// Whether an address is the pod's own.
#[inline(always)]
pub fn is_own(cookie: u64, address: [u8; 16]) -> bool {
    // SAFETY: only presence is asked.
    unsafe { OWN_ADDRESSES.get(&AddressKey { cookie, address }) }.is_some()
}
