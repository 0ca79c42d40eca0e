//! import → seal → store: findings become sealed records, a group at a time.
//!
//! A group is acknowledged only when its payloads and its rows are durable. Interrupted at any point, what was
//! acknowledged stays, and the same import run again adds the rest.

use super::{Node, Out};
use crate::command::Event;
use crate::engine::{Answer, Input, NewRecord};
use crate::failure::Failure;
use crate::import::{self, Body, Facts, Finding, Format};
use karte_protocol::id::{Digest, PartyId, RecordId, digest};
use karte_protocol::label::{Code, Effective, Label, seal_label};
use karte_protocol::seal::{Sealed, seal};
use karte_protocol::shelf::Handed;
use karte_protocol::signed::Verified;
use serde_json::json;
use std::io::Read;
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
    refused: u64,
}

/// One import under way.
struct Bringing<'a> {
    node: &'a Node,
    subject: PartyId,
    out: &'a mpsc::Sender<Out>,
    group: Vec<Finding>,
    group_bytes: u64,
    summary: Summary,
    failure: Option<Failure>,
}

impl Node {
    pub(super) async fn bring(
        &self,
        paths: Vec<PathBuf>,
        format: String,
        subject: Option<String>,
        out: &mpsc::Sender<Out>,
    ) -> Result<(), Failure> {
        let format = match format.as_str() {
            "auto" | "" => Format::Auto,
            "fhir" => Format::Fhir,
            "document" => Format::Document,
            other => {
                return Err(Failure::usage(format!(
                    "expected a format of auto, fhir or document, got {other:?}"
                )));
            }
        };
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || {
            let subject = match node.ask_blocking(|ticket| Input::Subject(ticket, subject))? {
                Answer::Subject(subject) => subject,
                _ => return Err(Failure::failed("the engine answered something else")),
            };
            bring(&node, &paths, format, subject, &out)
        });
        work.await.map_err(|_| Failure::failed("the import ended badly"))?
    }
}

fn bring(
    node: &Node,
    paths: &[PathBuf],
    format: Format,
    subject: PartyId,
    out: &mpsc::Sender<Out>,
) -> Result<(), Failure> {
    let options = import::Options { format, ..import::Options::default() };
    let mut bringing = Bringing {
        node,
        subject,
        out,
        group: vec![],
        group_bytes: 0,
        summary: Summary::default(),
        failure: None,
    };
    let totals = import::import(paths, &options, &mut |event| bringing.take(event))
        .map_err(|error| Failure::usage(error.to_string()))?;
    if bringing.failure.is_none() && !totals.stopped {
        // What `close` breaks off with is kept in `failure`.
        let _ = bringing.close();
    }
    if let Some(failure) = bringing.failure {
        return Err(failure);
    }
    let Summary { taken, known, .. } = bringing.summary;
    let summary = json!({
        "summary": true,
        "taken": taken,
        "known": known,
        "refused": totals.refused,
        "files": totals.files,
        "bytes": totals.bytes,
        "entries_without_resource": totals.entries_without_resource,
    });
    bringing.put_out(Event::Item(summary));
    if taken + known == 0 && totals.refused > 0 {
        return Err(Failure::failed(format!("nothing was taken: {} refused", totals.refused))
            .next("The reasons stand above; --format document keeps any file as it is."));
    }
    Ok(())
}

impl Bringing<'_> {
    fn take(&mut self, event: import::Event) -> ControlFlow<()> {
        match event {
            import::Event::Found(finding) => {
                self.group_bytes += length_of(&finding.bytes);
                self.group.push(finding);
                if self.group.len() >= GROUP_MAX || self.group_bytes >= GROUP_BYTES_MAX {
                    return self.close();
                }
            }
            import::Event::Refused { origin, reason } => {
                self.summary.refused += 1;
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
            match hash_of(&finding.bytes) {
                Ok(hash) => hashed.push((hash, finding)),
                Err(error) => {
                    self.summary.refused += 1;
                    let reason = format!("it cannot be read: {error}");
                    self.put_out(Event::Item(json!({ "refused": finding.origin, "reason": reason })));
                }
            }
        }
        let found = hashed.len() as u64;
        let hashes: Vec<Digest> = hashed.iter().map(|(hash, _)| *hash).collect();
        let subject = self.subject;
        let known = match self.node.ask_blocking(|ticket| Input::AreKnown(ticket, subject, hashes))? {
            Answer::Known(known) => known,
            _ => Default::default(),
        };
        let fresh: Vec<Finding> = hashed
            .into_iter()
            .filter(|(hash, _)| !known.contains(hash))
            .map(|(_, finding)| finding)
            .collect();
        let records = self.seal_all(fresh)?;
        self.node.shared.blobs.sync()?;
        let taken = match self.node.ask_blocking(|ticket| Input::Records(ticket, records))? {
            Answer::Taken(taken) => taken,
            _ => 0,
        };
        self.summary.taken += taken;
        self.summary.known += found.saturating_sub(taken);
        Ok(())
    }

    /// Each core takes its share: sealing is independent work.
    fn seal_all(&self, findings: Vec<Finding>) -> Result<Vec<NewRecord>, Failure> {
        let cores = std::thread::available_parallelism().map_or(1, usize::from).min(8);
        let share = findings.len().div_ceil(cores).max(1);
        std::thread::scope(|scope| {
            let workers: Vec<_> = findings
                .chunks(share)
                .map(|part| scope.spawn(move || part.iter().map(|finding| self.seal_one(finding)).collect()))
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

    fn seal_one(&self, finding: &Finding) -> Result<NewRecord, Failure> {
        let mut writer = self.node.shared.blobs.create()?;
        let sealed = match &finding.bytes {
            Body::Memory(bytes) => seal(bytes.as_slice(), &mut writer)?,
            Body::File(path, _) => seal(std::fs::File::open(path).map_err(not_read)?, &mut writer)?,
        };
        let stored = RecordId::from(writer.finish()?);
        if stored != sealed.record {
            return Err(Failure::failed("the disk kept other bytes than were written"));
        }
        let shared = &self.node.shared;
        let label =
            Verified::sign(label_of(self.subject, &finding.facts, &sealed), shared.by, &shared.keys.device)?;
        let sealed_label = seal_label(&label, &shared.identity, &sealed.file_key)?;
        let handed = Handed {
            record: sealed.record,
            bytes: sealed.payload_bytes,
            file_key: sealed.file_key,
            label_hash: digest(&sealed_label),
        };
        Ok(NewRecord { handed, label, sealed_label })
    }

    fn put_out(&self, event: Event) {
        // A client that went away is seen by `is_closed`.
        let _ = self.out.blocking_send(Out::Event(event));
    }
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
        Body::File(path, _) => {
            let mut file = std::fs::File::open(path)?;
            let mut hasher = blake3::Hasher::new();
            let mut buffer = vec![0; 64 * 1024];
            loop {
                match file.read(&mut buffer)? {
                    0 => return Ok(hasher.finalize().into()),
                    read => drop(hasher.update(buffer.get(..read).unwrap_or_default())),
                }
            }
        }
    }
}

fn not_read(error: std::io::Error) -> Failure {
    Failure::failed(format!("a file cannot be read any more: {error}"))
}
