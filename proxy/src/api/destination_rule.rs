//! Istio's DestinationRule: named subsets of a service's endpoints, and how traffic is sent there.

use std::collections::{BTreeMap, HashSet};
use std::sync::Arc;

use serde::Deserialize;
use serde_yaml::Value;

use super::host::{check_export_to, check_host};
use super::{Metadata, NOT_YET, is_label, or_default};
use crate::types::Finding;

/// `networking.istio.io` DestinationRule.
#[derive(Clone, Debug, PartialEq, Deserialize)]
pub struct DestinationRule {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`.
    pub spec: DestinationRuleSpec,
}

/// `spec` of a [`DestinationRule`].
#[derive(Clone, Debug, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DestinationRuleSpec {
    /// `host`.
    #[serde(default, deserialize_with = "or_default")]
    pub host: String,
    /// `subsets`.
    #[serde(default, deserialize_with = "or_default")]
    pub subsets: Vec<Subset>,
    /// `exportTo`.
    #[serde(default, deserialize_with = "or_default")]
    pub export_to: Vec<String>,
    /// `workloadSelector`: which clients the rule is for.
    #[serde(default)]
    pub workload_selector: Option<Value>,
}

/// One of `subsets`.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Subset {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: Arc<str>,
    /// `labels`; without any, every endpoint belongs to it.
    #[serde(default, deserialize_with = "or_default")]
    pub labels: BTreeMap<String, String>,
}

impl DestinationRule {
    pub(super) fn validate(&self, findings: &mut Vec<Finding>) {
        let spec = &self.spec;
        check_host(&spec.host, "spec.host", findings);
        check_export_to(&spec.export_to, findings);
        let mut names = HashSet::new();
        for (index, subset) in spec.subsets.iter().enumerate() {
            let field = format!("spec.subsets[{index}].name");
            if subset.name.is_empty() {
                findings.push(Finding::error(field, "a subset needs a name"));
            } else if !is_label(&subset.name) {
                findings.push(Finding::error(
                    field,
                    format!(
                        "{:?} is not a DNS label (a-z, 0-9 and -, at most 63)",
                        subset.name
                    ),
                ));
            } else if !names.insert(&subset.name) {
                findings.push(Finding::warning(
                    field,
                    format!(
                        "subset {} is given twice: the first one counts",
                        subset.name
                    ),
                ));
            }
        }
        if spec.workload_selector.is_some() {
            findings.push(Finding::warning(
                "spec.workloadSelector",
                format!("{NOT_YET}; the rule as a whole is left out, since it is meant for some clients only"),
            ));
        }
    }
}
