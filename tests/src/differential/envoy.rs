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
    DIALLED, SERVICES,
    istiod::{self, Service},
    log,
    scenario::{Endpoints, Port, Workers},
};
use crate::{
    PATIENCE, Pod,
    client::Http,
    clock::Deadline,
    process::{self, Child},
};

/// The mark of a client's sockets whose connections it gets at addresses that are not its own.
pub const MARK: u32 = 0x77;
/// Its own administration.
const ADMIN: u16 = 15000;

/// A running Envoy.
#[derive(Debug)]
pub struct Envoy {
    /// The process; its standard output is the access log.
    pub child: Child,
    folder: tempfile::TempDir,
}

impl Envoy {
    /// Starts Envoy in `pod` for these Services, with so many workers.
    pub async fn start(
        binary: &Path,
        pod: &Pod,
        services: &[Service],
        workers: Workers,
    ) -> Result<Self> {
        let source = pod.v4.to_string();
        let services_net = format!("{}/{}", SERVICES.0, SERVICES.1);
        let route = ["local", &services_net, "dev", "lo", "src", &source];
        let add = ["-netns", pod.netns.name(), "route", "add"];
        process::output("ip", &[&add[..], &route[..]].concat())?;
        // What a client marks comes here although the address is another's; what Envoy dials goes
        // there.
        let mark = MARK.to_string();
        let rule = ["rule", "add", "fwmark", &mark, "lookup", "100"];
        process::output("ip", &[&add[..2], &rule[..]].concat())?;
        let dialled = format!("{}/{}", DIALLED.0, DIALLED.1);
        let route = [
            "local", &dialled, "dev", "lo", "src", &source, "table", "100",
        ];
        process::output("ip", &[&add[..], &route[..]].concat())?;
        let folder = tempfile::Builder::new().prefix("aqh-envoy-").tempdir()?;
        let path = folder.path().join("envoy.json");
        for service in services {
            if let Endpoints::Joining(_) = service.kind {
                put_endpoints(folder.path(), &service.at_first())?;
            }
        }
        let configuration = configuration(services, folder.path(), workers);
        fs::write(&path, serde_json::to_vec_pretty(&configuration)?)?;
        let mut command = Command::new(binary);
        // More than one share no connection pool, and count some limits apart.
        let count = match workers {
            Workers::One => "1",
            Workers::Two => "2",
        };
        command.args(["--concurrency", count, "--log-level", "warning"]);
        command.args(["--service-node", "beside", "--service-cluster", "beside"]);
        command.args(["--disable-hot-restart", "--file-flush-interval-msec", "50"]);
        let child = Child::start(Some(&pod.netns), {
            command.arg("-c").arg(path);
            command
        })?;
        let envoy = Self { child, folder };
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

    /// Tells it of all endpoints of a Service.
    pub fn join(&self, service: &Service) -> Result<()> {
        put_endpoints(self.folder.path(), service)
    }

    async fn ask(&self, pod: &Pod, path: &str) -> Result<String> {
        let to = SocketAddr::from((Ipv4Addr::LOCALHOST, ADMIN));
        Ok(Http::connect(pod, to)
            .await?
            .get("localhost", path)
            .await?
            .text())
    }

    /// Whether both of its workers have had connections.
    pub async fn uses_both(&self, pod: &Pod) -> Result<()> {
        let text = self.ask(pod, "/stats?filter=worker_").await?;
        let mut had = [0, 0];
        for (name, value) in log::stats(&text) {
            for (worker, had) in had.iter_mut().enumerate() {
                if name.ends_with(&format!("worker_{worker}.downstream_cx_total")) {
                    *had += value;
                }
            }
        }
        ensure!(!had.contains(&0), "Envoy's workers had {had:?} connections");
        Ok(())
    }

    /// Its counters and gauges.
    pub async fn stats(&self, pod: &Pod) -> Result<BTreeMap<String, u64>> {
        let text = self
            .ask(pod, "/stats?filter=^%28cluster%7Cvhost%29%5C.")
            .await?;
        Ok(log::stats(&text))
    }
}

/// Writes the endpoints of a Service for Envoy, which hears of files that are moved.
fn put_endpoints(folder: &Path, service: &Service) -> Result<()> {
    let mut resource = istiod::assignment(service);
    resource["@type"] = "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment".into();
    let answer = json!({
        "version_info": service.endpoints.len().to_string(), "resources": [resource],
    });
    let name = format!("{}.json", service.cluster(""));
    let hidden = folder.join(format!(".{name}.new"));
    fs::write(&hidden, serde_json::to_vec(&answer)?)?;
    fs::rename(&hidden, folder.join(name))?;
    Ok(())
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

fn configuration(services: &[Service], folder: &Path, workers: Workers) -> Value {
    let is_l4 = |one: &&Service| matches!(one.speaks, Port::Tcp | Port::Tls);
    let http = |dialled: bool| {
        let own = services
            .iter()
            .filter(|one| !is_l4(one) && one.is_dialled() == dialled)
            .filter(|one| one.kind != Endpoints::Unknown);
        own.map(istiod::virtual_host).collect()
    };
    let kinds = [Endpoints::First(1), Endpoints::Dialled];
    let mut listeners: Vec<_> = kinds
        .map(|kind| {
            http_listener(
                http(kind.are_dialled()),
                super::port(Port::Http, kind),
                kind.are_dialled(),
            )
        })
        .into();
    listeners.extend(services.iter().filter(is_l4).map(istiod::l4_listener));
    if workers == Workers::Two {
        for listener in &mut listeners {
            listener["connection_balance_config"] = json!({"exact_balance": {}});
        }
    }
    let clusters = services.iter();
    let clusters = clusters.flat_map(|one| istiod::clusters(one, folder));
    let mut clusters: Vec<Value> = clusters.collect();
    clusters.push(json!({
        "name": "PassthroughCluster",
        "type": "ORIGINAL_DST",
        "connect_timeout": "10s",
        "lb_policy": "CLUSTER_PROVIDED",
        "typed_extension_protocol_options": {
            "envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
                "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
                "use_downstream_protocol_config": {
                    "http_protocol_options": {}, "http2_protocol_options": {},
                },
            },
        },
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

/// The listener of a sidecar for HTTP at `port` of any address. A transparent one has connections to
/// addresses that are not its own.
fn http_listener(mut hosts: Vec<Value>, port: u16, transparent: bool) -> Value {
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
        "stat_prefix": format!("outbound_0.0.0.0_{port}"),
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
            "name": port.to_string(),
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
        "name": format!("0.0.0.0_{port}"),
        "address": address(Ipv4Addr::UNSPECIFIED, port),
        "transparent": transparent,
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
