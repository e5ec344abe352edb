//! HBONE with a real ztunnel on the other side, as the one that calls and as the one that is called.
//! It stands for the pods of a node, as in a cluster, and both have their certificates from `aquifer ca`.

mod hbone;

use std::{net::SocketAddr, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    authority::{self, Authority, Files},
    client::Http,
    clock::{self, Deadline},
    echo::Echo,
    peer::{
        Ztunnel,
        ztunnel::{self, Signer, Workload},
    },
    proxy::Start,
    raw::{self, End, Server},
};
use hbone::{echo, play};
use nix::sys::signal::Signal;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

const PORT: u16 = 9000;
const HTTP: u16 = 8080;
/// Where the authority is asked.
const SIGNING: u16 = 15012;
const OURS: &str = "spiffe://cluster.local/ns/default/sa/ours";
const THEIRS: &str = "spiffe://cluster.local/ns/default/sa/theirs";
const DAY: Duration = Duration::from_secs(24 * 3600);

#[derive(Clone, Copy, Debug)]
enum Family {
    Four,
    Six,
}

const BOTH: [Family; 2] = [Family::Four, Family::Six];

impl Family {
    fn of(self, pod: &Pod, port: u16) -> SocketAddr {
        match self {
            Self::Four => pod.at(port),
            Self::Six => pod.at6(port),
        }
    }
}

/// A node with a pod of this project's proxy, one with a pod of ztunnel's, and `aquifer ca`, which both
/// ask. In this order they go.
struct Two {
    proxy: Proxy,
    ztunnel: Ztunnel,
    authority: Authority,
    files: Files,
    config: Config,
    life: Duration,
    ours: Pod,
    theirs: Pod,
    /// Where ztunnel runs.
    far: Pod,
    /// Where the authority runs.
    signing: Pod,
    lab: Lab,
}

impl Two {
    /// With ztunnel's policies, in its own form, and how long certificates hold.
    async fn with(policies: &str, life: Duration) -> Result<Self> {
        let lab = Lab::new()?;
        let (ours, theirs) = (lab.pod("ours")?, lab.pod("theirs")?);
        let (far, signing) = (lab.pod("far")?, lab.pod("signing")?);
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod_on(&lab.node, "ours", &ours, &[("app", "ours")])
            .pod_on(&far.netns, "theirs", &theirs, &[("app", "theirs")]);
        let config = Config::new(&manifests)?;
        let nodes = [lab.node.name(), far.netns.name()];
        let files = Files::new(&manifests.text(), &nodes)?;
        let authority = Authority::start(&signing.netns, &files, &[]).await?;
        let proxy = start(&lab, &config, &files, &signing, life)?
            .ready()
            .await?;
        proxy.certified(1).await?;
        let ztunnel = ztunnel(&files, &signing, (&far, &theirs, &ours), policies, life).await?;
        Ok(Self {
            proxy,
            ztunnel,
            authority,
            files,
            config,
            life,
            ours,
            theirs,
            far,
            signing,
            lab,
        })
    }

    async fn new() -> Result<Self> {
        Self::with("[]", DAY).await
    }

    /// From our pod to ztunnel's.
    async fn out(&self, family: Family, port: u16) -> Result<TcpStream> {
        let to = family.of(&self.theirs, port);
        Ok(self.ours.netns.connect(to).await?)
    }

    /// From ztunnel's pod to ours.
    async fn back(&self, family: Family, port: u16) -> Result<TcpStream> {
        self.ztunnel.connect(family.of(&self.ours, port)).await
    }

    /// How many certificates of ztunnel's pod the authority has signed.
    fn signed(&self) -> usize {
        let said = self.authority.child.stderr.since(0);
        let signed = |line: &&String| line.contains("signed") && line.contains(THEIRS);
        said.iter().filter(signed).count()
    }

    /// Another ztunnel for the place of the one that has ended.
    async fn another_ztunnel(&self) -> Result<Ztunnel> {
        let pods = (&self.far, &self.theirs, &self.ours);
        ztunnel(&self.files, &self.signing, pods, "[]", self.life).await
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

/// Our proxy, that asks the authority in the pod `signing`.
fn start<'a>(
    lab: &'a Lab,
    config: &'a Config,
    files: &Files,
    signing: &Pod,
    life: Duration,
) -> Result<Start<'a>> {
    let asked = files.arguments(lab.node.name(), signing.at(SIGNING))?;
    let asked: Vec<_> = asked.iter().map(String::as_str).collect();
    Ok(Proxy::on(lab, config).arguments(&asked).arguments(&[
        "--access-log",
        "json",
        "--log",
        "info,aquifer::dataplane=debug",
        // Each worker has connections of its own.
        "--workers",
        "1",
        "--certificate-life",
        &life.as_secs().to_string(),
        "--drain",
        "60",
    ]))
}

/// A ztunnel on `far`, for the pod `theirs` there.
async fn ztunnel(
    files: &Files,
    signing: &Pod,
    (far, theirs, ours): (&Pod, &Pod, &Pod),
    policies: &str,
    life: Duration,
) -> Result<Ztunnel> {
    let binary = ztunnel::binary().context("ZTUNNEL_BIN has no path")?;
    let (node, at) = (far.netns.name(), signing.at(SIGNING));
    files.arguments(node, at)?;
    let signer = Signer {
        url: &format!("https://{at}"),
        name: authority::NAME,
        roots: &files.path("roots.pem"),
        token: &files.path(&format!("token-{node}")),
        life,
    };
    let [own, other] =
        [("theirs", theirs), ("ours", ours)].map(|(account, pod)| [Workload { account, pod }]);
    Ztunnel::start(&binary, &far.netns, (&own, &other), policies, signer).await
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
    for (family, connections) in BOTH.into_iter().zip([3, 6]) {
        let mark = two.ztunnel.child.stdout.mark();
        play(async || two.out(family, PORT).await, 250)
            .await
            .with_context(|| two.said())?;
        let mut http = Http::over1(two.out(family, HTTP).await?).await?;
        for _ in 0..3 {
            let reply = http.get("theirs", "/").await?;
            ensure!(reply.status == 200, "{reply:?}\n{}", two.said());
        }
        // Who called is known there, by the certificate alone.
        let authority = format!("dst.hbone_addr={}", family.of(&two.theirs, PORT));
        let line = two.ztunnel.child.stdout.wait_for(mark, PATIENCE, |line| {
            line.contains("connection complete")
                && line.contains("direction=\"inbound\"")
                && line.contains(&authority)
        })?;
        ensure!(line.contains(&format!("src.identity=\"{OURS}\"")), "{line}");
        let stats = two.proxy.stats().await?;
        ensure!(stats["node.hbone_upstream_rq_fail"] == 0, "{stats:?}");
        // Streams have places for 100 each.
        ensure!(stats["node.hbone_upstream_cx"] >= connections, "{stats:?}");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_calls() -> Result<()> {
    let two = Two::new().await?;
    let _echo = echo(&two.ours, PORT)?;
    let _web = Echo::start(&two.ours, HTTP, "ours")?;
    for (family, requests) in BOTH.into_iter().zip([252, 504]) {
        let mark = two.proxy.child.stdout.mark();
        play(async || two.back(family, PORT).await, 250)
            .await
            .with_context(|| two.said())?;
        let mut http = Http::over1(two.back(family, HTTP).await?).await?;
        for _ in 0..3 {
            let reply = http.get("ours", "/").await?;
            ensure!(reply.status == 200, "{reply:?}\n{}", two.said());
        }
        let caller = family.of(&two.theirs, 0).ip().to_string();
        let line = two.proxy.logged(mark, |line| {
            line.contains("inbound|9000||") && line.contains(&caller)
        })?;
        let principal = "\"downstream_principal\":\"cluster.local/ns/default/sa/theirs\"";
        ensure!(line.contains(principal), "{line}");
        let stats = two.proxy.stats().await?;
        ensure!(stats["node.hbone_downstream_rq"] == requests, "{stats:?}");
        ensure!(stats["node.hbone_downstream_rq_refused"] == 0, "{stats:?}");
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_passes_half_closes_and_makes_ends_of_resets() -> Result<()> {
    // Nothing that HTTP could begin with, so that nobody waits for more of it.
    const HELLO: &[u8] = b"\0hello";
    let two = Two::new().await?;
    for (outward, family) in [true, false]
        .into_iter()
        .flat_map(|way| BOTH.map(|one| (way, one)))
    {
        let at = if outward { &two.theirs } else { &two.ours };
        let (server, mut accepted) = Server::accepting(at, PORT)?;
        let mut open = async || -> Result<(TcpStream, TcpStream)> {
            let opened = if outward {
                two.out(family, PORT).await
            } else {
                two.back(family, PORT).await
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
        server.stop().await;
    }
    // The connections that they were on are none the worse for it.
    let _echo = echo(&two.theirs, HTTP)?;
    for family in BOTH {
        ensure!(speaks(two.out(family, HTTP).await).await?, "{}", two.said());
    }
    let stats = two.proxy.stats().await?;
    ensure!(
        stats["node.hbone_upstream_cx"] == 2,
        "{stats:?}\n{}",
        two.said()
    );
    ensure!(stats["node.hbone_downstream_cx"] == 2, "{stats:?}");
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
    ensure!(
        !speaks(two.out(Family::Four, PORT).await).await?,
        "{}",
        two.said()
    );
    let line = two.proxy.logged(mark, |line| line.contains("hbone: "))?;
    let refused = "hbone: the destination's policies refuse it";
    ensure!(line.contains(refused), "{line}");
    ensure!(there.accepted() == 0);
    // The other way nobody objects yet.
    ensure!(
        speaks(two.back(Family::Four, PORT).await).await?,
        "{}",
        two.said()
    );
    let mut open = two.back(Family::Four, PORT).await?;
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
    ensure!(
        !speaks(two.back(Family::Four, PORT).await).await?,
        "{}",
        two.said()
    );
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
    let mut old = Vec::new();
    for family in BOTH {
        old.extend([two.out(family, PORT).await?, two.back(family, PORT).await?]);
    }
    let deadline = Deadline::after(2 * PATIENCE);
    let mut rounds = 0_u32;
    while serials.len() < 3 || two.signed() < 3 {
        ensure!(!deadline.passed(), "{serials:?}\n{}", two.said());
        for stream in &mut old {
            stream.write_all(b"\0still here").await?;
            raw::read_exactly(stream, 11)
                .await
                .with_context(|| two.said())?;
        }
        let new = (0..10).map(async |_| {
            for family in BOTH {
                ensure!(speaks(two.out(family, PORT).await).await?, "outward");
                ensure!(speaks(two.back(family, PORT).await).await?, "backward");
            }
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
    let mut open = two.out(Family::Four, PORT).await?;
    open.write_all(b"\0").await?;
    raw::read_exactly(&mut open, 1).await?;
    // New streams come all the while, also between its GOAWAY and its end.
    let (mut answered, mut refused, mut told) = (0, 0, false);
    while refused < 20 {
        let start = clock::now();
        if answered >= 40 && !std::mem::replace(&mut told, true) {
            two.ztunnel.child.signal(Signal::SIGTERM);
        }
        let new = (0..8).map(async |_| speaks(two.out(Family::Four, PORT).await).await);
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
    // Its successor is reached as soon as it is there, by those who asked all the while.
    let asking = async {
        let mut answered = 0;
        while answered < 40 {
            for family in BOTH {
                match speaks(two.out(family, PORT).await).await? {
                    true => answered += 1,
                    false if answered == 0 => {}
                    false => anyhow::bail!("refused after it had answered"),
                }
            }
        }
        Ok(())
    };
    let (next, ()) = tokio::try_join!(two.another_ztunnel(), asking)?;
    two.ztunnel = next;
    // It calls as well.
    let _here = echo(&two.ours, PORT)?;
    for family in BOTH {
        let called = speaks(two.back(family, PORT).await).await?;
        ensure!(called, "{}", two.said());
    }
    Ok(())
}

#[tokio::test]
#[ignore = "needs ztunnel: its path in ZTUNNEL_BIN"]
async fn ztunnel_goes_on_with_our_successor() -> Result<()> {
    let two = Two::new().await?;
    let (_there, _here) = (echo(&two.theirs, PORT)?, echo(&two.ours, PORT)?);
    let mut open = Vec::new();
    for family in BOTH {
        for mut stream in [two.out(family, PORT).await?, two.back(family, PORT).await?] {
            stream.write_all(b"\0").await?;
            raw::read_exactly(&mut stream, 1).await?;
            open.push(stream);
        }
    }
    let successor = start(&two.lab, &two.config, &two.files, &two.signing, two.life)?;
    let successor = successor.beside().ready().await?;
    successor.certified(1).await?;
    // Streams are opened all the while: on old connections until GOAWAY, then on new ones. None is
    // lost, nor is a byte of what is under way.
    two.proxy.child.signal(Signal::SIGTERM);
    let bulk = async { play(async || two.back(Family::Six, PORT).await, 100).await };
    let many = async {
        for round in 0..20 {
            let new = (0..8).map(async |_| {
                for family in BOTH {
                    ensure!(speaks(two.back(family, PORT).await).await?, "{family:?}");
                    ensure!(speaks(two.out(family, PORT).await).await?, "{family:?}");
                }
                Ok(())
            });
            for outcome in futures_util::future::join_all(new).await {
                outcome.with_context(|| format!("round {round}"))?;
            }
        }
        Ok(())
    };
    let said = || format!("{}\nsuccessor:\n{}", two.said(), successor.complaints());
    tokio::try_join!(bulk, many).with_context(said)?;
    // What was open before goes on until it ends by itself, and then so does the old proxy.
    for mut stream in open {
        ensure!(two.proxy.child.ended().is_none(), "{}", said());
        stream.write_all(b"\0still here").await?;
        stream.shutdown().await?;
        let heard = raw::drain(&mut stream).await.with_context(said)?;
        ensure!(
            heard == (b"\0still here".to_vec(), End::Closed),
            "{heard:?}"
        );
    }
    two.proxy.child.wait(PATIENCE).with_context(said)?;
    ensure!(successor.counter("hbone_downstream_rq").await? > 100);
    ensure!(successor.counter("hbone_upstream_rq").await? > 100);
    Ok(())
}
