//! import → seal → store: findings become sealed records, a group at a time.
//!
//! A group is acknowledged only when its payloads and its rows are durable. Interrupted at any point, what was
//! acknowledged stays, and the same import run again adds the rest.

use super::outlines::{ALONE_BYTES_MAX, hash_of_file};
use super::{Node, Out};
use crate::command::{Event, HowToRead};
use crate::engine::{Answer, Input, Known, NewRecord, Wanted, author_of, source_key};
use crate::failure::Failure;
use crate::import::{self, Body, CsvMap, Facts, Finding, Format, SchemaId, WearableOptions};
use karte_protocol::id::{Digest, PartyId, RecordId, digest};
use karte_protocol::label::{Code, Effective, Group, Label, seal_label};
use karte_protocol::limits::SLICE_BYTES_MAX;
use karte_protocol::rank::{ORDINARY, PRIORITIES};
use karte_protocol::seal::{Sealed, seal, seal_large};
use karte_protocol::shelf::Handed;
use karte_protocol::signed::{Signed, Verified};
use serde_json::json;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Findings sealed and committed together. 256: one group of fsyncs.
const GROUP_MAX: usize = 256;
/// Bytes of findings held before a group is closed. 8 MiB.
const GROUP_BYTES_MAX: u64 = 8 << 20;

/// What an import came to.
#[derive(Default)]
struct Summary {
    taken: u64,
    known: u64,
    /// Findings that could not be sealed, beside what the import refused.
    unsealed: u64,
}

/// A finding and blake3 of its bytes.
struct Hashed {
    hash: Digest,
    finding: Finding,
    /// The label it was exported with, once that has been found true.
    proven: Option<Verified<Label>>,
}

impl Hashed {
    fn source(&self) -> Option<Digest> {
        let facts = &self.finding.facts;
        let id = facts.source_id.as_deref().filter(|_| facts.replaces_same_source)?;
        Some(source_key(&facts.kind, id))
    }
}

/// What can be sealed now, and what has to wait because it names a record of this wave: one that it was made from,
/// or an earlier state of the same source.
fn next_wave(group: Vec<Hashed>) -> (Vec<Hashed>, Vec<Hashed>) {
    let unsealed: BTreeSet<[u8; 32]> = group.iter().map(|one| *one.hash.as_bytes()).collect();
    let mut sources = BTreeSet::new();
    let waits = |one: &Hashed, sources: &mut BTreeSet<Digest>| {
        one.finding.facts.derived_from.iter().any(|hash| unsealed.contains(hash))
            || one.source().is_some_and(|source| !sources.insert(source))
    };
    let (later, now): (Vec<_>, Vec<_>) = group.into_iter().partition(|one| waits(one, &mut sources));
    // Two that are made from each other: neither can name the other, so neither waits.
    if now.is_empty() { (later, now) } else { (now, later) }
}

/// One import under way.
struct Bringing<'a> {
    node: &'a Node,
    subject: PartyId,
    urgency: Option<String>,
    out: &'a mpsc::Sender<Out>,
    group: Vec<Finding>,
    group_bytes: u64,
    summary: Summary,
    /// Whether a dialysis session was among them.
    has_session: bool,
    failure: Option<Failure>,
}

impl Node {
    pub(super) async fn bring(
        &self,
        paths: Vec<PathBuf>,
        format: String,
        subject: Option<String>,
        how: HowToRead,
        out: &mpsc::Sender<Out>,
    ) -> Result<(), Failure> {
        let urgency = urgency_of(how.urgency.clone())?;
        let options = options_of(&format, how)?;
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || {
            let subject = node.subject(subject)?;
            let bringing = Bringing { urgency, ..Bringing::new(&node, subject, &out) };
            bring(&paths, &options, bringing)
        });
        work.await.map_err(|_| Failure::failed("the import ended badly"))?
    }

    /// One record that was written by hand.
    pub(super) fn bring_one(
        &self,
        finding: Finding,
        subject: PartyId,
        out: &mpsc::Sender<Out>,
    ) -> Result<u64, Failure> {
        let mut bringing = Bringing::new(self, subject, out);
        bringing.seal_group(vec![finding])?;
        Ok(bringing.summary.taken)
    }

    fn party(&self) -> PartyId {
        self.shared.signs().0.party.unwrap_or_else(|| PartyId::from([0; 32]))
    }

    pub(super) fn subject(&self, subject: Option<String>) -> Result<PartyId, Failure> {
        match self.ask_blocking(|ticket| Input::Subject(ticket, subject))? {
            Answer::Subject(subject) => Ok(subject),
            _ => Err(Failure::failed("the engine answered something else")),
        }
    }
}

fn options_of(format: &str, how: HowToRead) -> Result<import::Options, Failure> {
    let said = |error: import::ImportError| Failure::usage(error.to_string());
    let schema = match format.contains(':') {
        true => Some(format.parse::<SchemaId>().map_err(said)?),
        false => None,
    };
    let format = match format {
        "auto" | "" => Format::Auto,
        "fhir" => Format::Fhir,
        "document" => Format::Document,
        _ if schema.is_some() => Format::Auto,
        other => {
            return Err(Failure::usage(format!(
                "expected a format of auto, fhir, document or omh:NAME/VERSION, got {other:?}"
            )));
        }
    };
    let map = how.map.as_deref().map(CsvMap::named_or_toml).transpose().map_err(said)?;
    let wearable = WearableOptions { person: how.person, map, schema, schemas: how.schemas };
    Ok(import::Options { format, wearable, ..import::Options::default() })
}

/// A FHIR request priority.
fn urgency_of(urgency: Option<String>) -> Result<Option<String>, Failure> {
    match urgency {
        Some(other) if !PRIORITIES.contains(&other.as_str()) => {
            Err(Failure::usage(format!("expected an urgency of {}, got {other:?}", PRIORITIES.join(", "))))
        }
        urgency => Ok(urgency),
    }
}

fn bring(paths: &[PathBuf], options: &import::Options, mut bringing: Bringing<'_>) -> Result<(), Failure> {
    let (node, subject) = (bringing.node, bringing.subject);
    let totals = import::import(paths, options, &mut |event| bringing.take(event))
        .map_err(|error| Failure::usage(error.to_string()))?;
    if bringing.failure.is_none() && !totals.stopped {
        // What `close` breaks off with is kept in `failure`.
        let _ = bringing.close();
    }
    if let Some(failure) = bringing.failure {
        return Err(failure);
    }
    if bringing.has_session && subject != node.party() {
        node.goes_home(&subject.to_string())?;
    }
    let Summary { taken, known, unsealed } = bringing.summary;
    let refused = totals.refused + unsealed;
    let summary = json!({
        "summary": true,
        "taken": taken,
        "known": known,
        "refused": refused,
        "files": totals.files,
        "bytes": totals.bytes,
        "entries_without_resource": totals.entries_without_resource,
        "empty_answers": totals.empty_answers,
        "links_skipped": totals.links_skipped,
        "junk_skipped": totals.junk_skipped,
        "elements_skipped": totals.elements_skipped,
    });
    bringing.put_out(Event::Item(summary));
    if taken + known == 0 && refused > 0 {
        return Err(Failure::failed(format!("nothing was taken: {refused} refused"))
            .next("The reasons stand above; --format document keeps any file as it is."));
    }
    Ok(())
}

impl<'a> Bringing<'a> {
    fn new(node: &'a Node, subject: PartyId, out: &'a mpsc::Sender<Out>) -> Self {
        let summary = Summary::default();
        Self {
            node,
            subject,
            urgency: None,
            out,
            group: vec![],
            group_bytes: 0,
            summary,
            has_session: false,
            failure: None,
        }
    }

    fn take(&mut self, event: import::Event) -> ControlFlow<()> {
        match event {
            import::Event::Found(finding) => {
                self.has_session |= finding.facts.kind == super::write::DIALYSIS;
                self.group_bytes += length_of(&finding.bytes);
                self.group.push(finding);
                if self.group.len() >= GROUP_MAX || self.group_bytes >= GROUP_BYTES_MAX {
                    return self.close();
                }
            }
            import::Event::Refused { origin, reason } => {
                self.put_out(Event::Item(json!({ "refused": origin, "reason": reason.to_string() })));
            }
            import::Event::Progress { bytes_done, bytes_total } => {
                let unit = "bytes".into();
                self.put_out(Event::Progress {
                    what: "import".into(),
                    done: bytes_done,
                    total: bytes_total,
                    unit,
                });
            }
        }
        if self.out.is_closed() { ControlFlow::Break(()) } else { ControlFlow::Continue(()) }
    }

    /// Seals the group, makes its payloads durable, hands it to the engine.
    fn close(&mut self) -> ControlFlow<()> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        match self.seal_group(group) {
            Ok(()) => ControlFlow::Continue(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    fn seal_group(&mut self, group: Vec<Finding>) -> Result<(), Failure> {
        let node = self.node.clone();
        let _not_swept = node.shared.importing.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let mut hashed = Vec::new();
        for finding in group {
            let looked_at = hash_of(&finding.bytes)
                .map_err(|error| format!("it cannot be read: {error}"))
                .and_then(|hash| Ok((hash, proven(&finding, &hash)?)));
            match looked_at {
                Ok((hash, proven)) => hashed.push(Hashed { hash, finding, proven }),
                Err(reason) => {
                    self.summary.unsealed += 1;
                    self.put_out(Event::Item(json!({ "refused": finding.origin, "reason": reason })));
                }
            }
        }
        let found = hashed.len() as u64;
        let mut known = self.ask_known(&hashed)?;
        let mut seen = BTreeSet::new();
        hashed.retain(|one| !known.plaintexts.contains_key(&one.hash) && seen.insert(one.hash));
        let mut records = Vec::with_capacity(hashed.len());
        while !hashed.is_empty() {
            let (now, later) = next_wave(hashed);
            let wave = self.seal_wave(&now, &known)?;
            for (one, record) in now.iter().zip(&wave) {
                known.plaintexts.insert(one.hash, record.handed.record);
                if let Some(source) = record.source.filter(|_| record.replaced_by.is_none()) {
                    known.sources.insert(source, (record.handed.record, record.label.bytes));
                }
            }
            records.extend(wave);
            hashed = later;
        }
        self.node.shared.blobs.sync()?;
        let taken = match self.node.ask_blocking(|ticket| Input::Records(ticket, records))? {
            Answer::Taken(taken) => taken,
            _ => 0,
        };
        self.summary.taken += taken;
        self.summary.known += found.saturating_sub(taken);
        Ok(())
    }

    fn ask_known(&self, hashed: &[Hashed]) -> Result<Known, Failure> {
        let derived = hashed.iter().flat_map(|one| &one.finding.facts.derived_from);
        let plaintexts =
            hashed.iter().map(|one| one.hash).chain(derived.map(|hash| Digest::from(*hash))).collect();
        let sources = hashed.iter().filter_map(Hashed::source).collect();
        let (subject, wanted) = (self.subject, Wanted { plaintexts, sources });
        match self.node.ask_blocking(|ticket| Input::AreKnown(ticket, subject, wanted))? {
            Answer::Known(known) => Ok(known),
            _ => Ok(Known::default()),
        }
    }

    /// Each core takes its share: sealing is independent work.
    fn seal_wave(&self, wave: &[Hashed], known: &Known) -> Result<Vec<NewRecord>, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let share = wave.len().div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = wave
                .chunks(share)
                .map(|part| scope.spawn(move || part.iter().map(|one| self.seal_one(one, known)).collect()))
                .collect();
            let mut records = Vec::new();
            for worker in workers {
                let part: Result<Vec<NewRecord>, Failure> =
                    worker.join().map_err(|_| Failure::failed("sealing ended badly"))?;
                records.extend(part?);
            }
            Ok(records)
        })
    }

    fn seal_one(&self, one: &Hashed, known: &Known) -> Result<NewRecord, Failure> {
        let finding = &one.finding;
        let sealed = self.seal_payload(&finding.bytes)?;
        let shared = &self.node.shared;
        if let (Some(label), Some(proof)) = (&one.proven, &finding.facts.proof) {
            let sealed_label = seal_label(label, &proof.identity, &sealed.file_key)?;
            return Ok(new_record(sealed, label.clone(), sealed_label, None, None));
        }
        let source = one.source();
        let earlier = source.and_then(|source| known.sources.get(&source)).copied();
        // The longer one is the fuller day; of two that differ and are as long, the one that comes later.
        let (replaces, replaced_by) = match earlier {
            Some((record, bytes)) if bytes > sealed.plaintext_bytes => (None, Some(record)),
            Some((record, _)) => (Some(record), None),
            None => (None, None),
        };
        let derived = finding.facts.derived_from.iter();
        let label = Label {
            replaces: replaces.into_iter().collect(),
            derived_from: derived
                .filter_map(|hash| known.plaintexts.get(&Digest::from(*hash)).copied())
                .collect(),
            urgency: self.urgency.clone(),
            ..label_of(self.subject, &finding.facts, &sealed)
        };
        let (by, identity) = shared.signs();
        let label = Verified::sign(label, by, &shared.keys.device)?;
        let sealed_label = seal_label(&label, &identity, &sealed.file_key)?;
        Ok(new_record(sealed, label, sealed_label, source, replaced_by))
    }

    fn seal_payload(&self, body: &Body) -> Result<Sealed, Failure> {
        let shared = &self.node.shared;
        let mut writer = shared.blobs.create_unhashed()?;
        let sealed = match body {
            Body::Memory(bytes) => seal(bytes.as_slice(), &mut writer)?,
            Body::File(path, bytes) => {
                let file = std::fs::File::open(path).map_err(not_read)?;
                if *bytes > ALONE_BYTES_MAX {
                    seal_large(file, &mut writer)?
                } else {
                    seal(file, &mut writer)?
                }
            }
        };
        writer.finish_as(sealed.record.as_bytes())?;
        if sealed.payload_bytes > SLICE_BYTES_MAX {
            shared.outlines.keep(sealed.outline.clone());
        }
        Ok(sealed)
    }

    fn put_out(&self, event: Event) {
        // A client that went away is seen by `is_closed`.
        let _ = self.out.blocking_send(Out::Event(event));
    }
}

fn new_record(
    sealed: Sealed,
    label: Verified<Label>,
    sealed_label: Vec<u8>,
    source: Option<Digest>,
    replaced_by: Option<RecordId>,
) -> NewRecord {
    let handed = Handed {
        record: sealed.record,
        bytes: sealed.payload_bytes,
        file_key: sealed.file_key,
        label_hash: digest(&sealed_label),
        rank: ORDINARY,
    };
    NewRecord { handed, label, sealed_label, source, replaced_by }
}

/// The label a finding was exported with: signed by a device of the party whose identity came along, and about these
/// bytes.
fn proven(finding: &Finding, hash: &Digest) -> Result<Option<Verified<Label>>, String> {
    let Some(proof) = &finding.facts.proof else { return Ok(None) };
    let label = Signed::<Label>::from_bytes(proof.label.clone())
        .verify()
        .map_err(|error| format!("its label does not hold: {error}"))?;
    let author = author_of(&label, &proof.identity);
    if author.is_none() || label.by().party != author {
        return Err("its author's signature cannot be traced".into());
    }
    if label.hash != *hash {
        return Err("its bytes are not those its author signed".into());
    }
    Ok(Some(label))
}

fn label_of(subject: PartyId, facts: &Facts, sealed: &Sealed) -> Label {
    Label {
        categories: facts.categories.clone(),
        codes: facts
            .codes
            .iter()
            .map(|code| Code { system: code.system.clone(), code: code.code.clone() })
            .collect(),
        effective: facts.effective.map(|time| Effective {
            start_ms: time.start_ms,
            end_ms: time.end_ms,
            offset_min: time.offset_min,
        }),
        full_url: facts.full_url.clone(),
        source_id: facts.source_id.clone(),
        profiles: facts.profiles.clone(),
        sensitivity: facts.sensitivity.clone(),
        group: facts.group.as_ref().map(|group| Group {
            study: group.study.clone(),
            series: group.series.clone(),
            instance: group.instance.clone(),
            position: group.position,
        }),
        ..Label::new(subject, &facts.kind, &facts.title, &facts.media_type, sealed)
    }
}

fn length_of(body: &Body) -> u64 {
    match body {
        Body::Memory(bytes) => bytes.len() as u64,
        // A file is streamed when its turn comes: it holds no memory here.
        Body::File(_, _) => 0,
    }
}

fn hash_of(body: &Body) -> std::io::Result<Digest> {
    match body {
        Body::Memory(bytes) => Ok(digest(bytes)),
        Body::File(path, _) => hash_of_file(path),
    }
}

fn not_read(error: std::io::Error) -> Failure {
    Failure::failed(format!("a file cannot be read any more: {error}"))
}
