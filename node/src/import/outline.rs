//! The outline of a JSON text, read as a stream: how deep, whether it claims to be FHIR, where it ends.
//!
//! For: deciding who reads a file before any of it is held in memory, and bounding depth. Not for: judging
//! whether the text is valid JSON; serde_json does that, and neither of the two recurses.

use std::io::{self, BufRead};

/// The name that makes a JSON object a FHIR resource.
const CLAIM: &[u8] = b"resourceType";

/// What one pass over the first JSON value saw.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Outline {
    /// The first value is an object with a field `resourceType` of its own, at whatever place.
    pub(super) claims_fhir: bool,
    /// The deepest nesting of objects and lists.
    pub(super) depth: u32,
    /// The first value ended before the first line did.
    pub(super) one_line: bool,
    /// Something follows the first value, on a later line.
    pub(super) more_lines: bool,
}

/// Read `text` up to the first thing after its first value.
pub(super) fn outline(mut text: impl BufRead) -> io::Result<Outline> {
    let mut scan = Scan::default();
    loop {
        let chunk = text.fill_buf()?;
        if chunk.is_empty() || scan.feed(chunk) == Step::Done {
            return Ok(scan.seen);
        }
        let length = chunk.len();
        text.consume(length);
    }
}

/// The depth of a text that is in memory.
pub(super) fn depth(text: &str) -> u32 {
    outline(text.as_bytes()).map_or(u32::MAX, |seen| seen.depth)
}

#[derive(PartialEq, Eq)]
enum Step {
    On,
    Done,
}

#[derive(Default)]
struct Scan {
    seen: Outline,
    depth: u32,
    in_text: bool,
    escaped: bool,
    ended: bool,
    lines: bool,
    /// How many bytes of the current text agree with [`CLAIM`]; `None` once one does not.
    agreed: Option<usize>,
    /// The last token was the text `resourceType` in the outermost object: a field's name if a colon follows.
    named: bool,
}

impl Scan {
    fn feed(&mut self, mut chunk: &[u8]) -> Step {
        while let Some((&byte, rest)) = chunk.split_first() {
            chunk = rest;
            if self.in_text {
                self.text(byte);
            } else if self.token(byte) == Step::Done {
                return Step::Done;
            }
        }
        Step::On
    }

    fn text(&mut self, byte: u8) {
        if self.escaped {
            self.escaped = false;
        } else if byte == b'\\' {
            (self.escaped, self.agreed) = (true, None);
        } else if byte == b'"' {
            self.in_text = false;
            self.named = self.depth == 1 && self.agreed == Some(CLAIM.len());
        } else {
            self.agreed = self.agreed.filter(|n| CLAIM.get(*n) == Some(&byte)).map(|n| n + 1);
        }
    }

    fn token(&mut self, byte: u8) -> Step {
        if byte.is_ascii_whitespace() {
            self.lines |= byte == b'\n';
            return Step::On;
        }
        if self.ended {
            self.seen.more_lines = self.lines;
            return Step::Done;
        }
        self.seen.claims_fhir |= self.named && byte == b':';
        self.named = false;
        match byte {
            b'"' => (self.in_text, self.agreed) = (true, Some(0)),
            b'{' | b'[' => self.down(),
            b'}' | b']' => self.up(),
            _ => {}
        }
        Step::On
    }

    fn down(&mut self) {
        self.depth = self.depth.saturating_add(1);
        self.seen.depth = self.seen.depth.max(self.depth);
    }

    fn up(&mut self) {
        self.depth = self.depth.saturating_sub(1);
        if self.depth == 0 {
            self.ended = true;
            // From here on, `lines` counts what stands between the first value and the next.
            self.seen.one_line = !std::mem::take(&mut self.lines);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_claim_is_a_name_of_the_outermost_object() {
        let claims = |text: &str| outline(text.as_bytes()).unwrap().claims_fhir;
        assert!(claims(r#"{"id":"a]}\"","entry":[{"x":1}], "resourceType" : "Bundle"}"#), "at the end");
        assert!(claims(r#"{"resourceType":"Patient","id"#), "cut short");
        assert!(!claims(r#"{"a":"resourceType"}"#), "as a value");
        assert!(!claims(r#"{"a":{"resourceType":"Patient"}}"#), "inside");
        assert!(!claims(r#"{"resourceTypes":1,"xresourceType":1}"#));
        assert!(!claims(r#"["resourceType", {"resourceType":1}]"#));
    }

    #[test]
    fn lines_and_depth_are_seen() {
        let seen = outline("{\"a\":[[1]]}\n{\"b\":1}".as_bytes()).unwrap();
        assert_eq!(seen, Outline { claims_fhir: false, depth: 3, one_line: true, more_lines: true });
        assert!(!outline("{} {}\n".as_bytes()).unwrap().more_lines, "two on a line are a fault, not lines");
        assert!(!outline("{\n}\n".as_bytes()).unwrap().one_line);
        assert_eq!(depth(&"[".repeat(100_000)), 100_000, "depth costs no stack");
    }
}
