//! `testnet fuzz`: every parser of foreign bytes is fed seeds that were changed at random, on stable Rust.
//!
//! For: "did not panic" with bounded memory, repeatable from a seed. Not for: coverage-guided search; seeds and
//! dictionaries bring the mutations near to what a parser looks for.

use karte_node::compose::{Moment, dialysis, entry};
use karte_node::import::{Body, Event, Options, import};
use karte_node::observe::{self, units};
use serde_json::json;
use std::io;
use std::ops::ControlFlow;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// Longest input, in bytes. 64 KiB: every format's structure fits, and a million of them take minutes.
const INPUT_BYTES_MAX: usize = 64 * 1024;

/// Feed changed seeds to every parser, and count what panics
#[derive(clap::Args)]
pub struct Fuzz {
    /// One parser, or all
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
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// A parser, what its files are called, and what it looks for.
struct Target {
    name: &'static str,
    /// Endings of its files; the first is the name's of what it is fed.
    endings: &'static [&'static str],
    seeds: &'static [&'static [u8]],
    words: &'static [&'static str],
    feed: fn(&Path, &[u8]),
}

const JSON: &[&str] =
    &["\"", "{", "}", "[", "]", ":", ",", "null", "true", "1e999", "-0", "\\u0000", "\\ud800", "[[[[[[[["];
const TABLE: &[&str] =
    &[",", "\"", "\r\n", "\n", ";", "\t", "62.4", "-1", "NaN", "2026-02-30", "25:61", "\u{feff}", "\"\"\""];
const MARKUP: &[&str] =
    &["<", ">", "/>", "<!ENTITY a \"b\">", "&amp;", "&#0;", "]]>", "<!--", "\"", "<Record ", "startDate=\""];
const BINARY: &[&str] =
    &["\0\0\0\0", "\u{7f}\u{7f}", "DICM", "SQ", "OW", "UN", "PK\u{1}\u{2}", "ustar", ".FIT"];

const TARGETS: &[Target] = &[
    Target {
        name: "fhir",
        endings: &["json"],
        seeds: &[
            br#"{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"2160-0"}]},"effectiveDateTime":"2026-03-01T08:30:00+09:00","valueQuantity":{"value":5.1,"unit":"mg/dL"}}"#,
            br#"{"resourceType":"Bundle","type":"collection","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient","id":"a"}}]}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "ndjson",
        endings: &["ndjson"],
        seeds: &[b"{\"resourceType\":\"Basic\",\"id\":\"1\"}\n{\"resourceType\":\"Basic\",\"id\":\"2\"}\n"],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "apple-health",
        endings: &["xml"],
        seeds: &[
            br#"<?xml version="1.0"?><!DOCTYPE HealthData [<!ELEMENT Record (x)>]><HealthData locale="ja"><Record type="HKQuantityTypeIdentifierStepCount" sourceName="Watch" unit="count" startDate="2026-03-01 08:00:00 +0900" endDate="2026-03-01 08:10:00 +0900" value="412"/><Workout workoutActivityType="HKWorkoutActivityTypeWalking" duration="12" sourceName="Watch" startDate="2026-03-01 08:00:00 +0900" endDate="2026-03-01 08:12:00 +0900"/></HealthData>"#,
        ],
        words: MARKUP,
        feed: as_file,
    },
    Target {
        name: "csv",
        endings: &["csv"],
        seeds: &[
            b"Id,ActivityDay,StepTotal\n1503960366,4/12/2016,13162\n1503960366,4/13/2016,10735\n",
            b"Date,Time,Systolic (mmHg),Diastolic (mmHg),Pulse (bpm)\n2026/03/01,07:10,132,84,72\n",
            b"Date,Start,End,Pre weight (kg),Post weight (kg),UF volume (mL),BP pre (mmHg),Kt/V\n2026-03-01,08:00,12:00,68.2,65.9,2300,150/85,1.4\n",
        ],
        words: TABLE,
        feed: as_file,
    },
    Target {
        name: "fitbit",
        endings: &["json"],
        seeds: &[
            br#"{"activities-steps":[{"dateTime":"2026-03-01","value":"8123"},{"dateTime":"2026-03-02","value":"7000"}]}"#,
            br#"{"activities-steps":[{"dateTime":"2026-03-01","value":"98"}],"activities-steps-intraday":{"dataset":[{"time":"00:01:00","value":7}],"datasetInterval":1,"datasetType":"minute"}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "google-fit",
        endings: &["json"],
        seeds: &[
            br#"{"minStartTimeNs":"0","maxEndTimeNs":"1","dataSourceId":"derived:com.google.weight:x","point":[{"startTimeNanos":"1423785600000000000","endTimeNanos":"1423785600000000000","dataTypeName":"com.google.weight","originDataSourceId":"raw:com.google.weight:y","value":[{"fpVal":72.1}]}]}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "withings",
        endings: &["json"],
        seeds: &[
            br#"{"status":0,"body":{"updatetime":1,"timezone":"Asia/Tokyo","measuregrps":[{"grpid":1,"attrib":0,"date":1433052383,"category":1,"measures":[{"value":74126,"type":1,"unit":-3},{"value":104,"type":10,"unit":0}]}]}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "open-mhealth",
        endings: &["json"],
        seeds: &[
            br#"{"header":{"id":"1","creation_date_time":"2026-03-01T07:25:00+09:00","schema_id":{"namespace":"omh","name":"body-weight","version":"2.0"}},"body":{"body_weight":{"value":62.4,"unit":"kg"},"effective_time_frame":{"date_time":"2026-03-01T07:10:00+09:00"}}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Target {
        name: "fit",
        endings: &["fit"],
        seeds: &[b"\x0e\x10\x00\x00\x00\x00\x00\x00.FIT\x00\x00\x00\x00"],
        words: BINARY,
        feed: as_file,
    },
    Target {
        name: "dicom",
        endings: &["dcm", "DCM"],
        seeds: &[b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0\x08\x00\x18\x00UI\x04\x001.2\0"],
        words: BINARY,
        feed: as_file,
    },
    Target { name: "zip", endings: &["zip"], seeds: &[b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"], words: BINARY, feed: as_file },
    Target { name: "tar", endings: &["tar", "gz", "bz2", "tgz"], seeds: &[b"\x1f\x8b\x08\0\0\0\0\0\0\x03"], words: BINARY, feed: as_file },
    Target {
        name: "entry",
        endings: &["txt"],
        seeds: &[b"weight 62.4kg", b"bp 132/84 72", b"meal \"rice, miso soup\" 640kcal salt 2.1g", b"glucose 118 mg/dL"],
        words: TABLE,
        feed: |_, bytes| {
            let _ = entry::compose(&String::from_utf8_lossy(bytes), Moment { ms: 1_772_000_000_000, offset_min: 540 });
        },
    },
    Target {
        name: "dialysis",
        endings: &["json"],
        seeds: &[br#"{"start":"2026-03-01T08:00:00+08:00","end":"2026-03-01T12:00:00+08:00","pre_weight_kg":68.2,"post_weight_kg":65.9,"uf_volume_ml":2300,"bp_pre":{"systolic":150,"diastolic":85},"ktv":1.4,"complications":["cramps"]}"#],
        words: JSON,
        feed: |_, bytes| {
            if let Ok(session) = dialysis::from_json(bytes) {
                let composed = dialysis::to_fhir(&session);
                let _ = composed.map(|composed| dialysis::from_fhir(composed.json.as_bytes()));
            }
        },
    },
    Target {
        name: "units",
        endings: &["txt"],
        seeds: &[b"mg/dL", b"kg.m/s2", b"[degF]", b"10*3/uL", b"mm[Hg]", b"mmol/L", b"{steps}/d"],
        words: &["/", ".", "10*", "[", "]", "{", "}", "(", ")", "mol", "k", "-2", "/////"],
        feed: |_, bytes| {
            let text = String::from_utf8_lossy(bytes);
            let (from, to) = text.split_at(text.char_indices().nth(text.chars().count() / 2).map_or(0, |(at, _)| at));
            let _ = units::convert(rust_decimal::Decimal::TEN, from, to);
            let _ = units::is_valid(&text);
        },
    },
    Target {
        name: "observe-fhir",
        endings: &["none"],
        seeds: &[br#"{"resourceType":"Observation","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"effectiveDateTime":"2026-03-01T07:10:00+09:00","component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":132,"code":"mm[Hg]","system":"http://unitsofmeasure.org"}}]}"#],
        words: JSON,
        feed: |_, bytes| drop(observe::observations("fhir/Observation", "application/fhir+json", &[], bytes)),
    },
    Target {
        name: "observe-apple",
        endings: &["none"],
        seeds: &[br#"<HealthData><Record type="HKQuantityTypeIdentifierBodyMass" sourceName="Scale" unit="kg" startDate="2026-03-01 07:10:00 +0900" endDate="2026-03-01 07:10:00 +0900" value="62.4"/></HealthData>"#],
        words: MARKUP,
        feed: |_, bytes| {
            drop(observe::observations("daily/weight", "application/xml; format=apple-health", &[], bytes));
        },
    },
];

/// As a file of its own, and whatever it becomes is read again.
fn as_file(file: &Path, bytes: &[u8]) {
    if std::fs::write(file, bytes).is_err() {
        return;
    }
    let mut read = |event| {
        if let Event::Found(finding) = event
            && let Body::Memory(bytes) = &finding.bytes
        {
            let facts = &finding.facts;
            let _ = observe::observations(&facts.kind, &facts.media_type, &facts.profiles, bytes);
        }
        ControlFlow::Continue(())
    };
    let _ = import(&[file.to_owned()], &Options::default(), &mut read);
}

/// True when nothing panicked.
pub fn run(args: &Fuzz) -> io::Result<bool> {
    let folder = tempfile::Builder::new().prefix("karte-fuzz-").tempdir_in(memory_folder())?;
    // What a library panics with inside of its own guard is no finding; what comes through is told below.
    std::panic::set_hook(Box::new(|_| {}));
    let targets: Vec<&Target> =
        TARGETS.iter().filter(|one| args.target == "all" || args.target == one.name).collect();
    if targets.is_empty() {
        let names: Vec<&str> = TARGETS.iter().map(|target| target.name).collect();
        return Err(io::Error::other(format!("expected all or one of {}", names.join(", "))));
    }
    let (mut all, mut executions, mut panics) = (serde_json::Map::new(), 0, 0);
    for target in targets {
        let begun = Instant::now();
        let found = fuzz(target, args, folder.path())?;
        let seconds = begun.elapsed().as_secs_f64();
        if !args.json {
            println!("{:<14} {:>9} inputs {:>3} panics {seconds:>8.1} s", target.name, args.runs, found);
        }
        all.insert(
            target.name.into(),
            json!({ "executions": args.runs, "panics": found, "seconds": seconds }),
        );
        executions += args.runs;
        panics += found;
    }
    let peak_kib = peak_memory_kib();
    let summary = json!({ "seed": args.seed, "executions": executions, "panics": panics, "peak_kib": peak_kib, "targets": all });
    println!("{summary}");
    Ok(panics == 0)
}

fn fuzz(target: &Target, args: &Fuzz, folder: &Path) -> io::Result<u64> {
    let mut seeds: Vec<Vec<u8>> = target.seeds.iter().map(|seed| seed.to_vec()).collect();
    if let Some(more) = &args.seeds {
        seeds.extend(files_with(more, target.endings));
    }
    let ending = target.endings.first().copied().unwrap_or("bin");
    let file = folder.join(format!("input.{ending}"));
    let mut dice = Dice(args.seed ^ u64::from(crc(target.name)));
    let mut panics = 0;
    for number in 0..args.runs {
        let input = changed(&seeds, target.words, &mut dice);
        if catch_unwind(AssertUnwindSafe(|| (target.feed)(&file, &input))).is_err() {
            panics += 1;
            let kept = std::env::temp_dir()
                .join(format!("karte-fuzz-{}-{}-{number}.{ending}", target.name, args.seed));
            std::fs::write(&kept, &input)?;
            eprintln!("{}: input {number} panics; it is kept as {}", target.name, kept.display());
        }
    }
    Ok(panics)
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

/// SplitMix64 (Steele, Lea, Flood 2014): small, and the same on every machine.
struct Dice(u64);

impl Dice {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mixed = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    fn below(&mut self, bound: usize) -> usize {
        let bound = u64::try_from(bound.max(1)).unwrap_or(1);
        usize::try_from(self.next() % bound).unwrap_or_default()
    }

    fn pick<'a, T>(&mut self, list: &'a [T]) -> Option<&'a T> {
        list.get(self.below(list.len()))
    }
}

fn crc(name: &str) -> u32 {
    name.bytes().fold(7, |sum, byte| sum.wrapping_mul(31).wrapping_add(byte.into()))
}

/// One seed after one to eight changes.
fn changed(seeds: &[Vec<u8>], words: &[&str], dice: &mut Dice) -> Vec<u8> {
    let mut input = dice.pick(seeds).cloned().unwrap_or_default();
    for _ in 0..=dice.below(8) {
        change(&mut input, seeds, words, dice);
    }
    input.truncate(INPUT_BYTES_MAX);
    input
}

fn change(input: &mut Vec<u8>, seeds: &[Vec<u8>], words: &[&str], dice: &mut Dice) {
    const INTERESTING: [u32; 8] = [0, 1, 0x7f, 0xff, 0x7fff, 0xffff, 0x7fff_ffff, 0xffff_ffff];
    let at = dice.below(input.len() + 1);
    let until = (at + dice.below(64)).min(input.len());
    match dice.below(8) {
        0 => {
            let bit = dice.below(8);
            input.get_mut(at).into_iter().for_each(|byte| *byte ^= 1 << bit);
        }
        1 => {
            let value = dice.pick(&INTERESTING).copied().unwrap_or_default();
            let bytes = if dice.below(2) == 0 { value.to_le_bytes() } else { value.to_be_bytes() };
            let width = [1, 2, 4].get(dice.below(3)).copied().unwrap_or(4);
            for (to, from) in input.iter_mut().skip(at).zip(bytes.into_iter().take(width)) {
                *to = from;
            }
        }
        2 => drop(input.drain(at..until)),
        3 => {
            let part: Vec<u8> = input.get(at..until).unwrap_or_default().to_vec();
            let times = 1 + dice.below(32);
            input.splice(at..at, part.repeat(times));
        }
        4 => {
            let word = dice.pick(words).copied().unwrap_or_default();
            input.splice(at..at, word.bytes());
        }
        5 => {
            let word = dice.pick(words).copied().unwrap_or_default();
            input.splice(at..until, word.bytes());
        }
        6 => input.truncate(at),
        _ => {
            let other = dice.pick(seeds).cloned().unwrap_or_default();
            let from = dice.below(other.len() + 1);
            input.truncate(at);
            input.extend(other.get(from..).unwrap_or_default());
        }
    }
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

    #[test]
    fn the_same_seed_changes_the_same_way_and_another_does_not() {
        let inputs = |seed| {
            let mut dice = Dice(seed);
            (0..20).map(|_| changed(&[b"weight 62.4kg".to_vec()], TABLE, &mut dice)).collect::<Vec<_>>()
        };
        assert_eq!(inputs(1), inputs(1));
        assert_ne!(inputs(1), inputs(2));
    }

    #[test]
    fn a_parser_that_panics_is_seen() {
        let weak = Target {
            name: "weak",
            endings: &["txt"],
            seeds: &[b"62"],
            words: &[],
            feed: |_, bytes| assert!(bytes.len() > 1),
        };
        let args = Fuzz { target: "weak".into(), runs: 200, seed: 1, seeds: None, json: true };
        let folder = tempfile::tempdir().expect("there is room");
        assert!(fuzz(&weak, &args, folder.path()).expect("it runs") > 0);
    }
}
