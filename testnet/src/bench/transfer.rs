//! W1, W2 and W3: many files or one large one, from a holder to a reader.
//!
//! `sealed`: the holder has imported before the clock starts. It starts when the reader says yes to the grant
//! (`karte grant accept`) and stops when `karte sync` has ended there: everything verified, fsynced and committed.
//! Yes comes first because a running reader fetches by itself whatever it has said yes to. `plain`: from the holder's
//! `karte import` of plain files until the reader's `karte record export` has written them as plain files, fsynced.

use super::files::{self, Shape};
use super::karte::{Grants, Node};
use super::meter::Meter;
use super::raw;
use super::rounds::{Bar, KARTE, Measured, Outcome, Sample, Side, in_turns, times_of};
use super::small::connected;
use super::ssh::Ssh;
use super::{Bench, sendme};
use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Instant;

/// Names of sides.
const RSYNC: &str = "rsync";
const RSYNC_FSYNC: &str = "rsync --fsync";
const SENDME: &str = "sendme";
const RAW: &str = "raw libp2p";
const AGE_SSH: &str = "tar, age and ssh";
const RAGE: &str = "rage to /dev/null";
const AGE: &str = "age to /dev/null";

/// Most memory of either side while 2 GiB are moved, in MiB.
const PEAK_MIB_MAX: f64 = 128.0;

/// One of the works.
#[derive(Clone, Copy)]
pub(super) struct Work {
    pub(super) name: &'static str,
    pub(super) shape: Shape,
    /// Whether rsync is told to fsync.
    pub(super) fsync: bool,
}

/// Its files, made once, and what is in them.
pub(super) struct Files<'a> {
    bench: &'a Bench,
    shape: Shape,
    folder: PathBuf,
    hashes: BTreeSet<[u8; 32]>,
}

impl<'a> Files<'a> {
    pub(super) fn make(bench: &'a Bench, work: &Work) -> io::Result<Self> {
        let Work { name, shape, .. } = *work;
        eprintln!("{name}: making {} files of {} bytes", shape.files, shape.bytes);
        let folder = files::fresh(bench.folder.join(format!("{name}-files")))?;
        files::make(&folder, shape, bench.seed)?;
        let hashes = files::contents(&folder)?;
        Ok(Self { bench, shape, folder, hashes })
    }

    /// The only file, of a work that has one.
    fn only(&self) -> PathBuf {
        self.folder.join("00000.bin")
    }

    /// That all came into `folder`, which is removed then.
    fn came(&self, folder: &Path) -> io::Result<()> {
        files::all_came(&self.hashes, folder)?;
        files::remove(folder)
    }

    fn fresh(&self, name: &str) -> io::Result<PathBuf> {
        files::fresh(self.bench.folder.join(name))
    }
}

impl Drop for Files<'_> {
    fn drop(&mut self) {
        // What cannot be removed here goes with the folder of the whole bench.
        let _ = files::remove(&self.folder);
    }
}

/// Already sealed at the sender, against rsync, sendme and raw libp2p.
pub(super) fn sealed(files: &Files<'_>, work: &Work) -> io::Result<Outcome> {
    let bench = files.bench;
    let holder = bench.maker().node("holder", Grants::Ask)?;
    let records = holder.imports(&files.folder)?;
    if records != files.shape.files {
        return Err(io::Error::other(format!("expected {} new records, got {records}", files.shape.files)));
    }
    let mut pair = raw::Pair::start(&bench.keeper, &bench.testnet)?;
    let (ssh, mut not_run) = bench.ssh("rsync");
    let mut sides = vec![
        Side::ours(KARTE, || karte_sealed(files, &holder)),
        Side::ours(RAW, || raw_libp2p(&mut pair, files.shape.total_bytes())),
    ];
    if let Some(ssh) = &ssh {
        let name = if work.fsync { RSYNC_FSYNC } else { RSYNC };
        sides.push(Side::peer(name, || rsync(files, ssh, work.fsync)));
    }
    match bench.lacks(&["sendme"]) {
        Some(why) => not_run.push(format!("sendme: {why}")),
        None => sides.push(Side::peer(SENDME, || send_me(files))),
    }
    let sides = in_turns(bench, &format!("{} sealed", work.name), sides, &mut not_run)?;
    let bars = bars_of_sealed(work.name, &sides);
    let what = format!(
        "{} of {} bytes, sealed at the sender; verified, fsynced and committed at the reader",
        files.shape.files, files.shape.bytes
    );
    Ok(Outcome { work: work.name, what, numbers: rates(files.shape, &sides), sides, bars, not_run })
}

fn bars_of_sealed(work: &str, sides: &[Measured]) -> Vec<Bar> {
    let times = |other: &str| times_of(sides, other);
    let bars = match work {
        "w1" => vec![
            Bar::at_least("w1 sealed, times as fast as rsync --fsync", times(RSYNC_FSYNC), 2.0),
            Bar::at_least("w1 sealed, times as fast as sendme", times(SENDME), 4.0),
            Bar::at_least("w1 sealed, share of raw libp2p", times(RAW), 0.5),
        ],
        "w2" => vec![
            Bar::at_least("w2, times as fast as rsync --fsync", times(RSYNC_FSYNC), 2.5),
            Bar::at_least("w2, times as fast as sendme", times(SENDME), 4.0),
        ],
        _ => {
            let karte = sides.iter().find(|side| side.name == KARTE);
            #[expect(clippy::cast_precision_loss, reason = "memory of a process is far below 2^52 bytes")]
            let peak_mib = karte.map(|karte| karte.peak_bytes() as f64 / f64::from(1 << 20));
            vec![
                Bar::at_least("w3, times as fast as rsync without fsync", times(RSYNC), 1.1),
                Bar::at_least("w3, share of raw libp2p", times(RAW), 0.6),
                Bar::at_most("w3, peak memory of either side, MiB", peak_mib, PEAK_MIB_MAX),
            ]
        }
    };
    bars.into_iter().flatten().collect()
}

/// Bytes and records in a second, of Karte and of raw libp2p.
fn rates(shape: Shape, sides: &[Measured]) -> Vec<(&'static str, f64)> {
    #[expect(clippy::cast_precision_loss, reason = "a few GiB and some thousand files")]
    let (bytes, records) = (shape.total_bytes() as f64, shape.files as f64);
    let wall = |name: &str| sides.iter().find(|side| side.name == name).map_or(f64::NAN, Measured::wall_s);
    vec![
        ("karte_mb_per_s", bytes / 1e6 / wall(KARTE)),
        ("karte_records_per_s", records / wall(KARTE)),
        ("raw_mb_per_s", bytes / 1e6 / wall(RAW)),
    ]
}

/// A fresh reader, which is offered all that the holder has, says yes and syncs.
fn karte_sealed(files: &Files<'_>, holder: &Node) -> io::Result<Sample> {
    let bench = files.bench;
    let reader = bench.maker().node("reader", Grants::Ask)?;
    holder.meets(&reader)?;
    let grant = holder.grants(&reader)?;
    reader.hears_of(&grant, "offered")?;
    files::settle(&bench.folder)?;
    let meter = Meter::start(&[("holder", holder.pid()), ("reader", reader.pid())])?;
    let begun = Instant::now();
    let (_, accept) = reader.times(&["grant", "accept", &grant])?;
    let (_, sync) = reader.times(&["sync", "holder"])?;
    let wall = begun.elapsed();
    let costs = meter.stop()?;
    reader.has_all(&grant, files.shape.files)?;
    holder.parts_from(&reader, &grant)?;
    Ok(Sample { wall, costs, spans: vec![("accept", accept), ("sync", sync)] })
}

fn raw_libp2p(pair: &mut raw::Pair, bytes: u64) -> io::Result<Sample> {
    let meter = Meter::start(&pair.pids())?;
    let wall = pair.ask(bytes)?;
    Ok(Sample { wall, costs: meter.stop()?, spans: vec![] })
}

fn rsync(files: &Files<'_>, ssh: &Ssh, fsync: bool) -> io::Result<Sample> {
    let to = files.fresh("came")?;
    let mut command = ssh.rsync(&files.bench.tools, &files.folder, &to, fsync)?;
    let sample = over_ssh(files.bench, ssh, &mut command)?;
    files.came(&to)?;
    Ok(sample)
}

/// A command whose other half runs below our ssh server.
pub(super) fn over_ssh(bench: &Bench, ssh: &Ssh, command: &mut Command) -> io::Result<Sample> {
    let meter = Meter::start(&[("server", ssh.pid())])?;
    let wall = bench.keeper.run(command)?.wall;
    ssh.rests()?;
    Ok(Sample { wall, costs: meter.stop()?, spans: vec![] })
}

fn send_me(files: &Files<'_>) -> io::Result<Sample> {
    let (work, to) = (files.fresh("sends")?, files.fresh("came")?);
    let from = if files.shape.files == 1 { files.only() } else { files.folder.clone() };
    let sample = by_sendme(files.bench, &from, &work, &to)?;
    files.came(&to)?;
    files::remove(&work)?;
    Ok(sample)
}

/// One transfer by sendme, both of its processes cold.
pub(super) fn by_sendme(bench: &Bench, from: &Path, work: &Path, to: &Path) -> io::Result<Sample> {
    let meter = Meter::start(&[])?;
    let sent = sendme::send(&bench.keeper, &bench.tools, from, work, to)?;
    // Its time counts once it has ended.
    sent.sender.end();
    Ok(Sample { wall: sent.whole, costs: meter.stop()?, spans: vec![("receive", sent.receive)] })
}

// --- plain file to plain file

/// Plain files here to plain files there.
pub(super) fn plain(files: &Files<'_>, work: &Work) -> io::Result<Outcome> {
    let bench = files.bench;
    let (ssh, mut not_run) = bench.ssh("rsync");
    let mut sides = vec![Side::ours(KARTE, || karte_plain(files))];
    if let Some(ssh) = &ssh {
        sides.push(Side::peer(RSYNC_FSYNC, || rsync(files, ssh, true)));
        match bench.lacks(&["age", "age-keygen"]) {
            Some(why) => not_run.push(format!("{AGE_SSH}: {why}")),
            None => sides.push(Side::peer(AGE_SSH, || age_ssh(files, ssh))),
        }
    }
    let sides = in_turns(bench, &format!("{} plain", work.name), sides, &mut not_run)?;
    let times = times_of(&sides, RSYNC_FSYNC);
    let bar = Bar::at_least("w1 plain file to plain file, times as fast as rsync --fsync", times, 1.4);
    let what = format!(
        "{} of {} bytes, plain file to plain file: import, live push, export, fsync",
        files.shape.files, files.shape.bytes
    );
    let bars = bar.into_iter().collect();
    Ok(Outcome { work: "w1 plain", what, sides, numbers: vec![], bars, not_run })
}

/// Two fresh nodes with a grant between them: one imports, the other writes out what came.
fn karte_plain(files: &Files<'_>) -> io::Result<Sample> {
    let bench = files.bench;
    let (holder, reader, _) = connected(bench)?;
    let to = bench.folder.join("came");
    files::remove(&to)?;
    let [from, into] = [&files.folder, &to].map(|path| path.to_string_lossy().into_owned());
    files::settle(&bench.folder)?;
    let meter = Meter::start(&[("holder", holder.pid()), ("reader", reader.pid())])?;
    let begun = Instant::now();
    let (_, import) = holder.times(&["import", "--format", "document", &from])?;
    let (_, sync) = reader.times(&["sync", "holder"])?;
    let (_, export) = reader.times(&["record", "export", &into])?;
    // The command syncs every file; the names in their folders are ours to sync.
    files::sync_folders(&to)?;
    let wall = begun.elapsed();
    let costs = meter.stop()?;
    files.came(&to)?;
    Ok(Sample { wall, costs, spans: vec![("import", import), ("sync", sync), ("export", export)] })
}

/// The usual way with age: a tar stream, encrypted here, decrypted there.
fn age_ssh(files: &Files<'_>, ssh: &Ssh) -> io::Result<Sample> {
    let (bench, to) = (files.bench, files.fresh("came")?);
    let (key, recipient) = bench.age_key()?;
    // Paths travel as arguments of `sh -c`, and quoted from there on to the other side.
    let script = "tar -cf - -C \"$1\" . | \"$2\" -r \"$3\" | \"$4\" -F \"$5\" bench \\
        \"'$2' -d -i '$6' | tar -xf - -C '$7' && sync -f '$7'\"";
    let mut command = Command::new("sh");
    command.args(["-c", script, "-"]).arg(&files.folder).arg(bench.tools.path("age")?).arg(recipient);
    command.arg(bench.tools.path("ssh")?).arg(ssh.config()).arg(key).arg(&to);
    let sample = over_ssh(bench, ssh, &mut command)?;
    files.came(&to)?;
    Ok(sample)
}

// --- import

/// Reading, sealing, hashing, storing and syncing one large file, against encrypting it to nowhere.
pub(super) fn import(files: &Files<'_>) -> io::Result<Outcome> {
    let bench = files.bench;
    let mut not_run = Vec::new();
    let mut sides = vec![Side::ours(KARTE, || karte_import(files))];
    for (program, name) in [("rage", RAGE), ("age", AGE)] {
        match bench.lacks(&[program]).or_else(|| bench.age_key().err().map(|error| error.to_string())) {
            Some(why) => not_run.push(format!("{name}: {why}")),
            None => sides.push(Side::peer(name, move || to_nowhere(files, program))),
        }
    }
    let sides = in_turns(bench, "w3 import", sides, &mut not_run)?;
    let bar = Bar::at_least("import of w3, times as fast as rage to /dev/null", times_of(&sides, RAGE), 0.8);
    let what = format!("one file of {} bytes read, sealed, hashed, stored and fsynced", files.shape.bytes);
    let bars = bar.into_iter().collect();
    Ok(Outcome { work: "w3 import", what, sides, numbers: vec![], bars, not_run })
}

fn karte_import(files: &Files<'_>) -> io::Result<Sample> {
    let node = files.bench.maker().node("importer", Grants::Ask)?;
    let meter = Meter::start(&[("holder", node.pid())])?;
    let begun = Instant::now();
    let taken = node.imports(&files.folder)?;
    let wall = begun.elapsed();
    let costs = meter.stop()?;
    match taken == files.shape.files {
        true => Ok(Sample { wall, costs, spans: vec![] }),
        false => Err(io::Error::other(format!("expected {} new records, got {taken}", files.shape.files))),
    }
}

fn to_nowhere(files: &Files<'_>, program: &str) -> io::Result<Sample> {
    let (_, recipient) = files.bench.age_key()?;
    let mut command = Command::new(files.bench.tools.path(program)?);
    command.args(["-r", &recipient]).arg(files.only()).stdin(Stdio::null());
    let meter = Meter::start(&[])?;
    // Its standard output, and not `-o`, which rage and age treat differently for devices.
    let begun = Instant::now();
    files.bench.keeper.start(command.stdout(Stdio::null()))?.finish()?;
    Ok(Sample { wall: begun.elapsed(), costs: meter.stop()?, spans: vec![] })
}
