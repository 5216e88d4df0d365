//! Output files that are rotated, compressed or removed while a pass writes them.
