//! The parsers of files and of what people type: importers, observations, entries, units.

use super::Target;
use karte_node::compose::{Moment, dialysis, entry};
use karte_node::import::{Body, Event, Options, import};
use karte_node::observe::{self, units};
use std::ops::ControlFlow;
use std::path::Path;

/// A parser, what its files are called, and what it looks for.
struct Importer {
    name: &'static str,
    /// Endings of its files; the first is the name's of what it is fed.
    endings: &'static [&'static str],
    seeds: &'static [&'static [u8]],
    words: &'static [&'static str],
    feed: fn(&Path, &[u8]),
}

/// All of them.
pub(super) fn targets() -> Vec<Target> {
    let of = |importer: &Importer| Target {
        name: importer.name,
        is_protocol: false,
        endings: importer.endings,
        seeds: importer.seeds.iter().map(|seed| seed.to_vec()).collect(),
        words: importer.words.iter().map(|word| word.as_bytes()).collect(),
        feed: Box::new(importer.feed),
    };
    TARGETS.iter().map(of).collect()
}

const JSON: &[&str] =
    &["\"", "{", "}", "[", "]", ":", ",", "null", "true", "1e999", "-0", "\\u0000", "\\ud800", "[[[[[[[["];
const TABLE: &[&str] =
    &[",", "\"", "\r\n", "\n", ";", "\t", "62.4", "-1", "NaN", "2026-02-30", "25:61", "\u{feff}", "\"\"\""];
const MARKUP: &[&str] =
    &["<", ">", "/>", "<!ENTITY a \"b\">", "&amp;", "&#0;", "]]>", "<!--", "\"", "<Record ", "startDate=\""];
const BINARY: &[&str] =
    &["\0\0\0\0", "\u{7f}\u{7f}", "DICM", "SQ", "OW", "UN", "PK\u{1}\u{2}", "ustar", ".FIT"];

const TARGETS: &[Importer] = &[
    Importer {
        name: "fhir",
        endings: &["json"],
        seeds: &[
            br#"{"resourceType":"Observation","status":"final","code":{"coding":[{"system":"http://loinc.org","code":"2160-0"}]},"effectiveDateTime":"2026-03-01T08:30:00+09:00","valueQuantity":{"value":5.1,"unit":"mg/dL"}}"#,
            br#"{"resourceType":"Bundle","type":"collection","entry":[{"fullUrl":"urn:uuid:1","resource":{"resourceType":"Patient","id":"a"}}]}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "ndjson",
        endings: &["ndjson"],
        seeds: &[b"{\"resourceType\":\"Basic\",\"id\":\"1\"}\n{\"resourceType\":\"Basic\",\"id\":\"2\"}\n"],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "apple-health",
        endings: &["xml"],
        seeds: &[
            br#"<?xml version="1.0"?><!DOCTYPE HealthData [<!ELEMENT Record (x)>]><HealthData locale="ja"><Record type="HKQuantityTypeIdentifierStepCount" sourceName="Watch" unit="count" startDate="2026-03-01 08:00:00 +0900" endDate="2026-03-01 08:10:00 +0900" value="412"/><Workout workoutActivityType="HKWorkoutActivityTypeWalking" duration="12" sourceName="Watch" startDate="2026-03-01 08:00:00 +0900" endDate="2026-03-01 08:12:00 +0900"/></HealthData>"#,
        ],
        words: MARKUP,
        feed: as_file,
    },
    Importer {
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
    Importer {
        name: "fitbit",
        endings: &["json"],
        seeds: &[
            br#"{"activities-steps":[{"dateTime":"2026-03-01","value":"8123"},{"dateTime":"2026-03-02","value":"7000"}]}"#,
            br#"{"activities-steps":[{"dateTime":"2026-03-01","value":"98"}],"activities-steps-intraday":{"dataset":[{"time":"00:01:00","value":7}],"datasetInterval":1,"datasetType":"minute"}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "google-fit",
        endings: &["json"],
        seeds: &[
            br#"{"minStartTimeNs":"0","maxEndTimeNs":"1","dataSourceId":"derived:com.google.weight:x","point":[{"startTimeNanos":"1423785600000000000","endTimeNanos":"1423785600000000000","dataTypeName":"com.google.weight","originDataSourceId":"raw:com.google.weight:y","value":[{"fpVal":72.1}]}]}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "withings",
        endings: &["json"],
        seeds: &[
            br#"{"status":0,"body":{"updatetime":1,"timezone":"Asia/Tokyo","measuregrps":[{"grpid":1,"attrib":0,"date":1433052383,"category":1,"measures":[{"value":74126,"type":1,"unit":-3},{"value":104,"type":10,"unit":0}]}]}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "open-mhealth",
        endings: &["json"],
        seeds: &[
            br#"{"header":{"id":"1","creation_date_time":"2026-03-01T07:25:00+09:00","schema_id":{"namespace":"omh","name":"body-weight","version":"2.0"}},"body":{"body_weight":{"value":62.4,"unit":"kg"},"effective_time_frame":{"date_time":"2026-03-01T07:10:00+09:00"}}}"#,
        ],
        words: JSON,
        feed: as_file,
    },
    Importer {
        name: "fit",
        endings: &["fit"],
        seeds: &[b"\x0e\x10\x00\x00\x00\x00\x00\x00.FIT\x00\x00\x00\x00"],
        words: BINARY,
        feed: as_file,
    },
    Importer {
        name: "dicom",
        endings: &["dcm", "DCM"],
        seeds: &[b"\x08\x00\x16\x00UI\x1a\x001.2.840.10008.5.1.4.1.1.2\0\x08\x00\x18\x00UI\x04\x001.2\0"],
        words: BINARY,
        feed: as_file,
    },
    Importer { name: "zip", endings: &["zip"], seeds: &[b"PK\x05\x06\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"], words: BINARY, feed: as_file },
    Importer { name: "tar", endings: &["tar", "gz", "bz2", "tgz"], seeds: &[b"\x1f\x8b\x08\0\0\0\0\0\0\x03"], words: BINARY, feed: as_file },
    Importer {
        name: "entry",
        endings: &["txt"],
        seeds: &[b"weight 62.4kg", b"bp 132/84 72", b"meal \"rice, miso soup\" 640kcal salt 2.1g", b"glucose 118 mg/dL"],
        words: TABLE,
        feed: |_, bytes| {
            let _ = entry::compose(&String::from_utf8_lossy(bytes), Moment { ms: 1_772_000_000_000, offset_min: 540 });
        },
    },
    Importer {
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
    Importer {
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
    Importer {
        name: "observe-fhir",
        endings: &["none"],
        seeds: &[br#"{"resourceType":"Observation","code":{"coding":[{"system":"http://loinc.org","code":"85354-9"}]},"effectiveDateTime":"2026-03-01T07:10:00+09:00","component":[{"code":{"coding":[{"system":"http://loinc.org","code":"8480-6"}]},"valueQuantity":{"value":132,"code":"mm[Hg]","system":"http://unitsofmeasure.org"}}]}"#],
        words: JSON,
        feed: |_, bytes| drop(observe::observations("fhir/Observation", "application/fhir+json", &[], bytes)),
    },
    Importer {
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
