//! Files, as outputs and state need them: what is written is durable when it is said to be, and never half replaced.
//!
//! Everything that changes a file goes through here, so that tests can make each step fail ([`fault`]).

pub mod fault;

use std::{
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Write},
    os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use fault::Step;
use serde::{Deserialize, Serialize};

use crate::limits::STATE_BUFFER_BYTES;

/// Which file it is, whatever its name is by now, and how much of it counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// Its name when it was opened.
    pub path: PathBuf,
    /// The file system's number.
    pub device: u64,
    /// The file's number on it.
    pub inode: u64,
    /// Bytes from the start on.
    pub length: u64,
}

impl Position {
    /// Where an open file ends.
    pub fn end_of(file: &File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let (device, inode, length) = (metadata.dev(), metadata.ino(), metadata.len());
        Ok(Self { path: path.to_owned(), device, inode, length })
    }

    /// Whether it is the same file.
    pub fn is_of(&self, metadata: &fs::Metadata) -> bool {
        (self.device, self.inode) == (metadata.dev(), metadata.ino())
    }
}

/// Makes a folder and those above it, with this mode (less the umask), where they are not there. Their names are
/// durable when this returns.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() || path.is_dir() {
        return Ok(());
    }
    if let Some(parent) = path.parent() {
        make_folder(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => Ok(()),
        created => created.and_then(|()| sync_folder_of(path)),
    }
}

/// Opens a file for reading and appending, made with this mode (less the umask) if it is not there. A new file's name
/// is durable when this returns.
pub fn open_for_append(path: &Path, mode: u32) -> io::Result<File> {
    let is_new = !path.exists();
    fault::before(Step::Open)?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(mode).open(path)?;
    fault::after(Step::Open);
    if is_new {
        sync_folder_of(path)?;
    }
    Ok(file)
}

/// Finds out whether a file could be appended to, and changes nothing: one that is there is opened, for one that is not
/// a file of another name is made in the nearest folder that is there, and removed.
pub fn try_append(path: &Path) -> io::Result<()> {
    match OpenOptions::new().read(true).append(true).open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        opened => return opened.map(drop),
    }
    let is_there = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
    try_folder(path.ancestors().skip(1).find(is_there).unwrap_or(Path::new("/")))
}

/// Finds out whether [`replace`] could work, and changes nothing: a file of another name is made in the folder, which
/// must be there, and removed.
pub fn try_replace(path: &Path) -> io::Result<()> {
    if path.is_dir() {
        return Err(io::ErrorKind::IsADirectory.into());
    }
    try_folder(folder_of(path))
}

/// Makes and removes a file of a name that nobody else has: the number of a process is the same in every container.
fn try_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".{}-{:016x}", env!("CARGO_PKG_NAME"), fastrand::u64(..)));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
    fs::remove_file(probe)
}

/// Appends all of it. After an error a part of it may be in the file.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let allowed = fault::before_write(bytes)?;
    file.write_all(allowed)?;
    if allowed.len() < bytes.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    fault::after(Step::Write);
    Ok(())
}

/// Returns when what was written to the file is on the disk.
pub fn sync(file: &File) -> io::Result<()> {
    fault::before(Step::Sync)?;
    match file.sync_data() {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {} // a pipe or a device: there is no disk
        synced => synced?,
    }
    fault::after(Step::Sync);
    Ok(())
}

/// Cuts a file off at this length.
pub fn cut(file: &File, length: u64) -> io::Result<()> {
    fault::before(Step::Cut)?;
    file.set_len(length)?;
    fault::after(Step::Cut);
    Ok(())
}

/// Lets a new file take a name, durably: whoever looks finds the old file or the new one, whole. `prepare` may still
/// do something to the new file before it takes the name.
pub fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<File> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    fault::before(Step::Open)?;
    let mut file = OpenOptions::new().read(true).append(true).create_new(true).mode(mode).open(&new)?;
    fault::after(Step::Open);
    let mut writer = BufWriter::with_capacity(STATE_BUFFER_BYTES, Appending(&mut file));
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    sync(&file)?;
    prepare(&file)?;
    fault::before(Step::Rename)?;
    fs::rename(&new, path)?;
    fault::after(Step::Rename);
    sync_folder_of(path)?;
    Ok(file)
}

/// Passes on what is written to [`append`].
struct Appending<'a>(&'a mut File);

impl Write for Appending<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        append(self.0, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Makes a file's name durable: a new or renamed file is found after a power loss only if its folder was synced too.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    fault::before(Step::SyncFolder)?;
    File::open(folder_of(path))?.sync_all()?;
    fault::after(Step::SyncFolder);
    Ok(())
}

/// The folder that a file stands or would stand in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
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
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "choose a path whose folder is there or can be made"
        }
        io::ErrorKind::AlreadyExists => "a file has that name: move it away, or choose another path",
        io::ErrorKind::InvalidData => "move the file away, and a new one is begun",
        io::ErrorKind::IsADirectory => "it is a folder: move it away, or choose another path",
        io::ErrorKind::FileTooLarge => "the file has reached its largest size: rotate it, or raise the limit",
        _ => "check the disk; nothing is lost, the next pass goes on from here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn trying_to_append_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/audit.json");
        try_append(&path).expect("a writable folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let there = folder.path().join("audit.json");
        fs::write(&there, "{}\n").expect("a file");
        try_append(&there).expect("a writable file");
        assert_eq!(fs::read_to_string(&there).expect("a file"), "{}\n");
        let below_a_file = try_append(&there.join("audit.json")).expect_err("a file is no folder");
        assert_eq!(below_a_file.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn trying_to_replace_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("office365.prom");
        try_replace(&path).expect("a writable folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let of_folder = try_replace(folder.path()).expect_err("no file takes a folder's name");
        assert_eq!(of_folder.kind(), io::ErrorKind::IsADirectory);
        let without_folder =
            try_replace(&path.join("office365.prom")).expect_err("a folder that is not there");
        assert_eq!(without_folder.kind(), io::ErrorKind::NotFound);
    }
}
