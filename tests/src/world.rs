//! The lab that most tests start from: a client and a server in the mesh, one service with a port
//! of each kind, a proxy that is ready.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use anyhow::Result;

use crate::{
    Config, Lab, Manifests, Pod, Proxy,
    client::Http,
    proxy::Start,
    raw::{self, End},
};

/// The cluster address of the service `app`, which selects the pods labelled `app: server`.
pub const APP: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 10));
/// Its IPv6 cluster address.
pub const APP6: IpAddr = IpAddr::V6(Ipv6Addr::new(0xfd96, 0, 0, 0, 0, 0, 0, 0x10));
/// Its port `http`, declared by its name; 8080 at the pods.
pub const HTTP: u16 = 80;
/// Its port `tcp`, declared opaque; the same at the pods.
pub const TCP: u16 = 9000;
/// Its port `auto`, whose name declares nothing; the same at the pods.
pub const AUTO: u16 = 9100;

/// A running proxy with its pods. The order of the fields is the order in which they go.
#[derive(Debug)]
pub struct World {
    /// The proxy, ready.
    pub proxy: Proxy,
    /// What it reads.
    pub config: Config,
    /// A pod in the mesh.
    pub client: Pod,
    /// A pod in the mesh, the one endpoint of `app`.
    pub server: Pod,
    /// What the tests add to.
    pub manifests: Manifests,
    /// The network.
    pub lab: Lab,
}

impl World {
    /// The usual world.
    pub async fn new() -> Result<Self> {
        Self::with(&[], |manifests| manifests).await
    }

    /// The usual world with more arguments for the proxy and more objects.
    pub async fn with(
        arguments: &[&str],
        more: impl FnOnce(Manifests) -> Manifests,
    ) -> Result<Self> {
        Self::start(more, |start| start.arguments(arguments)).await
    }

    /// The usual world with the embedded authority, once both pods' account has its certificate.
    pub async fn with_authority(
        arguments: &[&str],
        more: impl FnOnce(Manifests) -> Manifests,
    ) -> Result<Self> {
        let world = Self::start(more, |start| start.authority().arguments(arguments)).await?;
        world.proxy.certified(1).await?;
        Ok(world)
    }

    async fn start(
        more: impl FnOnce(Manifests) -> Manifests,
        set: impl FnOnce(Start<'_>) -> Start<'_>,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let (client, server) = (lab.pod("client")?, lab.pod("server")?);
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &[("app", "client")])
            .pod(&server, &[("app", "server"), ("version", "v1")])
            .service(
                "app",
                &[APP, APP6],
                &[
                    ("http", HTTP, 8080),
                    ("tcp", TCP, TCP),
                    ("auto", AUTO, AUTO),
                ],
                &[("app", "server")],
            );
        let manifests = more(manifests);
        let config = Config::new(&manifests)?;
        let proxy = set(Proxy::on(&lab, &config)).ready().await?;
        Ok(Self {
            proxy,
            config,
            client,
            server,
            manifests,
            lab,
        })
    }

    /// A connection of the client to the HTTP port of `app`.
    pub async fn http(&self) -> Result<Http> {
        Http::connect(&self.client, at(HTTP)).await
    }

    /// Sends bytes to the HTTP port of `app` and reads until the connection ends.
    pub async fn ask(&self, request: impl AsRef<[u8]>) -> Result<(String, End)> {
        raw::ask(&self.client, at(HTTP), request.as_ref()).await
    }
}

/// A port of `app`.
pub fn at(port: u16) -> SocketAddr {
    SocketAddr::new(APP, port)
}
