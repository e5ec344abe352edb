//! HBONE with a real Envoy on the other side, as the one that calls and as the one that is called.

mod hbone;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, Pod, Proxy,
    clock::Deadline,
    peer::{
        Envoy,
        envoy::{Certificate, called, calling},
    },
    raw::{self, End},
};
use hbone::{Authority, DEFAULT, echo, play};
use serde_json::Value;

const PORT: u16 = 9001;
const ENVOY: &str = "spiffe://cluster.local/ns/default/sa/envoy";

/// Envoy in a pod, with a certificate of [`ENVOY`].
fn envoy(pod: &Pod, authority: &Authority, resources: impl Fn(&Value) -> Value) -> Result<Envoy> {
    let binary = PathBuf::from(std::env::var_os("ENVOY").context("ENVOY has no path")?);
    let (chain, key) = authority.files(&[ENVOY])?;
    let certificate = Certificate {
        chain: &chain,
        key: &key.serialize_pem(),
        roots: &authority.pem().0,
        peer: DEFAULT,
    };
    Envoy::start(&binary, pod, certificate, resources)
}

#[tokio::test]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn envoy_calls_a_pod_of_the_mesh() -> Result<()> {
    let lab = Lab::new()?;
    let (server, caller) = (lab.pod("server")?, lab.pod("caller")?);
    let manifests = Manifests::new().namespace("default", &[]).pod(&server, &[]);
    let config = Config::new(&manifests)?;
    let proxy = Proxy::on(&lab, &config).authority();
    let proxy = proxy.arguments(&["--log", "info,aquifer::dataplane=debug"]);
    let proxy = proxy.ready().await?;
    proxy.certified(1).await?;
    let _server = echo(&server, PORT)?;
    let to = server.at(PORT);
    let listen = SocketAddr::from(([0; 4], PORT));
    let signer = Authority::of(&config)?;
    let envoy = envoy(&caller, &signer, |tls| calling(listen, to, tls))?;
    let mark = proxy.child.stdout.mark();
    let at = caller.at(PORT);
    let said = || {
        let log = proxy.child.stdout.since(mark).join("\n");
        format!("{}\n{log}\n{}", envoy.said(), proxy.complaints())
    };
    play(async || Ok(caller.netns.connect(at).await?), 120)
        .await
        .with_context(said)?;
    proxy.logged(mark, |line| line.contains("inbound|9001||"))?;
    // What a policy refuses, Envoy is told.
    let deny = "apiVersion: security.istio.io/v1\nkind: AuthorizationPolicy\nmetadata: {name: p, namespace: default}\nspec: {action: DENY, rules: [{from: [{source: {principals: [cluster.local/ns/default/sa/envoy]}}]}]}\n";
    proxy.after(|| config.put("policies.yaml", deny)).await?;
    let mut refused = caller.netns.connect(at).await?;
    let deadline = Deadline::after(Duration::from_secs(5));
    let (bytes, end) = raw::drain(&mut refused).await?;
    ensure!(bytes.is_empty() && matches!(end, End::Closed | End::Reset) && !deadline.passed());
    Ok(())
}

#[tokio::test]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn envoy_is_called_by_a_pod_of_the_mesh() -> Result<()> {
    let lab = Lab::new()?;
    let node = lab.another_node("far")?;
    let (client, server) = (lab.pod("client")?, lab.pod("server")?);
    // Of the mesh, and of a node where Envoy stands in for the proxy.
    let manifests = Manifests::new()
        .namespace("default", &[])
        .pod(&client, &[])
        .pod_on(&node, "envoy", &server, &[]);
    let config = Config::new(&manifests)?;
    let proxy = Proxy::on(&lab, &config).authority().ready().await?;
    proxy.certified(1).await?;
    let _server = echo(&server, PORT)?;
    let own = server.at(PORT);
    let envoy = envoy(&server, &Authority::of(&config)?, |tls| called(own, tls))?;
    let said = || format!("{}\n{}", envoy.said(), proxy.complaints());
    play(async || Ok(client.netns.connect(own).await?), 120)
        .await
        .with_context(said)?;
    let stats = proxy.stats().await?;
    ensure!(stats["node.hbone_upstream_rq"] == 121, "{stats:?}");
    // Envoy's SETTINGS allow 1,024 streams or more; a connection gets 100 of them.
    ensure!(stats["node.hbone_upstream_cx"] >= 2, "{stats:?}");
    Ok(())
}
