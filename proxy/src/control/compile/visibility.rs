//! Who sees a VirtualService or a DestinationRule (`exportTo`), and which of them is for a host.

use std::cmp::Ordering;
use std::collections::BTreeSet;
use std::sync::Arc;

use foldhash::{HashMap, HashMapExt as _};

use crate::types::Hostname;

/// Whether an object of `own` that is exported to `export_to` is seen by everyone.
pub(super) fn is_public(export_to: &[String]) -> bool {
    export_to.is_empty() || export_to.iter().any(|one| one == "*")
}

/// Whether it is seen by clients in `namespace`.
pub(super) fn sees(export_to: &[String], own: &str, namespace: &str) -> bool {
    is_public(export_to)
        || export_to
            .iter()
            .any(|one| one == namespace || (one == "." && own == namespace))
}

/// The namespaces that are named one by one.
pub(super) fn named(export_to: &[String], own: &Arc<str>, into: &mut BTreeSet<Arc<str>>) {
    for one in export_to {
        match one.as_str() {
            "*" | "~" => {}
            "." => drop(into.insert(Arc::clone(own))),
            name => drop(into.insert(name.into())),
        }
    }
}

/// Objects by the host that they are for; each list keeps the order in which it was filled.
#[derive(Debug)]
pub(super) struct ByHost<T> {
    exact: HashMap<Hostname, Vec<T>>,
    /// By what follows the `*`, dot included; the empty text for `*` alone.
    wildcard: HashMap<Box<str>, Vec<T>>,
}

impl<T> Default for ByHost<T> {
    fn default() -> Self {
        Self {
            exact: HashMap::new(),
            wildcard: HashMap::new(),
        }
    }
}

impl<T> ByHost<T> {
    fn list(&mut self, host: &Hostname) -> &mut Vec<T> {
        // Nearly every host has one.
        let one = || Vec::with_capacity(1);
        match host.as_str().strip_prefix('*') {
            Some(suffix) => self.wildcard.entry(suffix.into()).or_insert_with(one),
            None => self.exact.entry(host.clone()).or_insert_with(one),
        }
    }

    pub(super) fn insert(&mut self, host: &Hostname, value: T) {
        self.list(host).push(value);
    }

    /// Adds to a list that is sorted.
    pub(super) fn put(&mut self, host: &Hostname, value: T, order: impl Fn(&T, &T) -> Ordering) {
        let list = self.list(host);
        list.push(value);
        list.sort_by(order);
    }

    /// Drops what `gone` says from the list of a host, or of a domain as such.
    pub(super) fn remove(&mut self, host: &Hostname, gone: impl Fn(&T) -> bool) {
        let suffix = host.as_str().strip_prefix('*');
        let list = match suffix {
            Some(suffix) => self.wildcard.get_mut(suffix),
            None => self.exact.get_mut(host),
        };
        let Some(list) = list else { return };
        list.retain(|one| !gone(one));
        if list.is_empty() {
            match suffix {
                Some(suffix) => drop(self.wildcard.remove(suffix)),
                None => drop(self.exact.remove(host)),
            }
        }
    }

    /// All of them; one that is for several hosts as often.
    pub(super) fn all(&self) -> impl Iterator<Item = &T> {
        self.exact.values().chain(self.wildcard.values()).flatten()
    }

    /// Sorts each list.
    pub(super) fn sort(&mut self, order: impl Fn(&T, &T) -> Ordering) {
        for list in self.exact.values_mut().chain(self.wildcard.values_mut()) {
            if list.len() > 1 {
                list.sort_by(&order);
            }
        }
    }

    /// Every exact host with its list.
    pub(super) fn exact(&self) -> impl Iterator<Item = (&Hostname, &[T])> {
        self.exact
            .iter()
            .map(|(host, list)| (host, list.as_slice()))
    }

    /// The list of a host, or of a domain as such.
    pub(super) fn of(&self, host: &Hostname) -> &[T] {
        let list = match host.as_str().strip_prefix('*') {
            Some(suffix) => self.wildcard.get(suffix),
            None => self.exact.get(host),
        };
        list.map(Vec::as_slice).unwrap_or_default()
    }

    /// Every domain, as what follows its `*`, with its list.
    pub(super) fn domains(&self) -> impl Iterator<Item = (&str, &[T])> {
        let all = self.wildcard.iter();
        all.map(|(suffix, list)| (&**suffix, list.as_slice()))
    }

    /// Every list of those that are for `host`, the most specific first: the exact one, then the
    /// wildcards from the longest to the shortest.
    pub(super) fn find<'a>(&'a self, host: &'a Hostname) -> impl Iterator<Item = &'a [T]> {
        let name = host.as_str();
        let suffixes = name
            .match_indices('.')
            .map(|(at, _)| &name[at..])
            .chain([""]);
        let suffixes = (!self.wildcard.is_empty()).then_some(suffixes);
        self.exact
            .get(host)
            .into_iter()
            .chain(
                suffixes
                    .into_iter()
                    .flatten()
                    .filter_map(|suffix| self.wildcard.get(suffix)),
            )
            .map(Vec::as_slice)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_most_specific_comes_first() {
        let mut index = ByHost::default();
        for host in ["*", "*.c", "a.b.c", "*.b.c", "b.c"] {
            index.insert(&Hostname::new(host), host);
        }
        for (host, expected) in [
            ("a.b.c", "a.b.c *.b.c *.c *"),
            ("x.b.c", "*.b.c *.c *"),
            ("b.c", "b.c *.c *"),
            ("c", "*"),
        ] {
            let host = Hostname::new(host);
            let found: Vec<&str> = index.find(&host).flatten().copied().collect();
            assert_eq!(found.join(" "), expected, "{host}");
        }
    }

    #[test]
    fn exports_are_seen_by_those_they_name() {
        let list =
            |text: &str| -> Vec<String> { text.split_whitespace().map(str::to_owned).collect() };
        for (export_to, namespace, expected) in [
            ("", "other", true),
            ("*", "other", true),
            (".", "own", true),
            (".", "other", false),
            ("~", "own", false),
            ("a b", "b", true),
            ("a b", "own", false),
        ] {
            assert_eq!(
                sees(&list(export_to), "own", namespace),
                expected,
                "{export_to:?} {namespace}"
            );
        }
    }
}
