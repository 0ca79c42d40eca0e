//! import → seal → store: findings become sealed records, a group at a time; while one is made durable the next is sealed.
//!
//! A group is acknowledged only when its payloads and its rows are durable. Interrupted at any point, what was
//! acknowledged stays, and the same import run again adds the rest.

use super::sealing::{SealedGroup, Sealing, held_bytes};
use super::settle::{Settling, Unsettled, settle};
use super::{Node, Out};
use crate::command::{Event, HowToRead};
use crate::engine::{Answer, Input, Known};
use crate::failure::Failure;
use crate::import::{self, CsvMap, Finding, Format, SchemaId, WearableOptions};
use karte_protocol::id::PartyId;
use karte_protocol::rank::PRIORITIES;
use serde_json::json;
use std::ops::ControlFlow;
use std::path::PathBuf;
use tokio::sync::mpsc;

/// Findings sealed and committed together. 256: one group of fsyncs.
const GROUP_MAX: usize = 256;
/// Bytes of findings held before a group is closed. 16 MiB: to make a group durable costs some waits for the disk however
/// long it is, and with so many bytes those are the smaller part.
const GROUP_BYTES_MAX: u64 = 16 << 20;

/// What an import came to.
#[derive(Default)]
struct Summary {
    taken: u64,
    /// Findings that could be read, new or not.
    found: u64,
    /// Findings that could not be sealed, beside what the import refused.
    unsealed: u64,
}

/// One import under way.
struct Bringing<'a> {
    sealing: Sealing<'a>,
    out: &'a mpsc::Sender<Out>,
    group: Vec<Finding>,
    group_bytes: u64,
    /// Begun with the first group.
    settling: Option<Settling>,
    /// Of the group that is being settled: the library may not know it yet.
    recent: Known,
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
            bring(&paths, &options, Bringing::new(Sealing { node: &node, subject, urgency }, &out))
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
        let sealing = Sealing { node: self, subject, urgency: None };
        let sealed = Bringing::new(sealing, out).seal(vec![finding])?;
        settle(self, sealed)
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
    let (node, subject) = (bringing.sealing.node, bringing.sealing.subject);
    let totals = import::import(paths, options, &mut |event| bringing.take(event))
        .map_err(|error| Failure::usage(error.to_string()))?;
    if bringing.failure.is_none() && !totals.stopped {
        // What `close` breaks off with is kept in `failure`.
        let _ = bringing.close();
    }
    bringing.finish()?;
    if bringing.has_session && subject != node.party() {
        node.goes_home(&subject.to_string())?;
    }
    let Summary { taken, found, unsealed } = bringing.summary;
    let known = found.saturating_sub(taken);
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
    fn new(sealing: Sealing<'a>, out: &'a mpsc::Sender<Out>) -> Self {
        Self {
            sealing,
            out,
            group: vec![],
            group_bytes: 0,
            settling: None,
            recent: Known::default(),
            summary: Summary::default(),
            has_session: false,
            failure: None,
        }
    }

    fn take(&mut self, event: import::Event) -> ControlFlow<()> {
        match event {
            import::Event::Found(finding) => {
                self.has_session |= finding.facts.kind == super::write::DIALYSIS;
                self.group_bytes += held_bytes(&finding.bytes);
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

    /// Seals the group, and hands it over once the one before is durable.
    fn close(&mut self) -> ControlFlow<()> {
        let group = std::mem::take(&mut self.group);
        self.group_bytes = 0;
        match self.seal(group).and_then(|sealed| Ok(self.settling()?.add(sealed))) {
            Ok(true) => ControlFlow::Continue(()),
            // `finish` tells why no more is taken.
            Ok(false) => ControlFlow::Break(()),
            Err(failure) => {
                self.failure = Some(failure);
                ControlFlow::Break(())
            }
        }
    }

    /// Seals a group and tells what of it was refused.
    fn seal(&mut self, group: Vec<Finding>) -> Result<Unsettled, Failure> {
        let importing = self.sealing.node.shared.importing.clone();
        let not_swept = futures::executor::block_on(importing.read_owned());
        let SealedGroup { records, known, found, refused } = self.sealing.seal_group(group, &self.recent)?;
        for (origin, reason) in refused {
            self.summary.unsealed += 1;
            self.put_out(Event::Item(json!({ "refused": origin, "reason": reason })));
        }
        self.summary.found += found;
        self.recent = known;
        Ok(Unsettled { records, not_swept })
    }

    fn settling(&mut self) -> Result<&Settling, Failure> {
        if self.settling.is_none() {
            self.settling = Some(Settling::start(self.sealing.node.clone())?);
        }
        self.settling.as_ref().ok_or_else(|| Failure::failed("the import ended badly"))
    }

    /// Waits until all that was sealed is durable, and says what broke it off.
    fn finish(&mut self) -> Result<(), Failure> {
        // What failed there came first: a store that cannot go on fails here too.
        self.summary.taken = self.settling.take().map_or(Ok(0), Settling::finish)?;
        self.failure.take().map_or(Ok(()), Err)
    }

    fn put_out(&self, event: Event) {
        // A client that went away is seen by `is_closed`.
        let _ = self.out.blocking_send(Out::Event(event));
    }
}

#[cfg(test)]
#[path = "bring_tests.rs"]
mod tests;
