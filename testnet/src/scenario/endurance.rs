//! Continuous import and sync with rotation of records: whether a daemon grows.
//!
//! Every second the holder imports a few records, and the reader must have them before the next. Every half minute the
//! grant ends, with all that came by it, and another lets the reader read what is imported from then on: the reader's
//! records rotate. The holder's own records stay, for it is their store; what it grows by is told for each record too,
//! and it has a full store from the start, for otherwise sled's page cache (16 MiB) would be all that is seen to grow.
//! What both hold is sampled, and a line through the samples of the second half is the growth. That of the first half is
//! told beside it: what fills up to a bound (sled's cache, rows on their way into it, the allocator's arenas) grows in the
//! first half and not in the second, and what is lost grows in both.

use super::material::Material;
use super::node::{Node, Use};
use super::pair::{self, Pair, SOON, acquaint};
use super::slope::slope;
use super::stage::Stage;
use super::{Options, Outcome};
use crate::proxy::Link;
use serde_json::{Value, json};
use std::io;
use std::time::{Duration, Instant};

/// Records of a round.
const RECORDS: u64 = 5;
/// A round begins so long after the one before, unless that took longer.
const ROUND: Duration = Duration::from_secs(1);
/// Rounds of one grant.
const GENERATION: u64 = 30;
/// Records that the holder has before, for each second that follows. 14,400 before 15 minutes fill the page cache.
const FULL_A_SECOND: u64 = 16;
/// Growth that counts as none: 1 MiB and half a descriptor a minute.
const MEMORY_SLOPE_MAX: f64 = (1 << 20) as f64;
const DESCRIPTOR_SLOPE_MAX: f64 = 0.5;

/// What one daemon grew by, a minute.
struct Growth {
    /// Bytes, in the first half.
    memory_before: f64,
    /// Bytes, in the second half.
    memory: f64,
    /// Descriptors, in the second half.
    descriptors: f64,
}

/// What one daemon held, by the minutes since the start.
#[derive(Default)]
struct Samples {
    resident: Vec<(f64, f64)>,
    descriptors: Vec<(f64, f64)>,
}

pub(super) fn endurance(stage: &Stage, options: &Options) -> io::Result<Outcome> {
    let length = Duration::from_secs_f64(options.minutes * 60.0);
    let pair = Pair::strangers(stage, "endurance", Link::default())?;
    acquaint(&pair.holder, &pair.reader)?;
    let full = Material::values(stage, "before", 0, FULL_A_SECOND * length.as_secs())?;
    pair.holder.imports(&full.path)?;
    let (mut holder, mut reader) = (Samples::default(), Samples::default());
    let (begun, mut rounds, mut grant) = (Instant::now(), 0, None);
    while begun.elapsed() < length {
        let round_end = Instant::now() + ROUND;
        if rounds % GENERATION == 0 {
            grant = Some(rotated(&pair, grant, rounds / GENERATION)?);
        }
        let values = Material::values(stage, &code(rounds / GENERATION), rounds * RECORDS, RECORDS)?;
        pair.holder.imports(&values.path)?;
        std::fs::remove_file(&values.path)?;
        pair.arrives((rounds % GENERATION + 1) * RECORDS)?;
        rounds += 1;
        let minutes = begun.elapsed().as_secs_f64() / 60.0;
        holder.take(minutes, &pair.holder)?;
        reader.take(minutes, &pair.reader)?;
        stage.pause(round_end.saturating_duration_since(Instant::now()))?;
    }
    let records = rounds * RECORDS;
    let half = options.minutes / 2.0;
    let growths = [holder.growth(half), reader.growth(half)];
    let held = growths.iter().all(Growth::is_none);
    let [of_holder, of_reader] = growths;
    Ok(Outcome::new(
        held,
        format!(
            "{records} records imported and synced under {} grants in {:.1} minutes, in whose second half {}, {} (bars \
             +1024 KiB, +0.5)",
            rounds.div_ceil(GENERATION),
            options.minutes,
            of_holder.sentence("the holder"),
            of_reader.sentence("the reader")
        ),
        json!({ "minutes": options.minutes, "rounds": rounds, "records": records, "grants": rounds.div_ceil(GENERATION),
                "holder": of_holder.numbers(pair.holder.uses()?), "reader": of_reader.numbers(pair.reader.uses()?),
                "holder_bytes_a_record": of_holder.memory / (records as f64 / options.minutes) }),
    ))
}

/// What the records of a generation are labelled with.
fn code(generation: u64) -> String {
    format!("generation-{generation}")
}

/// Ends the grant before and waits until all that came by it is gone; then gives the next.
fn rotated(pair: &Pair<'_>, before: Option<String>, generation: u64) -> io::Result<String> {
    if let Some(before) = before {
        pair.holder.revokes(&before)?;
        pair.stage.until("the records of the ended grant are gone", SOON, || {
            Ok((pair.reader.count()? == 0).then_some(()))
        })?;
    }
    pair::grant(pair.stage, &pair.holder, &pair.reader, &["--kind", "fhir", "--code", &code(generation)])
}

impl Samples {
    fn take(&mut self, minutes: f64, node: &Node<'_>) -> io::Result<()> {
        let Use { resident, descriptors, .. } = node.uses()?;
        self.resident.push((minutes, resident as f64));
        self.descriptors.push((minutes, descriptors as f64));
        Ok(())
    }

    /// In the half of the run that begins at `half`, in minutes.
    fn growth(&self, half: f64) -> Growth {
        let (before, after): (Vec<_>, Vec<_>) =
            self.resident.iter().copied().partition(|(minutes, _)| *minutes < half);
        let descriptors: Vec<_> =
            self.descriptors.iter().copied().filter(|(minutes, _)| *minutes >= half).collect();
        Growth { memory_before: slope(&before), memory: slope(&after), descriptors: slope(&descriptors) }
    }
}

impl Growth {
    fn is_none(&self) -> bool {
        self.memory <= MEMORY_SLOPE_MAX && self.descriptors <= DESCRIPTOR_SLOPE_MAX
    }

    fn sentence(&self, who: &str) -> String {
        format!(
            "{who} grew by {:+.0} KiB (in the first half {:+.0}) and {:+.2} descriptors a minute",
            self.memory / 1024.0,
            self.memory_before / 1024.0,
            self.descriptors
        )
    }

    fn numbers(&self, last: Use) -> Value {
        json!({ "memory_bytes_a_minute": self.memory, "memory_bytes_a_minute_before": self.memory_before,
                "descriptors_a_minute": self.descriptors, "resident_bytes": last.resident, "peak_bytes": last.peak,
                "descriptors": last.descriptors })
    }
}
