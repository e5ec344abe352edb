//! Istio's PeerAuthentication: whether a workload takes plain text beside mutual TLS.
//!
//! The fields are those of `security/v1beta1/peer_authentication.proto`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::attachment::{Selector, check_selector};
use super::{Metadata, or_default};
use crate::types::Finding;

/// `security.istio.io` PeerAuthentication.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PeerAuthentication {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: PeerAuthenticationSpec,
}

/// `spec` of a [`PeerAuthentication`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PeerAuthenticationSpec {
    /// `selector`: which workloads; without one all of the namespace.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// `mtls`.
    #[serde(default)]
    pub mtls: Option<MutualTls>,
    /// `portLevelMtls`: by port of the workload, not of a Service.
    #[serde(default, alias = "port_level_mtls", deserialize_with = "or_default")]
    pub port_level_mtls: BTreeMap<Port, MutualTls>,
}

/// A key of `portLevelMtls`. YAML may write it as a number or as text.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Port(pub String);

impl<'de> Deserialize<'de> for Port {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl serde::de::Visitor<'_> for Text {
            type Value = Port;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a port")
            }
            fn visit_u64<E>(self, value: u64) -> Result<Port, E> {
                Ok(Port(value.to_string()))
            }
            fn visit_i64<E>(self, value: i64) -> Result<Port, E> {
                Ok(Port(value.to_string()))
            }
            fn visit_str<E>(self, value: &str) -> Result<Port, E> {
                Ok(Port(value.to_owned()))
            }
        }
        deserializer.deserialize_any(Text)
    }
}

impl Port {
    /// The number, where it is one from 1 to 65535.
    pub fn number(&self) -> Option<u16> {
        self.0.parse().ok().filter(|port| *port != 0)
    }
}

/// `mtls`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct MutualTls {
    /// `mode`.
    #[serde(default, deserialize_with = "or_default")]
    pub mode: MutualTlsMode,
}

/// `mode` of [`MutualTls`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum MutualTlsMode {
    /// What the wider policy says.
    #[default]
    Unset,
    /// No mutual TLS is asked for.
    Disable,
    /// Plain text and mutual TLS.
    Permissive,
    /// Mutual TLS only.
    Strict,
}

impl PeerAuthentication {
    pub(in crate::api) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        if let Some(selector) = &spec.selector {
            check_selector(selector, findings);
        }
        let selects = spec.selector.as_ref();
        let selects = selects.is_some_and(|one| !one.match_labels.is_empty());
        if !spec.port_level_mtls.is_empty() && !selects {
            findings.push(Finding::error(
                "spec.portLevelMtls",
                "needs a selector: ports are those of workloads",
            ));
        }
        for port in spec.port_level_mtls.keys() {
            if port.number().is_none() {
                findings.push(Finding::error(
                    format!("spec.portLevelMtls.{}", port.0),
                    "not a port from 1 to 65535",
                ));
            }
        }
    }
}
