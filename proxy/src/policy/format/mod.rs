//! Header values with Envoy's command operators: `%REQ(x-user)%`, `%START_TIME(%s.%3f)%`.
//!
//! A template is compiled once and rendered once a request. It knows no request: what operators
//! ask is answered by whoever renders ([`Variables`]).

mod layout;
mod names;
mod operator;
mod variables;

use self::operator::Operator;
pub use self::variables::{
    End, Message, Moment, Name, Nothing, Number, Side, Text, Tls, Variables,
};

/// The longest template, in bytes. Header values of this length are refused by most servers.
const LONGEST: usize = 64 * 1024;

/// A compiled header value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    parts: Vec<Part>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Part {
    Literal(Box<[u8]>),
    Operator(Operator),
}

/// Why a header value is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// No operator of Envoy's.
    #[error("unknown operator %{name}%{near}")]
    Unknown {
        /// As it was written.
        name: String,
        /// Operators with a similar name, as a sentence's end.
        near: String,
    },
    /// A `%` that begins nothing.
    #[error("the % at byte {0} begins no operator; a percent sign is written %%")]
    Stray(usize),
    /// An operator without its closing `%`.
    #[error("the operator at byte {0} is not closed by a %; a percent sign is written %%")]
    Unterminated(usize),
    /// Parentheses missing.
    #[error("%{0}% needs an argument in parentheses")]
    NeedsArgument(&'static str),
    /// Parentheses where none may be.
    #[error("%{0}% takes no argument")]
    NoArgument(&'static str),
    /// A length where none may be.
    #[error("%{0}% can't be cut to a length")]
    NoLength(&'static str),
    /// A length that is no number.
    #[error("the length after %{0}(…): is not a number of bytes")]
    Length(String),
    /// An unknown piece of a strftime layout.
    #[error("%{name}(…)% has {piece} in its layout, which is not supported")]
    Layout {
        /// The operator.
        name: &'static str,
        /// The piece.
        piece: String,
    },
    /// Something in the parentheses that is not supported.
    #[error("%{name}({given})%: supported is {allowed}")]
    Option {
        /// The operator.
        name: &'static str,
        /// As it was written.
        given: String,
        /// What may stand there.
        allowed: &'static str,
    },
    /// Not a header's name.
    #[error("{0:?} is not the name of a header")]
    FieldName(String),
    /// Reads the environment.
    #[error(
        "%ENVIRONMENT(…)% is not supported: the environment is the node proxy's and not the pod's; write the value itself"
    )]
    Environment,
    /// A control character.
    #[error("a control character at byte {0}: a header value can't hold it")]
    Control(usize),
    /// Too long.
    #[error("the value has {0} bytes; at most {LONGEST} are allowed")]
    TooLong(usize),
}

impl Template {
    /// Compiles a header value.
    ///
    /// # Errors
    /// Unknown operators, `%` without an operator, control characters.
    pub fn parse(text: &str) -> Result<Self, FormatError> {
        if text.len() > LONGEST {
            return Err(FormatError::TooLong(text.len()));
        }
        if let Some(at) = text.bytes().position(is_forbidden) {
            return Err(FormatError::Control(at));
        }
        let mut parts = Vec::new();
        let mut literal = Vec::new();
        let mut at = 0;
        while let Some(found) = text[at..].find('%') {
            literal.extend_from_slice(&text.as_bytes()[at..at + found]);
            at += found;
            if text[at..].starts_with("%%") {
                literal.push(b'%');
                at += 2;
                continue;
            }
            let (operator, len) = operator(&text[at..], at)?;
            if !literal.is_empty() {
                parts.push(Part::Literal(std::mem::take(&mut literal).into()));
            }
            parts.push(Part::Operator(operator));
            at += len;
        }
        literal.extend_from_slice(&text.as_bytes()[at..]);
        if !literal.is_empty() {
            parts.push(Part::Literal(literal.into()));
        }
        Ok(Self { parts })
    }

    /// Whether it has no operator and always renders the same.
    pub fn is_static(&self) -> bool {
        self.parts
            .iter()
            .all(|part| matches!(part, Part::Literal(_)))
    }

    /// Whether it asks for a field of `message`.
    pub fn reads(&self, message: Message) -> bool {
        self.parts.iter().any(|part| {
            matches!(part, Part::Operator(Operator::Field { message: asked, .. }) if *asked == message)
        })
    }

    /// Operators that Envoy knows and that never have an answer here, such as metadata: worth a
    /// warning, since what they stand for is left out.
    pub fn absent(&self) -> impl Iterator<Item = &'static str> + '_ {
        self.parts.iter().filter_map(|part| match part {
            Part::Operator(Operator::Absent(name)) => Some(*name),
            _ => None,
        })
    }

    /// Appends the value to `out`. An operator without an answer adds nothing, and an empty value
    /// means that the header is left out (Envoy). What is appended is a valid header value: CR, LF,
    /// NUL and other control characters become spaces (RFC 9110, section 5.5).
    pub fn render(&self, variables: &impl Variables, out: &mut Vec<u8>) {
        let begin = out.len();
        for part in &self.parts {
            match part {
                Part::Literal(text) => out.extend_from_slice(text),
                Part::Operator(operator) => operator.render(variables, out),
            }
        }
        for byte in &mut out[begin..] {
            if is_forbidden(*byte) {
                *byte = b' ';
            }
        }
    }
}

/// Bytes that no header value may hold.
fn is_forbidden(byte: u8) -> bool {
    (byte < b' ' && byte != b'\t') || byte == 0x7f
}

/// Reads the operator that `text` begins with, at `position` of the whole. Also says how long it is.
fn operator(text: &str, position: usize) -> Result<(Operator, usize), FormatError> {
    let name_len = text[1..]
        .bytes()
        .take_while(|byte| byte.is_ascii_alphanumeric() || *byte == b'_')
        .count();
    if name_len == 0 {
        return Err(FormatError::Stray(position));
    }
    let name = &text[1..1 + name_len];
    let mut rest = &text[1 + name_len..];
    let mut arguments = None;
    if let Some(inside) = rest.strip_prefix('(') {
        let end = inside
            .find(')')
            .ok_or(FormatError::Unterminated(position))?;
        arguments = Some(&inside[..end]);
        rest = &inside[end + 1..];
    }
    let mut most = None;
    if let Some(length) = rest.strip_prefix(':') {
        let end = length
            .find('%')
            .ok_or(FormatError::Unterminated(position))?;
        let digits = length[..end].bytes().all(|byte| byte.is_ascii_digit());
        most = Some(
            length[..end]
                .parse()
                .ok()
                .filter(|_| digits)
                .ok_or_else(|| FormatError::Length(name.to_owned()))?,
        );
        rest = &length[end..];
    }
    if !rest.starts_with('%') {
        return Err(FormatError::Unterminated(position));
    }
    let operator = Operator::new(name, arguments, most)?;
    Ok((operator, text.len() - rest.len() + 1))
}

#[cfg(test)]
mod tests;
