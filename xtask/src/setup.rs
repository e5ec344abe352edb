//! What a task needs on this machine: looked for first, named, then installed from Debian.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};
use aquifer_tests::process;

/// A program and the Debian package that has it.
pub(crate) type Need<'a> = (&'a str, &'a str);

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
pub(crate) fn install(needs: &[Need<'_>]) -> Result<()> {
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

/// A way to build the proxy.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Build<'a> {
    /// For tests and the demo.
    Dev,
    /// Optimised, by nothing but what the compiler sees.
    Release,
    /// The same, and it counts what it does: where it ends in order it leaves a profile in this folder.
    Instrumented(&'a Path),
    /// Optimised by this profile.
    Profiled(&'a Path),
}

/// Builds the `aquifer` binary and gives its path.
pub(crate) fn build(build: &Build<'_>) -> Result<PathBuf> {
    let mut target =
        env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from);
    // Everything is compiled anew with other flags: what was there before stays.
    let flags = match build {
        Build::Dev | Build::Release => String::new(),
        Build::Instrumented(folder) => {
            target.push("instrumented");
            format!(" -C profile-generate={}", folder.display())
        }
        Build::Profiled(profile) => {
            target.push("profiled");
            format!(" -C profile-use={}", profile.display())
        }
    };
    let mut command = cargo();
    command.args(["rustc", "--package", "aquifer", "--bin", "aquifer"]);
    command.env("CARGO_TARGET_DIR", &target);
    let profile = if let Build::Dev = build {
        "debug".to_owned()
    } else {
        // Linked statically, as in the image. With a target of its own: build scripts and macros,
        // which can't be static, are built without these flags.
        let host = compiler("host")?;
        command.args(["--release", "--target", &host]);
        command.env("RUSTFLAGS", format!("-C target-feature=+crt-static{flags}"));
        // Half a megabyte of relocations, all read at the start, becomes a few kilobytes.
        command.args(["--", "-C", "link-arg=-Wl,-z,pack-relative-relocs"]);
        format!("{host}/release")
    };
    target.push(profile);
    println!("building aquifer ({}) …", target.display());
    anyhow::ensure!(
        command.status()?.success(),
        "aquifer does not build (see above)"
    );
    Ok(target.join("aquifer"))
}

/// What the compiler says of itself: its target (`host`), for example.
pub(crate) fn compiler(what: &str) -> Result<String> {
    let mut command = Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let told = command.arg("-vV").output().context("run rustc")?;
    let told = String::from_utf8_lossy(&told.stdout);
    let found = told.lines().find_map(|line| {
        let (name, value) = line.split_once(": ")?;
        (name == what).then(|| value.to_owned())
    });
    found.with_context(|| format!("rustc -vV does not tell its {what}"))
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
