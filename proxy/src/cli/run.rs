//! `aquifer run`: the node proxy.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use tracing_subscriber::EnvFilter;

use crate::settings;

/// Arguments of `aquifer run`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(flatten)]
    settings: settings::Run,
}

/// Runs until it is told to stop.
pub fn run(args: Args) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&args.settings.log).with_context(|| {
        format!(
            "--log {}: not a level such as `info` or `info,aquifer::control=debug`",
            args.settings.log
        )
    })?;
    // Standard output belongs to the access log.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    crate::app::run(args.settings)
}
