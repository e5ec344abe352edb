//! Templates and what they render, one line a case.

use std::borrow::Cow;
use std::time::{Duration, SystemTime};

use http::HeaderName;
use proptest::prelude::*;

use super::*;

/// One request with everything known.
struct Known;

impl Variables for Known {
    fn time(&self, moment: Moment) -> Option<SystemTime> {
        let nanoseconds = match moment {
            Moment::Start => 1_527_590_590_528_679_123,
            Moment::Emit => 1_000_000_000,
            Moment::ValidFrom(Side::Downstream) => 1_545_097_834_000_000_000,
            Moment::ValidUntil(_) => 0,
            Moment::ValidFrom(Side::Upstream) => return None,
        };
        SystemTime::UNIX_EPOCH.checked_add(Duration::from_nanos(nanoseconds))
    }

    fn address(&self, end: End) -> Option<std::net::SocketAddr> {
        match end {
            End::DownstreamRemote => Some(([10, 1, 2, 3], 40000).into()),
            End::DownstreamLocal => Some(([0xfd00, 0, 0, 0, 0, 0, 0, 1], 8080).into()),
            _ => None,
        }
    }

    fn field(&self, message: Message, name: &Name) -> Option<&[u8]> {
        match (message, name) {
            (Message::Request, Name::Header(name)) if name == "x-user" => Some(b"j\xc3\xb6rg"),
            (Message::Request, Name::Header(name)) if name == "x-empty" => Some(b""),
            (Message::Request, Name::Header(name)) if name == "x-evil" => Some(b"a\r\nb: c\0\x7f"),
            (Message::Request, Name::Authority) => Some(b"web:80"),
            (Message::Request, Name::Path) => Some(b"/a?b=1&c&d="),
            (Message::Response, Name::Status) => Some(b"200"),
            (Message::Response, Name::Header(name)) if name == "server" => Some(b"envoy"),
            (Message::Trailers, Name::Header(name)) if name == "grpc-status" => Some(b"0"),
            _ => None,
        }
    }

    fn text(&self, text: Text) -> Option<Cow<'_, str>> {
        match text {
            Text::Protocol => Some("HTTP/2".into()),
            Text::Tls(Side::Downstream, Tls::PeerUriSan) => {
                Some("spiffe://cluster.local/ns/a/sa/b".into())
            }
            Text::ResponseFlags => Some("".into()),
            Text::ResponseCodeDetails => Some("a b c".into()),
            Text::UpstreamTransportFailureReason => Some("no way".into()),
            Text::ResponseFlagsLong => None,
            _ => None,
        }
    }

    fn number(&self, number: Number) -> Option<u64> {
        match number {
            Number::GrpcStatus => Some(14),
            Number::BytesSent => Some(7),
            _ => None,
        }
    }
}

fn render(text: &str, variables: &impl Variables) -> String {
    let mut out = Vec::new();
    Template::parse(text)
        .unwrap_or_else(|error| panic!("{text}: {error}"))
        .render(variables, &mut out);
    String::from_utf8(out).expect("text")
}

#[test]
fn templates_render_as_in_envoy() {
    for (text, expected) in [
        ("", ""),
        ("plain text", "plain text"),
        ("100%%", "100%"),
        ("%%REQ(x)%%", "%REQ(x)%"),
        ("%%%PROTOCOL%%%", "%HTTP/2%"),
        ("<%PROTOCOL%>", "<HTTP/2>"),
        ("%PROTOCOL%%PROTOCOL%", "HTTP/2HTTP/2"),
        ("%REQ(x-user)%", "j\u{f6}rg"),
        ("%REQ(X-User)%", "j\u{f6}rg"),
        ("%REQ(x-user):1%", "j"),
        ("%REQ(x-user):0%", ""),
        ("%REQ(x-user):99%", "j\u{f6}rg"),
        ("%REQ(x-none?x-user)%", "j\u{f6}rg"),
        ("%REQ(x-empty?x-user)%", ""),
        ("%REQ(x-none)%", ""),
        ("%REQ(:authority)% %REQ(Host)%", "web:80 web:80"),
        ("%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%", "/a?b=1&c&d="),
        ("%REQ(x-evil)%", "a  b: c  "),
        ("%RESP(server)% %RESP(:status)%", "envoy 200"),
        ("%TRAILER(grpc-status)%", "0"),
        ("%DOWNSTREAM_REMOTE_ADDRESS%", "10.1.2.3:40000"),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT%", "10.1.2.3"),
        ("%DOWNSTREAM_REMOTE_PORT%", "40000"),
        ("%DOWNSTREAM_LOCAL_ADDRESS%", "[fd00::1]:8080"),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT%", "fd00::1"),
        ("%DOWNSTREAM_LOCAL_PORT%", "8080"),
        ("%UPSTREAM_HOST%", ""),
        (
            "%DOWNSTREAM_PEER_URI_SAN%",
            "spiffe://cluster.local/ns/a/sa/b",
        ),
        ("%UPSTREAM_PEER_URI_SAN%", ""),
        ("%GRPC_STATUS%", "Unavailable"),
        ("%GRPC_STATUS(SNAKE_STRING)%", "UNAVAILABLE"),
        ("%GRPC_STATUS(NUMBER)%", "14"),
        ("%GRPC_STATUS_NUMBER%", "14"),
        ("%BYTES_SENT% %BYTES_RECEIVED%", "7 0"),
        ("%RESPONSE_CODE%", "0"),
        ("%DURATION%", ""),
        ("%RESPONSE_FLAGS% %RESPONSE_FLAGS_LONG%", "- -"),
        ("%REQ(?x-user)% %REQ(x-user?)%", "j\u{f6}rg j\u{f6}rg"),
        (
            "%REQUEST_HEADER(x-user)%%RESPONSE_HEADER(server)%",
            "j\u{f6}rgenvoy",
        ),
        ("%RESPONSE_TRAILER(grpc-status)%", "0"),
        (
            "%PATH%|%PATH(NQ)%|%PATH(WQ:ORIG)%|%PATH(NQ:PATH):1%",
            "/a?b=1&c&d=|/a||/",
        ),
        ("%QUERY_PARAMS%|%QUERY_PARAMS(ORIG)%", "b=1&c&d=|"),
        (
            "%QUERY_PARAM(b)%|%QUERY_PARAM(c)%|%QUERY_PARAM(d)%|%QUERY_PARAM(e)%",
            "1|||",
        ),
        ("%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(8)%", "10.0.0.0/8"),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(99)%",
            "10.1.2.3/32",
        ),
        ("%DOWNSTREAM_LOCAL_ADDRESS_WITHOUT_PORT(8)%", "fd00::/8"),
        (
            "%RESPONSE_CODE_DETAILS% %RESPONSE_CODE_DETAILS(ALLOW_WHITESPACES)%",
            "a_b_c a b c",
        ),
        ("%UPSTREAM_TRANSPORT_FAILURE_REASON%", "no_way"),
        ("%REQUESTED_SERVER_NAME(SNI_ONLY)%", ""),
        (r#"%UPSTREAM_METADATA(["istio","a"])%"#, ""),
        ("%DYNAMIC_METADATA(istio:a):10%", ""),
        ("%FILTER_STATE(x:PLAIN):9%", ""),
        ("%PER_REQUEST_STATE(x)%", ""),
    ] {
        assert_eq!(render(text, &Known), expected, "{text}");
    }
}

#[test]
fn times_are_laid_out() {
    for (text, expected) in [
        ("%START_TIME%", "2018-05-29T10:43:10.528Z"),
        ("%START_TIME()%", "2018-05-29T10:43:10.528Z"),
        ("%START_TIME(%s.%3f)%", "1527590590.528"),
        ("%START_TIME(%s)%", "1527590590"),
        ("%START_TIME(%f)%", "528679123"),
        ("%START_TIME(%1f|%6f|%9f)%", "5|528679|528679123"),
        ("%START_TIME(%Y/%m/%d %H:%M:%S)%", "2018/05/29 10:43:10"),
        ("%START_TIME(%a, %d %b %Y %T)%", "Tue, 29 May 2018 10:43:10"),
        (
            "%START_TIME(%A %B %e %j %y %I %p %u %F %D)%",
            "Tuesday May 29 149 18 10 AM 2 2018-05-29 05/29/18",
        ),
        ("%START_TIME(%z %Z)%", "+0000 UTC"),
        ("%START_TIME_LOCAL(%s)%", "1527590590"),
        ("%START_TIME( %s )%", " 1527590590 "),
        ("%START_TIME(100%%)%", "100%"),
        ("%START_TIME(%%s)%", "%s"),
        ("%START_TIME(plain [x] \\ text)%", "plain [x] \\ text"),
        ("%EMIT_TIME(%s.%3f)%", "1.000"),
        ("%DOWNSTREAM_PEER_CERT_V_START%", "2018-12-18T01:50:34.000Z"),
        (
            "%DOWNSTREAM_PEER_CERT_V_START(%b %e %H:%M:%S %Y)%",
            "Dec 18 01:50:34 2018",
        ),
        ("%DOWNSTREAM_PEER_CERT_V_END(%d)%", "01"),
        ("%UPSTREAM_PEER_CERT_V_START%", ""),
    ] {
        assert_eq!(render(text, &Known), expected, "{text}");
    }
}

#[test]
fn mistakes_are_named() {
    for (text, expected) in [
        (
            "%",
            "the % at byte 0 begins no operator; a percent sign is written %%",
        ),
        (
            "100%",
            "the % at byte 3 begins no operator; a percent sign is written %%",
        ),
        (
            "50% off",
            "the % at byte 2 begins no operator; a percent sign is written %%",
        ),
        (
            "a%PROTOCOL",
            "the operator at byte 1 is not closed by a %; a percent sign is written %%",
        ),
        (
            "%REQ(x",
            "the operator at byte 0 is not closed by a %; a percent sign is written %%",
        ),
        (
            "%REQ(x)",
            "the operator at byte 0 is not closed by a %; a percent sign is written %%",
        ),
        (
            "%REQ(x):5",
            "the operator at byte 0 is not closed by a %; a percent sign is written %%",
        ),
        (
            "%PROTOCOLL%",
            "unknown operator %PROTOCOLL%; near it: %PROTOCOL%",
        ),
        (
            "%protocol%",
            "unknown operator %protocol%; near it: %PROTOCOL%",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRES%",
            "unknown operator %DOWNSTREAM_REMOTE_ADDRES%; near it: %DOWNSTREAM_REMOTE_ADDRESS%",
        ),
        ("%XYZZY_PLUGH%", "unknown operator %XYZZY_PLUGH%"),
        ("%REQ%", "%REQ% needs an argument in parentheses"),
        ("%REQ()%", "%REQ% needs an argument in parentheses"),
        ("%PROTOCOL(x)%", "%PROTOCOL% takes no argument"),
        ("%PROTOCOL:5%", "%PROTOCOL% can't be cut to a length"),
        (
            "%REQ(x):-1%",
            "the length after %REQ(…): is not a number of bytes",
        ),
        (
            "%REQ(x):%",
            "the length after %REQ(…): is not a number of bytes",
        ),
        (
            "%REQ(x):99999999999999999999999%",
            "the length after %REQ(…): is not a number of bytes",
        ),
        ("%REQ(a b)%", "\"a b\" is not the name of a header"),
        ("%REQ(a?b?c)%", "\"b?c\" is not the name of a header"),
        (
            "%REQ(:nonsense)%",
            "\":nonsense\" is not the name of a header",
        ),
        (
            "%START_TIME(%Q)%",
            "%START_TIME(…)% has %Q in its layout, which is not supported",
        ),
        (
            "%START_TIME(%)%",
            "%START_TIME(…)% has % in its layout, which is not supported",
        ),
        (
            "%START_TIME(%0f)%",
            "%START_TIME(…)% has %0 in its layout, which is not supported",
        ),
        (
            "%GRPC_STATUS(UPPER)%",
            "%GRPC_STATUS(UPPER)%: supported is CAMEL_STRING, SNAKE_STRING or NUMBER",
        ),
        (
            "%PATH(X)%",
            "%PATH(X)%: supported is WQ or NQ, and after a colon ORIG, PATH or ORIG_OR_PATH",
        ),
        (
            "%PATH(NQ:X)%",
            "%PATH(NQ:X)%: supported is WQ or NQ, and after a colon ORIG, PATH or ORIG_OR_PATH",
        ),
        (
            "%REQUESTED_SERVER_NAME(HOST_FIRST)%",
            "%REQUESTED_SERVER_NAME(HOST_FIRST)%: supported is SNI_ONLY",
        ),
        (
            "%RESPONSE_CODE_DETAILS(X)%",
            "%RESPONSE_CODE_DETAILS(X)%: supported is ALLOW_WHITESPACES",
        ),
        (
            "%UPSTREAM_HOST_WITHOUT_PORT%",
            "unknown operator %UPSTREAM_HOST_WITHOUT_PORT%; near it: %UPSTREAM_HOST_NAME_WITHOUT_PORT%",
        ),
        ("%REQ(?)%", "\"\" is not the name of a header"),
        (
            "%GRPC_STATUS(NUMBER):3%",
            "%GRPC_STATUS% can't be cut to a length",
        ),
        (
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%",
            "%DOWNSTREAM_REMOTE_ADDRESS_WITHOUT_PORT(x)%: supported is a number of bits from 0 to 128",
        ),
        (
            "%ENVIRONMENT(HOME)%",
            "%ENVIRONMENT(…)% is not supported: the environment is the node proxy's and not the pod's; write the value itself",
        ),
        (
            "a\r\nb",
            "a control character at byte 1: a header value can't hold it",
        ),
        (
            "\0",
            "a control character at byte 0: a header value can't hold it",
        ),
    ] {
        let error = Template::parse(text).expect_err(text);
        assert_eq!(error.to_string(), expected, "{text}");
    }
    let long = "x".repeat(LONGEST + 1);
    assert_eq!(
        Template::parse(&long),
        Err(FormatError::TooLong(LONGEST + 1))
    );
}

#[test]
fn a_template_without_operators_is_static() {
    for (text, expected) in [("", true), ("a%%b", true), ("%REQ(x)%", false)] {
        let template = Template::parse(text).expect("valid");
        assert_eq!(template.is_static(), expected, "{text}");
    }
    let template = Template::parse("%REQ(x)%").expect("valid");
    assert!(template.reads(Message::Request) && !template.reads(Message::Response));
}

/// Every operator, bare and with an argument that most of them take.
#[test]
fn every_operator_compiles_and_renders() {
    for (name, _) in names::all().filter(|(name, _)| *name != "ENVIRONMENT") {
        let mut compiled = 0;
        for form in ["", "(x)", "(NUMBER)", "(24)", "(x):3"] {
            if let Ok(template) = Template::parse(&format!("%{name}{form}%")) {
                compiled += 1;
                let mut out = Vec::new();
                template.render(&Known, &mut out);
                template.render(&Nothing, &mut out);
            }
        }
        assert!(compiled > 0, "{name}");
        let found = names::all().filter(|(other, _)| *other == name);
        assert_eq!(found.count(), 1, "{name} is listed twice");
    }
}

#[test]
fn what_is_never_answered_is_told() {
    for (text, expected) in [
        ("%REQ(x)% text", vec![]),
        (
            "%DYNAMIC_METADATA(a)%%SPAN_ID%",
            vec!["DYNAMIC_METADATA", "SPAN_ID"],
        ),
    ] {
        let template = Template::parse(text).expect("valid");
        assert_eq!(template.absent().collect::<Vec<_>>(), expected, "{text}");
    }
}

/// Everything unknown but one hostile field.
struct Hostile(Vec<u8>);

impl Variables for Hostile {
    fn field(&self, _: Message, _: &Name) -> Option<&[u8]> {
        Some(&self.0)
    }

    fn text(&self, _: Text) -> Option<Cow<'_, str>> {
        Some(String::from_utf8_lossy(&self.0))
    }

    fn number(&self, _: Number) -> Option<u64> {
        Some(u64::MAX)
    }

    fn time(&self, _: Moment) -> Option<SystemTime> {
        SystemTime::UNIX_EPOCH.checked_sub(Duration::from_secs(1 << 50))
    }
}

proptest! {
    #[test]
    fn parsing_never_panics(text in ".{0,64}") {
        let _ = Template::parse(&text);
    }

    /// Texts that look like templates, rendered with whatever a peer may send.
    #[test]
    fn what_is_rendered_is_a_header_value(
        pieces in proptest::collection::vec(
            prop_oneof![
                Just("%REQ(x)%".to_owned()),
                Just("%REQ(x?y):7%".to_owned()),
                Just("%PROTOCOL%".to_owned()),
                Just("%DOWNSTREAM_PEER_SUBJECT%".to_owned()),
                Just("%DURATION%".to_owned()),
                Just("%START_TIME(%c %3f)%".to_owned()),
                Just("%START_TIME%".to_owned()),
                "[%A-Z_():a-z0-9]{0,6}",
                "\\PC{0,6}",
            ],
            0..6,
        ),
        sent in proptest::collection::vec(any::<u8>(), 0..32),
    ) {
        if let Ok(template) = Template::parse(&pieces.concat()) {
            let mut out = b"\r\n".to_vec();
            template.render(&Hostile(sent), &mut out);
            let value = out.split_off(2);
            prop_assert_eq!(out, b"\r\n");
            prop_assert!(http::HeaderValue::from_bytes(&value).is_ok());
            prop_assert!(!value.iter().any(|byte| b"\r\n\0".contains(byte)));
        }
    }

    /// A literal text comes out as it went in, once its percent signs are doubled.
    #[test]
    fn literals_come_through(text in "[ -~]{0,32}") {
        let name = HeaderName::from_static("x");
        prop_assert_eq!(name.as_str(), "x");
        prop_assert_eq!(render(&text.replace('%', "%%"), &Nothing), text);
    }
}
