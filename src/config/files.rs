//! Files that the configuration names: secrets to read now, certificates to look for now or at the login.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Read},
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
};

use super::{
    Secret,
    section::Section,
    value::{Value, quoted, trimmed},
};
use crate::{limits::SECRET_BYTES_MAX, redact};

/// What others must not do with a file that holds a secret. Its group may: that is how packages share files with a
/// service's user.
const MODE_OF_OTHERS: u32 = 0o007;

impl Value<'_> {
    /// A path whose variables are replaced only if secrets are read.
    pub(super) fn path_of_secret(&self) -> Option<PathBuf> {
        let path = PathBuf::from(self.text_of_secret()?);
        self.refuse_shorthand()?;
        self.reading.hold_file(self.place.name(), &path);
        Some(path)
    }

    /// The secret in the file that is named, without a byte order mark, whitespace and line breaks around it.
    pub(super) fn secret_file(&self) -> Option<Secret> {
        let path = self.path_of_secret()?;
        if !self.reading.with_secrets {
            return Some(Secret::new(""));
        }
        let read = || -> io::Result<(String, u32)> {
            if !fs::metadata(&path)?.is_file() {
                return Err(io::Error::new(io::ErrorKind::InvalidInput, "it is not a regular file")); // a pipe may never end
            }
            let file = fs::File::open(&path)?;
            let mode = file.metadata()?.permissions().mode();
            let mut text = String::new();
            file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text)?;
            Ok((text, mode))
        };
        let (text, mode) = match read() {
            Ok(read) => read,
            Err(error) => {
                self.unreadable_file(&path, &error);
                return None;
            }
        };
        if text.len() as u64 > SECRET_BYTES_MAX {
            self.mistake("the file is too large to hold a secret; check the path");
            return None;
        }
        let text = trimmed(&text);
        if text.is_empty() {
            self.mistake("the file is empty; write the secret into it");
            return None;
        }
        self.warn_if_exposed(mode);
        redact::register(text);
        Some(Secret::new(text))
    }

    fn unreadable_file(&self, path: &Path, error: &io::Error) {
        let path = path.to_string_lossy();
        // What does not look like a path may be the secret itself.
        let shown = if path.starts_with(['/', '.']) { format!(" {}", quoted(&path)) } else { String::new() };
        self.mistake(format!("the file{shown} cannot be read: {error}; {}", mend(error)));
    }

    fn warn_if_exposed(&self, mode: u32) {
        if is_exposed(mode) {
            self.reading.warn(&self.place, "the file can be read by others; run chmod 600 on it");
        }
    }
}

impl Section<'_> {
    /// The path of a PEM file, there or not.
    pub(super) fn pem_path(&self, key: &'static str) -> Option<PathBuf> {
        let value = self.value(key)?;
        let path = value.path_of_secret()?;
        let extension = path.extension().map(OsStr::to_ascii_lowercase);
        if extension.is_some_and(|extension| extension == "pfx" || extension == "p12") {
            value.mistake("is a PFX file, but PEM is needed; convert it: openssl pkcs12 -in app.pfx -out app.pem -nodes");
            return None;
        }
        Some(path)
    }

    /// The path of a PEM file that can be opened.
    pub(super) fn pem_file(&self, key: &'static str) -> Option<PathBuf> {
        let path = self.pem_path(key)?;
        if !self.reading.with_secrets {
            return Some(path);
        }
        let value = self.value(key)?;
        let opens = || Ok(fs::metadata(&path)?.is_file() && fs::File::open(&path).map(|_| true)?);
        match opens() {
            Ok(true) => Some(path),
            Ok(false) => {
                value.mistake(format!("{} is not a regular file; name a PEM file", value.given()));
                None
            }
            Err::<_, io::Error>(error) => {
                value.unreadable_file(&path, &error);
                None
            }
        }
    }

    /// Warns if others can read the file with a private key. Whether there is such a file is not asked here.
    pub(super) fn warn_of_exposed_key(&self, key: &'static str) {
        let Some(value) = self.value(key) else { return };
        let found = value.text_of_secret().and_then(|path| fs::metadata(path).ok());
        if let Some(found) = found.filter(fs::Metadata::is_file) {
            value.warn_if_exposed(found.permissions().mode());
        }
    }
}

/// Whether permission bits let anybody but the owner and the group in.
pub(super) fn is_exposed(mode: u32) -> bool {
    mode & MODE_OF_OTHERS != 0
}

fn mend(error: &io::Error) -> &'static str {
    match error.kind() {
        io::ErrorKind::NotFound => "check the path",
        io::ErrorKind::PermissionDenied => "let the user that runs the collector read it",
        _ => "name a text file",
    }
}
