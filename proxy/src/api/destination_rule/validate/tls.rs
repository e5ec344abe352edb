//! `tls` and `tunnel`, judged.

use crate::api::destination_rule::{Tls, TlsMode, Tunnel};
use crate::api::host::check_host;
use crate::types::Finding;

impl Tls {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if self.mode == TlsMode::Mutual && self.credential_name.is_empty() {
            for (name, text) in [
                ("clientCertificate", &self.client_certificate),
                ("privateKey", &self.private_key),
            ] {
                if text.is_empty() {
                    findings.push(Finding::error(
                        at(name),
                        "is required by mode MUTUAL (or credentialName instead)",
                    ));
                }
            }
        }
        let files = [
            ("clientCertificate", &self.client_certificate),
            ("privateKey", &self.private_key),
            ("caCertificates", &self.ca_certificates),
            ("caCrl", &self.ca_crl),
        ];
        let given = files.iter().filter(|(_, text)| !text.is_empty());
        match self.mode {
            TlsMode::IstioMutual => {
                let others = [
                    ("credentialName", &self.credential_name),
                    ("sni", &self.sni),
                ];
                let others = others.iter().filter(|(_, text)| !text.is_empty());
                for (name, _) in given.chain(others) {
                    findings.push(Finding::error(
                        at(name),
                        "can't be given with mode ISTIO_MUTUAL, which uses the mesh's own certificates",
                    ));
                }
            }
            TlsMode::Simple | TlsMode::Mutual if !self.credential_name.is_empty() => {
                for (name, _) in given {
                    findings.push(Finding::error(
                        at(name),
                        "can't be given together with credentialName",
                    ));
                }
            }
            TlsMode::Disable | TlsMode::Simple | TlsMode::Mutual => {}
        }
        if self.mode != TlsMode::Disable && !self.credential_name.is_empty() {
            findings.push(Finding::warning(
                at("credentialName"),
                "Secrets are not read: connections fail, none is made in plain text; name files \
                 instead",
            ));
        }
        if self.sni.starts_with('*') {
            findings.push(Finding::warning(
                at("sni"),
                "is no host's name: connections fail unless subjectAltNames says whom to expect",
            ));
        }
        if self.insecure_skip_verify == Some(true)
            && !(self.ca_certificates.is_empty()
                && self.ca_crl.is_empty()
                && self.subject_alt_names.is_empty())
        {
            findings.push(Finding::warning(
                at("insecureSkipVerify"),
                "whoever answers is accepted: caCertificates, caCrl and subjectAltNames have no \
                 effect",
            ));
        }
        if self.mode == TlsMode::Simple && !self.client_certificate.is_empty() {
            findings.push(Finding::warning(
                at("clientCertificate"),
                "has no effect with mode SIMPLE: it is MUTUAL that shows one",
            ));
        }
        if self.mode == TlsMode::Disable && *self != Self::default() {
            findings.push(Finding::warning(
                field,
                "has no effect without a mode: DISABLE, plain text, is the default",
            ));
        }
    }
}

impl Tunnel {
    pub(super) fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if !matches!(self.protocol.as_str(), "" | "CONNECT" | "POST") {
            findings.push(Finding::error(
                format!("{field}.protocol"),
                format!("{:?} must be CONNECT or POST", self.protocol),
            ));
        }
        let host = format!("{field}.targetHost");
        if self.target_host.starts_with('*') {
            findings.push(Finding::error(host, "can't be a wildcard"));
        } else {
            check_host(&self.target_host, &host, findings);
        }
        if !(1..=65_535).contains(&self.target_port) {
            findings.push(Finding::error(
                format!("{field}.targetPort"),
                "a port is a number from 1 to 65535",
            ));
        }
    }
}
