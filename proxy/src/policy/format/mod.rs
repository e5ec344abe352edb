//! Header values with Envoy's command operators: `%REQ(x-user)%`, `%START_TIME(%s.%3f)%`.
//!
//! A template is compiled once and rendered once a request. It knows no request: what operators
//! ask is answered by whoever renders ([`Variables`]).

mod layout;
mod operator;
mod variables;

use std::borrow::Cow;
use std::io::Write;

use self::operator::{GrpcForm, Operator, Shape};
pub use self::variables::{
    End, Message, Moment, Name, Nothing, Number, Side, Text, Tls, Variables,
};
use super::grpc;

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
    NeedsArgument(String),
    /// Parentheses where none may be.
    #[error("%{0}% takes no argument")]
    NoArgument(String),
    /// A length where none may be.
    #[error("%{0}% can't be cut to a length")]
    NoLength(String),
    /// A length that is no number.
    #[error("the length after %{0}(…): is not a number of bytes")]
    Length(String),
    /// An unknown piece of a strftime layout.
    #[error("%{name}(…)% has {piece} in its layout, which is not supported")]
    Layout {
        /// The operator.
        name: String,
        /// The piece.
        piece: String,
    },
    /// Not a header's name.
    #[error("{0:?} is not the name of a header")]
    FieldName(String),
    /// Not a form of a gRPC status.
    #[error("%GRPC_STATUS({0})%: the form is one of CAMEL_STRING, SNAKE_STRING, NUMBER")]
    GrpcForm(String),
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

impl Operator {
    fn render(&self, variables: &impl Variables, out: &mut Vec<u8>) {
        match self {
            Self::Time(moment, layout) => {
                if let Some(time) = variables.time(*moment) {
                    layout.write(time, out);
                }
            }
            Self::Address(end, shape) => {
                if let Some(address) = variables.address(*end) {
                    let written = match shape {
                        Shape::Whole => write!(out, "{address}"),
                        Shape::Host => write!(out, "{}", address.ip()),
                        Shape::Port => write!(out, "{}", address.port()),
                    };
                    debug_assert!(written.is_ok(), "a Vec takes every byte");
                }
            }
            Self::Field {
                message,
                name,
                otherwise,
                most,
            } => {
                let first = variables.field(*message, name);
                let value = first.or_else(|| variables.field(*message, otherwise.as_ref()?));
                let value = value.unwrap_or_default();
                let len = most.map_or(value.len(), |most| most.min(value.len()));
                out.extend_from_slice(&value[..len]);
            }
            Self::Text(text) => {
                let value = variables.text(*text).unwrap_or_default();
                let value = match text {
                    // Envoy writes the absence of flags.
                    Text::ResponseFlags | Text::ResponseFlagsLong if value.is_empty() => {
                        Cow::Borrowed("-")
                    }
                    _ => value,
                };
                out.extend_from_slice(value.as_bytes());
            }
            Self::Number(number) => {
                let value = variables.number(*number).or(number.otherwise());
                if let Some(value) = value {
                    let written = write!(out, "{value}");
                    debug_assert!(written.is_ok(), "a Vec takes every byte");
                }
            }
            Self::GrpcStatus(form) => {
                let Some(number) = variables.number(Number::GrpcStatus) else {
                    return;
                };
                let status = u32::try_from(number).ok().and_then(grpc::Status::from_code);
                let written = match (form, status) {
                    (GrpcForm::Camel, Some(status)) => write!(out, "{}", status.camel_name()),
                    (GrpcForm::Snake, Some(status)) => write!(out, "{}", status.name()),
                    // A number that gRPC does not define is written as it is (Envoy).
                    (GrpcForm::Number, _) | (_, None) => write!(out, "{number}"),
                };
                debug_assert!(written.is_ok(), "a Vec takes every byte");
            }
            Self::Nothing => {}
        }
    }
}

impl Number {
    /// What Envoy writes where there is nothing yet.
    fn otherwise(self) -> Option<u64> {
        match self {
            Self::ResponseCode
            | Self::BytesReceived
            | Self::BytesSent
            | Self::RequestHeadersBytes
            | Self::ResponseHeadersBytes
            | Self::ResponseTrailersBytes
            | Self::ConnectionId
            | Self::UpstreamConnectionId
            | Self::AttemptCount => Some(0),
            Self::GrpcStatus
            | Self::Duration
            | Self::RequestDuration
            | Self::ResponseDuration
            | Self::ResponseSendDuration
            | Self::DownstreamHandshakeDuration => None,
        }
    }
}

#[cfg(test)]
mod tests;
