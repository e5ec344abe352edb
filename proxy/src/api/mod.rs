//! The resources as users write them: Kubernetes' own objects and Istio's, read out of YAML, with
//! what can be said about each by itself.
//!
//! Knows no file, no other object, and nothing of what is made of the resources. Fields that are
//! not implemented are reported, never silently dropped.

pub mod attachment;
pub mod authorization_policy;
mod decode;
pub mod destination_rule;
mod duration;
mod host;
mod labels;
pub mod lines;
pub mod mesh_config;
mod meta;
pub mod peer_authentication;
pub mod pod;
pub mod request_authentication;
mod scalar;
pub mod schema;
pub mod service;
pub mod value;
pub mod virtual_service;
pub mod yaml;

use std::net::IpAddr;
use std::sync::Arc;

use serde::{Deserialize, Deserializer};

pub use attachment::{Selector, TargetRef};
pub use authorization_policy::AuthorizationPolicy;
pub use decode::{Decoded, decode};
pub use destination_rule::DestinationRule;
pub use lines::Lines;
pub use mesh_config::ConfigMap;
pub use meta::Metadata;
pub use peer_authentication::PeerAuthentication;
pub use pod::{Namespace, Node, Pod};
pub use request_authentication::RequestAuthentication;
pub use service::{EndpointSlice, Service};
pub use virtual_service::VirtualService;

use crate::types::Finding;

const NOT_YET: &str = "not implemented yet: it has no effect";

/// An object of a kind that is read.
#[derive(Clone, Debug, PartialEq)]
pub enum Object {
    /// `v1` Namespace.
    Namespace(Arc<Namespace>),
    /// `v1` Node.
    Node(Arc<Node>),
    /// `v1` Pod.
    Pod(Arc<Pod>),
    /// `v1` Service.
    Service(Arc<Service>),
    /// `v1` ConfigMap: Istio's alone.
    ConfigMap(Arc<ConfigMap>),
    /// `discovery.k8s.io/v1` EndpointSlice.
    EndpointSlice(Arc<EndpointSlice>),
    /// `networking.istio.io` VirtualService.
    VirtualService(Arc<VirtualService>),
    /// `networking.istio.io` DestinationRule.
    DestinationRule(Arc<DestinationRule>),
    /// `security.istio.io` PeerAuthentication.
    PeerAuthentication(Arc<PeerAuthentication>),
    /// `security.istio.io` AuthorizationPolicy.
    AuthorizationPolicy(Arc<AuthorizationPolicy>),
    /// `security.istio.io` RequestAuthentication.
    RequestAuthentication(Arc<RequestAuthentication>),
}

impl Object {
    /// Whether it is the same allocation.
    pub fn is(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Namespace(one), Self::Namespace(other)) => Arc::ptr_eq(one, other),
            (Self::Node(one), Self::Node(other)) => Arc::ptr_eq(one, other),
            (Self::Pod(one), Self::Pod(other)) => Arc::ptr_eq(one, other),
            (Self::Service(one), Self::Service(other)) => Arc::ptr_eq(one, other),
            (Self::EndpointSlice(one), Self::EndpointSlice(other)) => Arc::ptr_eq(one, other),
            (Self::ConfigMap(one), Self::ConfigMap(other)) => Arc::ptr_eq(one, other),
            (Self::VirtualService(one), Self::VirtualService(other)) => Arc::ptr_eq(one, other),
            (Self::DestinationRule(one), Self::DestinationRule(other)) => Arc::ptr_eq(one, other),
            (Self::PeerAuthentication(one), Self::PeerAuthentication(other)) => {
                Arc::ptr_eq(one, other)
            }
            (Self::AuthorizationPolicy(one), Self::AuthorizationPolicy(other)) => {
                Arc::ptr_eq(one, other)
            }
            (Self::RequestAuthentication(one), Self::RequestAuthentication(other)) => {
                Arc::ptr_eq(one, other)
            }
            _ => false,
        }
    }
}

macro_rules! resource {
    ($($kind:ty => $validate:expr;)*) => {$(
        impl decode::Resource for $kind {
            fn metadata(&mut self) -> &mut Metadata {
                &mut self.metadata
            }
            fn validate(&self, findings: &mut Vec<Finding>) {
                let validate: fn(&$kind, &mut Vec<Finding>) = $validate;
                validate(self, findings);
            }
        }
    )*};
}

resource! {
    Namespace => |_, _| {};
    Node => |_, _| {};
    Pod => Pod::validate;
    Service => Service::validate;
    EndpointSlice => EndpointSlice::validate;
    ConfigMap => ConfigMap::validate;
    VirtualService => VirtualService::validate;
    DestinationRule => DestinationRule::validate;
    PeerAuthentication => PeerAuthentication::validate;
    AuthorizationPolicy => AuthorizationPolicy::validate;
    RequestAuthentication => RequestAuthentication::validate;
}

/// Null is as good as absent (Kubernetes).
fn or_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Deserialize<'de> + Default,
{
    Option::<T>::deserialize(deserializer).map(Option::unwrap_or_default)
}

fn check_address(text: &str, field: String, findings: &mut Vec<Finding>) {
    if text.parse::<IpAddr>().is_err() {
        findings.push(Finding::error(
            field,
            format!("{text:?} is not an IP address"),
        ));
    }
}
