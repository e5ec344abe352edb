//! What stands in for an object of security that is not valid and never was: one that lets nothing
//! through of what it can have been meant to keep out.
//!
//! On a cluster Istio's admission webhook refuses such a policy, and its author hears of it at once.
//! Where nothing refuses it, it must not be as if it were not there.

use std::sync::Arc;

use serde::de::DeserializeOwned;

use super::cursor::Cursor;
use crate::api::authorization_policy::{Action, AuthorizationPolicySpec, Rule};
use crate::api::peer_authentication::{MutualTls, MutualTlsMode, PeerAuthenticationSpec};
use crate::api::request_authentication::{JwtRule, RequestAuthenticationSpec};
use crate::api::value::Node;
use crate::api::{
    AuthorizationPolicy, Metadata, Object, PeerAuthentication, RequestAuthentication,
};
use crate::types::ObjectRef;

/// What stands in for the object of `node`, of which is read what can be read. What it is attached to
/// counts where it can be read; otherwise it is for every pod of its namespace.
pub(super) fn object(node: &Node, reference: &ObjectRef) -> Option<Object> {
    match &*reference.kind {
        "AuthorizationPolicy" => {
            let policy = policy(node, reference)?;
            Some(Object::AuthorizationPolicy(Arc::new(policy)))
        }
        "PeerAuthentication" => {
            let peers = peers(node, reference);
            Some(Object::PeerAuthentication(Arc::new(peers)))
        }
        "RequestAuthentication" => {
            let tokens = tokens(node, reference);
            Some(Object::RequestAuthentication(Arc::new(tokens)))
        }
        _ => None,
    }
}

/// Plain text is refused.
fn peers(node: &Node, reference: &ObjectRef) -> PeerAuthentication {
    let spec = node.get("spec");
    PeerAuthentication {
        metadata: metadata(node, reference),
        spec: PeerAuthenticationSpec {
            selector: spec.and_then(|spec| spec.get("selector")).and_then(read),
            mtls: Some(MutualTls {
                mode: MutualTlsMode::Strict,
            }),
            ..PeerAuthenticationSpec::default()
        },
    }
}

/// No token is valid, where its rules look for one and, where that can't be read, at the usual places;
/// and nobody but a rule may write the fields that it writes.
fn tokens(node: &Node, reference: &ObjectRef) -> RequestAuthentication {
    let spec = node.get("spec");
    let field = |name: &str| spec.and_then(|spec| spec.get(name));
    let rules: Option<Vec<JwtRule>> = field("jwtRules").and_then(read);
    let mut rules = rules.filter(|rules| !rules.is_empty());
    for rule in rules.iter_mut().flatten() {
        *rule = keyless(std::mem::take(rule));
    }
    RequestAuthentication {
        metadata: metadata(node, reference),
        spec: RequestAuthenticationSpec {
            selector: field("selector").and_then(read),
            target_ref: field("targetRef").and_then(read),
            target_refs: field("targetRefs").and_then(read).unwrap_or_default(),
            jwt_rules: rules.unwrap_or_else(|| vec![keyless(JwtRule::default())]),
        },
    }
}

/// The rule without anything by which a token could be valid.
fn keyless(rule: JwtRule) -> JwtRule {
    JwtRule {
        jwks: "{}".to_owned(),
        jwks_uri: String::new(),
        ..rule
    }
}

fn metadata(node: &Node, reference: &ObjectRef) -> Metadata {
    let metadata: Option<Metadata> = node.get("metadata").and_then(read);
    Metadata {
        name: Arc::clone(&reference.name),
        namespace: Arc::clone(&reference.namespace),
        ..metadata.unwrap_or_default()
    }
}

/// An ALLOW policy allows nothing by itself; any other denies all
/// requests and connections, but AUDIT, which never denies and needs nothing in its place.
fn policy(node: &Node, reference: &ObjectRef) -> Option<AuthorizationPolicy> {
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
