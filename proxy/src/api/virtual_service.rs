//! Istio's VirtualService: for which hosts, and which requests go where.
//!
//! Fields that are not implemented are absent here and reported by [`super::decode`], but for those
//! whose mere presence changes what may be done with the rest: these are kept unread.

use std::collections::BTreeMap;

use serde::Deserialize;
use serde_yaml::Value;

use super::{Metadata, or_default};

/// `networking.istio.io` VirtualService.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VirtualService {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: VirtualServiceSpec,
}

/// `spec` of a [`VirtualService`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// `hosts`.
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    /// `gateways`; `mesh` where absent.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
    /// `exportTo`; everyone where absent.
    #[serde(default, deserialize_with = "or_default")]
    pub export_to: Vec<String>,
    /// `http`.
    #[serde(default, deserialize_with = "or_default")]
    pub http: Vec<HttpRoute>,
    /// `tcp`, unread.
    #[serde(default)]
    pub tcp: Option<Value>,
    /// `tls`, unread.
    #[serde(default)]
    pub tls: Option<Value>,
}

/// One of `spec.http`.
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRoute {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `match`.
    #[serde(default, rename = "match", deserialize_with = "or_default")]
    pub matches: Vec<HttpMatch>,
    /// `route`.
    #[serde(default, deserialize_with = "or_default")]
    pub route: Vec<HttpRouteDestination>,
    /// `redirect`, unread: it stands in the place of `route`.
    #[serde(default)]
    pub redirect: Option<Value>,
    /// `directResponse`, unread: it stands in the place of `route`.
    #[serde(default)]
    pub direct_response: Option<Value>,
    /// `delegate`, unread: it stands in the place of `route`.
    #[serde(default)]
    pub delegate: Option<Value>,
}

/// One of `match`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpMatch {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `uri`.
    #[serde(default)]
    pub uri: Option<StringMatch>,
    /// `ignoreUriCase`.
    #[serde(default, deserialize_with = "or_default")]
    pub ignore_uri_case: bool,
    /// `method`.
    #[serde(default)]
    pub method: Option<StringMatch>,
    /// `authority`.
    #[serde(default)]
    pub authority: Option<StringMatch>,
    /// `headers`.
    #[serde(default, deserialize_with = "or_default")]
    pub headers: BTreeMap<String, Option<StringMatch>>,
    /// `withoutHeaders`.
    #[serde(default, deserialize_with = "or_default")]
    pub without_headers: BTreeMap<String, Option<StringMatch>>,
    /// `queryParams`.
    #[serde(default, deserialize_with = "or_default")]
    pub query_params: BTreeMap<String, Option<StringMatch>>,
    /// `port`; 0 means any, as in the protobuf.
    #[serde(default)]
    pub port: Option<u16>,
    /// `gateways`: in the place of the VirtualService's for this block.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
    /// `scheme`, unread: a block whose condition can't be asked never applies.
    #[serde(default)]
    pub scheme: Option<Value>,
    /// `sourceLabels`, unread, likewise.
    #[serde(default)]
    pub source_labels: Option<Value>,
    /// `sourceNamespace`, unread, likewise.
    #[serde(default)]
    pub source_namespace: Option<Value>,
}

impl HttpMatch {
    /// Conditions that are not implemented, by name. A block that has one never applies: without
    /// its condition it would take requests that it was not meant for.
    pub fn unimplemented(&self) -> impl Iterator<Item = String> + '_ {
        let fields = [
            ("scheme", &self.scheme),
            ("sourceLabels", &self.source_labels),
            ("sourceNamespace", &self.source_namespace),
        ];
        let claims = self
            .headers
            .keys()
            .map(|key| ("headers", key))
            .chain(
                self.without_headers
                    .keys()
                    .map(|key| ("withoutHeaders", key)),
            )
            .filter(|(_, key)| key.starts_with("@request.auth.claims"))
            .map(|(field, key)| format!("{field}.{key}"));
        fields
            .into_iter()
            .filter(|(_, value)| value.is_some())
            .map(|(name, _)| name.to_owned())
            .chain(claims)
    }
}

/// A text condition; at most one of the three. None of them asks for presence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct StringMatch {
    /// `exact`.
    #[serde(default)]
    pub exact: Option<String>,
    /// `prefix`.
    #[serde(default)]
    pub prefix: Option<String>,
    /// `regex`.
    #[serde(default)]
    pub regex: Option<String>,
}

/// One of `route`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRouteDestination {
    /// `destination`.
    #[serde(default)]
    pub destination: Option<Destination>,
    /// `weight`; missing counts as 0.
    #[serde(default, deserialize_with = "or_default")]
    pub weight: i32,
}

/// `destination`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Destination {
    /// `host`.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// `subset`.
    #[serde(default, deserialize_with = "or_default")]
    pub subset: String,
    /// `port`.
    #[serde(default)]
    pub port: Option<PortSelector>,
}

/// `port` of a [`Destination`].
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PortSelector {
    /// `number`.
    #[serde(default, deserialize_with = "or_default")]
    pub number: u16,
}

/// What `gateways` calls the clients inside of the mesh.
pub const MESH: &str = "mesh";

impl VirtualServiceSpec {
    /// Whether it routes the traffic of mesh clients, rather than that of gateways alone.
    pub fn is_for_mesh(&self) -> bool {
        self.gateways.is_empty() || self.gateways.iter().any(|one| one == MESH)
    }
}

mod validate;
