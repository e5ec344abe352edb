//! Whose tokens the requests to each local pod may have: RequestAuthentications.

use std::collections::BTreeMap;
use std::sync::Arc;

use foldhash::HashMap;

use super::{Compiler, reference};
use crate::api::RequestAuthentication;
use crate::control::store::{Key, Objects};
use crate::mesh::Workload;
use crate::policy::jwt::{Rule, Source};
use crate::types::Finding;

/// A RequestAuthentication, and out of what it was compiled.
#[derive(Debug)]
pub(super) struct KeptTokens {
    source: Arc<RequestAuthentication>,
    rules: Vec<Arc<Rule>>,
}

/// RequestAuthentications by namespace, in order of their names.
pub(super) struct ByNamespace<'a>(BTreeMap<&'a str, Vec<&'a KeptTokens>>);

impl Compiler {
    /// Compiles what is new.
    pub(super) fn compile_tokens(&mut self, objects: &Objects) {
        let mut before = std::mem::take(&mut self.tokens);
        for (key, source) in &objects.request_authentications {
            let kept = before
                .remove(key)
                .filter(|kept| Arc::ptr_eq(&kept.source, source))
                .unwrap_or_else(|| KeptTokens::new(key, source));
            self.tokens.insert(key.clone(), kept);
        }
    }
}

impl<'a> ByNamespace<'a> {
    pub(super) fn new(objects: &'a Objects, kept: &'a HashMap<Key, KeptTokens>) -> Self {
        let mut all: BTreeMap<&str, Vec<&KeptTokens>> = BTreeMap::new();
        for key in objects.request_authentications.keys() {
            if let Some(kept) = kept.get(key) {
                all.entry(&*key.0).or_default().push(kept);
            }
        }
        Self(all)
    }

    /// What applies to `workload` of these namespaces. All of it does at once, by issuer (Istio), since
    /// of several rules that a request satisfies the first counts.
    pub(super) fn of<'b>(
        &self,
        namespaces: impl Iterator<Item = &'b str>,
        workload: &Workload,
    ) -> Vec<Arc<Rule>> {
        let all = namespaces.filter_map(|name| self.0.get(name)).flatten();
        let applying = all.filter(|one| one.applies(workload));
        let mut rules: Vec<Arc<Rule>> = applying.flat_map(|one| &one.rules).cloned().collect();
        rules.sort_by(|one, other| one.issuer.cmp(&other.issuer));
        rules
    }
}

impl KeptTokens {
    fn new(key: &Key, source: &Arc<RequestAuthentication>) -> Self {
        let object = || reference("RequestAuthentication", &key.0, &key.1);
        let rules = source.spec.jwt_rules.iter();
        Self {
            source: Arc::clone(source),
            rules: rules
                .map(|rule| Arc::new(Rule::compile(object(), rule)))
                .collect(),
        }
    }

    fn applies(&self, workload: &Workload) -> bool {
        let selector = self.source.spec.selector.as_ref();
        self.source.target_field().is_none()
            && selector.is_none_or(|one| one.selects(&workload.labels))
    }

    /// What can be said without looking at pods.
    pub(super) fn report(&self) -> Vec<Finding> {
        let mut findings = Vec::new();
        if let Some(field) = self.source.target_field() {
            findings.push(Finding::warning(field, super::guard::ATTACHED));
            return findings;
        }
        if self.rules.is_empty() {
            let message = "without rules it has no effect: any token is let through, unverified";
            findings.push(Finding::warning("spec.jwtRules", message));
        }
        for (index, rule) in self.rules.iter().enumerate() {
            let refused = "every token of this issuer is refused";
            let field = |name: &str| format!("spec.jwtRules[{index}].{name}");
            match &rule.keys {
                Source::Given(_) | Source::Fetched(_) => {}
                Source::Nowhere(problem) => {
                    findings.push(Finding::error(
                        field("jwks"),
                        format!("{problem}: {refused}"),
                    ));
                }
            }
        }
        findings
    }
}
