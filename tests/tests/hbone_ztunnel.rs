//! HBONE with a real ztunnel on the other side, as the one that calls and as the one that is called.
//! Its certificates are signed by the authority of the proxies, over the protocol that it asks istiod
//! by.

mod hbone;

use std::{
    convert::Infallible,
    net::{Ipv4Addr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use aquifer::{
    proto::{
        ca::{CertificateRequest, CertificateResponse},
        grpc::server::{Limits, response, unary},
    },
    tls::{Asked, Issuer, Key, pem, service},
    types::Identity,
};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    client::Http,
    clock::{self, Deadline},
    echo::Echo,
    netns::Netns,
    peer::{
        Ztunnel,
        ztunnel::{self, Signer, Workload},
    },
    raw::{self, End, Server},
};
use hbone::{Authority, echo, play};
use hyper::{server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use nix::sys::signal::Signal;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::{JoinHandle, JoinSet},
};
use tokio_rustls::TlsAcceptor;

const PORT: u16 = 9000;
const HTTP: u16 = 8080;
const OURS: &str = "spiffe://cluster.local/ns/default/sa/ours";
const THEIRS: &str = "spiffe://cluster.local/ns/default/sa/theirs";
const DAY: Duration = Duration::from_secs(24 * 3600);

/// An authority for one ztunnel, beside it. `aquifer ca` wants to be told whose certificate is asked
/// for, which ztunnel does only where it stands for more than one pod.
struct Signing {
    task: JoinHandle<()>,
    signed: Arc<AtomicUsize>,
    folder: tempfile::TempDir,
}

impl Signing {
    const PORT: u16 = 15012;

    /// Signs certificates of [`THEIRS`] that hold for `life`.
    fn start(pod: &Pod, issuer: Issuer, life: Duration) -> Result<Self> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("roots.pem"), issuer.certificate_pem())?;
        std::fs::write(folder.path().join("token"), "a token")?;
        let at = SocketAddr::from((Ipv4Addr::LOCALHOST, Self::PORT));
        let listener = pod.netns.listen(at)?;
        let now = aquifer::clock::wall();
        let key = Key::generate()?;
        let names = [at.ip().to_string()];
        let chain = issuer.host(&key, &names, now - Duration::from_secs(60), now + DAY)?;
        let acceptor = TlsAcceptor::from(service::server(chain, &key)?);
        let signed = Arc::new(AtomicUsize::new(0));
        let asked = Arc::new(Asking {
            issuer,
            life,
            signed: Arc::clone(&signed),
        });
        let task = tokio::spawn(asked.serve(listener, acceptor));
        Ok(Self {
            task,
            signed,
            folder,
        })
    }

    async fn ztunnel(&self, workloads: [Workload<'_>; 2], policies: &str) -> Result<Ztunnel> {
        let binary = ztunnel::binary().context("ZTUNNEL_BIN has no path")?;
        let signer = Signer::At {
            url: &format!("https://{}:{}", Ipv4Addr::LOCALHOST, Self::PORT),
            roots: &self.folder.path().join("roots.pem"),
            token: &self.folder.path().join("token"),
            life: DAY,
        };
        Ztunnel::start(&binary, &workloads, policies, signer).await
    }
}

impl Drop for Signing {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What the authority's connections share.
struct Asking {
    issuer: Issuer,
    life: Duration,
    signed: Arc<AtomicUsize>,
}

impl Asking {
    async fn serve(self: Arc<Self>, listener: TcpListener, acceptor: TlsAcceptor) {
        let mut open = JoinSet::new();
        while let Ok((stream, _)) = listener.accept().await {
            let (this, acceptor) = (Arc::clone(&self), acceptor.clone());
            open.spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else {
                    return;
                };
                let answer = service_fn(move |request| {
                    let this = Arc::clone(&this);
                    async move { Ok::<_, Infallible>(this.answer(request).await) }
                });
                let _ = http2::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), answer)
                    .await;
            });
        }
    }

    async fn answer(
        &self,
        request: http::Request<hyper::body::Incoming>,
    ) -> http::Response<aquifer::proto::grpc::server::Reply> {
        let limits = Limits {
            size: 1 << 16,
            time: PATIENCE,
        };
        let outcome = unary(request, limits, async |_, request: CertificateRequest| {
            self.sign(&request)
        });
        match outcome.await {
            Ok(Ok(answer)) => response(Ok(&answer)),
            // The test hears of it by ztunnel, which has no certificate.
            Ok(Err(_)) => {
                let status = http::StatusCode::INTERNAL_SERVER_ERROR;
                let refusal = aquifer::proto::grpc::server::Refusal::Http(status);
                response::<CertificateResponse>(Err(&refusal))
            }
            Err(refusal) => response::<CertificateResponse>(Err(&refusal)),
        }
    }

    fn sign(&self, request: &CertificateRequest) -> Result<CertificateResponse> {
        let identity: Identity = THEIRS.parse()?;
        let asked = Asked::from_pem(&request.csr)?;
        let now = aquifer::clock::wall();
        let from = now - Duration::from_secs(1);
        let chain = self
            .issuer
            .sign(&asked.der, &identity, from, now + self.life)?;
        let chain = chain.iter().map(|one| pem(one));
        let roots = std::iter::once(self.issuer.certificate_pem());
        self.signed.fetch_add(1, Relaxed);
        Ok(CertificateResponse {
            cert_chain: chain.chain(roots).collect(),
        })
    }
}

/// A pod of this project's node proxy, and one of ztunnel's. In this order they go.
struct Two {
    proxy: Proxy,
    ztunnel: Ztunnel,
    signing: Signing,
    config: Config,
    ours: Pod,
    theirs: Pod,
    _node: Netns,
    _lab: Lab,
}

impl Two {
    /// With ztunnel's policies, in its own form, and how long certificates hold.
    async fn with(policies: &str, life: Duration) -> Result<Self> {
        let lab = Lab::new()?;
        let node = lab.another_node("far")?;
        let (ours, theirs) = (lab.pod("ours")?, lab.pod("theirs")?);
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod_on(&lab.node, "ours", &ours, &[("app", "ours")])
            .pod_on(&node, "theirs", &theirs, &[("app", "theirs")]);
        let config = Config::new(&manifests)?;
        let seconds = life.as_secs().to_string();
        let proxy = Proxy::on(&lab, &config).authority().arguments(&[
            "--access-log",
            "json",
            "--log",
            "info,aquifer::dataplane=debug",
            // Each worker has connections of its own.
            "--workers",
            "1",
            "--certificate-life",
            &seconds,
        ]);
        let proxy = proxy.ready().await?;
        proxy.certified(1).await?;
        let signing = Signing::start(&theirs, Authority::of(&config)?.issuer(), life)?;
        let ztunnel = signing.ztunnel(workloads(&ours, &theirs), policies).await?;
        Ok(Self {
            proxy,
            ztunnel,
            signing,
            config,
            ours,
            theirs,
            _node: node,
            _lab: lab,
        })
    }

    async fn new() -> Result<Self> {
        Self::with("[]", DAY).await
    }

    /// From our pod to ztunnel's.
    async fn out(&self, port: u16) -> Result<TcpStream> {
        Ok(self.ours.netns.connect(self.theirs.at(port)).await?)
    }

    /// From ztunnel's pod to ours.
    async fn back(&self, port: u16) -> Result<TcpStream> {
        self.ztunnel.connect(self.ours.at(port)).await
    }

    fn said(&self) -> String {
        format!(
            "ztunnel:\n{}\naquifer:\n{}\n{}",
            self.ztunnel.said(),
            self.proxy.child.stdout.since(0).join("\n"),
            self.proxy.complaints()
        )
    }
}

fn workloads<'a>(ours: &'a Pod, theirs: &'a Pod) -> [Workload<'a>; 2] {
    [("theirs", theirs), ("ours", ours)].map(|(account, pod)| Workload { account, pod })
}

/// True where a connection carries a byte to an echo and back.
async fn speaks(stream: Result<TcpStream>) -> Result<bool> {
    let Ok(mut stream) = stream else {
        return Ok(false);
    };
    let _ = stream.write_all(b"\0").await;
    let _ = stream.shutdown().await;
    Ok(raw::drain(&mut stream).await?.0 == b"\0")
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_is_called() -> Result<()> {
    let two = Two::new().await?;
    let _echo = echo(&two.theirs, PORT)?;
    let _web = Echo::start(&two.theirs, HTTP, "theirs")?;
    let mark = two.ztunnel.child.stdout.mark();
    play(async || two.out(PORT).await, 250)
        .await
        .with_context(|| two.said())?;
    let mut http = Http::over1(two.out(HTTP).await?).await?;
    for _ in 0..3 {
        let reply = http.get("theirs", "/").await?;
        ensure!(reply.status == 200, "{reply:?}\n{}", two.said());
    }
    // Who called is known there, by the certificate alone.
    let line = two.ztunnel.child.stdout.wait_for(mark, PATIENCE, |line| {
        line.contains("connection complete") && line.contains("direction=\"inbound\"")
    })?;
    ensure!(line.contains(&format!("src.identity=\"{OURS}\"")), "{line}");
    let stats = two.proxy.stats().await?;
    ensure!(stats["node.hbone_upstream_rq_fail"] == 0, "{stats:?}");
    // Streams have places for 100 each.
    ensure!(stats["node.hbone_upstream_cx"] >= 3, "{stats:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_calls() -> Result<()> {
    let two = Two::new().await?;
    let _echo = echo(&two.ours, PORT)?;
    let _web = Echo::start(&two.ours, HTTP, "ours")?;
    let mark = two.proxy.child.stdout.mark();
    play(async || two.back(PORT).await, 250)
        .await
        .with_context(|| two.said())?;
    let mut http = Http::over1(two.back(HTTP).await?).await?;
    for _ in 0..3 {
        let reply = http.get("ours", "/").await?;
        ensure!(reply.status == 200, "{reply:?}\n{}", two.said());
    }
    let line = two
        .proxy
        .logged(mark, |line| line.contains("inbound|9000||"))?;
    let principal = "\"downstream_principal\":\"cluster.local/ns/default/sa/theirs\"";
    ensure!(line.contains(principal), "{line}");
    ensure!(line.contains(&two.theirs.v4.to_string()), "{line}");
    let stats = two.proxy.stats().await?;
    ensure!(stats["node.hbone_downstream_rq"] == 252, "{stats:?}");
    ensure!(stats["node.hbone_downstream_rq_refused"] == 0, "{stats:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_passes_half_closes_and_makes_ends_of_resets() -> Result<()> {
    // Nothing that HTTP could begin with, so that nobody waits for more of it.
    const HELLO: &[u8] = b"\0hello";
    let two = Two::new().await?;
    for outward in [true, false] {
        let at = if outward { &two.theirs } else { &two.ours };
        let (_server, mut accepted) = Server::accepting(at, PORT)?;
        let mut open = async || -> Result<(TcpStream, TcpStream)> {
            let opened = if outward {
                two.out(PORT).await
            } else {
                two.back(PORT).await
            };
            let mut client = opened.with_context(|| two.said())?;
            client.write_all(HELLO).await?;
            let application = tokio::time::timeout(PATIENCE, accepted.recv()).await;
            let mut application = application
                .with_context(|| two.said())?
                .context("a connection")?;
            ensure!(raw::read_exactly(&mut application, HELLO.len()).await? == HELLO);
            Ok((client, application))
        };
        // The caller has said all, and still hears.
        let (mut client, mut application) = open().await?;
        client.shutdown().await?;
        ensure!(raw::drain(&mut application).await? == (Vec::new(), End::Closed));
        application.write_all(b"late").await?;
        application.shutdown().await?;
        ensure!(raw::drain(&mut client).await? == (b"late".to_vec(), End::Closed));
        // The application has said all, and still hears.
        let (mut client, mut application) = open().await?;
        application.shutdown().await?;
        ensure!(raw::drain(&mut client).await? == (Vec::new(), End::Closed));
        client.write_all(b"late").await?;
        client.shutdown().await?;
        ensure!(raw::drain(&mut application).await? == (b"late".to_vec(), End::Closed));
        // Nobody waits for one who has gone.
        let (client, mut application) = open().await?;
        raw::reset(client)?;
        let (bytes, _) = raw::drain(&mut application)
            .await
            .with_context(|| two.said())?;
        ensure!(bytes.is_empty());
        let (mut client, application) = open().await?;
        raw::reset(application)?;
        let (bytes, _) = raw::drain(&mut client).await.with_context(|| two.said())?;
        ensure!(bytes.is_empty());
    }
    // The connection that they were on is none the worse for it.
    let _echo = echo(&two.theirs, HTTP)?;
    ensure!(speaks(two.out(HTTP).await).await?, "{}", two.said());
    let stats = two.proxy.stats().await?;
    ensure!(
        stats["node.hbone_upstream_cx"] == 1,
        "{stats:?}\n{}",
        two.said()
    );
    ensure!(stats["node.hbone_downstream_cx"] == 1, "{stats:?}");
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_refuses_and_is_refused_by_policy() -> Result<()> {
    let policies = "[{name: p, namespace: default, scope: Namespace, action: Deny, dryRun: false, \
                    rules: [[[{principals: [!Exact cluster.local/ns/default/sa/ours]}]]]}]";
    let two = Two::with(policies, DAY).await?;
    let (there, here) = (echo(&two.theirs, PORT)?, echo(&two.ours, PORT)?);
    let mark = two.proxy.child.stdout.mark();
    ensure!(!speaks(two.out(PORT).await).await?, "{}", two.said());
    let line = two.proxy.logged(mark, |line| line.contains("hbone: "))?;
    let refused = "hbone: the destination's policies refuse it";
    ensure!(line.contains(refused), "{line}");
    ensure!(there.accepted() == 0);
    // The other way nobody objects yet.
    ensure!(speaks(two.back(PORT).await).await?, "{}", two.said());
    let mut open = two.back(PORT).await?;
    open.write_all(b"\0").await?;
    raw::read_exactly(&mut open, 1).await?;
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/theirs]}}]}]}\n";
    two.proxy
        .after(|| two.config.put("policies.yaml", deny))
        .await?;
    // What is open ends, and nothing is opened any more.
    let deadline = Deadline::after(Duration::from_secs(1));
    raw::drain(&mut open).await?;
    ensure!(!deadline.passed(), "{}", two.said());
    let accepted = here.accepted();
    let mark = two.ztunnel.child.stdout.mark();
    ensure!(!speaks(two.back(PORT).await).await?, "{}", two.said());
    two.ztunnel
        .child
        .stdout
        .wait_for(mark, PATIENCE, |line| line.contains("401"))?;
    ensure!(here.accepted() == accepted);
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_and_certificates_that_change_under_load() -> Result<()> {
    let two = Two::with("[]", Duration::from_secs(6)).await?;
    let (_there, _here) = (echo(&two.theirs, PORT)?, echo(&two.ours, PORT)?);
    let serial = async || -> Result<String> {
        let secrets = two.proxy.admin("/config/secrets").await?;
        let rows = secrets.as_array().context("rows")?;
        let own = rows.iter().find(|row| row["kind"] == "certificate");
        Ok(own.context("a certificate")?["serial"].to_string())
    };
    let mut serials = vec![serial().await?];
    // Connections that outlive the certificates that they began with.
    let mut old = [two.out(PORT).await?, two.back(PORT).await?];
    let deadline = Deadline::after(2 * PATIENCE);
    let mut rounds = 0_u32;
    while serials.len() < 3 || two.signing.signed.load(Relaxed) < 3 {
        ensure!(!deadline.passed(), "{serials:?}\n{}", two.said());
        for stream in &mut old {
            stream.write_all(b"\0still here").await?;
            raw::read_exactly(stream, 11)
                .await
                .with_context(|| two.said())?;
        }
        let new = (0..20).map(async |_| {
            ensure!(speaks(two.out(PORT).await).await?, "outward");
            ensure!(speaks(two.back(PORT).await).await?, "backward");
            Ok(())
        });
        for outcome in futures_util::future::join_all(new).await {
            outcome.with_context(|| format!("round {rounds}\n{}", two.said()))?;
        }
        let now = serial().await?;
        if serials.last() != Some(&now) {
            serials.push(now);
        }
        rounds += 1;
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_that_leaves_keeps_nobody_waiting() -> Result<()> {
    let mut two = Two::new().await?;
    let _there = echo(&two.theirs, PORT)?;
    let mut open = two.out(PORT).await?;
    open.write_all(b"\0").await?;
    raw::read_exactly(&mut open, 1).await?;
    // New streams come all the while, also between its GOAWAY and its end.
    let (mut answered, mut refused, mut told) = (0, 0, false);
    while refused < 20 {
        let start = clock::now();
        if answered >= 40 && !std::mem::replace(&mut told, true) {
            two.ztunnel.child.signal(Signal::SIGTERM);
        }
        let new = (0..8).map(async |_| speaks(two.out(PORT).await).await);
        for outcome in futures_util::future::join_all(new).await {
            match outcome.with_context(|| two.said())? {
                true => answered += 1,
                false => refused += 1,
            }
        }
        let took = start.elapsed();
        ensure!(took < Duration::from_secs(3), "{took:?}\n{}", two.said());
    }
    // What was open goes on for a while, and then ends.
    open.write_all(b"\0").await?;
    raw::read_exactly(&mut open, 1)
        .await
        .with_context(|| two.said())?;
    raw::drain(&mut open).await.with_context(|| two.said())?;
    two.ztunnel.child.wait(PATIENCE)?;
    // Its successor is reached.
    let workloads = workloads(&two.ours, &two.theirs);
    let next = two.signing.ztunnel(workloads, "[]").await?;
    two.ztunnel = next;
    ensure!(speaks(two.out(PORT).await).await?, "{}", two.said());
    Ok(())
}
