//! Reading a backup: every part decrypted, every byte compared with the signed list.

use super::{
    ABOUT, Hashing, KEYS, KeysForm, LIST, LIST_BYTES_MAX, Listed, Opener, ROWS_BYTES_MAX, Row, SIGNED,
    SMALL_BYTES_MAX, VERSION, damaged, part_path,
};
use crate::engine::{ENTRIES_TABLE, OWN_TABLE};
use crate::failure::{Failure, Kind};
use karte_protocol::backup::BackupList;
use karte_protocol::encoding;
use karte_protocol::entry::Entry;
use karte_protocol::id::{ObjectId, PartyId, RecordId, digest};
use karte_protocol::identity::PartyLog;
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::UnixMs;
use serde_bytes::ByteArray;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{self, BufReader, Read};
use std::path::{Path, PathBuf};

/// Takes what a backup holds, in the order of its parts: later rows replace earlier ones.
pub(super) trait Taker {
    fn rows(&mut self, rows: Vec<Row>) -> Result<(), Failure>;
    /// Reads a payload to its end; its bytes are compared with its name afterwards.
    fn payload(&mut self, record: RecordId, from: &mut dyn Read) -> Result<(), Failure>;
}

/// What a backup was found to be, all of it compared with the signed lists.
pub struct Found {
    /// Whose it is.
    pub party: PartyId,
    /// Parts.
    pub parts: u32,
    /// Own records.
    pub records: u64,
    /// Own records whose payload is in no part.
    pub lost: Vec<RecordId>,
    /// When the newest part was made.
    pub made_ms: UnixMs,
    pub(super) keys: KeysForm,
}

impl Found {
    /// For a screen.
    pub fn view(&self) -> Value {
        json!({
            "party": self.party.to_string(),
            "name": self.keys.name,
            "parts": self.parts,
            "records": self.records,
            "lost": self.lost.iter().map(RecordId::to_hex).collect::<Vec<_>>(),
            "recoverable": self.keys.recovery.is_some(),
            "made_ms": self.made_ms,
        })
    }
}

/// Reads a whole backup and keeps nothing of it.
pub fn verify(from: &Path, opener: &Opener) -> Result<Found, Failure> {
    struct Nobody;
    impl Taker for Nobody {
        fn rows(&mut self, _: Vec<Row>) -> Result<(), Failure> {
            Ok(())
        }
        fn payload(&mut self, _: RecordId, from: &mut dyn Read) -> Result<(), Failure> {
            io::copy(from, &mut io::sink()).map(drop).map_err(not_read)
        }
    }
    read(from, opener, &mut Nobody)
}

/// Reads a whole backup into `taker`. What was taken may be used only if this returns Ok.
pub(super) fn read(from: &Path, opener: &Opener, taker: &mut dyn Taker) -> Result<Found, Failure> {
    let mut reading =
        Reading { taker, keys: None, own: BTreeSet::new(), payloads: BTreeSet::new(), entries: vec![] };
    let mut prev: Option<Verified<BackupList>> = None;
    let mut signers: Vec<By> = Vec::new();
    for (number, path) in (1..).zip(parts_of(from)?) {
        let list = reading.part(&path, opener, number, prev.as_ref().map(Verified::id))?;
        signers.push(list.by());
        prev = Some(list);
    }
    let last = prev.ok_or_else(|| Failure::usage(format!("there is no backup in {}", from.display())))?;
    reading.end(&last, &signers)
}

/// Part files in their order, without a gap.
fn parts_of(from: &Path) -> Result<Vec<PathBuf>, Failure> {
    if !from.is_dir() {
        return Ok(vec![from.to_owned()]);
    }
    let names = std::fs::read_dir(from).map_err(not_read)?;
    let highest = names
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter_map(|name| name.strip_suffix(".age")?.parse::<u32>().ok())
        .max();
    (1..=highest.unwrap_or(0))
        .map(|number| {
            let path = part_path(from, number);
            if path.is_file() {
                Ok(path)
            } else {
                Err(damaged(format!("part {number} of the backup is missing")))
            }
        })
        .collect()
}

struct Reading<'a> {
    taker: &'a mut dyn Taker,
    keys: Option<KeysForm>,
    own: BTreeSet<RecordId>,
    payloads: BTreeSet<RecordId>,
    entries: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Reading<'_> {
    fn part(
        &mut self,
        path: &Path,
        opener: &Opener,
        number: u32,
        prev: Option<ObjectId>,
    ) -> Result<Verified<BackupList>, Failure> {
        let file = File::open(path).map_err(|error| {
            Failure::usage(format!("{} cannot be read: {error}", path.display()))
                .next("Name a backup's folder or file.")
        })?;
        let mut archive = tar::Archive::new(opener.open(BufReader::new(file))?);
        let (mut seen, mut list, mut signed): (Vec<Listed>, Vec<u8>, Vec<u8>) = (vec![], vec![], vec![]);
        for entry in archive.entries().map_err(not_read)? {
            let entry = entry.map_err(not_read)?;
            // A name is data here, never a path.
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            let mut entry = Hashing::new(entry);
            match name.as_str() {
                LIST => list = take(&mut entry, LIST_BYTES_MAX)?,
                SIGNED => signed = take(&mut entry, SMALL_BYTES_MAX)?,
                name => self.entry(name, &mut entry)?,
            }
            if name != LIST && name != SIGNED {
                seen.push((name, entry.bytes, ByteArray::new(entry.hash())));
            }
        }
        // To the end: only then has age seen that nothing is cut off.
        io::copy(&mut archive.into_inner(), &mut io::sink()).map_err(not_read)?;
        let signed = Signed::<BackupList>::from_bytes(signed).verify();
        let signed = signed.map_err(|error| damaged(format!("part {number} has no signed list: {error}")))?;
        let is_listed = encoding::encode(&seen)? == list && digest(&list) == signed.list;
        if !is_listed || signed.part != number || signed.prev != prev {
            return Err(damaged(format!("part {number} does not hold what its signed list names")));
        }
        Ok(signed)
    }

    fn entry(&mut self, name: &str, from: &mut Hashing<impl Read>) -> Result<(), Failure> {
        match name.split_once('/') {
            None if name == ABOUT => take(from, SMALL_BYTES_MAX).map(drop),
            None if name == KEYS => {
                let bytes = zeroize::Zeroizing::new(take(from, SMALL_BYTES_MAX)?);
                let keys: KeysForm = encoding::decode(&bytes, usize::MAX).map_err(shape)?;
                if keys.version != VERSION {
                    return Err(Failure::failed(format!("expected a backup of version {VERSION}"))
                        .next("Restore it with the version of karte that wrote it."));
                }
                self.keys = Some(keys);
                Ok(())
            }
            Some(("rows", _)) => {
                let bytes = zeroize::Zeroizing::new(take(from, ROWS_BYTES_MAX)?);
                let rows: Vec<Row> = encoding::decode(&bytes, usize::MAX).map_err(shape)?;
                rows.iter().for_each(|row| self.note(row));
                self.taker.rows(rows)
            }
            Some(("payloads", hex)) => {
                let record: RecordId =
                    hex.parse().map_err(|_| damaged(format!("{name} is no payload's name")))?;
                self.taker.payload(record, from)?;
                if from.hash() != *record.as_bytes() {
                    return Err(damaged(format!("payload {} is not what its name says", record.short())));
                }
                self.payloads.insert(record);
                Ok(())
            }
            _ => Err(damaged(format!("{name:?} is no part of a backup"))),
        }
    }

    fn note(&mut self, row: &Row) {
        match (row.0, &row.3) {
            (table, Some(_)) if table == OWN_TABLE => self.own.extend(RecordId::from_slice(&row.2)),
            (table, None) if table == OWN_TABLE => {
                if let Some(record) = RecordId::from_slice(&row.2) {
                    self.own.remove(&record);
                }
            }
            (table, Some(value)) if table == ENTRIES_TABLE => {
                self.entries.push((row.1.to_vec(), value.to_vec()));
            }
            _ => {}
        }
    }

    /// The lists are signed by devices that the party itself names.
    fn end(self, last: &BackupList, signers: &[By]) -> Result<Found, Failure> {
        let keys = self.keys.ok_or_else(|| damaged("the backup holds no keys"))?;
        let genesis = Signed::<Entry>::from_bytes(keys.genesis.to_vec()).verify()?;
        let mut log = PartyLog::start(genesis).map_err(|error| damaged(error.to_string()))?;
        let party = log.party();
        // Of every party: a node takes up the entries in its own store without looking at their signatures again.
        let mut own = Vec::new();
        for (of, bytes) in self.entries {
            let entry = Signed::<Entry>::from_bytes(bytes).verify();
            let entry = entry.map_err(|error| damaged(format!("an entry in the backup: {error}")))?;
            if of.as_slice() == party.as_bytes() {
                own.push(entry);
            }
        }
        own.sort_by_key(|entry| (entry.by().r#gen, !entry.act.is_identity(), entry.seq));
        while !own.is_empty() {
            let before = own.len();
            own.retain(|entry| log.add(entry.clone()).is_err());
            if own.len() == before {
                break;
            }
        }
        let named = log.named_devices();
        if signers.iter().any(|by| by.party != Some(party) || !named.contains(&by.device)) {
            return Err(damaged("the backup is not signed by a device of its party"));
        }
        Ok(Found {
            party,
            parts: u32::try_from(signers.len()).unwrap_or(u32::MAX),
            records: self.own.len() as u64,
            lost: self.own.difference(&self.payloads).copied().collect(),
            made_ms: last.at_ms,
            keys,
        })
    }
}

fn take(from: &mut impl Read, most: u64) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    from.take(most + 1).read_to_end(&mut bytes).map_err(not_read)?;
    if bytes.len() as u64 > most {
        return Err(damaged(format!("expected at most {most} bytes in an entry of the backup")));
    }
    Ok(bytes)
}

fn shape(error: encoding::EncodingError) -> Failure {
    damaged(format!("the backup holds what was never written: {error}"))
}

pub(super) fn not_read(error: io::Error) -> Failure {
    let kind = match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => Kind::Failed,
        _ => Kind::Damaged,
    };
    Failure::new(kind, format!("the backup cannot be read: {error}"))
        .next("Use another copy of this backup, or an older one.")
}
