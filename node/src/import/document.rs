//! Documents: any file that no other format reads, kept whole and unread.
//!
//! For: losing nothing. Not for: looking inside; a file's own date is not the time of a fact, so there is none.

use super::facts::{Body, Facts, Finding, TITLE_BYTES_MAX, clean};
use super::sniff::Looks;

/// The record that a whole file or entry called `name` is.
pub(super) fn finding(name: &str, body: Body, looks: Looks, origin: &str) -> Finding {
    let facts = Facts {
        kind: looks.kind.to_owned(),
        title: clean(name, TITLE_BYTES_MAX),
        media_type: looks.media_type.to_owned(),
        ..Facts::default()
    };
    Finding { bytes: body, facts, origin: origin.to_owned() }
}
