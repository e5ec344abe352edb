//! The proxy under test: the real binary, started on a lab's node, told by a directory of YAML,
//! asked through its own commands and addresses.

use std::{
    collections::BTreeMap,
    io,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::{Command, ExitStatus},
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;

use crate::{
    Config, PATIENCE,
    client::{Http, Reply},
    clock::Deadline,
    lab::Lab,
    netns::Netns,
    process::{self, Child},
    slot,
};

/// Admin, metrics and readiness of a proxy in a lab. Its node has a network namespace of its own,
/// so the usual numbers serve everybody.
const ADMIN: u16 = 15000;
const METRICS: u16 = 15020;
const READINESS: u16 = 15021;
/// So much higher are those of a proxy beside another.
const BESIDE: u16 = 40;

/// How to start a proxy.
#[derive(Debug)]
pub struct Start<'a> {
    lab: &'a Lab,
    config: &'a Config,
    node: Option<&'a Netns>,
    binary: Option<PathBuf>,
    arguments: Vec<String>,
    environment: Vec<(String, String)>,
    descriptors: Option<u32>,
    beside: u16,
}

impl<'a> Start<'a> {
    /// Runs it on another node than the lab's own.
    pub fn node(mut self, node: &'a Netns) -> Self {
        self.node = Some(node);
        self
    }

    /// Runs it beside another on the same node, whose successor it is to be.
    pub fn beside(mut self) -> Self {
        self.beside = BESIDE;
        self
    }

    /// Runs this binary instead of the one under test.
    pub fn binary(mut self, path: PathBuf) -> Self {
        self.binary = Some(path);
        self
    }

    /// Adds arguments of `aquifer run`.
    pub fn arguments(mut self, arguments: &[&str]) -> Self {
        self.arguments
            .extend(arguments.iter().map(|&argument| argument.to_owned()));
        self
    }

    /// Sets a variable of its environment.
    pub fn environment(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Gives it the embedded authority. Proxies that share a configuration share its root.
    pub fn authority(self) -> Self {
        let folder = self.config.path().join(".ca");
        let folder = folder.to_string_lossy().into_owned();
        self.arguments(&["--ca", "self", "--ca-dir", &folder])
    }

    /// Limits how many descriptors the proxy may have open.
    pub fn descriptors(mut self, limit: u32) -> Self {
        self.descriptors = Some(limit);
        self
    }

    /// Starts it and waits until it is ready: configuration loaded, all local pods enrolled.
    pub async fn ready(self) -> Result<Proxy> {
        let proxy = self.spawn()?;
        proxy.wait_ready().await?;
        Ok(proxy)
    }

    /// Starts it and does not wait.
    pub fn spawn(self) -> Result<Proxy> {
        let slot = self.lab.slot();
        let bpffs = self
            .node
            .map_or_else(|| slot.bpffs(), |node| slot.bpffs_of(node));
        let node = self.node.unwrap_or(&self.lab.node);
        let binary = self.binary.map_or_else(binary, Ok)?;
        let mut command = match self.descriptors {
            // `prlimit` sets the limit and becomes the program.
            Some(limit) => {
                let mut command = Command::new("prlimit");
                command
                    .arg(format!("--nofile={limit}:{limit}"))
                    .arg(&binary);
                command
            }
            None => Command::new(&binary),
        };
        command
            .arg("run")
            .arg("--config")
            .arg(self.config.path())
            .arg("--bpffs")
            .arg(&bpffs);
        command.args(["--node", node.name()]);
        let at = |port| SocketAddr::from((Ipv4Addr::LOCALHOST, port + self.beside)).to_string();
        command.args(["--admin", &at(ADMIN)]);
        command.args(["--metrics", &at(METRICS)]);
        command.args(["--readiness", &at(READINESS)]);
        command.args(&self.arguments).envs(self.environment);
        let child = Child::start(Some(node), command)?;
        let node = Netns::open(node.name())?;
        Ok(Proxy {
            child,
            node,
            beside: self.beside,
            bpffs,
            binary,
        })
    }
}

/// A running proxy. On drop it is killed, and its pins are removed.
#[derive(Debug)]
pub struct Proxy {
    /// The process; its standard output is the access log.
    pub child: Child,
    node: Netns,
    beside: u16,
    bpffs: PathBuf,
    binary: PathBuf,
}

impl Proxy {
    /// Prepares to start a proxy on the lab's node.
    pub fn on<'a>(lab: &'a Lab, config: &'a Config) -> Start<'a> {
        Start {
            binary: None,
            lab,
            config,
            node: None,
            arguments: Vec::new(),
            environment: Vec::new(),
            descriptors: None,
            beside: 0,
        }
    }

    /// Waits until the readiness address says yes.
    pub async fn wait_ready(&self) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(status) = self.child.ended() {
                bail!(
                    "the proxy ended ({status}) before it was ready:\n{}",
                    self.complaints()
                );
            }
            let answer = self.get(READINESS, "/healthz/ready").await;
            match answer {
                Ok(reply) if reply.status == 200 => return Ok(()),
                _ if deadline.passed() => {
                    let last = answer.map(|reply| (reply.status, reply.text()));
                    bail!("not ready in time, last {last:?}:\n{}", self.complaints());
                }
                // Readiness is asked for, as kubelet does; there is nothing to wait on before the
                // address is bound.
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// Asks the admin address and gives the JSON it answers.
    pub async fn admin(&self, path: &str) -> Result<Value> {
        let reply = self.get(ADMIN, path).await?;
        ensure!(
            reply.status == 200,
            "GET {path}: {} {}",
            reply.status,
            reply.text()
        );
        serde_json::from_slice(&reply.body).with_context(|| format!("GET {path}: not JSON"))
    }

    /// Asks the metrics address.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.get(METRICS, "/metrics").await?.text())
    }

    /// The counters that the admin address tells as `name: value` lines, as Envoy's does; none where
    /// it does not.
    pub async fn stats(&self) -> Result<BTreeMap<String, u64>> {
        let text = self.get(ADMIN, "/stats").await?.text();
        let pairs = text.lines().filter_map(|line| line.rsplit_once(": "));
        Ok(pairs
            .filter_map(|(name, value)| Some((name.to_owned(), value.trim().parse().ok()?)))
            .collect())
    }

    /// One of the node's own counters.
    pub async fn counter(&self, name: &str) -> Result<u64> {
        let stats = self.stats().await?;
        let value = stats.get(&format!("node.{name}"));
        value.copied().context("no such counter")
    }

    /// The version of the snapshot in force.
    pub async fn version(&self) -> Result<u64> {
        let status = self.admin("/status").await?;
        status["snapshot"]
            .as_u64()
            .context("the status has no `snapshot`")
    }

    /// Runs `change`, then waits until a later snapshot than the present one is in force.
    pub async fn after(&self, change: impl FnOnce() -> Result<()>) -> Result<()> {
        let before = self.version().await?;
        change()?;
        let deadline = Deadline::after(PATIENCE);
        while self.version().await? <= before {
            ensure!(
                !deadline.passed(),
                "no new snapshot in time:\n{}",
                self.complaints()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok(())
    }

    /// Waits until `wanted` accepts what the admin address answers at `path`.
    pub async fn until(&self, path: &str, wanted: impl Fn(&Value) -> bool) -> Result<Value> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let answer = self.admin(path).await?;
            if wanted(&answer) {
                return Ok(answer);
            }
            ensure!(
                !deadline.passed(),
                "{path} still says {answer:#}\n{}",
                self.complaints()
            );
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until so many identities have a certificate.
    pub async fn certified(&self, count: usize) -> Result<()> {
        let active = |answer: &Value| {
            let rows = answer.as_array().map_or(&[][..], Vec::as_slice);
            let held = |row: &&Value| row["kind"] == "certificate" && row["state"] == "active";
            rows.iter().filter(held).count() >= count
        };
        self.until("/config/secrets", active).await.map(|_| ())
    }

    /// Waits for a line of the access log, from `mark` on.
    pub fn logged(&self, mark: usize, wanted: impl Fn(&str) -> bool) -> Result<String> {
        self.child
            .stdout
            .wait_for(mark, PATIENCE, wanted)
            .context("in the access log")
    }

    /// Runs another subcommand of the binary on the proxy's node, with its pins; gives how it ended
    /// and its two outputs.
    pub fn command(&self, arguments: &[&str]) -> Result<(ExitStatus, String, String)> {
        let mut command = Command::new(&self.binary);
        command.args(arguments);
        let output = self.node.run(|| command.output())??;
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        Ok((output.status, text(&output.stdout), text(&output.stderr)))
    }

    /// A counter of the kernel side, by its name, as `aquifer maps stats` tells it.
    pub fn counted(&self, name: &str) -> Result<u64> {
        let bpffs = self.bpffs.to_string_lossy();
        let (status, out, err) =
            self.command(&["maps", "stats", "--bpffs", &bpffs, "-o", "json"])?;
        ensure!(status.success(), "{err}");
        let told: Value = serde_json::from_str(&out).context("maps: not JSON")?;
        let count = told["stats"][name].as_u64();
        count.with_context(|| format!("there is no counter {name}"))
    }

    /// The folder it pins to.
    pub fn bpffs(&self) -> &Path {
        &self.bpffs
    }

    /// What it said on standard error.
    pub fn complaints(&self) -> String {
        self.child.stderr.since(0).join("\n")
    }

    /// A connection to the admin address.
    pub async fn admin_connection(&self) -> io::Result<tokio::net::TcpStream> {
        self.node
            .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN + self.beside)))
            .await
    }

    async fn get(&self, port: u16, path: &str) -> Result<Reply> {
        let stream = self
            .node
            .connect(SocketAddr::from((Ipv4Addr::LOCALHOST, port + self.beside)))
            .await?;
        Http::over1(stream).await?.get("localhost", path).await
    }

    /// Removes its pins, so that a killed proxy's failure mode ends with it.
    fn unpin(&self) {
        let mut cleanup = Command::new(&self.binary);
        let _ = process::finish(cleanup.arg("cleanup").arg("--bpffs").arg(&self.bpffs));
        slot::remove_pins(&self.bpffs);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprint_all(&self.complaints());
        }
        let _ = self.child.kill();
        self.unpin();
    }
}

#[allow(
    clippy::print_stderr,
    reason = "a failed test shows what the proxy said"
)]
fn eprint_all(text: &str) {
    eprintln!("--- the proxy said:\n{text}\n---");
}

/// The binary under test: `AQUIFER_BIN`, or the one that cargo built beside the test.
pub fn binary() -> Result<PathBuf> {
    if let Some(path) = std::env::var_os("AQUIFER_BIN") {
        return Ok(path.into());
    }
    let here = std::env::current_exe()?;
    // target/debug/deps/test-… or target/debug/xtask
    let beside = here
        .ancestors()
        .skip(1)
        .take(2)
        .map(|folder| folder.join("aquifer"));
    beside
        .into_iter()
        .find(|path| path.is_file())
        .context("no binary to test: run `cargo xtask test`, or set AQUIFER_BIN")
}
