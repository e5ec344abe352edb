//! Where the scenarios play: one lab with upstream pods, a captured client, and a client beside Envoy;
//! one proxy of each kind with all scenarios' Services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};

use super::{
    CLIENT_LOCALITY, DIALLED, LOCALITIES, SERVICES,
    book::{Book, Entry, Side},
    client::{Client, Session},
    envoy::{Envoy, MARK},
    istiod::{Endpoint, Service},
    log,
    observe::{Observation, Observed, Reply},
    scenario::{Endpoints, Port, Scenario},
    upstream::{Role, Upstreams},
};
use crate::{Config, Lab, Manifests, Pod, Proxy, clock::Deadline, process};

/// How many of the usual upstream pods there are.
const PODS: usize = 10;
/// The first of the upstreams' ports; each Service has the next.
const FIRST: u16 = 20_000;
/// How long late attempts, and log entries, are waited for.
const LATE: std::time::Duration = std::time::Duration::from_secs(3);

/// A scenario's Service, of which there may be several: a scenario is played again on a fresh one.
#[derive(Clone, Debug)]
pub struct Play {
    /// The scenario.
    pub scenario: Arc<Scenario>,
    /// The Service.
    pub service: Service,
    target: u16,
}

/// Both proxies with all around them. The order of the fields is the order in which they go.
#[derive(Debug)]
pub struct Stage {
    proxy: Proxy,
    envoy: Envoy,
    book: Book,
    _upstreams: Upstreams,
    _config: Config,
    clients: BTreeMap<Side, Arc<Pod>>,
    _pods: Vec<Pod>,
    _lab: Lab,
}

impl Play {
    /// The plays of all scenarios, `copies` times.
    pub fn all(scenarios: &[Arc<Scenario>], copies: usize) -> Result<Vec<Vec<Self>>> {
        let mut numbers = 1..u16::MAX - FIRST;
        let mut round = |copy| -> Result<Vec<Self>> {
            let plays = scenarios.iter().map(|scenario| {
                let number = numbers.next().context("too many scenarios")?;
                Self::new(scenario, copy, number)
            });
            plays.collect()
        };
        (0..copies).map(&mut round).collect()
    }

    fn new(scenario: &Arc<Scenario>, copy: usize, number: u16) -> Result<Self> {
        let name = match copy {
            0 => scenario.name.clone(),
            copy => format!("{}-{copy}", scenario.name),
        };
        let read = |text: &str| -> Result<Value> {
            let text = text.replace('@', &name);
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
    fn objects(&self) -> Vec<Value> {
        if self.service.kind == Endpoints::Unknown {
            return Vec::new();
        }
        let Service { name, address, .. } = &self.service;
        let metadata = json!({"name": name, "namespace": "default"});
        let port = match self.service.speaks {
            Port::Http => "http",
            Port::Http2 => "http2",
            Port::Tcp => "tcp",
            Port::Tls => "tls",
        };
        let ready = |one: &Endpoint| json!({"addresses": [one.address.ip()], "conditions": {"ready": one.ready}});
        let endpoints: Value = self.service.endpoints.iter().map(ready).collect();
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
            json!({
                "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
                "metadata": {
                    "name": name, "namespace": "default",
                    "labels": {"kubernetes.io/service-name": name},
                },
                "addressType": "IPv4",
                "ports": [{"name": port, "port": self.target, "protocol": "TCP"}],
                "endpoints": endpoints,
            }),
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
}

impl Stage {
    /// Builds all of it for these plays, whose endpoints it fills in.
    pub async fn new<'a>(binary: &Path, plays: impl Iterator<Item = &'a mut Play>) -> Result<Self> {
        let lab = Lab::new()?;
        let client = Arc::new(lab.pod("client")?);
        let beside = Arc::new(lab.pod("envoy")?);
        let mut pods = Vec::new();
        for number in 0..PODS {
            pods.push(lab.pod(&format!("up-{number}"))?);
        }
        for number in 0..LOCALITIES.len() {
            pods.push(lab.pod(&format!("located-{number}"))?);
        }
        // The addresses that are dialled as they are belong to the first of them.
        let dialled = format!("{}/{}", DIALLED.0, DIALLED.1);
        let owner = &pods[0];
        let via = owner.v4.to_string();
        let route = |netns: &str, route: &[&str]| {
            let add = ["-netns", netns, "route", "add"];
            process::output("ip", &[&add[..], route].concat()).map(drop)
        };
        route(owner.netns.name(), &["local", &dialled, "dev", "lo"])?;
        for asking in [&client, &beside] {
            route(asking.netns.name(), &[&dialled, "via", &via])?;
        }
        let mut roles: Vec<Vec<Role>> = vec![Vec::new(); pods.len()];
        let mut services = Vec::new();
        let located = CLIENT_LOCALITY.replace('/', ".");
        let client_labels = [("app", "client"), ("istio-locality", located.as_str())];
        let mut manifests = Manifests::new()
            .namespace("default", &[])
            .pod(&client, &client_labels);
        for (number, pod) in pods.iter().enumerate() {
            let version = format!("v{}", number + 1);
            let locality = number.checked_sub(PODS).and_then(|at| LOCALITIES.get(at));
            let locality = locality.map(|one| one.replace('/', "."));
            let mut labels = vec![("app", "upstream"), ("version", version.as_str())];
            labels.extend(
                locality
                    .as_deref()
                    .map(|locality| ("istio-locality", locality)),
            );
            manifests = manifests.stranger(pod, &labels);
        }
        for play in plays {
            let kind = play.scenario.endpoints;
            let (offset, unready) = match kind {
                Endpoints::First(_) | Endpoints::Dialled | Endpoints::Unknown => (0, 0),
                Endpoints::Unready { unready, .. } => (0, unready),
                Endpoints::Located => (PODS, 0),
            };
            for number in 0..kind.count() {
                let pod = &pods[offset + number];
                play.service.endpoints.push(Endpoint {
                    address: SocketAddr::new(IpAddr::V4(pod.v4), play.target),
                    version: format!("v{}", number + 1),
                    ready: number >= unready,
                    locality: (offset > 0).then(|| LOCALITIES[number]),
                });
                let at = if kind.are_dialled() {
                    SocketAddr::new(IpAddr::V4(play.service.address), play.service.port())
                } else {
                    pod.at(play.target)
                };
                roles[offset + number].push(Role {
                    service: play.service.name.as_str().into(),
                    endpoint: number,
                    at,
                    speaks: play.scenario.port,
                    scripts: play.scenario.scripts.clone(),
                });
            }
            for object in play.objects() {
                manifests = manifests.object(object);
            }
            services.push(play.service.clone());
        }
        let sides = [(client.v4, Side::Aquifer), (beside.v4, Side::Envoy)];
        let sides = sides
            .map(|(address, side)| (IpAddr::V4(address), side))
            .into();
        let book = Book::default();
        let upstreams = Upstreams::start(pods.iter().zip(roles).collect(), sides, &book)?;
        let config = Config::new(&manifests)?;
        let envoy = Envoy::start(binary, &beside, &services).await?;
        let start = Proxy::on(&lab, &config).arguments(&["--access-log", "json"]);
        Ok(Self {
            proxy: start.ready().await?,
            envoy,
            book,
            _upstreams: upstreams,
            _config: config,
            clients: [(Side::Aquifer, client), (Side::Envoy, beside)].into(),
            _pods: pods,
            _lab: lab,
        })
    }

    /// Plays a scenario's steps through one of the proxies. Log and counters come later.
    pub async fn play(&self, play: &Play, side: Side) -> Result<Observation> {
        let service = &play.service;
        let mut session = Session::new(Client {
            pod: self.clients[&side].clone(),
            to: SocketAddr::new(IpAddr::V4(service.address), service.port()),
            host: service.name.clone(),
            mark: (side == Side::Envoy && service.is_dialled()).then_some(MARK),
        });
        let entry = Entry {
            service: service.name.as_str().into(),
            side,
        };
        let mut observation = Observation::default();
        let mut before = 0;
        for (number, step) in play.scenario.steps.iter().enumerate() {
            let outcomes = session.perform(number, &step.ask).await;
            let outcomes = outcomes
                .with_context(|| format!("{} through {side:?}, step {number}", service.name))?;
            let least = before + step.expected.attempts();
            self.book.wait_for(&entry, least, LATE).await;
            let page = self.book.page(&entry);
            observation.steps.push(Observed {
                replies: outcomes.into_iter().map(Reply::new).collect(),
                attempts: page.attempts[before..].to_vec(),
            });
            before = page.attempts.len();
            observation.connections = page.connections;
        }
        Ok(observation)
    }

    /// The client's address on a side.
    pub fn client(&self, side: Side) -> Ipv4Addr {
        self.clients[&side].v4
    }

    /// Adds what the logs and the counters say, once every exchange has its log entry.
    pub async fn complete<'a>(
        &self,
        side: Side,
        played: impl Iterator<Item = (&'a Play, &'a mut Observation)>,
    ) -> Result<()> {
        let mut played: Vec<_> = played.collect();
        let child = match side {
            Side::Aquifer => &self.proxy.child,
            Side::Envoy => &self.envoy.child,
        };
        let deadline = Deadline::after(LATE);
        loop {
            let entries = log::entries(&child.stdout.since(0));
            let mut missing = 0;
            let steps = played.iter_mut().flat_map(|(_, one)| &mut one.steps);
            for reply in steps.flat_map(|step| &mut step.replies) {
                reply.logged = entries.get(&reply.outcome.id).cloned();
                missing += usize::from(reply.logged.is_none());
            }
            if missing == 0 || deadline.passed() {
                break;
            }
            // Lines come by themselves; there is no event for the last of them.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        let stats = match side {
            Side::Aquifer => self.proxy.stats().await?,
            Side::Envoy => self.envoy.stats(&self.clients[&side]).await?,
        };
        for (play, observation) in played {
            let host = format!("|{}", play.service.host());
            // Of routes, which belong to the host and not to a cluster.
            let routes = format!("vhost.{}:{}.", play.service.host(), play.service.port());
            let own: BTreeMap<&str, u64> = stats
                .iter()
                .filter_map(|(name, value)| {
                    if let Some(rest) = name.strip_prefix(&routes) {
                        return Some((rest, *value));
                    }
                    let (_, rest) = name.strip_prefix("cluster.")?.split_once(&host)?;
                    Some((rest.trim_start_matches([';', '.']), *value))
                })
                .fold(BTreeMap::new(), |mut sums, (name, value)| {
                    let sum: &mut u64 = sums.entry(name).or_default();
                    *sum = sum.saturating_add(value);
                    sums
                });
            for name in &play.scenario.counters {
                if let Some(value) = own.get(name) {
                    observation.counters.insert(name, *value);
                }
            }
        }
        Ok(())
    }

    /// What aquifer said while it ran.
    pub fn complaints(&self) -> String {
        self.proxy.complaints()
    }
}
