//! How much was read from disk, and how much it unpacked to.
//!
//! For: progress in bytes of the disk, whatever is read, and the bounds that make an archive harmless. Not for:
//! trusting what an archive says of itself; only bytes that really came out count.

use std::cell::{Cell, RefCell};
use std::io::{self, Read, Seek, SeekFrom};
use std::rc::Rc;

use super::error::ImportError;

/// Most bytes that may come out for one that went in. 200: the XML of a phone's export packs 20 to 40 times, an
/// empty CT slice 150 times, a bomb 1,000 times.
const RATIO_MAX: u64 = 200;

/// What may come out before the ratio is asked, in bytes. 8 MiB: small archives of zeros harm nobody.
const RATIO_FREE_BYTES: u64 = 8 * 1024 * 1024;

/// Most bytes that may come out of one archive. 256 GiB: ten times the largest year of CT studies in one file;
/// nothing of it is kept in memory or written unsealed.
const UNPACKED_BYTES_MAX: u64 = 256 * 1024 * 1024 * 1024;

/// Bytes read from the file on disk that is being imported; its clones count together.
#[derive(Debug, Clone, Default)]
pub(super) struct Counter(Rc<Cell<u64>>);

impl Counter {
    pub(super) fn get(&self) -> u64 {
        self.0.get()
    }

    /// From here on a new file is counted.
    pub(super) fn reset(&self) {
        self.0.set(0);
    }

    fn add(&self, bytes: usize) {
        self.0.set(self.0.get().saturating_add(bytes as u64));
    }
}

/// Counts what is read through it.
#[derive(Debug)]
pub(super) struct Counting<R> {
    inner: R,
    read: Counter,
}

impl<R> Counting<R> {
    pub(super) fn new(inner: R, read: &Counter) -> Self {
        Self { inner, read: read.clone() }
    }
}

impl<R: Read> Read for Counting<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.read.add(read);
        Ok(read)
    }
}

impl<R: Seek> Seek for Counting<R> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.inner.seek(to)
    }
}

/// What one archive unpacked to so far.
pub(super) struct Meter {
    packed: Counter,
    unpacked: Cell<u64>,
    fault: RefCell<Option<ImportError>>,
}

impl Meter {
    pub(super) fn new(packed: &Counter) -> Self {
        Self { packed: packed.clone(), unpacked: Cell::new(0), fault: RefCell::new(None) }
    }

    pub(super) fn packed(&self) -> &Counter {
        &self.packed
    }

    /// The bound that was passed, if one was: nothing more of this archive may be unpacked.
    pub(super) fn fault(&self) -> Option<ImportError> {
        self.fault.borrow().clone()
    }

    fn count(&self, bytes: usize) -> Result<(), ImportError> {
        let unpacked = self.unpacked.get().saturating_add(bytes as u64);
        self.unpacked.set(unpacked);
        let fault = if unpacked > UNPACKED_BYTES_MAX {
            ImportError::UnpacksTooFar { max: UNPACKED_BYTES_MAX }
        } else if unpacked > RATIO_FREE_BYTES && unpacked / RATIO_MAX > self.packed.get() {
            ImportError::RatioTooHigh { max: RATIO_MAX }
        } else {
            return Ok(());
        };
        *self.fault.borrow_mut() = Some(fault.clone());
        Err(fault)
    }
}

/// Counts what comes out of an archive, and fails once it is too much.
pub(super) struct Metered<'m, R> {
    inner: R,
    meter: &'m Meter,
}

impl<'m, R> Metered<'m, R> {
    pub(super) fn new(inner: R, meter: &'m Meter) -> Self {
        Self { inner, meter }
    }
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.inner.read(buffer)?;
        self.meter.count(read).map_err(io::Error::other)?;
        Ok(read)
    }
}
