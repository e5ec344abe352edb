//! What a template may ask about a request, its connections and its response.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::HeaderName;

/// Answers a template's questions. Whoever renders implements what is known at that place; a
/// question without an answer makes the operator's text empty.
pub trait Variables {
    /// A point in time.
    fn time(&self, moment: Moment) -> Option<SystemTime> {
        let _ = moment;
        None
    }

    /// One end of a connection.
    fn address(&self, end: End) -> Option<SocketAddr> {
        let _ = end;
        None
    }

    /// The first value of a field; of a repeated one the rest does not count (Envoy).
    fn field(&self, message: Message, name: &Name) -> Option<&[u8]> {
        let _ = (message, name);
        None
    }

    /// A word.
    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        let _ = text;
        None
    }

    /// A count, a code or a duration.
    fn number(&self, number: Number) -> Option<u64> {
        let _ = number;
        None
    }
}

/// Knows nothing: only literal text is rendered.
#[derive(Clone, Copy, Debug)]
pub struct Nothing;

impl Variables for Nothing {}

/// A point in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Moment {
    /// When the request began.
    Start,
    /// Now.
    Emit,
    /// From when the peer's certificate is valid.
    ValidFrom(Side),
    /// Until when the peer's certificate is valid.
    ValidUntil(Side),
}

/// Which of the two connections.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// The client's.
    Downstream,
    /// The endpoint's.
    Upstream,
}

/// One end of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The client, as trusted forwarding headers tell it.
    DownstreamRemote,
    /// The client's end of the TCP connection.
    DownstreamDirectRemote,
    /// What the client dialled: the original destination.
    DownstreamLocal,
    /// The original destination where a proxy was dialled in its place.
    DownstreamDirectLocal,
    /// The endpoint's.
    UpstreamRemote,
    /// Our end of the connection to it.
    UpstreamLocal,
}

/// Where a field is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Message {
    /// The request's head.
    Request,
    /// The response's head.
    Response,
    /// The response's trailers.
    Trailers,
}

/// A field's name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Name {
    /// An ordinary field.
    Header(HeaderName),
    /// `:method`.
    Method,
    /// `:scheme`.
    Scheme,
    /// `:authority`, or `host`.
    Authority,
    /// `:path`, with the query.
    Path,
    /// `:protocol`, of extended CONNECT.
    Protocol,
    /// `:status`.
    Status,
}

/// What one side's TLS tells, as words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tls {
    /// URI names of the peer's certificate, joined by commas.
    PeerUriSan,
    /// DNS names of the peer's certificate, joined by commas.
    PeerDnsSan,
    /// Addresses in the peer's certificate, joined by commas.
    PeerIpSan,
    /// Mail names of the peer's certificate, joined by commas.
    PeerEmailSan,
    /// Other names of the peer's certificate, joined by commas.
    PeerOthernameSan,
    /// URI names of our certificate, joined by commas.
    LocalUriSan,
    /// DNS names of our certificate, joined by commas.
    LocalDnsSan,
    /// Addresses in our certificate, joined by commas.
    LocalIpSan,
    /// Mail names of our certificate, joined by commas.
    LocalEmailSan,
    /// Other names of our certificate, joined by commas.
    LocalOthernameSan,
    /// RFC 2253.
    PeerSubject,
    /// RFC 2253.
    LocalSubject,
    /// RFC 2253.
    PeerIssuer,
    /// SHA-256, lower-case hexadecimal.
    PeerFingerprint256,
    /// SHA-1, lower-case hexadecimal.
    PeerFingerprint1,
    /// Lower-case hexadecimal.
    PeerSerial,
    /// The certificate as percent-encoded PEM.
    PeerCertificate,
    /// Lower-case hexadecimal.
    SessionId,
    /// OpenSSL's name of the cipher.
    Cipher,
    /// `TLSv1.2`, `TLSv1.3`.
    Version,
}

/// A word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Text {
    /// `HTTP/1.0`, `HTTP/1.1`, `HTTP/2`: the client's.
    Protocol,
    /// Likewise: the endpoint's.
    UpstreamProtocol,
    /// This machine's name.
    Hostname,
    /// The rule's.
    RouteName,
    /// The cluster's, under its alternative name for statistics where it has one.
    UpstreamCluster,
    /// The cluster's.
    UpstreamClusterRaw,
    /// The endpoint's host name where it has one.
    UpstreamHostName,
    /// The server name in the client's TLS handshake.
    RequestedServerName,
    /// Envoy's short flags, joined by commas.
    ResponseFlags,
    /// Envoy's long names of them.
    ResponseFlagsLong,
    /// What answered.
    ResponseCodeDetails,
    /// Why the connection ended.
    ConnectionTerminationDetails,
    /// Why the endpoint could not be reached.
    UpstreamTransportFailureReason,
    /// Why the client's handshake failed.
    DownstreamTransportFailureReason,
    /// Unique to the stream.
    StreamId,
    /// The trace the request belongs to.
    TraceId,
    /// The body of an answer that the proxy made.
    LocalReplyBody,
    /// What TLS tells.
    Tls(Side, Tls),
}

/// A count, a code or a duration. Durations are in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Number {
    /// The status; none where nothing was answered.
    ResponseCode,
    /// gRPC's status of the answer.
    GrpcStatus,
    /// Bytes of the request's body.
    BytesReceived,
    /// Bytes of the response's body.
    BytesSent,
    /// Bytes of the request's head.
    RequestHeadersBytes,
    /// Bytes of the response's head.
    ResponseHeadersBytes,
    /// Bytes of the response's trailers.
    ResponseTrailersBytes,
    /// From the first byte of the request to the last of the response.
    Duration,
    /// From the first to the last byte of the request.
    RequestDuration,
    /// From the first byte of the request to the first of the response.
    ResponseDuration,
    /// From the first to the last byte of the response.
    ResponseSendDuration,
    /// How long the client's TLS handshake took.
    DownstreamHandshakeDuration,
    /// Unique to the client's connection.
    ConnectionId,
    /// Unique to the upstream connection.
    UpstreamConnectionId,
    /// Attempts made upstream, the first included.
    AttemptCount,
}
