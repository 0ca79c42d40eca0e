//! One file of the folder: header lines, a blank line, and the bytes in hexadecimal.

use karte_protocol::id::hex;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// One file: its header lines in order, and its bytes.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Vector {
    pub(crate) headers: Vec<(String, String)>,
    pub(crate) bytes: Vec<u8>,
}

impl Vector {
    pub(crate) fn accept(kind: &str, id: Option<String>, comment: &str, bytes: impl Into<Vec<u8>>) -> Self {
        let mut vector = Self {
            headers: vec![("expect".into(), "accept".into()), ("kind".into(), kind.into())],
            bytes: bytes.into(),
        };
        if let Some(id) = id {
            vector = vector.with("id", &id);
        }
        vector.with("comment", comment)
    }

    pub(crate) fn refuse(kind: &str, layer: &str, comment: &str, bytes: impl Into<Vec<u8>>) -> Self {
        Self {
            headers: vec![("expect".into(), "refuse".into()), ("kind".into(), kind.into())],
            bytes: bytes.into(),
        }
        .with("layer", layer)
        .with("comment", comment)
    }

    pub(crate) fn with(mut self, name: &str, value: &str) -> Self {
        self.headers.push((name.into(), value.into()));
        self
    }

    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        let found = self.headers.iter().find(|(header, _)| header == name)?;
        Some(&found.1)
    }

    pub(crate) fn header(&self, name: &str) -> &str {
        self.get(name).unwrap_or_else(|| panic!("expected the header {name}"))
    }

    pub(crate) fn to_text(&self) -> String {
        let headers: String = self.headers.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let digits = hex(&self.bytes);
        let lines: Vec<&str> = digits
            .as_bytes()
            .chunks(96)
            .map(|line| std::str::from_utf8(line).expect("hexadecimal"))
            .collect();
        format!("{headers}\n{}\n", lines.join("\n"))
    }

    pub(crate) fn from_text(text: &str) -> Self {
        let (headers, body) = text.split_once("\n\n").expect("a blank line");
        let headers = headers
            .lines()
            .map(|line| line.split_once(": ").expect("name: value"))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect();
        Self { headers, bytes: unhex(body) }
    }
}

pub(crate) fn unhex(text: &str) -> Vec<u8> {
    let digits: Vec<u8> = text
        .bytes()
        .filter(|byte| !byte.is_ascii_whitespace())
        .map(|byte| match byte {
            b'0'..=b'9' => byte - b'0',
            b'a'..=b'f' => byte - b'a' + 10,
            _ => panic!("expected lower-case hexadecimal"),
        })
        .collect();
    assert!(digits.len().is_multiple_of(2), "an even number of digits");
    digits.chunks(2).map(|pair| pair[0] * 16 + pair[1]).collect()
}

pub(crate) fn folder() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

pub(crate) fn held() -> BTreeMap<String, Vector> {
    std::fs::read_dir(folder())
        .expect("the folder is there")
        .map(|file| file.expect("is listed").path())
        .filter(|path| path.extension().is_none() && path.is_file())
        .map(|path| {
            let name = path.file_name().expect("a file").to_string_lossy().into_owned();
            let text = std::fs::read_to_string(&path).expect("text");
            (name, Vector::from_text(&text))
        })
        .collect()
}
