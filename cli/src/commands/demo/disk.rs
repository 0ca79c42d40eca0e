//! What somebody sees who gets hold of a folder: every file, searched for words.

use std::io;
use std::path::{Path, PathBuf};

/// What was looked through, and what was found.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Search {
    pub(super) files: usize,
    pub(super) bytes: usize,
    pub(super) found: Vec<Hit>,
}

/// A word that was found, and in which file.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Hit {
    pub(super) word: String,
    pub(super) path: PathBuf,
}

impl Search {
    pub(super) fn add(&mut self, other: Search) {
        self.files += other.files;
        self.bytes += other.bytes;
        self.found.extend(other.found);
    }
}

/// Searches every file below `folder` for each of `words`.
pub(super) fn search(folder: &Path, words: &[&str]) -> io::Result<Search> {
    let mut search = Search::default();
    look_into(folder, words, &mut search)?;
    Ok(search)
}

fn look_into(folder: &Path, words: &[&str], search: &mut Search) -> io::Result<()> {
    for entry in std::fs::read_dir(folder)? {
        let (path, kind) = entry.and_then(|entry| Ok((entry.path(), entry.file_type()?)))?;
        if kind.is_dir() {
            look_into(&path, words, search)?;
        } else if kind.is_file() {
            look_at(&path, words, search)?;
        }
    }
    Ok(())
}

fn look_at(path: &Path, words: &[&str], search: &mut Search) -> io::Result<()> {
    let bytes = match std::fs::read(path) {
        Ok(bytes) => bytes,
        // A running node may have replaced it since the folder was listed.
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    };
    search.files += 1;
    search.bytes += bytes.len();
    let found = words.iter().filter(|word| contains(&bytes, word.as_bytes()));
    search.found.extend(found.map(|word| Hit { word: (*word).to_owned(), path: path.to_owned() }));
    Ok(())
}

fn contains(bytes: &[u8], word: &[u8]) -> bool {
    let Some(first) = word.first() else { return true };
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|byte| byte == first) {
        rest = rest.get(at..).unwrap_or_default();
        if rest.starts_with(word) {
            return true;
        }
        rest = rest.get(1..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_is_found() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("deep")).unwrap();
        std::fs::write(folder.path().join("deep/a"), "..千千尋\0Creatinine").unwrap();
        std::fs::write(folder.path().join("b"), "Creatinin").unwrap();
        let search = search(folder.path(), &["千尋", "Creatinine", "absent"]).unwrap();
        assert_eq!((search.files, search.found.len()), (2, 2));
        assert!(search.found.iter().all(|hit| hit.path.ends_with("deep/a")));
    }
}
