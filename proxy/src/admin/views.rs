//! What is in force, as rows for people and scripts: the JSON of the admin interface, and what the
//! command line makes tables of.
//!
//! Pure: a snapshot in, rows out. The field names are a promise to scripts.

mod guards;
mod policies;
mod rows;

use std::collections::BTreeMap;
use std::sync::Arc;

pub use self::guards::policies;
pub use self::rows::{
    AppliedRow, ClusterRow, DestinationRow, EndpointRow, ListenerRow, MtlsRow, PolicyRow, RouteRow,
    TokenRow,
};
use super::filter::Filter;
use crate::control::enrol::{Report, State};
use crate::mesh::{
    Action, Cluster, Destination, L4Kind, L4Table, RouteTable, Service, ServicePort, Snapshot,
    VirtualHost, virtual_host,
};
use crate::policy::matcher::Source;
use crate::policy::split::Weights;
use crate::types::ClusterName;

/// The rules in force.
pub fn routes(snapshot: &Snapshot, filter: &Filter) -> Vec<RouteRow> {
    let mut rows = Rows {
        snapshot,
        filter,
        rows: Vec::new(),
    };
    for service in sorted(snapshot).filter(|one| filter.wants_host(one.hostname.as_str())) {
        let ports = service.ports.iter();
        for port in ports.filter(|one| filter.wants_port(one.number)) {
            rows.of_port(service.hostname.as_str(), port);
        }
    }
    if filter.wants_port(virtual_host::PORT) {
        for (host, one) in snapshot
            .virtual_hosts
            .iter()
            .filter(|one| filter.wants_host(&one.0))
        {
            rows.of_virtual_host(&host, one);
        }
    }
    rows.rows
}

struct Rows<'a> {
    snapshot: &'a Snapshot,
    filter: &'a Filter,
    rows: Vec<RouteRow>,
}

impl Rows<'_> {
    fn of_port(&mut self, host: &str, port: &ServicePort) {
        // One pod is asked for: what its namespace sees, whether it is everyone's or its own.
        if let Some(namespace) = self.filter.namespace() {
            self.table(
                host,
                port.number,
                None,
                self.snapshot.routes(port, namespace),
            );
            if let Some(table) = self.snapshot.l4(port, namespace) {
                self.l4(host, port.number, None, table);
            }
            return;
        }
        self.table(host, port.number, None, &port.routes);
        for (namespace, table) in &port.private().routes {
            self.table(host, port.number, Some(namespace), table);
        }
        if let Some(table) = &port.l4 {
            self.l4(host, port.number, None, table);
        }
        for (namespace, table) in &port.private().l4 {
            if let Some(table) = table {
                self.l4(host, port.number, Some(namespace), table);
            }
        }
    }

    fn of_virtual_host(&mut self, host: &str, one: &VirtualHost) {
        let port = virtual_host::PORT;
        if let Some(namespace) = self.filter.namespace() {
            let own = one.private.get(namespace).unwrap_or(&one.routes);
            if let Some(table) = own {
                self.table(host, port, None, table);
            }
            return;
        }
        if let Some(table) = &one.routes {
            self.table(host, port, None, table);
        }
        for (namespace, table) in &one.private {
            if let Some(table) = table {
                self.table(host, port, Some(namespace), table);
            }
        }
    }

    fn table(&mut self, host: &str, port: u16, callers: Option<&str>, table: &RouteTable) {
        let namespace = callers.or(self.filter.namespace());
        let rules = table.rules().iter().enumerate();
        let rows = rules.map(|(index, rule)| RouteRow {
            host: host.to_owned(),
            port,
            callers: callers.map(str::to_owned),
            kind: "http".to_owned(),
            source: table.source.as_ref().map(ToString::to_string),
            order: index + 1,
            name: rule.name.to_string(),
            matches: rule.matches.iter().map(ToString::to_string).collect(),
            destinations: match &rule.action {
                Action::Forward(forward) => {
                    self.destinations(&forward.destinations, &forward.weights, namespace)
                }
                Action::Redirect(_) | Action::Respond(_) => Vec::new(),
            },
            policies: policies::of_rule(rule),
        });
        let rows: Vec<RouteRow> = rows.collect();
        self.rows.extend(rows);
    }

    fn l4(&mut self, host: &str, port: u16, callers: Option<&str>, table: &L4Table) {
        let namespace = callers.or(self.filter.namespace());
        let rules = table.rules.iter().enumerate();
        let rows = rules.map(|(index, rule)| RouteRow {
            host: host.to_owned(),
            port,
            callers: callers.map(str::to_owned),
            kind: match table.kind {
                L4Kind::Tcp => "tcp",
                L4Kind::Tls => "tls",
            }
            .to_owned(),
            source: Some(rule.source.to_string()),
            order: index + 1,
            name: rule.name.to_string(),
            matches: rule.conditions(),
            destinations: self.destinations(&rule.destinations, &rule.weights, namespace),
            policies: Vec::new(),
        });
        let rows: Vec<RouteRow> = rows.collect();
        self.rows.extend(rows);
    }

    fn destinations(
        &self,
        destinations: &[Destination],
        weights: &Weights,
        namespace: Option<&str>,
    ) -> Vec<DestinationRow> {
        let shares = destinations.iter().zip(weights.iter());
        shares
            .map(|(one, weight)| DestinationRow {
                cluster: one.cluster.to_string(),
                weight,
                endpoints: cluster(self.snapshot, &one.cluster, namespace).map(|one| ready(one)),
            })
            .collect()
    }
}

fn ready(cluster: &Cluster) -> usize {
    cluster.endpoints.iter().filter(|one| one.ready).count()
}

/// The cluster of this name as a caller in `namespace` has it that no workload selector selects.
fn cluster<'a>(
    snapshot: &'a Snapshot,
    name: &ClusterName,
    namespace: Option<&str>,
) -> Option<&'a Arc<Cluster>> {
    let labels = BTreeMap::new();
    match namespace {
        Some(namespace) => snapshot.cluster_for(
            name,
            Source {
                namespace,
                labels: &labels,
            },
        ),
        None => snapshot.cluster(name),
    }
}

fn sorted(snapshot: &Snapshot) -> impl Iterator<Item = &Service> {
    let mut services: Vec<&Service> = snapshot.services.values().map(|one| &**one).collect();
    services.sort_by(|one, other| one.hostname.cmp(&other.hostname));
    services.into_iter()
}

/// The clusters in force.
pub fn clusters(snapshot: &Snapshot, filter: &Filter) -> Vec<ClusterRow> {
    wanted(snapshot, filter)
        .into_iter()
        .map(|(callers, cluster)| ClusterRow {
            name: cluster.name.to_string(),
            host: cluster.hostname.to_string(),
            port: cluster.port,
            subset: cluster.subset().map(str::to_owned),
            callers,
            protocol: cluster.protocol.to_string(),
            endpoints: ready(cluster),
            unready: cluster.endpoints.len() - ready(cluster),
            balancer: policies::balancer(&cluster.policy),
            policies: policies::of_cluster(&cluster.policy),
        })
        .collect()
}

/// The endpoints in force. The filter's pod is here the pod behind the endpoint.
pub fn endpoints(snapshot: &Snapshot, filter: &Filter) -> Vec<EndpointRow> {
    let mut rows = Vec::new();
    for (callers, cluster) in wanted(snapshot, &filter.without_pod()) {
        for endpoint in cluster.endpoints.iter() {
            let workload = endpoint.workload.as_deref();
            let pod = workload.map(|one| format!("{}/{}", one.namespace, one.name));
            if !filter.wants_pod(pod.as_deref()) {
                continue;
            }
            rows.push(EndpointRow {
                cluster: cluster.name.to_string(),
                callers: callers.clone(),
                address: endpoint.address.to_string(),
                pod,
                node: workload
                    .and_then(|one| one.node.as_deref())
                    .map(str::to_owned),
                enrolled: workload.is_some_and(|one| one.enrolled),
                ready: endpoint.ready,
                weight: endpoint.weight.get(),
                locality: Some(endpoint.locality.to_string()).filter(|one| !one.is_empty()),
            });
        }
    }
    rows
}

/// The clusters that pass the filter, sorted, with the only namespace that has them.
fn wanted<'a>(snapshot: &'a Snapshot, filter: &Filter) -> Vec<(Option<String>, &'a Cluster)> {
    let namespace = filter.namespace();
    let private = snapshot
        .private_clusters
        .iter()
        .filter(|(name, _)| namespace.is_none_or(|wanted| wanted == &***name))
        .flat_map(|(name, clusters)| {
            clusters.values().flat_map(move |variants| {
                let others = variants.others.iter().flatten();
                let others = others.map(move |one| (name.to_string(), &**one));
                let selected = variants.selected.iter().filter_map(move |(caller, one)| {
                    let labels = caller.to_string();
                    let labels = labels.trim_start_matches("caller ");
                    Some((format!("{name} {labels}"), &**one.as_ref()?))
                });
                others
                    .chain(selected)
                    .map(|(callers, one)| (Some(callers), one))
            })
        });
    let hidden = namespace.and_then(|namespace| snapshot.private_clusters.get(namespace));
    let mut all: Vec<(Option<String>, &Cluster)> = snapshot
        .clusters
        .iter()
        .filter(|one| {
            hidden.is_none_or(|hidden| hidden.get(&one.name).is_none_or(|one| one.others.is_none()))
        })
        .map(|one| (None, &**one))
        .chain(private)
        .filter(|(_, one)| {
            filter.wants_host(one.hostname.as_str())
                && filter.wants_port(one.port)
                && filter.wants_subset(one.subset())
        })
        .collect();
    all.sort_by(|(callers, one), (other_callers, other)| {
        let key = |one: &'a Cluster| (&one.hostname, one.port, one.subset());
        key(one)
            .cmp(&key(other))
            .then_with(|| callers.cmp(other_callers))
    });
    all
}

/// The listeners of local pods.
pub fn listeners(report: &Report, filter: &Filter) -> Vec<ListenerRow> {
    let mut rows = Vec::new();
    for pod in report
        .pods
        .iter()
        .filter(|one| filter.wants_pod(Some(&one.pod)))
    {
        for (direction, ports) in [("outbound", &pod.outbound), ("inbound", &pod.inbound)] {
            let wanted = filter.port.is_none_or(|port| ports.contains(&port));
            if wanted {
                rows.push(ListenerRow {
                    pod: pod.pod.clone(),
                    direction: direction.to_owned(),
                    ports: ports.clone(),
                    state: state(pod.state).to_owned(),
                    error: pod.error.clone(),
                });
            }
        }
    }
    rows
}

/// The word for a state, as in the JSON.
pub(super) fn state(state: State) -> &'static str {
    match state {
        State::Enrolled => "enrolled",
        State::Failed => "failed",
    }
}

/// Objects in force by kind, as one line: `2 Pod, 1 Service`.
pub fn by_kind(objects: &BTreeMap<String, usize>) -> String {
    let parts: Vec<String> = objects
        .iter()
        .map(|(kind, count)| format!("{count} {kind}"))
        .collect();
    if parts.is_empty() {
        "none".to_owned()
    } else {
        parts.join(", ")
    }
}

#[cfg(test)]
mod tests;
