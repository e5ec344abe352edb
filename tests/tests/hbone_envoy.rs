//! HBONE with a real Envoy on the other side, as the one that calls and as the one that is called.

mod hbone;

use std::{net::SocketAddr, path::PathBuf, process::Command, time::Duration};

use anyhow::{Context, Result, ensure};
use aquifer_tests::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    clock::Deadline,
    process::Child,
    raw::{self, End, Server},
};
use hbone::{Authority, DEFAULT, HBONE};
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

const PORT: u16 = 9001;
const ENVOY: &str = "spiffe://cluster.local/ns/default/sa/envoy";

/// Envoy in a pod, as long as it runs.
struct Envoy {
    child: Child,
    _folder: tempfile::TempDir,
}

impl Envoy {
    /// With one listener and one cluster; both get the certificate of [`ENVOY`].
    fn start(
        pod: &Pod,
        authority: &Authority,
        resources: impl Fn(&Value) -> Value,
    ) -> Result<Self> {
        let binary = PathBuf::from(std::env::var_os("ENVOY").context("ENVOY has no path")?);
        let folder = tempfile::tempdir()?;
        let file = |name: &str, text: &str| -> Result<Value> {
            let path = folder.path().join(name);
            std::fs::write(&path, text)?;
            Ok(json!({ "filename": path }))
        };
        let (chain, key) = authority.files(&[ENVOY])?;
        let tls = json!({
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": file("chain.pem", &chain)?,
                "private_key": file("key.pem", &key.serialize_pem())?,
            }],
            "validation_context": {
                "trusted_ca": file("root.pem", &authority.pem().0)?,
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": DEFAULT}},
                ],
            },
        });
        let path = folder.path().join("envoy.json");
        let configuration = json!({"static_resources": resources(&tls)});
        std::fs::write(&path, serde_json::to_vec_pretty(&configuration)?)?;
        let mut command = Command::new(binary);
        command.args([
            "--concurrency",
            "1",
            "--log-level",
            "info",
            "--disable-hot-restart",
        ]);
        let child = Child::start(Some(&pod.netns), {
            command.arg("-c").arg(path);
            command
        })?;
        child.stderr.wait_for(0, PATIENCE, |line| {
            line.contains("starting main dispatch loop")
        })?;
        Ok(Self {
            child,
            _folder: folder,
        })
    }

    fn said(&self) -> String {
        self.child.stderr.since(0).join("\n")
    }
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}

fn cluster(at: SocketAddr) -> Value {
    json!({
        "name": "upstream",
        "type": "STATIC",
        "connect_timeout": "5s",
        "load_assignment": {
            "cluster_name": "upstream",
            "endpoints": [{"lb_endpoints": [{"endpoint": {"address": address(at)}}]}],
        },
    })
}

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Takes TCP at `PORT` and tunnels it to `to`.
fn calling(to: SocketAddr, tls: &Value) -> Value {
    let mut upstream = cluster(SocketAddr::new(to.ip(), HBONE));
    let mut tls = json!({"common_tls_context": tls});
    tls["@type"] = json!(format!(
        "{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext"
    ));
    upstream["transport_socket"] = json!({"name": "tls", "typed_config": tls});
    upstream["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": {"http2_protocol_options": {"allow_connect": true}},
        },
    });
    json!({
        "listeners": [{
            "name": "plain",
            "address": address(SocketAddr::from(([0; 4], PORT))),
            "filter_chains": [{"filters": [{
                "name": "tcp",
                "typed_config": {
                    "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
                    "stat_prefix": "tcp",
                    "cluster": "upstream",
                    "tunneling_config": {"hostname": to.to_string()},
                },
            }]}],
        }],
        "clusters": [upstream],
    })
}

/// Takes HBONE and connects it to the application beside it.
fn called(own: SocketAddr, tls: &Value) -> Value {
    let mut tls = json!({"common_tls_context": tls, "require_client_certificate": true});
    tls["@type"] = json!(format!(
        "{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext"
    ));
    let connect = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    json!({
        "listeners": [{
            "name": "hbone",
            "address": address(SocketAddr::from(([0; 4], HBONE))),
            "filter_chains": [{
                "transport_socket": {"name": "tls", "typed_config": tls},
                "filters": [{
                    "name": "http",
                    "typed_config": {
                        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
                        "stat_prefix": "http",
                        "codec_type": "HTTP2",
                        "http2_protocol_options": {"allow_connect": true},
                        "upgrade_configs": [{"upgrade_type": "CONNECT"}],
                        "route_config": {"virtual_hosts": [{
                            "name": "all",
                            "domains": ["*"],
                            "routes": [{
                                "match": {"connect_matcher": {}},
                                "route": {"cluster": "upstream", "timeout": "0s", "upgrade_configs": connect},
                            }],
                        }]},
                        "http_filters": [{
                            "name": "router",
                            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
                        }],
                    },
                }],
            }],
        }],
        "clusters": [cluster(own)],
    })
}

fn echo(pod: &Pod, port: u16) -> Result<Server> {
    Server::start(pod, port, |mut stream, _| async move {
        let (mut read, mut write) = stream.split();
        let _ = tokio::io::copy(&mut read, &mut write).await;
        let _ = write.shutdown().await;
    })
}

/// Bulk both ways, which ends by half-closes, over many connections at once.
async fn play(from: &Pod, to: SocketAddr) -> Result<()> {
    let one = async |size: u32| -> Result<()> {
        let data: Vec<u8> = (0..size)
            .map(|n| n.wrapping_mul(2_654_435_761).to_be_bytes()[0])
            .collect();
        let mut stream: TcpStream = from.netns.connect(to).await?;
        let (mut read, mut write) = stream.split();
        let mut found = Vec::new();
        let sending = async {
            write.write_all(&data).await?;
            write.shutdown().await
        };
        let (sent, received) = tokio::join!(sending, read.read_to_end(&mut found));
        sent?;
        received?;
        ensure!(found == data, "{} of {size} bytes came back", found.len());
        Ok(())
    };
    tokio::time::timeout(PATIENCE, one(16 << 20)).await??;
    let many = (0..120).map(|_| one(20_000));
    for one in tokio::time::timeout(PATIENCE, futures_util::future::join_all(many)).await? {
        one?;
    }
    Ok(())
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
    let envoy = Envoy::start(&caller, &Authority::of(&config)?, |tls| calling(to, tls))?;
    let mark = proxy.child.stdout.mark();
    let at = caller.at(PORT);
    let said = || {
        let log = proxy.child.stdout.since(mark).join("\n");
        format!("{}\n{log}\n{}", envoy.said(), proxy.complaints())
    };
    play(&caller, at).await.with_context(said)?;
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
    let envoy = Envoy::start(&server, &Authority::of(&config)?, |tls| called(own, tls))?;
    let said = || format!("{}\n{}", envoy.said(), proxy.complaints());
    play(&client, own).await.with_context(said)?;
    let stats = proxy.stats().await?;
    ensure!(stats["node.hbone_upstream_rq"] == 121, "{stats:?}");
    // Envoy's SETTINGS allow 1,024 streams or more; a connection gets 100 of them.
    ensure!(stats["node.hbone_upstream_cx"] >= 2, "{stats:?}");
    Ok(())
}
