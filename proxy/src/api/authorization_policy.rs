//! Istio's AuthorizationPolicy: who may do what with a workload.
//!
//! The fields are those of `security/v1beta1/authorization_policy.proto`.

use serde::Deserialize;

use super::attachment::{Selector, TargetRef, target_field};
use super::{Metadata, or_default};

mod validate;

pub(crate) use validate::Key;

/// `security.istio.io` AuthorizationPolicy.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct AuthorizationPolicy {
    /// `metadata`.
    pub metadata: Metadata,
    /// `spec`; without one it allows nothing.
    #[serde(default, deserialize_with = "or_default")]
    pub spec: AuthorizationPolicySpec,
}

/// `spec` of an [`AuthorizationPolicy`].
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct AuthorizationPolicySpec {
    /// `selector`.
    #[serde(default)]
    pub selector: Option<Selector>,
    /// `targetRef`.
    #[serde(default, alias = "target_ref")]
    pub target_ref: Option<TargetRef>,
    /// `targetRefs`.
    #[serde(default, alias = "target_refs", deserialize_with = "or_default")]
    pub target_refs: Vec<TargetRef>,
    /// `rules`: one must match. Without any the policy never matches.
    #[serde(default, deserialize_with = "or_default")]
    pub rules: Vec<Rule>,
    /// `action`.
    #[serde(default, deserialize_with = "or_default")]
    pub action: Action,
    /// `provider`: who is asked, for [`Action::Custom`].
    #[serde(default)]
    pub provider: Option<Provider>,
}

/// `action`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "SCREAMING_SNAKE_CASE")]
pub enum Action {
    /// What matches is allowed, and nothing else.
    #[default]
    Allow,
    /// What matches is denied.
    Deny,
    /// What matches is marked.
    Audit,
    /// Of what matches an external service decides.
    Custom,
}

/// `provider`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Provider {
    /// `name`.
    #[serde(default, deserialize_with = "or_default")]
    pub name: String,
}

/// One of `rules`: all three must hold; what is absent always does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Rule {
    /// `from`: one must hold.
    #[serde(default, deserialize_with = "or_default")]
    pub from: Vec<From>,
    /// `to`: one must hold.
    #[serde(default, deserialize_with = "or_default")]
    pub to: Vec<To>,
    /// `when`: all must hold.
    #[serde(default, deserialize_with = "or_default")]
    pub when: Vec<Condition>,
}

/// One of `from`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct From {
    /// `source`.
    #[serde(default)]
    pub source: Option<Source>,
}

/// One of `to`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct To {
    /// `operation`.
    #[serde(default)]
    pub operation: Option<Operation>,
}

macro_rules! lists {
    ($(#[$attribute:meta])* $Name:ident { $($field:ident = $name:literal / $snake:literal;)+ }) => {
        $(#[$attribute])*
        #[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
        pub struct $Name {
            $(
                #[doc = concat!("`", $name, "`.")]
                #[serde(default, rename = $name, alias = $snake, deserialize_with = "or_default")]
                pub $field: Vec<String>,
            )+
        }

        impl $Name {
            /// Every list with its name.
            pub fn lists(&self) -> impl Iterator<Item = (&'static str, &[String])> {
                [$(($name, self.$field.as_slice()),)+].into_iter()
            }
        }
    };
}

lists! {
    /// `source`: all that is given must hold.
    Source {
        principals = "principals" / "principals";
        not_principals = "notPrincipals" / "not_principals";
        request_principals = "requestPrincipals" / "request_principals";
        not_request_principals = "notRequestPrincipals" / "not_request_principals";
        namespaces = "namespaces" / "namespaces";
        not_namespaces = "notNamespaces" / "not_namespaces";
        service_accounts = "serviceAccounts" / "service_accounts";
        not_service_accounts = "notServiceAccounts" / "not_service_accounts";
        trust_domains = "trustDomains" / "trust_domains";
        not_trust_domains = "notTrustDomains" / "not_trust_domains";
        ip_blocks = "ipBlocks" / "ip_blocks";
        not_ip_blocks = "notIpBlocks" / "not_ip_blocks";
        remote_ip_blocks = "remoteIpBlocks" / "remote_ip_blocks";
        not_remote_ip_blocks = "notRemoteIpBlocks" / "not_remote_ip_blocks";
    }
}

lists! {
    /// `operation`: all that is given must hold.
    Operation {
        hosts = "hosts" / "hosts";
        not_hosts = "notHosts" / "not_hosts";
        ports = "ports" / "ports";
        not_ports = "notPorts" / "not_ports";
        methods = "methods" / "methods";
        not_methods = "notMethods" / "not_methods";
        paths = "paths" / "paths";
        not_paths = "notPaths" / "not_paths";
    }
}

/// One of `when`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Condition {
    /// `key`: the attribute.
    #[serde(default, deserialize_with = "or_default")]
    pub key: String,
    /// `values`: one must match.
    #[serde(default, deserialize_with = "or_default")]
    pub values: Vec<String>,
    /// `notValues`: none may match.
    #[serde(
        default,
        rename = "notValues",
        alias = "not_values",
        deserialize_with = "or_default"
    )]
    pub not_values: Vec<String>,
}

impl AuthorizationPolicy {
    /// The annotation that makes a policy a trial.
    const DRY_RUN: &str = "istio.io/dry-run";

    /// Whether it is a trial: evaluated and told of, never enforced.
    pub fn is_dry_run(&self) -> bool {
        let annotation = self.metadata.annotations.get(Self::DRY_RUN);
        annotation.is_some_and(|value| is_true(value) == Some(true))
    }

    /// The field by which it is attached to objects by name, and not to workloads.
    pub fn target_field(&self) -> Option<&'static str> {
        target_field(self.spec.target_ref.as_ref(), &self.spec.target_refs)
    }
}

/// The words that Istio reads as a truth value (Go's `strconv.ParseBool`).
fn is_true(text: &str) -> Option<bool> {
    match text {
        "1" | "t" | "T" | "true" | "TRUE" | "True" => Some(true),
        "0" | "f" | "F" | "false" | "FALSE" | "False" => Some(false),
        _ => None,
    }
}
