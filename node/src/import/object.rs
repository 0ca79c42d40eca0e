//! The one serde type of this room: a JSON object whose fields stay as they were written.
//!
//! For: reading a few fields of a large text without holding the rest twice. Not for: models of resources; a
//! field of an unexpected shape is simply not read, because the record is kept whole either way.

use std::collections::BTreeMap;
use std::fmt;
use std::ops::ControlFlow;

use serde::de::{Deserializer as _, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ImportError;
use super::facts::clean;

/// Most fields in one object. 256: the widest R4 resource has about 60, and as many `_` twins; each one held
/// costs far more memory than its shortest form on disk.
const FIELDS_MAX: usize = 256;

/// Longest field name in a message, in bytes. 64: the longest name in R4 has 37.
const NAME_BYTES_MAX: usize = 64;

/// An object's fields by name, each once.
pub(super) struct Object<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> Object<'a> {
    /// Read `text` as one object and nothing after it. This judges the whole text's syntax; serde_json skips
    /// values without recursion, so depth costs no stack.
    pub(super) fn parse(text: &'a str) -> Result<Self, ImportError> {
        let mut json = serde_json::Deserializer::from_str(text);
        let object = json.deserialize_map(ObjectVisitor).and_then(|object| json.end().map(|()| object));
        object.map_err(|error| fault(&error))?
    }

    /// The field at `path`; a dot steps into an object.
    pub(super) fn get(&self, path: &str) -> Option<&'a RawValue> {
        match path.split_once('.') {
            None => self.0.get(path).copied(),
            Some((first, rest)) => Object::parse(self.0.get(first)?.get()).ok()?.get(rest),
        }
    }

    /// The text at `path`.
    pub(super) fn text(&self, path: &str) -> Option<String> {
        text(self.get(path)?)
    }
}

/// `raw` as text.
pub(super) fn text(raw: &RawValue) -> Option<String> {
    serde_json::from_str(raw.get()).ok()
}

/// Whether `raw` is a list.
pub(super) fn is_list(raw: &RawValue) -> bool {
    raw.get().starts_with('[')
}

/// The first `max` items of a list, or the one value that stands in a list's place.
pub(super) fn items(raw: &RawValue, max: usize) -> Vec<&RawValue> {
    if !is_list(raw) {
        return vec![raw];
    }
    let mut items = Vec::new();
    let _full = each(raw, |item| {
        if items.len() == max {
            return ControlFlow::Break(());
        }
        items.push(item);
        ControlFlow::Continue(())
    });
    items
}

/// Visit the items of a list one after another; they are never held together.
pub(super) fn each<'a>(
    list: &'a RawValue,
    visit: impl FnMut(&'a RawValue) -> ControlFlow<()>,
) -> ControlFlow<()> {
    let mut flow = ControlFlow::Continue(());
    let visitor = ListVisitor { visit, flow: &mut flow };
    // The only faults left are "not a list", which has no items, and our own stop: the syntax was judged when
    // the raw value was cut out.
    let _judged = serde_json::Deserializer::from_str(list.get()).deserialize_seq(visitor);
    flow
}

/// Only a fault of syntax is quoted: other messages of serde_json repeat the value, which is health data.
fn fault(error: &serde_json::Error) -> ImportError {
    if error.is_data() {
        return ImportError::NotAnObject;
    }
    let said = error.to_string();
    let fault = said.split(" at line ").next().unwrap_or_default().to_owned();
    ImportError::Syntax { line: error.line(), column: error.column(), fault }
}

struct ObjectVisitor;

impl<'de> Visitor<'de> for ObjectVisitor {
    type Value = Result<Object<'de>, ImportError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    /// Reads on after a fault of ours, so that a fault of syntax further on is the one that is told.
    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut fields = BTreeMap::new();
        while let Some(name) = map.next_key::<String>()? {
            if fields.contains_key(&name) {
                skip_rest(&mut map)?;
                return Ok(Err(ImportError::DuplicateField { key: clean(&name, NAME_BYTES_MAX) }));
            }
            if fields.len() == FIELDS_MAX {
                skip_rest(&mut map)?;
                return Ok(Err(ImportError::TooManyFields { max: FIELDS_MAX }));
            }
            fields.insert(name, map.next_value()?);
        }
        Ok(Ok(Object(fields)))
    }
}

/// Skip the value whose name was just read, and every field after it.
fn skip_rest<'de, A: MapAccess<'de>>(map: &mut A) -> Result<(), A::Error> {
    map.next_value::<IgnoredAny>()?;
    while map.next_entry::<IgnoredAny, IgnoredAny>()?.is_some() {}
    Ok(())
}

struct ListVisitor<'f, F> {
    visit: F,
    flow: &'f mut ControlFlow<()>,
}

impl<'de, F: FnMut(&'de RawValue) -> ControlFlow<()>> Visitor<'de> for ListVisitor<'_, F> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<(), A::Error> {
        while let Some(item) = list.next_element()? {
            *self.flow = (self.visit)(item);
            if self.flow.is_break() {
                return Err(A::Error::custom("stopped"));
            }
        }
        Ok(())
    }
}
