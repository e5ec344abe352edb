//! Gives memory back to the kernel that a change of the configuration needed for a moment.
//!
//! The allocator's thread purges what has been free for half a second (`.cargo/config.toml`), but
//! goes to sleep for good where less than 1,024 pages of an arena are left (jemalloc 5.3,
//! `ARENA_DEFERRED_PURGE_NPAGES_THRESHOLD`), and so an idle proxy could keep 4 MiB of nothing an
//! arena. A thread that starts anew looks at every arena once.
//!
//! Nor is most of the program needed once it has read its configuration, but the kernel has mapped
//! it: 64 KiB around each page that was ever used (`fault_around_bytes`). It is let go of, and what
//! runs again is found again in the page cache. Knows nothing of what was allocated or run.

use std::ffi::c_void;
use std::fs;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::ptr::{self, NonNull};
use std::time::Duration;

use nix::sys::mman::{MmapAdvise, madvise};
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
        if let Err(error) = let_go() {
            tracing::debug!(%error, "the program's text stays mapped");
        }
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

/// Unmaps the program's text, page by page, until it runs again. Breakpoints that a tracer has set in
/// it go as well (uprobes), until it is mapped anew.
#[expect(unsafe_code, reason = "no library lets go of a program's own text")]
fn let_go() -> io::Result<()> {
    let program = fs::read_link("/proc/self/exe")?;
    for text in texts(&fs::read_to_string("/proc/self/maps")?, &program) {
        let Some(start) = NonNull::new(ptr::with_exposed_provenance_mut::<c_void>(text.start))
        else {
            continue;
        };
        // SAFETY: the range is a mapping of this program's file that nobody may write to and that
        // was never written to (there are no relocations in text: the linker refuses them), so each
        // page is read from the file again, the same, when it is next used.
        unsafe { madvise(start, text.len(), MmapAdvise::MADV_DONTNEED) }?;
    }
    Ok(())
}

/// The mappings of `program` that can be run, of proc_pid_maps(5): addresses, permissions, offset,
/// device, inode, path.
fn texts(maps: &str, program: &Path) -> Vec<Range<usize>> {
    let text = |line: &str| {
        let mut fields = line.splitn(6, ' ');
        let (start, end) = fields.next()?.split_once('-')?;
        let permissions = fields.next()?;
        let path = fields.nth(3)?.trim_start();
        let start = usize::from_str_radix(start, 16).ok()?;
        let end = usize::from_str_radix(end, 16).ok()?;
        (permissions == "r-xp" && Path::new(path) == program && start < end).then_some(start..end)
    };
    maps.lines().filter_map(text).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_programs_text_is_what_can_be_run_of_its_file() {
        let maps = "\
7f6a00000000-7f6a00300000 r--p 00000000 fe:00 123                        /bin/a b (deleted)
7f6a00300000-7f6a01000000 r-xp 002ff000 fe:00 123                        /bin/a b (deleted)
7f6a01000000-7f6a01060000 r--p 00ffe000 fe:00 123                        /bin/a b (deleted)
7f6a01060000-7f6a01070000 rw-p 0105d000 fe:00 123                        /bin/a b (deleted)
7f6a02000000-7f6a02200000 r-xp 00000000 fe:00 124                        /lib/libc.so.6
7f6a03000000-7f6a03200000 rwxp 00000000 00:00 0
7ffd00000000-7ffd00002000 r-xp 00000000 00:00 0                          [vdso]
nonsense
";
        let found = texts(maps, Path::new("/bin/a b (deleted)"));
        let expected = 0x7f6a_0030_0000..0x7f6a_0100_0000;
        assert_eq!(found, vec![expected]);
    }

    #[test]
    fn a_program_that_lets_go_of_its_text_runs_on() {
        let program = fs::read_link("/proc/self/exe").expect("a program");
        let maps = fs::read_to_string("/proc/self/maps").expect("mappings");
        assert_eq!(texts(&maps, &program).len(), 1);
        for _ in 0..100 {
            let_go().expect("its own text");
        }
    }

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
