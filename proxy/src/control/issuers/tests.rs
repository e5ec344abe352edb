//! Keys fetched from servers that answer well, badly, slowly, too much, or not at all.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio_rustls::TlsAcceptor;

use super::*;
use crate::api::request_authentication::JwtRule;
use crate::mesh::{Guard, KeyRing, Snapshot};
use crate::policy::jwt::{Location, Origin, Rule, Source};
use crate::tls::outside::Limits;
use crate::types::ObjectRef;

const SET: &str =
    r#"{"keys":[{"kty":"OKP","crv":"Ed25519","x":"11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}]}"#;

fn ok(body: &str) -> String {
    format!(
        "HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn elsewhere(place: &str) -> String {
    format!("HTTP/1.1 302 Found\r\nlocation: {place}\r\ncontent-length: 0\r\n\r\n")
}

/// Answers by path; `{}` in an answer is the server's own address. An answer that is empty never
/// comes.
async fn serve(answers: Vec<(&'static str, String)>, tls: Option<TlsAcceptor>) -> SocketAddr {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let own = listener.local_addr().unwrap();
    let answers: BTreeMap<&str, String> = answers
        .into_iter()
        .map(|(path, answer)| (path, answer.replace("{}", &own.to_string())))
        .collect();
    let answers = Arc::new(answers);
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let (answers, tls) = (Arc::clone(&answers), tls.clone());
            tokio::spawn(async move {
                match tls {
                    None => answer(stream, &answers).await,
                    Some(tls) => match tls.accept(stream).await {
                        Ok(stream) => answer(stream, &answers).await,
                        Err(_) => None,
                    },
                }
            });
        }
    });
    own
}

async fn answer(
    mut stream: impl AsyncRead + AsyncWrite + Unpin,
    answers: &BTreeMap<&str, String>,
) -> Option<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        head.push(stream.read_u8().await.ok()?);
    }
    let head = String::from_utf8(head).ok()?;
    let path = head.split(' ').nth(1)?;
    let answer = answers.get(path)?;
    if answer.is_empty() {
        std::future::pending::<()>().await;
    }
    stream.write_all(answer.as_bytes()).await.ok()?;
    stream.shutdown().await.ok()
}

async fn fetch(roots: Option<&std::path::Path>, location: Location) -> String {
    let fetcher = Fetcher::new(Limits {
        system: roots.map(Into::into),
        ..Limits::default()
    });
    let origin = Origin {
        location,
        timeout: Duration::from_secs(2),
    };
    match fetcher.fetch(&origin, &Snapshot::default()).await {
        Ok(keys) => format!("{} keys", keys.count()),
        Err(failure) => failure.to_string(),
    }
}

#[tokio::test]
async fn answers_are_bounded_and_believed_as_keys_alone() {
    let large = format!("{{\"keys\":[{}]}}", "{},".repeat(4_000_000));
    let endless = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n".to_owned()
        + &format!("10000\r\n{}\r\n", " ".repeat(0x10000)).repeat(200);
    let server = serve(
        vec![
            ("/keys", ok(SET)),
            (
                "/none",
                "HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n".into(),
            ),
            ("/html", ok("<html>")),
            ("/empty", ok("{\"keys\":[]}")),
            ("/large", ok(&large)),
            ("/endless", endless),
            (
                "/short",
                "HTTP/1.1 200 OK\r\ncontent-length: 100\r\n\r\n{".into(),
            ),
            ("/garbage", "\0\0\0\0garbage\r\n\r\n".into()),
            ("/closed", "\r\n".into()),
            ("/silent", String::new()),
            (
                "/slow",
                "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\n".into(),
            ),
            ("/moved", elsewhere("/keys")),
            ("/there", elsewhere("http://{}/keys")),
            ("/round", elsewhere("/round")),
            ("/other", elsewhere("http://10.255.255.1/keys")),
            ("/file", elsewhere("file:///etc/passwd")),
        ],
        None,
    )
    .await;
    for (path, expected) in [
        ("keys", "1 keys"),
        ("none", "it answers 404 Not Found"),
        ("html", "not JSON: expected value at line 1 column 1"),
        ("empty", "it has no key that can verify a signature"),
        ("large", "its answer is larger than 1048576 bytes"),
        ("endless", "its answer is larger than 1048576 bytes"),
        ("short", "its answer can't be read"),
        ("garbage", "its answer can't be read"),
        ("closed", "its answer can't be read"),
        ("silent", "no complete answer within 2s"),
        ("slow", "its answer can't be read"),
        ("moved", "1 keys"),
        ("there", "1 keys"),
        ("round", "it sends on to"),
        ("other", "it sends on to \"http://10.255.255.1/keys\""),
        ("file", "it sends on to \"file:///etc/passwd\""),
    ] {
        let url = format!("http://{server}/{path}");
        let said = fetch(None, Location::Keys(url.into())).await;
        assert!(said.starts_with(expected), "{path}: {said}");
    }
    for (url, expected) in [
        (
            "ftp://a.test/",
            "\"ftp://a.test/\" is not an http or https URL",
        ),
        ("http://user@a.test/", "\"http://user@a.test/\" is not"),
        ("/etc/passwd", "\"/etc/passwd\" is not"),
        (
            "http://127.0.0.1:1/",
            "127.0.0.1:1: 127.0.0.1:1: Connection refused",
        ),
        ("http://nobody.invalid/", "nobody.invalid:80: "),
    ] {
        let said = fetch(None, Location::Keys(url.into())).await;
        assert!(said.starts_with(expected), "{url}: {said}");
    }
}

#[tokio::test]
async fn an_issuer_says_where_its_keys_are() {
    const PATH: &str = "/.well-known/openid-configuration";
    let configuration = |issuer: &str, keys: &str| {
        ok(&format!(
            "{{\"issuer\":\"{issuer}\",\"jwks_uri\":\"{keys}\",\"more\":1}}"
        ))
    };
    for (configuration, issuer, expected) in [
        (configuration("http://{}", "http://{}/keys"), "", "1 keys"),
        (configuration("http://{}/", "http://{}/keys"), "/", "1 keys"),
        (
            configuration("http://else", "http://{}/keys"),
            "",
            "no OpenID configuration: it is that of the issuer \"http://else\"",
        ),
        (
            ok("{\"a\":1}"),
            "",
            "no OpenID configuration: missing field `jwks_uri`",
        ),
        (
            ok("{\"jwks_uri\":5}"),
            "",
            "no OpenID configuration: invalid type",
        ),
        (
            ok("{\"jwks_uri\":\"file:///etc/passwd\"}"),
            "",
            "\"file:///etc/passwd\" is not an http or https URL",
        ),
    ] {
        // The length is right only where the address is as long as what stands for it.
        let configuration = configuration.split("\r\n\r\n").nth(1).unwrap().to_owned();
        let configuration = format!("HTTP/1.1 200 OK\r\nconnection: close\r\n\r\n{configuration}");
        let server = serve(vec![(PATH, configuration), ("/keys", ok(SET))], None).await;
        let issuer = format!("http://{server}{issuer}");
        let said = fetch(None, Location::Issuer(issuer.into())).await;
        assert!(said.starts_with(expected), "{said}");
    }
}

#[tokio::test]
async fn servers_of_https_are_checked() {
    let folder = tempfile::tempdir().unwrap();
    let key = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned(), "localhost".to_owned()]);
    let rcgen::CertifiedKey { cert, signing_key } = key.unwrap();
    let config = rustls::ServerConfig::builder_with_provider(Arc::clone(crate::tls::provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(
            vec![cert.der().clone()],
            rustls::pki_types::PrivateKeyDer::try_from(signing_key.serialize_der()).unwrap(),
        )
        .unwrap();
    let plain = serve(vec![("/keys", ok(SET))], None).await;
    let answers = vec![
        ("/keys", ok(SET)),
        ("/down", elsewhere(&format!("http://{plain}/keys"))),
    ];
    let server = serve(answers, Some(Arc::new(config).into())).await;
    let path = folder.path().join("roots.pem");
    std::fs::write(&path, cert.pem()).unwrap();
    let empty = folder.path().join("empty.pem");
    std::fs::write(&empty, "").unwrap();
    let port = server.port();
    for (roots, url, expected) in [
        (
            Some(&path),
            format!("https://localhost:{port}/keys"),
            "1 keys",
        ),
        (
            Some(&path),
            format!("https://127.0.0.1:{port}/keys"),
            "1 keys",
        ),
        (
            Some(&path),
            format!("https://127.0.0.1:{port}/down"),
            "it sends on to",
        ),
        (
            Some(&empty),
            format!("https://localhost:{port}/keys"),
            "roots: ",
        ),
        (
            None,
            format!("https://localhost:{port}/keys"),
            &format!("localhost:{port}: TLS: "),
        ),
        (
            Some(&path),
            // Who waits for a request, and is never sent one.
            format!("https://{plain}/keys"),
            "no complete answer within 2s",
        ),
    ] {
        let said = fetch(
            roots.map(|path| path.as_path()),
            Location::Keys(url.clone().into()),
        )
        .await;
        // Without any root of the system's nobody is asked.
        let none = roots.is_none() && said.starts_with("roots: ");
        assert!(said.starts_with(expected) || none, "{url}: {said}");
    }
}

/// A snapshot with one local pod, whose tokens' keys are at these URLs.
fn snapshot(version: u64, urls: &[&str]) -> Arc<Snapshot> {
    let object = ObjectRef {
        kind: "RequestAuthentication".into(),
        namespace: "a".into(),
        name: "b".into(),
    };
    let rules = urls.iter().map(|url| {
        let rule = JwtRule {
            issuer: "a".into(),
            jwks_uri: (*url).to_owned(),
            ..JwtRule::default()
        };
        Arc::new(Rule::compile(object.clone(), &rule))
    });
    let guard = Guard {
        tokens: rules.collect(),
        ..Guard::default()
    };
    let pods = [("pod".into(), Arc::new(guard))].into_iter().collect();
    Arc::new(Snapshot {
        version,
        guards: Arc::new([("a".into(), pods)].into_iter().collect()),
        ..Snapshot::default()
    })
}

fn origin(snapshot: &Snapshot) -> Origin {
    match &snapshot.guards["a"]["pod"].tokens[0].keys {
        Source::Fetched(origin) => Origin::clone(origin),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn keys_follow_the_snapshots_and_outlive_an_outage() {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
    let url = format!("http://{}/keys", listener.local_addr().unwrap());
    let first = snapshot(1, &[&url]);
    let wanted = origin(&first);
    let (snapshots, following) = watch::channel(first);
    let ring = KeyRing::default();
    let driver = Driver::new(
        Fetcher::new(Limits::default()),
        ring.clone(),
        Duration::from_millis(20),
    );
    let mut status = driver.status();
    let running = tokio::spawn(driver.run(following));
    let answer = async |text: String| {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut head = [0; 1024];
        let _ = stream.read(&mut head).await;
        stream.write_all(text.as_bytes()).await.unwrap();
    };
    let mut told = async |wanted: &dyn Fn(&Row) -> bool| {
        let fits = |rows: &Arc<Report>| rows.len() == 1 && wanted(&rows[0]);
        let found = status.0.wait_for(fits).await.unwrap();
        found[0].clone()
    };
    // Nothing, then keys, then an outage, then others.
    answer("HTTP/1.1 503 Busy\r\ncontent-length: 0\r\n\r\n".into()).await;
    let row = told(&|row| row.failures == 1).await;
    assert_eq!((row.url.as_str(), row.keys), (url.as_str(), None));
    assert!(ring.keys(&wanted).is_none());
    answer(ok(SET)).await;
    told(&|row| row.keys == Some(1) && row.failures == 0).await;
    let held = ring.keys(&wanted).unwrap();
    answer(ok("<html>")).await;
    let row = told(&|row| row.failures == 1).await;
    assert_eq!(row.keys, Some(1));
    assert!(row.error.unwrap().contains("not JSON"));
    assert_eq!(ring.keys(&wanted), Some(held));
    let two = SET.replace("\"keys\":[", "\"keys\":[{\"kty\":\"OKP\",\"crv\":\"Ed25519\",\"x\":\"AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA\"},");
    answer(ok(&two)).await;
    told(&|row| row.keys == Some(2)).await;
    assert_eq!(ring.keys(&wanted).unwrap().count(), 2);
    // Named no longer, they are gone.
    snapshots.send(snapshot(2, &[])).unwrap();
    status.0.wait_for(|rows| rows.is_empty()).await.unwrap();
    assert!(ring.keys(&wanted).is_none());
    drop(snapshots);
    running.await.unwrap();
}
