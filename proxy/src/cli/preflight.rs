//! `aquifer preflight`: what `aquifer run` needs of the machine, and what is missing.

use std::path::PathBuf;

use super::output::{Output, print};
use crate::kernel::preflight::{self, Finding, Outcome};

/// Checks privileges, kernel, cgroup2 and bpffs, one line each, and changes nothing.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder on a BPF file system in which maps and programs would be pinned
    #[arg(
        long,
        env = "AQUIFER_BPFFS",
        value_name = "DIR",
        default_value = "/sys/fs/bpf/aquifer"
    )]
    bpffs: PathBuf,
    /// Root of the cgroup2 tree [default: found in /proc/mounts]
    #[arg(long, env = "AQUIFER_CGROUP", value_name = "DIR")]
    cgroup: Option<PathBuf>,
    /// How to print
    #[arg(short, long, value_enum, default_value_t)]
    output: Output,
}

/// Prints the findings. Fails where something is missing.
pub fn run(args: Args) -> anyhow::Result<()> {
    let findings = preflight::check(&args.bpffs, args.cgroup.as_deref());
    match args.output {
        Output::Json => print(&format!("{}\n", serde_json::to_string_pretty(&findings)?))?,
        Output::Yaml => print(&serde_yaml::to_string(&findings)?)?,
        Output::Table => {
            for finding in &findings {
                print(&line(finding))?;
            }
        }
    }
    let missing = findings
        .iter()
        .filter(|finding| finding.outcome == Outcome::Missing)
        .count();
    match missing {
        0 => Ok(()),
        1 => anyhow::bail!("one thing is missing for `aquifer run`"),
        several => anyhow::bail!("{several} things are missing for `aquifer run`"),
    }
}

fn line(finding: &Finding) -> String {
    let mark = match finding.outcome {
        Outcome::Ok => "ok",
        Outcome::Note => "note",
        Outcome::Missing => "missing",
    };
    format!("{mark:<8}{}: {}\n", finding.check, finding.message)
}
