//! Opaque connections: bytes both ways, with the failure of the upstream told as a reset.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use tokio::net::TcpStream;

use super::balance::{Choice, Lease};
use super::cluster::Local;
use super::connect::Outbound;
use super::error::Error;
use super::origin::Captured;
use super::outcome::Connection;
use super::pod::LocalPod;
use super::relay::{End, Limits, Meter, Wire, relay, relay_secured, relay_streams, relay_until};
use super::resolve::Target;
use super::secured::Speech;
use super::upstream::Upstream;
use super::worker::Worker;
use super::{balance, pool, proxied, resolve, upstream};
use crate::mesh::{L4Choice, L4Request};
use crate::net::socket;
use crate::policy::balance::Algorithm;
use crate::policy::hash;
use crate::policy::outlier::Outcome;
use crate::types::{ClusterName, ResponseFlags};
use crate::wire::proxy_protocol::Ends;

/// A client's connection, and what came of dialling its upstream.
pub(super) struct Opening {
    pub(super) captured: Captured,
    pub(super) upstream: Result<Outbound, Error>,
    pub(super) log: Connection,
}

/// Whether a cluster's `tunnel` is for the connection: of a rule that names it, not of the service's own
/// (Istio).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Tunnels {
    Yes,
    No,
}

/// Dials the endpoint that the original destination leads to.
pub(super) async fn dial(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    captured: &Captured,
    target: &Target,
    server_name: Option<&str>,
) -> Result<Outbound, Error> {
    let destination = captured.destination;
    let ends = captured.ends();
    let Some(port) = target.port() else {
        let cluster = pod.cluster(worker, &worker.passthrough);
        let to = (ends, destination);
        return open(worker, pod, &cluster, to, None, Tunnels::No).await;
    };
    let (cluster, tunnels) = {
        let snapshot = worker.snapshot();
        let workload = Arc::clone(&pod.pod().workload);
        let (name, tunnels) = match snapshot.l4(port, &workload.namespace) {
            None => (&port.cluster, Tunnels::No),
            Some(table) => {
                let request = L4Request {
                    source: workload.source(),
                    destination: destination.ip(),
                    server_name,
                };
                match table.choose(&request) {
                    L4Choice::Plain => (&port.cluster, Tunnels::No),
                    L4Choice::Refused => return Err(Error::NoRoute),
                    L4Choice::Rule(rule) => {
                        let chosen = rule.destinations.get(rule.weights.pick(worker.draw()));
                        // Istio tunnels for rules with one destination alone.
                        let tunnels = match rule.destinations.len() {
                            1 => Tunnels::Yes,
                            _ => Tunnels::No,
                        };
                        (&chosen.ok_or(Error::NoCluster)?.cluster, tunnels)
                    }
                }
            }
        };
        let cluster = snapshot.cluster_for(name, workload.source());
        let cluster = pod.cluster(worker, cluster.ok_or(Error::NoCluster)?);
        (cluster, tunnels)
    };
    let policy = cluster.policy();
    if policy.balancer == Algorithm::Passthrough {
        return open(worker, pod, &cluster, (ends, destination), None, tunnels).await;
    }
    let mut choice = Choice::of(target.wanted(destination));
    // Of the keys only the client's address is known where bytes are not looked at.
    if policy.balancer.is_hash() && policy.hash == Some(hash::Key::SourceAddress) {
        let workload = Arc::clone(&pod.pod().workload);
        let own = workload.addresses.iter();
        let own = own
            .copied()
            .find(|own| own.is_ipv4() == destination.is_ipv4());
        choice.hash = own.map(hash::of_address);
    }
    let lease = balance::pick(worker, &cluster, choice)?;
    let to = (ends, lease.address());
    open(worker, pod, &cluster, to, Some(lease), tunnels).await
}

/// Connects. A connection that the cluster's limit does not allow is refused at once (Envoy's TCP
/// proxy waits for none).
async fn open(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    cluster: &Rc<Local>,
    (client, address): (Ends, SocketAddr),
    lease: Option<Lease>,
    tunnels: Tunnels,
) -> Result<Outbound, Error> {
    let counters = &cluster.state.counters;
    let held = pool::admit(cluster, address).inspect_err(|_| {
        counters.upstream_cx_overflow.increment();
    })?;
    let (speech, client) = (Speech::Bytes, Some(client));
    let mut connected = upstream::connect(worker, pod, address, cluster, speech, client).await;
    if tunnels == Tunnels::Yes
        && let Some(tunnel) = &cluster.policy().tunnel
        && let Ok(stream) = connected
    {
        let limit = cluster.policy().tcp.connect_timeout;
        connected = Box::pin(proxied::ask(stream, tunnel, limit)).await;
    }
    if let Some(lease) = &lease {
        lease.report(match &connected {
            Ok(_) => Outcome::Established,
            Err(Error::ConnectTimeout) => Outcome::TimedOut,
            Err(_) => Outcome::Failed,
        });
    }
    pool::count_connect(counters, &connected);
    Ok(Outbound {
        stream: connected?,
        lease,
        held: Some((Rc::clone(cluster), held)),
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
        Ok(Outbound {
            stream,
            lease,
            held,
        }) => {
            if let Some((cluster, _)) = &held {
                log.cluster.clone_from(&cluster.state.name);
            }
            log.upstream_host = log.upstream_host.or_else(|| stream.peer_addr());
            log.upstream_local = stream.local_addr();
            let limits = held.as_ref().map(|(cluster, _)| cluster.policy());
            let limits = limits.map_or_else(Limits::default, |policy| Limits::of(&policy.tcp));
            let end = carry(captured.stream, stream, log.meter(), limits).await;
            drop((lease, held));
            match end {
                End::Closed | End::Stopped => {}
                End::Downstream => log.flags = ResponseFlags::DOWNSTREAM_CLOSED,
                End::Upstream => log.flags = ResponseFlags::UPSTREAM_RESET,
                End::Idle => {}
                End::Old => log.flags = ResponseFlags::DURATION,
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

/// Relays over whatever leads to the upstream.
async fn carry(downstream: TcpStream, upstream: Upstream, meter: &Meter, limits: Limits) -> End {
    match upstream {
        Upstream::Socket(stream) => relay(downstream, stream, meter, limits).await,
        // The place is given back once the tunnel has ended.
        Upstream::Tunnel(tunnelled) => {
            let upstream::Tunnelled {
                tunnel,
                place: _place,
                ..
            } = *tunnelled.take();
            relay(downstream, Wire::Tunnel(tunnel), meter, limits).await
        }
        Upstream::Judged(channel, _) => {
            let stop = std::future::pending();
            Box::pin(relay_streams(downstream, channel, meter, limits, stop)).await
        }
        Upstream::Posted(posted) => {
            let stop = std::future::pending();
            Box::pin(relay_streams(
                downstream,
                *posted.take(),
                meter,
                limits,
                stop,
            ))
            .await
        }
        Upstream::Secured(secured) => {
            Box::pin(relay_secured(downstream, *secured.take(), meter, limits)).await
        }
        Upstream::Within(stream, mut within) => {
            let mut denial = None;
            let revoked = async { denial = within.revoked().await };
            let end = relay_until(downstream, stream, meter, limits, revoked).await;
            within.ended(end, meter, denial);
            match end {
                // To its client it is as if the destination had reset it.
                End::Stopped => End::Upstream,
                end => end,
            }
        }
    }
}
