//! Tasks of a worker that end with their pod.

use std::rc::Rc;

use futures_util::FutureExt as _;
use tokio::task::spawn_local;

use super::pod::LocalPod;
use super::worker::Worker;

/// Runs something of a pod's until it is done or the pod is gone. A panic in it ends it alone.
pub(super) fn spawn(
    worker: &Rc<Worker>,
    pod: &Rc<LocalPod>,
    task: impl Future<Output = ()> + 'static,
) {
    let (worker, pod) = (Rc::clone(worker), Rc::clone(pod));
    let running = pod.running();
    // On the heap, once: a future of some kilobytes would be copied at each step from here to the
    // runtime's own place for it, and be in that place three times.
    let guarded = Box::pin(std::panic::AssertUnwindSafe(task).catch_unwind());
    spawn_local(async move {
        let _running = running;
        tokio::select! {
            biased;
            outcome = guarded => if outcome.is_err() {
                worker.counters.downstream_cx_panicked.increment();
            },
            () = pod.gone() => {}
        }
    });
}
