//! Access to a node: make one, command one, be one.
//!
//! For: the command line. A command goes through a running daemon's control socket; with no daemon it opens the
//! store itself, for as long as it takes.

use crate::clock::{Clock, SystemClock};
use crate::command::Command;
use crate::control;
use crate::engine::{self, Engine, Policy};
use crate::failure::{Failure, Kind};
use crate::keystore::{self, Keys, Keystore, KeystoreError, Lock};
use crate::network::{self, Limits, NetConfig};
use crate::runtime::{Parts, Running};
use crate::settings::{Accept, Settings};
use crate::store::{Blobs, Disk, DiskBlobs, Opened, StoreError};
use karte_protocol::chance::OsChance;
use karte_protocol::id::RecordId;
use secrecy::SecretString;
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

pub use crate::control::Sink;

/// Asks for the passphrase, if one is needed.
pub type Unlock = Box<dyn FnOnce() -> Result<SecretString, Failure> + Send>;

/// How long a command waits for another one that has the store open. 10 s.
const WAIT_FOR_STORE: Duration = Duration::from_secs(10);
/// How long a command without a daemon stays connected after its sync, so that the other side can answer what it
/// was just given.
const LINGER: Duration = Duration::from_millis(700);

/// A node to be made.
pub struct Init {
    /// What people call it.
    pub name: String,
    /// `patient`, `clinic` or `partner`.
    pub kind: String,
    /// Locks the keystore; none for servers with disk encryption and for tests.
    pub passphrase: Option<SecretString>,
    /// Strangers who knock become contacts at once.
    pub accept_contacts: bool,
    /// Offered grants are accepted at once.
    pub accept_grants: bool,
    /// What arrives about the own party through such a grant becomes its own.
    pub adopt: bool,
}

/// A daemon to be run.
#[derive(Default)]
pub struct Serve {
    /// Multiaddresses; those of the settings if empty.
    pub listen: Vec<String>,
}

/// Everything that is chosen when a node starts. Clock and faults are arguments, never environment.
pub struct Config {
    /// Its folder.
    pub home: PathBuf,
    /// Where to listen; nowhere if empty.
    pub listen: Vec<String>,
    /// Whether it has a network at all.
    pub network: bool,
    /// Whether it keeps sessions and connections by itself.
    pub live: bool,
}

/// Makes a node.
pub fn init(home: &Path, init: Init) -> Result<Value, Failure> {
    if !["patient", "clinic", "partner"].contains(&init.kind.as_str()) {
        return Err(Failure::usage(format!(
            "expected a kind of patient, clinic or partner, got {:?}",
            init.kind
        )));
    }
    if init.name.trim().is_empty() || init.name.len() > 100 || init.name.chars().any(char::is_control) {
        return Err(Failure::usage("expected a name of 1 to 100 bytes").next("Use --name \"Your name\"."));
    }
    if keystore::probe(home).is_ok() {
        return Err(no_home(KeystoreError::Present(home.to_owned()), home));
    }
    make_folder(home)?;
    let settings = Settings {
        name: init.name.clone(),
        kind: init.kind.clone(),
        accept: Accept { contacts: init.accept_contacts, grants: init.accept_grants, adopt: init.adopt },
        network: Default::default(),
    };
    settings.save(home)?;
    let keys = Keys::generate(&mut OsChance);
    let birth = engine::birth(&keys, &mut OsChance, SystemClock.now_ms())?;
    let lock = init.passphrase.map_or(Lock::None, Lock::Passphrase);
    let keystore = Keystore::create(home, &keys, &birth.genesis, &lock, &mut OsChance)
        .map_err(|error| no_home(error, home))?;
    // Once around: what cannot be opened should say so now.
    let (engine, _) = open_engine(home, keystore, keys, &settings, &SystemClock, false)?;
    let party = engine.me().party;
    engine.close()?;
    Ok(json!({
        "party": party.to_string(),
        "name": init.name,
        "kind": init.kind,
        "home": home.display().to_string(),
    }))
}

/// Runs one command; blocks until it has ended.
pub fn run(home: &Path, command: Command, unlock: Unlock, sink: &mut dyn Sink) -> Result<(), Failure> {
    keystore::probe(home).map_err(|error| no_home(error, home))?;
    let runtime = tokio_runtime()?;
    runtime.block_on(async {
        match control::connect(home).await {
            Some(stream) => control::ask(stream, &command, sink).await,
            None if command == Command::Stop => {
                Err(Failure::usage("no daemon runs in this home").next("`karte run` starts one."))
            }
            None => run_alone(home, command, unlock, sink).await,
        }
    })
}

/// Is a daemon; blocks until it is told to end.
pub fn serve(home: &Path, serve: Serve, unlock: Unlock, ready: &mut dyn FnMut(Value)) -> Result<(), Failure> {
    keystore::probe(home).map_err(|error| no_home(error, home))?;
    let listen = match serve.listen {
        listen if listen.is_empty() => Settings::load(home)?.network.listen,
        listen => listen,
    };
    let config = Config { home: home.to_owned(), listen, network: true, live: true };
    tokio_runtime()?.block_on(crate::run(config, SystemClock, unlock, ready))
}

/// Opens the store for one command.
async fn run_alone(
    home: &Path,
    command: Command,
    unlock: Unlock,
    sink: &mut dyn Sink,
) -> Result<(), Failure> {
    let is_sync = matches!(command, Command::Sync { .. });
    let config = Config { home: home.to_owned(), listen: vec![], network: is_sync, live: false };
    let running = start(&config, Arc::new(SystemClock), unlock).await?;
    let (out, mut outs) = tokio::sync::mpsc::channel(64);
    let node = running.node.clone();
    let work = tokio::spawn(async move { node.execute(command, out).await });
    let mut end = Err(Failure::failed("the command ended without a word"));
    while let Some(next) = tokio::select! {
        next = outs.recv() => next,
        _ = interrupted() => None,
    } {
        if let Some(ended) = control::take(next, sink) {
            end = ended;
            break;
        }
    }
    drop(outs);
    // An import that was interrupted finishes its group, so that what it did is acknowledged or absent.
    let _ = work.await;
    if is_sync && end.is_ok() {
        tokio::time::sleep(LINGER).await;
    }
    end.and(running.stop().await)
}

/// Opens everything under `home`.
pub(crate) async fn start(
    config: &Config,
    clock: Arc<dyn Clock>,
    unlock: Unlock,
) -> Result<Running, Failure> {
    let settings = Settings::load(&config.home)?;
    let mut refused = None;
    let opened = Keystore::open(&config.home, || {
        unlock().map_err(|failure| {
            refused = Some(failure);
            KeystoreError::Locked
        })
    });
    let (keystore, keys) = opened.map_err(|error| refused.unwrap_or_else(|| no_home(error, &config.home)))?;
    let device = keys.device.expose_seed();
    let (engine, blobs) = open_engine(&config.home, keystore, keys, &settings, clock.as_ref(), config.live)?;
    let network = match config.network {
        true => Some(start_network(device, &config.listen)?),
        false => None,
    };
    Running::start(Parts { engine, blobs, clock, network })
}

fn start_network(
    key: zeroize::Zeroizing<[u8; 32]>,
    listen: &[String],
) -> Result<(network::Network, tokio::sync::mpsc::Receiver<network::NetEvent>), Failure> {
    let mut addresses = Vec::new();
    for text in listen {
        addresses.push(text.parse().map_err(|_| {
            Failure::usage(format!(
                "expected a multiaddress such as /ip4/0.0.0.0/udp/4747/quic-v1, got {text:?}"
            ))
        })?);
    }
    let config = NetConfig {
        key,
        listen: addresses,
        agent: concat!("karte/", env!("CARGO_PKG_VERSION")).into(),
        limits: Limits::default(),
    };
    network::start(config).map_err(|error| {
        Failure::new(Kind::Failed, error.to_string())
            .next("Is another daemon on that port? `karte run --listen /ip4/0.0.0.0/udp/0/quic-v1` takes a free one.")
    })
}

fn open_engine(
    home: &Path,
    keystore: Keystore,
    keys: Keys,
    settings: &Settings,
    clock: &dyn Clock,
    live: bool,
) -> Result<(Engine, Arc<dyn Blobs>), Failure> {
    let (disk, opened) = open_disk(home, &keys)?;
    let blobs = Arc::new(DiskBlobs::open(&home.join("store"))?);
    match &opened {
        Opened::Rebuilt { frames } => {
            tracing::info!(frames, "the last stop was not clean: the view was rebuilt from the journal");
        }
        Opened::Migrated { from, frames } => tracing::info!(from, frames, "the store was migrated"),
        Opened::Repaired { what } => tracing::warn!(?what, "the store was damaged and mended without loss"),
        _ => {}
    }
    let policy = Policy {
        accept_contacts: settings.accept.contacts,
        accept_grants: settings.accept.grants,
        adopt: settings.accept.adopt,
        live,
    };
    let parts = engine::Parts {
        keys: Arc::new(keys),
        genesis: keystore.genesis().to_vec(),
        ring: Box::new(keystore),
        store: Box::new(disk),
        chance: Box::new(OsChance),
        name: settings.name.clone(),
        kind: settings.kind.clone(),
        policy,
    };
    let engine = Engine::open(parts, clock.now_ms())?;
    // A daemon sweeps at every start; a single command only when the last stop may have left something.
    if live || !matches!(opened, Opened::Clean | Opened::New) {
        sweep(&engine, blobs.as_ref())?;
    }
    Ok((engine, blobs))
}

/// Payloads whose import or fetch was interrupted before its rows were committed.
fn sweep(engine: &Engine, blobs: &dyn Blobs) -> Result<(), Failure> {
    let mut stray = Vec::new();
    blobs.list(&mut |id, _| {
        if matches!(engine.needs(&RecordId::from(*id)), Ok(false)) {
            stray.push(*id);
        }
        std::ops::ControlFlow::Continue(())
    })?;
    stray.iter().try_for_each(|id| blobs.delete(id))?;
    Ok(())
}

/// Another command may have the store open for a moment.
fn open_disk(home: &Path, keys: &Keys) -> Result<(Disk, Opened), Failure> {
    let begun = Instant::now();
    loop {
        match Disk::open(&home.join("store"), keys.store_key()) {
            Err(StoreError::Locked { .. }) if begun.elapsed() < WAIT_FOR_STORE => {
                std::thread::sleep(Duration::from_millis(50));
            }
            opened => return Ok(opened?),
        }
    }
}

fn make_folder(home: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed =
        |error: std::io::Error| Failure::failed(format!("{} cannot be made: {error}", home.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(failed)?;
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

fn no_home(error: KeystoreError, home: &Path) -> Failure {
    let next = match &error {
        KeystoreError::Absent(_) => {
            "`karte init --name NAME` makes one; --home or KARTE_HOME says where.".to_owned()
        }
        KeystoreError::Present(_) => {
            format!("Use it, or choose another folder than {} with --home.", home.display())
        }
        KeystoreError::Passphrase => "Try again: nothing but the passphrase opens it.".to_owned(),
        _ => "Restore the keystore from a copy; without it nothing in this folder opens.".to_owned(),
    };
    Failure::from(error).next(next)
}

fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|error| Failure::failed(format!("no runtime: {error}")))
}

/// Ctrl-C, or a service manager's stop.
pub(crate) async fn interrupted() {
    use tokio::signal::unix::{SignalKind, signal};
    match signal(SignalKind::terminate()) {
        Ok(mut terminate) => {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
        }
        Err(_) => drop(tokio::signal::ctrl_c().await),
    }
}
