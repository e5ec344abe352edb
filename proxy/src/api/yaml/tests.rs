//! Texts, good and hostile.

use std::time::Duration;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;

fn json(text: &str) -> Result<String, Refused> {
    read(text).map(|documents| {
        documents
            .iter()
            .map(|document| serde_json::to_string(&document.value).expect("representable"))
            .collect::<Vec<_>>()
            .join(" ")
    })
}

#[test]
fn documents_are_read() {
    for (text, expected) in [
        ("", ""),
        ("# only a comment\n", ""),
        ("a: 1", r#"{"a":1}"#),
        ("a: 1\n---\nb: 2", r#"{"a":1} {"b":2}"#),
        ("---\na: 1\n...\n---\nb: 2\n", r#"{"a":1} {"b":2}"#),
        ("---\n---\na: 1", r#"null {"a":1}"#),
        (
            r#"{"a": [1, "2", null, true]}"#,
            r#"{"a":[1,"2",null,true]}"#,
        ),
        (
            "{\n\t\"a\": {\n\t\t\"b\": \"\\u00e9\"\n\t}\n}\n",
            r#"{"a":{"b":"é"}}"#,
        ),
        ("a: |\n  x\n  y\n", r#"{"a":"x\ny\n"}"#),
        ("a: &x {b: 1}\nc: *x", r#"{"a":{"b":1},"c":{"b":1}}"#),
        (
            "a: &x {b: 1, c: 2}\nd:\n  <<: *x\n  c: 3",
            r#"{"a":{"b":1,"c":2},"d":{"c":3,"b":1}}"#,
        ),
        ("80: web\ntrue: x", r#"{"80":"web","true":"x"}"#),
        ("\u{feff}a: 1", r#"{"a":1}"#),
        ("a: 1\r\nb: 2\r\n", r#"{"a":1,"b":2}"#),
        ("a:", r#"{"a":null}"#),
        ("- a\n- b", r#"["a","b"]"#),
    ] {
        assert_eq!(json(text).as_deref(), Ok(expected), "{text:?}");
    }
}

#[test]
fn what_is_no_document_is_refused_with_its_line() {
    for (text, line) in [
        ("a: 1\na: 2", 2),
        ("a: 1\nb: [1, 2\n", 3),
        ("a:\n  - b\n c: d", 3),
        ("a: *x", 1),
        ("a: &x [*x]", 1),
        ("a: &x 1\n---\nb: *x", 3),
        ("a: {<<: 1}", 1),
        ("{a: 1}: 2", 1),
        ("\u{0}", 1),
    ] {
        match read(text) {
            Err(refused) => assert_eq!(refused.line(), line, "{text:?}: {refused}"),
            Ok(documents) => panic!("{text:?} was read: {documents:?}"),
        }
    }
}

#[test]
fn fields_know_their_lines() {
    let text =
        "# one\nkind: X\nspec:\n  http:\n  - match:\n    - uri: {exact: /a}\n\n    route: []\n";
    let documents = read(text).expect("valid");
    for (path, line) in [
        ("", 2),
        ("kind", 2),
        ("spec", 3),
        ("spec.http", 4),
        ("spec.http[0].match", 5),
        ("spec.http[0].match[0].uri.exact", 6),
        ("spec.http[0].route", 8),
        ("spec.http[0].missing", 5),
    ] {
        assert_eq!(documents[0].lines.find(path), line, "{path}");
    }
}

/// Each costs an error, not the memory or the minute that it is made to take.
#[test]
fn bombs_are_refused_at_once() {
    let wide = {
        let mut text = String::from("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n");
        for level in 1..30 {
            let aliases = vec![format!("*a{}", level - 1); 10].join(",");
            text.push_str(&format!("a{level}: &a{level} [{aliases}]\n"));
        }
        text
    };
    let deep_aliases = {
        let mut text = String::from("a0: &a0 x\n");
        for level in 1..100_000 {
            text.push_str(&format!("a{level}: &a{level} [*a{}]\n", level - 1));
        }
        text
    };
    let merges = {
        let mut text = String::from("a0: &a0 {x: 1}\n");
        for level in 1..40 {
            text.push_str(&format!(
                "a{level}: &a{level}\n  <<: [*a{0}, *a{0}]\n  k{level}: *a{0}\n",
                level - 1
            ));
        }
        text
    };
    for (name, text) in [
        ("wide aliases", wide),
        ("deep aliases", deep_aliases),
        ("merges", merges),
        ("flow depth", "[".repeat(8 << 20)),
        ("flow mappings", "{a: ".repeat(1 << 20)),
        ("block depth", "- ".repeat(8 << 20)),
        ("mapping depth", "? ".repeat(8 << 20)),
        ("many values", format!("[{}]", "1,".repeat(3_000_000))),
        ("binary garbage", {
            let mut random = StdRng::seed_from_u64(3);
            (0..1 << 20)
                .map(|_| char::from(random.random::<u8>()))
                .collect()
        }),
        ("one endless line", format!("a: \"{}", "x".repeat(8 << 20))),
        ("keys without an end", "a".repeat(8 << 20) + ": : :"),
    ] {
        let started = crate::clock::now();
        assert!(read(&text).is_err(), "{name} was read");
        let took = started.elapsed();
        assert!(took < Duration::from_secs(10), "{name} took {took:?}");
    }
}

/// Bytes of real manifests in disorder: an answer, whichever, and no panic.
#[test]
fn no_text_panics() {
    const PIECES: &[&str] = &[
        "a",
        ": ",
        "\n",
        "  ",
        "- ",
        "[",
        "]",
        "{",
        "}",
        ",",
        "&x ",
        "*x",
        "!!str ",
        "!",
        "|",
        ">",
        "\"",
        "'",
        "#",
        "---\n",
        "...\n",
        "%YAML 1.2\n",
        "?",
        "\t",
        "\\",
        "é",
        "\u{0}",
        "\r\n",
        "<<: ",
        "~",
        "0x",
        ".nan",
        "\u{2028}",
        "@",
        "`",
    ];
    let mut random = StdRng::seed_from_u64(11);
    let mut read_well = 0;
    for _ in 0..60_000 {
        let text: String = (0..random.random_range(0..14))
            .map(|_| PIECES[random.random_range(0..PIECES.len())])
            .collect();
        read_well += u32::from(read(&text).is_ok());
    }
    assert!(read_well > 1000, "hardly any text was valid: {read_well}");
}
