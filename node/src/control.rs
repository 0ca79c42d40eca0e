//! The control socket: how the own user's commands reach a running daemon.
//!
//! A Unix socket in the home folder, mode 0600, only for the same user. One command a connection: the client
//! sends a frame of JSON, the daemon answers with frames of JSON events and of raw data, until `Done` or `Failed`.
//! Frame: u32 big-endian length, then a tag byte (0 event, 1 data), then the body.

use crate::command::{Command, Event};
use crate::failure::{Failure, Kind};
use crate::runtime::{Node, Out};
use futures::{SinkExt, StreamExt};
use std::path::{Path, PathBuf};
use tokio::io::AsyncWriteExt;
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::mpsc;
use tokio_util::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio_util::codec::{Framed, LengthDelimitedCodec};

const FILE: &str = "control.sock";
/// Largest frame, in bytes. 8 MiB: one list item or 256 KiB of data is far below.
const FRAME_BYTES_MAX: usize = 8 << 20;
/// Longest path of a Unix socket that every system takes, in bytes (`sun_path`).
const PATH_BYTES_MAX: usize = 100;
/// Length and tag.
const HEAD_BYTES: usize = 5;
/// What the client reads at a time, in bytes. 256 KiB: more than a socket holds.
const READ_BYTES: usize = 256 << 10;
const EVENT: u8 = 0;
const DATA: u8 = 1;

/// What the client is handed.
pub trait Sink {
    /// Something happened.
    fn event(&mut self, event: Event);
    /// The next bytes of a data result.
    fn data(&mut self, bytes: &[u8]) -> std::io::Result<()>;
}

/// The path of the socket of a home. A home whose path is too long for a socket keeps it in the runtime folder.
pub fn path(home: &Path) -> PathBuf {
    let inside = home.join(FILE);
    if inside.as_os_str().len() <= PATH_BYTES_MAX {
        return inside;
    }
    let name = blake3::hash(inside.as_os_str().as_encoded_bytes()).to_hex();
    let folder = std::env::var_os("XDG_RUNTIME_DIR").map_or_else(std::env::temp_dir, PathBuf::from);
    folder.join(format!("karte-{}.sock", name.get(..24).unwrap_or_default()))
}

/// Binds the socket. The store's lock is held, so a file that is there is a dead daemon's.
pub(crate) fn bind(home: &Path) -> Result<UnixListener, Failure> {
    use std::os::unix::fs::PermissionsExt;
    let path = path(home);
    let failed = |error: std::io::Error| {
        Failure::failed(format!("the control socket {} cannot be made: {error}", path.display()))
    };
    match std::fs::remove_file(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(failed(error)),
        _ => {}
    }
    let listener = UnixListener::bind(&path).map_err(failed)?;
    std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
    Ok(listener)
}

/// Serves commands until dropped.
pub(crate) async fn serve(listener: UnixListener, node: Node) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => drop(tokio::spawn(serve_one(stream, node.clone()))),
            Err(error) => {
                tracing::warn!(%error, "a control connection was not accepted");
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            }
        }
    }
}

async fn serve_one(stream: UnixStream, node: Node) {
    let own = rustix::process::getuid().as_raw();
    if !stream.peer_cred().is_ok_and(|peer| peer.uid() == own || peer.uid() == 0) {
        return;
    }
    let mut framed = Framed::new(stream, codec());
    let Some(Ok(frame)) = framed.next().await else {
        return;
    };
    let (out, mut outs) = mpsc::channel(64);
    match serde_json::from_slice::<Command>(&frame) {
        Ok(command) => drop(tokio::spawn(async move { node.execute(command, out).await })),
        Err(error) => {
            let failure = Failure::usage(format!("the daemon does not know this command: {error}"))
                .next("Is the daemon of another version? Restart it.");
            drop(out.try_send(Out::Event(Event::Failed(failure))));
        }
    }
    let mut stream = framed.into_inner();
    // When the client goes, `outs` is dropped, and long work sees that nobody listens.
    while let Some(next) = outs.recv().await {
        if put(&mut stream, next).await.is_err() {
            return;
        }
    }
}

/// Writes a frame without copying its body: an export is as fast as its bytes move.
async fn put(stream: &mut UnixStream, out: Out) -> std::io::Result<()> {
    let (tag, body) = match out {
        Out::Event(event) => (EVENT, Bytes::from(serde_json::to_vec(&event)?)),
        Out::Data(body) => (DATA, body),
    };
    let length = body.len().saturating_add(1);
    let length = u32::try_from(length).ok().filter(|_| length <= FRAME_BYTES_MAX);
    let mut head = BytesMut::with_capacity(HEAD_BYTES);
    head.put_u32(length.ok_or(std::io::ErrorKind::InvalidData)?);
    head.put_u8(tag);
    stream.write_all_buf(&mut head.chain(body)).await
}

fn codec() -> LengthDelimitedCodec {
    LengthDelimitedCodec::builder().max_frame_length(FRAME_BYTES_MAX).new_codec()
}

/// Whether a daemon answers in this home.
pub(crate) async fn connect(home: &Path) -> Option<UnixStream> {
    UnixStream::connect(path(home)).await.ok()
}

/// Runs one command through a daemon.
pub(crate) async fn ask(stream: UnixStream, command: &Command, sink: &mut dyn Sink) -> Result<(), Failure> {
    let mut framed = Framed::with_capacity(stream, codec(), READ_BYTES);
    let lost = |reason: String| -> Failure {
        Failure::new(Kind::Unreachable, format!("the daemon went away: {reason}"))
            .next("Start it again with `karte run`, then repeat the command.")
    };
    let body = serde_json::to_vec(command).map_err(|error| Failure::usage(error.to_string()))?;
    framed.send(Bytes::from(body)).await.map_err(|error: std::io::Error| lost(error.to_string()))?;
    while let Some(frame) = framed.next().await {
        let frame = frame.map_err(|error: std::io::Error| lost(error.to_string()))?;
        if let Some(end) = take(decode(frame.freeze())?, sink) {
            return end;
        }
    }
    Err(lost("it closed the connection".into()))
}

fn decode(frame: Bytes) -> Result<Out, Failure> {
    match frame.split_first() {
        Some((&DATA, _)) => Ok(Out::Data(frame.slice(1..))),
        Some((&EVENT, body)) => serde_json::from_slice(body)
            .map(Out::Event)
            .map_err(|error| Failure::failed(format!("the daemon answered something else: {error}"))),
        _ => Err(Failure::failed("the daemon answered something else")),
    }
}

/// Hands one output to the sink; gives the end of the command, if this was it.
pub(crate) fn take(out: Out, sink: &mut dyn Sink) -> Option<Result<(), Failure>> {
    match out {
        Out::Event(Event::Done) => Some(Ok(())),
        Out::Event(Event::Failed(failure)) => Some(Err(failure)),
        Out::Event(event) => {
            sink.event(event);
            None
        }
        Out::Data(bytes) => match sink.data(&bytes) {
            Ok(()) => None,
            Err(error) => Some(Err(Failure::failed(format!("the output cannot be written: {error}")))),
        },
    }
}
