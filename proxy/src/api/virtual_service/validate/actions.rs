//! What a rule may have in the place of `route`: redirect, directResponse, delegate.

use crate::api::host::is_label;
use crate::api::virtual_service::{DirectResponse, HttpRedirect, HttpRoute};
use crate::types::Finding;

/// The largest body of a direct response (Istio), in bytes.
const MAX_BODY: usize = 1024 * 1024;
/// From here on Istio warns.
const LARGE_BODY: usize = 100 * 1024;

/// The statuses that redirect and can be asked for. Istio lets other ones pass, and then makes a
/// route without an action.
const REDIRECTS: [u32; 5] = [301, 302, 303, 307, 308];

impl HttpRoute {
    /// Checks the rule's only `action`.
    pub(super) fn validate_action(&self, action: &str, field: &str, findings: &mut Vec<Finding>) {
        let excluded = [
            ("fault", self.fault.is_some(), action != "delegate"),
            ("rewrite", self.rewrite.is_some(), action != "delegate"),
        ];
        for (other, given, excludes) in excluded {
            if given && excludes {
                findings.push(Finding::error(
                    format!("{field}.{other}"),
                    format!("a rule can't have both {action} and {other}"),
                ));
            }
        }
        let unused = [
            ("timeout", self.timeout.is_some()),
            ("retries", self.retries.is_some()),
            (
                "headers.request",
                self.headers
                    .as_ref()
                    .is_some_and(|one| one.request.is_some()),
            ),
        ];
        for (other, given) in unused {
            if given && action != "delegate" {
                findings.push(Finding::warning(
                    format!("{field}.{other}"),
                    "has no effect: the rule forwards nothing",
                ));
            }
        }
        let field = format!("{field}.{action}");
        if let Some(redirect) = &self.redirect {
            redirect.validate(&field, findings);
            let prefixes = |uri: &Option<super::StringMatch>| {
                uri.as_ref().is_some_and(|one| one.prefix.is_some())
            };
            let all = self.matches.iter().all(|block| prefixes(&block.uri));
            if !redirect.prefix_rewrite.is_empty() && (self.matches.is_empty() || !all) {
                findings.push(Finding::error(
                    format!("{field}.prefixRewrite"),
                    "needs a uri prefix in each match block: there is no prefix to be replaced",
                ));
            }
        }
        if let Some(response) = &self.direct_response {
            response.validate(&field, findings);
        }
        if let Some(delegate) = &self.delegate {
            if !is_name(&delegate.name) {
                findings.push(Finding::error(
                    format!("{field}.name"),
                    "the name of a VirtualService is required",
                ));
            }
            if !delegate.namespace.is_empty() && !is_label(&delegate.namespace) {
                findings.push(Finding::error(
                    format!("{field}.namespace"),
                    format!("{:?} is not a namespace", delegate.namespace),
                ));
            }
        }
    }
}

fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= 253 && name.split('.').all(is_label)
}

impl HttpRedirect {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        let mut refuse = |field: String, message: String| {
            findings.push(Finding::error(field, message));
        };
        let texts = [
            &self.uri,
            &self.prefix_rewrite,
            &self.authority,
            &self.scheme,
        ];
        let empty = texts.iter().all(|one| one.is_empty())
            && self.port.is_none()
            && self.derive_port.is_none();
        if empty {
            refuse(
                field.to_owned(),
                "one of uri, prefixRewrite, authority, port, derivePort and scheme is required"
                    .to_owned(),
            );
        }
        if !self.uri.is_empty() && !self.prefix_rewrite.is_empty() {
            refuse(
                at("prefixRewrite"),
                "only one of uri and prefixRewrite may be given".to_owned(),
            );
        }
        for (name, text) in [
            ("uri", &self.uri),
            ("prefixRewrite", &self.prefix_rewrite),
            ("authority", &self.authority),
        ] {
            if text
                .bytes()
                .any(|byte| byte.is_ascii_control() || byte == b' ')
            {
                refuse(
                    at(name),
                    format!("{text:?} holds spaces or control characters"),
                );
            }
        }
        if !matches!(self.scheme.as_str(), "" | "http" | "https") {
            refuse(
                at("scheme"),
                format!("{:?} must be http or https", self.scheme),
            );
        }
        if self.port.is_some() && self.derive_port.is_some() {
            refuse(
                at("derivePort"),
                "only one of port and derivePort may be given".to_owned(),
            );
        }
        if self.port.is_some_and(|port| !(1..=65_535).contains(&port)) {
            refuse(at("port"), "a port is a number from 1 to 65535".to_owned());
        }
        match self.redirect_code {
            None | Some(0) => {}
            Some(code) if REDIRECTS.contains(&code) => {}
            Some(code) => refuse(
                at("redirectCode"),
                format!("{code} can't be used; 301, 302, 303, 307 and 308 can"),
            ),
        }
    }
}

impl DirectResponse {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if !(200..=599).contains(&self.status) {
            findings.push(Finding::error(
                format!("{field}.status"),
                format!("{} is not a status from 200 to 599", self.status),
            ));
        }
        let Some(body) = &self.body else { return };
        let field = format!("{field}.body");
        let length = match (&body.string, &body.bytes) {
            (Some(_), Some(_)) => {
                findings.push(Finding::error(
                    field,
                    "only one of string and bytes may be given",
                ));
                return;
            }
            (Some(text), None) => text.len(),
            // Four characters are three bytes; whether it is base64 shows where it is compiled.
            (None, Some(text)) => text.len() / 4 * 3,
            (None, None) => 0,
        };
        if length >= MAX_BODY {
            findings.push(Finding::error(field, "must be smaller than 1 MiB"));
        } else if length > LARGE_BODY {
            findings.push(Finding::warning(
                field,
                "is larger than 100 KiB, and is held in memory by every proxy",
            ));
        }
    }
}
