//! Backups: everything a party needs to begin again on another machine, encrypted with age.
//!
//! ```text
//! a folder:  000001.age, 000002.age, …   parts; each adds to the ones before
//!            index                       what the parts hold, sealed for the node that writes them
//! a file:    one part
//! part     = age file of a tar: about.json, keys.cbor, rows/…, payloads/HEX…, list.cbor, list.cose
//! ```
//! Stock `age -d part | tar x` opens a part. `list.cbor` names everything before it with length and blake3;
//! `list.cose` is the making device's signature over that, and over the list of the part before.
//!
//! In it: own records (label, file key, payload), identity log, contacts, grants, receipts, library keys and the
//! recovery key. **Not** in it: reading keys and what came under grants, so that a grant that ended stays ended; the
//! device's own keys, so that a restored backup is a new device and never a second copy of one.

mod index;
mod read;
mod restore;
mod write;

use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use karte_protocol::id::RecordId;
use karte_protocol::keys::Recipient;
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use serde_bytes::{ByteArray, ByteBuf};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use zeroize::Zeroize;

pub use read::{Found, verify};
pub use restore::{Restore, restore};
pub(crate) use restore::{Staging, require_free};
pub(crate) use write::{Maker, create};

/// The form of parts.
const VERSION: u8 = 1;
/// Largest `keys.cbor` and `list.cose`, in bytes. 64 KiB: far above some keys or one signed object.
const SMALL_BYTES_MAX: u64 = 64 * 1024;
/// Largest entry of rows, in bytes. 16 MiB: a chunk of 1 MiB and one row of the largest size, with room.
const ROWS_BYTES_MAX: u64 = 16 << 20;
/// Largest list, in bytes. 1 GiB: some ten million records in one part.
const LIST_BYTES_MAX: u64 = 1 << 30;

const ABOUT: &str = "about.json";
const KEYS: &str = "keys.cbor";
const LIST: &str = "list.cbor";
const SIGNED: &str = "list.cose";

/// A row on its way: table, parent, item, and its value; none where a later part takes it away.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Row(pub(crate) u8, pub(crate) ByteBuf, pub(crate) ByteBuf, pub(crate) Option<ByteBuf>);

impl Row {
    pub(crate) fn put(table: u8, parent: &[u8], item: &[u8], value: &[u8]) -> Self {
        Self(table, ByteBuf::from(parent), ByteBuf::from(item), Some(ByteBuf::from(value)))
    }
}

/// A thing in a part: its name, length in bytes and blake3.
type Listed = (String, u64, ByteArray<32>);

/// The secrets of a backup.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeysForm {
    version: u8,
    /// COSE bytes of the party's Genesis.
    genesis: ByteBuf,
    /// Library keys, oldest first.
    library: Vec<ByteArray<32>>,
    /// What signs the next recovery.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<ByteArray<32>>,
    name: String,
    kind: String,
    accept: [bool; 3],
}

impl KeysForm {
    fn of(keys: &Keys, genesis: &[u8], name: &str, kind: &str, accept: [bool; 3]) -> Self {
        Self {
            version: VERSION,
            genesis: ByteBuf::from(genesis),
            library: keys.library.iter().map(|key| ByteArray::new(*key.expose_seed())).collect(),
            recovery: keys.recovery.seed().map(|seed| ByteArray::new(*seed.expose_seed())),
            name: name.to_owned(),
            kind: kind.to_owned(),
            accept,
        }
    }
}

impl Drop for KeysForm {
    fn drop(&mut self) {
        self.library.iter_mut().chain(self.recovery.as_mut()).for_each(|key| key.as_mut_slice().zeroize());
    }
}

/// Whom a backup is encrypted to.
pub enum Lock {
    /// Whoever has one of these recipients' identities.
    Recipients(Vec<age::x25519::Recipient>),
    /// Whoever knows it.
    Passphrase(SecretString),
}

impl Lock {
    /// From age recipients (`age1…`), or a passphrase if there are none.
    pub fn of(to: &[String], passphrase: Option<SecretString>) -> Result<Self, Failure> {
        let next = "Say --to age1… (`age-keygen` makes one), or give a passphrase.";
        match (to, passphrase) {
            ([], Some(passphrase)) => Ok(Self::Passphrase(passphrase)),
            ([], None) => Err(Failure::usage("a backup is encrypted to somebody").next(next)),
            (_, Some(_)) => Err(Failure::usage("expected recipients or a passphrase, not both").next(next)),
            (to, None) => {
                let recipients = to.iter().map(|text| {
                    let recipient = Recipient { r#type: "x25519".into(), key: text.trim().to_owned() };
                    recipient.to_age().map_err(|error| Failure::usage(error.to_string()).next(next))
                });
                Ok(Self::Recipients(recipients.collect::<Result<_, _>>()?))
            }
        }
    }

    fn encryptor(&self) -> Result<age::Encryptor, Failure> {
        match self {
            Self::Passphrase(passphrase) => Ok(age::Encryptor::with_user_passphrase(passphrase.clone())),
            Self::Recipients(to) => {
                age::Encryptor::with_recipients(to.iter().map(|to| to as &dyn age::Recipient))
                    .map_err(|error| Failure::usage(error.to_string()))
            }
        }
    }
}

/// What opens a backup.
pub enum Opener {
    /// age identities.
    Identities(Vec<age::x25519::Identity>),
    /// A passphrase.
    Passphrase(SecretString),
}

impl Opener {
    /// From a file as `age-keygen` writes it.
    pub fn from_file(path: &Path) -> Result<Self, Failure> {
        let text = std::fs::read_to_string(path).map(zeroize::Zeroizing::new).map_err(|error| {
            Failure::usage(format!("the identity file {} cannot be read: {error}", path.display()))
        })?;
        let lines = text.lines().map(str::trim).filter(|line| !line.is_empty() && !line.starts_with('#'));
        let identities: Result<Vec<_>, _> = lines.map(age::x25519::Identity::from_str).collect();
        match identities {
            Ok(identities) if !identities.is_empty() => Ok(Self::Identities(identities)),
            _ => Err(Failure::usage(format!("{} holds no age identity (AGE-SECRET-KEY-1…)", path.display()))
                .next("Give the file that `age-keygen` wrote.")),
        }
    }

    fn open<'a, R: io::BufRead + 'a>(&self, file: R) -> Result<Box<dyn Read + 'a>, Failure> {
        let not_age = |error: age::DecryptError| {
            Failure::new(Kind::Failed, format!("the backup cannot be opened: {error}"))
                .next("Give the identity or passphrase that it was made for.")
        };
        let decryptor = age::Decryptor::new_buffered(file).map_err(not_age)?;
        match self {
            Self::Passphrase(passphrase) => {
                let identity = age::scrypt::Identity::new(passphrase.clone());
                let opened = decryptor.decrypt(std::iter::once(&identity as &dyn age::Identity));
                Ok(Box::new(opened.map_err(not_age)?))
            }
            Self::Identities(identities) => {
                let all = identities.iter().map(|identity| identity as &dyn age::Identity);
                Ok(Box::new(decryptor.decrypt(all).map_err(not_age)?))
            }
        }
    }
}

/// Whether a backup goes into a folder, to which later ones add: it is one, or its name does not end in `.age`.
fn is_folder(target: &Path) -> bool {
    target.is_dir() || (!target.is_file() && target.extension().is_none_or(|end| end != "age"))
}

fn part_path(folder: &Path, number: u32) -> PathBuf {
    folder.join(format!("{number:06}.age"))
}

fn payload_name(record: &RecordId) -> String {
    format!("payloads/{}", record.to_hex())
}

/// A writer or reader that hashes what passes.
struct Hashing<T> {
    inner: T,
    hasher: blake3::Hasher,
    bytes: u64,
}

impl<T> Hashing<T> {
    fn new(inner: T) -> Self {
        Self { inner, hasher: blake3::Hasher::new(), bytes: 0 }
    }

    fn hash(&self) -> [u8; 32] {
        self.hasher.finalize().into()
    }

    fn passed(&mut self, bytes: &[u8]) {
        self.hasher.update(bytes);
        self.bytes += bytes.len() as u64;
    }
}

impl<T: Write> Write for Hashing<T> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.inner.write(bytes)?;
        self.passed(bytes.get(..written).unwrap_or_default());
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.inner.flush()
    }
}

impl<T: Read> Read for Hashing<T> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.passed(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}

fn not_written(error: io::Error) -> Failure {
    Failure::failed(format!("the backup cannot be written: {error}"))
        .next("What was written before stays good. Look at the medium, then repeat the command.")
}

fn damaged(what: impl Into<String>) -> Failure {
    Failure::new(Kind::Damaged, what.into()).next("Use another copy of this backup, or an older one.")
}
