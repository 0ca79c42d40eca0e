//! Documents: any file that no other format reads, kept whole and unread.
//!
//! For: losing nothing. Not for: looking inside; a file's own date is not the time of a fact, so there is none.

use std::path::Path;

use super::facts::{Body, Facts, Finding, TITLE_BYTES_MAX, clean};
use super::sniff::Looks;

/// The record that a whole file is.
pub(super) fn finding(path: &Path, length: u64, looks: Looks, origin: &str) -> Finding {
    let name = path.file_name().unwrap_or(path.as_os_str());
    let facts = Facts {
        kind: looks.kind.to_owned(),
        title: clean(&name.to_string_lossy(), TITLE_BYTES_MAX),
        media_type: looks.media_type.to_owned(),
        ..Facts::default()
    };
    Finding { bytes: Body::File(path.to_owned(), length), facts, origin: origin.to_owned() }
}
