//! `aquifer config`: what a running proxy has in force.

use anyhow::Context;
use clap::{Args as ClapArgs, Subcommand};
use serde::de::DeserializeOwned;

use super::ask::ask;
use super::output::{Output, print, table};
use crate::admin::Filter;
use crate::admin::certificates::SecretRow;
use crate::admin::views::{ClusterRow, EndpointRow, ListenerRow, PolicyRow, RouteRow, TokenRow};
use crate::settings::Admin;

/// What a running proxy has in force: the rules requests are routed by, the clusters they lead to,
/// the endpoints that answer, the listeners that capture, the policies that say who may call.
#[derive(Debug, ClapArgs)]
pub struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Rules of each service's port, in the order in which they are tried.
    Routes(Question),
    /// Where requests can be sent: each service's port, and each subset of a DestinationRule.
    Clusters(Question),
    /// Addresses that answer for each cluster: ready endpoints, and the pods behind them.
    Endpoints(Question),
    /// Listeners inside the network namespaces of local pods, which take their connections.
    Listeners(Question),
    /// Who may connect to each local pod: PeerAuthentication by port, whose tokens requests may have,
    /// and the AuthorizationPolicies that apply.
    Policies(Question),
    /// Certificates of local pods' identities, and the roots that are trusted.
    Secrets(Question),
}

#[derive(Debug, ClapArgs)]
struct Question {
    /// Only what concerns this pod, as NAMESPACE/NAME: the rules and clusters that its namespace
    /// sees, the endpoints and listeners that are its own.
    #[arg(long, value_name = "POD")]
    pod: Option<String>,
    /// Only this service: its name, or the name and the first of what follows (`web.shop`).
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// Only this port of a service (of a listener: its own port).
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Only this subset of a DestinationRule.
    #[arg(long, value_name = "SUBSET")]
    subset: Option<String>,
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    admin: Admin,
}

impl Question {
    fn filter(&self) -> Filter {
        Filter {
            pod: self.pod.clone(),
            host: self.host.clone(),
            port: self.port,
            subset: self.subset.clone(),
        }
    }
}

/// Asks and prints.
///
/// # Errors
/// One line that says why there is no answer.
pub fn run(args: Args) -> anyhow::Result<()> {
    match args.what {
        What::Routes(question) => answer("routes", &question, routes),
        What::Clusters(question) => answer("clusters", &question, clusters),
        What::Endpoints(question) => answer("endpoints", &question, endpoints),
        What::Listeners(question) => answer("listeners", &question, listeners),
        What::Policies(question) => answer("policies", &question, policies),
        What::Secrets(question) => answer("secrets", &question, secrets),
    }
}

fn answer<T: DeserializeOwned>(
    name: &str,
    question: &Question,
    draw: fn(Vec<T>) -> String,
) -> anyhow::Result<()> {
    let path = format!("/config/{name}{}", question.filter().to_query());
    let body = ask(question.admin.admin, &path)?;
    let unknown = "the proxy's answer is of another version of aquifer";
    match question.output {
        Output::Json => {
            let value: serde_json::Value = serde_json::from_slice(&body).context(unknown)?;
            print(&format!("{value:#}\n"))
        }
        Output::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&body).context(unknown)?;
            print(&serde_yaml::to_string(&value)?)
        }
        Output::Table => print(&draw(serde_json::from_slice(&body).context(unknown)?)),
    }
}

/// A dash in the place of nothing.
fn or_dash(text: Option<String>) -> String {
    text.filter(|text| !text.is_empty())
        .unwrap_or_else(|| "-".to_owned())
}

fn routes(rows: Vec<RouteRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        let destinations: Vec<String> = row
            .destinations
            .iter()
            .map(|one| {
                let endpoints = match one.endpoints {
                    None => " (no such cluster)",
                    Some(0) => " (no endpoint)",
                    Some(_) => "",
                };
                let weight = match row.destinations.len() {
                    1 => String::new(),
                    _ => format!("{} ", one.weight),
                };
                format!("{weight}{}{endpoints}", one.cluster)
            })
            .collect();
        [
            row.host,
            format!("{} {}", row.port, row.kind),
            row.name,
            if row.matches.is_empty() {
                "everything".to_owned()
            } else {
                row.matches.join("\n")
            },
            or_dash(Some(destinations.join("\n"))),
            or_dash(Some(row.policies.join("\n"))),
            or_dash(row.source),
            row.callers.unwrap_or_else(|| "any".to_owned()),
        ]
    });
    table(
        [
            "HOST",
            "PORT",
            "RULE",
            "MATCH",
            "DESTINATIONS",
            "POLICIES",
            "SOURCE",
            "CALLERS",
        ],
        rows,
    )
}

fn clusters(rows: Vec<ClusterRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        [
            row.host,
            row.port.to_string(),
            or_dash(row.subset),
            row.protocol,
            match row.unready {
                0 => row.endpoints.to_string(),
                unready => format!("{} (and {unready} not ready)", row.endpoints),
            },
            row.balancer,
            or_dash(Some(row.policies.join("\n"))),
            row.callers.unwrap_or_else(|| "any".to_owned()),
            row.name,
        ]
    });
    table(
        [
            "HOST",
            "PORT",
            "SUBSET",
            "PROTOCOL",
            "ENDPOINTS",
            "BALANCER",
            "POLICIES",
            "CALLERS",
            "NAME",
        ],
        rows,
    )
}

fn endpoints(rows: Vec<EndpointRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        [
            row.address,
            row.cluster,
            or_dash(row.pod),
            or_dash(row.node),
            or_dash(row.locality),
            if row.ready { "yes" } else { "no" }.to_owned(),
            if row.enrolled { "yes" } else { "no" }.to_owned(),
        ]
    });
    table(
        [
            "ADDRESS", "CLUSTER", "POD", "NODE", "LOCALITY", "READY", "IN MESH",
        ],
        rows,
    )
}

fn listeners(rows: Vec<ListenerRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        let ports: Vec<String> = row.ports.iter().map(u16::to_string).collect();
        [
            row.pod,
            row.direction,
            or_dash(Some(ports.join(", "))),
            row.state,
            or_dash(row.error),
        ]
    });
    table(["POD", "DIRECTION", "PORTS", "STATE", "ERROR"], rows)
}

fn policies(rows: Vec<PolicyRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        let mtls = row.mtls.iter().map(|one| {
            let port = one.port.map(|port| format!("{port}: ")).unwrap_or_default();
            let source = one.source.as_ref();
            let source = source
                .map(|source| format!(" ({source})"))
                .unwrap_or_default();
            format!("{port}{}{source}", one.mode)
        });
        let policies = row.policies.iter().map(|one| {
            let rules = match one.rules {
                1 => "1 rule".to_owned(),
                count => format!("{count} rules"),
            };
            let trial = if one.dry_run { ", on trial" } else { "" };
            let requests = match one.asks_for_requests {
                true => ", about requests",
                false => "",
            };
            format!("{} {} ({rules}{trial}{requests})", one.action, one.source)
        });
        let tokens = row.tokens.iter().map(|one| {
            let TokenRow {
                issuer,
                source,
                keys,
            } = one;
            format!("{issuer} ({source}, keys: {keys})")
        });
        let (mtls, policies): (Vec<_>, Vec<_>) = (mtls.collect(), policies.collect());
        let tokens: Vec<_> = tokens.collect();
        [
            row.pod,
            mtls.join("\n"),
            or_dash(Some(tokens.join("\n"))),
            or_dash(Some(policies.join("\n"))),
        ]
    });
    table(["POD", "MTLS", "TOKENS", "POLICIES"], rows)
}

fn secrets(rows: Vec<SecretRow>) -> String {
    let rows = rows.into_iter().map(|row| {
        [
            row.name,
            row.kind,
            row.state,
            or_dash(row.not_before),
            or_dash(row.not_after),
            or_dash(row.renew),
            or_dash(row.serial),
            or_dash(row.error),
        ]
    });
    table(
        [
            "NAME",
            "KIND",
            "STATE",
            "NOT BEFORE",
            "NOT AFTER",
            "RENEWED",
            "SERIAL",
            "ERROR",
        ],
        rows,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::views::DestinationRow;

    #[test]
    fn routes_are_a_table() {
        let row = RouteRow {
            host: "web.shop.svc.cluster.local".into(),
            port: 80,
            callers: None,
            kind: "http".into(),
            source: Some("VirtualService shop/web".into()),
            order: 1,
            name: "canary".into(),
            matches: vec!["uri prefix /a".into(), "header x exact 1".into()],
            destinations: vec![
                DestinationRow {
                    cluster: "v1".into(),
                    weight: 90,
                    endpoints: Some(3),
                },
                DestinationRow {
                    cluster: "v2".into(),
                    weight: 10,
                    endpoints: None,
                },
            ],
            policies: vec!["timeout 5s".into()],
        };
        assert_eq!(
            routes(vec![row]),
            "HOST                        PORT     RULE    MATCH             DESTINATIONS             POLICIES    SOURCE                   CALLERS
web.shop.svc.cluster.local  80 http  canary  uri prefix /a     90 v1                    timeout 5s  VirtualService shop/web  any
                                             header x exact 1  10 v2 (no such cluster)
"
        );
    }
}
