//! aquifer beside Envoy: what differs must be listed in `envoy-differences.md`, and what is listed must
//! differ.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aquifer_tests::differential::{listed::Listed, suite, table};

/// What is to be mended, in the form of the list of differences: told, and no reason to fail.
const AWAITED: &str = "## In the differential suite
| `timeout-*`, `outlier-timeout`, `grpc-timeout-*`, `upgrade-timeout`, `fault-delay-then-timeout` | `details` | Envoy 1.40 says response_timeout |
| `header-response-local`, `operator-response-local`, `cors-local-reply`, `retry-*`, `reply-*`, `outlier-*`, `grpc-web-is-not-grpc`, `upgrade-no-route` | `body`, `header content-length` | Envoy 1.40 does not tell clients the transport's failure |
| `grpc-refused` | `header grpc-message` | the same |
| `cors-*`, `fault-*` | `cluster` | the log names the cluster of a rule that answered itself |
| `mirror-*` | `request x-envoy-*`, `request x-forwarded-for` | a mirrored request is marked as one |
| `upgrade-*` | `header x-envoy-upstream-service-time` | not on answers to upgrades |
| `upgrade-*`, `client-gone*` | `details`, `flags` | DC, DR, downstream_remote_disconnect where the client went |
| `fault-delay-gone` | `details` | the same |
| `retry-not-after-headers` | `details`, `flags` | a body that breaks off is UPE |
| `reply-*` | `details`, `flags`, `status`, `header content-length`, `body` | a body that breaks off is UPE; RST_STREAM by its reason |
| `direct-grpc` | `*` | told as gRPC |
| `fault-abort-grpc-plain` | `*` | told as text |
| `path-odd` | `flags` | none |
| `operator-remote-bare` | `request x-v` | the last x-forwarded-for is trusted |
| `tcp-*` | `flags`, `details` | UF,URX; UR |
";

/// Plays every scenario, or those whose names begin with one of the words in `SCENARIOS`; those alone
/// can't tell what has vanished from the list.
/// Envoy has as many workers as `ENVOY_WORKERS` says, one where it says nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "needs Envoy: its path in ENVOY"]
async fn aquifer_does_what_envoy_does() -> Result<()> {
    let envoy = PathBuf::from(std::env::var_os("ENVOY").context("ENVOY has no path")?);
    let wanted = std::env::var("SCENARIOS").unwrap_or_default();
    let mut scenarios = table::all();
    if !wanted.is_empty() {
        let named = |name: &str| wanted.split(' ').any(|start| name.starts_with(start));
        scenarios.retain(|scenario| named(&scenario.name));
    }
    let list = include_str!("../envoy-differences.md");
    let mut listed = Listed::parse(list)?;
    let mut awaited = Listed::parse(AWAITED)?;
    let count = scenarios.len();
    let (mut report, mut awaiting) = (Vec::<String>::new(), Vec::<String>::new());
    for verdict in suite::run(&envoy, scenarios).await? {
        let name = verdict.name.as_str();
        for wrong in &verdict.unmeant {
            report.push(format!("{name}: Envoy does not do what is meant: {wrong}"));
        }
        for one in &verdict.differences {
            if listed.has(name, one) {
                continue;
            }
            let list = if awaited.has(name, one) {
                &mut awaiting
            } else {
                &mut report
            };
            list.push(format!(
                "{name}: {}:\n    Envoy   {}\n    aquifer {}",
                one.facet, one.envoy, one.aquifer
            ));
        }
    }
    if wanted.is_empty() {
        let vanished = listed.vanished().into_iter();
        report.extend(vanished.map(|row| format!("{row}: listed, and no longer there")));
    }
    println!("to be mended:\n{}", awaiting.join("\n"));
    if wanted.is_empty() {
        println!("mended:\n{}", awaited.vanished().join("\n"));
    }
    ensure!(
        report.is_empty(),
        "{count} scenarios, {} complaints:\n{}",
        report.len(),
        report.join("\n")
    );
    println!("{count} scenarios");
    Ok(())
}

#[test]
fn names_are_unique_and_fit_a_service() {
    let mut names: Vec<_> = table::all()
        .iter()
        .map(|scenario| scenario.name.clone())
        .collect();
    names.sort_unstable();
    for pair in names.windows(2) {
        assert_ne!(pair[0], pair[1]);
    }
    for name in names {
        let fits = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
        assert!(name.len() <= 60 && name.chars().all(fits), "{name}");
    }
}
