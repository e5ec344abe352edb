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
    /// The backend is not in the mesh.
    pub(super) one_hop: Config,
    /// Likewise, with a mesh's policies.
    pub(super) policies: Config,
    /// The backend is in the mesh.
    pub(super) both: Config,
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
        let stranger = manifests.clone().stranger(&server, &labels);
        let one_hop = Config::new(&stranger)?;
        let policies = include_str!("../../peers/aquifer-mesh.yaml");
        let policies = Config::new(&stranger.yaml(policies))?;
        let both = Config::new(&manifests.pod(&server, &labels))?;
        Ok(Self {
            aquifer,
            envoy,
            one_hop,
            policies,
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
}
