//! The progress bar of a pass on a terminal. It stands on standard error, below the log: whoever writes a line there
//! does so through [`above`], which takes the bar away meanwhile.

use std::{
    io::{self, IsTerminal},
    sync::{Mutex, PoisonError},
};

use indicatif::{ProgressBar, ProgressStyle};

/// The bar that is shown at present.
static SHOWN: Mutex<Option<ProgressBar>> = Mutex::new(None);

/// A pass's progress: shown on a terminal, otherwise nothing. Ends when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows the bar if standard error is a terminal and `wanted`.
    pub fn start(wanted: bool) -> Self {
        let bar = if wanted && io::stderr().is_terminal() {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(style("{spinner} listing  {elapsed}"));
        *shown() = Some(bar.clone());
        Self { bar }
    }

    /// Whether anybody sees it.
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// So many blobs of so many are delivered, with so many records.
    pub fn show(&self, delivered: u64, found: u64, records: u64) {
        if found > 0 {
            let is_first = self.bar.length().is_none();
            self.bar.set_message(records.to_string());
            self.bar.set_length(found);
            self.bar.set_position(delivered);
            if is_first {
                self.bar.set_style(style("{bar:30} {pos}/{len} blobs  {msg} records  {elapsed}"));
            }
        }
        self.bar.tick();
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.bar.finish_and_clear();
        *shown() = None;
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}

/// Writes to standard error without mixing with the bar.
pub fn above<T>(write: impl FnOnce() -> T) -> T {
    match &*shown() {
        Some(bar) => bar.suspend(write),
        None => write(),
    }
}

fn shown() -> std::sync::MutexGuard<'static, Option<ProgressBar>> {
    SHOWN.lock().unwrap_or_else(PoisonError::into_inner)
}
