//! Files, as outputs and state need them: what is written is durable when it is said to be, and never half replaced.
//!
//! Everything that changes a file goes through here, so that tests can make each step fail ([`fault`]).

pub mod fault;

use std::{
    fmt,
    fs::{self, DirBuilder, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    ops::Range,
    os::unix::{
        self,
        fs::{DirBuilderExt, FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    sync::Arc,
};

use fault::Step;
use serde::{Deserialize, Serialize};

use crate::limits::{NAMED_FILES_MAX, STATE_BUFFER_BYTES, SYMBOLIC_LINKS_MAX};

/// The user id of root.
pub const ROOT: u32 = 0;

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

/// Creates a folder and those above it, with this mode (less the umask), where they do not exist. Their names are durable
/// when this returns, also if they were created by a process that was killed before it could see to that. A folder that
/// root creates belongs to the owner of the folder that it is in.
pub fn make_folder(path: &Path, mode: u32) -> io::Result<()> {
    if path.as_os_str().is_empty() {
        return Ok(());
    }
    if path.is_dir() {
        return sync_names_of(path);
    }
    if let Some(parent) = path.parent() {
        make_folder(parent, mode)?;
    }
    match DirBuilder::new().mode(mode).create(path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && path.is_dir() => sync_folder_of(path),
        created => {
            created?;
            give_to_owner(&File::open(path)?, path)?;
            sync_folder_of(path)
        }
    }
}

/// Makes the name of an existing folder durable, and the names of those above it as far as the same user owns them: a
/// folder of another user is not of this program's making. What cannot be synced was not created here either.
fn sync_names_of(folder: &Path) -> io::Result<()> {
    let mut name = folder;
    while let (Ok(metadata), Ok(parent)) = (fs::metadata(name), fs::metadata(folder_of(name))) {
        if name.file_name().is_none() || parent.dev() != metadata.dev() {
            break;
        }
        match sync_folder_of(name) {
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::PermissionDenied | io::ErrorKind::ReadOnlyFilesystem
                ) =>
            {
                break;
            }
            synced => synced?,
        }
        match name.parent() {
            Some(above) if parent.uid() == metadata.uid() && !above.as_os_str().is_empty() => name = above,
            _ => break,
        }
    }
    Ok(())
}

/// Opens a file for reading and appending, created with this mode (less the umask) if it does not exist. Its name is
/// durable when this returns, also if it was created by a process that was killed before it could see to that. A file
/// that root creates belongs to the owner of its folder. A symbolic link is followed, also one whose target does not
/// exist yet.
pub fn open_for_append(path: &Path, mode: u32) -> io::Result<File> {
    let is_new = !path.exists();
    fault::before(Step::Open)?;
    let file = OpenOptions::new().read(true).append(true).create(true).mode(mode).open(path)?;
    fault::after(Step::Open);
    if is_new {
        give_to_owner(&file, &target_of(path)?)?;
    }
    sync_folder_of(&target_of(path)?)?;
    Ok(file)
}

/// Returns where the symbolic links of a path lead to; the path itself if it is not a link. The target may be missing.
pub fn target_of(path: &Path) -> io::Result<PathBuf> {
    follow(path, |_| Ok(()))
}

/// Follows the symbolic links of a path, each after it was checked.
fn follow(path: &Path, check: impl Fn(&Path) -> io::Result<()>) -> io::Result<PathBuf> {
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

/// Refuses a path that names something other than a regular file: a FIFO can make its reader wait forever, and a
/// device stores nothing. A file that does not exist is fine.
pub fn require_regular(path: &Path) -> io::Result<()> {
    let metadata = match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        metadata => metadata?,
    };
    match unusual_kind(&metadata) {
        None => Ok(()),
        Some(_) if metadata.is_dir() => Err(io::ErrorKind::IsADirectory.into()),
        Some(kind) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("it is {kind}, but must be a regular file"),
        )),
    }
}

/// [`require_regular`] for a file of the state. Also refuses a symbolic link that belongs neither to root nor to the
/// owner of the folder that it is in: another user could redirect the state to any file of the collector's user.
///
/// This is the rule that Linux applies in sticky folders: `proc_sys_fs(5)`, `protected_symlinks`.
pub fn require_own_regular(path: &Path) -> io::Result<()> {
    follow(path, |link| {
        let owner = fs::symlink_metadata(link)?.uid();
        if owner == 0 || owner == fs::metadata(folder_of(link))?.uid() {
            return Ok(());
        }
        Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} is a symbolic link of another user (uid {owner})", link.display()),
        ))
    })?;
    require_regular(path)
}

/// What [`unusual_kind`] calls a named pipe.
pub const FIFO: &str = "a FIFO";

/// What a path names if it is not a regular file.
pub fn unusual_kind(metadata: &fs::Metadata) -> Option<&'static str> {
    let kind = metadata.file_type();
    match () {
        () if kind.is_file() => None,
        () if kind.is_dir() => Some("a folder"),
        () if kind.is_fifo() => Some(FIFO),
        () if kind.is_socket() => Some("a socket"),
        () => Some("a device"),
    }
}

/// Whether every user of the machine can create files in this folder.
pub fn is_writable_by_others(folder: &Path) -> bool {
    const WRITE_OF_OTHERS: u32 = 0o002;
    fs::metadata(folder).is_ok_and(|metadata| metadata.is_dir() && metadata.mode() & WRITE_OF_OTHERS != 0)
}

/// Gives a new file or folder to the owner of the folder that it is in, if it belongs to root: a pass that is run as root
/// by hand must not leave files that the service's own passes cannot write. On file systems without owners nothing
/// changes.
pub fn give_to_owner(new: &File, path: &Path) -> io::Result<()> {
    let (file, folder) = (new.metadata()?, fs::metadata(folder_of(path))?);
    if file.uid() != ROOT || folder.uid() == ROOT {
        return Ok(());
    }
    match unix::fs::fchown(new, Some(folder.uid()), Some(folder.gid())) {
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// The files in a folder that belong to another user than the folder, which a service that owns the folder cannot write.
#[derive(Debug)]
pub struct ForeignFiles {
    folder: PathBuf,
    /// The owner of the folder: its user and its group.
    owner: (u32, u32),
    files: Vec<PathBuf>,
}

impl ForeignFiles {
    /// Looks for them among these files of the folder. For a folder of root's, and for a process that is not root's,
    /// there is nothing to say.
    pub fn find(folder: &Path, files: Vec<PathBuf>) -> Option<Self> {
        let metadata = fs::metadata(folder).ok()?;
        if !rustix::process::geteuid().is_root() || metadata.uid() == ROOT {
            return None;
        }
        let is_foreign = |path: &PathBuf| {
            fs::symlink_metadata(path).is_ok_and(|file| !file.is_symlink() && file.uid() != metadata.uid())
        };
        let files = files.into_iter().filter(is_foreign).collect();
        Some(Self { folder: folder.to_owned(), owner: (metadata.uid(), metadata.gid()), files })
    }

    /// Looks for them among all files of the folder and the folders in it.
    pub fn find_all(folder: &Path) -> Option<Self> {
        let entries =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let below = entries(folder).filter(|path| path.is_dir()).flat_map(|path| entries(&path));
        Self::find(folder, entries(folder).chain(below).collect())
    }

    /// Returns whether there are any.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns how to run the program as the owner of the folder.
    pub fn advice(&self) -> String {
        let Self { folder, owner: (user, group), .. } = self;
        format!(
            "{} belongs to user {user}, and this is run as root: run passes as that user, with systemctl start \
             office365-collector or setpriv --reuid={user} --regid={group} --init-groups office_audit_log_collector",
            folder.display()
        )
    }
}

impl fmt::Display for ForeignFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, owner: (user, group), files } = self;
        let named: Vec<_> =
            files.iter().take(NAMED_FILES_MAX).map(|file| file.display().to_string()).collect();
        write!(
            formatter,
            "{} files in {} do not belong to its owner, user {user}, and passes as that user cannot write them; run: \
             chown {user}:{group} {}",
            files.len(),
            folder.display(),
            named.join(" ")
        )?;
        if files.len() > named.len() { formatter.write_str(" and the others") } else { Ok(()) }
    }
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
    require_regular(path)?;
    try_folder(folder_of(&target_of(path)?))
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

/// Writes a part of a file again, with what it contains. The file must not be open for appending. The bytes of a file can
/// be in memory only, and taken for written, after an fsync that failed; this lets the next one write them.
pub fn write_in_place(file: &File, mut part: Range<u64>) -> io::Result<()> {
    let mut bytes = vec![0; STATE_BUFFER_BYTES];
    while part.start < part.end {
        let length = usize::try_from(part.end - part.start).unwrap_or(usize::MAX).min(bytes.len());
        file.read_exact_at(&mut bytes[..length], part.start)?;
        let allowed = fault::before_write(&bytes[..length])?;
        file.write_all_at(allowed, part.start)?;
        if allowed.len() < length {
            return Err(io::ErrorKind::StorageFull.into());
        }
        fault::after(Step::Write);
        part.start += length as u64;
    }
    Ok(())
}

/// Returns when what was written to the file is on the disk.
pub fn sync(file: &File) -> io::Result<()> {
    fault::before(Step::Sync)?;
    match fault::sync(file, File::sync_data) {
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

/// Replaces a file's text, durably: a reader finds the old file or the new one, whole. `prepare` may still do something
/// to the new file before it takes the name. A symbolic link is followed: its target is replaced.
///
/// Where a file cannot take the name of another one, as with a single file that is mounted into a container, the file
/// is rewritten in place. Then `None` is returned, and handles of the file remain valid; otherwise the new file.
///
/// # Errors
///
/// Unless the name already has the new file, or [`is_half_rewritten`] says otherwise, the file is as it was.
pub fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<Option<File>> {
    let path = &target_of(path)?;
    let new = path.with_extension("new");
    remove_if_there(&new)?;
    let written = write_new(&new, mode, write).and_then(|file| prepare(&file).map(|()| file));
    let replaced = written.and_then(|file| match rename(&new, path, Step::Rename) {
        Ok(()) => sync_folder_of(path).map(|()| Some(file)),
        // A mount point has its name for good: rename(2), EBUSY and EXDEV.
        Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {
            rewrite_in_place(&new, path).map(|()| None)
        }
        Err(error) => Err(error),
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&new); // it takes room, and the next attempt starts with a new one
    }
    replaced
}

fn write_new(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<File> {
    fault::before(Step::Open)?;
    let mut file = OpenOptions::new().read(true).append(true).create_new(true).mode(mode).open(path)?;
    fault::after(Step::Open);
    give_to_owner(&file, path)?;
    let mut writer = BufWriter::with_capacity(STATE_BUFFER_BYTES, Appending(&mut file));
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
    sync(&file)?;
    Ok(file)
}

fn rename(from: &Path, to: &Path, step: Step) -> io::Result<()> {
    fault::before(step)?;
    if step == Step::Rename && fault::lacks("rename") {
        return Err(io::ErrorKind::ResourceBusy.into());
    }
    fs::rename(from, to)?;
    fault::after(step);
    Ok(())
}

fn remove_if_there(path: &Path) -> io::Result<()> {
    match fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}

/// Rewrites a file in place with the text of `new`. First the whole text is made durable under the name that
/// [`whole_text_of`] returns; if the copying is interrupted, [`recover`] repeats it.
fn rewrite_in_place(new: &Path, path: &Path) -> io::Result<()> {
    let whole = whole_text_of(path);
    rename(new, &whole, Step::Keep)?;
    if let Err(error) = sync_folder_of(&whole) {
        let _ = fs::remove_file(&whole);
        return Err(error);
    }
    copy_over(&whole, path)
}

/// Copies a text over a file in place, and then removes the source.
///
/// The file is cut off only at the end. A text that lacks some lines of the old one, and has no others, thus loses none
/// of its lines when the process is killed in between.
fn copy_over(whole: &Path, path: &Path) -> io::Result<()> {
    let mut from = File::open(whole)?;
    fault::before(Step::Open)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    fault::after(Step::Open);
    let mut piece = vec![0; STATE_BUFFER_BYTES];
    let mut length = 0;
    loop {
        let read = from.read(&mut piece)?;
        if read == 0 {
            break;
        }
        append(&mut to, &piece[..read])?;
        length += read as u64;
    }
    cut(&to, length)?;
    sync(&to)?;
    remove_if_there(whole)?;
    // Must not come back after a power loss: by then the file has more lines.
    sync_folder_of(whole)
}

/// Completes a rewriting in place that was interrupted. To be called before the file is read, by the process that has
/// the lock.
pub fn recover(path: &Path) -> io::Result<()> {
    let path = target_of(path)?;
    let whole = whole_text_of(&path);
    match fs::symlink_metadata(&whole) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Ok(metadata) if metadata.is_file() => copy_over(&whole, &path),
        Ok(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} must be a regular file", whole.display()),
        )),
        Err(error) => Err(error),
    }
}

/// Whether a rewriting in place was interrupted, so that the file must not be used before it is recovered.
pub fn is_half_rewritten(path: &Path) -> bool {
    target_of(path).is_ok_and(|path| fs::symlink_metadata(whole_text_of(&path)).is_ok())
}

/// Where the whole new text of a file is kept while the file is rewritten in place: `journal.rewrite`.
fn whole_text_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".rewrite");
    path.with_file_name(name)
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

/// The folder that a file stands or would stand in.
pub fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Lets a write beyond the largest file size of the process (`ulimit -f`, `LimitFSIZE=`) fail, so that it is reported
/// like a full disk. By default it ends the process without a word: setrlimit(2), `RLIMIT_FSIZE`.
pub fn report_size_limits() {
    // If the system does not allow it, the signal ends the pass, which the state survives.
    let _ = signal_hook::flag::register(signal_hook::consts::SIGXFSZ, Arc::default());
}

/// What a person can do about a file that cannot be read or written.
pub fn hint(error: &io::Error) -> &'static str {
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
    fn a_file_system_that_cannot_sync_folders_is_told_by_its_error() {
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
    fn links_are_followed_to_their_end_and_not_in_circles() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        std::os::unix::fs::symlink("second", path("first")).expect("a link");
        std::os::unix::fs::symlink(path("missing"), path("second")).expect("a link");
        std::os::unix::fs::symlink("circle", path("circle")).expect("a link");
        assert_eq!(target_of(&path("first")).expect("a target"), path("missing"));
        assert_eq!(target_of(&path("plain")).expect("a target"), path("plain"));
        let circle = target_of(&path("circle")).expect_err("no end").to_string();
        assert!(circle.contains("too many symbolic links"), "{circle}");
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
