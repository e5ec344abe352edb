//! HBONE into a pod of the mesh, from peers that speak it by hand.

mod hbone;

use std::{
    fmt::Display,
    io::ErrorKind,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE, Pod, SOON, World,
    clock::Deadline,
    echo::Echo,
    raw::{self, End, Server},
};
use bytes::Bytes;
use hbone::{Authority, Bytewise, DEFAULT, HBONE, Peer, Shredded, hello_bytes, hello_of, refusal};
use http::{Method, Request};
use rustls::ClientConfig;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PORT: u16 = 9001;
const CALLER: &str = "spiffe://cluster.local/ns/elsewhere/sa/caller";
/// Bytes of the largest ClientHello that is taken (rustls): 65,535 with its own head of 4 bytes, and
/// those of its 4 records of 5 each.
const LARGEST: usize = 65_535 - 4 - 4 * 5;

/// The usual world, who signs in it, and a pod that is not in the mesh to call from.
struct Called {
    world: World,
    authority: Authority,
    caller: Pod,
}

impl Called {
    async fn new() -> Result<Self> {
        let json = [
            "--access-log",
            "json",
            "--log",
            "info,aquifer::dataplane=debug",
        ];
        let world = World::with_authority(&json, |manifests| manifests).await?;
        Ok(Self {
            authority: Authority::of(&world.config)?,
            caller: world.lab.pod("caller")?,
            world,
        })
    }

    async fn peer(&self) -> Result<Peer> {
        let config = self.authority.client(CALLER)?;
        Peer::connect(&self.caller, self.world.server.v4.into(), config).await
    }

    fn at(&self, port: u16) -> String {
        self.world.server.at(port).to_string()
    }

    async fn counter(&self, name: &str) -> Result<u64> {
        self.world.proxy.counter(name).await
    }
}

#[tokio::test]
async fn an_application_that_speaks_first_is_not_kept_waiting() -> Result<()> {
    let called = Called::new().await?;
    let _server = Server::start(&called.world.server, PORT, |mut stream, _| async move {
        let _ = stream.write_all(b"220 ready").await;
        let _ = stream.read(&mut [0]).await;
    })?;
    let peer = called.peer().await?;
    // The kernel by itself would let the application know after 40 ms at the earliest.
    let mut least = Duration::MAX;
    for _ in 0..20 {
        let start = aquifer_tests::clock::now();
        let mut tunnel = peer.open(&called.at(PORT)).await?;
        ensure!(tunnel.read_exactly(9).await? == b"220 ready");
        least = least.min(start.elapsed());
    }
    ensure!(least < Duration::from_millis(30), "{least:?}");
    Ok(())
}

#[tokio::test]
async fn a_tunnel_carries_bytes_with_the_callers_address_and_identity() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let (_server, mut accepted) = Server::accepting(&world.server, PORT)?;
    for to in [IpAddr::from(world.server.v4), world.server.v6.into()] {
        let config = called.authority.client(CALLER)?;
        let peer = Peer::connect(&called.caller, to, config).await?;
        let mark = world.proxy.child.stdout.mark();
        let (response, send) = peer.ask(&SocketAddr::new(to, PORT).to_string()).await?;
        ensure!(response.status() == 200, "{response:?}");
        let baggage = response.headers()["baggage"].to_str()?;
        ensure!(
            baggage
                == "k8s.cluster.name=Kubernetes,k8s.namespace.name=default,k8s.pod.name=server,service.name=server,service.version=v1",
            "{baggage}"
        );
        let mut tunnel = hbone::Tunnel {
            send,
            receive: response.into_body(),
        };
        let mut application = accepted.recv().await.context("a connection")?;
        let source = application.peer_addr()?.ip().to_canonical();
        ensure!(
            [IpAddr::from(called.caller.v4), called.caller.v6.into()].contains(&source),
            "the application sees {source}"
        );
        // 8 MiB both ways, by pieces of all sizes.
        let data: Bytes = (0..8_u32 << 20)
            .map(|n| (n * 7 + n / 251).to_le_bytes()[0])
            .collect::<Vec<_>>()
            .into();
        let expected = data.clone();
        let echo = tokio::spawn(async move {
            let (mut read, mut write) = application.split();
            let count = tokio::io::copy(&mut read, &mut write).await?;
            write.shutdown().await?;
            anyhow::Ok(count)
        });
        let hbone::Tunnel { send, receive } = &mut tunnel;
        let sending = async {
            let mut rest = data;
            for size in [1, 5, 1000, 16_384, 100_000, 3].iter().cycle() {
                let piece = rest.split_to((*size).min(rest.len()));
                if piece.is_empty() {
                    break;
                }
                let mut left = piece;
                while !left.is_empty() {
                    send.reserve_capacity(left.len());
                    let room = std::future::poll_fn(|cx| send.poll_capacity(cx)).await;
                    let room = room.context("over")??;
                    send.send_data(left.split_to(room.min(left.len())), false)?;
                }
            }
            anyhow::Ok(send.send_data(Bytes::new(), true)?)
        };
        let receiving = async {
            let mut all = Vec::new();
            while let Some(bytes) = receive.data().await.transpose()? {
                receive.flow_control().release_capacity(bytes.len())?;
                all.extend_from_slice(&bytes);
            }
            anyhow::Ok(all)
        };
        let (sent, received) =
            tokio::time::timeout(PATIENCE, async { tokio::join!(sending, receiving) }).await?;
        sent?;
        ensure!(received? == expected, "other bytes came back");
        ensure!(echo.await?? == 8 << 20);
        let line = world
            .proxy
            .logged(mark, |line| line.contains(&format!("inbound|{PORT}||")))?;
        ensure!(
            line.contains("\"downstream_principal\":\"cluster.local/ns/elsewhere/sa/caller\"")
                && line.contains("\"bytes_received\":8388608"),
            "{line}"
        );
    }
    Ok(())
}

#[tokio::test]
async fn half_closes_and_resets_pass_through() -> Result<()> {
    let called = Called::new().await?;
    let (_server, mut accepted) = Server::accepting(&called.world.server, PORT)?;
    let peer = called.peer().await?;
    let mut next = async || -> Result<(hbone::Tunnel, TcpStream)> {
        let tunnel = peer.open(&called.at(PORT)).await?;
        Ok((tunnel, accepted.recv().await.context("a connection")?))
    };

    // The peer ends first; the application goes on.
    let (mut tunnel, mut application) = next().await?;
    tunnel.write(Bytes::from_static(b"question")).await?;
    tunnel.finish()?;
    let (bytes, end) = raw::drain(&mut application).await?;
    ensure!(bytes == b"question" && end == End::Closed);
    application.write_all(b"a long answer").await?;
    drop(application);
    ensure!(tunnel.read_to_end().await? == b"a long answer");

    // The application ends first; the peer goes on.
    let (mut tunnel, mut application) = next().await?;
    application.write_all(b"greeting").await?;
    application.shutdown().await?;
    ensure!(tunnel.read_to_end().await? == b"greeting");
    tunnel.write(Bytes::from_static(b"thanks")).await?;
    tunnel.finish()?;
    let (bytes, end) = raw::drain(&mut application).await?;
    ensure!(bytes == b"thanks" && end == End::Closed);

    // The application resets.
    let (mut tunnel, application) = next().await?;
    raw::reset(application)?;
    let error = tunnel.read().await.expect_err("a reset and no end");
    let error = error.downcast::<h2::Error>()?;
    ensure!(error.is_reset() && error.is_remote(), "{error:#}");

    // The peer resets, by whatever reason.
    for reason in [
        h2::Reason::CANCEL,
        h2::Reason::NO_ERROR,
        h2::Reason::INTERNAL_ERROR,
    ] {
        let (mut tunnel, mut application) = next().await?;
        tunnel.send.send_reset(reason);
        let (_, end) = raw::drain(&mut application).await?;
        ensure!(end == End::Reset, "{reason:?}");
    }
    // One that has ended before just leaves.
    let (mut tunnel, mut application) = next().await?;
    tunnel.finish()?;
    ensure!(raw::drain(&mut application).await?.1 == End::Closed);
    drop(tunnel);
    while application.write_all(b"unheard").await.is_ok() {
        tokio::task::yield_now().await;
    }
    // The loss of its connection resets.
    let (_tunnel, mut application) = next().await?;
    peer.driver.abort();
    let (_, end) = raw::drain(&mut application).await?;
    ensure!(end == End::Reset);
    Ok(())
}

#[tokio::test]
async fn what_can_not_be_carried_out_is_answered_as_by_ztunnel() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let server = Server::echo(&world.server, PORT)?;
    let other = &world.client;
    let other_server = Server::echo(other, PORT)?;
    let peer = called.peer().await?;
    let own = world.server.v4;
    let mut listeners = Vec::new();
    for line in world
        .proxy
        .admin("/config/listeners")
        .await?
        .as_array()
        .into_iter()
        .flatten()
    {
        listeners.extend(line["port"].as_u64());
    }
    let listener = listeners.first().copied().unwrap_or(15100);
    let connect = |authority: String| (Method::CONNECT, authority);
    let another = |address: &dyn Display| format!("hbone:_{address}_is_not_the_address_that_was");
    let no_address = |text: &str| format!("hbone:_\\\"{text}\\\"_is_not_ADDRESS:PORT");
    let name = |text: &str| format!("hbone:_\\\"{text}\\\"_is_a_name");
    let own_port = |port: u64| format!("hbone:_port_{port}_is_the_proxy's_own");
    let (no_port, no_such) = (own.to_string(), format!("{own}:65536"));
    let localhost = format!("localhost:{PORT}");
    let service = "app.default.svc.cluster.local:9000";
    let mapped = own.to_ipv6_mapped();
    let listener_port = u16::try_from(listener)?;
    for ((method, authority), status, text, reason) in [
        // Nothing listens there.
        (
            connect(called.at(9)),
            503,
            "delayed connect error: Connection refused".to_owned(),
            "unreachable",
        ),
        // Another pod's address, a Service's, the loopback, the same in another form.
        (
            connect(other.at(PORT).to_string()),
            400,
            another(&other.v4),
            "other_address",
        ),
        (
            connect("10.96.0.10:9000".into()),
            400,
            another(&"10.96.0.10"),
            "other_address",
        ),
        (
            connect(format!("127.0.0.1:{PORT}")),
            400,
            another(&"127.0.0.1"),
            "other_address",
        ),
        (
            connect("[::1]:15000".into()),
            400,
            another(&"::1"),
            "other_address",
        ),
        (
            connect(format!("[{mapped}]:{PORT}")),
            400,
            another(&mapped),
            "other_address",
        ),
        (
            connect(world.server.at6(PORT).to_string()),
            400,
            another(&world.server.v6),
            "other_address",
        ),
        (
            connect(no_port.clone()),
            400,
            no_address(&no_port),
            "malformed",
        ),
        (
            connect(no_such.clone()),
            400,
            no_address(&no_such),
            "malformed",
        ),
        (connect(localhost.clone()), 503, name(&localhost), "name"),
        (connect(service.into()), 503, name(service), "name"),
        // The proxy's own.
        (connect(called.at(0)), 503, own_port(0), "own_port"),
        (
            connect(called.at(HBONE)),
            503,
            own_port(HBONE.into()),
            "own_port",
        ),
        (
            connect(called.at(listener_port)),
            503,
            own_port(listener),
            "own_port",
        ),
        (
            (Method::GET, format!("http://{}/", called.at(PORT))),
            400,
            "hbone:_GET_is_not_CONNECT".to_owned(),
            "not_connect",
        ),
    ] {
        let before = world.proxy.reasons("hbone_downstream_rq_refused").await?;
        let mark = world.proxy.child.stdout.mark();
        let request = Request::builder().method(method).uri(&authority);
        let (response, _) = peer.request(request.body(())?).await?;
        ensure!(response.status() == status, "{authority}: {response:?}");
        let line = world.proxy.logged(mark, |line| line.contains(&text));
        line.with_context(|| format!("{authority}: no {text}"))?;
        let after = world.proxy.reasons("hbone_downstream_rq_refused").await?;
        let added = after.since(&before);
        ensure!(added == format!("{reason}=1"), "{authority}: {added}");
    }
    ensure!(called.counter("hbone_downstream_rq_refused").await? == 15);
    ensure!(server.accepted() == 0, "somebody came through");
    ensure!(
        peer.status(&called.at(PORT)).await? == 200,
        "the connection goes on"
    );
    // The other pod hears of this one as the first: connections are accepted in their order.
    let mut first = called.caller.netns.connect(other.at(PORT)).await?;
    first.write_all(b"x").await?;
    raw::read_exactly(&mut first, 1).await?;
    ensure!(other_server.accepted() == 1, "another pod was reached");
    Ok(())
}

#[tokio::test]
async fn who_can_not_prove_to_be_of_the_mesh_is_refused() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let server = Server::echo(&world.server, PORT)?;
    let own = &called.authority;
    let good = own.client(CALLER)?;
    let with = |change: fn(&mut ClientConfig)| {
        let mut config = ClientConfig::clone(&good);
        change(&mut config);
        Arc::new(config)
    };
    let client = |secrets: aquifer::tls::Secrets, identity: &str| -> Result<_> {
        let config = secrets.client(&identity.parse()?, &[DEFAULT.parse()?]);
        config.context("a configuration")
    };
    let hour = Duration::from_secs(3600);
    let now = aquifer::clock::wall();
    let of = |from, until| -> Result<_> {
        client(own.secrets_within(CALLER, from, until, own)?, CALLER)
    };
    let (namesake, stranger) = (
        Authority::foreign("cluster.local")?,
        Authority::foreign("other")?,
    );
    let outsider = "spiffe://other/ns/elsewhere/sa/caller";
    let foreign = |authority: &Authority, identity: &str| -> Result<_> {
        client(
            authority.secrets_within(identity, now - hour, now + hour, own)?,
            identity,
        )
    };
    for (name, config, alert, text, reason) in [
        (
            "no certificate",
            with(|config| config.client_auth_cert_resolver = Arc::new(Nobody)),
            "CertificateRequired",
            "peer_sent_no_certificates",
            "no_certificate",
        ),
        (
            "expired",
            of(now - 2 * hour, now - hour)?,
            "CertificateExpired",
            "certificate_expired",
            "expired",
        ),
        (
            "not yet valid",
            of(now + hour, now + 2 * hour)?,
            "CertificateExpired",
            "certificate_not_valid_yet",
            "not_yet_valid",
        ),
        (
            "another authority of the same name",
            foreign(&namesake, CALLER)?,
            "UnknownCA",
            "UnknownIssuer",
            "unknown_issuer",
        ),
        (
            "another trust domain",
            foreign(&stranger, outsider)?,
            "CertificateUnknown",
            "spiffe://other/ns/elsewhere/sa/caller_is_of_a_trust_domain_that_is_neither",
            "trust_domain",
        ),
        // Our own root does not vouch for another domain.
        (
            "our root for another domain",
            foreign(own, outsider)?,
            "CertificateUnknown",
            "spiffe://other/ns/elsewhere/sa/caller_is_of_a_trust_domain_that_is_neither",
            "trust_domain",
        ),
        (
            "another protocol",
            with(|config| config.alpn_protocols = vec![b"http/1.1".to_vec()]),
            "NoApplicationProtocol",
            "peer_doesn't_support_any_known_protocol",
            "incompatible",
        ),
        (
            "two names",
            several_names(own, &[CALLER, DEFAULT])?,
            "CertificateUnknown",
            "its_certificate_has_2_URIs_where_one_must_be",
            "several_names",
        ),
        (
            "no name",
            several_names(own, &[])?,
            "CertificateUnknown",
            "its_certificate_has_no_URI",
            "no_identity",
        ),
        (
            "somebody else's certificate",
            stolen(own)?,
            "DecryptError",
            "BadSignature",
            "signature",
        ),
        (
            "TLS 1.2",
            tls12()?,
            "ProtocolVersion",
            "peer_is_incompatible",
            "incompatible",
        ),
    ] {
        let before = world.proxy.reasons("hbone_downstream_cx_refused").await?;
        let mark = world.proxy.child.stdout.mark();
        let told = refusal(&called.caller, world.server.v4.into(), config).await?;
        ensure!(
            told.contains(alert),
            "{name}: {told}\n{}",
            world.proxy.complaints()
        );
        let line = world
            .proxy
            .logged(mark, |line| line.contains("inbound|15008||"))?;
        ensure!(
            line.contains("hbone:_TLS:_") && line.contains(text),
            "{name}: {line}"
        );
        let after = world.proxy.reasons("hbone_downstream_cx_refused").await?;
        let added = after.since(&before);
        ensure!(added == format!("{reason}=1"), "{name}: {added}");
    }
    // Plain text, and a client that says nothing more.
    let before = world.proxy.reasons("hbone_downstream_cx_refused").await?;
    let mark = world.proxy.child.stdout.mark();
    let mut plain = called.caller.netns.connect(world.server.at(HBONE)).await?;
    plain.write_all(b"GET / HTTP/1.1\r\n\r\n").await?;
    let (_, end) = raw::drain(&mut plain).await?;
    ensure!(matches!(end, End::Closed | End::Reset));
    world.proxy.logged(mark, |line| {
        line.contains("inbound|15008||") && line.contains("hbone:_TLS:_received_corrupt_message")
    })?;
    let after = world.proxy.reasons("hbone_downstream_cx_refused").await?;
    ensure!(after.since(&before) == "malformed=1");
    ensure!(server.accepted() == 0, "somebody came through");

    // No ALPN at all is taken, as by ztunnel.
    let config = with(|config| config.alpn_protocols.clear());
    let peer = Peer::connect(&called.caller, world.server.v4.into(), config).await?;
    ensure!(peer.status(&called.at(PORT)).await? == 200);
    Ok(())
}

#[tokio::test]
async fn records_of_one_byte_and_an_enormous_hello_are_survived() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let server = Server::echo(&world.server, PORT)?;
    let config = called.authority.client(CALLER)?;
    let before = world.proxy.reasons("hbone_downstream_cx_refused").await?;
    let mark = world.proxy.child.stdout.mark();
    let stream = called.caller.netns.connect(world.server.at(HBONE)).await?;
    stream.set_nodelay(true)?;
    let peer = Peer::over(Bytewise(stream), config.clone()).await?;
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    for byte in 0..200_u8 {
        tunnel.write(Bytes::copy_from_slice(&[byte])).await?;
        ensure!(tunnel.read_exactly(1).await? == [byte]);
    }
    tunnel.finish()?;
    ensure!(tunnel.read_to_end().await?.is_empty());
    // Every byte of a hello in a record of its own.
    let stream = called.caller.netns.connect(world.server.at(HBONE)).await?;
    let other = Peer::over(Shredded::new(stream), config.clone()).await?;
    let mut shredded = other.open(&called.at(PORT)).await?;
    shredded.write(Bytes::from_static(b"whole")).await?;
    ensure!(shredded.read_exactly(5).await? == b"whole");
    shredded.finish()?;
    ensure!(shredded.read_to_end().await?.is_empty());
    // One as large as is taken.
    let whole = hello_of(&config, LARGEST)?;
    let large = Peer::connect(&called.caller, world.server.v4.into(), whole).await?;
    let mut enormous = large.open(&called.at(PORT)).await?;
    enormous.write(Bytes::from_static(b"enormous")).await?;
    ensure!(enormous.read_exactly(8).await? == b"enormous");
    enormous.finish()?;
    ensure!(enormous.read_to_end().await?.is_empty());
    // Each is as any other to the log and the metrics.
    for count in [200, 5, 8] {
        world.proxy.logged(mark, |line| {
            line.contains(&format!("inbound|{PORT}||"))
                && line
                    .contains("\"downstream_principal\":\"cluster.local/ns/elsewhere/sa/caller\"")
                && line.contains(&format!("\"bytes_received\":{count},"))
        })?;
    }
    ensure!(called.counter("hbone_downstream_cx").await? == 3);
    ensure!(called.counter("hbone_downstream_rq").await? == 3);
    let after = world.proxy.reasons("hbone_downstream_cx_refused").await?;
    ensure!(after.since(&before).is_empty(), "{after:?}");

    // A byte more, 64 KiB, one that says that it has 16 MiB, and one that is nothing but long.
    let records = |size: u32| {
        // Handshake records of 16 KiB, whose message says that it has this size.
        let mut record = vec![22, 3, 1, 0x40, 0, 1];
        record.extend_from_slice(&size.to_be_bytes()[1..]);
        record.extend_from_slice(&[3, 3]);
        record.resize(5 + 0x4000, 0);
        record
    };
    let zeros = [records(0xffff), vec![0; 4 * (5 + 0x4000)]].concat();
    for (name, hello, text, reason) in [
        (
            "a byte more",
            hello_bytes(hello_of(&config, LARGEST + 1)?)?,
            "message_buffer_full",
            "too_large",
        ),
        (
            "64 KiB",
            hello_bytes(hello_of(&config, 65_536)?)?,
            "HandshakePayloadTooLarge",
            "too_large",
        ),
        (
            "said to be larger",
            records(0xff_ffff),
            "HandshakePayloadTooLarge",
            "too_large",
        ),
        ("zeros", zeros, "received_corrupt_message", "malformed"),
    ] {
        let before = world.proxy.reasons("hbone_downstream_cx_refused").await?;
        let mark = world.proxy.child.stdout.mark();
        let mut stream = called.caller.netns.connect(world.server.at(HBONE)).await?;
        // It may be refused before all of it was sent.
        let _ = stream.write_all(&hello).await;
        let mut rest = Vec::new();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut rest)).await?;
        ensure!(
            ended.is_err() || rest.len() < 16,
            "{name}: an alert at most: {rest:?}"
        );
        let line = world
            .proxy
            .logged(mark, |line| line.contains("inbound|15008||"))?;
        ensure!(
            line.contains("hbone:_TLS:_") && line.contains(text),
            "{name}: {line}"
        );
        let after = world.proxy.reasons("hbone_downstream_cx_refused").await?;
        let added = after.since(&before);
        ensure!(added == format!("{reason}=1"), "{name}: {added}");
    }
    ensure!(server.accepted() == 3, "somebody came through");
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    tunnel.write(Bytes::from_static(b"still there")).await?;
    ensure!(tunnel.read_exactly(11).await? == b"still there");
    Ok(())
}

#[tokio::test]
async fn policies_ask_who_calls() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let _server = Server::echo(&world.server, PORT)?;
    let peer = called.peer().await?;
    let strict = "apiVersion: security.istio.io/v1\nkind: PeerAuthentication\nmetadata: {name: p, namespace: default}\nspec: {mtls: {mode: STRICT}}\n";
    let policy = |spec: &str| {
        format!(
            "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {{name: p, namespace: default}}\nspec: {spec}\n"
        )
    };
    let from = |source: &str| format!("rules: [{{from: [{{source: {{{source}}}}}]}}]");
    let mut open = peer.open(&called.at(PORT)).await?;
    for (text, status) in [
        (strict.to_owned(), 200),
        (
            policy(&format!(
                "{{{}}}",
                from("principals: [cluster.local/ns/elsewhere/sa/caller]")
            )),
            200,
        ),
        (
            policy(&format!(
                "{{{}}}",
                from("principals: [cluster.local/ns/elsewhere/sa/other]")
            )),
            401,
        ),
        (
            policy(&format!("{{{}}}", from("namespaces: [elsewhere]"))),
            200,
        ),
        (
            policy(&format!(
                "{{action: DENY, {}}}",
                from("namespaces: [default]")
            )),
            200,
        ),
        (
            policy(&format!(
                "{{action: DENY, {}}}",
                from("serviceAccounts: [elsewhere/caller]")
            )),
            401,
        ),
        (
            policy(&format!(
                "{{{}}}",
                from(&format!("ipBlocks: ['{}']", called.caller.v4))
            )),
            200,
        ),
        (policy("{}"), 401),
    ] {
        world
            .proxy
            .after(|| world.config.put("policies.yaml", &text))
            .await?;
        let found = peer.status(&called.at(PORT)).await?;
        ensure!(
            found == status,
            "{text}: {found}\n{}",
            world.proxy.complaints()
        );
        if status == 401 {
            let deadline = Deadline::after(SOON);
            let ended = open.read().await;
            ensure!(
                ended.is_err() && !deadline.passed(),
                "an open tunnel went on: {text}"
            );
            world
                .proxy
                .after(|| world.config.remove("policies.yaml"))
                .await?;
            open = peer.open(&called.at(PORT)).await?;
        } else {
            open.write(Bytes::from_static(b"x")).await?;
            open.read_exactly(1).await?;
        }
    }
    // Under STRICT plain text is refused on the port where the peer's tunnel is admitted.
    world
        .proxy
        .after(|| world.config.put("policies.yaml", strict))
        .await?;
    ensure!(peer.status(&called.at(PORT)).await? == 200);
    let plain = called.caller.netns.connect(world.server.at(PORT)).await;
    match plain {
        // The reset was faster than the client.
        Err(error) => ensure!(error.kind() == ErrorKind::ConnectionReset, "{error}"),
        Ok(mut plain) => ensure!(raw::drain(&mut plain).await?.1 == End::Reset),
    }
    Ok(())
}

#[tokio::test]
async fn requests_in_a_tunnel_are_judged_each_by_itself() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let _server = Echo::start(&world.server, PORT, "server")?;
    let policy = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {rules: [{from: [{source: {principals: [cluster.local/ns/elsewhere/sa/caller]}}], to: [{operation: {paths: [/a]}}]}]}\n";
    world
        .proxy
        .after(|| world.config.put("policies.yaml", policy))
        .await?;
    let peer = called.peer().await?;
    // The port declares nothing; the request comes in pieces of one byte.
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    for byte in b"GET /a HTTP/1.1\r\nhost: app\r\n\r\n" {
        tunnel.write(Bytes::copy_from_slice(&[*byte])).await?;
    }
    tunnel.read_until("\"HTTP/1.1\"}").await?;
    // What is refused leaves the tunnel as it is.
    for (path, status) in [("/b", 403), ("/b/../a", 200), ("/a/", 403)] {
        let ask = format!("GET {path} HTTP/1.1\r\nhost: app\r\n\r\n");
        tunnel.write(ask.into()).await?;
        let end = if status == 200 {
            "\"HTTP/1.1\"}"
        } else {
            "RBAC: access denied"
        };
        let said = tunnel.read_until(end).await?;
        ensure!(
            said.starts_with(&format!("HTTP/1.1 {status} ")),
            "{path}: {said}"
        );
    }
    // It ends as a connection does: with its peer's last word, or by what its request says.
    tunnel
        .write("GET /a HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n".into())
        .await?;
    let said = tunnel.read_to_end().await?;
    ensure!(said.starts_with(b"HTTP/1.1 200 "));
    // Another pod of the mesh is another caller.
    let other = called.authority.client(DEFAULT)?;
    let other = Peer::connect(&called.caller, world.server.v4.into(), other).await?;
    let mut tunnel = other.open(&called.at(PORT)).await?;
    tunnel
        .write("GET /a HTTP/1.1\r\nhost: app\r\n\r\n".into())
        .await?;
    let said = tunnel.read_until("RBAC: access denied").await?;
    ensure!(said.starts_with("HTTP/1.1 403 "), "{said}");
    // Bytes that are no request are refused as such, and nothing is dialled for them.
    let mark = world.proxy.child.stdout.mark();
    let before = called.counter("rbac_denied").await?;
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    tunnel.write(Bytes::from_static(b"\0hello")).await?;
    let error = tunnel.read().await.expect_err("a reset and no end");
    ensure!(error.downcast::<h2::Error>()?.is_reset());
    let line = world
        .proxy
        .logged(mark, |line| line.contains("\"method\":\"\""))?;
    ensure!(
        line.contains("rbac_access_denied_matched_policy[none]")
            && line.contains("\"downstream_principal\":\"cluster.local/ns/elsewhere/sa/caller\""),
        "{line}"
    );
    ensure!(called.counter("rbac_denied").await? == before + 1);
    // One that is reset before it has said what it speaks.
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    tunnel.write(Bytes::from_static(b"GE")).await?;
    tunnel.send.send_reset(h2::Reason::CANCEL);
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    tunnel
        .write("GET /a HTTP/1.1\r\nhost: app\r\n\r\n".into())
        .await?;
    tunnel.read_until("\"HTTP/1.1\"}").await?;
    // A request under way ends with its permission, and so does its tunnel.
    tunnel
        .write("POST /a HTTP/1.1\r\nhost: app\r\ncontent-length: 10\r\n\r\n12345".into())
        .await?;
    let until = Deadline::after(PATIENCE);
    while called.counter("rbac_rq_allowed").await? < 5 {
        ensure!(!until.passed(), "the request did not arrive");
        tokio::task::yield_now().await;
    }
    let policy = policy.replace("[/a]", "[/c]");
    world
        .proxy
        .after(|| world.config.put("policies.yaml", &policy))
        .await?;
    let deadline = Deadline::after(SOON);
    while tunnel.read().await?.is_some() {}
    ensure!(!deadline.passed());
    Ok(())
}

#[tokio::test]
async fn two_hundred_tunnels_share_a_connection_and_one_more_is_refused() -> Result<()> {
    let called = Called::new().await?;
    let _server = Server::echo(&called.world.server, PORT)?;
    let peer = called.peer().await?;
    let mut tunnels = Vec::new();
    for _ in 0..200 {
        tunnels.push(peer.open(&called.at(PORT)).await?);
    }
    ensure!(peer.send.current_max_send_streams() == 200);
    for (number, tunnel) in (0_u64..).zip(&mut tunnels) {
        tunnel
            .write(Bytes::copy_from_slice(&number.to_be_bytes()))
            .await?;
    }
    for (number, tunnel) in (0_u64..).zip(&mut tunnels) {
        ensure!(tunnel.read_exactly(8).await? == number.to_be_bytes());
    }
    // One that does not keep to what it was told.
    let config = called.authority.client(CALLER)?;
    let stream = called
        .caller
        .netns
        .connect(called.world.server.at(HBONE))
        .await?;
    let (opened, refused) = hbone::insist(stream, config, &called.at(PORT), 201).await?;
    ensure!(opened == 200 && refused == [7], "{opened} {refused:?}");
    // All go at once, and the connection stays for the next.
    drop(tunnels);
    let mut last = peer.open(&called.at(PORT)).await?;
    last.write(Bytes::from_static(b"x")).await?;
    last.read_exactly(1).await?;
    ensure!(called.counter("hbone_downstream_cx").await? == 2);
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_stops_says_so_and_lets_tunnels_end() -> Result<()> {
    let called = Called::new().await?;
    let _server = Server::echo(&called.world.server, PORT)?;
    let (busy, idle) = (called.peer().await?, called.peer().await?);
    let mut tunnel = busy.open(&called.at(PORT)).await?;
    tunnel.write(Bytes::from_static(b"before")).await?;
    tunnel.read_exactly(6).await?;
    called
        .world
        .proxy
        .child
        .signal(nix::sys::signal::Signal::SIGTERM);
    let ended = tokio::time::timeout(PATIENCE, idle.driver).await??;
    // The proxy may have closed before the peer has acknowledged its last word.
    ensure!(
        ended.as_ref().err().is_none_or(h2::Error::is_io),
        "{ended:?}"
    );
    // No new one, and the open one goes on until it ends.
    let refused = loop {
        match busy.status(&called.at(PORT)).await {
            Ok(_) => tokio::task::yield_now().await,
            Err(error) => break error,
        }
    };
    ensure!(!refused.to_string().is_empty());
    tunnel.write(Bytes::from_static(b"after")).await?;
    ensure!(tunnel.read_exactly(5).await? == b"after");
    tunnel.finish()?;
    ensure!(tunnel.read_to_end().await?.is_empty());
    let ended = tokio::time::timeout(PATIENCE, busy.driver).await??;
    ensure!(
        ended.as_ref().err().is_none_or(h2::Error::is_io),
        "{ended:?}"
    );
    called.world.proxy.child.wait(PATIENCE)?;
    Ok(())
}

#[tokio::test]
async fn a_proxy_that_drains_still_asks_policies() -> Result<()> {
    let called = Called::new().await?;
    let world = &called.world;
    let _server = Server::echo(&world.server, PORT)?;
    let (busy, idle) = (called.peer().await?, called.peer().await?);
    let mut tunnel = busy.open(&called.at(PORT)).await?;
    tunnel.write(Bytes::from_static(b"before")).await?;
    tunnel.read_exactly(6).await?;
    world.proxy.child.signal(nix::sys::signal::Signal::SIGTERM);
    let _ = tokio::time::timeout(PATIENCE, idle.driver).await??;
    let mark = world.proxy.child.stdout.mark();
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {}\n";
    // Nobody can be asked any more whether it is in force.
    world.config.put("policies.yaml", deny)?;
    let ended = tokio::time::timeout(PATIENCE, tunnel.read()).await?;
    ensure!(ended.is_err());
    world.proxy.logged(mark, |line| {
        line.contains("rbac_access_denied_matched_policy[none]")
    })?;
    Ok(())
}

#[derive(Debug)]
struct Nobody;

impl rustls::client::ResolvesClientCert for Nobody {
    fn resolve(
        &self,
        _: &[&[u8]],
        _: &[rustls::SignatureScheme],
    ) -> Option<Arc<rustls::sign::CertifiedKey>> {
        None
    }

    fn has_certs(&self) -> bool {
        false
    }
}

/// A client of our own authority whose certificate has these URIs.
fn several_names(authority: &Authority, names: &[&str]) -> Result<Arc<ClientConfig>> {
    let (leaf, key) = authority.files(names)?;
    showing(authority, &leaf, &key)
}

fn showing(authority: &Authority, leaf: &str, key: &rcgen::KeyPair) -> Result<Arc<ClientConfig>> {
    let leaf = aquifer::tls::certificates(leaf)?;
    let mut config = ClientConfig::clone(&*authority.client(CALLER)?);
    let private = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let signing = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&private.into())?;
    let shown = rustls::sign::CertifiedKey::new(leaf, signing);
    config.client_auth_cert_resolver = Arc::new(rustls::sign::SingleCertAndKey::from(shown));
    Ok(Arc::new(config))
}

/// A client that shows a certificate of our own authority, and has another key.
fn stolen(authority: &Authority) -> Result<Arc<ClientConfig>> {
    let (leaf, _) = authority.files(&[CALLER])?;
    let (_, key) = authority.files(&[CALLER])?;
    showing(authority, &leaf, &key)
}

fn tls12() -> Result<Arc<ClientConfig>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS12])?
        .with_root_certificates(rustls::RootCertStore::empty())
        .with_no_client_auth();
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[tokio::test]
async fn a_certificate_is_of_use_until_it_expires_and_not_longer() -> Result<()> {
    let called = Called::new().await?;
    let (_server, mut accepted) = Server::accepting(&called.world.server, PORT)?;
    let now = aquifer::clock::wall();
    let until = now + Duration::from_secs(4);
    let secrets = called.authority.secrets_within(
        CALLER,
        now - Duration::from_secs(60),
        until,
        &called.authority,
    )?;
    let config = secrets.client(&CALLER.parse()?, &[DEFAULT.parse()?]);
    let config = config.context("a configuration")?;
    let to = IpAddr::from(called.world.server.v4);
    let peer = Peer::connect(&called.caller, to, Arc::clone(&config)).await?;
    let mut tunnel = peer.open(&called.at(PORT)).await?;
    let mut application = accepted.recv().await.context("a connection")?;
    // There is no event: it is a time that comes. The second that it names is the last.
    while aquifer::clock::wall() <= until + Duration::from_secs(1) {
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    ensure!(peer.ask(&called.at(PORT)).await.is_err(), "it was taken");
    // What was begun goes on.
    tunnel.write(Bytes::from_static(b"still here")).await?;
    ensure!(raw::read_exactly(&mut application, 10).await? == b"still here");
    let again = refusal(&called.caller, to, config).await?;
    ensure!(again.contains("CertificateExpired"), "{again}");
    ensure!(called.counter("hbone_downstream_rq").await? == 1);
    Ok(())
}
