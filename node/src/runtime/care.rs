//! Looking after what is kept: check, repair, sizes, sweeping, and backups of a node that runs.
//!
//! The engine knows what should be there; here it is read and compared, a little at a time, while the node goes on.

use super::{Node, Out};
use crate::backup::{self, Lock, Row};
use crate::command::{Command, Event};
use crate::engine::{Answer, Harm, Input, Inventory};
use crate::failure::{Failure, Kind};
use crate::store::Blobs;
use karte_protocol::id::RecordId;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};
use std::sync::mpsc::sync_channel;
use tokio::sync::mpsc;

/// Bytes of payload read between two words of progress. 8 MiB.
const TELL_EVERY_BYTES: u64 = 8 << 20;
/// Chunks of rows that may wait between engine and disk. 4 of about 1 MiB each.
const CHUNKS_MAX: usize = 4;
/// Payloads asked about in one go.
const ASK_MAX: usize = 10_000;

/// What a check found.
struct Findings {
    inventory: Inventory,
    harmed: BTreeMap<RecordId, Harm>,
    bytes: u64,
}

impl Findings {
    fn is_whole(&self) -> bool {
        self.harmed.is_empty() && self.inventory.lost.is_empty() && self.inventory.faults.is_empty()
    }
}

impl Node {
    /// Work on the store as a whole.
    pub(super) async fn care(&self, command: Command, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        match command {
            Command::StoreCheck => self.in_background(out, Node::check_store).await,
            Command::StoreRepair { from } => self.repair(from, out).await,
            Command::StoreStats => self.in_background(out, Node::store_stats).await,
            Command::StoreGc => self.in_background(out, Node::sweep).await,
            Command::BackupCreate { target, to, passphrase } => {
                let passphrase = passphrase.map(|secret| SecretString::from(secret.expose()));
                let lock = Lock::of(&to, passphrase)?;
                self.in_background(out, move |node, out| node.back_up(&target, &lock, out)).await
            }
            _ => Err(Failure::usage("stop the daemon first: this needs the store alone")
                .next("`karte stop`, then repeat the command.")),
        }
    }

    async fn in_background(
        &self,
        out: &mpsc::Sender<Out>,
        work: impl FnOnce(&Node, &mpsc::Sender<Out>) -> Result<(), Failure> + Send + 'static,
    ) -> Result<(), Failure> {
        let (node, out) = (self.clone(), out.clone());
        let work = tokio::task::spawn_blocking(move || work(&node, &out));
        work.await.map_err(|_| Failure::failed("the work ended badly"))?
    }

    // --- check

    fn check_store(&self, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let found = self.examine(None, out)?;
        let told = self.tell_findings(&found, out)?;
        put_out(out, summary(&found, told));
        if found.is_whole() {
            return Ok(());
        }
        Err(Failure::new(Kind::Damaged, format!("missing or damaged: {told}"))
            .next("`karte store repair` brings back what contacts have; a backup has the rest."))
    }

    /// Reads every payload that should be there, or only `these`, and compares it with its name.
    fn examine(
        &self,
        these: Option<&BTreeSet<RecordId>>,
        out: &mpsc::Sender<Out>,
    ) -> Result<Findings, Failure> {
        let inventory = match self.ask_blocking(Input::Inventory)? {
            Answer::Inventory(found) => *found,
            _ => return Err(Failure::failed("the engine answered something else")),
        };
        let wanted = |record: &RecordId| these.is_none_or(|these| these.contains(record));
        let total: u64 =
            inventory.payloads.iter().filter(|(record, _)| wanted(record)).map(|(_, bytes)| bytes).sum();
        let (mut harmed, mut done, mut told) = (BTreeMap::new(), 0, 0);
        for (record, bytes) in inventory.payloads.iter().filter(|(record, _)| wanted(record)) {
            if let Some(harm) = harm_of(self.shared.blobs.as_ref(), record, *bytes) {
                harmed.insert(*record, harm);
            }
            done += bytes;
            if done >= told + TELL_EVERY_BYTES {
                told = done;
                progress(out, "check", done, total, "bytes");
            }
            if out.is_closed() {
                return Err(Failure::failed("nobody waits for the answer any more"));
            }
        }
        Ok(Findings { inventory, harmed, bytes: done })
    }

    /// Every fault as an object; how many.
    fn tell_findings(&self, found: &Findings, out: &mpsc::Sender<Out>) -> Result<usize, Failure> {
        let views = self.name_lost(&found.harmed, false)?;
        // A record that waits to come back and whose payload is whole on the disk lacks only its label.
        let rest = found.inventory.lost.iter().filter(|record| !found.harmed.contains_key(*record));
        let named: BTreeSet<&str> =
            found.inventory.faults.iter().filter_map(|fault| fault.get("record")?.as_str()).collect();
        let waiting: BTreeMap<RecordId, Harm> = rest
            .filter(|record| !named.contains(record.to_hex().as_str()))
            .map(|record| (*record, Harm::Missing))
            .collect();
        let waiting = self.name_lost(&waiting, false)?;
        let all: Vec<Value> =
            views.into_iter().chain(waiting).chain(found.inventory.faults.iter().cloned()).collect();
        let many = all.len();
        all.into_iter().for_each(|view| put_out(out, view));
        Ok(many)
    }

    fn name_lost(&self, harmed: &BTreeMap<RecordId, Harm>, mark: bool) -> Result<Vec<Value>, Failure> {
        let list = harmed.iter().map(|(record, harm)| (*record, *harm)).collect();
        match self.ask_blocking(|ticket| Input::Lost(ticket, list, mark))? {
            Answer::Items(items) => Ok(items),
            _ => Ok(vec![]),
        }
    }

    // --- repair

    async fn repair(&self, from: Option<String>, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (node, told) = (self.clone(), out.clone());
        let marking = tokio::task::spawn_blocking(move || node.mark_lost(&told));
        let lost = marking.await.map_err(|_| Failure::failed("the repair ended badly"))??;
        let Some(lost) = lost else {
            put_out_async(out, json!({ "summary": true, "repaired": 0, "missing": 0 })).await;
            return Ok(());
        };
        // Whoever cannot be reached is told; the others may have all of it.
        let sync = Command::Sync { contact: from, staff: "karte store repair".into() };
        if let Err(failure) = self.command_quietly(sync, out).await {
            let note = Event::Note(format!("{}. {}", failure.message, failure.next.unwrap_or_default()));
            let _ = out.send(Out::Event(note)).await;
        }
        let (node, told) = (self.clone(), out.clone());
        let closing = tokio::task::spawn_blocking(move || node.see_what_came(lost, &told));
        closing.await.map_err(|_| Failure::failed("the repair ended badly"))?
    }

    /// Finds what is lost, deletes what is damaged, and has the engine forget that it was held. None: all is whole.
    fn mark_lost(&self, out: &mpsc::Sender<Out>) -> Result<Option<BTreeSet<RecordId>>, Failure> {
        let found = self.examine(None, out)?;
        if found.is_whole() {
            return Ok(None);
        }
        let damaged = found.harmed.iter().filter(|(_, harm)| **harm == Harm::Damaged);
        for (record, _) in damaged {
            self.shared.blobs.delete(record.as_bytes())?;
        }
        self.shared.blobs.sync()?;
        self.name_lost(&found.harmed, true)?;
        let lost = found.harmed.keys().chain(&found.inventory.lost).copied().collect();
        Ok(Some(lost))
    }

    fn see_what_came(&self, lost: BTreeSet<RecordId>, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let found = self.examine(Some(&lost), out)?;
        // Whole on the disk, with its label, and held by the rows: what else was lost of it is back too.
        let labels: BTreeSet<String> = found
            .inventory
            .faults
            .iter()
            .filter_map(|fault| Some(fault.get("record")?.as_str()?.to_owned()))
            .collect();
        let whole: Vec<RecordId> = lost
            .iter()
            .filter(|record| {
                found.inventory.payloads.contains_key(record)
                    && !found.harmed.contains_key(record)
                    && !labels.contains(&record.to_hex())
            })
            .copied()
            .collect();
        let repaired = whole.len();
        self.ask_blocking(|ticket| Input::Found(ticket, whole))?;
        let found = self.examine(Some(&lost), out)?;
        let missing = self.tell_findings(&found, out)?;
        put_out(out, json!({ "summary": true, "repaired": repaired, "missing": missing }));
        if missing == 0 {
            return Ok(());
        }
        Err(Failure::new(Kind::Damaged, format!("repaired {repaired}, still missing {missing}"))
            .next("The list names what is missing and who may have it; repeat it when they can be reached. A backup has the rest."))
    }

    async fn command_quietly(&self, command: Command, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let (quiet, mut told) = mpsc::channel(64);
        let listening = out.clone();
        let forward = tokio::spawn(async move {
            while let Some(next) = told.recv().await {
                if matches!(next, Out::Event(Event::Progress { .. })) {
                    let _ = listening.send(next).await;
                }
            }
        });
        let result = self.command(command, &quiet).await;
        drop(quiet);
        let _ = forward.await;
        result
    }

    // --- sweep and sizes

    /// Deletes payloads that nothing needs. An import between its payloads and its rows is waited for.
    fn sweep(&self, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let _no_import = self.shared.importing.blocking_write();
        let stray = self.stray()?;
        let bytes: u64 = stray.iter().map(|(_, bytes)| bytes).sum();
        for (record, _) in &stray {
            self.shared.blobs.delete(record.as_bytes())?;
        }
        self.shared.blobs.sync()?;
        let reclaimed = self.shared.blobs.gc()?;
        put_out(
            out,
            json!({ "deleted": stray.len(), "bytes": bytes, "packs": reclaimed.packs, "reclaimed": reclaimed.bytes }),
        );
        Ok(())
    }

    fn stray(&self) -> Result<Vec<(RecordId, u64)>, Failure> {
        let mut there: Vec<(RecordId, u64)> = Vec::new();
        self.shared.blobs.list(&mut |id, bytes| {
            there.push((RecordId::from(*id), bytes));
            ControlFlow::Continue(())
        })?;
        let mut stray = Vec::new();
        for part in there.chunks(ASK_MAX) {
            let asked = part.iter().map(|(record, _)| *record).collect();
            let Answer::Unneeded(unneeded) = self.ask_blocking(|ticket| Input::Unneeded(ticket, asked))?
            else {
                continue;
            };
            let unneeded: BTreeSet<RecordId> = unneeded.into_iter().collect();
            stray.extend(part.iter().filter(|(record, _)| unneeded.contains(record)));
        }
        Ok(stray)
    }

    fn store_stats(&self, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let counts = match self.ask_blocking(Input::Counts)? {
            Answer::Items(items) => items.into_iter().next().unwrap_or_default(),
            _ => Value::Null,
        };
        let stray = self.stray()?;
        let store = self.shared.home.join("store");
        let sizes = sizes_of(&store)
            .map_err(|error| Failure::failed(format!("{} cannot be read: {error}", store.display())))?;
        let reclaimable: u64 = stray.iter().map(|(_, bytes)| bytes).sum();
        let all: u64 = sizes.values().sum();
        let mut view = json!({
            "bytes": all,
            "by_kind": sizes,
            "reclaimable_payloads": stray.len(),
            "reclaimable_bytes": reclaimable,
        });
        if let (Some(view), Value::Object(counts)) = (view.as_object_mut(), counts) {
            view.extend(counts);
        }
        put_out(out, view);
        Ok(())
    }

    // --- backup

    fn back_up(&self, target: &Path, lock: &Lock, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let shared = &self.shared;
        let no_genesis = || Failure::failed("the own log is empty");
        let (by, identity) = shared.signs();
        let maker = backup::Maker {
            keys: &shared.keys,
            genesis: identity.first().ok_or_else(no_genesis)?,
            party: by.party.ok_or_else(no_genesis)?,
            by,
            name: &shared.me.name,
            kind: &shared.me.kind,
            accept: shared.accept,
            blobs: shared.blobs.as_ref(),
            now: shared.clock.now_ms(),
        };
        let (rows_in, rows) = sync_channel::<Vec<Row>>(CHUNKS_MAX);
        let summary = std::thread::scope(|scope| {
            let asking = scope.spawn(move || {
                self.ask_blocking(|ticket| {
                    Input::Snapshot(ticket, Box::new(move |chunk| rows_in.send(chunk).is_ok()))
                })
            });
            let mut rows = Snapshot { rows, asking: Some(asking), failed: None };
            let made = backup::create(&maker, target, lock, &mut rows, &mut |done, total| {
                progress(out, "backup", done, total, "records");
            });
            // An engine that failed half way explains a backup that is short.
            rows.end().and(made)
        })?;
        let lost = summary.get("lost").and_then(Value::as_u64).unwrap_or_default();
        put_out(out, summary);
        if lost == 0 {
            return Ok(());
        }
        Err(Failure::new(
            Kind::Damaged,
            format!("{lost} own records are lost here, and so not in the backup"),
        )
        .next("`karte store repair` brings them back from contacts; then repeat the backup."))
    }
}

/// The rows as they come from the engine, all of them or a failure.
struct Snapshot<'scope> {
    rows: std::sync::mpsc::Receiver<Vec<Row>>,
    asking: Option<std::thread::ScopedJoinHandle<'scope, Result<Answer, Failure>>>,
    failed: Option<Failure>,
}

impl Snapshot<'_> {
    fn end(self) -> Result<(), Failure> {
        // Dropped first: an engine that still sends must not wait for us.
        drop(self.rows);
        if let Some(asking) = self.asking {
            let _ = asking.join();
        }
        self.failed.map_or(Ok(()), Err)
    }
}

impl Iterator for Snapshot<'_> {
    type Item = Vec<Row>;

    fn next(&mut self) -> Option<Vec<Row>> {
        if let Ok(rows) = self.rows.recv() {
            return Some(rows);
        }
        if let Some(asking) = self.asking.take() {
            self.failed = match asking.join() {
                Ok(Ok(_)) => None,
                Ok(Err(failure)) => Some(failure),
                Err(_) => Some(Failure::failed("the engine ended badly")),
            };
        }
        None
    }
}

fn harm_of(blobs: &dyn Blobs, record: &RecordId, bytes: u64) -> Option<Harm> {
    let file = match blobs.open(record.as_bytes()) {
        Ok(Some(file)) => file,
        Ok(None) => return Some(Harm::Missing),
        Err(_) => return Some(Harm::Damaged),
    };
    let mut hasher = blake3::Hasher::new();
    let whole = hasher.update_reader(file).is_ok()
        && hasher.count() == bytes
        && hasher.finalize().as_bytes() == record.as_bytes();
    (!whole).then_some(Harm::Damaged)
}

fn summary(found: &Findings, faults: usize) -> Value {
    json!({
        "summary": true,
        "journal": "whole",
        "own": found.inventory.own,
        "received": found.inventory.received,
        "pending": found.inventory.pending,
        "payloads": found.inventory.payloads.len(),
        "bytes": found.bytes,
        "faults": faults,
    })
}

/// Bytes of the store's folder, by what lies where.
fn sizes_of(store: &Path) -> std::io::Result<BTreeMap<String, u64>> {
    let mut sizes = BTreeMap::new();
    for entry in std::fs::read_dir(store)? {
        let entry = entry?;
        let name = entry.file_name().to_string_lossy().into_owned();
        let bytes = match entry.file_type()?.is_dir() {
            true => bytes_below(entry.path())?,
            false => entry.metadata()?.len(),
        };
        sizes.insert(name, bytes);
    }
    Ok(sizes)
}

fn bytes_below(folder: PathBuf) -> std::io::Result<u64> {
    let (mut folders, mut bytes) = (vec![folder], 0);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            // What goes away meanwhile counts nothing.
            match entry.metadata() {
                Ok(found) if found.is_dir() => folders.push(entry.path()),
                Ok(found) => bytes += found.len(),
                Err(_) => {}
            }
        }
    }
    Ok(bytes)
}

fn put_out(out: &mpsc::Sender<Out>, view: Value) {
    // Whoever went away is seen by `is_closed`.
    let _ = out.blocking_send(Out::Event(Event::Item(view)));
}

async fn put_out_async(out: &mpsc::Sender<Out>, view: Value) {
    let _ = out.send(Out::Event(Event::Item(view))).await;
}

fn progress(out: &mpsc::Sender<Out>, what: &str, done: u64, total: u64, unit: &str) {
    let event = Event::Progress { what: what.into(), done, total, unit: unit.into() };
    let _ = out.blocking_send(Out::Event(event));
}
