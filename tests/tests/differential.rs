//! aquifer beside Envoy: what differs must be listed in `envoy-differences.md`, and what is listed must
//! differ.

use std::path::PathBuf;

use anyhow::{Context, Result, ensure};
use aquifer_tests::differential::{listed::Listed, suite, table};

/// Plays every scenario, or those whose names begin with one of the words in `SCENARIOS`; those alone
/// can't tell what has vanished from the list.
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
    let count = scenarios.len();
    let mut report = Vec::<String>::new();
    for verdict in suite::run(&envoy, scenarios).await? {
        let name = verdict.name.as_str();
        for wrong in &verdict.unmeant {
            report.push(format!("{name}: Envoy does not do what is meant: {wrong}"));
        }
        for one in &verdict.differences {
            if listed.has(name, one) {
                continue;
            }
            report.push(format!(
                "{name}: {}:\n    Envoy   {}\n    aquifer {}",
                one.facet, one.envoy, one.aquifer
            ));
        }
    }
    if wanted.is_empty() {
        let vanished = listed.vanished().into_iter();
        report.extend(vanished.map(|row| format!("{row}: listed, and no longer there")));
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
