//! Decoders of coded frames: RLE here, JPEG and JPEG 2000 by their crates.
//!
//! For: handing a decoder only what was checked: the size that the coded frame states is the size that the header
//! states, so nothing is allocated on the word of one of them. A decoder that panics is a fault with a name. Not
//! for: JPEG-LS, 12-bit and retired JPEG, which no crate without a C++ build reads; they are named and kept.

use std::panic::{AssertUnwindSafe, catch_unwind};

use hayro_jpeg2000::{DecodeSettings, DecoderContext, Image};
use jpeg_decoder::PixelFormat;

use super::fault::PixelFault;
use super::header::Raster;
use super::pixels::{self, Frame, Samples};
use super::syntax::Codec;

/// Most samples of a frame in JPEG. 8 million: a radiograph of 3000 x 2500; its decoder holds 6 bytes of each.
const JPEG_SAMPLES_MAX: u64 = 8 * 1024 * 1024;

/// Most samples of a frame in JPEG 2000. 2 million: 1024 x 1024 in colour fits less than half; its decoder holds about 20
/// bytes of each.
const JPEG2000_SAMPLES_MAX: u64 = 2 * 1024 * 1024;

/// Decode one frame. `raster` was checked by [`pixels::Frames`].
pub(super) fn decode(codec: Codec, raster: &Raster, data: &[u8]) -> Result<Frame, PixelFault> {
    match codec {
        Codec::Rle => rle(raster, data),
        Codec::Jpeg => sheltered(|| jpeg(raster, data)),
        Codec::Jpeg2000 => sheltered(|| jpeg2000(raster, data)),
        Codec::Native | Codec::None(_) => {
            Err(PixelFault::Layout { what: "fragments in a syntax of plain pixel data" })
        }
    }
}

/// A panic in a decoder is one undecodable frame. (It still prints to standard error, as every panic does.)
fn sheltered(decode: impl FnOnce() -> Result<Frame, PixelFault>) -> Result<Frame, PixelFault> {
    let stopped = |_| Err(PixelFault::Decoder { fault: "it stopped inside".to_owned() });
    catch_unwind(AssertUnwindSafe(decode)).unwrap_or_else(stopped)
}

fn samples_of(raster: &Raster) -> u64 {
    u64::from(raster.rows) * u64::from(raster.columns) * u64::from(raster.samples)
}

/// No more than `max` samples.
fn bounded(raster: &Raster, max: u64) -> Result<(), PixelFault> {
    let bytes = u64::from(raster.bits_allocated / 8);
    let got = samples_of(raster);
    if got > max { Err(PixelFault::FrameTooLarge { max: max * bytes, got: got * bytes }) } else { Ok(()) }
}

/// Columns, rows, samples and bits that a coded frame states.
type Stated = (u64, u64, u64, u64);

fn same(raster: &Raster, got: Stated, bits_fit: bool) -> Result<(), PixelFault> {
    let expected =
        (raster.columns.into(), raster.rows.into(), raster.samples.into(), raster.bits_allocated.into());
    let (columns, rows, samples, _): Stated = expected;
    if (columns, rows, samples) == (got.0, got.1, got.2) && bits_fit {
        return Ok(());
    }
    Err(PixelFault::Mismatch { expected: format!("{expected:?}"), got: format!("{got:?}") })
}

fn refused(error: &impl ToString) -> PixelFault {
    PixelFault::Decoder { fault: error.to_string() }
}

fn jpeg(raster: &Raster, data: &[u8]) -> Result<Frame, PixelFault> {
    bounded(raster, JPEG_SAMPLES_MAX)?;
    let mut decoder = jpeg_decoder::Decoder::new(data);
    decoder.set_max_decoding_buffer_size(usize::try_from(2 * JPEG_SAMPLES_MAX).unwrap_or(usize::MAX));
    decoder.read_info().map_err(|error| refused(&error))?;
    let info = decoder.info().ok_or(PixelFault::NoPixels)?;
    let (samples, bits) = match info.pixel_format {
        PixelFormat::L8 => (1, 8),
        PixelFormat::L16 => (1, 16),
        PixelFormat::RGB24 => (3, 8),
        PixelFormat::CMYK32 => (4, 8),
    };
    let bits_fit = bits == raster.bits_allocated;
    same(raster, (info.width.into(), info.height.into(), samples, bits.into()), bits_fit)?;
    let bytes = decoder.decode().map_err(|error| refused(&error))?;
    whole(bytes.len(), raster)?;
    // The decoder gives words in the machine's own order, and colours as red, green and blue.
    let samples = pixels::plain_samples(raster, bytes, cfg!(target_endian = "big"));
    Ok(Frame::new(raster, false, false, samples))
}

fn whole(got: usize, raster: &Raster) -> Result<(), PixelFault> {
    let expected = pixels::frame_bytes(raster)?;
    if got as u64 == expected { Ok(()) } else { Err(PixelFault::Short { expected, got: got as u64 }) }
}

/// What the SIZ marker segment says (ISO/IEC 15444-1 section A.5.1).
struct Siz {
    columns: u32,
    rows: u32,
    components: u16,
    bits: u8,
    signed: bool,
}

fn siz(data: &[u8]) -> Option<Siz> {
    let at = |at: usize| data.get(at..)?.first_chunk::<4>().map(|bytes| u32::from_be_bytes(*bytes));
    // Raw codestreams only, as PS3.5 section A.4.4 demands.
    if at(0)? != 0xFF4F_FF51 {
        return None;
    }
    let components = u16::from_be_bytes(*data.get(40..)?.first_chunk::<2>()?);
    let depth = *data.get(42)?;
    let alike = (0..usize::from(components)).all(|n| data.get(42 + 3 * n) == Some(&depth));
    let (columns, rows) = (at(8)?.checked_sub(at(16)?)?, at(12)?.checked_sub(at(20)?)?);
    alike.then_some(Siz { columns, rows, components, bits: (depth & 0x7F) + 1, signed: depth & 0x80 != 0 })
}

fn jpeg2000(raster: &Raster, data: &[u8]) -> Result<Frame, PixelFault> {
    bounded(raster, JPEG2000_SAMPLES_MAX)?;
    let siz = siz(data).ok_or_else(|| refused(&"no codestream of JPEG 2000"))?;
    let stated = (siz.columns.into(), siz.rows.into(), siz.components.into(), siz.bits.into());
    same(raster, stated, u16::from(siz.bits) <= raster.bits_allocated.min(16))?;
    let image = Image::new(data, &DecodeSettings::default()).map_err(|error| refused(&error))?;
    let mut context = DecoderContext::default();
    let decoded = image.decode(&mut context).map_err(|error| refused(&error))?;
    // The decoder lifts signed samples as if they were unsigned.
    let lifted = if siz.signed { f64::from(1_u32 << (siz.bits - 1)) } else { 0.0 };
    let planes = decoded.components();
    let mut samples = Vec::new();
    for plane in planes.iter().take(usize::from(raster.samples)) {
        samples.extend(plane.samples().iter().map(|sample| word(f64::from(*sample) - lifted)));
    }
    if samples.len() as u64 != samples_of(raster) {
        return Err(PixelFault::Short { expected: samples_of(raster), got: samples.len() as u64 });
    }
    let samples = match raster.bits_allocated {
        8 => Samples::Bytes(samples.iter().map(|word| word.to_le_bytes()[0]).collect()),
        16 => Samples::Words(samples),
        _ => return Err(PixelFault::Layout { what: "JPEG 2000 with samples of 32 bits" }),
    };
    Ok(Frame::new(raster, true, false, samples))
}

/// The lower 16 bits of a whole number.
#[expect(clippy::cast_possible_truncation, reason = "rounded and clamped to what fits before the cast")]
fn word(value: f64) -> u16 {
    let bytes = (value.round().clamp(f64::from(i16::MIN), f64::from(u16::MAX)) as i32).to_le_bytes();
    u16::from_le_bytes([bytes[0], bytes[1]])
}

/// RLE Lossless (PS3.5 annex G): a segment for each byte of a sample, the highest first.
fn rle(raster: &Raster, data: &[u8]) -> Result<Frame, PixelFault> {
    let (colours, depth) = (usize::from(raster.samples), usize::from(raster.bits_allocated / 8));
    let pixels = usize::from(raster.rows) * usize::from(raster.columns);
    let fault = || refused(&"no RLE segments where its header says");
    let header = data.get(..64).ok_or_else(fault)?;
    let mut numbers = header.as_chunks::<4>().0.iter().map(|bytes| u32::from_le_bytes(*bytes) as usize);
    let segments = colours * depth;
    if numbers.next() != Some(segments) {
        return Err(refused(&"another number of RLE segments than the samples have bytes"));
    }
    let starts: Vec<usize> = numbers.take(segments).collect();
    let mut bytes = vec![0_u8; pixels * segments];
    for (number, start) in starts.iter().enumerate() {
        let end = starts.get(number + 1).copied().unwrap_or(data.len());
        let segment = data.get(*start..end).ok_or_else(fault)?;
        // Little endian, pixel by pixel, so that the rest of the code knows one order.
        let (colour, place) = (number / depth, depth - 1 - number % depth);
        let target = bytes.iter_mut().skip(colour * depth + place).step_by(segments);
        let got = unpack(segment, target.take(pixels));
        if got != pixels {
            return Err(PixelFault::Short { expected: pixels as u64, got: got as u64 });
        }
    }
    let luma_first = raster.photometric == "YBR_FULL";
    Ok(Frame::new(raster, false, luma_first, pixels::plain_samples(raster, bytes, false)))
}

/// One segment (PS3.5 section G.3.2) into `target`; how many bytes it had, at most those.
fn unpack<'a>(mut segment: &[u8], mut target: impl Iterator<Item = &'a mut u8>) -> usize {
    let mut done = 0;
    while let Some((head, rest)) = segment.split_first() {
        let (run, used) = match head.cast_signed() {
            count @ 0.. => (usize::from(count.unsigned_abs()) + 1, usize::from(count.unsigned_abs()) + 1),
            i8::MIN => (0, 0),
            count => (usize::from(count.unsigned_abs()) + 1, 1),
        };
        let Some((bytes, after)) = rest.split_at_checked(used) else {
            return done;
        };
        for byte in bytes.iter().cycle().take(run) {
            let Some(place) = target.next() else {
                return done;
            };
            *place = *byte;
            done += 1;
        }
        segment = after;
    }
    done
}
