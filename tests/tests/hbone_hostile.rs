//! HBONE with peers, authorities and clocks that are not as they should be: each is refused or
//! survived, for the reason that log and counters tell.

mod hbone;

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy, SOON, authority,
    client::Http,
    clock::Deadline,
    echo::Echo,
    netns::Netns,
    process,
    raw::{self, End},
    reasons::Reasons,
};
use bytes::Bytes;
use hbone::asked::{asking, known, renewed, rows, serials};
use hbone::{Authority, HBONE, Peer};
use nix::sys::signal::Signal;
use rustls::ServerConfig;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

const PORT: u16 = 9000;
const HTTP: u16 = 8080;
const SERVICE: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 40));
const LOG: [&str; 4] = [
    "--access-log",
    "json",
    "--log",
    "info,aquifer::dataplane=debug",
];
const CALLER: &str = "spiffe://cluster.local/ns/elsewhere/sa/caller";

fn account(name: &str) -> String {
    format!("spiffe://cluster.local/ns/default/sa/{name}")
}

/// What a peer made by hand does with those who call it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// Sends back what comes by each tunnel.
    Echo,
    /// Takes CONNECTs, and answers none.
    Mute,
    /// Ends its part of the handshake with TLS.
    TlsAlone,
    /// Takes the connection, and says nothing.
    Nothing,
}

/// A peer made by hand in the place of a pod's proxy.
struct Fake {
    task: JoinHandle<()>,
    connects: Arc<AtomicUsize>,
}

impl Fake {
    fn start(pod: &Pod, config: Option<Arc<ServerConfig>>, manner: Manner) -> Result<Self> {
        let listener = pod.netns.listen(SocketAddr::from(([0_u16; 8], HBONE)))?;
        let connects = Arc::<AtomicUsize>::default();
        let counted = Arc::clone(&connects);
        let task = tokio::spawn(async move {
            let mut open = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                let (config, counted) = (config.clone(), Arc::clone(&counted));
                open.spawn(async move {
                    let _ = serve(stream, config, manner, counted).await;
                });
            }
        });
        Ok(Self { task, connects })
    }

    /// Ends it; its port is free then.
    async fn end(mut self) {
        self.task.abort();
        let _ = (&mut self.task).await;
    }

    fn connects(&self) -> usize {
        self.connects.load(Relaxed)
    }
}

impl Drop for Fake {
    fn drop(&mut self) {
        self.task.abort();
    }
}

async fn serve(
    stream: TcpStream,
    config: Option<Arc<ServerConfig>>,
    manner: Manner,
    connects: Arc<AtomicUsize>,
) -> Result<()> {
    let Some(config) = config.filter(|_| manner != Manner::Nothing) else {
        let _held = stream;
        return std::future::pending().await;
    };
    let stream = TlsAcceptor::from(config).accept(stream).await?;
    if manner == Manner::TlsAlone {
        let _held = stream;
        return std::future::pending().await;
    }
    let mut connection = h2::server::handshake(stream).await?;
    let mut held = Vec::new();
    let mut open = JoinSet::new();
    while let Some(request) = connection.accept().await {
        let (request, mut respond) = request?;
        connects.fetch_add(1, Relaxed);
        if manner == Manner::Mute {
            held.push((request, respond));
            continue;
        }
        let mut send = respond.send_response(http::Response::new(()), false)?;
        let mut receive = request.into_body();
        open.spawn(async move {
            while let Some(Ok(bytes)) = receive.data().await {
                let _ = receive.flow_control().release_capacity(bytes.len());
                if send.send_data(bytes, false).is_err() {
                    return;
                }
            }
            let _ = send.send_data(Bytes::new(), true);
        });
    }
    Ok(())
}

/// A proxy with a client, and a pod of the mesh on a node whose proxy the test stands for.
struct Near {
    proxy: Proxy,
    config: Config,
    client: Pod,
    other: Pod,
    elsewhere: Netns,
    lab: Lab,
}

impl Near {
    async fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let elsewhere = lab.another_node("far")?;
        let (client, other) = (lab.pod("client")?, lab.pod("other")?);
        let config = Config::new(&manifests(&lab, &client, &elsewhere, &other, "other"))?;
        let proxy = Proxy::on(&lab, &config).authority().arguments(&LOG);
        // Each worker has connections of its own.
        let proxy = proxy.arguments(&["--workers", "1"]).ready().await?;
        proxy.certified(1).await?;
        Ok(Self {
            proxy,
            config,
            client,
            other,
            elsewhere,
            lab,
        })
    }

    /// What a server with a good certificate of `identity` uses.
    fn server(&self, identity: &str) -> Result<Arc<ServerConfig>> {
        let secrets = Authority::of(&self.config)?.secrets(identity)?;
        secrets
            .server(&identity.parse()?)
            .context("a configuration")
    }

    /// A connection to the other pod, where something comes back.
    async fn echoed(&self) -> Result<bool> {
        echoed(&self.client, self.other.at(PORT)).await
    }

    async fn counter(&self, name: &str) -> Result<u64> {
        self.proxy.counter(name).await
    }
}

fn manifests(lab: &Lab, client: &Pod, node: &Netns, other: &Pod, who: &str) -> Manifests {
    Manifests::new()
        .namespace("default", &[])
        .pod_on(&lab.node, "client", client, &[("app", "client")])
        .pod_on(node, who, other, &[("app", "other")])
        .service(
            "other",
            &[SERVICE],
            &[("http", 80, HTTP), ("tcp", PORT, PORT)],
            &[("app", "other")],
        )
}

/// Whether what is sent comes back; otherwise the client is reset.
async fn echoed(from: &Pod, to: SocketAddr) -> Result<bool> {
    let Ok(mut stream) = from.netns.connect(to).await else {
        return Ok(false);
    };
    let _ = stream.write_all(b"hello").await;
    let _ = stream.shutdown().await;
    match raw::drain(&mut stream).await? {
        (bytes, End::Closed) if bytes == b"hello" => Ok(true),
        (bytes, End::Reset) if bytes.is_empty() => Ok(false),
        other => anyhow::bail!("neither an answer nor a reset: {other:?}"),
    }
}

#[tokio::test]
async fn a_peer_that_says_nothing_is_given_up() -> Result<()> {
    let near = Near::new().await?;
    let rule = "apiVersion: networking.istio.io/v1\nkind: DestinationRule\nmetadata: {name: other, namespace: default}\nspec: {host: other, trafficPolicy: {connectionPool: {tcp: {connectTimeout: 500ms}}}}\n";
    near.proxy
        .after(|| near.config.put("rule.yaml", rule))
        .await?;
    for manner in [Manner::Nothing, Manner::TlsAlone, Manner::Mute] {
        let server = near.server(&account("other"))?;
        let fake = Fake::start(&near.other, Some(server), manner)?;
        let mark = near.proxy.child.stdout.mark();
        let before = near.counter("hbone_upstream_rq_timeout").await?;
        let deadline = Deadline::after(PATIENCE / 2);
        ensure!(!echoed(&near.client, SocketAddr::new(SERVICE, PORT)).await?);
        let mut http = Http::connect(&near.client, SocketAddr::new(SERVICE, 80)).await?;
        let reply = http.get("other", "/silent").await?;
        ensure!(reply.status == 503, "{manner:?}: {reply:?}");
        ensure!(!deadline.passed(), "{manner:?}: it was waited for long");
        let line = near.proxy.logged(mark, |line| line.contains("/silent"))?;
        ensure!(
            line.contains("UF") && line.contains("connection_timeout"),
            "{manner:?}: {line}"
        );
        let after = near.counter("hbone_upstream_rq_timeout").await?;
        ensure!(after >= before + 2, "{manner:?}: {before} {after}");
        ensure!(
            (fake.connects() > 0) == (manner == Manner::Mute),
            "{manner:?}"
        );
        fake.end().await;
    }
    // One that answers is reached anew, once what was opened before is given up.
    let _fake = Fake::start(
        &near.other,
        Some(near.server(&account("other"))?),
        Manner::Echo,
    )?;
    let deadline = Deadline::after(PATIENCE);
    while !near.echoed().await? {
        ensure!(!deadline.passed(), "{}", near.proxy.complaints());
    }
    Ok(())
}

#[tokio::test]
async fn a_peer_that_is_not_who_is_meant_is_not_told_anything() -> Result<()> {
    let near = Near::new().await?;
    let authority = Authority::of(&near.config)?;
    let expected = account("other");
    let named = |names: &[&str]| {
        let (leaf, key) = authority.files(names)?;
        showing(&leaf, &key)
    };
    let (stolen, _) = authority.files(&[&expected])?;
    let (_, other_key) = authority.files(&[&expected])?;
    let (foreign, foreign_key) = Authority::foreign("cluster.local")?.files(&[&expected])?;
    let stranger = "spiffe://other/ns/default/sa/other";
    let now = aquifer::clock::wall();
    let hour = Duration::from_secs(3600);
    let within = |from, until| -> Result<Arc<ServerConfig>> {
        let secrets = authority.secrets_within(&expected, from, until, &authority)?;
        secrets
            .server(&expected.parse()?)
            .context("a configuration")
    };
    let found = |name: &str| format!("it is {}, expected was {expected}", account(name));
    let (another, own) = (found("another"), found("client"));
    let two_names = "its certificate has 2 URIs where one must be";
    for (name, config, text, reason) in [
        (
            "another account",
            near.server(&account("another"))?,
            &*another,
            "unexpected_identity",
        ),
        (
            "the caller's own",
            near.server(&account("client"))?,
            &*own,
            "unexpected_identity",
        ),
        (
            "two names",
            named(&[&expected, CALLER])?,
            two_names,
            "several_names",
        ),
        (
            "two names, the other way round",
            named(&[CALLER, &expected])?,
            two_names,
            "several_names",
        ),
        (
            "no name",
            named(&[])?,
            "its certificate has no URI",
            "no_identity",
        ),
        (
            "expired",
            within(now - 2 * hour, now - hour)?,
            "certificate expired",
            "expired",
        ),
        (
            "not yet valid",
            within(now + hour, now + 2 * hour)?,
            "certificate not valid yet",
            "not_yet_valid",
        ),
        (
            "another authority of the same name",
            showing(&foreign, &foreign_key)?,
            "UnknownIssuer",
            "unknown_issuer",
        ),
        (
            "another trust domain",
            named(&[stranger])?,
            "spiffe://other/ns/default/sa/other is of a trust domain that is neither",
            "trust_domain",
        ),
        (
            "the right certificate, and another key",
            showing(&stolen, &other_key)?,
            "BadSignature",
            "signature",
        ),
    ] {
        let fake = Fake::start(&near.other, Some(config), Manner::Echo)?;
        let mark = near.proxy.child.stdout.mark();
        let before = failures(&near.proxy).await?;
        ensure!(!near.echoed().await?, "{name}");
        let line = near.proxy.logged(mark, |line| line.contains("hbone:"))?;
        ensure!(
            line.contains("hbone: TLS: ") && line.contains(text),
            "{name}: {line}"
        );
        ensure!(
            fake.connects() == 0,
            "{name}: it was told what is asked for"
        );
        let added = failed_since(&near.proxy, &before).await?;
        let one = format!("{reason}=1");
        ensure!(added == [&*one, &*one], "{name}: {added:?}");
        fake.end().await;
    }
    let _fake = Fake::start(&near.other, Some(named(&[&expected])?), Manner::Echo)?;
    ensure!(near.echoed().await?, "{}", near.proxy.complaints());
    Ok(())
}

/// What a server uses that shows this certificate with this key, and asks for none.
fn showing(leaf: &str, key: &rcgen::KeyPair) -> Result<Arc<ServerConfig>> {
    let key = rustls::pki_types::PrivatePkcs8KeyDer::from(key.serialize_der());
    let key = rustls::crypto::aws_lc_rs::sign::any_ecdsa_type(&key.into())?;
    let shown = rustls::sign::CertifiedKey::new(aquifer::tls::certificates(leaf)?, key);
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(rustls::sign::SingleCertAndKey::from(shown)));
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

/// What a client's proxy counts of what came to nothing: its connections, and the CONNECTs.
const FAILURES: [&str; 2] = ["hbone_upstream_cx_fail", "hbone_upstream_rq_fail"];

async fn failures(proxy: &Proxy) -> Result<[Reasons; 2]> {
    let [connections, connects] = FAILURES;
    Ok([
        proxy.reasons(connections).await?,
        proxy.reasons(connects).await?,
    ])
}

async fn failed_since(proxy: &Proxy, before: &[Reasons; 2]) -> Result<[String; 2]> {
    let after = failures(proxy).await?;
    Ok([0, 1].map(|index| after[index].since(&before[index])))
}

#[tokio::test]
async fn an_address_that_another_identity_takes_over_is_not_the_old_ones() -> Result<()> {
    let near = Near::new().await?;
    let old = Fake::start(
        &near.other,
        Some(near.server(&account("other"))?),
        Manner::Echo,
    )?;
    ensure!(near.echoed().await?, "{}", near.proxy.complaints());
    let mut open = near.client.netns.connect(near.other.at(PORT)).await?;
    open.write_all(b"x").await?;
    raw::read_exactly(&mut open, 1).await?;
    let served = old.connects();
    // The pod is gone, and its address another's; whoever answered there still does.
    let taken = manifests(
        &near.lab,
        &near.client,
        &near.elsewhere,
        &near.other,
        "heir",
    );
    let given = manifests(
        &near.lab,
        &near.client,
        &near.elsewhere,
        &near.other,
        "other",
    );
    // Whose certificate is shown there, and who must be there now.
    let refused = async |found: &str, expected: &str| -> Result<()> {
        let (mark, before) = (near.proxy.child.stdout.mark(), failures(&near.proxy).await?);
        ensure!(!near.echoed().await?, "{found} was taken for {expected}");
        let (found, expected) = (account(found), account(expected));
        let text = format!("hbone: TLS: it is {found}, expected was {expected}");
        near.proxy.logged(mark, |line| line.contains(&text))?;
        let added = failed_since(&near.proxy, &before).await?;
        ensure!(added == ["unexpected_identity=1"; 2], "{added:?}");
        Ok(())
    };
    // From when it is another's to when the old one is refused. What else the machine does may
    // come between once, but not each time.
    const SECOND: Duration = Duration::from_secs(1);
    let mut fastest = Duration::MAX;
    for round in 0..5 {
        let began = aquifer_tests::clock::now();
        near.proxy
            .after(|| near.config.put("mesh.yaml", taken.text()))
            .await?;
        refused("other", "heir").await?;
        fastest = fastest.min(began.elapsed());
        ensure!(old.connects() == served + round, "the old one was asked");
        if fastest < SECOND {
            break;
        }
        near.proxy
            .after(|| near.config.put("mesh.yaml", given.text()))
            .await?;
        ensure!(near.echoed().await?, "{}", near.proxy.complaints());
    }
    ensure!(fastest < SECOND, "it took {fastest:?}");
    old.end().await;
    let heir = Fake::start(
        &near.other,
        Some(near.server(&account("heir"))?),
        Manner::Echo,
    )?;
    ensure!(near.echoed().await?, "{}", near.proxy.complaints());
    ensure!(heir.connects() == 1);
    // And back: the connection of each identity is its own.
    near.proxy
        .after(|| near.config.put("mesh.yaml", given.text()))
        .await?;
    refused("heir", "other").await?;
    ensure!(heir.connects() == 1);
    Ok(())
}

/// A client's proxy and a server's.
struct Pair {
    near: Proxy,
    far: Proxy,
    _config: Config,
    client: Pod,
    server: Pod,
    _node: Netns,
    _lab: Lab,
}

impl Pair {
    /// With these arguments beside the usual, and what both have in their environment.
    async fn new(
        lab: Lab,
        signing: impl Fn(&Lab, usize) -> Result<Vec<String>>,
        environment: [&[(&str, &str)]; 2],
    ) -> Result<Self> {
        let node = lab.another_node("far")?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let manifests = pair_manifests(&lab, &client, &node, &server);
        let config = Config::new(&manifests)?;
        let start = |index: usize| -> Result<_> {
            let arguments = signing(&lab, index)?;
            let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
            let mut start = Proxy::on(&lab, &config).arguments(&LOG);
            if arguments.is_empty() {
                start = start.authority();
            }
            for (name, value) in environment[index] {
                start = start.environment(name, value);
            }
            // Each worker has connections of its own.
            Ok(start.arguments(&["--workers", "1"]).arguments(&arguments))
        };
        let far = start(1)?.node(&node).ready().await?;
        let near = start(0)?.ready().await?;
        near.certified(1).await?;
        far.certified(1).await?;
        Ok(Self {
            near,
            far,
            _config: config,
            client,
            server,
            _node: node,
            _lab: lab,
        })
    }

    async fn reaches(&self) -> Result<bool> {
        echoed(&self.client, self.server.at(PORT)).await
    }

    fn said(&self) -> String {
        let (near, far) = (self.near.complaints(), self.far.complaints());
        format!("near:\n{near}\nfar:\n{far}")
    }
}

fn pair_manifests(lab: &Lab, client: &Pod, node: &Netns, server: &Pod) -> Manifests {
    Manifests::new()
        .namespace("default", &[])
        .pod_on(&lab.node, "client", client, &[("app", "client")])
        .pod_on(node, "server", server, &[("app", "server")])
        .service(
            "server",
            &[SERVICE],
            &[("http", 80, HTTP)],
            &[("app", "server")],
        )
}

/// Sends a byte and reads it back.
async fn ping(stream: &mut TcpStream) -> Result<()> {
    stream.write_all(b"x").await?;
    let mut byte = [0];
    tokio::time::timeout(PATIENCE, stream.read_exact(&mut byte)).await??;
    Ok(())
}

#[tokio::test]
async fn certificates_change_under_load_and_nothing_is_lost() -> Result<()> {
    let life = |config: &Path| {
        let folder = config.join(".ca").to_string_lossy().into_owned();
        [
            "--ca",
            "self",
            "--ca-dir",
            &folder,
            "--certificate-life",
            "6",
        ]
        .map(str::to_owned)
        .to_vec()
    };
    let folder = tempfile::tempdir()?;
    let pair = Pair::new(Lab::new()?, |_, _| Ok(life(folder.path())), [&[], &[]]).await?;
    let _server = hbone::echo(&pair.server, PORT)?;
    let _web = Echo::start(&pair.server, HTTP, "server")?;
    let over = AtomicBool::new(false);
    // It lasts through all of it.
    let mut open = pair.client.netns.connect(pair.server.at(PORT)).await?;
    let requests = async |http2: bool| -> Result<usize> {
        let to = SocketAddr::new(SERVICE, 80);
        let mut http = match http2 {
            false => Http::connect(&pair.client, to).await?,
            true => Http::connect2(&pair.client, to).await?,
        };
        let mut count = 0;
        while !over.load(Relaxed) {
            let reply = http.get("server", "/").await?;
            ensure!(reply.status == 200, "after {count}: {reply:?}");
            count += 1;
        }
        Ok(count)
    };
    let connections = async || -> Result<usize> {
        let mut count = 0;
        while !over.load(Relaxed) {
            ensure!(pair.reaches().await?, "after {count}");
            count += 1;
        }
        Ok(count)
    };
    let changes = async {
        let outcome = async {
            for proxy in [&pair.near, &pair.far, &pair.near, &pair.far] {
                let before = serials(&proxy.admin("/config/secrets").await?);
                ensure!(!before.is_empty());
                renewed(proxy, &before).await?;
                ping(&mut open).await?;
            }
            Ok(())
        };
        let outcome = outcome.await;
        over.store(true, Relaxed);
        outcome
    };
    let (changed, one, two, third) =
        tokio::join!(changes, requests(false), requests(true), connections());
    changed?;
    for count in [one, two, third] {
        let count = count.with_context(|| pair.said())?;
        ensure!(count > 10, "{count}");
    }
    ping(&mut open).await?;
    // The connections of the old ones were replaced, without being ended.
    ensure!(pair.near.counter("hbone_upstream_cx").await? >= 3);
    for counter in [
        "hbone_upstream_cx_fail",
        "hbone_upstream_rq_fail",
        "hbone_upstream_cx_untrusted",
    ] {
        ensure!(pair.near.counter(counter).await? == 0, "{counter}");
    }
    Ok(())
}

#[tokio::test]
async fn a_new_root_comes_under_load_and_nothing_is_lost() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let text = folder.path().to_string_lossy().into_owned();
    let signing = ["--ca", "self", "--ca-dir", &text, "--certificate-life", "6"];
    let signing = signing.map(str::to_owned).to_vec();
    let pair = Pair::new(Lab::new()?, |_, _| Ok(signing.clone()), [&[], &[]]).await?;
    let both_nodes = [&pair.near, &pair.far];
    let _server = hbone::echo(&pair.server, PORT)?;
    let over = AtomicBool::new(false);
    let connections = async || -> Result<usize> {
        let mut count = 0;
        while !over.load(Relaxed) {
            ensure!(pair.reaches().await?, "after {count}: {}", pair.said());
            count += 1;
        }
        Ok(count)
    };
    let put = |name: &str, text: &str| -> Result<()> {
        std::fs::write(path("new"), text)?;
        Ok(std::fs::rename(path("new"), path(name))?)
    };
    let roots = |count: usize| {
        move |answer: &Value| !serials(answer).is_empty() && rows(answer, "root").len() == count
    };
    let change = async || -> Result<()> {
        // Rests on the old root, whatever comes after it.
        let mut old = pair.client.netns.connect(pair.server.at(PORT)).await?;
        ping(&mut old).await?;
        let own = std::fs::read_to_string(path("ca-cert.pem"))?;
        let (new, key) = Authority::foreign("cluster.local")?.pem();
        put("root-cert.pem", &(own + &new))?;
        for proxy in both_nodes {
            proxy.until("/config/secrets", roots(2)).await?;
            // Told of this change: what is told from here on is of the next.
            let log = &proxy.child.stderr;
            log.wait_for(0, PATIENCE, |line| line.contains("read anew"))?;
        }
        let marks = both_nodes.map(|proxy| proxy.child.stderr.mark());
        put("ca-key.pem", &key)?;
        put("ca-cert.pem", &new)?;
        // The caller's last: with its new certificate it opens connections anew, and is shown the new
        // one of who is called.
        for (proxy, mark) in both_nodes.into_iter().zip(marks).rev() {
            let log = &proxy.child.stderr;
            log.wait_for(mark, PATIENCE, |line| line.contains("read anew"))?;
            let before = serials(&proxy.admin("/config/secrets").await?);
            renewed(proxy, &before).await?;
        }
        ping(&mut old).await?;
        let mut open = pair.client.netns.connect(pair.server.at(PORT)).await?;
        ping(&mut open).await?;
        put("root-cert.pem", &new)?;
        for proxy in both_nodes {
            proxy.until("/config/secrets", roots(1)).await?;
        }
        ensure!(
            raw::drain(&mut old).await?.1 == End::Reset,
            "its root is gone"
        );
        ping(&mut open).await
    };
    let changes = async {
        let outcome = change().await;
        over.store(true, Relaxed);
        outcome
    };
    let (changed, count) = tokio::join!(changes, connections());
    let count = count?;
    changed.with_context(|| pair.said())?;
    ensure!(count > 10, "{count}");
    for counter in ["hbone_upstream_cx_fail", "hbone_upstream_rq_fail"] {
        ensure!(pair.near.counter(counter).await? == 0, "{counter}");
    }
    Ok(())
}

#[tokio::test]
async fn an_authority_that_is_down_ends_nothing_before_certificates_end() -> Result<()> {
    let lab = Lab::new()?;
    process::output(
        "ip",
        &["-netns", lab.node.name(), "link", "set", "lo", "up"],
    )?;
    let files = known(&lab)?;
    let mut authority = authority::Authority::start(&lab.node, &files, &[]).await?;
    let node = Netns::open(lab.node.name())?;
    let pair = Pair::new(
        lab,
        |lab, index| asking(&files, lab, index, "8"),
        [&[], &[]],
    )
    .await?;
    let _server = hbone::echo(&pair.server, PORT)?;
    let mut open = pair.client.netns.connect(pair.server.at(PORT)).await?;
    ping(&mut open).await?;
    authority.child.signal(Signal::SIGTERM);
    authority.child.wait(PATIENCE)?;
    let stale = |answer: &Value| {
        let all = rows(answer, "certificate");
        all.iter().any(|row| row["state"] == "stale")
    };
    pair.near.until("/config/secrets", stale).await?;
    ensure!(pair.reaches().await?, "{}", pair.said());
    ping(&mut open).await?;
    let expired = |answer: &Value| answer.to_string().contains("\"expired\"");
    pair.near.until("/config/secrets", expired).await?;
    let mark = pair.near.child.stdout.mark();
    let before = failures(&pair.near).await?;
    ensure!(!pair.reaches().await?);
    pair.near.logged(mark, |line| {
        line.contains("hbone: there is no certificate for ")
    })?;
    let added = failed_since(&pair.near, &before).await?;
    ensure!(added == ["", "own_certificate=1"], "{added:?}");
    let metrics = pair.near.metrics().await?;
    ensure!(
        metrics.contains("aquifer_certificates{state=\"missing\"} 1")
            && metrics.contains("requests_total{result=\"unreachable\"}"),
        "{metrics}"
    );
    // What was proved when it was opened goes on.
    ping(&mut open).await?;
    authority = authority::Authority::start(&node, &files, &[]).await?;
    let active = |answer: &Value| !serials(answer).is_empty();
    pair.near.until("/config/secrets", active).await?;
    ensure!(pair.reaches().await?, "{}", pair.said());
    drop(authority);
    Ok(())
}

#[tokio::test]
async fn trust_that_is_withdrawn_ends_what_rests_on_it() -> Result<()> {
    let lab = Lab::new()?;
    process::output(
        "ip",
        &["-netns", lab.node.name(), "link", "set", "lo", "up"],
    )?;
    let node = lab.another_node("far")?;
    let (client, other, caller) = (lab.pod("client")?, lab.pod("other")?, lab.pod("caller")?);
    let files = known(&lab)?;
    let authority = authority::Authority::start(&lab.node, &files, &[]).await?;
    // Another root beside the authority's own.
    let foreign = Authority::foreign("cluster.local")?;
    let own = std::fs::read_to_string(files.path("ca/ca-cert.pem"))?;
    files.put("ca/root-cert.pem", &(own.clone() + &foreign.pem().0))?;
    let config = Config::new(&manifests(&lab, &client, &node, &other, "other"))?;
    let arguments = asking(&files, &lab, 0, "6")?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let proxy = Proxy::on(&lab, &config)
        .arguments(&LOG)
        .arguments(&arguments);
    let proxy = proxy.ready().await?;
    let roots = |count: usize| {
        move |answer: &Value| !serials(answer).is_empty() && rows(answer, "root").len() == count
    };
    proxy.until("/config/secrets", roots(2)).await?;
    let ours = Authority::at(&files.path("ca"))?;
    let now = aquifer::clock::wall();
    let hour = Duration::from_secs(3600);
    let secrets = |identity: &str| foreign.secrets_within(identity, now - hour, now + hour, &ours);

    // A peer that calls, and one that is called.
    let _echo = hbone::echo(&client, PORT)?;
    let peer = secrets(CALLER)?.client(&CALLER.parse()?, &[account("client").parse()?]);
    let peer = peer.context("a configuration")?;
    let calling = Peer::connect(&caller, client.v4.into(), Arc::clone(&peer)).await?;
    let mut tunnel = calling.open(&client.at(PORT).to_string()).await?;
    tunnel.write(Bytes::from_static(b"x")).await?;
    tunnel.read_exactly(1).await?;
    let called = secrets(&account("other"))?.server(&account("other").parse()?);
    let fake = Fake::start(&other, called, Manner::Echo)?;
    let mut open = client.netns.connect(other.at(PORT)).await?;
    ping(&mut open).await?;
    ensure!(fake.connects() == 1, "{}", proxy.complaints());

    let mark = proxy.child.stderr.mark();
    files.put("ca/root-cert.pem", &own)?;
    proxy.until("/config/secrets", roots(1)).await?;
    let deadline = Deadline::after(SOON);
    ensure!(raw::drain(&mut open).await?.1 == End::Reset);
    ensure!(tunnel.read().await.is_err(), "it must not look like an end");
    ensure!(!deadline.passed(), "it took long");
    for counter in [
        "hbone_upstream_cx_untrusted",
        "hbone_downstream_cx_untrusted",
    ] {
        ensure!(proxy.counter(counter).await? == 1, "{counter}");
    }
    for side in ["hbone::client", "hbone::server"] {
        proxy.child.stderr.wait_for(mark, PATIENCE, |line| {
            line.contains(side) && line.contains("an open HBONE connection is no longer trusted")
        })?;
    }
    // Nor is there another one.
    ensure!(!echoed(&client, other.at(PORT)).await?);
    ensure!(
        !hbone::refusal(&caller, client.v4.into(), peer)
            .await?
            .is_empty()
    );
    drop(authority);
    Ok(())
}

/// A library that shifts the wall clock of a program by the seconds in the file that `CLOCK_SHIFT`
/// names: a time namespace has no wall clock of its own.
const SHIFT: &str = r#"
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

int clock_gettime(clockid_t id, struct timespec *now) {
    static int (*real)(clockid_t, struct timespec *);
    static int file = -1;
    if (!real) real = (int (*)(clockid_t, struct timespec *))dlsym(RTLD_NEXT, "clock_gettime");
    int result = real(id, now);
    if (result == 0 && id == CLOCK_REALTIME) {
        char text[32] = {0};
        if (file < 0 && getenv("CLOCK_SHIFT")) file = open(getenv("CLOCK_SHIFT"), O_RDONLY | O_CLOEXEC);
        if (file >= 0 && pread(file, text, sizeof text - 1, 0) > 0) now->tv_sec += atol(text);
    }
    return result;
}
"#;

#[tokio::test]
async fn a_clock_that_jumps_by_an_hour_is_survived() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name).to_string_lossy().into_owned();
    let (source, library) = (path("shift.c"), path("shift.so"));
    std::fs::write(&source, SHIFT)?;
    process::output("cc", &["-shared", "-fPIC", "-o", &library, &source, "-ldl"])?;
    let shifts = [path("near"), path("far")];
    // Of one width: the file is read while it is written.
    let shift = |index: usize, by: &str| std::fs::write(&shifts[index], format!("{by:>8}"));
    shift(0, "0")?;
    shift(1, "0")?;
    let environment: [Vec<_>; 2] = shifts.each_ref().map(|file| {
        vec![
            ("LD_PRELOAD", library.as_str()),
            ("CLOCK_SHIFT", file.as_str()),
        ]
    });
    let own = path("ca");
    let signing = |_: &Lab, _| {
        let words = [
            "--ca",
            "self",
            "--ca-dir",
            &own,
            "--certificate-life",
            "3000",
        ];
        Ok(words.map(str::to_owned).to_vec())
    };
    let pair = Pair::new(Lab::new()?, signing, [&environment[0], &environment[1]]).await?;
    let maps = std::fs::read_to_string(format!("/proc/{}/maps", pair.near.child.pid()))?;
    ensure!(
        maps.contains("shift.so"),
        "the binary under test is static, so that its clock can't be turned: name another one"
    );
    let _server = hbone::echo(&pair.server, PORT)?;
    let mut open = pair.client.netns.connect(pair.server.at(PORT)).await?;
    ping(&mut open).await?;
    let proxies = [&pair.near, &pair.far];
    let mut known = Vec::new();
    for proxy in proxies {
        known.push(serials(&proxy.admin("/config/secrets").await?));
    }
    let before = [failures(&pair.near).await?, failures(&pair.far).await?];
    // Forward, when every certificate has expired; back, when none is valid yet.
    for by in ["3600", "0"] {
        shift(0, by)?;
        shift(1, by)?;
        for (proxy, known) in proxies.iter().zip(&mut known) {
            *known = renewed(proxy, known).await?;
        }
        ensure!(pair.reaches().await?, "{by}: {}", pair.said());
        ping(&mut open)
            .await
            .with_context(|| format!("{by}: {}", pair.said()))?;
    }
    // Nothing failed by it, nobody lost trust, and the new certificates were not refused.
    for (proxy, before) in proxies.iter().zip(&before) {
        let added = failed_since(proxy, before).await?;
        ensure!(added == ["", ""], "{added:?}");
        for counter in [
            "hbone_upstream_cx_untrusted",
            "hbone_downstream_cx_untrusted",
        ] {
            ensure!(proxy.counter(counter).await? == 0, "{counter}");
        }
        let metrics = proxy.metrics().await?;
        ensure!(
            metrics.contains("aquifer_certificates{state=\"active\"} 1")
                && metrics.contains("requests_total{result=\"success\"} 3"),
            "{metrics}"
        );
    }
    // One node's alone: the two no longer agree on what holds now, and say so.
    shift(0, "3600")?;
    known[0] = renewed(proxies[0], &known[0]).await?;
    let mark = pair.near.child.stdout.mark();
    let far_mark = pair.far.child.stdout.mark();
    let before = failures(&pair.near).await?;
    let refused = pair.far.reasons("hbone_downstream_cx_refused").await?;
    ensure!(!pair.reaches().await?);
    let line = pair.near.logged(mark, |line| line.contains("hbone:"))?;
    ensure!(
        line.contains("hbone: TLS: ") && line.contains("certificate expired"),
        "{line}"
    );
    let added = failed_since(&pair.near, &before).await?;
    ensure!(added == ["expired=1"; 2], "{added:?}");
    pair.far.logged(far_mark, |line| {
        line.contains("hbone:_TLS:_received_fatal_alert:_CertificateExpired")
    })?;
    let after = pair.far.reasons("hbone_downstream_cx_refused").await?;
    ensure!(after.since(&refused) == "refused_by_peer=1", "{after:?}");
    ping(&mut open).await?;
    shift(0, "0")?;
    renewed(proxies[0], &known[0]).await?;
    ensure!(pair.reaches().await?, "{}", pair.said());
    ping(&mut open).await?;
    Ok(())
}
