//! Why a DICOM file was not taken, and why a picture was not decoded.
//!
//! For: sentences with tags, offsets and numbers. Not for: values; an error log holds no health data.

use std::fmt;

/// A tag (PS3.5 section 7.1): the group in the upper 16 bits, the element in the lower.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Tag(pub u32);

impl Tag {
    pub(super) const fn group(self) -> u32 {
        self.0 >> 16
    }
}

impl fmt::Display for Tag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "({:04X},{:04X})", self.group(), self.0 & 0xFFFF)
    }
}

/// Why a file is not taken as DICOM.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DicomFault {
    #[error("expected \"DICM\" at byte 128 or a data set at byte 0, got neither")]
    NotDicom,
    #[error(
        "expected {tag} at byte {offset} to be at most {left} bytes long (all that is left), got {got}; the file is cut short or damaged"
    )]
    TooLong { tag: Tag, offset: u64, left: u64, got: u64 },
    #[error("expected {expected} at byte {offset}, got the end; the file is cut short")]
    Ends { offset: u64, expected: &'static str },
    #[error("expected a value representation of PS3.5 for {tag} at byte {offset}, got the bytes {got:02x?}")]
    UnknownVr { tag: Tag, offset: u64, got: [u8; 2] },
    #[error("expected {tag} at byte {offset} to state its length, got none")]
    NoLength { tag: Tag, offset: u64 },
    #[error("expected {expected} at byte {offset}, got {got}")]
    Misplaced { expected: &'static str, offset: u64, got: Tag },
    #[error("expected sequences at most {max} deep, got a deeper one")]
    TooDeep { max: usize },
    #[error("expected at most {max} elements in a file, got more")]
    TooManyElements { max: u64 },
    #[error("expected file meta information of at most {max} bytes, got more")]
    MetaTooLong { max: usize },
    #[error("expected a deflated data set to inflate to at most {max} bytes, got more")]
    InflatesTooFar { max: u64 },
    #[error("expected a deflated data set, got a fault in it: {fault}")]
    Inflate { fault: String },
    #[error(
        "expected a transfer syntax (0002,0010), got none; without it and without SOP class and instance the bytes could be read in two ways"
    )]
    NoSyntax,
    #[error(
        "expected a fragment of pixel data to be an item with a length, got something else at byte {offset}"
    )]
    BadFragment { offset: u64 },
    #[error("expected {stated} bytes, got {got}; the file changed while it was read")]
    Changed { stated: u64, got: u64 },
    #[error(
        "expected an image or report, got a directory of a file set (DICOMDIR); the files it lists are imported by themselves"
    )]
    Directory,
    #[error("expected at most {max} instances in one import, got more; import the studies one after another")]
    TooManyInstances { max: usize },
    #[error("expected one SOP instance {uid} once, got another with other bytes; both are kept")]
    SameInstance { uid: String },
}

/// Why a picture cannot be shown here. The file is kept all the same.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PixelFault {
    #[error("no pixel data in it")]
    NoPixels,
    #[error("not decodable here: transfer syntax {uid} ({name})")]
    Syntax { uid: String, name: &'static str },
    #[error("not decodable here: {what}")]
    Layout { what: &'static str },
    #[error("expected a frame of at most {max} bytes, got {got}")]
    FrameTooLarge { max: u64, got: u64 },
    #[error("expected {expected} bytes of pixel data, got {got}")]
    Short { expected: u64, got: u64 },
    #[error("expected a frame of {expected} (columns, rows, samples, bits), got {got}")]
    Mismatch { expected: String, got: String },
    #[error("not decodable here: {fault}")]
    Decoder { fault: String },
    #[error("expected frame {got} to be below {frames}")]
    NoSuchFrame { got: u32, frames: u32 },
    #[error("expected readable pixel data, got: {got}")]
    Unreadable { got: String },
    #[error("expected all pictures of one import to need at most {max} bytes of memory, got more")]
    TooManySeries { max: usize },
}

impl From<std::io::Error> for PixelFault {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable { got: error.to_string() }
    }
}
