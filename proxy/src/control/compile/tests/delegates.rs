//! Roots and their delegates.

use super::*;

fn root(http: &str) -> String {
    rules("root", "shop", &format!("hosts: [web], http: {http}"))
}

fn delegate(name: &str, spec: &str) -> String {
    rules(name, "team", spec)
}

const TO: &str = "route: [{destination: {host: web.shop.svc.cluster.local, port: {number: 80}}}]";

/// The rule's name, or what there is in its place.
fn chosen(compiled: &Compiled, target: &str) -> String {
    let route = route(compiled, "shop", "web", 80, target);
    route.split(':').next().unwrap_or_default().to_owned()
}

#[test]
fn a_delegates_rules_stand_in_the_roots_place() {
    for (name, root_match, own_match, target, expected) in [
        ("no conditions", "", "", "/", "r-d"),
        (
            "the root's",
            "match: [{uri: {prefix: /a}}],",
            "",
            "/a/b",
            "r-d",
        ),
        (
            "not the root's",
            "match: [{uri: {prefix: /a}}],",
            "",
            "/b",
            "last",
        ),
        (
            "within the root's prefix",
            "match: [{uri: {prefix: /a}}],",
            "match: [{uri: {prefix: /a/b}}],",
            "/a/b/c",
            "r-d",
        ),
        (
            "both conditions count",
            "match: [{uri: {prefix: /a}}],",
            "match: [{uri: {prefix: /a/b}}],",
            "/a/c",
            "last",
        ),
        (
            "outside of the root's prefix",
            "match: [{uri: {prefix: /a}}],",
            "match: [{uri: {prefix: /b}}],",
            "/b",
            "last",
        ),
        (
            "an exact path within a prefix",
            "match: [{uri: {prefix: /a}}],",
            "match: [{uri: {exact: /a/b}}],",
            "/a/b",
            "r-d",
        ),
        (
            "a prefix is not within an exact path",
            "match: [{uri: {exact: /a}}],",
            "match: [{uri: {prefix: /a}}],",
            "/a",
            "last",
        ),
        (
            "the same exact path",
            "match: [{uri: {exact: /a}}],",
            "match: [{uri: {exact: /a}}],",
            "/a",
            "r-d",
        ),
        (
            "nobody can tell of expressions",
            "match: [{uri: {regex: '/a.*'}}],",
            "match: [{uri: {prefix: /ab}}],",
            "/ab",
            "last",
        ),
        (
            "different things are asked",
            "match: [{uri: {prefix: /a}}],",
            "match: [{queryParams: {q: {exact: '1'}}}],",
            "/a?q=1",
            "r-d",
        ),
        (
            "each block lies within one of the root's",
            "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}],",
            "match: [{uri: {prefix: /b/c}}, {uri: {prefix: /a/c}}],",
            "/b/c",
            "r-d",
        ),
        (
            "a block that lies within none costs the whole rule",
            "match: [{uri: {prefix: /a}}, {uri: {prefix: /b}}],",
            "match: [{uri: {prefix: /b/c}}, {uri: {prefix: /x}}],",
            "/b/c",
            "last",
        ),
        (
            "a root's namespace must be repeated",
            "match: [{sourceNamespace: shop}],",
            "match: [{uri: {prefix: /a}}],",
            "/a",
            "last",
        ),
        (
            "a root's namespace, repeated",
            "match: [{sourceNamespace: shop}],",
            "match: [{sourceNamespace: shop, uri: {prefix: /a}}],",
            "/a",
            "r-d",
        ),
        (
            "another port",
            "match: [{port: 81}],",
            "match: [{port: 80}],",
            "/",
            "last",
        ),
        (
            "another case",
            "match: [{uri: {prefix: /a}, ignoreUriCase: true}],",
            "match: [{uri: {prefix: /a}}],",
            "/a",
            "last",
        ),
        (
            "names of blocks",
            "match: [{name: x, uri: {prefix: /a}}],",
            "match: [{name: y}],",
            "/a",
            "r-d.x-y",
        ),
    ] {
        let root = root(&format!(
            "[{{name: r, {root_match} delegate: {{name: d, namespace: team}}}}, {{name: last, {TO}}}]"
        ));
        let own = delegate("d", &format!("http: [{{name: d, {own_match} {TO}}}]"));
        assert_eq!(
            chosen(&compile(&[WEB, &root, &own]), target),
            expected,
            "{name}"
        );
    }
}

#[test]
fn policies_are_inherited() {
    let root = root(
        "[{delegate: {name: d, namespace: team}, timeout: 3s, retries: {attempts: 7}, headers: {request: {set: {a: b}}}, mirror: {host: web}}]",
    );
    let own = delegate("d", &format!("http: [{{timeout: 1s, {TO}}}]"));
    let compiled = compile(&[WEB, &root, &own]);
    let table = compiled
        .snapshot
        .route_table("web", "shop", 80)
        .expect("known");
    let rule = &table.rules()[0];
    let Action::Forward(forward) = &rule.action else {
        panic!("it forwards");
    };
    assert_eq!(forward.timeout, Some(std::time::Duration::from_secs(1)));
    assert_eq!(forward.retry.attempts, 7);
    assert!(!rule.headers.is_empty());
    // The root's names are of the root's namespace.
    let mirror = forward.mirrors[0].cluster.as_str();
    assert_eq!(mirror, "outbound|80||web.shop.svc.cluster.local");
}

#[test]
fn a_delegate_that_cannot_be_used_costs_one_rule() {
    let named = |name: &str| {
        format!("[{{delegate: {{name: {name}, namespace: team}}}}, {{name: last, {TO}}}]")
    };
    let own = format!("http: [{{name: d, {TO}}}]");
    for (name, root_http, delegate_spec, expected) in [
        (
            "missing",
            named("gone"),
            own.clone(),
            "VirtualService shop/root spec.http[0].delegate: there is no valid VirtualService team/gone; this rule is left out
VirtualService team/d spec.hosts: without hosts it is a delegate, and no VirtualService delegates to it: it has no effect",
        ),
        (
            "not exported",
            named("d"),
            format!("exportTo: ['.'], {own}"),
            "VirtualService shop/root spec.http[0].delegate: VirtualService team/d is not exported to shop; this rule is left out",
        ),
        (
            "with hosts",
            named("d"),
            format!("hosts: [other.example.com], {own}"),
            "VirtualService shop/root spec.http[0].delegate: VirtualService team/d has hosts of its own, and is no delegate; this rule is left out
VirtualService team/d spec.hosts[0]: no Service has the name other.example.com: the rules count for requests to port 80 alone",
        ),
        (
            "itself",
            "[{delegate: {name: root}}, {name: last, route: [{destination: {host: web, port: {number: 80}}}]}]".to_owned(),
            own,
            "VirtualService shop/root spec.http[0].delegate: VirtualService shop/root delegates to itself; this rule is left out
VirtualService team/d spec.hosts: without hosts it is a delegate, and no VirtualService delegates to it: it has no effect",
        ),
        (
            "nothing in common",
            "[{match: [{uri: {exact: /a}}], delegate: {name: d, namespace: team}}, {name: last, route: [{destination: {host: web, port: {number: 80}}}]}]".to_owned(),
            format!("http: [{{match: [{{uri: {{exact: /b}}}}], {TO}}}]"),
            "VirtualService shop/root spec.http[0].delegate: spec.http[0] of VirtualService team/d is left out: one of its match blocks lies within none of this rule's",
        ),
    ] {
        let compiled = compile(&[WEB, &root(&root_http), &delegate("d", &delegate_spec)]);
        assert_eq!(findings(&compiled), expected, "{name}");
        assert_eq!(chosen(&compiled, "/a"), "last", "{name}");
    }
}

#[test]
fn what_a_delegate_asks_in_vain_is_told() {
    let root = root(
        "[{match: [{gateways: [mesh], uri: {prefix: /a}}], delegate: {name: d, namespace: team}}]",
    )
    .replace("hosts: [web]", "hosts: [web], gateways: [mesh]");
    let own = format!("http: [{{match: [{{sourceLabels: {{a: b}}}}], {TO}}}]");
    let compiled = compile(&[WEB, &root, &delegate("d", &own)]);
    assert_eq!(
        findings(&compiled),
        "VirtualService shop/root spec.http[0].delegate: sourceLabels has no effect in a block that has gateways (nor in Istio): leave them out of this rule's"
    );
}

#[test]
fn a_delegate_that_changes_changes_its_root() {
    let mut fixture = Fixture::new();
    let root = root("[{delegate: {name: d, namespace: team}}]");
    let own = |name: &str| delegate("d", &format!("http: [{{name: {name}, {TO}}}]"));
    let first = fixture.apply(&[WEB, &root, &own("one")]);
    assert_eq!(chosen(&first, "/"), "one");
    let second = fixture.apply(&[WEB, &root, &own("two")]);
    assert_eq!(chosen(&second, "/"), "two");
    let same = fixture.apply(&[WEB, &root, &own("two")]);
    assert_eq!(same.work, Work::default());
}
