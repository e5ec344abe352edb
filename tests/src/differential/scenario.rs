//! One line of the tables: a policy as Istio's resources have it, what the upstream does, what the
//! client asks, and what Envoy is known to make of it.
//!
//! The expectation guards the scenario, not aquifer: a scenario that Envoy does not play as it was
//! meant compares nothing, and fails. aquifer is compared with what Envoy was seen to do.

use super::{
    expect::Expected,
    request::Ask,
    script::{Script, Scripts},
};

/// A scenario under construction, and then in a table.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// Its name, which is also the name of its Service.
    pub name: String,
    /// `http` of its VirtualService, as YAML; empty where it has none. `@` stands for the Service's
    /// name.
    pub http: String,
    /// `tcp` of its VirtualService.
    pub tcp: String,
    /// `tls` of its VirtualService.
    pub tls: String,
    /// `trafficPolicy` of its DestinationRule, as YAML; empty where it has none.
    pub policy: String,
    /// Subsets with policies of their own, as YAML; `v1` to `v3` otherwise, where `http` names one.
    pub subsets: String,
    /// What the upstream does.
    pub scripts: Scripts,
    /// Which server of TLS the upstream is behind; empty for none.
    pub server: &'static str,
    /// What kind of port the Service has.
    pub port: Port,
    /// Which pods are its endpoints.
    pub endpoints: Endpoints,
    /// What is done, in order.
    pub steps: Vec<Step>,
    /// What is compared beside the usual.
    pub compare: Compare,
    /// Counters of its clusters, by Envoy's names, that must be equal.
    pub counters: Vec<&'static str>,
    /// How many workers Envoy has.
    pub workers: Workers,
}

/// Envoy's workers. aquifer has two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Workers {
    /// One, so that what each worker has for itself is alike.
    One,
    /// Two, to which connections go by turns: what they share, and what not.
    Two,
}

/// What the client does, and what Envoy makes of it.
#[derive(Clone, Debug)]
pub struct Step {
    /// The requests.
    pub ask: Ask,
    /// What each gets.
    pub expected: Expected,
}

/// The Service's port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Port {
    /// Declared HTTP: HTTP/1.1 to the upstream.
    Http,
    /// Declared HTTP/2: so to the upstream.
    Http2,
    /// Declared TCP.
    Tcp,
    /// Declared TLS.
    Tls,
}

/// The endpoints of the Service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoints {
    /// The first so many of the usual pods; the `n`-th is labelled `version: v<n+1>`.
    First(usize),
    /// So many, the first few of which are not ready.
    Unready {
        /// How many there are.
        of: usize,
        /// How many of these are not ready.
        unready: usize,
    },
    /// The pods that have a locality: `r1/z1` (where the client is), `r1/z2`, `r2/z1`, `r3/z1`.
    Located,
    /// So many, the last of which joins when a step says so.
    Joining(usize),
    /// One, at which nothing listens: the upstream is at the Service's own address, so that only
    /// what goes where the client goes arrives.
    Dialled,
    /// The same, and nobody knows a Service there.
    Unknown,
}

impl Endpoints {
    /// How many there are.
    pub fn count(self) -> usize {
        match self {
            Self::First(count) | Self::Unready { of: count, .. } | Self::Joining(count) => count,
            Self::Located => super::LOCALITIES.len(),
            Self::Dialled | Self::Unknown => 1,
        }
    }

    /// Whether the upstream is at the Service's own address.
    pub fn are_dialled(self) -> bool {
        matches!(self, Self::Dialled | Self::Unknown)
    }
}

/// How far two observations must agree.
#[derive(Clone, Copy, Debug)]
pub struct Compare {
    /// In which order attempts came; otherwise only which there were.
    pub order: bool,
    /// Which endpoint an attempt went to; otherwise only to how many different ones.
    pub endpoint: bool,
    /// How long an answer took.
    pub time: bool,
    /// How many connections the upstream saw.
    pub connections: bool,
    /// Only shares: how many answers were alike, and how many attempts went to each endpoint, within
    /// so many standard deviations. For what is left to chance.
    pub shares: Option<f64>,
}

impl Default for Compare {
    fn default() -> Self {
        Self {
            order: true,
            endpoint: true,
            time: false,
            connections: false,
            shares: None,
        }
    }
}

/// A scenario with this `http`. `TO`, `V1`, `V2`, `V3` in it stand for the Service, or a subset of
/// it, as the destination.
pub fn http(name: impl Into<String>, http: &str) -> Scenario {
    let http = expanded(http);
    Scenario {
        name: name.into(),
        http: if http.is_empty() {
            http
        } else {
            format!("[{http}]")
        },
        tcp: String::new(),
        tls: String::new(),
        policy: String::new(),
        subsets: String::new(),
        scripts: Scripts::default(),
        server: "",
        port: Port::Http,
        endpoints: Endpoints::First(1),
        steps: Vec::new(),
        compare: Compare::default(),
        counters: Vec::new(),
        workers: Workers::One,
    }
}

/// Puts destinations in the places of the words that stand for them.
fn expanded(http: &str) -> String {
    let is_word = |c: char| c.is_alphanumeric() || c == '_';
    let mut out = String::new();
    for part in http.split_inclusive(|c| !is_word(c)) {
        let word = part.trim_end_matches(|c| !is_word(c));
        let meant = match word {
            "TO" => "route: [{destination: {host: @}}]".to_owned(),
            "V1" | "V2" | "V3" => {
                format!("destination: {{host: @, subset: v{}}}", &word[1..])
            }
            _ => word.to_owned(),
        };
        out += &meant;
        out += &part[word.len()..];
    }
    out
}

/// A scenario with this `trafficPolicy` and no VirtualService.
pub fn policy(name: impl Into<String>, policy: &str) -> Scenario {
    http(name, "").policy(policy)
}

/// A scenario with neither.
pub fn plain(name: impl Into<String>) -> Scenario {
    http(name, "")
}

impl Scenario {
    /// Its DestinationRule has this `trafficPolicy`.
    #[must_use]
    pub fn policy(mut self, policy: &str) -> Self {
        self.policy = format!("{{{policy}}}");
        self
    }

    /// Its DestinationRule has these subsets.
    #[must_use]
    pub fn subsets(mut self, subsets: &str) -> Self {
        self.subsets = format!("[{subsets}]");
        self
    }

    /// Its VirtualService has these `tcp` rules, and its port is declared TCP.
    #[must_use]
    pub fn tcp(mut self, tcp: &str) -> Self {
        self.tcp = tcp.into();
        self.port = Port::Tcp;
        self
    }

    /// Its VirtualService has these `tls` rules, and its port is declared TLS. Beside the Service's
    /// name it has the host `*.@.test`.
    #[must_use]
    pub fn tls(mut self, tls: &str) -> Self {
        self.tls = tls.into();
        self.port = Port::Tls;
        self
    }

    /// Its port is declared TCP.
    #[must_use]
    pub fn bytes(mut self) -> Self {
        self.port = Port::Tcp;
        self
    }

    /// The upstream does this; see [`Script`].
    #[must_use]
    pub fn up(mut self, script: &str) -> Self {
        self.scripts = Scripts::parse(script)
            .unwrap_or_else(|error| panic!("{}: `{script}`: {error}", self.name));
        self
    }

    /// The upstream is behind this server of TLS; `FILES` in the policy is the folder of its files.
    #[must_use]
    pub fn server(mut self, server: &'static str) -> Self {
        self.server = server;
        self
    }

    /// The client asks this (see [`Ask`]), and Envoy makes that of it (see [`Expected`]).
    #[must_use]
    pub fn ask(mut self, ask: &str, expected: &str) -> Self {
        let name = &self.name;
        let ask = Ask::parse(ask).unwrap_or_else(|error| panic!("{name}: `{ask}`: {error}"));
        let expected = Expected::parse(expected)
            .unwrap_or_else(|error| panic!("{name}: `{expected}`: {error}"));
        self.steps.push(Step { ask, expected });
        self
    }

    /// The Service has so many endpoints.
    #[must_use]
    pub fn over(mut self, count: usize) -> Self {
        self.endpoints = Endpoints::First(count);
        self
    }

    /// The Service has these endpoints.
    #[must_use]
    pub fn endpoints(mut self, endpoints: Endpoints) -> Self {
        self.endpoints = endpoints;
        self
    }

    /// The Service's port is declared HTTP/2.
    #[must_use]
    pub fn http2(mut self) -> Self {
        self.port = Port::Http2;
        self
    }

    /// Which endpoint is left to chance: how many different ones counts.
    #[must_use]
    pub fn any_endpoint(mut self) -> Self {
        self.compare.endpoint = false;
        self
    }

    /// The order of attempts is left to chance.
    #[must_use]
    pub fn unordered(mut self) -> Self {
        self.compare.order = false;
        self
    }

    /// How long answers take is compared.
    #[must_use]
    pub fn timed(mut self) -> Self {
        self.compare.time = true;
        self
    }

    /// How many connections the upstream sees is compared.
    #[must_use]
    pub fn connections(mut self) -> Self {
        self.compare.connections = true;
        self
    }

    /// All is left to chance: shares within 5 standard deviations.
    #[must_use]
    pub fn shares(mut self) -> Self {
        self.compare.endpoint = false;
        self.compare.shares = Some(5.0);
        self
    }

    /// Envoy has two workers.
    #[must_use]
    pub fn two_workers(mut self) -> Self {
        self.workers = Workers::Two;
        self
    }

    /// These counters are compared.
    #[must_use]
    pub fn counts(mut self, counters: &[&'static str]) -> Self {
        self.counters.extend(counters);
        self
    }

    /// What the endpoint of this number does.
    pub fn script(&self, endpoint: usize) -> &Script {
        self.scripts.of(endpoint)
    }
}
