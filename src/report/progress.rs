//! The progress bar of a pass, on standard error if that is a terminal. It hides itself while a log line is written.

use std::io::{self, IsTerminal};

use indicatif::{ProgressBar, ProgressStyle};

use crate::log;

/// The progress bar of a pass. It disappears when it is dropped.
#[derive(Debug)]
pub struct Progress {
    bar: ProgressBar,
}

impl Progress {
    /// Shows the bar if it is `wanted` and standard error is a terminal.
    pub fn start(wanted: bool) -> Self {
        let bar = if wanted && io::stderr().is_terminal() {
            ProgressBar::no_length()
        } else {
            ProgressBar::hidden()
        };
        bar.set_style(style("{spinner} listing  {elapsed}"));
        let guarded = bar.clone();
        log::set_stderr_guard(Some(Box::new(move |write| guarded.suspend(write))));
        Self { bar }
    }

    /// Returns whether the bar is visible.
    pub fn is_shown(&self) -> bool {
        !self.bar.is_hidden()
    }

    /// Shows the number of delivered blobs, found blobs and delivered records.
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
        log::set_stderr_guard(None);
    }
}

fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).expect("the template is a constant")
}
