//! The policies of a rule: rewrite, timeout, retries, fault, mirrors.

use crate::api::duration;
use crate::api::virtual_service::{
    Abort, Delay, Fault, HttpRetry, HttpRewrite, HttpRoute, Percentage,
};
use crate::types::Finding;

/// Names of gRPC statuses, as `grpcStatus` has them.
pub(crate) const GRPC_STATUSES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

impl HttpRoute {
    pub(super) fn validate_policies(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        duration::check(self.timeout, &at("timeout"), findings);
        if let Some(retries) = &self.retries {
            retries.validate(&at("retries"), findings);
        }
        if let Some(rewrite) = &self.rewrite {
            rewrite.validate(&at("rewrite"), findings);
        }
        if let Some(fault) = &self.fault {
            fault.validate(&at("fault"), findings);
        }
        if let Some(cors) = &self.cors_policy {
            cors.validate(&at("corsPolicy"), findings);
        }
        if let Some(headers) = &self.headers {
            headers.validate(&at("headers"), findings);
        }
        self.validate_mirrors(field, findings);
        self.validate_authority(field, findings);
    }

    fn validate_mirrors(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if let Some(mirror) = &self.mirror {
            mirror.validate(&at("mirror"), findings);
            if !self.mirrors.is_empty() {
                findings.push(Finding::error(
                    at("mirrors"),
                    "only one of mirror and mirrors may be given",
                ));
            }
        }
        check_percentage(self.mirror_percentage, &at("mirrorPercentage"), findings);
        if let Some(percent) = self.mirror_percent {
            let field = at("mirrorPercent");
            findings.push(if percent > 100 {
                Finding::error(
                    field,
                    format!("{percent} is not a percentage from 0 to 100"),
                )
            } else {
                Finding::warning(field, "deprecated; use mirrorPercentage")
            });
        }
        let given = [
            ("mirrorPercent", self.mirror_percent.is_some()),
            ("mirrorPercentage", self.mirror_percentage.is_some()),
        ];
        for (name, given) in given {
            if given && self.mirror.is_none() {
                findings.push(Finding::warning(
                    at(name),
                    "has no effect without mirror; each of mirrors has a percentage of its own",
                ));
            }
        }
        for (index, one) in self.mirrors.iter().enumerate() {
            let field = format!("{field}.mirrors[{index}]");
            match &one.destination {
                Some(destination) => {
                    destination.validate(&format!("{field}.destination"), findings);
                }
                None => findings.push(Finding::error(
                    format!("{field}.destination"),
                    "a destination is required",
                )),
            }
            check_percentage(one.percentage, &format!("{field}.percentage"), findings);
        }
        if self.other_action().is_some_and(|one| one != "delegate")
            && (self.mirror.is_some() || !self.mirrors.is_empty())
        {
            let name = if self.mirror.is_some() {
                "mirror"
            } else {
                "mirrors"
            };
            findings.push(Finding::warning(
                at(name),
                "has no effect: the rule forwards nothing that could be mirrored",
            ));
        }
    }

    /// The authority may be set in one place only.
    fn validate_authority(&self, field: &str, findings: &mut Vec<Finding>) {
        let request = self.headers.as_ref().and_then(|one| one.request.as_ref());
        let sets = |keys: &std::collections::BTreeMap<String, String>| {
            keys.keys().filter(|key| is_authority(key)).count()
        };
        let rewritten = self
            .rewrite
            .as_ref()
            .is_some_and(|one| !one.authority.is_empty());
        let count = usize::from(rewritten)
            + request.map_or(0, |one| sets(&one.set))
            + request.map_or(0, |one| sets(&one.add));
        if count > 1 {
            findings.push(Finding::error(
                field,
                "the authority is set twice: by rewrite.authority, or by the headers :authority or host",
            ));
        }
    }
}

/// Whether a header's key means the authority.
pub(super) fn is_authority(key: &str) -> bool {
    key == ":authority" || key.eq_ignore_ascii_case("host")
}

pub(super) fn check_percentage(
    given: Option<Percentage>,
    field: &str,
    findings: &mut Vec<Finding>,
) {
    let Some(Percentage { value }) = given else {
        return;
    };
    // NaN is in no range.
    if !(0.0..=100.0).contains(&value) {
        findings.push(Finding::error(
            format!("{field}.value"),
            format!("{value} is not a percentage from 0 to 100"),
        ));
    } else if value > 0.0 && value < 0.0001 {
        findings.push(Finding::warning(
            format!("{field}.value"),
            format!("{value} is less than the finest percentage, 0.0001, and counts as 0"),
        ));
    }
}

impl HttpRetry {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let at = |name: &str| format!("{field}.{name}");
        if self.attempts < 0 {
            findings.push(Finding::error(
                at("attempts"),
                format!("{} is negative; 0 turns retries off", self.attempts),
            ));
        }
        if self.attempts == 0 {
            for (name, given) in [
                ("perTryTimeout", self.per_try_timeout.is_some()),
                ("retryOn", !self.retry_on.is_empty()),
                (
                    "retryRemoteLocalities",
                    self.retry_remote_localities.is_some(),
                ),
            ] {
                if given {
                    findings.push(Finding::error(
                        at(name),
                        "can't be given with attempts 0 (or without attempts), which turns retries off",
                    ));
                }
            }
        }
        duration::check(self.per_try_timeout, &at("perTryTimeout"), findings);
        duration::check(self.backoff, &at("backoff"), findings);
    }
}

impl HttpRewrite {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        let mut refuse = |name: &str, message: &str| {
            let field = if name.is_empty() {
                field.to_owned()
            } else {
                format!("{field}.{name}")
            };
            findings.push(Finding::error(field, message));
        };
        match &self.uri_regex_rewrite {
            None if self.uri.is_empty() && self.authority.is_empty() => refuse(
                "",
                "nothing to rewrite: uri, uriRegexRewrite or authority is required",
            ),
            None => {}
            Some(regex) => {
                if !self.uri.is_empty() {
                    refuse(
                        "uriRegexRewrite",
                        "only one of uri and uriRegexRewrite may be given",
                    );
                }
                if regex.pattern.is_empty() {
                    refuse("uriRegexRewrite.match", "an expression is required");
                }
                if regex.rewrite.is_empty() {
                    refuse("uriRegexRewrite.rewrite", "a replacement is required");
                }
            }
        }
        let bad = |byte: u8| byte.is_ascii_control() || byte == b' ';
        if self.uri.bytes().any(bad) {
            refuse("uri", "holds spaces or control characters");
        }
        if self.authority.bytes().any(bad) {
            refuse("authority", "holds spaces or control characters");
        }
    }
}

impl Fault {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        if self.delay.is_none() && self.abort.is_none() {
            findings.push(Finding::error(field, "delay or abort is required"));
        }
        if let Some(delay) = &self.delay {
            delay.validate(&format!("{field}.delay"), findings);
        }
        if let Some(abort) = &self.abort {
            abort.validate(&format!("{field}.abort"), findings);
        }
    }
}

/// What is said where a fault has no percentage.
const NEVER: &str =
    "without a percentage it never happens; write percentage: {value: 100} for all requests";

impl Delay {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        check_percentage(self.percentage, &format!("{field}.percentage"), findings);
        match self.percent {
            Some(percent) if !(0..=100).contains(&percent) => findings.push(Finding::error(
                format!("{field}.percent"),
                format!("{percent} is not a percentage from 0 to 100"),
            )),
            Some(_) => findings.push(Finding::warning(
                format!("{field}.percent"),
                "deprecated; use percentage",
            )),
            None if self.percentage.is_none() => {
                findings.push(Finding::warning(field, NEVER));
            }
            None => {}
        }
        if self.exponential_delay.is_some() {
            findings.push(Finding::error(
                format!("{field}.exponentialDelay"),
                "is not supported (nor by Istio); use fixedDelay",
            ));
        } else if self.fixed_delay.is_none() {
            findings.push(Finding::error(
                format!("{field}.fixedDelay"),
                "a duration is required",
            ));
        }
        duration::check(self.fixed_delay, &format!("{field}.fixedDelay"), findings);
    }
}

impl Abort {
    fn validate(&self, field: &str, findings: &mut Vec<Finding>) {
        check_percentage(self.percentage, &format!("{field}.percentage"), findings);
        if self.percentage.is_none() {
            findings.push(Finding::warning(field, NEVER));
        }
        if self.http2_error.is_some() {
            findings.push(Finding::error(
                format!("{field}.http2Error"),
                "is not supported (nor by Istio); use httpStatus or grpcStatus",
            ));
            return;
        }
        match (self.http_status, &self.grpc_status) {
            (Some(_), Some(_)) => findings.push(Finding::error(
                field,
                "only one of httpStatus and grpcStatus may be given",
            )),
            (Some(status), None) if !(200..=599).contains(&status) => {
                findings.push(Finding::error(
                    format!("{field}.httpStatus"),
                    format!("{status} is not a status from 200 to 599"),
                ));
            }
            (None, Some(name)) if !GRPC_STATUSES.contains(&name.as_str()) => {
                findings.push(Finding::error(
                    format!("{field}.grpcStatus"),
                    format!("{name:?} is not the name of a gRPC status, such as UNAVAILABLE"),
                ));
            }
            (None, None) => findings.push(Finding::warning(
                field,
                "without httpStatus or grpcStatus it has no effect",
            )),
            _ => {}
        }
    }
}
