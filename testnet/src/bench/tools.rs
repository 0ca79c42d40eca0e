//! What users pick instead, as far as it is installed here.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};

/// Programs that a bench can use. `sshd` is rarely on a user's PATH.
const PROGRAMS: [&str; 10] =
    ["age", "age-keygen", "rage", "rage-keygen", "rsync", "scp", "sendme", "ssh", "ssh-keygen", "sshd"];

/// The programs that were found.
#[derive(Clone, Default)]
pub(super) struct Tools(BTreeMap<&'static str, PathBuf>);

impl Tools {
    /// Looks along PATH, and where servers lie.
    pub(super) fn find() -> Self {
        let path = std::env::var_os("PATH").unwrap_or_default();
        let mut folders: Vec<PathBuf> = std::env::split_paths(&path).collect();
        folders.extend(["/usr/sbin", "/usr/local/sbin", "/sbin"].map(PathBuf::from));
        let find = |program: &&'static str| {
            let found = folders.iter().map(|folder| folder.join(program)).find(|path| is_program(path));
            found.map(|path| (*program, path))
        };
        Self(PROGRAMS.iter().filter_map(find).collect())
    }

    pub(super) fn path(&self, program: &str) -> io::Result<&Path> {
        let found = self.0.get(program).map(PathBuf::as_path);
        found.ok_or_else(|| io::Error::other(format!("{program} is not installed")))
    }

    /// The first of these that is not installed.
    pub(super) fn lacks(&self, programs: &[&'static str]) -> Option<&'static str> {
        programs.iter().copied().find(|program| !self.0.contains_key(program))
    }
}

/// A regular file that somebody may run.
fn is_program(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    path.metadata().is_ok_and(|about| about.is_file() && about.permissions().mode() & 0o111 != 0)
}
