//! `testnet fuzz`: every parser of foreign bytes is fed seeds that were changed at random, on stable Rust.
//!
//! For: "did not panic" with bounded memory, repeatable from a seed whatever the number of threads. Not for:
//! coverage-guided search; seeds and dictionaries bring the mutations near to what a parser looks for.
//!
//! | file | concern |
//! |---|---|
//! | `importers` | the parsers of files and of what people type |
//! | `protocol` | the decoders of what other nodes send |
//! | `change` | chance, and what it does to an input |

mod change;
mod importers;
mod protocol;

use change::{Dice, change, crc};
use serde_json::json;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

/// Longest input, in bytes. 64 KiB: every format's structure fits, and a million of them take minutes.
const INPUT_BYTES_MAX: usize = 64 * 1024;
/// Rows of inputs that are drawn apart, so that any number of threads makes the same inputs. More than cores.
const ROWS: u64 = 64;
/// Most memory that the decoders of the protocol may take, in KiB: 256 MiB.
const PEAK_KIB_MAX: u64 = 256 * 1024;

/// Feed changed seeds to every parser, and count what panics
#[derive(clap::Args)]
pub struct Fuzz {
    /// One parser, or all, all-importers, all-protocol
    #[arg(long, default_value = "all")]
    target: String,
    /// Inputs for each parser
    #[arg(long, default_value_t = 10_000)]
    runs: u64,
    /// All choices follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// A folder whose files become seeds too, by their endings
    #[arg(long)]
    seeds: Option<PathBuf>,
    /// Threads. Default: one for each core. The inputs are the same for any number
    #[arg(long)]
    jobs: Option<usize>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// Takes the name of a file it may write, and the input.
type Feed = dyn Fn(&Path, &[u8]) + Sync;

/// A parser, what it is fed with, and what it looks for.
struct Target {
    name: &'static str,
    is_protocol: bool,
    /// Endings of its files; the first is the name's of what it is fed.
    endings: &'static [&'static str],
    seeds: Vec<Vec<u8>>,
    words: Vec<&'static [u8]>,
    feed: Box<Feed>,
}

/// True when nothing panicked and memory stayed within its bound.
pub fn run(args: &Fuzz) -> io::Result<bool> {
    let folder = tempfile::Builder::new().prefix("karte-fuzz-").tempdir_in(memory_folder())?;
    // What a library panics with inside of its own guard is no finding; what comes through is told below.
    std::panic::set_hook(Box::new(|_| {}));
    let targets = chosen(&args.target)?;
    let is_bounded = targets.iter().all(|target| target.is_protocol);
    let (mut all, mut executions, mut panics) = (serde_json::Map::new(), 0, 0);
    for target in targets {
        let begun = Instant::now();
        let found = fuzz(&target, args, folder.path())?;
        let seconds = begun.elapsed().as_secs_f64();
        let rate = rate(args.runs, seconds);
        if !args.json {
            println!(
                "{:<16} {:>9} inputs {found:>3} panics {seconds:>8.1} s {rate:>9}/s",
                target.name, args.runs
            );
        }
        let told =
            json!({ "executions": args.runs, "panics": found, "seconds": seconds, "per_second": rate });
        all.insert(target.name.into(), told);
        executions += args.runs;
        panics += found;
    }
    let peak_kib = peak_memory_kib();
    let holds = panics == 0 && (!is_bounded || peak_kib <= PEAK_KIB_MAX);
    let summary = json!({ "seed": args.seed, "executions": executions, "panics": panics, "peak_kib": peak_kib,
        "holds": holds, "targets": all });
    println!("{summary}");
    Ok(holds)
}

fn chosen(name: &str) -> io::Result<Vec<Target>> {
    let mut targets = importers::targets();
    targets.extend(protocol::targets()?);
    let names: Vec<&str> = targets.iter().map(|target| target.name).collect();
    let unknown = || {
        let names = names.join(", ");
        io::Error::other(format!("expected all, all-importers, all-protocol or one of {names}; got {name:?}"))
    };
    let is_wanted = |target: &Target| match name {
        "all" => true,
        "all-importers" => !target.is_protocol,
        "all-protocol" => target.is_protocol,
        one => one == target.name,
    };
    if !targets.iter().any(is_wanted) {
        return Err(unknown());
    }
    targets.retain(is_wanted);
    Ok(targets)
}

/// Inputs that panicked.
fn fuzz(target: &Target, args: &Fuzz, folder: &Path) -> io::Result<u64> {
    let mut seeds = target.seeds.clone();
    if let Some(more) = &args.seeds {
        seeds.extend(files_with(more, target.endings));
    }
    let jobs = args.jobs.or_else(|| std::thread::available_parallelism().ok().map(usize::from)).unwrap_or(1);
    let (next, panics, failed) = (AtomicU64::new(0), AtomicU64::new(0), Mutex::new(None));
    std::thread::scope(|scope| {
        for job in 0..jobs.max(1) {
            let ending = target.endings.first().copied().unwrap_or("bin");
            let file = folder.join(format!("input-{job}.{ending}"));
            let (seeds, next, panics, failed) = (&seeds, &next, &panics, &failed);
            scope.spawn(move || {
                while let Some(row) = Some(next.fetch_add(1, Ordering::Relaxed)).filter(|row| *row < ROWS) {
                    match fuzz_row(target, args, row, seeds, &file) {
                        Ok(found) => drop(panics.fetch_add(found, Ordering::Relaxed)),
                        Err(error) => *failed.lock().unwrap_or_else(|held| held.into_inner()) = Some(error),
                    }
                }
            });
        }
    });
    match failed.into_inner().unwrap_or_else(|held| held.into_inner()) {
        Some(error) => Err(error),
        None => Ok(panics.into_inner()),
    }
}

/// One row of inputs, drawn from dice of its own.
fn fuzz_row(target: &Target, args: &Fuzz, row: u64, seeds: &[Vec<u8>], file: &Path) -> io::Result<u64> {
    let runs = args.runs / ROWS + u64::from(row < args.runs % ROWS);
    let mut dice = Dice(args.seed ^ u64::from(crc(target.name)) ^ (row << 40));
    let (mut input, mut panics) = (Vec::new(), 0);
    for number in 0..runs {
        change(&mut input, seeds, &target.words, &mut dice);
        if catch_unwind(AssertUnwindSafe(|| (target.feed)(file, &input))).is_err() {
            panics += 1;
            let ending = target.endings.first().copied().unwrap_or("bin");
            let name = format!("karte-fuzz-{}-{}-{row}-{number}.{ending}", target.name, args.seed);
            let kept = std::env::temp_dir().join(name);
            std::fs::write(&kept, &input)?;
            eprintln!("{}: an input panics; it is kept as {}", target.name, kept.display());
        }
    }
    Ok(panics)
}

/// Whole executions in a second.
fn rate(runs: u64, seconds: f64) -> u64 {
    let nanos = std::time::Duration::from_secs_f64(seconds).as_nanos().max(1);
    u64::try_from(u128::from(runs) * 1_000_000_000 / nanos).unwrap_or(u64::MAX)
}

fn memory_folder() -> PathBuf {
    let shm = PathBuf::from("/dev/shm");
    if shm.is_dir() { shm } else { std::env::temp_dir() }
}

/// The small files below a folder that have one of these endings.
fn files_with(folder: &Path, endings: &[&str]) -> Vec<Vec<u8>> {
    let (mut found, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
                continue;
            }
            let fits =
                path.extension().and_then(|ending| ending.to_str()).is_some_and(|one| endings.contains(&one));
            let small = entry.metadata().is_ok_and(|data| data.len() <= INPUT_BYTES_MAX as u64);
            if fits && small {
                found.extend(std::fs::read(path).ok());
            }
        }
    }
    found.sort();
    found
}

/// The most memory this process ever had, in KiB; 0 where the system does not tell.
fn peak_memory_kib() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
    line.and_then(|rest| rest.trim().trim_end_matches("kB").trim().parse().ok()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn args(runs: u64, jobs: usize) -> Fuzz {
        Fuzz { target: "weak".into(), runs, seed: 1, seeds: None, jobs: Some(jobs), json: true }
    }

    fn weak() -> Target {
        Target {
            name: "weak",
            is_protocol: false,
            endings: &["txt"],
            seeds: vec![b"62".to_vec()],
            words: vec![],
            feed: Box::new(|_, bytes| assert!(bytes.len() > 1)),
        }
    }

    #[test]
    fn a_parser_that_panics_is_seen_and_as_often_by_any_number_of_threads() {
        let folder = tempfile::tempdir().expect("there is room");
        let found = |jobs| fuzz(&weak(), &args(200, jobs), folder.path()).expect("it runs");
        assert!(found(1) > 0);
        assert_eq!(found(1), found(3));
    }

    #[test]
    fn a_name_that_is_no_target_is_told_with_all_that_are() {
        let error = chosen("entyr").err().expect("refused").to_string();
        assert!(error.contains("segment-keys") && error.contains("apple-health"), "{error}");
    }
}
