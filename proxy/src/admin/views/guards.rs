//! Who may connect to local pods, as rows.

use super::rows::{AppliedRow, MtlsRow, PolicyRow, TokenRow};
use crate::admin::Filter;
use crate::mesh::{Guard, Snapshot};
use crate::policy::authorization::Policy;
use crate::policy::jwt::Source;
use crate::policy::peer_authentication::{Mode, Setting};

/// The policies in force at local pods.
pub fn policies(snapshot: &Snapshot, filter: &Filter) -> Vec<PolicyRow> {
    let mut rows = Vec::new();
    for workload in snapshot.workloads.iter() {
        let pod = format!("{}/{}", workload.namespace, workload.name);
        if let Some(guard) = snapshot.guard(workload)
            && filter.wants_pod(Some(&pod))
        {
            rows.push(PolicyRow {
                mtls: mtls(guard, filter),
                tokens: tokens(guard),
                policies: applied(guard),
                pod,
            });
        }
    }
    rows
}

fn mtls(guard: &Guard, filter: &Filter) -> Vec<MtlsRow> {
    let row = |port: Option<u16>, setting: &Setting| MtlsRow {
        port,
        mode: match setting.mode {
            Mode::Permissive => "PERMISSIVE",
            Mode::Strict => "STRICT",
            Mode::Disable => "DISABLE",
        }
        .to_owned(),
        source: setting.policy.as_ref().map(ToString::to_string),
    };
    if let Some(port) = filter.port {
        return vec![row(Some(port), guard.peers.at(port))];
    }
    let named = guard.peers.ports().iter();
    let named = named.map(|(port, setting)| row(Some(*port), setting));
    named.chain([row(None, guard.peers.others())]).collect()
}

fn tokens(guard: &Guard) -> Vec<TokenRow> {
    let rows = guard.tokens.iter().map(|rule| TokenRow {
        issuer: rule.issuer.to_string(),
        source: rule.object.to_string(),
        keys: match &rule.keys {
            Source::Given(_) => "given".to_owned(),
            Source::Nowhere(_) => "none".to_owned(),
            Source::Fetched(origin) => origin.location.to_string(),
        },
    });
    rows.collect()
}

/// In the order of [`crate::policy::authorization::judge`]; what is not enforced comes last.
fn applied(guard: &Guard) -> Vec<AppliedRow> {
    use crate::policy::authorization::Action::{Allow, Audit, Custom, Deny};
    let mut all: Vec<&Policy> = guard.policies.iter().map(|one| &**one).collect();
    let rank = |one: &&Policy| match one.action {
        Custom => 0,
        Deny => 1,
        Allow => 2,
        Audit => 3,
    };
    all.sort_by_key(|one| (one.dry_run, rank(one)));
    let rows = all.into_iter().map(|one| AppliedRow {
        source: one.object.to_string(),
        action: match one.action {
            Custom => "CUSTOM",
            Deny => "DENY",
            Allow => "ALLOW",
            Audit => "AUDIT",
        }
        .to_owned(),
        rules: one.rules(),
        dry_run: one.dry_run,
        asks_for_requests: one.asks_for_requests(),
    });
    rows.collect()
}
