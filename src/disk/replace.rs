//! Replacing a file as a whole: a reader finds the old file or the new one.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, BufWriter, Read, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
};

use super::{
    append, check_folder,
    fault::{self, Step},
    folder_of, give_to_owner, none_if_missing, require_regular, resolve_links, sync, sync_folder_of,
    truncate,
};
use crate::limits::STATE_BUFFER_BYTES;

/// Returns an error if [`replace`] could not work. Changes nothing: a temporary file is created in the folder, which must
/// exist.
pub fn check_replace(path: &Path) -> io::Result<()> {
    require_regular(path)?;
    check_folder(folder_of(&resolve_links(path)?))
}

/// Replaces the contents of a file with these bytes, as [`replace`] does.
pub fn replace_with(path: &Path, mode: u32, bytes: &[u8]) -> io::Result<Option<File>> {
    replace(path, mode, |to| to.write_all(bytes), |_| Ok(()))
}

/// Replaces a file durably. `write` writes the new contents to `NAME.new`, and `prepare` may change that file before it is
/// renamed to `NAME`. A symbolic link is followed: its target is replaced.
///
/// Returns the new file. Where a file cannot be renamed over another one, such as a single file that is mounted into a
/// container, the old file is rewritten in place; then its handles stay valid and `None` is returned.
///
/// # Errors
///
/// The old file is unchanged, unless the new one already has its name or [`is_rewrite_pending`].
pub fn replace(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    prepare: impl FnOnce(&File) -> io::Result<()>,
) -> io::Result<Option<File>> {
    let path = &resolve_links(path)?;
    let new = path.with_extension("new");
    none_if_missing(fs::remove_file(&new))?;
    let written = write_new(&new, mode, write).and_then(|file| prepare(&file).map(|()| file));
    let replaced = written.and_then(|file| match rename(&new, path, Step::Rename) {
        Ok(()) => sync_folder_of(path).map(|()| Some(file)),
        // Nothing can be renamed over a mount point: rename(2), EBUSY and EXDEV.
        Err(error) if matches!(error.kind(), io::ErrorKind::ResourceBusy | io::ErrorKind::CrossesDevices) => {
            rewrite_in_place(&new, path).map(|()| None)
        }
        Err(error) => Err(error),
    });
    if replaced.is_err() {
        let _ = fs::remove_file(&new); // frees its space; the next attempt writes a new one
    }
    replaced
}

/// Replaces a file that can be recreated: it is not durable, and after a power loss it can be damaged. `write` writes the
/// new contents to `NAME.new`, which is then renamed to `NAME`.
///
/// # Errors
///
/// The old file is unchanged.
pub fn replace_unsynced(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<()> {
    let new = path.with_extension("new");
    none_if_missing(fs::remove_file(&new))?;
    let replaced = write_unsynced(&new, mode, write).and_then(|_| rename(&new, path, Step::Rename));
    if replaced.is_err() {
        let _ = fs::remove_file(&new);
    }
    replaced
}

fn write_new(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<File> {
    let file = write_unsynced(path, mode, write)?;
    sync(&file)?;
    Ok(file)
}

fn write_unsynced(
    path: &Path,
    mode: u32,
    write: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> io::Result<File> {
    fault::before(Step::Open)?;
    let mut file = OpenOptions::new().read(true).append(true).create_new(true).mode(mode).open(path)?;
    fault::after(Step::Open);
    give_to_owner(&file, path)?;
    let mut writer = BufWriter::with_capacity(STATE_BUFFER_BYTES, Appender(&mut file));
    write(&mut writer)?;
    writer.flush()?;
    drop(writer);
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

/// Rewrites a file in place with the contents of `new`, which first becomes durable as [`rewrite_source_of`] the file. If
/// the copying is interrupted, [`recover`] repeats it.
fn rewrite_in_place(new: &Path, path: &Path) -> io::Result<()> {
    let source = rewrite_source_of(path);
    rename(new, &source, Step::Keep)?;
    if let Err(error) = sync_folder_of(&source) {
        let _ = fs::remove_file(&source);
        return Err(error);
    }
    copy_over(&source, path)
}

/// Copies a file over another one in place, and then removes the source.
///
/// The target is truncated last. If the source has a part of the target's lines and no others, a kill in between loses
/// none of them.
fn copy_over(source: &Path, path: &Path) -> io::Result<()> {
    let mut from = File::open(source)?;
    fault::before(Step::Open)?;
    let mut to = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(path)?;
    fault::after(Step::Open);
    let mut buffer = vec![0; STATE_BUFFER_BYTES];
    let mut length = 0;
    loop {
        let read = from.read(&mut buffer)?;
        if read == 0 {
            break;
        }
        append(&mut to, &buffer[..read])?;
        length += read as u64;
    }
    truncate(&to, length)?;
    sync(&to)?;
    none_if_missing(fs::remove_file(source))?;
    // The source must not reappear after a power loss: by then the file has more lines.
    sync_folder_of(source)
}

/// Completes an interrupted rewrite in place. The process that holds the lock calls this before it reads the file.
pub fn recover(path: &Path) -> io::Result<()> {
    let path = resolve_links(path)?;
    let source = rewrite_source_of(&path);
    match none_if_missing(fs::symlink_metadata(&source))? {
        None => Ok(()),
        Some(metadata) if metadata.is_file() => copy_over(&source, &path),
        Some(_) => Err(io::Error::new(
            io::ErrorKind::AlreadyExists,
            format!("{} must be a regular file", source.display()),
        )),
    }
}

/// Returns whether a rewrite in place was interrupted. The file must not be used before [`recover`] has completed it.
pub fn is_rewrite_pending(path: &Path) -> bool {
    resolve_links(path).is_ok_and(|path| fs::symlink_metadata(rewrite_source_of(&path)).is_ok())
}

/// Returns the file that holds the new contents during a rewrite in place: `journal.rewrite`.
fn rewrite_source_of(path: &Path) -> PathBuf {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(".rewrite");
    path.with_file_name(name)
}

/// A writer that calls [`append`], so that tests can make each write fail.
struct Appender<'a>(&'a mut File);

impl Write for Appender<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        append(self.0, bytes).map(|()| bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
