//! Texts, good and hostile.

use std::cell::Cell;

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::*;
use crate::api::Lines;

fn json(text: &str) -> Result<String, Refused> {
    read(text).map(|documents| documents.iter().map(as_json).collect::<Vec<_>>().join(" "))
}

fn as_json(node: &Node) -> String {
    let text = |text: &str| serde_json::to_string(text).expect("representable");
    match &node.value {
        Value::Null => "null".to_owned(),
        Value::Bool(value) => value.to_string(),
        Value::Unsigned(number) => number.to_string(),
        Value::Negative(number) => number.to_string(),
        Value::Float(number) => number.to_string(),
        Value::Text(value) => text(value),
        Value::List(items) => {
            let items: Vec<String> = items.iter().map(as_json).collect();
            format!("[{}]", items.join(","))
        }
        Value::Fields(fields) => {
            let fields = fields.iter();
            let fields: Vec<String> = fields
                .map(|(name, field)| format!("{}:{}", text(name), as_json(field)))
                .collect();
            format!("{{{}}}", fields.join(","))
        }
    }
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
        ("a: [&x {b: 1}, {<<: *x}]", r#"{"a":[{"b":1},{"b":1}]}"#),
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

/// However many fields there are, each is there once.
#[test]
fn large_mappings_are_checked_too() {
    let mut text: String = (0..100).map(|n| format!("k{n}: {n}\n")).collect();
    text.push_str("l: &x {k7: a, new: b}\n<<: *x\n");
    let documents = read(&text).expect("valid");
    let Value::Fields(fields) = &documents[0].value else {
        panic!("a mapping");
    };
    assert_eq!(fields.len(), 102);
    let of = |name: &str| documents[0].get(name).map(|one| one.value.clone());
    assert_eq!(of("k7"), Some(Value::Unsigned(7)));
    assert_eq!(of("new"), Some(Value::from("b")));
    for repeated in [0, 23, 24, 25, 99] {
        let refused = read(&format!("{text}k{repeated}: 1\n"));
        assert_eq!(refused, Err(Refused::Repeated(103, format!("k{repeated}"))));
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
        assert_eq!(Lines::of(&documents[0]).find(path), line, "{path}");
    }
}

/// A text that counts how often the parser touches it.
struct Counted<'a> {
    text: StrInput<'a>,
    touched: &'a Cell<usize>,
}

impl Counted<'_> {
    fn touch(&self, count: usize) {
        self.touched.set(self.touched.get() + count);
    }
}

impl Input for Counted<'_> {
    fn lookahead(&mut self, count: usize) {
        self.touch(1);
        self.text.lookahead(count);
    }
    fn buflen(&self) -> usize {
        self.text.buflen()
    }
    fn bufmaxlen(&self) -> usize {
        self.text.bufmaxlen()
    }
    fn raw_read_ch(&mut self) -> char {
        self.touch(1);
        self.text.raw_read_ch()
    }
    fn raw_read_non_breakz_ch(&mut self) -> Option<char> {
        self.touch(1);
        self.text.raw_read_non_breakz_ch()
    }
    fn skip(&mut self) {
        self.touch(1);
        self.text.skip();
    }
    fn skip_n(&mut self, count: usize) {
        self.touch(count);
        self.text.skip_n(count);
    }
    fn peek(&self) -> char {
        self.touch(1);
        self.text.peek()
    }
    fn peek_nth(&self, n: usize) -> char {
        self.touch(1);
        self.text.peek_nth(n)
    }
}

/// How often the parser may touch a character: about as often as those of ordinary manifests.
const TOUCHES: usize = 40;

/// Each is refused, and before it could cost what it is made to cost: counted are the parser's looks at
/// the text, and the values that were built.
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
    let levels = 4 * MAX_DEPTH;
    let garbage = {
        let mut random = StdRng::seed_from_u64(3);
        (0..1 << 20)
            .map(|_| char::from(random.random::<u8>()))
            .collect()
    };
    let mut wrong = Vec::new();
    // Name, text, how many of its characters and of its values it may cost.
    for (name, text, characters, values) in [
        ("wide aliases", wide, 2_000, 2 * MAX_COPIES),
        (
            "deep aliases",
            deep_aliases,
            MAX_COPIES * 20,
            2 * MAX_COPIES,
        ),
        ("merges", merges, 2_000, 2 * MAX_COPIES),
        ("flow depth", "[".repeat(8 << 20), levels, levels),
        ("flow mappings", "{a: ".repeat(1 << 20), 4 * levels, levels),
        ("block depth", "- ".repeat(8 << 20), 2 * levels, levels),
        ("mapping depth", "? ".repeat(8 << 20), 2 * levels, levels),
        (
            "many values",
            format!("[{}]", "1,".repeat(3_000_000)),
            2 * MAX_VALUES + 1,
            MAX_VALUES,
        ),
        ("binary garbage", garbage, 0, 0),
        (
            "one endless line",
            format!("a: \"{}", "x".repeat(8 << 20)),
            8 << 20,
            2,
        ),
        (
            "keys without an end",
            "a".repeat(8 << 20) + ": : :",
            8 << 20,
            2,
        ),
    ] {
        assert!(read(&text).is_err(), "{name} was read");
        if find_control(&text).is_some() {
            // Nothing is parsed.
            assert_eq!((characters, values), (0, 0), "{name}");
            continue;
        }
        let touched = Cell::new(0);
        let mut reader = Reader::new(Counted {
            text: StrInput::new(&text),
            touched: &touched,
        });
        while let Ok(Some(_)) = reader.document() {}
        let (touched, most) = (touched.get(), (characters + 1_000) * TOUCHES);
        let built = reader.values;
        if touched == 0 || touched > most || built > values + 1 {
            wrong.push(format!(
                "{name}: {touched} of {most} looks, {built} of {values} values"
            ));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
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
