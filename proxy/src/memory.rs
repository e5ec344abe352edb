//! Gives memory back to the kernel that a change of the configuration needed for a moment.
//!
//! The allocator's thread purges what has been free for half a second (`.cargo/config.toml`), but
//! goes to sleep for good where less than 1,024 pages of an arena are left (jemalloc 5.3,
//! `ARENA_DEFERRED_PURGE_NPAGES_THRESHOLD`), and so an idle proxy could keep 4 MiB of nothing an
//! arena. A thread that starts anew looks at every arena once. Knows nothing of what was allocated.

use std::time::Duration;

use tikv_jemalloc_ctl::background_thread;
use tokio::sync::watch;

/// How long it must have been quiet: what is free counts as unused after half a second.
const QUIET: Duration = Duration::from_secs(1);

/// Follows `changes`, and gives back what each left behind once no other has come for a second. Ends
/// with its sender.
pub async fn follow<T>(mut changes: watch::Receiver<T>) {
    loop {
        while let Ok(changed) = tokio::time::timeout(QUIET, changes.changed()).await {
            if changed.is_err() {
                return;
            }
        }
        give_back();
        if changes.changed().await.is_err() {
            return;
        }
    }
}

/// Starts the allocator's thread anew.
fn give_back() {
    let restarted = background_thread::write(false).and_then(|()| background_thread::write(true));
    if let Err(error) = restarted {
        // Nothing is wrong with the proxy; it is larger than it need be.
        tracing::debug!(%error, "the allocator's thread can't be started anew");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_allocators_thread_starts_anew() {
        background_thread::write(false).expect("jemalloc has threads here");
        give_back();
        assert!(background_thread::read().expect("a switch"));
    }

    #[tokio::test]
    async fn it_ends_with_its_sender() {
        let (changed, changes) = watch::channel(0);
        drop(changed);
        follow(changes).await;
    }
}
