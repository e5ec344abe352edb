//! The names of Envoy's command operators and what each stands for.
//!
//! The names, and where arguments and lengths may follow, are what Envoy 1.40 was seen to accept in
//! a header value. (`PER_REQUEST_STATE` is its older header formatter's.)

use super::FormatError;
use super::variables::{End, Message, Moment, Number, Side, Text, Tls};

/// What a name stands for, before its arguments are read.
#[derive(Clone, Copy, Debug)]
pub(super) enum Kind {
    Time(Moment),
    Address(End),
    Host(End),
    Port(End),
    Field(Message),
    Path,
    QueryParameter,
    Query,
    Text(Text),
    Details,
    ServerName,
    Number(Number),
    GrpcStatus,
    GrpcStatusNumber,
    Environment,
    /// Known to Envoy, and about something that this proxy does not have.
    Absent(Arguments),
}

/// Whether something stands in parentheses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    Never,
    Optional,
    Required,
    /// And a length may follow them.
    RequiredThenLength,
}

type Table = &'static [(&'static str, Kind)];

/// Every name.
const ALL: &[Table] = &[ADDRESSES, TLS, FIELDS, TIMES, TEXTS, NUMBERS, ABSENT];

macro_rules! addresses {
    ($($name:literal => $end:ident;)+) => {
        const ADDRESSES: Table = &[
            $(
                (concat!($name, "_ADDRESS"), Kind::Address(End::$end)),
                (concat!($name, "_ADDRESS_WITHOUT_PORT"), Kind::Host(End::$end)),
                (concat!($name, "_PORT"), Kind::Port(End::$end)),
            )+
            ("UPSTREAM_HOST", Kind::Address(End::UpstreamRemote)),
        ];
    };
}

addresses! {
    "DOWNSTREAM_REMOTE" => DownstreamRemote;
    "DOWNSTREAM_DIRECT_REMOTE" => DownstreamDirectRemote;
    "DOWNSTREAM_LOCAL" => DownstreamLocal;
    "DOWNSTREAM_DIRECT_LOCAL" => DownstreamDirectLocal;
    "UPSTREAM_REMOTE" => UpstreamRemote;
    "UPSTREAM_LOCAL" => UpstreamLocal;
}

macro_rules! tls {
    (both: $($both:literal => $shared:ident;)+ downstream: $($down:literal => $own:ident;)+) => {
        const TLS: Table = &[
            $(
                (concat!("DOWNSTREAM_", $both), Kind::Text(Text::Tls(Side::Downstream, Tls::$shared))),
                (concat!("UPSTREAM_", $both), Kind::Text(Text::Tls(Side::Upstream, Tls::$shared))),
            )+
            $((concat!("DOWNSTREAM_", $down), Kind::Text(Text::Tls(Side::Downstream, Tls::$own))),)+
        ];
    };
}

tls! {
    both:
    "LOCAL_DNS_SAN" => LocalDnsSan;
    "LOCAL_IP_SAN" => LocalIpSan;
    "LOCAL_URI_SAN" => LocalUriSan;
    "PEER_CERT" => PeerCertificate;
    "PEER_DNS_SAN" => PeerDnsSan;
    "PEER_IP_SAN" => PeerIpSan;
    "PEER_ISSUER" => PeerIssuer;
    "PEER_SUBJECT" => PeerSubject;
    "PEER_URI_SAN" => PeerUriSan;
    "TLS_CIPHER" => Cipher;
    "TLS_SESSION_ID" => SessionId;
    "TLS_VERSION" => Version;
    downstream:
    "LOCAL_EMAIL_SAN" => LocalEmailSan;
    "LOCAL_OTHERNAME_SAN" => LocalOthernameSan;
    "LOCAL_SUBJECT" => LocalSubject;
    "PEER_EMAIL_SAN" => PeerEmailSan;
    "PEER_FINGERPRINT_1" => PeerFingerprint1;
    "PEER_FINGERPRINT_256" => PeerFingerprint256;
    "PEER_OTHERNAME_SAN" => PeerOthernameSan;
    "PEER_SERIAL" => PeerSerial;
}

const FIELDS: Table = &[
    ("PATH", Kind::Path),
    ("QUERY_PARAM", Kind::QueryParameter),
    ("QUERY_PARAMS", Kind::Query),
    ("REQ", Kind::Field(Message::Request)),
    ("REQUEST_HEADER", Kind::Field(Message::Request)),
    ("RESP", Kind::Field(Message::Response)),
    ("RESPONSE_HEADER", Kind::Field(Message::Response)),
    ("RESPONSE_TRAILER", Kind::Field(Message::Trailers)),
    ("TRAILER", Kind::Field(Message::Trailers)),
];

/// The proxy's local time is UTC.
const TIMES: Table = &[
    (
        "DOWNSTREAM_PEER_CERT_V_END",
        Kind::Time(Moment::ValidUntil(Side::Downstream)),
    ),
    (
        "DOWNSTREAM_PEER_CERT_V_START",
        Kind::Time(Moment::ValidFrom(Side::Downstream)),
    ),
    ("EMIT_TIME", Kind::Time(Moment::Emit)),
    ("EMIT_TIME_LOCAL", Kind::Time(Moment::Emit)),
    ("START_TIME", Kind::Time(Moment::Start)),
    ("START_TIME_LOCAL", Kind::Time(Moment::Start)),
    (
        "UPSTREAM_PEER_CERT_V_END",
        Kind::Time(Moment::ValidUntil(Side::Upstream)),
    ),
    (
        "UPSTREAM_PEER_CERT_V_START",
        Kind::Time(Moment::ValidFrom(Side::Upstream)),
    ),
];

const TEXTS: Table = &[
    (
        "CONNECTION_TERMINATION_DETAILS",
        Kind::Text(Text::ConnectionTerminationDetails),
    ),
    (
        "DOWNSTREAM_TRANSPORT_FAILURE_REASON",
        Kind::Text(Text::DownstreamTransportFailureReason),
    ),
    ("ENVIRONMENT", Kind::Environment),
    ("HOSTNAME", Kind::Text(Text::Hostname)),
    ("LOCAL_REPLY_BODY", Kind::Text(Text::LocalReplyBody)),
    ("PROTOCOL", Kind::Text(Text::Protocol)),
    ("REQUESTED_SERVER_NAME", Kind::ServerName),
    ("RESPONSE_CODE_DETAILS", Kind::Details),
    ("RESPONSE_FLAGS", Kind::Text(Text::ResponseFlags)),
    ("RESPONSE_FLAGS_LONG", Kind::Text(Text::ResponseFlagsLong)),
    ("ROUTE_NAME", Kind::Text(Text::RouteName)),
    ("STREAM_ID", Kind::Text(Text::StreamId)),
    ("TRACE_ID", Kind::Text(Text::TraceId)),
    ("UNIQUE_ID", Kind::Text(Text::StreamId)),
    ("UPSTREAM_CLUSTER", Kind::Text(Text::UpstreamCluster)),
    ("UPSTREAM_CLUSTER_RAW", Kind::Text(Text::UpstreamClusterRaw)),
    ("UPSTREAM_HOST_NAME", Kind::Text(Text::UpstreamHostName)),
    ("UPSTREAM_PROTOCOL", Kind::Text(Text::UpstreamProtocol)),
    (
        "UPSTREAM_TRANSPORT_FAILURE_REASON",
        Kind::Text(Text::UpstreamTransportFailureReason),
    ),
];

const NUMBERS: Table = &[
    ("BYTES_RECEIVED", Kind::Number(Number::BytesReceived)),
    ("BYTES_SENT", Kind::Number(Number::BytesSent)),
    ("CONNECTION_ID", Kind::Number(Number::ConnectionId)),
    (
        "DOWNSTREAM_HANDSHAKE_DURATION",
        Kind::Number(Number::DownstreamHandshakeDuration),
    ),
    ("DURATION", Kind::Number(Number::Duration)),
    ("GRPC_STATUS", Kind::GrpcStatus),
    ("GRPC_STATUS_NUMBER", Kind::GrpcStatusNumber),
    ("REQUEST_DURATION", Kind::Number(Number::RequestDuration)),
    (
        "REQUEST_HEADERS_BYTES",
        Kind::Number(Number::RequestHeadersBytes),
    ),
    ("RESPONSE_CODE", Kind::Number(Number::ResponseCode)),
    ("RESPONSE_DURATION", Kind::Number(Number::ResponseDuration)),
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
    (
        "UPSTREAM_CONNECTION_ID",
        Kind::Number(Number::UpstreamConnectionId),
    ),
    (
        "UPSTREAM_REQUEST_ATTEMPT_COUNT",
        Kind::Number(Number::AttemptCount),
    ),
];

macro_rules! absent {
    ($($arguments:ident: $($name:literal)+;)+) => {
        const ABSENT: Table = &[$($(($name, Kind::Absent(Arguments::$arguments)),)+)+];
    };
}

absent! {
    Never:
    "BYTES_RETRANSMITTED"
    "CUSTOM_FLAGS"
    "DOWNSTREAM_CX_RTT"
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"
    "DOWNSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"
    "DOWNSTREAM_DETECTED_CLOSE_TYPE"
    "DOWNSTREAM_DIRECT_LOCAL_ADDRESS_ENDPOINT_ID"
    "DOWNSTREAM_HEADER_BYTES_RECEIVED"
    "DOWNSTREAM_HEADER_BYTES_SENT"
    "DOWNSTREAM_LOCAL_ADDRESS_ENDPOINT_ID"
    "DOWNSTREAM_LOCAL_CLOSE_REASON"
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_1"
    "DOWNSTREAM_PEER_CHAIN_FINGERPRINTS_256"
    "DOWNSTREAM_PEER_CHAIN_SERIALS"
    "DOWNSTREAM_PEER_ISSUER_FINGERPRINT_256"
    "DOWNSTREAM_PEER_ISSUER_SERIAL"
    "DOWNSTREAM_TLS_GROUP"
    "DOWNSTREAM_WIRE_BYTES_RECEIVED"
    "DOWNSTREAM_WIRE_BYTES_SENT"
    "FILTER_CHAIN_NAME"
    "PACKETS_RETRANSMITTED"
    "REQUEST_TX_DURATION"
    "ROUNDTRIP_DURATION"
    "ROUTE_RESOLUTION_COUNT"
    "ROUTE_RESOLUTION_TIME_US"
    "SPAN_ID"
    "TLS_JA3_FINGERPRINT"
    "TLS_JA4_FINGERPRINT"
    "UPSTREAM_CONNECTION_IDS_ATTEMPTED"
    "UPSTREAM_CONNECTION_POOL_READY_DURATION"
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_RECEIVED"
    "UPSTREAM_DECOMPRESSED_HEADER_BYTES_SENT"
    "UPSTREAM_DETECTED_CLOSE_TYPE"
    "UPSTREAM_HEADER_BYTES_RECEIVED"
    "UPSTREAM_HEADER_BYTES_SENT"
    "UPSTREAM_HOSTS_ATTEMPTED"
    "UPSTREAM_HOSTS_ATTEMPTED_WITHOUT_PORT"
    "UPSTREAM_HOST_NAMES_ATTEMPTED"
    "UPSTREAM_HOST_NAMES_ATTEMPTED_WITHOUT_PORT"
    "UPSTREAM_HOST_NAME_WITHOUT_PORT"
    "UPSTREAM_LOCAL_CLOSE_REASON"
    "UPSTREAM_REMOTE_ADDRESS_ENDPOINT_ID"
    "UPSTREAM_SERVER_NAME"
    "UPSTREAM_TLS_GROUP"
    "UPSTREAM_WIRE_BYTES_RECEIVED"
    "UPSTREAM_WIRE_BYTES_SENT"
    "VIRTUAL_CLUSTER_NAME";
    Required:
    "CEL"
    "CLUSTER_METADATA"
    "COMMON_DURATION"
    "PER_REQUEST_STATE"
    "UPSTREAM_METADATA";
    RequiredThenLength:
    "DYNAMIC_METADATA"
    "FILTER_STATE"
    "METADATA"
    "UPSTREAM_FILTER_STATE";
}

impl Kind {
    /// By name; gives the name back as it is kept.
    pub(super) fn of(name: &str) -> Result<(&'static str, Self), FormatError> {
        all()
            .find(|(known, _)| *known == name)
            .ok_or_else(|| FormatError::Unknown {
                name: name.to_owned(),
                near: near(name),
            })
    }

    /// Whether something stands in parentheses.
    pub(super) fn arguments(self) -> Arguments {
        match self {
            Self::Address(_) | Self::Port(_) | Self::Text(_) | Self::Number(_) => Arguments::Never,
            Self::GrpcStatusNumber => Arguments::Never,
            Self::Time(_) | Self::Host(_) | Self::Path | Self::Query => Arguments::Optional,
            Self::Details | Self::ServerName | Self::GrpcStatus => Arguments::Optional,
            Self::Field(_) | Self::QueryParameter => Arguments::RequiredThenLength,
            Self::Environment => Arguments::RequiredThenLength,
            Self::Absent(arguments) => arguments,
        }
    }

    /// Whether a length may follow.
    pub(super) fn takes_length(self) -> bool {
        self.arguments() == Arguments::RequiredThenLength
            || matches!(self, Self::Path | Self::Query)
    }
}

/// Every name with what it stands for.
pub(super) fn all() -> impl Iterator<Item = (&'static str, Kind)> {
    ALL.iter().flat_map(|table| table.iter().copied())
}

/// The names that are spelled almost alike, as a sentence's end.
fn near(name: &str) -> String {
    let upper = name.to_ascii_uppercase();
    let mut near: Vec<(usize, &str)> = all()
        .map(|(known, _)| (strsim::damerau_levenshtein(known, &upper), known))
        .filter(|(distance, known)| *distance <= 1 + known.len().min(upper.len()) / 5)
        .collect();
    near.sort_unstable();
    let nearest = near.first().map_or(0, |(distance, _)| *distance);
    near.retain(|(distance, _)| *distance <= nearest + 1);
    near.truncate(3);
    if near.is_empty() {
        return String::new();
    }
    let names: Vec<_> = near.iter().map(|(_, name)| format!("%{name}%")).collect();
    format!("; near it: {}", names.join(", "))
}
