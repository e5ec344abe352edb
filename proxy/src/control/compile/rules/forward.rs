//! A rule that sends requests on: destinations, rewrite, timeout, retries, mirrors.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use http::HeaderValue;

use super::{Forwarding, MirrorTarget, Origin, Target, policies, weight};
use crate::api::virtual_service::{HttpRetry, HttpRewrite, HttpRoute, Percentage};
use crate::policy::headers::Operations;
use crate::policy::retry;
use crate::policy::rewrite::{PathRewrite, Rewrite, Substitution, SubstitutionError};
use crate::types::{Finding, Fraction};

/// Istio's, for rules without `retries` and services without rules; one for all of them.
static DEFAULT_RETRY: LazyLock<Arc<retry::Policy>> = LazyLock::new(Arc::default);

/// The default retry policy.
pub(in crate::control::compile) fn default_retry() -> Arc<retry::Policy> {
    Arc::clone(&DEFAULT_RETRY)
}

/// The rule's forwarding; and the operations of its only destination, which join the rule's own.
pub(super) fn compile(
    rule: &HttpRoute,
    field: &str,
    origin: &Origin<'_>,
    errors: &mut Vec<Finding>,
) -> (Forwarding, Option<Arc<Operations>>) {
    let count = rule.route.len();
    let mut targets = Vec::with_capacity(count);
    let mut only = None;
    for (index, one) in rule.route.iter().enumerate() {
        let field = format!("{field}.route[{index}]");
        let headers = policies::operations(one.headers.as_ref(), &field, errors);
        let headers = (!headers.is_empty()).then_some(headers);
        let (Some(destination), Some(weight)) = (&one.destination, weight(one.weight, count))
        else {
            continue;
        };
        let target = Target {
            index,
            place: origin.place(destination),
            weight,
            headers: if count == 1 { None } else { headers.clone() },
        };
        if count == 1 {
            only = headers;
        }
        targets.push(target);
    }
    let rewrite = rule.rewrite.as_ref();
    let forwarding = Forwarding {
        targets,
        rewrite: rewrite.and_then(|one| rewriting(one, &format!("{field}.rewrite"), errors)),
        timeout: rule.timeout,
        retry: match &rule.retries {
            None => default_retry(),
            Some(given) => retrying(given, rule.timeout, &format!("{field}.retries"), errors),
        },
        mirrors: mirrors(rule, origin),
    };
    (forwarding, only)
}

fn rewriting(given: &HttpRewrite, field: &str, errors: &mut Vec<Finding>) -> Option<Arc<Rewrite>> {
    let mut refuse = |field: String, message: String| {
        errors.push(Finding::error(field, message));
    };
    let path = match &given.uri_regex_rewrite {
        Some(regex) => {
            let field = format!("{field}.uriRegexRewrite");
            match Substitution::new(&regex.pattern, &regex.rewrite) {
                Ok(substitution) => Some(PathRewrite::Regex(substitution)),
                Err(error) => {
                    let field = match &error {
                        SubstitutionError::Match(_) | SubstitutionError::Empty => {
                            format!("{field}.match")
                        }
                        SubstitutionError::Backslash | SubstitutionError::Group { .. } => {
                            format!("{field}.rewrite")
                        }
                    };
                    let text = error.to_string();
                    let text = text.split_once(": ").map_or(&*text, |(_, text)| text);
                    refuse(field, text.to_owned());
                    None
                }
            }
        }
        None if given.uri.is_empty() => None,
        None => Some(PathRewrite::Matched(given.uri.as_str().into())),
    };
    let authority = if given.authority.is_empty() {
        None
    } else {
        match HeaderValue::from_str(&given.authority) {
            Ok(value) => Some(value),
            Err(error) => {
                refuse(format!("{field}.authority"), error.to_string());
                None
            }
        }
    };
    Some(Arc::new(Rewrite { path, authority }))
}

fn retrying(
    given: &HttpRetry,
    timeout: Option<Duration>,
    field: &str,
    errors: &mut Vec<Finding>,
) -> Arc<retry::Policy> {
    // `retryOn` may be wrong even where nothing is retried; validation refuses the pair.
    let on = match retry::Conditions::parse(&given.retry_on) {
        Ok(on) => on,
        Err(error) => {
            errors.push(Finding::error(
                format!("{field}.retryOn"),
                error.to_string(),
            ));
            retry::Conditions::default()
        }
    };
    let attempts = u32::try_from(given.attempts).unwrap_or(0);
    if attempts == 0 {
        return Arc::new(retry::Policy::never());
    }
    let default = retry::Policy::default();
    Arc::new(retry::Policy {
        attempts,
        // Envoy ignores one that is not shorter than the whole.
        per_try_timeout: given
            .per_try_timeout
            .filter(|one| timeout.is_none_or(|timeout| *one < timeout)),
        on,
        remote_localities: given.retry_remote_localities.unwrap_or(false),
        ignore_previous_hosts: given.retry_ignore_previous_hosts,
        backoff: given.backoff.unwrap_or(default.backoff),
    })
}

fn mirrors(rule: &HttpRoute, origin: &Origin<'_>) -> Vec<MirrorTarget> {
    let old = rule.mirror.iter().map(|destination| {
        let share = match (rule.mirror_percentage, rule.mirror_percent) {
            (None, Some(percent)) => policies::share(Some(Percentage {
                value: f64::from(percent),
            })),
            (percentage, _) => {
                percentage.map_or(Fraction::ALWAYS, |one| policies::share(Some(one)))
            }
        };
        ("mirror".to_owned(), destination, share)
    });
    let new = rule.mirrors.iter().enumerate().filter_map(|(index, one)| {
        let share = one
            .percentage
            .map_or(Fraction::ALWAYS, |one| policies::share(Some(one)));
        let field = format!("mirrors[{index}].destination");
        Some((field, one.destination.as_ref()?, share))
    });
    old.chain(new)
        .filter(|(.., share)| *share != Fraction::NEVER)
        .map(|(field, destination, share)| MirrorTarget {
            field,
            place: origin.place(destination),
            share,
        })
        .collect()
}
