//! Names of hosts and of clusters, in the one spelling that is compared.

use std::borrow::Borrow;
use std::fmt::{self, Write as _};
use std::net::IpAddr;
use std::sync::Arc;

/// A host name as the mesh compares it: lower case, without a trailing dot, without a port. A
/// leading `*.` is kept: it is a wildcard to whoever looks names up.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct Hostname(Arc<str>);

impl Hostname {
    /// Normalises `name`. Whether it is a *valid* name is the caller's question.
    pub fn new(name: &str) -> Self {
        let name = name.strip_suffix('.').unwrap_or(name);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            Self(name.to_ascii_lowercase().into())
        } else {
            Self(name.into())
        }
    }

    /// Expands a name as Istio does (`ResolveShortnameToFQDN`): without a dot, and neither `*` nor
    /// an IP literal, it is a service of `namespace`; with one it is taken verbatim.
    pub fn resolve(name: &str, namespace: &str, cluster_domain: &str) -> Self {
        let short = !name.contains('.') && !name.contains(':') && name != "*";
        if short {
            Self::new(&format!("{name}.{namespace}.svc.{cluster_domain}"))
        } else {
            Self::new(name)
        }
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for Hostname {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for Hostname {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// Istio's name of a cluster, the identity used in statistics: `outbound|PORT|SUBSET|HOST`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, serde::Serialize)]
pub struct ClusterName(Arc<str>);

impl ClusterName {
    /// The cluster of `host` at `port`, or of its `subset`.
    pub fn outbound(port: u16, subset: Option<&str>, host: &Hostname) -> Self {
        let mut text = String::with_capacity(64);
        Self::write_outbound(&mut text, port, subset, host);
        Self(text.into())
    }

    /// Writes [`Self::outbound`]'s name in the place of what is in `text`: for looking it up.
    pub fn write_outbound(text: &mut String, port: u16, subset: Option<&str>, host: &Hostname) {
        text.clear();
        // Writing to a String does not fail.
        let _ = write!(
            text,
            "outbound|{port}|{}|{host}",
            subset.unwrap_or_default()
        );
    }

    /// What carries traffic to an address that no service owns (Istio's name for it).
    pub fn passthrough() -> Self {
        Self("PassthroughCluster".into())
    }

    /// Whether it is [`Self::passthrough`].
    pub fn is_passthrough(&self) -> bool {
        self.as_str() == "PassthroughCluster"
    }

    /// What carries traffic to the application of a local pod (Istio's name for it).
    pub fn inbound(port: u16) -> Self {
        Self(format!("inbound|{port}||").into())
    }

    /// The service's host; `None` where it is no service's.
    pub fn host(&self) -> Option<&str> {
        let (_, host) = self.0.rsplit_once('|')?;
        (!host.is_empty()).then_some(host)
    }

    /// The subset; `None` for the whole service, and for what is no service's.
    pub fn subset(&self) -> Option<&str> {
        let subset = self.0.split('|').nth(2)?;
        (!subset.is_empty()).then_some(subset)
    }

    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Borrow<str> for ClusterName {
    fn borrow(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ClusterName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, f)
    }
}

/// An authority without its `:port`. A bracketed IPv6 literal keeps its brackets; a bare one is
/// returned as it is.
pub fn without_port(authority: &str) -> &str {
    if authority.starts_with('[') {
        return authority
            .find(']')
            .map_or(authority, |end| &authority[..=end]);
    }
    match authority.split_once(':') {
        Some((host, port)) if !port.contains(':') => host,
        _ => authority,
    }
}

/// The address where `host` is an IP literal, bracketed or not.
pub fn ip_literal(host: &str) -> Option<IpAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    let first = *bare.as_bytes().first()?;
    // Names are far more common than literals: most are told apart by their first byte.
    if !(first.is_ascii_hexdigit() || first == b':') {
        return None;
    }
    bare.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_expand_and_dotted_names_do_not() {
        for (name, expected) in [
            ("reviews", "reviews.shop.svc.cluster.local"),
            ("Reviews", "reviews.shop.svc.cluster.local"),
            ("reviews.prod", "reviews.prod"),
            (
                "reviews.prod.svc.cluster.local.",
                "reviews.prod.svc.cluster.local",
            ),
            ("*", "*"),
            ("*.example.com", "*.example.com"),
            ("10.0.0.1", "10.0.0.1"),
            ("fd00::1", "fd00::1"),
        ] {
            assert_eq!(
                Hostname::resolve(name, "shop", "cluster.local").as_str(),
                expected,
                "{name}"
            );
        }
    }

    #[test]
    fn clusters_are_named_as_istio_names_them() {
        let host = Hostname::new("web.shop.svc.cluster.local");
        let known = Some(host.as_str());
        for (name, host, subset) in [
            (
                ClusterName::outbound(80, Some("v2"), &host),
                known,
                Some("v2"),
            ),
            (ClusterName::outbound(80, None, &host), known, None),
            (ClusterName::inbound(80), None, None),
            (ClusterName::passthrough(), None, None),
        ] {
            assert_eq!((name.host(), name.subset()), (host, subset), "{name}");
        }
        assert_eq!(
            ClusterName::outbound(80, Some("v2"), &host).as_str(),
            "outbound|80|v2|web.shop.svc.cluster.local"
        );
        assert_eq!(
            ClusterName::outbound(80, None, &host).as_str(),
            "outbound|80||web.shop.svc.cluster.local"
        );
    }
}
