//! The addresses that answer for a service's port: out of EndpointSlices, or out of the Pods that
//! the service selects.

use std::collections::{BTreeMap, HashMap};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::api::service::{ServicePort, TargetPort};
use crate::api::{EndpointSlice, Pod, Service};
use crate::mesh::{Endpoint, Workload};

/// A Pod with the workload that it became.
#[derive(Clone, Debug)]
pub(super) struct Member {
    pub(super) pod: Arc<Pod>,
    pub(super) workload: Arc<Workload>,
}

/// Pods and slices, by what services look them up by.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    members: &'a [Member],
    by_name: HashMap<(&'a str, &'a str), usize>,
    by_address: HashMap<IpAddr, usize>,
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a EndpointSlice>>,
}

impl<'a> Index<'a> {
    pub(super) fn new(
        members: &'a [Member],
        slices: impl Iterator<Item = &'a Arc<EndpointSlice>>,
    ) -> Self {
        let mut index = Self::default();
        for (at, Member { workload, .. }) in members.iter().enumerate() {
            let namespace = &*workload.namespace;
            index.by_name.insert((namespace, &workload.name), at);
            for address in &workload.addresses {
                index.by_address.entry(*address).or_insert(at);
            }
            for (label, value) in &workload.labels {
                let key = (namespace, label.as_str(), value.as_str());
                index.by_label.entry(key).or_default().push(at);
            }
        }
        index.members = members;
        for slice in slices {
            if let Some(service) = slice.service() {
                let key = (&*slice.metadata.namespace, service);
                index.slices.entry(key).or_default().push(slice);
            }
        }
        index
    }

    /// The endpoints of `port`, ready ones only, sorted by address.
    pub(super) fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<Endpoint> {
        let metadata = &service.metadata;
        let key = (&*metadata.namespace, &*metadata.name);
        let mut endpoints = match self.slices.get(&key) {
            Some(slices) => self.of_slices(slices, service, port),
            None => self.of_selector(service, port),
        };
        endpoints.sort_by_key(|one| one.address);
        endpoints.dedup_by_key(|one| one.address);
        endpoints
    }

    fn of_slices(
        &self,
        slices: &[&EndpointSlice],
        service: &Service,
        port: &ServicePort,
    ) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for slice in slices.iter().filter(|one| one.address_type != "FQDN") {
            let target = slice.ports.iter().find(|one| {
                one.name == port.name && one.protocol.as_deref().is_none_or(|one| one == "TCP")
            });
            let Some(target) = target.and_then(|one| one.port) else {
                continue;
            };
            for endpoint in &slice.endpoints {
                let ready = endpoint.conditions.ready.unwrap_or(true);
                if !ready && !service.spec.publish_not_ready_addresses {
                    continue;
                }
                let named = endpoint
                    .target_ref
                    .as_ref()
                    .filter(|one| one.kind == "Pod")
                    .and_then(|one| {
                        let namespace = one
                            .namespace
                            .as_deref()
                            .unwrap_or(&slice.metadata.namespace);
                        self.by_name.get(&(namespace, one.name.as_str()))
                    });
                for address in endpoint
                    .addresses
                    .iter()
                    .filter_map(|text| text.parse().ok())
                {
                    let member = named.or_else(|| self.by_address.get(&address));
                    endpoints.push(Endpoint {
                        workload: member.map(|at| Arc::clone(&self.members[*at].workload)),
                        ..Endpoint::new(SocketAddr::new(address, target))
                    });
                }
            }
        }
        endpoints
    }

    fn of_selector(&self, service: &Service, port: &ServicePort) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for member in self.selected(&service.metadata.namespace, &service.spec.selector) {
            let Member { pod, workload } = member;
            let usable =
                pod.is_ready() || (service.spec.publish_not_ready_addresses && !pod.is_finished());
            let target = match &port.target_port {
                None => Some(port.port),
                Some(TargetPort::Number(number)) => Some(*number),
                Some(TargetPort::Name(name)) => pod.port_named(name),
            };
            let (true, Some(target)) = (usable, target) else {
                continue;
            };
            endpoints.extend(workload.addresses.iter().map(|address| Endpoint {
                workload: Some(Arc::clone(workload)),
                ..Endpoint::new(SocketAddr::new(*address, target))
            }));
        }
        endpoints
    }

    /// The Pods that have all the labels; none where no label is asked for.
    fn selected<'b>(
        &'b self,
        namespace: &'b str,
        selector: &'b BTreeMap<String, String>,
    ) -> impl Iterator<Item = &'a Member> + 'b {
        let lists = selector.iter().map(|(label, value)| {
            let key = (namespace, label.as_str(), value.as_str());
            self.by_label
                .get(&key)
                .map(Vec::as_slice)
                .unwrap_or_default()
        });
        // The rarest label leaves the fewest Pods to look at.
        let rarest = lists.min_by_key(|list| list.len()).unwrap_or_default();
        rarest
            .iter()
            .map(|at| &self.members[*at])
            .filter(move |member| has_labels(&member.workload.labels, selector))
    }

    /// Every Pod, in the order of namespace and name.
    pub(super) fn members(&self) -> &'a [Member] {
        self.members
    }
}

/// Whether `labels` has all of `wanted`.
pub(super) fn has_labels(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    wanted
        .iter()
        .all(|(label, value)| labels.get(label) == Some(value))
}
