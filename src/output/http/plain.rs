//! `ndjson` and `array`: records as they are.
//!
//! - `ndjson`: one record a line, each line ended (`application/x-ndjson`). For Vector's `http_server` source, Cribl
//!   Stream, Sumo Logic and whatever splits a body at line ends.
//! - `array`: one JSON array of records (`application/json`).
//!
//! A status of success means that all of a batch is accepted, whatever the body is, unless it is a web page
//! ([`super::outcome::is_web_page`]).

use super::{
    batch::{Framing, HttpBatch},
    format::Format,
    outcome::BatchOutcome,
};
use crate::{output::Source, records::Record};

/// Records as they are, in one of two framings.
#[derive(Clone, Copy, Debug)]
pub enum Plain {
    /// `ndjson`
    Ndjson,
    /// `array`
    Array,
}

impl Format for Plain {
    fn append(&self, _: &Source<'_>, record: Record<'_>, to: &mut String) {
        to.push_str(record.line());
    }

    fn framing(&self) -> Framing {
        match self {
            Self::Ndjson => Framing { open: "", between: "\n", close: "" },
            Self::Array => Framing { open: "[", between: ",", close: "]" },
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

    fn outcome_of_success(&self, _: &HttpBatch, _: u16, _: &[u8]) -> BatchOutcome {
        BatchOutcome::Accepted(None)
    }

    fn probe(&self) -> Vec<u8> {
        HttpBatch::default().body(self.framing(), false)
    }
}
