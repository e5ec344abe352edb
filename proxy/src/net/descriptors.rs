//! How many file descriptors connections may take, so that the control plane, the listeners and
//! the admin interface always keep theirs.
//!
//! A connection that does not fit is told so at once (a reset) instead of waiting in a queue.

use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use nix::sys::resource::{Resource, getrlimit, setrlimit};

/// Kept back for everything that is not a connection: maps, links, pods' listeners and
/// namespaces, admin clients, files that are being read.
const RESERVED: usize = 512;

/// The process's budget; clones share it.
#[derive(Clone, Debug)]
pub struct Descriptors {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    limit: usize,
    used: AtomicUsize,
}

impl Descriptors {
    /// Raises the process's soft limit to its hard limit and takes what is over the reserve.
    pub fn of_process() -> io::Result<Self> {
        let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE)?;
        let limit = if soft < hard && setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() {
            hard
        } else {
            soft
        };
        Ok(Self::new(usize::try_from(limit).unwrap_or(usize::MAX)))
    }

    /// A budget for a process that may open `limit` descriptors. At most half goes to the reserve.
    pub fn new(limit: usize) -> Self {
        let limit = limit - RESERVED.min(limit / 2);
        Self {
            shared: Arc::new(Shared {
                limit,
                used: AtomicUsize::new(0),
            }),
        }
    }

    /// Takes `count`, or nothing.
    pub fn take(&self, count: usize) -> Option<Permit> {
        let fits = |used: usize| {
            used.checked_add(count)
                .filter(|used| *used <= self.shared.limit)
        };
        self.shared
            .used
            .fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits)
            .ok()?;
        Some(Permit {
            shared: Arc::clone(&self.shared),
            count,
        })
    }

    /// Whether so many are taken that none should be kept for later use alone.
    pub fn is_scarce(&self) -> bool {
        let (limit, used) = self.usage();
        used > limit / 4 * 3
    }

    /// How many connections' descriptors there may be, and how many there are.
    pub fn usage(&self) -> (usize, usize) {
        (self.shared.limit, self.shared.used.load(Ordering::Relaxed))
    }
}

/// Descriptors taken from the budget; given back when dropped.
#[derive(Debug)]
pub struct Permit {
    shared: Arc<Shared>,
    count: usize,
}

impl Permit {
    /// Gives back all but `count`.
    pub fn shrink(&mut self, count: usize) {
        let extra = self.count.saturating_sub(count);
        self.count -= extra;
        self.shared.used.fetch_sub(extra, Ordering::Relaxed);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.shared.used.fetch_sub(self.count, Ordering::Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_taken_comes_back_and_never_exceeds_the_limit() {
        let budget = Descriptors::new(RESERVED * 2 + 4);
        let limit = budget.usage().0;
        assert_eq!(limit, RESERVED + 4);
        let most = budget.take(limit - 1).expect("fits");
        assert!(budget.take(2).is_none());
        let mut last = budget.take(1).expect("fits exactly");
        assert!(budget.is_scarce());
        last.shrink(2);
        assert_eq!(budget.usage(), (limit, limit), "nothing beyond what it had");
        assert!(budget.take(1).is_none());
        drop(most);
        drop(last);
        assert_eq!(budget.usage().1, 0);
        assert!(budget.take(usize::MAX).is_none(), "no overflow");
        let mut two = budget.take(2).expect("fits");
        two.shrink(1);
        assert_eq!(budget.usage().1, 1);
        drop(two);
        assert_eq!(budget.usage().1, 0);
    }

    #[test]
    fn a_small_limit_keeps_half() {
        assert_eq!(Descriptors::new(64).usage().0, 32);
    }
}
