//! ztunnel, Istio's node proxy, told by a file who is where: for the pods of a node, as it runs in a
//! cluster, with certificates of an authority that it asks; or for one pod alone (its dedicated mode),
//! with certificates of its test authority (a build with its feature `testing`).

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, SocketAddr},
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

use super::agent::{Agent, Handed};
use crate::{PATIENCE, Pod, client::Http, clock::Deadline, netns::Netns, process::Child};

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

/// Who signs its certificates.
#[derive(Clone, Copy, Debug)]
pub struct Signer<'a> {
    /// Its `https` address.
    pub url: &'a str,
    /// The name in its certificate.
    pub name: &'a str,
    /// Who vouches for it: a file.
    pub roots: &'a Path,
    /// What shows who asks: a file.
    pub token: &'a Path,
    /// How long its certificates are to hold.
    pub life: Duration,
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
    /// Where it runs.
    netns: Netns,
    /// The first of the pods that it stands for.
    pod: Netns,
    _agent: Option<Agent>,
    _folder: tempfile::TempDir,
}

/// The binary, where one is named (`ZTUNNEL_BIN`).
pub fn binary() -> Option<PathBuf> {
    std::env::var_os("ZTUNNEL_BIN").map(Into::into)
}

impl Ztunnel {
    /// Starts it on `node` for the pods of `own`, and waits until it is ready. `others` are known to it;
    /// `policies` is a YAML list of the form that its file has.
    pub async fn start(
        binary: &Path,
        node: &Netns,
        (own, others): (&[Workload<'_>], &[Workload<'_>]),
        policies: &str,
        signer: Signer<'_>,
    ) -> Result<Self> {
        let folder = folder()?;
        let socket = folder.path().join("zds");
        let handed = own.iter().map(|one| {
            Ok(Handed {
                uid: uid(one),
                name: one.pod.name.clone(),
                account: one.account.to_owned(),
                netns: fs::File::open(one.pod.netns.path())?,
            })
        });
        let agent = Agent::start(&socket, handed.collect::<Result<_>>()?)?;
        let mut command = command(binary, folder.path(), (own, others), policies, Log::Each)?;
        command
            .env("PROXY_MODE", "shared")
            .env("INPOD_UDS", &socket)
            .env("CA_ADDRESS", signer.url)
            .env("ALT_CA_HOSTNAME", signer.name)
            .env("CA_ROOT_CA", signer.roots)
            .env("AUTH_TOKEN", signer.token)
            .env("SECRET_TTL", format!("{}s", signer.life.as_secs()));
        let pod = own.first().context("no pod to stand for")?.pod;
        let started = Self {
            child: Child::start(Some(node), command)?,
            netns: Netns::open(node.name())?,
            pod: Netns::open(pod.netns.name())?,
            _agent: Some(agent),
            _folder: folder,
        };
        started.ready().await?;
        Ok(started)
    }

    /// Starts it for the first of `workloads` alone, in that pod, and does not wait.
    pub fn dedicated(binary: &Path, workloads: &[Workload<'_>], log: Log) -> Result<Self> {
        let (own, others) = workloads.split_at_checked(1).context("no workload")?;
        let folder = folder()?;
        let mut command = command(binary, folder.path(), (own, others), "[]", log)?;
        let Workload { account, pod } = own[0];
        command
            .env("PROXY_MODE", "dedicated")
            .env(
                "PROXY_WORKLOAD_INFO",
                format!("default/{}/{account}", pod.name),
            )
            .env("PACKET_MARK", MARK.to_string())
            .env("FAKE_CA", "true");
        Ok(Self {
            child: Child::start(Some(&pod.netns), command)?,
            netns: Netns::open(pod.netns.name())?,
            pod: Netns::open(pod.netns.name())?,
            _agent: None,
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

    /// A connection to `to` that it carries, from the first of its pods, asked for by SOCKS 5 (RFC 1928).
    pub async fn connect(&self, to: SocketAddr) -> Result<TcpStream> {
        Self::connect_from(&self.pod, to).await
    }

    /// The same from another of its pods.
    pub async fn connect_from(pod: &Netns, to: SocketAddr) -> Result<TcpStream> {
        let proxy = SocketAddr::from((Ipv4Addr::LOCALHOST, SOCKS));
        let mut stream = pod.connect(proxy).await?;
        let asked = async {
            // Version 5, one method: no authentication.
            stream.write_all(&[5, 1, 0]).await?;
            let mut method = [0; 2];
            stream.read_exact(&mut method).await?;
            ensure!(method == [5, 0], "no authentication: {method:?}");
            // CONNECT to an address of this kind.
            let mut request = vec![5, 1, 0];
            match to.ip() {
                IpAddr::V4(to) => {
                    request.push(1);
                    request.extend(to.octets());
                }
                IpAddr::V6(to) => {
                    request.push(4);
                    request.extend(to.octets());
                }
            }
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

fn folder() -> Result<tempfile::TempDir> {
    Ok(tempfile::Builder::new().prefix("aqh-ztunnel-").tempdir()?)
}

fn uid(workload: &Workload<'_>) -> String {
    format!("uid/{}", workload.pod.name)
}

/// What it is started by in either mode. It knows the mesh by a file in `folder`.
fn command(
    binary: &Path,
    folder: &Path,
    workloads: (&[Workload<'_>], &[Workload<'_>]),
    policies: &str,
    log: Log,
) -> Result<Command> {
    let known = folder.join("mesh.yaml");
    fs::write(&known, mesh(workloads, policies))?;
    let mut command = Command::new(binary);
    command
        .env("LOCAL_XDS_PATH", &known)
        .env("XDS_ADDRESS", "")
        .env("NODE_NAME", NODE)
        .env("ENABLE_ORIG_SRC", "false")
        .env("UNSTABLE_ENABLE_SOCKS5", "true")
        .env("ZTUNNEL_WORKER_THREADS", "1")
        .env("RUST_LOG", log.filter())
        .env(
            "PROXY_CONFIG",
            r#"{"proxyMetadata":{"DNS_CAPTURE":"false"}}"#,
        );
    Ok(command)
}

fn mesh((own, others): (&[Workload<'_>], &[Workload<'_>]), policies: &str) -> String {
    let row = |workload: &Workload<'_>| {
        serde_json::json!({
            "name": workload.pod.name,
            "namespace": "default",
            "serviceAccount": workload.account,
            "trustDomain": "cluster.local",
            "uid": uid(workload),
            "workloadIps": [workload.pod.v4, workload.pod.v6],
            "protocol": "HBONE",
            "clusterId": "Kubernetes",
            "services": {},
        })
    };
    let own = own.iter().map(|workload| {
        let mut row = row(workload);
        row["node"] = NODE.into();
        row
    });
    // JSON is YAML. Policies have tags, which JSON has not.
    let workloads: Value = own.chain(others.iter().map(row)).collect();
    format!("workloads: {workloads}\npolicies: {policies}\n")
}
