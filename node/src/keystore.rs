//! The keystore: every secret of a node in one file, `keystore.age`, mode 0600.
//!
//! ```text
//! file   = dag-cbor { version, genesis, lock, master, ring }
//! master = age file (scrypt, the passphrase) of Master, or Master itself under `--no-passphrase`
//! ring   = XChaCha20-Poly1305 under Master.ring_key of the reading keys; rewritten whenever one comes or goes
//! ```
//! Reading keys live here and nowhere else: not in journal, sled, own shelf or backup. Rewriting without one
//! is how it is destroyed. Not for: records and grants, which are the store's.

use crate::store::{Sealer, StoreKey};
use karte_protocol::chance::Chance;
use karte_protocol::encoding::{self, EncodingError};
use karte_protocol::id::GrantId;
use karte_protocol::keys::{DeviceKey, RecoverySeed, SealingKey};
use secrecy::SecretString;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use zeroize::{Zeroize, Zeroizing};

/// Largest keystore file, in bytes. 8 MiB: some 100,000 reading keys.
const KEYSTORE_BYTES_MAX: usize = 8 << 20;
const FILE: &str = "keystore.age";
const VERSION: u8 = 1;

/// Why the keystore cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum KeystoreError {
    /// Nothing there.
    #[error("there is no node in {0}")]
    Absent(PathBuf),
    /// Something there already.
    #[error("there is a node in {0} already")]
    Present(PathBuf),
    /// The passphrase is not the one.
    #[error("the passphrase does not open the keystore")]
    Passphrase,
    /// A passphrase is needed.
    #[error("the keystore is locked with a passphrase")]
    Locked,
    /// Not a keystore, or damaged.
    #[error("the keystore is damaged: {0}")]
    Damaged(String),
    /// The disk.
    #[error("the keystore cannot be {doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// What the system says.
        source: std::io::Error,
    },
}

impl From<EncodingError> for KeystoreError {
    fn from(error: EncodingError) -> Self {
        Self::Damaged(error.to_string())
    }
}

/// The keys that do not change from day to day.
pub struct Keys {
    /// Signs, and is the network identity.
    pub device: DeviceKey,
    /// Offers to this device are sealed to it.
    pub sealing: SealingKey,
    /// Library keys of the own shelf, oldest first.
    pub library: Vec<SealingKey>,
    /// Until it was printed and taken out.
    pub recovery: Option<RecoverySeed>,
    /// Seals the store.
    pub store: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// Fresh keys.
    pub fn generate(chance: &mut dyn Chance) -> Self {
        Self {
            device: DeviceKey::generate(chance),
            sealing: SealingKey::generate(chance),
            library: vec![SealingKey::generate(chance)],
            recovery: Some(RecoverySeed::from_seed(&chance.seed())),
            store: chance.seed(),
        }
    }

    /// The key of the store.
    pub fn store_key(&self) -> StoreKey {
        StoreKey::new(*self.store)
    }
}

/// Reading keys, one for each accepted grant. Users: the keystore file, and memory under the simulator.
pub trait Keyring: Send {
    /// The key of a grant, while it lives.
    fn reading(&self, grant: &GrantId) -> Option<&SealingKey>;
    /// Keeps a key; durable when this returns.
    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError>;
    /// Destroys a key; gone from the file when this returns. Destroying what is not there is no error.
    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError>;
}

/// The keyring of a simulator.
#[derive(Default)]
pub struct MemoryKeyring(BTreeMap<GrantId, SealingKey>);

impl Keyring for MemoryKeyring {
    fn reading(&self, grant: &GrantId) -> Option<&SealingKey> {
        self.0.get(grant)
    }
    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError> {
        self.0.insert(grant, key);
        Ok(())
    }
    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError> {
        self.0.remove(grant);
        Ok(())
    }
}

/// How the master keys are locked.
pub enum Lock {
    /// With a passphrase.
    Passphrase(SecretString),
    /// With nothing but the file's mode: for servers with disk encryption, and tests.
    None,
}

/// An opened keystore.
pub struct Keystore {
    path: PathBuf,
    file: FileForm,
    ring_key: Zeroizing<[u8; 32]>,
    reading: BTreeMap<GrantId, SealingKey>,
}

#[derive(Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    version: u8,
    /// `passphrase` or `none`.
    lock: String,
    /// COSE bytes of the own Genesis, so that the party survives the loss of its store.
    #[serde(with = "serde_bytes")]
    genesis: Vec<u8>,
    #[serde(with = "serde_bytes")]
    master: Vec<u8>,
    #[serde(with = "serde_bytes")]
    ring: Vec<u8>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Master {
    device: serde_bytes::ByteArray<32>,
    sealing: serde_bytes::ByteArray<32>,
    library: Vec<serde_bytes::ByteArray<32>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<serde_bytes::ByteArray<32>>,
    store: serde_bytes::ByteArray<32>,
    ring: serde_bytes::ByteArray<32>,
}

impl Drop for Master {
    fn drop(&mut self) {
        let lists = self.library.iter_mut().chain(self.recovery.as_mut());
        let all = lists.chain([&mut self.device, &mut self.sealing, &mut self.store, &mut self.ring]);
        all.for_each(|key| key.as_mut_slice().zeroize());
    }
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReadingKey {
    grant: GrantId,
    key: serde_bytes::ByteArray<32>,
}

/// Whether `home` holds a node, and whether it needs a passphrase.
pub fn probe(home: &Path) -> Result<bool, KeystoreError> {
    Ok(read_file(home)?.lock == "passphrase")
}

impl Keystore {
    /// Creates the keystore of a new node. Refuses to overwrite one.
    pub fn create(
        home: &Path,
        keys: &Keys,
        genesis: &[u8],
        lock: &Lock,
        chance: &mut dyn Chance,
    ) -> Result<Self, KeystoreError> {
        let path = home.join(FILE);
        if path.exists() {
            return Err(KeystoreError::Present(home.to_owned()));
        }
        let ring_key = chance.seed();
        let master = Zeroizing::new(encoding::encode(&master_of(keys, &ring_key))?);
        let (lock, master) = match lock {
            Lock::None => ("none", master.to_vec()),
            Lock::Passphrase(passphrase) => ("passphrase", lock_with(&master, passphrase.clone())?),
        };
        let file =
            FileForm { version: VERSION, lock: lock.into(), genesis: genesis.to_vec(), master, ring: vec![] };
        let mut keystore = Self { path, file, ring_key, reading: BTreeMap::new() };
        keystore.write()?;
        Ok(keystore)
    }

    /// Opens the keystore; `passphrase` is asked only if there is one.
    pub fn open(
        home: &Path,
        passphrase: impl FnOnce() -> Result<SecretString, KeystoreError>,
    ) -> Result<(Self, Keys), KeystoreError> {
        let file = read_file(home)?;
        let master = match file.lock.as_str() {
            "none" => Zeroizing::new(file.master.clone()),
            _ => unlock_with(&file.master, passphrase()?)?,
        };
        let master: Master = encoding::decode(&master, KEYSTORE_BYTES_MAX)?;
        let ring_key = Zeroizing::new(*master.ring);
        let reading = open_ring(&file.ring, &ring_key)?;
        let keys = keys_of(&master);
        Ok((Self { path: home.join(FILE), file, ring_key, reading }, keys))
    }

    /// The same keystore, after its folder was moved to `home`.
    pub(crate) fn moved_to(self, home: &Path) -> Self {
        Self { path: home.join(FILE), ..self }
    }

    /// COSE bytes of the own Genesis.
    pub fn genesis(&self) -> &[u8] {
        &self.file.genesis
    }

    /// Replaces the file: temporary file, fsync, rename, fsync of the folder.
    fn write(&mut self) -> Result<(), KeystoreError> {
        let list: Vec<ReadingKey> = self
            .reading
            .iter()
            .map(|(grant, key)| ReadingKey {
                grant: *grant,
                key: serde_bytes::ByteArray::new(*key.expose_seed()),
            })
            .collect();
        let plain = Zeroizing::new(encoding::encode(&list)?);
        self.file.ring = Sealer::new(&self.ring_key)
            .seal(RING_AAD, &plain)
            .map_err(|error| KeystoreError::Damaged(error.to_string()))?;
        let bytes = encoding::encode(&self.file)?;
        if bytes.len() > KEYSTORE_BYTES_MAX {
            return Err(KeystoreError::Damaged(
                "it would hold more reading keys than it can be read with".into(),
            ));
        }
        replace_file(&self.path, &bytes).map_err(|source| KeystoreError::Io { doing: "written", source })
    }
}

impl Keyring for Keystore {
    fn reading(&self, grant: &GrantId) -> Option<&SealingKey> {
        self.reading.get(grant)
    }

    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError> {
        self.reading.insert(grant, key);
        self.write()
    }

    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError> {
        match self.reading.remove(grant) {
            Some(_) => self.write(),
            None => Ok(()),
        }
    }
}

const RING_AAD: &[u8] = b"karte v1 reading keys";

fn master_of(keys: &Keys, ring_key: &[u8; 32]) -> Master {
    let array = serde_bytes::ByteArray::new;
    Master {
        device: array(*keys.device.expose_seed()),
        sealing: array(*keys.sealing.expose_seed()),
        library: keys.library.iter().map(|key| array(*key.expose_seed())).collect(),
        recovery: keys.recovery.as_ref().map(|seed| array(*seed.expose_seed())),
        store: array(*keys.store),
        ring: array(*ring_key),
    }
}

fn keys_of(master: &Master) -> Keys {
    Keys {
        device: DeviceKey::from_seed(&master.device),
        sealing: SealingKey::from_seed(&master.sealing),
        library: master.library.iter().map(|seed| SealingKey::from_seed(seed)).collect(),
        recovery: master.recovery.as_ref().map(|seed| RecoverySeed::from_seed(seed)),
        store: Zeroizing::new(*master.store),
    }
}

fn open_ring(sealed: &[u8], ring_key: &[u8; 32]) -> Result<BTreeMap<GrantId, SealingKey>, KeystoreError> {
    let damaged = || KeystoreError::Damaged("the reading keys do not open".into());
    let plain = Sealer::new(ring_key).open(RING_AAD, sealed).ok_or_else(damaged)?;
    let list: Vec<ReadingKey> = encoding::decode(&plain, KEYSTORE_BYTES_MAX)?;
    Ok(list.into_iter().map(|item| (item.grant, SealingKey::from_seed(&item.key))).collect())
}

fn lock_with(master: &[u8], passphrase: SecretString) -> Result<Vec<u8>, KeystoreError> {
    let wrong = |error: std::io::Error| KeystoreError::Io { doing: "locked", source: error };
    let mut locked = Vec::new();
    let mut writer =
        age::Encryptor::with_user_passphrase(passphrase).wrap_output(&mut locked).map_err(wrong)?;
    writer.write_all(master).map_err(wrong)?;
    writer.finish().map_err(wrong)?;
    Ok(locked)
}

fn unlock_with(locked: &[u8], passphrase: SecretString) -> Result<Zeroizing<Vec<u8>>, KeystoreError> {
    let decryptor =
        age::Decryptor::new_buffered(locked).map_err(|error| KeystoreError::Damaged(error.to_string()))?;
    let identity = age::scrypt::Identity::new(passphrase);
    let reader = decryptor
        .decrypt(std::iter::once(&identity as &dyn age::Identity))
        .map_err(|_| KeystoreError::Passphrase)?;
    let mut master = Zeroizing::new(Vec::new());
    reader.take(KEYSTORE_BYTES_MAX as u64).read_to_end(&mut master).map_err(|_| KeystoreError::Passphrase)?;
    Ok(master)
}

fn read_file(home: &Path) -> Result<FileForm, KeystoreError> {
    let bytes = match std::fs::read(home.join(FILE)) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(KeystoreError::Absent(home.to_owned()));
        }
        Err(source) => {
            return Err(KeystoreError::Io { doing: "read", source });
        }
    };
    let file: FileForm = encoding::decode(&bytes, KEYSTORE_BYTES_MAX)?;
    if file.version != VERSION {
        return Err(KeystoreError::Damaged(format!("expected version {VERSION}, got {}", file.version)));
    }
    Ok(file)
}

pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> std::io::Result<()> {
    use std::os::unix::fs::OpenOptionsExt;
    let fresh = path.with_extension("new");
    let mut file =
        std::fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&fresh)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    std::fs::rename(&fresh, path)?;
    match path.parent() {
        Some(folder) => std::fs::File::open(folder)?.sync_all(),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use karte_protocol::chance::OsChance;

    fn locked() -> Result<SecretString, KeystoreError> {
        Err(KeystoreError::Locked)
    }

    #[test]
    fn a_destroyed_reading_key_is_gone_from_the_file() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::generate(&mut OsChance);
        let mut keystore =
            Keystore::create(home.path(), &keys, b"genesis", &Lock::None, &mut OsChance).unwrap();
        let grant = GrantId::from([1; 32]);
        keystore.keep(grant, SealingKey::generate(&mut OsChance)).unwrap();
        let (again, _) = Keystore::open(home.path(), locked).unwrap();
        assert!(again.reading(&grant).is_some(), "kept keys are there after opening again");
        keystore.destroy(&grant).unwrap();
        let (again, same) = Keystore::open(home.path(), locked).unwrap();
        assert!(again.reading(&grant).is_none());
        assert_eq!(same.device.device(), keys.device.device());
        assert!(Keystore::create(home.path(), &keys, b"", &Lock::None, &mut OsChance).is_err());
    }

    #[test]
    fn a_passphrase_locks() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::generate(&mut OsChance);
        let lock = Lock::Passphrase(SecretString::from("correct horse".to_owned()));
        Keystore::create(home.path(), &keys, b"genesis", &lock, &mut OsChance).unwrap();
        assert!(probe(home.path()).unwrap());
        let wrong = Keystore::open(home.path(), || Ok(SecretString::from("wrong".to_owned())));
        assert!(matches!(wrong, Err(KeystoreError::Passphrase)));
        let (_, same) =
            Keystore::open(home.path(), || Ok(SecretString::from("correct horse".to_owned()))).unwrap();
        assert_eq!(same.sealing.recipient(), keys.sealing.recipient());
    }
}
