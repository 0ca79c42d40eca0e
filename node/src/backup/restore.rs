//! Restoring: a new device of the same party, from a backup.
//!
//! The home is made beside its place and moved there when it is whole. The new device signs a recovery with the key
//! from the backup: older devices of the party and the grants they gave are over then (SPEC rule 6).

use super::read::{Taker, not_read, read};
use super::{Found, KeysForm, Opener, Row};
use crate::access;
use crate::clock::{Clock, SystemClock};
use crate::engine;
use crate::failure::Failure;
use crate::keystore::{Keys, Keystore, Lock};
use crate::settings::{Accept, Settings};
use crate::store::{Batch, Blobs, Disk, DiskBlobs, Store, StoreError, Table};
use karte_protocol::chance::OsChance;
use karte_protocol::id::RecordId;
use karte_protocol::keys::{RecoverySeed, SealingKey};
use secrecy::SecretString;
use serde_json::{Value, json};
use std::io::Read;
use std::path::{Path, PathBuf};

/// Payloads made durable together.
const PAYLOADS_MAX: usize = 256;

/// How to restore.
pub struct Restore {
    /// Locks the new keystore; none for servers with disk encryption and for tests.
    pub passphrase: Option<SecretString>,
    /// Give again the grants that the recovery ends.
    pub regrant: bool,
    /// Restore although this backup was restored before.
    pub again: bool,
}

/// Makes a node in `home` out of a backup. Gives a summary, then the grants that ended, or those given anew.
pub fn restore(from: &Path, opener: &Opener, home: &Path, how: Restore) -> Result<Vec<Value>, Failure> {
    require_free(home)?;
    let staging = Staging::beside(home)?;
    let mut keys = Keys::generate(&mut OsChance);
    let mut disk = Filling::begin(&staging.0, &keys)?;
    let found = read(from, opener, &mut disk)?;
    disk.end()?;
    let old = inherit(&mut keys, &found.keys);
    mark_restored(from, how.again)?;
    match &old {
        Some(seed) => recover(&mut disk, &found.keys, &keys, seed)?,
        // Other keys took its place: their keepers decide. Until then the new device waits and signs nothing.
        None => {
            keys.recovery.take_out();
            engine::wait_for_acceptance(disk.store.as_mut())?;
            disk.store.commit()?;
        }
    }
    disk.close()?;
    let lock = how.passphrase.map_or(Lock::None, Lock::Passphrase);
    let keystore = Keystore::create(&staging.0, &keys, &found.keys.genesis, &lock, &mut OsChance)?;
    let settings = settings_of(&found.keys);
    settings.save(&staging.0)?;
    staging.becomes(home)?;
    begin(home, (keystore.moved_to(home), keys), &found, &settings, how.regrant && old.is_some())
}

/// A new home is made in a folder that is empty, or not there.
pub(crate) fn require_free(home: &Path) -> Result<(), Failure> {
    let is_free = match std::fs::read_dir(home) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !home.exists(),
    };
    match is_free {
        true => Ok(()),
        false => Err(Failure::usage(format!("{} is not empty", home.display()))
            .next("Begin in a new folder: --home NEW.")),
    }
}

/// Opens the new home once: grants received are accepted anew, and those given are told or given again.
fn begin(
    home: &Path,
    (keystore, keys): (Keystore, Keys),
    found: &Found,
    settings: &Settings,
    regrant: bool,
) -> Result<Vec<Value>, Failure> {
    let (mut engine, _) = access::open_home(home, keystore, keys, settings, &SystemClock)?;
    let ended = engine.ended_by_recovery();
    let given = if regrant { engine.give_again()? } else { vec![] };
    let device = engine.signer().device.to_hex();
    let engine_standing = engine.show_standing();
    engine.close()?;
    let summary = json!({
        "restored": home.display().to_string(),
        "party": found.party.to_string(),
        "name": settings.name,
        "device": device,
        "records": found.records,
        "lost": found.lost.len(),
        "made_ms": found.made_ms,
        "grants_ended": ended.len(),
        "grants_given_again": given.len(),
        "standing": engine_standing,
    });
    let rest = if regrant { given } else { ended };
    Ok(std::iter::once(summary).chain(rest).collect())
}

/// Library keys are kept and a fresh one added, because the old device knows the others. Gives the recovery key, if the
/// node had it still.
fn inherit(keys: &mut Keys, form: &KeysForm) -> Option<RecoverySeed> {
    let kept = form.library.iter().map(|seed| SealingKey::from_seed(seed));
    keys.library = kept.chain(std::mem::take(&mut keys.library)).collect();
    form.recovery.as_ref().map(|seed| RecoverySeed::from_seed(seed))
}

fn recover(disk: &mut Filling, form: &KeysForm, keys: &Keys, seed: &RecoverySeed) -> Result<(), Failure> {
    engine::recover(disk.store.as_mut(), &form.genesis, keys, &[seed], SystemClock.now_ms())
}

fn settings_of(form: &KeysForm) -> Settings {
    let [contacts, grants, adopt] = form.accept;
    Settings {
        name: form.name.clone(),
        kind: form.kind.clone(),
        accept: Accept { contacts, grants, adopt },
        network: Default::default(),
    }
}

/// Two recoveries of one generation are a dispute, and everything is denied for ever: a backup says that it was used.
fn mark_restored(from: &Path, again: bool) -> Result<(), Failure> {
    let path = match from.is_dir() {
        true => from.join("restored"),
        false => {
            let mut name = from.as_os_str().to_owned();
            name.push(".restored");
            PathBuf::from(name)
        }
    };
    let text = format!("A node was restored from this backup at {} ms.\n", SystemClock.now_ms());
    let made = std::fs::OpenOptions::new().write(true).create_new(true).open(&path);
    match made.and_then(|mut file| std::io::Write::write_all(&mut file, text.as_bytes())) {
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists && !again => {
            Err(Failure::usage("this backup was restored before: two nodes from one backup would dispute each other, and everybody would deny both")
                .next(format!("Use the node that was restored, or a backup of it. If that one never ran: --again. ({})", path.display())))
        }
        // A medium that cannot be written cannot remember either.
        _ => Ok(()),
    }
}

/// The home while it is made. Dropped, it goes.
pub(crate) struct Staging(pub(crate) PathBuf);

impl Staging {
    pub(crate) fn beside(home: &Path) -> Result<Self, Failure> {
        let mut name =
            home.file_name().ok_or_else(|| Failure::usage("expected a folder for the node"))?.to_owned();
        name.push(".restoring");
        let path = home.with_file_name(name);
        // What an interrupted restore left: never a node, for its keystore comes last.
        let _ = std::fs::remove_dir_all(&path);
        access::make_folder(&path)?;
        Ok(Self(path))
    }

    pub(crate) fn becomes(self, home: &Path) -> Result<(), Failure> {
        let moved = match std::fs::remove_dir(home) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
            _ => std::fs::rename(&self.0, home),
        };
        moved.map_err(|error| Failure::failed(format!("{} cannot be made: {error}", home.display())))?;
        let parent = home.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The name of the home; should it be lost in a power cut, the staged folder is there under its other name.
        let _ = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        // Moved away, it is not there.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

/// A new store that takes what a backup holds.
struct Filling {
    store: Box<dyn Store>,
    blobs: DiskBlobs,
    unsynced: usize,
}

impl Filling {
    fn begin(home: &Path, keys: &Keys) -> Result<Self, Failure> {
        let (disk, _) = Disk::open(&home.join("store"), keys.store_key())?;
        Ok(Self { store: Box::new(disk), blobs: DiskBlobs::open(&home.join("store"))?, unsynced: 0 })
    }

    fn end(&mut self) -> Result<(), StoreError> {
        self.blobs.sync()?;
        self.store.commit()
    }

    fn close(self) -> Result<(), StoreError> {
        self.store.close()
    }
}

impl Taker for Filling {
    fn rows(&mut self, rows: Vec<Row>) -> Result<(), Failure> {
        for Row(table, parent, item, value) in rows {
            let mut batch = Batch::default();
            match value {
                Some(value) => batch.put(Table(table), &parent, &item, value.into_vec()),
                None => batch.delete(Table(table), &parent, &item),
            };
            self.store.write(batch)?;
        }
        Ok(self.store.commit()?)
    }

    fn payload(&mut self, _: RecordId, from: &mut dyn Read) -> Result<(), Failure> {
        let mut writer = self.blobs.create()?;
        std::io::copy(from, &mut writer).map_err(not_read)?;
        writer.finish()?;
        self.unsynced += 1;
        if self.unsynced >= PAYLOADS_MAX {
            self.blobs.sync()?;
            self.unsynced = 0;
        }
        Ok(())
    }
}
