//! Where a scenario plays: a folder, a seed, bounded waiting, and an ear for Ctrl-C.
//!
//! Everything a scenario makes (processes, namespaces, folders) belongs to a value that ends it when it is dropped.
//! Nothing here panics or exits, so an error and Ctrl-C take the same way out as success.

use crate::faults::dice::Dice;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};
use tempfile::TempDir;

/// How often something is looked at, unless a scenario measures more closely.
pub(super) const LOOK_EVERY: Duration = Duration::from_millis(20);
/// Longest sleep between two looks for Ctrl-C.
const NAP: Duration = Duration::from_millis(50);

/// What all of a scenario shares.
pub(super) struct Stage {
    pub(super) karte: PathBuf,
    pub(super) seed: u64,
    is_quiet: bool,
    is_interrupted: Arc<AtomicBool>,
    folder: Folder,
}

/// The folder of a scenario.
enum Folder {
    /// Goes with the stage.
    Passing(TempDir),
    /// Is left for whoever wants to look.
    Kept(PathBuf),
}

impl Stage {
    pub(super) fn new(
        name: &str,
        options: &super::Options,
        interrupted: Arc<AtomicBool>,
    ) -> io::Result<Self> {
        let base = options.dir.clone().unwrap_or_else(std::env::temp_dir);
        let folder = tempfile::Builder::new().prefix(&format!("karte-{name}-")).tempdir_in(base)?;
        let folder = if options.keep { Folder::Kept(folder.keep()) } else { Folder::Passing(folder) };
        let stage = Self {
            karte: options.karte.clone(),
            seed: options.seed,
            is_quiet: options.json,
            is_interrupted: interrupted,
            folder,
        };
        if options.keep {
            eprintln!("{name}: the folder {} is kept", stage.folder().display());
        }
        Ok(stage)
    }

    pub(super) fn folder(&self) -> &Path {
        match &self.folder {
            Folder::Passing(folder) => folder.path(),
            Folder::Kept(path) => path,
        }
    }

    /// Chance that falls the same way for the same seed.
    pub(super) fn dice(&self, name: &str) -> Dice {
        Dice::new(name, &[self.seed])
    }

    /// Tells how far it is.
    pub(super) fn say(&self, line: &str) {
        if !self.is_quiet {
            eprintln!("  {line}");
        }
    }

    /// An error after Ctrl-C.
    pub(super) fn check(&self) -> io::Result<()> {
        match self.is_interrupted.load(Ordering::Relaxed) {
            true => Err(io::Error::new(io::ErrorKind::Interrupted, "interrupted; everything was cleaned up")),
            false => Ok(()),
        }
    }

    /// Sleeps, but not through Ctrl-C.
    pub(super) fn pause(&self, length: Duration) -> io::Result<()> {
        let end = Instant::now() + length;
        loop {
            self.check()?;
            let left = end.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Ok(());
            }
            std::thread::sleep(left.min(NAP));
        }
    }

    /// Looks until there is something to see, and gives it with the time that it took.
    pub(super) fn until<T>(
        &self,
        what: &str,
        bound: Duration,
        look: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<(T, Duration)> {
        self.looking_every(LOOK_EVERY, what, bound, look)
    }

    /// The same, looking as often as `every`.
    pub(super) fn looking_every<T>(
        &self,
        every: Duration,
        what: &str,
        bound: Duration,
        mut look: impl FnMut() -> io::Result<Option<T>>,
    ) -> io::Result<(T, Duration)> {
        let begun = Instant::now();
        loop {
            self.check()?;
            if let Some(seen) = look()? {
                return Ok((seen, begun.elapsed()));
            }
            if begun.elapsed() >= bound {
                return Err(io::Error::new(
                    io::ErrorKind::TimedOut,
                    format!("waited {bound:?} in vain: {what}"),
                ));
            }
            std::thread::sleep(every);
        }
    }
}

/// Set by Ctrl-C, SIGTERM or SIGHUP; a second Ctrl-C does not wait.
pub(super) fn interruption() -> io::Result<Arc<AtomicBool>> {
    let flag = Arc::new(AtomicBool::new(false));
    signal_hook::flag::register_conditional_shutdown(SIGINT, 1, flag.clone())?;
    for signal in [SIGINT, SIGTERM, SIGHUP] {
        signal_hook::flag::register(signal, flag.clone())?;
    }
    Ok(flag)
}

/// What went another way than expected.
pub(super) fn unlike(what: impl Into<String>) -> io::Error {
    io::Error::other(what.into())
}
