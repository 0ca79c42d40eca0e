//! The runtime: drives the engine, and carries out its effects.
//!
//! ```text
//! control socket ─┐                       ┌─> answers, progress
//! network events ─┼─> inbox ─> engine ─> commit ─> effects ─┼─> network requests, dials
//! import, fetch ──┘   (bounded, one thread)               └─> payload streams, deletions
//! ```
//! One thread owns the engine and its store. It handles what waits, commits once for all of it, and only then
//! lets effects out: nothing is said or sent that could still be lost.

mod arrivals;
mod bring;
mod buffers;
mod care;
mod chart;
mod cores;
mod export;
mod fetch;
mod intake;
mod join;
mod opened;
mod outlines;
mod rush;
mod sealing;
mod serve;
mod settle;
mod show;
mod write;

use crate::clock::Clock;
use crate::command::{Command, Event};
use crate::engine::{self, Answer, Effect, Engine, Input, Me, RequestId, StreamId, Ticket};
use crate::failure::{Failure, Kind};
use crate::keystore::Keys;
use crate::network::{Multiaddr, NetEvent, Network, Reply, is_relayed};
use crate::store::{Blobs, StoreError};
use karte_protocol::id::{DeviceId, PartyId};
use karte_protocol::signed::By;
use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::Duration;
use tokio::sync::{broadcast, mpsc, watch};
use tokio::time::Instant;
use tokio_util::bytes::Bytes;

/// Inputs that may wait for the engine. 1,024: some milliseconds of its work; whoever sends more waits.
const INBOX_MAX: usize = 1_024;
/// Inputs handled before one commit. 128: the group of one fsync.
const GROUP_MAX: usize = 128;
/// Groups of effects that may wait to be carried out.
const EFFECTS_MAX: usize = 64;
/// Largest want-list, in bytes. 128 KiB: 1,000 wants are half of that, and a stranger's stream holds no more.
const WANT_LIST_BYTES_MAX: u32 = 128 * 1024;
/// How long after its request a Denied goes out, at the earliest. 5 ms: longer than anything that is looked up for it, so
/// that its time tells no more of the reason than its bytes.
const DENIED_AFTER: Duration = Duration::from_millis(5);
/// Addresses tried for one device. 8: as many as a card holds.
const PLACES_MAX: usize = 8;
/// How often the engine is told that time passed.
const TICK: Duration = Duration::from_secs(1);

pub(crate) use join::ask_to_join;

/// What a command puts out.
#[derive(Debug)]
pub(crate) enum Out {
    /// Something happened.
    Event(Event),
    /// The next bytes of a data result.
    Data(Bytes),
}

/// What the runtime is made of.
pub(crate) struct Parts {
    pub(crate) engine: Engine,
    pub(crate) blobs: Arc<dyn Blobs>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) network: Option<(Network, mpsc::Receiver<NetEvent>)>,
    /// Addresses for the card instead of those it listens on, if any.
    pub(crate) announce: Vec<String>,
    /// The folder of the node.
    pub(crate) home: PathBuf,
    /// What it says yes to by itself: contacts, grants, adopting.
    pub(crate) accept: [bool; 3],
}

/// A running node; clones share it.
#[derive(Clone)]
pub(crate) struct Node {
    shared: Arc<Shared>,
}

struct Shared {
    inbox: mpsc::Sender<Input>,
    blobs: Arc<dyn Blobs>,
    outlines: outlines::Outlines,
    keys: Arc<Keys>,
    /// Who signs labels here, and COSE bytes of the own identity entries, which travel with every label. Changed by a
    /// recovery.
    signs: RwLock<(By, Arc<Vec<Vec<u8>>>)>,
    network: Option<Network>,
    announce: Vec<String>,
    next: AtomicU64,
    home: PathBuf,
    accept: [bool; 3],
    me: Me,
    clock: Arc<dyn Clock>,
    /// Read by imports from their payloads to their rows; written by who deletes payloads that no row needs. tokio's: an
    /// import hands its guard from the thread that seals to the one that settles.
    importing: Arc<tokio::sync::RwLock<()>>,
    // std's Mutex, not tokio's: nothing awaits under these.
    waiting: Mutex<HashMap<Ticket, mpsc::Sender<Told>>>,
    /// With when they were asked for.
    replies: Mutex<HashMap<RequestId, (Reply, Instant)>>,
    streams: Mutex<HashMap<StreamId, mpsc::Sender<serve::Order>>>,
    downloads: Mutex<HashMap<fetch::Of, fetch::Download>>,
    rush: rush::Rush,
    notices: broadcast::Sender<String>,
    arrivals: broadcast::Sender<arrivals::Arrival>,
    end: watch::Sender<Option<Result<(), Failure>>>,
}

/// What a waiting command is told.
enum Told {
    Progress { done: u64, total: u64 },
    Answer(Result<Answer, Failure>),
}

/// The threads and tasks of a node, to be ended in order.
pub(crate) struct Running {
    pub(crate) node: Node,
    pub(crate) party: PartyId,
    pub(crate) device: DeviceId,
    engine: std::thread::JoinHandle<Result<(), Failure>>,
    tasks: Vec<tokio::task::JoinHandle<()>>,
}

impl Running {
    /// Starts everything on the current tokio runtime.
    pub(crate) fn start(parts: Parts) -> Result<Self, Failure> {
        let Parts { engine, blobs, clock, network, announce, home, accept } = parts;
        let (inbox, inputs) = mpsc::channel(INBOX_MAX);
        let (effects, carried) = mpsc::channel(EFFECTS_MAX);
        let (network, events) =
            network.map_or((None, None), |(network, events)| (Some(network), Some(events)));
        let (notices, _) = broadcast::channel(256);
        let (arrivals, _) = broadcast::channel(arrivals::WAITING_MAX);
        let (end, _) = watch::channel(None);
        let shared = Arc::new(Shared {
            inbox,
            blobs,
            outlines: outlines::Outlines::default(),
            keys: engine.keys(),
            signs: RwLock::new((engine.signer(), Arc::new(engine.identity()))),
            network,
            announce,
            next: AtomicU64::new(1),
            home,
            accept,
            me: engine.me().clone(),
            clock: clock.clone(),
            importing: Arc::default(),
            waiting: Mutex::default(),
            replies: Mutex::default(),
            streams: Mutex::default(),
            downloads: Mutex::default(),
            rush: rush::Rush::default(),
            notices,
            arrivals,
            end,
        });
        let (node, party, device) = (Node { shared }, engine.me().party, engine.keys().device.device());
        let thread = std::thread::Builder::new()
            .name("engine".into())
            .spawn(move || drive(engine, inputs, &effects, clock.as_ref()))
            .map_err(|error| Failure::failed(format!("no thread for the engine: {error}")))?;
        let mut tasks = vec![
            tokio::spawn(carry_out(node.clone(), carried)),
            tokio::spawn(tick(node.shared.inbox.clone())),
        ];
        tasks.extend(events.map(|events| tokio::spawn(listen(node.clone(), events))));
        Ok(Self { node, party, device, engine: thread, tasks })
    }

    /// Ends in order: the network first, so that nobody is promised anything any more; then the tasks that feed
    /// the engine; then the engine, which works off what waits, commits and closes the store.
    pub(crate) async fn stop(self) -> Result<(), Failure> {
        if let Some(network) = self.node.shared.network.clone() {
            network.shutdown().await;
        }
        for task in self.tasks {
            task.abort();
            // An aborted task ends with an error that says so; it has nothing else to say.
            let _ = task.await;
        }
        lock(&self.node.shared.downloads).drain().for_each(|(_, download)| download.abort());
        lock(&self.node.shared.streams).clear();
        let inbox = self.node.shared.inbox.clone();
        drop(inbox.send(Input::Command(0, Box::new(Command::Stop))).await);
        let joined = tokio::task::spawn_blocking(move || self.engine.join()).await;
        // An import that still waits for an answer would wait for ever.
        lock(&self.node.shared.waiting).clear();
        match joined {
            Ok(Ok(result)) => result,
            _ => Err(Failure::failed("the engine ended badly")),
        }
    }
}

/// The engine's thread: handle what waits, commit once, let the effects out. Ends with the Stop of ticket 0.
fn drive(
    mut engine: Engine,
    mut inputs: mpsc::Receiver<Input>,
    effects: &mpsc::Sender<Vec<Effect>>,
    clock: &dyn Clock,
) -> Result<(), Failure> {
    let mut result = Ok(());
    while let Some(first) = inputs.blocking_recv() {
        let mut group = Group::default();
        let mut next = Some(first);
        while let Some(input) = next.take() {
            group.handle(&mut engine, input, clock);
            if group.handled < GROUP_MAX && !group.last {
                next = inputs.try_recv().ok();
            }
        }
        // Half a step must not become durable, nor anything be said that is not.
        let committed = match group.fatal() {
            Some(stuck) => Err(stuck),
            None => engine.commit().map_err(Stuck::of),
        };
        match committed {
            Ok(()) => {}
            Err(Stuck::Full) => match group.without_room(engine, clock) {
                Ok(again) => engine = again,
                Err(failure) => {
                    // Nothing is left to close: the next start reads the journal.
                    let _ = effects.blocking_send(vec![Effect::Fatal(failure.clone())]);
                    return Err(failure);
                }
            },
            Err(Stuck::Failed(failure)) => {
                group.fail(&failure);
                result = Err(failure);
            }
        }
        // Nobody carries effects out any more once the node stops; that is no error.
        let _ = effects.blocking_send(group.out);
        if group.last || result.is_err() {
            break;
        }
    }
    drop(inputs);
    match result {
        Ok(()) => engine.close().map_err(Failure::from),
        // Dropped and not closed: the next start reads the journal.
        failed => failed,
    }
}

/// Why a group did not become durable.
enum Stuck {
    /// There was no room. The node goes on without it.
    Full,
    /// The node ends.
    Failed(Failure),
}

impl Stuck {
    fn of(error: StoreError) -> Self {
        match error {
            StoreError::Full { .. } => Self::Full,
            error => Self::Failed(error.into()),
        }
    }
}

/// Inputs handled before one commit, and what came of them.
#[derive(Default)]
struct Group {
    out: Vec<Effect>,
    handled: usize,
    last: bool,
    /// Denials of the own user in it: what a full disk must not keep back.
    denials: Vec<(Ticket, Command)>,
}

impl Group {
    fn handle(&mut self, engine: &mut Engine, input: Input, clock: &dyn Clock) {
        self.last |= is_last(&input);
        if let Input::Command(ticket, command) = &input
            && command.is_denial()
        {
            self.denials.push((*ticket, (**command).clone()));
        }
        self.out.extend(engine.handle(input, clock.now_ms()));
        self.handled += 1;
        self.last |= self.fatal().is_some();
    }

    /// What ended a step, if it was not a full disk: that ends only the group.
    fn fatal(&self) -> Option<Stuck> {
        self.out.iter().find_map(|effect| match effect {
            Effect::Fatal(failure) if failure.kind == Kind::Failed && failure.message.starts_with(FULL) => {
                Some(Stuck::Full)
            }
            Effect::Fatal(failure) => Some(Stuck::Failed(failure.clone())),
            _ => None,
        })
    }

    fn fail(&mut self, failure: &Failure) {
        self.out = std::mem::take(&mut self.out)
            .into_iter()
            .filter_map(|effect| answer_with(effect, failure))
            .chain([Effect::Fatal(failure.clone())])
            .collect();
        self.last = true;
    }

    /// The disk is full: the group is dropped and told so, and the engine is as the store again. Denials are handled
    /// once more, by themselves: for them the store keeps a reserve.
    fn without_room(&mut self, engine: Engine, clock: &dyn Clock) -> Result<Engine, Failure> {
        tracing::error!("the disk is full: nothing new is recorded until there is room");
        let now = clock.now_ms();
        let full = engine::full();
        let (mut engine, told) = engine.reload(now)?;
        let denials = std::mem::take(&mut self.denials);
        let is_denial = |ticket: &Ticket| denials.iter().any(|(denial, _)| denial == ticket);
        let dropped = std::mem::take(&mut self.out).into_iter().filter_map(|effect| match effect {
            Effect::Answer(ticket, _) if is_denial(&ticket) => None,
            // A peer that is told nothing would wait; Denied is asked again later.
            Effect::Reply(id, _) => engine::denied().map(|denied| Effect::Reply(id, denied)),
            Effect::Stop => Some(Effect::Stop),
            effect => answer_with(effect, &full),
        });
        self.out = dropped.chain(told).collect();
        if denials.is_empty() {
            return Ok(engine);
        }
        let mut said = Vec::new();
        for (ticket, command) in &denials {
            said.extend(engine.handle(Input::Command(*ticket, Box::new(command.clone())), now));
        }
        match engine.commit() {
            Ok(()) => {
                self.out.extend(said);
                Ok(engine)
            }
            Err(StoreError::Full { .. }) => {
                let (engine, told) = engine.reload(now)?;
                self.out.extend(said.into_iter().filter_map(|effect| answer_with(effect, &full)));
                self.out.extend(told);
                Ok(engine)
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// How the store's own word for a full disk begins.
const FULL: &str = "disk is full";

/// The command that only [`Running::stop`] gives.
fn is_last(input: &Input) -> bool {
    matches!(input, Input::Command(0, command) if **command == Command::Stop)
}

/// An answer turns into the failure; every other effect is held back.
fn answer_with(effect: Effect, failure: &Failure) -> Option<Effect> {
    match effect {
        Effect::Answer(ticket, _) => Some(Effect::Answer(ticket, Err(failure.clone()))),
        _ => None,
    }
}

/// Answers a peer; a Denied not before its time. How many wait is bounded by the replies that the network lets pend.
fn send_reply(reply: Reply, asked: Instant, body: Vec<u8>) {
    let send = move |body| {
        if let Err(error) = reply.send(body) {
            tracing::debug!(%error, "a reply was not sent");
        }
    };
    if engine::denied().is_some_and(|denied| denied == body) {
        drop(tokio::spawn(async move {
            tokio::time::sleep_until(asked + DENIED_AFTER).await;
            send(body);
        }));
    } else {
        send(body);
    }
}

async fn tick(inbox: mpsc::Sender<Input>) {
    let mut interval = tokio::time::interval(TICK);
    interval.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        interval.tick().await;
        if inbox.send(Input::Tick).await.is_err() {
            return;
        }
    }
}

/// Network events into inputs.
async fn listen(node: Node, mut events: mpsc::Receiver<NetEvent>) {
    while let Some(event) = events.recv().await {
        match event {
            NetEvent::Listening(_) | NetEvent::AddressesChanged => node.tell_listeners().await,
            NetEvent::Rerouted { peer, address } => {
                node.send(Input::Rerouted(DeviceId::from(peer), address.to_string())).await;
            }
            NetEvent::Nearby { device, addresses } => {
                let addresses = addresses.iter().map(ToString::to_string).collect();
                node.send(Input::Nearby(DeviceId::from(device), addresses)).await;
            }
            NetEvent::Connected { peer, address, dialled } => {
                let address = address.to_string();
                node.send(Input::Connected { peer: DeviceId::from(peer), address, dialled }).await;
            }
            NetEvent::Disconnected { peer } => {
                let peer = DeviceId::from(peer);
                node.stop_downloads(|of| of.peer == peer);
                node.send(Input::Disconnected(peer)).await;
            }
            NetEvent::Request { peer, body, reply } => {
                let (id, asked) = (node.number(), Instant::now());
                lock(&node.shared.replies).insert(id, (reply, asked));
                node.send(Input::Request(DeviceId::from(peer), id, body)).await;
            }
            NetEvent::Stream { peer, mut stream } => {
                stream.limit_received(WANT_LIST_BYTES_MAX);
                drop(tokio::spawn(serve::serve(node.clone(), DeviceId::from(peer), stream)));
            }
        }
    }
}

/// Effects, after their commit. Never waits for the engine, which may wait for us.
async fn carry_out(node: Node, mut groups: mpsc::Receiver<Vec<Effect>>) {
    while let Some(group) = groups.recv().await {
        for effect in group {
            node.carry(effect);
        }
    }
    // The engine is gone, in order or not: nobody may wait for it any longer.
    lock(&node.shared.waiting).clear();
    node.end(Err(Failure::failed("the engine ended")));
}

impl Node {
    fn carry(&self, effect: Effect) {
        match effect {
            Effect::Answer(ticket, answer) => self.tell(ticket, Told::Answer(answer)),
            Effect::Progress { ticket, done, total } => {
                self.tell(ticket, Told::Progress { done, total });
            }
            Effect::Dial { party, devices, addresses, at } => {
                self.spawn_dial(party, devices, addresses, at);
            }
            Effect::Know(devices) => {
                if let Some(network) = self.shared.network.clone() {
                    drop(tokio::spawn(async move {
                        network.know(devices.iter().map(|device| *device.as_bytes())).await
                    }));
                }
            }
            Effect::Request(peer, duty, body) => {
                let node = self.clone();
                drop(tokio::spawn(async move {
                    let answer = match &node.shared.network {
                        Some(network) => {
                            network.request(*peer.as_bytes(), body).await.map_err(|error| error.to_string())
                        }
                        None => Err("this command runs without a network".into()),
                    };
                    node.send(Input::Answered(peer, duty, answer)).await;
                }));
            }
            Effect::Reply(id, body) => {
                if let Some((reply, asked)) = lock(&self.shared.replies).remove(&id) {
                    send_reply(reply, asked, body);
                }
            }
            Effect::Serve(stream, items, urgent) => self.order(stream, serve::Order::Serve(items, urgent)),
            Effect::Finish(stream, frame) => self.order(stream, serve::Order::Finish(frame)),
            Effect::Go(stream, go) => self.order(stream, serve::Order::Go(go)),
            Effect::Fetch(peer, fetch, expected) => fetch::begin(self, peer, fetch, expected),
            Effect::StopFetch(grant, from) => {
                self.stop_downloads(|of| of.grant == grant && from.is_none_or(|peer| of.peer == peer));
            }
            Effect::Drop(records) => {
                let blobs = self.shared.blobs.clone();
                drop(tokio::task::spawn_blocking(move || {
                    for record in records {
                        if let Err(error) = blobs.delete(record.as_bytes()) {
                            tracing::warn!(%error, "a payload was not deleted; the next start tries again");
                        }
                    }
                    // Gone for good, and not only without a name: what a grant's end deletes must not lie on.
                    if let Err(error) = blobs.gc() {
                        tracing::warn!(%error, "deleted payloads still take space; the next start tries again");
                    }
                }));
            }
            Effect::Signs(by, identity) => {
                let mut signs = self.shared.signs.write().unwrap_or_else(PoisonError::into_inner);
                *signs = (by, Arc::new(identity));
            }
            Effect::Notice(text) => {
                tracing::info!("{text}");
                // Nobody may be watching.
                let _ = self.shared.notices.send(text);
            }
            Effect::Arrived(grant, record) => self.tell_arrival(grant, record),
            Effect::Stop => self.end(Ok(())),
            Effect::Fatal(failure) => {
                tracing::error!(%failure, "the node stops");
                self.end(Err(failure));
            }
        }
    }

    /// Ends downloads at once. Nothing is told of their lists: the engine has given them up.
    fn stop_downloads(&self, which: impl Fn(&fetch::Of) -> bool) {
        let mut downloads = lock(&self.shared.downloads);
        downloads.extract_if(|of, _| which(of)).for_each(|(_, download)| download.abort());
    }

    fn end(&self, result: Result<(), Failure>) {
        self.shared.end.send_if_modified(|end| {
            let first = end.is_none();
            if first {
                *end = Some(result);
            }
            first
        });
    }

    /// Waits until the node should end.
    pub(crate) async fn ended(&self) -> Result<(), Failure> {
        let mut end = self.shared.end.subscribe();
        match end.wait_for(Option::is_some).await {
            Ok(end) => end.clone().unwrap_or(Ok(())),
            Err(_) => Ok(()),
        }
    }

    pub(crate) fn notices(&self) -> broadcast::Receiver<String> {
        self.shared.notices.subscribe()
    }

    fn tell(&self, ticket: Ticket, told: Told) {
        let mut waiting = lock(&self.shared.waiting);
        let last = matches!(told, Told::Answer(_));
        if let Some(waiter) = waiting.get(&ticket) {
            // Progress may be dropped when the waiter is slow; its queue always has room for the answer.
            if last || waiter.capacity() > 1 {
                let _ = waiter.try_send(told);
            }
        }
        if last {
            waiting.remove(&ticket);
        }
    }

    fn order(&self, stream: StreamId, order: serve::Order) {
        if let Some(orders) = lock(&self.shared.streams).get(&stream) {
            let _ = orders.try_send(order);
        }
    }

    fn spawn_dial(
        &self,
        party: PartyId,
        devices: Vec<DeviceId>,
        addresses: Vec<String>,
        at: BTreeMap<DeviceId, Vec<String>>,
    ) {
        let node = self.clone();
        drop(tokio::spawn(async move {
            if let Err(reason) = node.dial(devices, addresses, at).await {
                node.send(Input::DialFailed(party, reason)).await;
            }
        }));
    }

    async fn dial(
        &self,
        devices: Vec<DeviceId>,
        addresses: Vec<String>,
        at: BTreeMap<DeviceId, Vec<String>>,
    ) -> Result<(), String> {
        let network = self.shared.network.as_ref().ok_or("this command runs without a network")?;
        let mut reason = "it has no device".to_owned();
        for device in devices {
            let addresses = places_of(&device, &addresses, &at);
            match network.connect(*device.as_bytes(), addresses).await {
                Ok(()) => return Ok(()),
                Err(error) => reason = error.to_string(),
            }
        }
        Err(reason)
    }

    async fn tell_listeners(&self) {
        let Some(network) = &self.shared.network else {
            return;
        };
        let found = network.addresses().await;
        let mut addresses: Vec<String> = found.iter().map(ToString::to_string).collect();
        if !self.shared.announce.is_empty() {
            // In place of where it listens; a place at a relay is one more way in.
            addresses.retain(|address| address.contains("/p2p-circuit"));
            addresses.splice(0..0, self.shared.announce.iter().cloned());
        }
        self.send(Input::Listening(addresses)).await;
    }

    /// Where we can be found, once so many listeners and places at relays are there; at most 5 s.
    pub(crate) async fn listening_ready(&self, listeners: usize, relays: usize) -> Found {
        let Some(network) = &self.shared.network else {
            return Found::default();
        };
        let mut found = Found::default();
        for _ in 0..100 {
            found = Found::of(network).await;
            if found.listening.len() >= listeners && found.relayed.len() >= relays {
                break;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        self.tell_listeners().await;
        found
    }

    async fn send(&self, input: Input) {
        // The engine is gone only while the node ends; then nothing matters any more.
        let _ = self.shared.inbox.send(input).await;
    }

    fn number(&self) -> u64 {
        self.shared.next.fetch_add(1, Ordering::Relaxed)
    }

    fn wait(&self, ticket: Ticket) -> mpsc::Receiver<Told> {
        let (teller, told) = mpsc::channel(16);
        lock(&self.shared.waiting).insert(ticket, teller);
        told
    }

    /// Runs one command and puts out what it gives; the last output is `Done` or `Failed`. If nobody listens
    /// any more, long work ends early and keeps what it has done.
    pub(crate) async fn execute(&self, command: Command, out: mpsc::Sender<Out>) {
        let result = match command {
            Command::Import { paths, format, subject, how } => {
                self.bring(paths, format, subject, how, &out).await
            }
            Command::RecordAdd(new) => self.write_by_hand(*new, &out).await,
            Command::RecordShow { id } => self.show_record(id, &out).await,
            Command::Trend(query) => self.trend(*query, &out).await,
            Command::Watch => self.watch(&out).await,
            Command::RecordExport { filter, form, staff } => self.export(filter, form, staff, &out).await,
            command @ (Command::StoreCheck
            | Command::StoreRebuild
            | Command::StoreRepair { .. }
            | Command::StoreStats
            | Command::StoreGc
            | Command::BackupCreate { .. }) => self.care(command, &out).await,
            command => self.command(command, &out).await,
        };
        let end = match result {
            Ok(()) => Event::Done,
            Err(failure) => Event::Failed(failure),
        };
        let _ = out.send(Out::Event(end)).await;
    }

    async fn command(&self, command: Command, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        let what = if matches!(command, Command::Sync { .. }) { "sync" } else { "work" };
        let ticket = self.number();
        let mut told = self.wait(ticket);
        self.send(Input::Command(ticket, Box::new(command))).await;
        while let Some(told) = told.recv().await {
            match told {
                Told::Progress { done, total } => {
                    let event = Event::Progress { what: what.into(), done, total, unit: "bytes".into() };
                    let _ = out.send(Out::Event(event)).await;
                }
                Told::Answer(answer) => return self.put_out(answer?, out).await,
            }
        }
        Err(Failure::failed("the node stopped before it answered").next("Repeat the command."))
    }

    async fn put_out(&self, answer: Answer, out: &mpsc::Sender<Out>) -> Result<(), Failure> {
        match answer {
            Answer::Items(items) => {
                for item in items {
                    let _ = out.send(Out::Event(Event::Item(item))).await;
                }
                Ok(())
            }
            Answer::Data(bytes) => {
                let _ = out.send(Out::Data(bytes.into())).await;
                Ok(())
            }
            Answer::Open(opening) => show::show(self.shared.blobs.clone(), *opening, out.clone()).await,
            Answer::Known(_)
            | Answer::Taken(_)
            | Answer::Subject(_)
            | Answer::Many(_)
            | Answer::Shown(..)
            | Answer::Export(_)
            | Answer::Inventory(_)
            | Answer::Unneeded(_) => Ok(()),
        }
    }

    /// Asks the engine from a thread that may block.
    fn ask_blocking(&self, input: impl FnOnce(Ticket) -> Input) -> Result<Answer, Failure> {
        let ticket = self.number();
        let mut told = self.wait(ticket);
        let stopped = || Failure::new(Kind::Failed, "the node stopped").next("Repeat the command.");
        self.shared.inbox.blocking_send(input(ticket)).map_err(|_| stopped())?;
        loop {
            match told.blocking_recv() {
                Some(Told::Answer(answer)) => return answer,
                Some(Told::Progress { .. }) => {}
                None => return Err(stopped()),
            }
        }
    }
}

/// Where this node can be found.
#[derive(Default)]
pub(crate) struct Found {
    /// The addresses we listen on.
    pub(crate) listening: Vec<String>,
    /// Our places at relays.
    pub(crate) relayed: Vec<String>,
}

impl Found {
    async fn of(network: &Network) -> Self {
        let all = network.addresses().await;
        let relayed = all.iter().filter(|address| is_relayed(address)).map(ToString::to_string).collect();
        let listening = network.listeners().await.iter().map(ToString::to_string).collect();
        Self { listening, relayed }
    }
}

impl Shared {
    /// Who signs labels here now, and what travels with them.
    fn signs(&self) -> (By, Arc<Vec<Vec<u8>>>) {
        self.signs.read().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// Where to look for a device: where it said itself, then where nobody else of its party said to be.
fn places_of(
    device: &DeviceId,
    addresses: &[String],
    at: &BTreeMap<DeviceId, Vec<String>>,
) -> Vec<Multiaddr> {
    let own = at.get(device).map(Vec::as_slice).unwrap_or_default();
    let of_others = |address: &&String| {
        at.iter().any(|(other, theirs)| other != device && theirs.contains(address)) || own.contains(address)
    };
    let more = addresses.iter().filter(|address| !of_others(address));
    own.iter().chain(more).filter_map(|text| text.parse().ok()).take(PLACES_MAX).collect()
}

/// A poisoned lock means that another task panicked while it held it; its map is still whole.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
#[path = "full_tests.rs"]
mod full_tests;
