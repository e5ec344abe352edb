//! A request as it is sent to an endpoint, in the form of the protocol that is spoken there, as often as
//! there are attempts. Does not know where it goes.

use std::rc::Rc;

use http::header::HOST;
use http::uri::Scheme;
use http::{HeaderValue, Method, Request, Uri, Version, request};
use hyper::ext::Protocol;

use super::content::Content;
use super::headers;
use super::upload::{Reader, RequestBody, Upload};
use crate::dataplane::error::Error;

/// A request as its attempts send it.
pub(super) struct Message {
    pub(super) parts: Box<request::Parts>,
    pub(super) body: Outgoing,
}

/// A request's body as its attempts send it.
pub(super) enum Outgoing {
    /// There is none.
    Nothing,
    /// The client's, as it comes.
    Upload(Rc<Upload>),
    /// A copy.
    Copy(Content),
}

impl Message {
    /// Makes a request one for an upstream that speaks HTTP/2 or HTTP/1.1.
    pub(super) fn new(
        mut parts: Box<request::Parts>,
        body: Outgoing,
        http2: bool,
    ) -> Result<Self, Error> {
        let spoken = if http2 {
            Version::HTTP_2
        } else {
            Version::HTTP_11
        };
        if http2 {
            if let Some(host) = parts.headers.remove(HOST) {
                parts.uri = absolute(&host, &parts.uri)?;
            }
        } else if let Some(authority) = parts.uri.authority() {
            let host = HeaderValue::try_from(authority.as_str());
            let host = host.map_err(|_| Error::BadRequest("invalid_host"))?;
            let mut origin = http::uri::Parts::default();
            origin.path_and_query = parts.uri.path_and_query().cloned();
            parts.uri = Uri::from_parts(origin).map_err(|_| Error::BadRequest("invalid_path"))?;
            if !parts.headers.contains_key(HOST) {
                parts.headers.insert(HOST, host);
            }
        }
        if http2 && let Some(protocol) = headers::take_upgrade(&mut parts.headers) {
            // RFC 8441.
            let protocol = protocol
                .to_str()
                .map_err(|_| Error::BadRequest("invalid_upgrade"))?;
            parts.method = Method::CONNECT;
            parts.extensions.insert(Protocol::from(protocol));
        }
        if !http2 && parts.version == Version::HTTP_2 {
            headers::join_cookies(&mut parts.headers);
        }
        parts.version = spoken;
        Ok(Self { parts, body })
    }

    /// The client's body, where there is one.
    pub(super) fn upload(&self) -> Option<&Rc<Upload>> {
        match &self.body {
            Outgoing::Upload(upload) => Some(upload),
            Outgoing::Nothing | Outgoing::Copy(_) => None,
        }
    }

    /// The request, to be sent now. Whatever sent it before is cut off.
    pub(super) fn request(&self) -> Request<RequestBody> {
        Request::from_parts((*self.parts).clone(), self.body())
    }

    /// The same of what is sent once.
    pub(super) fn into_request(self) -> Request<RequestBody> {
        let body = self.body();
        Request::from_parts(*self.parts, body)
    }

    fn body(&self) -> RequestBody {
        match &self.body {
            Outgoing::Nothing => RequestBody::Empty,
            Outgoing::Upload(upload) => RequestBody::Read(Reader::new(upload)),
            Outgoing::Copy(content) => content.clone().into(),
        }
    }

    /// Whether what was sent of it can be sent once more.
    pub(super) fn is_replayable(&self) -> bool {
        self.upload().is_none_or(|upload| upload.is_replayable())
    }
}

fn absolute(authority: &HeaderValue, target: &Uri) -> Result<Uri, Error> {
    let mut uri = http::uri::Parts::default();
    uri.scheme = Some(Scheme::HTTP);
    uri.authority = authority.as_bytes().try_into().ok();
    uri.path_and_query = target.path_and_query().cloned();
    Uri::from_parts(uri).map_err(|_| Error::BadRequest("invalid_host"))
}
