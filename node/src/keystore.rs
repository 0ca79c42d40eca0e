//! The keystore: every secret of a node in one file, `keystore.age`, mode 0600.
//!
//! ```text
//! file   = dag-cbor { version, genesis, lock, master, ring }
//! master = age file (scrypt, the passphrase) of Master, or Master itself under `--no-passphrase`
//! ring   = XChaCha20-Poly1305 under Master.ring_key of Ring; rewritten whenever a key in it comes or goes
//! ```
//! Reading keys live here and nowhere else: not in journal, sled, own shelf or backup. Rewriting without one
//! is how it is destroyed. The recovery seed lies in the ring too, so that it can be taken out without the passphrase;
//! version 1 kept it in Master, and is rewritten when it is opened. Not for: records and grants, which are the store's.

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
use std::sync::{Mutex, MutexGuard, PoisonError};
use zeroize::{Zeroize, Zeroizing};

/// Largest keystore file, in bytes. 8 MiB: some 100,000 reading keys.
const KEYSTORE_BYTES_MAX: usize = 8 << 20;
const FILE: &str = "keystore.age";
/// 2: the recovery seed lies in the ring. Version 1 is read, and written anew at once.
const VERSION: u8 = 2;

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
    /// Of a version that this one does not know.
    #[error("the keystore was written by a newer karte: expected version {VERSION} at most, got {0}")]
    Newer(u64),
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
    /// The recovery key, until other keys took its place.
    pub recovery: RecoverySlot,
    /// Seals the store.
    pub store: Zeroizing<[u8; 32]>,
}

/// A recovery seed that can be taken out while others hold the same [`Keys`]. It does not print.
#[derive(Default)]
pub struct RecoverySlot(Mutex<Option<RecoverySeed>>);

impl RecoverySlot {
    /// With a seed in it, or empty.
    pub fn new(seed: Option<RecoverySeed>) -> Self {
        Self(Mutex::new(seed))
    }

    /// The seed, while it is there.
    pub fn seed(&self) -> Option<RecoverySeed> {
        self.lock().as_ref().map(|seed| RecoverySeed::from_seed(seed.expose_seed()))
    }

    /// Wipes it.
    pub fn take_out(&self) {
        drop(self.lock().take());
    }

    fn lock(&self) -> MutexGuard<'_, Option<RecoverySeed>> {
        // Whoever panicked with it in hand left it whole: it is only ever read or taken.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Keys {
    /// Fresh keys.
    pub fn generate(chance: &mut dyn Chance) -> Self {
        Self {
            device: DeviceKey::generate(chance),
            sealing: SealingKey::generate(chance),
            library: vec![SealingKey::generate(chance)],
            recovery: RecoverySlot::new(Some(RecoverySeed::from_seed(&chance.seed()))),
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
    /// The grants whose keys live, in order of their ids.
    fn held(&self) -> Vec<GrantId>;
    /// Keeps a key; durable when this returns.
    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError>;
    /// Destroys a key; gone from the file when this returns. Destroying what is not there is no error.
    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError>;
    /// Destroys the recovery seed that is kept beside the reading keys; gone from the file when this returns.
    fn take_out_recovery(&mut self) -> Result<(), KeystoreError>;
}

/// The keyring of a simulator. Its recovery seed lies in [`Keys`] alone.
#[derive(Default)]
pub struct MemoryKeyring(BTreeMap<GrantId, SealingKey>);

impl Keyring for MemoryKeyring {
    fn reading(&self, grant: &GrantId) -> Option<&SealingKey> {
        self.0.get(grant)
    }
    fn held(&self) -> Vec<GrantId> {
        self.0.keys().copied().collect()
    }
    fn keep(&mut self, grant: GrantId, key: SealingKey) -> Result<(), KeystoreError> {
        self.0.insert(grant, key);
        Ok(())
    }
    fn destroy(&mut self, grant: &GrantId) -> Result<(), KeystoreError> {
        self.0.remove(grant);
        Ok(())
    }
    fn take_out_recovery(&mut self) -> Result<(), KeystoreError> {
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
    recovery: Option<RecoverySeed>,
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
    /// Version 1 alone.
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

/// What is rewritten without the passphrase.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Ring {
    reading: Vec<ReadingKey>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    recovery: Option<serde_bytes::ByteArray<32>>,
}

impl Drop for Ring {
    fn drop(&mut self) {
        let reading = self.reading.iter_mut().map(|reading| &mut reading.key);
        reading.chain(self.recovery.as_mut()).for_each(|key| key.as_mut_slice().zeroize());
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
        let recovery = keys.recovery.seed();
        let mut keystore = Self { path, file, ring_key, reading: BTreeMap::new(), recovery };
        keystore.write()?;
        Ok(keystore)
    }

    /// Opens the keystore; `passphrase` is asked only if there is one.
    pub fn open(
        home: &Path,
        passphrase: impl FnOnce() -> Result<SecretString, KeystoreError>,
    ) -> Result<(Self, Keys), KeystoreError> {
        let mut file = read_file(home)?;
        let passphrase = match file.lock.as_str() {
            "none" => None,
            _ => Some(passphrase()?),
        };
        let master = match &passphrase {
            None => Zeroizing::new(file.master.clone()),
            Some(passphrase) => unlock_with(&file.master, passphrase.clone())?,
        };
        let mut master: Master = encoding::decode(&master, KEYSTORE_BYTES_MAX)?;
        let ring_key = Zeroizing::new(*master.ring);
        let (reading, kept) = open_ring(file.version, &file.ring, &ring_key)?;
        let moved = master.recovery.take().map(|mut seed| {
            let moved = RecoverySeed::from_seed(&seed);
            seed.as_mut_slice().zeroize();
            moved
        });
        if file.version < VERSION {
            let plain = Zeroizing::new(encoding::encode(&master)?);
            file.master = match passphrase {
                None => plain.to_vec(),
                Some(passphrase) => lock_with(&plain, passphrase)?,
            };
        }
        let recovery = kept.or(moved);
        let same = recovery.as_ref().map(|seed| RecoverySeed::from_seed(seed.expose_seed()));
        let keys = keys_of(&master, same);
        Ok((Self { path: home.join(FILE), file, ring_key, reading, recovery }, keys))
    }

    /// To be called once nobody else has the store open: whoever had it since this keystore was read may have kept or
    /// destroyed keys. A file of an older version is written anew.
    pub(crate) fn settle(&mut self) -> Result<(), KeystoreError> {
        let home = self.path.parent().unwrap_or(Path::new("."));
        let file = read_file(home)?;
        let (reading, kept) = open_ring(file.version, &file.ring, &self.ring_key)?;
        self.reading = reading;
        if file.version == VERSION {
            self.recovery = kept;
            self.file = file;
            return Ok(());
        }
        self.write()
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
        let array = serde_bytes::ByteArray::new;
        let reading = self.reading.iter();
        let ring = Ring {
            reading: reading
                .map(|(grant, key)| ReadingKey { grant: *grant, key: array(*key.expose_seed()) })
                .collect(),
            recovery: self.recovery.as_ref().map(|seed| array(*seed.expose_seed())),
        };
        let plain = Zeroizing::new(encoding::encode(&ring)?);
        self.file.version = VERSION;
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

    fn held(&self) -> Vec<GrantId> {
        self.reading.keys().copied().collect()
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

    fn take_out_recovery(&mut self) -> Result<(), KeystoreError> {
        match self.recovery.take() {
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
        recovery: None,
        store: array(*keys.store),
        ring: array(*ring_key),
    }
}

fn keys_of(master: &Master, recovery: Option<RecoverySeed>) -> Keys {
    Keys {
        device: DeviceKey::from_seed(&master.device),
        sealing: SealingKey::from_seed(&master.sealing),
        library: master.library.iter().map(|seed| SealingKey::from_seed(seed)).collect(),
        recovery: RecoverySlot::new(recovery),
        store: Zeroizing::new(*master.store),
    }
}

/// What a ring holds: reading keys, and the recovery seed if it lies there.
type Opened = (BTreeMap<GrantId, SealingKey>, Option<RecoverySeed>);

fn open_ring(version: u8, sealed: &[u8], ring_key: &[u8; 32]) -> Result<Opened, KeystoreError> {
    let damaged = || KeystoreError::Damaged("the reading keys do not open".into());
    let plain = Zeroizing::new(Sealer::new(ring_key).open(RING_AAD, sealed).ok_or_else(damaged)?);
    let ring = match version {
        1 => Ring { reading: encoding::decode(&plain, KEYSTORE_BYTES_MAX)?, recovery: None },
        _ => encoding::decode(&plain, KEYSTORE_BYTES_MAX)?,
    };
    let reading = ring.reading.iter().map(|item| (item.grant, SealingKey::from_seed(&item.key))).collect();
    Ok((reading, ring.recovery.as_ref().map(|seed| RecoverySeed::from_seed(seed))))
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
    // The version first: a newer form may have fields that this one does not know, and that is no damage.
    let version = version_of(&bytes)?;
    if version > u64::from(VERSION) {
        return Err(KeystoreError::Newer(version));
    }
    Ok(encoding::decode(&bytes, KEYSTORE_BYTES_MAX)?)
}

fn version_of(bytes: &[u8]) -> Result<u64, KeystoreError> {
    #[derive(Deserialize)]
    struct Versioned {
        version: u64,
    }
    let versioned: Versioned = serde_ipld_dagcbor::from_slice(bytes)
        .map_err(|_| KeystoreError::Damaged("it is no keystore, or cut off".into()))?;
    Ok(versioned.version)
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

    /// As version 1 wrote it: the seed in the master, the ring a plain list.
    fn write_version_1(home: &Path, keys: &Keys, lock: Option<&SecretString>) {
        let mut file = read_file(home).unwrap();
        let ring_key = [9; 32];
        let mut master = master_of(keys, &ring_key);
        master.recovery = keys.recovery.seed().map(|seed| serde_bytes::ByteArray::new(*seed.expose_seed()));
        let plain = encoding::encode(&master).unwrap();
        let list =
            vec![ReadingKey { grant: GrantId::from([1; 32]), key: serde_bytes::ByteArray::new([2; 32]) }];
        file.version = 1;
        file.master = lock.map_or(plain.clone(), |lock| lock_with(&plain, lock.clone()).unwrap());
        file.ring = Sealer::new(&ring_key).seal(RING_AAD, &encoding::encode(&list).unwrap()).unwrap();
        replace_file(&home.join(FILE), &encoding::encode(&file).unwrap()).unwrap();
    }

    #[test]
    fn version_1_is_read_and_its_recovery_seed_can_be_taken_out() {
        for lock in [None, Some(SecretString::from("correct horse".to_owned()))] {
            let home = tempfile::tempdir().unwrap();
            let keys = Keys::generate(&mut OsChance);
            let how = lock.clone().map_or(Lock::None, Lock::Passphrase);
            Keystore::create(home.path(), &keys, b"genesis", &how, &mut OsChance).unwrap();
            write_version_1(home.path(), &keys, lock.as_ref());
            let open = || Keystore::open(home.path(), || lock.clone().ok_or(KeystoreError::Locked)).unwrap();
            let seed = |keys: &Keys| keys.recovery.seed().map(|seed| *seed.expose_seed());
            let (mut keystore, same) = open();
            assert_eq!(seed(&same), seed(&keys), "the seed came along");
            keystore.settle().unwrap();
            assert_eq!(
                read_file(home.path()).unwrap().version,
                VERSION,
                "and the file is of this version now"
            );
            let (mut keystore, same) = open();
            assert!(keystore.reading(&GrantId::from([1; 32])).is_some(), "with its reading keys");
            assert_eq!(seed(&same), seed(&keys));
            keystore.take_out_recovery().unwrap();
            assert_eq!(seed(&open().1), None, "what was taken out is in the file no more");
        }
    }

    #[test]
    fn a_keystore_of_a_newer_karte_is_refused_by_name() {
        let home = tempfile::tempdir().unwrap();
        let newer = serde_ipld_dagcbor::to_vec(&BTreeMap::from([("version", 3_u64), ("shape", 7)])).unwrap();
        std::fs::write(home.path().join(FILE), newer).unwrap();
        assert!(matches!(probe(home.path()), Err(KeystoreError::Newer(3))));
    }

    #[test]
    fn what_another_process_kept_meanwhile_is_not_lost() {
        let home = tempfile::tempdir().unwrap();
        let keys = Keys::generate(&mut OsChance);
        let mut first = Keystore::create(home.path(), &keys, b"genesis", &Lock::None, &mut OsChance).unwrap();
        let (mut second, _) = Keystore::open(home.path(), locked).unwrap();
        let (one, two) = (GrantId::from([1; 32]), GrantId::from([2; 32]));
        first.keep(one, SealingKey::generate(&mut OsChance)).unwrap();
        second.settle().unwrap();
        second.keep(two, SealingKey::generate(&mut OsChance)).unwrap();
        let (both, _) = Keystore::open(home.path(), locked).unwrap();
        assert!(both.reading(&one).is_some() && both.reading(&two).is_some());
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
