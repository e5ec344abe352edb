//! Where the scenarios play: one lab with upstream pods, a captured client, and a client beside Envoy;
//! one proxy of each kind with all scenarios' Services.

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    CLIENT_LOCALITY, DIALLED, LOCALITIES,
    book::{Book, Entry, Side},
    client::{Client, Session},
    envoy::{Envoy, MARK},
    istiod::{Endpoint, Service},
    log,
    observe::{Observation, Observed, Reply},
    play::Play,
    scenario::{Endpoints, Workers},
    secure::Secure,
    upstream::{Role, Upstreams},
};
use crate::{Config, Lab, Manifests, PATIENCE, Pod, Proxy, clock::Deadline, process};

/// How many of the usual upstream pods there are.
const PODS: usize = 10;
/// How long late attempts, and log entries, are waited for.
const LATE: std::time::Duration = std::time::Duration::from_secs(3);

/// Both proxies with all around them. The order of the fields is the order in which they go.
#[derive(Debug)]
pub struct Stage {
    proxy: Proxy,
    /// With one worker, and with two.
    envoys: Vec<(Workers, Arc<Pod>, Envoy)>,
    book: Book,
    _upstreams: Upstreams,
    config: Config,
    client: Arc<Pod>,
    _pods: Vec<Pod>,
    _lab: Lab,
}

impl Stage {
    /// Builds all of it for these plays, whose endpoints it fills in.
    pub async fn new<'a>(
        binary: &Path,
        plays: impl Iterator<Item = &'a mut Play>,
        secure: &Secure,
    ) -> Result<Self> {
        let lab = Lab::new()?;
        let client = Arc::new(lab.pod("client")?);
        let beside = Arc::new(lab.pod("envoy")?);
        let beside_two = Arc::new(lab.pod("envoy-two")?);
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
        for asking in [&client, &beside, &beside_two] {
            route(asking.netns.name(), &[&dialled, "via", &via])?;
        }
        let mut roles: Vec<Vec<Role>> = vec![Vec::new(); pods.len()];
        let mut services: [Vec<Service>; 2] = Default::default();
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
                Endpoints::First(_)
                | Endpoints::Joining(_)
                | Endpoints::Dialled
                | Endpoints::Unknown => (0, 0),
                Endpoints::Unready { unready, .. } => (0, unready),
                Endpoints::Located => (PODS, 0),
            };
            for number in 0..kind.count() {
                let pod = &pods[offset + number];
                play.service.endpoints.push(Endpoint {
                    address: SocketAddr::new(IpAddr::V4(pod.v4), play.target),
                    version: format!("v{}", number + 1),
                    ready: number >= unready,
                    joins: matches!(kind, Endpoints::Joining(of) if number + 1 == of),
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
                    tunnelled: play.scenario.policy.contains("tunnel:"),
                    proxied: play.scenario.policy.contains("proxyProtocol"),
                    server: play.scenario.server,
                });
            }
            for object in play.objects() {
                manifests = manifests.object(object);
            }
            let of_workers = match play.scenario.workers {
                Workers::One => 0,
                Workers::Two => 1,
            };
            services[of_workers].push(play.service.clone());
        }
        let sides = [
            (client.v4, Side::Aquifer),
            (beside.v4, Side::Envoy),
            (beside_two.v4, Side::Envoy),
        ];
        let sides = sides
            .map(|(address, side)| (IpAddr::V4(address), side))
            .into();
        let book = Book::default();
        let upstreams = Upstreams::start(pods.iter().zip(roles).collect(), sides, &book, secure)?;
        let config = Config::new(&manifests)?;
        let mut envoys = Vec::new();
        let places = [(Workers::One, beside), (Workers::Two, beside_two)];
        for ((workers, pod), services) in places.into_iter().zip(&services) {
            if !services.is_empty() {
                let envoy = Envoy::start(binary, &pod, services, workers).await?;
                envoys.push((workers, pod, envoy));
            }
        }
        let start = Proxy::on(&lab, &config).arguments(&["--access-log", "json"]);
        Ok(Self {
            proxy: start.ready().await?,
            envoys,
            book,
            _upstreams: upstreams,
            config,
            client,
            _pods: pods,
            _lab: lab,
        })
    }

    /// Plays a scenario's steps through one of the proxies. Log and counters come later.
    pub async fn play(&self, play: &Play, side: Side) -> Result<Observation> {
        let service = &play.service;
        let mut session = Session::new(Client {
            pod: Arc::clone(self.asking(side, play.scenario.workers)?),
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
            if step.ask.joins {
                self.join(play, side).await?;
            }
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

    /// The Envoy with so many workers, and the pod beside which it is.
    fn envoy(&self, workers: Workers) -> Result<&(Workers, Arc<Pod>, Envoy)> {
        let mut envoys = self.envoys.iter();
        let found = envoys.find(|(has, ..)| *has == workers);
        found.context("there is no such Envoy")
    }

    /// Where the client of a side is.
    fn asking(&self, side: Side, workers: Workers) -> Result<&Arc<Pod>> {
        Ok(match side {
            Side::Aquifer => &self.client,
            Side::Envoy => &self.envoy(workers)?.1,
        })
    }

    /// Tells a side of all endpoints, and waits until it knows them.
    async fn join(&self, play: &Play, side: Side) -> Result<()> {
        let service = &play.service;
        let (cluster, count) = (service.cluster(""), service.endpoints.len());
        if side == Side::Aquifer {
            let name = format!("{}-later", service.name);
            self.config
                .put(&format!("{name}.json"), play.later(&name).to_string())?;
            let known = |rows: &Value| {
                let rows = rows.as_array().into_iter().flatten();
                rows.filter(|one| one["cluster"] == *cluster).count() == count
            };
            let path = format!("/config/endpoints?host={}", service.host());
            self.proxy.until(&path, known).await?;
            return Ok(());
        }
        let (_, pod, envoy) = self.envoy(play.scenario.workers)?;
        envoy.join(service)?;
        let known = format!("cluster.{cluster}.membership_total");
        let deadline = Deadline::after(PATIENCE);
        loop {
            let value = envoy.stats(pod).await?.get(&known).copied();
            if value == Some(count as u64) {
                return Ok(());
            }
            ensure!(!deadline.passed(), "{known} stays {value:?}");
            // It says nothing when it has read a file.
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// The client's address on a side.
    pub fn client(&self, side: Side, workers: Workers) -> Result<Ipv4Addr> {
        Ok(self.asking(side, workers)?.v4)
    }

    /// Adds what the logs and the counters say, once every exchange has its log entry.
    pub async fn complete<'a>(
        &self,
        side: Side,
        played: impl Iterator<Item = (&'a Play, &'a mut Observation)>,
    ) -> Result<()> {
        let mut played: Vec<_> = played.collect();
        let children: Vec<_> = match side {
            Side::Aquifer => vec![&self.proxy.child],
            Side::Envoy => self.envoys.iter().map(|(.., one)| &one.child).collect(),
        };
        let deadline = Deadline::after(LATE);
        loop {
            let lines = children.iter().flat_map(|one| one.stdout.since(0));
            let entries = log::entries(&lines.collect::<Vec<_>>());
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
        let mut stats = BTreeMap::new();
        match side {
            Side::Aquifer => stats = self.proxy.stats().await?,
            Side::Envoy => {
                for (workers, pod, envoy) in &self.envoys {
                    stats.extend(envoy.stats(pod).await?);
                    if *workers == Workers::Two {
                        envoy.uses_both(pod).await?;
                    }
                }
            }
        }
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
