//! One shrunk picture: from samples to a grey JPEG.
//!
//! For: averaging, rescaling, windowing as PS3.3 C.11 says. Not for: colour; the book shows where things are.

use jpeg_encoder::{ColorType, Encoder};

use super::fault::PixelFault;
use super::header::{Header, Window};
use super::pixels::Frame;

/// The longer side of a picture, in pixels. 160: a head fills a phone's width at two pixels each, in 3 to 6 kB.
pub(crate) const SIDE_MAX: u16 = 160;

/// JPEG quality. 75: the usual compromise; edges of vessels stay clean at this size.
const QUALITY: u8 = 75;

/// Brain: the window a stroke is looked for in.
const BRAIN: Window = Window { center: 40.0, width: 80.0 };

/// Soft tissue: what any CT shows something in.
const SOFT_TISSUE: Window = Window { center: 40.0, width: 400.0 };

/// Words that name a head in a body part or description.
const HEAD_WORDS: [&str; 4] = ["HEAD", "BRAIN", "SKULL", "CEREB"];

/// Values after rescaling, averaged over what a pixel covers.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Small {
    pub(super) width: u16,
    pub(super) height: u16,
    values: Vec<f64>,
}

/// The window of a series: for CT of a head the brain window, else the one `stated`, else soft tissue for CT. `None`
/// where every picture is stretched for itself.
pub(super) fn window(header: &Header, stated: Option<Window>) -> Option<Window> {
    let ct = header.modality.as_deref() == Some("CT");
    let grey = header.raster.as_ref().is_some_and(|raster| raster.samples == 1);
    if !grey {
        return None;
    }
    if ct && shows_head(header) && !header.is_localizer() && !header.may_show_text() {
        return Some(BRAIN);
    }
    stated.or((ct && !header.may_show_text()).then_some(SOFT_TISSUE))
}

fn shows_head(header: &Header) -> bool {
    let texts = [&header.body_part, &header.series_description, &header.study_description];
    // The first that is there decides: a neck of a study of head and neck is a neck.
    let text = texts.into_iter().flatten().next().map(|text| text.to_uppercase()).unwrap_or_default();
    HEAD_WORDS.iter().any(|word| text.contains(word))
}

/// Shrink a frame so that the longer side, in millimetres, has [`SIDE_MAX`] pixels; a smaller one is not enlarged.
pub(super) fn shrink(header: &Header, frame: &Frame) -> Small {
    let [row_mm, column_mm] =
        header.pixel_spacing.filter(|mm| mm.iter().all(|mm| *mm > 0.0)).unwrap_or([1.0, 1.0]);
    let (wide, high) = (count(frame.columns) * column_mm, count(frame.rows) * row_mm);
    let side = f64::from(SIDE_MAX).min(count(frame.columns.max(frame.rows)));
    let scale = side / wide.max(high);
    let (width, height) = (pixels(wide * scale), pixels(high * scale));
    let mut values = Vec::with_capacity(usize::from(width) * usize::from(height));
    for y in 0..usize::from(height) {
        let rows = covered(y, height.into(), frame.rows);
        for x in 0..usize::from(width) {
            let columns = covered(x, width.into(), frame.columns);
            values.push(average(frame, &rows, &columns) * header.slope + header.intercept);
        }
    }
    Small { width, height, values }
}

/// The source pixels of output pixel `at` of `of`: at least one.
fn covered(at: usize, of: usize, source: usize) -> std::ops::Range<usize> {
    let start = at * source / of;
    start..((at + 1) * source / of).max(start + 1)
}

fn average(frame: &Frame, rows: &std::ops::Range<usize>, columns: &std::ops::Range<usize>) -> f64 {
    let each = rows.clone().flat_map(|row| columns.clone().map(move |column| frame.grey(row, column)));
    each.sum::<f64>() / count(rows.len() * columns.len())
}

impl Small {
    /// As a grey JPEG, in `window`, or stretched from its 1st to its 99th percentile.
    pub(super) fn jpeg(&self, header: &Header, window: Option<Window>) -> Result<Vec<u8>, PixelFault> {
        let colour = header.raster.as_ref().is_some_and(|raster| raster.samples > 1);
        let window = match window {
            Some(window) => window,
            // The luma of a screen is shown as it is.
            None if colour => Window { center: 128.0, width: 256.0 },
            None => self.stretched(),
        };
        let inverted = header.raster.as_ref().is_some_and(|raster| raster.photometric == "MONOCHROME1");
        let grey = |value: &f64| if inverted { 255 - shade(*value, window) } else { shade(*value, window) };
        let shades: Vec<u8> = self.values.iter().map(grey).collect();
        let mut jpeg = Vec::new();
        let encoder = Encoder::new(&mut jpeg, QUALITY);
        let coded = encoder.encode(&shades, self.width, self.height, ColorType::Luma);
        coded.map_err(|error| PixelFault::Decoder { fault: error.to_string() })?;
        Ok(jpeg)
    }

    fn stretched(&self) -> Window {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        let at = |percent: usize| {
            sorted.get((sorted.len().saturating_sub(1)) * percent / 100).copied().unwrap_or(0.0)
        };
        let (low, high) = (at(1), at(99));
        Window { center: f64::midpoint(low, high), width: (high - low).max(1.0) }
    }
}

/// The linear function of PS3.3 C.11.2.1.2.1, onto 0 to 255.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 0..=255 before the cast"
)]
fn shade(value: f64, window: Window) -> u8 {
    let along = (value - (window.center - 0.5)) / (window.width - 1.0).max(1.0) + 0.5;
    (along * 255.0).round().clamp(0.0, 255.0) as u8
}

/// A count of pixels, below 2^32.
fn count(pixels: usize) -> f64 {
    f64::from(u32::try_from(pixels).unwrap_or(u32::MAX))
}

/// A side, at least one pixel.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "clamped to 1..=SIDE_MAX before the cast"
)]
fn pixels(side: f64) -> u16 {
    side.round().clamp(1.0, f64::from(SIDE_MAX)) as u16
}
