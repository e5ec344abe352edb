//! Policies in words: what differs from the default, one phrase each.

use std::time::Duration;

use humantime::format_duration;

use crate::mesh::cluster::Policy;
use crate::mesh::{Action, Rule};
use crate::policy::balance::Algorithm;
use crate::policy::circuit::Limits;
use crate::policy::locality::Settings;
use crate::policy::redirect::{Path, Port};
use crate::policy::rewrite::PathRewrite;
use crate::policy::{fault, hash, outlier, retry};
use crate::wire::proxy_protocol::Version;

/// What the rule does, where it does not send requests on; and its policies.
pub(super) fn of_rule(rule: &Rule) -> Vec<String> {
    let mut words = Vec::new();
    match &rule.action {
        Action::Redirect(redirect) => {
            let mut to = format!("redirect {}", redirect.status.as_u16());
            if let Some(scheme) = redirect.scheme {
                to += &format!(" scheme {scheme:?}").to_lowercase();
            }
            if let Some(authority) = &redirect.authority {
                to += &format!(" authority {authority}");
            }
            match redirect.port {
                Port::Kept => {}
                Port::ProtocolDefault => to += " port of the scheme",
                Port::Request => to += " port of the request",
                Port::Fixed(port) => to += &format!(" port {port}"),
            }
            match &redirect.path {
                Path::Kept => {}
                Path::Whole(path) => to += &format!(" path {path}"),
                Path::Prefix(prefix) => to += &format!(" prefix {prefix}"),
            }
            words.push(to);
        }
        Action::Respond(response) => words.push(format!(
            "respond {} with {} bytes",
            response.status.as_u16(),
            response.body.len()
        )),
        Action::Forward(forward) => {
            if let Some(rewrite) = &forward.rewrite {
                match &rewrite.path {
                    Some(PathRewrite::Matched(with)) => {
                        words.push(format!("rewrite path to {with}"))
                    }
                    Some(PathRewrite::Regex(_)) => words.push("rewrite path by expression".into()),
                    None => {}
                }
                let authority = rewrite.authority.as_ref().and_then(|one| one.to_str().ok());
                words.extend(authority.map(|one| format!("rewrite authority to {one}")));
            }
            words.extend(forward.timeout.map(|one| format!("timeout {}", show(one))));
            words.extend(retries(&forward.retry));
            for mirror in &forward.mirrors {
                words.push(format!("mirror {} to {}", mirror.share, mirror.cluster));
            }
        }
    }
    words.extend(rule.fault.iter().flat_map(|one| faults(one)));
    if rule.cors.is_some() {
        words.push("cors".into());
    }
    if !rule.headers.is_empty() {
        words.push("headers".into());
    }
    words.extend(
        rule.stat_prefix
            .iter()
            .map(|one| format!("statistics {one}")),
    );
    words
}

fn show(duration: Duration) -> String {
    format_duration(duration).to_string()
}

fn retries(policy: &retry::Policy) -> Option<String> {
    if *policy == retry::Policy::default() {
        return None;
    }
    if policy.attempts == 0 {
        return Some("no retries".into());
    }
    let mut text = format!("{} retries on {}", policy.attempts, policy.on);
    if let Some(one) = policy.per_try_timeout {
        text += &format!(", {} each", show(one));
    }
    let default = retry::Policy::default();
    if policy.backoff != default.backoff {
        text += &format!(", backoff {}", show(policy.backoff));
    }
    if policy.remote_localities {
        text += ", remote localities";
    }
    match policy.ignore_previous_hosts {
        None => {}
        Some(true) => text += ", other hosts",
        Some(false) => text += ", any host",
    }
    Some(text)
}

fn faults(policy: &fault::Policy) -> Vec<String> {
    let delay = policy
        .delay
        .map(|one| format!("delay {} by {}", one.share, show(one.duration)));
    let abort = policy.abort.map(|one| match one.status {
        fault::Status::Http(status) => format!("abort {} with {}", one.share, status.as_u16()),
        fault::Status::Grpc(status) => format!("abort {} with {}", one.share, status.name()),
    });
    delay.into_iter().chain(abort).collect()
}

/// The cluster's balancer.
pub(super) fn balancer(policy: &Policy) -> String {
    let name = match policy.balancer {
        Algorithm::LeastRequest => "least request".to_owned(),
        Algorithm::RoundRobin => "round robin".to_owned(),
        Algorithm::Random => "random".to_owned(),
        Algorithm::Passthrough => "passthrough".to_owned(),
        Algorithm::RingHash { min_size } => format!("ring of {min_size}"),
        Algorithm::Maglev { size } => format!("maglev of {size}"),
    };
    let key = match &policy.hash {
        None => return name,
        Some(hash::Key::Header(field)) => format!("header {field}"),
        Some(hash::Key::Cookie(cookie)) => format!("cookie {}", cookie.name),
        Some(hash::Key::SourceAddress) => "source address".to_owned(),
        Some(hash::Key::QueryParameter(name)) => format!("parameter {name}"),
    };
    format!("{name} by {key}")
}

/// The cluster's policies but for its balancer.
pub(super) fn of_cluster(policy: &Policy) -> Vec<String> {
    let mut words = Vec::new();
    let default = Policy::default();
    let limits = &policy.limits;
    for (name, limit) in [
        ("connections", limits.max_connections),
        ("pending requests", limits.max_pending),
        ("requests", limits.max_requests),
        ("retries", limits.max_retries),
    ] {
        if limit != Limits::UNLIMITED {
            words.push(format!("at most {limit} {name}"));
        }
    }
    words.extend(
        limits
            .retry_budget
            .map(|one| format!("retries up to {}% or {}", one.percent, one.min_concurrency)),
    );
    words.extend(policy.outlier.iter().map(outliers));
    if policy.panic_threshold != default.panic_threshold {
        words.push(format!(
            "all endpoints below {} healthy",
            policy.panic_threshold
        ));
    }
    words.extend(
        policy
            .warmup
            .map(|one| format!("warm-up {}", show(one.window))),
    );
    match &policy.locality {
        Settings::Ignore => {}
        Settings::Distribute(entries) => {
            words.push(format!("distributed from {} localities", entries.len()));
        }
        Settings::Failover { labels, regions } if labels.is_empty() && regions.is_empty() => {
            words.push("near localities first".into());
        }
        Settings::Failover { labels, regions } => {
            let labels = labels.iter().map(|label| match &label.value {
                Some(value) => format!("{}={value}", label.key),
                None => label.key.to_string(),
            });
            let regions = regions
                .iter()
                .map(|one| format!("{} to {}", one.from, one.to));
            let all: Vec<String> = labels.chain(regions).collect();
            words.push(format!("failover by {}", all.join(", ")));
        }
    }
    connections(policy, &default, &mut words);
    words.extend(policy.tls.iter().map(ToString::to_string));
    words.extend(policy.proxy_protocol.map(|version| {
        let version = match version {
            Version::One => 1,
            Version::Two => 2,
        };
        format!("PROXY protocol {version}")
    }));
    words.extend(policy.tunnel.iter().map(|one| {
        let method = if one.posts { "POST" } else { "CONNECT" };
        format!("{method} {}", one.target)
    }));
    words
}

fn outliers(settings: &outlier::Settings) -> String {
    let mut errors = Vec::new();
    for (name, count) in [
        ("5xx", settings.consecutive_5xx),
        ("gateway errors", settings.consecutive_gateway),
    ] {
        if count > 0 {
            errors.push(format!("{count} {name}"));
        }
    }
    if settings.split_local_origin && settings.consecutive_local_origin > 0 {
        errors.push(format!(
            "{} local failures",
            settings.consecutive_local_origin
        ));
    }
    format!(
        "eject after {} for {}, at most {}, swept every {}",
        errors.join(" or "),
        show(settings.base_ejection),
        settings.max_ejected,
        show(settings.interval)
    )
}

fn connections(policy: &Policy, default: &Policy, words: &mut Vec<String>) {
    let (tcp, http) = (&policy.tcp, &policy.http);
    if tcp.connect_timeout != default.tcp.connect_timeout {
        words.push(format!("connect timeout {}", show(tcp.connect_timeout)));
    }
    if tcp.idle_timeout != default.tcp.idle_timeout {
        words.push(match tcp.idle_timeout {
            Some(idle) => format!("idle timeout {}", show(idle)),
            None => "no idle timeout".to_owned(),
        });
    }
    if http.idle_timeout != default.http.idle_timeout {
        words.push(format!("HTTP idle timeout {}", show(http.idle_timeout)));
    }
    words.extend(
        tcp.max_connection_duration
            .map(|one| format!("connections end after {}", show(one))),
    );
    if tcp.keepalive.is_some() {
        words.push("TCP keepalive".into());
    }
    let of = |name: &str, number: Option<std::num::NonZeroU32>| {
        number.map(|number| format!("at most {number} {name}"))
    };
    words.extend(of(
        "requests a connection",
        http.max_requests_per_connection,
    ));
    words.extend(of("streams a connection", http.max_concurrent_streams));
    if http.upgrade {
        words.push("HTTP/2 upstream".into());
    }
    if http.use_client_protocol {
        words.push("the client's protocol".into());
    }
    words.extend(
        http.http2_keepalive
            .map(|one| format!("HTTP/2 PING every {}", show(one.interval))),
    );
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_is_not_mentioned() {
        let policy = Policy::default();
        assert_eq!(balancer(&policy), "least request");
        assert_eq!(of_cluster(&policy), Vec::<String>::new());
        let policy = Policy {
            limits: Limits {
                max_connections: 5,
                ..Limits::default()
            },
            outlier: Some(outlier::Settings::default()),
            ..Policy::default()
        };
        assert_eq!(
            of_cluster(&policy),
            [
                "at most 5 connections",
                "eject after 5 5xx for 30s, at most 10%, swept every 10s"
            ]
        );
    }
}
