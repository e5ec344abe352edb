//! One direction of a relay: what it has moved, how it ends, and what that means for the whole.

use std::cell::Cell;

/// Bytes moved so far; readable while the relay runs.
#[derive(Debug, Default)]
pub(in crate::dataplane) struct Meter {
    /// From the client to the upstream.
    pub received: Cell<u64>,
    /// From the upstream to the client.
    pub sent: Cell<u64>,
    /// Whether writing to the client has failed: what looks like its end then is none.
    pub(super) client_lost: Cell<bool>,
    /// The same of the upstream.
    pub(super) upstream_lost: Cell<bool>,
}

/// One direction.
#[derive(Clone, Copy)]
pub(super) struct Course<'a> {
    moved: &'a Cell<u64>,
    /// Whether writing to where it comes from has failed.
    lost: &'a Cell<bool>,
}

impl Meter {
    pub(super) fn up(&self) -> Course<'_> {
        Course {
            moved: &self.received,
            lost: &self.client_lost,
        }
    }

    pub(super) fn down(&self) -> Course<'_> {
        Course {
            moved: &self.sent,
            lost: &self.upstream_lost,
        }
    }
}

impl Course<'_> {
    pub(super) fn moved(self, count: usize) {
        self.moved.set(self.moved.get() + count as u64);
    }

    /// Where it comes from has ended: whether in order.
    pub(super) fn ended(self) -> Result<(), Side> {
        if self.lost.get() {
            return Err(Side::From);
        }
        Ok(())
    }
}

/// How a relay ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(in crate::dataplane) enum End {
    /// Both sides closed in order.
    Closed,
    /// The client's side failed; the upstream was reset.
    Downstream,
    /// The upstream's side failed; the client was reset.
    Upstream,
    /// Nothing moved for too long.
    Idle,
    /// It has lasted as long as it may.
    Old,
    /// Whoever watches over it ended it.
    Stopped,
}

/// Which end of a copy failed.
pub(super) enum Side {
    From,
    To,
}

impl Side {
    /// What a copy to the upstream ends with.
    pub(super) fn upward(self) -> End {
        match self {
            Self::From => End::Downstream,
            Self::To => End::Upstream,
        }
    }

    /// What a copy to the client ends with.
    pub(super) fn downward(self) -> End {
        match self {
            Self::From => End::Upstream,
            Self::To => End::Downstream,
        }
    }
}
