//! Small DICOM files of our own: a CT of a phantom head in any number of slices, and elements to build odd ones of.
//!
//! For: tests that need a series, or a file that is wrong in one place. Not for: knowing anything of the product; it
//! stands alone, written from PS3.5 and PS3.10.

/// How elements are written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Syntax {
    ImplicitLittle,
    ExplicitLittle,
    ExplicitBig,
}

impl Syntax {
    pub fn uid(self) -> &'static str {
        match self {
            Self::ImplicitLittle => "1.2.840.10008.1.2",
            Self::ExplicitLittle => "1.2.840.10008.1.2.1",
            Self::ExplicitBig => "1.2.840.10008.1.2.2",
        }
    }
}

/// A data set under construction; elements go in rising order of their tags.
#[derive(Debug, Clone)]
pub struct DataSet {
    pub syntax: Syntax,
    pub bytes: Vec<u8>,
}

impl DataSet {
    pub fn new(syntax: Syntax) -> Self {
        Self { syntax, bytes: Vec::new() }
    }

    /// One element; `value` is already in the byte order of the syntax. An odd one is padded.
    pub fn put(&mut self, tag: u32, vr: &str, value: &[u8]) -> &mut Self {
        let pad = if vr == "UI" || vr.starts_with('O') { 0 } else { b' ' };
        let length = u32::try_from(value.len() + value.len() % 2).expect("test values are short");
        self.head(tag, vr, length);
        self.bytes.extend_from_slice(value);
        self.bytes.extend(std::iter::repeat_n(pad, value.len() % 2));
        self
    }

    pub fn text(&mut self, tag: u32, vr: &str, value: &str) -> &mut Self {
        self.put(tag, vr, value.as_bytes())
    }

    pub fn short(&mut self, tag: u32, value: u16) -> &mut Self {
        let bytes = if self.big() { value.to_be_bytes() } else { value.to_le_bytes() };
        self.put(tag, "US", &bytes)
    }

    /// The head of an element that states `length`, true or not.
    pub fn head(&mut self, tag: u32, vr: &str, length: u32) -> &mut Self {
        self.tag(tag);
        let short = u16::try_from(length).unwrap_or(u16::MAX);
        match (self.syntax, vr) {
            (Syntax::ImplicitLittle, _) => self.long(length),
            (_, "OB" | "OW" | "OF" | "SQ" | "UN" | "UT") => {
                self.bytes.extend_from_slice(vr.as_bytes());
                self.bytes.extend([0, 0]);
                self.long(length)
            }
            _ => {
                self.bytes.extend_from_slice(vr.as_bytes());
                let bytes = if self.big() { short.to_be_bytes() } else { short.to_le_bytes() };
                self.bytes.extend(bytes);
                self
            }
        }
    }

    /// An item or delimiter: a tag and a length.
    pub fn mark(&mut self, tag: u32, length: u32) -> &mut Self {
        self.tag(tag).long(length)
    }

    fn tag(&mut self, tag: u32) -> &mut Self {
        for half in [tag >> 16, tag & 0xFFFF] {
            let half = u16::try_from(half).expect("half of a tag has 16 bits");
            self.bytes.extend(if self.big() { half.to_be_bytes() } else { half.to_le_bytes() });
        }
        self
    }

    fn long(&mut self, value: u32) -> &mut Self {
        self.bytes.extend(if self.big() { value.to_be_bytes() } else { value.to_le_bytes() });
        self
    }

    fn big(&self) -> bool {
        self.syntax == Syntax::ExplicitBig
    }

    /// As a file with preamble and file meta information (PS3.10 section 7.1) in the data set's own syntax.
    pub fn file(&self) -> Vec<u8> {
        file(self.syntax.uid(), &self.bytes)
    }
}

pub const ITEM: u32 = 0xFFFE_E000;
pub const ITEM_END: u32 = 0xFFFE_E00D;
pub const SEQUENCE_END: u32 = 0xFFFE_E0DD;
pub const UNDEFINED: u32 = 0xFFFF_FFFF;

/// A file around the bytes of a data set in any syntax.
pub fn file(syntax_uid: &str, data_set: &[u8]) -> Vec<u8> {
    let mut meta = DataSet::new(Syntax::ExplicitLittle);
    meta.put(0x0002_0001, "OB", &[0, 1]).text(0x0002_0010, "UI", syntax_uid);
    let length = u32::try_from(meta.bytes.len()).expect("meta information is short");
    let mut front = DataSet::new(Syntax::ExplicitLittle);
    front.put(0x0002_0000, "UL", &length.to_le_bytes());
    [&[0; 128][..], b"DICM", &front.bytes, &meta.bytes, data_set].concat()
}

/// A CT of a head that nobody has: a skull, a brain that brightens slice by slice, and one dense spot in it.
#[derive(Debug, Clone, Copy)]
pub struct Phantom {
    pub slices: u32,
    /// Rows and columns, in pixels.
    pub side: u16,
    /// Makes its UIDs and its noise; the same seed gives the same bytes.
    pub seed: u32,
}

/// Distance of slices, in millimetres.
pub const SPACING_MM: u32 = 5;

impl Phantom {
    pub fn study_uid(self) -> String {
        format!("2.25.{}0000001", self.seed)
    }

    pub fn series_uid(self) -> String {
        format!("2.25.{}0000002", self.seed)
    }

    /// Slice `index` counts from the neck upwards.
    pub fn instance_uid(self, index: u32) -> String {
        format!("2.25.{}1{index:06}", self.seed)
    }

    /// The file of slice `index`. Instance numbers run from the top down, against the geometry.
    pub fn slice(self, index: u32, syntax: Syntax) -> Vec<u8> {
        let mut set = self.header(index, syntax);
        let words = self.pixels(index);
        let order = |word: &i16| match syntax {
            Syntax::ExplicitBig => word.to_be_bytes(),
            _ => word.to_le_bytes(),
        };
        let bytes: Vec<u8> = words.iter().flat_map(order).collect();
        set.put(0x7FE0_0010, "OW", &bytes);
        set.file()
    }

    /// All but the pixel data.
    pub fn header(self, index: u32, syntax: Syntax) -> DataSet {
        let z = i64::from(index * SPACING_MM) - 100;
        let mut set = DataSet::new(syntax);
        set.text(0x0008_0005, "CS", "ISO_IR 192")
            .text(0x0008_0008, "CS", "ORIGINAL\\PRIMARY\\AXIAL")
            .text(0x0008_0016, "UI", "1.2.840.10008.5.1.4.1.1.2")
            .text(0x0008_0018, "UI", &self.instance_uid(index))
            .text(0x0008_0020, "DA", "20240229")
            .text(0x0008_0022, "DA", "20240229")
            .text(0x0008_0030, "TM", "081500")
            .text(0x0008_0032, "TM", "081530.25")
            .text(0x0008_0060, "CS", "CT")
            .text(0x0008_0201, "SH", "+0900")
            .text(0x0008_1030, "LO", "頭部 CT")
            .text(0x0008_103E, "LO", "Phantom")
            .text(0x0010_0010, "PN", "Mori^Hana")
            .text(0x0018_0015, "CS", "HEAD")
            .text(0x0018_0050, "DS", &SPACING_MM.to_string())
            .text(0x0020_000D, "UI", &self.study_uid())
            .text(0x0020_000E, "UI", &self.series_uid())
            .text(0x0020_0013, "IS", &(self.slices - index).to_string())
            .text(0x0020_0032, "DS", &format!("-128\\-128\\{z}"))
            .text(0x0020_0037, "DS", "1\\0\\0\\0\\1\\0")
            .text(0x0020_1041, "DS", &z.to_string())
            .short(0x0028_0002, 1)
            .text(0x0028_0004, "CS", "MONOCHROME2")
            .short(0x0028_0010, self.side)
            .short(0x0028_0011, self.side)
            .text(0x0028_0030, "DS", "0.5\\0.5")
            .short(0x0028_0100, 16)
            .short(0x0028_0101, 16)
            .short(0x0028_0102, 15)
            .short(0x0028_0103, 1)
            .text(0x0028_1052, "DS", "-1024")
            .text(0x0028_1053, "DS", "1");
        set
    }

    /// Stored values, row by row: Hounsfield units plus 1024.
    pub fn pixels(self, index: u32) -> Vec<i16> {
        let side = i64::from(self.side);
        let mut noise = self.seed ^ index.wrapping_mul(0x9E37_79B9) | 1;
        let mut values = Vec::with_capacity(usize::from(self.side).pow(2));
        for row in 0..side {
            for column in 0..side {
                // xorshift32: two units of noise, so that no two slices are alike.
                noise ^= noise << 13;
                noise ^= noise >> 17;
                noise ^= noise << 5;
                let grain = i16::try_from(noise % 3).expect("below 3");
                values.push(self.tissue(index, 2 * row - side, 2 * column - side) + grain);
            }
        }
        values
    }

    /// What lies at a point, counted from the middle in half pixels.
    fn tissue(self, index: u32, row: i64, column: i64) -> i16 {
        let side = i64::from(self.side);
        let within = |percent: i64, at: i64| {
            let (tall, wide) = (side * percent, side * percent * 8 / 10);
            (100 * row).pow(2) * wide.pow(2) + (100 * (column - at)).pow(2) * tall.pow(2)
                <= tall.pow(2) * wide.pow(2)
        };
        let brightness = i16::try_from(20 * index / self.slices.max(1)).expect("at most 20");
        match () {
            () if !within(90, 0) => 24,
            () if !within(80, 0) => 1024 + 900,
            () if within(12, side / 3) => 1024 + 75,
            () => 1024 + 25 + brightness,
        }
    }
}
