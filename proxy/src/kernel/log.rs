//! The programs' own log lines, carried into `tracing`. Off by default; a level that is off is not
//! even compiled into the loaded programs, since the verifier removes what a constant rules out.

use std::io;

use aya::Ebpf;
use aya_log::EbpfLogger;
use log::{Log, Metadata, Record};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::Error;

/// Which lines are made.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Level {
    /// None.
    #[default]
    Off,
    /// What is wrong.
    Error,
    /// What may be wrong.
    Warn,
    /// What is done.
    Info,
    /// Each connection.
    Debug,
    /// Everything.
    Trace,
}

impl Level {
    /// The value of the programs' constant: aya-log's numbers, 0 for none.
    pub(super) fn constant(self) -> &'static u8 {
        match self {
            Self::Off => &0,
            Self::Error => &1,
            Self::Warn => &2,
            Self::Info => &3,
            Self::Debug => &4,
            Self::Trace => &5,
        }
    }
}

/// Reads the lines.
pub struct Records {
    logger: EbpfLogger<Tracing>,
}

impl Records {
    pub(super) fn open(object: &mut Ebpf, level: Level) -> Result<Option<Self>, Error> {
        if level == Level::Off {
            return Ok(None);
        }
        let logger = EbpfLogger::init_with_logger(object, Tracing)
            .map_err(|error| Error::Log(error.to_string()))?;
        Ok(Some(Self { logger }))
    }

    /// Carries lines until the future is dropped.
    pub async fn follow(self) -> io::Result<()> {
        #[expect(
            deprecated,
            reason = "the other way is `unsafe` for the sake of types that may close their \
                      descriptor early; aya's ring keeps its own for as long as it lives"
        )]
        let mut ready = AsyncFd::with_interest(self.logger, Interest::READABLE)?;
        loop {
            let mut guard = ready.readable_mut().await?;
            guard.get_inner_mut().flush();
            guard.clear_ready();
        }
    }
}

/// Target of the programs' lines in the log.
pub const TARGET: &str = "aquifer::kernel::program";

/// A `log` logger that speaks `tracing`, under [`TARGET`].
struct Tracing;

impl Log for Tracing {
    fn enabled(&self, _: &Metadata<'_>) -> bool {
        true
    }

    fn log(&self, record: &Record<'_>) {
        let (line, at) = (record.args(), record.line());
        match record.level() {
            log::Level::Error => tracing::error!(target: TARGET, at, "{line}"),
            log::Level::Warn => tracing::warn!(target: TARGET, at, "{line}"),
            log::Level::Info => tracing::info!(target: TARGET, at, "{line}"),
            log::Level::Debug => tracing::debug!(target: TARGET, at, "{line}"),
            log::Level::Trace => tracing::trace!(target: TARGET, at, "{line}"),
        }
    }

    fn flush(&self) {}
}
