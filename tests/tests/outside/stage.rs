//! A pod of the mesh, and a service outside of it whose ports have a `tls` each.

use std::{
    fmt::Write as _,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
};

use anyhow::Result;
use aquifer_tests::{Config, Lab, Manifests, Pod, Proxy, client::Http};
use serde_json::Value;

use super::Authority;

/// The cluster address of the service `db`, whose pod is not of the mesh.
pub(crate) const DB: IpAddr = IpAddr::V4(Ipv4Addr::new(10, 96, 0, 20));
/// Its name.
pub(crate) const NAME: &str = "db.default.svc.cluster.local";

/// A lab with a client in the mesh and the service `db` outside of it.
pub(crate) struct Stage {
    pub(crate) proxy: Proxy,
    pub(crate) config: Config,
    pub(crate) client: Pod,
    pub(crate) db: Pod,
    pub(crate) files: tempfile::TempDir,
    _lab: Lab,
}

/// A port of `db`: what its name declares, its number, its `tls`.
pub(crate) type Port<'a> = (&'a str, u16, &'a str);

/// The DestinationRule of `db`.
pub(crate) fn rule(ports: &[Port<'_>], more: &str) -> String {
    let mut text = String::from(
        "apiVersion: networking.istio.io/v1\nkind: DestinationRule\n\
         metadata: {name: db, namespace: default}\n\
         spec:\n  host: db\n  trafficPolicy:\n    portLevelSettings:\n",
    );
    for (_, port, tls) in ports {
        let pool = "connectionPool: {tcp: {connectTimeout: 2s}}";
        let _ = writeln!(
            text,
            "    - {{port: {{number: {port}}}, {pool}, tls: {{{tls}}}}}"
        );
    }
    text + more
}

impl Stage {
    /// `db` on these ports.
    pub(crate) async fn open(
        ports: &[Port<'_>],
        files: tempfile::TempDir,
        arguments: &[&str],
    ) -> Result<Self> {
        Self::with(ports, files, arguments, |text| text).await
    }

    /// The same; `more` changes the DestinationRule's text.
    pub(crate) async fn with(
        ports: &[Port<'_>],
        files: tempfile::TempDir,
        arguments: &[&str],
        more: impl FnOnce(String) -> String,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let (client, db) = (lab.pod("client")?, lab.pod("db")?);
        let declared: Vec<_> = ports
            .iter()
            .map(|(name, port, _)| (format!("{name}-{port}"), *port))
            .collect();
        let declared: Vec<_> = declared
            .iter()
            .map(|(name, port)| (name.as_str(), *port, *port))
            .collect();
        // Files are named in rules as `FILES/…`.
        let folder = files.path().to_string_lossy().into_owned();
        let rule = more(rule(ports, "")).replace("FILES", &folder);
        let manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &[("app", "client")])
            .stranger(&db, &[("app", "db")])
            .service("db", &[DB], &declared, &[("app", "db")]);
        let config = Config::new(&manifests)?;
        config.put("rule.yaml", rule)?;
        let proxy = Proxy::on(&lab, &config).arguments(arguments);
        Ok(Self {
            proxy: proxy.ready().await?,
            config,
            client,
            db,
            files,
            _lab: lab,
        })
    }

    /// What `db` answers to a request for `host`, and what it says of TLS.
    pub(crate) async fn get(&self, port: u16, host: &str) -> Result<(u16, Value, String)> {
        let to = SocketAddr::new(DB, port);
        let reply = Http::connect(&self.client, to)
            .await?
            .get(host, "/")
            .await?;
        let said = serde_json::from_slice(&reply.body).unwrap_or_default();
        Ok((reply.status, said, reply.text()))
    }
}

/// The files that rules name: the authority's root, and a certificate of its for a client.
pub(crate) fn folder(authority: &Authority) -> Result<tempfile::TempDir> {
    let folder = tempfile::tempdir()?;
    std::fs::write(folder.path().join("ca.pem"), authority.pem())?;
    authority
        .sign(&["client"])?
        .write(folder.path(), "client")?;
    Ok(folder)
}

/// Fields of a `tls`.
pub(crate) const CA: &str = "caCertificates: FILES/ca.pem";
pub(crate) const OWN: &str = "clientCertificate: FILES/client.crt, privateKey: FILES/client.key";

/// In one step, as files of trust are to be replaced.
pub(crate) fn replace(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}
