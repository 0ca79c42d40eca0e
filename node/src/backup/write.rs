//! Writing a part: rows as of one commit, then the payloads that are not in an earlier part.

use super::index::{self, Index, Key, Mark, Part};
use super::{
    ABOUT, Hashing, KEYS, KeysForm, LIST, Listed, Lock, Row, SIGNED, VERSION, is_folder, not_written,
    part_path, payload_name,
};
use crate::engine::OWN_TABLE;
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::store::Blobs;
use karte_protocol::backup::BackupList;
use karte_protocol::encoding;
use karte_protocol::id::{PartyId, RecordId, digest};
use karte_protocol::signed::{By, Verified};
use karte_protocol::time::UnixMs;
use serde_bytes::ByteArray;
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{BufWriter, Read};
use std::path::{Path, PathBuf};

/// Rows in one entry of the tar. The engine hands them over about 1 MiB at a time; deletions are cut here.
const ROWS_MAX: usize = 4_096;

/// Who makes a backup, and of what.
pub(crate) struct Maker<'a> {
    pub(crate) keys: &'a Keys,
    pub(crate) genesis: &'a [u8],
    pub(crate) party: PartyId,
    pub(crate) by: By,
    pub(crate) name: &'a str,
    pub(crate) kind: &'a str,
    pub(crate) accept: [bool; 3],
    pub(crate) blobs: &'a dyn Blobs,
    pub(crate) now: UnixMs,
}

/// Writes a backup into a folder, or adds to the one that is there, or writes one file. `rows` are those of one
/// commit. Gives a summary; fails with kind Damaged if an own payload is lost, after everything else was written.
pub(crate) fn create(
    maker: &Maker<'_>,
    target: &Path,
    lock: &Lock,
    rows: &mut dyn Iterator<Item = Vec<Row>>,
    tell: &mut dyn FnMut(u64, u64),
) -> Result<Value, Failure> {
    let folder = is_folder(target).then(|| target.to_owned());
    let index = match &folder {
        Some(folder) => {
            crate::access::make_folder(folder)?;
            Index::open(folder, maker.keys, maker.party)?
        }
        None => Index::default(),
    };
    let number = u32::try_from(index.parts.len()).unwrap_or(u32::MAX).saturating_add(1);
    let path = match &folder {
        Some(folder) => part_path(folder, number),
        None => target.to_owned(),
    };
    let fresh = Fresh::beside(&path)?;
    let mut writing = Writing::begin(maker, fresh.file()?, lock, index, number)?;
    writing.about()?;
    writing.rows(rows)?;
    writing.payloads(tell)?;
    let adds = writing.adds;
    let lost = std::mem::take(&mut writing.lost);
    let mut summary = json!({
        "backup": target.display().to_string(), "part": number, "new": adds,
        "rows": writing.rows_written, "payloads": writing.payloads_written, "lost": lost.len(),
    });
    let (index, bytes) = writing.end(&fresh)?;
    if adds || number == 1 {
        fresh.keep(&path)?;
        if let Some(folder) = &folder {
            index.save(folder, maker.keys, maker.party)?;
        }
    }
    if let Some(object) = summary.as_object_mut() {
        object.insert("bytes".into(), json!(if adds || number == 1 { bytes } else { 0 }));
        object.insert("lost_records".into(), json!(lost.iter().map(RecordId::to_hex).collect::<Vec<_>>()));
    }
    Ok(summary)
}

/// A part being written.
struct Writing<'a> {
    maker: &'a Maker<'a>,
    tar: tar::Builder<age::stream::StreamWriter<Hashing<BufWriter<File>>>>,
    list: Vec<Listed>,
    index: Index,
    number: u32,
    now: BTreeMap<Key, Mark>,
    own: BTreeSet<RecordId>,
    lost: Vec<RecordId>,
    rows_written: u64,
    payloads_written: u64,
    chunks: u64,
    adds: bool,
}

impl<'a> Writing<'a> {
    fn begin(
        maker: &'a Maker<'a>,
        file: File,
        lock: &Lock,
        index: Index,
        number: u32,
    ) -> Result<Self, Failure> {
        let out = Hashing::new(BufWriter::new(file));
        let sealed = lock.encryptor()?.wrap_output(out).map_err(not_written)?;
        Ok(Self {
            maker,
            tar: tar::Builder::new(sealed),
            list: vec![],
            index,
            number,
            now: BTreeMap::new(),
            own: BTreeSet::new(),
            lost: vec![],
            rows_written: 0,
            payloads_written: 0,
            chunks: 0,
            adds: false,
        })
    }

    fn about(&mut self) -> Result<(), Failure> {
        let Maker { party, name, kind, now, .. } = *self.maker;
        let about = json!({ "karte_backup": VERSION, "party": party.to_string(), "name": name, "kind": kind,
            "part": self.number, "made_ms": now });
        self.put(ABOUT, about.to_string().as_bytes())?;
        let Maker { keys, genesis, accept, .. } = *self.maker;
        let keys = KeysForm::of(keys, genesis, name, kind, accept);
        let bytes = zeroize::Zeroizing::new(encoding::encode(&keys)?);
        self.put(KEYS, &bytes)
    }

    fn rows(&mut self, rows: &mut dyn Iterator<Item = Vec<Row>>) -> Result<(), Failure> {
        for chunk in rows {
            let mut fresh = Vec::new();
            for row in chunk {
                if row.0 == OWN_TABLE {
                    self.own.extend(RecordId::from_slice(&row.2));
                }
                let key = index::key(&row);
                let mark = index::mark(row.3.as_deref().map_or(&[], Vec::as_slice));
                if self.index.rows.get(&key) != Some(&mark) {
                    fresh.push(row);
                }
                self.now.insert(key, mark);
            }
            self.put_rows(&fresh)?;
        }
        let gone: Vec<Row> = self
            .index
            .rows
            .keys()
            .filter(|key| !self.now.contains_key(*key))
            .map(|(table, parent, item)| Row(*table, parent.clone(), item.clone(), None))
            .collect();
        gone.chunks(ROWS_MAX).try_for_each(|part| self.put_rows(part))
    }

    fn put_rows(&mut self, rows: &[Row]) -> Result<(), Failure> {
        if rows.is_empty() {
            return Ok(());
        }
        self.adds = true;
        self.chunks += 1;
        self.rows_written += rows.len() as u64;
        let bytes = zeroize::Zeroizing::new(encoding::encode(&rows)?);
        self.put(&format!("rows/{:06}.cbor", self.chunks), &bytes)
    }

    /// Payloads never change, so they may be copied after the commit that names them.
    fn payloads(&mut self, tell: &mut dyn FnMut(u64, u64)) -> Result<(), Failure> {
        let wanted: Vec<RecordId> = self.own.difference(&self.index.payloads).copied().collect();
        let total = wanted.len() as u64;
        for (done, record) in (0..).zip(wanted) {
            tell(done, total);
            self.payload(record)?;
        }
        tell(total, total);
        Ok(())
    }

    fn payload(&mut self, record: RecordId) -> Result<(), Failure> {
        let blobs = self.maker.blobs;
        // Once to see that it is whole, once to copy: a damaged payload must not look saved.
        let whole = match blobs.open(record.as_bytes())? {
            Some(file) => blake3::Hasher::new()
                .update_reader(file)
                .is_ok_and(|hasher| hasher.finalize().as_bytes() == record.as_bytes()),
            None => false,
        };
        let (Some(file), Some(bytes), true) =
            (blobs.open(record.as_bytes())?, blobs.len(record.as_bytes())?, whole)
        else {
            self.lost.push(record);
            return Ok(());
        };
        self.adds = true;
        self.payloads_written += 1;
        self.put_from(&payload_name(&record), bytes, file)?;
        self.index.payloads.insert(record);
        Ok(())
    }

    fn put(&mut self, name: &str, bytes: &[u8]) -> Result<(), Failure> {
        self.put_from(name, bytes.len() as u64, bytes)
    }

    fn put_from(&mut self, name: &str, bytes: u64, from: impl Read) -> Result<(), Failure> {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes);
        header.set_mode(0o600);
        header.set_mtime(u64::try_from(self.maker.now / 1000).unwrap_or_default());
        let mut from = Hashing::new(from.take(bytes));
        self.tar.append_data(&mut header, name, &mut from).map_err(not_written)?;
        if from.bytes != bytes {
            return Err(
                Failure::failed(format!("{name} changed while it was copied")).next("Repeat the command.")
            );
        }
        self.list.push((name.to_owned(), bytes, ByteArray::new(from.hash())));
        Ok(())
    }

    /// Signs the list, ends the age file, and reads it back.
    fn end(mut self, fresh: &Fresh) -> Result<(Index, u64), Failure> {
        let list = encoding::encode(&self.list)?;
        let statement = BackupList {
            part: self.number,
            prev: self.index.parts.last().map(|part| part.list),
            list: digest(&list),
            at_ms: self.maker.now,
        };
        let signed = Verified::sign(statement, self.maker.by, &self.maker.keys.device)?;
        self.put(LIST, &list)?;
        self.put(SIGNED, signed.bytes())?;
        let sealed =
            self.tar.into_inner().and_then(age::stream::StreamWriter::finish).map_err(not_written)?;
        let (hash, bytes) = (sealed.hash(), sealed.bytes);
        let file = sealed.inner.into_inner().map_err(|error| not_written(error.into_error()))?;
        file.sync_all().map_err(not_written)?;
        fresh.is_as_written(hash)?;
        let mut index = self.index;
        index.rows = self.now;
        index.parts.push(Part { bytes, list: signed.id() });
        Ok((index, bytes))
    }
}

/// A file that has its name only when it is whole.
struct Fresh(PathBuf);

impl Fresh {
    fn beside(path: &Path) -> Result<Self, Failure> {
        let mut name = path.file_name().unwrap_or_default().to_owned();
        name.push(".new");
        Ok(Self(path.with_file_name(name)))
    }

    fn file(&self) -> Result<File, Failure> {
        use std::os::unix::fs::OpenOptionsExt;
        let mut options = std::fs::OpenOptions::new();
        options.write(true).create(true).truncate(true).mode(0o600).open(&self.0).map_err(|error| {
            Failure::new(Kind::Failed, format!("{} cannot be made: {error}", self.0.display()))
                .next("Choose a folder that you can write to.")
        })
    }

    /// What the medium gives back is what was written to it.
    fn is_as_written(&self, hash: [u8; 32]) -> Result<(), Failure> {
        let mut hasher = blake3::Hasher::new();
        hasher.update_reader(File::open(&self.0).map_err(not_written)?).map_err(not_written)?;
        if hasher.finalize().as_bytes() == &hash {
            return Ok(());
        }
        Err(Failure::failed("the medium gives back other bytes than were written")
            .next("Use another medium."))
    }

    fn keep(&self, path: &Path) -> Result<(), Failure> {
        std::fs::rename(&self.0, path).map_err(not_written)?;
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        File::open(folder.unwrap_or(Path::new("."))).and_then(|folder| folder.sync_all()).map_err(not_written)
    }
}

impl Drop for Fresh {
    fn drop(&mut self) {
        // Kept, it is there no more under this name.
        let _ = std::fs::remove_file(&self.0);
    }
}
