//! What is sent in a scenario, made from its seed, and how its receiver is judged: by the blake3 hash of every record.

use super::node::{Node, text};
use super::stage::Stage;
use std::collections::BTreeSet;
use std::fmt::Write;
use std::io;
use std::path::PathBuf;

#[path = "../../../tests/src/dicom.rs"]
#[allow(
    dead_code,
    unreachable_pub,
    clippy::expect_used,
    reason = "the journeys' own; not all of it is used here"
)]
mod dicom;

use dicom::{Phantom, Syntax};

/// A file or folder to import, and what comes out of it.
pub(super) struct Material {
    pub(super) path: PathBuf,
    /// Bytes of the file.
    pub(super) bytes: u64,
    /// Of every record in it.
    hashes: BTreeSet<[u8; 32]>,
    /// Records that the import makes of them: a preview for each series.
    previews: u64,
}

impl Material {
    /// One document of random bytes.
    pub(super) fn file(stage: &Stage, name: &str, bytes: usize) -> io::Result<Self> {
        let content = stage.dice(name).bytes(bytes);
        Self::written(stage, &format!("{name}.bin"), &content, [*blake3::hash(&content).as_bytes()].into())
    }

    /// A folder of so many documents of random bytes.
    pub(super) fn files(stage: &Stage, name: &str, count: u64, bytes: usize) -> io::Result<Self> {
        let path = stage.folder().join(name);
        std::fs::create_dir_all(&path)?;
        let mut hashes = BTreeSet::new();
        let mut dice = stage.dice(name);
        for number in 0..count {
            let content = dice.bytes(bytes);
            hashes.insert(*blake3::hash(&content).as_bytes());
            std::fs::write(path.join(format!("{number:04}.bin")), content)?;
        }
        Ok(Self { path, bytes: count * bytes as u64, hashes, previews: 0 })
    }

    /// Laboratory values of the code `name`, numbered from `from`; about 500 bytes each, no two alike.
    pub(super) fn values(stage: &Stage, name: &str, from: u64, count: u64) -> io::Result<Self> {
        let lines: Vec<String> = (from..from + count).map(|number| laboratory(name, number)).collect();
        let hashes = lines.iter().map(|line| *blake3::hash(line.as_bytes()).as_bytes()).collect();
        let content = lines.iter().fold(String::new(), |mut all, line| {
            // Writing to a String does not fail.
            let _ = writeln!(all, "{line}");
            all
        });
        Self::written(stage, &format!("{name}-{from}.ndjson"), content.as_bytes(), hashes)
    }

    fn written(stage: &Stage, name: &str, content: &[u8], hashes: BTreeSet<[u8; 32]>) -> io::Result<Self> {
        let path = stage.folder().join(name);
        std::fs::write(&path, content)?;
        Ok(Self { path, bytes: content.len() as u64, hashes, previews: 0 })
    }

    /// A CT of a head that nobody has: a folder of so many slices, each `side` pixels wide.
    pub(super) fn series(stage: &Stage, name: &str, slices: u32, side: u16) -> io::Result<Self> {
        let path = stage.folder().join(name);
        std::fs::create_dir(&path)?;
        let seed = u32::try_from(stage.seed % 1_000_000).unwrap_or_default();
        let phantom = Phantom { slices, side, seed };
        let (mut bytes, mut hashes) = (0, BTreeSet::new());
        for index in 0..slices {
            let slice = phantom.slice(index, Syntax::ExplicitLittle);
            bytes += slice.len() as u64;
            hashes.insert(*blake3::hash(&slice).as_bytes());
            std::fs::write(path.join(format!("{index:04}.dcm")), slice)?;
        }
        Ok(Self { path, bytes, hashes, previews: 1 })
    }

    /// How many records it is.
    pub(super) fn records(&self) -> u64 {
        self.hashes.len() as u64 + self.previews
    }

    /// Whether all that `reader` can see opens, and is this and nothing else (but for previews).
    pub(super) fn is_all_of(&self, reader: &Node<'_>) -> io::Result<bool> {
        let mut found = BTreeSet::new();
        for record in reader.lists()? {
            let opened = reader.opens(&text(Some(&record), "id")?)?;
            found.insert(*blake3::hash(&opened).as_bytes());
        }
        let made = found.difference(&self.hashes).count() as u64;
        Ok(found.is_superset(&self.hashes) && made == self.previews)
    }
}

/// One line of NDJSON.
fn laboratory(story: &str, number: u64) -> String {
    let (year, month, day) = (2015 + number % 10, 1 + number % 12, 1 + number % 28);
    let (whole, tenth) = (number % 14, number % 10);
    format!(
        concat!(
            r#"{{"resourceType":"Observation","id":"{story}-{number:06}","status":"final","#,
            r#""category":[{{"coding":[{{"system":"http://terminology.hl7.org/CodeSystem/observation-category","#,
            r#""code":"laboratory"}}]}}],"code":{{"coding":[{{"system":"urn:karte:testnet","code":"{story}"}}],"#,
            r#""text":"Serum creatinine {number:06}"}},"effectiveDateTime":"{year}-{month:02}-{day:02}","#,
            r#""valueQuantity":{{"value":{whole}.{tenth},"unit":"mg/dL","system":"http://unitsofmeasure.org","#,
            r#""code":"mg/dL"}},"note":[{{"text":"made up, number {number}"}}]}}"#
        ),
        story = story,
        number = number,
        year = year,
        month = month,
        day = day,
        whole = whole,
        tenth = tenth,
    )
}
