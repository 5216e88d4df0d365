//! `ndjson` and `array`: records as they are.
//!
//! - `ndjson`: one record a line, each line ended (`application/x-ndjson`). For Vector's `http_server` source, Cribl
//!   Stream, Sumo Logic and whatever splits a body at line ends.
//! - `array`: one JSON array of records (`application/json`).
//!
//! A status of success means that all of a batch is accepted, whatever the body is, unless it is a web page
//! ([`super::answer::is_web_page`]).

use super::{
    answer::Outcome,
    batch::{Batch, Frame},
    format::Format,
};
use crate::{output::Source, records::Record};

/// Records as they are, in one of two frames.
#[derive(Clone, Copy, Debug)]
pub enum Lines {
    /// `ndjson`
    Ndjson,
    /// `array`
    Array,
}

impl Format for Lines {
    fn append(&self, _: &Source<'_>, record: Record<'_>, to: &mut String) {
        to.push_str(record.line());
    }

    fn frame(&self) -> Frame {
        match self {
            Self::Ndjson => Frame { open: "", between: "\n", close: "" },
            Self::Array => Frame { open: "[", between: ",", close: "]" },
        }
    }

    fn content_type(&self) -> &'static str {
        match self {
            Self::Ndjson => "application/x-ndjson",
            Self::Array => "application/json",
        }
    }

    fn accepts_by_status(&self) -> bool {
        true
    }

    fn settle(&self, _: &Batch, _: u16, _: &[u8]) -> Outcome {
        Outcome::Accepted(None)
    }

    fn probe(&self) -> Vec<u8> {
        Batch::default().body(self.frame(), false)
    }
}
