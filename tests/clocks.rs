//! Wrong clocks, expiry, and the identity of records and blobs.
