//! The proxies that are compared: how each is started, so that it listens where the client's
//! traffic meets it.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    PATIENCE, Proxy,
    client::Http,
    clock::Deadline,
    peer::{Envoy, Ztunnel},
    process::Child,
    proxy::Start,
    raw,
};

use super::{cores, field::Field, load::Load, pair, table::Table};

/// One of the proxies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Contender {
    /// Envoy with a bare route.
    Envoy,
    /// Envoy with a mesh's policies.
    EnvoyMesh,
    /// HAProxy.
    Haproxy,
    /// nginx.
    Nginx,
    /// This project, one hop: the client's sockets are captured, the backend is not in the mesh.
    Aquifer,
    /// This project, one hop, with the policies of [`Self::EnvoyMesh`].
    AquiferMesh,
    /// This project, two hops on the one proxy core: both ends are in the mesh.
    AquiferBoth,
    /// Two Envoys that carry TCP by HBONE.
    EnvoyHbone,
    /// Two ztunnels.
    Ztunnel,
    /// Two node proxies of this project that carry TCP by HBONE.
    AquiferHbone,
    /// Two Envoys that carry HTTP over HTTP/2 and mutual TLS.
    EnvoyMtls,
    /// Two node proxies of this project, the first of which routes HTTP.
    AquiferMtls,
}

/// A contender that runs, and where the load goes.
#[derive(Debug)]
pub(super) struct Running {
    processes: Vec<Process>,
    table: Table,
    /// Where HTTP/1.1 goes.
    pub(super) http1: SocketAddr,
    /// Where HTTP/2 goes.
    pub(super) http2: SocketAddr,
}

#[derive(Debug)]
pub(super) enum Process {
    Peer(Child),
    Envoy(Envoy),
    Ztunnel {
        ztunnel: Ztunnel,
        _redirect: Option<pair::Redirect>,
    },
    Aquifer(Proxy),
}

/// Where the peers listen, in the client's namespace.
pub(super) const LISTEN: u16 = 18080;
const LISTEN2: u16 = 18081;

impl Contender {
    /// All of them.
    pub(super) const ALL: [Self; 12] = [
        Self::Envoy,
        Self::EnvoyMesh,
        Self::Haproxy,
        Self::Nginx,
        Self::Aquifer,
        Self::AquiferMesh,
        Self::AquiferBoth,
        Self::EnvoyHbone,
        Self::Ztunnel,
        Self::AquiferHbone,
        Self::EnvoyMtls,
        Self::AquiferMtls,
    ];

    /// Its name on the command line and in the table.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Envoy => "envoy",
            Self::EnvoyMesh => "envoy-mesh",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
            Self::Aquifer => "aquifer",
            Self::AquiferMesh => "aquifer-mesh",
            Self::AquiferBoth => "aquifer-both",
            Self::EnvoyHbone => "envoy-hbone",
            Self::Ztunnel => "ztunnel",
            Self::AquiferHbone => "aquifer-hbone",
            Self::EnvoyMtls => "envoy-mtls",
            Self::AquiferMtls => "aquifer-mtls",
        }
    }

    /// True for this project's own.
    pub(super) fn is_ours(self) -> bool {
        self.name().starts_with("aquifer")
    }

    /// Where its figures go.
    pub(super) fn table(self) -> Table {
        let own = |table: &Table| table.contenders().contains(&self);
        let found = Table::ALL.into_iter().find(own);
        found.expect("every contender is in a table")
    }

    /// Starts it on the proxy's core and waits until it answers.
    pub(super) async fn start(self, field: &Field) -> Result<Running> {
        let listen = SocketAddr::from(([127, 0, 0, 1], LISTEN));
        let table = self.table();
        let running = |processes, to| Running {
            processes,
            table,
            http1: to,
            http2: to,
        };
        let peer = |process| running(vec![Process::Peer(process)], listen);
        let running = match self {
            Self::Envoy => peer(envoy(field, include_str!("../../peers/envoy.yaml"))?),
            Self::EnvoyMesh => peer(envoy(field, include_str!("../../peers/envoy-mesh.yaml"))?),
            Self::Haproxy => {
                let text = include_str!("../../peers/haproxy.cfg");
                let config = write(field, "haproxy.cfg", text)?;
                peer(start(field, Command::new("haproxy").arg("-f").arg(config))?)
            }
            Self::Nginx => {
                let config = write(field, "nginx.conf", include_str!("../../peers/nginx.conf"))?;
                let mut command = Command::new("nginx");
                let process = start(field, command.args(["-e", "stderr", "-c"]).arg(config))?;
                let http2 = SocketAddr::from(([127, 0, 0, 1], LISTEN2));
                Running {
                    http2,
                    ..peer(process)
                }
            }
            Self::Aquifer | Self::AquiferMesh | Self::AquiferBoth => {
                let config = match self {
                    Self::AquiferMesh => &field.policies,
                    Self::AquiferBoth => &field.both,
                    _ => &field.one_hop,
                };
                let proxy = aquifer(field, Proxy::on(&field.lab, config)).await?;
                running(vec![Process::Aquifer(proxy)], field.service)
            }
            Self::EnvoyHbone => running(pair::envoy_hbone(field)?, listen),
            Self::Ztunnel => running(pair::ztunnel(field).await?, field.backend_address),
            Self::AquiferHbone => running(pair::aquifer(field).await?, field.opaque),
            Self::EnvoyMtls => running(pair::envoy_mtls(field)?, listen),
            Self::AquiferMtls => running(pair::aquifer(field).await?, field.service),
        };
        running
            .wait(field)
            .await
            .with_context(|| format!("start {}", self.name()))?;
        Ok(running)
    }
}

impl Running {
    /// The processes whose cost is counted, with all below them.
    pub(super) fn pids(&self) -> Vec<i32> {
        self.processes.iter().map(|one| one.child().pid()).collect()
    }

    /// Ends it in order.
    pub(super) fn stop(self) -> Result<()> {
        for process in &self.processes {
            process.child().stop(PATIENCE)?;
        }
        Ok(())
    }

    /// Waits until a request goes all the way, over both protocols.
    async fn wait(&self, field: &Field) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let ended = |process: &Process| process.child().ended().is_some();
            let said = || {
                let all = self.processes.iter();
                let lines = all.flat_map(|process| process.child().stderr.since(0));
                lines.collect::<Vec<_>>().join("\n")
            };
            ensure!(!self.processes.iter().any(ended), "it ended: {}", said());
            let tried = self.ask(field).await;
            match tried {
                Ok(()) => return Ok(()),
                Err(error) if deadline.passed() => return Err(error.context(said())),
                // There is nothing to wait on before it listens.
                Err(_) => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }

    async fn ask(&self, field: &Field) -> Result<()> {
        let host = field.service.to_string();
        for path in ["/", "/64k"] {
            let reply = Http::connect(&field.client, self.http1)
                .await?
                .get(&host, path)
                .await?;
            ensure!(
                reply.status == 200,
                "HTTP/1.1: {} {}",
                reply.status,
                reply.text()
            );
        }
        if self.table.loads().contains(&Load::Http2) {
            let reply = Http::connect2(&field.client, self.http2)
                .await?
                .get(&host, "/")
                .await?;
            ensure!(
                reply.status == 200,
                "HTTP/2: {} {}",
                reply.status,
                reply.text()
            );
        }
        let close = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        raw::ask(&field.client, self.http1, close.as_bytes()).await?;
        Ok(())
    }
}

impl Process {
    fn child(&self) -> &Child {
        match self {
            Self::Peer(child) => child,
            Self::Envoy(envoy) => &envoy.child,
            Self::Ztunnel { ztunnel, .. } => &ztunnel.child,
            Self::Aquifer(proxy) => &proxy.child,
        }
    }
}

/// This project's proxy, once it is ready.
pub(super) async fn aquifer(field: &Field, start: Start<'_>) -> Result<Proxy> {
    let start = start
        .binary(field.aquifer.clone().context("it was not built")?)
        // Like with like: no contender writes an access log.
        .arguments(&["--workers", "1", "--access-log", "off"]);
    let proxy = cores::on(cores::PROXY, || start.spawn())?;
    proxy.wait_ready().await?;
    Ok(proxy)
}

fn envoy(field: &Field, text: &str) -> Result<Child> {
    let config = write(field, "envoy.yaml", text)?;
    let mut command = Command::new(&field.envoy);
    command.args([
        "--concurrency",
        "1",
        "--log-level",
        "error",
        "--disable-hot-restart",
    ]);
    start(field, command.arg("-c").arg(config))
}

fn start(field: &Field, command: &mut Command) -> Result<Child> {
    let command = std::mem::replace(command, Command::new(""));
    cores::on(cores::PROXY, || {
        Child::start(Some(&field.client.netns), command)
    })
}

fn write(field: &Field, name: &str, text: &str) -> Result<std::path::PathBuf> {
    let path = field.folder.path().join(name);
    fs::write(
        &path,
        fill(text, field.folder.path(), field.backend_address),
    )?;
    Ok(path)
}

/// Puts the addresses of this run into a configuration.
pub(super) fn fill(text: &str, folder: &Path, backend: SocketAddr) -> String {
    text.replace("@LISTEN@", &LISTEN.to_string())
        .replace("@LISTEN2@", &LISTEN2.to_string())
        .replace("@ADDRESS@", &backend.ip().to_string())
        .replace("@PORT@", &backend.port().to_string())
        .replace("@FOLDER@", &folder.to_string_lossy())
}
