//! Exports of our own, and the shared one where it is at hand.

use std::collections::{BTreeMap, BTreeSet};
use std::io::BufReader;
use std::ops::ControlFlow;

use proptest::prelude::*;
use rust_decimal::Decimal;

use super::groups::Room;
use super::{observations, read_within};
use crate::import::sink::Sink;
use crate::import::{Body, Event, Facts, ImportError, Limits, Totals};
use crate::observe::{LOINC, Observation, Value};

#[derive(Default)]
struct Heard {
    found: Vec<(Facts, String)>,
    refused: Vec<(String, ImportError)>,
    totals: Totals,
}

impl Heard {
    fn reasons(&self) -> Vec<String> {
        self.refused.iter().map(|(origin, reason)| format!("{origin}: {reason}")).collect()
    }

    fn observations(&self) -> Vec<Observation> {
        self.found.iter().flat_map(|(_, body)| observations(body.as_bytes()).unwrap()).collect()
    }
}

fn read(export: &[u8]) -> Heard {
    read_in(Room::default(), export)
}

fn read_in(room: Room, export: &[u8]) -> Heard {
    let mut heard = Heard::default();
    let limits = Limits::default();
    let mut visit = |event| {
        match event {
            Event::Found(finding) => match finding.bytes {
                Body::Memory(bytes) => heard.found.push((finding.facts, String::from_utf8(bytes).unwrap())),
                Body::File(..) => panic!("a day is in memory"),
            },
            Event::Refused { origin, reason } => heard.refused.push((origin, reason)),
            Event::Progress { .. } => {}
        }
        ControlFlow::Continue(())
    };
    let mut sink = Sink::new(&limits, 0, &mut visit);
    // Chunks that end inside every construct.
    let _flow = read_within(room, BufReader::with_capacity(7, export), "e.xml", &mut sink);
    heard.totals = sink.totals;
    heard
}

fn export(elements: &str) -> Vec<u8> {
    let declarations = "<!DOCTYPE HealthData [\n<!-- Hana's version: 13 ]> -->\n<!ELEMENT HealthData (Record)*>\n<!ATTLIST HealthData\n  locale CDATA #REQUIRED\n>\n]>";
    format!("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n{declarations}\n<HealthData locale=\"en_JP\">\n{elements}\n</HealthData>\n")
        .into_bytes()
}

fn steps(source: &str, start: &str, end: &str, value: &str) -> String {
    format!(
        "<Record type=\"HKQuantityTypeIdentifierStepCount\"  sourceName='{source}' unit=\"count\" startDate=\"{start}\" endDate=\"{end}\" value=\"{value}\" />"
    )
}

#[test]
fn a_day_keeps_the_exact_bytes_of_its_elements_in_order() {
    let early = steps("Hana&apos;s Watch", "2024-06-10 00:10:00 +0900", "2024-06-10 00:20:00 +0900", "31");
    let phone = steps("Phone", "2024-06-10 08:00:00 +0900", "2024-06-10 08:01:00 +0900", "7");
    let late = steps("Hana&apos;s Watch", "2024-06-10 23:50:00 +0900", "2024-06-11 00:05:00 +0900", "12")
        .replace(" />", ">\n  <MetadataEntry key='&lt;k&gt;' value=\"1\"></MetadataEntry >\n </Record>");
    let next = steps("Hana&apos;s Watch", "2024-06-11 00:10:00 +0900", "2024-06-11 00:20:00 +0900", "1");
    let heard = read(&export(&format!("<ExportDate value=\"x\"/><Me/>{early}\n{phone}{next}\t{late}")));
    assert_eq!((heard.reasons(), heard.totals.elements_skipped), (vec![], 2));
    let bodies: Vec<_> = heard.found.iter().map(|(_, body)| body.as_str()).collect();
    let day = |inner: &str| {
        format!(
            "<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n<HealthData locale=\"en_JP\">\n{inner}\n</HealthData>\n"
        )
    };
    assert_eq!(bodies, [day(&format!("{early}\n{late}")), day(&phone), day(&next)]);

    let facts = &heard.found[0].0;
    assert_eq!(
        (facts.kind.as_str(), facts.categories.as_slice()),
        ("daily/steps", &["activity".to_owned()][..])
    );
    assert_eq!((facts.codes.len(), facts.codes[0].code.as_str()), (1, "55423-8"));
    assert_eq!(facts.title, "Steps, Hana's Watch, 2024-06-10");
    assert_eq!(facts.source_id.as_deref(), Some("apple-health/StepCount/Hana's Watch/2024-06-10"));
    assert_eq!(facts.media_type, "application/xml; format=apple-health");
    assert!(facts.replaces_same_source);
    // 2024-06-10 00:10 to 2024-06-11 00:05 in Tokyo.
    let window = facts.effective.map(|e| (e.start_ms, e.end_ms, e.offset_min));
    assert_eq!(window, Some((1_717_945_800_000, 1_718_031_900_000, 540)));
}

#[test]
fn a_day_is_the_day_of_the_clock_it_was_written_by() {
    let one = steps("W", "2024-06-10 23:30:00 +0900", "2024-06-10 23:31:00 +0900", "1");
    let same_moment = steps("W", "2024-06-10 16:30:00 +0200", "2024-06-10 16:31:00 +0200", "2");
    let before = steps("W", "2024-06-09 23:30:00 -0700", "2024-06-09 23:31:00 -0700", "3");
    let heard = read(&export(&format!("{one}{same_moment}{before}")));
    let ids: Vec<_> = heard.found.iter().map(|(facts, _)| facts.source_id.clone().unwrap()).collect();
    assert_eq!(ids, ["apple-health/StepCount/W/2024-06-10", "apple-health/StepCount/W/2024-06-09"]);
    let offset = heard.found[0].0.effective.map(|e| e.offset_min);
    assert_eq!(offset, Some(540), "of the first that starts");
    let none = read(&export(&steps("W", "soon", "later", "3")));
    assert_eq!(
        none.reasons(),
        [
            "e.xml element 1: expected a startDate, dateComponents, dateIssued or receivedDate, got none that is a date"
        ]
    );
}

fn record(kind: &str, unit: &str, value: &str, rest: &str) -> String {
    format!(
        "<Record type=\"{kind}\" sourceName=\"S\" unit=\"{unit}\" startDate=\"2024-06-10 08:00:00 +0900\" endDate=\"2024-06-10 08:00:00 +0900\" value=\"{value}\" {rest}/>"
    )
}

/// Code, value as text, whole it is part of.
fn told(heard: &Heard) -> Vec<(String, String, Option<String>)> {
    let value = |value: &Value| match value {
        Value::Quantity { value, unit } => format!("{value} {unit}"),
        Value::Text(text) => text.clone(),
    };
    let observations = heard.observations();
    observations
        .iter()
        .map(|o| (o.code.code.clone(), value(&o.value), o.part_of.clone().map(|c| c.code)))
        .collect()
}

#[test]
fn values_are_exact_and_their_units_are_ucum() {
    let quantity = |kind: &str, unit: &str, value: &str| {
        let heard = read(&export(&record(&format!("HKQuantityTypeIdentifier{kind}"), unit, value, "")));
        assert_eq!(heard.reasons(), Vec::<String>::new());
        let label: Vec<_> = heard.found[0].0.codes.iter().map(|code| code.code.clone()).collect();
        let (code, value, _) = told(&heard).remove(0);
        assert_eq!(label, std::slice::from_ref(&code), "the label says the code too");
        (heard.found[0].0.kind.clone(), code, value)
    };
    let expected =
        |kind: &str, code: &str, value: &str| (format!("daily/{kind}"), code.to_owned(), value.to_owned());
    let cases = [
        ("StepCount", "count", "31", expected("steps", "55423-8", "31 {steps}")),
        ("OxygenSaturation", "%", "0.97", expected("oxygen-saturation", "59408-5", "97 %")),
        ("OxygenSaturation", "%", "97", expected("oxygen-saturation", "59408-5", "97 %")),
        ("BodyFatPercentage", "%", "0.2250", expected("body-fat", "41982-0", "22.5 %")),
        ("BodyMass", "lb", "137.4", expected("weight", "29463-7", "137.4 [lb_av]")),
        ("BodyMassIndex", "count", "22.1", expected("weight", "39156-5", "22.1 kg/m2")),
        (
            "HeartRate",
            "count/min",
            "61.000000000000007",
            expected("heart-rate", "8867-4", "61.000000000000007 /min"),
        ),
        ("BloodGlucose", "mg/dL", "101", expected("glucose", "2339-0", "101 mg/dL")),
        (
            "BloodGlucose",
            "mmol&lt;180.1558800000541&gt;/L",
            "5.6",
            expected("glucose", "15074-8", "5.6 mmol/L"),
        ),
        ("BodyTemperature", "degC", "36.55", expected("temperature", "8310-5", "36.55 Cel")),
        ("Height", "cm", "1.6e2", expected("height", "8302-2", "160 cm")),
        ("DietaryEnergyConsumed", "kcal", "512", expected("nutrition", "9052-2", "512 kcal")),
        (
            "DietarySodium",
            "mg",
            "900",
            expected("nutrition", "HKQuantityTypeIdentifierDietarySodium", "900 mg"),
        ),
        ("New", "furlong{}", "1", expected("other", "HKQuantityTypeIdentifierNew", "1 {furlong__}")),
        ("New", "", "many", expected("other", "HKQuantityTypeIdentifierNew", "many")),
    ];
    for (kind, unit, value, expected) in cases {
        assert_eq!(quantity(kind, unit, value), expected, "{kind} {unit} {value}");
    }
    let device =
        "device=\"&lt;&lt;HKDevice: 0x28&gt;, name:Apple Watch, hardware:Watch6,4, software:10.1&gt;\"";
    let heard = read(&export(&record("HKQuantityTypeIdentifierStepCount", "count", "1", device)));
    assert_eq!(heard.observations()[0].source.device.as_deref(), Some("Watch6,4"));
}

#[test]
fn what_is_said_in_a_correlation_and_on_its_own_is_one_observation() {
    let pressure = |kind: &str, value: &str| {
        record(&format!("HKQuantityTypeIdentifierBloodPressure{kind}"), "mmHg", value, "")
    };
    let (upper, lower, alone) =
        (pressure("Systolic", "118"), pressure("Diastolic", "74"), pressure("Systolic", "121"));
    let energy = record("HKQuantityTypeIdentifierDietaryEnergyConsumed", "kcal", "500", "");
    let at = "sourceName=\"S\" startDate=\"2024-06-10 08:00:00 +0900\" endDate=\"2024-06-10 08:00:00 +0900\"";
    let both = format!(
        "<Correlation type=\"HKCorrelationTypeIdentifierBloodPressure\" {at}>{upper}{lower}</Correlation>"
    );
    let meal = format!(
        "<Correlation type=\"HKCorrelationTypeIdentifierFood\" {at}><MetadataEntry key=\"HKFoodType\" value=\"Rice &amp; fish\"/>{energy}</Correlation>"
    );
    let heard = read(&export(&format!("{upper}{alone}{energy}{lower}{both}{meal}")));
    assert_eq!(heard.reasons(), Vec::<String>::new());
    assert_eq!(heard.found.len(), 2, "one day of blood pressure and one of food");
    let codes: Vec<_> = heard.found[0].0.codes.iter().map(|code| code.code.as_str()).collect();
    assert_eq!(codes, ["8480-6", "8462-4", "85354-9"]);
    let panel = Some("85354-9".to_owned());
    let food = Some("HKCorrelationTypeIdentifierFood".to_owned());
    let expected = [
        ("8480-6".to_owned(), "121 mm[Hg]".to_owned(), panel.clone()),
        ("8480-6".into(), "118 mm[Hg]".into(), panel.clone()),
        ("8462-4".into(), "74 mm[Hg]".into(), panel),
        ("HKCorrelationTypeIdentifierFood".into(), "Rice & fish".into(), None),
        ("9052-2".into(), "500 kcal".into(), food),
    ];
    assert_eq!(told(&heard), expected);
}

#[test]
fn sleep_workouts_and_summaries_are_read() {
    let elements = "<Record type=\"HKCategoryTypeIdentifierSleepAnalysis\" sourceName=\"W\" startDate=\"2024-06-10 23:00:00 +0900\" endDate=\"2024-06-11 06:00:00 +0900\" value=\"HKCategoryValueSleepAnalysisAsleepCore\"/>
        <Workout workoutActivityType=\"HKWorkoutActivityTypeRunning\" duration=\"30.5\" durationUnit=\"min\" sourceName=\"W\" startDate=\"2024-06-10 18:00:00 +0900\" endDate=\"2024-06-10 18:30:30 +0900\">
         <WorkoutStatistics type=\"HKQuantityTypeIdentifierDistanceWalkingRunning\" sum=\"5.01\" unit=\"km\"/></Workout>
        <ActivitySummary dateComponents=\"2024-06-10\" activeEnergyBurned=\"311.5\" activeEnergyBurnedUnit=\"kcal\" appleExerciseTime=\"31\" appleStandHours=\"11\"/>
        <Record type=\"HKCategoryTypeIdentifierMindfulSession\" sourceName=\"W\" startDate=\"2024-06-10 07:00:00 +0900\" endDate=\"2024-06-10 07:10:00 +0900\"/>";
    let heard = read(&export(elements));
    assert_eq!(heard.reasons(), Vec::<String>::new());
    let kinds: Vec<_> = heard.found.iter().map(|(facts, _)| facts.kind.as_str()).collect();
    assert_eq!(kinds, ["daily/sleep", "daily/workout", "daily/activity", "daily/mindfulness"]);
    assert_eq!(heard.found[2].0.title, "Activity summary, Apple Health, 2024-06-10");
    let workout = Some("HKWorkoutTypeIdentifier".to_owned());
    let expected = [
        ("93832-4".to_owned(), "asleep core".to_owned(), None),
        ("HKWorkoutTypeIdentifier".into(), "running".into(), None),
        ("HKWorkout.duration".into(), "30.5 min".into(), workout.clone()),
        ("41953-1".into(), "5.01 km".into(), workout),
        ("HKActivitySummary.activeEnergyBurned".into(), "311.5 kcal".into(), None),
        ("HKActivitySummary.appleExerciseTime".into(), "31 min".into(), None),
        ("HKActivitySummary.appleStandHours".into(), "11 h".into(), None),
        ("HKCategoryTypeIdentifierMindfulSession".into(), "Mindful minutes".into(), None),
    ];
    assert_eq!(told(&heard), expected);
    let slept = heard.observations()[0].effective;
    assert_eq!(slept.end_ms - slept.start_ms, 7 * 3_600_000, "how long is in its time");
}

#[test]
fn hostile_xml_ends_in_a_named_error() {
    let step = steps("W", "2024-06-10 08:00:00 +0900", "2024-06-10 08:01:00 +0900", "1");
    let with =
        |declaration: &str| format!("<!DOCTYPE HealthData [{declaration}]><HealthData>{step}</HealthData>");
    let inside = |element: &str| format!("<HealthData>{step}{element}{step}</HealthData>");
    let entities = "expected XML that declares no entities, got declarations; --format document keeps it unread if you trust it";
    let external =
        "expected XML that stands for itself, got a reference to an outside DTD; --format document keeps it";
    let wide: String = (0..65).map(|n| format!("a{n}=\"\" ")).collect();
    let deep = format!("<Record>{}", "<a>".repeat(40));
    let cases = [
        (with("<!ENTITY a \"b\">"), entities, 0),
        (with("<!-- <!ENTITY a> \" SYSTEM --><!ENTITY % p SYSTEM \"file:///etc/passwd\">"), entities, 0),
        (with("<!ATTLIST a b CDATA \"<!ENTITY x>\"> %p;"), entities, 0),
        (format!("<!DOCTYPE HealthData SYSTEM \"http://x\"><HealthData>{step}</HealthData>"), external, 0),
        (with("<!NOTATION n PUBLIC \"x\">"), external, 0),
        (
            "<html><HealthData/></html>".into(),
            "expected XML with the root <HealthData>, got something else",
            0,
        ),
        (
            "<?xml version=\"1.0\" encoding=\"UTF-16\"?><HealthData/>".into(),
            "expected XML in UTF-8, got another encoding",
            0,
        ),
        (inside(&format!("<Record {wide}/>")), "expected at most 64 attributes in an element, got more", 2),
        (
            inside(&step.replace("'W'", "\"&bomb;\"")),
            "expected no entities beside the five of XML, got another one",
            2,
        ),
        (
            inside("<Record><a>&bomb;</a></Record>"),
            "expected no entities beside the five of XML, got another one",
            2,
        ),
        (
            inside("<Record type='a' type='b'/>"),
            "expected attributes of the form name=\"value\", each once, got something else",
            2,
        ),
        (inside(&deep), "expected elements at most 32 deep, got a deeper one", 1),
    ];
    for (text, reason, kept) in cases {
        let heard = read(text.as_bytes());
        let reasons: Vec<_> = heard.refused.iter().map(|(_, reason)| reason.to_string()).collect();
        assert_eq!(reasons, [reason], "{}", &text[..text.len().min(120)]);
        let bodies: String = heard.found.iter().map(|(_, body)| body.as_str()).collect();
        assert_eq!(bodies.matches("<Record").count(), kept, "{reason}");
    }
    let long = format!("<HealthData>{step}<Record a=\"{}", "x".repeat(9 << 20));
    let heard = read_in(Room::default(), long.as_bytes());
    assert_eq!(heard.reasons(), ["e.xml: expected an element of at most 8388608 bytes, got a larger one"]);
    assert_eq!(heard.found.len(), 1);
}

#[test]
fn an_export_that_is_cut_short_keeps_what_stood_before() {
    let step = steps("W", "2024-06-10 08:00:00 +0900", "2024-06-10 08:01:00 +0900", "1");
    let whole = export(&step.repeat(9));
    for cut in 0..whole.len() - 1 {
        let heard = read(&whole[..cut]);
        let before = String::from_utf8_lossy(&whole[..cut]).matches(&step).count();
        let kept: usize = heard.found.iter().map(|(_, body)| body.matches(&step).count()).sum();
        let closed = whole[..cut].ends_with(b"</HealthData>");
        assert_eq!(
            (kept, heard.refused.len()),
            (before, usize::from(!closed)),
            "cut at {cut}: {:?}",
            heard.refused
        );
    }
}

/// One element of an export that is not sorted.
#[derive(Debug, Clone)]
struct Step {
    watch: bool,
    day: u32,
    minute: u32,
    zone: i32,
    value: Decimal,
}

impl Step {
    fn xml(&self) -> String {
        let at = format!(
            "2024-06-{:02} {:02}:{:02}:00 {:+05}",
            self.day,
            self.minute / 60,
            self.minute % 60,
            self.zone
        );
        steps(if self.watch { "Watch" } else { "Phone" }, &at, &at, &self.value.to_string())
    }

    /// What it says, worked out without the code under test.
    fn says(&self) -> (String, i64, Decimal) {
        let minutes = i64::from(self.day - 1) * 1440 + i64::from(self.minute)
            - i64::from(self.zone / 100 * 60 + self.zone % 100);
        let source = if self.watch { "Watch" } else { "Phone" };
        (source.to_owned(), 1_717_200_000_000 + minutes * 60_000, self.value)
    }
}

fn a_step() -> impl Strategy<Value = Step> {
    let zone = prop_oneof![Just(900), Just(-330), Just(0), Just(1245)];
    let value = (-9_999_999_i64..9_999_999, 0_u32..6).prop_map(|(n, scale)| Decimal::new(n, scale));
    (any::<bool>(), 1_u32..5, 0_u32..1440, zone, value).prop_map(|(watch, day, minute, zone, value)| Step {
        watch,
        day,
        minute,
        zone,
        value,
    })
}

proptest! {
    /// Every element comes back as the observation it was made from, whatever the order and however little room
    /// there is; no two records share a source id; a second reading says the same.
    #[test]
    fn elements_come_back_as_their_observations(
        list in proptest::collection::vec(a_step(), 0..40),
        held_bytes_max in prop_oneof![Just(0_usize), Just(2000), Just(1 << 20)],
        days_max in 0_usize..4,
        day_bytes_max in prop_oneof![Just(0_usize), Just(600), Just(1 << 20)],
    ) {
        let room = Room { held_bytes_max, days_max, day_bytes_max };
        let text = export(&list.iter().map(Step::xml).collect::<Vec<_>>().join("\n"));
        let heard = read_in(room, &text);
        prop_assert_eq!(heard.reasons(), Vec::<String>::new());
        let mut got: Vec<_> = heard.observations().into_iter().map(|o| {
            assert_eq!(o.code.system, LOINC);
            let Value::Quantity { value, unit } = o.value else { panic!("steps are counted") };
            assert_eq!((unit.as_str(), o.effective.end_ms), ("{steps}", o.effective.start_ms));
            (o.source.name, o.effective.start_ms, value)
        }).collect();
        let mut expected: Vec<_> = list.iter().map(Step::says).collect();
        got.sort();
        expected.sort();
        prop_assert_eq!(got, expected);
        let ids: BTreeSet<_> = heard.found.iter().map(|(facts, _)| facts.source_id.clone()).collect();
        prop_assert_eq!(ids.len(), heard.found.len());
        prop_assert_eq!(read_in(room, &text).found, heard.found);
    }

    /// No bytes make the reader panic, and a day's own record can always be read.
    #[test]
    fn no_bytes_break_the_reader(flips in proptest::collection::vec((any::<usize>(), any::<u8>()), 1..9)) {
        let step = steps("W", "2024-06-10 08:00:00 +0900", "2024-06-10 08:01:00 +0900", "1");
        let mut text = export(&step.repeat(3));
        let length = text.len();
        flips.iter().for_each(|(at, byte)| text[at % length] = *byte);
        let heard = read(&text);
        for (_, body) in &heard.found {
            prop_assert!(observations(body.as_bytes()).is_ok(), "{}", body);
        }
    }
}

/// The shared export, counted by its tags: with no code of ours, every one of its elements is in a record once.
#[test]
fn the_shared_export_is_imported_whole() {
    let folders = std::env::var_os("KARTE_DATA").map(std::path::PathBuf::from);
    let folders = folders.into_iter().chain(["../shared/data".into(), "../../shared/data".into()]);
    let mut files = folders.map(|data| data.join("wearable/apple-health/export.xml"));
    let Some(file) = files.find(|file| file.is_file()) else {
        return println!("skipped 1: no shared data at hand");
    };
    let original = std::fs::read_to_string(file).unwrap();
    let heard = read(original.as_bytes());
    assert_eq!(heard.reasons(), Vec::<String>::new());
    let all: String = heard.found.iter().map(|(_, body)| body.as_str()).collect();
    let mut counts = BTreeMap::new();
    for tag in ["<Record ", "<Workout ", "<WorkoutStatistics ", "<MetadataEntry ", "<FileReference "] {
        assert_eq!(all.matches(tag).count(), original.matches(tag).count(), "{tag}");
        counts.insert(tag, original.matches(tag).count());
    }
    assert_eq!(counts["<Record "], 5);
    assert_eq!((heard.found.len(), counts["<Workout "]), (9, 8));
}
