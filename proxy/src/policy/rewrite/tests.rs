//! Rewrites and paths, one line a case.

use http::Uri;
use proptest::prelude::*;

use super::*;
use crate::policy::pattern::Case;

/// Rewrites `/a/b?q`.
fn run(rewrite: &PathRewrite, matched: Matched, target: &str) -> String {
    let (path, query) = match target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    match rewrite.apply(path, query, matched) {
        Ok(Some(target)) => target.to_string(),
        Ok(None) => "unchanged".to_owned(),
        Err(error) => error.to_string(),
    }
}

fn prefix(text: &str) -> Matched {
    Matched::by(Some(&Pattern::Prefix(text.into(), Case::Sensitive)))
}

#[test]
fn what_was_matched_is_replaced() {
    let exact = Matched::by(Some(&Pattern::Exact("/a/b".into(), Case::Sensitive)));
    let regex = Matched::by(Some(&Pattern::regex("/a.*").expect("valid")));
    for (name, with, matched, target, expected) in [
        ("the prefix", "/v2", prefix("/v1"), "/v1/x", "/v2/x"),
        (
            "the query is kept",
            "/v2",
            prefix("/v1"),
            "/v1/x?a=/v1",
            "/v2/x?a=/v1",
        ),
        ("an empty query too", "/v2", prefix("/v1"), "/v1?", "/v2?"),
        ("slash for slash", "/", prefix("/v2/"), "/v2/x?q", "/x?q"),
        ("slashes are not merged", "/", prefix("/v2"), "/v2/x", "//x"),
        ("as bytes", "/x", prefix("/api"), "/apix", "/xx"),
        ("nothing is left", "/", prefix("/v2"), "/v2", "/"),
        ("an empty uri", "", prefix("/v2"), "/v2/x", "unchanged"),
        ("a slash is added", "new", prefix("/v2"), "/v2/x", "/new/x"),
        (
            "without a condition the slash",
            "/new/",
            Matched::by(None),
            "/v2/x",
            "/new/v2/x",
        ),
        ("exact: everything", "/new", exact, "/a/b?q", "/new?q"),
        ("regex: everything", "/new", regex, "/a/b/c?q", "/new?q"),
        (
            "a query of its own",
            "/new?x=1",
            exact,
            "/a/b?q",
            "/new?x=1?q",
        ),
        (
            "what a path can't hold",
            "/a b#\u{e9}\r\n",
            exact,
            "/a/b",
            "/a%20b%23%C3%A9%0D%0A",
        ),
        (
            "longer than the path",
            "/new",
            Matched::Prefix(99),
            "/a",
            "/new",
        ),
    ] {
        let rewrite = PathRewrite::Matched(with.into());
        assert_eq!(run(&rewrite, matched, target), expected, "{name}");
    }
}

#[test]
fn every_match_is_replaced() {
    for (name, expression, with, target, expected) in [
        ("group", "^/v1/(.*)$", r"/v2/\1", "/v1/x?v1", "/v2/x?v1"),
        (
            "two groups",
            "^/([^/]+)/([^/]+)",
            r"/\2/\1",
            "/a/b/c",
            "/b/a/c",
        ),
        ("global", "b", "x", "/abab", "/axax"),
        ("the whole match", "b+", r"<\0>", "/abb", "/a%3Cbb%3E"),
        ("a backslash", "b", r"\\", "/ab", "/a%5C"),
        ("not matched", "z", "x", "/ab", "/ab"),
        ("an absent group", "a(z)?", r"[\1]", "/a", "/%5B%5D"),
        ("empty matches", "z*", "-", "/ab", "/-/-a-b-"),
        (
            "no empty match after another",
            "b*",
            "-",
            "/abba",
            "/-/-a-a-",
        ),
        ("not anchored", "one", "two", "/one/one", "/two/two"),
        ("case", "(?i)ONE", "two", "/one", "/two"),
        ("a slash is added", "^/a", "", "/ab", "/b"),
        ("everything goes", ".*", "", "/ab?q", "unchanged"),
    ] {
        let substitution = Substitution::new(expression, with).expect(name);
        let rewrite = PathRewrite::Regex(substitution);
        assert_eq!(run(&rewrite, Matched::Whole, target), expected, "{name}");
    }
}

#[test]
fn substitutions_are_checked() {
    for (expression, with, expected) in [
        ("", "x", "match: the regular expression is missing"),
        (
            "(",
            "x",
            "match: not a valid RE2 regular expression: unclosed group",
        ),
        (
            "(a)",
            r"\2",
            r"rewrite: \2 names a group, but match has only 1",
        ),
        (
            "a",
            r"\1",
            r"rewrite: \1 names a group, but match has only 0",
        ),
        (
            "a",
            r"\x",
            "rewrite: a backslash stands before a digit (the group) or another backslash",
        ),
        (
            "a",
            r"x\",
            "rewrite: a backslash stands before a digit (the group) or another backslash",
        ),
    ] {
        let error = Substitution::new(expression, with).expect_err(expression);
        assert_eq!(error.to_string(), expected);
    }
}

#[test]
fn a_result_that_is_too_long_is_refused_in_time() {
    let path = format!("/{}", "a".repeat(60_000));
    let with = "b".repeat(10_000);
    let rewrite = PathRewrite::Regex(Substitution::new("a", &with).expect("valid"));
    assert_eq!(rewrite.apply(&path, None, Matched::Whole), Err(TooLong));
    let rewrite = PathRewrite::Matched(with.into());
    assert_eq!(rewrite.apply(&path, None, Matched::Prefix(1)), Err(TooLong));
}

/// Each `a` is looked for with the whole rest of the path, since a `z` might follow.
#[test]
fn a_search_that_takes_too_long_is_refused() {
    let rewrite = PathRewrite::Regex(Substitution::new(".*z|a", "b").expect("valid"));
    for (len, expected) in [(1000, Ok(())), (60_000, Err(TooLong))] {
        let path = format!("/{}", "a".repeat(len));
        let found = rewrite.apply(&path, None, Matched::Whole).map(|target| {
            let target = target.expect("a path");
            assert_eq!(target.as_str(), path.replace('a', "b"));
        });
        assert_eq!(found, expected, "{len}");
    }
}

#[test]
fn an_authority_is_checked() {
    assert_eq!(authority("web:80"), Ok(HeaderValue::from_static("web:80")));
    for text in ["", "a b", "a/b", "user@web", "web:port"] {
        assert!(authority(text).is_err(), "{text}");
    }
}

proptest! {
    /// Whatever is configured and asked for: a target in origin form, with the query at its end.
    #[test]
    fn a_rewritten_target_is_always_valid(
        rewrite in prop_oneof![
            ".{0,16}".prop_map(|text| PathRewrite::Matched(text.into())),
            ("[a-z/.]{1,2}|.{1,3}", ".{0,8}").prop_filter_map("no substitution", |(one, with)| {
                Substitution::new(&one, &with).ok().map(PathRewrite::Regex)
            }),
        ],
        path in "/.{0,32}",
        query in proptest::option::of(".{0,16}"),
        matched in prop_oneof![Just(Matched::Whole), (0..40_usize).prop_map(Matched::Prefix)],
    ) {
        let target = rewrite.apply(&path, query.as_deref(), matched).expect("short");
        let Some(target) = target else {
            return Ok(());
        };
        prop_assert!(target.as_str().starts_with('/'));
        prop_assert!(target.as_str().bytes().all(|byte| byte.is_ascii_graphic() && byte != b'#'));
        prop_assert_eq!(target.query().is_some(), query.is_some() || target.as_str().contains('?'));
        let uri = Uri::builder().path_and_query(target).build();
        prop_assert!(uri.is_ok());
    }
}
