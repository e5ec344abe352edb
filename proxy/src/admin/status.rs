//! How the proxy is doing, in one document: `GET /status`.

use std::collections::BTreeMap;
use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::certificates::Summary;
use super::views::state;
use crate::control::certificates;
use crate::control::enrol::Report;
use crate::control::files::FolderStatus;
use crate::control::issuers;
use crate::control::outside;
use crate::mesh::Snapshot;
use crate::tls::Trust;
use crate::types::{Problem, Severity};

/// `GET /status`. The field names are a promise to scripts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The node.
    pub node: String,
    /// Version of the program.
    pub version: String,
    /// What the readiness probe is told.
    pub ready: bool,
    /// Version of the snapshot in force: it counts up with each change of the configuration.
    pub snapshot: u64,
    /// Version of the snapshot that local pods were last enrolled by.
    pub enrolled_snapshot: u64,
    /// How many services there are.
    pub services: usize,
    /// How many pods.
    pub pods: usize,
    /// Where the configuration comes from.
    pub sources: Vec<SourceRow>,
    /// Local pods.
    pub enrolment: Vec<PodRow>,
    /// Identities of local pods, and their certificates.
    #[serde(default)]
    pub certificates: Summary,
    /// What TLS with servers outside the mesh is made by.
    #[serde(default)]
    pub tls: Vec<OriginationRow>,
    /// Keys of tokens' issuers that are fetched.
    #[serde(default)]
    pub issuers: Vec<IssuerRow>,
    /// What is wrong with the configuration, errors first.
    pub problems: Vec<ProblemRow>,
}

/// Keys that RequestAuthentications of local pods name by URL.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct IssuerRow {
    /// Where they are fetched.
    pub url: String,
    /// How many are in force; absent while none have come: its tokens are refused.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<usize>,
    /// Failures since they came last.
    pub failures: u32,
    /// What the last one was.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One set of settings that the `tls` of DestinationRules has, with files.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OriginationRow {
    /// What it says, in short.
    pub settings: String,
    /// `active`; `stale` (what was read before stays in force); `failed` (its connections fail).
    pub state: String,
    /// When the certificate that is shown ends (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// Why its files can't be used as they are now.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A folder of manifests.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SourceRow {
    /// The folder.
    pub path: String,
    /// How many files it has.
    pub files: usize,
    /// How many of its objects are in force, by kind.
    pub objects: BTreeMap<String, usize>,
    /// When it was last read (RFC 3339).
    pub read: String,
    /// How long ago that was, in seconds.
    pub age_seconds: u64,
    /// Why it can't be read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// A local pod of the mesh.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PodRow {
    /// `namespace/name`.
    pub pod: String,
    /// `enrolled` or `failed`.
    pub state: String,
    /// Where its network namespace is.
    pub netns: String,
    /// The cookie of that namespace.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub cookie: Option<u64>,
    /// Ports of its outbound listeners.
    pub outbound: Vec<u16>,
    /// Ports of its inbound listeners.
    pub inbound: Vec<u16>,
    /// Listening sockets held for it.
    pub sockets: usize,
    /// `closed` or `open`.
    pub failure_mode: String,
    /// Why it failed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// One thing wrong with the configuration.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProblemRow {
    /// `error`, `warning` or `info`.
    pub severity: String,
    /// `Kind namespace/name`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub object: Option<String>,
    /// Where it was written.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file: Option<String>,
    /// The line, counted from 1, where it is known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub line: Option<u32>,
    /// As in `spec.http[0].match[1].uri`; empty where the whole object is meant.
    pub field: String,
    /// What is wrong and what to do about it.
    pub message: String,
}

/// What the status is made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// The node.
    pub node: &'a str,
    /// What the readiness probe is told.
    pub ready: bool,
    /// The snapshot in force.
    pub snapshot: &'a Snapshot,
    /// What is wrong.
    pub problems: &'a [Problem],
    /// The folders.
    pub sources: &'a [FolderStatus],
    /// Local pods.
    pub enrolment: &'a Report,
    /// Certificates of local identities, where there is an authority.
    pub certificates: Option<&'a certificates::Report>,
    /// Who is trusted.
    pub trust: &'a Trust,
    /// What TLS with servers outside the mesh is made by.
    pub outside: &'a [outside::Row],
    /// Keys that are fetched.
    pub issuers: &'a [issuers::Row],
    /// What time it is.
    pub now: SystemTime,
}

impl Status {
    /// Puts it together.
    pub fn new(parts: Parts<'_>) -> Self {
        let Parts {
            node,
            ready,
            snapshot,
            problems,
            sources,
            enrolment,
            certificates,
            trust,
            outside,
            issuers,
            now,
        } = parts;
        Self {
            node: node.to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            ready,
            snapshot: snapshot.version,
            enrolled_snapshot: enrolment.version,
            services: snapshot.services.len(),
            pods: snapshot.workloads.len(),
            sources: sources.iter().map(|one| source(one, now)).collect(),
            enrolment: pods(enrolment),
            certificates: Summary::new(certificates, trust),
            tls: outside.iter().map(origination).collect(),
            issuers: issuers.iter().map(issuer).collect(),
            problems: problems.iter().map(problem).collect(),
        }
    }
}

fn origination(row: &outside::Row) -> OriginationRow {
    OriginationRow {
        settings: row.settings.to_string(),
        state: match (row.active, &row.error) {
            (true, None) => "active",
            (true, Some(_)) => "stale",
            (false, _) => "failed",
        }
        .to_owned(),
        not_after: row
            .until
            .map(|until| humantime::format_rfc3339_seconds(until).to_string()),
        error: row.error.clone(),
    }
}

fn source(folder: &FolderStatus, now: SystemTime) -> SourceRow {
    let objects = folder.objects.iter();
    SourceRow {
        path: folder.path.display().to_string(),
        files: folder.files,
        objects: objects
            .map(|(kind, count)| (kind.to_string(), *count))
            .collect(),
        read: humantime::format_rfc3339_seconds(folder.read).to_string(),
        age_seconds: now
            .duration_since(folder.read)
            .unwrap_or_default()
            .as_secs(),
        error: folder.error.clone(),
    }
}

fn issuer(row: &issuers::Row) -> IssuerRow {
    IssuerRow {
        url: row.url.clone(),
        keys: row.keys,
        failures: row.failures,
        error: row.error.clone(),
    }
}

fn pods(report: &Report) -> Vec<PodRow> {
    let rows = report.pods.iter().map(|pod| PodRow {
        pod: pod.pod.clone(),
        state: state(pod.state).to_owned(),
        netns: pod.netns.display().to_string(),
        cookie: pod.cookie,
        outbound: pod.outbound.clone(),
        inbound: pod.inbound.clone(),
        sockets: pod.sockets,
        failure_mode: match pod.failure_mode {
            crate::mesh::FailureMode::Closed => "closed",
            crate::mesh::FailureMode::Open => "open",
        }
        .to_owned(),
        error: pod.error.clone(),
    });
    rows.collect()
}

/// A problem, as scripts read it.
pub fn problem(problem: &Problem) -> ProblemRow {
    let position = problem.position.as_ref();
    ProblemRow {
        severity: match problem.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Info => "info",
        }
        .to_owned(),
        object: problem.object.as_ref().map(ToString::to_string),
        file: position.map(|one| one.file.display().to_string()),
        line: position.map(|one| one.line).filter(|line| *line > 0),
        field: problem.field.clone(),
        message: problem.message.clone(),
    }
}
