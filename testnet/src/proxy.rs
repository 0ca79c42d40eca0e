//! A TCP proxy that does to bytes what networks do: holds them back, thins them out, flips them, ends connections.
//!
//! For: two real nodes with a bad network between them, driven from plain code; it runs on a thread of its own. Every
//! byte is counted each way, and faults strike at exact bytes, so that a run can be repeated. Not for: packets; what
//! is lost in here is a connection, as TCP would show it to a program. Not for: UDP; a node that is to be held by the
//! proxy must have no other way, so it announces the proxy's address and its peer listens nowhere.

use std::collections::BTreeMap;
use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::tcp::{OwnedReadHalf, OwnedWriteHalf};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// Bytes carried at once. 16 KiB: some chunks of a record, and faults strike inside of them all the same.
const CHUNK_BYTES: usize = 16 << 10;
/// The same where the rate is bounded. 1,460: a packet, so that a slow link is even.
const CHUNK_BYTES_RATED: usize = 1460;
/// Chunks on their way through a delay, each way of a connection. 256: 40 MB/s at 100 ms.
const LINE_MAX: usize = 256;
/// What the system may hold for us where the rate is bounded, in bytes. 32 KiB: more would be a queue that no slow
/// link has, and what is urgent would wait behind it.
const SOCKET_BYTES_RATED: u32 = 32 << 10;
/// How far a bounded rate may catch up with what it was late by. 5 ms: timers here are exact to a millisecond, in which a
/// fast link carries many packets; a slow one carries half of one meanwhile.
const LATE_MAX: Duration = Duration::from_millis(5);
/// Connections waiting to be taken. 128, as servers have it.
const BACKLOG: u32 = 128;

/// What a link is like while nothing is wrong with it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Link {
    /// How long a byte takes, each way.
    pub delay: Duration,
    /// Bytes in a second, each way, of all connections together; unbounded if none.
    pub bytes_per_s: Option<u64>,
}

/// Whether the link carries anything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Everything passes.
    Up,
    /// Nothing passes and nothing is told: a pulled cable.
    Silent,
    /// Connections end, and new ones end at once: a network that says no.
    Refusing,
}

/// A direction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Way {
    /// From who called to the target.
    ToTarget,
    /// From the target to who called.
    FromTarget,
}

/// What happens to one byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// All connections end right before it.
    Cut,
    /// One of its bits is changed.
    Flip,
}

/// A running proxy. Dropped, it ends with its connections.
#[derive(Debug)]
pub struct Proxy {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug)]
struct Shared {
    target: SocketAddr,
    link: Link,
    state: watch::Sender<State>,
    /// Counts the cuts; connections watch it.
    cuts: watch::Sender<u64>,
    ways: [Lane; 2],
    connections: AtomicU64,
}

/// One direction, of all connections together.
#[derive(Debug)]
struct Lane {
    // std's Mutex, not tokio's: nothing awaits under it.
    inner: Mutex<LaneInner>,
}

#[derive(Debug)]
struct LaneInner {
    passed: u64,
    /// By the number of bytes before them.
    faults: BTreeMap<u64, Fault>,
    struck: u64,
    /// When a bounded rate has room again.
    free_at: Instant,
}

/// A connection was ended on purpose, or its ends did.
struct Ended;

impl From<io::Error> for Ended {
    fn from(_: io::Error) -> Self {
        Self
    }
}

impl Proxy {
    /// In front of `target`, on a free port of loopback.
    pub fn start(target: SocketAddr, link: Link) -> io::Result<Self> {
        Self::start_at(SocketAddr::from(([127, 0, 0, 1], 0)), target, link)
    }

    /// The same, listening at `at`.
    pub fn start_at(at: SocketAddr, target: SocketAddr, link: Link) -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let listener = runtime.block_on(async { listen(at, link) })?;
        let address = listener.local_addr()?;
        let shared = Arc::new(Shared::new(target, link));
        let (stop, stopped) = oneshot::channel();
        let served = shared.clone();
        let thread = std::thread::Builder::new()
            .name("proxy".into())
            .spawn(move || runtime.block_on(serve(listener, served, stopped)))?;
        Ok(Self { address, shared, stop: Some(stop), thread: Some(thread) })
    }

    /// Where it is called.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// The same for a card.
    pub fn multiaddress(&self) -> String {
        format!("/ip4/{}/tcp/{}", self.address.ip(), self.address.port())
    }

    /// Plans a fault for the byte that comes after `after` others on that way, since the start and of all connections
    /// together. One that is over already never strikes.
    pub fn plan(&self, way: Way, after: u64, fault: Fault) {
        self.shared.lane(way).faults.insert(after, fault);
    }

    /// Bytes that have passed on that way since the start.
    pub fn passed(&self, way: Way) -> u64 {
        self.shared.lane(way).passed
    }

    /// Planned faults that have struck.
    pub fn struck(&self) -> u64 {
        self.shared.lane(Way::ToTarget).struck + self.shared.lane(Way::FromTarget).struck
    }

    /// Connections that reached the target so far.
    pub fn connections(&self) -> u64 {
        self.shared.connections.load(Ordering::Relaxed)
    }

    /// Ends all connections now.
    pub fn cut(&self) {
        self.shared.cut();
    }

    /// Takes the link up or down.
    pub fn set(&self, state: State) {
        self.shared.state.send_replace(state);
        if state == State::Refusing {
            self.shared.cut();
        }
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            // It may have ended already.
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Shared {
    fn new(target: SocketAddr, link: Link) -> Self {
        let lane = || Lane {
            inner: Mutex::new(LaneInner {
                passed: 0,
                faults: BTreeMap::new(),
                struck: 0,
                free_at: Instant::now(),
            }),
        };
        let (state, cuts) = (watch::Sender::new(State::Up), watch::Sender::new(0));
        Self { target, link, state, cuts, ways: [lane(), lane()], connections: AtomicU64::new(0) }
    }

    fn lane(&self, way: Way) -> MutexGuard<'_, LaneInner> {
        let [to, from] = &self.ways;
        let lane = if way == Way::ToTarget { to } else { from };
        lane.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn cut(&self) {
        self.cuts.send_modify(|count| *count += 1);
    }

    /// Waits out a silence.
    async fn passable(&self) {
        // It ends with us, so there is a sender.
        let _ = self.state.subscribe().wait_for(|state| *state != State::Silent).await;
    }

    /// When so many bytes have gone over a link of this rate.
    fn paced(&self, way: Way, bytes: usize) -> Instant {
        let Some(rate) = self.link.bytes_per_s else { return Instant::now() };
        let takes = Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64);
        let now = Instant::now();
        let earliest = now.checked_sub(LATE_MAX).unwrap_or(now);
        let mut lane = self.lane(way);
        lane.free_at = lane.free_at.max(earliest) + takes;
        // What is late is sent now: nothing leaves before it came.
        lane.free_at.max(now)
    }
}

impl LaneInner {
    /// Counts a chunk and lets faults strike. What is to be written, and whether all connections end behind it.
    fn pass(&mut self, chunk: &mut Vec<u8>) -> bool {
        let end = self.passed + chunk.len() as u64;
        while let Some((&at, &fault)) = self.faults.range(self.passed..end).next() {
            self.faults.remove(&at);
            self.struck += 1;
            // The range is that of the chunk.
            let place = usize::try_from(at - self.passed).unwrap_or(usize::MAX);
            match fault {
                Fault::Flip => chunk.iter_mut().skip(place).take(1).for_each(|byte| *byte ^= 0x10),
                Fault::Cut => {
                    chunk.truncate(place);
                    self.passed = at;
                    return true;
                }
            }
        }
        self.passed = end;
        false
    }
}

fn listen(at: SocketAddr, link: Link) -> io::Result<TcpListener> {
    let socket = socket(link)?;
    socket.bind(at)?;
    socket.listen(BACKLOG)
}

fn socket(link: Link) -> io::Result<TcpSocket> {
    let socket = TcpSocket::new_v4()?;
    if link.bytes_per_s.is_some() {
        socket.set_recv_buffer_size(SOCKET_BYTES_RATED)?;
    }
    Ok(socket)
}

async fn serve(listener: TcpListener, shared: Arc<Shared>, mut stopped: oneshot::Receiver<()>) {
    loop {
        tokio::select! {
            _ = &mut stopped => return,
            taken = listener.accept() => match taken {
                Ok((caller, _)) if *shared.state.borrow() != State::Refusing => {
                    drop(tokio::spawn(join(shared.clone(), caller)));
                }
                Ok(_) => {}
                // No descriptors just now: those who wait are taken when there are some again.
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            },
        }
    }
}

/// Carries one connection until an end or a cut.
async fn join(shared: Arc<Shared>, caller: TcpStream) {
    let mut cuts = shared.cuts.subscribe();
    let carried = async {
        shared.passable().await;
        let target = socket(shared.link)?.connect(shared.target).await?;
        shared.connections.fetch_add(1, Ordering::Relaxed);
        caller.set_nodelay(true)?;
        target.set_nodelay(true)?;
        let (from_caller, to_caller) = caller.into_split();
        let (from_target, to_target) = target.into_split();
        tokio::try_join!(
            carry(&shared, Way::ToTarget, from_caller, to_target),
            carry(&shared, Way::FromTarget, from_target, to_caller),
        )
    };
    tokio::select! {
        // Both ways ended, or one of them badly: the sockets are dropped, so the ends see it.
        _ = carried => {}
        _ = cuts.changed() => {}
    }
}

/// One way of a connection: a reader, a line as long as the delay, a writer.
async fn carry(shared: &Shared, way: Way, from: OwnedReadHalf, to: OwnedWriteHalf) -> Result<(), Ended> {
    let (line, end) = mpsc::channel(LINE_MAX);
    tokio::try_join!(take(shared, way, from, line), give(shared, way, end, to)).map(|_| ())
}

async fn take(
    shared: &Shared,
    way: Way,
    mut from: OwnedReadHalf,
    line: mpsc::Sender<(Instant, Vec<u8>)>,
) -> Result<(), Ended> {
    let rated = shared.link.bytes_per_s.is_some();
    let mut buffer = vec![0; if rated { CHUNK_BYTES_RATED } else { CHUNK_BYTES }];
    loop {
        let read = from.read(&mut buffer).await?;
        if read == 0 {
            return Ok(());
        }
        let sent = shared.paced(way, read);
        if rated {
            until(sent).await;
        }
        let chunk = buffer.get(..read).unwrap_or_default().to_vec();
        line.send((sent + shared.link.delay, chunk)).await.map_err(|_| Ended)?;
    }
}

/// Sleeps if that is still to come: a timer that is due takes up to a millisecond all the same.
async fn until(due: Instant) {
    if due > Instant::now() {
        tokio::time::sleep_until(due).await;
    }
}

async fn give(
    shared: &Shared,
    way: Way,
    mut line: mpsc::Receiver<(Instant, Vec<u8>)>,
    mut to: OwnedWriteHalf,
) -> Result<(), Ended> {
    while let Some((due, mut chunk)) = line.recv().await {
        until(due).await;
        shared.passable().await;
        let is_cut = shared.lane(way).pass(&mut chunk);
        to.write_all(&chunk).await?;
        if is_cut {
            shared.cut();
            return Err(Ended);
        }
    }
    Ok(to.shutdown().await?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read, Write};
    use std::net::{Shutdown, TcpListener as StdListener, TcpStream as StdStream};

    /// Answers every connection with all it hears, until it hears the end.
    fn echo() -> SocketAddr {
        let listener = StdListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                std::thread::spawn(move || std::io::copy(&mut &stream, &mut &stream));
            }
        });
        address
    }

    /// What comes back of `sent`, until the other side ends it.
    fn echoed(proxy: &Proxy, sent: &[u8]) -> Vec<u8> {
        let mut stream = StdStream::connect(proxy.address()).unwrap();
        let (mut writer, owned) = (stream.try_clone().unwrap(), sent.to_vec());
        let writing = std::thread::spawn(move || {
            // The other end may be cut off.
            let _ = writer.write_all(&owned);
            let _ = writer.shutdown(Shutdown::Write);
        });
        let mut back = Vec::new();
        // An error is a cut; what came before is what there is.
        let _ = stream.read_to_end(&mut back);
        writing.join().unwrap();
        back
    }

    fn pattern(length: usize) -> Vec<u8> {
        (0..length).map(|n| u8::try_from(n % 251).unwrap()).collect()
    }

    #[test]
    fn everything_passes_and_is_counted() {
        let proxy = Proxy::start(echo(), Link::default()).unwrap();
        let sent = pattern(300_000);
        assert!(echoed(&proxy, &sent) == sent, "the bytes are the same");
        assert_eq!((proxy.passed(Way::ToTarget), proxy.passed(Way::FromTarget)), (300_000, 300_000));
        assert_eq!((proxy.connections(), proxy.struck()), (1, 0));
    }

    #[test]
    fn a_cut_ends_the_connection_at_its_very_byte_and_the_next_one_goes_on() {
        let proxy = Proxy::start(echo(), Link::default()).unwrap();
        proxy.plan(Way::FromTarget, 70_001, Fault::Cut);
        let sent = pattern(200_000);
        assert_eq!(echoed(&proxy, &sent).len(), 70_001);
        assert!(echoed(&proxy, &sent) == sent, "a cut is over when it has struck");
        assert_eq!((proxy.struck(), proxy.passed(Way::FromTarget)), (1, 270_001));
    }

    #[test]
    fn a_flip_changes_one_bit_of_its_very_byte() {
        let proxy = Proxy::start(echo(), Link::default()).unwrap();
        proxy.plan(Way::ToTarget, 50_000, Fault::Flip);
        let sent = pattern(100_000);
        let back = echoed(&proxy, &sent);
        let changed: Vec<usize> = (0..sent.len()).filter(|at| back[*at] != sent[*at]).collect();
        assert_eq!(changed, [50_000]);
        assert_eq!((back[50_000] ^ sent[50_000]).count_ones(), 1);
    }

    #[test]
    fn a_delay_holds_back_each_way_and_a_rate_thins_out() {
        let link = Link { delay: Duration::from_millis(50), bytes_per_s: Some(100_000) };
        let proxy = Proxy::start(echo(), link).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(echoed(&proxy, b"one").len(), 3);
        assert!(begun.elapsed() >= Duration::from_millis(100), "there and back: {:?}", begun.elapsed());
        let begun = std::time::Instant::now();
        assert_eq!(echoed(&proxy, &pattern(50_000)).len(), 50_000);
        assert!(begun.elapsed() >= Duration::from_millis(500), "50 kB at 100 kB/s: {:?}", begun.elapsed());
    }

    /// Packets of 87 microseconds each, and timers of a millisecond: one timer for each would make it a twelfth of the rate.
    #[test]
    fn a_high_rate_is_no_lower_than_it_says() {
        let link = Link { delay: Duration::ZERO, bytes_per_s: Some(16 << 20) };
        let proxy = Proxy::start(echo(), link).unwrap();
        let begun = std::time::Instant::now();
        assert_eq!(echoed(&proxy, &pattern(8 << 20)).len(), 8 << 20);
        assert!(begun.elapsed() < Duration::from_secs(4), "8 MiB at 16 MiB/s: {:?}", begun.elapsed());
    }

    #[test]
    fn a_silent_link_keeps_what_it_has_and_a_refusing_one_ends_it() {
        let proxy = Proxy::start(echo(), Link::default()).unwrap();
        let mut stream = StdStream::connect(proxy.address()).unwrap();
        let mut heard = [0; 3];
        stream.write_all(b"one").unwrap();
        stream.read_exact(&mut heard).unwrap();
        proxy.set(State::Silent);
        stream.write_all(b"two").unwrap();
        stream.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
        assert!(stream.read_exact(&mut heard).is_err(), "nothing passes");
        proxy.set(State::Up);
        stream.set_read_timeout(Some(Duration::from_secs(10))).unwrap();
        stream.read_exact(&mut heard).unwrap();
        assert_eq!(&heard, b"two", "and nothing is lost");
        proxy.set(State::Refusing);
        assert!(matches!(stream.read(&mut heard), Ok(0) | Err(_)), "the connection ends");
        assert_eq!(echoed(&proxy, b"no"), b"", "and there is no new one");
    }
}
