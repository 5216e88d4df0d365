//! Files that the configuration names: secrets, which are read now, and certificates.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    Secret,
    entry::Entry,
    formats::{quoted, trimmed},
};
use crate::{limits::SECRET_BYTES_MAX, redact};

impl Entry<'_, '_> {
    /// The path of a file with a secret. Its variables are replaced only if secrets are read.
    pub(super) fn path_of_secret(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text_of_secret()?);
        self.refuse_shorthand()?;
        self.walk.report.note_file_read(self.place.name(), &path);
        Some(path)
    }

    /// The secret in the file, without what an editor or a pipe adds around it.
    pub(super) fn secret_file(&self) -> Option<Secret> {
        let path = self.path_of_secret()?;
        if !self.walk.with_secrets {
            return Some(Secret::default());
        }
        let (text, mode) = read_secret(&path).map_err(|error| self.unreadable_file(&path, &error)).ok()?;
        let text = trimmed(&text);
        if text.is_empty() {
            self.mistake("the file is empty; write the secret into it");
            return None;
        }
        self.walk.report.warn_if_exposed(&self.place, mode);
        redact::register(text);
        Some(Secret::new(text))
    }

    /// The path of a PEM file, which need not exist yet.
    pub(super) fn pem_path(&self) -> Option<PathBuf> {
        let path = self.path_of_secret()?;
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        if extension.is_some_and(|extension| extension == "pfx" || extension == "p12") {
            self.mistake(
                "is a PFX file, but PEM is needed; convert it: openssl pkcs12 -in app.pfx -out app.pem -nodes",
            );
            return None;
        }
        Some(path)
    }

    /// The path of a PEM file that can be opened.
    pub(super) fn pem_file(&self) -> Option<PathBuf> {
        let path = self.pem_path()?;
        if !self.walk.with_secrets {
            return Some(path);
        }
        match open_regular(&path) {
            Ok(_) => Some(path),
            Err(error) => {
                self.unreadable_file(&path, &error);
                None
            }
        }
    }

    fn unreadable_file(&self, path: &Path, error: &io::Error) {
        let path = path.to_string_lossy();
        // A text that does not look like a path may be the secret itself.
        let shown = if path.starts_with(['/', '.']) { format!(" {}", quoted(&path)) } else { String::new() };
        self.mistake(format!("the file{shown} cannot be read: {error}; {}", hint(error)));
    }
}

/// Opens a file. Anything else, such as a pipe, may never end.
fn open_regular(path: &Path) -> io::Result<fs::File> {
    if !fs::metadata(path)?.is_file() {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    fs::File::open(path)
}

/// The text of a file and its permissions.
fn read_secret(path: &Path) -> io::Result<(String, u32)> {
    let file = open_regular(path)?;
    let mode = file.metadata()?.permissions().mode();
    let mut text = String::new();
    file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
    if text.len() as u64 > SECRET_BYTES_MAX {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large for a secret"));
    }
    Ok((text, mode))
}

/// The fix for a file that cannot be read.
pub(super) fn hint(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::FileTooLarge => "check the path",
        io::ErrorKind::PermissionDenied => "let the user that runs the collector read it",
        io::ErrorKind::InvalidInput => "choose another path",
        _ => "name a text file",
    }
}
