//! RE2's dialect of regular expressions, written in the dialect of the `regex` crate.
//!
//! Both are linear-time and share most of their syntax. Translated are: the Perl classes and word
//! boundaries (ASCII in RE2), the characters that stand for themselves inside a class there but
//! not here (`[`, `&&`, `--`, `~~`), and `\Q…\E`. Refused are flags that RE2 lacks, and `\C`.
//! Everything else goes through; what neither knows (look-around, back-references) the compiler
//! refuses.

use std::iter::Peekable;
use std::str::Chars;

/// Translates an expression.
///
/// # Errors
/// A text that says what RE2 would refuse.
pub(super) fn translate(expression: &str) -> Result<String, String> {
    let mut out = String::with_capacity(expression.len() + 16);
    let mut chars = expression.chars().peekable();
    while let Some(char) = chars.next() {
        match char {
            '\\' => escape(&mut chars, &mut out)?,
            '[' => class(&mut chars, &mut out)?,
            '(' => {
                out.push('(');
                if chars.peek() == Some(&'?') {
                    flags(&mut chars, &mut out)?;
                }
            }
            char => out.push(char),
        }
    }
    Ok(out)
}

/// After a `\` outside a class.
fn escape(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    match chars.next() {
        Some('b') => out.push_str(r"(?-u:\b)"),
        Some('B') => out.push_str(r"(?-u:\B)"),
        Some('C') => return Err(r"\C is not supported".to_owned()),
        Some('Q') => literal(chars, out),
        Some(char) => match perl_class(char) {
            Some(set) => {
                out.push('[');
                out.push_str(set);
                out.push(']');
            }
            None => {
                out.push('\\');
                out.push(char);
            }
        },
        None => return Err("trailing backslash".to_owned()),
    }
    Ok(())
}

/// After `\Q`: everything is literal up to `\E` or the end.
fn literal(chars: &mut Peekable<Chars<'_>>, out: &mut String) {
    let mut text = String::new();
    while let Some(char) = chars.next() {
        if char == '\\' && chars.peek() == Some(&'E') {
            chars.next();
            break;
        }
        text.push(char);
    }
    out.push_str(&regex::escape(&text));
}

/// The inside of a class that means what RE2's Perl class does.
fn perl_class(char: char) -> Option<&'static str> {
    Some(match char {
        'd' => "0-9",
        'D' => "^0-9",
        'w' => "0-9A-Za-z_",
        'W' => "^0-9A-Za-z_",
        's' => r"\t\n\f\r ",
        'S' => r"^\t\n\f\r ",
        _ => return None,
    })
}

/// After a `[`, up to its `]`.
fn class(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    out.push('[');
    if chars.next_if_eq(&'^').is_some() {
        out.push('^');
    }
    // A `]` that comes first stands for itself.
    if chars.next_if_eq(&']').is_some() {
        out.push_str(r"\]");
    }
    while let Some(char) = chars.next() {
        match char {
            ']' => {
                out.push(']');
                return Ok(());
            }
            '[' if chars.peek() == Some(&':') => {
                // `[:alpha:]`, the same in both.
                out.push('[');
                for char in chars.by_ref() {
                    out.push(char);
                    if char == ']' {
                        break;
                    }
                }
            }
            '\\' => match chars.next() {
                Some(char) => match perl_class(char) {
                    Some(set) => {
                        out.push('[');
                        out.push_str(set);
                        out.push(']');
                    }
                    None => {
                        out.push('\\');
                        out.push(char);
                    }
                },
                None => return Err("trailing backslash".to_owned()),
            },
            '[' | '&' | '~' => {
                out.push('\\');
                out.push(char);
            }
            char => out.push(char),
        }
    }
    Err("missing closing ]".to_owned())
}

/// At the `?` after a `(`: a group's flags or name.
fn flags(chars: &mut Peekable<Chars<'_>>, out: &mut String) -> Result<(), String> {
    while let Some(char) = chars.next_if(|char| !matches!(char, ':' | ')' | '<' | '=' | '!')) {
        if !matches!(char, '?' | 'i' | 'm' | 's' | 'U' | '-' | 'P') {
            return Err(format!("unknown flag {char:?} in a group"));
        }
        out.push(char);
    }
    Ok(())
}
