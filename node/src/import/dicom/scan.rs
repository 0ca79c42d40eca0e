//! The scan: one walk through the structure of a file before anything believes it.
//!
//! For: every length is checked against the bytes that are left, every sequence is delimited, nesting and counts
//! are bounded; values that were asked for are kept, all others are passed over unread, pixel data too. Memory is
//! one buffer, whatever the file says; time is linear in its bytes. Not for: meaning.
//!
//! No general DICOM parser is asked, because those that there are allocate what a length field says (674 bytes asked
//! for 3.67 GB) and recurse as deep as a file nests.

use std::collections::BTreeMap;
use std::io::Read;

use super::fault::{DicomFault, Tag};
use super::meta::{self, FRONT_BYTES_MAX, Front};
use super::stream::{Hashed, Stream};
use super::syntax::Encoding;
use super::vr::{self, Vr};
use crate::import::error::ImportError;

/// Deepest nesting of sequences. 32: structured reports reach 15.
pub(super) const DEPTH_MAX: usize = 32;

/// Most elements and items in a file. 16 million: an enhanced image of 40,000 frames has 8 million.
pub(super) const ELEMENTS_MAX: u64 = 16_000_000;

/// Longest value that is kept, in bytes. 4 KiB: the values asked for have 16 to 640.
const VALUE_BYTES_MAX: u64 = 4096;

/// Most fragments whose places are kept. 65,536 (1 MiB); the frames behind more of them are not shown.
const FRAGMENTS_MAX: usize = 65_536;

/// A length that is not stated (PS3.5 section 7.1.1).
const UNDEFINED: u32 = 0xFFFF_FFFF;

const ITEM: u32 = 0xFFFE_E000;
const ITEM_END: u32 = 0xFFFE_E00D;
const SEQUENCE_END: u32 = 0xFFFE_E0DD;
const PIXEL_DATA: u32 = 0x7FE0_0010;

/// Shared and Per-Frame Functional Groups Sequence: where enhanced images keep what others say at the top.
const FUNCTIONAL_GROUPS: [u32; 2] = [0x5200_9229, 0x5200_9230];

/// Sequences in them that are walked into where no value representation names them: plane position and orientation,
/// pixel measures, window, pixel value transformation.
const MACROS: [u32; 5] = [0x0020_9113, 0x0020_9116, 0x0028_9110, 0x0028_9132, 0x0028_9145];

/// Where a run of bytes lies in the file, or in the inflated data set.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Span {
    pub(super) at: u64,
    pub(super) length: u64,
}

/// Where the pixel data lie.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) enum Pixels {
    #[default]
    None,
    Native(Span),
    Fragments {
        /// The basic offset table (PS3.5 section A.4); empty where there is none.
        table: Span,
        spans: Vec<Span>,
        /// More fragments than are kept.
        more: bool,
    },
}

/// The values of the elements asked for.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(super) struct Values {
    values: BTreeMap<u32, Vec<u8>>,
    big_endian: bool,
}

impl Values {
    /// The bytes of a value; `None` where it is absent or empty.
    pub(super) fn bytes(&self, tag: u32) -> Option<&[u8]> {
        self.values.get(&tag).map(Vec::as_slice).filter(|value| !value.is_empty())
    }

    /// The first number of an element of US.
    pub(super) fn short(&self, tag: u32) -> Option<u16> {
        let bytes = *self.bytes(tag)?.first_chunk::<2>()?;
        Some(if self.big_endian { u16::from_be_bytes(bytes) } else { u16::from_le_bytes(bytes) })
    }
}

/// What the scan found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Scanned {
    pub(super) front: Front,
    pub(super) values: Values,
    pub(super) pixels: Pixels,
    /// The whole file, in bytes.
    pub(super) length: u64,
    /// blake3 of the whole file.
    pub(super) blake3: [u8; 32],
}

/// Walk through a file of `length` bytes and keep the values of the elements `wanted` of the top level (`at_top`) and
/// of functional groups (`in_groups`, the first of each).
pub(super) fn scan(
    reader: &mut dyn Read,
    length: u64,
    at_top: &[u32],
    in_groups: &[u32],
) -> Result<Scanned, ImportError> {
    let mut hashed = Hashed::new(reader);
    let mut head = Vec::new();
    (&mut hashed).take(FRONT_BYTES_MAX as u64).read_to_end(&mut head)?;
    let front = meta::front(&head)?;
    let at = front.bytes as u64;
    let ahead = head.split_off(front.bytes.min(head.len()));
    let stream = match front.syntax.deflated {
        true => Stream::inflated(ahead, hashed, at, length),
        false => Stream::plain(ahead, hashed, at, length),
    };
    let mut walk = Walk::new(stream, front.syntax.encoding, at_top, in_groups);
    walk.all()?;
    let (blake3, got) = walk.stream.finish()?;
    if got != length {
        return Err(DicomFault::Changed { stated: length, got }.into());
    }
    Ok(Scanned { front, values: walk.values, pixels: walk.pixels, length, blake3 })
}

/// What is open around the next element.
#[derive(Debug, Clone, Copy)]
struct Scope {
    sequence: bool,
    /// Nothing in it reaches beyond this offset.
    end: u64,
    /// It ends at `end`; otherwise at its delimiter.
    stated: bool,
    encoding: Encoding,
    /// It lies in a functional group.
    in_group: bool,
}

struct Walk<'a, R: Read> {
    stream: Stream<R>,
    top: Scope,
    open: Vec<Scope>,
    elements: u64,
    at_top: &'a [u32],
    in_groups: &'a [u32],
    values: Values,
    pixels: Pixels,
}

/// The head of an element.
struct Element {
    tag: Tag,
    /// Where it starts.
    offset: u64,
    vr: Option<Vr>,
    length: u32,
}

impl<'a, R: Read> Walk<'a, R> {
    fn new(stream: Stream<R>, encoding: Encoding, at_top: &'a [u32], in_groups: &'a [u32]) -> Self {
        let top = Scope { sequence: false, end: stream.end(), stated: true, encoding, in_group: false };
        let values = Values { big_endian: encoding.big_endian, ..Values::default() };
        let pixels = Pixels::None;
        Self { stream, top, open: Vec::new(), elements: 0, at_top, in_groups, values, pixels }
    }

    fn all(&mut self) -> Result<(), ImportError> {
        while self.step()? {}
        Ok(())
    }

    fn scope(&self) -> Scope {
        self.open.last().copied().unwrap_or(self.top)
    }

    /// One element or item; `false` at the end of the file.
    fn step(&mut self) -> Result<bool, ImportError> {
        while self.open.last().is_some_and(|scope| scope.stated && scope.end <= self.stream.at()) {
            self.open.pop();
        }
        let offset = self.stream.at();
        let Some(tag) = self.tag()? else {
            return Ok(false);
        };
        self.count()?;
        if tag.0 == 0 && self.open.is_empty() {
            // Some writers pad a file with zero bytes to the size of a block.
            let padding = self.stream.only_zeros_follow()?;
            return if padding { Ok(false) } else { Err(misplaced("an element", offset, tag)) };
        }
        match (tag.0, self.scope().sequence) {
            (ITEM | ITEM_END | SEQUENCE_END, _) => self.delimiter(tag, offset)?,
            (_, false) => self.element(tag, offset)?,
            (_, true) => return Err(misplaced("an item of a sequence", offset, tag)),
        }
        Ok(true)
    }

    fn count(&mut self) -> Result<(), DicomFault> {
        self.elements += 1;
        if self.elements > ELEMENTS_MAX {
            return Err(DicomFault::TooManyElements { max: ELEMENTS_MAX });
        }
        Ok(())
    }

    /// The next tag. Up to three zero bytes at the end of the file are padding.
    fn tag(&mut self) -> Result<Option<Tag>, ImportError> {
        let offset = self.stream.at();
        let mut bytes = [0; 4];
        let done = self.stream.fill(&mut bytes)?;
        if done < bytes.len() {
            return match bytes == [0; 4] && self.open.is_empty() {
                true => Ok(None),
                false => Err(DicomFault::Ends { offset, expected: "an element or a delimiter" }.into()),
            };
        }
        let [a, b, c, d] = bytes;
        let half = |bytes: [u8; 2]| match self.scope().encoding.big_endian {
            true => u32::from(u16::from_be_bytes(bytes)),
            false => u32::from(u16::from_le_bytes(bytes)),
        };
        Ok(Some(Tag(half([a, b]) << 16 | half([c, d]))))
    }

    fn long(&mut self) -> Result<u32, ImportError> {
        let bytes = self.stream.take::<4>("a length")?;
        let big = self.scope().encoding.big_endian;
        Ok(if big { u32::from_be_bytes(bytes) } else { u32::from_le_bytes(bytes) })
    }

    /// An item opens, or what is open closes.
    fn delimiter(&mut self, tag: Tag, offset: u64) -> Result<(), ImportError> {
        let length = self.long()?;
        let scope = self.scope();
        let at_top = self.open.is_empty();
        match tag.0 {
            ITEM if scope.sequence => self.enter(Scope { sequence: false, ..scope }, tag, offset, length),
            ITEM_END if !scope.sequence && !scope.stated && !at_top => self.close(),
            SEQUENCE_END if scope.sequence && !scope.stated => self.close(),
            // Some writers end sequences of a stated length with a delimiter too, of which the length tells.
            _ => Err(misplaced("an element", offset, tag)),
        }
    }

    fn close(&mut self) -> Result<(), ImportError> {
        self.open.pop();
        Ok(())
    }

    fn element(&mut self, tag: Tag, offset: u64) -> Result<(), ImportError> {
        let element = self.head(tag, offset)?;
        let scope = self.scope();
        if element.length == UNDEFINED {
            return self.without_length(&element, scope);
        }
        self.fits(&element)?;
        let walked_into = match element.vr {
            Some(vr) => vr == Vr::Sequence,
            None => FUNCTIONAL_GROUPS.contains(&tag.0) || scope.in_group && MACROS.contains(&tag.0),
        };
        if walked_into {
            return self.enter(self.sequence(tag, scope), tag, offset, element.length);
        }
        self.value(&element, scope)
    }

    fn head(&mut self, tag: Tag, offset: u64) -> Result<Element, ImportError> {
        let encoding = self.scope().encoding;
        if !encoding.explicit {
            return Ok(Element { tag, offset, vr: None, length: self.long()? });
        }
        let [v0, v1, l0, l1] = self.stream.take::<4>("a value representation and a length")?;
        let got = [v0, v1];
        let vr = vr::vr(got).ok_or(DicomFault::UnknownVr { tag, offset, got })?;
        let length = match (vr.has_long_length(), encoding.big_endian) {
            (true, _) => self.long()?,
            (false, true) => u32::from(u16::from_be_bytes([l0, l1])),
            (false, false) => u32::from(u16::from_le_bytes([l0, l1])),
        };
        Ok(Element { tag, offset, vr: Some(vr), length })
    }

    /// The value lies within what is open around it.
    fn fits(&self, element: &Element) -> Result<(), DicomFault> {
        let (tag, offset, got) = (element.tag, element.offset, u64::from(element.length));
        let left = self.scope().end.saturating_sub(self.stream.at());
        if got > left { Err(DicomFault::TooLong { tag, offset, left, got }) } else { Ok(()) }
    }

    fn without_length(&mut self, element: &Element, scope: Scope) -> Result<(), ImportError> {
        let (tag, offset) = (element.tag, element.offset);
        match element.vr {
            Some(Vr::Sequence) | None => self.enter(self.sequence(tag, scope), tag, offset, UNDEFINED),
            Some(Vr::Bytes | Vr::Unknown) if tag.0 == PIXEL_DATA => self.fragments(),
            // PS3.5 section 6.2.2, note 4: what is in it is written implicitly, in little endian.
            Some(Vr::Unknown) => {
                let encoding = super::syntax::IMPLICIT_LITTLE;
                self.enter(Scope { encoding, ..self.sequence(tag, scope) }, tag, offset, UNDEFINED)
            }
            Some(_) => Err(DicomFault::NoLength { tag, offset }.into()),
        }
    }

    fn sequence(&self, tag: Tag, around: Scope) -> Scope {
        let group = self.open.is_empty() && FUNCTIONAL_GROUPS.contains(&tag.0);
        Scope { sequence: true, in_group: around.in_group || group, ..around }
    }

    /// Open a sequence or an item of `length` bytes.
    fn enter(&mut self, scope: Scope, tag: Tag, offset: u64, length: u32) -> Result<(), ImportError> {
        // A sequence and its item are one level.
        if self.open.len() >= 2 * DEPTH_MAX {
            return Err(DicomFault::TooDeep { max: DEPTH_MAX }.into());
        }
        let around = self.scope().end;
        let scope = match length {
            UNDEFINED => Scope { end: around, stated: false, ..scope },
            _ => {
                self.fits(&Element { tag, offset, vr: None, length })?;
                Scope { end: self.stream.at().saturating_add(u64::from(length)), stated: true, ..scope }
            }
        };
        self.open.push(scope);
        Ok(())
    }

    fn value(&mut self, element: &Element, scope: Scope) -> Result<(), ImportError> {
        let (tag, length) = (element.tag.0, u64::from(element.length));
        let at_top = self.open.is_empty();
        if at_top && tag == PIXEL_DATA {
            self.pixels = Pixels::Native(Span { at: self.stream.at(), length });
        }
        let wanted = at_top && self.at_top.contains(&tag)
            || scope.in_group && self.in_groups.contains(&tag) && !self.values.values.contains_key(&tag);
        if !wanted || length > VALUE_BYTES_MAX {
            return self.stream.skip(length);
        }
        let value = self.stream.value(usize::try_from(length).unwrap_or_default())?;
        self.values.values.insert(tag, value);
        Ok(())
    }

    /// Pixel data in fragments (PS3.5 section A.4): items with lengths up to a sequence delimiter.
    fn fragments(&mut self) -> Result<(), ImportError> {
        let (mut table, mut spans, mut more) = (None, Vec::new(), false);
        while let Some(span) = self.fragment()? {
            self.stream.skip(span.length)?;
            match table {
                None => table = Some(span),
                Some(_) if spans.len() < FRAGMENTS_MAX => spans.push(span),
                Some(_) => more = true,
            }
        }
        // A nested one is an icon.
        if self.open.is_empty() {
            self.pixels = Pixels::Fragments { table: table.unwrap_or_default(), spans, more };
        }
        Ok(())
    }

    fn fragment(&mut self) -> Result<Option<Span>, ImportError> {
        let offset = self.stream.at();
        let ends = DicomFault::Ends { offset, expected: "a fragment of pixel data or the delimiter" };
        let tag = self.tag()?.ok_or(ends)?;
        let length = self.long()?;
        self.count()?;
        match tag.0 {
            SEQUENCE_END => Ok(None),
            ITEM if length != UNDEFINED => {
                self.fits(&Element { tag, offset, vr: None, length })?;
                Ok(Some(Span { at: self.stream.at(), length: u64::from(length) }))
            }
            _ => Err(DicomFault::BadFragment { offset }.into()),
        }
    }
}

fn misplaced(expected: &'static str, offset: u64, got: Tag) -> ImportError {
    DicomFault::Misplaced { expected, offset, got }.into()
}
