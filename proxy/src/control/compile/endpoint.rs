//! The addresses that answer for a service's port: out of EndpointSlices, or out of the Pods that
//! the service selects.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::ops::Range;
use std::sync::Arc;

use foldhash::HashMap;

use super::locality;
use super::population::{Member, find, within};
use crate::api::service::{ServicePort, SliceEndpoint, TargetPort};
use crate::api::{EndpointSlice, Node, Pod, Service};
use crate::control::store::{Objects, of_namespace};
use crate::mesh::{Endpoint, Workload};

/// Something that a service's endpoints are made of; equal where it is the same allocation.
#[derive(Clone, Debug)]
pub(super) enum Input {
    /// One of its slices.
    Slice(Arc<EndpointSlice>),
    /// The node of an endpoint that is no Pod.
    Node(Arc<Node>),
    /// A Pod behind it.
    Pod(Arc<Pod>, Arc<Workload>),
}

impl PartialEq for Input {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Slice(one), Self::Slice(other)) => Arc::ptr_eq(one, other),
            (Self::Node(one), Self::Node(other)) => Arc::ptr_eq(one, other),
            (Self::Pod(one, its), Self::Pod(other, others)) => {
                Arc::ptr_eq(one, other) && Arc::ptr_eq(its, others)
            }
            (Self::Slice(_) | Self::Node(_) | Self::Pod(..), _) => false,
        }
    }
}

/// Pods and slices, by what services look them up by.
#[derive(Debug, Default)]
pub(super) struct Index<'a> {
    /// Sorted by namespace and name.
    members: &'a [Member],
    by_address: OnceCell<HashMap<IpAddr, usize>>,
    by_label: HashMap<(&'a str, &'a str, &'a str), Vec<usize>>,
    slices: HashMap<(&'a str, &'a str), Vec<&'a Arc<EndpointSlice>>>,
    nodes: Option<&'a BTreeMap<Arc<str>, Arc<Node>>>,
}

impl<'a> Index<'a> {
    /// For the services of every namespace.
    pub(super) fn new(members: &'a [Member], objects: &'a Objects) -> Self {
        let mut index = Self {
            members,
            nodes: Some(&objects.nodes),
            ..Self::default()
        };
        index.add_labels(0..members.len());
        objects.slices.values().for_each(|one| index.add(one));
        index
    }

    /// For the services of `namespaces` alone.
    pub(super) fn of(
        namespaces: &BTreeSet<Arc<str>>,
        members: &'a [Member],
        objects: &'a Objects,
    ) -> Self {
        let mut index = Self {
            members,
            nodes: Some(&objects.nodes),
            ..Self::default()
        };
        for namespace in namespaces {
            let start = members.partition_point(|one| one.workload.namespace < *namespace);
            let here = within(members, namespace);
            index.add_labels(start..start + here.len());
            of_namespace(&objects.slices, namespace).for_each(|(_, one)| index.add(one));
        }
        index
    }

    fn add_labels(&mut self, members: Range<usize>) {
        let all = self.members;
        for (at, Member { workload, .. }) in members.clone().zip(&all[members]) {
            let namespace = &*workload.namespace;
            for (label, value) in workload.labels.iter() {
                let key = (namespace, label.as_str(), value.as_str());
                self.by_label.entry(key).or_default().push(at);
            }
        }
    }

    fn add(&mut self, slice: &'a Arc<EndpointSlice>) {
        if let Some(service) = slice.service() {
            let key = (&*slice.metadata.namespace, service);
            self.slices.entry(key).or_default().push(slice);
        }
    }

    fn by_name(&self, namespace: &str, name: &str) -> Option<&'a Member> {
        let found = find(self.members, (namespace, name));
        self.members.get(found.ok()?)
    }

    fn by_address(&self, address: IpAddr) -> Option<&'a Member> {
        let all = self.by_address.get_or_init(|| {
            let mut all = HashMap::default();
            for (at, one) in self.members.iter().enumerate() {
                for address in &one.workload.addresses {
                    all.entry(*address).or_insert(at);
                }
            }
            all
        });
        self.members.get(*all.get(&address)?)
    }

    /// What the endpoints of `service` are made of.
    pub(super) fn inputs(&self, service: &Service) -> Vec<Input> {
        let metadata = &service.metadata;
        let key = (&*metadata.namespace, &*metadata.name);
        let of_member = |one: &Member| Input::Pod(Arc::clone(&one.pod), Arc::clone(&one.workload));
        let Some(slices) = self.slices.get(&key) else {
            let selected = self.selected(&metadata.namespace, &service.spec.selector);
            return selected.map(of_member).collect();
        };
        let mut inputs = Vec::new();
        for slice in slices {
            inputs.push(Input::Slice(Arc::clone(slice)));
            for endpoint in &slice.endpoints {
                let node = self.node(endpoint);
                inputs.extend(node.map(|node| Input::Node(Arc::clone(node))));
                let members = endpoint.addresses.iter().filter_map(|text| {
                    let address = text.parse().ok()?;
                    self.member(slice, endpoint, address)
                });
                inputs.extend(members.map(of_member));
            }
        }
        inputs
    }

    /// The endpoints of `port`, sorted by address: those that are not ready too, but none that is
    /// going.
    pub(super) fn endpoints(&self, service: &Service, port: &ServicePort) -> Vec<Endpoint> {
        let metadata = &service.metadata;
        let key = (&*metadata.namespace, &*metadata.name);
        let mut endpoints = match self.slices.get(&key) {
            Some(slices) => self.of_slices(slices, service, port),
            None => self.of_selector(service, port),
        };
        // Of two entries for one address (an endpoint that moves between slices) the ready one
        // counts.
        endpoints.sort_by_key(|one| (one.address, !one.ready));
        endpoints.dedup_by_key(|one| one.address);
        endpoints
    }

    fn of_slices(
        &self,
        slices: &[&Arc<EndpointSlice>],
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
                let conditions = &endpoint.conditions;
                if conditions.terminating == Some(true) {
                    continue;
                }
                let ready = conditions.ready.unwrap_or(true);
                let addresses = endpoint.addresses.iter();
                for address in addresses.filter_map(|text| text.parse().ok()) {
                    let member = self.member(slice, endpoint, address);
                    let place = || {
                        let node = self.node(endpoint)?;
                        Some(Arc::new(locality::of_node(node)))
                    };
                    endpoints.push(Endpoint {
                        workload: member.map(|one| Arc::clone(&one.workload)),
                        locality: member
                            .map(|one| Arc::clone(&one.workload.locality))
                            .or_else(place)
                            .unwrap_or_default(),
                        ready: ready || service.spec.publish_not_ready_addresses,
                        since: member.and_then(|one| one.since),
                        ..Endpoint::new(SocketAddr::new(address, target))
                    });
                }
            }
        }
        endpoints
    }

    /// The Pod behind an endpoint: the one that it names, or the one that has its address.
    fn member(
        &self,
        slice: &EndpointSlice,
        endpoint: &SliceEndpoint,
        address: IpAddr,
    ) -> Option<&'a Member> {
        let named = endpoint.target_ref.as_ref().filter(|one| one.kind == "Pod");
        let named = named.and_then(|one| {
            let namespace = one.namespace.as_deref();
            let namespace = namespace.unwrap_or(&slice.metadata.namespace);
            self.by_name(namespace, &one.name)
        });
        named.or_else(|| self.by_address(address))
    }

    fn node(&self, endpoint: &SliceEndpoint) -> Option<&'a Arc<Node>> {
        self.nodes?.get(endpoint.node_name.as_deref()?)
    }

    fn of_selector(&self, service: &Service, port: &ServicePort) -> Vec<Endpoint> {
        let mut endpoints = Vec::new();
        for member in self.selected(&service.metadata.namespace, &service.spec.selector) {
            let Member {
                pod,
                workload,
                since,
                ..
            } = member;
            let target = match &port.target_port {
                None => Some(port.port),
                Some(TargetPort::Number(number)) => Some(*number),
                Some(TargetPort::Name(name)) => pod.port_named(name),
            };
            let going = pod.is_finished() || pod.metadata.deletion_timestamp.is_some();
            let (false, Some(target)) = (going, target) else {
                continue;
            };
            endpoints.extend(workload.addresses.iter().map(|address| Endpoint {
                workload: Some(Arc::clone(workload)),
                locality: Arc::clone(&workload.locality),
                ready: pod.is_ready() || service.spec.publish_not_ready_addresses,
                since: *since,
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
            .filter(move |member| has_all(&member.workload.labels, selector))
    }
}

/// Whether an endpoint has all of `wanted`: its Pod's own labels, and those that Istio adds about
/// where it runs, which come first.
pub(super) fn has_labels(endpoint: &Endpoint, wanted: &BTreeMap<String, String>) -> bool {
    let place = &endpoint.locality;
    let workload = endpoint.workload.as_deref();
    wanted.iter().all(|(label, value)| {
        let added = match label.as_str() {
            locality::REGION => &*place.region,
            locality::ZONE => &*place.zone,
            locality::SUBZONE => &*place.subzone,
            "kubernetes.io/hostname" => workload.and_then(|one| one.node.as_deref()).unwrap_or(""),
            // Istio's name of the only cluster that there is.
            "topology.istio.io/cluster" => "Kubernetes",
            _ => "",
        };
        if added.is_empty() {
            workload.is_some_and(|one| one.labels.get(label) == Some(value))
        } else {
            added == value
        }
    })
}

/// Whether there are all of `wanted` among the labels.
pub(super) fn has_all(
    labels: &BTreeMap<String, String>,
    wanted: &BTreeMap<String, String>,
) -> bool {
    let mut wanted = wanted.iter();
    wanted.all(|(label, value)| labels.get(label) == Some(value))
}
