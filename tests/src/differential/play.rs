//! One play of a scenario: its Service, and the objects that aquifer reads of it.

use std::{net::Ipv4Addr, path::Path, sync::Arc};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    DIALLED, SERVICES,
    istiod::{Endpoint, Service},
    scenario::{Endpoints, Port, Scenario},
};

/// The first of the upstreams' ports; each Service has the next.
const FIRST: u16 = 20_000;

/// A scenario's Service, of which there may be several: a scenario is played again on a fresh one.
#[derive(Clone, Debug)]
pub struct Play {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// The Service.
    pub service: Service,
    /// The port at its endpoints.
    pub target: u16,
}

impl Play {
    /// The plays of all scenarios, `copies` times; `files` is the folder that `FILES` stands for.
    pub fn all(scenarios: &[Arc<Scenario>], copies: usize, files: &Path) -> Result<Vec<Vec<Self>>> {
        let mut numbers = 1..u16::MAX - FIRST;
        let mut round = |copy| -> Result<Vec<Self>> {
            let plays = scenarios.iter().map(|scenario| {
                let number = numbers.next().context("too many scenarios")?;
                Self::new(scenario, copy, number, files)
            });
            plays.collect()
        };
        (0..copies).map(&mut round).collect()
    }

    fn new(scenario: &Arc<Scenario>, copy: usize, number: u16, files: &Path) -> Result<Self> {
        let name = match copy {
            0 => scenario.name.clone(),
            copy => format!("{}-{copy}", scenario.name),
        };
        let read = |text: &str| -> Result<Value> {
            let text = text.replace('@', &name);
            let text = text.replace("FILES", &files.to_string_lossy());
            serde_yaml::from_str(&text).with_context(|| format!("{name}: {text}"))
        };
        let subsets = if scenario.subsets.is_empty() && scenario.http.contains("subset") {
            let one = |n: usize| format!("{{name: v{n}, labels: {{version: v{n}}}}}");
            read(&format!("[{}, {}, {}]", one(1), one(2), one(3)))?
        } else {
            read(&scenario.subsets)?
        };
        let [high, low] = number.to_be_bytes();
        let network = if scenario.endpoints.are_dialled() {
            DIALLED
        } else {
            SERVICES
        };
        let [a, b, ..] = network.0.octets();
        Ok(Self {
            service: Service {
                address: Ipv4Addr::new(a, b, high, low),
                speaks: scenario.port,
                kind: scenario.endpoints,
                endpoints: Vec::new(),
                http: read(&scenario.http)?,
                tcp: read(&scenario.tcp)?,
                tls: read(&scenario.tls)?,
                policy: read(&scenario.policy)?,
                subsets,
                name,
            },
            scenario: scenario.clone(),
            target: FIRST + number,
        })
    }

    /// The Kubernetes and Istio objects that aquifer reads.
    pub fn objects(&self) -> Vec<Value> {
        if self.service.kind == Endpoints::Unknown {
            return Vec::new();
        }
        let Service { name, address, .. } = &self.service;
        let metadata = json!({"name": name, "namespace": "default"});
        let port = self.port_name();
        let mut objects = vec![
            json!({
                "apiVersion": "v1", "kind": "Service", "metadata": metadata,
                "spec": {
                    "clusterIP": address, "clusterIPs": [address],
                    "ports": [{
                        "name": port, "port": self.service.port(), "targetPort": self.target,
                    }],
                },
            }),
            self.slice(name, |one| !one.joins),
        ];
        let istio = |kind: &str, spec: Value| {
            json!({
                "apiVersion": "networking.istio.io/v1", "kind": kind, "metadata": metadata,
                "spec": spec,
            })
        };
        let Service {
            http,
            tcp,
            tls,
            policy,
            subsets,
            ..
        } = &self.service;
        let mut spec = json!({"hosts": [name]});
        if !tls.is_null() {
            spec["hosts"] = json!([name, format!("*.{name}.test")]);
        }
        for (field, value) in [("http", http), ("tcp", tcp), ("tls", tls)] {
            if !value.is_null() {
                spec[field] = value.clone();
            }
        }
        if !(http.is_null() && tcp.is_null() && tls.is_null()) {
            objects.push(istio("VirtualService", spec));
        }
        if !(policy.is_null() && subsets.is_null()) {
            let mut spec = json!({"host": name});
            for (field, value) in [("trafficPolicy", policy), ("subsets", subsets)] {
                if !value.is_null() {
                    spec[field] = value.clone();
                }
            }
            objects.push(istio("DestinationRule", spec));
        }
        objects
    }

    fn port_name(&self) -> &'static str {
        match self.service.speaks {
            Port::Http => "http",
            Port::Http2 => "http2",
            Port::Tcp => "tcp",
            Port::Tls => "tls",
        }
    }

    /// An EndpointSlice of this name, with those endpoints that `has`.
    fn slice(&self, name: &str, has: impl Fn(&&Endpoint) -> bool) -> Value {
        let ready = |one: &Endpoint| json!({"addresses": [one.address.ip()], "conditions": {"ready": one.ready}});
        let endpoints = self.service.endpoints.iter().filter(has);
        json!({
            "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
            "metadata": {
                "name": name, "namespace": "default",
                "labels": {"kubernetes.io/service-name": self.service.name},
            },
            "addressType": "IPv4",
            "ports": [{"name": self.port_name(), "port": self.target, "protocol": "TCP"}],
            "endpoints": endpoints.map(ready).collect::<Vec<_>>(),
        })
    }

    /// The endpoints that join.
    pub fn later(&self, name: &str) -> Value {
        self.slice(name, |one| one.joins)
    }
}
