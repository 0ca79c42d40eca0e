//! Load: durable writes by many threads, through the store and through sled alone, in turns; and how long a store takes
//! to start after it was not closed.

use karte_node::store::StoreError;
use serde_json::json;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::faults::store::Node;
use crate::faults::{Change, put};

/// How much faster than sled alone, how long to start, how long to remake the view, in seconds.
const FASTER_MIN: f64 = 3.0;
const START_SECONDS_MAX: f64 = 2.0;
const REBUILD_SECONDS_MAX: f64 = 20.0;
/// Threads that write, each waiting for its acknowledgement.
const WRITERS: u64 = 64;
/// A value, in bytes.
const VALUE_BYTES: usize = 300;
/// Most batches in one commit: all that can wait at once.
const GROUP_MAX: usize = 64;
/// Rows of the store that is started.
const ROWS: u64 = 100_000;
/// Rows in one commit while it is filled.
const GROUP: u64 = 500;

/// Its arguments.
#[derive(clap::Args)]
pub struct StoreBench {
    /// Rounds of each of the two, in turns
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Length of a round
    #[arg(long, default_value_t = 3)]
    seconds: u64,
    /// Where the folders are made; must be a real disk. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// Runs it; true when all bars hold.
pub fn run(args: &StoreBench) -> io::Result<bool> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("karte-bench-").tempdir_in(base)?;
    let (mut ours, mut sleds) = (Vec::new(), Vec::new());
    let length = Duration::from_secs(args.seconds);
    for round in 0..args.rounds {
        ours.push(store_round(&scratch.path().join(format!("store{round}")), length)?);
        sleds.push(sled_round(&scratch.path().join(format!("sled{round}")), length)?);
        if !args.json {
            let last = |rates: &[f64]| rates.last().copied().unwrap_or(0.0);
            println!("round {round}: store {:.0}/s, sled alone {:.0}/s", last(&ours), last(&sleds));
        }
    }
    let (store_rate, sled_rate) = (median(&mut ours), median(&mut sleds));
    let (start, opened, rebuild) = starts(&scratch.path().join("start")).map_err(io::Error::other)?;
    let times = store_rate / sled_rate.max(f64::MIN_POSITIVE);
    if !args.json {
        println!(
            "durable writes of {VALUE_BYTES} bytes, {WRITERS} writers: {times:.1} times sled alone (at least {FASTER_MIN})"
        );
        println!(
            "start after an unclean stop, {ROWS} rows: {start:.2} s ({opened}; at most {START_SECONDS_MAX} s)"
        );
        println!("remaking the view: {rebuild:.2} s (at most {REBUILD_SECONDS_MAX} s)");
    }
    let holds = times >= FASTER_MIN && start <= START_SECONDS_MAX && rebuild <= REBUILD_SECONDS_MAX;
    println!(
        "{}",
        json!({ "store_per_second": store_rate, "sled_per_second": sled_rate, "times": times, "start_seconds": start,
            "opened": opened, "rebuild_seconds": rebuild, "rows": ROWS, "writers": WRITERS, "holds": holds })
    );
    Ok(holds)
}

fn median(rates: &mut [f64]) -> f64 {
    rates.sort_by(f64::total_cmp);
    rates.get(rates.len() / 2).copied().unwrap_or(0.0)
}

fn change(n: u64) -> Change {
    put(
        3,
        &format!("parent-{}", n % 1000),
        &n.to_string(),
        vec![u8::try_from(n % 256).unwrap_or(0); VALUE_BYTES],
    )
}

/// One write under way: what, and whom to tell.
type Asked = (Change, SyncSender<()>);

/// Acknowledged writes in a second, through one store thread.
fn store_round(dir: &Path, length: Duration) -> io::Result<f64> {
    let (mut node, _) = Node::open(dir).map_err(io::Error::other)?;
    let (ask, asked) = sync_channel::<Asked>(GROUP_MAX);
    let rate = std::thread::scope(|scope| {
        let keeper = scope.spawn(move || keep(&mut node, &asked).map(|()| node));
        let rate = write_for(length, |n| {
            let (acknowledge, acknowledged) = sync_channel(1);
            ask.send((change(n), acknowledge)).is_ok() && acknowledged.recv().is_ok()
        });
        drop(ask);
        keeper.join().expect("the store's thread does not panic").and_then(Node::close).map(|()| rate)
    });
    rate.map_err(io::Error::other)
}

/// The store's thread: takes all that wait, commits once, tells all.
fn keep(node: &mut Node, asked: &Receiver<Asked>) -> Result<(), StoreError> {
    while let Ok(first) = asked.recv() {
        let mut waiting = Vec::with_capacity(GROUP_MAX);
        let group = std::iter::once(first).chain(asked.try_iter().take(GROUP_MAX - 1));
        for (change, acknowledge) in group {
            node.write(vec![change], false)?;
            waiting.push(acknowledge);
        }
        node.commit()?;
        for acknowledge in waiting {
            // A writer whose time was over does not listen any more.
            let _ = acknowledge.send(());
        }
    }
    Ok(())
}

/// Acknowledged writes in a second, through sled alone: one flush for each write.
fn sled_round(dir: &Path, length: Duration) -> io::Result<f64> {
    let sled = sled::Config::new().path(dir).flush_every_ms(None).open()?;
    Ok(write_for(length, |n| {
        let key = format!("parent-{}/{n}", n % 1000);
        sled.insert(key, vec![0; VALUE_BYTES]).is_ok() && sled.flush().is_ok()
    }))
}

/// Lets all writers write until the time is over; writes in a second.
fn write_for(length: Duration, write: impl Fn(u64) -> bool + Sync) -> f64 {
    let (next, done, over) = (AtomicU64::new(0), AtomicU64::new(0), AtomicBool::new(false));
    let started = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                while !over.load(Ordering::Relaxed) && write(next.fetch_add(1, Ordering::Relaxed)) {
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        std::thread::sleep(length);
        over.store(true, Ordering::Relaxed);
    });
    let seconds = started.elapsed().as_secs_f64();
    u32::try_from(done.into_inner()).map_or(f64::INFINITY, f64::from) / seconds
}

/// Seconds to start a store that was not closed, how it opened, and seconds to remake its view.
fn starts(dir: &Path) -> Result<(f64, String, f64), StoreError> {
    let (mut node, _) = Node::open(dir)?;
    for n in 0..ROWS {
        node.write(vec![change(n)], false)?;
        if n % GROUP == GROUP - 1 {
            node.commit()?;
        }
    }
    // Dropped, not closed: what is left is what a killed process leaves.
    drop(node);
    let started = Instant::now();
    let (mut node, opened) = Node::open(dir)?;
    let start = started.elapsed().as_secs_f64();
    let started = Instant::now();
    node.rebuild()?;
    Ok((start, opened, started.elapsed().as_secs_f64()))
}
