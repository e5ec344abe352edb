//! Where the contenders meet: a client pod, a backend pod, a backend that is never the bottleneck,
//! and the programs of the peers.

use std::{fs, net::SocketAddr, path::PathBuf, process::Command};

use anyhow::Result;
use aquifer_tests::{Config, Lab, Manifests, Pod, netns::Netns, process::Child};

use super::{contender, cores, load, pair::Certificates};
use crate::{envoy, setup};

/// All that stands during the bench.
#[derive(Debug)]
pub(super) struct Field {
    /// The release build under test, where it takes part.
    pub(super) aquifer: Option<PathBuf>,
    /// Envoy.
    pub(super) envoy: PathBuf,
    /// ztunnel, where it takes part.
    pub(super) ztunnel: Option<PathBuf>,
    /// What the pairs of Envoys show each other.
    pub(super) certificates: Certificates,
    /// The backend is not in the mesh.
    pub(super) one_hop: Config,
    /// Likewise, with a mesh's policies.
    pub(super) policies: Config,
    /// The backend is in the mesh.
    pub(super) both: Config,
    /// The two are pods of the mesh on two nodes.
    pub(super) nodes: Config,
    _backend: Child,
    /// Where the load runs and the peers listen.
    pub(super) client: Pod,
    /// Where the backend is, and the second of each pair.
    pub(super) server: Pod,
    /// Files of this run.
    pub(super) folder: tempfile::TempDir,
    /// The backend itself, which the peers dial.
    pub(super) backend_address: SocketAddr,
    /// The service, which a captured client dials.
    pub(super) service: SocketAddr,
    /// The same, of whose port nobody knows what it speaks.
    pub(super) opaque: SocketAddr,
    /// The second node.
    pub(super) far: Netns,
    /// The network.
    pub(super) lab: Lab,
}

/// What takes part.
#[derive(Debug)]
pub(super) struct Needs {
    /// This project's build.
    pub(super) aquifer: Option<PathBuf>,
    /// ztunnel.
    pub(super) ztunnel: Option<PathBuf>,
}

impl Field {
    /// Installs the peers, builds the network, starts the backend.
    pub(super) fn build(needs: Needs) -> Result<Self> {
        setup::install(&[
            ("ip", "iproute2"),
            ("wrk", "wrk"),
            ("h2load", "nghttp2-client"),
            ("haproxy", "haproxy"),
            ("nginx", "nginx-light"),
            ("openssl", "openssl"),
        ])?;
        let Needs { aquifer, ztunnel } = needs;
        if ztunnel.is_some() {
            setup::install(&[("nft", "nftables")])?;
        }
        let envoy = envoy::binary()?;
        let lab = Lab::new()?;
        let far = lab.another_node("far")?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let folder = tempfile::Builder::new().prefix("aqh-bench-").tempdir()?;
        fs::write(folder.path().join("64k"), vec![b'x'; 64 * 1024])?;
        let bulk = fs::File::create(folder.path().join("16m"))?;
        bulk.set_len(load::BULK)?;
        let certificates = Certificates::make(folder.path())?;
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
        let opaque = SocketAddr::new(service.ip(), 81);
        let labels = [("app", "backend")];
        let objects = Manifests::new().namespace("default", &[]).service(
            "backend",
            &[service.ip()],
            &[("http", 80, 8080), ("tcp", opaque.port(), 8080)],
            &labels,
        );
        let nodes = objects
            .clone()
            .pod_on(&lab.node, "client", &client, &[("app", "client")])
            .pod_on(&far, "backend", &server, &labels);
        let manifests = objects.pod(&client, &[("app", "client")]);
        let stranger = manifests.clone().stranger(&server, &labels);
        let one_hop = Config::new(&stranger)?;
        let policies = include_str!("../../peers/aquifer-mesh.yaml");
        let policies = Config::new(&stranger.yaml(policies))?;
        let both = Config::new(&manifests.pod(&server, &labels))?;
        Ok(Self {
            aquifer,
            envoy,
            ztunnel,
            certificates,
            one_hop,
            policies,
            both,
            nodes: Config::new(&nodes)?,
            _backend: backend,
            client,
            server,
            folder,
            backend_address,
            service,
            opaque,
            far,
            lab,
        })
    }
}
