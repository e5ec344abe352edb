//! One pod joins: namespace, listeners, routes, kernel, in this order, and none of it where one
//! step fails.

use std::collections::{HashMap, HashSet};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use aquifer_common::{Direction, Family, LISTEN_PORTS};
use nix::ifaddrs::getifaddrs;

use crate::kernel::{self, Capture, Kernel, Listener, Rules};
use crate::mesh::{Enrolment, Workload};
use crate::net::listener::{self, Group};
use crate::net::{Listeners, Namespace, Pod, connections, routes};

/// Why a pod is not enrolled.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its namespace cannot be opened.
    #[error("network namespace {path}: {source}; set the annotation aquifer.io/netns to its path")]
    Namespace {
        /// What the annotation says.
        path: PathBuf,
        /// Why it can't be opened.
        source: io::Error,
    },
    /// Its namespace is the host's.
    #[error("network namespace {0} is the host's own, whose processes are never captured")]
    Host(PathBuf),
    /// Its namespace is another pod's.
    #[error("network namespace {path} is that of the pod {other} already")]
    Shared {
        /// What the annotation says.
        path: PathBuf,
        /// The other pod.
        other: String,
    },
    /// No listener could be opened.
    #[error("listening on the loopback of the pod, ports 15100 to 15499: {0}")]
    Listen(io::Error),
    /// The namespace has no loopback address at all.
    #[error("the pod's network namespace has no 127.0.0.1: its device lo is down")]
    NoLoopback,
    /// The namespace could not be set up or read.
    #[error(transparent)]
    Routes(#[from] routes::Error),
    /// The connections that are open could not be listed.
    #[error("listing the pod's open connections: {0}")]
    Connections(io::Error),
    /// The kernel side refused.
    #[error(transparent)]
    Kernel(#[from] kernel::Error),
}

/// What is kept of a pod that joined.
pub(super) struct Joined {
    pub(super) pod: Arc<Pod>,
    /// Where its namespace was opened, and which file that was.
    pub(super) path: PathBuf,
    pub(super) inode: u64,
    pub(super) outbound: Vec<u16>,
    pub(super) inbound: Vec<u16>,
    /// Listening sockets, all workers together.
    pub(super) sockets: usize,
    /// Whether it has IPv6.
    pub(super) v6: bool,
}

/// Enrols a pod. Returns it with each worker's share of its listeners.
pub(super) async fn join(
    kernel: &mut Kernel,
    name: &str,
    workload: &Arc<Workload>,
    enrolment: &Enrolment,
    workers: usize,
    host: u64,
    others: &HashMap<u64, &str>,
) -> Result<(Joined, Vec<Listeners>), Error> {
    let path = enrolment.netns.clone();
    let failed = |source| Error::Namespace {
        path: path.clone(),
        source,
    };
    let inode = std::fs::metadata(&path).map_err(failed)?.ino();
    let netns = Namespace::open(&path).map_err(failed)?;
    let cookie = netns.cookie();
    if cookie == host {
        return Err(Error::Host(path));
    }
    if let Some(other) = others.get(&cookie) {
        return Err(Error::Shared {
            path,
            other: (*other).to_owned(),
        });
    }
    let outbound = listen(&netns, workers)?;
    let inbound = listen(&netns, workers)?;
    if outbound.is_empty() {
        return Err(Error::NoLoopback);
    }
    let v6 = outbound.iter().any(|group| group.address.is_ipv6());
    routes::lay(&netns, v6).await?;

    let own = addresses(&netns, workload);
    let sockets: Vec<Listener<'_>> = [
        (Direction::Outbound, &outbound),
        (Direction::Inbound, &inbound),
    ]
    .into_iter()
    .flat_map(|(direction, groups)| groups.iter().map(move |group| (direction, group)))
    .filter_map(|(direction, group)| {
        Some(Listener {
            direction,
            family: if group.address.is_ipv4() {
                Family::V4
            } else {
                Family::V6
            },
            port: group.address.port(),
            socket: group.sockets.first()?.as_fd(),
        })
    })
    .collect();
    let capture = Capture {
        cookie,
        name,
        netns: netns.as_fd(),
        listeners: &sockets,
        rules: rules(enrolment, &own),
    };
    kernel.enrol(&capture)?;
    // After the kernel's table of flows has begun, so that no connection is in neither.
    let older = match older(&netns, &own) {
        Ok(older) => Arc::new(older),
        Err(error) => {
            kernel.expel(cookie)?;
            return Err(Error::Connections(error));
        }
    };
    let joined = Joined {
        pod: Arc::new(Pod {
            cookie,
            workload: Arc::clone(workload),
            netns,
            older,
        }),
        path,
        inode,
        outbound: outbound.iter().map(|group| group.address.port()).collect(),
        inbound: inbound.iter().map(|group| group.address.port()).collect(),
        sockets: outbound
            .iter()
            .chain(&inbound)
            .map(|group| group.sockets.len())
            .sum(),
        v6,
    };
    Ok((joined, shares(workers, outbound, inbound)))
}

fn listen(netns: &Namespace, workers: usize) -> Result<Vec<Group>, Error> {
    let bind = || {
        listener::LOOPBACK
            .into_iter()
            .filter_map(|loopback| listener::bind(loopback, LISTEN_PORTS, workers).transpose())
            .collect()
    };
    netns
        .run(bind)
        .and_then(|groups| groups)
        .map_err(Error::Listen)
}

fn shares(workers: usize, outbound: Vec<Group>, inbound: Vec<Group>) -> Vec<Listeners> {
    let mut shares: Vec<Listeners> = (0..workers).map(|_| Listeners::default()).collect();
    for group in outbound {
        for (share, socket) in shares.iter_mut().zip(group.sockets) {
            share.outbound.push(socket);
        }
    }
    for group in inbound {
        for (share, socket) in shares.iter_mut().zip(group.sockets) {
            share.inbound.push(socket);
        }
    }
    shares
}

/// Connections of callers from outside that are open.
fn older(netns: &Namespace, own: &[IpAddr]) -> io::Result<HashSet<(SocketAddr, SocketAddr)>> {
    connections::open(netns, |caller, local| {
        own.contains(&local.ip()) && !own.contains(&caller.ip()) && !caller.ip().is_loopback()
    })
}

/// The pod's addresses: those that Kubernetes knows first, then what else its devices have.
pub(super) fn addresses(netns: &Namespace, workload: &Workload) -> Vec<IpAddr> {
    let mut addresses = workload.addresses.clone();
    let found = netns.run(getifaddrs);
    for interface in found.into_iter().flatten().flatten() {
        let Some(address) = interface.address else {
            continue;
        };
        let address = match (address.as_sockaddr_in(), address.as_sockaddr_in6()) {
            (Some(v4), _) => IpAddr::from(v4.ip()),
            (_, Some(v6)) => IpAddr::from(v6.ip()),
            _ => continue,
        };
        if !address.is_loopback() && !addresses.contains(&address) {
            addresses.push(address);
        }
    }
    addresses
}

/// What the kernel side is told of a pod's annotations.
pub(super) fn rules<'a>(enrolment: &'a Enrolment, addresses: &'a [IpAddr]) -> Rules<'a> {
    Rules {
        failure_mode: enrolment.failure_mode,
        addresses,
        exclude_outbound_ports: &enrolment.exclude_outbound_ports,
        exclude_inbound_ports: &enrolment.exclude_inbound_ports,
        exclude_outbound_ranges: &enrolment.exclude_outbound_ranges,
    }
}
