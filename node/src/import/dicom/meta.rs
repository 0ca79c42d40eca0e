//! The front of a file: preamble and file meta information (PS3.10 section 7.1), or neither.
//!
//! For: finding where the data set starts and how it is written. Not for: judging values; an application entity
//! title longer than the standard allows is passed over like any other value.

use super::fault::{DicomFault, Tag};
use super::syntax::{self, Codec, EXPLICIT_BIG, EXPLICIT_LITTLE, Encoding, IMPLICIT_LITTLE, Syntax};
use super::vr::{self, Vr};

/// Longest preamble and file meta information, in bytes. 64 KiB: usual are 400, private ones reach some KiB.
pub(super) const FRONT_BYTES_MAX: usize = 64 * 1024;

const PREAMBLE_BYTES: usize = 128;
const MAGIC: &[u8] = b"DICM";

/// Transfer Syntax UID.
const TRANSFER_SYNTAX: u32 = 0x0002_0010;

/// Media Storage SOP Class UID.
const MEDIA_CLASS: u32 = 0x0002_0002;

/// What the first bytes of a file say.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Looks {
    /// `DICM` stands at byte 128: it says that it is DICOM, and is refused by name where it cannot be read.
    Signed,
    /// It starts like a data set. If it cannot be read as one, it is something else.
    Bare,
    No,
}

/// What a file is that starts with `head`; 4 KiB are plenty.
pub(crate) fn looks(head: &[u8]) -> Looks {
    if head.get(PREAMBLE_BYTES..).is_some_and(|rest| rest.starts_with(MAGIC)) {
        return Looks::Signed;
    }
    if group_of(head) == Some(2) || bare(head).is_some() { Looks::Bare } else { Looks::No }
}

/// Where a data set starts, and how it is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Front {
    /// Bytes before the data set.
    pub(super) bytes: usize,
    /// As stated; empty where it is not.
    pub(super) syntax_uid: String,
    pub(super) syntax: Syntax,
    /// The syntax is not known, so the data set's first element decided how it is read.
    pub(super) guessed: bool,
    /// Media Storage SOP Class UID, where stated.
    pub(super) media_class: Option<String>,
}

/// Read the front of a file that starts with `head` (at most [`FRONT_BYTES_MAX`] bytes of it).
pub(super) fn front(head: &[u8]) -> Result<Front, DicomFault> {
    let start = match looks(head) {
        Looks::Signed => PREAMBLE_BYTES + MAGIC.len(),
        Looks::Bare => 0,
        Looks::No => return Err(DicomFault::NotDicom),
    };
    let mut front = Front {
        bytes: start,
        syntax_uid: String::new(),
        syntax: Syntax { encoding: EXPLICIT_LITTLE, deflated: false, codec: Codec::Native },
        guessed: true,
        media_class: None,
    };
    // Group 2 is always explicit little endian. Its group length is not believed: the group ends where it ends.
    while let Some(rest) = head.get(front.bytes..).filter(|rest| group_of(rest) == Some(2)) {
        let (tag, value, length) = element(rest, front.bytes, head.len())?;
        match tag.0 {
            TRANSFER_SYNTAX => front.syntax_uid = uid(value),
            MEDIA_CLASS => front.media_class = Some(uid(value)),
            _ => {}
        }
        front.bytes += length;
    }
    settle(front, head)
}

fn settle(mut front: Front, head: &[u8]) -> Result<Front, DicomFault> {
    if let Some(known) = syntax::known(&front.syntax_uid) {
        return Ok(Front { syntax: known, guessed: false, ..front });
    }
    let rest = head.get(front.bytes..).unwrap_or_default();
    let encoding = bare(rest).ok_or(DicomFault::NoSyntax)?;
    let codec = if front.syntax_uid.is_empty() { Codec::Native } else { Codec::None("private or unknown") };
    front.syntax = Syntax { encoding, deflated: false, codec };
    Ok(front)
}

/// One element of group 2: tag, value, and the bytes that it takes.
fn element(rest: &[u8], offset: usize, head_bytes: usize) -> Result<(Tag, &[u8], usize), DicomFault> {
    let ends = || match head_bytes {
        FRONT_BYTES_MAX => DicomFault::MetaTooLong { max: FRONT_BYTES_MAX },
        _ => DicomFault::Ends { offset: offset as u64, expected: "file meta information" },
    };
    let (fixed, _) = rest.split_first_chunk::<8>().ok_or_else(ends)?;
    let [_, _, e0, e1, v0, v1, l0, l1] = *fixed;
    let tag = Tag(0x0002_0000 | u32::from(u16::from_le_bytes([e0, e1])));
    let got = [v0, v1];
    let vr = vr::vr(got).ok_or(DicomFault::UnknownVr { tag, offset: offset as u64, got })?;
    let (start, length) = if vr.has_long_length() {
        let bytes = rest.get(8..).and_then(|rest| rest.first_chunk::<4>()).ok_or_else(ends)?;
        (12, u32::from_le_bytes(*bytes))
    } else {
        (8, u32::from(u16::from_le_bytes([l0, l1])))
    };
    let end = usize::try_from(length).ok().and_then(|length| length.checked_add(start)).ok_or_else(ends)?;
    Ok((tag, rest.get(start..end).ok_or_else(ends)?, end))
}

fn group_of(bytes: &[u8]) -> Option<u16> {
    bytes.first_chunk::<2>().map(|group| u16::from_le_bytes(*group))
}

/// How a data set is written whose first bytes these are: only an early element of group 8 is taken for one.
fn bare(bytes: &[u8]) -> Option<Encoding> {
    let [g0, g1, e0, e1, a, b, c, d] = *bytes.first_chunk::<8>()?;
    let (element, big) = match [g0, g1] {
        [8, 0] => (u16::from_le_bytes([e0, e1]), false),
        [0, 8] => (u16::from_be_bytes([e0, e1]), true),
        _ => return None,
    };
    /// The first elements in use: group length, length to end, character set, image type, creation date,
    /// SOP class and instance.
    const FIRST: [u16; 8] = [0, 1, 5, 8, 0x12, 0x14, 0x16, 0x18];
    if !FIRST.contains(&element) {
        return None;
    }
    match vr::vr([a, b]) {
        Some(Vr::Long) => None,
        Some(_) => Some(if big { EXPLICIT_BIG } else { EXPLICIT_LITTLE }),
        // These values are short, so three bytes of an implicit length are zero.
        None => (!big && u32::from_le_bytes([a, b, c, d]) < 256).then_some(IMPLICIT_LITTLE),
    }
}

/// A UID without its padding.
fn uid(value: &[u8]) -> String {
    let text = String::from_utf8_lossy(value);
    text.trim_matches(|c: char| c == '\0' || c.is_ascii_whitespace()).to_owned()
}
