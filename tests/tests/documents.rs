//! What the documents say of the tests, held against the tests.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use anyhow::{Context, Result, ensure};
use aquifer_tests::differential::table;

/// Every row of the table of fields names a test that shows it, and each of these tests exists.
#[test]
fn every_field_has_a_test_that_exists() -> Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    let mut document = fs::read_to_string(root.join("deploy/traffic-api.md"))?;
    document += &fs::read_to_string(root.join("deploy/security-api.md"))?;
    let scenarios: BTreeSet<_> = table::all().into_iter().map(|one| one.name).collect();
    let (mut rows, mut wrong) = (0, Vec::new());
    for row in document.lines().filter(|line| line.starts_with("| `")) {
        rows += 1;
        let cell = row.trim_end_matches(" |").rsplit(" | ").next();
        let cell = cell.context("a row has cells")?;
        let names: Vec<_> = cell.split('`').skip(1).step_by(2).collect();
        if names.is_empty() {
            wrong.push(format!("no test: {row}"));
        }
        for name in names {
            let exists = if name.contains("::") {
                is_test(&root, name)
            } else {
                scenarios.contains(name)
            };
            if !exists {
                wrong.push(format!("there is no {name}"));
            }
        }
    }
    ensure!(rows > 150, "{rows} rows");
    ensure!(wrong.is_empty(), "{}", wrong.join("\n"));
    Ok(())
}

/// `file::test` is an end-to-end test, a longer path a unit test of the proxy.
fn is_test(root: &Path, name: &str) -> bool {
    let parts: Vec<_> = name.split("::").collect();
    let Some((test, path)) = parts.split_last() else {
        return false;
    };
    let source = root.join("proxy/src");
    let files: Vec<PathBuf> = match path {
        [file] => vec![root.join(format!("tests/tests/{file}.rs"))],
        _ => {
            // Tests are a file of their own, or stand in the file that they test.
            let inside = path.strip_suffix(&["tests"]).unwrap_or(path);
            let places = [path, inside].map(|path| path.join("/"));
            let files = places
                .iter()
                .flat_map(|place| [format!("{place}.rs"), format!("{place}/mod.rs")]);
            files.map(|file| source.join(file)).collect()
        }
    };
    let is_there = |text: String| text.contains(&format!("fn {test}("));
    files
        .iter()
        .any(|file| fs::read_to_string(file).is_ok_and(is_there))
}
