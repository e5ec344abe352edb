//! Opaque connections: bytes both ways, with the failure of the upstream told as a reset.

use std::rc::Rc;
use std::sync::Arc;

use super::connect::{self, Outbound};
use super::error::Error;
use super::origin::Captured;
use super::outcome::Connection;
use super::pod::LocalPod;
use super::relay::{End, relay};
use super::resolve::Target;
use super::worker::Worker;
use super::{balance, resolve};
use crate::net::socket;
use crate::types::{ClusterName, ResponseFlags};

/// A client's connection, and what came of dialling its upstream.
pub(super) struct Opening {
    pub(super) captured: Captured,
    pub(super) upstream: Result<Outbound, Error>,
    pub(super) log: Connection,
}

/// Dials the endpoint that the original destination leads to.
pub(super) async fn dial(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    destination: std::net::SocketAddr,
    target: &Target,
) -> Result<Outbound, Error> {
    let Some(port) = target.port() else {
        let stream = connect::upstream(worker, pod, destination).await?;
        return Ok(Outbound {
            stream,
            lease: None,
        });
    };
    let lease = {
        let snapshot = worker.snapshot();
        let client = Arc::clone(&pod.pod().workload);
        let cluster = snapshot
            .cluster_for(&port.cluster, client.source())
            .ok_or(Error::NoCluster)?;
        balance::pick(worker, pod, cluster, target.wanted(destination))?
    };
    let stream = connect::upstream(worker, pod, lease.address).await?;
    Ok(Outbound {
        stream,
        lease: Some(lease),
    })
}

/// The cluster's name for the access log.
pub(super) fn cluster(target: &resolve::Target) -> ClusterName {
    target
        .port()
        .map_or_else(ClusterName::passthrough, |port| port.cluster.clone())
}

/// Relays, or resets the client where there is no upstream.
pub(super) async fn proxy(worker: &Rc<Worker>, opening: Opening) {
    let Opening {
        captured,
        upstream,
        mut log,
    } = opening;
    match upstream {
        Ok(Outbound { stream, lease }) => {
            log.upstream_host = log.upstream_host.or_else(|| stream.peer_addr().ok());
            log.upstream_local = stream.local_addr().ok();
            let end = relay(captured.stream, stream, log.meter()).await;
            drop(lease);
            match end {
                End::Closed => {}
                End::Downstream => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
                End::Upstream => log.flags = ResponseFlags::UPSTREAM_CLOSED,
                End::Idle => log.flags = ResponseFlags::LOCAL_RESET,
            }
        }
        Err(error) => {
            tracing::debug!(destination = %captured.destination, %error, "no upstream: the client is reset");
            log.fail(&error);
            socket::reset(captured.stream);
        }
    }
    drop(captured.permit);
    let _ = worker;
}
