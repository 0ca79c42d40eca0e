//! A payload on disk as bao-tree wants it: read at an offset.

use crate::store::ReadSeek;
use positioned_io::{ReadAt, Size};
use std::cell::RefCell;
use std::io::{self, SeekFrom};

/// An open payload and its length.
pub(super) struct Payload {
    // Reading moves the cursor, and `ReadAt` reads through a shared reference; one thread owns this.
    file: RefCell<Box<dyn ReadSeek + Send>>,
    bytes: u64,
}

impl Payload {
    pub(super) fn new(file: Box<dyn ReadSeek + Send>, bytes: u64) -> Self {
        Self { file: RefCell::new(file), bytes }
    }

    /// A reader from the beginning.
    pub(super) fn rewound(&self) -> io::Result<impl io::Read + '_> {
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(0))?;
        drop(file);
        Ok(Rewound(self))
    }
}

struct Rewound<'a>(&'a Payload);

impl io::Read for Rewound<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.file.borrow_mut().read(buffer)
    }
}

impl ReadAt for Payload {
    fn read_at(&self, offset: u64, buffer: &mut [u8]) -> io::Result<usize> {
        let mut file = self.file.borrow_mut();
        file.seek(SeekFrom::Start(offset))?;
        file.read(buffer)
    }
}

impl Size for Payload {
    fn size(&self) -> io::Result<Option<u64>> {
        Ok(Some(self.bytes))
    }
}
