//! TLS with upstreams, as a DestinationRule's `tls` asks for it.

use crate::differential::scenario::{Scenario, policy};

/// Who is trusted, and what is shown.
const SIMPLE: &str = "mode: SIMPLE, caCertificates: FILES/ca.pem";
const UNVERIFIED: &str = "mode: SIMPLE, insecureSkipVerify: true";
const MUTUAL: &str = "mode: MUTUAL, caCertificates: FILES/ca.pem, clientCertificate: FILES/client.crt, privateKey: FILES/client.key";

fn tls(name: &str, server: &'static str, settings: &str) -> Scenario {
    let (mode, rest) = settings.split_once(", ").unwrap_or((settings, ""));
    let mode = match mode {
        "MUTUAL" => MUTUAL,
        "UNVERIFIED" => UNVERIFIED,
        _ => SIMPLE,
    };
    policy(name, &format!("tls: {{{mode}, {rest}}}"))
        .server(server)
        .connections()
}

#[rustfmt::skip]
pub(super) fn table() -> Vec<Scenario> {
    vec![
        tls("tls-simple", "good", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("2x GET /", "200 x2 - >tls-sni=db.example.com >tls-alpn=http/1.1 >tls-client=0"),
        tls("tls-wildcard", "good", "SIMPLE, sni: a.wild.example.com, subjectAltNames: ['*.wild.example.com']").ask("GET /", "200 x1"),
        tls("tls-uri", "good", "SIMPLE, sni: db.example.com, subjectAltNames: ['spiffe://x/db']").ask("GET /", "200 x1"),
        tls("tls-auto", "good", "SIMPLE").ask("GET /", "200 x1 >tls-sni~tls-auto"),
        tls("tls-auto-wrong", "good", "SIMPLE").ask("GET /", "503 x0 URX,UF"),
        tls("tls-wrong-name", "good", "SIMPLE, sni: db.example.com, subjectAltNames: [other.example.com]").ask("GET /", "503 x0 URX,UF"),
        tls("tls-foreign", "foreign", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "503 x0 URX,UF"),
        tls("tls-expired", "expired", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "503 x0 URX,UF"),
        tls("tls-unverified", "expired", "UNVERIFIED, sni: db.example.com").ask("GET /", "200 x1 >tls-sni=db.example.com"),
        tls("tls-mutual", "asking", "MUTUAL, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "200 x1 >tls-client=1"),
        tls("tls-mutual-unasked", "good", "MUTUAL, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "200 x1 >tls-client=0"),
        tls("tls-no-certificate", "asking", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "503 x0"),
        tls("tls-no-certificate-old", "asking12", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "503 x0 URX,UF"),
        tls("tls-old", "good12", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "200 x1 >tls-version=TLSv1_2"),
        tls("tls-reset", "reset", "SIMPLE, sni: db.example.com").ask("GET /", "503 x0 URX,UF"),
        tls("tls-closed", "close", "SIMPLE, sni: db.example.com").ask("GET /", "503 x0 URX,UF"),
        tls("tls-plain", "plain", "SIMPLE, sni: db.example.com").ask("GET /", "503 x0 URX,UF"),
        tls("tls-http2", "both", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").http2().ask("h2 GET /", "200 x1 >tls-alpn=h2 >version=HTTP/2"),
        tls("tls-http1-of-both", "both", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").ask("GET /", "200 x1 >tls-alpn=http/1.1 >version=HTTP/1.1"),
        tls("tls-h2-upgrade", "both", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]}, connectionPool: {http: {h2UpgradePolicy: UPGRADE}").ask("GET /", "200 x1 >tls-alpn=h2 >version=HTTP/2"),
        tls("tls-no-http2", "good", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").http2().ask("h2 GET /", "503 x0 URX,UF"),
        tls("tls-name-unasked", "good", "SIMPLE, sni: other.example.com").ask("GET /", "200 x1 >tls-sni=other.example.com"),
        tls("tls-tcp", "good", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").bytes().ask("TCP hello", "x1 body~hello >tls-sni=db.example.com >tls-alpn=-"),
        tls("tls-tcp-wrong-name", "good", "SIMPLE, sni: db.example.com, subjectAltNames: [other.example.com]").bytes().ask("TCP hello", "x0 UF,URX end=broken"),
        tls("tls-tcp-foreign", "foreign", "SIMPLE, sni: db.example.com, subjectAltNames: [db.example.com]").bytes().ask("TCP hello", "x0 UF,URX end=broken"),
        tls("tls-tcp-reset", "reset", "SIMPLE, sni: db.example.com").bytes().ask("TCP hello", "x0 UF,URX end=broken"),
    ]
}
