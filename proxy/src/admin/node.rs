//! What the node proxy answers at its three addresses: admin (loopback), metrics, readiness.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use http::StatusCode;
use serde::Serialize;

use super::server::{Answer, Answers};
use super::{Filter, Status, certificates, status, views};
use crate::clock;
use crate::control::{self, enrol, files, issuers};
use crate::dataplane::Registry;
use crate::mesh::Store;
use crate::net::descriptors::Descriptors;
use crate::telemetry::counters::{Counters, prometheus};
use crate::tls::Secrets;

/// Everything there is to tell.
#[derive(Debug)]
pub struct Node {
    parts: Parts,
    stopping: AtomicBool,
}

/// What the parts of the proxy tell.
#[derive(Debug)]
pub struct Parts {
    /// Name of this node.
    pub name: String,
    /// The mesh.
    pub store: Arc<Store>,
    /// Where it was read.
    pub sources: Arc<files::Status>,
    /// Local pods.
    pub enrolment: enrol::Status,
    /// Of each worker.
    pub counters: Vec<Arc<Counters>>,
    /// Of each pod.
    pub clusters: Arc<Registry>,
    /// Of the process.
    pub descriptors: Descriptors,
    /// Of local identities.
    pub certificates: Certificates,
    /// Of tokens' issuers.
    pub issuers: issuers::Status,
}

/// What there is to tell of certificates.
#[derive(Debug)]
pub struct Certificates {
    /// What is in force.
    pub secrets: Secrets,
    /// How it came, and what did not. `None` without an authority.
    pub status: Option<control::certificates::Status>,
    /// What TLS with servers outside the mesh is made by.
    pub outside: control::outside::Status,
}

impl Certificates {
    fn report(&self) -> Option<Arc<control::certificates::Report>> {
        Some(self.status.as_ref()?.report())
    }
}

/// Answers `/healthz/ready`.
#[derive(Debug)]
pub struct Readiness(Arc<Node>);

/// Answers `/metrics` and `/stats/prometheus`.
#[derive(Debug)]
pub struct Metrics(Arc<Node>);

/// Answers everything.
#[derive(Debug)]
pub struct Admin(Arc<Node>);

impl Node {
    /// Puts together what the parts of the proxy tell.
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            stopping: AtomicBool::new(false),
        }
    }

    /// From now on it is not ready.
    pub fn stopping(&self) {
        self.stopping.store(true, Ordering::Relaxed);
    }

    /// The readiness address.
    pub fn readiness(self: &Arc<Self>) -> Arc<Readiness> {
        Arc::new(Readiness(Arc::clone(self)))
    }

    /// The metrics address.
    pub fn metrics(self: &Arc<Self>) -> Arc<Metrics> {
        Arc::new(Metrics(Arc::clone(self)))
    }

    /// The admin address.
    pub fn admin(self: &Arc<Self>) -> Arc<Admin> {
        Arc::new(Admin(Arc::clone(self)))
    }

    /// Ready once the first configuration was brought into force, enrolment included. A pod that
    /// can't be enrolled is told by `status`; it does not make the node unready for all others.
    fn ready(&self) -> Answer {
        if self.stopping.load(Ordering::Relaxed) {
            return Answer::Text(StatusCode::SERVICE_UNAVAILABLE, "stopping\n".into());
        }
        match self.parts.enrolment.report().version {
            0 => Answer::Text(StatusCode::SERVICE_UNAVAILABLE, "starting\n".into()),
            _ => Answer::Text(StatusCode::OK, "ready\n".into()),
        }
    }

    fn status(&self) -> Answer {
        json(&Status::new(status::Parts {
            node: &self.parts.name,
            ready: matches!(self.ready(), Answer::Text(StatusCode::OK, _)),
            snapshot: &self.parts.store.load(),
            problems: &self.parts.store.problems(),
            sources: &self.parts.sources.folders(),
            enrolment: &self.parts.enrolment.report(),
            certificates: self.parts.certificates.report().as_deref(),
            trust: &self.parts.certificates.secrets.trust(),
            outside: &self.parts.certificates.outside.rows(),
            issuers: &self.parts.issuers.report(),
            now: clock::wall(),
        }))
    }

    /// `None` where there is no such view.
    fn config(&self, view: &str, query: Option<&str>) -> Option<Answer> {
        let filter = match Filter::from_query(query) {
            Ok(filter) => filter,
            Err(error) => return Some(Answer::Text(StatusCode::BAD_REQUEST, format!("{error}\n"))),
        };
        let snapshot = self.parts.store.load_full();
        Some(match view {
            "routes" => json(&views::routes(&snapshot, &filter)),
            "clusters" => json(&views::clusters(&snapshot, &filter)),
            "endpoints" => json(&views::endpoints(&snapshot, &filter)),
            "policies" => json(&views::policies(&snapshot, &filter)),
            "secrets" => {
                let report = self.parts.certificates.report();
                let secrets = &self.parts.certificates.secrets;
                json(&certificates::secrets(report.as_deref(), secrets, &filter))
            }
            "listeners" => json(&views::listeners(&self.parts.enrolment.report(), &filter)),
            _ => return None,
        })
    }

    /// Counters and gauges in Envoy's text form, `NAME: VALUE` a line, sorted.
    fn stats(&self) -> Answer {
        let mut text = String::new();
        for (name, value) in self.parts.clusters.statistics() {
            text.push_str(&format!("{name}: {value}\n"));
        }
        let mut node: BTreeMap<&str, u64> = BTreeMap::new();
        for (name, _, value) in self
            .parts
            .counters
            .iter()
            .flat_map(|counters| counters.iter())
        {
            *node.entry(name).or_default() += value;
        }
        for (name, value) in node {
            text.push_str(&format!("node.{name}: {value}\n"));
        }
        Answer::Text(StatusCode::OK, text)
    }

    fn prometheus(&self) -> Answer {
        let mut text = prometheus(self.parts.counters.iter().map(|counters| &**counters));
        let (limit, used) = self.parts.descriptors.usage();
        text.push_str(&format!(
            "# HELP aquifer_descriptors Descriptors that connections hold.\n\
             # TYPE aquifer_descriptors gauge\n\
             aquifer_descriptors {used}\n\
             # HELP aquifer_descriptors_limit Descriptors that connections may hold.\n\
             # TYPE aquifer_descriptors_limit gauge\n\
             aquifer_descriptors_limit {limit}\n"
        ));
        if let Some(report) = self.parts.certificates.report() {
            let secrets = &self.parts.certificates.secrets;
            text.push_str(&certificates::metrics(&report, secrets));
        }
        Answer::Metrics(text)
    }
}

impl Answers for Readiness {
    fn answer(&self, path: &str, _query: Option<&str>) -> Option<Answer> {
        (path == "/healthz/ready").then(|| self.0.ready())
    }
}

impl Answers for Metrics {
    fn answer(&self, path: &str, _query: Option<&str>) -> Option<Answer> {
        matches!(path, "/metrics" | "/stats/prometheus").then(|| self.0.prometheus())
    }
}

impl Answers for Admin {
    fn answer(&self, path: &str, query: Option<&str>) -> Option<Answer> {
        let node = &*self.0;
        Some(match path {
            "/metrics" | "/stats/prometheus" => node.prometheus(),
            "/healthz/ready" => node.ready(),
            "/stats" => node.stats(),
            "/status" => node.status(),
            path => return node.config(path.strip_prefix("/config/")?, query),
        })
    }
}

fn json(value: &impl Serialize) -> Answer {
    match serde_json::to_string(value) {
        Ok(text) => Answer::Json(text),
        Err(error) => Answer::Text(
            StatusCode::INTERNAL_SERVER_ERROR,
            format!("not to be written: {error}\n"),
        ),
    }
}
