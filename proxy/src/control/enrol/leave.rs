//! One pod leaves: maps and link first, then the workers' pooled connections and listeners, then
//! our hold on its namespace. Any socket of ours would keep the namespace and its veth alive.

use std::time::Duration;

use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;

use super::join::Joined;
use crate::kernel::Kernel;
use crate::net::{Change, routes};

/// How long a worker may take to let go before it is reported and no longer waited for.
const PATIENCE: Duration = Duration::from_secs(1);

/// Takes a pod out. `now`: its namespace is going, so open connections end at once.
pub(super) async fn leave(
    kernel: &mut Kernel,
    workers: &[UnboundedSender<Change>],
    joined: Joined,
    now: bool,
) {
    let cookie = joined.pod.cookie;
    if let Err(error) = kernel.expel(cookie) {
        tracing::warn!(cookie, %error, "the kernel side keeps a part of a pod that left");
    }
    let mut answers = Vec::with_capacity(workers.len());
    for worker in workers {
        let (done, answer) = oneshot::channel();
        // A worker that is gone holds nothing.
        if worker.send(Change::Leave { cookie, now, done }).is_ok() {
            answers.push(answer);
        }
    }
    // The driver goes on meanwhile: other pods wait for nobody.
    tokio::spawn(async move {
        let all = async {
            for answer in answers {
                let _ = answer.await;
            }
        };
        if tokio::time::timeout(PATIENCE, all).await.is_err() {
            tracing::warn!(cookie, "a worker is slow to let go of a pod that left");
        }
        // Connections that may finish still need the way back of their replies. The rule is
        // without effect on anything that does not bear our mark.
        if now && let Err(error) = routes::lift(&joined.pod.netns, joined.v6).await {
            tracing::debug!(cookie, %error, "routes of a pod that left");
        }
    });
}
