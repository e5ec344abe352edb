//! Requests from the client pod, and who answered them.

use std::{
    collections::BTreeMap,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use anyhow::{Context, Result};
use aquifer_tests::client::{request, whole};
use indicatif::{ProgressBar, ProgressStyle};
use tokio::task::JoinSet;

use super::stage::Stage;

/// Connections that share the requests of a step.
const CONNECTIONS: usize = 8;

/// Who answered how often.
#[derive(Clone, Debug, Default)]
pub(super) struct Tally {
    served: BTreeMap<String, usize>,
    /// Requests without a good answer.
    pub(super) failed: usize,
    /// What was wrong with the first of them.
    pub(super) failures: Vec<String>,
}

impl Tally {
    fn add(&mut self, outcome: Result<String>) {
        match outcome {
            Ok(pod) => *self.served.entry(pod).or_default() += 1,
            Err(error) => {
                self.failed += 1;
                if self.failures.len() < 5 {
                    self.failures.push(format!("{error:#}"));
                }
            }
        }
    }

    fn merge(&mut self, other: Self) {
        for (pod, count) in other.served {
            *self.served.entry(pod).or_default() += count;
        }
        self.failed += other.failed;
        self.failures.extend(other.failures);
    }

    /// How many requests there were.
    pub(super) fn total(&self) -> usize {
        self.served.values().sum::<usize>() + self.failed
    }

    /// The part of all requests that a version served.
    pub(super) fn share(&self, version: &str) -> f64 {
        let of_version = self
            .served
            .iter()
            .filter(|(pod, _)| self::version(pod) == version);
        of_version.map(|(_, count)| *count as f64).sum::<f64>() / self.total().max(1) as f64
    }

    /// The pods that served, with their counts, by version.
    pub(super) fn versions(&self) -> BTreeMap<&str, Vec<(&str, usize)>> {
        let mut versions = BTreeMap::<_, Vec<_>>::new();
        for (pod, count) in &self.served {
            versions
                .entry(version(pod))
                .or_default()
                .push((pod.as_str(), *count));
        }
        versions
    }
}

/// `reviews-v1-b` is of version `v1`.
fn version(pod: &str) -> &str {
    pod.split('-').nth(1).unwrap_or(pod)
}

/// Sends `count` requests, with a header where one is given, under a progress bar.
pub(super) async fn send(
    stage: &Arc<Stage>,
    count: usize,
    header: Option<(&'static str, &'static str)>,
) -> Result<Tally> {
    let bar = bar(count)?;
    let left = Arc::new(AtomicUsize::new(count));
    let mut workers = JoinSet::new();
    for _ in 0..CONNECTIONS {
        let (stage, left, bar) = (stage.clone(), left.clone(), bar.clone());
        workers.spawn(async move {
            let more = || {
                bar.inc(1);
                left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, |n| n.checked_sub(1))
                    .is_ok()
            };
            work(&stage, header, more).await
        });
    }
    let tally = gather(workers).await?;
    bar.finish_and_clear();
    Ok(tally)
}

/// Keeps requests running, makes `change` happen after `count` of them, and sends as many after
/// it. Gives what was answered before the change was in force, and after.
pub(super) async fn during<C: Future<Output = Result<()>>>(
    stage: &Arc<Stage>,
    count: usize,
    change: impl FnOnce() -> C,
) -> Result<(Tally, Tally)> {
    let bar = bar(2 * count)?;
    // A worker's tally is of the time before the change until the change is in force.
    let changed = Arc::new(AtomicBool::new(false));
    let sent = Arc::new(AtomicUsize::new(0));
    let half = Arc::new(tokio::sync::Notify::new());
    let after = Arc::new(AtomicUsize::new(0));
    let (mut firsts, mut seconds) = (JoinSet::new(), JoinSet::new());
    for _ in 0..CONNECTIONS {
        let (stage1, bar1, changed) = (stage.clone(), bar.clone(), changed.clone());
        let (sent, half) = (sent.clone(), half.clone());
        firsts.spawn(async move {
            let more = || {
                bar1.inc(1);
                if sent.fetch_add(1, Ordering::Relaxed) == count {
                    half.notify_one();
                }
                !changed.load(Ordering::Relaxed)
            };
            work(&stage1, None, more).await
        });
    }
    half.notified().await;
    change().await?;
    changed.store(true, Ordering::Relaxed);
    let before = gather(firsts).await?;
    for _ in 0..CONNECTIONS {
        let (stage, bar, after) = (stage.clone(), bar.clone(), after.clone());
        seconds.spawn(async move {
            let more = || {
                bar.inc(1);
                after.fetch_add(1, Ordering::Relaxed) < count
            };
            work(&stage, None, more).await
        });
    }
    let after = gather(seconds).await?;
    bar.finish_and_clear();
    Ok((before, after))
}

/// One connection's requests, as long as `more` says so; a broken connection is opened anew, and
/// the request that it broke under is a failed one.
async fn work(
    stage: &Stage,
    header: Option<(&'static str, &'static str)>,
    more: impl Fn() -> bool,
) -> Result<Tally> {
    let mut tally = Tally::default();
    let mut http = stage.connect().await?;
    while more() {
        let mut head = request("GET", "reviews", "/");
        if let Some((name, value)) = header {
            head = head.header(name, value);
        }
        let answer = http.exchange(head.body(whole(""))?).await;
        let broken = answer.is_err();
        tally.add(answer.and_then(|reply| {
            anyhow::ensure!(
                reply.status == 200,
                "status {}: {}",
                reply.status,
                reply.text()
            );
            Ok(reply.seen()?.server().to_owned())
        }));
        if broken {
            http = stage.connect().await?;
        }
    }
    Ok(tally)
}

async fn gather(mut workers: JoinSet<Result<Tally>>) -> Result<Tally> {
    let mut all = Tally::default();
    while let Some(worker) = workers.join_next().await {
        all.merge(worker.context("a worker of the load")??);
    }
    Ok(all)
}

fn bar(count: usize) -> Result<ProgressBar> {
    let style = ProgressStyle::with_template("    {bar:40} {pos}/{len} requests, {per_sec}")?;
    Ok(ProgressBar::new(count as u64).with_style(style))
}
