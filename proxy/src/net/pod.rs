//! A local pod whose connections the proxy takes, and how the workers hear of it.

use std::collections::HashSet;
use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use tokio::sync::oneshot;

use super::Namespace;
use crate::mesh::Workload;

/// An enrolled pod on this node.
#[derive(Clone, Debug)]
pub struct Pod {
    /// Cookie of its network namespace: who it is to the kernel.
    pub cookie: u64,
    /// Who it is to the mesh.
    pub workload: Arc<Workload>,
    /// Where its sockets are made.
    pub netns: Namespace,
    /// Connections from outside that were open before it was enrolled, as (caller, local). No dial
    /// may take the source port of one of them: the kernel's table of flows does not know them.
    pub older: Arc<HashSet<(SocketAddr, SocketAddr)>>,
}

/// One worker's share of a pod's listeners: nonblocking, IPv4 and IPv6 where the pod has it. The
/// workers' sockets of one port form a SO_REUSEPORT group.
#[derive(Debug, Default)]
pub struct Listeners {
    /// Where captured connections of the pod arrive.
    pub outbound: Vec<TcpListener>,
    /// Where connections to the pod arrive, whichever port they were for: the local address of
    /// an accepted socket is what the caller dialled.
    pub inbound: Vec<TcpListener>,
}

/// What a worker is told.
#[derive(Debug)]
pub enum Change {
    /// A pod to serve from now on.
    Join {
        /// The pod.
        pod: Arc<Pod>,
        /// The worker's share.
        listeners: Listeners,
    },
    /// What is known about a pod has changed; its listeners stay.
    Update {
        /// The pod, with the same cookie.
        pod: Arc<Pod>,
    },
    /// A pod that leaves. Listeners and pooled connections go at once: our own sockets keep a
    /// network namespace alive.
    Leave {
        /// Which pod.
        cookie: u64,
        /// Set where the namespace is going: open connections end now. Otherwise they may finish.
        now: bool,
        /// Told when the worker holds none of the pod's listeners and pooled connections.
        done: oneshot::Sender<()>,
    },
}
