//! Which policies apply to which local pod.

use super::*;
use crate::policy::authorization::Caller;

/// A local pod `NAMESPACE/NAME` with a label `app`, at 10.0.0.`host`.
fn pod(namespace: &str, name: &str, app: &str, host: u8) -> String {
    format!(
        "
apiVersion: v1
kind: Pod
metadata:
  name: {name}
  namespace: {namespace}
  labels: {{app: {app}, aquifer.io/mesh: enabled}}
  annotations: {{aquifer.io/netns: /run/netns/{name}}}
status: {{podIP: 10.0.0.{host}}}
"
    )
}

/// `KIND NAMESPACE/NAME [TIME]: SPEC`.
fn policy(line: &str) -> String {
    let (head, spec) = line.split_once(": ").expect("KIND NAMESPACE/NAME: SPEC");
    let mut words = head.split(' ');
    let (kind, name) = (words.next().expect("a kind"), words.next().expect("a name"));
    let (namespace, name) = name.split_once('/').expect("NAMESPACE/NAME");
    let time = words.next().unwrap_or("''");
    let kind = match kind {
        "Peer" => "PeerAuthentication",
        "Auth" => "AuthorizationPolicy",
        "Request" => "RequestAuthentication",
        kind => kind,
    };
    format!(
        "
apiVersion: security.istio.io/v1
kind: {kind}
metadata: {{name: {name}, namespace: {namespace}, creationTimestamp: {time}}}
spec: {spec}
"
    )
}

fn world(policies: &[&str]) -> Vec<String> {
    let mut texts = vec![
        pod("shop", "web", "web", 1),
        pod("shop", "db", "db", 2),
        pod("bank", "web", "web", 3),
    ];
    texts.extend(policies.iter().map(|one| policy(one)));
    texts
}

fn apply(fixture: &mut Fixture, policies: &[&str]) -> Compiled {
    let texts = world(policies);
    let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
    fixture.apply(&texts)
}

fn guard<'a>(compiled: &'a Compiled, pod: &str) -> &'a Arc<crate::mesh::Guard> {
    let (namespace, name) = pod.split_once('/').expect("NAMESPACE/NAME");
    let mut all = compiled.snapshot.workloads.iter();
    let workload = all.find(|one| &*one.namespace == namespace && &*one.name == name);
    let workload = workload.expect("a pod");
    compiled.snapshot.guard(workload).expect("it is local")
}

/// Somebody who sends plain text to `port`.
fn stranger(port: u16) -> Caller<'static> {
    Caller {
        peer: None,
        source: "10.0.0.9:40000".parse().expect("an address"),
        destination: (std::net::Ipv4Addr::new(10, 0, 0, 1), port).into(),
        server_name: None,
    }
}

/// What becomes of a stranger's plain text to `port` of a pod.
fn admitted(compiled: &Compiled, pod: &str, port: u16) -> String {
    match guard(compiled, pod).admit(&stranger(port)) {
        Ok(()) => "allowed".to_owned(),
        Err(denial) => {
            let details = denial.details();
            details.replace("rbac_access_denied_matched_policy", "")
        }
    }
}

#[test]
fn policies_apply_by_namespace_and_selector() {
    const ALLOWED: &str = "allowed";
    for (policies, expected) in [
        (&[][..], [ALLOWED; 3]),
        (&["Auth shop/none: {}"], ["[none]", "[none]", ALLOWED]),
        (
            &["Auth istio-system/none: {}"],
            ["[none]", "[none]", "[none]"],
        ),
        (
            &["Auth shop/db: {selector: {matchLabels: {app: db}}}"],
            [ALLOWED, "[none]", ALLOWED],
        ),
        (
            &[
                "Auth istio-system/web: {action: DENY, selector: {matchLabels: {app: web}}, rules: [{}]}",
            ],
            [
                "[ns[istio-system]-policy[web]-rule[0]]",
                ALLOWED,
                "[ns[istio-system]-policy[web]-rule[0]]",
            ],
        ),
        // Attached to a Service, which is not in force yet: never to all pods of the namespace.
        (
            &["Auth shop/svc: {targetRefs: [{kind: Service, name: web}]}"],
            [ALLOWED; 3],
        ),
        // Nor to any other object: whoever is no gateway leaves such a policy alone, whatever it says
        // (Istio, `ShouldAttachPolicy`; ztunnel is not even told of it), and other policies as they are.
        (
            &[
                "Auth shop/one: {targetRef: {kind: Service, name: web}}",
                "Auth shop/gateway: {action: DENY, targetRefs: [{group: gateway.networking.k8s.io, kind: Gateway, name: web}], rules: [{}]}",
                "Auth shop/entry: {targetRefs: [{kind: Service, name: web}, {group: networking.istio.io, kind: ServiceEntry, name: out}]}",
                "Auth istio-system/class: {action: DENY, targetRefs: [{group: gateway.networking.k8s.io, kind: GatewayClass, name: istio-waypoint}], rules: [{}]}",
                "Auth shop/db: {selector: {matchLabels: {app: db}}}",
            ],
            [ALLOWED, "[none]", ALLOWED],
        ),
        (
            &["Auth shop/empty: {targetRefs: []}"],
            ["[none]", "[none]", ALLOWED],
        ),
        // The root namespace's and the own one's together.
        (
            &[
                "Auth istio-system/some: {rules: [{to: [{operation: {ports: ['1']}}]}]}",
                "Auth shop/all: {rules: [{}]}",
            ],
            [ALLOWED, ALLOWED, "[none]"],
        ),
    ] {
        let compiled = apply(&mut Fixture::new(), policies);
        let pods = ["shop/web", "shop/db", "bank/web"];
        let found = pods.map(|pod| admitted(&compiled, pod, 80));
        assert_eq!(found, expected, "{policies:?}");
    }
}

#[test]
fn plain_text_is_taken_by_the_narrowest_policy() {
    let strict = |policy: &str| {
        let (namespace, name) = policy.split_once('/').expect("NAMESPACE/NAME");
        format!("[ns[{namespace}]-peer_authentication[{name}]-strict]")
    };
    let allowed = || "allowed".to_owned();
    let mesh = "Peer istio-system/default: {mtls: {mode: STRICT}}";
    let open = "Peer shop/default: {mtls: {mode: PERMISSIVE}}";
    let db = "Peer shop/db: {selector: {matchLabels: {app: db}}, mtls: {mode: STRICT}, portLevelMtls: {9000: {mode: DISABLE}, '9001': {}}}";
    let younger = "Peer shop/later 2026-01-01T00:00:00Z: {mtls: {mode: STRICT}}";
    let unset = "Peer shop/default: {mtls: {mode: UNSET}}";
    let rooted =
        "Peer istio-system/web: {selector: {matchLabels: {app: web}}, mtls: {mode: STRICT}}";
    for (policies, pod, port, expected) in [
        (&[][..], "shop/web", 80, allowed()),
        (&[mesh], "shop/web", 80, strict("istio-system/default")),
        (&[mesh, open], "shop/web", 80, allowed()),
        (
            &[mesh, open],
            "bank/web",
            80,
            strict("istio-system/default"),
        ),
        (
            &[mesh, unset],
            "shop/web",
            80,
            strict("istio-system/default"),
        ),
        (&[open, db], "shop/db", 80, strict("shop/db")),
        (&[open, db], "shop/db", 9000, allowed()),
        (&[open, db], "shop/db", 9001, strict("shop/db")),
        (&[open, db], "shop/web", 80, allowed()),
        (&[open, younger], "shop/web", 80, allowed()),
        (&[younger], "shop/web", 80, strict("shop/later")),
        (&[rooted], "shop/web", 80, allowed()),
    ] {
        let compiled = apply(&mut Fixture::new(), policies);
        assert_eq!(
            admitted(&compiled, pod, port),
            expected,
            "{policies:?} {pod}:{port}"
        );
    }
}

#[test]
fn policies_without_effect_are_told() {
    let mut fixture = Fixture::new();
    let compiled = apply(
        &mut fixture,
        &[
            "Auth shop/nobody: {selector: {matchLabels: {app: gone}}}",
            "Auth empty/all: {}",
            "Auth shop/http: {rules: [{to: [{operation: {methods: [GET]}}]}]}",
            "Auth shop/no-http: {action: DENY, rules: [{to: [{operation: {notPaths: [/x]}}]}]}",
            "Auth shop/audit: {action: AUDIT, rules: [{}]}",
            "Auth shop/custom: {action: CUSTOM, provider: {name: opa}, rules: [{}]}",
            "Auth shop/svc: {targetRefs: [{kind: Service, name: web}]}",
            "Auth shop/fine: {rules: [{}]}",
            "Peer shop/default: {}",
            "Peer shop/second 2026-01-01T00:00:00Z: {}",
            "Peer istio-system/web: {selector: {matchLabels: {app: web}}}",
            "Peer empty/default: {}",
            "Request shop/nobody: {selector: {matchLabels: {app: gone}}, jwtRules: [{issuer: a, jwks: '{\"keys\": [{\"kty\": \"oct\"}]}'}]}",
            "Request shop/none: {}",
            "Request shop/svc: {targetRef: {kind: Service, name: web}, jwtRules: [{issuer: a}]}",
        ],
    );
    assert_eq!(
        findings(&compiled),
        "AuthorizationPolicy empty/all spec.selector: there is no pod that it is for: it has no effect
AuthorizationPolicy shop/custom spec.provider.name: the ConfigMap istio has no external authorizer \"opa\" in extensionProviders: whatever the policy matches is denied
AuthorizationPolicy shop/nobody spec.selector: there is no pod that it is for: it has no effect
AuthorizationPolicy shop/svc spec.targetRefs: policies attached to objects are not in force yet: use a selector
PeerAuthentication empty/default spec.selector: there is no pod that it is for: it has no effect
PeerAuthentication istio-system/web spec.selector: in istio-system a PeerAuthentication is for the whole mesh: one with a selector has no effect
PeerAuthentication shop/second : PeerAuthentication shop/default is older and for the same workloads: this one has no effect
RequestAuthentication shop/nobody spec.jwtRules[0].jwks: it has no key that can verify a signature (RSA from 2048 bits on, P-256, P-384, P-521, Ed25519): every token of this issuer is refused
RequestAuthentication shop/nobody spec.selector: there is no pod that it is for: it has no effect
RequestAuthentication shop/none spec.jwtRules: without rules it has no effect: any token is let through, unverified
RequestAuthentication shop/svc spec.targetRef: policies attached to objects are not in force yet: use a selector"
    );
}

#[test]
fn a_guard_that_says_the_same_is_the_same() {
    let mut fixture = Fixture::new();
    let none = "Auth shop/db: {selector: {matchLabels: {app: db}}}";
    let first = apply(&mut fixture, &[none]);
    let more = apply(&mut fixture, &[none, "Auth bank/all: {rules: [{}]}"]);
    for (pod, same) in [("shop/web", true), ("shop/db", true), ("bank/web", false)] {
        let is = Arc::ptr_eq(guard(&first, pod), guard(&more, pod));
        assert_eq!(is, same, "{pod}");
    }
    // The same policy, written anew with another rule.
    let changed = apply(
        &mut fixture,
        &["Auth shop/db: {selector: {matchLabels: {app: db}}, rules: [{}]}"],
    );
    for (pod, same) in [("shop/web", true), ("shop/db", false)] {
        let is = Arc::ptr_eq(guard(&more, pod), guard(&changed, pod));
        assert_eq!(is, same, "{pod}");
    }
    assert_eq!(admitted(&changed, "shop/db", 80), "allowed");
}

#[test]
fn tokens_are_asked_for_by_namespace_and_selector() {
    let mut fixture = Fixture::new();
    let rule = |issuer: &str| format!("{{issuer: {issuer}, jwks: '{{\"keys\": [{{}}]}}'}}");
    let (a, b, c) = (rule("a"), rule("b"), rule("c"));
    let root = format!("Request istio-system/all: {{jwtRules: [{c}]}}");
    let own = format!("Request shop/own: {{jwtRules: [{b}, {a}]}}");
    let db =
        format!("Request shop/db: {{selector: {{matchLabels: {{app: db}}}}, jwtRules: [{a}]}}");
    let attached = format!(
        "Request bank/svc: {{targetRefs: [{{kind: Service, name: web}}], jwtRules: [{a}]}}"
    );
    let issuers = |compiled: &Compiled, pod: &str| {
        let guard = guard(compiled, pod);
        assert_eq!(
            guard.is_about_requests(&stranger(80)),
            !guard.tokens.is_empty()
        );
        let all = guard.tokens.iter().map(|one| &*one.issuer);
        all.collect::<Vec<&str>>().join(" ")
    };
    let first = apply(&mut fixture, &[&root, &own, &db, &attached]);
    for (pod, expected) in [
        ("shop/web", "a b c"),
        ("shop/db", "a a b c"),
        ("bank/web", "c"),
    ] {
        assert_eq!(issuers(&first, pod), expected, "{pod}");
    }
    // What changes is another for whom it is for alone.
    let second = apply(&mut fixture, &[&root, &own, &attached]);
    for (pod, same) in [("shop/web", true), ("shop/db", false), ("bank/web", true)] {
        let is = Arc::ptr_eq(guard(&first, pod), guard(&second, pod));
        assert_eq!(is, same, "{pod}");
    }
    let none = apply(&mut fixture, &[]);
    assert!(!guard(&none, "shop/web").is_about_requests(&stranger(80)));
}

#[test]
fn ports_that_no_policy_is_asked_about_are_told() {
    let excluded = pod("shop", "web", "web", 1).replace(
        "annotations: {",
        "annotations: {aquifer.io/exclude-inbound-ports: '9090,9091', ",
    );
    for (policies, expected) in [
        (vec![], ""),
        (vec!["Peer shop/p: {mtls: {mode: PERMISSIVE}}"], ""),
        (
            vec!["Peer shop/p: {mtls: {mode: STRICT}}"],
            "Pod shop/web metadata.annotations: connections to port 9090 and 9091 are not captured: the policies of this pod are not asked about them",
        ),
    ] {
        let mut texts = vec![excluded.clone()];
        texts.extend(policies.iter().map(|one| policy(one)));
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        assert_eq!(findings(&compile(&texts)), expected, "{policies:?}");
    }
}

#[test]
fn a_policy_that_never_was_valid_allows_nothing() {
    const ALLOWED: &str = "allowed";
    let denied = "[ns[shop]-policy[p]-rule[0]]";
    for (policy, expected) in [
        (
            "Auth shop/p: {rules: [{from: [{source: {ipBlocks: [nonsense]}}]}]}",
            ["[none]", "[none]", ALLOWED],
        ),
        (
            "Auth shop/p: {selector: {matchLabels: {app: db}}, rules: 5}",
            [ALLOWED, "[none]", ALLOWED],
        ),
        (
            "Auth shop/p: {selector: {matchLabels: {app: db}}, action: DENY, rules: [{when: [{key: x, values: [y]}]}]}",
            [ALLOWED, denied, ALLOWED],
        ),
        (
            "Auth shop/p: {action: DENNY, rules: [{}]}",
            [denied, denied, ALLOWED],
        ),
        ("Auth shop/p: {action: 5}", [denied, denied, ALLOWED]),
        (
            "Auth shop/p: {selector: nonsense, action: DENY}",
            [denied, denied, ALLOWED],
        ),
        (
            "Auth shop/p: {action: CUSTOM, rules: [{}]}",
            [denied, denied, ALLOWED],
        ),
        (
            "Auth shop/p: {action: AUDIT, rules: [{to: [{}]}]}",
            [ALLOWED; 3],
        ),
    ] {
        let mut fixture = Fixture::new();
        let mut apply = |policy: &str| {
            let texts = world(&[policy]);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            fixture.apply_anyway(&texts)
        };
        let compiled = apply(policy);
        let pods = ["shop/web", "shop/db", "bank/web"];
        assert_eq!(
            pods.map(|pod| admitted(&compiled, pod, 80)),
            expected,
            "{policy}"
        );
        // A valid version takes its place, and is the last good one of those that follow.
        let valid = "Auth shop/p: {rules: [{to: [{operation: {ports: ['80']}}]}]}";
        for policy in [valid, policy] {
            let compiled = apply(policy);
            assert_eq!(admitted(&compiled, "shop/db", 80), ALLOWED);
            assert_eq!(admitted(&compiled, "shop/db", 81), "[none]");
        }
    }
}

#[test]
fn a_peer_authentication_that_never_was_valid_is_strict() {
    const ALLOWED: &str = "allowed";
    let strict = "[ns[shop]-peer_authentication[p]-strict]";
    for (policy, expected) in [
        (
            "Peer shop/p: {mtls: {mode: STRIKT}}",
            [strict, strict, ALLOWED],
        ),
        ("Peer shop/p: {mtls: 5}", [strict, strict, ALLOWED]),
        (
            "Peer shop/p: {selector: {matchLabels: {app: db}}, mtls: {mode: PERMISSIVE}, portLevelMtls: {x: {mode: DISABLE}}}",
            [ALLOWED, strict, ALLOWED],
        ),
        (
            "Peer shop/p: {selector: nonsense}",
            [strict, strict, ALLOWED],
        ),
    ] {
        let mut fixture = Fixture::new();
        let mut apply = |policy: &str| {
            let texts = world(&[policy]);
            let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
            fixture.apply_anyway(&texts)
        };
        let compiled = apply(policy);
        let pods = ["shop/web", "shop/db", "bank/web"];
        assert_eq!(
            pods.map(|pod| admitted(&compiled, pod, 80)),
            expected,
            "{policy}"
        );
        // A valid version takes its place, and is the last good one of those that follow.
        for policy in ["Peer shop/p: {mtls: {mode: PERMISSIVE}}", policy] {
            assert_eq!(admitted(&apply(policy), "shop/db", 80), ALLOWED);
        }
    }
}

#[test]
fn a_request_authentication_that_never_was_valid_takes_no_token() {
    use crate::policy::jwt::{Known, Refusal, Subject, examine};
    use http::{HeaderMap, HeaderValue, Method, Uri};
    let good = "issuer: a, jwksUri: 'http://a.test/'";
    for (policy, expected) in [
        (
            "Request shop/p: {jwtRules: [{}]}".to_owned(),
            [true, true, false],
        ),
        (
            "Request shop/p: {jwtRules: 5}".to_owned(),
            [true, true, false],
        ),
        (
            "Request shop/p: {selector: {matchLabels: {app: db}}, jwtRules: [{issuer: 5}]}"
                .to_owned(),
            [false, true, false],
        ),
        (
            format!("Request shop/p: {{jwtRules: [{{{good}, timeout: 0s}}]}}"),
            [true, true, false],
        ),
        (
            format!(
                "Request shop/p: {{jwtRules: [{{{good}, outputPayloadToHeader: x-told}}, {{issuer: ''}}]}}"
            ),
            [true, true, false],
        ),
    ] {
        let texts = world(&[&policy]);
        let texts: Vec<&str> = texts.iter().map(String::as_str).collect();
        let compiled = Fixture::new().apply_anyway(&texts);
        for (pod, refused) in ["shop/web", "shop/db", "bank/web"]
            .into_iter()
            .zip(expected)
        {
            let mut headers = HeaderMap::new();
            // Nobody has signed it; and not even its issuer is known.
            headers.insert(
                "authorization",
                HeaderValue::from_static("Bearer eyJhbGciOiJSUzI1NiJ9.e30.AAAA"),
            );
            headers.insert("x-told", HeaderValue::from_static("evil"));
            let subject = Subject {
                method: &Method::GET,
                target: &mut Uri::from_static("/"),
                headers: &mut headers,
            };
            let known = Known {
                now: 0,
                keys: &|_| None,
            };
            let found = examine(&guard(&compiled, pod).tokens, subject, &known);
            let is = matches!(found, Err(Refusal::Issuer | Refusal::NoKeys));
            assert_eq!(is, refused, "{policy} {pod}: {found:?}");
            let told = refused && policy.contains("x-told");
            assert_eq!(headers.contains_key("x-told"), !told, "{policy}");
        }
    }
}
