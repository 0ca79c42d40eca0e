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
use crate::store::{Blobs, Disk, DiskBlobs, Gravity, Opened, Store, StoreError, StoreKey};
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
    /// Whether a damaged store is salvaged: what cannot be saved is then asked for like anything else that is lost.
    pub repair: bool,
    /// Whether every frame of the journal is read and judged before the store is opened, which may mend it.
    pub check: bool,
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
    let (engine, _) = open_home(home, keystore, keys, &settings, &SystemClock)?;
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
            None if matches!(command, Command::Stop | Command::Watch) => {
                Err(Failure::usage("no daemon runs in this home").next("`karte run` starts one."))
            }
            None => run_alone(home, command, unlock, sink).await,
        }
    })
}

/// Is a daemon; blocks until it is told to end.
pub fn serve(home: &Path, serve: Serve, unlock: Unlock, ready: &mut dyn FnMut(Value)) -> Result<(), Failure> {
    serve_by(SystemClock, home, serve, unlock, ready)
}

/// The same by another clock. For tests: `karte` has no way to call it.
#[doc(hidden)]
pub fn serve_by(
    clock: impl Clock,
    home: &Path,
    serve: Serve,
    unlock: Unlock,
    ready: &mut dyn FnMut(Value),
) -> Result<(), Failure> {
    keystore::probe(home).map_err(|error| no_home(error, home))?;
    let listen = match serve.listen {
        listen if listen.is_empty() => Settings::load(home)?.network.listen,
        listen => listen,
    };
    let config =
        Config { home: home.to_owned(), listen, network: true, live: true, repair: false, check: false };
    tokio_runtime()?.block_on(crate::run(config, clock, unlock, ready))
}

/// Opens the store for one command; a daemon that starts meanwhile does it instead.
async fn run_alone(
    home: &Path,
    command: Command,
    unlock: Unlock,
    sink: &mut dyn Sink,
) -> Result<(), Failure> {
    if command == Command::StoreRebuild {
        return rebuild(home, unlock, sink);
    }
    let calls = matches!(command, Command::Sync { .. } | Command::StoreRepair { .. });
    let repair = matches!(command, Command::StoreRepair { .. });
    let check = command == Command::StoreCheck;
    let config = Config { home: home.to_owned(), listen: vec![], network: calls, live: false, repair, check };
    let running = match start_or_find(&config, Arc::new(SystemClock), unlock).await? {
        Started::Daemon(stream) => return control::ask(stream, &command, sink).await,
        Started::Alone(running) => *running,
    };
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
    if calls && end.is_ok() {
        tokio::time::sleep(LINGER).await;
    }
    end.and(running.stop().await)
}

/// Remakes the view from the journal, with the store for ourselves.
fn rebuild(home: &Path, unlock: Unlock, sink: &mut dyn Sink) -> Result<(), Failure> {
    let (_, keys) = open_keystore(home, unlock)?;
    let mut disk = Disk::open(&home.join("store"), keys.store_key())?.0;
    let frames = disk.rebuild()?;
    Box::new(disk).close()?;
    sink.event(crate::command::Event::Item(json!({ "rebuilt": true, "commits": frames })));
    Ok(())
}

/// Reads the whole journal, its witness and marker. What was lost is told in order; what opening mends is no fault.
fn judge(store: &Path, key: StoreKey) -> Result<(), Failure> {
    // Most findings in one sentence: the log has them all.
    const TOLD_MAX: usize = 10;
    let health = match Disk::check(store, key) {
        // Somebody works with it: then it was verified when it was opened.
        Err(StoreError::Locked { .. }) => return Ok(()),
        health => health.map_err(refused)?,
    };
    for found in &health.findings {
        tracing::warn!(gravity = ?found.gravity, file = %found.file, offset = found.offset, what = %found.what, "found");
    }
    if !health.loses() {
        return Ok(());
    }
    let lossy = health.findings.iter().filter(|found| found.gravity == Gravity::Lossy);
    let told: Vec<String> = lossy
        .take(TOLD_MAX)
        .map(|found| format!("{} at byte {}: {}", found.file, found.offset, found.what))
        .collect();
    Err(Failure::new(Kind::Damaged, format!("the journal has lost something: {}", told.join("; ")))
        .next("`karte store repair` saves what is whole and brings the rest back from contacts; else `karte backup restore`."))
}

/// Saves what can be saved of a store that does not open, so that it opens after this. What is missing is told in the
/// log here; which records and entries that means, the check that follows tells.
fn salvage(store: &Path, key: StoreKey, damage: &StoreError) -> Result<(), Failure> {
    tracing::error!(%damage, "the store is damaged: what is whole is saved");
    let saved = Disk::salvage(store, key).map_err(refused)?;
    for missing in &saved.missing {
        let (file, offset, bytes, what) = (&missing.file, missing.offset, missing.bytes, missing.what);
        tracing::error!(file, offset, bytes, what, commits = ?missing.commits, "lost");
    }
    if saved.tail_unknown {
        tracing::error!("how much is missing at the end of the journal is not known");
    }
    Ok(())
}

/// What came of starting.
enum Started {
    /// Nobody else has the store: it is open here.
    Alone(Box<Running>),
    /// A daemon was faster and takes commands.
    Daemon(tokio::net::UnixStream),
}

/// Opens everything under `home`.
pub(crate) async fn start(
    config: &Config,
    clock: Arc<dyn Clock>,
    unlock: Unlock,
) -> Result<Running, Failure> {
    match start_or_find(config, clock, unlock).await? {
        Started::Alone(running) => Ok(*running),
        Started::Daemon(_) => Err(Failure::failed("a daemon runs in this home already")
            .next("Commands work through it; `karte stop` ends it.")),
    }
}

async fn start_or_find(config: &Config, clock: Arc<dyn Clock>, unlock: Unlock) -> Result<Started, Failure> {
    let settings = Settings::load(&config.home)?;
    let (mut keystore, keys) = open_keystore(&config.home, unlock)?;
    let device = keys.device.expose_seed();
    let begun = Instant::now();
    let store = config.home.join("store");
    let mut outcome = None;
    if config.check {
        judge(&store, keys.store_key())?;
    }
    let (disk, opened) = loop {
        match Disk::open(&store, keys.store_key()) {
            Err(StoreError::Locked { .. }) if begun.elapsed() < WAIT_FOR_STORE => {
                // Another command for a moment, or a daemon that is starting: then it answers soon.
                if let Some(stream) = control::connect(&config.home).await {
                    return Ok(Started::Daemon(stream));
                }
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            Err(damage @ StoreError::Damaged { .. }) if config.repair && outcome.is_none() => {
                salvage(&store, keys.store_key(), &damage)?;
                outcome = Some("repaired");
            }
            opened => break opened.map_err(refused)?,
        }
    };
    // Read before the store was ours: whoever had it may have changed the ring since.
    keystore.settle().map_err(|error| no_home(error, &config.home))?;
    let parts =
        Opening { home: &config.home, keystore, keys, settings: &settings, live: config.live, outcome };
    let (engine, blobs) = open_engine(parts, (disk, opened), clock.as_ref())?;
    let network = match config.network {
        true => Some(start_network(device, &config.listen)?),
        false => None,
    };
    let accept = [settings.accept.contacts, settings.accept.grants, settings.accept.adopt];
    let home = config.home.clone();
    Ok(Started::Alone(Box::new(Running::start(Parts { engine, blobs, clock, network, home, accept })?)))
}

/// A store that refuses to open, and says why.
fn refused(error: StoreError) -> Failure {
    if matches!(error, StoreError::Damaged { .. }) {
        tracing::error!(%error, outcome = "refused", "the store does not open");
    }
    error.into()
}

fn open_keystore(home: &Path, unlock: Unlock) -> Result<(Keystore, Keys), Failure> {
    let mut refused = None;
    let opened = Keystore::open(home, || {
        unlock().map_err(|failure| {
            refused = Some(failure);
            KeystoreError::Locked
        })
    });
    opened.map_err(|error| refused.unwrap_or_else(|| no_home(error, home)))
}

pub(crate) fn start_network(
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

/// A home that is being opened.
struct Opening<'a> {
    home: &'a Path,
    keystore: Keystore,
    keys: Keys,
    settings: &'a Settings,
    live: bool,
    /// What was done before it opened, if it did not at once.
    outcome: Option<&'static str>,
}

/// Opens a home for one command, without a network.
pub(crate) fn open_home(
    home: &Path,
    keystore: Keystore,
    keys: Keys,
    settings: &Settings,
    clock: &dyn Clock,
) -> Result<(Engine, Arc<dyn Blobs>), Failure> {
    let disk = Disk::open(&home.join("store"), keys.store_key())?;
    open_engine(Opening { home, keystore, keys, settings, live: false, outcome: None }, disk, clock)
}

fn open_engine(
    opening: Opening<'_>,
    (disk, opened): (Disk, Opened),
    clock: &dyn Clock,
) -> Result<(Engine, Arc<dyn Blobs>), Failure> {
    let Opening { home, keystore, keys, settings, live, outcome } = opening;
    let blobs = Arc::new(DiskBlobs::open(&home.join("store"))?);
    let outcome = outcome.unwrap_or_else(|| outcome_of(&opened));
    tracing::info!(outcome, ?opened, "the store is open");
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
        copied: disk.is_copy(),
        store: Box::new(disk),
        chance: Box::new(OsChance),
        name: settings.name.clone(),
        kind: settings.kind.clone(),
        policy,
        started: outcome,
    };
    let engine = Engine::open(parts, clock.now_ms())?;
    // A daemon sweeps at every start; a single command only when the last stop may have left something.
    if live || !matches!(opened, Opened::Clean | Opened::New) {
        sweep(&engine, blobs.as_ref())?;
    }
    Ok((engine, blobs))
}

/// What opening found, in the words of `karte status`. A store that does not open at all is `refused`.
fn outcome_of(opened: &Opened) -> &'static str {
    match opened {
        Opened::New => "new",
        Opened::Clean => "clean",
        Opened::CaughtUp { .. } => "caught up",
        Opened::Rebuilt { .. } => "rebuilt",
        Opened::Migrated { .. } => "migrated",
        Opened::Repaired { .. } => "repaired",
    }
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
    if !stray.is_empty() {
        blobs.gc()?;
    }
    Ok(())
}

pub(crate) fn make_folder(home: &Path) -> Result<(), Failure> {
    use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
    let failed =
        |error: std::io::Error| Failure::failed(format!("{} cannot be made: {error}", home.display()));
    std::fs::DirBuilder::new().recursive(true).mode(0o700).create(home).map_err(failed)?;
    std::fs::set_permissions(home, std::fs::Permissions::from_mode(0o700)).map_err(failed)
}

pub(crate) fn no_home(error: KeystoreError, home: &Path) -> Failure {
    let next = match &error {
        KeystoreError::Absent(_) => {
            "`karte init --name NAME` makes one; --home or KARTE_HOME says where.".to_owned()
        }
        KeystoreError::Present(_) => {
            format!("Use it, or choose another folder than {} with --home.", home.display())
        }
        KeystoreError::Newer(_) => {
            "Open it with the version of karte that wrote it, or a later one.".to_owned()
        }
        KeystoreError::Passphrase => "Try again: nothing but the passphrase opens it.".to_owned(),
        _ => "Restore the keystore from a copy; without it nothing in this folder opens.".to_owned(),
    };
    Failure::from(error).next(next)
}

pub(crate) fn tokio_runtime() -> Result<tokio::runtime::Runtime, Failure> {
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
