//! Files that a bench moves: made from a seed, incompressible, and compared where they arrive.

use std::collections::BTreeSet;
use std::fs::{self, File};
use std::io::{self, BufWriter, Read, Write};
use std::path::{Path, PathBuf};

/// Bytes made or read in one go.
const CHUNK_BYTES: usize = 1 << 20;

/// A folder of files of one length.
#[derive(Clone, Copy, Debug)]
pub(super) struct Shape {
    pub(super) files: u64,
    /// Bytes of each.
    pub(super) bytes: u64,
}

impl Shape {
    pub(super) fn total_bytes(self) -> u64 {
        self.files * self.bytes
    }
}

/// Makes the folder; every byte follows from the seed.
pub(super) fn make(folder: &Path, shape: Shape, seed: u64) -> io::Result<()> {
    fs::create_dir_all(folder)?;
    let mut chunk = vec![0; CHUNK_BYTES];
    for number in 0..shape.files {
        let mut file = BufWriter::new(File::create(folder.join(format!("{number:05}.bin")))?);
        let mut bytes = stream(seed, number);
        let mut left = shape.bytes;
        while left > 0 {
            let length = usize::try_from(left).unwrap_or(CHUNK_BYTES).min(CHUNK_BYTES);
            let part = chunk.get_mut(..length).unwrap_or_default();
            bytes.fill(part);
            file.write_all(part)?;
            left -= length as u64;
        }
        file.into_inner().map_err(io::IntoInnerError::into_error)?.sync_all()?;
    }
    File::open(folder)?.sync_all()
}

/// Bytes of one file.
pub(super) fn stream(seed: u64, number: u64) -> blake3::OutputReader {
    let mut hasher = blake3::Hasher::new_derive_key("karte testnet bench file");
    hasher.update(&seed.to_le_bytes()).update(&number.to_le_bytes());
    hasher.finalize_xof()
}

/// blake3 of every regular file below a folder, without their names: what a set of files holds.
pub(super) fn contents(folder: &Path) -> io::Result<BTreeSet<[u8; 32]>> {
    let mut hashes = BTreeSet::new();
    visit(folder, &mut |path| {
        let (mut file, mut hasher, mut chunk) =
            (File::open(path)?, blake3::Hasher::new(), vec![0; CHUNK_BYTES]);
        loop {
            match file.read(&mut chunk)? {
                0 => break,
                read => drop(hasher.update(chunk.get(..read).unwrap_or_default())),
            }
        }
        hashes.insert(*hasher.finalize().as_bytes());
        Ok(())
    })?;
    Ok(hashes)
}

/// That every file of `sent` is somewhere below `came`.
pub(super) fn all_came(sent: &BTreeSet<[u8; 32]>, came: &Path) -> io::Result<()> {
    let missing = sent.difference(&contents(came)?).count();
    match missing {
        0 => Ok(()),
        missing => Err(io::Error::other(format!("{missing} of {} files did not come whole", sent.len()))),
    }
}

/// Makes the names in a folder and below it durable.
pub(super) fn sync_folders(folder: &Path) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            sync_folders(&entry.path())?;
        }
    }
    File::open(folder)?.sync_all()
}

/// Takes an empty folder of this name, and gives its path.
pub(super) fn fresh(folder: PathBuf) -> io::Result<PathBuf> {
    remove(&folder)?;
    fs::create_dir_all(&folder)?;
    Ok(folder)
}

/// Removes a folder with all that is in it, if it is there.
pub(super) fn remove(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Lets the file system write all that waits, so that no side pays for the one before it.
pub(super) fn settle(folder: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(File::open(folder)?)?)
}

/// Whether a folder lies in memory (`tmpfs`) and on no disk.
pub(super) fn is_memory(folder: &Path) -> io::Result<bool> {
    /// `TMPFS_MAGIC` of statfs(2).
    const TMPFS: rustix::fs::FsWord = 0x0102_1994;
    Ok(rustix::fs::statfs(folder)?.f_type == TMPFS)
}

fn visit(folder: &Path, each: &mut dyn FnMut(&Path) -> io::Result<()>) -> io::Result<()> {
    for entry in fs::read_dir(folder)? {
        let entry = entry?;
        match entry.file_type()? {
            kind if kind.is_dir() => visit(&entry.path(), each)?,
            kind if kind.is_file() => each(&entry.path())?,
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_cut_or_changed_did_not_come() {
        let folder = tempfile::tempdir().unwrap();
        let [one, other] = ["one", "other"].map(|name| folder.path().join(name));
        let shape = Shape { files: 3, bytes: 1_200 };
        make(&one, shape, 7).unwrap();
        make(&other, shape, 7).unwrap();
        let sent = contents(&one).unwrap();
        assert_eq!(sent.len(), 3, "no file is like another");
        all_came(&sent, &other).unwrap();
        let file = other.join("00001.bin");
        fs::write(&file, fs::read(&file).unwrap().split_last().unwrap().1).unwrap();
        all_came(&sent, &other).unwrap_err();
        make(&other, shape, 8).unwrap();
        all_came(&sent, &other).unwrap_err();
    }
}
