//! Rows of CSV (RFC 4180): their exact bytes, and their cells as text.
//!
//! For: one row at a time, bounded. Not for: what a column means.

use std::io::BufRead;

use crate::import::error::ImportError;

/// Longest row, in bytes. 64 KiB: a diary's note fits, and a quote left open ends here.
pub(super) const ROW_BYTES_MAX: u64 = 64 * 1024;
/// Most columns. 500: the widest export known here has 60.
pub(super) const COLUMNS_MAX: usize = 500;

/// Put the bytes of the next row into `row`, with its line ending; false at the end. A line break inside quotes
/// does not end a row: until then the number of quotes is odd, in UTF-8 and in Shift_JIS.
pub(super) fn next_row(input: &mut dyn BufRead, row: &mut Vec<u8>) -> Result<bool, ImportError> {
    row.clear();
    let mut quotes = 0_usize;
    loop {
        let before = row.len();
        read_line(input, row)?;
        if row.len() == before {
            return Ok(before > 0);
        }
        quotes += row.iter().skip(before).filter(|byte| **byte == b'"').count();
        if quotes.is_multiple_of(2) {
            return Ok(true);
        }
    }
}

/// One more line behind `row`. Too long a line is read to its end, so that the next row is a row again.
fn read_line(input: &mut dyn BufRead, row: &mut Vec<u8>) -> Result<(), ImportError> {
    let mut too_long = false;
    loop {
        let chunk = input.fill_buf()?;
        let end = chunk.iter().position(|byte| *byte == b'\n').map(|at| at + 1);
        let taken = chunk.get(..end.unwrap_or(chunk.len())).unwrap_or_default();
        let count = taken.len();
        too_long |= row.len() as u64 + count as u64 > ROW_BYTES_MAX;
        if !too_long {
            row.extend_from_slice(taken);
        }
        input.consume(count);
        if end.is_some() || count == 0 {
            break;
        }
    }
    if too_long { Err(ImportError::LineTooLong { max: ROW_BYTES_MAX }) } else { Ok(()) }
}

/// Splits rows into cells, with its buffers kept from row to row.
pub(super) struct Cells {
    parser: csv_core::Reader,
    row: Vec<u8>,
    bytes: Vec<u8>,
    ends: Vec<usize>,
}

impl Cells {
    pub(super) fn new(delimiter: char) -> Self {
        let delimiter = u8::try_from(delimiter).unwrap_or(b',');
        let parser = csv_core::ReaderBuilder::new().delimiter(delimiter).build();
        Self { parser, row: Vec::new(), bytes: Vec::new(), ends: vec![0; COLUMNS_MAX + 1] }
    }

    /// The cells of one row of [`next_row`].
    pub(super) fn split(&mut self, row: &[u8]) -> Result<Vec<String>, ImportError> {
        let count = self.parse(row)?;
        let mut cells = Vec::with_capacity(count);
        let mut start = 0;
        for end in self.ends.iter().take(count) {
            cells.push(text(self.bytes.get(start..*end).unwrap_or_default())?);
            start = *end;
        }
        Ok(cells)
    }

    /// The parser is given the row with one line ending more, so that a file's last row ends too.
    fn parse(&mut self, row: &[u8]) -> Result<usize, ImportError> {
        self.row.clear();
        self.row.extend_from_slice(row.strip_prefix(b"\xef\xbb\xbf").unwrap_or(row));
        self.row.push(b'\n');
        self.bytes.resize(self.row.len() + 1, 0);
        self.parser.reset();
        let (result, read, _, count) = self.parser.read_record(&self.row, &mut self.bytes, &mut self.ends);
        match result {
            csv_core::ReadRecordResult::Record if self.row.get(read..).is_none_or(blank) => Ok(count),
            csv_core::ReadRecordResult::OutputEndsFull => {
                Err(ImportError::TooManyColumns { max: COLUMNS_MAX })
            }
            _ => Err(ImportError::CsvQuotes),
        }
    }
}

/// Whether nothing but a line ending is there.
pub(super) fn blank(row: &[u8]) -> bool {
    row.iter().all(|byte| matches!(byte, b'\r' | b'\n' | b' ' | b'\t'))
}

/// UTF-8, or else Shift_JIS: no Japanese text of more than a few characters is both.
fn text(cell: &[u8]) -> Result<String, ImportError> {
    if let Ok(text) = std::str::from_utf8(cell) {
        return Ok(text.trim().to_owned());
    }
    let (text, faulty) = encoding_rs::SHIFT_JIS.decode_without_bom_handling(cell);
    if faulty { Err(ImportError::TextEncoding) } else { Ok(text.trim().to_owned()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(bytes: &[u8]) -> Vec<Vec<u8>> {
        let (mut input, mut row, mut out) = (bytes, Vec::new(), Vec::new());
        while next_row(&mut input, &mut row).unwrap() {
            out.push(row.clone());
        }
        out
    }

    fn quoted(cell: &str) -> String {
        format!("\"{}\"", cell.replace('"', "\"\""))
    }

    #[test]
    fn a_quoted_cell_may_hold_line_breaks_and_quotes() {
        let file = b"a,\"b\r\n\"\"c\"\"\",d\r\nnext,row,\"\"";
        let found = rows(file);
        assert_eq!(found.len(), 2);
        assert_eq!(found.concat(), file, "no byte is lost between rows");
        assert_eq!(Cells::new(',').split(&found[0]).unwrap(), ["a", "b\r\n\"c\"", "d"]);
        assert_eq!(Cells::new(',').split(&found[1]).unwrap(), ["next", "row", ""]);
    }

    #[test]
    fn shift_jis_and_utf8_read_alike() {
        let (shift_jis, _, _) = encoding_rs::SHIFT_JIS.encode("測定日,最高血圧(mmHg)\r\n");
        let utf8 = "\u{feff}測定日,最高血圧(mmHg)\n";
        assert_eq!(
            Cells::new(',').split(&shift_jis).unwrap(),
            Cells::new(',').split(utf8.as_bytes()).unwrap()
        );
        assert_eq!(Cells::new(',').split(b"a,\xff\xff"), Err(ImportError::TextEncoding));
    }

    #[test]
    fn a_row_is_bounded_in_bytes_and_columns() {
        let long = [vec![b'x'; 70_000], b"\nnext\n".to_vec()].concat();
        let (mut input, mut row) = (&long[..], Vec::new());
        assert!(matches!(next_row(&mut input, &mut row), Err(ImportError::LineTooLong { .. })));
        assert!(next_row(&mut input, &mut row).unwrap());
        assert_eq!(row, b"next\n");
        let wide = ",".repeat(COLUMNS_MAX + 5);
        assert_eq!(
            Cells::new(',').split(wide.as_bytes()),
            Err(ImportError::TooManyColumns { max: COLUMNS_MAX })
        );
    }

    proptest! {
        /// What is written as RFC 4180 is read as it was, and its bytes are the row.
        #[test]
        fn cells_round_trip(cells in proptest::collection::vec("[ -~\r\n測定]{0,12}", 1..8), ending in prop_oneof![Just("\n"), Just("\r\n"), Just("")]) {
            let line = cells.iter().map(|cell| quoted(cell)).collect::<Vec<_>>().join(",") + ending;
            let found = rows(line.as_bytes());
            prop_assert_eq!(found.len(), 1);
            let read = Cells::new(',').split(&found[0]).unwrap();
            prop_assert_eq!(read, cells.iter().map(|cell| cell.trim().to_owned()).collect::<Vec<_>>());
        }

        #[test]
        fn any_bytes_are_rows_or_refused(bytes in proptest::collection::vec(prop_oneof![any::<u8>(), Just(b'"'), Just(b','), Just(b'\n')], 0..300)) {
            let found = rows(&bytes);
            prop_assert_eq!(found.concat(), bytes);
            let mut cells = Cells::new(',');
            for row in found {
                let _ = cells.split(&row);
            }
        }
    }
}
