//! `cargo xtask release`: the binary as it is released, compiled by a profile of what it does under the
//! bench's loads. What runs often lies together then, and the rest out of its way.
//!
//! Two release builds with a minute of traffic between them.

use std::{path::PathBuf, process::Command};

use anyhow::{Context, Result, ensure};
use aquifer_tests::process;

use crate::{
    bench,
    setup::{self, Build},
};

/// Builds it and says where it is.
pub(crate) fn run() -> Result<()> {
    let binary = build()?;
    println!("{}", binary.display());
    Ok(())
}

/// Builds it and gives its path.
pub(crate) fn build() -> Result<PathBuf> {
    ensure!(
        setup::is_root(),
        "a release is trained by traffic in network namespaces, with eBPF: run it as root"
    );
    // What reads profiles must be as new as what writes them.
    let llvm = setup::compiler("LLVM version")?;
    let major = llvm.split('.').next().unwrap_or_default();
    let merge = format!("llvm-profdata-{major}");
    setup::install(&[(&merge, &format!("llvm-{major}"))])
        .with_context(|| format!("rustc was built with LLVM {llvm}"))?;
    let folder = tempfile::Builder::new().prefix("aqh-profile-").tempdir()?;
    let raw = folder.path().join("raw");
    let trained = setup::build(&Build::Instrumented(&raw))?;
    println!("running it under the bench's loads …");
    bench::train(trained)?;
    let profile = folder.path().join("merged.profdata");
    process::finish(
        Command::new(merge)
            .arg("merge")
            .arg("--output")
            .arg(&profile)
            .arg(&raw),
    )
    .context("the instrumented build left no profile that can be read")?;
    setup::build(&Build::Profiled(&profile))
}
