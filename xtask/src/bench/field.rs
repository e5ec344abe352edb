//! Where the contenders meet: a client pod, a backend pod, a backend that is never the bottleneck,
//! and the programs of the peers.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Result;
use aquifer_tests::{Config, Lab, Manifests, Pod, process::Child};

use super::{contender, cores};
use crate::{envoy, setup};

/// All that stands during the bench.
#[derive(Debug)]
pub(super) struct Field {
    /// The release build under test, where it takes part.
    pub(super) aquifer: Option<PathBuf>,
    /// Envoy.
    pub(super) envoy: PathBuf,
    one_hop: Config,
    both: Config,
    _backend: Child,
    /// Where the load runs and the peers listen.
    pub(super) client: Pod,
    _server: Pod,
    /// Files of this run.
    pub(super) folder: tempfile::TempDir,
    /// The backend itself, which the peers dial.
    pub(super) backend_address: SocketAddr,
    /// The service, which a captured client dials.
    pub(super) service: SocketAddr,
    /// The network.
    pub(super) lab: Lab,
}

impl Field {
    /// Installs the peers, builds the binary and the network, starts the backend.
    pub(super) fn build(with_aquifer: bool) -> Result<Self> {
        setup::install(&[
            ("ip", "iproute2"),
            ("wrk", "wrk"),
            ("h2load", "nghttp2-client"),
            ("haproxy", "haproxy"),
            ("nginx", "nginx-light"),
        ])?;
        let envoy = envoy::binary()?;
        let aquifer = with_aquifer.then(|| setup::build(true)).transpose()?;
        let lab = Lab::new()?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let folder = tempfile::Builder::new().prefix("aqh-bench-").tempdir()?;
        fs::write(folder.path().join("64k"), vec![b'x'; 64 * 1024])?;
        let backend_address = server.at(8080);
        let config = folder.path().join("backend.conf");
        let text = include_str!("../../peers/backend.conf");
        fs::write(
            &config,
            contender::fill(text, folder.path(), backend_address),
        )?;
        let mut command = Command::new("nginx");
        command.args(["-e", "stderr", "-c"]).arg(config);
        let backend = cores::on(cores::LOAD, || Child::start(Some(&server.netns), command))?;
        let service = SocketAddr::from(([10, 96, 0, 10], 80));
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &[("app", "client")])
            .service(
                "backend",
                &[service.ip()],
                &[("http", 80, 8080)],
                &[("app", "backend")],
            );
        let labels = [("app", "backend")];
        let one_hop = Config::new(&manifests.clone().stranger(&server, &labels))?;
        let both = Config::new(&manifests.pod(&server, &labels))?;
        Ok(Self {
            aquifer,
            envoy,
            one_hop,
            both,
            _backend: backend,
            client,
            _server: server,
            folder,
            backend_address,
            service,
            lab,
        })
    }

    /// The configuration of this project's proxy, with the backend in the mesh or not.
    pub(super) fn mesh(&self, both: bool) -> &Config {
        if both { &self.both } else { &self.one_hop }
    }
}
