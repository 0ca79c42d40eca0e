//! The header facts of an instance: the few values that a label, the order of a series and a picture need.
//!
//! For: reading them tolerantly: a value that is not as PS3.6 says is as if absent. Not for: the patient's name or
//! any other value that says who it is; those are not even looked at.

use std::io::Read;

use super::fault::DicomFault;
use super::scan::{self, Pixels, Scanned, Values};
use super::syntax::{Codec, Syntax};
use super::{text, when};
use crate::import::error::ImportError;
use crate::import::facts::Effective;

/// Media Storage Directory Storage (PS3.4 annex B.5): a list of files.
const DIRECTORY_CLASS: &str = "1.2.840.10008.1.3.10";

/// The secondary capture classes: a picture of a screen, scanner or camera. PS3.6 table A-1.
const SECONDARY_CAPTURE: &str = "1.2.840.10008.5.1.4.1.1.7";

pub(super) mod tags {
    pub(in super::super) const CHARACTER_SET: u32 = 0x0008_0005;
    pub(in super::super) const STUDY_DESCRIPTION: u32 = 0x0008_1030;
    pub(super) const IMAGE_TYPE: u32 = 0x0008_0008;
    pub(super) const SOP_CLASS: u32 = 0x0008_0016;
    pub(super) const SOP_INSTANCE: u32 = 0x0008_0018;
    pub(super) const STUDY_DATE: u32 = 0x0008_0020;
    pub(super) const SERIES_DATE: u32 = 0x0008_0021;
    pub(super) const ACQUISITION_DATE: u32 = 0x0008_0022;
    pub(super) const CONTENT_DATE: u32 = 0x0008_0023;
    pub(super) const ACQUISITION_DATE_TIME: u32 = 0x0008_002A;
    pub(super) const STUDY_TIME: u32 = 0x0008_0030;
    pub(super) const SERIES_TIME: u32 = 0x0008_0031;
    pub(super) const ACQUISITION_TIME: u32 = 0x0008_0032;
    pub(super) const CONTENT_TIME: u32 = 0x0008_0033;
    pub(super) const MODALITY: u32 = 0x0008_0060;
    pub(super) const CONVERSION_TYPE: u32 = 0x0008_0064;
    pub(super) const OFFSET_FROM_UTC: u32 = 0x0008_0201;
    pub(super) const SERIES_DESCRIPTION: u32 = 0x0008_103E;
    pub(super) const BODY_PART: u32 = 0x0018_0015;
    pub(super) const SLICE_THICKNESS: u32 = 0x0018_0050;
    pub(super) const STUDY_UID: u32 = 0x0020_000D;
    pub(super) const SERIES_UID: u32 = 0x0020_000E;
    pub(super) const INSTANCE_NUMBER: u32 = 0x0020_0013;
    pub(super) const POSITION: u32 = 0x0020_0032;
    pub(super) const ORIENTATION: u32 = 0x0020_0037;
    pub(super) const SLICE_LOCATION: u32 = 0x0020_1041;
    pub(super) const SAMPLES: u32 = 0x0028_0002;
    pub(super) const PHOTOMETRIC: u32 = 0x0028_0004;
    pub(super) const PLANAR: u32 = 0x0028_0006;
    pub(super) const FRAMES: u32 = 0x0028_0008;
    pub(super) const ROWS: u32 = 0x0028_0010;
    pub(super) const COLUMNS: u32 = 0x0028_0011;
    pub(super) const PIXEL_SPACING: u32 = 0x0028_0030;
    pub(super) const BITS_ALLOCATED: u32 = 0x0028_0100;
    pub(super) const BITS_STORED: u32 = 0x0028_0101;
    pub(super) const REPRESENTATION: u32 = 0x0028_0103;
    pub(super) const BURNED_IN: u32 = 0x0028_0301;
    pub(super) const CENTER: u32 = 0x0028_1050;
    pub(super) const WIDTH: u32 = 0x0028_1051;
    pub(super) const INTERCEPT: u32 = 0x0028_1052;
    pub(super) const SLOPE: u32 = 0x0028_1053;

    pub(super) const AT_TOP: &[u32] = &[
        CHARACTER_SET,
        STUDY_DESCRIPTION,
        IMAGE_TYPE,
        SOP_CLASS,
        SOP_INSTANCE,
        STUDY_DATE,
        SERIES_DATE,
        ACQUISITION_DATE,
        CONTENT_DATE,
        ACQUISITION_DATE_TIME,
        STUDY_TIME,
        SERIES_TIME,
        ACQUISITION_TIME,
        CONTENT_TIME,
        MODALITY,
        CONVERSION_TYPE,
        OFFSET_FROM_UTC,
        SERIES_DESCRIPTION,
        BODY_PART,
        SLICE_THICKNESS,
        STUDY_UID,
        SERIES_UID,
        INSTANCE_NUMBER,
        POSITION,
        ORIENTATION,
        SLICE_LOCATION,
        SAMPLES,
        PHOTOMETRIC,
        PLANAR,
        FRAMES,
        ROWS,
        COLUMNS,
        PIXEL_SPACING,
        BITS_ALLOCATED,
        BITS_STORED,
        REPRESENTATION,
        BURNED_IN,
        CENTER,
        WIDTH,
        INTERCEPT,
        SLOPE,
    ];

    pub(super) const IN_GROUPS: &[u32] =
        &[SLICE_THICKNESS, POSITION, ORIENTATION, PIXEL_SPACING, CENTER, WIDTH, INTERCEPT, SLOPE];
}

/// How the samples of a frame are laid out (PS3.3 C.7.6.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Raster {
    pub(crate) rows: u16,
    pub(crate) columns: u16,
    pub(crate) samples: u16,
    pub(crate) bits_allocated: u16,
    pub(crate) bits_stored: u16,
    pub(crate) signed: bool,
    /// Colour by plane instead of colour by pixel.
    pub(crate) planar: bool,
    pub(crate) photometric: String,
    pub(crate) frames: u32,
}

/// Window Center and Window Width (0028,1050), (0028,1051).
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Window {
    pub(crate) center: f64,
    pub(crate) width: f64,
}

/// What is known of an instance. Lengths in millimetres, vectors in the patient's coordinates.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Header {
    /// Transfer Syntax UID, empty where the file does not state it.
    pub(crate) syntax_uid: String,
    pub(crate) sop_class: Option<String>,
    pub(crate) instance: Option<String>,
    pub(crate) study: Option<String>,
    pub(crate) series: Option<String>,
    pub(crate) modality: Option<String>,
    pub(crate) body_part: Option<String>,
    pub(crate) study_description: Option<String>,
    pub(crate) series_description: Option<String>,
    pub(crate) image_type: Vec<String>,
    pub(crate) burned_in: Option<String>,
    pub(crate) conversion_type: Option<String>,
    /// Of the acquisition, else the content, series or study.
    pub(crate) effective: Option<Effective>,
    pub(crate) instance_number: Option<i64>,
    pub(crate) position: Option<[f64; 3]>,
    /// Cosines of the rows, then of the columns.
    pub(crate) orientation: Option<[f64; 6]>,
    pub(crate) slice_location: Option<f64>,
    pub(crate) slice_thickness: Option<f64>,
    /// Between rows, then between columns.
    pub(crate) pixel_spacing: Option<[f64; 2]>,
    pub(crate) slope: f64,
    pub(crate) intercept: f64,
    pub(crate) window: Option<Window>,
    /// `None` where there are no rows and columns.
    pub(crate) raster: Option<Raster>,
    /// Bytes of the file.
    pub(crate) length: u64,
    /// blake3 of the file.
    pub(crate) blake3: [u8; 32],
    pub(super) pixels: Pixels,
    pub(super) syntax: Syntax,
    /// Bytes before the data set.
    pub(super) front_bytes: usize,
}

impl Header {
    /// Scan a file of `length` bytes and read its header; a directory of a file set is refused by name. Memory is
    /// bounded, pixel data are passed over.
    pub(crate) fn read(reader: &mut dyn Read, length: u64) -> Result<Self, ImportError> {
        let scanned = scan::scan(reader, length, tags::AT_TOP, tags::IN_GROUPS)?;
        let header = Self::from(scanned);
        if header.sop_class.as_deref() == Some(DIRECTORY_CLASS) {
            return Err(DicomFault::Directory.into());
        }
        // A data set read by a guess is only believed if it says what it is.
        let says_what = header.sop_class.is_some() && header.instance.is_some();
        if header.guessed() && !says_what {
            return Err(DicomFault::NoSyntax.into());
        }
        Ok(header)
    }

    /// A localizer (scout): an overview made to plan the others.
    pub(crate) fn is_localizer(&self) -> bool {
        self.image_type.iter().any(|value| value == "LOCALIZER")
    }

    /// Whether text may stand in the picture: it says so, or it is a capture of a screen, which may show anything
    /// whatever it says (PS3.3 C.7.6.1.1.3, C.8.6.1).
    pub(crate) fn may_show_text(&self) -> bool {
        let class = self.sop_class.as_deref().unwrap_or_default();
        let captured = class
            .strip_prefix(SECONDARY_CAPTURE)
            .is_some_and(|rest| rest.is_empty() || rest.starts_with('.'));
        self.burned_in.as_deref() == Some("YES") || captured || self.conversion_type.is_some()
    }

    /// Whether there are pixel data that a decoder here may read.
    pub(crate) fn has_picture(&self) -> bool {
        let codec = !matches!(self.syntax.codec, Codec::None(_));
        self.raster.is_some() && self.pixels != Pixels::None && codec
    }

    fn guessed(&self) -> bool {
        super::syntax::known(&self.syntax_uid).is_none()
    }
}

impl From<Scanned> for Header {
    fn from(scanned: Scanned) -> Self {
        let values = Reader::new(&scanned.values);
        Self {
            sop_class: values.uid(tags::SOP_CLASS).or_else(|| scanned.front.media_class.clone()),
            instance: values.uid(tags::SOP_INSTANCE),
            study: values.uid(tags::STUDY_UID),
            series: values.uid(tags::SERIES_UID),
            modality: values.code(tags::MODALITY),
            body_part: values.plain(tags::BODY_PART),
            study_description: values.text(tags::STUDY_DESCRIPTION),
            series_description: values.text(tags::SERIES_DESCRIPTION),
            image_type: values.list(tags::IMAGE_TYPE),
            burned_in: values.plain(tags::BURNED_IN),
            conversion_type: values.plain(tags::CONVERSION_TYPE),
            effective: values.effective(),
            instance_number: values.plain(tags::INSTANCE_NUMBER).and_then(|text| text.parse().ok()),
            position: values.numbers(tags::POSITION),
            orientation: values.numbers(tags::ORIENTATION),
            slice_location: values.number(tags::SLICE_LOCATION),
            slice_thickness: values.number(tags::SLICE_THICKNESS),
            pixel_spacing: values.numbers(tags::PIXEL_SPACING),
            slope: values.number(tags::SLOPE).filter(|slope| *slope != 0.0).unwrap_or(1.0),
            intercept: values.number(tags::INTERCEPT).unwrap_or(0.0),
            window: values.window(),
            raster: values.raster(),
            length: scanned.length,
            blake3: scanned.blake3,
            pixels: scanned.pixels,
            syntax: scanned.front.syntax,
            front_bytes: scanned.front.bytes,
            syntax_uid: scanned.front.syntax_uid,
        }
    }
}

/// Values as what they mean.
struct Reader<'a> {
    values: &'a Values,
    charsets: String,
}

impl<'a> Reader<'a> {
    fn new(values: &'a Values) -> Self {
        let charsets = values.bytes(tags::CHARACTER_SET).map(String::from_utf8_lossy).unwrap_or_default();
        Self { values, charsets: charsets.into_owned() }
    }

    /// A value of the default repertoire, without padding.
    fn plain(&self, tag: u32) -> Option<String> {
        let text = String::from_utf8_lossy(self.values.bytes(tag)?).into_owned();
        Some(text.trim_matches(|c: char| c == '\0' || c.is_whitespace()).to_owned())
            .filter(|text| !text.is_empty())
    }

    fn list(&self, tag: u32) -> Vec<String> {
        let text = self.plain(tag).unwrap_or_default();
        text.split('\\').map(|value| value.trim().to_owned()).collect()
    }

    /// A code string that may stand in a path: `CT`, `RTPLAN`.
    fn code(&self, tag: u32) -> Option<String> {
        let fits = |text: &String| {
            text.len() <= 16 && text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit())
        };
        self.plain(tag).filter(fits)
    }

    /// At most 64 bytes of ASCII; letters are against the standard and met.
    fn uid(&self, tag: u32) -> Option<String> {
        self.plain(tag).filter(|text| text.len() <= 64 && text.bytes().all(|byte| byte.is_ascii_graphic()))
    }

    fn text(&self, tag: u32) -> Option<String> {
        let text = text::decode(self.values.bytes(tag)?, &self.charsets);
        (!text.is_empty()).then_some(text)
    }

    fn number(&self, tag: u32) -> Option<f64> {
        self.numbers::<1>(tag).map(|[number]| number)
    }

    /// The first `N` numbers of a DS.
    fn numbers<const N: usize>(&self, tag: u32) -> Option<[f64; N]> {
        let text = self.plain(tag)?;
        let mut values = text.split('\\').map(|value| value.trim().parse::<f64>().ok());
        let mut numbers = [0.0; N];
        for number in &mut numbers {
            *number = values.next()??;
        }
        numbers.iter().all(|number| number.is_finite()).then_some(numbers)
    }

    fn window(&self) -> Option<Window> {
        let (center, width) = (self.number(tags::CENTER)?, self.number(tags::WIDTH)?);
        (width >= 1.0).then_some(Window { center, width })
    }

    fn raster(&self) -> Option<Raster> {
        let short = |tag| self.values.short(tag);
        let bits_allocated = short(tags::BITS_ALLOCATED)?;
        Some(Raster {
            rows: short(tags::ROWS).filter(|count| *count > 0)?,
            columns: short(tags::COLUMNS).filter(|count| *count > 0)?,
            samples: short(tags::SAMPLES).unwrap_or(1),
            bits_allocated,
            bits_stored: short(tags::BITS_STORED).unwrap_or(bits_allocated).clamp(1, bits_allocated.max(1)),
            signed: short(tags::REPRESENTATION) == Some(1),
            planar: short(tags::PLANAR) == Some(1),
            photometric: self.plain(tags::PHOTOMETRIC).unwrap_or_default(),
            frames: self.plain(tags::FRAMES).and_then(|text| text.parse().ok()).unwrap_or(1),
        })
    }

    fn effective(&self) -> Option<Effective> {
        let offset = self.plain(tags::OFFSET_FROM_UTC);
        let pair = |date, clock| {
            when::date_time(&self.plain(date)?, self.plain(clock).as_deref(), offset.as_deref())
        };
        let acquired = self.plain(tags::ACQUISITION_DATE_TIME);
        acquired
            .and_then(|text| when::point(&text, offset.as_deref()))
            .or_else(|| pair(tags::ACQUISITION_DATE, tags::ACQUISITION_TIME))
            .or_else(|| pair(tags::CONTENT_DATE, tags::CONTENT_TIME))
            .or_else(|| pair(tags::SERIES_DATE, tags::SERIES_TIME))
            .or_else(|| pair(tags::STUDY_DATE, tags::STUDY_TIME))
    }
}
