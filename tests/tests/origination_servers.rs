//! TLS of the proxy's own with servers that others have written: nginx, and OpenSSL's `s_server`.

mod outside;

use std::{env, ffi::OsString, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE,
    process::{self, Child},
    raw::{self, End},
};
use outside::stage::{CA, DB, NAME, OWN, Stage, folder};
use outside::{Authority, Signed};
use tokio::io::AsyncWriteExt as _;

/// What becomes of a request.
#[derive(Clone, Copy, Debug)]
enum Becomes {
    /// It is answered, and the answer has these words.
    Answered(u16, &'static [&'static str]),
    /// There is no connection: the access log has these flags and this reason.
    Refused(&'static str),
    /// The server ends the connection once it has seen what the client shows, which TLS 1.3 tells
    /// after the handshake.
    Ended,
}

use Becomes::{Answered, Ended, Refused};

/// A server, and what the rule says of it.
struct Case {
    /// What it is about.
    what: &'static str,
    /// Of the port.
    kind: &'static str,
    /// Fields of `tls`; `SIMPLE` and `MUTUAL` stand for those that trust the one authority.
    tls: String,
    /// What is told to the server.
    server: &'static str,
    becomes: Becomes,
}

fn case(
    what: &'static str,
    kind: &'static str,
    tls: &str,
    server: &'static str,
    becomes: Becomes,
) -> Case {
    let simple = format!("mode: SIMPLE, {CA}");
    let mutual = format!("mode: MUTUAL, {CA}, {OWN}");
    Case {
        what,
        kind,
        tls: match tls.strip_prefix("mode: ") {
            Some(_) => tls.to_owned(),
            None => tls.replace("SIMPLE", &simple).replace("MUTUAL", &mutual),
        },
        server,
        becomes,
    }
}

const FIRST: u16 = 8001;
const VERIFY: &str = "CERTIFICATE_VERIFY_FAILED";
const SAN: &str = "CERTIFICATE_VERIFY_FAILED:verify_SAN_list";

/// Certificates that servers show, by name; the authority that signs `good`, and all clients' but
/// one.
fn certificates(folder: &Path, authority: &Authority) -> Result<()> {
    let put = |name: &str, signed: Signed| signed.write(folder, name).map(drop);
    let stranger = Authority::new("stranger")?;
    put(
        "good",
        authority.sign(&[NAME, "*.example.com", "spiffe://x/db"])?,
    )?;
    put("elsewhere", authority.sign(&["elsewhere.example.org"])?)?;
    put("expired", authority.expired(&[NAME])?)?;
    put("foreign", stranger.sign(&[NAME])?)?;
    put("client-foreign", stranger.sign(&["client"])?)?;
    // As most of the world has them: RSA, and signed by itself.
    let names = format!("subjectAltName=DNS:{NAME}");
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let (key, certificate) = (path("rsa.key"), path("rsa.crt"));
    process::output(
        "openssl",
        &[
            "req",
            "-x509",
            "-newkey",
            "rsa:2048",
            "-nodes",
            "-days",
            "2",
            "-subj",
            "/CN=db",
            "-addext",
            &names,
            "-keyout",
            &key,
            "-out",
            &certificate,
        ],
    )?;
    Ok(())
}

async fn stage(cases: &[Case]) -> Result<Stage> {
    let authority = Authority::new("one")?;
    let files = folder(&authority)?;
    certificates(files.path(), &authority)?;
    let ports: Vec<_> = (FIRST..)
        .zip(cases)
        .map(|(port, case)| (case.kind.trim_end_matches('+'), port, case.tls.as_str()))
        .collect();
    Stage::with(&ports, files, &["--access-log", "text"], |mut rule| {
        // `http+`: to be asked for HTTP/2.
        for (port, case) in (FIRST..).zip(cases) {
            if case.kind.ends_with('+') {
                let before = format!("{{number: {port}}}, connectionPool: {{");
                let after = format!("{before}http: {{h2UpgradePolicy: UPGRADE}}, ");
                rule = rule.replace(&before, &after);
            }
        }
        rule
    })
    .await
}

/// Asks each, and tells of all that did not become what it should.
async fn play(stage: &Stage, cases: &[Case]) -> Result<()> {
    let mut wrong = Vec::new();
    for (port, case) in (FIRST..).zip(cases) {
        if let Err(error) = one(stage, port, case).await {
            wrong.push(format!("{}: {error:#}", case.what));
        }
    }
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

async fn one(stage: &Stage, port: u16, case: &Case) -> Result<()> {
    let fails = || stage.proxy.counter("upstream_cx_tls_fail");
    let (before, mark) = (fails().await?, stage.proxy.child.stdout.mark());
    let line = || {
        let cluster = format!("outbound|{port}|");
        stage.proxy.logged(mark, |line| line.contains(&cluster))
    };
    if case.kind == "tcp" {
        let mut stream = stage
            .client
            .netns
            .connect(SocketAddr::new(DB, port))
            .await?;
        stream.write_all(b"stressed\n").await?;
        let Answered(_, words) = case.becomes else {
            let (said, end) = raw::drain(&mut stream).await?;
            ensure!(said.is_empty() && end == End::Reset, "{said:?} {end:?}");
            let (line, failed) = (line()?, fails().await?);
            match case.becomes {
                Refused(reason) => ensure!(
                    line.contains(" UF,URX ") && line.contains(reason) && failed == before + 1,
                    "{failed}: {line}"
                ),
                _ => ensure!(
                    line.contains(" UR ") && failed == before,
                    "{failed}: {line}"
                ),
            }
            return Ok(());
        };
        for word in words {
            raw::read_until(&mut stream, word.as_bytes()).await?;
        }
        return Ok(());
    }
    let (status, _, text) = stage.get(port, NAME).await?;
    let (line, failed) = (line()?, fails().await?);
    match case.becomes {
        Answered(expected, words) => {
            ensure!(status == expected, "{status} {text} {line}");
            for word in words {
                ensure!(text.contains(word), "no {word} in {text}");
            }
            ensure!(failed == before, "{failed} failed");
        }
        Refused(reason) => {
            ensure!(
                status == 503 && text.ends_with("remote connection failure"),
                "{status} {text}"
            );
            ensure!(
                line.contains(" 503 URX,UF ") && line.contains(reason),
                "{line}"
            );
            // It was tried three times, as Istio has it.
            ensure!(failed == before + 3, "{failed} failed, {before} before");
        }
        Ended => {
            ensure!(
                status == 503 && text.ends_with("connection termination"),
                "{status} {text}"
            );
            ensure!(line.contains(" 503 UC "), "{line}");
        }
    }
    Ok(())
}

fn tool(variable: &str) -> Result<OsString> {
    env::var_os(variable).with_context(|| format!("{variable} has no path"))
}

/// What nginx says of TLS to whoever asks it.
const SAYS: &str = "protocol=$ssl_protocol name=$ssl_server_name alpn=$ssl_alpn_protocol \
                    client=$ssl_client_verify version=$server_protocol";

fn nginx(stage: &Stage, folder: &Path, cases: &[Case]) -> Result<Child> {
    let files = stage.files.path().display();
    let servers: String = (FIRST..)
        .zip(cases)
        .map(|(port, case)| {
            let Some((certificate, more)) = case.server.split_once(' ') else {
                return format!(
                    "server {{ listen [::]:{port} ipv6only=off; return 200 plain; }}\n"
                );
            };
            let http2 = if more.contains("http2") { "http2" } else { "" };
            let more = more
                .replace("http2", "")
                .replace("FILES", &files.to_string());
            format!(
                "server {{ listen [::]:{port} ssl {http2} ipv6only=off;\n\
                 ssl_certificate {files}/{certificate}.crt;\n\
                 ssl_certificate_key {files}/{certificate}.key;\n\
                 {more}\n return 200 \"{SAYS}\"; }}\n"
            )
        })
        .collect();
    let at = folder.display();
    let paths: String = ["client_body", "proxy", "fastcgi", "uwsgi", "scgi"]
        .iter()
        .map(|name| format!("{name}_temp_path {at}/{name};\n"))
        .collect();
    let config = format!(
        "daemon off; master_process off; user root; pid {at}/pid; error_log stderr notice;\n\
         events {{}}\nhttp {{ access_log off;\n{paths}{servers}}}\n"
    );
    let path = folder.join("nginx.conf");
    std::fs::write(&path, config)?;
    let mut command = Command::new(tool("NGINX")?);
    command.arg("-c").arg(&path).args(["-e", "stderr"]);
    let child = Child::start(Some(&stage.db.netns), command)?;
    // By then it listens.
    let listens = |line: &str| line.contains("event method");
    child.stderr.wait_for(0, PATIENCE, listens)?;
    Ok(child)
}

#[tokio::test]
#[ignore = "needs nginx: its path in NGINX"]
#[rustfmt::skip]
async fn nginx_is_spoken_with_as_rules_say() -> Result<()> {
    let asks = "good ssl_verify_client on; ssl_client_certificate FILES/ca.pem;";
    let asks12 = "good ssl_protocols TLSv1.2; ssl_verify_client on; ssl_client_certificate FILES/ca.pem;";
    let foreign = format!("mode: MUTUAL, {CA}, clientCertificate: FILES/client-foreign.crt, privateKey: FILES/client-foreign.key");
    let cases = [
        case("TLS 1.2 alone", "http", "SIMPLE", "good ssl_protocols TLSv1.2;", Answered(200, &["protocol=TLSv1.2 name=db.default.svc.cluster.local alpn=http/1.1 client=NONE version=HTTP/1.1"])),
        case("TLS 1.3 alone", "http", "SIMPLE", "good ssl_protocols TLSv1.3;", Answered(200, &["protocol=TLSv1.3"])),
        case("sni", "http", "SIMPLE, sni: a.example.com", "good ", Answered(200, &["name=a.example.com"])),
        case("subjectAltNames, a host", "http", "SIMPLE, subjectAltNames: [nobody, b.example.com]", "good ", Answered(200, &[])),
        case("subjectAltNames, a URI", "http", "SIMPLE, subjectAltNames: ['spiffe://x/db']", "good ", Answered(200, &[])),
        case("another name", "http", "SIMPLE, subjectAltNames: [other.example.org]", "good ", Refused(SAN)),
        case("not the host's name", "http", "SIMPLE", "elsewhere ", Refused(SAN)),
        case("another authority", "http", "SIMPLE", "foreign ", Refused(VERIFY)),
        case("expired", "http", "SIMPLE", "expired ", Refused(VERIFY)),
        case("expired, by TLS 1.2", "http", "SIMPLE", "expired ssl_protocols TLSv1.2;", Refused(VERIFY)),
        case("nobody asks who it is", "http", "mode: SIMPLE, insecureSkipVerify: true", "expired ", Answered(200, &[])),
        case("RSA, signed by itself", "http", "mode: SIMPLE, caCertificates: FILES/rsa.crt", "rsa ssl_protocols TLSv1.3;", Answered(200, &["TLSv1.3"])),
        case("RSA, by TLS 1.2", "http", "mode: SIMPLE, caCertificates: FILES/rsa.crt", "rsa ssl_protocols TLSv1.2;", Answered(200, &["TLSv1.2"])),
        case("mutual", "http", "MUTUAL", asks, Answered(200, &["client=SUCCESS"])),
        case("mutual, by TLS 1.2", "http", "MUTUAL", asks12, Answered(200, &["client=SUCCESS"])),
        case("mutual, and nobody asks", "http", "MUTUAL", "good ", Answered(200, &["client=NONE"])),
        // nginx tells by HTTP.
        case("no certificate", "http", "SIMPLE", asks, Answered(400, &["No required SSL certificate was sent"])),
        case("a certificate of another authority", "http", &foreign, asks, Answered(400, &["The SSL certificate error"])),
        case("HTTP/2 by ALPN", "http2", "SIMPLE", "good http2", Answered(200, &["alpn=h2 client=NONE version=HTTP/2.0"])),
        case("HTTP/2 by h2UpgradePolicy", "http+", "SIMPLE", "good http2", Answered(200, &["alpn=h2 client=NONE version=HTTP/2.0"])),
        case("HTTP/1.1 of one who has HTTP/2", "http", "SIMPLE", "good http2", Answered(200, &["alpn=http/1.1 client=NONE version=HTTP/1.1"])),
        case("HTTP/2 of one who has none", "http+", "SIMPLE", "good ", Refused("TLS_error:|")),
        case("plain text", "http", "SIMPLE", "plain", Refused("TLS_error:|")),
    ];
    let stage = stage(&cases).await?;
    let folder = tempfile::tempdir()?;
    let _nginx = nginx(&stage, folder.path(), &cases)?;
    play(&stage, &cases).await
}

#[tokio::test]
#[ignore = "needs OpenSSL's program: its path in OPENSSL"]
#[rustfmt::skip]
async fn openssl_is_spoken_with_as_rules_say() -> Result<()> {
    let foreign = format!("mode: MUTUAL, {CA}, clientCertificate: FILES/client-foreign.crt, privateKey: FILES/client-foreign.key");
    let asks = "good -CAfile FILES/ca.pem -Verify 1 -verify_return_error";
    let cases = [
        case("TLS 1.2 alone", "http", "SIMPLE", "good -www -tls1_2", Answered(200, &["TLSv1.2"])),
        case("TLS 1.3 alone", "http", "SIMPLE", "good -www -tls1_3", Answered(200, &["TLSv1.3"])),
        case("TLS 1.1 alone", "http", "SIMPLE", "good -www -tls1_1 -cipher DEFAULT@SECLEVEL=0", Refused("TLS_error:|")),
        case("another name", "http", "SIMPLE, subjectAltNames: [other.example.org]", "good -www", Refused(SAN)),
        case("another authority", "http", "SIMPLE", "foreign -www", Refused(VERIFY)),
        case("expired", "http", "SIMPLE", "expired -www", Refused(VERIFY)),
        case("mutual", "http", "MUTUAL", "-www", Answered(200, &["TLSv1.3", "CN"])),
        case("no certificate, by TLS 1.2", "http", "SIMPLE", "-www -tls1_2", Refused("TLS_error:|")),
        case("no certificate, by TLS 1.3", "http", "SIMPLE", "-www -tls1_3", Ended),
        case("a refused certificate, by TLS 1.2", "http", &foreign, "-www -tls1_2", Refused("TLS_error:|")),
        case("a refused certificate, by TLS 1.3", "http", &foreign, "-www -tls1_3", Ended),
        case("bytes by TLS 1.2", "tcp", "SIMPLE", "good -rev -tls1_2", Answered(0, &["desserts\n"])),
        case("bytes by TLS 1.3", "tcp", "SIMPLE", "good -rev -tls1_3", Answered(0, &["desserts\n"])),
        case("bytes, mutual", "tcp", "MUTUAL", "-rev", Answered(0, &["desserts\n"])),
        case("bytes, another authority", "tcp", "SIMPLE", "foreign -rev", Refused(VERIFY)),
        case("bytes, no certificate, by TLS 1.2", "tcp", "SIMPLE", "-rev -tls1_2", Refused("TLS_error:|")),
        case("bytes, no certificate, by TLS 1.3", "tcp", "SIMPLE", "-rev -tls1_3", Ended),
    ];
    let stage = stage(&cases).await?;
    let files = stage.files.path().to_string_lossy();
    let mut servers = Vec::new();
    for (port, case) in (FIRST..).zip(&cases) {
        // Where no certificate is named it asks for the client's.
        let told = match case.server.strip_prefix('-') {
            Some(_) => format!("{asks} {}", case.server),
            None => case.server.to_owned(),
        };
        let told = told.replace("FILES", &files);
        let (certificate, more) = told.split_once(' ').context("a certificate")?;
        let mut command = Command::new(tool("OPENSSL")?);
        command.args(["s_server", "-accept", &port.to_string()]);
        command.arg("-cert").arg(format!("{files}/{certificate}.crt"));
        command.arg("-key").arg(format!("{files}/{certificate}.key"));
        command.args(more.split(' '));
        let server = Child::start(Some(&stage.db.netns), command)?;
        server.stdout.wait_for(0, PATIENCE, |line| line.contains("ACCEPT"))?;
        servers.push(server);
    }
    play(&stage, &cases).await
}
