//! Raw libp2p, to measure Karte against: TCP, Noise and Yamux, one stream, memory to memory.
//!
//! Two processes of ours, so that both sides pay what real ones pay. The side that dials is told over its standard
//! input how many bytes to ask for, one number a line, and says how many seconds it took. Nothing is written to a
//! disk, hashed or decided: what is left is what the transport itself allows on this machine.

use super::process::{Keeper, Process};
use futures::{AsyncReadExt, AsyncWriteExt, StreamExt};
use libp2p::core::transport::PortUse;
use libp2p::core::upgrade::ReadyUpgrade;
use libp2p::core::{Endpoint, Multiaddr};
use libp2p::swarm::handler::{
    ConnectionEvent, ConnectionHandlerEvent, FullyNegotiatedInbound, FullyNegotiatedOutbound,
};
use libp2p::swarm::{
    ConnectionDenied, ConnectionHandler, ConnectionId, FromSwarm, NetworkBehaviour, SubstreamProtocol,
    SwarmEvent, THandlerInEvent, ToSwarm,
};
use libp2p::{PeerId, Stream, StreamProtocol, Swarm, SwarmBuilder, noise, tcp, yamux};
use std::collections::VecDeque;
use std::convert::Infallible;
use std::io::{self, BufRead, BufReader, Write};
use std::path::Path;
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

const PROTOCOL: StreamProtocol = StreamProtocol::new("/karte-testnet/raw/1");
/// Bytes written or read in one go. 256 KiB: one Yamux window at its start.
const CHUNK_BYTES: usize = 256 * 1024;
/// A question for a round trip is answered by as many bytes as a ping of libp2p.
pub(super) const PING_BYTES: u64 = 32;

/// The raw-libp2p command.
#[derive(clap::Args)]
pub struct RawLibp2p {
    /// Dial this address and ask; without it, listen and answer
    #[arg(long)]
    dial: Option<Multiaddr>,
}

/// Is one of the two processes until it is told to end.
pub fn run(args: &RawLibp2p) -> io::Result<bool> {
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        match &args.dial {
            Some(address) => ask_for_ever(address.clone()).await,
            None => answer_for_ever().await,
        }
    })?;
    Ok(true)
}

// --- the two processes

/// Both processes, connected, with one stream between them.
pub(super) struct Pair {
    sender: Process,
    receiver: Process,
    tell: ChildStdin,
    told: BufReader<ChildStdout>,
}

impl Pair {
    /// Starts both; `testnet` is this program.
    pub(super) fn start(keeper: &Keeper, testnet: &Path) -> io::Result<Self> {
        let command = || {
            let mut command = Command::new(testnet);
            command.arg("raw-libp2p").stdout(Stdio::piped());
            command
        };
        let mut sender = keeper.start(command().stdin(Stdio::null()))?;
        let address = line(&mut BufReader::new(sender.take_stdout()?))?;
        let mut receiver = keeper.start(command().args(["--dial", &address]).stdin(Stdio::piped()))?;
        let (tell, told) = (receiver.take_stdin()?, BufReader::new(receiver.take_stdout()?));
        let mut pair = Self { sender, receiver, tell, told };
        pair.ask(PING_BYTES)?;
        Ok(pair)
    }

    pub(super) fn pids(&self) -> [(&'static str, u32); 2] {
        [("sender", self.sender.pid()), ("receiver", self.receiver.pid())]
    }

    /// Asks for so many bytes; from the question until the last of them was there.
    pub(super) fn ask(&mut self, bytes: u64) -> io::Result<Duration> {
        writeln!(self.tell, "{bytes}")?;
        let said = line(&mut self.told)?;
        let seconds = said.parse::<f64>().ok().filter(|seconds| seconds.is_finite() && *seconds >= 0.0);
        let wrong = || io::Error::other(format!("expected seconds, got {said:?}: {}", self.receiver.said()));
        seconds.map(Duration::from_secs_f64).ok_or_else(wrong)
    }
}

fn line(from: &mut impl BufRead) -> io::Result<String> {
    let mut line = String::new();
    match from.read_line(&mut line)? {
        0 => Err(io::Error::new(io::ErrorKind::UnexpectedEof, "raw libp2p ended")),
        _ => Ok(line.trim().to_owned()),
    }
}

// --- what they do

async fn answer_for_ever() -> io::Result<()> {
    let mut swarm = swarm(false)?;
    swarm.listen_on("/ip4/127.0.0.1/tcp/0".parse().map_err(io::Error::other)?).map_err(io::Error::other)?;
    loop {
        match swarm.select_next_some().await {
            SwarmEvent::NewListenAddr { address, .. } => {
                println!("{address}/p2p/{}", swarm.local_peer_id());
            }
            SwarmEvent::Behaviour(stream) => drop(tokio::spawn(answer(stream))),
            _ => {}
        }
    }
}

async fn answer(mut stream: Stream) -> io::Result<()> {
    let chunk = vec![0x5a; CHUNK_BYTES];
    loop {
        let mut asked = [0; 8];
        stream.read_exact(&mut asked).await?;
        let mut left = u64::from_be_bytes(asked);
        while left > 0 {
            let part = chunk.get(..part_of(left)).unwrap_or_default();
            stream.write_all(part).await?;
            left -= part.len() as u64;
        }
        stream.flush().await?;
    }
}

async fn ask_for_ever(address: Multiaddr) -> io::Result<()> {
    let mut swarm = swarm(true)?;
    swarm.dial(address).map_err(io::Error::other)?;
    let mut stream = loop {
        match swarm.select_next_some().await {
            SwarmEvent::Behaviour(stream) => break stream,
            SwarmEvent::OutgoingConnectionError { error, .. } => return Err(io::Error::other(error)),
            _ => {}
        }
    };
    let driven = tokio::spawn(async move {
        loop {
            swarm.select_next_some().await;
        }
    });
    let (numbers, mut asked) = tokio::sync::mpsc::channel::<u64>(1);
    std::thread::spawn(move || {
        let lines = io::stdin().lock().lines().map_while(Result::ok);
        lines.map_while(|line| line.trim().parse().ok()).try_for_each(|number| numbers.blocking_send(number))
    });
    let mut chunk = vec![0; CHUNK_BYTES];
    while let Some(bytes) = asked.recv().await {
        let begun = Instant::now();
        ask(&mut stream, bytes, &mut chunk).await?;
        println!("{}", begun.elapsed().as_secs_f64());
    }
    driven.abort();
    Ok(())
}

async fn ask(stream: &mut Stream, bytes: u64, chunk: &mut [u8]) -> io::Result<()> {
    stream.write_all(&bytes.to_be_bytes()).await?;
    stream.flush().await?;
    let mut left = bytes;
    while left > 0 {
        let part = chunk.get_mut(..part_of(left)).unwrap_or_default();
        let read = stream.read(part).await?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        left -= read as u64;
    }
    Ok(())
}

fn part_of(left: u64) -> usize {
    usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES)
}

fn swarm(opens: bool) -> io::Result<Swarm<Raw>> {
    let builder = SwarmBuilder::with_new_identity()
        .with_tokio()
        .with_tcp(tcp::Config::new().nodelay(true), noise::Config::new, yamux::Config::default)
        .map_err(io::Error::other)?;
    let builder =
        builder.with_behaviour(|_| Raw { opens, streams: VecDeque::new() }).map_err(io::Error::other)?;
    Ok(builder.build())
}

// --- the behaviour: one stream a connection

/// Opens one stream on each connection, if it dials, and hands over whatever streams there are.
struct Raw {
    opens: bool,
    streams: VecDeque<Stream>,
}

impl NetworkBehaviour for Raw {
    type ConnectionHandler = Handler;
    type ToSwarm = Stream;

    fn handle_established_inbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: &Multiaddr,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler { opens: self.opens, streams: VecDeque::new() })
    }

    fn handle_established_outbound_connection(
        &mut self,
        _: ConnectionId,
        _: PeerId,
        _: &Multiaddr,
        _: Endpoint,
        _: PortUse,
    ) -> Result<Handler, ConnectionDenied> {
        Ok(Handler { opens: self.opens, streams: VecDeque::new() })
    }

    fn on_swarm_event(&mut self, _: FromSwarm<'_>) {}

    fn on_connection_handler_event(&mut self, _: PeerId, _: ConnectionId, stream: Stream) {
        self.streams.push_back(stream);
    }

    fn poll(&mut self, _: &mut Context<'_>) -> Poll<ToSwarm<Stream, THandlerInEvent<Self>>> {
        self.streams.pop_front().map_or(Poll::Pending, |stream| Poll::Ready(ToSwarm::GenerateEvent(stream)))
    }
}

struct Handler {
    opens: bool,
    streams: VecDeque<Stream>,
}

impl ConnectionHandler for Handler {
    type FromBehaviour = Infallible;
    type ToBehaviour = Stream;
    type InboundProtocol = ReadyUpgrade<StreamProtocol>;
    type OutboundProtocol = ReadyUpgrade<StreamProtocol>;
    type InboundOpenInfo = ();
    type OutboundOpenInfo = ();

    fn listen_protocol(&self) -> SubstreamProtocol<Self::InboundProtocol> {
        SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ())
    }

    fn connection_keep_alive(&self) -> bool {
        true
    }

    fn on_behaviour_event(&mut self, never: Infallible) {
        match never {}
    }

    fn poll(
        &mut self,
        _: &mut Context<'_>,
    ) -> Poll<ConnectionHandlerEvent<Self::OutboundProtocol, (), Stream>> {
        if let Some(stream) = self.streams.pop_front() {
            return Poll::Ready(ConnectionHandlerEvent::NotifyBehaviour(stream));
        }
        if std::mem::take(&mut self.opens) {
            let protocol = SubstreamProtocol::new(ReadyUpgrade::new(PROTOCOL), ());
            return Poll::Ready(ConnectionHandlerEvent::OutboundSubstreamRequest { protocol });
        }
        Poll::Pending
    }

    fn on_connection_event(
        &mut self,
        event: ConnectionEvent<'_, Self::InboundProtocol, Self::OutboundProtocol, (), ()>,
    ) {
        match event {
            ConnectionEvent::FullyNegotiatedInbound(FullyNegotiatedInbound { protocol, .. })
            | ConnectionEvent::FullyNegotiatedOutbound(FullyNegotiatedOutbound { protocol, .. }) => {
                self.streams.push_back(protocol);
            }
            _ => {}
        }
    }
}
