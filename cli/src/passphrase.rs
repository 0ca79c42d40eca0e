//! Passphrases: from a file descriptor, a service credential, or the terminal; never from arguments or the
//! environment, which other programs can read.

use karte_node::failure::Failure;
use secrecy::{ExposeSecret, SecretString};
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Longest passphrase, in bytes. 1 KiB: forty words; its buffer never grows, so no copy of it stays behind.
const PASSPHRASE_BYTES_MAX: usize = 1024;
/// The name of the service credential (`LoadCredential=karte-passphrase:…` in a systemd unit).
const CREDENTIAL: &str = "karte-passphrase";

/// The passphrase of a node that exists.
pub(crate) fn existing(fd: Option<u32>) -> Result<SecretString, Failure> {
    match given(fd) {
        Some(passphrase) => passphrase,
        None => prompt("Passphrase: "),
    }
}

/// The passphrase of a node that is being made. On a terminal it is asked twice.
pub(crate) fn fresh(fd: Option<u32>) -> Result<SecretString, Failure> {
    let passphrase = match given(fd) {
        Some(passphrase) => passphrase?,
        None => prompt_twice()?,
    };
    if passphrase.expose_secret().is_empty() {
        return Err(Failure::usage("the passphrase is empty")
            .next("Choose one, or say --no-passphrase if the disk itself is encrypted."));
    }
    Ok(passphrase)
}

/// The passphrase of a backup; asked twice for one that is being made. The service credential is the node's, not its.
pub(crate) fn of_backup(fd: Option<u32>, is_new: bool) -> Result<SecretString, Failure> {
    let passphrase = match (fd.map(descriptor_path), is_new) {
        (Some(path), _) => first_line(&path)?,
        (None, false) => prompt("Passphrase of the backup: ")?,
        (None, true) => {
            let first = prompt("Passphrase for the backup: ")?;
            if first.expose_secret() != prompt("The same again: ")?.expose_secret() {
                return Err(
                    Failure::usage("the two passphrases are not the same").next("Repeat the command.")
                );
            }
            first
        }
    };
    if passphrase.expose_secret().is_empty() {
        return Err(Failure::usage("the backup's passphrase is empty").next("Choose one, or say --to age1…."));
    }
    Ok(passphrase)
}

fn given(fd: Option<u32>) -> Option<Result<SecretString, Failure>> {
    let path = fd.map(descriptor_path).or_else(credential_path)?;
    Some(first_line(&path))
}

/// A descriptor is opened by its name: taking it over by its number would need `unsafe`.
pub(crate) fn descriptor_path(fd: u32) -> PathBuf {
    let folder = if Path::new("/proc/self/fd").exists() { "/proc/self/fd" } else { "/dev/fd" };
    Path::new(folder).join(fd.to_string())
}

fn credential_path() -> Option<PathBuf> {
    let folder = std::env::var_os("CREDENTIALS_DIRECTORY")?;
    Some(Path::new(&folder).join(CREDENTIAL)).filter(|path| path.exists())
}

fn first_line(path: &Path) -> Result<SecretString, Failure> {
    let unreadable = |error: std::io::Error| {
        Failure::usage(format!("the passphrase cannot be read from {}: {error}", path.display()))
            .next("Give an open descriptor, for example: karte --passphrase-fd 3 status 3<FILE")
    };
    let mut file = File::open(path).map_err(unreadable)?;
    let mut buffer = Zeroizing::new([0; PASSPHRASE_BYTES_MAX + 1]);
    let mut length = 0;
    while let Some(room) = buffer.get_mut(length..).filter(|room| !room.is_empty()) {
        let count = file.read(room).map_err(unreadable)?;
        let has_line = room.iter().take(count).any(|byte| *byte == b'\n');
        length += count;
        if count == 0 || has_line {
            break;
        }
    }
    let line = buffer.split(|byte| *byte == b'\n').next().unwrap_or_default();
    let line = line.get(..length.min(line.len())).unwrap_or_default();
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    if line.len() > PASSPHRASE_BYTES_MAX {
        return Err(Failure::usage(format!("expected a passphrase of at most {PASSPHRASE_BYTES_MAX} bytes")));
    }
    let text = std::str::from_utf8(line).map_err(|_| Failure::usage("expected a passphrase in UTF-8"))?;
    Ok(SecretString::from(text))
}

fn prompt_twice() -> Result<SecretString, Failure> {
    let first = prompt("Passphrase for this node's keys: ")?;
    let second = prompt("The same again: ")?;
    if first.expose_secret() == second.expose_secret() {
        return Ok(first);
    }
    Err(Failure::usage("the two passphrases are not the same").next("Repeat the command."))
}

fn prompt(question: &str) -> Result<SecretString, Failure> {
    let line = rpassword::prompt_password(question).map(Zeroizing::new).map_err(|_| {
        Failure::usage("a passphrase is needed, and there is no terminal to ask on")
            .next("Use --passphrase-fd N, or the service credential karte-passphrase.")
    })?;
    // From a `&str`, so that no longer buffer is shrunk and left behind unwiped.
    Ok(SecretString::from(line.as_str()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::Write;

    fn line_of(bytes: &[u8]) -> Result<String, Failure> {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(bytes).unwrap();
        first_line(file.path()).map(|line| line.expose_secret().to_owned())
    }

    #[test]
    fn one_line_is_read() {
        assert_eq!(line_of(b"correct horse\nbattery").unwrap(), "correct horse");
        assert_eq!(line_of("合言葉\r\n".as_bytes()).unwrap(), "合言葉");
        assert_eq!(line_of(b"no line end").unwrap(), "no line end");
        assert_eq!(line_of(b"").unwrap(), "");
        assert!(line_of(b"\xff\n").is_err());
        assert_eq!(line_of(&[b'x'; PASSPHRASE_BYTES_MAX]).unwrap().len(), PASSPHRASE_BYTES_MAX);
        assert!(line_of(&[b'x'; PASSPHRASE_BYTES_MAX + 1]).is_err());
    }

    #[test]
    fn what_cannot_be_read_is_said() {
        assert!(first_line(Path::new("/proc/self/fd/999")).is_err());
    }
}
