//! File operations that outputs and state rely on: data that was reported durable survives a power loss, and a replaced
//! file is either the old one or the new one.
//!
//! Every change of such a file goes through this module, so that tests can make each step fail ([`fault`]).

pub mod fault;
mod owner;
mod replace;

use std::{
    borrow::Cow,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, Write},
    ops::Range,
    os::unix::fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use serde::{Deserialize, Serialize};

use crate::{error::Explain, limits::STATE_BUFFER_BYTES};
use fault::Step;

pub use owner::{ForeignFiles, ROOT, give_to_owner, is_system_folder};
pub use replace::{check_replace, is_rewrite_pending, recover, replace, replace_unsynced, replace_with};

/// The maximum number of symbolic links that are followed from one path: the kernel's own limit.
///
/// Source: `path_resolution(7)`.
const SYMBOLIC_LINKS_MAX: usize = 40;

/// An error returned when a file or folder cannot be used.
#[derive(Debug, thiserror::Error)]
#[error("cannot {action} {}", path.display())]
pub struct FileError {
    /// The operation that failed: `read`, `write`, …
    action: &'static str,
    path: PathBuf,
    source: io::Error,
    hint: Cow<'static, str>,
}

impl FileError {
    /// Returns the error of an operation on a file or folder. `action` is a verb such as `read`.
    pub fn new(action: &'static str, path: &Path, source: io::Error) -> Self {
        let is_denied = source.kind() == io::ErrorKind::PermissionDenied;
        let of_owner = is_denied.then(|| owner::hint_to_own(path)).flatten();
        let hint = of_owner.map_or(Cow::Borrowed(hint(&source)), Cow::Owned);
        Self { action, path: path.to_owned(), source, hint }
    }
}

impl Explain for FileError {
    fn hint(&self) -> &str {
        &self.hint
    }
}

/// Adds the operation and the path to an I/O error.
pub trait FileContext<T> {
    /// Turns an I/O error into a [`FileError`].
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError>;
}

impl<T> FileContext<T> for io::Result<T> {
    fn context(self, action: &'static str, path: &Path) -> Result<T, FileError> {
        self.map_err(|source| FileError::new(action, path, source))
    }
}

/// Returns `None` if the file or folder does not exist.
pub fn none_if_missing<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        result => result.map(Some),
    }
}

/// The length of a file, and the identity by which it is found after it was renamed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Position {
    /// The path under which the file was opened.
    pub path: PathBuf,
    /// The device number of the file system.
    pub device: u64,
    /// The inode number.
    pub inode: u64,
    /// The length in bytes.
    pub length: u64,
}

/// Returns what all names of a file have in common: its device and inode numbers.
pub fn id_of(metadata: &fs::Metadata) -> (u64, u64) {
    (metadata.dev(), metadata.ino())
}

impl Position {
    /// Returns the end of an open file.
    pub fn end_of(file: &File, path: &Path) -> io::Result<Self> {
        let metadata = file.metadata()?;
        let (device, inode) = id_of(&metadata);
        Ok(Self { path: path.to_owned(), device, inode, length: metadata.len() })
    }

    /// Returns whether the metadata is that of the same file.
    pub fn is_of(&self, metadata: &fs::Metadata) -> bool {
        (self.device, self.inode) == id_of(metadata)
    }
}

/// Creates a folder and its parents with this mode (less the umask) where they do not exist.
///
/// Their names are durable afterwards, even if a process created them and was killed before it synced them. A folder that
/// root creates gets the owner of its parent.
pub fn create_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    if path.is_dir() {
        return sync_names_of(path);
    }
    if let Some(parent) = path.parent() {
        create_folder(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => {}
        created => {
            created?;
            give_to_owner(&File::open(path)?, path)?;
        }
    }
    sync_folder_of(path)
}

/// Syncs the names of an existing folder and of its parents, up to the first parent that belongs to another user or that
/// cannot be synced: this program created neither.
fn sync_names_of(folder: &Path) -> io::Result<()> {
    let mut name = folder;
    while let (Ok(metadata), Ok(parent)) = (fs::metadata(name), fs::metadata(folder_of(name))) {
        if name.file_name().is_none() || parent.dev() != metadata.dev() {
            break;
        }
        let synced = sync_folder_of(name);
        if synced.as_ref().is_err_and(|error| {
            matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem)
        }) {
            break;
        }
        synced?;
        match name.parent() {
            Some(above) if parent.uid() == metadata.uid() && !above.as_os_str().is_empty() => name = above,
            _ => break,
        }
    }
    Ok(())
}

/// Opens a file for reading and appending, and creates it with this mode (less the umask) if it does not exist.
///
/// Its name is durable afterwards, even if a process created it and was killed before it synced the folder. A file that
/// root creates gets the owner of its folder. Symbolic links are followed; the target may be missing.
pub fn open_for_append(path: &Path, mode: u32) -> io::Result<File> {
    let is_new = !path.exists();
    fault::before(Step::Open)?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(mode).open(path)?;
    fault::after(Step::Open);
    let target = resolve_links(path)?;
    if is_new {
        give_to_owner(&file, &target)?;
    }
    sync_folder_of(&target)?;
    Ok(file)
}

/// Returns the path that the symbolic links of a path lead to, or the path itself if it is not a link. The target may be
/// missing.
pub fn resolve_links(path: &Path) -> io::Result<PathBuf> {
    follow_links(path, |_| Ok(()))
}

/// Follows the symbolic links of a path. `check` sees each link before it is followed.
fn follow_links(path: &Path, check: impl Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
    let mut target = path.to_owned();
    for _ in 0..SYMBOLIC_LINKS_MAX {
        let next = match fs::read_link(&target) {
            Ok(next) => next,
            Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::NotFound) => {
                return Ok(target);
            }
            Err(error) => return Err(error),
        };
        check(&target)?;
        target = folder_of(&target).join(next);
    }
    Err(io::Error::other("it leads through too many symbolic links"))
}

/// Returns an error if the path names something other than a regular file. A missing file is fine.
///
/// A FIFO can block its reader forever, and a device stores nothing.
pub fn require_regular(path: &Path) -> io::Result<()> {
    let Some(metadata) = none_if_missing(fs::metadata(path))? else { return Ok(()) };
    match special_kind(&metadata) {
        None => Ok(()),
        Some(_) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Some(kind) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("it is {kind}, but must be a regular file"),
        )),
    }
}

/// Like [`require_regular`], for a file of the state: also rejects a symbolic link that belongs neither to root nor to
/// the owner of its folder, because another user could redirect the state to any file of the collector's user.
///
/// This is the rule that Linux applies in sticky folders: `proc_sys_fs(5)`, `protected_symlinks`.
pub fn require_own_regular(path: &Path) -> io::Result<()> {
    follow_links(path, |link| {
        let owner = fs::symlink_metadata(link)?.uid();
        if owner == ROOT || owner == fs::metadata(folder_of(link))?.uid() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is a symbolic link of another user (uid {owner})", link.display()),
        ))
    })?;
    require_regular(path)
}

/// The name that [`special_kind`] returns for a named pipe.
pub const FIFO: &str = "a FIFO";

/// Returns what a path names if it is not a regular file.
pub fn special_kind(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some(FIFO),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// Returns whether every user of the machine can create files in this folder.
pub fn is_writable_by_others(folder: &Path) -> bool {
    const WRITE_OF_OTHERS: u32 = 0o002;
    fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & WRITE_OF_OTHERS != 0)
}

/// Returns an error if a file could not be appended to. Changes nothing: an existing file is opened; for a missing one a
/// temporary file is created in the nearest existing folder.
pub fn check_append(path: &Path) -> io::Result<()> {
    if none_if_missing(OpenOptions::new().read(true).append(true).open(path))?.is_some() {
        return Ok(());
    }
    let exists = |folder: &&Path| folder.as_os_str().is_empty() || folder.exists();
    check_folder(path.ancestors().skip(1).find(exists).unwrap_or(Path::new("/")))
}

/// Creates and removes a file with a random name, because process ids repeat between containers.
fn check_folder(folder: &Path) -> io::Result<()> {
    let probe = folder.join(format!(".{}-{:016x}", env!("CARGO_PKG_NAME"), fastrand::u64(..)));
    OpenOptions::new().write(true).create_new(true).mode(0o600).open(&probe)?;
    fs::remove_file(probe)
}

/// Appends bytes. After an error a part of them may be in the file.
pub fn append(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let allowed = fault::before_write(bytes)?;
    file.write_all(allowed)?;
    finish_write(allowed, bytes)
}

/// Ends a write of which a test may have allowed a part only.
fn finish_write(allowed: &[u8], bytes: &[u8]) -> io::Result<()> {
    if allowed.len() < bytes.len() {
        return Err(io::ErrorKind::StorageFull.into());
    }
    fault::after(Step::Write);
    Ok(())
}

/// Appends bytes and syncs the file. After an error the file is truncated to its former length if that is possible.
pub fn append_durably(file: &mut File, bytes: &[u8]) -> io::Result<()> {
    let length = file.metadata()?.len();
    let written = append(file, bytes).and_then(|()| sync(file));
    if written.is_err() {
        let _ = truncate(file, length);
    }
    written
}

/// Writes a range of a file again with the bytes that it contains. The file must not be open for appending.
///
/// After a failed fsync, Linux treats the dirty pages as written, and no later fsync writes them. Writing the bytes again
/// makes the pages dirty again.
pub fn rewrite_range(file: &File, mut range: Range<u64>) -> io::Result<()> {
    let mut buffer = vec![0; STATE_BUFFER_BYTES];
    while range.start < range.end {
        let length = usize::try_from(range.end - range.start).unwrap_or(usize::MAX).min(buffer.len());
        let bytes = &mut buffer[..length];
        file.read_exact_at(bytes, range.start)?;
        write_at(file, bytes, range.start)?;
        range.start += length as u64;
    }
    Ok(())
}

/// Writes bytes at an offset of a file that is not open for appending. After an error a part of them may be in the file.
pub fn write_at(file: &File, bytes: &[u8], offset: u64) -> io::Result<()> {
    let allowed = fault::before_write(bytes)?;
    file.write_all_at(allowed, offset)?;
    finish_write(allowed, bytes)
}

/// Makes everything that was written to the file durable.
pub fn sync(file: &File) -> io::Result<()> {
    fault::before(Step::Sync)?;
    match fault::sync(file, File::sync_data) {
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => {} // a pipe or a device: there is no disk
        synced => synced?,
    }
    fault::after(Step::Sync);
    Ok(())
}

/// Truncates a file to this length.
pub fn truncate(file: &File, length: u64) -> io::Result<()> {
    fault::before(Step::Cut)?;
    file.set_len(length)?;
    fault::after(Step::Cut);
    Ok(())
}

/// Makes a file's name durable: after a power loss a new or renamed file is found only if its folder was synced too.
pub fn sync_folder_of(path: &Path) -> io::Result<()> {
    fault::before(Step::SyncFolder)?;
    let folder = File::open(folder_of(path))?;
    let synced = if fault::lacks("folder-sync") {
        Err(io::ErrorKind::InvalidInput.into())
    } else {
        fault::sync(&folder, File::sync_all)
    };
    match synced {
        // CIFS and some FUSE file systems: fsync(2), EINVAL.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported) => {
            log::debug!("The file system cannot sync the folder {}: {error}", folder_of(path).display());
        }
        synced => synced?,
    }
    fault::after(Step::SyncFolder);
    Ok(())
}

/// Returns the folder of a path, `.` for a bare file name.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Makes a write beyond the process's file size limit (`ulimit -f`, `LimitFSIZE=`) fail like a write to a full disk. By
/// default it kills the process without a message: setrlimit(2), `RLIMIT_FSIZE`.
pub fn report_size_limits() {
    // If the handler cannot be installed, the signal ends the pass, which the state survives.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// Returns what the administrator can do about a file that cannot be read or written.
pub fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => {
            "free some space; nothing is lost, and the next pass continues from here"
        }
        io::ErrorKind::PermissionDenied => "let the collector's user read and write it",
        io::ErrorKind::ReadOnlyFilesystem => {
            "the file system is read-only: use another folder, or mount it writable"
        }
        io::ErrorKind::NotFound | io::ErrorKind::NotADirectory => {
            "choose a path whose folder exists or can be created"
        }
        io::ErrorKind::AlreadyExists => "a file has that name: move it away, or choose another path",
        io::ErrorKind::InvalidData => "move the file away, and a new one is created",
        io::ErrorKind::IsADirectory => "it is a folder: move it away, or choose another path",
        io::ErrorKind::FileTooLarge => "the file has reached its largest size: rotate it, or raise the limit",
        _ => "check the disk; nothing is lost, and the next pass continues from here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn check_append_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("new/audit.json");
        check_append(&path).expect("a writable folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let there = folder.path().join("audit.json");
        fs::write(&there, "{}\n").expect("a file");
        check_append(&there).expect("a writable file");
        assert_eq!(fs::read_to_string(&there).expect("a file"), "{}\n");
        let below_a_file = check_append(&there.join("audit.json")).expect_err("a file is not a folder");
        assert_eq!(below_a_file.kind(), io::ErrorKind::NotADirectory);
    }

    #[test]
    fn knows_the_error_kinds_of_unsupported_operations() {
        for code in [22, 95] {
            let kind = io::Error::from_raw_os_error(code).kind(); // EINVAL, ENOTSUP on Linux
            assert!(
                matches!(kind, io::ErrorKind::InvalidInput | io::ErrorKind::Unsupported),
                "{code}: {kind:?}"
            );
        }
        for code in [16, 18] {
            let kind = io::Error::from_raw_os_error(code).kind(); // EBUSY, EXDEV
            assert!(
                matches!(kind, io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices),
                "{code}: {kind:?}"
            );
        }
    }

    #[test]
    fn follows_links_and_rejects_loops() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("second", path("first")).expect("a link");
        std::os::unix::fs::symlink(path("missing"), path("second")).expect("a link");
        std::os::unix::fs::symlink("circle", path("circle")).expect("a link");
        assert_eq!(resolve_links(&path("first")).expect("a target"), path("missing"));
        assert_eq!(resolve_links(&path("plain")).expect("a target"), path("plain"));
        let circle = resolve_links(&path("circle")).expect_err("no end").to_string();
        assert!(circle.contains("too many symbolic links"), "{circle}");
    }

    #[test]
    fn check_replace_changes_nothing() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = folder.path().join("office365.prom");
        check_replace(&path).expect("a writable folder");
        assert_eq!(fs::read_dir(folder.path()).expect("a folder").count(), 0);
        let of_folder = check_replace(folder.path()).expect_err("a folder cannot be replaced");
        assert_eq!(of_folder.kind(), io::ErrorKind::IsADirectory);
        let without_folder = check_replace(&path.join("office365.prom")).expect_err("a missing folder");
        assert_eq!(without_folder.kind(), io::ErrorKind::NotFound);
    }
}
