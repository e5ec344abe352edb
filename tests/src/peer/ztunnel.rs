//! ztunnel, Istio's node proxy, for one pod alone (its dedicated mode): told by a file who is where,
//! with certificates of its test authority (a build with its feature `testing`) or of one that it asks.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use anyhow::{Context, Result, bail, ensure};
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::{PATIENCE, Pod, client::Http, clock::Deadline, process::Child};

/// Where connections go that it is to carry out of the pod.
pub const OUTBOUND: u16 = 15001;
/// The mark of its own connections.
pub const MARK: u32 = 1337;
const SOCKS: u16 = 15080;
const ADMIN: u16 = 15000;
const STATS: u16 = 15020;
const READINESS: u16 = 15021;
/// The node that its pod is on.
pub const NODE: &str = "node-z";

/// A pod of the mesh, as ztunnel is told of it.
#[derive(Clone, Copy, Debug)]
pub struct Workload<'a> {
    /// The service account; the namespace is `default`.
    pub account: &'a str,
    /// Where it is.
    pub pod: &'a Pod,
}

/// Who signs.
#[derive(Clone, Copy, Debug)]
pub enum Signer<'a> {
    /// Its own test authority, whose files are in its source.
    Fake,
    /// One that it asks.
    At {
        /// Its `https` address.
        url: &'a str,
        /// Who vouches for it: a file.
        roots: &'a Path,
        /// What shows who asks: a file.
        token: &'a Path,
        /// How long its certificates are to hold.
        life: Duration,
    },
}

/// What it tells of connections.
#[derive(Clone, Copy, Debug)]
pub enum Log {
    /// A line each.
    Each,
    /// Nothing.
    None,
}

impl Log {
    fn filter(self) -> &'static str {
        match self {
            Self::Each => "info",
            Self::None => "warn,access=off",
        }
    }
}

/// A running ztunnel.
#[derive(Debug)]
pub struct Ztunnel {
    /// The process.
    pub child: Child,
    netns: crate::netns::Netns,
    _folder: tempfile::TempDir,
}

/// The binary, where one is named (`ZTUNNEL_BIN`).
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("ZTUNNEL_BIN").map(Into::into)
}

impl Ztunnel {
    /// Starts it for the first of `workloads`, which all have the trust domain cluster.local, and waits
    /// until it is ready. `policies` is a YAML list of the form that its file has.
    pub async fn start(
        binary: &Path,
        workloads: &[Workload<'_>],
        policies: &str,
        signer: Signer<'_>,
    ) -> Result<Self> {
        let started = Self::spawn(binary, workloads, policies, signer, Log::Each)?;
        started.ready().await?;
        Ok(started)
    }

    /// Starts it and does not wait.
    pub fn spawn(
        binary: &Path,
        workloads: &[Workload<'_>],
        policies: &str,
        signer: Signer<'_>,
        log: Log,
    ) -> Result<Self> {
        let own = workloads.first().context("no workload to stand for")?;
        let folder = tempfile::Builder::new().prefix("aqh-ztunnel-").tempdir()?;
        let known = folder.path().join("mesh.yaml");
        fs::write(&known, mesh(workloads, policies))?;
        let mut command = Command::new(binary);
        command
            .env("LOCAL_XDS_PATH", &known)
            .env("XDS_ADDRESS", "")
            .env("PROXY_MODE", "dedicated")
            .env(
                "PROXY_WORKLOAD_INFO",
                format!("default/{}/{}", own.pod.name, own.account),
            )
            .env("NODE_NAME", NODE)
            .env("PACKET_MARK", MARK.to_string())
            .env("ENABLE_ORIG_SRC", "false")
            .env("IPV6_ENABLED", "false")
            .env("UNSTABLE_ENABLE_SOCKS5", "true")
            .env("ZTUNNEL_WORKER_THREADS", "1")
            .env("RUST_LOG", log.filter())
            .env(
                "PROXY_CONFIG",
                r#"{"proxyMetadata":{"DNS_CAPTURE":"false"}}"#,
            );
        match signer {
            Signer::Fake => command.env("FAKE_CA", "true"),
            Signer::At {
                url,
                roots,
                token,
                life,
            } => command
                .env("CA_ADDRESS", url)
                .env("CA_ROOT_CA", roots)
                .env("AUTH_TOKEN", token)
                .env("SECRET_TTL", format!("{}s", life.as_secs())),
        };
        Ok(Self {
            child: Child::start(Some(&own.pod.netns), command)?,
            netns: crate::netns::Netns::open(own.pod.netns.name())?,
            _folder: folder,
        })
    }

    /// Waits until it says that it is ready.
    pub async fn ready(&self) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let ended = self.child.ended();
            ensure!(ended.is_none(), "ztunnel ended:\n{}", self.said());
            match self.get(READINESS, "/healthz/ready").await {
                Ok((200, _)) => return Ok(()),
                _ if deadline.passed() => bail!("ztunnel is not ready:\n{}", self.said()),
                // Readiness is asked for, as kubelet does.
                _ => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    }

    /// A connection to `to` that it carries, from its own pod, asked for by SOCKS 5 (RFC 1928).
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        let SocketAddr::V4(to) = to else {
            bail!("{to}: ztunnel is started without IPv6");
        };
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, SOCKS));
        let mut stream = self.netns.connect(proxy).await?;
        let asked = async {
            // Version 5, one method: no authentication.
            stream.write_all(&[5, 1, 0]).await?;
            let mut method = [0; 2];
            stream.read_exact(&mut method).await?;
            ensure!(method == [5, 0], "no authentication: {method:?}");
            // CONNECT to an IPv4 address.
            let mut request = vec![5, 1, 0, 1];
            request.extend(to.ip().octets());
            request.extend(to.port().to_be_bytes());
            stream.write_all(&request).await?;
            let mut reply = [0; 10];
            stream.read_exact(&mut reply).await?;
            ensure!(reply[..4] == [5, 0, 0, 1], "SOCKS: {reply:?}");
            Ok(stream)
        };
        tokio::time::timeout(PATIENCE, asked)
            .await
            .context("SOCKS does not answer")?
    }

    /// Its metrics.
    pub async fn metrics(&self) -> Result<String> {
        Ok(self.get(STATS, "/metrics").await?.1)
    }

    /// What its administration answers.
    pub async fn admin(&self, path: &str) -> Result<String> {
        Ok(self.get(ADMIN, path).await?.1)
    }

    /// What it said.
    pub fn said(&self) -> String {
        let (out, error) = (self.child.stdout.since(0), self.child.stderr.since(0));
        [out, error].concat().join("\n")
    }

    async fn get(&self, port: u16, path: &str) -> Result<(u16, String)> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
        let stream = self.netns.connect(to).await?;
        let reply = Http::over1(stream).await?.get("localhost", path).await?;
        Ok((reply.status, reply.text()))
    }
}

fn mesh(workloads: &[Workload<'_>], policies: &str) -> String {
    let mut rows = Vec::new();
    for (number, workload) in workloads.iter().enumerate() {
        let mut row = serde_json::json!({
            "name": workload.pod.name,
            "namespace": "default",
            "serviceAccount": workload.account,
            "trustDomain": "cluster.local",
            "uid": format!("uid/{}", workload.pod.name),
            "workloadIps": [workload.pod.v4],
            "protocol": "HBONE",
            "services": {},
        });
        if number == 0 {
            row["node"] = NODE.into();
        }
        rows.push(row);
    }
    // JSON is YAML. Policies have tags, which JSON has not.
    let workloads = Value::from(rows);
    format!("workloads: {workloads}\npolicies: {policies}\n")
}
