//! Bodies of control messages on the wire: `u32 big-endian length || bytes`, then the end of the stream.
//!
//! For: bounded bytes in, bounded bytes out; leftover bytes are an error. Not for: what the bytes mean.

use std::io;
use std::sync::Arc;

use futures::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use libp2p::StreamProtocol;
use libp2p::request_response::Codec;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Memory set aside before any byte of a body arrived, in bytes. 16 KiB: most bodies are smaller, and a
/// peer that only promises a large one costs us no more.
const FIRST_BYTES: u32 = 16 * 1024;

/// A request, with the part of the memory for all requests that it holds until it is answered.
pub(crate) struct Body {
    pub(crate) bytes: Vec<u8>,
    pub(crate) room: Option<OwnedSemaphorePermit>,
}

impl std::fmt::Debug for Body {
    /// Its length alone: bodies are not printed.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Body({} bytes)", self.bytes.len())
    }
}

/// Reads and writes bodies up to a limit in each direction.
#[derive(Clone)]
pub(crate) struct BodyCodec {
    pub(crate) request_bytes_max: u32,
    pub(crate) response_bytes_max: u32,
    /// Bytes for what is beyond the first of each request, of all peers together.
    pub(crate) room: Arc<Semaphore>,
}

/// Why a body was refused; travels inside an `io::Error`.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error("body has {bytes} bytes, at most {bytes_max} are allowed")]
    TooLarge { bytes: u64, bytes_max: u32 },
    #[error("bytes follow after the end of the body")]
    Leftover,
}

impl From<BodyError> for io::Error {
    fn from(error: BodyError) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

impl Codec for BodyCodec {
    type Protocol = StreamProtocol;
    type Request = Body;
    type Response = Vec<u8>;

    async fn read_request<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Body>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_request(io, self.request_bytes_max, &self.room).await
    }

    async fn read_response<T>(&mut self, _: &StreamProtocol, io: &mut T) -> io::Result<Vec<u8>>
    where
        T: AsyncRead + Unpin + Send,
    {
        read_body(io, self.response_bytes_max).await
    }

    async fn write_request<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Body) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_body(io, &body.bytes, self.request_bytes_max).await
    }

    async fn write_response<T>(&mut self, _: &StreamProtocol, io: &mut T, body: Vec<u8>) -> io::Result<()>
    where
        T: AsyncWrite + Unpin + Send,
    {
        write_body(io, &body, self.response_bytes_max).await
    }
}

/// The length of `body` as it is written in front of it, if it fits.
pub(crate) fn checked_length(body: &[u8], bytes_max: u32) -> Result<u32, BodyError> {
    let too_large = BodyError::TooLarge { bytes: body.len() as u64, bytes_max };
    match u32::try_from(body.len()) {
        Ok(length) if length <= bytes_max => Ok(length),
        _ => Err(too_large),
    }
}

/// Reads a request; waits for room before it reads past the first bytes of a large one.
async fn read_request<T>(io: &mut T, bytes_max: u32, room: &Arc<Semaphore>) -> io::Result<Body>
where
    T: AsyncRead + Unpin + Send,
{
    let length = read_length(io, bytes_max).await?;
    let mut bytes = Vec::new();
    read_up_to(io, &mut bytes, length.min(FIRST_BYTES)).await?;
    let more = length.saturating_sub(FIRST_BYTES);
    let held = match more {
        0 => None,
        more => Some(Arc::clone(room).acquire_many_owned(more).await.map_err(io::Error::other)?),
    };
    read_up_to(io, &mut bytes, more).await?;
    expect_end(io).await?;
    Ok(Body { bytes, room: held })
}

async fn read_body<T>(io: &mut T, bytes_max: u32) -> io::Result<Vec<u8>>
where
    T: AsyncRead + Unpin + Send,
{
    let length = read_length(io, bytes_max).await?;
    let mut body = Vec::new();
    read_up_to(io, &mut body, length).await?;
    expect_end(io).await?;
    Ok(body)
}

async fn read_length<T: AsyncRead + Unpin + Send>(io: &mut T, bytes_max: u32) -> io::Result<u32> {
    let mut header = [0; 4];
    io.read_exact(&mut header).await?;
    let length = u32::from_be_bytes(header);
    if length > bytes_max {
        return Err(BodyError::TooLarge { bytes: u64::from(length), bytes_max }.into());
    }
    Ok(length)
}

/// Reads so many bytes more. Memory follows what really arrives.
async fn read_up_to<T>(io: &mut T, body: &mut Vec<u8>, length: u32) -> io::Result<()>
where
    T: AsyncRead + Unpin + Send,
{
    let wanted = body.len().saturating_add(length as usize);
    body.reserve_exact(length.min(FIRST_BYTES) as usize);
    io.take(u64::from(length)).read_to_end(body).await?;
    if body.len() < wanted { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) }
}

async fn expect_end<T: AsyncRead + Unpin + Send>(io: &mut T) -> io::Result<()> {
    match io.read(&mut [0]).await? {
        0 => Ok(()),
        _ => Err(BodyError::Leftover.into()),
    }
}

async fn write_body<T>(io: &mut T, body: &[u8], bytes_max: u32) -> io::Result<()>
where
    T: AsyncWrite + Unpin + Send,
{
    let length = checked_length(body, bytes_max)?;
    io.write_all(&length.to_be_bytes()).await?;
    io.write_all(body).await?;
    io.flush().await
}

#[cfg(test)]
mod tests {
    use futures::executor::block_on;
    use futures::io::Cursor;

    use super::*;

    fn read(wire: &[u8]) -> io::Result<Vec<u8>> {
        block_on(read_body(&mut Cursor::new(wire), 8))
    }

    #[test]
    fn a_written_body_reads_back() {
        let mut wire = Cursor::new(Vec::new());
        block_on(write_body(&mut wire, b"hello", 8)).expect("five bytes fit in eight");
        assert_eq!(read(wire.get_ref()).expect("own writing is readable"), b"hello");
    }

    #[test]
    fn wrong_bodies_are_refused() {
        let kind = |wire: &[u8]| read(wire).expect_err("must be refused").kind();
        assert_eq!(kind(b"\0\0\0\x09123456789"), io::ErrorKind::InvalidData, "longer than the limit");
        assert_eq!(kind(b"\xff\xff\xff\xff"), io::ErrorKind::InvalidData, "a promise of 4 GiB");
        assert_eq!(kind(b"\0\0\0\x02abc"), io::ErrorKind::InvalidData, "leftover bytes");
        assert_eq!(kind(b"\0\0\0\x02a"), io::ErrorKind::UnexpectedEof, "cut body");
        assert_eq!(kind(b"\0\0"), io::ErrorKind::UnexpectedEof, "cut length");
        assert!(block_on(write_body(&mut Cursor::new(Vec::new()), &[0; 9], 8)).is_err(), "own body too long");
    }

    #[test]
    fn a_large_request_holds_room_and_waits_for_it() {
        let (small, large) = (FIRST_BYTES, FIRST_BYTES + 1000);
        let wire = |length: u32| [length.to_be_bytes().to_vec(), vec![7; length as usize]].concat();
        let room = Arc::new(Semaphore::new(1500));
        let read = |wire: Vec<u8>| {
            let room = Arc::clone(&room);
            async move { read_request(&mut Cursor::new(wire), 1 << 20, &room).await }
        };
        let first = block_on(read(wire(large))).expect("there is room for one");
        assert_eq!(first.bytes.len(), large as usize);
        assert_eq!(room.available_permits(), 500);
        // Dropped while it waits, it gives its place in the queue up.
        assert!(futures::FutureExt::now_or_never(read(wire(large))).is_none(), "the second waits");
        block_on(read(wire(small))).expect("a small one needs none");
        drop(first);
        block_on(read(wire(large))).expect("what was answered makes room");
    }
}
