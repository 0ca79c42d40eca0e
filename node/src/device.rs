//! Making this machine a further device of a party that exists.
//!
//! The home is made beside its place, under the name `HOME.joining`, and moved there when the inviting device has
//! answered. Until then the keys wait in it: whoever repeats the command goes on with the same device, so that an
//! answer that was lost is simply given again. Not for: inviting; that is a command of the running node.

use crate::access::{self, Unlock};
use crate::clock::{Clock, SystemClock};
use crate::engine::{self, Joining};
use crate::failure::Failure;
use crate::keystore::{self, Keys, Keystore, KeystoreError, Lock, RecoverySlot};
use crate::runtime;
use crate::settings::{Accept, Settings};
use crate::store::Disk;
use karte_protocol::chance::OsChance;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};

/// Obtains the passphrase of a keystore that is made: none for servers with disk encryption and for tests.
pub type Locking = Box<dyn FnOnce() -> Result<Option<SecretString>, Failure> + Send>;

/// How to join.
pub struct Join {
    /// What the party is called on this device's card; as on the inviter's if absent.
    pub name: Option<String>,
    /// Locks the new keystore.
    pub locking: Locking,
    /// Opens it again, if an earlier try has made it.
    pub unlock: Unlock,
    /// Strangers who knock become contacts at once.
    pub accept_contacts: bool,
    /// Offered grants are accepted at once.
    pub accept_grants: bool,
    /// What arrives about the own party through such a grant becomes its own.
    pub adopt: bool,
}

/// Makes a node in `home` that belongs to the party which made the invitation. Blocks until the inviter has answered.
pub fn join(home: &Path, invite: &str, how: Join) -> Result<Value, Failure> {
    let joining = Joining::from_text(invite, SystemClock.now_ms())?;
    require_free(home)?;
    let staging = staging_of(home)?;
    let settings = settings_of(&joining, &how)?;
    let (keystore, keys) = keys_of(&staging, &joining, how.locking, how.unlock)?;
    settings.save(&staging)?;
    let answer = ask(&joining, &keys)?;
    let (mut disk, _) = Disk::open(&staging.join("store"), keys.store_key())?;
    engine::keep_joined(&mut disk, &joining, &keys, &answer)?;
    crate::store::Store::close(Box::new(disk))?;
    move_to(&staging, home)?;
    // Once around: what cannot be opened should say so now.
    let keystore = keystore.moved_to(home);
    let (engine, _) = access::open_home(home, keystore, keys, &settings, &SystemClock)?;
    let (party, device) = (engine.me().party, engine.signer().device);
    engine.close()?;
    Ok(json!({
        "joined": party.to_string(),
        "name": settings.name,
        "kind": settings.kind,
        "device": device.to_hex(),
        "home": home.display().to_string(),
    }))
}

fn require_free(home: &Path) -> Result<(), Failure> {
    if keystore::probe(home).is_ok() {
        return Err(access::no_home(KeystoreError::Present(home.to_owned()), home));
    }
    let is_free = match std::fs::read_dir(home) {
        Ok(mut entries) => entries.next().is_none(),
        Err(_) => !home.exists(),
    };
    match is_free {
        true => Ok(()),
        false => Err(Failure::usage(format!("{} is not empty", home.display()))
            .next("Join into a new folder: --home NEW.")),
    }
}

fn staging_of(home: &Path) -> Result<PathBuf, Failure> {
    let name = home.file_name().ok_or_else(|| Failure::usage("expected a folder for the node"))?;
    let mut name = name.to_owned();
    name.push(".joining");
    Ok(home.with_file_name(name))
}

fn settings_of(joining: &Joining, how: &Join) -> Result<Settings, Failure> {
    let name = how.name.clone().unwrap_or_else(|| joining.name().to_owned());
    if name.trim().is_empty() || name.len() > 100 || name.chars().any(char::is_control) {
        return Err(Failure::usage("expected a name of 1 to 100 bytes").next("Use --name \"Your name\"."));
    }
    let accept = Accept { contacts: how.accept_contacts, grants: how.accept_grants, adopt: how.adopt };
    Ok(Settings { name, kind: joining.kind().to_owned(), accept, network: Default::default() })
}

/// The keys of the device: those of an earlier try for the same party, or fresh ones.
fn keys_of(
    staging: &Path,
    joining: &Joining,
    locking: Locking,
    unlock: Unlock,
) -> Result<(Keystore, Keys), Failure> {
    if keystore::probe(staging).is_ok() {
        let mut refused = None;
        let opened = Keystore::open(staging, || {
            unlock().map_err(|failure| {
                refused = Some(failure);
                KeystoreError::Locked
            })
        });
        let (keystore, keys) =
            opened.map_err(|error| refused.unwrap_or_else(|| access::no_home(error, staging)))?;
        if keystore.genesis() == joining.genesis() {
            return Ok((keystore, keys));
        }
    }
    // Of another party, or half made: no device was ever made of it.
    let _ = std::fs::remove_dir_all(staging);
    let lock = locking()?.map_or(Lock::None, Lock::Passphrase);
    access::make_folder(staging)?;
    // The library's keys come with the answer, and recovery is the party's, not a device's.
    let keys = Keys { library: vec![], recovery: RecoverySlot::default(), ..Keys::generate(&mut OsChance) };
    let keystore = Keystore::create(staging, &keys, joining.genesis(), &lock, &mut OsChance)?;
    Ok((keystore, keys))
}

fn ask(joining: &Joining, keys: &Keys) -> Result<Vec<u8>, Failure> {
    access::tokio_runtime()?.block_on(async {
        let (network, events) = access::start_network(keys.device.expose_seed(), &[], Default::default())?;
        let answer = tokio::select! {
            answer = runtime::ask_to_join(&network, joining, keys) => answer,
            () = access::interrupted() => Err(Failure::failed("interrupted").next("Repeat the command: it goes on where it stopped.")),
        };
        drop(events);
        network.shutdown().await;
        answer
    })
}

fn move_to(staging: &Path, home: &Path) -> Result<(), Failure> {
    let moved = match std::fs::remove_dir(home) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => Err(error),
        _ => std::fs::rename(staging, home),
    };
    moved.map_err(|error| Failure::failed(format!("{} cannot be made: {error}", home.display())))?;
    let parent = home.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    // The name of the home; should it be lost in a power cut, the staged folder is there under its other name.
    let _ = std::fs::File::open(parent).and_then(|parent| parent.sync_all());
    Ok(())
}
