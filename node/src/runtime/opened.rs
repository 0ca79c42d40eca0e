//! Opening for ourselves: plaintexts of records that the engine permitted, checked whole before anything is made
//! of them. They stay in memory and are wiped.

use super::outlines::ALONE_BYTES_MAX;
use super::{Node, Out, cores, lock};
use crate::command::Filter;
use crate::engine::{Answer, Export, Input, Opening};
use crate::failure::{Failure, Kind};
use crate::store::{Blobs, ReadSeek};
use karte_protocol::seal::{self, payload_bytes};
use std::collections::VecDeque;
use std::io::{self, Write};
use std::sync::Mutex;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use tokio::sync::mpsc;
use tokio_util::bytes::Bytes;
use zeroize::Zeroizing;

/// Largest plaintext that is held in memory, in bytes. 32 MiB: the largest single resource an import takes.
pub(super) const HELD_BYTES_MAX: u64 = 32 << 20;
/// Bytes put out at a time. 256 KiB: with less, waking who takes them costs more than moving them.
const PART_BYTES: usize = 256 << 10;
/// Plaintext that is opened before its turn comes, in bytes. 16 MiB: what all cores open while some files are written.
const AHEAD_BYTES_MAX: u64 = 16 << 20;
/// Records that are opened before their turn comes.
const AHEAD_MAX: usize = 64;

impl Node {
    /// Permission to open all that a filter selects; receipts are durable when it returns.
    pub(super) fn open_many(&self, filter: Filter, staff: String) -> Result<Vec<Opening>, Failure> {
        match self.ask_blocking(|ticket| Input::OpenMany(ticket, Box::new(filter), staff))? {
            Answer::Many(openings) => Ok(openings),
            _ => Err(Failure::failed("the engine answered something else")),
        }
    }

    pub(super) fn gather_export(&self, filter: Filter, staff: String) -> Result<Export, Failure> {
        match self.ask_blocking(|ticket| Input::Export(ticket, Box::new(filter), staff))? {
            Answer::Export(export) => Ok(*export),
            _ => Err(Failure::failed("the engine answered something else")),
        }
    }
}

/// A plaintext, or why there is none.
type Opened = Result<Zeroizing<Vec<u8>>, Failure>;

/// The whole plaintext of a record of at most [`HELD_BYTES_MAX`].
pub(super) fn held(blobs: &dyn Blobs, opening: &Opening) -> Opened {
    let got = opening.label.bytes;
    if got > HELD_BYTES_MAX {
        return Err(Failure::failed(format!(
            "record {} is too large for this: expected at most {HELD_BYTES_MAX} bytes, got {got}",
            opening.record.short()
        )));
    }
    let expected = (got, opening.label.hash);
    let most = payload_bytes(got);
    let mut payload = Vec::with_capacity(usize::try_from(most).unwrap_or_default());
    if blobs.read(opening.record.as_bytes(), most, &mut payload)?
        && let Ok(plaintext) = seal::open_held(payload, &opening.file_key, expected)
    {
        return Ok(plaintext);
    }
    // Read once more, with its own hash compared: that tells damage from a false label, and notes it.
    let mut plaintext = Zeroizing::new(Vec::new());
    write(blobs, opening, &mut *plaintext)?;
    Ok(plaintext)
}

/// What `visit` is given of each record: its plaintext, or nothing if it is too long to be held ahead.
pub(super) type Ahead = Option<Zeroizing<Vec<u8>>>;

/// Opens records on all cores, and visits each in its turn. A record longer than 8 MiB is left to `visit`.
pub(super) fn each_opened<'a>(
    blobs: &dyn Blobs,
    openings: impl IntoIterator<Item = &'a Opening>,
    visit: &mut dyn FnMut(&'a Opening, Ahead) -> Result<(), Failure>,
) -> Result<(), Failure> {
    let (jobs, taken) = sync_channel::<Job<'a>>(AHEAD_MAX);
    let taken = Mutex::new(taken);
    std::thread::scope(|scope| {
        for _ in 0..cores::count() {
            scope.spawn(|| open_jobs(blobs, &taken));
        }
        // Dropped at the end of this closure, however it ends: then the threads end too.
        let window =
            Window { jobs, openings: openings.into_iter().peekable(), coming: VecDeque::new(), bytes: 0 };
        window.visit_all(visit)
    })
}

/// A record to open, and who waits for it.
type Job<'a> = (&'a Opening, SyncSender<Opened>);

fn open_jobs(blobs: &dyn Blobs, jobs: &Mutex<Receiver<Job<'_>>>) {
    loop {
        // The guard is let go before opening.
        let next = lock(jobs).recv();
        let Ok((opening, waiting)) = next else { return };
        // Nobody waits after a failure.
        let _ = waiting.send(held(blobs, opening));
    }
}

/// The records that are being opened, in their order.
struct Window<'a, I: Iterator<Item = &'a Opening>> {
    jobs: SyncSender<Job<'a>>,
    openings: std::iter::Peekable<I>,
    coming: VecDeque<(&'a Opening, Option<Receiver<Opened>>)>,
    /// Of their plaintexts.
    bytes: u64,
}

impl<'a, I: Iterator<Item = &'a Opening>> Window<'a, I> {
    fn visit_all(
        mut self,
        visit: &mut dyn FnMut(&'a Opening, Ahead) -> Result<(), Failure>,
    ) -> Result<(), Failure> {
        let ended = || Failure::failed("opening ended badly");
        loop {
            self.fill()?;
            let Some((opening, coming)) = self.coming.pop_front() else { return Ok(()) };
            self.bytes = self.bytes.saturating_sub(ahead_bytes(opening));
            let plaintext =
                coming.map(|coming| coming.recv().map_err(|_| ended())).transpose()?.transpose()?;
            visit(opening, plaintext)?;
        }
    }

    fn fill(&mut self) -> Result<(), Failure> {
        let (count, bytes) = (self.coming.len(), self.bytes);
        let mut room = AHEAD_MAX.saturating_sub(count);
        let mut left = AHEAD_BYTES_MAX.saturating_sub(bytes);
        while room > 0
            && let Some(opening) = self.openings.next_if(|opening| ahead_bytes(opening) <= left)
        {
            room -= 1;
            left -= ahead_bytes(opening);
            self.bytes = self.bytes.saturating_add(ahead_bytes(opening));
            let coming = match opening.label.bytes <= ALONE_BYTES_MAX {
                true => {
                    let (answer, coming) = sync_channel(1);
                    self.jobs.send((opening, answer)).map_err(|_| Failure::failed("opening ended badly"))?;
                    Some(coming)
                }
                false => None,
            };
            self.coming.push_back((opening, coming));
        }
        Ok(())
    }
}

/// What a record takes in memory before its turn comes, in bytes.
fn ahead_bytes(opening: &Opening) -> u64 {
    if opening.label.bytes <= ALONE_BYTES_MAX { opening.label.bytes } else { 0 }
}

/// Writes a plaintext out. A record too large to hold is opened twice: once to check, once to write.
pub(super) fn write_checked(
    blobs: &dyn Blobs,
    opening: &Opening,
    to: &mut impl Write,
) -> Result<(), Failure> {
    if opening.label.bytes <= HELD_BYTES_MAX {
        return to.write_all(&held(blobs, opening)?).map_err(not_written);
    }
    write(blobs, opening, &mut std::io::sink())?;
    write(blobs, opening, to)
}

fn write(blobs: &dyn Blobs, opening: &Opening, to: &mut impl Write) -> Result<(), Failure> {
    let expected = (opening.label.bytes, opening.label.hash);
    Ok(seal::open_checked(payload(blobs, opening)?, &opening.file_key, expected, to)?)
}

pub(super) fn payload(blobs: &dyn Blobs, opening: &Opening) -> Result<Box<dyn ReadSeek + Send>, Failure> {
    blobs.open(opening.record.as_bytes())?.ok_or_else(|| {
        Failure::new(
            Kind::Damaged,
            format!("the payload of record {} is not on the disk", opening.record.short()),
        )
        .next("`karte store repair` asks your contacts for it.")
    })
}

fn not_written(error: io::Error) -> Failure {
    Failure::failed(format!("the record cannot be written out: {error}"))
}

/// Puts bytes out as data of a command.
pub(super) struct Putting<'a>(pub(super) &'a mpsc::Sender<Out>);

impl Putting<'_> {
    /// A plaintext as it is, without copying it; it is wiped when its last part was taken.
    pub(super) fn put(&self, plaintext: Zeroizing<Vec<u8>>) -> Result<(), Failure> {
        let mut left = Bytes::from_owner(plaintext);
        while !left.is_empty() {
            let part = left.split_to(left.len().min(PART_BYTES));
            self.send(part).map_err(not_written)?;
        }
        Ok(())
    }

    fn send(&self, part: Bytes) -> io::Result<()> {
        self.0.blocking_send(Out::Data(part)).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

impl Write for Putting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.chunks(PART_BYTES) {
            self.send(Bytes::copy_from_slice(part))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
#[path = "opened_tests.rs"]
mod tests;
