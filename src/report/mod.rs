//! What people and machines are told of a pass: while it runs, and at its end.

pub mod line_limit;
pub mod metrics;
pub mod progress;
pub mod status;
mod summary;

pub use summary::{Counts, FeedReport, Stop, Summary};
