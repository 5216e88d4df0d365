//! What outputs and state share about files.

use std::{fs::File, io, path::Path};

/// Makes a file's name durable: a new or renamed file is found after a power loss only if its folder was synced too.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    File::open(folder)?.sync_all()
}

/// What a person can do about a file that cannot be read or written.
pub fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "make room; nothing is lost, the next pass goes on from here"
        }
        io::ErrorKind::PermissionDenied => "let the collector's user read and write it",
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: use another folder, or mount it writable"
        }
        io::ErrorKind::NotFound => "make its folder",
        io::ErrorKind::IsADirectory => "a folder has this name: choose another one",
        io::ErrorKind::FileTooLarge => "the file has reached its largest size: rotate it, or raise the limit",
        _ => "check the disk; nothing is lost, the next pass goes on from here",
    }
}
