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
    let kernel = args.settings.kernel_log;
    // Who asks for the kernel programs' lines wants to see them, whatever else is shown.
    let kernel = kernel
        .to_possible_value()
        .filter(|_| kernel != Level::Off)
        .map(|level| format!("{TARGET}={}", level.get_name()));
    log(&args.settings.log, kernel)?;
    node(args.settings)
}

/// Starts the log on standard error, at `level`, with a directive more where there is one.
pub(super) fn log(level: &str, more: Option<String>) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(level).with_context(|| {
        format!("--log {level}: not a level such as `info` or `info,aquifer::control=debug`")
    })?;
    let filter = match more {
        Some(more) => filter.add_directive(more.parse()?),
        None => filter,
    };
    // Standard output belongs to the access log.
    tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .init();
    Ok(())
}
