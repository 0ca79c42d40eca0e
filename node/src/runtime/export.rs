//! Export: records written out for other programs, or whole, with their proofs, for another node.
//!
//! For: naming files and joining bytes; the originals go out as they came in. Not for: writing files; whoever
//! asked gets each file's name as an object, and its bytes as data after it.

use super::opened::{Ahead, Putting, each_opened, held, write_checked};
use super::{Node, Out};
use crate::command::{Event, Filter};
use crate::engine::{Export, Exported, Opening, Proof};
use crate::failure::Failure;
use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use karte_protocol::label::Group;
use serde::Deserialize;
use serde_json::value::RawValue;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::io::Write;
use tokio::sync::mpsc;

/// The kinds whose plaintext is a FHIR resource.
const FHIR_MEDIA_TYPE: &str = "application/fhir+json";
/// Version of the folder's index, in its first line.
pub(crate) const FOLDER_VERSION: u32 = 1;

const READ_ME: &str = "This folder was written by `karte record export`.\n\n\
    records/   the records as they came in, byte for byte\n\
    consent/   the signed grants, releases and receipts around them (COSE_Sign1, RFC 9052)\n\
    index.jsonl one object a line: each record with its signed label and its author's identity, each proof\n\n\
    `karte import FOLDER` on another node takes the records with their authors' signatures, and keeps the proofs.\n\
    What lies here is readable by whoever can read the folder.\n";

impl Node {
    pub(super) async fn export(
        &self,
        filter: Filter,
        form: String,
        staff: String,
        out: &mpsc::Sender<Out>,
    ) -> Result<(), Failure> {
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || {
            let mut going = Going { node: &node, out: &out, names: BTreeSet::new() };
            match form.as_str() {
                "folder" => going.folder(&node.gather_export(filter, staff)?),
                "bundle" => going.bundle(&node.open_many(filter, staff)?),
                "ndjson" => going.ndjson(&node.open_many(filter, staff)?),
                "dicom" => going.dicom(&node.open_many(only_dicom(filter), staff)?),
                other => Err(Failure::usage(format!(
                    "expected a format of folder, bundle, ndjson or dicom, got {other:?}"
                ))),
            }
        });
        work.await.map_err(|_| Failure::failed("the export ended badly"))?
    }
}

fn only_dicom(filter: Filter) -> Filter {
    let kinds = if filter.kinds.is_empty() { vec!["dicom".to_owned()] } else { filter.kinds };
    Filter { kinds, ..filter }
}

/// Called with a resource's `fullUrl` and its text.
type VisitResource<'v, G> = dyn FnMut(&G, Option<&str>, &str) -> Result<(), Failure> + 'v;

/// An export under way.
struct Going<'a> {
    node: &'a Node,
    out: &'a mpsc::Sender<Out>,
    names: BTreeSet<String>,
}

impl Going<'_> {
    // --- the whole, with proofs

    fn folder(&mut self, export: &Export) -> Result<(), Failure> {
        let mut index = String::new();
        let mut line = |value: Value| {
            index.push_str(&value.to_string());
            index.push('\n');
        };
        line(json!({ "karte_export": FOLDER_VERSION, "party": export.party.to_string() }));
        for entry in &export.log {
            line(json!({ "log": BASE64_STANDARD.encode(entry) }));
        }
        let mut records = export.records.iter().enumerate();
        let openings = export.records.iter().map(|record| &record.opening);
        each_opened(self.node.shared.blobs.as_ref(), openings, &mut |opening, ahead| {
            let Some((done, record)) = records.next() else { return Ok(()) };
            let file = self.name_record(opening);
            self.begin(&file)?;
            self.put_record(opening, ahead)?;
            line(index_line(&file, record));
            self.progress(done + 1, export.records.len());
            Ok(())
        })?;
        for proof in &export.proofs {
            let file = self.name_proof(proof);
            self.file(&file, &proof.cose)?;
            line(json!({
                "proof": proof.kind,
                "grant": proof.grant.to_hex(),
                "file": file,
                "cose": BASE64_STANDARD.encode(&proof.cose),
                "opening": proof.opening.as_ref().map(|bytes| BASE64_STANDARD.encode(bytes)),
            }));
        }
        self.file("README.txt", READ_ME.as_bytes())?;
        self.file("index.jsonl", index.as_bytes())?;
        self.summary(export.records.len(), 0)
    }

    fn name_record(&mut self, opening: &Opening) -> String {
        let label = &opening.label;
        let day = label.effective.map(crate::engine::effective_day).unwrap_or_default();
        let words = [day, tame(&label.title, 40), opening.record.short()];
        let words: Vec<String> = words.into_iter().filter(|word| !word.is_empty()).collect();
        let folder: Vec<String> = label.kind.split('/').map(|part| tame(part, 40)).collect();
        format!("records/{}/{}.{}", folder.join("/"), words.join("-"), ending(&label.media_type))
    }

    fn name_proof(&mut self, proof: &Proof) -> String {
        let id = blake3::hash(&proof.cose).to_hex();
        let grant = proof.grant.short();
        format!("consent/{grant}/{}-{}.cose", proof.kind, id.get(..12).unwrap_or_default())
    }

    // --- for other programs

    fn bundle(&mut self, openings: &[Opening]) -> Result<(), Failure> {
        self.begin("bundle.json")?;
        self.put(br#"{"resourceType":"Bundle","type":"collection","entry":["#)?;
        let mut first = true;
        let (taken, left) = self.each_resource(openings, &mut |going, full_url, resource| {
            going.put(if first { b"\n" } else { b",\n" })?;
            first = false;
            let head = match full_url {
                Some(url) => format!(r#"{{"fullUrl":{},"resource":"#, Value::from(url)),
                None => r#"{"resource":"#.to_owned(),
            };
            going.put(head.as_bytes())?;
            going.put(resource.trim().as_bytes())?;
            going.put(b"}")
        })?;
        self.put(b"\n]}\n")?;
        self.summary(taken, left)
    }

    fn ndjson(&mut self, openings: &[Opening]) -> Result<(), Failure> {
        self.begin("resources.ndjson")?;
        let (taken, left) = self.each_resource(openings, &mut |going, _, resource| {
            // A line break in JSON is never inside a string (RFC 8259 section 7), so it is only space.
            let line: String =
                resource.trim().chars().map(|c| if matches!(c, '\n' | '\r') { ' ' } else { c }).collect();
            going.put(line.as_bytes())?;
            going.put(b"\n")
        })?;
        self.summary(taken, left)
    }

    /// Visits every FHIR resource; those of a session's Bundle one by one. Gives how many records were taken, and
    /// how many are of other kinds.
    fn each_resource(
        &mut self,
        openings: &[Opening],
        visit: &mut VisitResource<'_, Self>,
    ) -> Result<(usize, usize), Failure> {
        let resources = || openings.iter().filter(|opening| opening.label.media_type == FHIR_MEDIA_TYPE);
        let (all, mut taken) = (resources().count(), 0);
        let blobs = self.node.shared.blobs.as_ref();
        each_opened(blobs, resources(), &mut |opening, ahead| {
            let bytes = ahead.map_or_else(|| held(blobs, opening), Ok)?;
            let text = String::from_utf8_lossy(&bytes);
            let text = text.trim_start_matches('\u{feff}');
            match parts_of(&opening.label.kind, text) {
                Some(parts) => {
                    for part in &parts {
                        visit(self, part.full_url.as_deref(), part.resource.get())?;
                    }
                }
                None => visit(self, opening.label.full_url.as_deref(), text)?,
            }
            taken += 1;
            self.progress(taken, all);
            Ok(())
        })?;
        Ok((taken, openings.len() - all))
    }

    /// Study, series, instance; the bytes as they came.
    fn dicom(&mut self, openings: &[Opening]) -> Result<(), Failure> {
        let images = || openings.iter().filter_map(|opening| Some((opening, image_of(opening)?)));
        let (mut groups, all) = (images().map(|(_, group)| group), images().count());
        let mut taken = 0;
        let opened = images().map(|(opening, _)| opening);
        each_opened(self.node.shared.blobs.as_ref(), opened, &mut |opening, ahead| {
            let Some(group) = groups.next() else { return Ok(()) };
            let file = self.name_image(opening, group);
            self.begin(&file)?;
            self.put_record(opening, ahead)?;
            taken += 1;
            self.progress(taken, all);
            Ok(())
        })?;
        self.summary(taken, openings.len() - all)
    }

    fn name_image(&mut self, opening: &Opening, group: &Group) -> String {
        let series = group.series.as_deref().unwrap_or("series");
        let number = group.position.map_or(String::new(), |position| format!("{:05}-", position + 1));
        let instance = group.instance.clone().unwrap_or_else(|| opening.record.short());
        let (study, series, instance) = (tame(&group.study, 64), tame(series, 64), tame(&instance, 64));
        let name = format!("{study}/{series}/{number}{instance}.dcm");
        // Two instances may claim one UID.
        if self.names.insert(name.clone()) {
            name
        } else {
            format!("{}-{}.dcm", name.trim_end_matches(".dcm"), opening.record.short())
        }
    }

    // --- putting out

    fn begin(&self, file: &str) -> Result<(), Failure> {
        self.send(Out::Event(Event::Item(json!({ "file": file }))))
    }

    fn put_record(&self, opening: &Opening, ahead: Ahead) -> Result<(), Failure> {
        match ahead {
            Some(plaintext) => Putting(self.out).put(plaintext),
            None => write_checked(self.node.shared.blobs.as_ref(), opening, &mut Putting(self.out)),
        }
    }

    fn file(&self, file: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.begin(file)?;
        self.put(bytes)
    }

    fn put(&self, bytes: &[u8]) -> Result<(), Failure> {
        Putting(self.out)
            .write_all(bytes)
            .map_err(|_| Failure::failed("whoever asked for the export went away"))
    }

    fn progress(&self, done: usize, total: usize) {
        // Every hundredth and the last: a bar needs no more.
        if done.is_multiple_of(100) || done == total {
            let (done, total) = (done as u64, total as u64);
            let event = Event::Progress { what: "export".into(), done, total, unit: "records".into() };
            let _ = self.send(Out::Event(event));
        }
    }

    fn summary(&self, records: usize, left: usize) -> Result<(), Failure> {
        let summary = json!({ "summary": true, "records": records, "left_out": left });
        self.send(Out::Event(Event::Item(summary)))
    }

    fn send(&self, out: Out) -> Result<(), Failure> {
        self.out.blocking_send(out).map_err(|_| Failure::failed("whoever asked for the export went away"))
    }
}

/// Where among others an image belongs; of other records nothing.
fn image_of(opening: &Opening) -> Option<&Group> {
    let is_dicom = opening.label.media_type.split(';').next() == Some("application/dicom");
    opening.label.group.as_ref().filter(|_| is_dicom)
}

fn index_line(file: &str, record: &Exported) -> Value {
    let label = &record.opening.label;
    json!({
        "record": record.opening.record.to_hex(),
        "file": file,
        "kind": label.kind,
        "title": label.title,
        "effective": label.effective.map(crate::engine::effective_day),
        "bytes": label.bytes,
        "blake3": label.hash.to_hex(),
        "label": BASE64_STANDARD.encode(&record.label),
        "identity": record.identity.iter().map(|entry| BASE64_STANDARD.encode(entry)).collect::<Vec<_>>(),
    })
}

/// The resources of a dialysis session, which is kept as one Bundle.
fn parts_of<'a>(kind: &str, text: &'a str) -> Option<Vec<Part<'a>>> {
    if kind != "dialysis/session" {
        return None;
    }
    serde_json::from_str::<Parts<'a>>(text).ok().map(|parts| parts.entry)
}

#[derive(Deserialize)]
struct Parts<'a> {
    #[serde(borrow)]
    entry: Vec<Part<'a>>,
}

#[derive(Deserialize)]
struct Part<'a> {
    #[serde(rename = "fullUrl")]
    full_url: Option<String>,
    #[serde(borrow)]
    resource: &'a RawValue,
}

/// A word that is a file name everywhere: letters, digits and a few signs, at most `chars_max` characters.
fn tame(text: &str, chars_max: usize) -> String {
    let good = |c: char| c.is_alphanumeric() || matches!(c, '.' | '_' | '-');
    let tamed: String = text.chars().map(|c| if good(c) { c } else { '_' }).take(chars_max).collect();
    let tamed = tamed.trim_matches(['_', '.', '-']).to_owned();
    if tamed.is_empty() { "unnamed".into() } else { tamed }
}

fn ending(media_type: &str) -> &'static str {
    match media_type.split(';').next().unwrap_or_default() {
        "application/fhir+json" | "application/json" => "json",
        "application/dicom" => "dcm",
        "application/pdf" => "pdf",
        "application/xml" | "text/xml" => "xml",
        "application/zip" => "zip",
        "application/vnd.ant.fit" => "fit",
        "application/gpx+xml" => "gpx",
        "text/csv" => "csv",
        "text/plain" => "txt",
        "image/jpeg" => "jpg",
        "image/png" => "png",
        _ => "bin",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_stay_below_the_folder_and_keep_their_letters() {
        assert_eq!(tame("../../etc/passwd", 40), "etc_passwd");
        assert_eq!(tame("体重 62.4 kg", 40), "体重_62.4_kg");
        assert_eq!(tame("..", 40), "unnamed");
    }
}
