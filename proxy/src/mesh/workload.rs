//! A pod: who sends and who answers.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use ipnet::IpNet;

use crate::policy::matcher::Source;
use crate::types::identity::NotAnIdentity;
use crate::types::{Identity, Locality};
use crate::wire::baggage::Baggage;

/// A pod of the mesh or beside it, local or not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Workload {
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `metadata.labels`.
    pub labels: Arc<BTreeMap<String, String>>,
    /// `spec.serviceAccountName`, `default` where absent.
    pub service_account: Arc<str>,
    /// `status.podIPs` (or `podIP`). Never empty for an enrolled pod.
    pub addresses: Vec<IpAddr>,
    /// `spec.nodeName`.
    pub node: Option<Arc<str>>,
    /// Where it runs: its node's labels, or its own label `istio-locality`.
    pub locality: Arc<Locality>,
    /// Whether its processes have ended for good (`status.phase` `Succeeded` or `Failed`): never
    /// enrolled, and no identity is given to it.
    pub ended: bool,
    /// Shares the host's network namespace: never enrolled.
    pub host_network: bool,
    /// Set where the namespace and the pod's own labels enrol it, on whichever node it runs.
    pub enrolled: bool,
    /// Set where this node proxy captures it: enrolled, on this node, with a namespace to be found.
    pub local: Option<Enrolment>,
}

impl Workload {
    /// Who it is, where `trust_domain` is the mesh's own.
    ///
    /// # Errors
    /// Where its namespace or account has a name that no Kubernetes has.
    pub fn identity(&self, trust_domain: &Arc<str>) -> Result<Identity, NotAnIdentity> {
        Identity::new(trust_domain, &self.namespace, &self.service_account)
    }

    /// Whether both are the same pod, and not one that has the name or the address of another.
    pub fn is_same_pod(&self, other: &Self) -> bool {
        let (own, others) = (self.local.as_ref(), other.local.as_ref());
        self.name == other.name
            && self.namespace == other.namespace
            && own.map(|one| &one.netns) == others.map(|one| &one.netns)
    }

    /// What HBONE's peers are told about it, where it runs in `cluster`.
    pub fn baggage<'a>(&'a self, cluster: &'a str) -> Baggage<'a> {
        let label = |names: &[&str]| {
            let mut found = names.iter().filter_map(|name| self.labels.get(*name));
            found.next().map(String::as_str)
        };
        let name = label(&[
            "service.istio.io/canonical-name",
            "app.kubernetes.io/name",
            "app",
        ]);
        let revision = label(&[
            "service.istio.io/canonical-revision",
            "app.kubernetes.io/version",
            "version",
        ]);
        Baggage {
            cluster,
            namespace: &self.namespace,
            pod: &self.name,
            service: name.unwrap_or(&self.name),
            version: revision.unwrap_or("latest"),
            region: &self.locality.region,
            zone: &self.locality.zone,
        }
    }

    /// As conditions ask about a caller.
    pub fn source(&self) -> Source<'_> {
        Source {
            namespace: &self.namespace,
            labels: &self.labels,
        }
    }
}

/// How a local pod is captured.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Enrolment {
    /// Where its network namespace is.
    pub netns: PathBuf,
    /// What a dead proxy means for it.
    pub failure_mode: FailureMode,
    /// Destination ports of its connections that are not captured.
    pub exclude_outbound_ports: Vec<u16>,
    /// Its own ports to which connections are not captured.
    pub exclude_inbound_ports: Vec<u16>,
    /// Destinations that are not captured.
    pub exclude_outbound_ranges: Vec<IpNet>,
}

/// What the kernel does with an enrolled pod's connections when no proxy is there to take them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum FailureMode {
    /// Refuses them.
    #[default]
    Closed,
    /// Lets them go as if the pod were not enrolled.
    Open,
}
