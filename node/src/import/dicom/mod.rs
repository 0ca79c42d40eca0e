//! DICOM (PS3): one record for each instance, in the order of its series, and a small preview of each series.
//!
//! Participants: an import that passes over its items twice. First pass: [`looks`], [`Header::read`],
//! [`Survey::add`]; then [`Survey::arrange`]. Second pass: [`Header::read`] again, [`finding`] with
//! [`series::Arrangement::placed`], and [`Previews::feed`] where [`Previews::wants`]; at the end [`Previews::finish`].
//! Goals: every transfer syntax is kept byte for byte; nothing is believed before the scan has walked through it;
//! memory is bounded whatever a file says. Non-goals: diagnosis, changing bytes, and reading who the patient is.

mod anatomy;
mod codecs;
mod fault;
mod finding;
mod header;
mod meta;
mod picture;
mod pixels;
mod preview;
mod scan;
mod series;
mod stream;
mod syntax;
#[cfg(test)]
mod tests;
mod text;
mod vr;
mod when;

pub use self::fault::{DicomFault, PixelFault, Tag};
pub(crate) use self::finding::finding;
pub(crate) use self::header::Header;
pub(crate) use self::meta::{Looks, looks};
pub(crate) use self::preview::Previews;
pub(crate) use self::series::{Arrangement, Survey};
