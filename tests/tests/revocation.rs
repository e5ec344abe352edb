//! Trust that an operator takes away from a running node, by a file: what rests on it ends within a
//! second, although certificates hold for a day.

mod hbone;

use std::{path::Path, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy, SOON,
    authority::{self, Files},
    clock::Deadline,
    process,
};
use bytes::Bytes;
use hbone::{Authority, Peer, Tunnel};
use rustls::ClientConfig;
use serde_json::Value;

const PORT: u16 = 9000;
const CALLER: &str = "spiffe://cluster.local/ns/elsewhere/sa/caller";
const CALLED: &str = "spiffe://cluster.local/ns/default/sa/client";
const UNTRUSTED: &str = "hbone_downstream_cx_untrusted";

/// Replaces a file by renaming, as an operator should.
fn put(path: &Path, text: &str) -> Result<()> {
    let new = path.with_extension("new");
    std::fs::write(&new, text)?;
    Ok(std::fs::rename(new, path)?)
}

/// Whether there are so many roots.
fn roots(count: usize) -> impl Fn(&Value) -> bool {
    move |answer| {
        let rows = answer.as_array().map_or(&[][..], Vec::as_slice);
        rows.iter().filter(|row| row["kind"] == "root").count() == count
    }
}

/// A pod of the mesh, and one that calls it with a certificate of a root of its own.
struct Called {
    lab: Lab,
    config: Config,
    client: Pod,
    caller: Pod,
    foreign: Authority,
}

impl Called {
    fn new() -> Result<Self> {
        let lab = Lab::new()?;
        let (client, caller) = (lab.pod("client")?, lab.pod("caller")?);
        let manifests = Manifests::new().namespace("default", &[]).pod_on(
            &lab.node,
            "client",
            &client,
            &[("app", "client")],
        );
        Ok(Self {
            config: Config::new(&manifests)?,
            foreign: Authority::foreign("cluster.local")?,
            lab,
            client,
            caller,
        })
    }

    async fn proxy(&self, arguments: &[&str]) -> Result<Proxy> {
        let proxy = Proxy::on(&self.lab, &self.config).arguments(arguments);
        let proxy = proxy.ready().await?;
        proxy.certified(1).await?;
        Ok(proxy)
    }

    /// What the caller connects by, to who shows a certificate of `ours`.
    fn calling(&self, ours: &Authority) -> Result<std::sync::Arc<ClientConfig>> {
        let now = aquifer::clock::wall();
        let hour = Duration::from_secs(3600);
        let secrets = self
            .foreign
            .secrets_within(CALLER, now - hour, now + hour, ours)?;
        let config = secrets.client(&CALLER.parse()?, &[CALLED.parse()?]);
        config.context("a configuration")
    }

    /// A tunnel, through which something has come back.
    async fn tunnel(&self, ours: &Authority) -> Result<(Peer, Tunnel)> {
        let to = self.client.v4.into();
        let peer = Peer::connect(&self.caller, to, self.calling(ours)?).await?;
        let mut tunnel = peer.open(&self.client.at(PORT).to_string()).await?;
        tunnel.write(Bytes::from_static(b"x")).await?;
        tunnel.read_exactly(1).await?;
        Ok((peer, tunnel))
    }

    /// Takes trust away, and sees that the tunnel that rests on it ends in time, and that there is no
    /// other.
    async fn ends(
        &self,
        proxy: &Proxy,
        ours: &Authority,
        take_away: impl FnOnce() -> Result<()>,
    ) -> Result<()> {
        let (_peer, mut tunnel) = self.tunnel(ours).await?;
        let before = proxy.counter(UNTRUSTED).await?;
        let deadline = Deadline::after(SOON);
        take_away()?;
        ensure!(tunnel.read().await.is_err(), "it must not look like an end");
        ensure!(!deadline.passed(), "it took longer than a second can seem");
        ensure!(proxy.counter(UNTRUSTED).await? == before + 1);
        let refused = hbone::refusal(&self.caller, self.client.v4.into(), self.calling(ours)?);
        ensure!(!refused.await?.is_empty());
        Ok(())
    }
}

#[tokio::test]
async fn a_root_that_is_taken_out_of_the_embedded_authoritys_files_is_trusted_no_more() -> Result<()>
{
    let called = Called::new()?;
    let _echo = hbone::echo(&called.client, PORT)?;
    let folder = tempfile::tempdir()?;
    let path = |name: &str| folder.path().join(name);
    let ours = Authority::foreign("cluster.local")?;
    let (own, key) = ours.pem();
    put(&path("ca-cert.pem"), &own)?;
    put(&path("ca-key.pem"), &key)?;
    let both = own.clone() + &called.foreign.pem().0;
    put(&path("root-cert.pem"), &both)?;
    let text = folder.path().to_string_lossy();
    let proxy = called.proxy(&["--ca", "self", "--ca-dir", &text]).await?;
    proxy.until("/config/secrets", roots(2)).await?;
    let take_away = || put(&path("root-cert.pem"), &own);
    called.ends(&proxy, &ours, take_away).await?;
    // And back.
    put(&path("root-cert.pem"), &both)?;
    proxy.until("/config/secrets", roots(2)).await?;
    called.tunnel(&ours).await?;
    // The root under which the node's own certificates are is taken away: it has others at once.
    let serial = |answer: &Value| {
        let rows = answer.as_array().map_or(&[][..], Vec::as_slice);
        let row = rows.iter().find(|row| row["kind"] == "certificate");
        row.map(|row| row["serial"].to_string())
    };
    let before = serial(&proxy.admin("/config/secrets").await?);
    let (new, key) = called.foreign.pem();
    put(&path("ca-key.pem"), &key)?;
    put(&path("ca-cert.pem"), &new)?;
    put(&path("root-cert.pem"), &new)?;
    proxy
        .until("/config/secrets", |answer| {
            roots(1)(answer) && serial(answer) != before
        })
        .await?;
    called.tunnel(&called.foreign).await?;
    Ok(())
}

#[tokio::test]
async fn a_root_that_is_taken_out_of_further_roots_is_trusted_no_more() -> Result<()> {
    let called = Called::new()?;
    let _echo = hbone::echo(&called.client, PORT)?;
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("roots.pem");
    let other = Authority::foreign("cluster.local")?.pem().0;
    put(&file, &(called.foreign.pem().0 + &other))?;
    let argument = format!("cluster.local={}", file.display());
    let own = called
        .config
        .path()
        .join(".ca")
        .to_string_lossy()
        .into_owned();
    let arguments = ["--ca", "self", "--ca-dir", &own, "--trust-roots", &argument];
    let proxy = called.proxy(&arguments).await?;
    proxy.until("/config/secrets", roots(3)).await?;
    let ours = Authority::of(&called.config)?;
    called.ends(&proxy, &ours, || put(&file, &other)).await?;
    // What can't be used takes nothing away, and is told.
    put(&file, "nonsense")?;
    proxy.child.stderr.wait_for(0, PATIENCE, |line| {
        line.contains("roots.pem: there is no certificate in it") && line.contains("stays in force")
    })?;
    ensure!(roots(2)(&proxy.admin("/config/secrets").await?));
    Ok(())
}

#[tokio::test]
async fn a_root_that_is_taken_out_of_the_asked_authoritys_roots_is_trusted_no_more() -> Result<()> {
    let called = Called::new()?;
    let _echo = hbone::echo(&called.client, PORT)?;
    let node = &called.lab.node;
    process::output("ip", &["-netns", node.name(), "link", "set", "lo", "up"])?;
    let pod = serde_json::json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": { "name": "client", "namespace": "default" },
        "spec": { "nodeName": node.name(), "serviceAccountName": "client" },
        "status": { "phase": "Running", "podIP": "192.0.2.1" },
    });
    let files = Files::new(&Manifests::new().object(pod).text(), &[node.name()])?;
    let authority = authority::Authority::start(node, &files, &[]).await?;
    let own = std::fs::read_to_string(files.path("ca/ca-cert.pem"))?;
    let both = own.clone() + &called.foreign.pem().0;
    let arguments = files.arguments(node.name(), "127.0.0.1:15012".parse()?)?;
    let arguments: Vec<_> = arguments.iter().map(String::as_str).collect();
    let proxy = called.proxy(&arguments).await?;
    ensure!(roots(1)(&proxy.admin("/config/secrets").await?));
    // The authority names another root from here on. A node learns of it when it asks, and a change
    // of its own file makes it ask.
    let mark = authority.child.stderr.mark();
    files.put("ca/root-cert.pem", &both)?;
    let signs = |line: &str| line.contains("a new intermediate signs");
    authority.child.stderr.wait_for(mark, PATIENCE, signs)?;
    files.put("roots.pem", &both)?;
    proxy.until("/config/secrets", roots(2)).await?;
    let ours = Authority::at(&files.path("ca"))?;
    // Taken away here, while the authority still names it: asking does not bring it back.
    let mark = proxy.child.stderr.mark();
    let take_away = || files.put("roots.pem", &own);
    called.ends(&proxy, &ours, take_away).await?;
    let answered = |line: &str| line.contains("certificate in force");
    proxy.child.stderr.wait_for(mark, PATIENCE, answered)?;
    ensure!(roots(1)(&proxy.admin("/config/secrets").await?));
    Ok(())
}
