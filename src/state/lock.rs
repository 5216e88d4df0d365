//! The advisory lock that keeps two passes apart: `flock` on `known_blobs` itself.
//!
//! Compaction replaces `known_blobs` by rename, and a lock belongs to a file, not to its name. So a process that gets the
//! lock checks that the name still refers to the locked file, and otherwise starts again; and a process that replaces the
//! file locks the new one before it renames it. At no time do two processes hold the lock of the file that is named
//! `known_blobs`.

use std::{fs::File, io, path::Path};

use fs2::FileExt;

use super::StateError;
use crate::disk::{self, FileContext, FileError};

/// Opens a file, which is created if it does not exist, and locks it.
pub(super) fn open_locked(path: &Path) -> Result<File, StateError> {
    loop {
        let file = disk::open_for_append(path, 0o600).context("open", path)?;
        lock(&file).map_err(|error| lock_error(path, error))?;
        if is_named(&file, path).context("inspect", path)? {
            return Ok(file);
        }
    }
}

/// Returns an error if another process holds the lock. A missing file is fine. For a moment, this keeps a pass that
/// starts from getting the lock.
pub(super) fn check(path: &Path) -> Result<(), StateError> {
    let Some(file) = disk::none_if_missing(File::open(path)).context("open", path)? else { return Ok(()) };
    FileExt::try_lock_shared(&file).map_err(|error| lock_error(path, error))
}

/// Locks an open file without waiting.
pub(super) fn lock(file: &File) -> io::Result<()> {
    FileExt::try_lock_exclusive(file)
}

fn lock_error(path: &Path, error: io::Error) -> StateError {
    if error.kind() == fs2::lock_contended_error().kind() {
        return StateError::Locked { path: path.to_owned() };
    }
    FileError::new("lock", path, error).into()
}

/// Returns whether the path still names this file.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let (locked, named) = (file.metadata()?, disk::none_if_missing(path.metadata())?);
    Ok(named.is_some_and(|named| disk::id_of(&named) == disk::id_of(&locked)))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn second_lock_fails_until_the_first_is_released() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("known_blobs");
        let first = open_locked(&path).expect("a free lock");
        assert!(matches!(open_locked(&path), Err(StateError::Locked { .. })));
        drop(first);
        open_locked(&path).expect("a released lock");
    }

    #[test]
    fn lock_survives_a_replacement_of_the_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, replacement) = (folder.path().join("known_blobs"), folder.path().join("replacement"));
        let first = open_locked(&path).expect("a free lock");
        let second = disk::open_for_append(&replacement, 0o600).expect("a new file");
        lock(&second).expect("a new file");
        fs::rename(&replacement, &path).expect("a rename");
        drop(first);
        assert!(matches!(open_locked(&path), Err(StateError::Locked { .. })), "the new file is locked");
        drop(second);
        open_locked(&path).expect("a released lock");
    }
}
