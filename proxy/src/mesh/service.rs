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
    pub vips: Box<[IpAddr]>,
    /// In the order of the manifest.
    pub ports: Box<[ServicePort]>,
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
    /// What becomes of connections that are not HTTP; `None` for the cluster of the whole service.
    /// Ask [`super::Snapshot::l4`].
    pub l4: Option<Arc<L4Table>>,
    /// What callers in some namespaces have in the place of both; `None` as a rule. Ask
    /// [`Self::private`].
    pub exceptions: Option<Box<Private>>,
}

/// What a port's callers have in namespaces that see other rules (`exportTo`).
#[derive(Clone, Debug, Default)]
pub struct Private {
    /// In the place of [`ServicePort::routes`].
    pub routes: BTreeMap<Arc<str>, Arc<RouteTable>>,
    /// In the place of [`ServicePort::l4`].
    pub l4: BTreeMap<Arc<str>, Option<Arc<L4Table>>>,
}

impl Private {
    /// On the heap, where there is any.
    pub fn boxed(self) -> Option<Box<Self>> {
        let is_empty = self.routes.is_empty() && self.l4.is_empty();
        (!is_empty).then(|| Box::new(self))
    }
}

impl ServicePort {
    /// What callers in some namespaces have.
    pub fn private(&self) -> &Private {
        static NONE: Private = Private {
            routes: BTreeMap::new(),
            l4: BTreeMap::new(),
        };
        self.exceptions.as_deref().unwrap_or(&NONE)
    }
}
