//! Policies as they are written, against connections and requests.

use http::{HeaderName, HeaderValue};
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::api::{Object, decode, yaml};
use crate::types::Severity;

/// The policies of a text in YAML: `ACTION NAME: SPEC` a line, in namespace `shop`.
fn policies(lines: &str) -> Vec<Arc<Policy>> {
    let domains = TrustDomains {
        own: "mesh.test".into(),
        aliases: vec!["old.test".into()],
    };
    let lines = lines.lines().map(str::trim).filter(|one| !one.is_empty());
    lines.map(|line| Arc::new(policy(line, &domains))).collect()
}

fn policy(line: &str, domains: &TrustDomains) -> Policy {
    let (head, rules) = line.split_once(": ").expect("ACTION NAME: RULES");
    let (action, name) = head.split_once(' ').expect("ACTION NAME");
    let (action, dry_run) = match action.strip_prefix("TRY-") {
        Some(action) => (action, "true"),
        None => (action, "false"),
    };
    let provider = match action {
        "CUSTOM" => "provider: {name: opa}",
        _ => "",
    };
    let text = format!(
        "
apiVersion: security.istio.io/v1
kind: AuthorizationPolicy
metadata:
  name: {name}
  namespace: shop
  annotations: {{istio.io/dry-run: '{dry_run}'}}
spec:
  action: {action}
  rules: {rules}
  {provider}
"
    );
    let document = yaml::read(&text).expect("valid YAML").remove(0);
    let decoded = decode(document).remove(0);
    let errors = decoded.findings.iter();
    let errors: Vec<_> = errors
        .filter(|one| one.severity == Severity::Error)
        .collect();
    assert!(errors.is_empty(), "{line}: {errors:?}");
    match decoded.object {
        Some(Object::AuthorizationPolicy(one)) => Policy::compile(&one, domains),
        other => panic!("{line}: {other:?}"),
    }
}

#[test]
fn requests_are_looked_at_where_they_make_a_difference() {
    const GET: &str = "to: [{operation: {methods: [GET]}}]";
    const FROM_WEB: &str = "from: [{source: {namespaces: [shop]}}]";
    for (lines, web, other) in [
        ("".to_owned(), false, false),
        ("ALLOW a: [{}]".to_owned(), false, false),
        ("DENY d: [{}]".to_owned(), false, false),
        (format!("ALLOW a: [{{{GET}}}]"), true, true),
        (format!("DENY d: [{{{GET}}}]"), true, true),
        // A caller who may do all that there is, or whom no rule is about.
        (format!("ALLOW a: [{{{GET}}}, {{{FROM_WEB}}}]"), false, true),
        (format!("DENY d: [{{{FROM_WEB}, {GET}}}]"), true, false),
        // One who is refused in any case is told so in HTTP's own words.
        (
            format!("DENY d: [{{{FROM_WEB}}}]\nALLOW a: [{{{GET}}}]"),
            true,
            true,
        ),
        // Rules about other ports and addresses.
        (
            "ALLOW a: [{to: [{operation: {methods: [GET], ports: ['1']}}]}]".to_owned(),
            false,
            false,
        ),
        (
            format!("ALLOW a: [{{{GET}, when: [{{key: destination.port, values: ['1']}}]}}]"),
            false,
            false,
        ),
        (
            format!("DENY a: [{{{GET}, when: [{{key: destination.ip, values: [10.9.9.9]}}]}}]"),
            false,
            false,
        ),
        (
            "DENY d: [{to: [{operation: {methods: [GET], notPorts: ['8080']}}]}]".to_owned(),
            false,
            false,
        ),
        // Of an ALLOW rule the whole counts, as when it is evaluated.
        (
            "ALLOW a: [{to: [{operation: {methods: [GET], ports: ['1']}}, {operation: {ports: ['8080']}}]}]".to_owned(),
            true,
            true,
        ),
        // A trial is told of each request.
        (format!("TRY-DENY d: [{{{GET}}}]"), true, true),
        (format!("TRY-CUSTOM d: [{{{GET}}}]"), false, false),
        // So is an auditor.
        (format!("AUDIT a: [{{{GET}}}]"), true, true),
    ] {
        let all = policies(&lines);
        for (peer, expected) in [(WEB, web), (OTHER, other)] {
            let peer = identity(peer);
            let caller = Caller {
                peer: Some(&peer),
                source: "10.0.0.7:40000".parse().expect("an address"),
                destination: "10.0.0.1:8080".parse().expect("an address"),
                server_name: None,
            };
            assert_eq!(is_about_requests(&all, &caller), expected, "{lines} of {peer}");
        }
    }
}

fn identity(text: &str) -> Identity {
    format!("spiffe://{text}").parse().expect("an identity")
}

/// A caller from 10.0.0.7 to 10.0.0.1:8080; `peer` without `spiffe://`, empty for plain text.
fn judged(policies: &[Arc<Policy>], peer: &str, request: Option<&Request<'_>>) -> String {
    let peer = (!peer.is_empty()).then(|| identity(peer));
    let caller = Caller {
        peer: peer.as_ref(),
        source: "10.0.0.7:40000".parse().expect("an address"),
        destination: "10.0.0.1:8080".parse().expect("an address"),
        server_name: None,
    };
    match judge(policies, &caller, request) {
        Ok(()) => "allowed".to_owned(),
        Err(denial) => {
            let details = denial.details();
            let matched = details.strip_prefix("rbac_access_denied_matched_policy");
            matched.expect("Envoy's word for it").to_owned()
        }
    }
}

const WEB: &str = "mesh.test/ns/shop/sa/web";
const OTHER: &str = "mesh.test/ns/other/sa/web";

#[test]
fn actions_come_in_istios_order() {
    for (lines, peer, expected) in [
        ("", "", "allowed"),
        ("ALLOW none: []", "", "[none]"),
        ("ALLOW all: [{}]", "", "allowed"),
        ("DENY none: []", "", "allowed"),
        ("DENY all: [{}]", WEB, "[ns[shop]-policy[all]-rule[0]]"),
        ("AUDIT all: [{}]", "", "allowed"),
        (
            "ALLOW a: [{}]\nDENY d: [{}]",
            "",
            "[ns[shop]-policy[d]-rule[0]]",
        ),
        (
            "DENY d: [{}]\nCUSTOM c: [{}]",
            "",
            "[ns[shop]-policy[c]-rule[0]]",
        ),
        (
            "ALLOW none: []\nALLOW web: [{from: [{source: {principals: [mesh.test/ns/shop/sa/web]}}]}]",
            WEB,
            "allowed",
        ),
        // A trial is not enforced, and does not count as an ALLOW that applies.
        ("TRY-ALLOW none: []", "", "allowed"),
        ("TRY-DENY all: [{}]", "", "allowed"),
        (
            "DENY d: [{from: [{source: {namespaces: [else]}}]}, {when: [{key: destination.port, values: ['8080']}]}]",
            WEB,
            "[ns[shop]-policy[d]-rule[1]]",
        ),
    ] {
        assert_eq!(judged(&policies(lines), peer, None), expected, "{lines}");
    }
}

#[test]
fn audits_are_told_of_whatever_becomes_of_it() {
    let caller = Caller {
        peer: None,
        source: "10.0.0.7:1".parse().expect("an address"),
        destination: "10.0.0.1:80".parse().expect("an address"),
        server_name: None,
    };
    let headers = HeaderMap::new();
    let request = Request {
        method: "GET",
        path: "/",
        host: "a.test",
        headers: &headers,
        remote: caller.source.ip(),
        token: None,
    };
    let get = "{to: [{operation: {methods: [GET]}}]}";
    for (lines, connection, one) in [
        ("DENY all: [{}]".to_owned(), None, None),
        ("TRY-AUDIT all: [{}]".to_owned(), None, None),
        ("AUDIT none: []".to_owned(), None, None),
        (
            "AUDIT all: [{}]\nDENY all: [{}]".to_owned(),
            Some(0),
            Some(0),
        ),
        // Of a connection alone nobody knows.
        (format!("AUDIT get: [{get}]"), None, Some(0)),
        (
            format!("AUDIT get: [{{to: [{{operation: {{ports: ['1']}}}}]}}, {get}]"),
            None,
            Some(1),
        ),
    ] {
        let all = policies(&lines);
        let rule = |request| audited(&all, &caller, request).map(|(_, rule)| rule);
        assert_eq!(
            (rule(None), rule(Some(&request))),
            (connection, one),
            "{lines}"
        );
        assert_eq!(
            is_about_requests(&all, &caller),
            lines.contains("GET"),
            "{lines}"
        );
    }
}

#[test]
fn trials_are_told_of() {
    let caller = Caller {
        peer: None,
        source: "10.0.0.7:1".parse().expect("an address"),
        destination: "10.0.0.1:80".parse().expect("an address"),
        server_name: None,
    };
    for (lines, expected) in [
        ("DENY all: [{}]", None),
        ("TRY-AUDIT all: [{}]", None),
        ("TRY-DENY all: [{}]", Some("[ns[shop]-policy[all]-rule[0]]")),
        ("TRY-ALLOW none: []", Some("[none]")),
        ("TRY-CUSTOM c: [{}]\nTRY-DENY none: []", Some("allowed")),
        ("TRY-ALLOW all: [{}]\nDENY all: [{}]", Some("allowed")),
    ] {
        let shadow = shadow(&policies(lines), &caller, None).map(|shadow| match shadow {
            Shadow::Allowed => "allowed".to_owned(),
            Shadow::Denied(denial) => {
                let details = denial.details();
                details.replace("rbac_access_denied_matched_policy", "")
            }
        });
        assert_eq!(shadow.as_deref(), expected, "{lines}");
    }
}

/// Whether one rule of an ALLOW policy matches a caller.
fn matches(rule: &str, peer: &str) -> bool {
    judged(&policies(&format!("ALLOW p: [{rule}]")), peer, None) == "allowed"
}

#[test]
fn sources_are_known_by_identity_and_address() {
    for (source, peer, expected) in [
        ("principals: [mesh.test/ns/shop/sa/web]", WEB, true),
        ("principals: [mesh.test/ns/shop/sa/we]", WEB, false),
        ("principals: [mesh.test/ns/shop/sa/web]", OTHER, false),
        ("principals: [mesh.test/ns/shop/sa/web]", "", false),
        ("principals: [mesh.test/ns/shop/*]", WEB, true),
        ("principals: ['*/sa/web']", OTHER, true),
        ("principals: ['*']", WEB, true),
        ("principals: ['*']", "", false),
        ("notPrincipals: ['*']", "", true),
        ("notPrincipals: ['*']", WEB, false),
        ("notPrincipals: [mesh.test/ns/shop/sa/web]", OTHER, true),
        // The mesh's own trust domain has other names, and a stranger's is no other name for it.
        ("principals: [cluster.local/ns/shop/sa/web]", WEB, true),
        ("principals: [old.test/ns/shop/sa/web]", WEB, true),
        (
            "principals: [mesh.test/ns/shop/sa/web]",
            "old.test/ns/shop/sa/web",
            true,
        ),
        (
            "principals: [mesh.test/ns/shop/sa/web]",
            "evil.test/ns/shop/sa/web",
            false,
        ),
        ("principals: [evil.test/ns/shop/sa/web]", WEB, false),
        ("namespaces: [shop]", WEB, true),
        ("namespaces: [shop]", OTHER, false),
        ("namespaces: [shop]", "", false),
        ("namespaces: ['sh*']", WEB, true),
        ("notNamespaces: [shop]", "", true),
        ("notNamespaces: [shop]", WEB, false),
        ("serviceAccounts: [web]", WEB, true),
        ("serviceAccounts: [web]", OTHER, false),
        ("serviceAccounts: [other/web]", OTHER, true),
        ("notServiceAccounts: [web]", OTHER, true),
        ("notServiceAccounts: [web]", WEB, false),
        ("namespaces: ['*op']", WEB, true),
        ("namespaces: ['*']", WEB, true),
        ("namespaces: ['*']", "", false),
        ("notNamespaces: ['sh*']", OTHER, true),
        ("trustDomains: ['*']", WEB, true),
        ("trustDomains: ['*']", "", false),
        ("notTrustDomains: ['mesh*']", WEB, false),
        ("notIpBlocks: [10.0.0.8]", "", true),
        ("trustDomains: [mesh.test]", WEB, true),
        ("trustDomains: [old.test]", WEB, true),
        ("trustDomains: [cluster.local]", WEB, false),
        ("trustDomains: ['*.test']", WEB, true),
        ("notTrustDomains: [old.test]", WEB, false),
        ("notTrustDomains: [mesh.test]", "", true),
        ("ipBlocks: [10.0.0.7]", "", true),
        ("ipBlocks: [10.0.0.0/24]", "", true),
        ("ipBlocks: [10.0.1.0/24]", "", false),
        ("ipBlocks: ['::ffff:10.0.0.0/120']", "", true),
        ("notIpBlocks: [10.0.0.0/8]", "", false),
        // All that is given must hold, and none of what is excluded.
        ("namespaces: [shop], ipBlocks: [10.0.1.0/24]", WEB, false),
        (
            "namespaces: [shop, other], notPrincipals: ['*/sa/web']",
            WEB,
            false,
        ),
    ] {
        let rule = format!("{{from: [{{source: {{{source}}}}}]}}");
        assert_eq!(matches(&rule, peer), expected, "{source} for {peer:?}");
    }
}

#[test]
fn entries_are_alternatives_and_parts_are_not() {
    let web = "{source: {principals: [mesh.test/ns/shop/sa/web]}}";
    let other = "{source: {namespaces: [other]}}";
    let (this, that) = (
        "{operation: {ports: ['8080']}}",
        "{operation: {ports: ['1']}}",
    );
    for (rule, expected) in [
        (format!("{{from: [{web}, {other}]}}"), true),
        (format!("{{from: [{other}]}}"), false),
        (format!("{{from: [{web}], to: [{this}, {that}]}}"), true),
        (format!("{{from: [{web}], to: [{that}]}}"), false),
        (format!("{{from: [{other}], to: [{this}]}}"), false),
        (
            format!("{{to: [{this}], when: [{{key: source.namespace, values: [shop]}}]}}"),
            true,
        ),
        (
            format!("{{to: [{this}], when: [{{key: source.namespace, notValues: [shop]}}]}}"),
            false,
        ),
        (
            "{to: [{operation: {notPorts: ['8080']}}]}".to_owned(),
            false,
        ),
        ("{to: [{operation: {notPorts: ['80']}}]}".to_owned(), true),
    ] {
        assert_eq!(matches(&rule, WEB), expected, "{rule}");
    }
}

#[test]
fn conditions_on_the_connection() {
    for (condition, peer, expected) in [
        ("key: source.ip, values: [10.0.0.0/8]", "", true),
        ("key: source.ip, notValues: [10.0.0.0/8]", "", false),
        ("key: source.principal, values: ['*']", "", false),
        ("key: source.principal, values: ['mesh.test/*']", WEB, true),
        ("key: source.serviceAccount, values: [shop/web]", WEB, true),
        ("key: source.trustDomain, values: [mesh.test]", WEB, true),
        ("key: source.trustDomain, values: [mesh.test]", "", false),
        ("key: destination.ip, values: [10.0.0.1]", "", true),
        ("key: destination.ip, values: [10.0.0.2]", "", false),
        ("key: destination.port, values: ['8080', '1']", "", true),
        ("key: destination.port, notValues: ['8080']", "", false),
        (
            "key: source.namespace, values: [shop], notValues: ['*']",
            WEB,
            false,
        ),
        ("key: source.namespace, values: ['*op']", WEB, true),
        ("key: source.namespace, notValues: [shop]", "", true),
        ("key: source.principal, notValues: ['*/sa/web']", WEB, false),
        ("key: source.principal, notValues: ['*']", "", true),
        ("key: source.serviceAccount, values: [web]", WEB, true),
        ("key: source.serviceAccount, values: [web]", OTHER, false),
        ("key: source.serviceAccount, notValues: [web]", WEB, false),
        (
            "key: source.trustDomain, notValues: [mesh.test]",
            WEB,
            false,
        ),
        ("key: source.trustDomain, values: [old.test]", WEB, true),
        ("key: destination.ip, notValues: [10.0.0.0/24]", "", false),
        ("key: destination.port, values: ['1']", "", false),
    ] {
        let rule = format!("{{when: [{{{condition}}}]}}");
        assert_eq!(matches(&rule, peer), expected, "{condition} for {peer:?}");
    }
}

/// What the rules say that ask for a request, where there is none (Istio's TCP form).
#[test]
fn a_connection_alone_denies_what_it_cannot_tell() {
    let get = "{operation: {methods: [GET]}}";
    for (policy, expected) in [
        (format!("ALLOW p: [{{to: [{get}]}}]"), "[none]"),
        // The whole rule goes, with the entries that could be told.
        (
            format!("ALLOW p: [{{to: [{get}, {{operation: {{ports: ['8080']}}}}]}}]"),
            "[none]",
        ),
        (format!("ALLOW p: [{{to: [{get}]}}, {{}}]"), "allowed"),
        (
            format!("DENY p: [{{to: [{get}]}}]"),
            "[ns[shop]-policy[p]-rule[0]]",
        ),
        (
            "DENY p: [{to: [{operation: {methods: [GET], ports: ['80']}}]}]".to_owned(),
            "allowed",
        ),
        (
            "DENY p: [{to: [{operation: {notPaths: [/x]}}]}]".to_owned(),
            "[ns[shop]-policy[p]-rule[0]]",
        ),
        (
            format!("CUSTOM p: [{{to: [{get}]}}]"),
            "[ns[shop]-policy[p]-rule[0]]",
        ),
        (
            "ALLOW p: [{when: [{key: connection.sni, values: ['*']}]}]".to_owned(),
            "[none]",
        ),
        (
            "DENY p: [{when: [{key: connection.sni, values: [a.test]}]}]".to_owned(),
            "[ns[shop]-policy[p]-rule[0]]",
        ),
        (
            "ALLOW p: [{when: [{key: experimental.envoy.filters.x, values: [a]}]}]".to_owned(),
            "[none]",
        ),
        (
            "DENY p: [{when: [{key: experimental.envoy.filters.x, values: [a]}]}]".to_owned(),
            "[ns[shop]-policy[p]-rule[0]]",
        ),
    ] {
        assert_eq!(judged(&policies(&policy), WEB, None), expected, "{policy}");
    }
}

/// Of the caller's TLS, where that was looked at: Envoy's `requested_server_name`.
#[test]
fn server_names_are_looked_at_where_they_make_a_difference() {
    const GOOD: &str =
        "ALLOW p: [{when: [{key: connection.sni, values: [good.test, '*.ok.test']}]}]";
    const EVIL: &str = "DENY p: [{when: [{key: connection.sni, values: [evil.test]}]}]";
    const NONE: &str = "DENY p: [{when: [{key: connection.sni, notValues: ['*']}]}]";
    const OTHERS: &str = "DENY p: [{when: [{key: connection.sni, notValues: [good.test]}]}]";
    for (lines, looks, names) in [
        ("", false, &[(None, true), (Some("evil.test"), true)][..]),
        (
            GOOD,
            true,
            &[
                (None, false),
                (Some(""), false),
                (Some("good.test"), true),
                (Some("a.ok.test"), true),
                (Some("good.test."), false),
                (Some("evil.test"), false),
            ],
        ),
        (
            EVIL,
            true,
            &[
                (None, false),
                (Some(""), true),
                (Some("good.test"), true),
                (Some("evil.test"), false),
                (Some("evil.test."), false),
            ],
        ),
        (
            NONE,
            true,
            &[(None, false), (Some(""), false), (Some("a"), true)],
        ),
        (
            OTHERS,
            true,
            &[
                (Some(""), false),
                (Some("good.test"), true),
                (Some("good.test."), false),
            ],
        ),
        // Whatever the name.
        (&format!("{GOOD}\nALLOW q: [{{}}]"), false, &[(None, true)]),
        (
            &GOOD.replace("[{when", "[{to: [{operation: {ports: ['1']}}], when"),
            false,
            &[(None, false)],
        ),
        (&format!("TRY-{EVIL}"), true, &[(None, true)]),
        (&EVIL.replace("DENY", "AUDIT"), true, &[(None, true)]),
    ] {
        let all = policies(lines);
        let caller = |server_name| Caller {
            peer: None,
            source: "10.0.0.7:40000".parse().expect("an address"),
            destination: "10.0.0.1:8080".parse().expect("an address"),
            server_name,
        };
        assert_eq!(is_about_names(&all, &caller(None)), looks, "{lines}");
        assert!(!is_about_requests(&all, &caller(None)), "{lines}");
        for (name, allowed) in names {
            let found = judge(&all, &caller(*name), None).is_ok();
            assert_eq!(found, *allowed, "{lines}: {name:?}");
        }
    }
}

/// A request `METHOD HOST PATH [HEADER=VALUE ...]` under a rule of `action`: whether it matched.
fn request_matches(action: &str, rule: &str, request: &str) -> bool {
    let mut words = request.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (method, host, path) = (next(), next(), next());
    let mut headers = HeaderMap::new();
    let mut token = None;
    for word in words {
        match word.strip_prefix("token:") {
            Some(claims) => {
                let claims = serde_json::from_str(claims).expect("JSON");
                token = Some(Token::new(claims, &["groups".to_owned()]));
            }
            None => {
                let (name, value) = word.split_once('=').expect("NAME=VALUE");
                let name: HeaderName = name.parse().expect("a name");
                headers.append(name, HeaderValue::from_str(value).expect("a value"));
            }
        }
    }
    let request = Request {
        method,
        path,
        host,
        headers: &headers,
        remote: "192.0.2.1".parse().expect("an address"),
        token: token.as_ref(),
    };
    let all = policies(&format!("{action} p: [{rule}]"));
    (judged(&all, WEB, Some(&request)) == "allowed") == (action == "ALLOW")
}

#[test]
fn requests_are_matched_by_their_head() {
    for (operation, request, expected) in [
        ("methods: [GET]", "GET a.test /", true),
        ("methods: [GET]", "get a.test /", false),
        ("methods: ['*']", "BREW a.test /", true),
        ("notMethods: [GET]", "POST a.test /", true),
        ("notMethods: [GET]", "GET a.test /", false),
        ("methods: ['PO*']", "POST a.test /", true),
        ("methods: ['*ST']", "POST a.test /", true),
        ("paths: ['*']", "GET a.test /", true),
        ("paths: ['/a/{**}']", "GET a.test /a/", true),
        ("notPaths: [/a]", "GET a.test /b", true),
        ("hosts: ['*']", "GET a.test /", true),
        ("notHosts: ['*.test']", "GET a.test /", false),
        ("paths: [/a]", "GET a.test /a", true),
        ("paths: [/a]", "GET a.test /A", false),
        ("paths: ['/a*']", "GET a.test /ab", true),
        ("paths: ['*/info']", "GET a.test /x/info", true),
        ("paths: ['/a/{*}']", "GET a.test /a/b", true),
        ("paths: ['/a/{*}']", "GET a.test /a/", false),
        ("notPaths: ['/a/{**}']", "GET a.test /a/b/c", false),
        ("hosts: [a.test]", "GET A.test /", true),
        ("hosts: ['*.test']", "GET a.b.TEST /", true),
        ("hosts: ['a.test*']", "GET a.test:8080 /", true),
        // To allow, exactly what is written.
        ("hosts: [a.test]", "GET a.test:8080 /", false),
        ("hosts: [a.test]", "GET a.test. /", false),
        ("notHosts: [a.test]", "GET a.test:8080 /", false),
        ("notHosts: [a.test]", "GET b.test /", true),
    ] {
        let rule = format!("{{to: [{{operation: {{{operation}}}}}]}}");
        assert_eq!(
            request_matches("ALLOW", &rule, request),
            expected,
            "{operation}: {request}"
        );
    }
    // To deny, whatever comes to the same host.
    for (host, expected) in [
        ("evil.com", true),
        ("EVIL.com", true),
        ("evil.com:8080", true),
        ("evil.com.", true),
        ("evil.com.:80", true),
        ("not-evil.com", false),
        ("evil.com.test", false),
    ] {
        let rule = "{to: [{operation: {hosts: [evil.com]}}]}";
        let request = format!("GET {host} /");
        assert_eq!(request_matches("DENY", rule, &request), expected, "{host}");
    }
}

#[test]
fn requests_are_matched_by_headers_and_tokens() {
    let token = json!({
        "iss": "https://id.test", "sub": "joe", "aud": ["a", "b"], "azp": "app",
        "scope": "read write", "groups": "x y", "name": "a b", "n": 1,
        "realm": {"roles": ["admin"]},
    });
    let request =
        format!("GET a.test /x x-a=1 x-a=2 x-b=12 cookie=a=1 cookie=b=2 x-empty= token:{token}")
            .replace("\"read write\"", "\"read\\u0020write\"")
            .replace("\"x y\"", "\"x\\u0020y\"")
            .replace("\"a b\"", "\"a\\u0020b\"");
    for (condition, expected) in [
        // Of several lines each counts.
        ("key: 'request.headers[x-a]', values: ['1,2']", false),
        ("key: 'request.headers[X-A]', values: ['1*']", false),
        ("key: 'request.headers[x-a]', values: ['1']", false),
        ("key: 'request.headers[x-a]', values: ['1', '2']", false),
        // But for cookies, which are one.
        ("key: 'request.headers[cookie]', values: ['a=1; b=2']", true),
        ("key: 'request.headers[cookie]', values: ['a=1*']", true),
        ("key: 'request.headers[cookie]', values: ['b=2']", false),
        ("key: 'request.headers[cookie]', notValues: ['b=2']", false),
        ("key: 'request.headers[x-b]', values: ['1*']", true),
        ("key: 'request.headers[X-B]', values: ['*2']", true),
        ("key: 'request.headers[x-b]', notValues: ['12']", false),
        ("key: 'request.headers[x-empty]', values: ['*']", true),
        ("key: 'request.headers[x-none]', values: ['*']", false),
        ("key: 'request.headers[x-none]', notValues: ['*']", true),
        ("key: remote.ip, values: [192.0.2.0/24]", true),
        ("key: source.ip, values: [192.0.2.0/24]", false),
        (
            "key: request.auth.principal, values: ['https://id.test/joe']",
            true,
        ),
        ("key: request.auth.principal, values: ['*']", true),
        ("key: request.auth.audiences, values: [b]", true),
        ("key: request.auth.audiences, values: [c]", false),
        ("key: request.auth.presenter, values: [app]", true),
        ("key: 'request.auth.claims[scope]', values: [write]", true),
        ("key: 'request.auth.claims[groups]', values: [y]", true),
        ("key: 'request.auth.claims[name]', values: [b]", false),
        (
            "key: 'request.auth.claims[realm][roles]', values: [admin]",
            true,
        ),
        ("key: 'request.auth.claims[realm]', values: ['*']", false),
        ("key: 'request.auth.claims[n]', values: ['1']", false),
        ("key: 'request.auth.claims[none]', notValues: ['*']", true),
        ("key: 'request.headers[x-a]', values: ['*']", true),
        ("key: 'request.headers[x-a]', notValues: ['1']", false),
        ("key: 'request.headers[x-a]', notValues: ['2']", false),
        ("key: 'request.headers[x-a]', notValues: ['1,2']", false),
        ("key: 'request.headers[x-a]', notValues: ['3']", true),
        ("key: remote.ip, notValues: [192.0.2.1]", false),
        ("key: request.auth.principal, values: ['*/joe']", true),
        ("key: request.auth.principal, notValues: ['*']", false),
        ("key: request.auth.audiences, values: ['*']", true),
        ("key: request.auth.audiences, notValues: [b]", false),
        ("key: request.auth.presenter, values: ['ap*']", true),
        ("key: request.auth.presenter, values: [other]", false),
        ("key: request.auth.presenter, notValues: [app]", false),
        ("key: 'request.auth.claims[scope]', values: ['wr*']", true),
        ("key: 'request.auth.claims[scope]', values: ['*ite']", true),
        (
            "key: 'request.auth.claims[scope]', notValues: [read]",
            false,
        ),
        (
            "key: 'request.auth.claims[realm][roles]', values: ['*']",
            true,
        ),
    ] {
        let rule = format!("{{when: [{{{condition}}}]}}");
        assert_eq!(
            request_matches("ALLOW", &rule, &request),
            expected,
            "{condition}"
        );
    }
    // To deny, one line is enough, or all of them together.
    for (values, expected) in [
        ("values: ['1']", true),
        ("values: ['2']", true),
        ("values: ['1,2']", true),
        ("values: ['3']", false),
        ("notValues: ['1']", true),
        ("notValues: ['1*']", true),
        ("notValues: ['*']", false),
    ] {
        let rule = format!("{{when: [{{key: 'request.headers[x-a]', {values}}}]}}");
        assert_eq!(
            request_matches("DENY", &rule, &request),
            expected,
            "{values}"
        );
    }
    for (principals, request, expected) in [
        ("requestPrincipals: ['*']", request.as_str(), true),
        ("requestPrincipals: ['*']", "GET a.test /", false),
        ("notRequestPrincipals: ['*']", "GET a.test /", true),
        (
            "requestPrincipals: ['https://id.test/*']",
            request.as_str(),
            true,
        ),
        ("requestPrincipals: ['*/joe']", request.as_str(), true),
        ("requestPrincipals: ['*/ann']", request.as_str(), false),
        (
            "notRequestPrincipals: ['https://id.test/*']",
            request.as_str(),
            false,
        ),
        ("remoteIpBlocks: [192.0.2.0/24]", "GET a.test /", true),
        ("remoteIpBlocks: [192.0.2.1]", "GET a.test /", true),
        ("remoteIpBlocks: [10.0.0.0/24]", "GET a.test /", false),
        ("notRemoteIpBlocks: [192.0.2.0/24]", "GET a.test /", false),
        ("notRemoteIpBlocks: [10.0.0.0/24]", "GET a.test /", true),
        // The connection's own address is another.
        ("ipBlocks: [10.0.0.7]", "GET a.test /", true),
        ("ipBlocks: [192.0.2.1]", "GET a.test /", false),
    ] {
        let rule = format!("{{from: [{{source: {{{principals}}}}}]}}");
        assert_eq!(
            request_matches("ALLOW", &rule, request),
            expected,
            "{principals}: {request}"
        );
    }
}

prop_compose! {
    /// A condition on the connection or the request, as YAML.
    fn operation()(
        kind in 0..6_usize,
        port in prop::sample::select(vec!["8080", "1"]),
        method in prop::sample::select(vec!["GET", "POST"]),
    ) -> String {
        match kind {
            0 => format!("ports: ['{port}']"),
            1 => format!("notPorts: ['{port}']"),
            2 => format!("methods: [{method}]"),
            3 => format!("notMethods: [{method}]"),
            4 => format!("ports: ['{port}'], methods: [{method}]"),
            _ => format!("ports: ['{port}'], notMethods: [{method}]"),
        }
    }
}

proptest! {
    /// Whatever the rules: where a request would be denied, its connection alone is too. A proxy
    /// that doesn't look at bytes lets nothing pass that one which does would not.
    #[test]
    fn not_looking_never_allows_more(
        operations in prop::collection::vec((0..2_usize, operation()), 1..5),
        method in prop::sample::select(vec!["GET", "POST", "PUT"]),
    ) {
        let lines: Vec<String> = operations.iter().map(|(action, operation)| {
            let action = ["ALLOW", "DENY"][*action];
            format!("{action} p: [{{to: [{{operation: {{{operation}}}}}]}}]")
        }).collect();
        let all = policies(&lines.join("\n"));
        let headers = HeaderMap::new();
        let request = Request {
            method,
            path: "/",
            host: "a.test",
            headers: &headers,
            remote: "192.0.2.1".parse().expect("an address"),
            token: None,
        };
        if judged(&all, "", Some(&request)) != "allowed" {
            prop_assert_ne!(judged(&all, "", None), "allowed");
        }
    }

    /// Adding a DENY never allows, whatever there is.
    #[test]
    fn a_further_deny_never_allows(
        operations in prop::collection::vec((0..2_usize, operation()), 0..4),
        further in operation(),
    ) {
        let mut lines: Vec<String> = operations.iter().map(|(action, operation)| {
            let action = ["ALLOW", "DENY"][*action];
            format!("{action} p: [{{to: [{{operation: {{{operation}}}}}]}}]")
        }).collect();
        let before = judged(&policies(&lines.join("\n")), "", None);
        lines.push(format!("DENY q: [{{to: [{{operation: {{{further}}}}}]}}]"));
        if before != "allowed" {
            prop_assert_ne!(judged(&policies(&lines.join("\n")), "", None), "allowed");
        }
    }
}
