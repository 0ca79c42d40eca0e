//! Opening for ourselves: plaintexts of records that the engine permitted, checked whole before anything is made
//! of them. They stay in memory and are wiped.

use super::{Node, Out};
use crate::command::Filter;
use crate::engine::{Answer, Export, Input, Opening};
use crate::failure::{Failure, Kind};
use crate::store::{Blobs, ReadSeek};
use karte_protocol::seal;
use std::io::{self, Write};
use tokio::sync::mpsc;
use zeroize::Zeroizing;

/// Largest plaintext that is held in memory, in bytes. 32 MiB: the largest single resource an import takes.
pub(super) const HELD_BYTES_MAX: u64 = 32 << 20;
/// Bytes put out at a time.
const PART_BYTES: usize = 64 * 1024;

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

/// The whole plaintext of a record of at most [`HELD_BYTES_MAX`].
pub(super) fn held(blobs: &dyn Blobs, opening: &Opening) -> Result<Zeroizing<Vec<u8>>, Failure> {
    let got = opening.label.bytes;
    if got > HELD_BYTES_MAX {
        return Err(Failure::failed(format!(
            "record {} is too large for this: expected at most {HELD_BYTES_MAX} bytes, got {got}",
            opening.record.short()
        )));
    }
    let mut plaintext = Zeroizing::new(Vec::new());
    write(blobs, opening, &mut *plaintext)?;
    Ok(plaintext)
}

/// Writes a plaintext out. A record too large to hold is opened twice: once to check, once to write.
pub(super) fn write_checked(
    blobs: &dyn Blobs,
    opening: &Opening,
    to: &mut impl Write,
) -> Result<(), Failure> {
    if opening.label.bytes <= HELD_BYTES_MAX {
        let plaintext = held(blobs, opening)?;
        return to
            .write_all(&plaintext)
            .map_err(|error| Failure::failed(format!("the record cannot be written out: {error}")));
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

/// Puts bytes out as data of a command.
pub(super) struct Putting<'a>(pub(super) &'a mpsc::Sender<Out>);

impl Write for Putting<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        for part in bytes.chunks(PART_BYTES) {
            self.0
                .blocking_send(Out::Data(part.to_vec()))
                .map_err(|_| io::Error::from(io::ErrorKind::BrokenPipe))?;
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
