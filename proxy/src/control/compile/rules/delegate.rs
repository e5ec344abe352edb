//! Rules that delegate: what becomes of a root VirtualService's rule and of the rules of the
//! VirtualService that it names (Istio's `mergeVirtualServicesIfNeeded`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::{Origin, Routes, template};
use crate::api::virtual_service::{
    Delegate, Destination, HttpMatch, HttpRoute, StringMatch, VirtualServiceSpec,
};
use crate::types::{Finding, Hostname, ObjectRef};

/// A rule that names a delegate, and what was found under that name.
#[derive(Debug)]
pub(in crate::control::compile) struct Named {
    /// Which of `spec.http` it is.
    pub(in crate::control::compile) index: usize,
    /// The delegate; `None` where there is no VirtualService of this name.
    pub(in crate::control::compile) found: Option<Arc<Routes>>,
}

/// The names that the rules of `root` delegate to, namespace first, in order.
pub(in crate::control::compile) fn names(
    root: &Routes,
) -> impl Iterator<Item = (usize, (Arc<str>, Arc<str>))> {
    let rules = root.source.spec.http.iter().enumerate();
    rules.filter_map(|(index, rule)| {
        let Delegate { name, namespace } = rule.delegate.as_ref()?;
        let namespace = match namespace.as_str() {
            "" => Arc::clone(&root.reference.namespace),
            given => given.into(),
        };
        Some((index, (namespace, name.as_str().into())))
    })
}

/// The rules of `root` with those of its delegates in their places. A delegate that can't be used
/// costs the rule that names it, and nothing else.
pub(in crate::control::compile) fn expand(
    root: &Arc<Routes>,
    delegates: &[Named],
    cluster_domain: &str,
    findings: &mut Vec<Finding>,
) -> Routes {
    let spec = &root.source.spec;
    let origin = |delegate| Origin {
        namespace: &root.reference.namespace,
        cluster_domain,
        for_mesh: spec.is_for_mesh(),
        delegate,
    };
    let mut rules = Vec::new();
    for (index, rule) in spec.http.iter().enumerate() {
        let Some(named) = delegates.iter().find(|one| one.index == index) else {
            rules.extend(template(rule, index, &origin(None), findings));
            continue;
        };
        let field = format!("spec.http[{index}].delegate");
        let delegate = match usable(root, rule, named.found.as_ref()) {
            Ok(delegate) => delegate,
            Err(why) => {
                let message = format!("{why}; this rule is left out");
                findings.push(Finding::warning(field, message));
                continue;
            }
        };
        let root_rule = qualified(rule, &root.reference.namespace, cluster_domain);
        for (at, own) in delegate.source.spec.http.iter().enumerate() {
            let own = qualified(own, &delegate.reference.namespace, cluster_domain);
            match merge(&root_rule, own, spec) {
                Some(merged) => {
                    findings.extend(unasked(&merged, &field));
                    let origin = origin(Some(&delegate.reference));
                    rules.extend(template(&merged, at, &origin, findings));
                }
                None => findings.push(Finding::warning(
                    &*field,
                    format!(
                        "spec.http[{at}] of {} is left out: one of its match blocks lies within none of this rule's",
                        delegate.reference
                    ),
                )),
            }
        }
    }
    Routes {
        source: Arc::clone(&root.source),
        reference: Arc::clone(&root.reference),
        hosts: root.hosts.clone(),
        rules,
        l4: super::l4::templates(spec, &origin(None)),
    }
}

fn usable<'a>(
    root: &Routes,
    rule: &HttpRoute,
    found: Option<&'a Arc<Routes>>,
) -> Result<&'a Arc<Routes>, String> {
    let name = || {
        let delegate = rule.delegate.clone().unwrap_or_default();
        let namespace = match delegate.namespace.as_str() {
            "" => &*root.reference.namespace,
            given => given,
        };
        ObjectRef {
            kind: "VirtualService".into(),
            namespace: namespace.into(),
            name: delegate.name.into(),
        }
    };
    let delegate = found.ok_or_else(|| format!("there is no valid {}", name()))?;
    if Arc::ptr_eq(&delegate.source, &root.source) {
        return Err(format!("{} delegates to itself", delegate.reference));
    }
    let spec = &delegate.source.spec;
    if !spec.is_delegate() {
        return Err(format!(
            "{} has hosts of its own, and is no delegate",
            delegate.reference
        ));
    }
    let own = &delegate.reference.namespace;
    if !super::super::visibility::sees(&spec.export_to, own, &root.reference.namespace) {
        return Err(format!(
            "{} is not exported to {}",
            delegate.reference, root.reference.namespace
        ));
    }
    Ok(delegate)
}

/// The rule with its destinations' names in full, since its parts come from two namespaces.
fn qualified(rule: &HttpRoute, namespace: &str, cluster_domain: &str) -> HttpRoute {
    let mut rule = rule.clone();
    let qualify = |one: &mut Destination| {
        one.host = Hostname::resolve(&one.host, namespace, cluster_domain)
            .as_str()
            .to_owned();
    };
    let routes = rule
        .route
        .iter_mut()
        .filter_map(|one| one.destination.as_mut());
    let mirrors = rule
        .mirrors
        .iter_mut()
        .filter_map(|one| one.destination.as_mut());
    routes
        .chain(mirrors)
        .chain(&mut rule.mirror)
        .for_each(qualify);
    rule
}

/// What a delegate asks of clients where the root's block has gateways.
fn unasked(merged: &HttpRoute, field: &str) -> BTreeSet<Finding> {
    let names = merged.matches.iter().flat_map(HttpMatch::unasked);
    names
        .map(|name| {
            let message = format!(
                "{name} has no effect in a block that has gateways (nor in Istio): leave them out of this rule's"
            );
            Finding::warning(field, message)
        })
        .collect()
}

/// The delegate's rule `own` under the root's rule; `None` where a block of it lies within none of
/// the root's: then Istio leaves out all of it, and not that block alone (`mergeHTTPMatchRequests`).
fn merge(root: &HttpRoute, own: HttpRoute, spec: &VirtualServiceSpec) -> Option<HttpRoute> {
    let matches = match (root.matches.as_slice(), own.matches.as_slice()) {
        ([], _) => own.matches.clone(),
        (_, []) => root.matches.clone(),
        (root, own) => {
            let mut merged: Vec<HttpMatch> = Vec::new();
            for own in own {
                let before = merged.len();
                let pairs = root.iter();
                merged.extend(pairs.filter_map(|root| merge_blocks(root, own, spec)));
                if merged.len() == before {
                    return None;
                }
            }
            merged
        }
    };
    let answers = own.redirect.is_some() || own.direct_response.is_some() || !own.route.is_empty();
    Some(HttpRoute {
        name: join_names(&root.name, &own.name),
        matches,
        route: own.route,
        redirect: own.redirect,
        direct_response: own
            .direct_response
            .or_else(|| root.direct_response.clone().filter(|_| !answers)),
        delegate: None,
        rewrite: own.rewrite.or_else(|| root.rewrite.clone()),
        timeout: own.timeout.or(root.timeout),
        retries: own.retries.or_else(|| root.retries.clone()),
        fault: own.fault.or_else(|| root.fault.clone()),
        mirror: own.mirror.or_else(|| root.mirror.clone()),
        mirror_percent: own.mirror_percent.or(root.mirror_percent),
        mirror_percentage: own.mirror_percentage.or(root.mirror_percentage),
        mirrors: if own.mirrors.is_empty() {
            root.mirrors.clone()
        } else {
            own.mirrors
        },
        cors_policy: own.cors_policy.or_else(|| root.cors_policy.clone()),
        headers: own.headers.or_else(|| root.headers.clone()),
    })
}

fn join_names(root: &str, own: &str) -> String {
    match (root, own) {
        ("", own) => own.to_owned(),
        (root, "") => root.to_owned(),
        (root, own) => format!("{root}-{own}"),
    }
}

/// Both blocks' conditions; `None` where the delegate's asks for what the root's excludes.
fn merge_blocks(root: &HttpMatch, own: &HttpMatch, spec: &VirtualServiceSpec) -> Option<HttpMatch> {
    let texts = [
        (&root.uri, &own.uri),
        (&root.scheme, &own.scheme),
        (&root.method, &own.method),
        (&root.authority, &own.authority),
    ];
    let lies_within = texts
        .iter()
        .all(|(root, own)| within(root.as_ref(), own.as_ref()))
        && all_within(&root.headers, &own.headers)
        && all_within(&root.without_headers, &own.without_headers)
        && all_within(&root.query_params, &own.query_params)
        && root.ignore_uri_case == own.ignore_uri_case;
    let port = match (given(root.port), given(own.port)) {
        (Some(root), Some(own)) if root != own => return None,
        (root, own) => own.or(root),
    };
    let mut source_labels = root.source_labels.clone();
    for (label, value) in &own.source_labels {
        let before = source_labels.insert(label.clone(), value.clone());
        if before.is_some_and(|before| before != *value) {
            return None;
        }
    }
    // The delegate must repeat it (Istio's `hasConflict`).
    let root_namespace = &root.source_namespace;
    if !root_namespace.is_empty() && *root_namespace != own.source_namespace {
        return None;
    }
    // The delegate has no gateways of its own: its blocks choose among the root's.
    let gateways = match (root.gateways.as_slice(), own.gateways.as_slice()) {
        (root, []) => root.to_vec(),
        ([], own) => {
            let known = |one: &String| {
                spec.gateways.contains(one)
                    || (spec.gateways.is_empty() && one == crate::api::virtual_service::MESH)
            };
            if !own.iter().all(known) {
                return None;
            }
            own.to_vec()
        }
        (root, own) if own.iter().all(|one| root.contains(one)) => own.to_vec(),
        _ => return None,
    };
    lies_within.then(|| HttpMatch {
        name: join_names(&root.name, &own.name),
        uri: own.uri.clone().or_else(|| root.uri.clone()),
        ignore_uri_case: own.ignore_uri_case,
        scheme: own.scheme.clone().or_else(|| root.scheme.clone()),
        method: own.method.clone().or_else(|| root.method.clone()),
        authority: own.authority.clone().or_else(|| root.authority.clone()),
        headers: both(&root.headers, &own.headers),
        without_headers: both(&root.without_headers, &own.without_headers),
        query_params: both(&root.query_params, &own.query_params),
        port,
        source_labels,
        source_namespace: own.source_namespace.clone(),
        gateways,
        stat_prefix: if own.stat_prefix.is_empty() {
            root.stat_prefix.clone()
        } else {
            own.stat_prefix.clone()
        },
    })
}

fn given(port: Option<u16>) -> Option<u16> {
    port.filter(|port| *port != 0)
}

type Conditions = BTreeMap<String, Option<StringMatch>>;

fn both(root: &Conditions, own: &Conditions) -> Conditions {
    let mut both = root.clone();
    both.extend(own.clone());
    both
}

fn all_within(root: &Conditions, own: &Conditions) -> bool {
    own.iter().all(|(key, own)| {
        let root = root.get(key).and_then(Option::as_ref);
        within(root, own.as_ref())
    })
}

/// Whether what `own` accepts is accepted by `root`: of expressions nobody can tell.
fn within(root: Option<&StringMatch>, own: Option<&StringMatch>) -> bool {
    let (Some(root), Some(own)) = (root, own) else {
        return true;
    };
    match (&root.exact, &root.prefix) {
        (Some(exact), _) => own.exact.as_ref() == Some(exact),
        (None, Some(prefix)) => {
            let text = own.exact.as_ref().or(own.prefix.as_ref());
            text.is_some_and(|text| text.starts_with(prefix.as_str()))
        }
        (None, None) => false,
    }
}
