//! The store under faults: killed, cut off from power, damaged on the disk, on a full disk, on a failing one.
//!
//! A *worker* process carries out a plan and says what was acknowledged; a fault happens; a *judge* process opens the
//! folder and tells what is in it; the *model* says what had to be. Every choice comes from a seed, so that a failing
//! trial can be repeated. Not for: the engine above the store, nor for the network.
//!
//! ```text
//! plan     what a worker does at step n           store    the only file that touches the store's interface
//! worker   does it, in a process                  shim     the library in front of libc, and its traces
//! dump     what is in a folder, judge: in a process         image    what a power cut leaves of a trace
//! model    what has to be in it                   kills power damage failing   the faults, tally: their numbers
//! ```

mod damage;
pub mod dice;
pub mod dump;
mod failing;
pub mod image;
pub mod judge;
mod kills;
mod lane;
pub mod model;
pub mod plan;
mod power;
mod report;
pub mod shim;
pub mod store;
pub mod tally;
pub mod worker;

use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) use damage::file_kind;
pub(crate) use lane::files;
pub use plan::{Change, put};
pub use report::report;
pub use tally::Tally;

/// A kind of fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, clap::ValueEnum)]
pub enum Kind {
    /// The process is killed at some time
    Kill,
    /// The process is killed before, in the middle of or after one call that writes
    Syscall,
    /// The power is cut: what was not synced survives in part
    Power,
    /// One bit of one file is another
    Flip,
    /// One file is cut short
    Truncate,
    /// One page of one file is zero
    Zero,
    /// The disk is full
    Enospc,
    /// The disk fails
    Eio,
}

impl Kind {
    /// Every kind.
    pub const ALL: [Self; 8] = [
        Self::Kill,
        Self::Syscall,
        Self::Power,
        Self::Flip,
        Self::Truncate,
        Self::Zero,
        Self::Enospc,
        Self::Eio,
    ];

    /// Whether it changes what is on the disk: then what it hits is lost, and must be named.
    fn damages(self) -> bool {
        matches!(self, Self::Flip | Self::Truncate | Self::Zero)
    }

    /// As it is called on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Kill => "kill",
            Self::Syscall => "syscall",
            Self::Power => "power",
            Self::Flip => "flip",
            Self::Truncate => "truncate",
            Self::Zero => "zero",
            Self::Enospc => "enospc",
            Self::Eio => "eio",
        }
    }
}

/// How to run trials.
#[derive(Clone)]
pub struct Options {
    /// The program that is worker and judge: the command `testnet`.
    pub program: PathBuf,
    /// All choices.
    pub seed: u64,
    /// How many trials.
    pub trials: u64,
    /// Full and failing disks: every call in turn with every fault, however many trials that takes.
    pub every_call: bool,
    /// Only this one (with those it builds on).
    pub only: Option<u64>,
    /// Where folders are made. In memory it is quick, and no fault here depends on a real disk.
    pub dir: PathBuf,
    /// Tell every loss and not only the first of a trial.
    pub verbose: bool,
    /// Swallow syncs of the journal, to see that losses are seen.
    pub without_sync: bool,
    /// Told what was done so far, now and then.
    pub progress: fn(Kind, u64, &Tally),
}

impl Options {
    /// The usual ones.
    pub fn new(program: &Path, seed: u64, trials: u64) -> Self {
        let shared = Path::new("/dev/shm");
        let dir = if shared.is_dir() { shared.to_owned() } else { std::env::temp_dir() };
        Self {
            program: program.to_owned(),
            seed,
            trials,
            every_call: false,
            only: None,
            dir,
            verbose: false,
            without_sync: false,
            progress: |_, _, _| {},
        }
    }
}

/// Runs trials of one kind.
pub fn run(kind: Kind, options: &Options) -> std::io::Result<Tally> {
    let started = Instant::now();
    let mut tally = match kind {
        Kind::Kill => kills::random(options)?,
        Kind::Syscall => kills::at_calls(options)?,
        Kind::Power => power::cuts(options)?,
        Kind::Flip | Kind::Truncate | Kind::Zero => damage::damaged(kind, options)?,
        Kind::Enospc | Kind::Eio => failing::failing(kind, options)?,
    };
    tally.seconds = started.elapsed().as_secs_f64();
    Ok(tally)
}
