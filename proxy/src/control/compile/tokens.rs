//! Whose tokens the requests to each local pod may have: RequestAuthentications.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::scope::renew;
use super::{Compiler, reference};
use crate::api::{RequestAuthentication, attachment};
use crate::control::store::{Key, Objects, of_namespace};
use crate::mesh::Workload;
use crate::policy::jwt::{Rule, Source};
use crate::types::Finding;

/// A RequestAuthentication, and out of what it was compiled.
#[derive(Debug)]
pub(super) struct KeptTokens {
    source: Arc<RequestAuthentication>,
    rules: Vec<Arc<Rule>>,
}

impl Compiler {
    /// Compiles what is new in `namespaces`, and drops what is gone.
    pub(super) fn compile_tokens(&mut self, objects: &Objects, namespaces: &BTreeSet<Arc<str>>) {
        renew(
            &mut self.tokens,
            &objects.request_authentications,
            namespaces,
            |kept| &kept.source,
            KeptTokens::new,
        );
    }
}

/// What of `namespaces` applies to `workload`. All of it does at once, by issuer (Istio), since of
/// several rules that a request satisfies the first counts.
pub(super) fn of<'a>(
    kept: &BTreeMap<Key, KeptTokens>,
    namespaces: impl Iterator<Item = &'a str>,
    workload: &Workload,
) -> Vec<Arc<Rule>> {
    let all = namespaces.flat_map(|one| of_namespace(kept, one));
    let applying = all
        .map(|(_, kept)| kept)
        .filter(|one| one.applies(workload));
    let mut rules: Vec<Arc<Rule>> = applying.flat_map(|one| &one.rules).cloned().collect();
    rules.sort_by(|one, other| one.issuer.cmp(&other.issuer));
    rules
}

impl KeptTokens {
    /// The kind of objects.
    pub(super) const KIND: &str = "RequestAuthentication";

    /// Out of what it was compiled.
    pub(super) fn source(&self) -> &RequestAuthentication {
        &self.source
    }

    fn new(key: &Key, source: &Arc<RequestAuthentication>) -> Self {
        let object = || reference(Self::KIND, &key.0, &key.1);
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
            findings.push(Finding::warning(field, attachment::NOT_IN_FORCE));
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
