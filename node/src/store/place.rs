//! Where a store lives: which machine, which file system, which file. Not for identity: it only tells a copy.
//!
//! Each of the three is kept as a keyed hash, so that the folder names no machine. A store is taken for a copy
//! when one of them was known at the last look and is another now:
//!
//! - the machine: `/etc/machine-id`. Not known (and not compared) where it is missing, empty or
//!   "uninitialized", as in most container images;
//! - the file system: `f_fsid`, on ext4, XFS and btrfs derived from its UUID, so it outlives a reboot, a
//!   remount and a bind mount. Not known where it is 0;
//! - the file: the inode of `lock`, which is made once and never replaced. A rename or a bind mount keeps it; a
//!   copy gets another, also on the same disk.
//!
//! So a renamed or bind-mounted folder and a container restarted on its volume raise nothing. A restored backup,
//! a copied folder, a folder moved to another disk, and a container whose image brings a new machine id do. A
//! clone of a whole virtual machine is only noticed if the machine id is made anew, as it should be.

use std::fs::File;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::sealing::Keys;

/// Three keyed hashes of 16 bytes; zeros mean "not known".
pub(super) type Place = [u8; PLACE_BYTES];
/// In bytes.
pub(super) const PLACE_BYTES: usize = 48;

/// Where the store in `dir` is now. What cannot be found out is "not known".
pub(super) fn here(dir: &Path, lock: &File, keys: &Keys) -> Place {
    let machine = std::fs::read_to_string("/etc/machine-id").unwrap_or_default();
    let machine = Some(machine.trim()).filter(|id| id.len() == 32);
    let disk = rustix::fs::statvfs(dir).ok().map(|disk| disk.f_fsid).filter(|id| *id != 0);
    let file = lock.metadata().ok().map(|file| file.ino());
    let hashes = [
        machine.map(|id| keys.mac("machine", id.as_bytes())),
        disk.map(|id| keys.mac("file system", &id.to_le_bytes())),
        file.map(|id| keys.mac("file", &id.to_le_bytes())),
    ];
    let mut place = [0; PLACE_BYTES];
    for (to, hash) in place.chunks_exact_mut(16).zip(hashes) {
        to.iter_mut().zip(hash.unwrap_or_default()).for_each(|(to, from)| *to = from);
    }
    place
}

/// Whether something known in both differs.
pub(super) fn differ(one: &Place, other: &Place) -> bool {
    let known = |bytes: &[u8]| bytes.iter().any(|byte| *byte != 0);
    one.chunks_exact(16).zip(other.chunks_exact(16)).any(|(a, b)| known(a) && known(b) && a != b)
}
