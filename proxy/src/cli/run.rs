//! `aquifer run`: the node proxy.

use std::io::IsTerminal as _;

use anyhow::Context as _;
use clap::ValueEnum as _;
use tracing_subscriber::EnvFilter;

use crate::kernel::log::{Level, TARGET};
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
    // Who asks for the kernel programs' lines wants to see them, whatever else is shown.
    let kernel = args.settings.kernel_log;
    let filter = match kernel.to_possible_value() {
        Some(level) if kernel != Level::Off => {
            filter.add_directive(format!("{TARGET}={}", level.get_name()).parse()?)
        }
        _ => filter,
    };
    // Standard output belongs to the access log.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    node(args.settings)
}
