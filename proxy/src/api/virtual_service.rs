//! Istio's VirtualService: for which hosts, and which requests go where.
//!
//! The fields are those of `networking/v1alpha3/virtual_service.proto`, under their names of proto3's
//! JSON (camelCase; the proto's own snake_case is read as well). What can be said about a rule by
//! itself is in `validate`; regular expressions, header templates and retry conditions are judged
//! where they are compiled.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{Metadata, or_default};

mod http;
mod l4;
mod validate;

pub use http::{
    Abort, CorsPolicy, Delay, Delegate, DerivePort, DirectResponse, DirectResponseBody, Fault,
    HeaderOperations, Headers, HttpMirrorPolicy, HttpRedirect, HttpRetry, HttpRewrite, Percentage,
    RegexRewrite, UnmatchedPreflights,
};
pub use l4::{L4Match, RouteDestination, TcpRoute, TlsMatch, TlsRoute};

/// `networking.istio.io` VirtualService.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct VirtualService {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: VirtualServiceSpec,
}

/// `spec` of a [`VirtualService`].
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct VirtualServiceSpec {
    /// `hosts`; none makes it a delegate.
    #[serde(default, deserialize_with = "or_default")]
    pub hosts: Vec<String>,
    /// `gateways`; `mesh` where absent.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
    /// `exportTo`; everyone where absent.
    #[serde(default, alias = "export_to", deserialize_with = "or_default")]
    pub export_to: Vec<String>,
    /// `http`.
    #[serde(default, deserialize_with = "or_default")]
    pub http: Vec<HttpRoute>,
    /// `tcp`.
    #[serde(default, deserialize_with = "or_default")]
    pub tcp: Vec<TcpRoute>,
    /// `tls`.
    #[serde(default, deserialize_with = "or_default")]
    pub tls: Vec<TlsRoute>,
}

/// One of `spec.http`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
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
    /// `redirect`, in the place of `route`.
    #[serde(default)]
    pub redirect: Option<HttpRedirect>,
    /// `directResponse`, in the place of `route`.
    #[serde(default, alias = "direct_response")]
    pub direct_response: Option<DirectResponse>,
    /// `delegate`, in the place of `route`.
    #[serde(default)]
    pub delegate: Option<Delegate>,
    /// `rewrite`.
    #[serde(default)]
    pub rewrite: Option<HttpRewrite>,
    /// `timeout`; none where absent.
    #[serde(default, deserialize_with = "super::duration::optional")]
    pub timeout: Option<std::time::Duration>,
    /// `retries`; Istio's default policy where absent.
    #[serde(default)]
    pub retries: Option<HttpRetry>,
    /// `fault`.
    #[serde(default)]
    pub fault: Option<Fault>,
    /// `mirror`.
    #[serde(default)]
    pub mirror: Option<Destination>,
    /// `mirrorPercent`, deprecated.
    #[serde(default, alias = "mirror_percent")]
    pub mirror_percent: Option<u32>,
    /// `mirrorPercentage`, of `mirror`; 100 where absent.
    #[serde(default, alias = "mirror_percentage")]
    pub mirror_percentage: Option<Percentage>,
    /// `mirrors`, in the place of `mirror`.
    #[serde(default, deserialize_with = "or_default")]
    pub mirrors: Vec<HttpMirrorPolicy>,
    /// `corsPolicy`.
    #[serde(default, alias = "cors_policy")]
    pub cors_policy: Option<CorsPolicy>,
    /// `headers`.
    #[serde(default)]
    pub headers: Option<Headers>,
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
    #[serde(default, alias = "ignore_uri_case", deserialize_with = "or_default")]
    pub ignore_uri_case: bool,
    /// `scheme`.
    #[serde(default)]
    pub scheme: Option<StringMatch>,
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
    #[serde(default, alias = "without_headers", deserialize_with = "or_default")]
    pub without_headers: BTreeMap<String, Option<StringMatch>>,
    /// `queryParams`.
    #[serde(default, alias = "query_params", deserialize_with = "or_default")]
    pub query_params: BTreeMap<String, Option<StringMatch>>,
    /// `port`; 0 means any, as in the protobuf.
    #[serde(default)]
    pub port: Option<u16>,
    /// `sourceLabels`: of the client.
    #[serde(default, alias = "source_labels", deserialize_with = "or_default")]
    pub source_labels: BTreeMap<String, String>,
    /// `sourceNamespace`: the client's.
    #[serde(default, alias = "source_namespace", deserialize_with = "or_default")]
    pub source_namespace: String,
    /// `gateways`: in the place of the VirtualService's for this block.
    #[serde(default, deserialize_with = "or_default")]
    pub gateways: Vec<String>,
    /// `statPrefix`.
    #[serde(default, alias = "stat_prefix", deserialize_with = "or_default")]
    pub stat_prefix: String,
}

impl HttpMatch {
    /// Conditions on the client that are not asked, by name: as in Istio, a block that names gateways
    /// doesn't ask about it (`sourceMatchHTTP` in its `route.go`).
    pub fn unasked(&self) -> impl Iterator<Item = &'static str> {
        let named = !self.gateways.is_empty();
        let given = [
            ("sourceLabels", !self.source_labels.is_empty()),
            ("sourceNamespace", !self.source_namespace.is_empty()),
        ];
        let given = given.into_iter().filter(move |(_, given)| named && *given);
        given.map(|(name, _)| name)
    }

    /// Conditions that are not implemented, by name: those on the claims of a token, which only a
    /// gateway sees. A block that has one never applies: without its condition it would take
    /// requests that it was not meant for.
    pub fn unimplemented(&self) -> impl Iterator<Item = String> + '_ {
        let without = self.without_headers.keys();
        let keys = self.headers.keys().map(|key| ("headers", key));
        keys.chain(without.map(|key| ("withoutHeaders", key)))
            .filter(|(_, key)| key.starts_with("@request.auth.claims"))
            .map(|(field, key)| format!("{field}.{key}"))
    }
}

/// A text condition; at most one of the three. None of them asks for presence.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HttpRouteDestination {
    /// `destination`.
    #[serde(default)]
    pub destination: Option<Destination>,
    /// `weight`; missing counts as 0.
    #[serde(default, deserialize_with = "or_default")]
    pub weight: i32,
    /// `headers`.
    #[serde(default)]
    pub headers: Option<Headers>,
}

/// `destination`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
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

    /// Whether it only counts where another one delegates to it.
    pub fn is_delegate(&self) -> bool {
        self.hosts.is_empty()
    }
}
