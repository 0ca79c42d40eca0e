//! Whether a `Denied` tells why: its bytes and its time, over a real connection.
//!
//! A holder as the product runs it (network, engine, store on a disk), and a reader of ours on loopback that asks for
//! sessions it must not have, for five reasons in random order. Welch's t of each pair of reasons says whether an asker
//! could tell them apart. The holder's clock is ours: it moves a minute on whenever the holder would stop looking at
//! releases of one connection.

use crate::world::SeededChance;
use karte_node::access::{self, Config, Init, Sink, Unlock};
use karte_node::clock::{Clock, SystemClock};
use karte_node::command::{Command, Event, Filter, NewGrant};
use karte_node::engine;
use karte_node::failure::Failure;
use karte_node::keystore::Keys;
use karte_node::network::{self, Limits, NetConfig, NetEvent, Network, ReachConfig};
use karte_protocol::card::{self, Card};
use karte_protocol::chance::Chance;
use karte_protocol::consent::{Accept, Release, Status};
use karte_protocol::entry::Entry;
use karte_protocol::id::{DeviceId, GrantId, ObjectId, PartyId};
use karte_protocol::identity::PartyLog;
use karte_protocol::message::{Hello, Request, Response};
use karte_protocol::signed::{By, Signed, Verified};
use karte_protocol::time::{DAY_MS, HOUR_MS, MINUTE_MS};
use serde_json::{Value, json};
use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::mpsc;
use std::time::{Duration, Instant};

/// From here on two times are told apart (the bar of dudect-like tests).
const T_MAX: f64 = 4.5;
/// Why it is denied.
const CASES: [&str; 5] = ["absent", "not granted", "revoked", "expired", "bad signature"];
/// Tries of each case before the clock moves: five times ten is below the 60 releases a minute that are looked at.
const ROUNDS_A_MINUTE: u64 = 10;
/// Rounds before the first that counts.
const WARM_ROUNDS: u64 = 20;
/// How long the holder may take to start.
const START_MAX: Duration = Duration::from_secs(30);

/// Its arguments.
#[derive(clap::Args)]
pub struct DeniedTiming {
    /// Tries of each reason
    #[arg(long, default_value_t = 10_000)]
    tries: u64,
    /// The order follows from it
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Where the holder's folder is made. Default: the temporary folder
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Only the numbers, as one JSON object in the last line
    #[arg(long)]
    json: bool,
}

/// What came of it.
pub struct Timing {
    /// Tries of each reason.
    pub tries: u64,
    /// Whether every answer had the bytes of `Denied`.
    pub identical: bool,
    /// The largest |t| of all pairs.
    pub t_max: f64,
    /// Microseconds of each reason.
    times: Vec<Vec<f64>>,
}

impl Timing {
    /// Whether neither bytes nor times tell the reasons apart.
    pub fn held(&self) -> bool {
        self.identical && self.t_max < T_MAX
    }
}

/// Runs it; true when the bar holds.
pub fn run(args: &DeniedTiming) -> io::Result<bool> {
    let timing = measure(args.tries, args.seed, args.dir.as_deref())?;
    if !args.json {
        for (name, times) in CASES.iter().zip(&timing.times) {
            let (mean, variance) = moments(times);
            println!(
                "{name:14} mean {mean:8.1} us, median {:8.1} us, sd {:7.1} us",
                median(times),
                variance.sqrt()
            );
        }
        for (one, other, t) in pairs(&timing.times) {
            println!("{one} against {other}: t = {t:.2}");
        }
    }
    let Timing { tries, identical, t_max, .. } = timing;
    println!("{}", json!({ "tries": tries, "identical": identical, "t_max": t_max, "held": timing.held() }));
    Ok(timing.held())
}

/// Asks `tries` times for each reason.
pub fn measure(tries: u64, seed: u64, dir: Option<&Path>) -> io::Result<Timing> {
    let base = dir.map_or_else(std::env::temp_dir, Path::to_owned);
    let scratch = tempfile::Builder::new().prefix("karte-denied-").tempdir_in(base)?;
    let mut chance = SeededChance::new(&format!("denied {seed}"));
    let holder = Holder::start(&scratch.path().join("holder"))?;
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    let reader = Reader::new(&mut chance, holder.now())?;
    let other = Reader::new(&mut chance, holder.now())?;
    let network = runtime.block_on(async { reader.connect(&holder).await })?;
    let asked = stage(&holder, &reader, &other, &runtime, &network, &mut chance)?;
    let timing = runtime.block_on(ask_all(tries, &holder, &asked, &network, &mut chance));
    runtime.block_on(network.shutdown());
    holder.stop()?;
    timing
}

/// What is asked about, and what signs.
struct Asked<'a> {
    reader: &'a Reader,
    /// The grant and acceptance of each case.
    grants: [(GrantId, ObjectId); 5],
    to: DeviceId,
}

/// A grant for every reason, and acceptances of those that the reader could accept.
fn stage<'a>(
    holder: &Holder,
    reader: &'a Reader,
    other: &Reader,
    runtime: &tokio::runtime::Runtime,
    network: &Network,
    chance: &mut SeededChance,
) -> io::Result<Asked<'a>> {
    for (party, alias) in [(reader, "reader"), (other, "other")] {
        let card = card::to_text(&party.card(holder.now())?);
        holder.does(Command::ContactAdd { card, alias: Some(alias.into()) })?;
    }
    let ask = |request: Request| {
        let body = request.to_bytes().map_err(io::Error::other)?;
        runtime.block_on(network.request(*holder.device.as_bytes(), body)).map_err(io::Error::other)
    };
    ask(Request::Hello(reader.hello(holder.now())?))?;
    let accepted = |grant: GrantId| -> io::Result<(GrantId, ObjectId)> {
        let accept = reader.accept(grant)?;
        let answer = ask(Request::Accept { accept: accept.bytes().to_vec().into() })?;
        match Response::from_bytes(&answer) {
            Ok(Response::Done) => Ok((grant, accept.id())),
            _ => Err(io::Error::other("the holder takes an acceptance")),
        }
    };
    let live = accepted(holder.gives("reader", DAY_MS)?)?;
    let revoked = accepted(holder.gives("reader", DAY_MS)?)?;
    let expired = accepted(holder.gives("reader", HOUR_MS)?)?;
    let absent = (GrantId::from(*chance.salt().as_bytes()), revoked.1);
    let not_granted = (holder.gives("other", DAY_MS)?, revoked.1);
    holder.does(Command::GrantRevoke { id: revoked.0.to_hex(), reason: String::new() })?;
    holder.moves_on(2 * HOUR_MS);
    Ok(Asked { reader, grants: [absent, not_granted, revoked, expired, live], to: holder.device })
}

async fn ask_all(
    tries: u64,
    holder: &Holder,
    asked: &Asked<'_>,
    network: &Network,
    chance: &mut SeededChance,
) -> io::Result<Timing> {
    let denied = Response::Denied.to_bytes().map_err(io::Error::other)?;
    let mut times: Vec<Vec<f64>> = vec![Vec::new(); CASES.len()];
    let mut identical = true;
    for round in 0..WARM_ROUNDS + tries {
        if round.is_multiple_of(ROUNDS_A_MINUTE) {
            holder.moves_on(MINUTE_MS + 1);
        }
        for case in shuffled(chance) {
            let body = asked.release(case, holder.now(), chance)?;
            let begun = Instant::now();
            let answer = network.request(*asked.to.as_bytes(), body).await.map_err(io::Error::other)?;
            let took = begun.elapsed();
            identical &= answer == denied;
            if round >= WARM_ROUNDS {
                times[case].push(took.as_secs_f64() * 1e6);
            }
        }
    }
    let t_max = pairs(&times).map(|(_, _, t)| t.abs()).fold(0.0, f64::max);
    Ok(Timing { tries, identical, t_max, times })
}

impl Asked<'_> {
    /// A Release of one case: the same length for all.
    fn release(&self, case: usize, now: i64, chance: &mut SeededChance) -> io::Result<Vec<u8>> {
        let (grant, accept) = self.grants[case];
        let release = Release {
            grant,
            accept,
            to: self.to,
            purpose: "TREAT".into(),
            staff: "nurse".into(),
            since: 0,
            nonce: chance.salt(),
            at_ms: now,
        };
        let signed =
            Verified::sign(release, self.reader.by(), &self.reader.keys.device).map_err(io::Error::other)?;
        let mut bytes = signed.bytes().to_vec();
        if CASES[case] == "bad signature" {
            // Within R: a point that is another, not bytes that are no point, nor an S that is refused unread.
            let at = bytes.len() - 60;
            bytes[at] ^= 1;
        }
        Request::Release { release: bytes.into() }.to_bytes().map_err(io::Error::other)
    }
}

/// The cases in random order (Fisher and Yates).
fn shuffled(chance: &mut SeededChance) -> [usize; 5] {
    let mut order = [0, 1, 2, 3, 4];
    for last in (1..order.len()).rev() {
        let mut byte = [0; 8];
        chance.fill(&mut byte);
        let pick = u64::from_le_bytes(byte) % (last as u64 + 1);
        order.swap(last, usize::try_from(pick).unwrap_or(0));
    }
    order
}

// --- the holder

/// A clock that is moved by hand.
struct Moved(Arc<AtomicI64>);

impl Clock for Moved {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::SeqCst)
    }
}

/// A node as the product runs it, in a thread of its own.
struct Holder {
    home: PathBuf,
    now: Arc<AtomicI64>,
    device: DeviceId,
    address: String,
    thread: std::thread::JoinHandle<Result<(), Failure>>,
}

/// Keeps the objects of a command.
#[derive(Default)]
struct Items(Vec<Value>);

impl Sink for Items {
    fn event(&mut self, event: Event) {
        if let Event::Item(item) = event {
            self.0.push(item);
        }
    }

    fn data(&mut self, _: &[u8]) -> io::Result<()> {
        Ok(())
    }
}

fn no_passphrase() -> Unlock {
    Box::new(|| Err(Failure::failed("this node has no passphrase")))
}

fn perform(home: &Path, command: Command) -> io::Result<Vec<Value>> {
    let mut items = Items::default();
    access::run(home, command, no_passphrase(), &mut items).map_err(io::Error::other)?;
    Ok(items.0)
}

impl Holder {
    fn start(home: &Path) -> io::Result<Self> {
        let init = Init {
            name: "holder".into(),
            kind: "patient".into(),
            passphrase: None,
            accept_contacts: false,
            accept_grants: false,
            adopt: false,
        };
        access::init(home, init).map_err(io::Error::other)?;
        let now = Arc::new(AtomicI64::new(SystemClock.now_ms()));
        let (ready, readied) = mpsc::sync_channel(1);
        let config = Config {
            home: home.to_owned(),
            listen: vec!["/ip4/127.0.0.1/tcp/0".into()],
            reach: ReachConfig::default(),
            announce: vec![],
            network: true,
            live: true,
            repair: false,
            check: false,
        };
        let clock = Moved(now.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_multi_thread()
                .enable_all()
                .build()
                .map_err(|error| Failure::failed(error.to_string()))?;
            let mut tell = |told: Value| drop(ready.send(told));
            runtime.block_on(karte_node::run(config, clock, no_passphrase(), &mut tell))
        });
        let told = readied.recv_timeout(START_MAX).map_err(io::Error::other)?;
        let address = told["listening"][0].as_str().unwrap_or_default().to_owned();
        let card = perform(home, Command::Card)?;
        let device = card[0]["device"].as_str().and_then(|text| text.parse().ok());
        let device = device.ok_or_else(|| io::Error::other("a card names its device"))?;
        Ok(Self { home: home.to_owned(), now, device, address, thread })
    }

    fn does(&self, command: Command) -> io::Result<Vec<Value>> {
        perform(&self.home, command)
    }

    fn gives(&self, contact: &str, expires_ms: i64) -> io::Result<GrantId> {
        let grant = NewGrant {
            contact: contact.into(),
            scope: Filter { kinds: vec!["fhir".into()], ..Filter::default() },
            purpose: "TREAT".into(),
            basis: "consent".into(),
            expires_ms,
            offline_ms: DAY_MS,
            ..NewGrant::default()
        };
        let given = self.does(Command::GrantAdd(grant))?;
        let id = given[0]["id"].as_str().and_then(|text| text.parse().ok());
        id.ok_or_else(|| io::Error::other("a grant has an id"))
    }

    fn now(&self) -> i64 {
        self.now.load(Ordering::SeqCst)
    }

    fn moves_on(&self, ms: i64) {
        self.now.fetch_add(ms, Ordering::SeqCst);
    }

    fn stop(self) -> io::Result<()> {
        perform(&self.home, Command::Stop)?;
        let ended = self.thread.join().map_err(|_| io::Error::other("the holder panicked"))?;
        ended.map_err(io::Error::other)
    }
}

// --- the reader

/// A party made by hand: it says what no honest node would.
struct Reader {
    keys: Keys,
    party: PartyId,
    genesis: Verified<Entry>,
}

impl Reader {
    fn new(chance: &mut SeededChance, now: i64) -> io::Result<Self> {
        let keys = Keys::generate(chance);
        let birth = engine::birth(&keys, chance, now).map_err(io::Error::other)?;
        let genesis = Signed::<Entry>::from_bytes(birth.genesis).verify().map_err(io::Error::other)?;
        Ok(Self { keys, party: birth.party, genesis })
    }

    fn by(&self) -> By {
        By { party: Some(self.party), r#gen: 0, device: self.keys.device.device() }
    }

    fn card(&self, now: i64) -> io::Result<Verified<Card>> {
        let card = Card {
            name: "reader".into(),
            kind: "clinic".into(),
            addresses: vec![],
            identity: vec![self.genesis.bytes().to_vec().into()],
            at_ms: now,
        };
        Verified::sign(card, self.by(), &self.keys.device).map_err(io::Error::other)
    }

    fn hello(&self, now: i64) -> io::Result<Hello> {
        let log = PartyLog::start(self.genesis.clone()).map_err(io::Error::other)?;
        let status = Status {
            of: self.party,
            r#gen: 0,
            heads: log.state().heads,
            identity: log.state().identity,
            issued_ms: now,
            lease_ms: DAY_MS,
        };
        let status = Verified::sign(status, self.by(), &self.keys.device).map_err(io::Error::other)?;
        Ok(Hello { card: self.card(now)?.bytes().to_vec().into(), status: status.bytes().to_vec().into() })
    }

    fn accept(&self, grant: GrantId) -> io::Result<Verified<Accept>> {
        let recipient = self.keys.sealing.recipient();
        let accept = Accept { grant, reader: self.party, n: 0, recipient };
        Verified::sign(accept, self.by(), &self.keys.device).map_err(io::Error::other)
    }

    /// A connection over loopback. What the holder asks is answered with `done`, so that it does not ask again.
    async fn connect(&self, holder: &Holder) -> io::Result<Network> {
        let config = NetConfig {
            key: self.keys.device.expose_seed(),
            listen: vec![],
            agent: "karte-testnet".into(),
            limits: Limits::default(),
            reach: ReachConfig::default(),
        };
        let (network, mut events) = network::start(config).map_err(io::Error::other)?;
        let done = Response::Done.to_bytes().map_err(io::Error::other)?;
        drop(tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                if let NetEvent::Request { reply, .. } = event {
                    // The holder has gone when this fails; the measurement says so itself.
                    let _ = reply.send(done.clone());
                }
            }
        }));
        let address = holder.address.parse().map_err(io::Error::other)?;
        network.connect(*holder.device.as_bytes(), vec![address]).await.map_err(io::Error::other)?;
        Ok(network)
    }
}

// --- numbers

fn count(times: &[f64]) -> f64 {
    u32::try_from(times.len()).map_or(f64::MAX, f64::from)
}

/// Mean and variance of a sample.
fn moments(times: &[f64]) -> (f64, f64) {
    let mean = times.iter().sum::<f64>() / count(times);
    let squares: f64 = times.iter().map(|time| (time - mean) * (time - mean)).sum();
    (mean, squares / (count(times) - 1.0).max(1.0))
}

fn median(times: &[f64]) -> f64 {
    let mut sorted = times.to_vec();
    sorted.sort_by(f64::total_cmp);
    sorted.get(sorted.len() / 2).copied().unwrap_or(0.0)
}

/// Welch's t of two samples (Welch 1947): how many standard errors their means lie apart.
fn welch(one: &[f64], other: &[f64]) -> f64 {
    let ((mean, variance), (other_mean, other_variance)) = (moments(one), moments(other));
    let error = (variance / count(one) + other_variance / count(other)).sqrt();
    (mean - other_mean) / error.max(f64::MIN_POSITIVE)
}

/// Every two reasons with their t.
fn pairs(times: &[Vec<f64>]) -> impl Iterator<Item = (&'static str, &'static str, f64)> {
    let names = CASES.iter().zip(times);
    names.clone().enumerate().flat_map(move |(at, one)| {
        names.clone().skip(at + 1).map(move |other| (*one.0, *other.0, welch(one.1, other.1)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn welch_tells_what_lies_apart_and_nothing_else() {
        let around = |mean: f64| (0..1_000).map(|n| mean + f64::from(n % 7)).collect::<Vec<_>>();
        assert!(welch(&around(100.0), &around(100.0)).abs() < 1e-9);
        assert!(welch(&around(100.0), &around(101.0)).abs() > T_MAX);
        // By hand: means 2 and 5, variances 1 and 1, three each: -3 / sqrt(2/3).
        assert!((welch(&[1.0, 2.0, 3.0], &[4.0, 5.0, 6.0]) + 3.674_234_614).abs() < 1e-6);
    }

    #[test]
    fn every_order_of_the_cases_comes_up() {
        let mut chance = SeededChance::new("orders");
        let orders: std::collections::BTreeSet<_> = (0..5_000).map(|_| shuffled(&mut chance)).collect();
        assert_eq!(orders.len(), 120);
    }
}
