//! What is remembered from pass to pass, in `workingDir`.
//!
//! State says only what is certain: an entry is written after what it stands for is durable, never before. Deleting
//! the state makes a pass collect again what is still available; it never breaks one.

pub mod known_blobs;
mod lock;

use std::{io, path::Path};

pub use known_blobs::{BlobKey, KnownBlobs, KnownBlobsFile};

use crate::disk;

/// The state cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StateError {
    /// Another pass holds the lock.
    #[error("another pass holds the lock on {path}; it is left to finish")]
    Locked {
        /// The file that is locked.
        path: String,
    },
    /// A file of the state, or its folder, cannot be read or written.
    #[error("cannot {action} {path}: {source}; {mend}")]
    Storage {
        /// What was tried: `read`, `write`, …
        action: &'static str,
        /// The file or folder.
        path: String,
        /// What a person can do.
        mend: &'static str,
        /// What the system says.
        #[source]
        source: io::Error,
    },
}

impl StateError {
    fn storage(action: &'static str, path: &Path, source: io::Error) -> Self {
        let mend = disk::mend(&source);
        Self::Storage { action, path: path.display().to_string(), mend, source }
    }
}
