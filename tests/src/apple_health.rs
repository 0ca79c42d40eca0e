//! Exports of Apple Health that nobody lived: any size, the same for the same seed, written as a stream.
//!
//! For: what an importer must bear. A watch and a phone both count steps, time zones change, a few values come late,
//! a blood pressure stands on its own and in its correlation. Not for: medicine; the numbers only look alike.

use std::io::{self, Write};

/// The declarations at the head of an export, of the same kind and length as a phone's.
const DECLARATIONS: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE HealthData [
<!-- HealthKit Export Version: 13 -->
<!ELEMENT HealthData (ExportDate,Me,(Record|Correlation|Workout|ActivitySummary|ClinicalRecord)*)>
<!ATTLIST HealthData
  locale CDATA #REQUIRED
>
<!ELEMENT ExportDate EMPTY>
<!ATTLIST ExportDate
  value CDATA #REQUIRED
>
<!ELEMENT Me EMPTY>
<!ATTLIST Me
  HKCharacteristicTypeIdentifierDateOfBirth   CDATA #REQUIRED
  HKCharacteristicTypeIdentifierBiologicalSex CDATA #REQUIRED
  HKCharacteristicTypeIdentifierBloodType     CDATA #REQUIRED
>
<!ELEMENT Record ((MetadataEntry|HeartRateVariabilityMetadataList)*)>
<!ATTLIST Record
  type          CDATA #REQUIRED
  unit          CDATA #IMPLIED
  value         CDATA #IMPLIED
  sourceName    CDATA #REQUIRED
  sourceVersion CDATA #IMPLIED
  device        CDATA #IMPLIED
  creationDate  CDATA #IMPLIED
  startDate     CDATA #REQUIRED
  endDate       CDATA #REQUIRED
>
<!-- Note: Any Records that appear as children of a correlation also appear as top-level records in this document. -->
<!ELEMENT Correlation ((MetadataEntry|Record)*)>
<!ATTLIST Correlation
  type          CDATA #REQUIRED
  sourceName    CDATA #REQUIRED
  startDate     CDATA #REQUIRED
  endDate       CDATA #REQUIRED
>
<!ELEMENT Workout ((MetadataEntry|WorkoutEvent|WorkoutRoute|WorkoutStatistics)*)>
<!ATTLIST Workout
  workoutActivityType   CDATA #REQUIRED
  duration              CDATA #IMPLIED
  durationUnit          CDATA #IMPLIED
  sourceName            CDATA #REQUIRED
  startDate             CDATA #REQUIRED
  endDate               CDATA #REQUIRED
>
<!ELEMENT ActivitySummary EMPTY>
<!ELEMENT MetadataEntry EMPTY>
<!ATTLIST MetadataEntry
  key   CDATA #REQUIRED
  value CDATA #REQUIRED
>
]>
"#;

const WATCH: &str = "sourceName=\"Hana’s Apple\u{a0}Watch\" sourceVersion=\"10.1\" device=\"&lt;&lt;HKDevice: 0x28&gt;, name:Apple Watch, manufacturer:Apple Inc., model:Watch, hardware:Watch6,4, software:10.1&gt;\"";
const PHONE: &str = "sourceName=\"Hana’s iPhone\" sourceVersion=\"17.1\" device=\"&lt;&lt;HKDevice: 0x29&gt;, name:iPhone, manufacturer:Apple Inc., model:iPhone, hardware:iPhone13,1, software:17.1&gt;\"";
const CUFF: &str = "sourceName=\"Cuff &amp; Co\" sourceVersion=\"2\"";
const DIARY: &str = "sourceName=\"Food diary\" sourceVersion=\"4\"";

/// Bytes of a day at rate 1, roughly: how many days and how busy they are follows from it.
const DAY_BYTES: u64 = 50_000;

/// Most days: ten years.
const DAYS_MAX: u64 = 3650;

/// Writes an export of about `bytes` bytes and tells how many elements stand in it.
pub fn write(out: &mut impl Write, bytes: u64, seed: u64) -> io::Result<u64> {
    let days = (bytes / DAY_BYTES).clamp(1, DAYS_MAX);
    let rate = (bytes / days / DAY_BYTES).max(1);
    let mut export = Export { out, chance: seed, elements: 0 };
    export.out.write_all(DECLARATIONS.as_bytes())?;
    export.out.write_all(b"<HealthData locale=\"en_JP\">\n")?;
    export.line("<ExportDate value=\"2026-01-01 09:00:00 +0900\"/>")?;
    export.line("<Me HKCharacteristicTypeIdentifierDateOfBirth=\"1961-04-01\" HKCharacteristicTypeIdentifierBiologicalSex=\"HKBiologicalSexFemale\" HKCharacteristicTypeIdentifierBloodType=\"HKBloodTypeNotSet\"/>")?;
    export.all(days, rate)?;
    export.out.write_all(b"</HealthData>\n")?;
    Ok(export.elements)
}

struct Export<'o, W> {
    out: &'o mut W,
    chance: u64,
    elements: u64,
}

impl<W: Write> Export<'_, W> {
    fn all(&mut self, days: u64, rate: u64) -> io::Result<()> {
        for day in (0..days).step_by(7) {
            let value = format!("{}.{}", 58 + self.below(4), self.below(10));
            let record = self.record("HKQuantityTypeIdentifierBodyMass", "kg", &value, CUFF, day, 7 * 60, 0);
            self.line(&record)?;
        }
        self.section("HKQuantityTypeIdentifierHeartRate", "count/min", (55, 90), &[WATCH], days, 60 * rate)?;
        self.section(
            "HKQuantityTypeIdentifierStepCount",
            "count",
            (1, 400),
            &[WATCH, PHONE],
            days,
            16 * rate,
        )?;
        self.section(
            "HKQuantityTypeIdentifierDistanceWalkingRunning",
            "km",
            (0, 0),
            &[WATCH, PHONE],
            days,
            12 * rate,
        )?;
        self.section(
            "HKQuantityTypeIdentifierBasalEnergyBurned",
            "kcal",
            (10, 20),
            &[WATCH],
            days,
            12 * rate,
        )?;
        self.section(
            "HKQuantityTypeIdentifierActiveEnergyBurned",
            "kcal",
            (1, 9),
            &[WATCH],
            days,
            24 * rate,
        )?;
        self.section("HKQuantityTypeIdentifierFlightsClimbed", "count", (1, 4), &[PHONE], days, 2)?;
        self.section("HKQuantityTypeIdentifierOxygenSaturation", "%", (0, 0), &[WATCH], days, 4)?;
        for kind in
            ["HKQuantityTypeIdentifierDietaryEnergyConsumed", "HKQuantityTypeIdentifierDietaryProtein"]
        {
            let unit = if kind.ends_with("Protein") { "g" } else { "kcal" };
            for day in 0..days {
                let meal = self.record(kind, unit, &meal(kind, day), DIARY, day, 12 * 60 + 30, 0);
                self.line(&meal)?;
            }
        }
        for (kind, value) in [("Systolic", 118), ("Diastolic", 74)] {
            for day in 0..days {
                let pressure = self.pressure(kind, value, day);
                self.line(&pressure)?;
            }
        }
        for day in 0..days {
            self.night(day)?;
        }
        for day in 0..days {
            self.correlations(day)?;
        }
        for day in (0..days).step_by(3) {
            self.workout(day)?;
        }
        for day in 0..days {
            let date = date(day);
            let steps = self.below(400);
            self.line(&format!("<ActivitySummary dateComponents=\"{date}\" activeEnergyBurned=\"{steps}\" activeEnergyBurnedGoal=\"400\" activeEnergyBurnedUnit=\"kcal\" appleExerciseTime=\"31\" appleExerciseTimeGoal=\"30\" appleStandHours=\"11\" appleStandHoursGoal=\"12\"/>"))?;
        }
        Ok(())
    }

    /// `count` values a day of each source; now and then one of the day before comes late.
    fn section(
        &mut self,
        kind: &str,
        unit: &str,
        (from, until): (u64, u64),
        sources: &[&str],
        days: u64,
        count: u64,
    ) -> io::Result<()> {
        for day in 0..days {
            for n in 0..count {
                for source in sources {
                    let value = match unit {
                        "%" => format!("0.{}", 94 + self.below(6)),
                        "km" => format!("0.{:05}", self.below(99_999) + 1),
                        _ => (from + self.below(until - from + 1)).to_string(),
                    };
                    let late = n == 0 && day > 0 && self.below(20) == 0;
                    let (day, minute) = if late { (day - 1, 1439) } else { (day, n * 1440 / count) };
                    let seconds = self.below(50);
                    let record = self.record(kind, unit, &value, source, day, minute, seconds);
                    self.line(&record)?;
                }
            }
        }
        Ok(())
    }

    fn pressure(&self, kind: &str, value: u64, day: u64) -> String {
        let kind = format!("HKQuantityTypeIdentifierBloodPressure{kind}");
        self.record(&kind, "mmHg", &(value + day % 9).to_string(), CUFF, day, 8 * 60, 0)
    }

    fn correlations(&mut self, day: u64) -> io::Result<()> {
        let (at, zone) = (time(day, 8 * 60, 0), zone(day));
        let (upper, lower) = (self.pressure("Systolic", 118, day), self.pressure("Diastolic", 74, day));
        self.line(&format!("<Correlation type=\"HKCorrelationTypeIdentifierBloodPressure\" {CUFF} creationDate=\"{at} {zone}\" startDate=\"{at} {zone}\" endDate=\"{at} {zone}\">\n  {upper}\n  {lower}\n </Correlation>"))?;
        let at = time(day, 12 * 60 + 30, 0);
        let kind = "HKQuantityTypeIdentifierDietaryEnergyConsumed";
        let eaten = self.record(kind, "kcal", &meal(kind, day), DIARY, day, 12 * 60 + 30, 0);
        self.line(&format!("<Correlation type=\"HKCorrelationTypeIdentifierFood\" {DIARY} startDate=\"{at} {zone}\" endDate=\"{at} {zone}\">\n  <MetadataEntry key=\"HKFoodType\" value=\"Rice &amp; fish\"/>\n  {eaten}\n </Correlation>"))
    }

    fn night(&mut self, day: u64) -> io::Result<()> {
        for (minute, stage) in [(1380, "InBed"), (1395, "AsleepCore"), (1425, "AsleepDeep")] {
            let (start, end, zone) = (time(day, minute, 0), time(day + 1, 6 * 60, 0), zone(day));
            self.line(&format!("<Record type=\"HKCategoryTypeIdentifierSleepAnalysis\" {WATCH} creationDate=\"{end} {zone}\" startDate=\"{start} {zone}\" endDate=\"{end} {zone}\" value=\"HKCategoryValueSleepAnalysis{stage}\"/>"))?;
        }
        Ok(())
    }

    fn workout(&mut self, day: u64) -> io::Result<()> {
        let (start, end, zone) = (time(day, 18 * 60, 0), time(day, 18 * 60 + 30, 0), zone(day));
        self.line(&format!("<Workout workoutActivityType=\"HKWorkoutActivityTypeWalking\" duration=\"30\" durationUnit=\"min\" {WATCH} creationDate=\"{end} {zone}\" startDate=\"{start} {zone}\" endDate=\"{end} {zone}\">\n  <MetadataEntry key=\"HKIndoorWorkout\" value=\"0\"/>\n  <WorkoutEvent type=\"HKWorkoutEventTypePause\" date=\"{end} {zone}\"/>\n  <WorkoutStatistics type=\"HKQuantityTypeIdentifierDistanceWalkingRunning\" startDate=\"{start} {zone}\" endDate=\"{end} {zone}\" sum=\"2.51\" unit=\"km\"/>\n </Workout>"))
    }

    #[expect(clippy::too_many_arguments, reason = "an element has as many attributes")]
    fn record(
        &self,
        kind: &str,
        unit: &str,
        value: &str,
        source: &str,
        day: u64,
        minute: u64,
        seconds: u64,
    ) -> String {
        let (at, zone) = (time(day, minute, seconds), zone(day));
        format!(
            "<Record type=\"{kind}\" {source} unit=\"{unit}\" creationDate=\"{at} {zone}\" startDate=\"{at} {zone}\" endDate=\"{at} {zone}\" value=\"{value}\"/>"
        )
    }

    fn line(&mut self, element: &str) -> io::Result<()> {
        self.elements += 1;
        self.out.write_all(b" ")?;
        self.out.write_all(element.as_bytes())?;
        self.out.write_all(b"\n")
    }

    /// A number below `end`, by SplitMix64.
    fn below(&mut self, end: u64) -> u64 {
        self.chance = self.chance.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.chance;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % end
    }
}

fn meal(kind: &str, day: u64) -> String {
    let base = if kind.ends_with("Protein") { 20 } else { 500 };
    (base + day % 17).to_string()
}

/// Summers are spent in Berlin.
fn zone(day: u64) -> &'static str {
    if matches!(day % 365 / 30, 6 | 7) { "+0200" } else { "+0900" }
}

/// The local clock at `minute` of day number `day`.
fn time(day: u64, minute: u64, seconds: u64) -> String {
    format!("{} {:02}:{:02}:{seconds:02}", date(day), minute / 60, minute % 60)
}

/// Day number `day` from 2015-01-01 (H. Hinnant, "chrono-compatible low-level date algorithms").
fn date(day: u64) -> String {
    let z = day + 16_436 + 719_468;
    let era = z / 146_097;
    let of_era = z % 146_097;
    let year_of_era = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * of_year + 2) / 153;
    let (day, month) =
        (of_year - (153 * shifted + 2) / 5 + 1, if shifted < 10 { shifted + 3 } else { shifted - 9 });
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    format!("{year:04}-{month:02}-{day:02}")
}
