//! The proxies that are compared: how each is started, so that it listens where the client's
//! traffic meets it.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{PATIENCE, Proxy, client::Http, clock::Deadline, process::Child, raw};

use super::{cores, field::Field};

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
}

/// A contender that runs, and where the load goes.
#[derive(Debug)]
pub(super) struct Running {
    process: Process,
    /// Where HTTP/1.1 goes.
    pub(super) http1: SocketAddr,
    /// Where HTTP/2 goes.
    pub(super) http2: SocketAddr,
}

#[derive(Debug)]
enum Process {
    Peer(Child),
    Aquifer(Proxy),
}

/// Where the peers listen, in the client's namespace.
const LISTEN: u16 = 18080;
const LISTEN2: u16 = 18081;

impl Contender {
    /// All of them; the first is what the others are compared with.
    pub(super) const ALL: [Self; 7] = [
        Self::Envoy,
        Self::EnvoyMesh,
        Self::Haproxy,
        Self::Nginx,
        Self::Aquifer,
        Self::AquiferMesh,
        Self::AquiferBoth,
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
        }
    }

    /// True for this project's own.
    pub(super) fn is_ours(self) -> bool {
        matches!(self, Self::Aquifer | Self::AquiferMesh | Self::AquiferBoth)
    }

    /// Starts it on the proxy's core and waits until it answers.
    pub(super) async fn start(self, field: &Field) -> Result<Running> {
        let listen = SocketAddr::from(([127, 0, 0, 1], LISTEN));
        let peer = |process| Running {
            process: Process::Peer(process),
            http1: listen,
            http2: listen,
        };
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
                let start = Proxy::on(&field.lab, config)
                    .binary(field.aquifer.clone().context("it was not built")?)
                    // Like with like: no contender writes an access log.
                    .arguments(&["--workers", "1", "--access-log", "off"]);
                let proxy = cores::on(cores::PROXY, || start.spawn())?;
                proxy.wait_ready().await?;
                let service = field.service;
                Running {
                    process: Process::Aquifer(proxy),
                    http1: service,
                    http2: service,
                }
            }
        };
        running
            .wait(field)
            .await
            .with_context(|| format!("start {}", self.name()))?;
        Ok(running)
    }
}

impl Running {
    /// The process whose cost is counted, with all below it.
    pub(super) fn pid(&self) -> i32 {
        self.child().pid()
    }

    fn child(&self) -> &Child {
        match &self.process {
            Process::Peer(child) => child,
            Process::Aquifer(proxy) => &proxy.child,
        }
    }

    /// Waits until a request goes all the way, over both protocols.
    async fn wait(&self, field: &Field) -> Result<()> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let ended = self.child().ended();
            let said = || self.child().stderr.since(0).join("\n");
            ensure!(ended.is_none(), "it ended: {}", said());
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
        let close = format!("GET / HTTP/1.1\r\nhost: {host}\r\nconnection: close\r\n\r\n");
        raw::ask(&field.client, self.http1, close.as_bytes()).await?;
        Ok(())
    }
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
