//! Envoy's command operators: their names, what may stand in their parentheses, what they ask.
//!
//! Names and arguments are those of Envoy 1.40 (`source/common/formatter/`), and of its older
//! header formatter where manifests still use that spelling (`UPSTREAM_METADATA(["ns","key"])`).

use http::HeaderName;

use super::FormatError;
use super::layout::Layout;
use super::variables::{End, Message, Moment, Name, Number, Side, Text, Tls};

/// A compiled operator.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Operator {
    Time(Moment, Layout),
    Address(End, Shape),
    Field {
        message: Message,
        name: Name,
        /// Asked where the first is absent.
        otherwise: Option<Name>,
        /// Bytes at most.
        most: Option<usize>,
    },
    Text(Text),
    Number(Number),
    GrpcStatus(GrpcForm),
    /// Valid, and about something that this proxy does not have.
    Nothing,
}

/// Which part of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Shape {
    Whole,
    Host,
    Port,
}

/// How a gRPC status is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum GrpcForm {
    Camel,
    Snake,
    Number,
}

/// What a name stands for, before its arguments are read.
#[derive(Clone, Copy)]
enum Kind {
    Time(Moment),
    Address(End, Shape),
    Field(Message),
    Text(Text),
    Number(Number),
    GrpcStatus,
    GrpcStatusNumber,
    /// Something that this proxy does not have; whether arguments must, may or must not follow.
    Nothing(Arguments),
    Environment,
}

#[derive(Clone, Copy)]
enum Arguments {
    None,
    Optional,
    Required,
}

macro_rules! both_sides {
    ($($down:literal, $up:literal => $what:ident;)+) => {
        /// What TLS tells, by side.
        const TLS: &[(&str, Kind)] = &[$(
            ($down, Kind::Text(Text::Tls(Side::Downstream, Tls::$what))),
            ($up, Kind::Text(Text::Tls(Side::Upstream, Tls::$what))),
        )+];
    };
}

both_sides! {
    "DOWNSTREAM_PEER_URI_SAN", "UPSTREAM_PEER_URI_SAN" => PeerUriSan;
    "DOWNSTREAM_PEER_DNS_SAN", "UPSTREAM_PEER_DNS_SAN" => PeerDnsSan;
    "DOWNSTREAM_PEER_IP_SAN", "UPSTREAM_PEER_IP_SAN" => PeerIpSan;
    "DOWNSTREAM_PEER_EMAIL_SAN", "UPSTREAM_PEER_EMAIL_SAN" => PeerEmailSan;
    "DOWNSTREAM_PEER_OTHERNAME_SAN", "UPSTREAM_PEER_OTHERNAME_SAN" => PeerOthernameSan;
    "DOWNSTREAM_LOCAL_URI_SAN", "UPSTREAM_LOCAL_URI_SAN" => LocalUriSan;
    "DOWNSTREAM_LOCAL_DNS_SAN", "UPSTREAM_LOCAL_DNS_SAN" => LocalDnsSan;
    "DOWNSTREAM_LOCAL_IP_SAN", "UPSTREAM_LOCAL_IP_SAN" => LocalIpSan;
    "DOWNSTREAM_LOCAL_EMAIL_SAN", "UPSTREAM_LOCAL_EMAIL_SAN" => LocalEmailSan;
    "DOWNSTREAM_LOCAL_OTHERNAME_SAN", "UPSTREAM_LOCAL_OTHERNAME_SAN" => LocalOthernameSan;
    "DOWNSTREAM_PEER_SUBJECT", "UPSTREAM_PEER_SUBJECT" => PeerSubject;
    "DOWNSTREAM_LOCAL_SUBJECT", "UPSTREAM_LOCAL_SUBJECT" => LocalSubject;
    "DOWNSTREAM_PEER_ISSUER", "UPSTREAM_PEER_ISSUER" => PeerIssuer;
    "DOWNSTREAM_PEER_FINGERPRINT_256", "UPSTREAM_PEER_FINGERPRINT_256" => PeerFingerprint256;
    "DOWNSTREAM_PEER_FINGERPRINT_1", "UPSTREAM_PEER_FINGERPRINT_1" => PeerFingerprint1;
    "DOWNSTREAM_PEER_SERIAL", "UPSTREAM_PEER_SERIAL" => PeerSerial;
    "DOWNSTREAM_PEER_CERT", "UPSTREAM_PEER_CERT" => PeerCertificate;
    "DOWNSTREAM_TLS_SESSION_ID", "UPSTREAM_TLS_SESSION_ID" => SessionId;
    "DOWNSTREAM_TLS_CIPHER", "UPSTREAM_TLS_CIPHER" => Cipher;
    "DOWNSTREAM_TLS_VERSION", "UPSTREAM_TLS_VERSION" => Version;
}

/// Everything else.
const OTHERS: &[(&str, Kind)] = &[
    ("BYTES_RECEIVED", Kind::Number(Number::BytesReceived)),
    ("BYTES_SENT", Kind::Number(Number::BytesSent)),
    ("CLUSTER_METADATA", Kind::Nothing(Arguments::Required)),
    ("COMMON_DURATION", Kind::Nothing(Arguments::Required)),
    ("CONNECTION_ID", Kind::Number(Number::ConnectionId)),
    (
        "CONNECTION_TERMINATION_DETAILS",
        Kind::Text(Text::ConnectionTerminationDetails),
    ),
    ("CUSTOM_FLAGS", Kind::Nothing(Arguments::None)),
    (
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS",
        Kind::Address(End::DownstreamDirectLocal, Shape::Whole),
    ),
    (
        "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::DownstreamDirectLocal, Shape::Host),
    ),
    (
        "DOWNSTREAM_DIRECT_LOCAL_PORT",
        Kind::Address(End::DownstreamDirectLocal, Shape::Port),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS",
        Kind::Address(End::DownstreamDirectRemote, Shape::Whole),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::DownstreamDirectRemote, Shape::Host),
    ),
    (
        "DOWNSTREAM_DIRECT_REMOTE_PORT",
        Kind::Address(End::DownstreamDirectRemote, Shape::Port),
    ),
    (
        "DOWNSTREAM_HANDSHAKE_DURATION",
        Kind::Number(Number::DownstreamHandshakeDuration),
    ),
    (
        "DOWNSTREAM_HEADER_BYTES_RECEIVED",
        Kind::Number(Number::RequestHeadersBytes),
    ),
    (
        "DOWNSTREAM_HEADER_BYTES_SENT",
        Kind::Number(Number::ResponseHeadersBytes),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS",
        Kind::Address(End::DownstreamLocal, Shape::Whole),
    ),
    (
        "DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::DownstreamLocal, Shape::Host),
    ),
    (
        "DOWNSTREAM_LOCAL_PORT",
        Kind::Address(End::DownstreamLocal, Shape::Port),
    ),
    (
        "DOWNSTREAM_PEER_CERT_V_END",
        Kind::Time(Moment::ValidUntil(Side::Downstream)),
    ),
    (
        "DOWNSTREAM_PEER_CERT_V_START",
        Kind::Time(Moment::ValidFrom(Side::Downstream)),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1",
        Kind::Nothing(Arguments::None),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256",
        Kind::Nothing(Arguments::None),
    ),
    (
        "DOWNSTREAM_PEER_CHAIN_SERIALS",
        Kind::Nothing(Arguments::None),
    ),
    (
        "DOWNSTREAM_REMOTE_ADDRESS",
        Kind::Address(End::DownstreamRemote, Shape::Whole),
    ),
    (
        "DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::DownstreamRemote, Shape::Host),
    ),
    (
        "DOWNSTREAM_REMOTE_PORT",
        Kind::Address(End::DownstreamRemote, Shape::Port),
    ),
    (
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        Kind::Text(Text::DownstreamTransportFailureReason),
    ),
    (
        "DOWNSTREAM_WIRE_BYTES_RECEIVED",
        Kind::Nothing(Arguments::None),
    ),
    ("DOWNSTREAM_WIRE_BYTES_SENT", Kind::Nothing(Arguments::None)),
    ("DURATION", Kind::Number(Number::Duration)),
    ("DYNAMIC_METADATA", Kind::Nothing(Arguments::Required)),
    ("EMIT_TIME", Kind::Time(Moment::Emit)),
    ("ENVIRONMENT", Kind::Environment),
    ("FILTER_CHAIN_NAME", Kind::Nothing(Arguments::None)),
    ("FILTER_STATE", Kind::Nothing(Arguments::Optional)),
    ("GRPC_STATUS", Kind::GrpcStatus),
    ("GRPC_STATUS_NUMBER", Kind::GrpcStatusNumber),
    ("HOSTNAME", Kind::Text(Text::Hostname)),
    ("LOCAL_REPLY_BODY", Kind::Text(Text::LocalReplyBody)),
    ("METADATA", Kind::Nothing(Arguments::Required)),
    ("PER_REQUEST_STATE", Kind::Nothing(Arguments::Required)),
    ("PROTOCOL", Kind::Text(Text::Protocol)),
    ("REQ", Kind::Field(Message::Request)),
    (
        "REQUESTED_SERVER_NAME",
        Kind::Text(Text::RequestedServerName),
    ),
    ("REQUEST_DURATION", Kind::Number(Number::RequestDuration)),
    (
        "REQUEST_HEADERS_BYTES",
        Kind::Number(Number::RequestHeadersBytes),
    ),
    ("REQUEST_TX_DURATION", Kind::Nothing(Arguments::None)),
    ("RESP", Kind::Field(Message::Response)),
    ("RESPONSE_CODE", Kind::Number(Number::ResponseCode)),
    (
        "RESPONSE_CODE_DETAILS",
        Kind::Text(Text::ResponseCodeDetails),
    ),
    ("RESPONSE_DURATION", Kind::Number(Number::ResponseDuration)),
    ("RESPONSE_FLAGS", Kind::Text(Text::ResponseFlags)),
    ("RESPONSE_FLAGS_LONG", Kind::Text(Text::ResponseFlagsLong)),
    (
        "RESPONSE_HEADERS_BYTES",
        Kind::Number(Number::ResponseHeadersBytes),
    ),
    (
        "RESPONSE_TRAILERS_BYTES",
        Kind::Number(Number::ResponseTrailersBytes),
    ),
    (
        "RESPONSE_TX_DURATION",
        Kind::Number(Number::ResponseSendDuration),
    ),
    ("ROUNDTRIP_DURATION", Kind::Nothing(Arguments::None)),
    ("ROUTE_NAME", Kind::Text(Text::RouteName)),
    ("START_TIME", Kind::Time(Moment::Start)),
    ("STREAM_ID", Kind::Text(Text::StreamId)),
    ("TLS_JA3_FINGERPRINT", Kind::Nothing(Arguments::None)),
    ("TLS_JA4_FINGERPRINT", Kind::Nothing(Arguments::None)),
    ("TRACE_ID", Kind::Text(Text::TraceId)),
    ("TRAILER", Kind::Field(Message::Trailers)),
    ("UNIQUE_ID", Kind::Text(Text::StreamId)),
    ("UPSTREAM_CLUSTER", Kind::Text(Text::UpstreamCluster)),
    ("UPSTREAM_CLUSTER_RAW", Kind::Text(Text::UpstreamClusterRaw)),
    (
        "UPSTREAM_CONNECTION_ID",
        Kind::Number(Number::UpstreamConnectionId),
    ),
    (
        "UPSTREAM_CONNECTION_POOL_READY_DURATION",
        Kind::Nothing(Arguments::None),
    ),
    ("UPSTREAM_FILTER_STATE", Kind::Nothing(Arguments::Optional)),
    (
        "UPSTREAM_HEADER_BYTES_RECEIVED",
        Kind::Nothing(Arguments::None),
    ),
    ("UPSTREAM_HEADER_BYTES_SENT", Kind::Nothing(Arguments::None)),
    (
        "UPSTREAM_HOST",
        Kind::Address(End::UpstreamRemote, Shape::Whole),
    ),
    ("UPSTREAM_HOST_NAME", Kind::Text(Text::UpstreamHostName)),
    (
        "UPSTREAM_LOCAL_ADDRESS",
        Kind::Address(End::UpstreamLocal, Shape::Whole),
    ),
    (
        "UPSTREAM_LOCAL_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::UpstreamLocal, Shape::Host),
    ),
    (
        "UPSTREAM_LOCAL_PORT",
        Kind::Address(End::UpstreamLocal, Shape::Port),
    ),
    ("UPSTREAM_METADATA", Kind::Nothing(Arguments::Required)),
    (
        "UPSTREAM_PEER_CERT_V_END",
        Kind::Time(Moment::ValidUntil(Side::Upstream)),
    ),
    (
        "UPSTREAM_PEER_CERT_V_START",
        Kind::Time(Moment::ValidFrom(Side::Upstream)),
    ),
    ("UPSTREAM_PROTOCOL", Kind::Text(Text::UpstreamProtocol)),
    (
        "UPSTREAM_REMOTE_ADDRESS",
        Kind::Address(End::UpstreamRemote, Shape::Whole),
    ),
    (
        "UPSTREAM_REMOTE_ADDRESS_WITHOUT_PORT",
        Kind::Address(End::UpstreamRemote, Shape::Host),
    ),
    (
        "UPSTREAM_REMOTE_PORT",
        Kind::Address(End::UpstreamRemote, Shape::Port),
    ),
    (
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        Kind::Number(Number::AttemptCount),
    ),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Kind::Text(Text::UpstreamTransportFailureReason),
    ),
    (
        "UPSTREAM_WIRE_BYTES_RECEIVED",
        Kind::Nothing(Arguments::None),
    ),
    ("UPSTREAM_WIRE_BYTES_SENT", Kind::Nothing(Arguments::None)),
    ("VIRTUAL_CLUSTER_NAME", Kind::Nothing(Arguments::None)),
];

impl Operator {
    /// Compiles `%name(arguments):most%`.
    pub(super) fn new(
        name: &str,
        arguments: Option<&str>,
        most: Option<usize>,
    ) -> Result<Self, FormatError> {
        let kind = kind(name)?;
        // Envoy allows a length where a value is cut to it, and nowhere else.
        let may_be_cut = matches!(kind, Kind::Field(_) | Kind::GrpcStatus)
            || matches!(
                kind,
                Kind::Nothing(Arguments::Optional | Arguments::Required)
            );
        if most.is_some() && !may_be_cut {
            return Err(FormatError::NoLength(name.to_owned()));
        }
        let wanted = match kind {
            Kind::Time(_) => Arguments::Optional,
            Kind::GrpcStatus => Arguments::Optional,
            Kind::Field(_) | Kind::Environment => Arguments::Required,
            Kind::Nothing(arguments) => arguments,
            Kind::Address(..) | Kind::Text(_) | Kind::Number(_) | Kind::GrpcStatusNumber => {
                Arguments::None
            }
        };
        let given = arguments.filter(|arguments| !arguments.trim().is_empty());
        match (wanted, given) {
            (Arguments::Required, None) => return Err(FormatError::NeedsArgument(name.to_owned())),
            (Arguments::None, Some(_)) => return Err(FormatError::NoArgument(name.to_owned())),
            _ => {}
        }
        let given = given.unwrap_or_default();
        Ok(match kind {
            Kind::Time(moment) => {
                let layout = Layout::parse(given).map_err(|piece| FormatError::Layout {
                    name: name.to_owned(),
                    piece,
                })?;
                Self::Time(moment, layout)
            }
            Kind::Address(end, shape) => Self::Address(end, shape),
            Kind::Field(message) => {
                let (first, second) = match given.split_once('?') {
                    Some((first, second)) => (first, Some(second)),
                    None => (given, None),
                };
                Self::Field {
                    message,
                    name: field(first)?,
                    otherwise: second.map(field).transpose()?,
                    most,
                }
            }
            Kind::Text(text) => Self::Text(text),
            Kind::Number(number) => Self::Number(number),
            Kind::GrpcStatus => Self::GrpcStatus(match given {
                "" | "CAMEL_STRING" => GrpcForm::Camel,
                "SNAKE_STRING" => GrpcForm::Snake,
                "NUMBER" => GrpcForm::Number,
                other => return Err(FormatError::GrpcForm(other.to_owned())),
            }),
            Kind::GrpcStatusNumber => Self::GrpcStatus(GrpcForm::Number),
            Kind::Nothing(_) => Self::Nothing,
            // The environment is the node proxy's, which serves every pod of the node: what stands
            // in it is nothing that the author of one pod's route should read.
            Kind::Environment => return Err(FormatError::Environment),
        })
    }
}

fn kind(name: &str) -> Result<Kind, FormatError> {
    let all = || OTHERS.iter().chain(TLS);
    if let Some((_, kind)) = all().find(|(known, _)| *known == name) {
        return Ok(*kind);
    }
    let upper = name.to_ascii_uppercase();
    let mut near: Vec<(usize, &str)> = all()
        .map(|(known, _)| (strsim::damerau_levenshtein(known, &upper), *known))
        .filter(|(distance, known)| *distance <= 1 + known.len().min(upper.len()) / 5)
        .collect();
    near.sort_unstable();
    let nearest = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance <= nearest + 1);
    near.truncate(3);
    Err(FormatError::Unknown {
        name: name.to_owned(),
        near: match &near[..] {
            [] => String::new(),
            near => {
                let names: Vec<_> = near.iter().map(|(_, name)| format!("%{name}%")).collect();
                format!("; near it: {}", names.join(", "))
            }
        },
    })
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

/// Every name.
#[cfg(test)]
pub(super) fn names() -> impl Iterator<Item = &'static str> {
    OTHERS.iter().chain(TLS).map(|(name, _)| *name)
}
