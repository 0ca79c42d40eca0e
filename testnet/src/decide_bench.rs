//! What a long log costs: entries verified as they arrive against the bare signature, a decision, and a start.
//!
//! For: 100,000 entries of one party, in one process on one core. Not for: networks; nothing is sent here.

use crate::world::SeededChance;
use ed25519_dalek::{Signature, VerifyingKey};
use karte_node::engine::{self, Birth, Engine, Policy};
use karte_node::failure::Failure;
use karte_node::keystore::{Keys, MemoryKeyring};
use karte_node::store::{Batch, Disk, Store, StoreError, StoreKey, Table};
use karte_protocol::chance::Chance;
use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::decide::{Serving, serve};
use karte_protocol::entry::{Act, Entry};
use karte_protocol::grant::{Onward, Opened, Reader};
use karte_protocol::id::{DeviceId, EntryId, PartyId, Salt, digest};
use karte_protocol::identity::{PartyLog, State};
use karte_protocol::signed::{By, Signed, Statement, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS, UnixMs};
use serde_json::json;
use std::hint::black_box;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Of the rate of `verify_strict` alone; a decision in microseconds; a start in seconds.
const SHARE_MIN: f64 = 0.8;
const DECISION_MICROS_MAX: f64 = 20.0;
const START_SECONDS_MAX: f64 = 2.0;
/// Now, for everybody in here.
const NOW_MS: UnixMs = 1_780_000_000_000;
/// Entries that are timed in one go. Ours and the bare signature take turns, so that both meet the same machine.
const TURN: usize = 5_000;
/// Decisions that are timed.
const DECISIONS: u32 = 100_000;
/// Rows in one commit while the store is filled.
const GROUP: usize = 500;
/// Where the engine keeps entries (`engine/rows.rs`).
const ENTRIES: Table = Table(1);
/// Of the store that is started.
const STORE_KEY: [u8; 32] = [7; 32];

/// Measure verifying, deciding and starting over a log of many entries
#[derive(clap::Args)]
pub struct DecideBench {
    /// Entries of the one party
    #[arg(long, default_value_t = 100_000)]
    entries: usize,
    /// Where the store is made; must be a real disk. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// Runs it; true when all bars hold.
pub fn run(args: &DecideBench) -> io::Result<bool> {
    let base = args.dir.clone().unwrap_or_else(std::env::temp_dir);
    let scratch = tempfile::Builder::new().prefix("karte-decide-").tempdir_in(base)?;
    let holder = Holder::with(args.entries).map_err(io::Error::other)?;
    let rates = Rates::of(&holder)?;
    let recomputed = Instant::now();
    black_box(rates.log.state());
    let recomputing = recomputed.elapsed().as_secs_f64();
    let decision = decision_micros(&rates.log, &rates.state).map_err(io::Error::other)?;
    holder.fill(scratch.path()).map_err(io::Error::other)?;
    // Filled and not closed: what a killed process leaves. The second start is after an orderly end.
    let killed = holder.start(scratch.path()).map_err(io::Error::other)?;
    let closed = holder.start(scratch.path()).map_err(io::Error::other)?;
    let share = rates.arriving / rates.bare;
    let holds =
        share >= SHARE_MIN && decision <= DECISION_MICROS_MAX && killed.max(closed) <= START_SECONDS_MAX;
    if !args.json {
        println!(
            "{} entries: arriving {:.0}/s (verified {:.0}/s), verify_strict alone {:.0}/s: {share:.2} of it (at least {SHARE_MIN})",
            args.entries, rates.arriving, rates.verifying, rates.bare
        );
        println!("a decision: {decision:.2} µs (at most {DECISION_MICROS_MAX} µs)");
        println!(
            "a start: {killed:.2} s after a kill, {closed:.2} s after an orderly end (at most {START_SECONDS_MAX} s)"
        );
        println!("the whole state worked out anew: {recomputing:.3} s");
    }
    println!(
        "{}",
        json!({ "entries": args.entries, "arriving_per_second": rates.arriving, "verifying_per_second": rates.verifying,
            "verify_strict_per_second": rates.bare, "share": share, "decision_micros": decision,
            "start_killed_seconds": killed, "start_closed_seconds": closed, "state_seconds": recomputing,
            "holds": holds })
    );
    Ok(holds)
}

/// A party of one device with a long chain: grants, and every tenth entry the end of one.
struct Holder {
    keys: Arc<Keys>,
    birth: Birth,
    entries: Vec<Verified<Entry>>,
}

fn keys(name: &str) -> Keys {
    Keys::generate(&mut SeededChance::new(name))
}

fn by(party: PartyId, keys: &Keys) -> By {
    By { party: Some(party), r#gen: 0, device: keys.device.device() }
}

impl Holder {
    fn with(count: usize) -> Result<Self, Failure> {
        let keys = Arc::new(keys("a holder"));
        let birth = engine::birth(&keys, &mut SeededChance::new("a birth"), NOW_MS)?;
        let mut prev = Some(EntryId::from(birth.party));
        let mut entries: Vec<Verified<Entry>> = Vec::with_capacity(count);
        for (number, seq) in (0..count).zip(1u64..) {
            let act = match entries.last() {
                Some(last) if number % 10 == 9 => {
                    Act::Revoke { grant: EntryId::from(last.id()).into(), reason: "moved away".into() }
                }
                _ => Act::Grant { commitment: digest(&seq.to_string().into_bytes()) },
            };
            let entry = Verified::sign(
                Entry { seq, prev, at_ms: NOW_MS, act },
                by(birth.party, &keys),
                &keys.device,
            )?;
            prev = Some(entry.id().into());
            entries.push(entry);
        }
        Ok(Self { keys, birth, entries })
    }

    fn log(&self) -> io::Result<PartyLog> {
        let genesis = Signed::<Entry>::from_bytes(self.birth.genesis.clone()).verify();
        PartyLog::start(genesis.map_err(io::Error::other)?).map_err(io::Error::other)
    }

    fn fill(&self, dir: &Path) -> Result<(), StoreError> {
        let (mut disk, _) = Disk::open(&dir.join("store"), StoreKey::new(STORE_KEY))?;
        for group in self.entries.chunks(GROUP) {
            for entry in group {
                let id = EntryId::from(entry.id());
                let mut batch = Batch::default();
                batch.put(ENTRIES, self.birth.party.as_bytes(), id.as_bytes(), entry.bytes().to_vec());
                disk.write(batch)?;
            }
            disk.commit()?;
        }
        Ok(())
    }

    /// Seconds until an engine over this store answers; it is closed in order then.
    fn start(&self, dir: &Path) -> Result<f64, Failure> {
        let begun = Instant::now();
        let (disk, _) = Disk::open(&dir.join("store"), StoreKey::new(STORE_KEY))?;
        let parts = engine::Parts {
            keys: self.keys.clone(),
            ring: Box::new(MemoryKeyring::default()),
            copied: disk.is_copy(),
            store: Box::new(disk),
            chance: Box::new(SeededChance::new("a start")),
            genesis: self.birth.genesis.clone(),
            name: "a holder".into(),
            kind: "patient".into(),
            policy: Policy::default(),
            started: "caught up",
        };
        let engine = Engine::open(parts, NOW_MS)?;
        let seconds = begun.elapsed().as_secs_f64();
        engine.close()?;
        Ok(seconds)
    }
}

/// Entries in a second.
struct Rates {
    /// Verified, taken into the log, and the state carried along.
    arriving: f64,
    /// Verified alone: form, canonical encoding, bounds, signature.
    verifying: f64,
    /// `verify_strict` of the same signatures, with the key parsed before.
    bare: f64,
    log: PartyLog,
    state: State,
}

/// What `verify_strict` takes: key, message, signature.
type Bare = (VerifyingKey, Vec<u8>, Signature);

impl Rates {
    fn of(holder: &Holder) -> io::Result<Self> {
        let mut log = holder.log()?;
        let mut state = log.state();
        let bare: Vec<Bare> = holder.entries.iter().map(bare).collect::<io::Result<_>>()?;
        let mut spent = [Duration::ZERO; 3];
        for (entries, bare) in holder.entries.chunks(TURN).zip(bare.chunks(TURN)) {
            let copies = || entries.iter().map(|entry| entry.bytes().to_vec()).collect::<Vec<_>>();
            let (first, second) = (copies(), copies());
            let begun = Instant::now();
            for bytes in first {
                let entry = Signed::<Entry>::from_bytes(bytes).verify().map_err(io::Error::other)?;
                let id = EntryId::from(entry.id());
                log.add(entry).map_err(io::Error::other)?;
                if !log.follow(&mut state, &id) {
                    state = log.state();
                }
            }
            spent[0] += begun.elapsed();
            let begun = Instant::now();
            for bytes in second {
                black_box(Signed::<Entry>::from_bytes(bytes).verify().map_err(io::Error::other)?);
            }
            spent[1] += begun.elapsed();
            let begun = Instant::now();
            for (key, message, signature) in bare {
                key.verify_strict(black_box(message), signature).map_err(io::Error::other)?;
            }
            spent[2] += begun.elapsed();
        }
        let [arriving, verifying, bare] = spent.map(|spent| rate(holder.entries.len(), spent));
        Ok(Self { arriving, verifying, bare, log, state })
    }
}

fn rate(count: usize, spent: Duration) -> f64 {
    u32::try_from(count).map_or(f64::INFINITY, f64::from) / spent.as_secs_f64().max(f64::MIN_POSITIVE)
}

/// The signature of an entry taken out of its envelope, with what it is over (SPEC section 2).
fn bare(entry: &Verified<Entry>) -> io::Result<Bare> {
    let bytes = entry.bytes();
    let wrong = || io::Error::other("expected the envelope of SPEC section 2");
    let counted = bytes.get(7..bytes.len().saturating_sub(66)).ok_or_else(wrong)?;
    let (_, signature) = bytes.split_last_chunk().ok_or_else(wrong)?;
    let message = [b"\x84\x6aSignature1\x43\xa1\x01\x27\x40", counted].concat();
    let key = VerifyingKey::from_bytes(entry.by().device.as_bytes()).map_err(io::Error::other)?;
    Ok((key, message, Signature::from_bytes(signature)))
}

/// Microseconds of a decision with everything at hand; the middle of ten rounds.
fn decision_micros(log: &PartyLog, state: &State) -> Result<f64, Failure> {
    let scene = Scene::of(log, state)?;
    let mut rounds: Vec<f64> = (0..10).map(|_| scene.round(log, state)).collect::<Result<_, _>>()?;
    rounds.sort_by(f64::total_cmp);
    Ok(rounds.get(rounds.len() / 2).copied().unwrap_or(f64::INFINITY))
}

/// A clinic that asks the holder under its newest grant.
struct Scene {
    opened: Opened,
    reader: PartyLog,
    statuses: [Verified<Status>; 2],
    accept: Verified<Accept>,
    release: Verified<Release>,
    holder_device: DeviceId,
}

impl Scene {
    fn of(log: &PartyLog, state: &State) -> Result<Self, Failure> {
        let holder = keys("a holder");
        let desk = keys("a clinic");
        let birth = engine::birth(&desk, &mut SeededChance::new("a clinic's birth"), NOW_MS)?;
        let genesis = Signed::<Entry>::from_bytes(birth.genesis).verify()?;
        let reader = PartyLog::start(genesis).map_err(|error| Failure::failed(error.to_string()))?;
        let counting = state.grants.keys().find(|grant| !state.revoked.contains(grant));
        let grant = *counting.ok_or_else(|| Failure::usage("expected at least one entry"))?;
        let by_desk = by(birth.party, &desk);
        let accept = Accept { grant, reader: birth.party, n: 1, recipient: desk.sealing.recipient() };
        let accept = Verified::sign(accept, by_desk, &desk.device)?;
        let release = Release {
            grant,
            accept: accept.id(),
            to: holder.device.device(),
            purpose: "TREAT".into(),
            staff: "Dr. Sato".into(),
            since: 0,
            nonce: SeededChance::new("a nonce").salt(),
            at_ms: NOW_MS,
        };
        let statuses = [
            signed(status(state), by(log.party(), &holder), &holder)?,
            signed(status(&reader.state()), by_desk, &desk)?,
        ];
        let opened = Opened {
            reader: Reader::Party(birth.party),
            subject: log.party(),
            scope_hash: digest(Salt::from([7; 32]).as_bytes()),
            purpose: "TREAT".into(),
            basis: "consent".into(),
            not_before_ms: NOW_MS,
            not_after_ms: NOW_MS + 90 * DAY_MS,
            offline_ms: 7 * DAY_MS,
            onward: Onward::No,
            conditions: vec![],
        };
        let release = signed(release, by_desk, &desk)?;
        Ok(Self { opened, reader, statuses, accept, release, holder_device: holder.device.device() })
    }

    /// Microseconds for one of many.
    fn round(&self, log: &PartyLog, state: &State) -> Result<f64, Failure> {
        let reader_state = self.reader.state();
        let [holder_status, reader_status] = &self.statuses;
        let question = Serving {
            now_ms: NOW_MS,
            grant: self.release.grant,
            opened: Some(&self.opened),
            holder: (log, state),
            holder_status: Some(holder_status),
            holder_heard_ms: Some(NOW_MS),
            reader: (&self.reader, &reader_state),
            reader_status: Some(reader_status),
            accept: Some(&self.accept),
            release: &self.release,
            peer: self.release.by().device,
            this: self.holder_device,
        };
        let begun = Instant::now();
        for _ in 0..DECISIONS / 10 {
            serve(black_box(&question)).map_err(|denial| Failure::failed(denial.to_string()))?;
        }
        Ok(begun.elapsed().as_secs_f64() * 1e6 / f64::from(DECISIONS / 10))
    }
}

fn signed<T: Statement>(body: T, by: By, keys: &Keys) -> Result<Verified<T>, Failure> {
    Ok(Verified::sign(body, by, &keys.device)?)
}

fn status(state: &State) -> Status {
    Status {
        of: state.party,
        r#gen: state.generation,
        heads: state.heads.clone(),
        identity: state.identity,
        issued_ms: NOW_MS,
        lease_ms: HOUR_MS,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// That it measures what it says, over a short log; how fast is for the release build.
    #[test]
    fn a_short_log_is_verified_decided_and_started() {
        let dir = tempfile::tempdir().expect("there is room");
        let holder = Holder::with(50).expect("signs");
        let rates = Rates::of(&holder).expect("verifies");
        assert_eq!(rates.log.count(), 51);
        assert_eq!(rates.state, rates.log.state());
        assert_eq!((rates.state.grants.len(), rates.state.revoked.len()), (45, 5));
        assert!(decision_micros(&rates.log, &rates.state).expect("it is a yes") > 0.0);
        holder.fill(dir.path()).expect("writes");
        assert!(holder.start(dir.path()).expect("starts") > 0.0);
    }
}
