//! What a task needs on this machine: looked for first, named, then installed from Debian.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use aquifer_tests::process;

/// A program and the Debian package that has it.
pub(crate) type Need = (&'static str, &'static str);

/// The repository.
pub(crate) fn root() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().unwrap_or(here).to_owned()
}

/// Finds a program as a shell would, and where only root's shell looks.
pub(crate) fn find(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    folders
        .map(|folder| folder.join(program))
        .find(|path| path.is_file())
}

/// Installs what is missing of `needs`; names it first.
pub(crate) fn install(needs: &[Need]) -> Result<()> {
    let missing: Vec<_> = needs
        .iter()
        .filter(|(program, _)| find(program).is_none())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let mut packages: Vec<_> = missing.iter().map(|(_, package)| *package).collect();
    packages.sort_unstable();
    packages.dedup();
    let programs: Vec<_> = missing.iter().map(|(program, _)| *program).collect();
    println!(
        "missing here: {}; installing: {}",
        programs.join(", "),
        packages.join(", ")
    );
    let by_hand = format!("apt-get install -y {}", packages.join(" "));
    if !is_root() {
        bail!("installing needs root; run `{by_hand}`, or this command as root");
    }
    if find("apt-get").is_none() {
        bail!(
            "this machine has no apt-get: install {} by its own means",
            packages.join(", ")
        );
    }
    let apt = |arguments: &[&str]| {
        let mut command = Command::new("apt-get");
        command
            .args(["-q", "-y"])
            .args(arguments)
            .env("DEBIAN_FRONTEND", "noninteractive");
        process::finish(&mut command)
    };
    apt(&["update"])?;
    // Nothing that a package would start by itself is wanted, so recommendations are left out.
    apt(&[&["install", "--no-install-recommends"], &packages[..]].concat())
        .with_context(|| format!("`{by_hand}` did not work"))?;
    match missing.iter().find(|(program, _)| find(program).is_none()) {
        Some((program, package)) => bail!("{package} is installed, but there is no {program}"),
        None => Ok(()),
    }
}

/// Builds the `aquifer` binary and gives its path.
pub(crate) fn build(release: bool) -> Result<PathBuf> {
    let mut command = cargo();
    command.args(["rustc", "--package", "aquifer", "--bin", "aquifer"]);
    let profile = if release {
        // Linked statically, as in the image. With a target of its own: build scripts and macros,
        // which can't be static, are built without these flags.
        let host = host()?;
        command.args(["--release", "--target", &host]);
        command.env("RUSTFLAGS", "-C target-feature=+crt-static");
        // Half a megabyte of relocations, all read at the start, becomes a few kilobytes.
        command.args(["--", "-C", "link-arg=-Wl,-z,pack-relative-relocs"]);
        format!("{host}/release")
    } else {
        "debug".to_owned()
    };
    println!("building aquifer ({profile}) …");
    anyhow::ensure!(
        command.status()?.success(),
        "aquifer does not build (see above)"
    );
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), Into::into);
    Ok(target.join(profile).join("aquifer"))
}

/// The target that this machine is.
fn host() -> Result<String> {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let told = command.arg("-vV").output().context("run rustc")?;
    let told = String::from_utf8_lossy(&told.stdout);
    let host = told.lines().find_map(|line| line.strip_prefix("host: "));
    Ok(host
        .context("rustc does not say what it builds for")?
        .to_owned())
}

/// `cargo`, in the repository.
pub(crate) fn cargo() -> Command {
    let mut command = Command::new(env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root());
    command
}

/// True where this process may make namespaces and load programs.
pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}
