//! W4: a single record, as urgent as a result can be.
//!
//! `warm`: two connected daemons. A record is imported through the holder's control socket, and the reader's says when
//! it has committed it, so that no start of a process is in the time. Measured against what the machine cannot do
//! without: one round trip over raw libp2p, and one file written, fsynced and named durably. `cold`: the whole of
//! `karte sync` for one new record, against the processes of sendme and scp. The reader's daemon is frozen while the
//! record is made, or live push would have brought it before the clock starts.

use super::files;
use super::karte::{Grants, Node};
use super::meter::Costs;
use super::raw::{PING_BYTES, Pair};
use super::rounds::{Bar, KARTE, Outcome, Sample, Side, in_turns, median, times_of};
use super::ssh::Ssh;
use super::{Bench, transfer};
use crate::told::{imported, watch};
use std::fs::File;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// A record, in bytes.
const RECORD_BYTES: usize = 1_200;
/// Records that are measured warm, and before them those that are not.
const RECORDS: u64 = 200;
const WARM_UP: u64 = 20;
/// Records of each side in a round of cold ones; the round is their median.
const COLD_RECORDS: u32 = 5;
/// How long a record may take.
const ARRIVES_MAX: Duration = Duration::from_secs(20);
/// Numbers of the files of W4, so that none is a file of another work.
const FIRST_FILE: u64 = 1 << 32;

// --- warm

/// Every time of one kind, in seconds.
#[derive(Default)]
struct Times {
    after_asked: Vec<f64>,
    after_acknowledged: Vec<f64>,
    round_trip: Vec<f64>,
    file: Vec<f64>,
}

/// One record at a time over a connection that is up.
pub(super) fn warm(bench: &Bench) -> io::Result<Outcome> {
    let (holder, reader, _) = connected(bench)?;
    let mut pair = Pair::start(&bench.keeper, &bench.testnet)?;
    let arrivals = watch(reader.home())?;
    let folder = files::fresh(bench.folder.join("one"))?;
    let mut times = Times::default();
    let records = bench.scaled(RECORDS).max(5);
    for number in 0..WARM_UP + records {
        bench.keeper.check()?;
        let file = record(bench, &folder, number)?;
        let asked = Instant::now();
        let acknowledged = imported(holder.home(), &file, None)?;
        let arrived = arrivals
            .recv_timeout(ARRIVES_MAX)
            .map_err(|_| io::Error::other(format!("a record did not arrive in {ARRIVES_MAX:?}")))?
            .at;
        let round_trip = pair.ask(PING_BYTES)?;
        let fsynced = fsynced_file(&folder, number)?;
        if number < WARM_UP {
            continue;
        }
        times.after_asked.push(arrived.saturating_duration_since(asked).as_secs_f64());
        times.after_acknowledged.push(arrived.saturating_duration_since(acknowledged).as_secs_f64());
        times.round_trip.push(round_trip.as_secs_f64());
        times.file.push(fsynced.as_secs_f64());
    }
    files::remove(&folder)?;
    eprintln!("w4 warm: {records} records");
    Ok(times.outcome())
}

impl Times {
    fn outcome(self) -> Outcome {
        let p50 = |times: Vec<f64>| median(times).unwrap_or(f64::NAN);
        let (asked, acknowledged) = (p50(self.after_asked), p50(self.after_acknowledged));
        let (round_trip, file) = (p50(self.round_trip), p50(self.file));
        let floor = round_trip + file;
        let bar = Bar::at_most(
            "w4 warm, p50 from the holder's acknowledgement, times (round trip + fsynced file)",
            Some(acknowledged / floor),
            3.0,
        );
        Outcome {
            work: "w4 warm",
            what: format!(
                "one record of {RECORD_BYTES} bytes over a connection that is up, durable at the reader"
            ),
            sides: vec![],
            numbers: vec![
                ("p50_after_acknowledged_ms", acknowledged * 1e3),
                ("p50_after_asked_ms", asked * 1e3),
                ("p50_round_trip_ms", round_trip * 1e3),
                ("p50_fsynced_file_ms", file * 1e3),
                ("after_asked_times_floor", asked / floor),
            ],
            bars: bar.into_iter().collect(),
            not_run: vec![],
        }
    }
}

/// A holder and a reader who has said yes to all of its documents.
pub(super) fn connected(bench: &Bench) -> io::Result<(Node, Node, String)> {
    let holder = bench.maker().node("holder", Grants::Ask)?;
    let reader = bench.maker().node("reader", Grants::Accept)?;
    holder.meets(&reader)?;
    let grant = holder.grants(&reader)?;
    reader.hears_of(&grant, "active")?;
    reader.does(&["sync", "holder"])?;
    Ok((holder, reader, grant))
}

fn record(bench: &Bench, folder: &Path, number: u64) -> io::Result<PathBuf> {
    let mut bytes = [0; RECORD_BYTES];
    files::stream(bench.seed, FIRST_FILE + number).fill(&mut bytes);
    let path = folder.join(format!("record-{number}.bin"));
    std::fs::write(&path, bytes)?;
    Ok(path)
}

/// The floor of durability: a new file, its bytes and its name on the disk.
fn fsynced_file(folder: &Path, number: u64) -> io::Result<Duration> {
    let bytes = [0x5a; RECORD_BYTES];
    let begun = Instant::now();
    let mut file = File::create(folder.join(format!("file-{number}")))?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    File::open(folder)?.sync_all()?;
    Ok(begun.elapsed())
}

// --- cold

/// Whole processes for one new record.
pub(super) fn cold(bench: &Bench) -> io::Result<Outcome> {
    let (holder, reader, grant) = connected(bench)?;
    let folder = files::fresh(bench.folder.join("one"))?;
    let (ssh, mut not_run) = bench.ssh("scp");
    // Every side takes its own numbers, so that no record is known already.
    let (mut ours, mut theirs, mut copied) = (0, 1_000_000, 2_000_000);
    let mut sides = vec![Side::ours(KARTE, || {
        middle_of(|| karte_cold(bench, (&holder, &reader, &grant), &folder, &mut ours))
    })];
    match bench.lacks(&["sendme"]) {
        Some(why) => not_run.push(format!("sendme: {why}")),
        None => sides.push(Side::peer("sendme", || middle_of(|| sendme_cold(bench, &folder, &mut theirs)))),
    }
    if let Some(ssh) = &ssh {
        sides.push(Side::peer("scp", || middle_of(|| scp_cold(bench, ssh, &folder, &mut copied))));
    }
    let sides = in_turns(bench, "w4 cold", sides, &mut not_run)?;
    // As a share of sendme: the inverse of how many times as long it took.
    let share = times_of(&sides, "sendme").map(|times| 1.0 / times);
    let bar = Bar::at_most("w4 cold karte sync, times as long as sendme", share, 1.0);
    let what = format!(
        "one new record of {RECORD_BYTES} bytes by cold processes; karte: `karte sync`, both daemons up"
    );
    Ok(Outcome { work: "w4 cold", what, sides, numbers: vec![], bars: bar.into_iter().collect(), not_run })
}

/// Several runs; the one in the middle.
fn middle_of(mut run: impl FnMut() -> io::Result<Sample>) -> io::Result<Sample> {
    let mut samples = (0..COLD_RECORDS).map(|_| run()).collect::<io::Result<Vec<_>>>()?;
    samples.sort_by_key(|sample| sample.wall);
    let middle = samples.len() / 2;
    samples.into_iter().nth(middle).ok_or_else(|| io::Error::other("nothing was run"))
}

fn karte_cold(
    bench: &Bench,
    (holder, reader, grant): (&Node, &Node, &str),
    folder: &Path,
    number: &mut u64,
) -> io::Result<Sample> {
    let file = record(bench, folder, *number)?;
    *number += 1;
    reader.daemon()?.freeze(true)?;
    let (_, import) = holder.times(&["import", "--format", "document", &file.to_string_lossy()])?;
    let begun = Instant::now();
    reader.daemon()?.freeze(false)?;
    reader.does(&["sync", "holder"])?;
    let wall = begun.elapsed();
    reader.has_all(grant, *number)?;
    Ok(Sample { wall, costs: Costs::new(), spans: vec![("import before it", import)] })
}

fn sendme_cold(bench: &Bench, folder: &Path, number: &mut u64) -> io::Result<Sample> {
    let file = record(bench, folder, *number)?;
    *number += 1;
    let [work, to] = ["sends", "came"].map(|name| files::fresh(bench.folder.join(name)));
    let sample = transfer::by_sendme(bench, &file, &work?, &to?)?;
    came_here(&file, &bench.folder.join("came"))?;
    Ok(Sample { costs: Costs::new(), ..sample })
}

fn scp_cold(bench: &Bench, ssh: &Ssh, folder: &Path, number: &mut u64) -> io::Result<Sample> {
    let file = record(bench, folder, *number)?;
    *number += 1;
    let to = files::fresh(bench.folder.join("came"))?;
    let mut command = ssh.command(&bench.tools, "scp")?;
    command.arg("-q").arg(&file).arg(format!("bench:{}/", to.display()));
    let wall = bench.keeper.run(&mut command)?.wall;
    ssh.rests()?;
    came_here(&file, &to)?;
    Ok(Sample { wall, ..Sample::default() })
}

fn came_here(file: &Path, to: &Path) -> io::Result<()> {
    let name = file.file_name().unwrap_or_default();
    match std::fs::read(to.join(name))? == std::fs::read(file)? {
        true => Ok(()),
        false => Err(io::Error::other("other bytes came than were sent")),
    }
}
