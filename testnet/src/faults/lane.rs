//! A lane: one judge and one folder, used for one trial after another; two lanes run side by side.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::dump::Dump;
use super::judge::{Broken, Judge};
use super::model::{Finding, Heard, Known};
use super::plan::Plan;
use super::shim::{Fault, Shim};
use super::{Kind, Options, Tally};

/// Trials side by side: the smallest machine this runs on has two cores.
const LANES: u64 = 2;
/// How long a worker may take, unless it is to be killed earlier. 20 s: some hundred times what it takes, and longer
/// than anybody waits for a node to stop or start.
const WORKER_TIME_MAX: Duration = Duration::from_secs(20);
/// How many failed folders a lane keeps: enough to look at, and no disk is filled by a bad day.
const KEPT_MAX: u64 = 10;
/// How often progress is told.
const TELL_EVERY: Duration = Duration::from_secs(2);

/// One of the places trials run in.
pub(super) struct Lane<'a> {
    pub(super) kind: Kind,
    pub(super) options: &'a Options,
    pub(super) shim: &'a Shim,
    pub(super) judge: Judge,
    /// Folders of this lane; nothing in them outlives a trial, unless it failed.
    pub(super) dir: PathBuf,
    /// Failed folders that were kept.
    kept: u64,
}

/// Runs trials on all lanes, in chunks that build on each other.
pub(super) fn run(
    kind: Kind,
    options: &Options,
    chunk: u64,
    work: &(dyn Fn(&mut Lane, Range<u64>) -> std::io::Result<Tally> + Sync),
) -> std::io::Result<Tally> {
    let scratch = tempfile::Builder::new().prefix("karte-faults-").tempdir_in(&options.dir)?;
    let shim = Shim::unpack(scratch.path())?;
    let next = AtomicU64::new(0);
    let sum = Mutex::new((Tally::default(), Instant::now()));
    let one_lane = |number: u64| -> std::io::Result<()> {
        let dir = scratch.path().join(format!("lane{number}"));
        std::fs::create_dir(&dir)?;
        let mut lane = Lane { kind, options, shim: &shim, judge: Judge::new(&options.program), dir, kept: 0 };
        while let Some(range) = take(&next, chunk, options) {
            let tally = work(&mut lane, range)?;
            let mut sum = sum.lock().expect("no lane panics while it adds");
            sum.0.add(tally);
            if sum.1.elapsed() > TELL_EVERY {
                sum.1 = Instant::now();
                (options.progress)(kind, options.trials, &sum.0);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let lanes: Vec<_> = (0..LANES).map(|number| scope.spawn(move || one_lane(number))).collect();
        let ends = lanes.into_iter().map(|lane| lane.join().expect("a lane ends by returning"));
        ends.collect::<std::io::Result<()>>()
    })?;
    Ok(sum.into_inner().expect("no lane panics while it adds").0)
}

fn take(next: &AtomicU64, chunk: u64, options: &Options) -> Option<Range<u64>> {
    if let Some(only) = options.only {
        let first = next.swap(1, Ordering::SeqCst) == 0;
        return first.then(|| only / chunk * chunk..only + 1);
    }
    let from = next.fetch_add(chunk, Ordering::SeqCst);
    (from < options.trials).then(|| from..(from + chunk).min(options.trials))
}

/// How a worker is to run.
pub(super) struct Run<'a> {
    pub(super) dir: &'a Path,
    pub(super) plan: Plan,
    pub(super) until: u64,
    pub(super) hangs: bool,
    pub(super) revokes: bool,
    pub(super) fault: Option<(Fault, u64)>,
    /// Killed after this time.
    pub(super) killed_after: Option<Duration>,
}

impl<'a> Run<'a> {
    pub(super) fn new(dir: &'a Path, plan: Plan, until: u64) -> Self {
        Self { dir, plan, until, hangs: false, revokes: false, fault: None, killed_after: None }
    }
}

impl Lane<'_> {
    /// An empty folder.
    pub(super) fn fresh(&self, name: &str) -> std::io::Result<PathBuf> {
        let dir = self.dir.join(name);
        clear(&dir)?;
        std::fs::create_dir(&dir)?;
        Ok(dir)
    }

    /// The file that counters or a trace go to.
    pub(super) fn out(&self) -> PathBuf {
        self.dir.join("out")
    }

    /// Runs a worker to its end, whatever that is, and tells what it said.
    pub(super) fn work(&self, run: &Run) -> std::io::Result<Heard> {
        let mut child = self.command(run)?.spawn()?;
        let out = child.stdout.take().expect("it was piped");
        let is_hanging = run.hangs;
        let hear = std::thread::spawn(move || {
            let mut heard = Heard::default();
            for line in BufReader::new(out).lines().map_while(Result::ok) {
                heard.line(&line);
                if heard.done && is_hanging {
                    break;
                }
            }
            heard
        });
        wait(&mut child, run.killed_after.unwrap_or(WORKER_TIME_MAX), || is_hanging && hear.is_finished())?;
        Ok(hear.join().expect("listening does not panic"))
    }

    fn command(&self, run: &Run) -> std::io::Result<Command> {
        let mut command = Command::new(&self.options.program);
        command.arg("faults-worker").arg(run.dir).args(["--seed", &run.plan.seed.to_string()]);
        command.args(["--until", &run.until.to_string()]);
        if run.hangs {
            command.arg("--hang");
        }
        if run.revokes {
            command.arg("--revoke");
        }
        if let Some((fault, n)) = run.fault {
            self.shim.load(&mut command, run.dir, fault, n, &self.out());
            if self.options.without_sync {
                command.env("SHIM_NOSYNC", run.dir.join("journal"));
            }
        }
        let errors = File::create(self.dir.join("stderr"))?;
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(errors);
        Ok(command)
    }

    /// Counts what went wrong with a worker that nobody disturbed.
    pub(super) fn count_worker(&self, heard: &Heard, trial: u64, tally: &mut Tally) {
        for panic in &heard.panics {
            tally.panics += 1;
            tally.tell("worker panics", self.kind, self.options, trial, panic);
        }
        if let Some(why) = &heard.stopped {
            tally.stopped += 1;
            tally.tell("worker stops", self.kind, self.options, trial, why);
        }
    }

    /// Judges a folder, counts it, and keeps it when something is wrong. The dump, when all is well.
    pub(super) fn judge(
        &mut self,
        case: &Case,
        known: &Known,
        closes: bool,
        tally: &mut Tally,
    ) -> std::io::Result<Option<Dump>> {
        let dump = self.judge.dump(case.dir, closes);
        let finding = match &dump {
            Ok(dump) if dump.opened.is_some() => known.judge(case.plan, dump, case.until),
            _ => known.lose_all(case.plan),
        };
        if tally.count(self.kind, case.part, &dump, &finding) {
            return Ok(dump.ok());
        }
        let mut what = told(&dump, &finding, self.options.verbose);
        if self.kept < KEPT_MAX {
            self.kept += 1;
            what = format!("{what}; kept in {}", self.keep(case)?.display());
        }
        tally.tell(case.part, self.kind, self.options, case.trial, &what);
        Ok(None)
    }

    /// Copies a failed folder to where it stays.
    fn keep(&self, case: &Case) -> std::io::Result<PathBuf> {
        let name = format!("karte-faults-{}-{}-{}", self.kind.name(), self.options.seed, case.trial);
        let kept = std::env::temp_dir().join(name);
        clear(&kept)?;
        copy(case.kept.unwrap_or(case.dir), &kept)?;
        Ok(kept)
    }
}

/// A folder to be judged.
pub(super) struct Case<'a> {
    pub(super) dir: &'a Path,
    /// What to keep if it fails, if not the folder itself: judging changes it.
    pub(super) kept: Option<&'a Path>,
    pub(super) plan: Plan,
    pub(super) trial: u64,
    pub(super) part: &'a str,
    /// Where the worker's last commit is, for judging whole groups.
    pub(super) until: Option<u64>,
}

fn told(dump: &Result<Dump, Broken>, finding: &Finding, verbose: bool) -> String {
    let dump = match dump {
        Ok(dump) => dump,
        Err(Broken::Died) => return "the judge died".to_owned(),
        Err(Broken::Hung) => return "opening hangs".to_owned(),
    };
    let mut what: Vec<String> = dump.refused.iter().chain(&dump.errors).cloned().collect();
    if dump.panics > 0 {
        what.push(format!("{} panics", dump.panics));
    }
    if finding.floor_fell {
        what.push(format!("the time floor fell to {}", dump.floor));
    }
    if finding.torn_group {
        what.push(format!("step {:?} is there without the rest of its group", dump.step));
    }
    let shown = if verbose { usize::MAX } else { 2 };
    what.extend(finding.what.iter().take(shown).cloned());
    if finding.lost > 0 {
        what.push(format!("{} lost, {} of them silently", finding.lost, finding.silent));
    }
    what.join("; ")
}

/// Waits for a child; kills it when the time is over or when it is told to.
fn wait(child: &mut Child, time_max: Duration, is_enough: impl Fn() -> bool) -> std::io::Result<()> {
    let started = Instant::now();
    while child.try_wait()?.is_none() {
        if started.elapsed() >= time_max || is_enough() {
            child.kill()?;
            child.wait()?;
            return Ok(());
        }
        std::thread::sleep(Duration::from_micros(500));
    }
    Ok(())
}

/// Removes a folder, if it is there.
pub(super) fn clear(dir: &Path) -> std::io::Result<()> {
    match std::fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Copies a folder with all that is in it.
pub(super) fn copy(from: &Path, to: &Path) -> std::io::Result<()> {
    std::fs::create_dir(to)?;
    for entry in std::fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            std::fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

/// All files of a folder, by path relative to it.
pub(crate) fn files(dir: &Path) -> std::io::Result<Vec<PathBuf>> {
    fn walk(dir: &Path, base: &Path, found: &mut Vec<PathBuf>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            if path.is_dir() {
                walk(&path, base, found)?;
            } else {
                found.push(path.strip_prefix(base).unwrap_or(&path).to_owned());
            }
        }
        Ok(())
    }
    let mut found = Vec::new();
    walk(dir, dir, &mut found)?;
    found.sort();
    Ok(found)
}

/// Reads a whole file into memory.
pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.read_to_end(&mut bytes)?;
    Ok(bytes)
}
