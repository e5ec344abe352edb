//! `aquifer status`: how a running proxy is doing.

use anyhow::Context;

use super::ask::ask;
use super::output::{Output, print, table};
use crate::admin::Status;
use crate::admin::certificates::Summary;
use crate::admin::views::by_kind;
use crate::settings::Admin;

/// How a running proxy is doing: where its configuration comes from and what is wrong with it, and
/// which pods of this node it captures.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Form of the answer.
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
    #[command(flatten)]
    admin: Admin,
}

/// Asks and prints.
///
/// # Errors
/// One line that says why there is no answer.
pub fn run(args: Args) -> anyhow::Result<()> {
    let body = ask(args.admin.admin, "/status")?;
    let unknown = "the proxy's answer is of another version of aquifer";
    match args.output {
        Output::Json => {
            let value: serde_json::Value = serde_json::from_slice(&body).context(unknown)?;
            print(&format!("{value:#}\n"))
        }
        Output::Yaml => {
            let value: serde_json::Value = serde_json::from_slice(&body).context(unknown)?;
            print(&serde_yaml::to_string(&value)?)
        }
        Output::Table => print(&draw(&serde_json::from_slice(&body).context(unknown)?)),
    }
}

fn draw(status: &Status) -> String {
    let ready = if status.ready { "ready" } else { "not ready" };
    let mut text = format!(
        "node {} (aquifer {}): {ready}, snapshot {} with {} services and {} pods\n",
        status.node, status.version, status.snapshot, status.services, status.pods
    );
    text.push('\n');
    text.push_str(&table(
        ["SOURCE", "FILES", "OBJECTS", "READ", "ERROR"],
        status.sources.iter().map(|one| {
            [
                one.path.clone(),
                one.files.to_string(),
                by_kind(&one.objects),
                format!("{} s ago", one.age_seconds),
                one.error.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        }),
    ));
    text.push('\n');
    if status.enrolment.is_empty() {
        text.push_str("no pod of this node is in the mesh\n");
    } else {
        let rows = status.enrolment.iter().map(|one| {
            [
                one.pod.clone(),
                one.state.clone(),
                one.netns.clone(),
                one.failure_mode.clone(),
                one.sockets.to_string(),
                one.error.clone().unwrap_or_else(|| "-".to_owned()),
            ]
        });
        text.push_str(&table(
            [
                "POD",
                "STATE",
                "NETNS",
                "IF THE PROXY DIES",
                "SOCKETS",
                "ERROR",
            ],
            rows,
        ));
    }
    text.push('\n');
    text.push_str(&certificates(&status.certificates));
    for one in &status.tls {
        let until = one.not_after.as_ref();
        let until = until.map(|until| format!(", until {until}"));
        let error = one.error.as_ref().map(|error| format!(": {error}"));
        text.push_str(&format!(
            "{}: {}{}{}\n",
            one.settings,
            one.state,
            until.unwrap_or_default(),
            error.unwrap_or_default()
        ));
    }
    for one in &status.issuers {
        let keys = match one.keys {
            Some(count) => format!("{count} in force"),
            None => "none: tokens of their issuer are refused".to_owned(),
        };
        let error = one.error.as_ref();
        let error = error.map(|error| format!(" (error: {error})"));
        text.push_str(&format!(
            "keys of {}: {keys}{}\n",
            one.url,
            error.unwrap_or_default()
        ));
    }
    text.push('\n');
    if status.problems.is_empty() {
        text.push_str("nothing is wrong with the configuration\n");
    }
    for problem in &status.problems {
        let line = problem
            .line
            .map(|line| format!(":{line}"))
            .unwrap_or_default();
        let position = problem.file.as_ref().map(|file| format!("{file}{line}"));
        let parts = [
            position.as_deref(),
            problem.object.as_deref(),
            Some(problem.field.as_str()).filter(|field| !field.is_empty()),
            Some(problem.message.as_str()),
        ];
        let parts: Vec<&str> = parts.into_iter().flatten().collect();
        text.push_str(&format!("{}: {}\n", problem.severity, parts.join(": ")));
    }
    text
}

fn certificates(summary: &Summary) -> String {
    let Summary {
        trust_domain,
        authority,
        active,
        missing,
        roots,
        errors,
    } = summary;
    let Some(authority) = authority else {
        return "certificates: none, since no authority is given (--ca)\n".to_owned();
    };
    let mut text = format!(
        "certificates: {active} in force, {missing} missing, {roots} roots; trust domain \
         {trust_domain}, signed by: {authority}\n"
    );
    for error in errors {
        text.push_str(&format!("error: {error}\n"));
    }
    text
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::admin::status::{IssuerRow, OriginationRow, ProblemRow, SourceRow};

    #[test]
    fn problems_are_one_line_each() {
        let status = Status {
            node: "node-1".into(),
            version: "0.1.0".into(),
            ready: true,
            snapshot: 3,
            enrolled_snapshot: 3,
            services: 1,
            pods: 2,
            sources: vec![SourceRow {
                path: "/etc/mesh".into(),
                files: 1,
                objects: BTreeMap::from([("Pod".to_owned(), 2), ("Service".to_owned(), 1)]),
                read: String::new(),
                age_seconds: 4,
                error: None,
            }],
            enrolment: Vec::new(),
            certificates: Summary {
                trust_domain: "cluster.local".into(),
                authority: Some("embedded (/ca)".into()),
                active: 1,
                missing: 1,
                roots: 1,
                errors: vec!["spiffe://cluster.local/ns/a/sa/b (failed): it refuses".into()],
            },
            tls: vec![OriginationRow {
                settings: "mutual TLS /a.pem to db".into(),
                state: "stale".into(),
                not_after: Some("2030-01-01T00:00:00Z".into()),
                error: Some("/a.pem: gone".into()),
            }],
            issuers: vec![
                IssuerRow {
                    url: "https://id.test/keys".into(),
                    keys: Some(2),
                    failures: 0,
                    error: None,
                },
                IssuerRow {
                    url: "http://other.test".into(),
                    keys: None,
                    failures: 3,
                    error: Some("nobody there".into()),
                },
            ],
            problems: vec![ProblemRow {
                severity: "warning".into(),
                object: Some("VirtualService shop/web".into()),
                file: Some("/etc/mesh/a.yaml".into()),
                line: Some(3),
                field: "spec.tcp".into(),
                message: "not implemented yet: it has no effect".into(),
            }],
        };
        assert_eq!(
            draw(&status),
            "node node-1 (aquifer 0.1.0): ready, snapshot 3 with 1 services and 2 pods

SOURCE     FILES  OBJECTS           READ     ERROR
/etc/mesh  1      2 Pod, 1 Service  4 s ago  -

no pod of this node is in the mesh

certificates: 1 in force, 1 missing, 1 roots; trust domain cluster.local, signed by: embedded (/ca)
error: spiffe://cluster.local/ns/a/sa/b (failed): it refuses
mutual TLS /a.pem to db: stale, until 2030-01-01T00:00:00Z: /a.pem: gone
keys of https://id.test/keys: 2 in force
keys of http://other.test: none: tokens of their issuer are refused (error: nobody there)

warning: /etc/mesh/a.yaml:3: VirtualService shop/web: spec.tcp: not implemented yet: it has no effect
"
        );
    }
}
