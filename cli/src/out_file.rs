//! Where the bytes of a record, a grant or a key are written.
//!
//! A file appears under its name only when it is whole, readable by its owner alone; until then its bytes are in
//! a temporary file beside it, which goes away when the command fails.

use crate::error::Error;
use karte_node::failure::Failure;
use std::fs::Permissions;
use std::io::{self, IsTerminal, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use tempfile::NamedTempFile;

#[derive(clap::Args, Debug)]
pub(crate) struct OutFile {
    /// Write to this file instead of the screen (`-` is the standard output)
    ///
    /// The file is readable by you alone. One that is there already is left as it is, unless you say --force.
    #[arg(short, long, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// Replace the file if there is one
    #[arg(long)]
    pub(crate) force: bool,
}

/// An opened place to write to.
pub(crate) enum Target {
    File {
        path: PathBuf,
        temporary: NamedTempFile,
        force: bool,
        bytes: u64,
    },
    /// `guard`: nothing that acts on a terminal is let through.
    Stdout {
        guard: Option<Guard>,
    },
}

impl OutFile {
    /// Looks at the place before the node does anything: opening a record leaves a receipt.
    pub(crate) fn open(&self) -> Result<Target, Error> {
        match &self.output {
            None => Ok(Target::Stdout { guard: io::stdout().is_terminal().then(Guard::default) }),
            Some(path) if path == Path::new("-") => Ok(Target::Stdout { guard: None }),
            Some(path) => Ok(self.open_file(path)?),
        }
    }

    fn open_file(&self, path: &Path) -> Result<Target, Failure> {
        match path.symlink_metadata() {
            Ok(found) if !found.is_file() && !found.is_symlink() => {
                return Err(Failure::usage(format!("{} is not a regular file", path.display()))
                    .next("Name a new file, or `-` for the standard output."));
            }
            Ok(_) if !self.force => return Err(taken(path)),
            _ => {}
        }
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let temporary = tempfile::Builder::new()
            .prefix(".karte-")
            .permissions(Permissions::from_mode(0o600))
            .tempfile_in(folder)
            .map_err(|error| unwritable(path, &error))?;
        Ok(Target::File { path: path.to_owned(), temporary, force: self.force, bytes: 0 })
    }
}

impl Target {
    pub(crate) fn write(&mut self, part: &[u8]) -> io::Result<()> {
        match self {
            Self::File { temporary, bytes, .. } => {
                *bytes = bytes.saturating_add(part.len() as u64);
                temporary.write_all(part)
            }
            Self::Stdout { guard } => {
                if let Some(guard) = guard {
                    guard.check(part)?;
                }
                io::stdout().lock().write_all(part)
            }
        }
    }

    /// Gives the file its name, and tells which and how long.
    pub(crate) fn finish(self) -> Result<Option<(PathBuf, u64)>, Error> {
        match self {
            Self::Stdout { guard } => {
                let mut out = io::stdout().lock();
                if guard.is_some_and(|guard| guard.is_amid_line()) {
                    out.write_all(b"\n")?;
                }
                out.flush()?;
                Ok(None)
            }
            Self::File { path, temporary, force, bytes } => {
                name_file(&path, temporary, force)?;
                Ok(Some((path, bytes)))
            }
        }
    }
}

fn name_file(path: &Path, temporary: NamedTempFile, force: bool) -> Result<(), Failure> {
    temporary.as_file().sync_all().map_err(|error| unwritable(path, &error))?;
    let named = if force { temporary.persist(path) } else { temporary.persist_noclobber(path) };
    match named {
        Ok(_) => Ok(()),
        Err(refused) if refused.error.kind() == io::ErrorKind::AlreadyExists => Err(taken(path)),
        Err(refused) => Err(unwritable(path, &refused.error)),
    }
}

fn taken(path: &Path) -> Failure {
    Failure::usage(format!("there is a file {} already", path.display()))
        .next("Choose another name, or say --force to replace it.")
}

fn unwritable(path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("{} cannot be written: {error}", path.display()))
        .next("Choose another place with -o FILE.")
}

/// Stops bytes that would act on a terminal instead of being shown by it. A record is somebody else's text.
#[derive(Default)]
pub(crate) struct Guard {
    last: u8,
}

impl Guard {
    fn check(&mut self, part: &[u8]) -> io::Result<()> {
        let mut last = self.last;
        for byte in part {
            // C1 controls are 0xC2 0x80 to 0xC2 0x9F in UTF-8.
            let is_c1 = last == 0xc2 && (0x80..0xa0).contains(byte);
            if is_c1 || (byte.is_ascii_control() && !b"\t\n\r".contains(byte)) {
                return Err(io::Error::new(
                    io::ErrorKind::InvalidData,
                    "these bytes are not text for a screen",
                ));
            }
            last = *byte;
        }
        self.last = last;
        Ok(())
    }

    fn is_amid_line(&self) -> bool {
        ![0, b'\n'].contains(&self.last)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(path: PathBuf, force: bool) -> OutFile {
        OutFile { output: Some(path), force }
    }

    fn write(out: &OutFile, parts: &[&[u8]]) -> Result<(), Error> {
        let mut target = out.open()?;
        for part in parts {
            target.write(part)?;
        }
        target.finish().map(drop)
    }

    #[test]
    fn a_file_is_whole_and_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        write(&at(path.clone(), false), &[b"one ", b"two"]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"one two");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn a_file_that_is_there_is_replaced_only_by_force() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("record.json");
        std::fs::write(&path, b"old").unwrap();
        assert!(write(&at(path.clone(), false), &[b"new"]).is_err());
        assert_eq!(std::fs::read(&path).unwrap(), b"old");
        write(&at(path.clone(), true), &[b"new"]).unwrap();
        assert_eq!(std::fs::read(&path).unwrap(), b"new");
    }

    #[test]
    fn a_failed_result_leaves_nothing() {
        let folder = tempfile::tempdir().unwrap();
        let mut target = at(folder.path().join("record.json"), false).open().unwrap();
        target.write(b"half").unwrap();
        drop(target);
        assert_eq!(std::fs::read_dir(folder.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_device_is_never_replaced() {
        assert!(write(&at("/dev/null".into(), true), &[b"x"]).is_err());
        assert!(Path::new("/dev/null").symlink_metadata().is_ok_and(|found| !found.is_file()));
    }

    #[test]
    fn what_acts_on_a_terminal_is_held_back() {
        let mut guard = Guard::default();
        assert!(guard.check("{\"名\": \"森本\"}\r\n\t".as_bytes()).is_ok());
        assert!(Guard::default().check(b"\x1b[2J").is_err());
        assert!(Guard::default().check("\u{9b}2J".as_bytes()).is_err());
        let mut split = Guard::default();
        split.check(b"\xc2").unwrap();
        assert!(split.check(b"\x9b").is_err(), "a control character cut in two is still one");
    }
}
