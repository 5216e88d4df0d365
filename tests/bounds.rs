//! Bounds that hostile or broken servers run into.
