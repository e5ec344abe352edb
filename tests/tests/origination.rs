//! TLS of the proxy's own to servers outside the mesh, as DestinationRules ask for it.

mod hbone;
mod outside;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Proxy,
    client::Http,
    clock,
    echo::Echo,
    raw::{self, End},
};
use outside::stage::{CA, DB, NAME, OWN, Stage, folder, replace};
use outside::{Authority, Server};
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

#[tokio::test]
async fn requests_go_by_tls_as_their_rule_says() -> Result<()> {
    let authority = Authority::new("one")?;
    let simple = format!("mode: SIMPLE, {CA}");
    let named = format!("{simple}, sni: db.example.com");
    let other = format!("{simple}, subjectAltNames: [db.example.com]");
    let uri = format!("{simple}, subjectAltNames: [nobody.example.com, 'spiffe://x/db']");
    let mutual = format!("mode: MUTUAL, {CA}, {OWN}");
    let ports = [
        ("http", 8001, simple.as_str()),
        ("http2", 8002, simple.as_str()),
        ("grpc", 8003, named.as_str()),
        ("http", 8004, mutual.as_str()),
        ("http", 8005, named.as_str()),
        ("http", 8006, other.as_str()),
        ("http", 8007, uri.as_str()),
        ("http", 8008, "mode: SIMPLE"),
        ("http", 8009, "mode: SIMPLE, insecureSkipVerify: true"),
        ("http", 8010, "mode: DISABLE"),
        ("auto", 8011, simple.as_str()),
    ];
    let files = folder(&authority)?;
    let roots = files.path().join("ca.pem");
    let roots = ["--tls-roots", &*roots.to_string_lossy()];
    let stage = Stage::open(&ports, files, &roots).await?;
    let good = authority.sign(&[NAME, "*.example.com", "spiffe://x/db"])?;
    let stranger = Authority::new("two")?.expired(&["nobody"])?;
    let mut servers = Vec::new();
    for (_, port, tls) in ports {
        let clients = tls.contains("MUTUAL").then_some(&authority);
        let config = match port {
            8009 => stranger.server(None, &[]),
            _ => good.server(clients, &["h2", "http/1.1"]),
        }?;
        if port == 8010 {
            continue;
        }
        servers.push(Server::http(&stage.db, port, config)?);
    }
    let _plain = Echo::start(&stage.db, 8010, "plain")?;
    for (port, host, sni, alpn, certificates) in [
        (8001, NAME, NAME, "http/1.1", 0),
        // The request's own host, whatever it calls the service.
        (8002, NAME, NAME, "h2", 0),
        (8003, NAME, "db.example.com", "h2", 0),
        (8004, NAME, NAME, "http/1.1", 1),
        (8005, "db", "db.example.com", "http/1.1", 0),
        (8006, "db.default", "db.default", "http/1.1", 0),
        (8007, NAME, NAME, "http/1.1", 0),
        (8008, NAME, NAME, "http/1.1", 0),
        (8009, "db", "db", "", 0),
        (8011, NAME, NAME, "http/1.1", 0),
    ] {
        let (status, said, text) = stage.get(port, host).await?;
        ensure!(status == 200, "{port}: {status} {text}");
        let version = if alpn == "h2" { "HTTP/2.0" } else { "HTTP/1.1" };
        for (name, expected) in [("sni", sni), ("alpn", alpn), ("version", version)] {
            ensure!(said[name] == expected, "{port}: {name}: {said}");
        }
        ensure!(said["certificates"] == certificates, "{port}: {said}");
    }
    let (status, said, _) = stage.get(8010, "db").await?;
    ensure!(
        status == 200 && said["server"] == "plain",
        "{status} {said}"
    );
    Ok(())
}

#[tokio::test]
async fn servers_that_are_not_who_was_meant_get_no_request() -> Result<()> {
    let authority = Authority::new("one")?;
    let simple = format!("mode: SIMPLE, {CA}");
    let other = format!("{simple}, subjectAltNames: [other.example.com]");
    let gone = "mode: SIMPLE, caCertificates: FILES/none.pem";
    let ports = [
        ("http", 8001, other.as_str()),
        ("http", 8002, simple.as_str()),
        ("http", 8003, simple.as_str()),
        ("http", 8004, simple.as_str()),
        ("http", 8005, simple.as_str()),
        ("http", 8006, simple.as_str()),
        ("http", 8007, gone),
        ("http", 8008, "mode: SIMPLE, credentialName: secret"),
        ("http", 8009, "mode: ISTIO_MUTUAL"),
        ("http2", 8010, simple.as_str()),
        ("tcp", 8011, simple.as_str()),
        ("http", 8012, simple.as_str()),
    ];
    let stage = Stage::open(&ports, folder(&authority)?, &[]).await?;
    let good = authority.sign(&[NAME])?;
    let http1 = &["http/1.1"];
    let _wrong = Server::http(&stage.db, 8001, good.server(None, http1)?)?;
    let foreign = Authority::new("one")?.sign(&[NAME])?;
    let _foreign = Server::http(&stage.db, 8002, foreign.server(None, http1)?)?;
    let expired = authority.expired(&[NAME])?;
    let _expired = Server::http(&stage.db, 8003, expired.server(None, http1)?)?;
    // It wants a certificate, and gets none.
    let asking = Server::http(&stage.db, 8004, good.server(Some(&authority), http1)?)?;
    let plain = Echo::start(&stage.db, 8005, "plain")?;
    let (_silent, _kept) = raw::Server::accepting(&stage.db, 8006)?;
    let _fine = Server::http(&stage.db, 8007, good.server(None, http1)?)?;
    let _ungiven = Server::http(&stage.db, 8008, good.server(None, http1)?)?;
    let _istio = Server::http(&stage.db, 8009, good.server(None, http1)?)?;
    let _one = Server::http(&stage.db, 8010, good.server(None, http1)?)?;
    let _tcp = Server::http(&stage.db, 8011, foreign.server(None, &[])?)?;
    let nameless = authority.sign(&["somebody.else"])?;
    let _nameless = Server::http(&stage.db, 8012, nameless.server(None, http1)?)?;
    for (port, reason) in [
        (8001, "CERTIFICATE_VERIFY_FAILED:verify_SAN_list"),
        (8002, "CERTIFICATE_VERIFY_FAILED"),
        (8003, "CERTIFICATE_VERIFY_FAILED"),
        (8005, "TLS_error:|"),
        (8007, "none.pem"),
        (8008, "Secrets_are_not_read"),
        (8009, "there_is_no_certificate"),
        // A server that has no protocol of those offered says so.
        (8010, "TLS_error:|"),
        (8012, "CERTIFICATE_VERIFY_FAILED:verify_SAN_list"),
    ] {
        let (status, _, text) = stage.get(port, NAME).await?;
        ensure!(
            status == 503 && text.ends_with("remote connection failure"),
            "{port}: {status} {text}"
        );
        let line = stage
            .proxy
            .logged(0, |line| line.contains(&format!("outbound|{port}|")))?;
        ensure!(
            line.contains(" 503 URX,UF ") && line.contains(reason),
            "{port}: {line}"
        );
    }
    ensure!(plain.requests() == 0, "nothing in plain text");
    // TLS 1.3 tells a client what the server thinks of it only once it has sent its request.
    let (status, ..) = stage.get(8004, NAME).await?;
    ensure!(status == 503 && asking.handshakes() == 0);
    // The time for connecting is for TLS too.
    let began = clock::now();
    let (status, _, text) = stage.get(8006, NAME).await?;
    ensure!(
        status == 503 && text.ends_with("connection timeout"),
        "{text}"
    );
    ensure!(began.elapsed() >= Duration::from_secs(2));
    // And of a client that sends bytes nothing goes over.
    let to = SocketAddr::new(DB, 8011);
    let (said, end) = raw::ask(&stage.client, to, b"x").await?;
    ensure!(said.is_empty() && end == End::Reset, "{said} {end:?}");
    let status = stage.proxy.admin("/status").await?;
    let rows = status["tls"].to_string();
    ensure!(
        rows.contains("none.pem") && rows.contains("failed"),
        "{rows}"
    );
    Ok(())
}

#[tokio::test]
async fn bytes_go_by_tls_both_ways_and_end_as_they_ended() -> Result<()> {
    let authority = Authority::new("one")?;
    let mutual = format!("mode: MUTUAL, {CA}, {OWN}");
    let ports = [
        ("tcp", 8001, mutual.as_str()),
        ("tcp", 8002, mutual.as_str()),
        ("tcp", 8003, mutual.as_str()),
        ("auto", 8004, mutual.as_str()),
    ];
    let stage = Stage::open(&ports, folder(&authority)?, &[]).await?;
    let config = authority.sign(&[NAME])?.server(Some(&authority), &[])?;
    // It answers only after the client's half has ended.
    let _after = Server::start(&stage.db, 8001, config.clone(), |mut stream| async move {
        let mut all = Vec::new();
        if stream.read_to_end(&mut all).await.is_ok() {
            let _ = stream.write_all(&all).await;
            let _ = stream.shutdown().await;
        }
    })?;
    let _echo = Server::start(&stage.db, 8002, config.clone(), |stream| async move {
        let (mut read, mut write) = tokio::io::split(stream);
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })?;
    // It leaves without TLS's farewell, as one on the way could have had it.
    let _cut = Server::start(&stage.db, 8003, config.clone(), |mut stream| async move {
        let _ = stream.write_all(b"half").await;
        let _ = stream.flush().await;
        let (socket, _) = stream.into_inner();
        drop(socket);
    })?;
    let _first = Server::start(&stage.db, 8004, config, |mut stream| async move {
        let _ = stream.write_all(b"220 ready\r\n").await;
        let _ = stream.flush().await;
        let mut byte = [0];
        let _ = stream.read(&mut byte).await;
        let _ = stream.shutdown().await;
    })?;
    let sent = raw::pattern(5 << 20);
    let mut stream = stage
        .client
        .netns
        .connect(SocketAddr::new(DB, 8001))
        .await?;
    stream.write_all(&sent).await?;
    stream.shutdown().await?;
    let (back, end) = raw::drain(&mut stream).await?;
    ensure!(
        back == sent && end == End::Closed,
        "{} bytes, {end:?}",
        back.len()
    );
    let stream = stage
        .client
        .netns
        .connect(SocketAddr::new(DB, 8002))
        .await?;
    let (mut read, mut write) = stream.into_split();
    let upload = sent.clone();
    tokio::spawn(async move {
        let _ = write.write_all(&upload).await;
        let _ = write.shutdown().await;
    });
    let mut back = Vec::new();
    tokio::time::timeout(PATIENCE, read.read_to_end(&mut back)).await??;
    ensure!(back == sent, "{} bytes came back, or others", back.len());
    let (said, end) = raw::ask(&stage.client, SocketAddr::new(DB, 8003), b"").await?;
    ensure!(said == "half" && end == End::Reset, "{said:?} {end:?}");
    // A port that declares nothing: tickets of TLS 1.3 are not taken for a server that speaks.
    let mut stream = stage
        .client
        .netns
        .connect(SocketAddr::new(DB, 8004))
        .await?;
    raw::read_until(&mut stream, b"220 ready\r\n").await?;
    Ok(())
}

#[tokio::test]
async fn files_are_read_again_when_they_change() -> Result<()> {
    let (first, second) = (Authority::new("one")?, Authority::new("two")?);
    let mutual = format!("mode: MUTUAL, {CA}, {OWN}");
    let ports = [("http", 8001, mutual.as_str())];
    let stage = Stage::open(&ports, folder(&first)?, &[]).await?;
    let server = |authority: &Authority| {
        let config = authority
            .sign(&[NAME])?
            .server(Some(authority), &["http/1.1"])?;
        Server::http(&stage.db, 8001, config)
    };
    let old = server(&first)?;
    let mut client = Http::connect(&stage.client, SocketAddr::new(DB, 8001)).await?;
    for _ in 0..2 {
        ensure!(client.get("db", "/").await?.status == 503, "not its name");
        ensure!(client.get(NAME, "/").await?.status == 200);
    }
    // The connection for NAME is kept, none is for the other.
    ensure!(old.handshakes() == 1, "{}", old.handshakes());
    // What can't be used leaves what was in force.
    let ca = stage.files.path().join("ca.pem");
    std::fs::write(&ca, "nonsense")?;
    let row = |state: &'static str| {
        let wanted = move |status: &Value| status["tls"][0]["state"] == state;
        stage.proxy.until("/status", wanted)
    };
    let told = row("stale").await?;
    ensure!(told["tls"].to_string().contains("ca.pem"), "{told}");
    ensure!(client.get(NAME, "/").await?.status == 200);
    // Another authority: its certificates at once, and no connection of before.
    old.stop().await;
    let new = server(&second)?;
    second
        .sign(&["client"])?
        .write(stage.files.path(), "client")?;
    replace(&ca, second.pem())?;
    row("active").await?;
    let answered = async {
        while client.get(NAME, "/").await?.status != 200 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, answered).await??;
    let before = new.handshakes();
    // The same authority, another certificate for the client: a new connection shows it.
    second
        .sign(&["client"])?
        .write(stage.files.path(), "client")?;
    let renewed = async {
        while new.handshakes() == before {
            ensure!(client.get(NAME, "/").await?.status == 200);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok::<_, anyhow::Error>(())
    };
    tokio::time::timeout(PATIENCE, renewed).await??;
    Ok(())
}

#[tokio::test]
async fn files_elsewhere_than_the_node_allows_are_not_read() -> Result<()> {
    let authority = Authority::new("one")?;
    let (files, allowed) = (folder(&authority)?, folder(&authority)?);
    // Where a link leads is what counts.
    let link = allowed.path().join("link.pem");
    std::os::unix::fs::symlink(files.path().join("ca.pem"), &link)?;
    let inside = format!(
        "mode: SIMPLE, caCertificates: {}/ca.pem",
        allowed.path().display()
    );
    let linked = format!("mode: SIMPLE, caCertificates: {}", link.display());
    let simple = format!("mode: SIMPLE, {CA}");
    let ports = [
        ("http", 8001, inside.as_str()),
        ("http", 8002, simple.as_str()),
        ("http", 8003, linked.as_str()),
    ];
    let arguments = ["--tls-files", &*allowed.path().to_string_lossy()];
    let stage = Stage::open(&ports, files, &arguments).await?;
    let good = authority.sign(&[NAME])?;
    let mut servers = Vec::new();
    for (_, port, _) in ports {
        servers.push(Server::http(&stage.db, port, good.server(None, &[])?)?);
    }
    for (port, expected) in [(8001, 200), (8002, 503), (8003, 503)] {
        let (status, _, text) = stage.get(port, NAME).await?;
        ensure!(status == expected, "{port}: {status} {text}");
    }
    Ok(())
}

#[tokio::test]
async fn a_subset_and_a_port_have_their_own_tls_and_pools() -> Result<()> {
    let authority = Authority::new("one")?;
    let simple = format!("mode: SIMPLE, {CA}");
    let ports = [("http", 8001, simple.as_str())];
    let stage = Stage::with(&ports, folder(&authority)?, &[], |rule| {
        format!(
            "{rule}  subsets:\n  - name: named\n    trafficPolicy: {{tls: {{mode: SIMPLE, {CA}, sni: \
             db.example.com}}}}\n  - name: plain\n    trafficPolicy: {{tls: {{mode: DISABLE}}}}\n\
             ---\napiVersion: networking.istio.io/v1\nkind: VirtualService\n\
             metadata: {{name: db, namespace: default}}\nspec:\n  hosts: [db]\n  http:\n  \
             - match: [{{headers: {{to: {{exact: named}}}}}}]\n    \
               route: [{{destination: {{host: db, subset: named}}}}]\n  \
             - match: [{{headers: {{to: {{exact: plain}}}}}}]\n    \
               route: [{{destination: {{host: db, subset: plain}}}}]\n  \
             - route: [{{destination: {{host: db}}}}]\n"
        )
    })
    .await?;
    let good = authority.sign(&[NAME, "db.example.com"])?;
    let server = Server::http(&stage.db, 8001, good.server(None, &[])?)?;
    let to = SocketAddr::new(DB, 8001);
    let mut client = Http::connect(&stage.client, to).await?;
    for _ in 0..2 {
        for (subset, expected) in [
            ("", Some(NAME)),
            ("named", Some("db.example.com")),
            ("plain", None),
        ] {
            let request = aquifer_tests::client::request("GET", NAME, "/")
                .header("to", subset)
                .body(aquifer_tests::client::whole(""))?;
            let reply = client.exchange(request).await?;
            let said: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
            match expected {
                Some(sni) => ensure!(said["sni"] == sni, "{subset}: {}", reply.text()),
                // The server speaks TLS alone.
                None => ensure!(reply.status != 200, "{}", reply.text()),
            }
        }
    }
    ensure!(server.handshakes() == 2, "{}", server.handshakes());
    Ok(())
}

/// `ISTIO_MUTUAL` to one that is not of this mesh but speaks Istio's mutual TLS, as a sidecar does;
/// and any other mode to one that is of the mesh, whose application speaks TLS itself.
#[tokio::test]
async fn the_meshs_own_certificates_and_tls_inside_of_hbone() -> Result<()> {
    let authority = Authority::new("one")?;
    let files = folder(&authority)?;
    let rules = format!(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: app, namespace: default}}\n\
         spec:\n  host: app\n  trafficPolicy:\n    portLevelSettings:\n    \
         - {{port: {{number: 80}}, tls: {{mode: SIMPLE, caCertificates: {}/ca.pem}}}}\n    \
         - {{port: {{number: 9000}}, tls: {{mode: ISTIO_MUTUAL}}}}\n\
         ---\napiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {{name: db, namespace: default}}\n\
         spec: {{host: db, trafficPolicy: {{tls: {{mode: ISTIO_MUTUAL}}}}}}\n",
        files.path().display()
    );
    let lab = Lab::new()?;
    let (client, app, db) = (lab.pod("client")?, lab.pod("app")?, lab.pod("db")?);
    let at = |port| SocketAddr::from(([10, 96, 0, 30], port));
    let ports = [
        ("http-1", 8001, 8001),
        ("http2-2", 8002, 8002),
        ("http-3", 8003, 8003),
    ];
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod(&client, &[("app", "client")])
        .pod(&app, &[("app", "app")])
        .stranger(&db, &[("app", "db")])
        .service("db", &[DB], &ports, &[("app", "db")])
        .service(
            "app",
            &[at(0).ip()],
            &[("http", 80, 8080), ("tcp", 9000, 9000)],
            &[("app", "app")],
        )
        .yaml(rules);
    let config = Config::new(&manifests)?;
    let proxy = Proxy::on(&lab, &config).authority().ready().await?;
    proxy.certified(1).await?;
    let mesh = hbone::Authority::of(&config)?;
    let server = |name: &str, protocols: &[&str]| {
        let (certificate, key) = mesh.files(&[name])?;
        let key = key.serialize_pem();
        let signed = outside::Signed { certificate, key };
        signed.server_trusting(Some(&mesh.pem().0), protocols)
    };
    let other = "spiffe://cluster.local/ns/default/sa/other";
    let _one = Server::http(&db, 8001, server(hbone::DEFAULT, &["istio-http/1.1"])?)?;
    let _two = Server::http(&db, 8002, server(hbone::DEFAULT, &["istio-h2"])?)?;
    let _other = Server::http(&db, 8003, server(other, &["istio"])?)?;
    for (port, status, alpn) in [
        (8001, 200, "istio-http/1.1"),
        (8002, 200, "istio-h2"),
        (8003, 503, ""),
    ] {
        let mut client = Http::connect(&client, SocketAddr::new(DB, port)).await?;
        let reply = client.get(NAME, "/").await?;
        ensure!(reply.status == status, "{port}: {}", reply.text());
        if status == 200 {
            let said: Value = serde_json::from_slice(&reply.body)?;
            ensure!(
                said["sni"] == format!("outbound_.{port}_._.{NAME}"),
                "{said}"
            );
            ensure!(said["alpn"] == alpn && said["certificates"] == 1, "{said}");
        }
    }
    // Inside of HBONE.
    let name = "app.default.svc.cluster.local";
    let good = authority.sign(&[name])?;
    let _app = Server::http(&app, 8080, good.server(None, &["http/1.1"])?)?;
    let before = proxy.counter("hbone_upstream_rq").await?;
    let mut http = Http::connect(&client, at(80)).await?;
    let reply = http.get(name, "/").await?;
    let said: Value = serde_json::from_slice(&reply.body).context(reply.text())?;
    ensure!(said["sni"] == name, "{said}");
    ensure!(proxy.counter("hbone_upstream_rq").await? > before);
    // There HBONE is Istio's mutual TLS already.
    let _tcp = raw::Server::echo(&app, 9000)?;
    let mut stream = client.netns.connect(at(9000)).await?;
    stream.write_all(b"plain inside").await?;
    ensure!(raw::read_exactly(&mut stream, 12).await? == b"plain inside");
    Ok(())
}
