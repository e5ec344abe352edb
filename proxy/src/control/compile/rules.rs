//! A VirtualService's HTTP rules, compiled as far as that can be done without knowing the services.
//!
//! What remains for later is what depends on the port at which they are asked, and on the ports
//! that their destinations have: `route`.

use std::sync::Arc;

use http::HeaderName;

use crate::api::VirtualService;
use crate::api::virtual_service::{HttpMatch, HttpRoute, MESH, StringMatch};
use crate::policy::matcher::{Case, Field, HeaderCondition, Match, Pattern, QueryCondition, Sense};
use crate::types::{Finding, Hostname, ObjectRef};

/// The rules of one VirtualService, with the object that they come from.
#[derive(Debug)]
pub struct Routes {
    /// As it was written.
    pub source: Arc<VirtualService>,
    /// Its name.
    pub reference: ObjectRef,
    /// Its hosts, in full.
    pub hosts: Vec<Hostname>,
    /// In order, without those that can't apply to mesh traffic.
    pub rules: Vec<Template>,
}

/// A rule, before the port is known.
#[derive(Debug)]
pub struct Template {
    /// Which of `spec.http` it is.
    pub index: usize,
    /// Empty where it has none.
    pub name: String,
    /// `None`: it applies to every request. Otherwise one of the blocks must match.
    pub blocks: Option<Vec<Block>>,
    /// Never empty; their weights never all zero.
    pub targets: Vec<Target>,
}

/// One match block.
#[derive(Debug)]
pub struct Block {
    /// Empty where it has none.
    pub name: String,
    /// The only port at which it counts.
    pub port: Option<u16>,
    /// The conditions on the request.
    pub condition: Match,
}

/// A weighted destination.
#[derive(Debug)]
pub struct Target {
    /// Which of `route` it is.
    pub index: usize,
    /// In full.
    pub host: Hostname,
    /// A DestinationRule's subset.
    pub subset: Option<Arc<str>>,
    /// `None`: the host's only port, or the one that was asked.
    pub port: Option<u16>,
    /// Never 0.
    pub weight: u32,
}

impl Routes {
    /// Compiles a valid VirtualService.
    ///
    /// # Errors
    /// Each regular expression that is refused.
    pub fn compile(
        source: Arc<VirtualService>,
        cluster_domain: &str,
    ) -> Result<Self, Vec<Finding>> {
        let namespace = Arc::clone(&source.metadata.namespace);
        let spec = &source.spec;
        let mut errors = Vec::new();
        let full = |host: &str| Hostname::resolve(host, &namespace, cluster_domain);
        let hosts = spec.hosts.iter().map(|host| full(host)).collect();
        let mut rules = Vec::new();
        for (index, rule) in spec.http.iter().enumerate() {
            let blocks = blocks(rule, index, spec.is_for_mesh(), &mut errors);
            // All of its blocks are for others: without them it would be for everyone.
            let applies = match &blocks {
                None => spec.is_for_mesh(),
                Some(blocks) => !blocks.is_empty(),
            };
            if rule.unimplemented().is_none() && applies {
                rules.push(Template {
                    index,
                    name: rule.name.clone(),
                    blocks,
                    targets: targets(rule, full),
                });
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self {
            reference: ObjectRef {
                kind: "VirtualService".into(),
                namespace: Arc::clone(&namespace),
                name: Arc::clone(&source.metadata.name),
            },
            hosts,
            rules,
            source,
        })
    }
}

/// The blocks of a rule that can apply to mesh traffic.
fn blocks(
    rule: &HttpRoute,
    index: usize,
    for_mesh: bool,
    errors: &mut Vec<Finding>,
) -> Option<Vec<Block>> {
    if rule.matches.is_empty() {
        return None;
    }
    let mut blocks = Vec::new();
    for (at, block) in rule.matches.iter().enumerate() {
        let field = format!("spec.http[{index}].match[{at}]");
        let condition = compile_block(block, &field, errors);
        let mesh = if block.gateways.is_empty() {
            for_mesh
        } else {
            block.gateways.iter().any(|one| one == MESH)
        };
        if mesh && block.unimplemented().next().is_none() {
            blocks.push(Block {
                name: block.name.clone(),
                port: block.port.filter(|port| *port != 0),
                condition,
            });
        }
    }
    Some(blocks)
}

fn compile_block(block: &HttpMatch, field: &str, errors: &mut Vec<Finding>) -> Match {
    let case = if block.ignore_uri_case {
        Case::Ignored
    } else {
        Case::Sensitive
    };
    let mut one = |name: &str, given: &Option<StringMatch>, case| {
        let given = given.as_ref()?;
        pattern(given, &format!("{field}.{name}"), case, errors)
    };
    let path = one("uri", &block.uri, case);
    let method = one("method", &block.method, Case::Sensitive);
    let authority = one("authority", &block.authority, Case::Sensitive);
    let mut headers = Vec::new();
    for (sense, name, given) in [
        (Sense::With, "headers", &block.headers),
        (Sense::Without, "withoutHeaders", &block.without_headers),
    ] {
        for (key, condition) in given {
            let Some(header) = header(key) else { continue };
            let field = format!("{field}.{name}.{key}");
            let condition = condition.as_ref().filter(|one| !is_presence(one, sense));
            headers.push(HeaderCondition {
                field: header,
                sense,
                pattern: condition.and_then(|one| pattern(one, &field, Case::Sensitive, errors)),
            });
        }
    }
    let query = block
        .query_params
        .iter()
        .map(|(key, condition)| QueryCondition {
            name: key.as_str().into(),
            pattern: condition.as_ref().and_then(|one| {
                let field = format!("{field}.queryParams.{key}");
                pattern(one, &field, Case::Sensitive, errors)
            }),
        })
        .collect();
    Match {
        path,
        method,
        authority,
        headers,
        query,
    }
}

/// `regex: "*"` is no expression; in `withoutHeaders` Istio takes it for presence.
fn is_presence(given: &StringMatch, sense: Sense) -> bool {
    sense == Sense::Without && given.regex.as_deref() == Some("*")
}

/// `None` for the names that Istio ignores (validation has warned), and for the claims of a token
/// (whose block never applies).
fn header(key: &str) -> Option<Field> {
    match key {
        ":method" => Some(Field::Method),
        ":authority" => Some(Field::Authority),
        ":path" => Some(Field::Path),
        "uri" | "scheme" | "method" | "authority" => None,
        key => HeaderName::from_bytes(key.as_bytes())
            .ok()
            .map(Field::Header),
    }
}

/// `None` where nothing is given, or where it is refused.
fn pattern(
    given: &StringMatch,
    field: &str,
    case: Case,
    errors: &mut Vec<Finding>,
) -> Option<Pattern> {
    if let Some(text) = &given.exact {
        return Some(Pattern::Exact(text.as_str().into(), case));
    }
    if let Some(text) = &given.prefix {
        return Some(Pattern::Prefix(text.as_str().into(), case));
    }
    match Pattern::regex(given.regex.as_ref()?) {
        Ok(pattern) => Some(pattern),
        Err(error) => {
            errors.push(Finding::error(format!("{field}.regex"), error.to_string()));
            None
        }
    }
}

/// A single destination gets everything whatever its weight says; of several, those without a
/// weight get nothing (Istio).
fn targets(rule: &HttpRoute, full: impl Fn(&str) -> Hostname) -> Vec<Target> {
    let alone = rule.route.len() == 1;
    let routes = rule.route.iter().enumerate();
    routes
        .filter_map(|(index, one)| {
            let destination = one.destination.as_ref()?;
            let weight = if alone {
                1
            } else {
                u32::try_from(one.weight).ok()?
            };
            (weight > 0).then(|| Target {
                index,
                host: full(&destination.host),
                subset: (!destination.subset.is_empty())
                    .then(|| destination.subset.as_str().into()),
                port: destination.port.as_ref().map(|port| port.number),
                weight,
            })
        })
        .collect()
}
