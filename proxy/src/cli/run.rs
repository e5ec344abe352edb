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

/// Runs `node` until it is told to stop.
pub fn run(
    args: Args,
    node: impl FnOnce(settings::Run) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
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
    node(args.settings)
}
