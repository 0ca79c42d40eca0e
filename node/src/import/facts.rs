//! What an import yields: the bytes of a record-to-be and the facts a label will say about them.
//!
//! For: plain types that every format fills. Not for: the subject (the caller knows whose data it imports),
//! sealing, or the label's encoding.

use std::path::PathBuf;

/// Longest title, in bytes. 200: two lines on a phone, also in a script of three bytes a character.
pub const TITLE_BYTES_MAX: usize = 200;

/// What a label will say about a record.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Facts {
    /// `fhir/Observation`, `fhir/Bundle`, `document/pdf`, ...
    pub kind: String,
    /// Category codes without their systems, in order, each once.
    pub categories: Vec<String>,
    /// Every coding of the main code, in order, each once.
    pub codes: Vec<Code>,
    /// When the fact was true of the patient, as far as it is stated.
    pub effective: Option<Effective>,
    /// For people. At most [`TITLE_BYTES_MAX`] bytes, without control characters.
    pub title: String,
    pub media_type: String,
    /// `Bundle.entry.fullUrl`.
    pub full_url: Option<String>,
    /// `ResourceType/id`, where an id is stated.
    pub source_id: Option<String>,
    /// `meta.profile`.
    pub profiles: Vec<String>,
    /// The larger thing it is a part of, and where in it.
    pub group: Option<Group>,
    /// HL7 Confidentiality or sensitivity codes.
    pub sensitivity: Vec<String>,
    /// blake3 of the original bytes of what it was made from; those came before it in the same import.
    pub derived_from: Vec<[u8; 32]>,
    /// Its label and author as another node exported them; then nothing else here counts.
    pub proof: Option<Proof>,
    /// Whether a later finding with the same kind and `source_id` takes the place of an earlier one: a fuller day.
    pub replaces_same_source: bool,
}

/// A label that its author signed, unverified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Proof {
    /// COSE bytes of the label.
    pub label: Vec<u8>,
    /// COSE bytes of the author's identity entries.
    pub identity: Vec<Vec<u8>>,
}

/// The study and series something is a slice of.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Group {
    /// Study Instance UID (DICOM 0020,000D), or the name of another whole.
    pub study: String,
    /// Series Instance UID (0020,000E).
    pub series: Option<String>,
    /// SOP Instance UID (0008,0018).
    pub instance: Option<String>,
    /// Order within the series, from 0.
    pub position: Option<u32>,
}

/// One coding; the system is empty where none is stated.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Code {
    pub system: String,
    pub code: String,
}

/// The time that is stated, as a window: a date covers its day, a year its year, an instant itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Effective {
    /// Unix time in milliseconds.
    pub start_ms: i64,
    /// Exclusive end in Unix milliseconds; equal to the start for an instant.
    pub end_ms: i64,
    /// The offset as written, in minutes east of UTC; 0 where none is written.
    pub offset_min: i16,
}

/// The exact original bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Body {
    Memory(Vec<u8>),
    /// A whole file that was not read, and its length in bytes when it was looked at.
    File(PathBuf, u64),
}

/// One record-to-be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    pub bytes: Body,
    pub facts: Facts,
    /// Path, line and entry number: for messages only.
    pub origin: String,
}

/// `text` without characters that act on a terminal or reorder a line, cut at a character boundary.
pub(super) fn clean(text: &str, bytes_max: usize) -> String {
    let mut out = String::new();
    for c in text.trim().chars() {
        let c = if acts_on_display(c) { '\u{fffd}' } else { c };
        if out.len() + c.len_utf8() > bytes_max {
            break;
        }
        out.push(c);
    }
    out
}

/// Control characters, and the bidirectional overrides that let a name show as another name.
fn acts_on_display(c: char) -> bool {
    c.is_control() || matches!(c, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}
