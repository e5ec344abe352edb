//! A Pod and its Namespace into a workload: whether it is in the mesh, and how it is captured.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::str::FromStr;
use std::sync::Arc;

use ipnet::IpNet;

use crate::api::{Namespace, Pod};
use crate::mesh::{Enrolment, FailureMode, Workload};
use crate::types::{Finding, Locality};

const MESH: &str = "aquifer.io/mesh";
const REDIRECTION: &str = "ambient.istio.io/redirection";
const DATAPLANE_MODE: &str = "istio.io/dataplane-mode";
const NETNS: &str = "aquifer.io/netns";
const FAILURE_MODE: &str = "aquifer.io/failure-mode";

/// What the annotations of Istio's sidecars ask for, and aquifer does not do.
const UNREAD: [&str; 5] = [
    "traffic.sidecar.istio.io/includeOutboundPorts",
    "traffic.sidecar.istio.io/includeInboundPorts",
    "traffic.sidecar.istio.io/includeOutboundIPRanges",
    "traffic.sidecar.istio.io/excludeInterfaces",
    "traffic.sidecar.istio.io/kubevirtInterfaces",
];

/// The workload that `pod` is, on the node `node`.
pub(super) fn compile(
    pod: &Pod,
    namespace: Option<&Namespace>,
    node: &str,
    place: Arc<Locality>,
    findings: &mut Vec<Finding>,
) -> Workload {
    let metadata = &pod.metadata;
    let addresses = pod.addresses();
    let sound = !pod.spec.host_network && !pod.is_finished() && !addresses.is_empty();
    let said = says(&metadata.labels, findings);
    let enrolled = sound
        && said
            .or_else(|| says(&namespace?.metadata.labels, &mut Vec::new()))
            .unwrap_or(false);
    // Istio's CNI has captured it, by whatever rules it has: a ztunnel takes HBONE there.
    let redirection = metadata.annotations.get(REDIRECTION);
    let redirected =
        sound && said != Some(false) && redirection.is_some_and(|one| one == "enabled");
    let here = pod.spec.node_name.as_deref().is_none_or(|one| one == node);
    let netns = metadata
        .annotations
        .get(NETNS)
        .filter(|path| !path.is_empty());
    let local = match netns {
        Some(netns) if enrolled && here => Some(enrolment(pod, namespace, netns, findings)),
        None if enrolled && pod.spec.node_name.as_deref() == Some(node) => {
            findings.push(Finding::warning(
                "metadata.annotations",
                format!("enrolled on this node, but not captured: the annotation {NETNS} must say where its network namespace is"),
            ));
            None
        }
        _ => None,
    };
    Workload {
        name: Arc::clone(&metadata.name),
        namespace: Arc::clone(&metadata.namespace),
        labels: Arc::clone(&metadata.labels),
        service_account: pod
            .spec
            .service_account_name
            .clone()
            .filter(|name| !name.is_empty())
            .unwrap_or_else(|| "default".into()),
        addresses,
        node: pod.spec.node_name.clone(),
        locality: place,
        ended: pod.is_finished(),
        host_network: pod.spec.host_network,
        enrolled: enrolled || redirected,
        local,
    }
}

/// What is wrong with a Namespace's own labels and annotations; told once, not for each Pod.
pub(super) fn check_namespace(namespace: &Namespace, findings: &mut Vec<Finding>) {
    says(&namespace.metadata.labels, findings);
    failure_mode(namespace, findings);
}

/// What labels say about it; `aquifer.io/mesh` comes first. A Pod's own decide, then its Namespace's.
fn says(labels: &BTreeMap<String, String>, findings: &mut Vec<Finding>) -> Option<bool> {
    let mut said = None;
    for (label, yes, no) in [
        (MESH, "enabled", "disabled"),
        (DATAPLANE_MODE, "ambient", "none"),
    ] {
        let answer = match labels.get(label).map(String::as_str) {
            Some(value) if value == yes => Some(true),
            Some(value) if value == no => Some(false),
            None | Some("") => None,
            Some(value) => {
                findings.push(Finding::warning(
                    format!("metadata.labels.{label}"),
                    format!("{value:?} has no effect; it must be {yes} or {no}"),
                ));
                None
            }
        };
        said = said.or(answer);
    }
    said
}

fn failure_mode(namespace: &Namespace, findings: &mut Vec<Finding>) -> FailureMode {
    match namespace
        .metadata
        .annotations
        .get(FAILURE_MODE)
        .map(String::as_str)
    {
        None | Some("closed") => FailureMode::Closed,
        Some("open") => FailureMode::Open,
        Some(value) => {
            findings.push(Finding::warning(
                format!("metadata.annotations.{FAILURE_MODE}"),
                format!("{value:?} must be closed or open; closed is in force"),
            ));
            FailureMode::Closed
        }
    }
}

fn enrolment(
    pod: &Pod,
    namespace: Option<&Namespace>,
    netns: &str,
    findings: &mut Vec<Finding>,
) -> Enrolment {
    let annotations = &pod.metadata.annotations;
    for name in UNREAD {
        if annotations.contains_key(name) {
            findings.push(Finding::warning(
                format!("metadata.annotations.{name}"),
                "not implemented: it has no effect",
            ));
        }
    }
    let ports = "a port from 1 to 65535";
    let mut list = |own: &str, istio: &str| {
        let names = [
            format!("aquifer.io/{own}"),
            format!("traffic.sidecar.istio.io/{istio}"),
        ];
        exclusions(annotations, &names, ports, findings, |port: &u16| {
            *port != 0
        })
    };
    let exclude_outbound_ports = list("exclude-outbound-ports", "excludeOutboundPorts");
    let exclude_inbound_ports = list("exclude-inbound-ports", "excludeInboundPorts");
    let names = [
        "aquifer.io/exclude-outbound-ranges".to_owned(),
        "traffic.sidecar.istio.io/excludeOutboundIPRanges".to_owned(),
    ];
    let network = "a network such as 10.0.0.0/8";
    let mut exclude_outbound_ranges: Vec<IpNet> =
        exclusions(annotations, &names, network, findings, |_: &Network| true)
            .into_iter()
            .map(|Network(network)| network)
            .collect();
    exclude_outbound_ranges.sort_unstable();
    Enrolment {
        netns: PathBuf::from(netns),
        failure_mode: namespace
            .map(|one| failure_mode(one, &mut Vec::new()))
            .unwrap_or_default(),
        exclude_outbound_ports,
        exclude_inbound_ports,
        exclude_outbound_ranges,
    }
}

/// A comma-separated list under any of two names: what both say counts. A part that can't be read
/// is told and left out; the rest counts.
fn exclusions<T: FromStr + Ord>(
    annotations: &BTreeMap<String, String>,
    names: &[String],
    expected: &str,
    findings: &mut Vec<Finding>,
    valid: impl Fn(&T) -> bool,
) -> Vec<T> {
    let mut list: Vec<T> = Vec::new();
    for name in names {
        let text = annotations
            .get(name)
            .map(String::as_str)
            .unwrap_or_default();
        for part in text
            .split(',')
            .map(str::trim)
            .filter(|part| !part.is_empty())
        {
            match part.parse().ok().filter(&valid) {
                Some(one) => list.push(one),
                None => findings.push(Finding::warning(
                    format!("metadata.annotations.{name}"),
                    format!("{part:?} is not {expected} and has no effect"),
                )),
            }
        }
    }
    list.sort_unstable();
    list.dedup();
    list
}

/// A network, or an address alone, as Istio takes both.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Network(IpNet);

impl FromStr for Network {
    type Err = ipnet::AddrParseError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let network = match text.parse::<std::net::IpAddr>() {
            Ok(address) => IpNet::from(address),
            Err(_) => text.parse::<IpNet>()?,
        };
        Ok(Self(network.trunc()))
    }
}
