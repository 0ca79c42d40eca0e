//! Frames on a payload stream: `u32 big-endian length || bytes`, ended by an end mark.
//!
//! For: ordered, bounded frames, and an end that cannot be confused with a cut. Both muxers report a stream
//! whose owner vanished as a plain end of file (yamux for a reset, quinn for a dropped sender), so a clean
//! end is said in a frame of its own. Not for: what the frames hold, nor their encryption at rest.

use std::sync::Arc;

use futures::io::{ReadHalf, WriteHalf};
use futures::{AsyncReadExt, AsyncWriteExt, FutureExt};
use libp2p::Stream;
use tokio::sync::OwnedSemaphorePermit;

use super::NetError;

/// The length that means "no more frames". No frame may be this long.
const END: [u8; 4] = [0xff; 4];
/// The byte an accepting side sends first, so that the opener knows the stream was taken.
const READY: u8 = 1;
/// How long `close` waits for the muxer. 500 ms.
const GOODBYE_MAX: std::time::Duration = std::time::Duration::from_millis(500);
/// How much a frame's buffer grows at a time, in bytes. 64 KiB: memory follows what really arrived.
const GROWTH_BYTES: usize = 64 * 1024;
/// Frames that are held back to travel together, in bytes. 64 KiB: one record of Noise; three frames of a small record
/// would else be three of the muxer and three of the cipher.
const HELD_BYTES_MAX: usize = 64 * 1024;

/// A stream of frames to one peer. Dropping it without `close` shows as `StreamCut` at the other side.
pub struct FrameStream {
    sender: FrameSender,
    receiver: FrameReceiver,
}

/// The sending half.
pub struct FrameSender {
    io: WriteHalf<Stream>,
    frame_bytes_max: u32,
    /// Fed and not yet written.
    held: Vec<u8>,
    /// A write began and did not end (its future was dropped, or it failed).
    torn: bool,
    /// The peer's stream slot, free again when both halves are gone.
    _slot: Arc<OwnedSemaphorePermit>,
}

/// The receiving half.
pub struct FrameReceiver {
    io: ReadHalf<Stream>,
    frame_bytes_max: u32,
    header: [u8; 4],
    header_filled: usize,
    body: Vec<u8>,
    body_filled: usize,
    ended: bool,
    _slot: Arc<OwnedSemaphorePermit>,
}

impl FrameStream {
    pub(crate) fn new(stream: Stream, slot: OwnedSemaphorePermit, frame_bytes_max: u32) -> Self {
        let (read, write) = stream.split();
        let slot = Arc::new(slot);
        Self {
            sender: FrameSender {
                io: write,
                frame_bytes_max,
                held: Vec::new(),
                torn: false,
                _slot: Arc::clone(&slot),
            },
            receiver: FrameReceiver {
                io: read,
                frame_bytes_max,
                header: [0; 4],
                header_filled: 0,
                body: Vec::new(),
                body_filled: 0,
                ended: false,
                _slot: slot,
            },
        }
    }

    /// Waits until the other side took the stream; a peer without room for it ends it instead. Before anything is received.
    pub(super) async fn hear_ready(&mut self) -> Result<(), NetError> {
        let mut byte = [0];
        match self.receiver.io.read_exact(&mut byte).await.map_err(NetError::io) {
            Ok(()) if byte == [READY] => Ok(()),
            Err(NetError::Unsupported) => Err(NetError::Unsupported),
            _ => Err(NetError::StreamRefused),
        }
    }

    /// Takes no larger frames than this from the other side.
    pub fn limit_received(&mut self, frame_bytes_max: u32) {
        self.receiver.frame_bytes_max = frame_bytes_max.min(self.receiver.frame_bytes_max);
    }

    /// See [`FrameSender::send`].
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), NetError> {
        self.sender.send(frame).await
    }

    /// See [`FrameReceiver::recv`].
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, NetError> {
        self.receiver.recv().await
    }

    /// See [`FrameReceiver::recycle`].
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        self.receiver.recycle(buffer);
    }

    /// See [`FrameSender::close`].
    pub async fn close(&mut self) -> Result<(), NetError> {
        self.sender.close().await
    }

    /// Two halves for two tasks; the stream lives until both are dropped.
    pub fn split(self) -> (FrameSender, FrameReceiver) {
        (self.sender, self.receiver)
    }
}

impl FrameSender {
    /// Sends one frame; waits while the peer does not read.
    ///
    /// Dropping this future in the middle of a frame ends the stream: later sends fail with `StreamCut`.
    pub async fn send(&mut self, frame: &[u8]) -> Result<(), NetError> {
        self.feed(frame).await?;
        self.flush().await
    }

    /// Sends one frame, at the latest with the next [`flush`](Self::flush): small ones travel together.
    ///
    /// Dropping this future in the middle of a frame ends the stream, as with `send`.
    pub async fn feed(&mut self, frame: &[u8]) -> Result<(), NetError> {
        let bytes_max = self.frame_bytes_max;
        let length = u32::try_from(frame.len()).ok().filter(|length| *length <= bytes_max);
        let length = length.ok_or(NetError::FrameTooLarge { bytes: frame.len() as u64, bytes_max })?;
        if self.torn {
            return Err(NetError::StreamCut);
        }
        self.held.extend_from_slice(&length.to_be_bytes());
        if self.held.len().saturating_add(frame.len()) <= HELD_BYTES_MAX {
            self.held.extend_from_slice(frame);
            return Ok(());
        }
        self.write(frame).await
    }

    /// Sends what was held back. Dropping this future ends the stream, as with `send`.
    pub async fn flush(&mut self) -> Result<(), NetError> {
        self.write(&[]).await?;
        self.torn = true;
        self.io.flush().await.map_err(NetError::io)?;
        self.torn = false;
        Ok(())
    }

    /// Says that no more frames come: the other side's `recv` then gives `None`. Reading stays possible.
    ///
    /// Dropping this future may show as `StreamCut` at the other side.
    pub async fn close(&mut self) -> Result<(), NetError> {
        self.held.extend_from_slice(&END);
        self.flush().await?;
        self.torn = true;
        // The end mark is out; how long the muxer takes to say goodbye is not worth waiting for (seen: 20 s).
        match tokio::time::timeout(GOODBYE_MAX, self.io.close()).await {
            Ok(closed) => closed.map_err(NetError::io),
            Err(_) => Ok(()),
        }
    }

    /// What is held, and then the rest.
    async fn write(&mut self, rest: &[u8]) -> Result<(), NetError> {
        if self.torn {
            return Err(NetError::StreamCut);
        }
        self.torn = true;
        self.io.write_all(&self.held).await.map_err(NetError::io)?;
        self.held.clear();
        self.io.write_all(rest).await.map_err(NetError::io)?;
        self.torn = false;
        Ok(())
    }
}

impl FrameReceiver {
    /// The next frame; `None` after the peer's `close`; `StreamCut` if the stream ended any other way.
    ///
    /// Dropping this future is safe: bytes already read are kept for the next call.
    pub async fn recv(&mut self) -> Result<Option<Vec<u8>>, NetError> {
        if !self.ended {
            self.fill_header().await?;
            self.ended = self.header == END;
        }
        if self.ended {
            return Ok(None);
        }
        let (length, bytes_max) = (u32::from_be_bytes(self.header), self.frame_bytes_max);
        if length > bytes_max {
            return Err(NetError::FrameTooLarge { bytes: u64::from(length), bytes_max });
        }
        self.fill_body(length as usize).await?;
        self.header_filled = 0;
        self.body_filled = 0;
        self.body.truncate(length as usize);
        Ok(Some(std::mem::take(&mut self.body)))
    }

    /// Gives a frame's buffer back, for the next one. Only between two frames; else it is dropped.
    pub fn recycle(&mut self, buffer: Vec<u8>) {
        if self.body_filled == 0 && buffer.capacity() > self.body.capacity() {
            self.body = buffer;
        }
    }

    async fn fill_header(&mut self) -> Result<(), NetError> {
        while let Some(rest) = self.header.get_mut(self.header_filled..).filter(|rest| !rest.is_empty()) {
            self.header_filled += read_some(&mut self.io, rest).await?;
        }
        Ok(())
    }

    async fn fill_body(&mut self, length: usize) -> Result<(), NetError> {
        while self.body_filled < length {
            let grown = length.min(self.body_filled + GROWTH_BYTES);
            self.body.resize(grown.max(self.body.len()), 0);
            // No further than this frame: a recycled buffer may be longer.
            let end = self.body.len().min(length);
            let rest = self.body.get_mut(self.body_filled..end).unwrap_or_default();
            self.body_filled += read_some(&mut self.io, rest).await?;
        }
        Ok(())
    }
}

/// Tells the opener that its stream was taken. Never waits: a fresh stream has room for one byte, and if
/// this one has not, it is not worth accepting.
pub(crate) fn say_ready(stream: &mut Stream) -> bool {
    matches!(stream.write(&[READY]).now_or_never(), Some(Ok(1)))
}

async fn read_some(io: &mut ReadHalf<Stream>, buffer: &mut [u8]) -> Result<usize, NetError> {
    match io.read(buffer).await {
        Ok(0) => Err(NetError::StreamCut),
        Ok(count) => Ok(count),
        Err(error) => Err(NetError::io(error)),
    }
}
