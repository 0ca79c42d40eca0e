//! The files of an import, listed before any is read.
//!
//! For: a sorted, bounded list with its total size. Not for: opening; what a path is when it is opened is asked
//! again there.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use super::error::ImportError;
use super::{Limits, archive};

/// What stands to be read, and what cannot be.
#[derive(Default)]
pub(super) struct Listing {
    pub(super) items: Vec<(PathBuf, Result<u64, ImportError>)>,
    pub(super) links_skipped: u64,
    pub(super) junk_skipped: u64,
}

impl Listing {
    pub(super) fn bytes_total(&self) -> u64 {
        // Saturating: sparse files can state more bytes than a u64 adds up.
        let lengths = self.items.iter().filter_map(|(_, length)| length.as_ref().ok());
        lengths.fold(0, |total: u64, length| total.saturating_add(*length))
    }

    fn add(
        &mut self,
        path: PathBuf,
        length: Result<u64, ImportError>,
        max: usize,
    ) -> Result<(), ImportError> {
        if self.items.len() == max {
            return Err(ImportError::TooManyFiles { max });
        }
        self.items.push((path, length));
        Ok(())
    }
}

/// List `paths` in the order given, each folder sorted by name. A link named here is followed, one met inside a
/// folder is not: it may lead out of what the user meant to give.
pub(super) fn list(paths: &[PathBuf], limits: &Limits) -> Result<Listing, ImportError> {
    let mut listing = Listing::default();
    for path in paths {
        visit(path, fs::metadata(path), 0, limits, &mut listing)?;
    }
    Ok(listing)
}

fn visit(
    path: &Path,
    metadata: io::Result<fs::Metadata>,
    depth: usize,
    limits: &Limits,
    listing: &mut Listing,
) -> Result<(), ImportError> {
    let length = match metadata {
        Ok(found) if found.is_symlink() => {
            listing.links_skipped += 1;
            return Ok(());
        }
        Ok(found) if found.is_dir() => match folder(path, depth, limits, listing.items.len()) {
            Ok(children) => return visit_all(children, depth, limits, listing),
            Err(error @ ImportError::TooManyFiles { .. }) => return Err(error),
            Err(reason) => Err(reason),
        },
        Ok(found) => regular(&found),
        Err(error) => Err(error.into()),
    };
    listing.add(path.to_owned(), length, limits.files_max)
}

fn visit_all(
    children: Vec<PathBuf>,
    depth: usize,
    limits: &Limits,
    listing: &mut Listing,
) -> Result<(), ImportError> {
    for child in children {
        if archive::is_junk(&child.file_name().unwrap_or_default().to_string_lossy()) {
            listing.junk_skipped += 1;
            continue;
        }
        visit(&child, fs::symlink_metadata(&child), depth + 1, limits, listing)?;
    }
    Ok(())
}

/// What stands in a folder, sorted; never more than the import has room for.
fn folder(path: &Path, depth: usize, limits: &Limits, listed: usize) -> Result<Vec<PathBuf>, ImportError> {
    if depth >= limits.folders_deep_max {
        return Err(ImportError::FolderTooDeep { max: limits.folders_deep_max });
    }
    let room = limits.files_max.saturating_sub(listed);
    let mut children = Vec::new();
    for child in fs::read_dir(path)? {
        if children.len() == room {
            return Err(ImportError::TooManyFiles { max: limits.files_max });
        }
        children.push(child?.path());
    }
    children.sort();
    Ok(children)
}

/// The length of a plain file; anything else could block or never end.
pub(super) fn regular(metadata: &fs::Metadata) -> Result<u64, ImportError> {
    if metadata.is_file() {
        return Ok(metadata.len());
    }
    Err(ImportError::NotAFile {
        got: if metadata.is_dir() { "a folder" } else { "a device, pipe or socket" },
    })
}
