//! `cargo xtask …`: what one does with this repository. Each subcommand is a file; each does its
//! own set-up and says first what it installs.

use std::process::ExitCode;

use clap::{Parser, Subcommand};

mod backend;
mod bench;
mod demo;
mod ebpf;
mod envoy;
mod floors;
mod release;
mod setup;
mod source;
mod test;
mod tidy;

/// Build, test, demonstrate and measure aquifer.
#[derive(Debug, Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Show a canary routed by the kernel and the proxy, from nothing to clean-up
    Demo(demo::Arguments),
    /// Run all tests: unit tests, then end-to-end tests (these need root)
    Test(test::Arguments),
    /// Measure the proxy against Envoy, HAProxy and nginx
    Bench(bench::Arguments),
    /// Build the binary as it is released: trained under the bench's loads (needs root)
    Release,
    /// Build the kernel object from `ebpf/`, or check that the committed one is current
    Ebpf(ebpf::Arguments),
    /// Fail on an import that runs up or sideways between the floors of `proxy/src`
    Floors,
    /// Fail on what the style of this repository rules out and no lint can see
    Tidy,
    /// Serve HTTP that tells what it saw: the application in the demo's pods
    #[command(hide = true)]
    Backend(backend::Arguments),
}

fn main() -> ExitCode {
    let outcome = match Arguments::parse().task {
        Task::Demo(arguments) => demo::run(&arguments),
        Task::Test(arguments) => test::run(&arguments),
        Task::Bench(arguments) => bench::run(&arguments, release::build),
        Task::Release => release::run(),
        Task::Ebpf(arguments) => ebpf::run(&arguments),
        Task::Floors => floors::run(),
        Task::Tidy => tidy::run(),
        Task::Backend(arguments) => backend::run(arguments),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&format!("error: {error:#}"));
            ExitCode::FAILURE
        }
    }
}

/// Prints a line on standard error.
#[allow(clippy::print_stderr, reason = "this is a program for the terminal")]
fn complain(line: &str) {
    eprintln!("{line}");
}
