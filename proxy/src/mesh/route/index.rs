//! Finds the first rule that matches without asking every rule.
//!
//! Each match block is filed under one thing that it asks for: the exact path, a prefix of the path
//! (an expression counts with the text that every match begins with), the exact value of a header
//! or of a query parameter; whichever is rarest among the blocks. A request is compared with the
//! blocks filed under what it has, in the order of the rules, and with those that could not be
//! filed. What is found is always what asking one rule after the other would find.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;

use arrayvec::ArrayVec;
use foldhash::fast::RandomState;
use http::HeaderName;

use super::Rule;
use crate::policy::matcher::{Case, Field, Match, Pattern, Request, Sense};
use crate::policy::rewrite::Matched;

/// So few blocks are asked sooner than looked up.
const FEW: usize = 8;

/// Names of headers and parameters that blocks are filed under, each at most.
const NAMES: usize = 8;

/// Lists that a request may lead to. One that leads to more asks every rule.
const LISTS: usize = 48;

/// A block: the rule's place and its own, in the order in which they are tried.
type Entry = (u32, u32);

/// Blocks by the value that they ask for.
type Values = HashMap<Box<[u8]>, Box<[Entry]>, RandomState>;

/// An index of rules.
#[derive(Clone, Debug, Default)]
pub(super) struct Index {
    paths: Values,
    /// Sorted by their text.
    prefixes: Box<[Prefix]>,
    headers: Vec<(HeaderName, Values)>,
    queries: Vec<(Box<str>, Values)>,
    /// Blocks that ask for nothing of the kind.
    rest: Box<[Entry]>,
}

#[derive(Clone, Debug)]
struct Prefix {
    text: Box<[u8]>,
    /// The longest prefix of this one that is filed too.
    parent: Option<u32>,
    entries: Box<[Entry]>,
}

/// What a block can be filed under.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
enum Key<'a> {
    Path(&'a [u8]),
    Header(&'a str, &'a [u8]),
    Query(&'a str, &'a [u8]),
    Prefix(&'a [u8]),
}

/// A block with the text that every path it matches begins with.
struct Filed<'a> {
    entry: Entry,
    block: Option<&'a Match>,
    prefix: Option<Vec<u8>>,
}

impl Index {
    /// `None` where there are few rules.
    pub(super) fn new(rules: &[Arc<Rule>]) -> Option<Self> {
        let count: usize = rules.iter().map(|rule| rule.matches.len().max(1)).sum();
        if count <= FEW {
            return None;
        }
        let number = |at: usize| u32::try_from(at).ok();
        let mut filed = Vec::with_capacity(count);
        for (at, rule) in rules.iter().enumerate() {
            let at = number(at)?;
            if rule.matches.is_empty() {
                filed.push(Filed {
                    entry: (at, 0),
                    block: None,
                    prefix: None,
                });
            }
            for (index, block) in rule.matches.iter().enumerate() {
                filed.push(Filed {
                    entry: (at, number(index)?),
                    block: Some(block),
                    prefix: block.path.as_ref().and_then(Pattern::literal_prefix),
                });
            }
        }
        Some(Self::file(&filed))
    }

    fn file(filed: &[Filed<'_>]) -> Self {
        let mut frequency: HashMap<Key<'_>, usize> = HashMap::new();
        for key in filed.iter().flat_map(Filed::keys) {
            *frequency.entry(key).or_default() += 1;
        }
        // Every name costs each request a look-up: the most frequent ones are kept.
        let names = |pick: fn(&Key<'_>) -> bool| {
            let mut names: BTreeMap<&str, usize> = BTreeMap::new();
            for (key, count) in &frequency {
                if let Key::Header(name, _) | Key::Query(name, _) = key
                    && pick(key)
                {
                    *names.entry(name).or_default() += count;
                }
            }
            let mut names: Vec<(&str, usize)> = names.into_iter().collect();
            names.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
            names.truncate(NAMES);
            names.into_iter().map(|(name, _)| name).collect::<Vec<_>>()
        };
        let headers = names(|key| matches!(key, Key::Header(..)));
        let queries = names(|key| matches!(key, Key::Query(..)));
        let allowed = |key: &Key<'_>| match key {
            Key::Header(name, _) => headers.contains(name),
            Key::Query(name, _) => queries.contains(name),
            Key::Path(_) | Key::Prefix(_) => true,
        };
        let mut lists: BTreeMap<Key<'_>, Vec<Entry>> = BTreeMap::new();
        let mut rest = Vec::new();
        for one in filed {
            let keys = one.keys().filter(allowed);
            // Of equals the first: a path says more than a prefix.
            match keys.min_by_key(|key| frequency.get(key).copied().unwrap_or(0)) {
                Some(key) => lists.entry(key).or_default().push(one.entry),
                None => rest.push(one.entry),
            }
        }
        let mut index = Self {
            rest: rest.into(),
            ..Self::default()
        };
        let mut prefixes: Vec<Prefix> = Vec::new();
        // Prefixes come sorted by their text.
        for (key, entries) in lists {
            let entries = entries.into_boxed_slice();
            match key {
                Key::Path(path) => drop(index.paths.insert(path.into(), entries)),
                Key::Header(name, value) => {
                    let Ok(name) = HeaderName::from_bytes(name.as_bytes()) else {
                        continue;
                    };
                    of_name(&mut index.headers, name).insert(value.into(), entries);
                }
                Key::Query(name, value) => {
                    of_name(&mut index.queries, name.into()).insert(value.into(), entries);
                }
                Key::Prefix(text) => {
                    let parent = parent(&prefixes, text);
                    prefixes.push(Prefix {
                        text: text.into(),
                        parent,
                        entries,
                    });
                }
            }
        }
        index.prefixes = prefixes.into();
        index
    }

    /// The first of `rules`, which the index was made of, that matches; its place.
    pub(super) fn find(
        &self,
        rules: &[Arc<Rule>],
        request: &Request<'_>,
    ) -> Option<(usize, Matched)> {
        let mut lists: ArrayVec<&[Entry], LISTS> = ArrayVec::new();
        if self.collect(request, &mut lists).is_err() {
            return rules
                .iter()
                .enumerate()
                .find_map(|(at, rule)| Some((at, rule.applies(request)?)));
        }
        loop {
            let next = lists.iter_mut().min_by_key(|list| list.first().copied())?;
            let (entry, others) = next.split_first()?;
            *next = others;
            let (at, index) = (entry.0 as usize, entry.1 as usize);
            let rule = rules.get(at)?;
            match rule.matches.get(index) {
                None => return Some((at, Matched::by(None))),
                Some(block) if block.matches(request) => {
                    return Some((at, Matched::by(block.path.as_ref())));
                }
                Some(_) => {}
            }
            lists.retain(|list| !list.is_empty());
        }
    }

    /// The lists that the request leads to, none of them empty.
    fn collect<'a>(
        &'a self,
        request: &Request<'_>,
        lists: &mut ArrayVec<&'a [Entry], LISTS>,
    ) -> Result<(), arrayvec::CapacityError<&'a [Entry]>> {
        if !self.rest.is_empty() {
            lists.try_push(&self.rest)?;
        }
        let path = request.path.as_bytes();
        if let Some(entries) = self.paths.get(path) {
            lists.try_push(entries)?;
        }
        // Whatever is filed and begins the path is the last text that is not greater than it, or
        // one of that text's parents.
        let after = self.prefixes.partition_point(|one| &*one.text <= path);
        let mut at = after.checked_sub(1);
        while let Some(prefix) = at.and_then(|at| self.prefixes.get(at)) {
            if path.starts_with(&prefix.text) {
                lists.try_push(&prefix.entries)?;
            }
            at = prefix.parent.map(|parent| parent as usize);
        }
        for (name, values) in &self.headers {
            for value in request.headers.get_all(name) {
                if let Some(entries) = values.get(value.as_bytes()) {
                    lists.try_push(entries)?;
                }
            }
        }
        if let Some(query) = request.query.filter(|_| !self.queries.is_empty()) {
            for pair in query.split('&') {
                let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                let values = self.queries.iter().find(|(one, _)| **one == *name);
                if let Some(entries) = values.and_then(|(_, map)| map.get(value.as_bytes())) {
                    lists.try_push(entries)?;
                }
            }
        }
        Ok(())
    }
}

/// The place of the longest of `prefixes` (sorted, each with its parent) that `text` begins with.
fn parent(prefixes: &[Prefix], text: &[u8]) -> Option<u32> {
    let mut at = prefixes.len().checked_sub(1);
    while let Some(index) = at {
        let prefix = prefixes.get(index)?;
        if text.starts_with(&prefix.text) {
            return u32::try_from(index).ok();
        }
        at = prefix.parent.map(|parent| parent as usize);
    }
    None
}

fn of_name<N: PartialEq>(all: &mut Vec<(N, Values)>, name: N) -> &mut Values {
    let at = all.iter().position(|(one, _)| *one == name);
    let at = at.unwrap_or_else(|| {
        all.push((name, Values::default()));
        all.len() - 1
    });
    &mut all[at].1
}

impl Filed<'_> {
    /// What it can be filed under.
    fn keys(&self) -> impl Iterator<Item = Key<'_>> {
        let path = self.block.and_then(|block| match &block.path {
            Some(Pattern::Exact(text, Case::Sensitive)) => Some(Key::Path(text.as_bytes())),
            _ => None,
        });
        let headers = self.block.into_iter().flat_map(|block| &block.headers);
        let headers = headers.filter_map(|one| match (&one.field, one.sense, &one.pattern) {
            (Field::Header(name), Sense::With, Some(Pattern::Exact(text, Case::Sensitive))) => {
                Some(Key::Header(name.as_str(), text.as_bytes()))
            }
            _ => None,
        });
        let queries = self.block.into_iter().flat_map(|block| &block.query);
        let queries = queries.filter_map(|one| match &one.pattern {
            Some(Pattern::Exact(text, Case::Sensitive)) => {
                Some(Key::Query(&one.name, text.as_bytes()))
            }
            _ => None,
        });
        let prefix = self.prefix.as_deref().filter(|text| text.len() > 1);
        path.into_iter()
            .chain(headers)
            .chain(queries)
            .chain(prefix.map(Key::Prefix))
    }
}

#[cfg(test)]
mod tests;
