//! A rule's policies, out of what is written: header operations, CORS, faults, redirects, direct
//! responses. Validation has refused what can't be meant; what only shows here is told here.

use std::sync::{Arc, LazyLock};
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::StatusCode;

use super::condition::pattern;
use crate::api::virtual_service::{
    Abort, CorsPolicy, Delay, DerivePort, DirectResponse, Fault, HeaderOperations, Headers,
    HttpRedirect, Percentage, UnmatchedPreflights,
};
use crate::mesh;
use crate::policy::format::Message;
use crate::policy::headers::{Edit, HeadersError, Operations};
use crate::policy::matcher::{Case, Pattern};
use crate::policy::redirect::{Path, Port, Redirect, Scheme};
use crate::policy::{cors, fault, grpc};
use crate::types::{Finding, Fraction};

/// For all rules without operations.
static NO_OPERATIONS: LazyLock<Arc<Operations>> = LazyLock::new(Arc::default);

/// No operations.
pub(in crate::control::compile) fn no_operations() -> Arc<Operations> {
    Arc::clone(&NO_OPERATIONS)
}

/// `headers` of the rule or destination at `field`.
pub(super) fn operations(
    given: Option<&Headers>,
    field: &str,
    errors: &mut Vec<Finding>,
) -> Arc<Operations> {
    let Some(given) = given else {
        return no_operations();
    };
    let mut edit = |name: &str, message, given: Option<&HeaderOperations>| {
        let Some(given) = given else {
            return Edit::default();
        };
        let edit = Edit::new(message, &given.set, &given.add, &given.remove);
        edit.unwrap_or_else(|error| {
            errors.push(refusal(&error, &format!("{field}.headers.{name}")));
            Edit::default()
        })
    };
    let operations = Operations {
        request: edit("request", Message::Request, given.request.as_ref()),
        response: edit("response", Message::Response, given.response.as_ref()),
    };
    if operations.is_empty() {
        return no_operations();
    }
    Arc::new(operations)
}

fn refusal(error: &HeadersError, field: &str) -> Finding {
    match error {
        HeadersError::Format {
            operation,
            name,
            source,
        } => Finding::error(format!("{field}.{operation}.{name}"), source.to_string()),
        HeadersError::Name { .. }
        | HeadersError::Pseudo { .. }
        | HeadersError::Authority { .. } => Finding::error(field, error.to_string()),
    }
}

/// Both in one level; the only destination's win.
pub(super) fn joined(rule: &Arc<Operations>, only: &Arc<Operations>) -> Arc<Operations> {
    if rule.is_empty() {
        Arc::clone(only)
    } else {
        Arc::new(rule.joined(only))
    }
}

/// A percentage as a share; none where there is none.
pub(super) fn share(given: Option<Percentage>) -> Fraction {
    given
        .and_then(|one| Fraction::from_percent(one.value).ok())
        .unwrap_or(Fraction::NEVER)
}

pub(super) fn fault(given: &Fault) -> fault::Policy {
    fault::Policy {
        delay: given.delay.as_ref().map(delay),
        abort: given.abort.as_ref().and_then(abort),
    }
}

fn delay(given: &Delay) -> fault::Delay {
    let deprecated = given.percent.map(|percent| Percentage {
        value: f64::from(percent),
    });
    fault::Delay {
        share: share(given.percentage.or(deprecated)),
        duration: given.fixed_delay.unwrap_or(Duration::ZERO),
    }
}

fn abort(given: &Abort) -> Option<fault::Abort> {
    let status = match (given.http_status, &given.grpc_status) {
        (Some(status), _) => {
            let status = u16::try_from(status).ok()?;
            fault::Status::Http(StatusCode::from_u16(status).ok()?)
        }
        (None, Some(name)) => fault::Status::Grpc(grpc::Status::from_name(name)?),
        (None, None) => return None,
    };
    Some(fault::Abort {
        share: share(given.percentage),
        status,
    })
}

pub(super) fn cors(
    given: &CorsPolicy,
    field: &str,
    errors: &mut Vec<Finding>,
) -> Option<Arc<cors::Policy>> {
    let before = errors.len();
    let mut origins: Vec<Pattern> = Vec::new();
    for (index, one) in given.allow_origins.iter().enumerate() {
        let field = format!("{field}.allowOrigins[{index}]");
        origins.extend(pattern(one, &field, Case::Sensitive, errors));
    }
    if given.allow_origins.is_empty() {
        let exact = |text: &String| Pattern::Exact(text.as_str().into(), Case::Sensitive);
        origins.extend(given.allow_origin.iter().map(exact));
    }
    let mut list = |name: &str, given: &[String]| {
        cors::List::new(given).unwrap_or_else(|error| {
            errors.push(Finding::error(format!("{field}.{name}"), error.to_string()));
            cors::List::default()
        })
    };
    let methods = list("allowMethods", &given.allow_methods);
    let headers = list("allowHeaders", &given.allow_headers);
    let expose = list("exposeHeaders", &given.expose_headers);
    if errors.len() > before {
        return None;
    }
    Some(Arc::new(cors::Policy {
        origins,
        methods,
        headers,
        expose,
        max_age: given.max_age,
        credentials: given.allow_credentials.unwrap_or(false),
        unmatched: match given.unmatched_preflights {
            UnmatchedPreflights::Unspecified | UnmatchedPreflights::Forward => {
                cors::Unmatched::Forward
            }
            UnmatchedPreflights::Ignore => cors::Unmatched::Ignore,
        },
    }))
}

pub(super) fn redirect(given: &HttpRedirect) -> Redirect {
    let text = |text: &str| -> Option<Box<str>> { (!text.is_empty()).then(|| text.into()) };
    let code = given.redirect_code.filter(|code| *code != 0).unwrap_or(301);
    Redirect {
        status: u16::try_from(code)
            .ok()
            .and_then(|code| StatusCode::from_u16(code).ok())
            .unwrap_or(StatusCode::MOVED_PERMANENTLY),
        scheme: match given.scheme.as_str() {
            "http" => Some(Scheme::Http),
            "https" => Some(Scheme::Https),
            _ => None,
        },
        authority: text(&given.authority),
        port: match (given.port, given.derive_port) {
            (Some(port), _) => u16::try_from(port).map_or(Port::Kept, Port::Fixed),
            (None, Some(DerivePort::ProtocolDefault)) => Port::ProtocolDefault,
            (None, Some(DerivePort::RequestPort)) => Port::Request,
            (None, None) => Port::Kept,
        },
        path: match (text(&given.uri), text(&given.prefix_rewrite)) {
            (Some(uri), _) => Path::Whole(uri),
            (None, Some(prefix)) => Path::Prefix(prefix),
            (None, None) => Path::Kept,
        },
    }
}

pub(super) fn respond(
    given: &DirectResponse,
    field: &str,
    errors: &mut Vec<Finding>,
) -> Option<mesh::DirectResponse> {
    let body = match &given.body {
        None => Bytes::new(),
        Some(body) => match (&body.string, &body.bytes) {
            (Some(text), _) => Bytes::from(text.clone()),
            (None, Some(text)) => match STANDARD.decode(text) {
                Ok(bytes) => Bytes::from(bytes),
                Err(error) => {
                    let message = format!("is not base64: {error}");
                    errors.push(Finding::error(format!("{field}.body.bytes"), message));
                    return None;
                }
            },
            (None, None) => Bytes::new(),
        },
    };
    let status = u16::try_from(given.status).ok()?;
    Some(mesh::DirectResponse {
        status: StatusCode::from_u16(status).ok()?,
        body,
    })
}
