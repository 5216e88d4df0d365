//! What the program reports about a pass and the state: log lines, metrics, the progress bar and `status`.

pub mod history;
pub mod line_limit;
pub mod metrics;
pub mod number;
pub mod page;
pub mod progress;
pub mod status;
mod summary;

pub use summary::{Counts, FeedReport, Stop, Summary};
