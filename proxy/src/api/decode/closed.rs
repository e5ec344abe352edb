//! What stands in for an AuthorizationPolicy that is not valid and never was: one that allows nothing
//! of what it can have been meant for.
//!
//! On a cluster Istio's admission webhook refuses such a policy, and its author hears of it at once.
//! Where nothing refuses it, it must not be as if it were not there.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::cursor::Cursor;
use crate::api::authorization_policy::{Action, AuthorizationPolicySpec, Rule};
use crate::api::value::Node;
use crate::api::{AuthorizationPolicy, Metadata};
use crate::types::ObjectRef;

/// Reads of `node` what can be read. An ALLOW policy allows nothing by itself; any other denies all
/// requests and connections, but AUDIT, which never denies and needs nothing in its place. What it is attached to counts where it
/// can be read; otherwise it is for every pod of its namespace.
pub(super) fn policy(node: &Node, reference: &ObjectRef) -> Option<AuthorizationPolicy> {
    let spec = node.get("spec");
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let action = match field("action") {
        None => Action::Allow,
        Some(action) => read(action).unwrap_or(Action::Deny),
    };
    if action == Action::Audit {
        return None;
    }
    let annotations = node.get("metadata").and_then(|one| one.get("annotations"));
    Some(AuthorizationPolicy {
        metadata: Metadata {
            name: Arc::clone(&reference.name),
            namespace: Arc::clone(&reference.namespace),
            annotations: annotations.and_then(read).unwrap_or_default(),
            ..Metadata::default()
        },
        spec: AuthorizationPolicySpec {
            selector: field("selector").and_then(read),
            target_ref: field("targetRef").and_then(read),
            target_refs: field("targetRefs").and_then(read).unwrap_or_default(),
            rules: match action {
                Action::Allow | Action::Audit => Vec::new(),
                Action::Deny | Action::Custom => vec![Rule::default()],
            },
            action,
            provider: None,
        },
    })
}

fn read<T: DeserializeOwned>(node: &Node) -> Option<T> {
    T::deserialize(Cursor::new(node, None)).ok()
}
