//! Frames: the samples of one picture at a time, for previews and for checks.
//!
//! For: finding a frame's bytes in a file that was scanned, checking its size before anything is decoded, and the
//! plain ways of writing. Not for: diagnosis, and not for changing a record; its bytes stay as they came.

use std::io::Read;

use super::codecs;
use super::fault::PixelFault;
use super::header::{Header, Raster};
use super::scan::{Pixels, Span};
use super::stream::Stream;
use super::syntax::Codec;
use crate::import::error::ImportError;

/// Largest frame as it is written plainly, in bytes. 32 MiB: a mammogram of 4096 x 3328 in 16 bits has 27 MB.
pub(crate) const FRAME_BYTES_MAX: u64 = 32 * 1024 * 1024;

/// Largest frame given to a decoder, in bytes coded. 8 MiB: a lossless radiograph has 7.
pub(super) const CODED_BYTES_MAX: u64 = 8 * 1024 * 1024;

/// The samples of a frame: bit patterns as they are stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Samples {
    Bytes(Vec<u8>),
    Words(Vec<u16>),
    Longs(Vec<u32>),
}

/// One picture.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Frame {
    pub(crate) rows: usize,
    pub(crate) columns: usize,
    /// Samples of a pixel: 1, or 3 for colour.
    pub(crate) colours: usize,
    /// All of one colour, then all of the next; otherwise pixel by pixel.
    pub(crate) by_plane: bool,
    /// The first sample of a pixel is its brightness; otherwise three are red, green and blue.
    pub(crate) luma_first: bool,
    pub(crate) samples: Samples,
    bits_stored: u16,
    signed: bool,
}

impl Frame {
    pub(super) fn new(raster: &Raster, by_plane: bool, luma_first: bool, samples: Samples) -> Self {
        Self {
            rows: usize::from(raster.rows),
            columns: usize::from(raster.columns),
            colours: usize::from(raster.samples),
            by_plane,
            luma_first,
            samples,
            bits_stored: raster.bits_stored,
            signed: raster.signed,
        }
    }

    /// Brightness of a pixel as stored: one sample, or the luma of three (ITU-R BT.601).
    pub(crate) fn grey(&self, row: usize, column: usize) -> f64 {
        let pixel = row * self.columns + column;
        if self.colours == 1 {
            return self.value(pixel);
        }
        let plane = self.rows * self.columns;
        let at = |colour| if self.by_plane { colour * plane + pixel } else { pixel * self.colours + colour };
        if self.luma_first {
            return self.value(at(0));
        }
        0.299 * self.value(at(0)) + 0.587 * self.value(at(1)) + 0.114 * self.value(at(2))
    }

    /// A sample as a number: only the bits stored count (old writers kept overlays above them).
    fn value(&self, at: usize) -> f64 {
        let raw = match &self.samples {
            Samples::Bytes(samples) => samples.get(at).copied().map(u32::from),
            Samples::Words(samples) => samples.get(at).copied().map(u32::from),
            Samples::Longs(samples) => samples.get(at).copied(),
        };
        let unused = 32_u32.saturating_sub(u32::from(self.bits_stored)).min(31);
        let shifted = raw.unwrap_or_default() << unused;
        if self.signed { f64::from(shifted.cast_signed() >> unused) } else { f64::from(shifted >> unused) }
    }
}

/// Bytes of one plain frame, checked against [`FRAME_BYTES_MAX`].
pub(super) fn frame_bytes(raster: &Raster) -> Result<u64, PixelFault> {
    let pixels = u64::from(raster.rows) * u64::from(raster.columns);
    let got = pixels * u64::from(raster.samples) * u64::from(raster.bits_allocated / 8);
    if got > FRAME_BYTES_MAX { Err(PixelFault::FrameTooLarge { max: FRAME_BYTES_MAX, got }) } else { Ok(got) }
}

/// The frames of one file, read once through from its first byte.
pub(crate) struct Frames<'a> {
    header: &'a Header,
    raster: &'a Raster,
    stream: Stream<&'a mut dyn Read>,
    /// The basic offset table, once it was read.
    table: Option<Vec<u64>>,
}

impl<'a> Frames<'a> {
    /// `reader` stands at the first byte of the file that `header` was read from.
    pub(crate) fn new(header: &'a Header, reader: &'a mut dyn Read) -> Result<Self, PixelFault> {
        let raster = header.raster.as_ref().ok_or(PixelFault::NoPixels)?;
        if let Codec::None(name) = header.syntax.codec {
            return Err(PixelFault::Syntax { uid: header.syntax_uid.clone(), name });
        }
        fits(header, raster)?;
        frame_bytes(raster)?;
        let (at, length) = (header.front_bytes as u64, header.length);
        let mut stream = Stream::plain(Vec::new(), reader, 0, length);
        if header.syntax.deflated {
            stream.skip(at).map_err(unreadable)?;
            stream = stream.inflate_rest(length);
        }
        Ok(Self { header, raster, stream, table: None })
    }

    /// Frame `index`, from 0; each one asked for lies behind the one before.
    pub(crate) fn frame(&mut self, index: u32) -> Result<Frame, PixelFault> {
        let frames = self.raster.frames;
        if index >= frames {
            return Err(PixelFault::NoSuchFrame { got: index, frames });
        }
        match &self.header.pixels {
            Pixels::None => Err(PixelFault::NoPixels),
            Pixels::Native(span) => self.native(*span, index),
            Pixels::Fragments { table, spans, more } => self.coded(*table, spans, *more, index),
        }
    }

    fn native(&mut self, span: Span, index: u32) -> Result<Frame, PixelFault> {
        if self.header.syntax.codec != Codec::Native {
            return Err(PixelFault::Layout { what: "plain pixel data in a syntax of coded ones" });
        }
        let bytes = frame_bytes(self.raster)?;
        let start = bytes.saturating_mul(u64::from(index));
        if start.saturating_add(bytes) > span.length {
            return Err(PixelFault::Short { expected: start.saturating_add(bytes), got: span.length });
        }
        let data = self.bytes(Span { at: span.at + start, length: bytes })?;
        let samples = plain_samples(self.raster, data, self.header.syntax.encoding.big_endian);
        let luma_first = self.raster.photometric == "YBR_FULL";
        Ok(Frame::new(self.raster, self.raster.planar, luma_first, samples))
    }

    fn coded(&mut self, table: Span, spans: &[Span], more: bool, index: u32) -> Result<Frame, PixelFault> {
        let parts = self.parts(table, spans, more, index)?;
        let got = parts.iter().fold(0_u64, |sum, part| sum.saturating_add(part.length));
        if got > CODED_BYTES_MAX {
            return Err(PixelFault::FrameTooLarge { max: CODED_BYTES_MAX, got });
        }
        let mut data = Vec::with_capacity(usize::try_from(got).unwrap_or_default());
        for part in parts {
            data.append(&mut self.bytes(part)?);
        }
        codecs::decode(self.header.syntax.codec, self.raster, &data)
    }

    /// The fragments of frame `index` (PS3.5 section A.4).
    fn parts(
        &mut self,
        table: Span,
        spans: &[Span],
        more: bool,
        index: u32,
    ) -> Result<Vec<Span>, PixelFault> {
        let (frames, index) = (self.raster.frames as usize, index as usize);
        if frames == 1 && !more {
            return Ok(spans.to_vec());
        }
        if spans.len() == frames || more && table.length == 0 && index < spans.len() {
            return Ok(spans.get(index).copied().into_iter().collect());
        }
        let base = table.at.saturating_add(table.length);
        let starts = self.table(table)?;
        let unknown = PixelFault::Layout { what: "frames whose fragments no table tells apart" };
        let start = *starts.get(index).filter(|_| starts.len() == frames).ok_or(unknown)?;
        let end = starts.get(index + 1).copied().unwrap_or(u64::MAX);
        // Offsets count from the first fragment's item, whose head of 8 bytes stands before its bytes.
        let of = |span: &&Span| (start..end).contains(&span.at.saturating_sub(base.saturating_add(8)));
        Ok(spans.iter().filter(of).copied().collect())
    }

    fn table(&mut self, span: Span) -> Result<&[u64], PixelFault> {
        let starts = match self.table.take() {
            Some(starts) => starts,
            None if span.length > FRAME_BYTES_MAX / 64 => {
                return Err(PixelFault::Layout { what: "a table of more than 131,072 frames" });
            }
            None => {
                let bytes = self.bytes(span)?;
                let starts = bytes.chunks_exact(4).filter_map(|chunk| chunk.first_chunk::<4>());
                starts.map(|start| u64::from(u32::from_le_bytes(*start))).collect()
            }
        };
        Ok(self.table.insert(starts))
    }

    /// A run of bytes, whose length was checked.
    fn bytes(&mut self, span: Span) -> Result<Vec<u8>, PixelFault> {
        let ahead = span.at.checked_sub(self.stream.at());
        let ahead = ahead.ok_or(PixelFault::Layout { what: "frames out of order" })?;
        self.stream.skip(ahead).map_err(unreadable)?;
        self.stream.value(usize::try_from(span.length).unwrap_or_default()).map_err(unreadable)
    }
}

/// Layouts that are read here (PS3.5 section 8.2).
fn fits(header: &Header, raster: &Raster) -> Result<(), PixelFault> {
    let layout = |what| Err(PixelFault::Layout { what });
    match (raster.bits_allocated, raster.samples, raster.photometric.as_str()) {
        (_, _, "PALETTE COLOR") => layout("colours from a palette"),
        (_, _, "YBR_FULL_422" | "YBR_PARTIAL_422" | "YBR_PARTIAL_420")
            if header.syntax.codec == Codec::Native =>
        {
            layout("plain pixel data with colours at half the resolution")
        }
        (8, 1, _) if header.syntax.encoding.big_endian => layout("samples of 8 bits in big endian"),
        (8 | 16 | 32, 1, _) | (8, 3, _) => Ok(()),
        (1, _, _) => layout("samples of one bit"),
        _ => layout("this number of bits and samples"),
    }
}

pub(super) fn plain_samples(raster: &Raster, data: Vec<u8>, big_endian: bool) -> Samples {
    match raster.bits_allocated {
        8 => Samples::Bytes(data),
        16 => {
            let word = |&bytes: &[u8; 2]| match big_endian {
                true => u16::from_be_bytes(bytes),
                false => u16::from_le_bytes(bytes),
            };
            Samples::Words(data.as_chunks::<2>().0.iter().map(word).collect())
        }
        _ => {
            let long = |&bytes: &[u8; 4]| match big_endian {
                true => u32::from_be_bytes(bytes),
                false => u32::from_le_bytes(bytes),
            };
            Samples::Longs(data.as_chunks::<4>().0.iter().map(long).collect())
        }
    }
}

fn unreadable(error: ImportError) -> PixelFault {
    PixelFault::Unreadable { got: error.to_string() }
}
