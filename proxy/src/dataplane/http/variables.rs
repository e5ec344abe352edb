//! What operators in header values see of a request and its answer.

use std::borrow::Cow;
use std::net::SocketAddr;
use std::time::SystemTime;

use http::{HeaderMap, Method};

use crate::clock;
use crate::dataplane::outcome::Exchange;
use crate::policy::format::{End, Message, Moment, Name, Number, Text, Variables};
use crate::types::ClusterName;

#[derive(Clone, Copy)]
/// One request at some point of its way. What is not known there is empty.
pub(super) struct View<'a> {
    pub(super) exchange: &'a Exchange,
    pub(super) method: &'a Method,
    /// With the query, as the client sent it.
    pub(super) path: &'a str,
    pub(super) authority: &'a str,
    pub(super) protocol: &'static str,
    /// The request's fields, where the message being edited is the response.
    pub(super) request: Option<&'a HeaderMap>,
}

impl Variables for View<'_> {
    fn time(&self, moment: Moment) -> Option<SystemTime> {
        match moment {
            Moment::Start => Some(self.exchange.wall()),
            Moment::Emit => Some(clock::wall()),
            Moment::ValidFrom(_) | Moment::ValidUntil(_) => None,
        }
    }

    fn address(&self, end: End) -> Option<SocketAddr> {
        match end {
            End::DownstreamRemote => Some(self.exchange.remote()),
            End::DownstreamDirectRemote => Some(self.exchange.source),
            End::DownstreamLocal | End::DownstreamDirectLocal => Some(self.exchange.destination),
            End::UpstreamRemote => self.exchange.upstream_host,
            End::UpstreamLocal => self.exchange.upstream_local,
        }
    }

    fn field(&self, message: Message, name: &Name) -> Option<&[u8]> {
        match (message, name) {
            (Message::Request, Name::Method) => Some(self.method.as_str().as_bytes()),
            (Message::Request, Name::Path) => Some(self.path.as_bytes()),
            (Message::Request, Name::Authority) => Some(self.authority.as_bytes()),
            (Message::Request, Name::Scheme) => Some(b"http"),
            (Message::Request, Name::Header(name)) => Some(self.request?.get(name)?.as_bytes()),
            _ => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        let exchange = self.exchange;
        let some = |text: &str| (!text.is_empty()).then(|| Cow::Owned(text.to_owned()));
        match text {
            Text::Protocol => Some(Cow::Borrowed(self.protocol)),
            Text::UpstreamProtocol => exchange.upstream_protocol.map(Cow::Borrowed),
            Text::Hostname => Some(Cow::Borrowed(exchange.hostname())),
            Text::RouteName => exchange.route.as_deref().map(Cow::Borrowed),
            Text::UpstreamCluster | Text::UpstreamClusterRaw => {
                let cluster = exchange.cluster.as_ref();
                cluster.map(ClusterName::as_str).map(Cow::Borrowed)
            }
            Text::ResponseFlags => some(&exchange.flags.to_string()),
            Text::ResponseCodeDetails => some(&exchange.details),
            Text::UpstreamTransportFailureReason => some(&exchange.failure),
            Text::UpstreamHostName
            | Text::RequestedServerName
            | Text::ResponseFlagsLong
            | Text::ConnectionTerminationDetails
            | Text::DownstreamTransportFailureReason
            | Text::StreamId
            | Text::TraceId
            | Text::LocalReplyBody
            | Text::Tls(..) => None,
        }
    }

    fn number(&self, number: Number) -> Option<u64> {
        let exchange = self.exchange;
        match number {
            Number::ResponseCode => (exchange.status > 0).then(|| exchange.status.into()),
            Number::BytesReceived => Some(exchange.bytes_received()),
            Number::BytesSent => Some(exchange.sent),
            Number::Duration => Some(exchange.elapsed()),
            Number::ResponseDuration => exchange.service_time,
            Number::AttemptCount => Some(exchange.attempts.into()),
            Number::GrpcStatus
            | Number::RequestHeadersBytes
            | Number::ResponseHeadersBytes
            | Number::ResponseTrailersBytes
            | Number::RequestDuration
            | Number::ResponseSendDuration
            | Number::DownstreamHandshakeDuration
            | Number::ConnectionId
            | Number::UpstreamConnectionId => None,
        }
    }
}
