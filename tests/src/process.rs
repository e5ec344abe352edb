//! Child processes whose end and whose lines are events, not something to poll for.

use std::{
    io::{BufRead, BufReader, Read},
    os::unix::process::CommandExt,
    process::{Command, ExitStatus, Stdio},
    sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, bail};
use nix::{
    sys::{
        signal::{Signal, kill, killpg},
        wait::{Id, WaitPidFlag, waitid},
    },
    unistd::Pid,
};

use crate::{clock::Deadline, netns::Netns};

/// Runs a program to its end and gives its standard output; what it says on standard error becomes
/// the error where it fails.
pub fn output(program: &str, arguments: &[&str]) -> Result<String> {
    finish(Command::new(program).args(arguments))
}

/// As [`output`], for a command prepared by the caller.
pub fn finish(command: &mut Command) -> Result<String> {
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {}", command.get_program().to_string_lossy()))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "{} failed ({}): {}",
            shown(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

/// The command as one would type it.
pub fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words
        .map(|word| word.to_string_lossy())
        .collect::<Vec<_>>()
        .join(" ")
}

/// Lines that arrive from a child, kept, and waited for as they come.
#[derive(Clone, Debug, Default)]
pub struct Lines(Arc<(Mutex<Kept>, Condvar)>);

#[derive(Debug, Default)]
struct Kept {
    lines: Vec<String>,
    ended: bool,
}

impl Lines {
    fn follow(source: impl Read + Send + 'static) -> Self {
        let lines = Self::default();
        let writer = lines.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(source).split(b'\n').map_while(Result::ok) {
                writer
                    .kept()
                    .lines
                    .push(String::from_utf8_lossy(&line).into_owned());
                writer.0.1.notify_all();
            }
            writer.kept().ended = true;
            writer.0.1.notify_all();
        });
        lines
    }

    fn kept(&self) -> MutexGuard<'_, Kept> {
        self.0.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many lines there are: a mark from which to look for later ones.
    pub fn mark(&self) -> usize {
        self.kept().lines.len()
    }

    /// The lines from `mark` on.
    pub fn since(&self, mark: usize) -> Vec<String> {
        self.kept().lines.get(mark..).unwrap_or_default().to_vec()
    }

    /// The first line from `mark` on that `wanted` accepts, as soon as it is there.
    pub fn wait_for(
        &self,
        mark: usize,
        patience: Duration,
        wanted: impl Fn(&str) -> bool,
    ) -> Result<String> {
        let deadline = Deadline::after(patience);
        let mut seen = mark;
        let mut kept = self.kept();
        loop {
            let fresh = kept.lines.get(seen..).unwrap_or_default();
            if let Some(line) = fresh.iter().find(|line| wanted(line)) {
                return Ok(line.clone());
            }
            seen = kept.lines.len().max(seen);
            if kept.ended || deadline.passed() {
                let why = if kept.ended {
                    "the output ended"
                } else {
                    "nothing came in time"
                };
                let tail = kept.lines.get(mark..).unwrap_or_default().join("\n");
                bail!("{why}; lines since then:\n{tail}");
            }
            let waited = self.0.1.wait_timeout(kept, deadline.left());
            kept = waited.unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

/// A running child; killed and reaped on drop.
#[derive(Debug)]
pub struct Child {
    name: String,
    pid: Pid,
    end: Arc<(Mutex<Option<ExitStatus>>, Condvar)>,
    /// What it writes to standard output.
    pub stdout: Lines,
    /// What it writes to standard error.
    pub stderr: Lines,
}

impl Child {
    /// Starts `command`; inside `netns`, where one is given. It inherits the CPU affinity of the
    /// calling thread.
    pub fn start(netns: Option<&Netns>, command: Command) -> Result<Self> {
        let mut command = command;
        command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        // Ctrl-C on the terminal is for the owner alone, who then ends the child in its own order.
        command.process_group(0);
        let name = shown(&command);
        let started = match netns {
            // A thread started here has the caller's affinity, and so has what it starts.
            Some(netns) => netns.run(|| command.spawn())?,
            None => command.spawn(),
        };
        let mut child = started.with_context(|| format!("cannot start {name}"))?;
        let pid = Pid::from_raw(child.id().cast_signed());
        let stdout = child.stdout.take().map(Lines::follow).unwrap_or_default();
        let stderr = child.stderr.take().map(Lines::follow).unwrap_or_default();
        let end = Arc::new((Mutex::new(None), Condvar::new()));
        let ended = end.clone();
        std::thread::spawn(move || {
            // Told of the end first and reaped under the lock that signals are sent under, so that
            // no signal ever goes to a number in its second life.
            let _ = waitid(Id::Pid(pid), WaitPidFlag::WEXITED | WaitPidFlag::WNOWAIT);
            let mut end = ended.0.lock().unwrap_or_else(PoisonError::into_inner);
            // Children that it leaves behind are of its group, and go with it.
            let _ = killpg(pid, Signal::SIGKILL);
            *end = child.wait().ok();
            ended.1.notify_all();
        });
        Ok(Self {
            name,
            pid,
            end,
            stdout,
            stderr,
        })
    }

    /// Its process number.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw()
    }

    /// Sends `signal`; nothing happens if it has ended.
    pub fn signal(&self, signal: Signal) {
        let end = self.end.0.lock().unwrap_or_else(PoisonError::into_inner);
        if end.is_none() {
            let _ = kill(self.pid, signal);
        }
    }

    /// How it ended, if it has.
    pub fn ended(&self) -> Option<ExitStatus> {
        *self.end.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for its end.
    pub fn wait(&self, patience: Duration) -> Result<ExitStatus> {
        let end = self.end.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (end, _) = self
            .end
            .1
            .wait_timeout_while(end, patience, |end| end.is_none())
            .unwrap_or_else(PoisonError::into_inner);
        end.with_context(|| format!("{} still runs after {patience:?}", self.name))
    }

    /// Asks it to end, and makes it end if it has not after `patience`. Gives how it ended.
    pub fn stop(&self, patience: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM);
        self.wait(patience).or_else(|_| self.kill())
    }

    /// Ends it at once, as a crash would, with all it has started, and waits until it is gone.
    pub fn kill(&self) -> Result<ExitStatus> {
        self.signal(Signal::SIGKILL);
        self.wait(Duration::from_secs(10))
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        let _ = self.kill();
    }
}
