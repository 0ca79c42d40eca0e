//! What a file is, by its first bytes.
//!
//! For: naming a format before choosing a reader; content decides. Not for: trusting the name of a file: its
//! ending is asked only where the content allows two readings.

/// How much of a file is looked at, in bytes. 4 KiB: one page, past every signature here.
pub(super) const HEAD_BYTES: usize = 4096;

/// The byte order mark that some exports put before UTF-8.
pub(super) const BOM: &str = "\u{feff}";

/// A kind of document: its label kind and its media type.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Looks {
    pub(super) kind: &'static str,
    pub(super) media_type: &'static str,
}

pub(super) const JSON: Looks = looks("document/json", "application/json");
pub(super) const TEXT: Looks = looks("document/text", "text/plain");
const XML: Looks = looks("document/xml", "application/xml");
const GPX: Looks = looks("document/gpx", "application/gpx+xml");
const OTHER: Looks = looks("document/other", "application/octet-stream");

/// Signatures: where, what, and what that means.
const SIGNATURES: &[(usize, &[u8], Looks)] = &[
    (0, b"%PDF-", looks("document/pdf", "application/pdf")),
    (0, b"\x89PNG\r\n\x1a\n", looks("document/png", "image/png")),
    (0, b"\xff\xd8\xff", looks("document/jpeg", "image/jpeg")),
    (0, b"PK\x03\x04", looks("document/zip", "application/zip")),
    (0, b"PK\x05\x06", looks("document/zip", "application/zip")),
    (0, b"\x1f\x8b\x08", looks("document/gzip", "application/gzip")),
    (257, b"ustar", looks("document/tar", "application/x-tar")),
    (128, b"DICM", looks("document/dicom", "application/dicom")),
];

const fn looks(kind: &'static str, media_type: &'static str) -> Looks {
    Looks { kind, media_type }
}

/// What a file that starts with `head` looks like; [`TEXT`] may turn out to be JSON.
pub(super) fn sniff(head: &[u8]) -> Looks {
    let signed =
        |(at, magic, _): &&(usize, &[u8], Looks)| head.get(*at..).is_some_and(|rest| rest.starts_with(magic));
    if let Some((_, _, looks)) = SIGNATURES.iter().find(signed) {
        return *looks;
    }
    match text(head) {
        Some(text) if starts_markup(text) => markup(text),
        Some(_) => TEXT,
        None => OTHER,
    }
}

/// Whether the first thing in `head` opens a JSON object.
pub(super) fn opens_object(head: &[u8]) -> bool {
    first_byte(head) == Some(b'{')
}

/// Whether the first thing in `head` opens a JSON list.
pub(super) fn opens_list(head: &[u8]) -> bool {
    first_byte(head) == Some(b'[')
}

fn first_byte(head: &[u8]) -> Option<u8> {
    let head = head.strip_prefix(BOM.as_bytes()).unwrap_or(head);
    head.iter().copied().find(|byte| !byte.is_ascii_whitespace())
}

/// `head` as text: UTF-8, perhaps cut inside its last character, and without NUL.
fn text(head: &[u8]) -> Option<&str> {
    let text = match std::str::from_utf8(head) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() && head.len() == HEAD_BYTES => {
            std::str::from_utf8(head.get(..error.valid_up_to())?).ok()?
        }
        Err(_) => return None,
    };
    (!text.contains('\0')).then_some(text.strip_prefix(BOM).unwrap_or(text))
}

/// GPX is the one XML with a name of its own here: a phone's export holds a file of it for each workout outside.
fn markup(text: &str) -> Looks {
    if root_name(text.as_bytes()) == Some("gpx") { GPX } else { XML }
}

/// What the root of the XML is called that `head` begins, if it is called anything there.
pub(super) fn root_name(head: &[u8]) -> Option<&str> {
    let mut rest = text(head)?.trim_start();
    loop {
        rest = match rest.strip_prefix('<')? {
            inner if inner.starts_with('?') => rest.split_once("?>")?.1,
            inner if inner.starts_with("!--") => rest.split_once("-->")?.1,
            inner => {
                let named = inner.strip_prefix("!DOCTYPE").unwrap_or(inner).trim_start();
                let end = named.find(|c: char| c.is_whitespace() || matches!(c, '>' | '/' | '['));
                return named.get(..end.unwrap_or(named.len())).filter(|name| !name.is_empty());
            }
        };
        rest = rest.trim_start();
    }
}

/// XML, but not HTML: a page from elsewhere is shown as plain text or not at all.
fn starts_markup(text: &str) -> bool {
    let Some(rest) = text.trim_start().strip_prefix('<') else {
        return false;
    };
    let word: String = rest.chars().take("!doctype html".len()).collect::<String>().to_ascii_lowercase();
    let html = word.starts_with("!doctype html") || word.starts_with("html");
    !html && word.starts_with(|c: char| c.is_alphabetic() || matches!(c, '?' | '!' | '_'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_names_the_kind() {
        let kind = |head: &[u8]| sniff(head).kind;
        assert_eq!(kind(b"%PDF-1.7\n"), "document/pdf");
        assert_eq!(kind(b"\x89PNG\r\n\x1a\n\0"), "document/png");
        assert_eq!(kind(b"\xff\xd8\xff\xe0"), "document/jpeg");
        assert_eq!(kind(&[vec![0; 128], b"DICM".to_vec()].concat()), "document/dicom");
        assert_eq!(kind("\u{feff} <?xml version='1.0'?>".as_bytes()), "document/xml");
        assert_eq!(kind(b"<?xml version='1.0'?>\n<!-- a --><gpx version=\"1.1\">"), "document/gpx");
        assert_eq!(kind(b"<gpxes/>"), "document/xml");
        assert_eq!(
            root_name(b"\xef\xbb\xbf<?xml?>\n<!-- <gpx> -->\n<!DOCTYPE HealthData [<!-- "),
            Some("HealthData")
        );
        assert_eq!(root_name(b"<a:b/>"), Some("a:b"));
        assert_eq!((root_name(b"<!-- <gpx> "), root_name(b"gpx"), root_name(b"<")), (None, None, None));
        assert_eq!(kind(b"<!DOCTYPE HTML><p>"), "document/text");
        assert_eq!(kind("体重 62 kg".as_bytes()), "document/text");
        assert_eq!(kind(b"a\0b"), "document/other");
        assert_eq!(kind(b"\xffab"), "document/other");
    }

    #[test]
    fn a_character_cut_by_the_bound_is_still_text() {
        let long = "é".repeat(HEAD_BYTES);
        let odd = [b"x", long.as_bytes()].concat();
        assert_eq!(sniff(&odd[..HEAD_BYTES]), TEXT);
        assert_eq!(sniff(b"cut \xc3").kind, "document/other", "a whole file may not end inside a character");
    }
}
