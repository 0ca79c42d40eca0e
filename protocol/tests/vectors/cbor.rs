//! CBOR as it should be and as it should not be, written from the specification and without the code.

use crate::people::Writer;
use ed25519_dalek::Signer;
use karte_protocol::encoding;

#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Cbor {
    Uint(u64),
    Negative(u64),
    Bytes(Vec<u8>),
    Text(String),
    Array(Vec<Cbor>),
    Map(Vec<(String, Cbor)>),
    Bool(bool),
    Null,
    Raw(Vec<u8>),
}

impl Cbor {
    pub(crate) fn text(text: &str) -> Self {
        Self::Text(text.to_owned())
    }

    /// In canonical order.
    pub(crate) fn map<const N: usize>(fields: [(&str, Cbor); N]) -> Self {
        let mut map = Self::Map(vec![]);
        for (name, value) in fields {
            map.insert(name, value);
        }
        map
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let all = |items: &[Cbor]| items.iter().flat_map(Cbor::bytes).collect::<Vec<u8>>();
        match self {
            Self::Uint(n) => head(0, *n),
            Self::Negative(n) => head(1, *n),
            Self::Bytes(bytes) => [head(2, bytes.len() as u64), bytes.clone()].concat(),
            Self::Text(text) => [head(3, text.len() as u64), text.as_bytes().to_vec()].concat(),
            Self::Array(items) => [head(4, items.len() as u64), all(items)].concat(),
            Self::Map(fields) => {
                let inner = fields
                    .iter()
                    .flat_map(|(name, value)| [Cbor::text(name).bytes(), value.bytes()].concat());
                [head(5, fields.len() as u64), inner.collect()].concat()
            }
            Self::Bool(value) => vec![if *value { 0xf5 } else { 0xf4 }],
            Self::Null => vec![0xf6],
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    pub(crate) fn fields(&mut self) -> &mut Vec<(String, Cbor)> {
        match self {
            Self::Map(fields) => fields,
            other => panic!("expected a map, got {other:?}"),
        }
    }

    pub(crate) fn at(&mut self, path: &[&str]) -> &mut Cbor {
        path.iter().fold(self, |value, name| {
            let field = value.fields().iter_mut().find(|(field, _)| field == name);
            &mut field.unwrap_or_else(|| panic!("expected a field {name}")).1
        })
    }

    /// Where canonical order puts it.
    pub(crate) fn insert(&mut self, name: &str, value: Cbor) {
        self.fields().push((name.to_owned(), value));
        self.fields().sort_by_key(|(name, _)| Cbor::text(name).bytes());
    }

    pub(crate) fn remove(&mut self, name: &str) {
        self.fields().retain(|(field, _)| field != name);
    }

    pub(crate) fn reverse(&mut self) {
        self.fields().reverse();
    }

    pub(crate) fn repeat(&mut self, name: &str) {
        let at = self.fields().iter().position(|(field, _)| field == name).expect("a field");
        let again = self.fields()[at].clone();
        self.fields().insert(at, again);
    }

    pub(crate) fn sort_alphabetically(&mut self) {
        if let Self::Map(fields) = self {
            fields.sort_by(|(one, _), (other, _)| one.cmp(other));
            fields.iter_mut().for_each(|(_, value)| value.sort_alphabetically());
        }
    }
}

pub(crate) fn head(major: u8, n: u64) -> Vec<u8> {
    let bytes = n.to_be_bytes();
    let (short, used) = match n {
        0..=23 => (bytes[7], 8),
        24..=0xff => (24, 7),
        0x100..=0xffff => (25, 6),
        0x1_0000..=0xffff_ffff => (26, 4),
        _ => (27, 0),
    };
    [&[major << 5 | short], &bytes[used..]].concat()
}

/// What the code encodes, as a tree that can be changed.
pub(crate) fn tree<T: serde::Serialize>(value: &T) -> Cbor {
    let bytes = encoding::encode(value).expect("encodes");
    let mut rest = &bytes[..];
    let tree = parse(&mut rest);
    assert!(rest.is_empty());
    assert_eq!(tree.bytes(), bytes, "the code's encoding is the canonical one");
    tree
}

pub(crate) fn parse(rest: &mut &[u8]) -> Cbor {
    let first = take(rest, 1)[0];
    if let 0xf4..=0xf6 = first {
        return [Cbor::Bool(false), Cbor::Bool(true), Cbor::Null][usize::from(first - 0xf4)].clone();
    }
    let n = match first & 31 {
        short @ 0..=23 => u64::from(short),
        size @ 24..=27 => take(rest, 1 << (size - 24)).iter().fold(0, |n, byte| n << 8 | u64::from(*byte)),
        other => panic!("unexpected length {other}"),
    };
    let count = usize::try_from(n).expect("small");
    match first >> 5 {
        0 => Cbor::Uint(n),
        1 => Cbor::Negative(n),
        2 => Cbor::Bytes(take(rest, count).to_vec()),
        3 => Cbor::Text(String::from_utf8(take(rest, count).to_vec()).expect("UTF-8")),
        4 => Cbor::Array((0..count).map(|_| parse(rest)).collect()),
        5 => Cbor::Map(
            (0..count)
                .map(|_| {
                    let Cbor::Text(name) = parse(rest) else { panic!("expected a text key") };
                    (name, parse(rest))
                })
                .collect(),
        ),
        other => panic!("unexpected major type {other}"),
    }
}

pub(crate) fn take<'a>(rest: &mut &'a [u8], count: usize) -> &'a [u8] {
    let (taken, left) = rest.split_at(count);
    *rest = left;
    taken
}

pub(crate) fn payload_of(signer: &Writer, kind: &str, body: Cbor) -> Cbor {
    Cbor::map([
        ("version", Cbor::Uint(1)),
        ("kind", Cbor::text(kind)),
        ("by", tree(&signer.by())),
        ("body", body),
    ])
}

/// The payload within a signed object.
pub(crate) fn payload_of_bytes(bytes: &[u8]) -> Vec<u8> {
    match parse(&mut &bytes[7..]) {
        Cbor::Bytes(payload) => payload,
        other => panic!("expected the payload, got {other:?}"),
    }
}

/// A signed object, written from the specification and without the code.
pub(crate) fn cose(signer: &Writer, payload: &[u8]) -> Vec<u8> {
    let payload = Cbor::Bytes(payload.to_vec()).bytes();
    let structure = [&[0x84, 0x6a][..], b"Signature1", &[0x43, 0xa1, 0x01, 0x27, 0x40], &payload].concat();
    let key = ed25519_dalek::SigningKey::from_bytes(&signer.key.expose_seed());
    let signature = key.sign(&structure).to_bytes();
    [&[0xd2, 0x84, 0x43, 0xa1, 0x01, 0x27, 0xa0][..], &payload, &[0x58, 0x40], &signature].concat()
}
