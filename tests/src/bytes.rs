//! Exact bytes: the resources of a bundle as they stand in the file, found by our own small scanner, so that the
//! product is not judged by the library that it uses.

use std::ops::Range;

/// The blake3 hash of some bytes, in hex.
pub fn hash(bytes: &[u8]) -> String {
    blake3::hash(bytes).to_hex().to_string()
}

/// The exact bytes of every entry's `resource` of a bundle, in order; `None` for an entry without one.
pub fn resources(bundle: &[u8]) -> Vec<Option<&[u8]>> {
    let entries = member(bundle, 0..bundle.len(), "entry");
    let entries = entries.map(|list| items(bundle, list)).unwrap_or_default();
    entries.into_iter().map(|entry| member(bundle, entry, "resource").map(|range| &bundle[range])).collect()
}

/// Where a member's value stands in the object at `object`.
fn member(text: &[u8], object: Range<usize>, name: &str) -> Option<Range<usize>> {
    let mut at = skip_blank(text, object.start) + 1;
    loop {
        at = skip_blank(text, at);
        if text[at] == b'}' {
            return None;
        }
        let key = at..value_end(text, at);
        let colon = skip_blank(text, key.end);
        assert!(text[colon] == b':', "a key is followed by a colon, at {colon}");
        let start = skip_blank(text, colon + 1);
        let value = start..value_end(text, start);
        if &text[key.start + 1..key.end - 1] == name.as_bytes() {
            return Some(value);
        }
        at = skip_blank(text, value.end);
        at += usize::from(text[at] == b',');
    }
}

/// Where the items of the list at `list` stand.
fn items(text: &[u8], list: Range<usize>) -> Vec<Range<usize>> {
    let mut found = Vec::new();
    let mut at = skip_blank(text, list.start + 1);
    while text[at] != b']' {
        let end = value_end(text, at);
        found.push(at..end);
        at = skip_blank(text, end);
        at = skip_blank(text, at + usize::from(text[at] == b','));
    }
    found
}

/// Behind the value that starts at `at`.
fn value_end(text: &[u8], at: usize) -> usize {
    match text[at] {
        b'"' => string_end(text, at),
        b'{' | b'[' => nest_end(text, at),
        _ => {
            let rest = text[at..].iter();
            at + rest.take_while(|byte| !b",]} \t\r\n".contains(byte)).count()
        }
    }
}

fn string_end(text: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while text[at] != b'"' {
        at += if text[at] == b'\\' { 2 } else { 1 };
    }
    at + 1
}

fn nest_end(text: &[u8], start: usize) -> usize {
    let mut depth = 0_usize;
    let mut at = start;
    loop {
        match text[at] {
            b'"' => {
                at = string_end(text, at);
                continue;
            }
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth -= 1,
            _ => {}
        }
        at += 1;
        if depth == 0 {
            return at;
        }
    }
}

fn skip_blank(text: &[u8], at: usize) -> usize {
    at + text[at..].iter().take_while(|byte| byte.is_ascii_whitespace()).count()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn resources_are_found_as_they_stand() {
        let bundle = br#" {"type":"batch", "entry" : [ {"a":[1,{"resource":0}], "resource": {"x" : "}\"]"} },
            {"fullUrl":"u"}, {"resource":7}]} "#;
        let found = resources(bundle);
        assert_eq!(found, [Some(&br#"{"x" : "}\"]"}"#[..]), None, Some(&b"7"[..])]);
        assert_eq!(resources(br#"{"entry":[]}"#), [None::<&[u8]>; 0]);
        assert_eq!(resources(b"{}"), [None::<&[u8]>; 0]);
    }
}
