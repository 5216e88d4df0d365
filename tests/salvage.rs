//! Blobs that cannot be read as a whole.
