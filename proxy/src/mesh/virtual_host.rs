//! Hosts that VirtualServices speak of and no service has: `bookinfo.example.com`, whose requests
//! are then routed wherever they were going.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use super::RouteTable;
use crate::types::Hostname;

/// The port at which they count. Istio puts them on the listeners of port 80 alone, since a mesh
/// client's listener belongs to a service otherwise.
pub const PORT: u16 = 80;

/// Every such host.
#[derive(Clone, Debug, Default)]
pub struct VirtualHosts {
    exact: HashMap<Hostname, VirtualHost>,
    /// By what follows the `*`, dot included.
    suffixes: HashMap<Box<str>, VirtualHost>,
}

/// What becomes of requests for one host.
#[derive(Clone, Debug, Default)]
pub struct VirtualHost {
    /// For callers in namespaces that no `exportTo` names; `None` where the host is not for them.
    pub routes: Option<Arc<RouteTable>>,
    /// For callers in these namespaces.
    pub private: BTreeMap<Arc<str>, Option<Arc<RouteTable>>>,
}

impl VirtualHosts {
    /// Adds a host, or a domain that begins with `*`.
    pub fn insert(&mut self, host: &Hostname, value: VirtualHost) {
        match host.as_str().strip_prefix('*') {
            Some(suffix) => drop(self.suffixes.insert(suffix.into(), value)),
            None => drop(self.exact.insert(host.clone(), value)),
        }
    }

    /// Whether there is this host, or this domain that begins with `*`.
    pub fn contains(&self, host: &Hostname) -> bool {
        match host.as_str().strip_prefix('*') {
            Some(suffix) => self.suffixes.contains_key(suffix),
            None => self.exact.contains_key(host),
        }
    }

    /// Drops a host, or a domain that begins with `*`.
    pub fn remove(&mut self, host: &Hostname) {
        match host.as_str().strip_prefix('*') {
            Some(suffix) => drop(self.suffixes.remove(suffix)),
            None => drop(self.exact.remove(host)),
        }
    }

    /// The table for `name` (lower case, without a port), asked by a caller in `namespace`: the
    /// exact host, or else the longest domain that it sees.
    pub fn find(&self, name: &str, namespace: &str) -> Option<&Arc<RouteTable>> {
        if let Some(found) = self.exact.get(name).and_then(|one| one.seen(namespace)) {
            return Some(found);
        }
        if self.suffixes.is_empty() {
            return None;
        }
        let dots = name.match_indices('.').map(|(at, _)| &name[at..]);
        dots.chain([""])
            .filter_map(|suffix| self.suffixes.get(suffix))
            .find_map(|host| host.seen(namespace))
    }

    /// Every host with what becomes of its requests, sorted by name.
    pub fn iter(&self) -> impl Iterator<Item = (String, &VirtualHost)> {
        let exact = self.exact.iter().map(|(host, one)| (host.to_string(), one));
        let suffixes = self.suffixes.iter();
        let mut all: Vec<_> = exact
            .chain(suffixes.map(|(suffix, one)| (format!("*{suffix}"), one)))
            .collect();
        all.sort_by(|(one, _), (other, _)| one.cmp(other));
        all.into_iter()
    }
}

impl VirtualHost {
    fn seen(&self, namespace: &str) -> Option<&Arc<RouteTable>> {
        match self.private.get(namespace) {
            Some(own) => own.as_ref(),
            None => self.routes.as_ref(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_host_that_is_seen_counts() {
        let table = |name: &str| {
            let reference = crate::types::ObjectRef {
                kind: "VirtualService".into(),
                namespace: "n".into(),
                name: name.into(),
            };
            Arc::new(RouteTable::new(Some(reference.into()), Vec::new()))
        };
        let mut hosts = VirtualHosts::default();
        for host in ["a.com", "*.a.com", "*.com"] {
            let value = VirtualHost {
                routes: Some(table(host)),
                private: BTreeMap::from([
                    ("none".into(), None),
                    ("own".into(), Some(table("own"))),
                ]),
            };
            hosts.insert(&Hostname::new(host), value);
        }
        for (name, namespace, expected) in [
            ("a.com", "shop", "a.com"),
            ("x.a.com", "shop", "*.a.com"),
            ("x.y.a.com", "shop", "*.a.com"),
            ("b.com", "shop", "*.com"),
            ("com", "shop", ""),
            ("a.org", "shop", ""),
            ("a.com", "none", ""),
            ("a.com", "own", "own"),
        ] {
            let found = hosts.find(name, namespace);
            let found = found.and_then(|table| table.source.as_ref());
            let found = found.map_or("", |one| &*one.name);
            assert_eq!(found, expected, "{name} {namespace}");
        }
    }
}
