//! Secrets and control characters in what a server sends.
