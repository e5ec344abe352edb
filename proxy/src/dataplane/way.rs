//! In which way an address is reached: by HBONE where a pod of the mesh has it, within the process
//! where that pod is of this node, as it is otherwise.

use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;

use super::error::Error;
use super::hbone::Failure;
use super::pod::LocalPod;
use super::worker::Worker;
use crate::mesh::{Owner, Workload};
use crate::types::Identity;

/// The way.
pub(super) enum Way {
    /// As it is: whoever answers there is not in the mesh, or it is the pod itself.
    Plain,
    /// To a pod of this node, inside the process.
    Within(Rc<LocalPod>),
    /// By HBONE, to this identity.
    Tunnel(Identity),
}

/// Who has the address `to`, where a pod has.
pub(super) fn workload(worker: &Worker, to: SocketAddr) -> Option<Arc<Workload>> {
    match worker.snapshot().addresses.get(&to.ip()) {
        Some(Owner::Workload(workload, _)) => Some(Arc::clone(workload)),
        _ => None,
    }
}

/// Whether a pod of the mesh has the address `to`.
pub(super) fn is_in_mesh(worker: &Worker, to: SocketAddr) -> bool {
    workload(worker, to).is_some_and(|one| one.enrolled)
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
    if let Some(at) = worker.neighbours.at(to.ip()) {
        return Ok(Way::Within(at));
    }
    let trust = worker.secrets.trust();
    let expected = workload.identity(trust.domain());
    Ok(Way::Tunnel(expected.map_err(Failure::from)?))
}
