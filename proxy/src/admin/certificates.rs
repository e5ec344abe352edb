//! Certificates, roots and identities, as rows for people and scripts, and as metrics.

use std::time::SystemTime;

use serde::{Deserialize, Serialize};

use super::Filter;
use crate::control::certificates::{Report, status::State};
use crate::tls::{Facts, Secrets, Trust};

/// A local identity's certificate, or a root. `GET /config/secrets` gives a list of these,
/// certificates before roots.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SecretRow {
    /// `spiffe://…` of a certificate, the trust domain of a root.
    pub name: String,
    /// `certificate` or `root`.
    pub kind: String,
    /// `active`; of a certificate also `stale` (in force, and could not be renewed), `pending`,
    /// `failed`, `expired`.
    pub state: String,
    /// How many local pods are of it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pods: Option<usize>,
    /// In hexadecimal.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub serial: Option<String>,
    /// From when on it holds (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_before: Option<String>,
    /// Until when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub not_after: Option<String>,
    /// When it is renewed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub renew: Option<String>,
    /// Why there is none, or no newer one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<String>,
}

/// Identities and certificates in short.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Summary {
    /// The mesh's own trust domain.
    pub trust_domain: String,
    /// Who signs; `null` where nobody does.
    pub authority: Option<String>,
    /// How many local identities have a certificate in force.
    pub active: usize,
    /// How many have none.
    pub missing: usize,
    /// How many roots are trusted.
    pub roots: usize,
    /// What went wrong, a line an identity.
    pub errors: Vec<String>,
}

/// All rows; with `pod` those of its namespace alone.
pub fn secrets(report: Option<&Report>, secrets: &Secrets, filter: &Filter) -> Vec<SecretRow> {
    let mut rows = Vec::new();
    let all = report.map_or(&[][..], |report| &report.rows);
    let wanted = all.iter().filter(|row| {
        let namespace = filter.namespace();
        namespace.is_none_or(|namespace| namespace == &*row.identity.namespace)
    });
    for row in wanted {
        let held = secrets.credential(&row.identity);
        let certificate = held.as_ref().map(|held| &held.certificate);
        rows.push(SecretRow {
            name: row.identity.to_string(),
            kind: "certificate".to_owned(),
            state: word(row.state).to_owned(),
            pods: Some(row.pods),
            serial: certificate.map(|one| one.serial.clone()),
            not_before: certificate.map(|one| time(one.not_before)),
            not_after: certificate.map(|one| time(one.not_after)),
            renew: row.renew.map(time),
            error: row.error.clone(),
        });
    }
    for (domain, roots) in secrets.trust().roots() {
        for root in roots {
            let facts = Facts::of(root);
            rows.push(SecretRow {
                name: domain.to_string(),
                kind: "root".to_owned(),
                state: "active".to_owned(),
                pods: None,
                serial: facts.as_ref().map(|one| one.serial.clone()),
                not_before: facts.as_ref().map(|one| time(one.not_before)),
                not_after: facts.as_ref().map(|one| time(one.not_after)),
                renew: None,
                error: None,
            });
        }
    }
    rows
}

impl Summary {
    /// Puts it together.
    pub fn new(report: Option<&Report>, trust: &Trust) -> Self {
        let rows = report.map_or(&[][..], |report| &report.rows);
        let active = rows.iter().filter(|row| row.renew.is_some()).count();
        let wrong = rows.iter().filter_map(|row| {
            let error = row.error.as_ref()?;
            Some(format!("{} ({}): {error}", row.identity, word(row.state)))
        });
        Self {
            trust_domain: trust.domain().to_string(),
            authority: report.map(|report| report.authority.clone()),
            active,
            missing: rows.len() - active,
            roots: trust.roots().map(|(_, roots)| roots.len()).sum(),
            errors: wrong.collect(),
        }
    }
}

/// For Prometheus.
pub fn metrics(report: &Report, secrets: &Secrets) -> String {
    let Summary {
        active, missing, ..
    } = Summary::new(Some(report), &secrets.trust());
    let fetched = report.fetched;
    let mut text = format!(
        "# HELP aquifer_certificates Identities of local pods, by whether a certificate is in force.\n\
         # TYPE aquifer_certificates gauge\n\
         aquifer_certificates{{state=\"active\"}} {active}\n\
         aquifer_certificates{{state=\"missing\"}} {missing}\n\
         # HELP aquifer_certificate_requests_total Certificates asked for, by outcome.\n\
         # TYPE aquifer_certificate_requests_total counter\n\
         aquifer_certificate_requests_total{{result=\"success\"}} {fetched}\n"
    );
    for (result, count) in &report.failed {
        text.push_str(&format!(
            "aquifer_certificate_requests_total{{result=\"{result}\"}} {count}\n"
        ));
    }
    let ends = secrets.credentials().into_iter();
    let ends = ends.map(|one| one.certificate.not_after).min();
    if let Some(end) = ends.and_then(|end| end.duration_since(SystemTime::UNIX_EPOCH).ok()) {
        let end = end.as_secs();
        text.push_str(&format!(
            "# HELP aquifer_certificate_expiry_timestamp_seconds When the first of the certificates in force expires.\n\
             # TYPE aquifer_certificate_expiry_timestamp_seconds gauge\n\
             aquifer_certificate_expiry_timestamp_seconds {end}\n"
        ));
    }
    text
}

fn word(state: State) -> &'static str {
    match state {
        State::Active => "active",
        State::Stale => "stale",
        State::Pending => "pending",
        State::Failed => "failed",
        State::Expired => "expired",
    }
}

fn time(time: SystemTime) -> String {
    crate::types::Timestamp(time).to_string()
}
