//! `cargo xtask bench`: the proxy against real peers in one run, one core for the proxy, one for
//! load and backend, rounds interleaved. `proxy/benches/README.md` says how to read it.

use std::{path::PathBuf, time::Duration};

use anyhow::{Context, Result, bail};
use aquifer_tests::{clock, peer::ztunnel};
use indicatif::{ProgressBar, ProgressStyle};

use crate::setup::{self, Build};

mod contender;
mod cores;
mod field;
mod load;
mod pair;
mod report;
mod table;

use contender::Contender;
use field::{Field, Needs};
use load::Load;
use report::{Measured, Run};

#[derive(Debug, clap::Args)]
pub(crate) struct Arguments {
    /// One short round, to see that everything runs; its figures mean nothing
    #[arg(long)]
    quick: bool,
    /// Rounds; the median of each figure is told
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of each load in each round
    #[arg(long, default_value_t = 6)]
    seconds: u32,
    /// Only these contenders: envoy, envoy-mesh, haproxy, nginx, aquifer, aquifer-mesh, aquifer-both;
    /// envoy-hbone, ztunnel, aquifer-hbone; envoy-mtls, aquifer-mtls
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// This build of the proxy, instead of one made for the purpose: the one that is released, or with
    /// --quick one that was not trained
    #[arg(long)]
    binary: Option<PathBuf>,
}

/// Runs this project's own build under each of the loads for a moment, and lets it end in order.
pub(crate) fn train(binary: PathBuf) -> Result<()> {
    cores::check()?;
    let ours = Contender::ALL.into_iter().filter(|one| one.is_ours());
    let ours: Vec<_> = ours.collect();
    let field = Field::build(Needs {
        aquifer: Some(binary),
        ztunnel: None,
    })?;
    start(&field, &ours, 1, 1)?;
    Ok(())
}

/// Measures and prints the tables. `release` builds the binary that is released.
pub(crate) fn run(arguments: &Arguments, release: impl FnOnce() -> Result<PathBuf>) -> Result<()> {
    if !setup::is_root() {
        bail!("the bench makes network namespaces and loads eBPF: run it as root");
    }
    let ztunnel = ztunnel::binary();
    let contenders = contenders(&arguments.only, ztunnel.is_some())?;
    cores::check()?;
    let ours = contenders.iter().copied().any(Contender::is_ours);
    let build = || match &arguments.binary {
        Some(binary) => Ok(binary.clone()),
        None if arguments.quick => setup::build(&Build::Release),
        None => release(),
    };
    let field = Field::build(Needs {
        aquifer: ours.then(build).transpose()?,
        ztunnel: ztunnel.filter(|_| contenders.contains(&Contender::Ztunnel)),
    })?;
    let (rounds, seconds) = if arguments.quick {
        (1, 1)
    } else {
        (arguments.rounds.max(1), arguments.seconds.max(1))
    };
    let measured = start(&field, &contenders, rounds, seconds)?;
    println!(
        "\n{rounds} rounds of {seconds} s each, medians.\n\n{}",
        measured.markdown()
    );
    Ok(())
}

fn start(field: &Field, contenders: &[Contender], rounds: u32, seconds: u32) -> Result<Measured> {
    // Single-threaded: it waits while others work, on whichever core.
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        tokio::select! {
            measured = measure(field, contenders, rounds, seconds) => measured,
            _ = tokio::signal::ctrl_c() => bail!("interrupted"),
        }
    })
}

fn contenders(names: &[String], has_ztunnel: bool) -> Result<Vec<Contender>> {
    if names.is_empty() {
        let all = Contender::ALL.into_iter();
        if has_ztunnel {
            return Ok(all.collect());
        }
        println!("ztunnel does not take part: ZTUNNEL_BIN names none");
        return Ok(all.filter(|one| *one != Contender::Ztunnel).collect());
    }
    let find = |name: &String| {
        let found = Contender::ALL
            .into_iter()
            .find(|contender| contender.name() == name);
        found.with_context(|| format!("`{name}` is no contender; see --help"))
    };
    names.iter().map(find).collect()
}

/// How long a proxy does nothing before its memory is read. Some give memory back only then.
const IDLE: Duration = Duration::from_secs(2);

async fn measure(
    field: &Field,
    contenders: &[Contender],
    rounds: u32,
    seconds: u32,
) -> Result<Measured> {
    let loads = contenders.iter().map(|one| one.table().loads().len());
    let steps = u64::from(rounds) * loads.sum::<usize>() as u64;
    let style = ProgressStyle::with_template("{bar:40} {pos}/{len} {msg} (left: {eta})")?;
    let bar = ProgressBar::new(steps).with_style(style);
    let mut measured = Measured::default();
    for round in 0..rounds as usize {
        // Whoever is first meets a machine in another state than whoever is last.
        for step in 0..contenders.len() {
            let contender = contenders[(round + step) % contenders.len()];
            let running = contender.start(field).await?;
            let pids = running.pids();
            // A few requests have gone through, and then none: this is the memory of a proxy that has
            // worked and is idle.
            tokio::time::sleep(IDLE).await;
            measured.add_idle(contender, cores::resident(&pids)? as f64 / 1048576.0);
            for &load in contender.table().loads() {
                bar.set_message(format!("{}, {}", contender.name(), load.name()));
                let target = if load == Load::Http2 {
                    running.http2
                } else {
                    running.http1
                };
                let run = once(field, &pids, load, target, seconds);
                measured.add(contender, load, run.with_context(|| contender.name())?);
                if load == Load::Keepalive && contender.table().has_tail() {
                    let tail = tail(field, target).with_context(|| contender.name())?;
                    measured.add_tail(contender, &tail);
                }
                bar.inc(1);
            }
            if contender.is_ours() {
                running.stop()?;
            }
        }
    }
    bar.finish_and_clear();
    Ok(measured)
}

fn once(
    field: &Field,
    pids: &[i32],
    load: Load,
    target: std::net::SocketAddr,
    seconds: u32,
) -> Result<Run> {
    let netns = &field.client.netns;
    // Caches, connection pools and congestion windows fill.
    load::run(load, netns, target, 1)?;
    let before = cores::spent(pids)?;
    let start = clock::now();
    let outcome = load::run(load, netns, target, seconds)?;
    let took = start.elapsed().as_secs_f64();
    let cpu = cores::spent(pids)? - before;
    let requests = outcome.requests as f64;
    Ok(Run {
        cpu: cpu.as_secs_f64() * load.unit() / requests,
        rate: requests / took,
    })
}

/// How many runs of each round tell the 99th percentile, and how many seconds each has: few enough
/// that the machine leaves some of them alone, and enough that the first requests on new connections
/// are not the slowest hundredth.
const TAIL: (usize, u32) = (5, 2);

/// The 99th percentile over the connections that stay, run by run, in microseconds. The loop has just
/// run, so that all is warm.
fn tail(field: &Field, target: std::net::SocketAddr) -> Result<Vec<f64>> {
    let (runs, seconds) = TAIL;
    let run = || load::run(Load::Keepalive, &field.client.netns, target, seconds);
    (0..runs).map(|_| run()?.p99_us.context("no p99")).collect()
}
