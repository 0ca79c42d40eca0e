//! XML, read as a stream of the root's children, each with its exact bytes.
//!
//! For: exports far larger than memory, from hands we do not know. Goals: nothing is fetched or expanded: an
//! internal DTD subset is passed over, entity declarations and external ids are refused; depth, attributes and
//! lengths are bounded. Non-goals: validation, namespaces, encodings other than UTF-8.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use quick_xml::Reader;
use quick_xml::escape::unescape;
use quick_xml::events::{BytesRef, BytesStart, Event};

use super::error::ImportError;
use super::facts::clean;
use super::item::Item;

/// Longest child of the root, and longest prolog, in bytes. 8 MiB: a workout of a day with every event in it has
/// under 1 MiB; the declarations at the head of a phone's export have 12 KiB.
const ELEMENT_BYTES_MAX: usize = 8 * 1024 * 1024;

/// Deepest element below the root. 32: an export of a phone has 4.
const DEPTH_MAX: usize = 32;

/// Most attributes of one element. 64: the widest of a phone's export has 18.
const ATTRIBUTES_MAX: usize = 64;

/// How much of a document is searched for its declarations, in bytes. 256 KiB: the longest in use are about 20 KiB.
const PROLOG_BYTES_MAX: usize = 256 * 1024;

/// The children of a root element, one after another.
pub(super) struct Children<R> {
    reader: Reader<Recording<R>>,
    event: Vec<u8>,
    depth: usize,
    /// The root's attributes, as they are written.
    pub(super) root: Vec<(String, String)>,
    closed: bool,
}

/// One child, whole and well-formed.
pub(super) struct Child<'c> {
    /// From its `<` to its `>`, exactly.
    pub(super) raw: &'c [u8],
    /// What is wrong inside it, if its bytes may not be kept as they are.
    pub(super) fault: Option<ImportError>,
}

/// What is met in a child, in order; the child itself has depth 0.
pub(super) enum Part<'p> {
    Element {
        depth: usize,
        name: &'p str,
    },
    /// Of the element told last, its value as it is written: see [`said`].
    Attribute {
        depth: usize,
        name: &'p str,
        value: &'p str,
    },
}

impl<R: BufRead> Children<R> {
    /// Reads up to the start of the root, which must be called `root`.
    pub(super) fn open(reader: R, root: &str) -> Result<Self, ImportError> {
        let mut reader = Reader::from_reader(Recording { inner: reader, seen: Vec::new() });
        reader.config_mut().check_comments = true;
        let mut this = Self { reader, event: Vec::new(), depth: 0, root: Vec::new(), closed: false };
        while !this.prolog(root)? {}
        Ok(this)
    }

    /// Reads one event of the prolog, and tells whether it was the root.
    fn prolog(&mut self, root: &str) -> Result<bool, ImportError> {
        self.event.clear();
        let at = self.reader.buffer_position();
        let event = self.reader.read_event_into(&mut self.event).map_err(|error| fault(at, &error))?;
        match event {
            Event::Decl(decl) => {
                let named = decl.encoding().transpose().map_err(|_| ImportError::XmlEncoding)?;
                match named {
                    Some(named) if !named.eq_ignore_ascii_case("utf-8") => Err(ImportError::XmlEncoding),
                    _ => Ok(false),
                }
            }
            Event::DocType(text) => doctype(&text, Externals::Refused).map(|()| false),
            Event::Start(ref start) | Event::Empty(ref start) if start.name().as_ref() == root => {
                self.closed = matches!(event, Event::Empty(_));
                let mut found = Vec::new();
                attributes(start, &mut |name, value| found.push((name.to_owned(), value.to_owned())))?;
                self.root = found;
                self.reader.get_mut().seen.clear();
                Ok(true)
            }
            Event::Start(_) | Event::Empty(_) | Event::End(_) | Event::Eof => {
                Err(ImportError::XmlRoot { expected: root.to_owned() })
            }
            _ => Ok(false),
        }
    }

    /// The next child; `tell` is told its own name and attributes, and those of what is inside it. An error is the
    /// end: where a file is not XML any more, nothing further in it can be trusted.
    pub(super) fn next(&mut self, tell: &mut dyn FnMut(Part<'_>)) -> Result<Option<Child<'_>>, ImportError> {
        self.reader.get_mut().seen.clear();
        let mut wrong = None;
        loop {
            self.event.clear();
            let at = self.reader.buffer_position();
            let event = self.reader.read_event_into(&mut self.event).map_err(|error| fault(at, &error))?;
            if matches!(event, Event::Eof) {
                return self.ended(at);
            }
            let stands = Stands { depth: &mut self.depth, closed: &mut self.closed, at };
            wrong = wrong.or(stands.judge(&event, tell)?.err());
            if self.depth > 0 {
                continue;
            }
            if matches!(event, Event::Empty(_) | Event::End(_)) && !self.closed {
                return Ok(Some(Child { raw: &self.reader.get_ref().seen, fault: wrong }));
            }
            self.reader.get_mut().seen.clear();
            wrong = None;
        }
    }

    fn ended(&self, at: u64) -> Result<Option<Child<'_>>, ImportError> {
        match self.closed {
            true => Ok(None),
            false => Err(ImportError::Xml { offset: at, fault: "it ends early".to_owned() }),
        }
    }
}

/// Where an event stands.
struct Stands<'s> {
    depth: &'s mut usize,
    closed: &'s mut bool,
    at: u64,
}

impl Stands<'_> {
    /// Judges one event and tells what it says. The outer error ends the file, the inner one costs this child.
    fn judge(
        self,
        event: &Event<'_>,
        tell: &mut dyn FnMut(Part<'_>),
    ) -> Result<Result<(), ImportError>, ImportError> {
        match event {
            Event::Start(_) | Event::Empty(_) if *self.closed => {
                Err(ImportError::Xml { offset: self.at, fault: "an element behind the root".to_owned() })
            }
            Event::Start(_) | Event::Empty(_) if *self.depth == DEPTH_MAX => {
                Err(ImportError::XmlTooDeep { max: DEPTH_MAX })
            }
            Event::Start(start) | Event::Empty(start) => {
                let depth = *self.depth;
                *self.depth += usize::from(matches!(event, Event::Start(_)));
                tell(Part::Element { depth, name: start.name().as_ref() });
                Ok(attributes(start, &mut |name, value| tell(Part::Attribute { depth, name, value })))
            }
            Event::End(_) => {
                *self.closed |= *self.depth == 0;
                *self.depth = self.depth.saturating_sub(1);
                Ok(Ok(()))
            }
            Event::GeneralRef(reference) => Ok(known(reference)),
            Event::DocType(_) => Err(ImportError::EntityDeclared),
            _ => Ok(Ok(())),
        }
    }
}

/// Tells every attribute of an element, its value as it is written.
fn attributes(start: &BytesStart<'_>, tell: &mut dyn FnMut(&str, &str)) -> Result<(), ImportError> {
    for (count, attribute) in start.attributes().enumerate() {
        if count == ATTRIBUTES_MAX {
            return Err(ImportError::TooManyAttributes { max: ATTRIBUTES_MAX });
        }
        let attribute = attribute.map_err(|_| ImportError::AttributeMalformed)?;
        let value: &str = &attribute.value;
        if value.contains('&') {
            unescape(value).map_err(|_| ImportError::EntityUnknown)?;
        }
        if value.contains('<') {
            return Err(ImportError::AttributeMalformed);
        }
        tell(attribute.key.as_ref(), value);
    }
    Ok(())
}

/// What an attribute says, with its five known entities and its numbers resolved.
pub(super) fn said(written: &str) -> Cow<'_, str> {
    unescape(written).unwrap_or(Cow::Borrowed(written))
}

fn known(reference: &BytesRef<'_>) -> Result<(), ImportError> {
    let name: &str = reference;
    unescape(&format!("&{name};")).map(drop).map_err(|_| ImportError::EntityUnknown)
}

/// The message holds no value: quick-xml quotes names of elements at most.
fn fault(offset: u64, error: &quick_xml::Error) -> ImportError {
    if let quick_xml::Error::Io(error) = error {
        return ImportError::of(error);
    }
    ImportError::Xml { offset, fault: clean(&error.to_string(), 120) }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Externals {
    Refused,
    /// In a document that is kept unread, a name of a DTD elsewhere is only a name.
    Passed,
}

/// Judges what stands between `<!DOCTYPE` and its `>`: element and attribute declarations are passed over, since
/// nothing here validates.
fn doctype(text: &str, externals: Externals) -> Result<(), ImportError> {
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        let after = |end: &str| rest.split_once(end).map_or("", |(_, after)| after);
        rest = match () {
            () if rest.starts_with("<!--") => after("-->"),
            () if rest.starts_with("<?") => after("?>"),
            () if rest.starts_with("<!ENTITY") || c == '%' => return Err(ImportError::EntityDeclared),
            () if c == '"' || c == '\'' => {
                rest.get(1..).and_then(|quoted| quoted.split_once(c)).map_or("", |(_, after)| after)
            }
            () if is_external(rest) && externals == Externals::Refused => {
                return Err(ImportError::ExternalId);
            }
            () if c.is_alphanumeric() => rest.trim_start_matches(|c: char| c.is_alphanumeric() || c == '_'),
            () => rest.get(c.len_utf8()..).unwrap_or_default(),
        };
    }
    Ok(())
}

/// `SYSTEM` or `PUBLIC` as a word.
fn is_external(text: &str) -> bool {
    ["SYSTEM", "PUBLIC"].iter().any(|word| {
        text.strip_prefix(word).is_some_and(|rest| rest.starts_with(|c: char| c.is_whitespace() || c == '"'))
    })
}

/// Refuses a document whose declarations would harm whoever opens it.
pub(super) fn judge_document(item: &mut Item<'_>) -> Result<(), ImportError> {
    let seen = item.peek(PROLOG_BYTES_MAX)?;
    judge_prolog(seen, seen.len() >= PROLOG_BYTES_MAX)
}

fn judge_prolog(seen: &[u8], cut: bool) -> Result<(), ImportError> {
    let mut reader = Reader::from_reader(seen);
    let mut event = Vec::new();
    loop {
        event.clear();
        match reader.read_event_into(&mut event) {
            Ok(Event::DocType(text)) => return doctype(&text, Externals::Passed),
            Ok(Event::Start(_) | Event::Empty(_) | Event::End(_) | Event::Eof) => return Ok(()),
            Ok(_) => {}
            // Not XML as far as it was seen. It is kept unread, unless declarations stand in what was seen.
            Err(_) if find(seen, b"<!ENTITY") => return Err(ImportError::EntityDeclared),
            Err(_) if cut && find(seen, b"<!DOCTYPE") => {
                return Err(ImportError::PrologTooLong { max: PROLOG_BYTES_MAX });
            }
            Err(_) => return Ok(()),
        }
    }
}

fn find(bytes: &[u8], what: &[u8]) -> bool {
    bytes.windows(what.len()).any(|window| window == what)
}

/// Keeps what is consumed, so that an element's bytes are its own; fails where that grows beyond any element.
struct Recording<R> {
    inner: R,
    seen: Vec<u8>,
}

impl<R: BufRead> Read for Recording<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let mut available = self.fill_buf()?;
        let read = available.read(buffer)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: BufRead> BufRead for Recording<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.seen.len() > ELEMENT_BYTES_MAX {
            return Err(io::Error::other(ImportError::ElementTooLarge { max: ELEMENT_BYTES_MAX }));
        }
        self.inner.fill_buf()
    }

    fn consume(&mut self, count: usize) {
        // What was filled is still there: a reader with bytes in hand reads no more.
        if let Ok(available) = self.inner.fill_buf() {
            self.seen.extend_from_slice(available.get(..count).unwrap_or_default());
        }
        self.inner.consume(count);
    }
}
