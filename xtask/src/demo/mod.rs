//! `cargo xtask demo`: six pods, a proxy, a canary, mutual TLS, told step by step on the terminal.
//!
//! All that it makes lies in network namespaces of its own, a temporary folder and one folder on
//! the BPF file system; it is gone when the demo ends, also by Ctrl-C or by a failure.

use std::sync::Arc;

use anyhow::{Result, bail, ensure};
use tokio::signal::unix::{SignalKind, signal};

use crate::{backend, setup};

mod chart;
mod stage;
mod traffic;
mod trust;

use stage::Stage;
use traffic::Tally;

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// Leave everything running at the end until Ctrl-C, and print commands to try
    #[arg(long)]
    keep: bool,
    /// How many requests to send in each step
    #[arg(long, default_value_t = 2000)]
    requests: usize,
}

/// Runs the demo from set-up to clean-up.
pub(crate) fn run(arguments: &Arguments) -> Result<()> {
    if !setup::is_root() {
        bail!(
            "the demo makes network namespaces and loads eBPF: run it as root (sudo -E cargo xtask demo)"
        );
    }
    setup::install(&[("ip", "iproute2")])?;
    let binary = setup::build(&setup::Build::Dev)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let outcome = runtime.block_on(async {
        let mut interrupt = signal(SignalKind::interrupt())?;
        let mut terminate = signal(SignalKind::terminate())?;
        // Whichever way it ends, the story is dropped here, and all that it made with it.
        tokio::select! {
            outcome = story(arguments, binary) => outcome,
            _ = interrupt.recv() => Err(anyhow::anyhow!("interrupted")),
            _ = terminate.recv() => Err(anyhow::anyhow!("asked to end")),
        }
    });
    println!("\ncleaned up: no namespace, process or pin of the demo is left");
    outcome
}

async fn story(arguments: &Arguments, binary: std::path::PathBuf) -> Result<()> {
    heading("Six pods: network namespaces on one bridge");
    let stage = Arc::new(Stage::build(binary).await?);
    stage.introduce();

    heading("The proxy starts: eBPF programs captured the sockets of the pods in the mesh");
    stage.show_command(&["status"])?;

    heading("A canary: 90 of 100 requests to v1, 10 to v2");
    println!("  deploy/examples/canary/canary-90-10.yaml; the client just dials reviews:80\n");
    let tally = traffic::send(&stage, arguments.requests, None).await?;
    chart::print(&tally);
    expect_share(&tally, 0.10)?;

    heading("A header decides: end-user: tester gets v2");
    let tally = traffic::send(
        &stage,
        arguments.requests / 10,
        Some(("end-user", "tester")),
    )
    .await?;
    chart::print(&tally);
    ensure!(tally.share("v2") > 0.999, "testers were not all sent to v2");

    heading("The weights change to 50/50 while requests run");
    println!("  deploy/examples/canary/canary-50-50.yaml replaces the file\n");
    let (before, after) = traffic::during(&stage, arguments.requests, || stage.shift()).await?;
    println!("  before:");
    chart::print(&before);
    println!("  after:");
    chart::print(&after);
    let lost = before.failed + after.failed;
    println!(
        "  {} requests in all, {lost} lost",
        before.total() + after.total()
    );
    ensure!(
        lost == 0,
        "requests were lost: {:?}",
        before.failures.iter().chain(&after.failures)
    );
    expect_share(&after, 0.5)?;

    heading("Outside the mesh nothing is captured");
    stage.show_outsider().await?;

    heading("Mutual TLS: what somebody between the pods can read");
    trust::show_wire(&stage, arguments.requests / 10).await?;

    heading("Zero trust: who may ask, by deploy/examples/zero-trust.yaml");
    trust::show_policy(&stage).await?;

    heading("What the kernel knows (aquifer maps)");
    // Redirects are shown while they live, so a connection is held open meanwhile.
    let _open = stage.connect().await?;
    stage.show_maps()?;

    if arguments.keep {
        heading("Left running; try these, then end it with Ctrl-C");
        stage.suggest();
        std::future::pending::<()>().await;
    }
    Ok(())
}

fn heading(text: &str) {
    println!("\n── {text}\n");
}

/// Fails where v2's share is further from `expected` than five standard deviations.
fn expect_share(tally: &Tally, expected: f64) -> Result<()> {
    let share = tally.share("v2");
    let deviation = (expected * (1.0 - expected) / tally.total() as f64).sqrt();
    ensure!(
        (share - expected).abs() <= 5.0 * deviation,
        "v2 got {:.1} % where {:.0} % were asked for",
        share * 100.0,
        expected * 100.0
    );
    Ok(())
}

/// How a pod's application is started.
fn application(name: &str) -> Result<std::process::Command> {
    let mut command = std::process::Command::new(std::env::current_exe()?);
    command.args([
        "backend",
        "--name",
        name,
        "--listen",
        &format!("[::]:{}", backend::PORT),
    ]);
    Ok(command)
}
