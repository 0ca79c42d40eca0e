//! Tar archives, read from front to back.
//!
//! For: plain entries. Links and devices are counted, folders passed; nothing is made from any of them. A tar has
//! no checksums over its data: what comes out is what was in it.

use std::cell::Cell;
use std::io::{self, Read};
use std::ops::ControlFlow;
use std::rc::Rc;

use tar::{Archive, Entry};

use super::{damaged, is_junk};
use crate::import::error::ImportError;
use crate::import::item::{Item, origin};
use crate::import::meter::Meter;
use crate::import::walk::{Step, Visit};

/// Most bytes between two entries: headers, long names, extended attributes. 1 MiB: the tar reader holds them, and
/// names have 4 KiB at most.
const BETWEEN_BYTES_MAX: u64 = 1024 * 1024;

pub(super) fn walk(
    reader: impl Read,
    archive: &str,
    entries_max: usize,
    meter: &Meter,
    visit: &mut Visit<'_>,
) -> ControlFlow<()> {
    let allowed = Allowance::default();
    let mut tar = Archive::new(Allowed { inner: reader, allowed: allowed.clone() });
    let mut entries = match tar.entries() {
        Ok(entries) => entries,
        Err(error) => return visit(Step::Refused(archive.to_owned(), fault(error))),
    };
    for count in 0_usize.. {
        allowed.set(Some(BETWEEN_BYTES_MAX));
        let Some(entry) = entries.next() else { break };
        allowed.set(None);
        match entry {
            _ if count == entries_max => {
                return visit(Step::Refused(
                    archive.to_owned(),
                    ImportError::TooManyEntries { max: entries_max },
                ));
            }
            Ok(entry) => one(entry, archive, visit)?,
            // Without a header nothing says where the next one is.
            Err(error) => return visit(Step::Refused(archive.to_owned(), fault(error))),
        }
        if let Some(fault) = meter.fault() {
            return visit(Step::Refused(archive.to_owned(), fault));
        }
    }
    ControlFlow::Continue(())
}

fn one<R: Read>(mut entry: Entry<'_, R>, archive: &str, visit: &mut Visit<'_>) -> ControlFlow<()> {
    let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
    let kind = entry.header().entry_type();
    let step = match () {
        () if kind.is_dir() || kind.is_pax_global_extensions() => None,
        () if is_junk(&name) => Some(Step::JunkSkipped),
        () if kind.is_gnu_sparse() => Some(Step::Refused(origin(archive, &name), ImportError::Sparse)),
        () if !kind.is_file() && !kind.is_contiguous() => Some(Step::LinkSkipped),
        () => {
            let length = entry.size();
            Some(match Item::entry(archive, &name, Some(length), Box::new(Whole::new(&mut entry, length))) {
                Ok(item) => Step::Item(item),
                Err(reason) => Step::Refused(origin(archive, &name), reason),
            })
        }
    };
    step.map_or(ControlFlow::Continue(()), &mut *visit)?;
    // What nobody read is passed here, where it is not counted as a header. A fault is met again by the next one.
    let _fault = io::copy(&mut entry, &mut io::sink());
    ControlFlow::Continue(())
}

fn fault(error: io::Error) -> ImportError {
    match ImportError::from(error) {
        ImportError::Unreadable { got } => damaged(got),
        named => named,
    }
}

/// Fails where the data ends before its declared length: the tar reader only stops there.
struct Whole<R> {
    inner: R,
    length: u64,
    got: u64,
}

impl<R> Whole<R> {
    fn new(inner: R, length: u64) -> Self {
        Self { inner, length, got: 0 }
    }
}

impl<R: Read> Read for Whole<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.got += read as u64;
        if read == 0 && !buffer.is_empty() && self.got < self.length {
            let cut = ImportError::EntryCutShort { expected: self.length, got: self.got };
            return Err(io::Error::other(cut));
        }
        Ok(read)
    }
}

/// How many bytes may be read; `None` while an entry is read, which is bounded elsewhere.
type Allowance = Rc<Cell<Option<u64>>>;

struct Allowed<R> {
    inner: R,
    allowed: Allowance,
}

impl<R: Read> Read for Allowed<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Some(left) = self.allowed.get() else {
            return self.inner.read(buffer);
        };
        if left == 0 {
            return Err(io::Error::other("more than 1 MiB between two entries"));
        }
        let room = usize::try_from(left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.inner.read(buffer.get_mut(..room).unwrap_or_default())?;
        self.allowed.set(Some(left.saturating_sub(read as u64)));
        Ok(read)
    }
}
