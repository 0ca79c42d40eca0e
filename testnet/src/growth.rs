//! Growth: many updates of a bounded set of rows and payloads must not make the folder larger than what is in it.
//!
//! The folder is compared with a fresh one that holds the same state, kind of file by kind of file.

use karte_node::store::StoreError;
use serde_json::json;
use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Instant;

use crate::faults::dice::{Dice, index};
use crate::faults::store::Node;
use crate::faults::{self};

/// How much larger than a fresh one the folder may be.
const RATIO_MAX: f64 = 1.2;
/// Rows and payloads that are updated again and again.
const ROWS: u64 = 10_000;
const PAYLOADS: u64 = 200;
/// A row's value, in bytes: what a grant or a label takes.
const VALUE_BYTES: usize = 300;
/// Updates in one commit, updates for one new payload, commits between two rounds of upkeep.
const GROUP: u64 = 500;
const UPDATES_OF_PAYLOAD: u64 = 100;
const UPKEEP_EVERY: u64 = 100;

/// Its arguments.
#[derive(clap::Args)]
pub struct Growth {
    /// How many rows are written
    #[arg(long, default_value_t = 1_000_000)]
    updates: u64,
    /// All choices follow from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the folders are made. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// Sizes of the two folders, by kind of file, in bytes on the disk.
struct Sizes(BTreeMap<String, u64>);

impl Sizes {
    fn of(dir: &Path) -> io::Result<Self> {
        let mut sizes = BTreeMap::new();
        for path in faults::files(dir)? {
            // Blocks are told in units of 512 bytes, whatever the file system's own are.
            let bytes = std::fs::metadata(dir.join(&path))?.blocks() * 512;
            *sizes.entry(faults::file_kind(&path)).or_default() += bytes;
        }
        Ok(Self(sizes))
    }

    fn total(&self) -> u64 {
        self.0.values().sum()
    }
}

/// Runs it; true when the bar holds.
pub fn run(args: &Growth) -> io::Result<bool> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("karte-growth-").tempdir_in(base)?;
    let (grown, fresh) = (scratch.path().join("grown"), scratch.path().join("fresh"));
    let started = Instant::now();
    let state = grow(args, &grown).map_err(io::Error::other)?;
    let seconds = started.elapsed().as_secs_f64();
    write_fresh(&state, &fresh).map_err(io::Error::other)?;
    let (grown, fresh) = (Sizes::of(&grown)?, Sizes::of(&fresh)?);
    let ratio = ratio(grown.total(), fresh.total());
    if !args.json {
        println!("{:<24} {:>14} {:>14}", "kind of file", "grown, bytes", "fresh, bytes");
        for name in grown.0.keys().chain(fresh.0.keys()).collect::<std::collections::BTreeSet<_>>() {
            let of = |sizes: &Sizes| sizes.0.get(name).copied().unwrap_or(0);
            println!("{name:<24} {:>14} {:>14}", of(&grown), of(&fresh));
        }
        println!("{:<24} {:>14} {:>14}  ratio {ratio:.2}", "all", grown.total(), fresh.total());
    }
    let holds = ratio <= RATIO_MAX;
    println!(
        "{}",
        json!({ "updates": args.updates, "grown_bytes": grown.total(), "fresh_bytes": fresh.total(), "ratio": ratio,
            "ratio_max": RATIO_MAX, "holds": holds, "seconds": seconds, "grown": grown.0, "fresh": fresh.0 })
    );
    Ok(holds)
}

#[allow(clippy::cast_precision_loss, reason = "a ratio of sizes far below 2^53")]
fn ratio(a: u64, b: u64) -> f64 {
    a as f64 / b.max(1) as f64
}

/// What is in the folder in the end: for every row and payload the update that wrote it last.
#[derive(Default)]
struct State {
    seed: u64,
    rows: BTreeMap<u64, u64>,
    payloads: BTreeMap<u64, u64>,
}

fn grow(args: &Growth, dir: &Path) -> Result<State, StoreError> {
    let mut state = State { seed: args.seed, ..State::default() };
    let mut dice = Dice::new("growth", &[args.seed]);
    let (mut node, _) = Node::open(dir)?;
    for n in 0..args.updates {
        if n % UPDATES_OF_PAYLOAD == 0 {
            let which = dice.below(PAYLOADS);
            node.create(&state.payload(n))?;
            if let Some(before) = state.payloads.insert(which, n) {
                node.forget(&state.payload(before))?;
            }
        }
        let row = dice.below(ROWS);
        node.write(vec![state.change(row, n)], false)?;
        state.rows.insert(row, n);
        if n % GROUP == GROUP - 1 {
            node.sync()?;
            node.commit()?;
        }
        if n % (GROUP * UPKEEP_EVERY) == GROUP * UPKEEP_EVERY - 1 {
            node.maintain()?;
            eprintln!("{} of {} updates", n + 1, args.updates);
        }
    }
    node.sync()?;
    node.commit()?;
    node.maintain()?;
    node.close()?;
    Ok(state)
}

fn write_fresh(state: &State, dir: &Path) -> Result<(), StoreError> {
    let (mut node, _) = Node::open(dir)?;
    for n in state.payloads.values() {
        node.create(&state.payload(*n))?;
    }
    node.sync()?;
    for (count, (row, n)) in (1..).zip(&state.rows) {
        node.write(vec![state.change(*row, *n)], false)?;
        if count % GROUP == 0 {
            node.commit()?;
        }
    }
    node.close()
}

impl State {
    fn change(&self, row: u64, n: u64) -> faults::Change {
        let value = Dice::new("row", &[self.seed, n]).bytes(VALUE_BYTES);
        faults::put(3, &format!("parent-{}", row % 100), &row.to_string(), value)
    }

    /// A payload: mostly small, as records are.
    fn payload(&self, n: u64) -> Vec<u8> {
        let mut dice = Dice::new("payload", &[self.seed, n]);
        let length = if dice.chance(80) { dice.between(300, 4_000) } else { dice.between(10_000, 100_000) };
        dice.bytes(index(length))
    }
}
