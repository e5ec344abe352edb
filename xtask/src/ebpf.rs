//! `cargo xtask ebpf`: builds the kernel object from `ebpf/` and writes it to
//! `ebpf/bytecode/aquifer.bpf.o`, which is committed; `--check` proves that it is current.
//!
//! What compiler, LLVM and linker made the object stands beside it. The same versions make the same
//! code; other versions may not, so there the check loads the rebuilt object and runs the tests of
//! the kernel side on it instead, and says so.

use std::ffi::OsString;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context, Result, bail};

use crate::setup;

const OBJECT: &str = "ebpf/bytecode/aquifer.bpf.o";
const RECORD: &str = "ebpf/bytecode/toolchain.txt";
const TARGET: &str = "bpfel-unknown-none";
const INSTALL: &str = "install it with: apt-get install -y rustc-web cargo-web rust-web-src \
    llvm-22-dev libzstd-dev zlib1g-dev, then PATH=/usr/lib/llvm-22/bin:$PATH cargo install \
    bpf-linker --no-default-features --features llvm-22 (ebpf/README.md says why)";

/// Sections that programs, maps and their types are made of. The others (symbols' names, debugging)
/// vary with the folder that was built in.
const COMPARED: [&str; 9] = [
    ".text",
    "cgroup/",
    "sockops",
    "sk_lookup",
    "maps",
    ".maps",
    ".rodata",
    "license",
    ".rel",
];

/// Builds the kernel object, or checks it.
#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Rebuild and compare with the committed object; write nothing
    #[arg(long)]
    check: bool,
}

/// Runs the task.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let root = root()?;
    let tools = Tools::find()?;
    let built = build(&root, &tools)?;
    if arguments.check {
        return check(&root, &tools, &built);
    }
    fs::create_dir_all(root.join("ebpf/bytecode"))?;
    fs::copy(&built, root.join(OBJECT)).with_context(|| format!("writing {OBJECT}"))?;
    fs::write(root.join(RECORD), tools.record()).with_context(|| format!("writing {RECORD}"))?;
    say(&format!("wrote {OBJECT}, built by\n{}", tools.record()));
    Ok(())
}

/// How a rebuilt object is held against the committed one.
#[derive(Debug, PartialEq, Eq)]
enum Proof {
    /// The same versions made both: byte by byte.
    Bytes,
    /// Others made this one: it must do what the tests want. Holds what to say of it.
    Tests(String),
}

impl Proof {
    /// `recorded` says what made the committed object; empty where nobody knows. `here` says what
    /// made the other.
    fn choose(recorded: &str, here: &str) -> Self {
        if recorded == here {
            return Self::Bytes;
        }
        let recorded = match recorded {
            "" => "nobody knows what",
            recorded => recorded,
        };
        Self::Tests(format!(
            "{OBJECT} was built by\n{}\nand here is\n{}\nso the bytes are not compared: the rebuilt \
             object is loaded and tested instead",
            recorded.trim_end(),
            here.trim_end()
        ))
    }
}

fn check(root: &Path, tools: &Tools, built: &Path) -> Result<()> {
    let recorded = fs::read_to_string(root.join(RECORD)).unwrap_or_default();
    let committed = root.join(OBJECT);
    match Proof::choose(&recorded, &tools.record()) {
        Proof::Bytes => {
            let differing = differences(tools, &committed, built)?;
            if !differing.is_empty() {
                bail!(
                    "{OBJECT} is not what ebpf/ says (sections {}): run `cargo xtask ebpf` and \
                     commit it",
                    differing.join(", ")
                );
            }
            say(&format!("{OBJECT} is what ebpf/ says"));
            Ok(())
        }
        Proof::Tests(why) => {
            say(&why);
            test(&committed, built)?;
            say("the rebuilt object passes the tests of the kernel side");
            Ok(())
        }
    }
}

/// Runs the tests of the kernel side with `built` in the place of the committed object.
fn test(committed: &Path, built: &Path) -> Result<()> {
    let before = fs::read(committed).with_context(|| format!("reading {OBJECT}"))?;
    fs::copy(built, committed)?;
    let tested = setup::build(&setup::Build::Dev).and_then(|binary| {
        let tests = ["capture", "inbound", "full", "kernel"];
        let mut command = setup::cargo();
        command.args(["test", "--package", "aquifer-tests"]);
        command.args(tests.iter().flat_map(|test| ["--test", test]));
        let status = command.env("AQUIFER_BIN", binary).status();
        status.context("running cargo test")
    });
    // The committed object comes back whatever the tests said.
    fs::write(committed, before).with_context(|| format!("restoring {OBJECT}"))?;
    if !tested?.success() {
        bail!("the rebuilt object fails the tests of the kernel side");
    }
    Ok(())
}

/// The programs that build an object.
struct Tools {
    cargo: OsString,
    /// Of rustup, where the toolchain is a nightly of its.
    nightly: bool,
    objcopy: PathBuf,
    versions: Vec<String>,
}

impl Tools {
    /// Debian's rustc with its sources, or a nightly with rust-src; bpf-linker; llvm-objcopy.
    fn find() -> Result<Self> {
        let linker = version("bpf-linker", &["--version"])
            .with_context(|| format!("bpf-linker is missing; {INSTALL}"))?;
        let sources = Path::new("/usr/lib/rustlib/src/rust/library/core");
        let (cargo, nightly, rustc) = if Path::new("/usr/bin/rustc").exists() && sources.exists() {
            (
                "/usr/bin/cargo".into(),
                false,
                version("/usr/bin/rustc", &["--version"])?,
            )
        } else if let Ok(rustc) = version("rustc", &["+nightly", "--version"]) {
            ("cargo".into(), true, rustc)
        } else {
            bail!("no rustc that can build `core` for BPF; {INSTALL}");
        };
        let objcopy = (18..=30)
            .rev()
            .map(|major| PathBuf::from(format!("/usr/lib/llvm-{major}/bin/llvm-objcopy")))
            .find(|path| path.exists())
            .with_context(|| format!("llvm-objcopy is missing; {INSTALL}"))?;
        Ok(Self {
            cargo,
            nightly,
            objcopy,
            versions: vec![rustc, linker],
        })
    }

    fn record(&self) -> String {
        self.versions
            .iter()
            .map(|version| format!("{version}\n"))
            .collect()
    }
}

fn build(root: &Path, tools: &Tools) -> Result<PathBuf> {
    let target = root.join("target/ebpf");
    let home = env_or("CARGO_HOME", "");
    let home = if home.is_empty() {
        PathBuf::from(env_or("HOME", "/root")).join(".cargo")
    } else {
        home.into()
    };
    // Paths are told alike wherever the object is built, since BTF keeps them.
    let flags = format!(
        "-C linker=bpf-linker -C panic=abort --cfg bpf_target_arch=\"x86_64\" -C debuginfo=2 \
         -C link-arg=--btf --remap-path-prefix={}=/aquifer --remap-path-prefix={}=/cargo",
        root.display(),
        home.display()
    );
    let mut command = Command::new(&tools.cargo);
    if tools.nightly {
        command.arg("+nightly");
    } else {
        command
            .env("RUSTC", "/usr/bin/rustc")
            .env("RUSTC_BOOTSTRAP", "1");
    }
    let status = command
        .args([
            "build",
            "--release",
            "--locked",
            "-Z",
            "build-std=core",
            "--target",
            TARGET,
        ])
        .current_dir(root.join("ebpf"))
        .env("RUSTFLAGS", flags)
        .env("CARGO_TARGET_DIR", &target)
        // Of the cargo that runs this task; they would choose its toolchain for the build.
        .env_remove("RUSTUP_TOOLCHAIN")
        .env_remove("RUSTC_WRAPPER")
        .env_remove("CARGO_ENCODED_RUSTFLAGS")
        .status()
        .context("running the BPF build")?;
    if !status.success() {
        bail!("the kernel object did not build");
    }
    let raw = target.join(TARGET).join("release/aquifer");
    let built = target.join("aquifer.bpf.o");
    // DWARF goes; BTF stays, which loaders and `bpftool` read.
    let status = Command::new(&tools.objcopy)
        .arg("--strip-debug")
        .args([&raw, &built])
        .status()?;
    if !status.success() {
        bail!("{} failed", tools.objcopy.display());
    }
    Ok(built)
}

/// Names of the sections that one of the objects lacks or that differ.
fn differences(tools: &Tools, one: &Path, other: &Path) -> Result<Vec<String>> {
    let names = |object: &Path| -> Result<Vec<String>> {
        let readelf = tools.objcopy.with_file_name("llvm-readelf");
        let output = Command::new(readelf)
            .args(["-S", "--elf-output-style=JSON"])
            .arg(object)
            .output()?;
        let document: serde_json::Value = serde_json::from_slice(&output.stdout)?;
        let sections = document[0]["Sections"]
            .as_array()
            .context("llvm-readelf told no sections")?;
        Ok(sections
            .iter()
            .filter_map(|section| section["Section"]["Name"]["Name"].as_str())
            .filter(|name| COMPARED.iter().any(|start| name.starts_with(start)))
            .map(str::to_owned)
            .collect())
    };
    let folder = tempfile::tempdir()?;
    let bytes = |object: &Path, section: &str| -> Result<Vec<u8>> {
        let dump = folder.path().join("section");
        let mut argument = OsString::from(format!("--dump-section={section}="));
        argument.push(&dump);
        let output = Command::new(&tools.objcopy)
            .arg(argument)
            .arg(object)
            .arg("/dev/null")
            .output()?;
        if !output.status.success() {
            return Ok(Vec::new());
        }
        Ok(fs::read(&dump)?)
    };
    let (first, second) = (names(one)?, names(other)?);
    let mut differing = Vec::new();
    for name in &first {
        if !second.contains(name) || bytes(one, name)? != bytes(other, name)? {
            differing.push(name.clone());
        }
    }
    differing.extend(second.into_iter().filter(|name| !first.contains(name)));
    Ok(differing)
}

fn version(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program)
        .args(arguments)
        .env_remove("RUSTUP_TOOLCHAIN")
        .output()
        .with_context(|| format!("running {program}"))?;
    anyhow::ensure!(output.status.success(), "{program} failed");
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

fn env_or(name: &str, default: &str) -> String {
    std::env::var(name).unwrap_or_else(|_| default.to_owned())
}

fn root() -> Result<PathBuf> {
    let package = Path::new(env!("CARGO_MANIFEST_DIR"));
    package
        .parent()
        .map(Path::to_owned)
        .context("xtask has no folder above it")
}

fn say(text: &str) {
    use std::io::Write;
    // Nobody reads on: then nobody needs it.
    let _ = writeln!(std::io::stdout(), "{text}");
}

#[cfg(test)]
mod tests {
    use super::Proof;

    #[test]
    fn bytes_are_compared_where_the_same_versions_made_them() {
        let here = "rustc 1.96.0\nbpf-linker 0.13.0\n";
        for (name, recorded, named) in [
            ("the same", here, None),
            (
                "another compiler",
                "rustc 1.97.0\nbpf-linker 0.13.0\n",
                Some("rustc 1.97.0"),
            ),
            (
                "another linker",
                "rustc 1.96.0\nbpf-linker 0.14.0\n",
                Some("bpf-linker 0.14.0"),
            ),
            (
                "no linker",
                "rustc 1.96.0\n",
                Some("rustc 1.96.0\nand here is"),
            ),
            ("no record", "", Some("nobody knows what")),
        ] {
            match (Proof::choose(recorded, here), named) {
                (Proof::Bytes, None) => {}
                (Proof::Tests(told), Some(named)) => {
                    for part in [named, here.trim_end(), "loaded and tested instead"] {
                        assert!(told.contains(part), "{name}: {told}");
                    }
                }
                (proof, _) => panic!("{name}: {proof:?}"),
            }
        }
    }
}
