//! Who owns which address.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::endpoint::{Index, Member};
use super::{Build, reference};
use crate::mesh::{Owner, Service};
use crate::types::{Finding, ObjectRef};

/// Who owns each address: a ClusterIP first, then the Pod that has it.
pub(super) fn owners(
    build: &Build,
    pods: &Index<'_>,
    findings: &mut Vec<(ObjectRef, Finding)>,
) -> HashMap<IpAddr, Owner> {
    let size = build.services.len() + pods.members().len();
    let mut owners: HashMap<IpAddr, Owner> = HashMap::with_capacity(size);
    let mut behind: HashMap<IpAddr, Vec<Arc<Service>>> = HashMap::new();
    let mut lost: Vec<(IpAddr, Arc<Service>)> = Vec::new();
    for service in build.services.values() {
        for vip in &service.vips {
            // The first by name has it.
            let loser = match owners.get(vip) {
                Some(Owner::Service(other)) if other.hostname <= service.hostname => service,
                Some(Owner::Service(other)) => other,
                _ => {
                    owners.insert(*vip, Owner::Service(Arc::clone(service)));
                    continue;
                }
            };
            lost.push((*vip, Arc::clone(loser)));
            if !Arc::ptr_eq(loser, service) {
                owners.insert(*vip, Owner::Service(Arc::clone(service)));
            }
        }
        let clusters = service
            .ports
            .iter()
            .filter_map(|port| build.clusters.get(&port.cluster));
        let endpoints = clusters.flat_map(|cluster| cluster.endpoints.iter());
        for endpoint in endpoints.filter(|one| one.ready) {
            let list = behind.entry(endpoint.address.ip()).or_default();
            if list.last().is_none_or(|last| !Arc::ptr_eq(last, service)) {
                list.push(Arc::clone(service));
            }
        }
    }
    for (vip, loser) in lost {
        let Some(Owner::Service(owner)) = owners.get(&vip) else {
            continue;
        };
        let message = format!(
            "{vip} is already the address of {}: it has no effect here",
            owner.hostname
        );
        let object = reference("Service", &loser.namespace, &loser.name);
        findings.push((object, Finding::warning("spec.clusterIPs", message)));
    }
    for list in behind.values_mut().filter(|list| list.len() > 1) {
        list.sort_by(|one, other| one.hostname.cmp(&other.hostname));
    }
    for Member { pod, workload, .. } in pods.members().iter().filter(|one| !one.pod.is_finished()) {
        for address in &workload.addresses {
            match owners.get(address) {
                None => {
                    let services = behind.get(address).cloned().unwrap_or_default();
                    owners.insert(
                        *address,
                        Owner::Workload(Arc::clone(workload), services.into()),
                    );
                }
                // The pods of a node's own network share its address.
                Some(Owner::Workload(other, _)) if pod.spec.host_network && other.host_network => {}
                Some(other) => {
                    let other = match other {
                        Owner::Service(one) => format!("Service {}/{}", one.namespace, one.name),
                        Owner::Workload(one, _) => format!("Pod {}/{}", one.namespace, one.name),
                    };
                    let message = format!(
                        "{address} is already the address of {other}: it has no effect here"
                    );
                    let object = reference("Pod", &workload.namespace, &workload.name);
                    findings.push((object, Finding::warning("status.podIPs", message)));
                }
            }
        }
    }
    owners
}
