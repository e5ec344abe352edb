//! So much of something as one worker may have at a time: copies under way, questions, bytes held.
//!
//! Counted by thread, so that nothing is shared. Does not know what is counted, nor what becomes of
//! whoever gets none.

use std::cell::Cell;
use std::thread::LocalKey;

/// What may be taken.
#[derive(Debug)]
pub(super) struct Allowance {
    most: usize,
    taken: Cell<usize>,
}

/// What was taken. Dropping it gives it back, on the thread that took it.
#[derive(Debug)]
pub(super) struct Share {
    of: &'static LocalKey<Allowance>,
    count: usize,
}

impl Allowance {
    /// So much, for each thread.
    pub(super) const fn new(most: usize) -> Self {
        Self {
            most,
            taken: Cell::new(0),
        }
    }

    /// Takes `count` of this thread's; `None` where less is left.
    pub(super) fn take(this: &'static LocalKey<Self>, count: usize) -> Option<Share> {
        this.with(|allowance| {
            let taken = allowance.taken.get().checked_add(count)?;
            (taken <= allowance.most).then(|| {
                allowance.taken.set(taken);
                Share { of: this, count }
            })
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        // A thread that ends has nothing left to be counted.
        let _ = self.of.try_with(|allowance| {
            allowance.taken.set(allowance.taken.get() - self.count);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    thread_local! {
        static FEW: Allowance = const { Allowance::new(3) };
    }

    #[test]
    fn no_more_is_taken_than_there_is_and_all_comes_back() {
        let two = Allowance::take(&FEW, 2).expect("there are three");
        assert!(Allowance::take(&FEW, 2).is_none());
        assert!(Allowance::take(&FEW, usize::MAX).is_none());
        let one = Allowance::take(&FEW, 1).expect("the last");
        assert!(Allowance::take(&FEW, 1).is_none());
        assert!(Allowance::take(&FEW, 0).is_some());
        drop(two);
        assert!(Allowance::take(&FEW, 3).is_none());
        drop(one);
        assert!(Allowance::take(&FEW, 3).is_some());
    }
}
