//! Who owns which address.

use std::net::IpAddr;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use super::population::{Member, Moved};
use super::told::List;
use super::{Build, reference};
use crate::mesh::{Clusters, Owner, Service, Snapshot};
use crate::types::{Finding, Hostname};

/// The addresses behind a service that are ready.
fn ready<'a>(service: &'a Service, clusters: &'a Clusters) -> impl Iterator<Item = IpAddr> + 'a {
    let ports = service.ports.iter();
    let clusters = ports.filter_map(|port| clusters.get(port.cluster.as_str()));
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

/// The services behind an address whose owner is looked for.
type Behind = HashMap<IpAddr, Arc<[Arc<Service>]>>;

/// Brings the owners up to date where `hosts` and `moved` are all that changed, and no address was
/// claimed by several. `None` where one is now. `members` are all Pods as they are.
pub(super) fn patch<'a>(
    last: &Snapshot,
    build: &Build,
    hosts: impl Iterator<Item = &'a Hostname> + Clone,
    moved: &[Moved],
    members: &[Member],
) -> Option<Arc<HashMap<IpAddr, Owner>>> {
    let mut owners = Arc::clone(&last.addresses);
    let services = hosts.map(|host| (host, last.services.get(host), build.services.get(host)));
    let changed = services
        .clone()
        .filter(|(_, before, now)| match (before, now) {
            (Some(before), Some(now)) => !Arc::ptr_eq(before, now),
            (before, now) => before.is_some() || now.is_some(),
        });
    let moved = || moved.iter().filter(|one| claims(one));

    for vip in changed
        .clone()
        .filter_map(|(_, before, _)| before)
        .flat_map(|one| &one.vips)
    {
        Arc::make_mut(&mut owners).remove(vip);
    }
    let mut behind = Behind::new();
    for before in moved().filter_map(|one| one.before.as_ref()) {
        leave(&mut owners, before, &mut behind);
    }
    let shared = moved().filter_map(|one| one.before.as_ref());
    for before in shared.filter(|one| one.pod.spec.host_network) {
        inherit(&mut owners, before, &mut behind, members, &|one| {
            moved().any(|moved| moved.now.as_ref().is_some_and(|now| now.key() == one.key()))
        });
    }

    for service in changed.filter_map(|(.., now)| now) {
        for vip in &service.vips {
            let owner = Owner::Service(Arc::clone(service));
            if Arc::make_mut(&mut owners).insert(*vip, owner).is_some() {
                return None;
            }
        }
    }
    for now in moved().filter_map(|one| one.now.as_ref()) {
        enter(&mut owners, now, &mut behind)?;
    }

    for (host, before, now) in services {
        let mut addresses: Vec<IpAddr> =
            now.map_or_else(Vec::new, |now| ready(now, &build.clusters).collect());
        addresses.sort_unstable();
        let were = before
            .into_iter()
            .flat_map(|one| ready(one, &last.clusters));
        let gone: Vec<IpAddr> = were
            .filter(|address| addresses.binary_search(address).is_err())
            .collect();
        for address in &gone {
            set_behind(&mut owners, *address, host, None);
        }
        for address in &addresses {
            set_behind(&mut owners, *address, host, now);
        }
    }
    Some(owners)
}

/// Whether a Pod claims anything that it did not claim before, or the other way round.
fn claims(moved: &Moved) -> bool {
    let claim = |one: &Option<Member>| {
        let one = one.as_ref().filter(|one| !one.pod.is_finished());
        one.map(|one| (Arc::as_ptr(&one.workload), one.pod.spec.host_network))
    };
    claim(&moved.before) != claim(&moved.now)
}

/// Takes the addresses of a Pod that is gone, or is another now.
fn leave(owners: &mut Arc<HashMap<IpAddr, Owner>>, member: &Member, behind: &mut Behind) {
    for address in &member.workload.addresses {
        if let Some(Owner::Workload(owner, services)) = owners.get(address)
            && Arc::ptr_eq(owner, &member.workload)
        {
            behind.insert(*address, Arc::clone(services));
            Arc::make_mut(owners).remove(address);
        }
    }
}

/// Gives the addresses that a Pod of its node's network has left to the next one that has them, of
/// those that did not change themselves.
fn inherit(
    owners: &mut Arc<HashMap<IpAddr, Owner>>,
    left: &Member,
    behind: &mut Behind,
    members: &[Member],
    changed: &dyn Fn(&Member) -> bool,
) {
    for address in &left.workload.addresses {
        if owners.contains_key(address) {
            continue;
        }
        let mut heirs = members.iter().filter(|one| {
            !one.pod.is_finished() && one.workload.addresses.contains(address) && !changed(one)
        });
        if let Some(heir) = heirs.next() {
            let services = behind.remove(address).unwrap_or_default();
            let owner = Owner::Workload(Arc::clone(&heir.workload), services);
            Arc::make_mut(owners).insert(*address, owner);
        }
    }
}

/// Gives a Pod its addresses; `None` where another has one of them.
fn enter(
    owners: &mut Arc<HashMap<IpAddr, Owner>>,
    member: &Member,
    behind: &mut Behind,
) -> Option<()> {
    if member.pod.is_finished() {
        return Some(());
    }
    for address in &member.workload.addresses {
        let services = match owners.get(address) {
            None => behind.remove(address).unwrap_or_default(),
            // The pods of a node's own network share its address: the first has it.
            Some(Owner::Workload(other, services))
                if member.pod.spec.host_network && other.host_network =>
            {
                if (&*other.namespace, &*other.name) < member.key() {
                    continue;
                }
                Arc::clone(services)
            }
            Some(_) => return None,
        };
        let owner = Owner::Workload(Arc::clone(&member.workload), services);
        Arc::make_mut(owners).insert(*address, owner);
    }
    Some(())
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
