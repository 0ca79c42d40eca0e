//! Zip archives, read by their directory at the end.
//!
//! For: entries one after another; the directory is read entry by entry too, so its size costs no memory. Not for:
//! files that only are zip inside (letters, books, programs): those are one document.

use std::fs::File;
use std::io::{BufReader, Read, Seek};
use std::ops::ControlFlow;

use zip::read::{Config, ZipFileEntry};
use zip::unstable::read::ZipIterable;
use zip::{CompressionMethod, ZipReadOptions};

use super::{damaged, is_junk};
use crate::import::error::ImportError;
use crate::import::item::{Item, origin};
use crate::import::meter::{Counting, Meter, Metered};
use crate::import::walk::{Step, Visit};

pub(super) fn walk(
    item: Item<'_>,
    entries_max: usize,
    meter: &Meter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let zip = item.path().ok_or(ImportError::ArchiveInArchive).and_then(|path| Ok(File::open(path)?));
    let zip = zip.and_then(|file| open(file, meter));
    let mut zip = match zip {
        Ok(zip) => zip,
        Err(reason) => return visit(Step::Refused(item.origin, reason)),
    };
    match survey(&mut zip, entries_max) {
        Ok(Holds::Entries) => entries(&mut zip, &item.origin, meter, visit),
        Ok(Holds::OneDocument) => visit(Step::Item(item)),
        Err(reason) => visit(Step::Refused(item.origin, reason)),
    }
}

fn open<S: Read + Seek>(source: S, meter: &Meter) -> Result<ZipIterable<impl Read + Seek>, ImportError> {
    let source = BufReader::new(Counting::new(source, meter.packed()));
    ZipIterable::try_new(source, Config::default()).map_err(damaged)
}

/// What an archive is as a whole.
enum Holds {
    Entries,
    OneDocument,
}

/// Looks at every entry of the directory before the first is unpacked. No byte of the archive may belong to two
/// entries: that is how a small file becomes a large one without a high ratio (D. Fifield, "A better zip bomb").
fn survey(zip: &mut ZipIterable<impl Read + Seek>, entries_max: usize) -> Result<Holds, ImportError> {
    if zip.is_empty() {
        return Err(ImportError::ArchiveEmpty);
    }
    if zip.len() > entries_max {
        return Err(ImportError::TooManyEntries { max: entries_max });
    }
    let mut ranges = Vec::new();
    // A directory that is damaged further on is told when its entries are read.
    for entry in zip.files().map_err(damaged)?.map_while(Result::ok) {
        if marks_document(entry.name_raw()) {
            return Ok(Holds::OneDocument);
        }
        let start = entry.header_start();
        let end = start.saturating_add(LOCAL_HEADER_BYTES).saturating_add(entry.compressed_size());
        ranges.push((start, end));
    }
    ranges.sort_unstable();
    let overlap = ranges.windows(2).any(|pair| matches!(pair, [(_, end), (start, _)] if end > start));
    if overlap { Err(ImportError::EntriesOverlap) } else { Ok(Holds::Entries) }
}

/// Shortest local header, in bytes (APPNOTE 4.3.7).
const LOCAL_HEADER_BYTES: u64 = 30;

/// Office Open XML, OpenDocument and EPUB, and Java programs, by the entry each of them must have.
fn marks_document(name: &[u8]) -> bool {
    [b"[Content_Types].xml".as_slice(), b"mimetype", b"META-INF/MANIFEST.MF"].contains(&name)
}

fn entries(
    zip: &mut ZipIterable<impl Read + Seek>,
    archive: &str,
    meter: &Meter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let files = match zip.files() {
        Ok(files) => files,
        Err(error) => return visit(Step::Refused(archive.to_owned(), damaged(error))),
    };
    while let Some(entry) = files.next() {
        match entry {
            Ok(entry) => one(entry, archive, files.reader_mut(), meter, visit)?,
            Err(error) => visit(Step::Refused(archive.to_owned(), damaged(error)))?,
        }
        if let Some(fault) = meter.fault() {
            return visit(Step::Refused(archive.to_owned(), fault));
        }
    }
    ControlFlow::Continue(())
}

fn one(
    entry: ZipFileEntry<'static>,
    archive: &str,
    source: &mut (impl Read + Seek),
    meter: &Meter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let name = entry.name().map_or_else(|_| lossy(entry.name_raw()), |name| name.into_owned());
    if entry.is_dir() {
        return ControlFlow::Continue(());
    }
    if is_junk(&name) {
        return visit(Step::JunkSkipped);
    }
    if entry.is_symlink() {
        return visit(Step::LinkSkipped);
    }
    match opened(entry, archive, &name, source, meter) {
        Ok(item) => visit(Step::Item(item)),
        Err(reason) => visit(Step::Refused(origin(archive, &name), reason)),
    }
}

fn opened<'a>(
    entry: ZipFileEntry<'static>,
    archive: &str,
    name: &str,
    source: &'a mut (impl Read + Seek),
    meter: &'a Meter,
) -> Result<Item<'a>, ImportError> {
    if entry.encrypted() {
        return Err(ImportError::Encrypted);
    }
    if !matches!(entry.compression(), CompressionMethod::Stored | CompressionMethod::Deflated) {
        return Err(ImportError::PackedOtherwise { got: entry.compression().to_string() });
    }
    let length = entry.size();
    let reader = entry.with_reader(source, ZipReadOptions::new()).map_err(damaged)?;
    Item::entry(archive, name, Some(length), Box::new(Metered::new(reader, meter)))
}

fn lossy(name: &[u8]) -> String {
    String::from_utf8_lossy(name).into_owned()
}
