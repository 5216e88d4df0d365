//! Collects the audit records of Microsoft 365 tenants and delivers each of them exactly once.

pub mod config;
pub mod feed;
pub mod limits;
