//! Envoy in a pod, of the mesh by its certificate: what carries TCP by HBONE, and HTTP/2 over mutual
//! TLS, on the side of the caller and of the one that is called.

use std::{fs, net::SocketAddr, path::Path, process::Command};

use anyhow::Result;
use serde_json::{Value, json};

use super::HBONE;
use crate::{PATIENCE, Pod, process::Child};

const TYPES: &str = "type.googleapis.com/envoy.extensions";

/// Envoy's certificate, and whom it talks with. All of it is text: PEM, and a URI.
#[derive(Clone, Copy, Debug)]
pub struct Certificate<'a> {
    /// Its own, with what is below the root.
    pub chain: &'a str,
    /// The key of it.
    pub key: &'a str,
    /// Who vouches for its peers.
    pub roots: &'a str,
    /// The one URI that its peers' certificates have.
    pub peer: &'a str,
}

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The process.
    pub child: Child,
    _folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts it with one worker and waits until it listens. `resources` makes its configuration of the
    /// settings of its TLS.
    pub fn start(
        binary: &Path,
        pod: &Pod,
        certificate: Certificate<'_>,
        resources: impl Fn(&Value) -> Value,
    ) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aqh-envoy-").tempdir()?;
        let file = |name: &str, text: &str| -> Result<Value> {
            let path = folder.path().join(name);
            fs::write(&path, text)?;
            Ok(json!({ "filename": path }))
        };
        let tls = json!({
            "tls_params": {
                "tls_minimum_protocol_version": "TLSv1_3",
                "tls_maximum_protocol_version": "TLSv1_3",
            },
            "alpn_protocols": ["h2"],
            "tls_certificates": [{
                "certificate_chain": file("chain.pem", certificate.chain)?,
                "private_key": file("key.pem", certificate.key)?,
            }],
            "validation_context": {
                "trusted_ca": file("root.pem", certificate.roots)?,
                "match_typed_subject_alt_names": [
                    {"san_type": "URI", "matcher": {"exact": certificate.peer}},
                ],
            },
        });
        Self::run(binary, pod, folder, &resources(&tls))
    }

    /// Starts it without TLS.
    pub fn plain(binary: &Path, pod: &Pod, resources: &Value) -> Result<Self> {
        let folder = tempfile::Builder::new().prefix("aqh-envoy-").tempdir()?;
        Self::run(binary, pod, folder, resources)
    }

    fn run(binary: &Path, pod: &Pod, folder: tempfile::TempDir, resources: &Value) -> Result<Self> {
        let path = folder.path().join("envoy.json");
        let configuration = json!({"static_resources": resources});
        fs::write(&path, serde_json::to_vec_pretty(&configuration)?)?;
        let mut command = Command::new(binary);
        command.args(["--concurrency", "1", "--log-level", "info"]);
        command.arg("--disable-hot-restart").arg("-c").arg(path);
        let child = Child::start(Some(&pod.netns), command)?;
        child.stderr.wait_for(0, PATIENCE, |line| {
            line.contains("starting main dispatch loop")
        })?;
        Ok(Self {
            child,
            _folder: folder,
        })
    }

    /// What it said.
    pub fn said(&self) -> String {
        self.child.stderr.since(0).join("\n")
    }
}

/// Takes TCP at `at` and tunnels it to `to`.
pub fn calling(at: SocketAddr, to: SocketAddr, tls: &Value) -> Value {
    let protocol = json!({"http2_protocol_options": {"allow_connect": true}});
    let mut upstream = cluster(SocketAddr::new(to.ip(), HBONE), tls);
    speak(&mut upstream, &protocol);
    let proxy = json!({
        "@type": format!("{TYPES}.filters.network.tcp_proxy.v3.TcpProxy"),
        "stat_prefix": "tcp",
        "cluster": "upstream",
        "tunneling_config": {"hostname": to.to_string()},
    });
    one(at, None, &proxy, upstream)
}

/// Takes HBONE and connects it to the application at `own`, beside it.
pub fn called(own: SocketAddr, tls: &Value) -> Value {
    let connect = json!([{"upgrade_type": "CONNECT", "connect_config": {}}]);
    let route = json!({
        "match": {"connect_matcher": {}},
        "route": {"cluster": "upstream", "timeout": "0s", "upgrade_configs": connect},
    });
    let mut http = http("HTTP2", &route);
    http["http2_protocol_options"] = json!({"allow_connect": true});
    http["upgrade_configs"] = json!([{"upgrade_type": "CONNECT"}]);
    let at = SocketAddr::from(([0; 4], HBONE));
    one(at, Some(tls), &http, plain(own))
}

/// Takes HTTP at `at` and sends it over HTTP/2 and mutual TLS to `to`.
pub fn requesting(at: SocketAddr, to: SocketAddr, tls: &Value) -> Value {
    let mut upstream = cluster(to, tls);
    speak(&mut upstream, &json!({"http2_protocol_options": {}}));
    one(at, None, &http("AUTO", &everything()), upstream)
}

/// Takes HTTP/2 over mutual TLS at `at` and sends it to the application at `own`, beside it.
pub fn answering(at: SocketAddr, own: SocketAddr, tls: &Value) -> Value {
    one(at, Some(tls), &http("HTTP2", &everything()), plain(own))
}

fn everything() -> Value {
    json!({"match": {"prefix": "/"}, "route": {"cluster": "upstream"}})
}

fn http(codec: &str, route: &Value) -> Value {
    json!({
        "@type": format!("{TYPES}.filters.network.http_connection_manager.v3.HttpConnectionManager"),
        "stat_prefix": "http",
        "codec_type": codec,
        "generate_request_id": false,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
        "http_filters": [{
            "name": "router",
            "typed_config": {"@type": format!("{TYPES}.filters.http.router.v3.Router")},
        }],
    })
}

/// One listener with one filter, and one cluster.
fn one(at: SocketAddr, tls: Option<&Value>, filter: &Value, upstream: Value) -> Value {
    let mut chain = json!({"filters": [{"name": "filter", "typed_config": filter}]});
    if let Some(tls) = tls {
        let kind = format!("{TYPES}.transport_sockets.tls.v3.DownstreamTlsContext");
        let typed = json!({
            "@type": kind,
            "common_tls_context": tls,
            "require_client_certificate": true,
        });
        chain["transport_socket"] = json!({"name": "tls", "typed_config": typed});
    }
    json!({
        "listeners": [{"name": "listener", "address": address(at), "filter_chains": [chain]}],
        "clusters": [upstream],
    })
}

fn plain(at: SocketAddr) -> Value {
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

fn cluster(at: SocketAddr, tls: &Value) -> Value {
    let mut cluster = plain(at);
    let kind = format!("{TYPES}.transport_sockets.tls.v3.UpstreamTlsContext");
    let typed = json!({"@type": kind, "common_tls_context": tls});
    cluster["transport_socket"] = json!({"name": "tls", "typed_config": typed});
    cluster
}

fn speak(cluster: &mut Value, protocol: &Value) {
    cluster["typed_extension_protocol_options"] = json!({
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": format!("{TYPES}.upstreams.http.v3.HttpProtocolOptions"),
            "explicit_http_config": protocol,
        },
    });
}

fn address(at: SocketAddr) -> Value {
    json!({"socket_address": {"address": at.ip(), "port_value": at.port()}})
}
