//! The reserve: space that is kept so that a denial can be recorded on a full disk. Not for ordinary commits.
//!
//! How large: the one thing that must still fit is one group with an urgent batch in it. A group is at most
//! 17 MiB (`delta.rs`), its frame 100 bytes more, and a new segment one page: 18 MiB. Nothing else needs space
//! then: the witness is overwritten in place, and sled is not asked (what it has not applied stays in memory
//! until there is room). It is given back piece by piece, as much as the group asks for, because whatever
//! filled the disk would fill the rest too; so a full reserve takes thousands of revocations.

use std::path::{Path, PathBuf};

use rustix::fs::{FallocateFlags, fallocate, statvfs};

use super::files;
use super::view::FREE_BYTES_MIN;

const NAME: &str = "reserve";
/// Bytes kept. See above.
pub(super) const BYTES: u64 = 18 << 20;
/// Least given back at once, in bytes. 256 KiB: a revocation is 4 KiB, and some file systems round up.
const STEP_BYTES: u64 = 256 << 10;

/// The reserve of one store.
pub(super) struct Reserve {
    path: PathBuf,
    bytes: u64,
}

impl Reserve {
    /// What there is of it; nothing if it cannot be looked at.
    pub(super) fn open(dir: &Path) -> Self {
        let path = dir.join(NAME);
        let bytes = std::fs::metadata(&path).map_or(0, |file| file.len());
        Self { path, bytes }
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Makes it whole again if there is room for it and for the view beside it. Failing is no error: the disk
    /// is full, and the next commit tries again.
    pub(super) fn fill(&mut self) {
        if self.bytes >= BYTES {
            return;
        }
        let needed = BYTES.saturating_sub(self.bytes).saturating_add(FREE_BYTES_MIN);
        if self.path.parent().is_none_or(|dir| free_bytes(dir) < needed) {
            return;
        }
        // Really allocated: a sparse file would keep nothing.
        let made = files::private().create(true).truncate(false).open(&self.path);
        let filled = made.and_then(|file| {
            fallocate(&file, FallocateFlags::empty(), 0, BYTES).map_err(std::io::Error::from)?;
            file.sync_all()
        });
        match filled {
            Ok(()) => self.bytes = BYTES,
            // Half of it may be there: it is looked at again.
            Err(_) => self.bytes = std::fs::metadata(&self.path).map_or(0, |file| file.len()),
        }
    }

    /// Gives back at least `bytes` to the disk, or all there is; whether that was anything.
    pub(super) fn give(&mut self, bytes: u64) -> bool {
        if self.bytes == 0 {
            return false;
        }
        let left = self.bytes.saturating_sub(bytes.max(STEP_BYTES));
        let given = if left == 0 {
            files::remove(&self.path)
        } else {
            // The sync matters: freed blocks can be used again once the file system has noted it.
            files::private()
                .open(&self.path)
                .and_then(|file| file.set_len(left).and_then(|()| file.sync_all()))
        };
        self.bytes = left;
        given.is_ok()
    }
}

/// Free bytes on the disk of `path`; 0 if it cannot be asked.
pub(super) fn free_bytes(path: &Path) -> u64 {
    statvfs(path).map_or(0, |disk| disk.f_bavail.saturating_mul(disk.f_frsize))
}
