//! Frames, statuses and times by tables; a client and a server of ours against each other.

use std::convert::Infallible;
use std::time::Duration;

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::{TokioExecutor, TokioIo};
use prost::Message as _;

use super::client::{Call, Failure, Sender, call, is_grpc};
use super::server::{Limits, Refusal, Reply, response, unary};
use super::*;
use crate::proto::ca::{CertificateRequest, CertificateResponse};
use crate::proto::structure::Struct;

fn request(text: &str) -> CertificateRequest {
    let name = "ImpersonatedIdentity".to_owned();
    CertificateRequest {
        csr: text.to_owned(),
        validity_duration: 86_400,
        metadata: Some(Struct {
            fields: [(name, "spiffe://td/ns/a/sa/b".to_owned().into())].into(),
        }),
    }
}

#[test]
fn messages_are_istios_byte_by_byte() {
    let mut expected = vec![0x0a, 3];
    expected.extend(b"csr");
    expected.extend([0x18, 0x80, 0xa3, 0x05]);
    let value = {
        let mut value = vec![0x1a, 21];
        value.extend(b"spiffe://td/ns/a/sa/b");
        value
    };
    let mut entry = vec![0x0a, 20];
    entry.extend(b"ImpersonatedIdentity");
    entry.push(0x12);
    entry.push(value.len() as u8);
    entry.extend(&value);
    let mut map = vec![0x0a, entry.len() as u8];
    map.extend(&entry);
    expected.push(0x22);
    expected.push(map.len() as u8);
    expected.extend(&map);
    assert_eq!(request("csr").encode_to_vec(), expected);
    let read = CertificateRequest::decode(&expected[..]).unwrap();
    let metadata = read.metadata.unwrap();
    assert_eq!(
        metadata.text("ImpersonatedIdentity"),
        Some("spiffe://td/ns/a/sa/b")
    );
    assert_eq!(metadata.text("CertSigner"), None);
    let answer = CertificateResponse {
        cert_chain: vec!["a".into(), "b".into()],
    };
    assert_eq!(answer.encode_to_vec(), [0x0a, 1, b'a', 0x0a, 1, b'b']);
}

/// Frames of a body.
fn body(
    frames: Vec<Result<Frame<Bytes>, &'static str>>,
) -> impl http_body::Body<Data = Bytes, Error = &'static str> + Unpin {
    StreamBody::new(futures_util::stream::iter(frames))
}

fn prefixed(flag: u8, length: u32, rest: &[u8]) -> Bytes {
    let mut out = BytesMut::new();
    out.put_u8(flag);
    out.put_u32(length);
    out.put_slice(rest);
    out.freeze()
}

#[tokio::test]
async fn exactly_one_message_is_read() {
    let good = frame(&request("csr"));
    let size = good.len() - 5;
    let ok = || Frame::trailers(Status::new(Code::Ok, "").headers());
    let bytes = |data: &[u8]| Ok(Frame::data(Bytes::copy_from_slice(data)));
    let byte_by_byte = good.iter().map(|byte| bytes(&[*byte])).collect();
    let with_more = bytes(&[&good[..], &[0]].concat());
    for (name, frames, expected) in [
        ("whole", vec![bytes(&good), Ok(ok())], Ok(())),
        ("byte by byte", byte_by_byte, Ok(())),
        ("nothing", vec![], Err(Broken::Empty)),
        ("trailers alone", vec![Ok(ok())], Err(Broken::Empty)),
        ("half a prefix", vec![bytes(&good[..3])], Err(Broken::Short)),
        ("half of it", vec![bytes(&good[..9])], Err(Broken::Short)),
        ("twice", vec![bytes(&good), bytes(&good)], Err(Broken::Long)),
        ("with a byte more", vec![with_more], Err(Broken::Long)),
        (
            "compressed",
            vec![Ok(Frame::data(prefixed(1, 3, b"abc")))],
            Err(Broken::Flag(1)),
        ),
        (
            "too large, as the prefix says",
            vec![Ok(Frame::data(prefixed(0, u32::MAX, b"")))],
            Err(Broken::Large {
                size: u32::MAX as usize,
                limit: size,
            }),
        ),
        (
            "broken off",
            vec![bytes(&good), Err("reset")],
            Err(Broken::Stream("reset".into())),
        ),
    ] {
        let read = read::<CertificateRequest, _>(body(frames), size).await;
        let read = read.map(|(message, _)| assert_eq!(message, request("csr")));
        assert_eq!(read.map_err(|(broken, _)| broken), expected, "{name}");
    }
    let nonsense = body(vec![Ok(Frame::data(prefixed(0, 2, &[0xff, 0xff])))]);
    let read = read::<CertificateRequest, _>(nonsense, 10).await;
    assert!(matches!(read, Err((Broken::Message(_), None))), "{read:?}");
}

#[test]
fn statuses_travel_as_headers() {
    for (code, message, wire) in [
        (Code::Ok, "", None),
        (
            Code::Unauthenticated,
            "no such token",
            Some("no such token"),
        ),
        (Code::Internal, "100 %\nü", Some("100 %25%0A%C3%BC")),
    ] {
        let status = Status::new(code, message);
        let headers = status.headers();
        let written = headers.get("grpc-message");
        assert_eq!(written.map(|value| value.to_str().unwrap()), wire);
        let read = Status::of(&headers).unwrap();
        assert_eq!(read.code, code);
        assert_eq!(read.message, message.replace('\n', " "), "one line");
    }
    let of = |number: &'static str| {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-status", HeaderValue::from_static(number));
        Status::of(&headers).unwrap().code
    };
    assert_eq!(of("16"), Code::Unauthenticated);
    for unknown in ["17", "99999999999999999999", "-1", "x", ""] {
        assert_eq!(of(unknown), Code::Unknown, "{unknown}");
    }
    assert_eq!(Status::of(&HeaderMap::new()), None);
    let mut long = HeaderMap::new();
    long.insert("grpc-status", 2.into());
    long.insert("grpc-message", "x".repeat(5000).try_into().unwrap());
    assert_eq!(Status::of(&long).unwrap().message.len(), 512);
    assert_eq!(Code::of_http(StatusCode::BAD_GATEWAY), Code::Unavailable);
}

#[test]
fn times_are_read_exactly() {
    for (text, expected) in [
        ("1H", Some(Duration::from_secs(3600))),
        ("2M", Some(Duration::from_secs(120))),
        ("99999999S", Some(Duration::from_secs(99_999_999))),
        ("250m", Some(Duration::from_millis(250))),
        ("7u", Some(Duration::from_micros(7))),
        ("9n", Some(Duration::from_nanos(9))),
        ("0S", Some(Duration::ZERO)),
        ("", None),
        ("S", None),
        ("1", None),
        ("1s", None),
        ("-1S", None),
        ("+1S", None),
        ("1.5S", None),
        ("100000000S", None),
        ("1ü", None),
    ] {
        assert_eq!(timeout::read(text), expected, "{text}");
    }
    for (time, expected) in [
        (Duration::from_micros(1500), "1m"),
        (Duration::from_secs(10), "10000m"),
        (Duration::from_secs(200_000), "200000S"),
        (Duration::MAX, "99999999S"),
    ] {
        assert_eq!(timeout::write(time), expected);
    }
}

#[test]
fn content_types_are_compared_whole() {
    for (kind, expected) in [
        ("application/grpc", true),
        ("application/grpc+proto", true),
        ("application/grpc;charset=utf-8", true),
        ("application/grpc-web", false),
        ("application/json", false),
        ("", false),
    ] {
        assert_eq!(is_grpc(kind), expected, "{kind}");
    }
}

/// Connects a client to a service over an in-memory pipe.
async fn connect<S, F>(service: S) -> Sender
where
    S: Fn(Request<Incoming>) -> F + Send + 'static,
    F: Future<Output = Response<Reply>> + Send + 'static,
{
    let (near, far) = tokio::io::duplex(1 << 16);
    tokio::spawn(async move {
        let service = service_fn(move |request| {
            let answer = service(request);
            async move { Ok::<_, Infallible>(answer.await) }
        });
        let server = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
        let _ = server.serve_connection(TokioIo::new(far), service).await;
    });
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(near))
            .await
            .unwrap();
    tokio::spawn(connection);
    sender
}

fn to_it(limit: usize) -> Call {
    let mut metadata = HeaderMap::new();
    metadata.insert("authorization", HeaderValue::from_static("Bearer t"));
    Call {
        uri: "https://ca:1/istio.v1.auth.IstioCertificateService/CreateCertificate"
            .parse()
            .unwrap(),
        metadata,
        patience: Duration::from_secs(5),
        limit,
    }
}

const LIMITS: Limits = Limits {
    size: 1000,
    time: Duration::from_secs(5),
};

#[tokio::test]
async fn a_call_is_answered_or_refused() {
    let mut sender = connect(|request| async {
        let work = async |headers: HeaderMap, asked: CertificateRequest| {
            assert_eq!(headers["authorization"], "Bearer t");
            assert_eq!(headers["te"], "trailers");
            assert_eq!(headers["grpc-timeout"], "5000m");
            match &asked.csr[..] {
                "silent" => std::future::pending().await,
                "no" => Err(Status::new(Code::PermissionDenied, "not yours")),
                csr => Ok(CertificateResponse {
                    cert_chain: vec![csr.to_owned(); 3],
                }),
            }
        };
        let limits = Limits {
            time: Duration::from_millis(200),
            ..LIMITS
        };
        let answer = unary(request, limits, work).await;
        response(answer.and_then(|one| one.map_err(Refusal::Status)).as_ref())
    })
    .await;
    let mut ask = async |text: &str| -> Result<CertificateResponse, Failure> {
        call(&mut sender, to_it(1000), &request(text)).await
    };
    assert_eq!(ask("x").await.unwrap().cert_chain, ["x", "x", "x"]);
    for (text, code, words) in [
        ("no", Code::PermissionDenied, "not yours"),
        ("silent", Code::DeadlineExceeded, "took too long"),
        (
            &"x".repeat(2000)[..],
            Code::ResourceExhausted,
            "at most 1000",
        ),
    ] {
        match ask(text).await {
            Err(Failure::Status(status)) => {
                assert_eq!(status.code, code);
                assert!(status.message.contains(words), "{status}");
            }
            other => panic!("{other:?}"),
        }
    }
    // The answer has a bound too.
    match ask(&"x".repeat(400)).await {
        Err(Failure::Broken(Broken::Large { limit, .. })) => assert_eq!(limit, 1000),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn what_is_no_call_is_refused() {
    let ask = async |change: fn(&mut Request<Full<Bytes>>)| {
        let mut asked = Request::new(Full::new(frame(&request("x"))));
        *asked.method_mut() = Method::POST;
        let kind = HeaderValue::from_static("application/grpc");
        asked.headers_mut().insert("content-type", kind);
        change(&mut asked);
        let work = async |_, _: CertificateRequest| CertificateResponse::default();
        unary(asked, LIMITS, work).await
    };
    assert!(ask(|_| {}).await.is_ok());
    let http = |status| Err(Refusal::Http(status));
    assert_eq!(
        ask(|request| *request.method_mut() = Method::GET).await,
        http(StatusCode::METHOD_NOT_ALLOWED)
    );
    assert_eq!(
        ask(|request| request.headers_mut().clear()).await,
        http(StatusCode::UNSUPPORTED_MEDIA_TYPE)
    );
    let code = |answer: Result<CertificateResponse, Refusal>| match answer {
        Err(Refusal::Status(status)) => status.code,
        other => panic!("{other:?}"),
    };
    let compressed = ask(|request| {
        let value = HeaderValue::from_static("gzip");
        request.headers_mut().insert("grpc-encoding", value);
    });
    assert_eq!(code(compressed.await), Code::Unimplemented);
    let malformed = ask(|request| {
        let value = HeaderValue::from_static("soon");
        request.headers_mut().insert("grpc-timeout", value);
    });
    assert_eq!(code(malformed.await), Code::Internal);
    let empty = ask(|request| *request.body_mut() = Full::default());
    assert_eq!(code(empty.await), Code::Unimplemented);
}

#[tokio::test]
async fn answers_of_others_are_told_apart() {
    type Made = fn() -> Response<Reply>;
    let cases: [(&str, Made, &str); 4] = [
        (
            "a web page",
            || {
                let mut page = response::<CertificateResponse>(Err(&Refusal::Http(StatusCode::OK)));
                let kind = HeaderValue::from_static("text/html");
                page.headers_mut().insert("content-type", kind);
                page
            },
            "not gRPC: HTTP status 200, content type \"text/html\"",
        ),
        (
            "a proxy that can't reach it",
            || {
                response::<CertificateResponse>(Err(&Refusal::Http(
                    StatusCode::SERVICE_UNAVAILABLE,
                )))
            },
            "HTTP status 503 (UNAVAILABLE)",
        ),
        (
            "no such service",
            || {
                let status = Status::new(Code::Unimplemented, "unknown method");
                response::<CertificateResponse>(Err(&Refusal::Status(status)))
            },
            "unknown method (UNIMPLEMENTED)",
        ),
        (
            "OK without a message",
            || {
                let status = Status::new(Code::Ok, "");
                response::<CertificateResponse>(Err(&Refusal::Status(status)))
            },
            "it has no message",
        ),
    ];
    for (name, made, expected) in cases {
        let mut sender = connect(move |_| async move { made() }).await;
        let message = request("x");
        let asked = call::<CertificateResponse>(&mut sender, to_it(1000), &message);
        let error = asked.await.unwrap_err().to_string();
        assert!(error.contains(expected), "{name}: {error}");
    }
    let reply = response(Ok::<_, &Refusal>(&CertificateResponse::default()));
    let all = reply.into_body().collect().await.unwrap();
    assert_eq!(all.trailers().unwrap()["grpc-status"], "0");
}
