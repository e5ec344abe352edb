//! One command operator: compiled from its name, arguments and length, and rendered.

use std::borrow::Cow;
use std::io::{self, Write};
use std::net::IpAddr;

use http::HeaderName;
use ipnet::IpNet;

use super::FormatError;
use super::layout::Layout;
use super::names::{Arguments, Kind};
use super::variables::{End, Message, Moment, Name, Number, Text, Variables};
use crate::policy::grpc;

/// A compiled operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Time(Moment, Layout),
    Address(End),
    Host(End),
    /// The network of so many bits that the host is in.
    Network(End, u8),
    Port(End),
    Field {
        message: Message,
        name: Name,
        /// Asked where the first is absent.
        otherwise: Option<Name>,
        part: Part,
        /// Bytes at most.
        most: Option<usize>,
    },
    Text(Text),
    /// With spaces as underscores.
    Words(Text),
    Number(Number),
    GrpcStatus(GrpcForm),
    /// Known by this name, and about something that this proxy does not have.
    Absent(&'static str),
}

/// Which part of a field's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Part {
    Whole,
    /// Of a path, without its query.
    Path,
    /// Of a path.
    Query,
    /// Of a path: the first value of this parameter, not decoded.
    Parameter(Box<str>),
}

/// How a gRPC status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

const ORIGINAL_PATH: HeaderName = HeaderName::from_static("x-envoy-original-path");

impl Operator {
    /// Compiles `%name(arguments):most%`.
    pub(super) fn new(
        name: &str,
        arguments: Option<&str>,
        most: Option<usize>,
    ) -> Result<Self, FormatError> {
        let (name, kind) = Kind::of(name)?;
        if most.is_some() && !kind.takes_length() {
            return Err(FormatError::NoLength(name));
        }
        let given = arguments.map(str::trim).unwrap_or_default();
        match kind.arguments() {
            Arguments::Never if !given.is_empty() => return Err(FormatError::NoArgument(name)),
            Arguments::Required | Arguments::RequiredThenLength if given.is_empty() => {
                return Err(FormatError::NeedsArgument(name));
            }
            _ => {}
        }
        let option = |allowed: &'static str| FormatError::Option {
            name,
            given: given.to_owned(),
            allowed,
        };
        Ok(match kind {
            Kind::Time(moment) => {
                // Spaces belong to a layout.
                let layout = Layout::parse(arguments.unwrap_or_default());
                let layout = layout.map_err(|piece| FormatError::Layout { name, piece })?;
                Self::Time(moment, layout)
            }
            Kind::Address(end) => Self::Address(end),
            Kind::Host(end) if given.is_empty() => Self::Host(end),
            Kind::Host(end) => match given.parse() {
                Ok(bits @ 0..=128) => Self::Network(end, bits),
                _ => return Err(option("a number of bits from 0 to 128")),
            },
            Kind::Port(end) => Self::Port(end),
            Kind::Field(message) => {
                let (first, second) = given.split_once('?').unwrap_or((given, ""));
                let (first, second) = if first.is_empty() {
                    (second, "")
                } else {
                    (first, second)
                };
                Self::Field {
                    message,
                    name: field(first)?,
                    otherwise: (!second.is_empty()).then(|| field(second)).transpose()?,
                    part: Part::Whole,
                    most,
                }
            }
            Kind::Path => {
                let (part, source) = given.split_once(':').unwrap_or((given, ""));
                let part = match part {
                    "" | "WQ" => Part::Whole,
                    "NQ" => Part::Path,
                    _ => {
                        return Err(option(
                            "WQ or NQ, and after a colon ORIG, PATH or ORIG_OR_PATH",
                        ));
                    }
                };
                of_path(part, source, most).ok_or_else(|| {
                    option("WQ or NQ, and after a colon ORIG, PATH or ORIG_OR_PATH")
                })?
            }
            Kind::QueryParameter => {
                let parameter = Part::Parameter(given.into());
                of_path(parameter, "", most).ok_or_else(|| option("a parameter's name"))?
            }
            Kind::Query => of_path(Part::Query, given, most).ok_or_else(|| option("ORIG"))?,
            Kind::Text(
                text @ (Text::UpstreamTransportFailureReason
                | Text::DownstreamTransportFailureReason),
            ) => Self::Words(text),
            Kind::Text(text) => Self::Text(text),
            Kind::Details => match given {
                "" => Self::Words(Text::ResponseCodeDetails),
                "ALLOW_WHITESPACES" => Self::Text(Text::ResponseCodeDetails),
                _ => return Err(option("ALLOW_WHITESPACES")),
            },
            Kind::ServerName => match given {
                "" | "SNI_ONLY" => Self::Text(Text::RequestedServerName),
                _ => return Err(option("SNI_ONLY")),
            },
            Kind::Number(number) => Self::Number(number),
            Kind::GrpcStatus => Self::GrpcStatus(match given {
                "" | "CAMEL_STRING" => GrpcForm::Camel,
                "SNAKE_STRING" => GrpcForm::Snake,
                "NUMBER" => GrpcForm::Number,
                _ => return Err(option("CAMEL_STRING, SNAKE_STRING or NUMBER")),
            }),
            Kind::GrpcStatusNumber => Self::GrpcStatus(GrpcForm::Number),
            // The environment is the node proxy's, which serves every pod of the node: what stands
            // in it is nothing that the author of one pod's route should read.
            Kind::Environment => return Err(FormatError::Environment),
            Kind::Absent(_) => Self::Absent(name),
        })
    }

    /// Appends what it stands for; nothing where there is no answer.
    pub(super) fn render(&self, variables: &impl Variables, out: &mut Vec<u8>) {
        let written = self.write(variables, out);
        debug_assert!(written.is_ok(), "a Vec takes every byte");
    }

    fn write(&self, variables: &impl Variables, out: &mut Vec<u8>) -> io::Result<()> {
        let address = |end: &End| variables.address(*end);
        match self {
            Self::Time(moment, layout) => {
                if let Some(time) = variables.time(*moment) {
                    layout.write(time, out);
                }
                Ok(())
            }
            Self::Address(end) => write_some(out, address(end)),
            Self::Host(end) => write_some(out, address(end).map(|address| address.ip())),
            Self::Network(end, bits) => write_some(
                out,
                address(end).map(|address| network(address.ip(), *bits)),
            ),
            Self::Port(end) => write_some(out, address(end).map(|address| address.port())),
            Self::Field {
                message,
                name,
                otherwise,
                part,
                most,
            } => {
                let first = variables.field(*message, name);
                let value = first.or_else(|| variables.field(*message, otherwise.as_ref()?));
                let value = part.of(value.unwrap_or_default());
                let len = most.map_or(value.len(), |most| most.min(value.len()));
                out.extend_from_slice(&value[..len]);
                Ok(())
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
                Ok(())
            }
            Self::Words(text) => {
                let value = variables.text(*text).unwrap_or_default();
                let bytes = value.bytes();
                out.extend(bytes.map(|byte| if byte == b' ' { b'_' } else { byte }));
                Ok(())
            }
            Self::Number(number) => {
                let value = variables.number(*number);
                write_some(out, value.or(number.otherwise()))
            }
            Self::GrpcStatus(form) => {
                let Some(number) = variables.number(Number::GrpcStatus) else {
                    return Ok(());
                };
                let status = u32::try_from(number).ok().and_then(grpc::Status::from_code);
                match (form, status) {
                    (GrpcForm::Camel, Some(status)) => write!(out, "{}", status.camel_name()),
                    (GrpcForm::Snake, Some(status)) => write!(out, "{}", status.name()),
                    // A number that gRPC does not define is written as it is (Envoy).
                    (GrpcForm::Number, _) | (_, None) => write!(out, "{number}"),
                }
            }
            Self::Absent(_) => Ok(()),
        }
    }
}

fn write_some(out: &mut Vec<u8>, value: Option<impl std::fmt::Display>) -> io::Result<()> {
    value.map_or(Ok(()), |value| write!(out, "{value}"))
}

/// `10.1.0.0/16`; more bits than an address has are all of them (Envoy).
fn network(host: IpAddr, bits: u8) -> String {
    let most = if host.is_ipv4() { 32 } else { 128 };
    IpNet::new(host, bits.min(most)).map_or(String::new(), |network| network.trunc().to_string())
}

/// A part of the path; by default the one before any rewrite, as Envoy has it.
fn of_path(part: Part, source: &str, most: Option<usize>) -> Option<Operator> {
    let original = || Name::Header(ORIGINAL_PATH);
    let (name, otherwise) = match source {
        "" | "ORIG_OR_PATH" => (original(), Some(Name::Path)),
        "ORIG" => (original(), None),
        "PATH" => (Name::Path, None),
        _ => return None,
    };
    Some(Operator::Field {
        message: Message::Request,
        name,
        otherwise,
        part,
        most,
    })
}

impl Part {
    fn of<'a>(&self, value: &'a [u8]) -> &'a [u8] {
        let split = || match value.iter().position(|byte| *byte == b'?') {
            Some(at) => (&value[..at], &value[at + 1..]),
            None => (value, &[][..]),
        };
        match self {
            Self::Whole => value,
            Self::Path => split().0,
            Self::Query => split().1,
            Self::Parameter(wanted) => split()
                .1
                .split(|byte| *byte == b'&')
                .find_map(|pair| {
                    let rest = pair.strip_prefix(wanted.as_bytes())?;
                    rest.strip_prefix(b"=").or(rest.is_empty().then_some(rest))
                })
                .unwrap_or_default(),
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

/// Reads a field's name.
fn field(text: &str) -> Result<Name, FormatError> {
    let text = text.trim();
    Ok(match text.to_ascii_lowercase().as_str() {
        ":method" => Name::Method,
        ":scheme" => Name::Scheme,
        ":authority" | "host" => Name::Authority,
        ":path" => Name::Path,
        ":protocol" => Name::Protocol,
        ":status" => Name::Status,
        other => HeaderName::try_from(other)
            .map(Name::Header)
            .map_err(|_| FormatError::FieldName(text.to_owned()))?,
    })
}
