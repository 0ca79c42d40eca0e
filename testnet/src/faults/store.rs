//! The one place of the harness that touches the store's interface. What the store cannot do (yet) is said here, by
//! a constant and a small function each, and nowhere else.

use karte_node::store::{
    Batch, BlobId, Blobs, Check, Disk, DiskBlobs, Opened, Store, StoreError, StoreKey, Table, VisitRow,
};
use std::io::{Read, Write};
use std::ops::ControlFlow;
use std::path::Path;

use super::plan::{Change, META, What};

/// Any key: faults do not care.
const KEY: [u8; 32] = [7; 32];

/// A store and its payloads, as a node has them.
pub struct Node {
    disk: Box<Disk>,
    blobs: DiskBlobs,
}

/// What of a damaged store is named as lost.
#[derive(Clone, Debug, Default, serde::Serialize, serde::Deserialize)]
pub struct Named {
    /// Rows written by some commits are said to be lost.
    pub rows: bool,
    /// These payloads are said to be damaged or missing, in hex.
    pub payloads: Vec<String>,
}

impl Node {
    /// Opens both, in the order the product does.
    pub fn open(dir: &Path) -> Result<(Self, String), StoreError> {
        let (disk, opened) = Disk::open(dir, StoreKey::new(KEY))?;
        let blobs = DiskBlobs::open(dir)?;
        let opened = match opened {
            Opened::New => "new",
            Opened::Clean => "clean",
            Opened::CaughtUp { .. } => "caught up",
            Opened::Rebuilt { .. } => "rebuilt",
            Opened::Migrated { .. } => "migrated",
            Opened::Repaired { .. } => "repaired",
            _ => "open",
        };
        Ok((Self { disk: Box::new(disk), blobs }, opened.to_owned()))
    }

    /// Writes one batch.
    pub fn write(&mut self, changes: Vec<Change>, is_urgent: bool) -> Result<(), StoreError> {
        self.disk.write(if is_urgent { urgent(batch(changes)) } else { batch(changes) })
    }

    /// Writes one batch that may be lost.
    pub fn write_fleeting(&mut self, changes: Vec<Change>) -> Result<(), StoreError> {
        self.disk.write_unjournaled(batch(changes))
    }

    /// Makes rows durable.
    pub fn commit(&mut self) -> Result<(), StoreError> {
        self.disk.commit()
    }

    /// Makes payloads durable.
    pub fn sync(&self) -> Result<(), StoreError> {
        self.blobs.sync()
    }

    /// Syncs payloads, then commits and closes.
    pub fn close(self) -> Result<(), StoreError> {
        self.blobs.sync()?;
        self.disk.close()
    }

    /// The last step whose rows are there.
    pub fn step(&self) -> Result<Option<u64>, StoreError> {
        let row = self.disk.get(Table(META), b"plan", b"step")?;
        Ok(row.and_then(|row| row.try_into().ok()).map(u64::from_le_bytes))
    }

    /// Raises the time floor.
    pub fn raise_floor(&mut self, floor_ms: u64) {
        self.disk.raise_time_floor(floor_ms);
    }

    /// The time floor.
    pub fn floor(&self) -> u64 {
        self.disk.time_floor_ms()
    }

    /// Creates a payload.
    pub fn create(&self, bytes: &[u8]) -> Result<(), StoreError> {
        let mut writer = self.blobs.create()?;
        // The writer's error is the system's: a full disk is told apart below, as the product does.
        for part in bytes.chunks(16 << 10) {
            writer.write_all(part).map_err(|source| StoreError::Io { doing: "writing a payload", source })?;
        }
        writer.finish().map(|_| ())
    }

    /// Receives a payload up to `until`, from where an earlier part ends; completes it when that is its end.
    pub fn receive(&self, bytes: &[u8], until: usize) -> Result<(), StoreError> {
        let id = blake3::hash(bytes);
        match self.receive_once(id.as_bytes(), bytes, until) {
            // After a crash the last bytes of a part may be wrong: it was dropped, and is received anew.
            Err(StoreError::WrongHash { .. }) => self.receive_once(id.as_bytes(), bytes, until),
            other => other,
        }
    }

    fn receive_once(&self, id: &BlobId, bytes: &[u8], until: usize) -> Result<(), StoreError> {
        let mut part = self.blobs.partial(id)?;
        if part.len_bytes() > bytes.len() as u64 {
            part.discard()?;
            part = self.blobs.partial(id)?;
        }
        let from = usize::try_from(part.len_bytes()).unwrap_or(usize::MAX);
        for chunk in bytes.get(from..until).unwrap_or_default().chunks(16 << 10) {
            let at = part.len_bytes();
            part.write_at(at, chunk)?;
        }
        if until == bytes.len() { part.complete(until as u64) } else { Ok(()) }
    }

    /// Deletes a payload.
    pub fn forget(&self, bytes: &[u8]) -> Result<(), StoreError> {
        self.blobs.delete(blake3::hash(bytes).as_bytes())
    }

    /// Compacts rows and collects payloads.
    pub fn maintain(&mut self) -> Result<(), StoreError> {
        self.disk.compact()?;
        self.blobs.gc().map(|_| ())
    }

    /// Remakes the view.
    pub fn rebuild(&mut self) -> Result<(), StoreError> {
        self.disk.rebuild().map(|_| ())
    }

    /// Visits all rows of all journaled tables. Each must be found by its name, too.
    pub fn rows(&self, visit: &mut VisitRow<'_>) -> Result<(), StoreError> {
        for table in (0..0x80).map(Table) {
            self.disk.scan_table(table, &mut |parent, item, value| {
                match self.disk.get(table, parent, item) {
                    Ok(Some(found)) if found == value => visit(&[&[table.0], parent].concat(), item, value),
                    // What scan and get do not agree on is told as a row that no plan writes.
                    _ => visit(&[&[table.0], parent].concat(), b"get and scan disagree", value),
                }
            })?;
        }
        Ok(())
    }

    /// Visits all payloads: name, and whether the content is right. An error names the payload it is about.
    pub fn payloads(&self, visit: &mut dyn FnMut(String, Result<bool, String>)) -> Result<(), StoreError> {
        let mut ids = Vec::new();
        self.blobs.list(&mut |id, _| {
            ids.push(*id);
            ControlFlow::Continue(())
        })?;
        for id in ids {
            visit(blake3::Hash::from_bytes(id).to_hex().to_string(), self.is_right(&id));
        }
        Ok(())
    }

    fn is_right(&self, id: &BlobId) -> Result<bool, String> {
        let reader = self.blobs.open(id).map_err(|error| error.to_string())?;
        let mut reader = reader.ok_or("is listed but not there")?;
        let mut hasher = blake3::Hasher::new();
        let mut buffer = vec![0; 64 << 10];
        loop {
            match reader.read(&mut buffer).map_err(|error| error.to_string())? {
                0 => return Ok(hasher.finalize().as_bytes() == id),
                read => hasher.update(&buffer[..read]),
            };
        }
    }

    /// What the store itself says is damaged.
    pub fn check(&self) -> Named {
        let mut named = Named::default();
        // An error of the check is told by whoever reads the payload then.
        let _ = self.blobs.check(&mut |found| {
            if let Check::Damaged(id) = found {
                named.payloads.push(blake3::Hash::from_bytes(id).to_hex().to_string());
            }
            ControlFlow::Continue(())
        });
        named
    }
}

/// Brings back what is left of a store that [`Node::open`] refuses, and names what is lost.
pub fn salvage(dir: &Path) -> Option<Result<Named, StoreError>> {
    let saved = Disk::salvage(dir, StoreKey::new(KEY));
    Some(saved.map(|saved| Named { rows: saved.loses(), payloads: vec![] }))
}

/// Whether opening was refused by naming damage, and not by any other error.
pub fn names_damage(error: &StoreError) -> bool {
    matches!(error, StoreError::Damaged { .. })
}

/// Marks a batch as one that must be recorded even when the disk is full.
fn urgent(mut batch: Batch) -> Batch {
    batch.urgent();
    batch
}

fn batch(changes: Vec<Change>) -> Batch {
    let mut batch = Batch::new();
    for Change { table, parent, what } in changes {
        let (table, parent) = (Table(table), parent.as_bytes());
        match what {
            What::Put(item, value) => batch.put(table, parent, item.as_bytes(), value),
            What::Delete(item) => batch.delete(table, parent, item.as_bytes()),
            What::DeleteAll => batch.delete_all(table, parent),
        };
    }
    batch
}
