//! `aquifer ca` under test: the real binary, told by its folders and files, asked by proxies.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};

use crate::{
    Config, PATIENCE, client::Http, clock::Deadline, netns::Netns, process::Child, proxy::binary,
};

const METRICS: u16 = 15014;

/// The name in its certificate.
pub const NAME: &str = "ca.test";

/// Its files. They outlive it, so that it can be started again.
#[derive(Debug)]
pub struct Files {
    /// What it knows of pods.
    pub config: Config,
    folder: tempfile::TempDir,
}

impl Files {
    /// Pods, and a token for each of these nodes: the token of `node-1` is `token of node-1`.
    pub fn new(pods: &str, nodes: &[&str]) -> Result<Self> {
        let files = Self {
            config: Config::new(&crate::Manifests::new().yaml(pods))?,
            folder: tempfile::Builder::new().prefix("aqh-ca-").tempdir()?,
        };
        let rows = nodes
            .iter()
            .map(|node| files.row(node, &format!("token of {node}"), ""));
        files.nodes(&rows.collect::<Result<Vec<_>>>()?.concat())?;
        Ok(files)
    }

    /// A row of the file of nodes, with more fields (`expires: …`).
    pub fn row(&self, node: &str, token: &str, more: &str) -> Result<String> {
        let path = self.folder.path().join("token");
        fs::write(&path, token)?;
        let sum = crate::process::output("sha256sum", &[&path.to_string_lossy()])?;
        let sum = sum.split(' ').next().context("sha256sum says nothing")?;
        Ok(format!("- {{node: {node}, sha256: \"{sum}\"{more}}}\n"))
    }

    /// Replaces the file of nodes.
    pub fn nodes(&self, rows: &str) -> Result<()> {
        self.put("nodes.yaml", &format!("nodes:\n{rows}"))
    }

    /// Writes a file beside the folder of the root, or in it (`ca/…`), under another name first.
    pub fn put(&self, name: &str, content: &str) -> Result<()> {
        let new = self.folder.path().join(".new");
        fs::write(&new, content)?;
        Ok(fs::rename(new, self.path(name))?)
    }

    /// Where a file is.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// Arguments by which the proxy of `node` asks the authority at `address`.
    pub fn arguments(&self, node: &str, address: SocketAddr) -> Result<Vec<String>> {
        let (token, roots) = (self.path(&format!("token-{node}")), self.path("roots.pem"));
        if !token.exists() {
            fs::write(&token, format!("token of {node}"))?;
        }
        if !roots.exists() {
            fs::copy(self.path("ca/ca-cert.pem"), &roots).context("the authority has no root")?;
        }
        let text = |path: &Path| path.to_string_lossy().into_owned();
        Ok([
            "--ca",
            &format!("https://{address}"),
            "--ca-name",
            NAME,
            "--ca-token",
            &text(&token),
            "--ca-roots",
            &text(&roots),
        ]
        .map(str::to_owned)
        .into())
    }
}

/// A running authority. On drop it is killed.
#[derive(Debug)]
pub struct Authority {
    /// The process.
    pub child: Child,
    node: String,
}

impl Authority {
    /// Starts it in a network namespace and does not wait.
    pub fn spawn(node: &Netns, files: &Files, arguments: &[&str]) -> Result<Self> {
        let mut command = Command::new(binary()?);
        command.arg("ca").arg("--config").arg(files.config.path());
        command.arg("--nodes").arg(files.path("nodes.yaml"));
        command.arg("--ca-dir").arg(files.path("ca"));
        command.args(["--name", NAME, "--metrics"]);
        command.arg(format!("127.0.0.1:{METRICS}")).args(arguments);
        Ok(Self {
            child: Child::start(Some(node), command)?,
            node: node.name().to_owned(),
        })
    }

    /// Starts it and waits until it is ready.
    pub async fn start(node: &Netns, files: &Files, arguments: &[&str]) -> Result<Self> {
        let authority = Self::spawn(node, files, arguments)?;
        let deadline = Deadline::after(PATIENCE);
        loop {
            if let Some(status) = authority.child.ended() {
                bail!("the authority ended ({status}): {}", authority.complaints());
            }
            match authority.get("/healthz/ready").await {
                Ok((200, _)) => return Ok(authority),
                last => ensure!(!deadline.passed(), "{last:?}: {}", authority.complaints()),
            }
            // Readiness is asked for, as kubelet does.
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.get("/metrics").await?.1)
    }

    /// What it said on standard error.
    pub fn complaints(&self) -> String {
        self.child.stderr.since(0).join("\n")
    }

    async fn get(&self, path: &str) -> Result<(u16, String)> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, METRICS));
        let stream = Netns::open(&self.node)?.connect(to).await?;
        let reply = Http::over1(stream).await?.get("localhost", path).await?;
        Ok((reply.status, reply.text()))
    }
}
