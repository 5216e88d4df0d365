//! A failure stops what its request was about, and nothing else.
