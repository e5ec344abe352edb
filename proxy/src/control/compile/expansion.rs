//! VirtualServices with their delegates in their places: which ones there are for mesh traffic, and
//! who delegates to whom.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use foldhash::HashMap;

use super::rules::{Routes, delegate};
use super::told::Told;
use super::world::World;
use super::{Compiler, reference};
use crate::control::store::{Change, Key, Objects};
use crate::types::Finding;

/// What is kept of VirtualServices that delegate.
#[derive(Debug, Default)]
pub(super) struct Expansions {
    kept: HashMap<Key, Kept>,
    /// Who names a delegate, by the delegate's name.
    delegators: BTreeMap<Key, BTreeSet<Key>>,
}

/// A VirtualService with its delegates in their places, and out of what it was made.
#[derive(Debug)]
struct Kept {
    root: Arc<Routes>,
    delegates: Vec<delegate::Named>,
    routes: Arc<Routes>,
    findings: Vec<Finding>,
}

impl Compiler {
    /// Every VirtualService for mesh traffic, with the rules of its delegates.
    pub(super) fn expanded(&mut self, objects: &Objects, told: &mut Told) -> Vec<Arc<Routes>> {
        let all = &objects.virtual_services;
        let mut before = std::mem::take(&mut self.expansions);
        for (key, root) in all {
            self.expansions.name(key, root);
        }
        let mut routes = Vec::with_capacity(all.len());
        for (key, root) in all {
            if let Some(kept) = before.kept.remove(key) {
                self.expansions.kept.insert(key.clone(), kept);
            }
            routes.extend(self.expand(key, root, objects, told));
            self.report_delegate(key, objects, told);
        }
        routes
    }

    /// Brings the world up to date with changes of VirtualServices. What was in it, and what is in it
    /// now.
    pub(super) fn change_routes(
        &mut self,
        world: &mut World,
        changes: &[Change],
        objects: &Objects,
        told: &mut Told,
    ) -> Replaced {
        let mut replaced = Replaced::default();
        // As they were when the world was made: the first change of each says so.
        let mut changed: BTreeMap<Key, Option<&Arc<Routes>>> = BTreeMap::new();
        for change in changes {
            if let Change::VirtualService(before, now) = change
                && let Some(one) = before.as_ref().or(now.as_ref())
            {
                let reference = &one.reference;
                let key = (
                    Arc::clone(&reference.namespace),
                    Arc::clone(&reference.name),
                );
                changed.entry(key).or_insert(before.as_ref());
            }
        }
        let all = &objects.virtual_services;
        let mut roots: BTreeSet<Key> = changed.keys().cloned().collect();
        let mut delegates = roots.clone();
        for (key, before) in &changed {
            if let Some(before) = before {
                delegates.extend(self.expansions.forget(key, before));
            }
            if let Some(now) = all.get(key) {
                delegates.extend(self.expansions.name(key, now));
            }
        }
        for key in changed.keys() {
            roots.extend(
                self.expansions
                    .delegators
                    .get(key)
                    .into_iter()
                    .flatten()
                    .cloned(),
            );
        }
        for key in &roots {
            let now = all.get(key);
            let before = match changed.get(key) {
                Some(before) => *before,
                None => now,
            };
            let before = before.and_then(|one| match self.expansions.kept.remove(key) {
                Some(kept) => Some(kept.routes),
                None => is_root(one).then(|| Arc::clone(one)),
            });
            if let Some(before) = before {
                world.remove_routes(&before);
                told.set_routes(&before.reference, Vec::new());
                replaced.before.push(before);
            }
            told.set_delegation(&reference("VirtualService", &key.0, &key.1), Vec::new());
            let now = now.and_then(|root| self.expand(key, root, objects, told));
            if let Some(now) = now {
                world.put_routes(&now);
                replaced.now.push(now);
            }
        }
        for key in &delegates {
            self.report_delegate(key, objects, told);
        }
        replaced
    }

    /// What stands for a VirtualService in the world, if anything does.
    fn expand(
        &mut self,
        key: &Key,
        root: &Arc<Routes>,
        objects: &Objects,
        told: &mut Told,
    ) -> Option<Arc<Routes>> {
        let before = self.expansions.kept.remove(key);
        if !is_root(root) {
            return None;
        }
        if !root.delegates() {
            return Some(Arc::clone(root));
        }
        let names = delegate::names(root);
        let delegates: Vec<delegate::Named> = names
            .map(|(index, name)| delegate::Named {
                index,
                found: objects.virtual_services.get(&name).cloned(),
            })
            .collect();
        let kept = before.filter(|kept| kept.is_of(root, &delegates));
        let kept = kept.unwrap_or_else(|| {
            let mut findings = Vec::new();
            let expanded = delegate::expand(root, &delegates, &self.cluster_domain, &mut findings);
            Kept {
                root: Arc::clone(root),
                delegates,
                routes: Arc::new(expanded),
                findings,
            }
        });
        let routes = Arc::clone(&kept.routes);
        told.set_delegation(&root.reference, kept.findings.clone());
        self.expansions.kept.insert(key.clone(), kept);
        Some(routes)
    }

    /// Tells of a delegate that nobody delegates to.
    fn report_delegate(&self, key: &Key, objects: &Objects, told: &mut Told) {
        let delegate = objects.virtual_services.get(key);
        let Some(delegate) = delegate.filter(|one| one.source.spec.is_delegate()) else {
            return;
        };
        let mut found = Vec::new();
        if !self.expansions.delegators.contains_key(key) {
            let message = "without hosts it is a delegate, and no VirtualService delegates to it: it has no effect";
            found.push(Finding::warning("spec.hosts", message));
        }
        told.set_delegation(&delegate.reference, found);
    }
}

/// What changes of VirtualServices replaced in the world.
#[derive(Debug, Default)]
pub(super) struct Replaced {
    pub(super) before: Vec<Arc<Routes>>,
    pub(super) now: Vec<Arc<Routes>>,
}

impl Expansions {
    /// Files a VirtualService under those that it delegates to, and says which these are.
    fn name(&mut self, key: &Key, routes: &Routes) -> Vec<Key> {
        let names: Vec<Key> = delegate::names(routes).map(|(_, name)| name).collect();
        for name in &names {
            let delegators = self.delegators.entry(name.clone()).or_default();
            delegators.insert(key.clone());
        }
        names
    }

    /// The other way round.
    fn forget(&mut self, key: &Key, routes: &Routes) -> Vec<Key> {
        let names: Vec<Key> = delegate::names(routes).map(|(_, name)| name).collect();
        for name in &names {
            if let Some(delegators) = self.delegators.get_mut(name) {
                delegators.remove(key);
                if delegators.is_empty() {
                    self.delegators.remove(name);
                }
            }
        }
        names
    }
}

impl Kept {
    fn is_of(&self, root: &Arc<Routes>, delegates: &[delegate::Named]) -> bool {
        let same = |(one, other): (&delegate::Named, &delegate::Named)| {
            one.index == other.index
                && match (&one.found, &other.found) {
                    (Some(one), Some(other)) => Arc::ptr_eq(one, other),
                    (None, None) => true,
                    _ => false,
                }
        };
        Arc::ptr_eq(&self.root, root)
            && self.delegates.len() == delegates.len()
            && self.delegates.iter().zip(delegates).all(same)
    }
}

/// Whether it says by itself what becomes of mesh traffic.
fn is_root(routes: &Routes) -> bool {
    let spec = &routes.source.spec;
    !spec.is_delegate() && spec.is_for_mesh()
}
