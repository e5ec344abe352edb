//! What a security policy is attached to: the workloads that a selector picks, or objects by name.
//!
//! The fields are those of `type/v1beta1/selector.proto`.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::{labels, or_default};
use crate::types::Finding;

/// Istio's limit on `targetRefs` (`maxItems` of its CRDs).
const MAX_TARGETS: usize = 16;

/// What is said of a policy that is attached to an object by `targetRefs`.
pub const NOT_IN_FORCE: &str = "policies attached to objects are not in force yet: use a selector";

/// `selector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Selector {
    /// `matchLabels`; without any, every workload of the policy's scope.
    #[serde(default, alias = "match_labels", deserialize_with = "or_default")]
    pub match_labels: BTreeMap<String, String>,
}

impl Selector {
    /// Whether a workload with `labels` is selected.
    pub fn selects(&self, labels: &BTreeMap<String, String>) -> bool {
        let mut wanted = self.match_labels.iter();
        wanted.all(|(key, value)| labels.get(key) == Some(value))
    }
}

/// `targetRef`, or one of `targetRefs`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// `group`; empty for Kubernetes' own kinds.
    #[serde(default, deserialize_with = "or_default")]
    pub group: String,
    /// `kind`.
    #[serde(default, deserialize_with = "or_default")]
    pub kind: String,
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
    /// `namespace`: the policy's own where it is given at all.
    #[serde(default, deserialize_with = "or_default")]
    pub namespace: String,
}

/// The field by which a policy is attached to objects by name, and not to workloads.
pub(super) fn target_field(one: Option<&TargetRef>, many: &[TargetRef]) -> Option<&'static str> {
    match (one, many) {
        (Some(_), _) => Some("spec.targetRef"),
        (None, [_, ..]) => Some("spec.targetRefs"),
        (None, []) => None,
    }
}

/// What a policy says about where it applies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Attachment<'a> {
    pub(super) namespace: &'a str,
    pub(super) selector: Option<&'a Selector>,
    pub(super) target: Option<&'a TargetRef>,
    pub(super) targets: &'a [TargetRef],
}

impl Attachment<'_> {
    /// Istio's validation of `selector`, `targetRef` and `targetRefs`.
    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        if let Some(selector) = self.selector {
            check_selector(selector, findings);
        }
        let given = [
            ("selector", self.selector.is_some()),
            ("targetRef", self.target.is_some()),
            ("targetRefs", !self.targets.is_empty()),
        ];
        let given: Vec<&str> = given.iter().filter(|one| one.1).map(|one| one.0).collect();
        if let [first, second, ..] = given[..] {
            findings.push(Finding::error(
                format!("spec.{second}"),
                format!("only one of {first} and {second} can be given"),
            ));
        }
        if self.targets.len() > MAX_TARGETS {
            findings.push(Finding::error(
                "spec.targetRefs",
                format!("at most {MAX_TARGETS} are allowed"),
            ));
        }
        let many = self.targets.iter().enumerate();
        let many = many.map(|(index, one)| (format!("spec.targetRefs[{index}]"), one));
        let one = self.target.map(|one| ("spec.targetRef".to_owned(), one));
        for (field, target) in one.into_iter().chain(many) {
            self.check_target(target, &field, findings);
        }
    }

    fn check_target(&self, target: &TargetRef, field: &str, findings: &mut Vec<Finding>) {
        let known = matches!(
            (target.group.as_str(), target.kind.as_str()),
            ("" | "core", "Service")
                | ("networking.istio.io", "ServiceEntry")
                | ("gateway.networking.k8s.io", "Gateway" | "GatewayClass")
        );
        if !known {
            let message = "must be a Service, a ServiceEntry (group networking.istio.io), a Gateway or a GatewayClass (group gateway.networking.k8s.io)";
            findings.push(Finding::error(format!("{field}.kind"), message));
        }
        if target.name.is_empty() {
            findings.push(Finding::error(
                format!("{field}.name"),
                "a name is required",
            ));
        }
        if !target.namespace.is_empty() && target.namespace != self.namespace {
            findings.push(Finding::error(
                format!("{field}.namespace"),
                "a policy can't be attached across namespaces: leave it out",
            ));
        }
    }
}

/// What is wrong with a selector.
pub(super) fn check_selector(selector: &Selector, findings: &mut Vec<Finding>) {
    let field = "spec.selector.matchLabels";
    labels::check(&selector.match_labels, field, findings);
    if selector.match_labels.is_empty() {
        findings.push(Finding::warning(
            field,
            "selects every workload, as if there were no selector",
        ));
    }
}
