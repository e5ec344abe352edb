//! The subcommands: one file each. Errors are one line that says what is wrong and what to do; exit
//! status 2 is for usage, 1 for failure.

mod ask;
pub mod ca;
pub mod cleanup;
pub mod config;
pub mod maps;
mod output;
pub mod preflight;
pub mod run;
pub mod status;

use std::io::Write as _;
use std::process::ExitCode;

use clap::{Parser, Subcommand};

use crate::settings;

/// A kernel-assisted transparent proxy for Kubernetes, one per node.
///
/// `aquifer run` is the node proxy and `aquifer ca` a certificate authority for node proxies; every
/// other command asks a running proxy, or the kernel, about its work.
#[derive(Debug, Parser)]
#[command(name = "aquifer", version, max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run the node proxy: capture this node's enrolled pods and carry their traffic.
    Run(Box<run::Args>),
    Ca(Box<ca::Args>),
    Preflight(preflight::Args),
    Maps(maps::Args),
    Status(status::Args),
    #[command(alias = "pc")]
    Config(config::Args),
    Cleanup(cleanup::Args),
}

/// Runs the subcommand that the arguments name. `node` is the node proxy, which `aquifer run` starts,
/// `authority` what `aquifer ca` starts.
pub fn main(
    node: impl FnOnce(settings::Run) -> anyhow::Result<()>,
    authority: impl FnOnce(settings::Authority) -> anyhow::Result<()>,
) -> ExitCode {
    let outcome = match Arguments::parse().command {
        Command::Run(args) => run::run(*args, node),
        Command::Ca(args) => ca::run(*args, authority),
        Command::Config(args) => config::run(args),
        Command::Status(args) => status::run(args),
        Command::Maps(args) => maps::run(args),
        Command::Preflight(args) => preflight::run(args),
        Command::Cleanup(args) => cleanup::run(args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        // Whoever reads our output has had enough: `aquifer maps | head` is no failure.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "aquifer: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<std::io::Error>())
        .any(|cause| cause.kind() == std::io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    #[test]
    fn the_arguments_are_consistent() {
        super::Arguments::command().debug_assert();
    }
}
