//! Precedence of rule, port and subset, and the defaults.

use super::*;
use crate::api::destination_rule::TlsMode;
use crate::wire::proxy_protocol::Version;

fn parse(text: &str) -> Option<TrafficPolicy> {
    let text = (!text.is_empty()).then_some(text)?;
    Some(serde_yaml::from_str(&format!("{{{text}}}")).expect("a policy"))
}

fn compiled(rule: &str, subset: &str) -> Policy {
    compile(parse(rule).as_ref(), parse(subset).as_ref(), 80, None)
}

#[test]
fn a_port_loses_the_proxy_protocol_of_its_rule() {
    let port = "portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]";
    for (name, rule, subset, expected) in [
        ("nothing", String::new(), "", None),
        (
            "the default",
            "proxyProtocol: {}".into(),
            "",
            Some(Version::One),
        ),
        (
            "version 2",
            "proxyProtocol: {version: V2}".into(),
            "",
            Some(Version::Two),
        ),
        ("a port", format!("proxyProtocol: {{}}, {port}"), "", None),
        (
            "a subset",
            "proxyProtocol: {version: V2}".into(),
            "proxyProtocol: {version: V1}",
            Some(Version::One),
        ),
        (
            "a subset inherits it",
            "proxyProtocol: {version: V2}".into(),
            "loadBalancer: {simple: RANDOM}",
            Some(Version::Two),
        ),
        (
            "a subset's port",
            "proxyProtocol: {version: V2}".into(),
            port,
            Some(Version::Two),
        ),
    ] {
        let found = compiled(&rule, subset).proxy_protocol;
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_tunnel_asks_for_its_target() {
    let port = "portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]";
    for (rule, subset, expected) in [
        (String::new(), "", ""),
        (
            "tunnel: {targetHost: a.test, targetPort: 7}".into(),
            "",
            "CONNECT a.test:7",
        ),
        (
            "tunnel: {protocol: POST, targetHost: 'fd00::1', targetPort: 7}".into(),
            "",
            "POST [fd00::1]:7",
        ),
        (
            format!("tunnel: {{targetHost: a.test, targetPort: 7}}, {port}"),
            "",
            "",
        ),
        (
            "tunnel: {targetHost: a.test, targetPort: 7}".into(),
            "tunnel: {protocol: CONNECT, targetHost: b.test, targetPort: 8}",
            "CONNECT b.test:8",
        ),
    ] {
        let tunnel = compiled(&rule, subset).tunnel;
        let found = tunnel.map_or(String::new(), |one| {
            let method = if one.posts { "POST" } else { "CONNECT" };
            format!("{method} {}", one.target)
        });
        assert_eq!(found, expected, "{rule}");
    }
}

#[test]
fn blocks_replace_blocks() {
    let port = |text: &str| format!("portLevelSettings: [{{port: {{number: 80}}, {text}}}]");
    let pool = "connectionPool: {tcp: {maxConnections: 7}, http: {http2MaxRequests: 8}}";
    for (name, rule, subset, expected) in [
        ("nothing", String::new(), "", "LeastRequest - - false -"),
        (
            "the rule",
            format!("loadBalancer: {{simple: RANDOM}}, {pool}"),
            "",
            "Random 7 8 false -",
        ),
        (
            "another port",
            format!(
                "{pool}, portLevelSettings: [{{port: {{number: 81}}, loadBalancer: {{simple: RANDOM}}}}]"
            ),
            "",
            "LeastRequest 7 8 false -",
        ),
        (
            "a port inherits nothing",
            format!(
                "{pool}, retryBudget: {{percent: 10}}, outlierDetection: {{}}, {}",
                port("loadBalancer: {simple: RANDOM}")
            ),
            "",
            "Random - - false -",
        ),
        (
            "a subset inherits blocks",
            format!("{pool}, outlierDetection: {{}}, retryBudget: {{percent: 10}}"),
            "loadBalancer: {simple: ROUND_ROBIN}",
            "RoundRobin 7 8 true 10",
        ),
        (
            "a subset's block replaces whole",
            pool.to_owned(),
            "connectionPool: {http: {http2MaxRequests: 9}}",
            "LeastRequest - 9 false -",
        ),
        (
            "a subset over a port",
            port(pool),
            "loadBalancer: {simple: RANDOM}",
            "Random 7 8 false -",
        ),
        (
            "a subset's port",
            pool.to_owned(),
            &port("outlierDetection: {}"),
            "LeastRequest - - true -",
        ),
    ] {
        let policy = compiled(&rule, subset);
        let limit = |limit: u32| match limit {
            Limits::UNLIMITED => "-".to_owned(),
            limit => limit.to_string(),
        };
        let budget = policy
            .limits
            .retry_budget
            .map_or("-".to_owned(), |one| one.percent.to_string());
        let found = format!(
            "{:?} {} {} {} {budget}",
            policy.balancer,
            limit(policy.limits.max_connections),
            limit(policy.limits.max_requests),
            policy.outlier.is_some(),
        );
        assert_eq!(found, expected, "{name}");
    }
}

#[test]
fn a_budget_of_zero_at_least_is_the_default() {
    for (given, percent, least) in [
        ("{}", 20.0, 3),
        ("{percent: 0, minRetryConcurrency: 0}", 0.0, 3),
        ("{percent: 12.5, minRetryConcurrency: 1}", 12.5, 1),
    ] {
        let policy = compiled(&format!("retryBudget: {given}"), "");
        let budget = policy.limits.retry_budget.expect("it is given");
        assert_eq!(
            (budget.percent, budget.min_concurrency),
            (percent, least),
            "{given}"
        );
    }
}

#[test]
fn balancers_have_algorithms_and_keys() {
    let hash = |text: &str| format!("loadBalancer: {{consistentHash: {{{text}}}}}");
    for (text, expected) in [
        (
            "loadBalancer: {simple: UNSPECIFIED}".to_owned(),
            "LeastRequest None",
        ),
        (
            "loadBalancer: {simple: LEAST_CONN}".to_owned(),
            "LeastRequest None",
        ),
        (
            "loadBalancer: {simple: PASSTHROUGH}".to_owned(),
            "Passthrough None",
        ),
        (
            hash("useSourceIp: true"),
            "RingHash { min_size: 1024 } Some(SourceAddress)",
        ),
        (
            hash("useSourceIp: false"),
            "RingHash { min_size: 1024 } None",
        ),
        (
            hash("httpQueryParameterName: q, minimumRingSize: 9"),
            "RingHash { min_size: 9 } Some(QueryParameter(\"q\"))",
        ),
        (
            hash("httpQueryParameterName: q, ringHash: {minimumRingSize: 99999999999}"),
            "RingHash { min_size: 8388608 } Some(QueryParameter(\"q\"))",
        ),
        (
            hash("httpQueryParameterName: q, maglev: {tableSize: 251}"),
            "Maglev { size: 251 } Some(QueryParameter(\"q\"))",
        ),
        (
            hash("httpHeaderName: X-User"),
            "RingHash { min_size: 1024 } Some(Header(Header(\"x-user\")))",
        ),
    ] {
        let policy = compiled(&text, "");
        assert_eq!(
            format!("{:?} {:?}", policy.balancer, policy.hash),
            expected,
            "{text}"
        );
    }
}

#[test]
fn a_ports_key_needs_a_destination_with_a_port() {
    let port = "portLevelSettings: [{port: {number: 80}, loadBalancer: {consistentHash: {httpQueryParameterName: port}}}]";
    let whole = "loadBalancer: {consistentHash: {httpQueryParameterName: whole}}";
    let own = "loadBalancer: {consistentHash: {httpQueryParameterName: own}}";
    for (rule, subset, with_port, without) in [
        (whole.to_owned(), "", "whole", "whole"),
        (port.to_owned(), "", "port", ""),
        (format!("{whole}, {port}"), "", "port", "whole"),
        (format!("{whole}, {port}"), own, "own", "own"),
    ] {
        let policy = compiled(&rule, subset);
        let key = |names_port| match policy.hash_key(names_port) {
            Some(hash::Key::QueryParameter(name)) => name.to_string(),
            _ => String::new(),
        };
        assert_eq!(
            (key(true).as_str(), key(false).as_str()),
            (with_port, without),
            "{rule} {subset}"
        );
    }
}

#[test]
fn localities_need_a_reason() {
    let setting = |text: &str| format!("loadBalancer: {{localityLbSetting: {{{text}}}}}");
    let detects = "outlierDetection: {}";
    for (text, distribution, expected) in [
        (String::new(), None, "Ignore"),
        (detects.to_owned(), None, "Failover 0 0"),
        (String::new(), Some(Distribution::SameZone), "Failover 3 0"),
        (String::new(), Some(Distribution::SameNode), "Failover 4 0"),
        (
            setting("enabled: false"),
            Some(Distribution::SameZone),
            "Ignore",
        ),
        (
            format!("{}, {detects}", setting("enabled: false")),
            None,
            "Ignore",
        ),
        (setting("failover: [{from: a, to: b}]"), None, "Ignore"),
        (
            format!("{}, {detects}", setting("failover: [{from: a, to: b}]")),
            None,
            "Failover 0 1",
        ),
        (
            format!("{}, {detects}", setting("failoverPriority: [a, b=c]")),
            None,
            "Failover 2 0",
        ),
        (
            setting("distribute: [{from: a, to: {b: 100}}]"),
            None,
            "Distribute 1",
        ),
    ] {
        let policy = compile(parse(&text).as_ref(), None, 80, distribution);
        let found = match &policy.locality {
            locality::Settings::Ignore => "Ignore".to_owned(),
            locality::Settings::Distribute(entries) => format!("Distribute {}", entries.len()),
            locality::Settings::Failover { labels, regions } => {
                format!("Failover {} {}", labels.len(), regions.len())
            }
        };
        assert_eq!(found, expected, "{text} {distribution:?}");
    }
}

#[test]
fn absent_and_zero_are_the_default() {
    assert_eq!(compiled("", ""), Policy::default());
    let zero = "connectionPool: {tcp: {maxConnections: 0}, http: {http1MaxPendingRequests: 0, http2MaxRequests: 0, maxRequestsPerConnection: 0, maxRetries: 0, maxConcurrentStreams: 0}}";
    assert_eq!(compiled(zero, ""), Policy::default());
    let outlier = compiled(
        "outlierDetection: {maxEjectionPercent: 0, minHealthPercent: 40, consecutive5xxErrors: 0}",
        "",
    );
    let settings = outlier.outlier.expect("given");
    assert_eq!(settings.max_ejected.get(), 10);
    assert_eq!(settings.consecutive_5xx, 0);
    assert_eq!(outlier.panic_threshold.get(), 40);
    let secs = Duration::from_secs;
    for (text, tcp, http) in [
        ("tcp: {idleTimeout: 5s}", Some(secs(5)), secs(5)),
        ("tcp: {idleTimeout: 0s}", None, FOR_EVER),
        (
            "tcp: {idleTimeout: 5s}, http: {idleTimeout: 7s}",
            Some(secs(5)),
            secs(7),
        ),
        ("http: {idleTimeout: 7s}", Some(secs(3600)), secs(7)),
    ] {
        let policy = compiled(&format!("connectionPool: {{{text}}}"), "");
        assert_eq!(
            (policy.tcp.idle_timeout, policy.http.idle_timeout),
            (tcp, http),
            "{text}"
        );
    }
    let warm = compiled(
        "loadBalancer: {simple: ROUND_ROBIN, warmup: {duration: 30s, minimumPercent: 25, aggression: 2}}",
        "",
    );
    let warmup = warm.warmup.expect("given");
    assert_eq!(
        (warmup.window, warmup.minimum.get(), warmup.aggression),
        (secs(30), 25, 2.0)
    );
    assert_eq!(
        compiled(
            "loadBalancer: {simple: RANDOM, warmupDurationSecs: 30s}",
            ""
        )
        .warmup,
        None
    );
}

#[test]
fn old_fields_count_or_have_no_effect() {
    let nothing = compiled("outlierDetection: {}", "");
    for (name, policy, same_as) in [
        (
            "an old name of the warm-up",
            "loadBalancer: {warmupDurationSecs: 30s}",
            "loadBalancer: {warmup: {duration: 30s}}",
        ),
        (
            "the new name beside it",
            "loadBalancer: {warmupDurationSecs: 30s, warmup: {duration: 5s, aggression: 2}}",
            "loadBalancer: {warmup: {duration: 5s, aggression: 2}}",
        ),
        (
            "the old name of a port",
            "portLevelSettings: [{port: {number: 80}, loadBalancer: {warmupDurationSecs: 30s}}]",
            "loadBalancer: {warmup: {duration: 30s}}",
        ),
        (
            "errors in a row, of which 5 count",
            "outlierDetection: {consecutiveErrors: 1}",
            "outlierDetection: {consecutive5xxErrors: 5}",
        ),
        (
            "zones",
            "loadBalancer: {zoneAwareLbSetting: {enabled: true}}, outlierDetection: {}",
            "outlierDetection: {}",
        ),
    ] {
        assert_eq!(compiled(policy, ""), compiled(same_as, ""), "{name}");
    }
    assert_ne!(
        nothing,
        compiled("loadBalancer: {warmup: {duration: 30s}}", "")
    );
    assert_ne!(
        nothing,
        compiled("outlierDetection: {consecutive5xxErrors: 1}", "")
    );
}

#[test]
fn tls_is_a_block_like_the_others() {
    let port = "portLevelSettings: [{port: {number: 80}, tls: {mode: MUTUAL}}]";
    for (rule, subset, expected) in [
        ("", "", None),
        ("tls: {mode: SIMPLE}", "", Some(TlsMode::Simple)),
        (
            "tls: {mode: SIMPLE}",
            "outlierDetection: {}",
            Some(TlsMode::Simple),
        ),
        ("tls: {mode: SIMPLE}", "tls: {}", Some(TlsMode::Disable)),
        ("tls: {mode: SIMPLE}", port, Some(TlsMode::Mutual)),
        (port, "", Some(TlsMode::Mutual)),
        (port, "tls: {mode: SIMPLE}", Some(TlsMode::Simple)),
        (
            "tls: {mode: SIMPLE}, portLevelSettings: [{port: {number: 80}, outlierDetection: {}}]",
            "",
            None,
        ),
    ] {
        let (rule, subset) = (parse(rule), parse(subset));
        let found = tls(rule.as_ref(), subset.as_ref(), 80).map(|tls| tls.mode);
        assert_eq!(found, expected, "{rule:?} {subset:?}");
    }
}
