//! Why something was not imported.
//!
//! For: sentences a person can act on. Not for: quoting what is inside a record; at most a field's name, a
//! resource type or a position is said, so an error log holds no health data.

#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ImportError {
    #[error("expected at least one byte, got an empty file")]
    Empty,
    #[error("expected a file or folder, got {got}")]
    NotAFile { got: &'static str },
    #[error("expected a readable file, got: {got}")]
    Unreadable { got: String },
    #[error("expected at most {max} files in one import, got more; import the folders one after another")]
    TooManyFiles { max: usize },
    #[error("expected folders at most {max} deep, got a deeper one")]
    FolderTooDeep { max: usize },
    #[error("expected FHIR JSON, got {got}")]
    NotFhir { got: String },
    #[error("expected UTF-8, got another byte at offset {offset}")]
    NotUtf8 { offset: usize },
    #[error("expected valid JSON, got a fault at line {line} column {column}: {fault}")]
    Syntax { line: usize, column: usize, fault: String },
    #[error("expected a JSON object, got something else")]
    NotAnObject,
    #[error("expected each field once, got \"{key}\" twice")]
    DuplicateField { key: String },
    #[error("expected at most {max} fields in an object, got more")]
    TooManyFields { max: usize },
    #[error("expected a field \"resourceType\", got none")]
    NoResourceType,
    #[error("expected \"resourceType\" to be text, got something else")]
    ResourceTypeNotText,
    #[error("expected a FHIR R4 resource type, got \"{got}\"")]
    UnknownResourceType { got: String },
    #[error("expected a resource of at most {max} bytes, got {got}")]
    ResourceTooLarge { max: u64, got: u64 },
    #[error(
        "expected a FHIR JSON file of at most {max} bytes, got {got}; export it as NDJSON, which has no such bound"
    )]
    FileTooLarge { max: u64, got: u64 },
    #[error("expected a line of at most {max} bytes, got a longer one")]
    LineTooLong { max: u64 },
    #[error("expected objects and lists at most {max} deep, got {got}")]
    TooDeep { max: u32, got: u32 },
    #[error("expected a Bundle.type of FHIR R4, got \"{got}\"")]
    UnknownBundleType { got: String },
    #[error("expected Bundle.entry to be a list, got something else")]
    EntryNotAList,
    #[error("expected Bundles at most {max} deep in each other, got more")]
    BundleTooDeep { max: u32 },
    #[error("{count} more records of this file were refused; correct the first ones and import it again")]
    AndMore { count: u64 },
    #[error(transparent)]
    Dicom(#[from] super::dicom::DicomFault),
}

impl From<std::io::Error> for ImportError {
    fn from(error: std::io::Error) -> Self {
        Self::Unreadable { got: error.to_string() }
    }
}
