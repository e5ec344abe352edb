//! By HTTP: a request like the one that is asked about, with the fields that the provider lists.

use bytes::Bytes;
use http::header::CONTENT_LENGTH;
use http::{HeaderName, HeaderValue, Request, Uri};
use http_body_util::{BodyExt as _, Limited};

use super::{ANSWER, Answer, Failure, PARTIAL, Sent, Subject, send, speaks_http2};
use crate::dataplane::error::Error;
use crate::policy::external::{Http, Provider};

/// Asks.
pub(super) async fn ask(
    provider: &Provider,
    settings: &Http,
    subject: &Subject<'_>,
) -> Result<Answer, Failure> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = subject.parts.method.clone();
    let target = subject.parts.uri.path_and_query();
    let target = target.map_or("/", |target| target.as_str());
    // `/` before `/path` would make an empty segment of it.
    let prefix = settings.path_prefix.trim_end_matches('/');
    parts.uri = Uri::try_from(format!("{prefix}{target}"))
        .map_err(|_| Error::BadRequest("invalid_path"))?;
    parts.headers = settings.told(&subject.parts.headers, subject.host);
    let told = subject.told.as_ref();
    if let Some(told) = told {
        let partial = if told.partial { "true" } else { "false" };
        parts.headers.insert(
            HeaderName::from_static(PARTIAL),
            HeaderValue::from_static(partial),
        );
    }
    let body: Option<Bytes> = told.map(|told| told.bytes.clone());
    let length = body.as_ref().map_or(0, Bytes::len);
    parts.headers.insert(CONTENT_LENGTH, length.into());
    let Sent {
        status,
        headers,
        body,
        mut exchange,
    } = send(provider, subject, parts, body, speaks_http2).await?;
    let body = Limited::new(body, ANSWER).collect().await;
    let body = body.map_err(|error| Failure::Answer(error.to_string()))?;
    exchange.complete();
    match settings.judge(status, &headers, body.to_bytes()) {
        Ok(changes) => Ok(Answer::Allowed(Box::new(changes))),
        Err(Some(refusal)) => Ok(Answer::Denied(*refusal)),
        Err(None) => Err(Failure::Status(status.to_string())),
    }
}
