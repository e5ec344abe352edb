//! Who owns which address.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::endpoint::Member;
use super::told::List;
use super::{Build, reference};
use crate::mesh::{Cluster, Owner, Service, Snapshot};
use crate::types::{ClusterName, Finding, Hostname};

/// The addresses behind a service that are ready.
fn ready<'a>(
    service: &'a Service,
    clusters: &'a HashMap<ClusterName, Arc<Cluster>>,
) -> impl Iterator<Item = IpAddr> + 'a {
    let ports = service.ports.iter();
    let clusters = ports.filter_map(|port| clusters.get(&port.cluster));
    let endpoints = clusters.flat_map(|cluster| cluster.endpoints.iter());
    let ready = endpoints.filter(|one| one.ready);
    ready.map(|one| one.address.ip())
}

/// Who owns each address: a ClusterIP first, then the Pod that has it.
pub(super) fn owners(
    build: &Build,
    members: &[Member],
    findings: &mut List,
) -> HashMap<IpAddr, Owner> {
    let size = build.services.len() + members.len();
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
        for address in ready(service, &build.clusters) {
            let list = behind.entry(address).or_default();
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
    for Member { pod, workload, .. } in members.iter().filter(|one| !one.pod.is_finished()) {
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

/// Brings the owners up to date where `hosts` are all that changed, and no address was claimed by
/// several. `None` where one is now.
pub(super) fn patch<'a>(
    last: &Snapshot,
    build: &Build,
    hosts: impl Iterator<Item = &'a Hostname>,
) -> Option<Arc<HashMap<IpAddr, Owner>>> {
    let mut owners = Arc::clone(&last.addresses);
    let mut added = Vec::new();
    for host in hosts {
        let (before, now) = (last.services.get(host), build.services.get(host));
        let same = match (before, now) {
            (Some(before), Some(now)) => Arc::ptr_eq(before, now),
            (None, None) => true,
            _ => false,
        };
        if !same {
            let vips = before.into_iter().flat_map(|one| &one.vips);
            for vip in vips {
                Arc::make_mut(&mut owners).remove(vip);
            }
            added.extend(now);
        }
        let mut behind: Vec<IpAddr> =
            now.map_or_else(Vec::new, |now| ready(now, &build.clusters).collect());
        behind.sort_unstable();
        let were = before
            .into_iter()
            .flat_map(|one| ready(one, &last.clusters));
        let gone: Vec<IpAddr> = were
            .filter(|address| behind.binary_search(address).is_err())
            .collect();
        for address in &gone {
            set_behind(&mut owners, *address, host, None);
        }
        for address in &behind {
            set_behind(&mut owners, *address, host, now);
        }
    }
    for service in added {
        for vip in &service.vips {
            let owner = Owner::Service(Arc::clone(service));
            if Arc::make_mut(&mut owners).insert(*vip, owner).is_some() {
                return None;
            }
        }
    }
    Some(owners)
}

/// Whether the service of `host` is behind the pod of an address.
fn set_behind(
    owners: &mut Arc<HashMap<IpAddr, Owner>>,
    address: IpAddr,
    host: &Hostname,
    service: Option<&Arc<Service>>,
) {
    let Some(Owner::Workload(_, list)) = owners.get(&address) else {
        return;
    };
    let known = list.iter().find(|one| one.hostname == *host);
    let same = match (known, service) {
        (Some(known), Some(service)) => Arc::ptr_eq(known, service),
        (None, None) => true,
        _ => false,
    };
    if same {
        return;
    }
    let others = list.iter().filter(|one| one.hostname != *host);
    let mut new: Vec<Arc<Service>> = others.chain(service).cloned().collect();
    new.sort_by(|one, other| one.hostname.cmp(&other.hostname));
    if let Some(Owner::Workload(_, list)) = Arc::make_mut(owners).get_mut(&address) {
        *list = new.into();
    }
}
