//! Envoy as a sidecar's proxy: one process in a pod of its own that owns all Services' addresses, so
//! that a client beside it dials what a captured client dials.

use std::{
    collections::BTreeMap,
    fs,
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    process::Command,
};

use anyhow::{Result, ensure};
use serde_json::{Value, json};

use super::{
    SERVICES,
    istiod::{self, Service},
    log,
    scenario::Port,
};
use crate::{
    PATIENCE, Pod,
    client::Http,
    clock::Deadline,
    process::{self, Child},
};

/// Its own administration.
const ADMIN: u16 = 15000;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The process; its standard output is the access log.
    pub child: Child,
    _folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts Envoy in `pod` for these Services.
    pub async fn start(binary: &Path, pod: &Pod, services: &[Service]) -> Result<Self> {
        let source = pod.v4.to_string();
        let services_net = format!("{}/{}", SERVICES.0, SERVICES.1);
        let route = ["local", &services_net, "dev", "lo", "src", &source];
        let add = ["-netns", pod.netns.name(), "route", "add"];
        process::output("ip", &[&add[..], &route[..]].concat())?;
        let folder = tempfile::Builder::new().prefix("aqh-envoy-").tempdir()?;
        let path = folder.path().join("envoy.json");
        fs::write(&path, serde_json::to_vec_pretty(&configuration(services))?)?;
        let mut command = Command::new(binary);
        command.args(["--concurrency", "1", "--log-level", "warning"]);
        command.args(["--disable-hot-restart", "--file-flush-interval-msec", "50"]);
        let child = Child::start(Some(&pod.netns), {
            command.arg("-c").arg(path);
            command
        })?;
        let envoy = Self {
            child,
            _folder: folder,
        };
        let deadline = Deadline::after(PATIENCE);
        loop {
            let said = || envoy.child.stderr.since(0).join("\n");
            ensure!(envoy.child.ended().is_none(), "Envoy ended:\n{}", said());
            match envoy.ask(pod, "/ready").await {
                Ok(text) if text.starts_with("LIVE") => return Ok(envoy),
                _ if deadline.passed() => anyhow::bail!("Envoy is not ready:\n{}", said()),
                // There is nothing to wait on before it listens.
                _ => tokio::time::sleep(std::time::Duration::from_millis(20)).await,
            }
        }
    }

    async fn ask(&self, pod: &Pod, path: &str) -> Result<String> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN));
        Ok(Http::connect(pod, to)
            .await?
            .get("localhost", path)
            .await?
            .text())
    }

    /// Its counters and gauges.
    pub async fn stats(&self, pod: &Pod) -> Result<BTreeMap<String, u64>> {
        let text = self.ask(pod, "/stats?filter=^cluster%5C.").await?;
        Ok(log::stats(&text))
    }
}

/// The access log, as JSON with the names that aquifer's has.
pub(super) fn access_log() -> Value {
    json!([{
        "name": "envoy.access_loggers.stdout",
        "typed_config": {
            "@type": "type.googleapis.com/envoy.extensions.access_loggers.stream.v3.StdoutAccessLog",
            "log_format": {"json_format": {
                "request_id": "%REQ(X-REQUEST-ID)%",
                "downstream_remote_address": "%DOWNSTREAM_DIRECT_REMOTE_ADDRESS%",
                "response_flags": "%RESPONSE_FLAGS%",
                "response_code_details": "%RESPONSE_CODE_DETAILS%",
                "upstream_cluster": "%UPSTREAM_CLUSTER_RAW%",
                "route_name": "%ROUTE_NAME%",
                "path": "%REQ(X-ENVOY-ORIGINAL-PATH?:PATH)%",
                "protocol": "%PROTOCOL%",
                "upstream_transport_failure_reason": "%UPSTREAM_TRANSPORT_FAILURE_REASON%",
            }},
        },
    }])
}

fn configuration(services: &[Service]) -> Value {
    let of = |tcp: bool| {
        services
            .iter()
            .filter(move |one| (one.speaks == Port::Tcp) == tcp)
    };
    let mut listeners = vec![http_listener(of(false).map(istiod::virtual_host).collect())];
    listeners.extend(of(true).map(istiod::tcp_listener));
    let mut clusters: Vec<Value> = services.iter().flat_map(istiod::clusters).collect();
    clusters.push(json!({
        "name": "PassthroughCluster",
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
    }));
    json!({
        "admin": {"address": address(Ipv4Addr::LOCALHOST, ADMIN)},
        "static_resources": {"listeners": listeners, "clusters": clusters},
        // A user of Envoy's limits would see as many; a scenario is not about them.
        "layered_runtime": {"layers": [{"name": "static", "static_layer": {
            "re2": {"max_program_size": {"error_level": 32768}},
        }}]},
    })
}

fn address(ip: Ipv4Addr, port: u16) -> Value {
    json!({"socket_address": {"address": ip, "port_value": port}})
}

/// The listener `0.0.0.0_80` of a sidecar.
fn http_listener(mut hosts: Vec<Value>) -> Value {
    hosts.push(json!({
        "name": "allow_any",
        "domains": ["*"],
        "include_request_attempt_count": true,
        "routes": [{
            "name": "allow_any",
            "match": {"prefix": "/"},
            "route": {"cluster": "PassthroughCluster", "timeout": "0s", "max_grpc_timeout": "0s"},
        }],
    }));
    let filter = |name: &str, kind: &str| json!({"name": name, "typed_config": {"@type": format!("type.googleapis.com/{kind}")}});
    let manager = json!({
        "@type": "type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "outbound_0.0.0.0_80",
        "codec_type": "AUTO",
        "access_log": access_log(),
        "use_remote_address": false,
        "normalize_path": true,
        "path_with_escaped_slashes_action": "KEEP_UNCHANGED",
        "stream_idle_timeout": "0s",
        "proxy_100_continue": true,
        "internal_address_config": {"cidr_ranges": [
            {"address_prefix": "127.0.0.1", "prefix_len": 32},
            {"address_prefix": "::1", "prefix_len": 128},
        ]},
        "upgrade_configs": [{"upgrade_type": "websocket"}],
        "route_config": {
            "name": "80",
            "validate_clusters": false,
            "ignore_port_in_host_matching": true,
            "max_direct_response_body_size_bytes": 1_048_576,
            "virtual_hosts": hosts,
        },
        "http_filters": [
            filter(
                "envoy.filters.http.fault",
                "envoy.extensions.filters.http.fault.v3.HTTPFault",
            ),
            filter("envoy.filters.http.cors", "envoy.extensions.filters.http.cors.v3.Cors"),
            filter("envoy.filters.http.router", "envoy.extensions.filters.http.router.v3.Router"),
        ],
    });
    json!({
        "name": "0.0.0.0_80",
        "address": address(Ipv4Addr::UNSPECIFIED, super::port(Port::Http)),
        // The address that the client dialled, for what is passed through.
        "listener_filters": [filter(
            "envoy.filters.listener.original_dst",
            "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        )],
        "filter_chains": [{"filters": [{
            "name": "envoy.filters.network.http_connection_manager", "typed_config": manager,
        }]}],
    })
}
