//! In which way an address is reached: by HBONE where a pod of the mesh has it, within the process
//! where that pod is of this node, as it is otherwise.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ClientConfig;

use super::error::Error;
use super::hbone::Failure;
use super::pod::LocalPod;
use super::worker::Worker;
use crate::mesh::{Owner, Workload};
use crate::types::Identity;
use crate::types::identity::NotAnIdentity;

/// The way.
pub(super) enum Way {
    /// As it is: whoever answers there is not in the mesh, or it is the pod itself.
    Plain,
    /// To a pod of this node, inside the process.
    Within(Rc<LocalPod>),
    /// By HBONE, to one of these identities.
    Tunnel(Arc<[Identity]>),
}

/// Who has the address `to`, where a pod has.
pub(super) fn workload(worker: &Worker, to: SocketAddr) -> Option<Arc<Workload>> {
    match worker.snapshot().addresses.get(&to.ip()) {
        Some(Owner::Workload(workload, _)) => Some(Arc::clone(workload)),
        _ => None,
    }
}

/// Who `workload` may show itself as: by the mesh's own trust domain first, and by each other name of
/// it. While a domain is renamed, some nodes have one and some the other.
pub(super) fn identities(
    worker: &Worker,
    workload: &Workload,
) -> Result<Arc<[Identity]>, NotAnIdentity> {
    let trust = worker.secrets.trust();
    let domains = std::iter::once(trust.domain()).chain(trust.aliases());
    domains.map(|domain| workload.identity(domain)).collect()
}

/// Whether a pod of the mesh has the address `to`.
pub(super) fn is_in_mesh(worker: &Worker, to: SocketAddr) -> bool {
    workload(worker, to).is_some_and(|one| one.enrolled)
}

/// What connections to an address are made by, where certificates are signed. They are not for what
/// comes after another one is in force: they lead to somebody else, or rest on what is gone.
#[derive(Clone, Debug)]
pub(super) enum Made {
    /// As it is.
    Plain,
    /// Inside the process, to the pod with this cookie.
    Within(u64),
    /// By HBONE: by this configuration of TLS, which has both identities, the certificate and the
    /// trust in it; `None` where there is none.
    Tunnel(Option<Arc<ClientConfig>>),
}

impl PartialEq for Made {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Plain, Self::Plain) | (Self::Tunnel(None), Self::Tunnel(None)) => true,
            (Self::Within(one), Self::Within(other)) => one == other,
            (Self::Tunnel(Some(one)), Self::Tunnel(Some(other))) => Arc::ptr_eq(one, other),
            _ => false,
        }
    }
}

/// What a connection of `pod` to `to` would be made by.
pub(super) fn made(worker: &Worker, pod: &LocalPod, to: SocketAddr) -> Made {
    match self::to(worker, pod, to) {
        Ok(Way::Plain) => Made::Plain,
        Ok(Way::Within(at)) => Made::Within(at.cookie()),
        Ok(Way::Tunnel(expected)) => {
            let own = pod.identity(worker).ok();
            let config = own.and_then(|own| {
                let secrets = &worker.secrets;
                secrets.client(&own, &expected)
            });
            Made::Tunnel(config)
        }
        Err(_) => Made::Tunnel(None),
    }
}

/// How `pod` reaches `to`.
pub(super) fn to(worker: &Worker, pod: &LocalPod, to: SocketAddr) -> Result<Way, Error> {
    if !worker.mutual_tls {
        return Ok(Way::Plain);
    }
    let Some(workload) = workload(worker, to) else {
        return Ok(Way::Plain);
    };
    // What a pod says to itself does not leave its namespace, in which it trusts itself.
    if !workload.enrolled || pod.pod().workload.addresses.contains(&to.ip()) {
        return Ok(Way::Plain);
    }
    let at = worker.neighbours.at(to.ip());
    // While one pod takes an address over from another, both may be there.
    if let Some(at) = at.filter(|at| at.pod().workload.is_same_pod(&workload)) {
        return Ok(Way::Within(at));
    }
    let expected = identities(worker, &workload);
    Ok(Way::Tunnel(expected.map_err(Failure::from)?))
}
