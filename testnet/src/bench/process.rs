//! Processes of a bench: started, awaited to the microsecond, never left behind.
//!
//! Every process leads a group of its own. Ctrl-C thus reaches the bench alone, which asks all groups to end; whoever
//! waited for one of them then sees its end, and is told that it was interrupted.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

/// How often it is looked whether somebody pressed Ctrl-C.
const LOOK_EVERY: Duration = Duration::from_millis(50);
/// How long a process may take to end in order before it is killed. 10 s: a daemon commits and closes its store.
const END_MAX: Duration = Duration::from_secs(10);
/// How much of what a failed process said is told, in bytes.
const SAID_MAX: usize = 2_000;

/// Knows all processes that run. Clones share it.
#[derive(Clone)]
pub(super) struct Keeper {
    shared: Arc<Shared>,
}

struct Shared {
    running: Mutex<BTreeSet<i32>>,
    interrupted: Arc<AtomicBool>,
    /// Where processes write what they say on stderr.
    log: PathBuf,
}

/// A process. Dropped, it is asked to end, and killed if it does not.
pub(super) struct Process {
    keeper: Keeper,
    child: Child,
    pid: Pid,
    what: String,
    log: PathBuf,
    begun: Instant,
    over: bool,
}

/// What a process came to.
pub(super) struct Finished {
    pub(super) out: String,
    /// From just before it was started until it had ended.
    pub(super) wall: Duration,
}

impl Keeper {
    /// Takes over Ctrl-C. `log`: a folder.
    pub(super) fn new(log: &Path) -> io::Result<Self> {
        let interrupted = Arc::new(AtomicBool::new(false));
        for signal in [SIGINT, SIGTERM, SIGHUP] {
            // The second one ends the bench at once, if its own end should ever hang.
            signal_hook::flag::register_conditional_shutdown(signal, 1, interrupted.clone())?;
            signal_hook::flag::register(signal, interrupted.clone())?;
        }
        let shared = Shared { running: Mutex::default(), interrupted, log: log.to_owned() };
        let keeper = Self { shared: Arc::new(shared) };
        let watching = Arc::downgrade(&keeper.shared);
        std::thread::spawn(move || {
            while let Some(shared) = watching.upgrade() {
                if shared.interrupted.load(Ordering::Relaxed) {
                    shared.running().iter().for_each(|pid| end_group(*pid, Signal::TERM));
                    return;
                }
                drop(shared);
                std::thread::sleep(LOOK_EVERY);
            }
        });
        Ok(keeper)
    }

    /// An error once somebody pressed Ctrl-C.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.shared.interrupted.load(Ordering::Relaxed) {
            true => {
                Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted: all that it made is removed"))
            }
            false => Ok(()),
        }
    }

    /// Starts a program that reads nothing unless `command` says otherwise.
    pub(super) fn start(&self, command: &mut Command) -> io::Result<Process> {
        self.check()?;
        let what = words_of(command);
        let log = tempfile::Builder::new().prefix("said-").tempfile_in(&self.shared.log)?;
        let (file, log) = log.keep().map_err(|error| error.error)?;
        let begun = Instant::now();
        let child = command.stderr(file).process_group(0).spawn();
        let child = child.map_err(|error| io::Error::new(error.kind(), format!("`{what}`: {error}")))?;
        let number = i32::try_from(child.id()).map_err(io::Error::other)?;
        self.shared.running().insert(number);
        let pid = Pid::from_raw(number).ok_or_else(|| io::Error::other("a process without an id"))?;
        let process = Process { keeper: self.clone(), child, pid, what, log, begun, over: false };
        // An interruption between the first look and the insertion has missed it.
        self.check().map(|()| process)
    }

    /// Runs a program to its end, which must be a success.
    pub(super) fn run(&self, command: &mut Command) -> io::Result<Finished> {
        self.start(command.stdin(Stdio::null()).stdout(Stdio::piped()))?.finish()
    }
}

impl Shared {
    fn running(&self) -> MutexGuard<'_, BTreeSet<i32>> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Process {
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    pub(super) fn take_stdout(&mut self) -> io::Result<ChildStdout> {
        self.child.stdout.take().ok_or_else(|| io::Error::other("its output was not asked for"))
    }

    pub(super) fn take_stdin(&mut self) -> io::Result<ChildStdin> {
        self.child.stdin.take().ok_or_else(|| io::Error::other("its input was not asked for"))
    }

    /// Waits for its end, which must be a success.
    pub(super) fn finish(mut self) -> io::Result<Finished> {
        let mut out = String::new();
        if let Some(mut stdout) = self.child.stdout.take() {
            stdout.read_to_string(&mut out)?;
        }
        let status = self.wait()?;
        let wall = self.begun.elapsed();
        self.keeper.check()?;
        if status.success() {
            return Ok(Finished { out, wall });
        }
        Err(io::Error::other(format!("`{}` ended with {status}: {}", self.what, self.said())))
    }

    /// What it said on stderr; the end of it.
    pub(super) fn said(&self) -> String {
        let mut bytes = Vec::new();
        // Only for a message: a log that cannot be read says nothing.
        let _ = File::open(&self.log).and_then(|mut file| file.read_to_end(&mut bytes));
        let tail = bytes.get(bytes.len().saturating_sub(SAID_MAX)..).unwrap_or_default();
        String::from_utf8_lossy(tail).trim().to_owned()
    }

    /// Whether it runs still.
    pub(super) fn is_alive(&self) -> bool {
        let look = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        matches!(waitid(WaitId::Pid(self.pid), look), Ok(None))
    }

    /// Stops it in the middle of what it does, or lets it go on.
    pub(super) fn freeze(&self, frozen: bool) -> io::Result<()> {
        let signal = if frozen { Signal::STOP } else { Signal::CONT };
        Ok(kill_process_group(self.pid, signal)?)
    }

    /// Asks it to end and waits until it has.
    pub(super) fn end(mut self) {
        self.end_it();
    }

    fn wait(&mut self) -> io::Result<ExitStatus> {
        // First without reaping: while it is a zombie its id is nobody else's, and can be taken off the list safely.
        loop {
            match waitid(WaitId::Pid(self.pid), WaitIdOptions::EXITED | WaitIdOptions::NOWAIT) {
                Err(error) if error == rustix::io::Errno::INTR => {}
                Err(error) => return Err(error.into()),
                Ok(_) => break,
            }
        }
        self.keeper.shared.running().remove(&self.pid.as_raw_pid());
        self.over = true;
        let _ =
            std::fs::metadata(&self.log).map(|log| log.len() == 0 && std::fs::remove_file(&self.log).is_ok());
        self.child.wait()
    }

    fn end_it(&mut self) {
        if self.over {
            return;
        }
        let asked = Instant::now();
        end_group(self.pid.as_raw_pid(), Signal::TERM);
        // One that was frozen hears nothing.
        end_group(self.pid.as_raw_pid(), Signal::CONT);
        while self.is_alive() {
            if asked.elapsed() > END_MAX {
                end_group(self.pid.as_raw_pid(), Signal::KILL);
                break;
            }
            std::thread::sleep(Duration::from_millis(5));
        }
        // Nothing is left to do for one that cannot be waited for.
        let _ = self.wait();
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.end_it();
    }
}

/// It fails only if the group has ended already.
fn end_group(pid: i32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid) {
        let _ = kill_process_group(pid, signal);
    }
}

/// The beginning of the command, for messages.
fn words_of(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    let words: Vec<_> = words.map(std::ffi::OsStr::to_string_lossy).collect();
    words.join(" ").chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keeper() -> (tempfile::TempDir, Keeper) {
        let folder = tempfile::tempdir().unwrap();
        let keeper = Keeper::new(folder.path()).unwrap();
        (folder, keeper)
    }

    #[test]
    fn a_failure_is_told_in_the_words_of_the_program() {
        let (_folder, keeper) = keeper();
        let ran = keeper.run(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]));
        let told = ran.map(|finished| finished.out).unwrap_err().to_string();
        assert!(told.contains("no such thing") && told.contains("exit status: 3"), "{told}");
    }

    #[test]
    fn a_dropped_process_ends_with_all_that_it_started_also_when_frozen() {
        let (_folder, keeper) = keeper();
        let mut command = Command::new("sh");
        command.args(["-c", "sleep 1000 & echo $!; wait"]).stdin(Stdio::null()).stdout(Stdio::piped());
        let mut process = keeper.start(&mut command).unwrap();
        let mut below = String::new();
        io::BufRead::read_line(&mut io::BufReader::new(process.take_stdout().unwrap()), &mut below).unwrap();
        process.freeze(true).unwrap();
        assert!(process.is_alive());
        let stat = format!("/proc/{}/stat", below.trim());
        let runs = || std::fs::read_to_string(&stat).is_ok_and(|stat| !stat.contains(") Z "));
        assert!(runs(), "what it started runs");
        drop(process);
        let begun = Instant::now();
        while runs() {
            assert!(begun.elapsed() < END_MAX, "it ends with its group");
            std::thread::sleep(Duration::from_millis(5));
        }
        assert!(keeper.shared.running().is_empty());
    }
}
