//! What an HTTP rule does besides choosing a destination, as it is written.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Deserialize;

use super::{Destination, StringMatch};
use crate::api::{duration, or_default};

/// A percentage with a fraction.
#[derive(Clone, Copy, Debug, Default, PartialEq, Deserialize)]
pub struct Percentage {
    /// `value`, 0.0 to 100.0.
    #[serde(default, deserialize_with = "or_default")]
    pub value: f64,
}

/// `redirect`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRedirect {
    /// `uri`: the whole path.
    #[serde(default, deserialize_with = "or_default")]
    pub uri: String,
    /// `prefixRewrite`: in the place of the prefix that matched.
    #[serde(default, alias = "prefix_rewrite", deserialize_with = "or_default")]
    pub prefix_rewrite: String,
    /// `authority`.
    #[serde(default, deserialize_with = "or_default")]
    pub authority: String,
    /// `port`.
    #[serde(default)]
    pub port: Option<u32>,
    /// `derivePort`.
    #[serde(default, alias = "derive_port")]
    pub derive_port: Option<DerivePort>,
    /// `scheme`.
    #[serde(default, deserialize_with = "or_default")]
    pub scheme: String,
    /// `redirectCode`; 301 where absent.
    #[serde(default, alias = "redirect_code")]
    pub redirect_code: Option<u32>,
}

/// `derivePort` of a [`HttpRedirect`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
pub enum DerivePort {
    /// The scheme's own port, which needs no mention.
    #[serde(rename = "FROM_PROTOCOL_DEFAULT")]
    ProtocolDefault,
    /// The port that the client addressed.
    #[serde(rename = "FROM_REQUEST_PORT")]
    RequestPort,
}

/// `directResponse`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DirectResponse {
    /// `status`.
    #[serde(default, deserialize_with = "or_default")]
    pub status: u32,
    /// `body`.
    #[serde(default)]
    pub body: Option<DirectResponseBody>,
}

/// `body` of a [`DirectResponse`]: one of the two.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct DirectResponseBody {
    /// `string`.
    #[serde(default)]
    pub string: Option<String>,
    /// `bytes`, in base64.
    #[serde(default)]
    pub bytes: Option<String>,
}

/// `delegate`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Delegate {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `namespace`; the root's where absent.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
}

/// `rewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRewrite {
    /// `uri`.
    #[serde(default, deserialize_with = "or_default")]
    pub uri: String,
    /// `authority`.
    #[serde(default, deserialize_with = "or_default")]
    pub authority: String,
    /// `uriRegexRewrite`.
    #[serde(default, alias = "uri_regex_rewrite")]
    pub uri_regex_rewrite: Option<RegexRewrite>,
}

/// `uriRegexRewrite`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct RegexRewrite {
    /// `match`.
    #[serde(default, rename = "match", deserialize_with = "or_default")]
    pub pattern: String,
    /// `rewrite`, with `\0` to `\9`.
    #[serde(default, deserialize_with = "or_default")]
    pub rewrite: String,
}

/// `retries`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HttpRetry {
    /// `attempts`; missing counts as 0, which turns retries off.
    #[serde(default, deserialize_with = "or_default")]
    pub attempts: i32,
    /// `perTryTimeout`.
    #[serde(
        default,
        alias = "per_try_timeout",
        deserialize_with = "duration::optional"
    )]
    pub per_try_timeout: Option<Duration>,
    /// `retryOn`.
    #[serde(default, alias = "retry_on", deserialize_with = "or_default")]
    pub retry_on: String,
    /// `retryRemoteLocalities`.
    #[serde(default, alias = "retry_remote_localities")]
    pub retry_remote_localities: Option<bool>,
    /// `retryIgnorePreviousHosts`.
    #[serde(default, alias = "retry_ignore_previous_hosts")]
    pub retry_ignore_previous_hosts: Option<bool>,
    /// `backoff`.
    #[serde(default, deserialize_with = "duration::optional")]
    pub backoff: Option<Duration>,
}

/// `fault`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct Fault {
    /// `delay`.
    #[serde(default)]
    pub delay: Option<Delay>,
    /// `abort`.
    #[serde(default)]
    pub abort: Option<Abort>,
}

/// `fault.delay`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Delay {
    /// `percent`, deprecated; counts where `percentage` is absent.
    #[serde(default)]
    pub percent: Option<i32>,
    /// `percentage`.
    #[serde(default)]
    pub percentage: Option<Percentage>,
    /// `fixedDelay`.
    #[serde(
        default,
        alias = "fixed_delay",
        deserialize_with = "duration::optional"
    )]
    pub fixed_delay: Option<Duration>,
    /// `exponentialDelay`: in the proto, and done by nobody.
    #[serde(
        default,
        alias = "exponential_delay",
        deserialize_with = "duration::optional"
    )]
    pub exponential_delay: Option<Duration>,
}

/// `fault.abort`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Abort {
    /// `percentage`.
    #[serde(default)]
    pub percentage: Option<Percentage>,
    /// `httpStatus`.
    #[serde(default, alias = "http_status")]
    pub http_status: Option<i32>,
    /// `grpcStatus`, by name.
    #[serde(default, alias = "grpc_status")]
    pub grpc_status: Option<String>,
    /// `http2Error`: in the proto, and refused by Istio.
    #[serde(default, alias = "http2_error")]
    pub http2_error: Option<String>,
}

/// One of `mirrors`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
pub struct HttpMirrorPolicy {
    /// `destination`.
    #[serde(default)]
    pub destination: Option<Destination>,
    /// `percentage`; 100 where absent.
    #[serde(default)]
    pub percentage: Option<Percentage>,
}

/// `corsPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct CorsPolicy {
    /// `allowOrigin`, deprecated; counts where `allowOrigins` is empty.
    #[serde(default, alias = "allow_origin", deserialize_with = "or_default")]
    pub allow_origin: Vec<String>,
    /// `allowOrigins`.
    #[serde(default, alias = "allow_origins", deserialize_with = "or_default")]
    pub allow_origins: Vec<StringMatch>,
    /// `allowMethods`.
    #[serde(default, alias = "allow_methods", deserialize_with = "or_default")]
    pub allow_methods: Vec<String>,
    /// `allowHeaders`.
    #[serde(default, alias = "allow_headers", deserialize_with = "or_default")]
    pub allow_headers: Vec<String>,
    /// `exposeHeaders`.
    #[serde(default, alias = "expose_headers", deserialize_with = "or_default")]
    pub expose_headers: Vec<String>,
    /// `maxAge`.
    #[serde(default, alias = "max_age", deserialize_with = "duration::optional")]
    pub max_age: Option<Duration>,
    /// `allowCredentials`.
    #[serde(default, alias = "allow_credentials")]
    pub allow_credentials: Option<bool>,
    /// `unmatchedPreflights`.
    #[serde(
        default,
        alias = "unmatched_preflights",
        deserialize_with = "or_default"
    )]
    pub unmatched_preflights: UnmatchedPreflights,
}

/// `unmatchedPreflights` of a [`CorsPolicy`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
pub enum UnmatchedPreflights {
    /// The same as `FORWARD`.
    #[default]
    #[serde(rename = "UNSPECIFIED")]
    Unspecified,
    /// The upstream answers them.
    #[serde(rename = "FORWARD")]
    Forward,
    /// They are answered without permission.
    #[serde(rename = "IGNORE")]
    Ignore,
}

/// `headers`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Headers {
    /// `request`.
    #[serde(default)]
    pub request: Option<HeaderOperations>,
    /// `response`.
    #[serde(default)]
    pub response: Option<HeaderOperations>,
}

/// `request` or `response` of [`Headers`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct HeaderOperations {
    /// `set`.
    #[serde(default, deserialize_with = "or_default")]
    pub set: BTreeMap<String, String>,
    /// `add`.
    #[serde(default, deserialize_with = "or_default")]
    pub add: BTreeMap<String, String>,
    /// `remove`.
    #[serde(default, deserialize_with = "or_default")]
    pub remove: Vec<String>,
}
