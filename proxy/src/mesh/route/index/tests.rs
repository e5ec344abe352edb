//! The index against asking one rule after the other.

use std::collections::BTreeMap as Labels;

use http::{HeaderMap, HeaderValue, Method};
use proptest::prelude::*;

use super::*;
use crate::mesh::{Action, Forward, RouteTable};
use crate::policy::matcher::{HeaderCondition, QueryCondition, Source};
use crate::types::ClusterName;

fn rule(matches: Vec<Match>) -> Arc<Rule> {
    let forward = Forward::to(ClusterName::passthrough(), Arc::default());
    Arc::new(Rule {
        name: "r".into(),
        matches: matches.into(),
        action: Action::Forward(Arc::new(forward)),
        headers: Arc::default(),
        cors: None,
        fault: None,
        stat_prefix: None,
    })
}

fn text(pattern: &'static str) -> impl Strategy<Value = String> {
    proptest::string::string_regex(pattern).expect("a pattern")
}

/// Few letters, so that much matches.
fn pattern(texts: &'static str) -> impl Strategy<Value = Pattern> {
    let case = prop_oneof![4 => Just(Case::Sensitive), 1 => Just(Case::Ignored)];
    (text(texts), case, 0..4).prop_map(|(text, case, kind)| match kind {
        0 => Pattern::Exact(text.into(), case),
        1 => Pattern::Prefix(text.into(), case),
        2 => Pattern::regex(&format!("{text}[ab/]*")).expect("an expression"),
        _ => Pattern::regex(&format!("({text}|/b).*")).expect("an expression"),
    })
}

fn block() -> impl Strategy<Value = Match> {
    let header = (
        "[xy]",
        proptest::option::of(pattern("[ab]{0,2}")),
        any::<bool>(),
    );
    let header = header.prop_map(|(name, pattern, with)| HeaderCondition {
        field: Field::Header(HeaderName::from_bytes(name.as_bytes()).expect("a name")),
        sense: if with { Sense::With } else { Sense::Without },
        pattern,
    });
    let query = ("[qr]", proptest::option::of(pattern("[ab]{0,2}")));
    let query = query.prop_map(|(name, pattern)| QueryCondition {
        name: name.into(),
        pattern,
    });
    (
        proptest::option::of(pattern("/[ab/]{0,3}")),
        proptest::collection::vec(header, 0..2),
        proptest::collection::vec(query, 0..2),
    )
        .prop_map(|(path, headers, query)| Match {
            path,
            headers,
            query,
            ..Match::default()
        })
}

proptest! {
    #[test]
    fn the_index_finds_what_a_scan_finds(
        blocks in proptest::collection::vec(proptest::collection::vec(block(), 0..4), 9..40),
        paths in proptest::collection::vec("/[abA/]{0,5}", 1..8),
        query in proptest::option::of("([qr]=[ab]{0,2}&?){0,3}"),
        lines in proptest::collection::vec(("[xy]", "[ab]{0,2}"), 0..4),
    ) {
        // A rule without blocks takes everything: one at the end leaves something to be found.
        let mut rules: Vec<Arc<Rule>> = blocks.into_iter().filter(|one| !one.is_empty()).map(rule).collect();
        rules.push(rule(Vec::new()));
        let table = RouteTable::new(None, rules.clone());
        let mut headers = HeaderMap::new();
        for (name, value) in &lines {
            let name = HeaderName::from_bytes(name.as_bytes()).expect("a name");
            headers.append(name, HeaderValue::from_str(value).expect("a value"));
        }
        let labels = Labels::new();
        for path in &paths {
            let request = Request {
                method: &Method::GET,
                path,
                query: query.as_deref(),
                authority: "web",
                headers: &headers,
                scheme: "http",
                source: Source { namespace: "n", labels: &labels },
            };
            let scanned = rules.iter().find_map(|rule| Some((Arc::as_ptr(rule), rule.applies(&request)?)));
            let found = table.choose(&request).map(|one| (Arc::as_ptr(one.rule), one.matched));
            prop_assert_eq!(found, scanned, "{} {:?}", path, query);
        }
    }
}

#[test]
fn many_lines_of_a_header_ask_every_rule() {
    let of_value = |value: String| {
        rule(vec![Match {
            headers: vec![HeaderCondition {
                field: Field::Header(HeaderName::from_static("x")),
                sense: Sense::With,
                pattern: Some(Pattern::Exact(value.into(), Case::Sensitive)),
            }],
            ..Match::default()
        }])
    };
    let rules: Vec<_> = (0..200).map(|n| of_value(n.to_string())).collect();
    let table = RouteTable::new(None, rules.clone());
    let mut headers = HeaderMap::new();
    for n in (50..200).rev() {
        headers.append("x", HeaderValue::from(n));
    }
    let labels = Labels::new();
    let request = Request {
        method: &Method::GET,
        path: "/",
        query: None,
        authority: "web",
        headers: &headers,
        scheme: "http",
        source: Source {
            namespace: "n",
            labels: &labels,
        },
    };
    let found = table.choose(&request).expect("one matches");
    assert!(Arc::ptr_eq(found.rule, &rules[50]));
}
