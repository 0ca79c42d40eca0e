//! NDJSON: one FHIR resource a line, read line by line.
//!
//! For: bulk exports of any size. Not for: JSON that is only laid out in lines.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};
use std::ops::ControlFlow;

use super::error::ImportError;
use super::fhir;
use super::sink::{Place, Sink};
use super::sniff::BOM;

/// How often a long file reports progress, in bytes: 1 MiB, a few times a second.
const PROGRESS_BYTES: u64 = 1024 * 1024;

/// Read every line; a bad one is refused by its number, and the others are read.
pub(super) fn read(mut reader: impl BufRead, origin: &str, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let (mut number, mut unreported) = (0_usize, 0_u64);
    loop {
        number += 1;
        let place = Place::line(origin, number);
        let (line, length) = match next_line(&mut reader, sink.limits.file_bytes_max) {
            Ok(Some(line)) => line,
            Ok(None) => return ControlFlow::Continue(()),
            Err(error) => return sink.refused(&place.origin, error.into()),
        };
        one_line(line, place, number, sink)?;
        unreported += length;
        if unreported >= PROGRESS_BYTES {
            unreported = 0;
            sink.advanced()?;
        }
    }
}

fn one_line(line: Line, place: Place, number: usize, sink: &mut Sink<'_>) -> ControlFlow<()> {
    let Line::Whole(mut bytes) = line else {
        return sink.refused(&place.origin, ImportError::LineTooLong { max: sink.limits.file_bytes_max });
    };
    // The mark belongs to the file, not to its first record.
    if number == 1 && bytes.starts_with(BOM.as_bytes()) {
        bytes.drain(..BOM.len());
    }
    if bytes.trim_ascii().is_empty() {
        return ControlFlow::Continue(());
    }
    match String::from_utf8(bytes) {
        Ok(text) => fhir::read(Cow::Owned(text), place, sink),
        Err(error) => {
            let offset = error.utf8_error().valid_up_to();
            sink.refused(&place.origin, ImportError::NotUtf8 { offset })
        }
    }
}

enum Line {
    /// Without its line end.
    Whole(Vec<u8>),
    TooLong,
}

/// The next line and how far it moved the file on. A longer line than `max` is skipped without being held.
fn next_line(reader: &mut impl BufRead, max: u64) -> io::Result<Option<(Line, u64)>> {
    let mut bytes = Vec::new();
    let read = reader.by_ref().take(max.saturating_add(1)).read_until(b'\n', &mut bytes)? as u64;
    if read == 0 {
        return Ok(None);
    }
    if bytes.pop_if(|last| *last == b'\n').is_some() {
        bytes.pop_if(|last| *last == b'\r');
    } else if read > max {
        let skipped = reader.skip_until(b'\n')? as u64;
        return Ok(Some((Line::TooLong, read + skipped)));
    }
    Ok(Some((Line::Whole(bytes), read)))
}
