//! A network namespace, and how a thread works inside it for a moment.
//!
//! A socket belongs for ever to the namespace it was made in; so entering is needed to make one and
//! not to use it. Does not know whose namespace it is.

use std::cell::Cell;
use std::fs::File;
use std::io;
use std::mem::size_of;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::path::Path;
use std::sync::Arc;

use nix::sched::{CloneFlags, setns};
use nix::sys::socket::{AddressFamily, SockFlag, SockType, socket};

/// An open network namespace. Holding it keeps the namespace alive.
#[derive(Clone, Debug)]
pub struct Namespace {
    file: Arc<File>,
    cookie: u64,
}

impl Namespace {
    /// Opens the namespace at `path` (`/run/netns/NAME`, `/proc/PID/ns/net`).
    pub fn open(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        let cookie = inside(&file, current_cookie)??;
        Ok(Self {
            file: Arc::new(file),
            cookie,
        })
    }

    /// The calling thread's own namespace.
    pub fn current() -> io::Result<Self> {
        let file = File::open("/proc/thread-self/ns/net")?;
        Ok(Self {
            file: Arc::new(file),
            cookie: current_cookie()?,
        })
    }

    /// The kernel's number for it, as BPF programs see it; unique while the machine runs.
    pub fn cookie(&self) -> u64 {
        self.cookie
    }

    /// Runs `f` with the calling thread inside the namespace. Aborts the process if the thread
    /// cannot come back: it would work in a stranger's network from then on.
    pub fn run<T>(&self, f: impl FnOnce() -> T) -> io::Result<T> {
        inside(&self.file, f)
    }
}

impl AsFd for Namespace {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

thread_local! {
    /// Where this thread lives. It never moves for longer than [`inside`] runs, so one look is enough.
    static HOME: io::Result<File> = File::open("/proc/thread-self/ns/net");
    /// Set while the thread is away: a second step out would come back to the wrong place.
    static AWAY: Cell<bool> = const { Cell::new(false) };
}

fn inside<T>(namespace: &File, f: impl FnOnce() -> T) -> io::Result<T> {
    /// Comes back also where `f` panics.
    struct Away<'a>(&'a File);
    impl Drop for Away<'_> {
        fn drop(&mut self) {
            if let Err(error) = setns(self.0, CloneFlags::CLONE_NEWNET) {
                tracing::error!(%error, "cannot return from a network namespace");
                std::process::abort();
            }
            AWAY.set(false);
        }
    }

    HOME.with(|home| {
        let home = home
            .as_ref()
            .map_err(|error| io::Error::new(error.kind(), error.to_string()))?;
        if AWAY.get() {
            return Err(io::Error::other(
                "the thread is in another network namespace already",
            ));
        }
        setns(namespace, CloneFlags::CLONE_NEWNET)?;
        AWAY.set(true);
        let _away = Away(home);
        Ok(f())
    })
}

/// `SO_NETNS_COOKIE` (Linux 5.14) of a socket made here.
fn current_cookie() -> io::Result<u64> {
    let probe = socket(
        AddressFamily::Unix,
        SockType::Datagram,
        SockFlag::SOCK_CLOEXEC,
        None,
    )?;
    let mut cookie = 0_u64;
    let mut length = size_of::<u64>() as nix::libc::socklen_t;
    // SAFETY: the pointers are to a `u64` and to its length, both live and writable for the call,
    // and the descriptor is open.
    #[expect(unsafe_code, reason = "no library wraps SO_NETNS_COOKIE")]
    let result = unsafe {
        nix::libc::getsockopt(
            probe.as_raw_fd(),
            nix::libc::SOL_SOCKET,
            nix::libc::SO_NETNS_COOKIE,
            (&raw mut cookie).cast(),
            &raw mut length,
        )
    };
    if result == 0 {
        Ok(cookie)
    } else {
        Err(io::Error::last_os_error())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_current_namespace_has_a_cookie() {
        let here = Namespace::current().unwrap();
        assert_ne!(here.cookie(), 0);
        assert_eq!(here.cookie(), Namespace::current().unwrap().cookie());
    }

    #[test]
    fn a_missing_path_is_an_error() {
        let error = Namespace::open(Path::new("/nowhere/at/all")).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
    }
}
