//! What a power cut leaves: from a trace of calls, the folder in which only what was synced is certain.
//!
//! The rules are those of POSIX, not of one file system, as in ALICE (Pillai and others, OSDI 2014): bytes and length
//! of a file are certain after its own fsync or fdatasync; a name is certain after the fsync of its folder; whatever
//! is not certain may be there or not, each 512 bytes or 4 KiB of a write for itself, in any order. A rename is one
//! step: it is there or not, and never loses the file.

use std::collections::BTreeMap;
use std::path::Path;

use super::dice::{Dice, index};
use super::shim::Event;

/// What becomes of what was not synced.
#[derive(Clone, Copy)]
pub enum Unsynced {
    /// Nothing of it is there.
    Lost,
    /// All of it is there.
    Kept,
    /// Each part is there in so many of a hundred cases; parts have so many bytes.
    Random {
        /// Of a hundred.
        percent: u64,
        /// Size of a part.
        part: usize,
    },
}

enum Change {
    Write(usize, Vec<u8>),
    Length(usize),
}

/// A file or a folder, whatever it is called.
#[derive(Default)]
struct Object {
    is_dir: bool,
    durable: Vec<u8>,
    pending: Vec<Change>,
}

/// A name given, moved or taken away.
struct Naming {
    what: usize,
    from: Option<String>,
    to: Option<String>,
    is_durable: bool,
}

/// The state of a folder while a trace is played.
#[derive(Default)]
pub struct Image {
    objects: Vec<Object>,
    by_inode: BTreeMap<u64, usize>,
    /// What the running system sees.
    now: BTreeMap<String, usize>,
    namings: Vec<Naming>,
    root: String,
}

impl Image {
    /// The empty folder `root`.
    pub fn new(root: &Path) -> Self {
        Self { root: root.display().to_string(), ..Self::default() }
    }

    /// Plays one call.
    pub fn play(&mut self, event: &Event) {
        match event.op {
            b'C' | b'D' => self.create(event),
            b'W' => self.change(event, Change::Write(index(event.offset), event.data.clone())),
            b'T' => self.change(event, Change::Length(index(event.offset))),
            b'R' => self.rename(event),
            b'L' => self.link(event),
            b'U' => self.remove(event),
            b'S' => self.sync(event),
            _ => {}
        }
    }

    fn create(&mut self, event: &Event) {
        let what = self.objects.len();
        self.objects.push(Object { is_dir: event.op == b'D', ..Object::default() });
        self.by_inode.insert(event.inode, what);
        self.now.insert(event.path.clone(), what);
        self.name(what, None, Some(&event.path));
    }

    fn name(&mut self, what: usize, from: Option<&str>, to: Option<&str>) {
        let owned = |name: Option<&str>| name.map(str::to_owned);
        self.namings.push(Naming { what, from: owned(from), to: owned(to), is_durable: false });
    }

    fn change(&mut self, event: &Event, change: Change) {
        let known = self.by_inode.get(&event.inode).copied();
        if let Some(what) = known.or_else(|| self.now.get(&event.path).copied()) {
            self.objects[what].pending.push(change);
        }
    }

    fn rename(&mut self, event: &Event) {
        let below = format!("{}/", event.path);
        let moved: Vec<String> = self.now.keys().filter(|name| name.starts_with(&below)).cloned().collect();
        for name in moved {
            // A folder takes what is in it along; none of the store's does today.
            let to = format!("{}/{}", event.to, &name[below.len()..]);
            self.rename_one(&name, &to);
        }
        self.rename_one(&event.path, &event.to);
    }

    fn rename_one(&mut self, from: &str, to: &str) {
        if let Some(what) = self.now.remove(from) {
            self.now.insert(to.to_owned(), what);
            self.name(what, Some(from), Some(to));
        }
    }

    fn link(&mut self, event: &Event) {
        if let Some(what) = self.now.get(&event.path).copied() {
            self.now.insert(event.to.clone(), what);
            self.name(what, None, Some(&event.to));
        }
    }

    fn remove(&mut self, event: &Event) {
        if let Some(what) = self.now.remove(&event.path) {
            self.name(what, Some(&event.path), None);
        }
    }

    fn sync(&mut self, event: &Event) {
        let is_dir = self.now.get(&event.path).is_some_and(|what| self.objects[*what].is_dir);
        if is_dir || event.path == self.root {
            let in_it =
                |name: &Option<String>| name.as_deref().is_some_and(|name| parent(name) == event.path);
            let synced = |naming: &&mut Naming| match &naming.to {
                Some(_) => in_it(&naming.to),
                None => in_it(&naming.from),
            };
            self.namings.iter_mut().filter(synced).for_each(|naming| naming.is_durable = true);
        } else if let Some(what) = self.by_inode.get(&event.inode) {
            let object = &mut self.objects[*what];
            let pending = std::mem::take(&mut object.pending);
            pending.into_iter().for_each(|change| apply(&mut object.durable, change));
        }
    }

    /// Writes the folder as the power cut leaves it.
    pub fn write(&self, dir: &Path, unsynced: Unsynced, dice: &mut Dice) -> std::io::Result<()> {
        let names = self.names(unsynced, dice);
        // A folder sorts before what is in it.
        for (name, what) in &names {
            let object = &self.objects[*what];
            let path = dir.join(name.strip_prefix(&self.root).unwrap_or(name).trim_start_matches('/'));
            let Some(above) = path.parent().filter(|above| above.is_dir()) else {
                continue; // Its folder's own name did not survive.
            };
            debug_assert!(above.starts_with(dir), "images stay in their folder");
            if object.is_dir {
                std::fs::create_dir(&path)?;
            } else {
                std::fs::write(&path, content(object, unsynced, dice))?;
            }
        }
        Ok(())
    }

    fn names(&self, unsynced: Unsynced, dice: &mut Dice) -> BTreeMap<String, usize> {
        let mut names = BTreeMap::new();
        for naming in &self.namings {
            if !naming.is_durable && !survives(unsynced, dice) {
                continue;
            }
            if let Some(from) = &naming.from
                && names.get(from) == Some(&naming.what)
            {
                names.remove(from);
            }
            if let Some(to) = &naming.to {
                names.insert(to.clone(), naming.what);
            }
        }
        names
    }
}

fn parent(name: &str) -> &str {
    name.rsplit_once('/').map_or("", |(parent, _)| parent)
}

fn survives(unsynced: Unsynced, dice: &mut Dice) -> bool {
    match unsynced {
        Unsynced::Lost => false,
        Unsynced::Kept => true,
        Unsynced::Random { percent, .. } => dice.chance(percent),
    }
}

fn apply(content: &mut Vec<u8>, change: Change) {
    match change {
        Change::Length(length) => content.resize(length, 0),
        Change::Write(at, bytes) => overwrite(content, at, &bytes),
    }
}

fn overwrite(content: &mut Vec<u8>, at: usize, bytes: &[u8]) {
    let end = at + bytes.len();
    if content.len() < end {
        content.resize(end, 0);
    }
    content[at..end].copy_from_slice(bytes);
}

/// A file's bytes: those that were synced, and of each later change what survives.
fn content(object: &Object, unsynced: Unsynced, dice: &mut Dice) -> Vec<u8> {
    let mut content = object.durable.clone();
    for change in &object.pending {
        match change {
            Change::Length(length) if survives(unsynced, dice) => content.resize(*length, 0),
            Change::Length(_) => {}
            Change::Write(at, bytes) => write_torn(&mut content, *at, bytes, unsynced, dice),
        }
    }
    content
}

/// The length a write gives a file survives for itself: with it, parts that did not survive read as zeros; without
/// it, parts behind the old end are gone.
fn write_torn(content: &mut Vec<u8>, at: usize, bytes: &[u8], unsynced: Unsynced, dice: &mut Dice) {
    let part = if let Unsynced::Random { part, .. } = unsynced { part } else { usize::MAX };
    let end = at + bytes.len();
    if content.len() < end && survives(unsynced, dice) {
        content.resize(end, 0);
    }
    let mut from = at;
    while from < end {
        // Parts are those of the disk: they begin at multiples of their size.
        let to = (from / part + 1).saturating_mul(part).min(end);
        if survives(unsynced, dice) && from < content.len() {
            let to = to.min(content.len());
            content[from..to].copy_from_slice(&bytes[from - at..to - at]);
        }
        from = to;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(op: u8, inode: u64, path: &str, to: &str, data: &str) -> Event {
        Event { op, inode, offset: 0, path: path.into(), to: to.into(), data: data.into() }
    }

    /// What is left of a file that was written, named and perhaps synced.
    fn left(events: &[Event], unsynced: Unsynced) -> BTreeMap<String, Vec<u8>> {
        let mut image = Image::new(Path::new("/r"));
        events.iter().for_each(|event| image.play(event));
        let dir = tempfile::tempdir().unwrap();
        image.write(dir.path(), unsynced, &mut Dice::new("test", &[])).unwrap();
        let entries = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap());
        entries
            .map(|entry| (entry.file_name().into_string().unwrap(), std::fs::read(entry.path()).unwrap()))
            .collect()
    }

    #[test]
    fn only_what_was_synced_is_certain() {
        let written = [event(b'C', 1, "/r/new", "", ""), event(b'W', 1, "/r/new", "", "text")];
        assert!(left(&written, Unsynced::Lost).is_empty(), "neither name nor bytes were synced");
        let named = |mut events: Vec<Event>, more: Vec<Event>| {
            events.extend(more);
            left(&events, Unsynced::Lost)
        };
        let base = || vec![event(b'C', 1, "/r/new", "", ""), event(b'W', 1, "/r/new", "", "text")];
        let name_only = named(base(), vec![event(b'S', 9, "/r", "", "")]);
        assert_eq!(name_only["new"], b"", "a name without its bytes");
        let rename = || event(b'R', 1, "/r/new", "/r/old", "");
        let both =
            named(base(), vec![event(b'S', 1, "/r/new", "", ""), rename(), event(b'S', 9, "/r", "", "")]);
        assert_eq!(both.keys().collect::<Vec<_>>(), ["old"]);
        assert_eq!(both["old"], b"text");
        let not_renamed =
            named(base(), vec![event(b'S', 1, "/r/new", "", ""), event(b'S', 9, "/r", "", ""), rename()]);
        assert_eq!(not_renamed["new"], b"text", "the rename was not synced");
    }
}
