//! The application in the demo's pods: HTTP that tells what it saw.

use std::net::SocketAddr;

use anyhow::{Context, Result};
use aquifer_tests::echo::{self, Echo};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// How it calls itself in its answers
    #[arg(long)]
    name: String,
    /// Where to listen
    #[arg(long, default_value = "[::]:9080")]
    listen: SocketAddr,
}

/// The port of the demo's applications.
pub(crate) const PORT: u16 = 9080;

/// Serves until it is killed. Says `listening` once it can be reached.
pub(crate) fn run(arguments: Arguments) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let Arguments { name, listen } = arguments;
        let listener = tokio::net::TcpListener::bind(listen)
            .await
            .with_context(|| format!("listen on {listen}"))?;
        let server = Echo::on(listener, move |call| {
            Box::pin(echo::echo(name.clone(), call))
        });
        println!("listening");
        server.join().await;
        Ok(())
    })
}
