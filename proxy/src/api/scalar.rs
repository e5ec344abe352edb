//! What a scalar of YAML is: text, number, truth value or nothing.
//!
//! The core schema of YAML 1.2. The words of YAML 1.1 (`yes`, `off`) stay text: a field that wants
//! a truth value then says so, where guessing would turn a label `on` into `true`.

use super::value::Value;

/// Resolves a scalar. Quoted and block scalars are text; `tag` (`str`, `int`, ...) overrides.
pub(super) fn resolve(text: &str, plain: bool, tag: Option<&str>) -> Value {
    match tag {
        Some("str" | "binary") => Value::from(text),
        Some("null") => Value::Null,
        Some(_) => of_plain(text),
        None if plain => of_plain(text),
        None => Value::from(text),
    }
}

fn of_plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        ".nan" | ".NaN" | ".NAN" => return Value::Float(f64::NAN),
        _ => {}
    }
    number(text).unwrap_or_else(|| Value::from(text))
}

fn number(text: &str) -> Option<Value> {
    let unsigned = text.strip_prefix(['-', '+']).unwrap_or(text);
    let first = *unsigned.as_bytes().first()?;
    if matches!(unsigned, ".inf" | ".Inf" | ".INF") {
        let sign = if text.starts_with('-') { -1.0 } else { 1.0 };
        return Some(Value::Float(sign * f64::INFINITY));
    }
    if !(first.is_ascii_digit() || first == b'.') {
        return None;
    }
    for (prefix, radix) in [("0x", 16), ("0o", 8), ("0b", 2)] {
        if let Some(digits) = text.strip_prefix(prefix) {
            return u64::from_str_radix(digits, radix).ok().map(Value::Unsigned);
        }
    }
    if unsigned.bytes().all(|byte| byte.is_ascii_digit()) {
        // `010` is eight to YAML 1.1 and ten to 1.2: as text it is refused where a number is due.
        if unsigned.len() > 1 && first == b'0' {
            return None;
        }
        return text
            .parse::<i64>()
            .map(Value::from)
            .or_else(|_| text.parse::<u64>().map(Value::Unsigned))
            .or_else(|_| text.parse::<f64>().map(Value::Float))
            .ok();
    }
    let float = unsigned
        .bytes()
        .all(|byte| matches!(byte, b'0'..=b'9' | b'.' | b'e' | b'E' | b'+' | b'-'));
    let has_digit = unsigned.bytes().any(|byte| byte.is_ascii_digit());
    (float && has_digit).then(|| text.parse::<f64>().ok().map(Value::Float))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_scalars_have_types() {
        for (text, expected) in [
            ("", Value::Null),
            ("~", Value::Null),
            ("null", Value::Null),
            ("true", Value::Bool(true)),
            ("yes", "yes".into()),
            ("on", "on".into()),
            ("0", Value::Unsigned(0)),
            ("80", Value::Unsigned(80)),
            ("-1", Value::Negative(-1)),
            ("+1", Value::Unsigned(1)),
            ("0x1F", Value::Unsigned(31)),
            ("010", "010".into()),
            ("1.5", Value::Float(1.5)),
            ("1e3", Value::Float(1000.0)),
            (".5", Value::Float(0.5)),
            ("18446744073709551615", Value::Unsigned(u64::MAX)),
            ("99999999999999999999", Value::Float(1e20)),
            ("1.2.3", "1.2.3".into()),
            ("10.0.0.1", "10.0.0.1".into()),
            ("1s", "1s".into()),
            ("-", "-".into()),
            (".", ".".into()),
            ("e", "e".into()),
            ("-.inf", Value::Float(f64::NEG_INFINITY)),
        ] {
            assert_eq!(of_plain(text), expected, "{text:?}");
        }
        assert!(matches!(of_plain(".nan"), Value::Float(number) if number.is_nan()));
    }

    #[test]
    fn quotes_and_tags_decide() {
        assert_eq!(resolve("80", false, None), Value::from("80"));
        assert_eq!(resolve("80", true, Some("str")), Value::from("80"));
        assert_eq!(resolve("80", false, Some("int")), Value::Unsigned(80));
        assert_eq!(resolve("80", true, Some("null")), Value::Null);
    }
}
