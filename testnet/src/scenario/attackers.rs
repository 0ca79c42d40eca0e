//! Peers that mean harm, over real sockets: silent ones, dripping ones, ones that talk garbage, and strangers who
//! finish the handshake and open as many streams as they are let.
//!
//! For: as much trouble as one machine can make, in bounded memory of its own. Not for: messages of Karte that are
//! wrong inside; `tests/hostile.rs` sends those.

use futures::future::poll_fn;
use futures::io::AsyncWrite;
use libp2p::core::muxing::{StreamMuxerBox, StreamMuxerExt, SubstreamBox};
use libp2p::core::transport::{DialOpts, PortUse, Transport};
use libp2p::core::{Endpoint, upgrade};
use libp2p::identity::Keypair;
use libp2p::{Multiaddr, noise, tcp, yamux};
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::thread::JoinHandle;
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::Semaphore;

/// Streams that a stranger tries to open: twice what a connection has room for.
const STREAMS: usize = 512;
/// Connections that are being made at once: above what the daemon takes, below what its backlog loses.
const DIALS: usize = 128;
/// How often a stranger goes on when nothing moves.
const NUDGE: Duration = Duration::from_millis(200);
/// How long one waits that was refused or ended, before it comes again: 800 connections a second from a crowd of 8,000.
const AGAIN: Duration = Duration::from_secs(10);
/// Pause of one that drips, between two bytes.
const DRIP: Duration = Duration::from_secs(1);
/// What opens a stream (multistream-select), and a protocol that there is; then the length of a request, the largest
/// that is allowed.
const OPENING: &[u8] = b"\x13/multistream/1.0.0\n\x11/karte/control/1\n\x00\x10\x00\x00";
/// Bytes of a stream that are sent: all of the request but its end, so that it is held until somebody loses patience.
const SENT_MAX: usize = 1 << 20;

/// What hostile peers have got so far.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Connections begun, and of them refused or ended by the daemon.
    pub(super) begun: AtomicU64,
    pub(super) ended: AtomicU64,
    /// Strangers who finished the handshake, and streams they were let open.
    pub(super) strangers: AtomicU64,
    pub(super) streams: AtomicU64,
}

/// The crowd, on a thread of its own. Dropped, it goes away.
pub(super) struct Crowd {
    pub(super) tally: Arc<Tally>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Crowd {
    /// `count` hostile peers, at most `open_max` of them connected at once. Who is refused or ended comes again.
    pub(super) fn start(target: SocketAddr, count: u32, open_max: usize) -> io::Result<Self> {
        let (tally, over) = (Arc::new(Tally::default()), Arc::new(AtomicBool::new(false)));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (told, ends) = (tally.clone(), over.clone());
        let thread = std::thread::Builder::new()
            .name("crowd".into())
            .spawn(move || runtime.block_on(attack(target, count, open_max, told, ends)))?;
        Ok(Self { tally, over, thread: Some(thread) })
    }
}

impl Drop for Crowd {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

async fn attack(target: SocketAddr, count: u32, open_max: usize, tally: Arc<Tally>, over: Arc<AtomicBool>) {
    let (open, dials) = (Arc::new(Semaphore::new(open_max)), Arc::new(Semaphore::new(DIALS)));
    for number in 0..count {
        let (open, dials, tally) = (open.clone(), dials.clone(), tally.clone());
        drop(tokio::spawn(async move {
            loop {
                let Ok(_place) = open.acquire().await else { return };
                let Ok(dial) = dials.clone().acquire_owned().await else { return };
                tally.begun.fetch_add(1, Ordering::Relaxed);
                // However it ends, the daemon ended it.
                let _ = one(number, target, dial, &tally).await;
                tally.ended.fetch_add(1, Ordering::Relaxed);
                tokio::time::sleep(AGAIN).await;
            }
        }));
    }
    while !over.load(Ordering::Relaxed) {
        tokio::time::sleep(NUDGE).await;
    }
}

/// One hostile peer, until the daemon ends its connection.
async fn one(
    number: u32,
    target: SocketAddr,
    dial: tokio::sync::OwnedSemaphorePermit,
    tally: &Tally,
) -> io::Result<()> {
    match number % 4 {
        0 => silent(TcpStream::connect(target).await?, dial).await,
        1 => garbage(TcpStream::connect(target).await?, dial, number).await,
        2 => dripping(TcpStream::connect(target).await?, dial).await,
        _ => flood(stranger(target).await?, dial, tally).await,
    }
}

async fn silent(mut stream: TcpStream, dial: tokio::sync::OwnedSemaphorePermit) -> io::Result<()> {
    drop(dial);
    until_ended(&mut stream).await
}

async fn garbage(
    mut stream: TcpStream,
    dial: tokio::sync::OwnedSemaphorePermit,
    number: u32,
) -> io::Result<()> {
    drop(dial);
    let mut dice = crate::faults::dice::Dice::new("garbage", &[u64::from(number)]);
    stream.write_all(&dice.bytes(4096)).await?;
    until_ended(&mut stream).await
}

/// Says what is right, a byte a second.
async fn dripping(mut stream: TcpStream, dial: tokio::sync::OwnedSemaphorePermit) -> io::Result<()> {
    drop(dial);
    for byte in OPENING.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        tokio::time::sleep(DRIP).await;
    }
    Ok(())
}

async fn until_ended(stream: &mut TcpStream) -> io::Result<()> {
    let mut heard = [0; 256];
    while stream.read(&mut heard).await? > 0 {}
    Ok(())
}

/// A connection of a peer that nobody knows, after the handshake.
async fn stranger(target: SocketAddr) -> io::Result<StreamMuxerBox> {
    let key = Keypair::generate_ed25519();
    let mut transport = tcp::tokio::Transport::new(tcp::Config::new())
        .upgrade(upgrade::Version::V1)
        .authenticate(noise::Config::new(&key).map_err(io::Error::other)?)
        .multiplex(yamux::Config::default())
        .boxed();
    let address: Multiaddr = super::node::tcp(target).parse().map_err(io::Error::other)?;
    let options = DialOpts { role: Endpoint::Dialer, port_use: PortUse::New };
    let dialled = transport.dial(address, options).map_err(io::Error::other)?.await;
    dialled.map(|(_, muxer)| muxer).map_err(io::Error::other)
}

/// Opens all the streams it can and fills each as far as the daemon lets it.
async fn flood(
    mut muxer: StreamMuxerBox,
    dial: tokio::sync::OwnedSemaphorePermit,
    tally: &Tally,
) -> io::Result<()> {
    drop(dial);
    tally.strangers.fetch_add(1, Ordering::Relaxed);
    let mut streams: Vec<(SubstreamBox, usize)> = Vec::new();
    loop {
        let moved = poll_fn(|context| Poll::Ready(step(&mut muxer, &mut streams, tally, context)));
        moved.await?;
        // Whoever polls again and again needs no waking.
        tokio::time::sleep(NUDGE / 4).await;
    }
}

/// One look at a connection: it goes on, a stream more is open, and every stream takes what it can.
fn step(
    muxer: &mut StreamMuxerBox,
    streams: &mut Vec<(SubstreamBox, usize)>,
    tally: &Tally,
    context: &mut Context<'_>,
) -> io::Result<()> {
    while let Poll::Ready(event) = muxer.poll_unpin(context) {
        event?;
    }
    while streams.len() < STREAMS {
        let Poll::Ready(opened) = muxer.poll_outbound_unpin(context) else { break };
        streams.push((opened?, 0));
        tally.streams.fetch_add(1, Ordering::Relaxed);
    }
    for (stream, written) in streams.iter_mut() {
        fill(stream, written, context);
    }
    Ok(())
}

/// Writes the opening, then zeros until a little is missing. One that the daemon has reset takes nothing more.
fn fill(stream: &mut SubstreamBox, written: &mut usize, context: &mut Context<'_>) {
    const ZEROS: [u8; 16 << 10] = [0; 16 << 10];
    while *written < SENT_MAX {
        let zeros = ZEROS.get(..SENT_MAX - *written).unwrap_or(&ZEROS);
        let rest = OPENING.get(*written..).filter(|rest| !rest.is_empty()).unwrap_or(zeros);
        match Pin::new(&mut *stream).poll_write(context, rest) {
            Poll::Ready(Ok(count)) if count > 0 => *written += count,
            _ => break,
        }
    }
    // What is in the way now is in the way at the next look too.
    let _ = Pin::new(stream).poll_flush(context);
}
