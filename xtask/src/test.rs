//! `cargo xtask test`: the unit tests, which need no privilege, then the end-to-end tests against
//! the real binary, which need root. Ends with the counts, and with what could not run and why.

use std::{
    fmt,
    io::{BufRead, BufReader},
    ops::AddAssign,
    path::PathBuf,
    process::{Command, Stdio},
};

use anyhow::{Context, Result, bail};
use aquifer_tests::{peer::ztunnel, process};

use crate::{envoy, setup};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Run the unit tests only; needs no root
    #[arg(long, conflicts_with = "e2e")]
    unit: bool,
    /// Run the end-to-end tests only
    #[arg(long)]
    e2e: bool,
    /// Run only tests whose name contains this
    filter: Option<String>,
}

/// Results of test programs.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Counts {
    passed: u64,
    failed: u64,
    skipped: u64,
}

/// Runs the tests and fails where one failed or one part did not run to its end.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    let mut table = Vec::new();
    let mut remarks = Vec::new();
    let mut complete = true;
    if !arguments.e2e {
        let (counts, ok) = unit(arguments)?;
        complete &= ok;
        table.push(("unit", counts));
    }
    if !arguments.unit {
        if let Some(reason) = unable() {
            complete = false;
            remarks.push(format!("the end-to-end tests were NOT run: {reason}"));
        } else {
            let (counts, ok) = end_to_end(arguments, &mut remarks)?;
            complete &= ok;
            table.push(("end-to-end", counts));
        }
    }
    let mut total = Counts::default();
    println!();
    for (name, counts) in table {
        println!("{name:>12}: {counts}");
        total += counts;
    }
    for remark in remarks {
        println!("{:>12}: {remark}", "note");
    }
    println!("{total}");
    if total.failed > 0 || !complete {
        bail!("not all tests ran and passed");
    }
    Ok(())
}

fn unit(arguments: &Arguments) -> Result<(Counts, bool)> {
    println!("unit tests …");
    let mut command = setup::cargo();
    command.args([
        "test",
        "--workspace",
        "--exclude",
        "aquifer-tests",
        "--no-fail-fast",
    ]);
    command.args(&arguments.filter);
    count(command)
}

fn end_to_end(arguments: &Arguments, remarks: &mut Vec<String>) -> Result<(Counts, bool)> {
    setup::install(&[("ip", "iproute2"), ("prlimit", "util-linux")])?;
    let binary = setup::build(&setup::Build::Dev)?;
    println!("end-to-end tests …");
    let mut command = setup::cargo();
    command.args(["test", "--package", "aquifer-tests", "--no-fail-fast"]);
    command.args(&arguments.filter).env("AQUIFER_BIN", binary);
    // Tests that need a tool are ignored unless asked for.
    command.args(["--", "--include-ignored"]);
    for (variable, tool, tests, what) in [
        ("H2SPEC", h2spec(), "h2spec_", "HTTP/2 conformance (h2spec)"),
        (
            "ENVOY",
            envoy::binary(),
            "envoy_",
            "what needs Envoy (the comparison, HBONE)",
        ),
        (
            "ZTUNNEL_BIN",
            ztunnel(),
            "ztunnel_",
            "HBONE with a real ztunnel",
        ),
        (
            "NGINX",
            packaged("nginx", "nginx-light"),
            "nginx_",
            "TLS with a real nginx",
        ),
        (
            "OPENSSL",
            packaged("openssl", "openssl"),
            "openssl_",
            "TLS with a real OpenSSL",
        ),
    ] {
        match tool {
            Ok(path) => drop(command.env(variable, path)),
            Err(error) => {
                command.args(["--skip", tests]);
                remarks.push(format!("{what} was skipped: {error:#}"));
            }
        }
    }
    count(command)
}

/// Why the end-to-end tests can't run here, if they can't.
fn unable() -> Option<String> {
    (!setup::is_root()).then(|| {
        "they make network namespaces and load eBPF, which needs root: run this as root".into()
    })
}

/// Istio's node proxy, which nobody packs for this: it is there where somebody has built one.
fn ztunnel() -> Result<PathBuf> {
    let path = ztunnel::binary().context("ZTUNNEL_BIN names none")?;
    anyhow::ensure!(path.is_file(), "there is no {}", path.display());
    Ok(path)
}

/// A server that Debian packs.
fn packaged(program: &str, package: &str) -> Result<PathBuf> {
    setup::find(program).with_context(|| {
        format!("there is no {program} here: `apt-get install -y {package}` brings one")
    })
}

/// The conformance suite of HTTP/2, built where there is a Go toolchain.
fn h2spec() -> Result<PathBuf> {
    if let Some(path) = setup::find("h2spec") {
        return Ok(path);
    }
    let folder = setup::root().join("target/tools");
    let path = folder.join("h2spec");
    if !path.is_file() {
        let go = setup::find("go").context("there is no Go toolchain to build it with")?;
        println!("building h2spec with go install …");
        let mut command = Command::new(go);
        command.args(["install", "github.com/summerwind/h2spec/cmd/h2spec@latest"]);
        process::finish(command.env("GOBIN", &folder))?;
    }
    Ok(path)
}

/// Runs `cargo test`, passes on what it prints, and adds up its result lines. False where it ended
/// badly, which also happens without a failed test: code that does not compile, a crash.
fn count(mut command: Command) -> Result<(Counts, bool)> {
    let mut child = command
        .stdout(Stdio::piped())
        .spawn()
        .context("cannot run cargo")?;
    let output = child.stdout.take().context("cargo has no output")?;
    let mut counts = Counts::default();
    for line in BufReader::new(output).lines() {
        let line = line?;
        println!("{line}");
        if let Some(result) = Counts::parse(&line) {
            counts += result;
        }
    }
    Ok((counts, child.wait()?.success()))
}

impl Counts {
    /// Reads `test result: ok. 4 passed; 0 failed; 1 ignored; …`.
    fn parse(line: &str) -> Option<Self> {
        let results = line.strip_prefix("test result: ")?;
        let number = |word: &str| {
            let part = results
                .split([';', '.'])
                .find(|part| part.trim_end().ends_with(word))?;
            part.split_whitespace().next()?.parse().ok()
        };
        Some(Self {
            passed: number("passed")?,
            failed: number("failed")?,
            skipped: number("ignored")?,
        })
    }
}

impl AddAssign for Counts {
    fn add_assign(&mut self, other: Self) {
        self.passed += other.passed;
        self.failed += other.failed;
        self.skipped += other.skipped;
    }
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self {
            passed,
            failed,
            skipped,
        } = self;
        write!(f, "{passed} passed, {failed} failed, {skipped} skipped")
    }
}

#[cfg(test)]
mod tests {
    use super::Counts;

    #[test]
    fn result_lines_are_read() {
        let line = "test result: FAILED. 4 passed; 2 failed; 1 ignored; 0 measured; 3 filtered \
                    out; finished in 0.24s";
        let expected = Counts {
            passed: 4,
            failed: 2,
            skipped: 1,
        };
        assert_eq!(Counts::parse(line), Some(expected));
        assert_eq!(Counts::parse("test a_test ... ok"), None);
        assert_eq!(Counts::parse("test result: something new"), None);
    }
}
