//! Mistakes in PeerAuthentication, AuthorizationPolicy and RequestAuthentication.

use super::*;

/// The findings of one object of `kind`, without severity where it is an error, and without lines.
fn of(kind: &str, annotations: &str, spec: &str) -> String {
    let text = format!(
        "apiVersion: security.istio.io/v1\nkind: {kind}\nmetadata: {{name: p, namespace: shop, annotations: {{{annotations}}}}}\nspec: {{{spec}}}\n"
    );
    let lines: Vec<String> = findings(&text)
        .iter()
        .map(|one| {
            let (head, message) = one.split_once(": ").expect("a message");
            let head = head.split('@').next().unwrap_or(head);
            format!("{}: {message}", head.strip_prefix("error ").unwrap_or(head))
        })
        .collect();
    lines.join("\n")
}

fn check(kind: &str, table: &[(&str, &str)]) {
    for (spec, expected) in table {
        assert_eq!(of(kind, "", spec), *expected, "{kind} {spec}");
    }
}

#[test]
fn peer_authentication() {
    check(
        "PeerAuthentication",
        &[
            ("", ""),
            ("mtls: {mode: STRICT}", ""),
            ("mtls: {mode: UNSET}", ""),
            ("mtls: null, selector: null, portLevelMtls: null", ""),
            (
                "mtls: {mode: strict}",
                "spec.mtls.mode: unknown variant `strict`, expected one of `UNSET`, `DISABLE`, `PERMISSIVE`, `STRICT`",
            ),
            (
                "mtls: {modes: STRICT}",
                "warning spec.mtls.modes: unknown field: it has no effect; is mode meant?",
            ),
            (
                "selector: {matchLabels: {app: a}}, portLevelMtls: {80: {mode: DISABLE}, '81': {}}",
                "",
            ),
            (
                "portLevelMtls: {80: {mode: DISABLE}}",
                "spec.portLevelMtls: needs a selector: ports are those of workloads",
            ),
            (
                "selector: {matchLabels: {app: a}}, portLevelMtls: {0: {}, 65536: {}, x: {}}",
                "spec.portLevelMtls.0: not a port from 1 to 65535\nspec.portLevelMtls.65536: not a port from 1 to 65535\nspec.portLevelMtls.x: not a port from 1 to 65535",
            ),
            (
                "selector: {matchLabels: {app: '*'}}",
                "spec.selector.matchLabels.app: \"*\" is not the value of a label",
            ),
            (
                "selector: {}",
                "warning spec.selector.matchLabels: selects every workload, as if there were no selector",
            ),
        ],
    );
}

#[test]
fn authorization_policy() {
    let empty = "an empty value matches nothing: leave it out";
    let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    let to = |operation: &str| format!("rules: [{{to: [{{operation: {{{operation}}}}}]}}]");
    let when = |condition: &str| format!("rules: [{{when: [{{{condition}}}]}}]");
    let source = |name: &str| format!("spec.rules[0].from[0].source{name}");
    let operation = |name: &str| format!("spec.rules[0].to[0].operation{name}");
    let at = |name: &str| format!("spec.rules[0].when[0].{name}");
    let table: Vec<(String, String)> = vec![
        (String::new(), String::new()),
        ("rules: [{}]".into(), String::new()),
        ("action: DENY, rules: [{}]".into(), String::new()),
        (
            "action: DENY".into(),
            "warning spec.rules: without rules it never matches: write `rules: [{}]` for everything".into(),
        ),
        (
            "action: REFUSE".into(),
            "spec.action: unknown variant `REFUSE`, expected one of `ALLOW`, `DENY`, `AUDIT`, `CUSTOM`".into(),
        ),
        (
            "action: CUSTOM, rules: [{}]".into(),
            "spec.provider.name: CUSTOM needs the name of a provider".into(),
        ),
        (
            "action: CUSTOM, rules: [{}], provider: {name: opa}".into(),
            String::new(),
        ),
        (
            "provider: {name: opa}".into(),
            "spec.provider: only CUSTOM asks a provider: leave it out".into(),
        ),
        (
            "selector: {matchLabels: {a: b}}, targetRefs: [{kind: Service, name: a}]".into(),
            "spec.targetRefs: only one of selector and targetRefs can be given".into(),
        ),
        (
            "targetRef: {group: gateway.networking.k8s.io, kind: Gateway, name: a}".into(),
            String::new(),
        ),
        (
            "targetRefs: [{kind: Pod, name: a}, {kind: Service, namespace: bank}]".into(),
            "spec.targetRefs[0].kind: must be a Service, a ServiceEntry (group networking.istio.io), a Gateway or a GatewayClass (group gateway.networking.k8s.io)\nspec.targetRefs[1].name: a name is required\nspec.targetRefs[1].namespace: a policy can't be attached across namespaces: leave it out".into(),
        ),
        (
            "rules: [{from: [{}], to: [{}]}]".into(),
            format!("{}: a source is required\n{}: an operation is required", source(""), operation("")),
        ),
        (
            from(""),
            format!("{}: has no field: it needs one, or the whole `from` is left out", source("")),
        ),
        (
            to(""),
            format!("{}: has no field: it needs one, or the whole `to` is left out", operation("")),
        ),
        (
            from("principals: [a, ''], notTrustDomains: ['']"),
            format!("{}: {empty}\n{}: {empty}", source(".principals[1]"), source(".notTrustDomains[0]")),
        ),
        (
            from("principal: [a], namespaces: [a]"),
            format!("warning {}: unknown field: it has no effect; is principals meant?", source(".principal")),
        ),
        (
            from("ipBlocks: [10.0.0.1, 10.0.0.0/8, '::1', x, 10.0.0.0/33]"),
            format!(
                "{}: \"x\" is neither an IP address nor a network such as 10.0.0.0/8\n{}: \"10.0.0.0/33\" is neither an IP address nor a network such as 10.0.0.0/8",
                source(".ipBlocks[3]"),
                source(".ipBlocks[4]")
            ),
        ),
        (
            from("notRemoteIpBlocks: [x]"),
            format!("{}: \"x\" is neither an IP address nor a network such as 10.0.0.0/8", source(".notRemoteIpBlocks[0]")),
        ),
        (
            from("serviceAccounts: [a, b/c, 'd*', e/f/g, /h]"),
            [2, 3, 4]
                .iter()
                .zip(["d*", "e/f/g", "/h"])
                .map(|(index, text)| format!("{}: {text:?} must be NAME or NAMESPACE/NAME, without `*`", source(&format!(".serviceAccounts[{index}]"))))
                .collect::<Vec<_>>()
                .join("\n"),
        ),
        (
            from("serviceAccounts: [a], namespaces: [b]"),
            format!("{}: can't be given beside principals or namespaces", source(".serviceAccounts")),
        ),
        (
            to("ports: ['80', '0', '65536', http]"),
            [(1, "0"), (2, "65536"), (3, "http")]
                .map(|(index, text)| format!("{}: {text:?} is not a port from 1 to 65535", operation(&format!(".ports[{index}]"))))
                .join("\n"),
        ),
        (
            to("ports: [80]"),
            format!("{}: invalid type: integer `80`, expected a string", operation(".ports[0]")),
        ),
        (
            to("paths: ['/a/{*}/b/{**}', '/a*', '{**}', '/{**}/{*}', '/a{*}', '/{*}/b*']"),
            [
                (2, "a path with templates begins with a slash"),
                (3, "no template may follow {**}"),
                (4, "a template is a whole segment, {*} or {**}, and no `*` stands beside it"),
                (5, "a template is a whole segment, {*} or {**}, and no `*` stands beside it"),
            ]
            .map(|(index, text)| format!("{}: {text}", operation(&format!(".paths[{index}]"))))
            .join("\n"),
        ),
        (
            when("key: source.ip"),
            "spec.rules[0].when[0]: values or notValues is required".into(),
        ),
        (
            when("values: [a]"),
            format!("{}: a key is required", at("key")),
        ),
        (
            when("key: source.name, values: [a]"),
            format!("{}: \"source.name\" is not an attribute that conditions know", at("key")),
        ),
        (
            when("key: 'request.headers[a b]', values: [a]"),
            format!("{}: \"request.headers[a b]\" is not an attribute that conditions know", at("key")),
        ),
        (
            when("key: 'request.auth.claims[a][]', values: [a]"),
            format!("{}: \"request.auth.claims[a][]\" is not an attribute that conditions know", at("key")),
        ),
        (
            when("key: 'request.auth.claims[a][b]', notValues: [a]"),
            String::new(),
        ),
        (
            when("key: destination.port, values: [x]"),
            format!("{}: \"x\" is not a port from 1 to 65535", at("values[0]")),
        ),
        (
            when("key: source.serviceAccount, values: ['*']"),
            format!("{}: \"*\" must be NAME or NAMESPACE/NAME, without `*`", at("values[0]")),
        ),
        (
            when("key: remote.ip, notValues: [x]"),
            format!("{}: \"x\" is neither an IP address nor a network such as 10.0.0.0/8", at("notValues[0]")),
        ),
        (
            when("key: experimental.envoy.filters.a, values: [b]"),
            format!("warning {}: the metadata of Envoy's filters is not known here: an ALLOW rule with it never matches, any other matches without it", at("key")),
        ),
    ];
    for (spec, expected) in &table {
        assert_eq!(of("AuthorizationPolicy", "", spec), *expected, "{spec}");
    }
    for (value, action, expected) in [
        ("'true'", "DENY", ""),
        ("'false'", "CUSTOM, provider: {name: a}", ""),
        (
            "'true'",
            "AUDIT",
            "warning metadata.annotations.istio.io/dry-run: a trial of AUDIT or CUSTOM has no effect",
        ),
        (
            "'yes'",
            "DENY",
            "warning metadata.annotations.istio.io/dry-run: \"yes\" is neither true nor false: the policy is enforced",
        ),
    ] {
        let found = of(
            "AuthorizationPolicy",
            &format!("istio.io/dry-run: {value}"),
            &format!("action: {action}, rules: [{{}}]"),
        );
        assert_eq!(found, expected, "{value}");
    }
}

#[test]
fn request_authentication() {
    let rule = |text: &str| format!("jwtRules: [{{issuer: a, {text}}}]");
    let at = |name: &str| format!("spec.jwtRules[0].{name}");
    for (spec, expected) in [
        (String::new(), String::new()),
        (
            "jwtRules: [{}]".into(),
            format!("{}: an issuer is required", at("issuer")),
        ),
        (rule("jwksUri: 'https://id.test/keys'"), String::new()),
        (rule("jwks_uri: 'http://id.test'"), String::new()),
        (
            rule("jwksUri: id.test"),
            format!("{}: \"id.test\" is not an http or https URL", at("jwksUri")),
        ),
        (rule("jwks: '{\"keys\": [{}]}'"), String::new()),
        (
            rule("jwks: '{}'"),
            format!("{}: not a key set: it has no `keys`", at("jwks")),
        ),
        (
            rule("jwks: '{'"),
            format!(
                "{}: not JSON: EOF while parsing an object at line 1 column 1",
                at("jwks")
            ),
        ),
        (
            rule("jwks: '{\"keys\": [{}]}', jwksUri: 'https://id.test'"),
            format!("{}: only one of jwks and jwksUri can be given", at("jwks")),
        ),
        (
            rule("audiences: ['']"),
            format!("{}: an empty audience matches nothing", at("audiences[0]")),
        ),
        (
            rule("fromHeaders: [{name: x-jwt, prefix: 'Bearer '}, {name: 'a b'}]"),
            format!(
                "{}: \"a b\" is not the name of a header",
                at("fromHeaders[1].name")
            ),
        ),
        (
            rule("fromParams: [t, ''], fromCookies: [c], spaceDelimitedClaims: ['']"),
            format!(
                "{}: a name is required\n{}: a name is required",
                at("fromParams[1]"),
                at("spaceDelimitedClaims[0]")
            ),
        ),
        (
            rule("outputPayloadToHeader: 'a b', forwardOriginalToken: true"),
            format!(
                "{}: \"a b\" is not the name of a header",
                at("outputPayloadToHeader")
            ),
        ),
        (
            rule("outputClaimToHeaders: [{header: x, claim: a.b}, {header: x}]"),
            format!(
                "{}: a claim is required",
                at("outputClaimToHeaders[1].claim")
            ),
        ),
        (
            rule("outputPayloadToHeader: Host, fromHeaders: [{name: Content-Length}]"),
            format!(
                "{}: \"content-length\" frames the request or names its host: take a field of your own\n{}: \"host\" frames the request or names its host: take a field of your own",
                at("fromHeaders[0].name"),
                at("outputPayloadToHeader")
            ),
        ),
        (
            rule(
                "outputClaimToHeaders: [{header: transfer-encoding, claim: a}, {header: ':path', claim: a}]",
            ),
            format!(
                "{}: \"transfer-encoding\" frames the request or names its host: take a field of your own\n{}: \":path\" is not the name of a header",
                at("outputClaimToHeaders[0].header"),
                at("outputClaimToHeaders[1].header")
            ),
        ),
        (
            rule("timeout: 0s"),
            format!("{}: must be longer than zero", at("timeout")),
        ),
        (
            rule("jwksURI: a"),
            format!(
                "warning {}: unknown field: it has no effect; is jwksUri meant?",
                at("jwksURI")
            ),
        ),
    ] {
        assert_eq!(of("RequestAuthentication", "", &spec), expected, "{spec}");
    }
}

#[test]
fn what_the_mesh_config_says_of_trust_domains_is_told() {
    for (mesh, expected) in [
        (
            "{trustDomain: cluster.local, rootNamespace: istio-system}",
            &[][..],
        ),
        ("{trustDomain: '', trustDomainAliases: []}", &[]),
        (
            "{trustDomain: mesh.test}",
            &[
                "data.mesh.trustDomain@1: is not read: give each proxy, and aquifer ca, --trust-domain mesh.test",
            ],
        ),
        (
            "{trustDomainAliases: [old.test, older.test]}",
            &[
                "data.mesh.trustDomainAliases@1: is not read: give each proxy --trust-domain-alias old.test,older.test",
            ],
        ),
        (
            "{rootNamespace: mesh}",
            &[
                "data.mesh.rootNamespace@1: is not read: istio-system is the root namespace, and no setting makes it another",
            ],
        ),
        (
            "{trust_domain: mesh.test, rootNamespace: mesh}",
            &[
                "data.mesh.trustDomain@1: is not read: give each proxy, and aquifer ca, --trust-domain mesh.test",
                "data.mesh.rootNamespace@1: is not read: istio-system is the root namespace, and no setting makes it another",
            ],
        ),
    ] {
        let text = format!(
            "{{apiVersion: v1, kind: ConfigMap, metadata: {{name: istio, namespace: istio-system}}, data: {{mesh: \"{mesh}\"}}}}"
        );
        let expected: Vec<_> = expected
            .iter()
            .map(|one| format!("warning {one}"))
            .collect();
        assert_eq!(findings(&text), expected, "{mesh}");
    }
}
