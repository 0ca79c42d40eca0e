//! Thousands of hostile connections against one daemon, while honest peers go on.
//!
//! Bars: its memory stays bounded, and an honest peer that is connected has every new record in time. Told too: how long a contact
//! takes that starts in the middle of it, which must find room.

use super::attackers::Crowd;
use super::material::Material;
use super::node::{Node, Run, free_port, tcp};
use super::pair::{EVERYTHING, acquaint, grant};
use super::slope::percentile;
use super::stage::{Stage, unlike};
use super::{Options, Outcome};
use serde_json::json;
use std::io;
use std::process::Command;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

/// The bars: the most memory ever resident, in bytes, and the 99th percentile of how long a new record
/// takes from the import at the holder to the reader, in seconds.
const MEMORY_MAX: u64 = 512 << 20;
const P99_S_MAX: f64 = 1.0;
/// How long a contact that starts meanwhile may take until it is connected, in seconds.
const NEWCOMER_S_MAX: f64 = 10.0;
/// Records that are measured before and during, at least.
const RECORDS: u64 = 200;
/// How often the reader is asked whether one is there.
const LOOK_EVERY: Duration = Duration::from_millis(5);
/// How long one may take before it counts as lost.
const RECORD_MAX: Duration = Duration::from_secs(30);
/// Descriptors that are not for hostile connections.
const DESCRIPTORS_KEPT: u64 = 200;
/// How long the crowd stays at least: memory that it can fill is full then.
const CROWD_MIN: Duration = Duration::from_secs(20);
/// How long the whole crowd may take.
const CROWD_MAX: Duration = Duration::from_secs(300);

pub(super) fn hostile(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let count = options.connections;
    // Of us and, because it inherits it, of the daemon.
    let open_max = descriptors(u64::from(count) + DESCRIPTORS_KEPT)? - DESCRIPTORS_KEPT;
    let at = free_port()?;
    let mut holder = Node::new(stage, "hana", false)?;
    holder.start(Run { listen: vec![tcp(at)], ..Run::default() })?;
    let mut reader = Node::new(stage, "sakura", true)?;
    reader.start(Run::default())?;
    acquaint(&holder, &reader)?;
    grant(stage, &holder, &reader, EVERYTHING)?;
    let mut newcomer = Node::new(stage, "midori", true)?;
    newcomer.start(Run::default())?;
    acquaint(&holder, &newcomer)?;
    newcomer.stop()?;

    let calm = records(stage, (&holder, &reader), "calm", |done| done < options.times(RECORDS))?;
    let before = holder.uses()?;
    let crowd = Crowd::start(at, count, usize::try_from(open_max).unwrap_or(usize::MAX))?;
    let (begun, tally) = (Instant::now(), crowd.tally.clone());
    let all_came = || tally.begun.load(Ordering::Relaxed) >= u64::from(count);
    stage.pause(Duration::from_secs(1))?;
    let newcomer_s = comes_in(stage, &mut newcomer, &holder.name)?;
    let during = records(stage, (&holder, &reader), "during", |done| {
        let stays = if options.is_brief { CROWD_MIN / 5 } else { CROWD_MIN };
        let over = all_came() && done >= options.times(RECORDS) && begun.elapsed() >= stays;
        !over && begun.elapsed() < CROWD_MAX
    })?;
    let (came, all_came) = (tally.begun.load(Ordering::Relaxed), all_came());
    let after = holder.uses()?;
    drop(crowd);
    if !holder.is_alive() {
        return Err(unlike("the daemon under attack has ended"));
    }
    let (p50, p99) = (percentile(&during, 50), percentile(&during, 99));
    let newcomer_in_time = newcomer_s.is_some_and(|seconds| seconds <= NEWCOMER_S_MAX);
    let held = all_came && after.peak < MEMORY_MAX && p99 < P99_S_MAX && newcomer_in_time;
    let count_of = |counter: &std::sync::atomic::AtomicU64| counter.load(Ordering::Relaxed);
    let (strangers, streams) = (count_of(&tally.strangers), count_of(&tally.streams));
    let newcomer_told =
        newcomer_s.map_or("not at all".to_owned(), |seconds| format!("within {seconds:.1} s"));
    Ok(Outcome::new(
        held,
        format!(
            "{count} hostile peers with {came} connections, {strangers} of them strangers with {streams} streams: at most {} MiB (bar \
             {} MiB); a new record at an honest peer p50 {:.0} ms, p99 {:.0} ms (bar {:.0} ms; undisturbed p99 {:.0} ms); \
             a contact that started meanwhile came in {newcomer_told} (bar {NEWCOMER_S_MAX} s)",
            after.peak >> 20,
            MEMORY_MAX >> 20,
            p50 * 1e3,
            p99 * 1e3,
            P99_S_MAX * 1e3,
            percentile(&calm, 99) * 1e3,
        ),
        json!({ "peers": count, "connections": came, "open_max": open_max, "ended": count_of(&tally.ended), "strangers": strangers,
                "streams": streams, "peak_bytes": after.peak, "peak_before_bytes": before.peak,
                "descriptors": after.descriptors, "records": during.len(), "p50_s": p50, "p99_s": p99,
                "calm_p50_s": percentile(&calm, 50), "calm_p99_s": percentile(&calm, 99),
                "newcomer_s": newcomer_s }),
    ))
}

/// Seconds from the import of a record to the reader, one after the other, while `goes_on` says so of their number. One
/// that does not come took for ever.
fn records(
    stage: &Stage,
    (holder, reader): (&Node<'_>, &Node<'_>),
    name: &str,
    mut goes_on: impl FnMut(u64) -> bool,
) -> io::Result<Vec<f64>> {
    let mut seconds = Vec::new();
    while goes_on(seconds.len() as u64) {
        let before = reader.count()?;
        let value = Material::values(stage, name, seconds.len() as u64, 1)?;
        let begun = Instant::now();
        holder.imports(&value.path)?;
        let came = stage.looking_every(LOOK_EVERY, "a record comes", RECORD_MAX, || {
            Ok((reader.count()? > before).then_some(()))
        });
        seconds.push(if in_time(came)? { begun.elapsed().as_secs_f64() } else { f64::INFINITY });
    }
    Ok(seconds)
}

/// Whether what was waited for has happened.
fn in_time<T>(waited: io::Result<T>) -> io::Result<bool> {
    match waited {
        Err(error) if error.kind() == io::ErrorKind::TimedOut => Ok(false),
        waited => waited.map(|_| true),
    }
}

/// Seconds from the start of a contact's daemon until a sync of it succeeds; none if it never does.
fn comes_in(stage: &Stage, newcomer: &mut Node<'_>, holder: &str) -> io::Result<Option<f64>> {
    let begun = Instant::now();
    newcomer.start_again()?;
    let came = stage.until("a contact gets in", Duration::from_secs(60), || {
        Ok((newcomer.tries(&["sync", holder])?.code == Some(0)).then_some(()))
    });
    let seconds = begun.elapsed().as_secs_f64();
    Ok(in_time(came)?.then_some(seconds))
}

/// Raises the limit of open descriptors as far as it is needed and allowed; what it is then.
fn descriptors(wanted: u64) -> io::Result<u64> {
    let id = std::process::id().to_string();
    let allowed = limits()?;
    if allowed.0 < wanted {
        let soft = wanted.min(allowed.1);
        // Without util-linux the crowd comes in waves.
        let _ =
            Command::new("prlimit").args(["--pid", &id, &format!("--nofile={soft}:{}", allowed.1)]).status();
    }
    Ok(limits()?.0.min(wanted).max(2 * DESCRIPTORS_KEPT))
}

/// The soft and the hard limit.
fn limits() -> io::Result<(u64, u64)> {
    let told = std::fs::read_to_string("/proc/self/limits")?;
    let line = told.lines().find_map(|line| line.strip_prefix("Max open files"));
    let numbers: Vec<u64> =
        line.unwrap_or_default().split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [soft, hard] => Ok((*soft, *hard)),
        _ => Err(unlike("/proc/self/limits tells no number of open files")),
    }
}
