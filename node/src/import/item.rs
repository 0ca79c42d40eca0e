//! One thing to read: a file on disk, or an entry of an archive.
//!
//! For: every format reads from this, from the start and as a stream, and asks no path. Not for: deciding who
//! reads it, and not for going back: whatever was looked at is kept and handed out again, because an entry of an
//! archive can be unpacked only once.

use std::fs::File;
use std::io::{self, BufReader, Cursor, Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::facts::{Body, clean};
use super::meter::{Counter, Counting};
use super::outline::{self, Outline};
use super::sniff::HEAD_BYTES;

/// Longest origin in a message, in bytes: 4 KiB, Linux's own bound for a path.
const ORIGIN_BYTES_MAX: usize = 4096;

/// Buffer of a reader, in bytes. 64 KiB: fewer calls than 8 KiB, and still nothing beside one resource.
const BUFFER_BYTES: usize = 64 * 1024;

/// An item as a stream.
pub(super) type Reader<'a> = BufReader<Box<dyn Read + 'a>>;

pub(super) struct Item<'a> {
    /// Path, and the entry's name behind it: for messages only.
    pub(super) origin: String,
    /// The last part of the name; data, never a path to open.
    pub(super) name: String,
    /// Length in bytes as it is declared; what is read may be more or less.
    pub(super) length: Option<u64>,
    /// What was read so far; it stands before the rest of the source.
    seen: Vec<u8>,
    source: Source<'a>,
}

enum Source<'a> {
    File(PathBuf, Counting<File>),
    Entry(Box<dyn Read + 'a>),
}

impl<'a> Item<'a> {
    /// A file on disk that was just opened and has `length` bytes.
    pub(super) fn file(path: PathBuf, file: File, length: u64, read: &Counter) -> Result<Self, ImportError> {
        let text = path.to_string_lossy().into_owned();
        let source = Source::File(path, Counting::new(file, read));
        Self::begin(text.clone(), &text, Some(length), source)
    }

    /// An entry called `name` of the archive at `archive`.
    pub(super) fn entry(
        archive: &str,
        name: &str,
        length: Option<u64>,
        reader: Box<dyn Read + 'a>,
    ) -> Result<Self, ImportError> {
        Self::begin(origin(archive, name), name, length, Source::Entry(reader))
    }

    fn begin(
        origin: String,
        name: &str,
        length: Option<u64>,
        source: Source<'a>,
    ) -> Result<Self, ImportError> {
        let origin = clean(&origin, ORIGIN_BYTES_MAX);
        let name = last_part(name).to_owned();
        let mut item = Self { origin, name, length, seen: Vec::new(), source };
        item.peek(HEAD_BYTES)?;
        Ok(item)
    }

    /// The first [`HEAD_BYTES`], or less where there is no more.
    pub(super) fn head(&self) -> &[u8] {
        self.seen.get(..HEAD_BYTES).unwrap_or(&self.seen)
    }

    /// At least the first `count` bytes, or all where there is no more.
    pub(super) fn peek(&mut self, count: usize) -> io::Result<&[u8]> {
        let missing = count.saturating_sub(self.seen.len()) as u64;
        self.source.reader().take(missing).read_to_end(&mut self.seen)?;
        Ok(&self.seen)
    }

    /// Everything, as a stream from the start.
    pub(super) fn reader(self) -> Reader<'a> {
        let rest: Box<dyn Read + 'a> = match self.source {
            Source::File(_, file) => Box::new(file),
            Source::Entry(reader) => reader,
        };
        BufReader::with_capacity(BUFFER_BYTES, Box::new(Cursor::new(self.seen).chain(rest)))
    }

    /// Everything in memory, if that is at most `max` bytes.
    pub(super) fn hold(&mut self, max: u64) -> Result<&[u8], ImportError> {
        let too_large = |got| ImportError::TooLargeToHold { max, got };
        if let Some(length) = self.length.filter(|length| *length > max) {
            return Err(too_large(length));
        }
        // One more than allowed is asked for: a file that grew since is refused, not cut.
        let room = usize::try_from(max.saturating_add(1)).unwrap_or(usize::MAX);
        let got = self.peek(room)?.len() as u64;
        if got > max { Err(too_large(got)) } else { Ok(&self.seen) }
    }

    /// As [`Self::hold`], handed over.
    pub(super) fn held(mut self, max: u64) -> Result<Vec<u8>, ImportError> {
        self.hold(max)?;
        Ok(self.seen)
    }

    /// What is sealed when the whole item is one record: a file is read when its turn comes, an entry is held if
    /// it has at most `max` bytes.
    pub(super) fn body(self, max: u64) -> Result<Body, ImportError> {
        if let (Source::File(path, _), Some(length)) = (&self.source, self.length) {
            return Ok(Body::File(path.clone(), length));
        }
        self.held(max).map(Body::Memory).map_err(|error| match error {
            ImportError::TooLargeToHold { .. } => ImportError::EntryTooLarge { max },
            other => other,
        })
    }

    /// The outline of the JSON text this is. An entry is held up to `max` bytes while it is looked at.
    pub(super) fn outline(&mut self, max: u64) -> io::Result<Outline> {
        match &mut self.source {
            Source::File(_, file) => {
                file.rewind()?;
                let outline = outline::outline(BufReader::new(&mut *file));
                file.seek(SeekFrom::Start(self.seen.len() as u64))?;
                outline
            }
            Source::Entry(reader) => {
                let mut recorded = Recording { seen: &mut self.seen, at: 0, rest: reader, max };
                outline::outline(BufReader::new(&mut recorded))
            }
        }
    }

    /// Where it is on disk, if it is a file of its own.
    pub(super) fn path(&self) -> Option<&Path> {
        match &self.source {
            Source::File(path, _) => Some(path),
            Source::Entry(_) => None,
        }
    }

    pub(super) fn has_ending(&self, ending: &str) -> bool {
        let found = self.name.rsplit_once('.');
        found.is_some_and(|(_, found)| found.eq_ignore_ascii_case(ending))
    }
}

impl<'a> Source<'a> {
    fn reader(&mut self) -> &mut (dyn Read + 'a) {
        match self {
            Self::File(_, file) => file,
            Self::Entry(reader) => reader,
        }
    }
}

/// What the messages call the file at `path`.
pub(super) fn path_origin(path: &Path) -> String {
    clean(&path.to_string_lossy(), ORIGIN_BYTES_MAX)
}

/// What the messages call the entry `name` of `archive`.
pub(super) fn origin(archive: &str, name: &str) -> String {
    clean(&format!("{archive}/{name}"), ORIGIN_BYTES_MAX)
}

/// Entries are called by paths of the machine that packed them, with either slash.
pub(super) fn last_part(name: &str) -> &str {
    name.trim_end_matches(['/', '\\']).rsplit(['/', '\\']).next().unwrap_or(name)
}

/// Reads on and keeps what it reads, up to `max` bytes; behind them it seems to end.
struct Recording<'r, 'a> {
    seen: &'r mut Vec<u8>,
    /// How far it was read again.
    at: usize,
    rest: &'r mut Box<dyn Read + 'a>,
    max: u64,
}

impl Read for Recording<'_, '_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut again = self.seen.get(self.at..).unwrap_or_default();
        let read = if again.is_empty() && self.seen.len() as u64 <= self.max {
            let read = self.rest.read(buffer)?;
            self.seen.extend_from_slice(buffer.get(..read).unwrap_or_default());
            read
        } else {
            again.read(buffer)?
        };
        self.at += read;
        Ok(read)
    }
}
