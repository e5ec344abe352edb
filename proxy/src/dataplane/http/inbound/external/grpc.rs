//! By gRPC: `envoy.service.auth.v3.Authorization/Check`, with the attributes that Envoy tells.

use std::collections::BTreeMap;
use std::time::UNIX_EPOCH;

use http::header::{CONTENT_TYPE, HOST, TE};
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Uri};

use super::super::super::headers::REQUEST_ID;
use super::{ANSWER, Answer, Failure, PARTIAL, Sent, Subject, send};
use crate::clock;
use crate::dataplane::error::Error;
use crate::dataplane::protocol::Version;
use crate::policy::external::{Changes, Provider, Refusal};
use crate::proto::authorization as proto;
use crate::proto::grpc::{self, Code, Status};
use crate::types::field::is_fixed;

/// Asks.
pub(super) async fn ask(provider: &Provider, subject: &Subject<'_>) -> Result<Answer, Failure> {
    let (mut parts, ()) = Request::new(()).into_parts();
    parts.method = Method::POST;
    parts.uri = Uri::from_static(proto::CHECK);
    let headers = &mut parts.headers;
    // Who is asked: Envoy names its cluster.
    let host = HeaderValue::from_str(provider.cluster.host().unwrap_or_default());
    headers.insert(HOST, host.map_err(|_| Error::BadRequest("invalid_host"))?);
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    headers.insert(TE, HeaderValue::from_static("trailers"));
    let message = grpc::frame(&request(subject));
    let Sent {
        status,
        headers,
        body,
        mut exchange,
    } = send(provider, subject, parts, Some(message), |_| true).await?;
    if status != StatusCode::OK {
        return Err(Failure::Status(status.to_string()));
    }
    if let Some(status) = Status::of(&headers)
        && status.code != Code::Ok
    {
        return Err(Failure::Status(status.to_string()));
    }
    let (answer, trailers) = match grpc::read::<proto::CheckResponse, _>(body, ANSWER).await {
        Ok(read) => read,
        Err((_, Some(status))) if status.code != Code::Ok => {
            return Err(Failure::Status(status.to_string()));
        }
        Err((broken, _)) => return Err(Failure::Answer(broken.to_string())),
    };
    match Status::of(&trailers) {
        Some(status) if status.code == Code::Ok => {}
        Some(status) => return Err(Failure::Status(status.to_string())),
        None => return Err(Failure::Answer("it has no status".to_owned())),
    }
    exchange.complete();
    Ok(judge(answer))
}

/// What it is told.
fn request(subject: &Subject<'_>) -> proto::CheckRequest {
    let arrival = subject.inbound.admitted.arrival();
    let parts = subject.parts;
    let path = parts.uri.path_and_query();
    let path = path.map_or("/", |path| path.as_str()).to_owned();
    let host = String::from_utf8_lossy(subject.host.as_bytes()).into_owned();
    let scheme = if subject.inbound.encrypted {
        "https"
    } else {
        "http"
    };
    let mut headers = BTreeMap::new();
    for name in parts.headers.keys().filter(|name| !is_fixed(name)) {
        let values = parts.headers.get_all(name).iter();
        let values = values.map(|value| String::from_utf8_lossy(value.as_bytes()));
        let values: Vec<_> = values.collect();
        headers.insert(name.to_string(), values.join(","));
    }
    for (name, value) in [
        (":authority", host.as_str()),
        (":method", parts.method.as_str()),
        (":path", path.as_str()),
        (":scheme", scheme),
    ] {
        headers.insert(name.to_owned(), value.to_owned());
    }
    let (mut body, mut raw_body) = (String::new(), Vec::new());
    if let Some(told) = &subject.told {
        headers.insert(PARTIAL.to_owned(), told.partial.to_string());
        if told.as_bytes {
            raw_body = told.bytes.to_vec();
        } else {
            body = String::from_utf8_lossy(&told.bytes).into_owned();
        }
    }
    let since = clock::wall().duration_since(UNIX_EPOCH).unwrap_or_default();
    let id = parts.headers.get(REQUEST_ID);
    let id = id.map(|id| String::from_utf8_lossy(id.as_bytes()).into_owned());
    let http = proto::HttpRequest {
        id: id.unwrap_or_default(),
        method: parts.method.to_string(),
        headers,
        path,
        host,
        scheme: scheme.to_owned(),
        size: subject
            .size
            .and_then(|size| i64::try_from(size).ok())
            .unwrap_or(-1),
        protocol: match subject.inbound.version {
            Version::Http1 => "HTTP/1.1",
            Version::Http2 => "HTTP/2",
        }
        .to_owned(),
        body,
        raw_body,
    };
    let inbound = subject.inbound;
    let own = arrival.peer.as_ref();
    let own = own.and_then(|_| inbound.pod.identity(&inbound.worker).ok());
    let peer = |address: std::net::SocketAddr, identity: Option<String>| proto::Peer {
        address: Some(address.into()),
        principal: identity.unwrap_or_default(),
    };
    proto::CheckRequest {
        attributes: Some(proto::AttributeContext {
            source: Some(peer(
                arrival.source,
                arrival.peer.as_ref().map(ToString::to_string),
            )),
            destination: Some(peer(
                arrival.destination,
                own.as_ref().map(ToString::to_string),
            )),
            request: Some(proto::Request {
                time: Some(proto::Timestamp {
                    seconds: i64::try_from(since.as_secs()).unwrap_or_default(),
                    nanos: i32::try_from(since.subsec_nanos()).unwrap_or_default(),
                }),
                http: Some(http),
            }),
        }),
    }
}

/// What its answer says. A status that is absent is 0, as Envoy reads it.
fn judge(answer: proto::CheckResponse) -> Answer {
    let allowed = answer.status.is_none_or(|status| status.code == 0);
    match answer.http_response {
        Some(proto::HttpResponse::Ok(ok)) if allowed => {
            let mut changes = Changes::default();
            fields(ok.headers, &mut changes.set, &mut changes.append);
            fields(
                ok.response_headers_to_add,
                &mut changes.answer_set,
                &mut changes.answer_append,
            );
            let names = ok.headers_to_remove.iter();
            let names = names.filter_map(|name| HeaderName::from_bytes(name.as_bytes()).ok());
            changes.remove = names.filter(|name| !is_fixed(name)).collect();
            Answer::Allowed(Box::new(changes))
        }
        _ if allowed => Answer::Allowed(Box::default()),
        Some(proto::HttpResponse::Denied(denied)) => {
            let status = denied.status.and_then(|status| {
                let code = u16::try_from(status.code)
                    .ok()
                    .filter(|code| *code >= 200)?;
                StatusCode::from_u16(code).ok()
            });
            let (mut headers, mut more) = (HeaderMap::new(), HeaderMap::new());
            fields(denied.headers, &mut headers, &mut more);
            for (name, value) in &more {
                headers.append(name, value.clone());
            }
            Answer::Denied(Refusal {
                status: status.unwrap_or(StatusCode::FORBIDDEN),
                headers,
                body: denied.body.into(),
            })
        }
        _ => Answer::Denied(Refusal::of(StatusCode::FORBIDDEN)),
    }
}

/// Those that are fields, and nobody else's to set.
fn fields(given: Vec<proto::HeaderValueOption>, set: &mut HeaderMap, append: &mut HeaderMap) {
    for one in given {
        let Some(header) = one.header else {
            continue;
        };
        let value = match header.raw_value.is_empty() {
            true => HeaderValue::from_bytes(header.value.as_bytes()),
            false => HeaderValue::from_bytes(&header.raw_value),
        };
        let name = HeaderName::from_bytes(header.key.as_bytes());
        if let (Ok(name), Ok(value)) = (name, value)
            && !is_fixed(&name)
        {
            if one.append.is_some_and(|append| append.value) {
                append.append(name, value);
            } else {
                set.insert(name, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn option(key: &str, value: &str, append: Option<bool>) -> proto::HeaderValueOption {
        proto::HeaderValueOption {
            header: Some(proto::HeaderValue {
                key: key.to_owned(),
                value: value.to_owned(),
                raw_value: Vec::new(),
            }),
            append: append.map(|value| proto::BoolValue { value }),
        }
    }

    fn status(code: i32) -> Option<proto::Status> {
        Some(proto::Status {
            code,
            message: String::new(),
        })
    }

    #[test]
    fn the_status_decides_and_nothing_of_the_frame_is_changed() {
        let ok = proto::HttpResponse::Ok(proto::OkHttpResponse {
            headers: vec![
                option("x-user", "one", None),
                option("x-more", "two", Some(true)),
                option("host", "evil", None),
                option("content-length", "5", None),
                option(":path", "/admin", None),
                option("x-bad", "a\r\nb", None),
            ],
            headers_to_remove: vec!["cookie".into(), "transfer-encoding".into(), ":x".into()],
            response_headers_to_add: vec![option("x-seen", "1", None)],
        });
        let denied = proto::HttpResponse::Denied(proto::DeniedHttpResponse {
            status: Some(proto::HttpStatus { code: 401 }),
            headers: vec![option("x-why", "a", None), option("x-why", "b", Some(true))],
            body: "no".to_owned(),
        });
        for (code, response, expected) in [
            (0, Some(ok.clone()), "allowed 1 1 1 [\"cookie\"]"),
            (0, None, "allowed 0 0 0 []"),
            // The words of one that denies don't count where it allows, nor the other way round.
            (0, Some(denied.clone()), "allowed 0 0 0 []"),
            (7, Some(denied), "401 2 no"),
            (7, Some(ok), "403 0 "),
            (16, None, "403 0 "),
        ] {
            let found = match judge(proto::CheckResponse {
                status: status(code),
                http_response: response,
            }) {
                Answer::Allowed(changes) => format!(
                    "allowed {} {} {} {:?}",
                    changes.set.len(),
                    changes.append.len(),
                    changes.answer_set.len(),
                    changes.remove
                ),
                Answer::Denied(refusal) => format!(
                    "{} {} {}",
                    refusal.status.as_u16(),
                    refusal.headers.len(),
                    String::from_utf8_lossy(&refusal.body)
                ),
            };
            assert_eq!(found, expected);
        }
        for code in [-1, 0, 99, 100, 70_000] {
            let response = proto::HttpResponse::Denied(proto::DeniedHttpResponse {
                status: Some(proto::HttpStatus { code }),
                headers: Vec::new(),
                body: String::new(),
            });
            let answer = proto::CheckResponse {
                status: status(7),
                http_response: Some(response),
            };
            let Answer::Denied(refusal) = judge(answer) else {
                panic!("{code} allows");
            };
            assert_eq!(refusal.status, 403, "{code}");
        }
    }
}
