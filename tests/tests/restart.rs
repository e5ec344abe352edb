//! The proxy is killed, and comes back: what the kernel does meanwhile is the namespace's choice.

use std::{collections::HashSet, io::ErrorKind};

use anyhow::{Context, Result, ensure};
use aquifer::kernel::{Pins, maps};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    client::Http,
    echo::Echo,
    raw::{self, End},
    world::{APP, HTTP},
};

struct Node {
    proxy: Proxy,
    config: Config,
    client: Pod,
    server: Pod,
    outside: Pod,
    _echo: Echo,
    lab: Lab,
}

async fn node(failure_mode: Option<&str>) -> Result<Node> {
    node_with(failure_mode, &[]).await
}

async fn node_with(failure_mode: Option<&str>, arguments: &[&str]) -> Result<Node> {
    let lab = Lab::new()?;
    let (client, server) = (lab.pod("client")?, lab.pod("server")?);
    let outside = lab.pod("outside")?;
    let annotations: Vec<_> = failure_mode
        .map(|mode| ("aquifer.io/failure-mode", mode))
        .into_iter()
        .collect();
    let manifests = Manifests::new()
        .namespace("default", &annotations)
        .pod(&client, &[("app", "client")])
        .pod(&server, &[("app", "server")])
        .service("app", &[APP], &[("http", HTTP, 8080)], &[("app", "server")]);
    let config = Config::new(&manifests)?;
    let echo = Echo::start(&server, 8080, "v1")?;
    let proxy = Proxy::on(&lab, &config)
        .arguments(arguments)
        .ready()
        .await?;
    let reply = Http::connect(&client, (APP, HTTP).into())
        .await?
        .get("app", "/")
        .await?;
    ensure!(
        reply.status == 200,
        "before anything happens: {}",
        reply.status
    );
    Ok(Node {
        proxy,
        config,
        client,
        server,
        outside,
        _echo: echo,
        lab,
    })
}

/// What becomes of a request straight to the server's address: its status, or nothing.
async fn straight(from: &Pod, node: &Node) -> Option<u16> {
    within(PATIENCE, from, node).await
}

/// [`straight`] where nothing is expected. A dropped SYN is answered by nothing: two seconds are one
/// more try of the kernel's.
async fn nothing(from: &Pod, node: &Node) -> bool {
    let answer = within(std::time::Duration::from_secs(2), from, node);
    answer.await.is_none()
}

async fn within(patience: std::time::Duration, from: &Pod, node: &Node) -> Option<u16> {
    let answer = async {
        let mut stream = from.netns.connect(node.server.at(8080)).await.ok()?;
        let head = b"GET / HTTP/1.1\r\nhost: app\r\nconnection: close\r\n\r\n";
        tokio::io::AsyncWriteExt::write_all(&mut stream, head)
            .await
            .ok()?;
        let (said, end) = raw::drain(&mut stream).await.ok()?;
        let said = String::from_utf8_lossy(&said).into_owned();
        (end == End::Closed)
            .then(|| said.split(' ').nth(1)?.parse().ok())
            .flatten()
    };
    tokio::time::timeout(patience, answer).await.ok().flatten()
}

#[tokio::test]
async fn closed_means_that_nothing_passes_a_dead_proxy() -> Result<()> {
    for mode in [None, Some("closed")] {
        let node = node(mode).await?;
        node.proxy.child.kill()?;
        let refused = nothing(&node.client, &node).await;
        ensure!(refused, "{mode:?}: out of a pod");
        let refused = nothing(&node.outside, &node).await;
        ensure!(refused, "{mode:?}: into a pod");
        // By the call itself, so at once: nobody waits for a dead proxy.
        let dialled = node.client.netns.connect((APP, HTTP).into()).await;
        let refused = dialled.err().context("nobody is there")?;
        assert_eq!(refused.kind(), ErrorKind::PermissionDenied, "{mode:?}");
    }
    Ok(())
}

#[tokio::test]
async fn open_means_that_pods_are_as_if_not_enrolled() -> Result<()> {
    let node = node(Some("open")).await?;
    node.proxy.child.kill()?;
    assert_eq!(
        straight(&node.client, &node).await,
        Some(200),
        "out of a pod"
    );
    assert_eq!(
        straight(&node.outside, &node).await,
        Some(200),
        "into a pod"
    );
    Ok(())
}

#[tokio::test]
async fn a_new_proxy_takes_over_what_a_dead_one_left() -> Result<()> {
    for mode in ["closed", "open"] {
        let node = node(Some(mode)).await?;
        node.proxy.child.kill()?;
        let again = Proxy::on(&node.lab, &node.config).ready().await?;
        let mut http = Http::connect(&node.client, (APP, HTTP).into()).await?;
        assert_eq!(http.get("app", "/").await?.status, 200, "{mode}");
        assert_eq!(straight(&node.outside, &node).await, Some(200), "{mode}");
        let bpffs = again.bpffs().to_string_lossy().into_owned();
        let (status, out, err) = again.command(&["maps", "pods", "--bpffs", &bpffs])?;
        ensure!(status.success(), "{err}");
        assert_eq!(out.matches("default/client").count(), 1, "{out}");
    }
    Ok(())
}

/// A process named as the prober, on the node, and what it says of an address.
struct Prober {
    child: std::process::Child,
    answers: std::io::Lines<std::io::BufReader<std::process::ChildStdout>>,
}

impl Prober {
    fn start(program: &std::path::Path, node: &Node) -> Result<Self> {
        Self::run(std::process::Command::new(program), node)
    }

    /// In a namespace of processes of its own, as a pod that has the host's network.
    fn in_host_network_pod(program: &std::path::Path, node: &Node) -> Result<Self> {
        let mut command = std::process::Command::new("unshare");
        command.args(["--pid", "--fork", "--kill-child"]);
        command.arg(program);
        Self::run(command, node)
    }

    fn run(mut command: std::process::Command, node: &Node) -> Result<Self> {
        command
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped());
        let mut child = node.lab.node.run(|| command.spawn())??;
        let output = child.stdout.take().context("no output")?;
        let answers = std::io::BufRead::lines(std::io::BufReader::new(output));
        Ok(Self { child, answers })
    }

    fn probe(&mut self, target: std::net::SocketAddr) -> Result<String> {
        self.ask(&target.to_string())
    }

    /// The status that a page there has.
    fn get(&mut self, target: std::net::SocketAddr) -> Result<String> {
        self.ask(&format!("get {target}"))
    }

    fn ask(&mut self, line: &str) -> Result<String> {
        let input = self.child.stdin.as_mut().context("no input")?;
        std::io::Write::write_all(input, format!("{line}\n").as_bytes())?;
        Ok(self.answers.next().context("the prober ended")??)
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn probes_reach_the_application_and_nothing_else_does() -> Result<()> {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_aqh-probe"));
    for mode in ["closed", "open"] {
        let node = node_with(Some(mode), &["--probe-process", "aqh-probe"]).await?;
        // The same program under another name is any process of the host's.
        let folder = tempfile::tempdir()?;
        let other = folder.path().join("aqh-other");
        std::os::unix::fs::symlink(program, &other)?;
        let mut other = Prober::start(&other, &node)?;
        let mut kubelet = Prober::start(program, &node)?;
        let known = |line: &str| {
            line.contains("probe processes") && line.contains(&kubelet.child.id().to_string())
        };
        node.proxy.child.stderr.wait_for(0, PATIENCE, known)?;
        let (lives, dead) = (node.server.at(8080), node.server.at(4));
        let (lives6, dead6) = (node.server.at6(8080), node.server.at6(4));
        for alive in [true, false] {
            if !alive {
                node.proxy.child.kill()?;
            }
            for (target, expected) in [
                (lives, "open"),
                (lives6, "open"),
                (dead, "refused"),
                (dead6, "refused"),
            ] {
                let answer = kubelet.probe(target)?;
                assert_eq!(
                    answer, expected,
                    "{mode}, proxy alive {alive}: probe of {target}"
                );
            }
            let expected = if alive || mode == "open" {
                "open"
            } else {
                "refused"
            };
            assert_eq!(
                other.probe(lives)?,
                expected,
                "{mode}, proxy alive {alive}: another"
            );
        }
    }
    Ok(())
}

/// Under STRICT the kubelet's probes pass, since the proxy is not asked about them, and nobody else
/// of the node does: no process, whatever its name, and no pod that has the host's network.
#[tokio::test(flavor = "multi_thread")]
async fn under_strict_probes_pass_and_the_rest_of_the_node_is_refused() -> Result<()> {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_aqh-probe"));
    let node = node_with(None, &["--probe-process", "aqh-probe"]).await?;
    let folder = tempfile::tempdir()?;
    let other = folder.path().join("aqh-other");
    std::fs::copy(program, &other)?;
    let mut kubelet = Prober::start(program, &node)?;
    let mut process = Prober::start(&other, &node)?;
    // It may well have the kubelet's name.
    let mut pod = Prober::in_host_network_pod(program, &node)?;
    let known = format!("processes={{{}}}", kubelet.pid());
    let known = |line: &str| line.contains("probe processes") && line.contains(&known);
    let log = &node.proxy.child.stderr;
    log.wait_for(0, aquifer_tests::PATIENCE, known)?;
    let own = [node.server.at(8080), node.server.at6(8080)];
    for target in own {
        for prober in [&mut kubelet, &mut process, &mut pod] {
            assert_eq!(prober.get(target)?, "200", "{target}, before");
        }
    }
    let strict = "{apiVersion: security.istio.io/v1, kind: PeerAuthentication, metadata: {name: default, namespace: istio-system}, spec: {mtls: {mode: STRICT}}}";
    node.proxy
        .after(|| node.config.put("strict.yaml", strict))
        .await?;
    for target in own {
        assert_eq!(kubelet.get(target)?, "200", "{target}: the kubelet");
        assert_eq!(process.get(target)?, "refused", "{target}: a process");
        assert_eq!(pod.get(target)?, "refused", "{target}: a pod");
    }
    ensure!(straight(&node.outside, &node).await != Some(200));
    Ok(())
}

impl Prober {
    /// Ends it and waits until it is gone.
    fn end(mut self) -> Result<()> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    fn pid(&self) -> u32 {
        self.child.id()
    }
}

/// A kubelet that restarts has another process number; the old one may be anybody's.
#[tokio::test(flavor = "multi_thread")]
async fn a_prober_that_restarts_is_noticed() -> Result<()> {
    let program = std::path::Path::new(env!("CARGO_BIN_EXE_aqh-probe"));
    let node = node_with(None, &["--probe-process", "aqh-probe"]).await?;
    let log = &node.proxy.child.stderr;
    let known: aya::maps::HashMap<_, u32, u8> =
        maps::hash(&Pins::new(node.proxy.bpffs()), maps::names::PROBE_PROCESSES)?;
    // The proxy says whom it has told the kernel side about, once it has.
    let told = |mark: usize, wanted: &[&Prober]| -> Result<()> {
        let wanted: HashSet<u32> = wanted.iter().map(|prober| prober.pid()).collect();
        let says = |line: &str| {
            let list = line
                .split_once("processes={")
                .and_then(|(_, list)| list.split_once('}'));
            let Some((list, _)) = list.filter(|_| line.contains("probe processes")) else {
                return false;
            };
            let list = list
                .split(", ")
                .filter(|pid| !pid.is_empty())
                .map(str::parse);
            list.collect::<Result<HashSet<u32>, _>>()
                .is_ok_and(|list| list == wanted)
        };
        log.wait_for(mark, PATIENCE, says)?;
        assert_eq!(known.keys().collect::<Result<HashSet<u32>, _>>()?, wanted);
        Ok(())
    };
    let probes = |prober: &mut Prober, what: &str| -> Result<()> {
        let captured = || -> Result<u64> {
            let of = |family| node.proxy.counted(&format!("captured_inbound_{family}"));
            Ok(of("v4")? + of("v6")?)
        };
        let before = (captured()?, node.proxy.counted("passed_inbound_probe")?);
        for (target, expected) in [
            (node.server.at(8080), "open"),
            (node.server.at6(8080), "open"),
            (node.server.at(4), "refused"),
            (node.server.at6(4), "refused"),
        ] {
            assert_eq!(prober.probe(target)?, expected, "{what}: {target}");
        }
        let after = (captured()?, node.proxy.counted("passed_inbound_probe")?);
        assert_eq!(after, (before.0, before.1 + 4), "{what}: captured, passed");
        Ok(())
    };

    let mut first = Prober::start(program, &node)?;
    told(0, &[&first])?;
    probes(&mut first, "the first")?;
    let mark = log.mark();
    first.end()?;
    told(mark, &[])?;
    let mark = log.mark();
    let mut second = Prober::start(program, &node)?;
    told(mark, &[&second])?;
    probes(&mut second, "after a restart")?;
    // The successor may start before its predecessor has ended.
    let mark = log.mark();
    let mut third = Prober::start(program, &node)?;
    told(mark, &[&second, &third])?;
    let mark = log.mark();
    second.end()?;
    told(mark, &[&third])?;
    probes(&mut third, "after an overlapping restart")
}

#[tokio::test]
async fn maps_are_readable_with_no_proxy() -> Result<()> {
    let node = node(None).await?;
    node.proxy.child.kill()?;
    let bpffs = node.proxy.bpffs().to_string_lossy().into_owned();
    for which in [
        &["pods"][..],
        &["redirects"],
        &["listeners"],
        &["stats"],
        &[],
    ] {
        for format in ["table", "json"] {
            let arguments = [&["maps"], which, &["--bpffs", &bpffs, "-o", format]].concat();
            let (status, out, err) = node.proxy.command(&arguments)?;
            ensure!(status.success(), "{arguments:?}: {out}{err}");
            if format == "json" {
                serde_json::from_str::<serde_json::Value>(&out).context("not JSON")?;
            }
        }
    }
    let (status, out, _) = node.proxy.command(&["maps", "pods", "--bpffs", &bpffs])?;
    ensure!(status.success() && out.contains("default/client"), "{out}");
    // Commands that ask a proxy say that there is none, and what to do.
    let (status, _, err) = node.proxy.command(&["status"])?;
    assert_eq!(status.code(), Some(1));
    assert_eq!(err.trim().lines().count(), 1, "one line: {err}");
    Ok(())
}

#[tokio::test]
async fn an_orderly_end_answers_what_runs() -> Result<()> {
    let node = node(None).await?;
    let mut http = Http::connect(&node.client, (APP, HTTP).into()).await?;
    assert_eq!(http.get("app", "/").await?.status, 200);
    let status = node.proxy.child.stop(PATIENCE)?;
    ensure!(status.success(), "{status}: {}", node.proxy.complaints());
    Ok(())
}

#[tokio::test]
async fn cleanup_leaves_pods_as_if_never_enrolled() -> Result<()> {
    let node = node(None).await?;
    node.proxy.child.kill()?;
    let bpffs = node.proxy.bpffs().to_string_lossy().into_owned();
    let (status, _, err) = node.proxy.command(&["cleanup", "--bpffs", &bpffs])?;
    ensure!(status.success(), "{err}");
    assert_eq!(straight(&node.client, &node).await, Some(200));
    assert_eq!(straight(&node.outside, &node).await, Some(200));
    ensure!(!node.proxy.bpffs().exists(), "{bpffs} is still there");
    Ok(())
}
