//! Archives: zip, tar, and either or one file behind gzip or bzip2; unpacked as a stream, never onto the disk.
//!
//! For: the entries as items, in the archive's own order. Goals: an entry's name is data and never a path; a
//! hostile archive costs bounded memory and time; a damaged one loses what is damaged, by name, and nothing else.
//! Non-goals: archives in archives (each is kept as one document, so no depth can be built), passwords, and
//! guessing at what a directory does not list. Two entries of one name are both read.

mod tar;
#[cfg(test)]
mod tests;
mod zip;

use std::io::Read;
use std::ops::ControlFlow;

use bzip2::read::MultiBzDecoder;
use flate2::read::MultiGzDecoder;

use super::error::ImportError;
use super::facts::clean;
use super::item::{Item, last_part};
use super::meter::{Counter, Meter, Metered};
use super::walk::{Step, Visit};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Packing {
    Zip,
    Tar,
    Gzip,
    Bzip2,
}

/// How a file that starts with `head` is packed.
pub(super) fn packing(head: &[u8]) -> Option<Packing> {
    let starts = |magic: &[u8]| head.starts_with(magic);
    match () {
        // A local header, or the end of an archive without entries.
        () if starts(b"PK\x03\x04") || starts(b"PK\x05\x06") => Some(Packing::Zip),
        () if starts(b"\x1f\x8b\x08") => Some(Packing::Gzip),
        () if starts(b"BZh") && head.get(4..10) == Some(b"\x31\x41\x59\x26\x53\x59") => Some(Packing::Bzip2),
        () if is_tar(head) => Some(Packing::Tar),
        () => None,
    }
}

/// POSIX and GNU tar say so at offset 257 (POSIX.1-1988, ustar).
fn is_tar(head: &[u8]) -> bool {
    head.get(257..262) == Some(b"ustar")
}

/// Visits what lies in `item`, of which at most `entries_max` entries are read.
pub(super) fn walk(
    packing: Packing,
    item: Item<'_>,
    entries_max: usize,
    read: &Counter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let meter = Meter::new(read);
    let origin = item.origin.clone();
    match packing {
        Packing::Zip => zip::walk(item, entries_max, &meter, visit),
        Packing::Tar => tar::walk(Metered::new(item.reader(), &meter), &origin, entries_max, &meter, visit),
        Packing::Gzip => {
            let name = item.name.clone();
            let reader = Metered::new(MultiGzDecoder::new(item.reader()), &meter);
            unwrapped(Box::new(reader), &origin, &name, entries_max, &meter, visit)
        }
        Packing::Bzip2 => {
            let name = item.name.clone();
            let reader = Metered::new(MultiBzDecoder::new(item.reader()), &meter);
            unwrapped(Box::new(reader), &origin, &name, entries_max, &meter, visit)
        }
    }
}

/// What was behind a compression: a tar, or one file.
fn unwrapped<'m>(
    reader: Box<dyn Read + 'm>,
    origin: &str,
    name: &str,
    entries_max: usize,
    meter: &'m Meter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    match Item::entry(origin, inner_name(name), None, reader) {
        Ok(item) if is_tar(item.head()) => tar::walk(item.reader(), origin, entries_max, meter, visit),
        Ok(item) => visit(Step::Item(item)),
        Err(reason) => visit(Step::Refused(origin.to_owned(), reason)),
    }
}

/// `labs.ndjson` for `labs.ndjson.gz`.
fn inner_name(name: &str) -> &str {
    match name.rsplit_once('.') {
        Some((inner, _)) if !inner.is_empty() => inner,
        _ => name,
    }
}

/// What desktops put beside people's files: metadata of macOS, thumbnails of Windows.
pub(super) fn is_junk(name: &str) -> bool {
    let last = last_part(name);
    let hidden = last == ".DS_Store" || last.starts_with("._") || last.eq_ignore_ascii_case("Thumbs.db");
    hidden || name.split(['/', '\\']).any(|part| part == "__MACOSX")
}

/// A message of an archive reader, which may quote a name.
fn damaged(error: impl std::fmt::Display) -> ImportError {
    ImportError::ArchiveDamaged { got: clean(&error.to_string(), 200) }
}
