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
    #[error("expected a file of at most {max} bytes, got {got}")]
    TooLargeToHold { max: u64, got: u64 },
    #[error("expected an entry of at most {max} bytes, got a larger one; unpack it and import the file")]
    EntryTooLarge { max: u64 },
    #[error("expected a whole archive, got: {got}; copy it again, or unpack it and import the folder")]
    ArchiveDamaged { got: String },
    #[error("expected an archive with entries, got an empty one")]
    ArchiveEmpty,
    #[error("expected an archive on disk, got one in an archive; unpack it")]
    ArchiveInArchive,
    #[error("expected at most {max} entries in an archive, got more; unpack it and import its folders")]
    TooManyEntries { max: usize },
    #[error("expected each byte of an archive to belong to one entry, got entries that overlap")]
    EntriesOverlap,
    #[error("expected an entry without a password, got an encrypted one; unpack it and import the file")]
    Encrypted,
    #[error("expected an entry stored or deflated, got {got}; unpack it and import the file")]
    PackedOtherwise { got: String },
    #[error("expected a plain entry, got a sparse one; unpack it and import the file")]
    Sparse,
    #[error("expected an entry of {expected} bytes, got {got}; the archive is cut short")]
    EntryCutShort { expected: u64, got: u64 },
    #[error(
        "expected an archive that unpacks to at most {max} times its size, got more; unpack it if you trust it"
    )]
    RatioTooHigh { max: u64 },
    #[error(
        "expected an archive that unpacks to at most {max} bytes, got more; unpack it and import its folders"
    )]
    UnpacksTooFar { max: u64 },
    #[error("expected XML in UTF-8, got another encoding")]
    XmlEncoding,
    #[error("expected XML with the root <{expected}>, got something else")]
    XmlRoot { expected: String },
    #[error("expected XML, got a fault at byte {offset}: {fault}; what stood before it was read")]
    Xml { offset: u64, fault: String },
    #[error("expected elements at most {max} deep, got a deeper one")]
    XmlTooDeep { max: usize },
    #[error("expected at most {max} attributes in an element, got more")]
    TooManyAttributes { max: usize },
    #[error("expected attributes of the form name=\"value\", each once, got something else")]
    AttributeMalformed,
    #[error("expected an element of at most {max} bytes, got a larger one")]
    ElementTooLarge { max: usize },
    #[error("expected no entities beside the five of XML, got another one")]
    EntityUnknown,
    #[error(
        "expected XML that declares no entities, got declarations; --format document keeps it unread if you trust it"
    )]
    EntityDeclared,
    #[error(
        "expected XML that stands for itself, got a reference to an outside DTD; --format document keeps it"
    )]
    ExternalId,
    #[error("expected XML declarations of at most {max} bytes, got more; --format document keeps it unread")]
    PrologTooLong { max: usize },
    #[error("expected the name of a type or source of at most {max} bytes, got a longer one")]
    NameTooLong { max: usize },
    #[error("expected a startDate, dateComponents, dateIssued or receivedDate, got none that is a date")]
    NoDate,
    #[error("expected at most {max} days of values of all people in one file, got more")]
    TooManyDays { max: usize },
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
    #[error("expected an index of an exported folder, got {what}")]
    Export { what: &'static str },
    #[error("{count} more records of this file were refused; correct the first ones and import it again")]
    AndMore { count: u64 },
    #[error(
        "expected one person in the file, got {count}; choose one with --person ID, or all of them, kept apart, with --person all"
    )]
    SeveralPeople { count: usize },
    #[error("expected rows of the chosen person, got none among {count} people")]
    PersonNotInFile { count: usize },
    #[error(
        "expected a file of at most {max} bytes when it may hold several people; choose one with --person ID, or --person all"
    )]
    PersonNotChosen { max: u64 },
    #[error("expected a column \"{column}\", got none")]
    ColumnMissing { column: String },
    #[error("expected {expected} cells in a row, got {got}")]
    CellCount { expected: usize, got: usize },
    #[error("expected at most {max} columns, got more")]
    TooManyColumns { max: usize },
    #[error("expected a row of CSV (RFC 4180), got quotes that do not fit")]
    CsvQuotes,
    #[error("expected UTF-8 or Shift_JIS, got other bytes")]
    TextEncoding,
    #[error("expected a time in column \"{column}\", got none that its formats read")]
    TimeUnread { column: String },
    #[error(
        "expected a date that means one day in column \"{column}\", got one that could be two; state the order of day and month with --map"
    )]
    DateAmbiguous { column: String },
    #[error("expected a number in column \"{column}\", got something else")]
    NumberUnread { column: String },
    #[error(
        "expected the rows of a day together in a file this long, got one of a day that was finished; sort it by time"
    )]
    RowOutOfOrder,
    #[error("expected a CSV mapping, got a fault: {fault}")]
    Mapping { fault: String },
    #[error(
        "expected a CSV that one of the mappings knows by its header, got another; write one and name it with --map"
    )]
    NoMapping,
    #[error("expected {what} in the answer of {vendor}, got {got}")]
    VendorAnswer { vendor: &'static str, what: &'static str, got: &'static str },
    #[error("expected a FIT file header (12 or 14 bytes and \".FIT\"), got another")]
    FitHeader,
    #[error("expected the FIT checksum {expected:#06x} that the file states, got {got:#06x} for its bytes")]
    FitCrc { expected: u16, got: u16 },
    #[error("expected a FIT file of {expected} bytes, got one cut short at {got}")]
    FitCutShort { expected: u64, got: u64 },
    #[error("expected at most {max} messages in a FIT file, got more")]
    FitTooLong { max: u64 },
    #[error("expected FIT messages, got a fault: {fault}")]
    FitFault { fault: &'static str },
    #[error(
        "expected what the schema {schema} says of \"{field}\", got a value that breaks its rule \"{rule}\""
    )]
    SchemaBroken { schema: String, field: String, rule: String },
    #[error("expected a schema that can be used for {schema}, got: {fault}")]
    SchemaUnusable { schema: String, fault: String },
    #[error(
        "expected \"{field}\" in a data point of Open mHealth, got none that can be read; state its schemas with --schemas DIR"
    )]
    DataPointUnread { field: String },
    #[error("expected a dialysis session, got: {fault}")]
    Session { fault: String },
    #[error(transparent)]
    Dicom(#[from] super::dicom::DicomFault),
}

impl ImportError {
    /// Why a reader failed. A reader of ours sends its own reason through readers that know only `io::Error`.
    pub(super) fn of(error: &std::io::Error) -> Self {
        match error.get_ref().and_then(|inner| inner.downcast_ref::<Self>()) {
            Some(reason) => reason.clone(),
            None => Self::Unreadable { got: error.to_string() },
        }
    }
}

impl From<std::io::Error> for ImportError {
    fn from(error: std::io::Error) -> Self {
        Self::of(&error)
    }
}
