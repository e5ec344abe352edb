//! A Kubernetes Service as the data plane sees it.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use super::{L4Table, RouteTable};
use crate::types::{ClusterName, Hostname, Protocol};

/// A name with addresses and ports.
#[derive(Clone, Debug)]
pub struct Service {
    /// `NAME.NAMESPACE.svc.CLUSTER-DOMAIN`.
    pub hostname: Hostname,
    /// `metadata.name`.
    pub name: Arc<str>,
    /// `metadata.namespace`.
    pub namespace: Arc<str>,
    /// `spec.clusterIPs`; empty for a headless Service.
    pub vips: Vec<IpAddr>,
    /// In the order of the manifest.
    pub ports: Vec<ServicePort>,
}

impl Service {
    /// The port with this number.
    pub fn port(&self, number: u16) -> Option<&ServicePort> {
        self.ports.iter().find(|port| port.number == number)
    }
}

/// One port of a [`Service`].
#[derive(Clone, Debug)]
pub struct ServicePort {
    /// `port`: what callers dial.
    pub number: u16,
    /// `name`; empty where there is one port without a name.
    pub name: Arc<str>,
    /// What it declares to carry.
    pub protocol: Protocol,
    /// The cluster of the whole service at this port.
    pub cluster: ClusterName,
    /// What becomes of HTTP requests to it. Ask [`super::Snapshot::routes`], which knows the
    /// exceptions.
    pub routes: Arc<RouteTable>,
    /// The same for callers in namespaces that see other rules (`exportTo`). Empty as a rule.
    pub private_routes: BTreeMap<Arc<str>, Arc<RouteTable>>,
    /// What becomes of connections that are not HTTP; `None` for the cluster of the whole service.
    /// Ask [`super::Snapshot::l4`].
    pub l4: Option<Arc<L4Table>>,
    /// The same for callers in namespaces that see other rules.
    pub private_l4: BTreeMap<Arc<str>, Option<Arc<L4Table>>>,
}
