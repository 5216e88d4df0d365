//! The advisory lock that keeps two passes apart: `flock` on `known_blobs` itself.
//!
//! `known_blobs` is replaced by rename when it is compacted, and a lock belongs to a file, not to its name. So whoever
//! gets the lock checks that the name still means the file that was locked, and tries again if not; and whoever
//! replaces the file locks the new one before it takes the name. Between the two no moment is left in which two
//! processes hold the lock of what `known_blobs` names.

use std::{fs::File, io, os::unix::fs::MetadataExt, path::Path};

use fs2::FileExt;

use super::StateError;
use crate::disk;

/// Opens a file, made if it is not there, and locks it, or says that another process has.
pub(super) fn open_locked(path: &Path) -> Result<File, StateError> {
    loop {
        let file =
            disk::open_for_append(path, 0o600).map_err(|error| StateError::storage("open", path, error))?;
        lock(&file).map_err(|error| refusal(path, error))?;
        if is_named(&file, path).map_err(|error| StateError::storage("look at", path, error))? {
            return Ok(file);
        }
    }
}

/// Whether the lock is free, or the file not there at all; another pass that asks in this very moment finds it taken.
pub(super) fn try_out(path: &Path) -> Result<(), StateError> {
    let opened = File::open(path);
    if matches!(&opened, Err(error) if error.kind() == io::ErrorKind::NotFound) {
        return Ok(());
    }
    let file = opened.map_err(|error| StateError::storage("open", path, error))?;
    FileExt::try_lock_shared(&file).map_err(|error| refusal(path, error))
}

/// Locks an open file unless another process has; waits for nobody.
pub(super) fn lock(file: &File) -> io::Result<()> {
    FileExt::try_lock_exclusive(file)
}

/// Why there is no lock.
fn refusal(path: &Path, error: io::Error) -> StateError {
    if error.kind() == fs2::lock_contended_error().kind() {
        StateError::Locked { path: path.display().to_string() }
    } else {
        StateError::storage("lock", path, error)
    }
}

/// Whether the path still names this file.
pub(super) fn is_named(file: &File, path: &Path) -> io::Result<bool> {
    let ours = file.metadata()?;
    match path.metadata() {
        Ok(named) => Ok((named.dev(), named.ino()) == (ours.dev(), ours.ino())),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn a_second_lock_is_refused_until_the_first_is_given_back() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("known_blobs");
        let first = open_locked(&path).expect("a free lock");
        assert!(matches!(open_locked(&path), Err(StateError::Locked { .. })));
        drop(first);
        open_locked(&path).expect("a lock that was given back");
    }

    #[test]
    fn the_lock_goes_along_with_the_replaced_file() {
        let folder = tempfile::tempdir().expect("a folder");
        let (path, replacement) = (folder.path().join("known_blobs"), folder.path().join("replacement"));
        let first = open_locked(&path).expect("a free lock");
        let second = disk::open_for_append(&replacement, 0o600).expect("a new file");
        lock(&second).expect("nobody knows the new file");
        fs::rename(&replacement, &path).expect("a rename");
        drop(first);
        assert!(matches!(open_locked(&path), Err(StateError::Locked { .. })), "the new file is locked");
        drop(second);
        open_locked(&path).expect("a lock that was given back");
    }
}
