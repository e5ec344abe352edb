//! The shop of `deploy/examples`: its namespace and services as a user would apply them, pods behind
//! them as a test wants them, and one of the examples in force.

use std::{fs, net::SocketAddr, path::PathBuf};

use anyhow::{Context, Result, ensure};
use http::Response;
use serde_json::Value;

use crate::{
    Config, Lab, Manifests, PATIENCE, Pod, Proxy,
    client::{Http, Reply, request, whole},
    clock::Deadline,
    echo::{self, Answer, Call, Echo},
};

/// Where `reviews` is, in shop.yaml.
pub const REVIEWS: &str = "10.96.7.10:80";
/// Where `ratings` is.
pub const RATINGS: &str = "10.96.7.11:80";
/// The port at the pods of both.
pub const PORT: u16 = 9080;

/// Pods by name, each with its labels as `key=value,key=value`.
pub type Pods<'a> = &'a [(&'a str, &'a str)];

/// A client, and two versions of reviews.
pub const TWO_VERSIONS: Pods<'static> = &[
    ("client", "app=client"),
    ("reviews-v1", "app=reviews,version=v1"),
    ("reviews-v2", "app=reviews,version=v2"),
];

/// The running shop. The order of the fields is the order in which they go.
#[derive(Debug)]
pub struct Shop {
    /// The proxy, ready.
    pub proxy: Proxy,
    /// What it reads.
    pub config: Config,
    pods: Vec<Pod>,
    /// The network.
    pub lab: Lab,
}

/// Where the examples lie.
pub fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/examples"))
}

/// One of the files of `deploy/examples`.
pub fn example(file: &str) -> Result<String> {
    let path = folder().join(file);
    fs::read_to_string(&path).with_context(|| format!("read {}", path.display()))
}

impl Shop {
    /// The shop with `pods`, which are in the mesh unless their labels say otherwise, and with `yaml`
    /// in force. The service account of each is called as its label `app`.
    pub async fn open(pods: Pods<'_>, yaml: &str) -> Result<Self> {
        Self::start(pods, yaml, 0).await
    }

    /// With an authority for so many service accounts; without one for none.
    async fn start(pods: Pods<'_>, yaml: &str, accounts: usize) -> Result<Self> {
        let lab = Lab::new()?;
        let mut manifests = Manifests::new();
        let mut made = Vec::new();
        for (name, labels) in pods {
            let pod = lab.pod(name)?;
            let labels: Vec<_> = labels
                .split(',')
                .filter_map(|one| one.split_once('='))
                .collect();
            let account = labels.iter().find(|(key, _)| *key == "app");
            let account = account.map_or("default", |(_, value)| value);
            manifests = manifests.pod_as("shop", account, &pod, &labels);
            made.push(pod);
        }
        let config = Config::new(&Manifests::new().yaml(example("shop.yaml")?))?;
        config.put("pods.yaml", manifests.text())?;
        config.put("example.yaml", yaml)?;
        let mut proxy = Proxy::on(&lab, &config).arguments(&["--workers", "2"]);
        if accounts > 0 {
            proxy = proxy.authority();
        }
        let proxy = proxy.ready().await?;
        if accounts > 0 {
            proxy.certified(accounts).await?;
        }
        Ok(Self {
            proxy,
            config,
            pods: made,
            lab,
        })
    }

    /// The shop with one of the examples, about which the proxy must have nothing to complain.
    pub async fn example(pods: Pods<'_>, file: &str) -> Result<Self> {
        Self::open(pods, &example(file)?).await?.faultless().await
    }

    /// The same, with mutual TLS between the pods: each of their service accounts has a certificate.
    pub async fn secured(pods: Pods<'_>, accounts: usize, file: &str) -> Result<Self> {
        let shop = Self::start(pods, &example(file)?, accounts).await?;
        shop.faultless().await
    }

    async fn faultless(self) -> Result<Self> {
        let status = self.proxy.admin("/status").await?;
        let problems = &status["problems"];
        ensure!(problems.as_array().is_some_and(Vec::is_empty), "{problems}");
        Ok(self)
    }

    /// Replaces what is in force beside the shop itself.
    pub async fn apply(&self, yaml: &str) -> Result<()> {
        self.proxy
            .after(|| self.config.put("example.yaml", yaml))
            .await
    }

    /// One of the pods.
    pub fn pod(&self, name: &str) -> Result<&Pod> {
        let mut pods = self.pods.iter();
        pods.find(|pod| pod.name == name)
            .with_context(|| format!("there is no pod {name}"))
    }

    /// An echo on the port of reviews and ratings in each of these pods, called by the pod's name.
    pub fn echoes(&self, pods: &[&str]) -> Result<Vec<Echo>> {
        pods.iter()
            .map(|name| Echo::start(self.pod(name)?, PORT, name))
            .collect()
    }

    /// A server on that port that answers what `answer` makes.
    pub fn answering(
        &self,
        pod: &str,
        answer: impl Fn(Call) -> Answer + Clone + Send + Sync + 'static,
    ) -> Result<Echo> {
        Echo::answering(self.pod(pod)?, PORT, answer)
    }

    /// A connection of the client to reviews.
    pub async fn http(&self) -> Result<Http> {
        Http::connect(self.pod("client")?, REVIEWS.parse()?).await
    }

    /// A request of the client to reviews on a connection of its own, with headers.
    pub async fn get(&self, path: &str, headers: &[(&str, &str)]) -> Result<Reply> {
        get(&mut self.http().await?, "reviews", path, headers).await
    }

    /// Connections of `pod` to reviews, `count` by each of the two workers.
    ///
    /// Which worker has one shows by the upstream connection that its requests to ratings share;
    /// the pod `ratings` must be there, with an echo.
    pub async fn spread(&self, pod: &str, count: usize) -> Result<[Vec<Http>; 2]> {
        let mut workers: [(Option<SocketAddr>, Vec<Http>); 2] = Default::default();
        let deadline = Deadline::after(PATIENCE);
        while workers.iter().any(|(_, clients)| clients.len() < count) {
            ensure!(!deadline.passed(), "the connections all went to one worker");
            let mut http = Http::connect(self.pod(pod)?, REVIEWS.parse()?).await?;
            let seen = http.get("ratings", "/").await?.seen()?;
            let peer: SocketAddr = seen.field("peer").parse()?;
            let mut places = workers.iter_mut();
            let (known, clients) = places
                .find(|(known, _)| known.is_none_or(|known| known == peer))
                .context("there are more than two workers")?;
            *known = Some(peer);
            if clients.len() < count {
                clients.push(http);
            }
        }
        Ok(workers.map(|(_, clients)| clients))
    }

    /// Waits until the line `name` of `/stats` has a value that `wanted` accepts. A counter that is
    /// not there counts as 0.
    pub async fn stat(&self, name: &str, wanted: impl Fn(u64) -> bool) -> Result<u64> {
        let deadline = Deadline::after(PATIENCE);
        loop {
            let stats = self.proxy.stats().await?;
            let value = stats.get(name).copied().unwrap_or_default();
            if wanted(value) {
                return Ok(value);
            }
            ensure!(!deadline.passed(), "{name} is {value}: {stats:#?}");
            // Counters are asked for, as a collector does; they announce nothing.
            tokio::time::sleep(std::time::Duration::from_millis(5)).await;
        }
    }

    /// Waits until `status` has a problem that says all of `parts`, and gives its row.
    pub async fn problem(&self, parts: &[&str]) -> Result<Value> {
        let said = |row: &Value| {
            let row = row.to_string();
            parts.iter().all(|part| row.contains(part))
        };
        let rows = |status: &Value| status["problems"].as_array().cloned().unwrap_or_default();
        let status = self
            .proxy
            .until("/status", |status| rows(status).iter().any(said))
            .await
            .with_context(|| format!("no problem says {parts:?}"))?;
        let mut found = rows(&status).into_iter().filter(said);
        found.next().context("it went away")
    }
}

/// A GET with headers.
pub async fn get(
    http: &mut Http,
    host: &str,
    path: &str,
    headers: &[(&str, &str)],
) -> Result<Reply> {
    let head = request("GET", host, path);
    let head = headers
        .iter()
        .fold(head, |head, (name, value)| head.header(*name, *value));
    http.exchange(head.body(whole(""))?).await
}

/// The value of an answer's header; empty where there is none.
pub fn header<'a>(reply: &'a Reply, name: &str) -> &'a str {
    let value = reply.headers.get(name);
    value
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default()
}

/// An answer with a status and a short text.
pub fn says(status: u16, text: &str) -> Response<echo::Body> {
    let status = http::StatusCode::from_u16(status).unwrap_or_default();
    echo::respond(status, text.to_owned().into())
}
