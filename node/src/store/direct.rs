//! Writing long files past the page cache.
//!
//! For: what is written once from start to end by a thread that does nothing else, synced, and not read again at once: long
//! payloads that arrive. Not for an import or an export, which would wait for the disk between two pieces that they make. Through the cache each page is first found room for and then copied into; on the machine of
//! `testnet/reports/wire.md` that took 2.5 s of a core for 2 GiB, and 0.3 s past it. Not for: durability, which is the sync's as ever.
//!
//! The blocks that a piece fills go past the cache, what is left of it at either end goes through it; the system keeps
//! the two in step. Where a file system or a disk does not take it so, all goes through the cache.

use std::cell::RefCell;
use std::fs::{File, OpenOptions};
use std::io;
use std::os::unix::fs::{FileExt, OpenOptionsExt};
use std::path::PathBuf;

/// What offset, length and memory are multiples of, in bytes. 4 KiB: a page, and no less than a sector of any common disk;
/// a disk that wants more refuses.
const BLOCK_BYTES: usize = 4096;
/// Shorter stretches go through the cache, in bytes. 64 KiB: waiting for the disk would cost more than the copy.
const STRETCH_BYTES_MIN: usize = 64 << 10;
/// Bytes written at once, and held by each thread that writes so. 1 MiB: as much as a slice.
const PIECE_BYTES: usize = 1 << 20;

thread_local! {
    /// Has a piece that begins at a multiple of [`BLOCK_BYTES`].
    static ALIGNED: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// The way past the cache to one file.
#[derive(Debug)]
pub(crate) struct Direct {
    path: PathBuf,
    way: Way,
}

#[derive(Debug)]
enum Way {
    Untried,
    Open(File),
    /// There is none here.
    None,
}

impl Direct {
    /// To the file at `path`, which is there when something is written.
    pub(crate) fn new(path: PathBuf) -> Self {
        Self { path, way: Way::Untried }
    }

    /// Writes all of `bytes` at `offset` of the file, which `file` is open on.
    ///
    /// # Errors
    /// As [`FileExt::write_all_at`]; what was written of `bytes` is then not known.
    pub(crate) fn write_all_at(&mut self, file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
        let past_block = usize::try_from(offset % BLOCK_BYTES as u64).unwrap_or_default();
        let front = (BLOCK_BYTES - past_block) % BLOCK_BYTES;
        let rest = bytes.len().saturating_sub(front);
        let stretch = rest - rest % BLOCK_BYTES;
        if stretch < STRETCH_BYTES_MIN {
            return file.write_all_at(bytes, offset);
        }
        let (front, rest) = bytes.split_at(front);
        let (stretch, back) = rest.split_at(stretch);
        file.write_all_at(front, offset)?;
        let mut at = offset.saturating_add(front.len() as u64);
        let mut pieces = stretch.chunks(PIECE_BYTES);
        for piece in pieces.by_ref() {
            if !self.write_past(piece, at)? {
                file.write_all_at(piece, at)?;
            }
            at = at.saturating_add(piece.len() as u64);
        }
        file.write_all_at(back, at)
    }

    /// False: nothing is written, there is no way past the cache.
    fn write_past(&mut self, piece: &[u8], offset: u64) -> io::Result<bool> {
        if matches!(self.way, Way::Untried) {
            self.way = open(&self.path).map_or(Way::None, Way::Open);
        }
        let Way::Open(past) = &self.way else { return Ok(false) };
        let written = ALIGNED.with_borrow_mut(|buffer| {
            buffer.resize(PIECE_BYTES + BLOCK_BYTES, 0);
            let start = buffer.as_ptr().align_offset(BLOCK_BYTES);
            let aligned = buffer.get_mut(start..).and_then(|aligned| aligned.get_mut(..piece.len()));
            let aligned = aligned.ok_or(io::ErrorKind::Unsupported)?;
            aligned.copy_from_slice(piece);
            past.write_all_at(aligned, offset)
        });
        match written {
            Ok(()) => Ok(true),
            // So say file systems that have none, and disks with larger blocks. Anything else is a fault of the disk.
            Err(error)
                if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) =>
            {
                self.way = Way::None;
                Ok(false)
            }
            Err(error) => Err(error),
        }
    }
}

#[cfg(any(target_os = "linux", target_os = "android"))]
fn open(path: &std::path::Path) -> io::Result<File> {
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    OpenOptions::new().write(true).custom_flags(flags).open(path)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn open(_: &std::path::Path) -> io::Result<File> {
    Err(io::ErrorKind::Unsupported.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pieces of these lengths one behind the other, and what the file then has.
    fn written(lengths: &[usize], way: Option<Way>) -> (Vec<u8>, Vec<u8>) {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("payload");
        let file = File::create(&path).expect("a file");
        let mut direct = Direct::new(path.clone());
        if let Some(way) = way {
            direct.way = way;
        }
        let mut expected = Vec::new();
        for (salt, length) in (0..).zip(lengths) {
            let piece: Vec<u8> = (0..=250).cycle().map(|byte: u8| byte ^ salt).take(*length).collect();
            direct.write_all_at(&file, &piece, expected.len() as u64).expect("is written");
            expected.extend_from_slice(&piece);
        }
        (expected, std::fs::read(&path).expect("is read"))
    }

    #[test]
    fn pieces_of_any_length_come_one_behind_the_other() {
        let lengths = [
            1,
            PIECE_BYTES + 272,
            PIECE_BYTES + 272,
            70_000,
            3,
            5 * BLOCK_BYTES,
            3 * PIECE_BYTES,
            4095,
            131_072,
        ];
        let (expected, got) = written(&lengths, None);
        assert_eq!(expected.len(), got.len());
        assert!(expected == got, "the file has other bytes");
    }

    #[test]
    fn a_way_that_refuses_is_not_gone_again_and_loses_nothing() {
        let (expected, got) = written(&[PIECE_BYTES, 100, 2 * PIECE_BYTES], Some(Way::None));
        assert!(expected == got);
    }

    #[test]
    fn a_fault_of_the_disk_is_told() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("payload");
        let file = File::create(&path).expect("a file");
        let mut direct = Direct::new(path.clone());
        // Open for reading alone: writing to it fails, as on a disk that is gone.
        direct.way = Way::Open(File::open(&path).expect("is there"));
        assert!(direct.write_all_at(&file, &vec![7; PIECE_BYTES], 0).is_err());
    }
}
