//! The items of an import, in order: files, and what lies in archives.
//!
//! For: one stream of [`Item`]s whatever the user pointed at, as often as it is asked for (a format that must sort
//! what it reads walks once before). Not for: reading any of them.

use std::fs::File;
use std::ops::ControlFlow;
use std::path::{Path, PathBuf};

use super::archive;
use super::error::ImportError;
use super::files::{self, Listing};
use super::item::{self, Item};
use super::meter::Counter;
use super::{Format, Options};

/// What is met on the way.
pub(super) enum Step<'a> {
    Item(Item<'a>),
    /// What cannot be read, and why.
    Refused(String, ImportError),
    /// A link or device in an archive: neither is followed nor made.
    LinkSkipped,
    /// What a desktop left beside the files of people.
    JunkSkipped,
    /// Everything at a path that was listed has been met: its origin, and its length in bytes.
    PathDone(String, u64),
}

/// Who is told.
pub(super) type Visit<'v> = dyn FnMut(Step<'_>) -> ControlFlow<()> + 'v;

pub(super) struct Walk {
    listing: Listing,
    /// Whether archives are opened; otherwise each is an item.
    unpack: bool,
    entries_max: usize,
}

impl Walk {
    /// Lists `paths`; nothing is opened yet.
    pub(super) fn new(paths: &[PathBuf], options: &Options) -> Result<Self, ImportError> {
        let listing = files::list(paths, &options.limits)?;
        Ok(Self {
            listing,
            unpack: options.format != Format::Document,
            entries_max: options.limits.files_max,
        })
    }

    pub(super) fn listing(&self) -> &Listing {
        &self.listing
    }

    /// Visits every item; `read` counts the bytes read from the file at hand.
    pub(super) fn each(&self, read: &Counter, visit: &mut Visit<'_>) -> ControlFlow<()> {
        self.listing.items.iter().try_for_each(|(path, length)| {
            read.reset();
            let origin = item::path_origin(path);
            match length.clone().and_then(|_| open(path, read)) {
                Ok(item) => self.item_or_archive(item, read, visit)?,
                Err(reason) => visit(Step::Refused(origin.clone(), reason))?,
            }
            visit(Step::PathDone(origin, length.clone().unwrap_or_default()))
        })
    }

    fn item_or_archive(&self, item: Item<'_>, read: &Counter, visit: &mut Visit<'_>) -> ControlFlow<()> {
        match archive::packing(item.head()).filter(|_| self.unpack) {
            Some(packing) => archive::walk(packing, item, self.entries_max, read, visit),
            None => visit(Step::Item(item)),
        }
    }
}

/// What a path is was asked when it was listed, and is asked again: it may be another thing by now.
fn open(path: &Path, read: &Counter) -> Result<Item<'static>, ImportError> {
    let file = File::open(path)?;
    let length = files::regular(&file.metadata()?)?;
    Item::file(path.to_owned(), file, length, read)
}
