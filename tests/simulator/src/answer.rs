//! An answer of the simulator, and how it is sent: whole, or with one of the faults of networks.

use std::{sync::Arc, time::Duration};

use crate::{blob::StoredBlob, gzip};

/// An HTTP answer, and how it is sent.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers in addition to `Date` and those that frame the body. A header named `Date` replaces that of the clock.
    pub headers: Vec<(String, String)>,
    /// The body as it is sent: compressed if there is a `Content-Encoding`.
    pub body: Vec<u8>,
    /// Whether the body is sent in chunks instead of with a `Content-Length`.
    pub chunked: bool,
    /// The delay before the first byte, in addition to the simulator's latency.
    pub delay: Duration,
    /// How much of the answer is sent.
    pub delivery: Delivery,
    /// The blob, if the body has all of its records.
    pub(crate) serves: Option<Arc<StoredBlob>>,
}

/// How an answer is sent. The connection is closed after all but `Whole`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// Completely.
    Whole,
    /// The connection is closed after this number of bytes of the body. The last chunk of a chunked body is never sent.
    CutAfter(usize),
    /// The connection is reset (TCP RST) after this number of bytes of the body.
    ResetAfter(usize),
    /// The connection is closed without an answer.
    Unanswered,
    /// The connection is reset without an answer.
    ResetUnanswered,
    /// Nothing is sent for this duration, or until the simulator stops; then the whole answer.
    Stalled(Option<Duration>),
    /// Nothing is sent after this number of bytes of the body for this duration, or until the simulator stops; then the
    /// rest.
    StalledAfter(usize, Option<Duration>),
    /// This number of bytes at a time, headers included, with a pause after each.
    Dripping(usize, Duration),
}

impl Answer {
    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self {
            status,
            headers: Vec::new(),
            body: Vec::new(),
            chunked: false,
            delay: Duration::ZERO,
            delivery: Delivery::Whole,
            serves: None,
        }
    }

    /// An answer in JSON.
    pub fn json(status: u16, body: impl Into<Vec<u8>>) -> Self {
        Self::status(status).with_header("Content-Type", "application/json; charset=utf-8").with_body(body)
    }

    /// The same answer with another status.
    #[must_use]
    pub fn with_status(mut self, status: u16) -> Self {
        self.status = status;
        self
    }

    /// The same answer with this header, instead of any other of that name.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same answer with another body, which is not compressed.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Content-Encoding"));
        self.body = body.into();
        self
    }

    /// The same answer with a compressed body.
    #[must_use]
    pub fn compressed(self) -> Self {
        if self.body.is_empty() || self.is_compressed() {
            return self;
        }
        let body = gzip::compress(&self.body);
        self.with_compressed_body(body)
    }

    /// The same answer with another body, which is compressed already.
    #[must_use]
    pub fn with_compressed_body(self, body: impl Into<Vec<u8>>) -> Self {
        self.with_body(body).with_header("Content-Encoding", "gzip")
    }

    /// The same answer after a delay.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same answer, sent in this way.
    #[must_use]
    pub fn delivered(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The body, decompressed.
    pub fn plain_body(&self) -> Vec<u8> {
        if self.is_compressed() { gzip::decompress(&self.body) } else { self.body.clone() }
    }

    /// The value of the header of that name.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers
            .iter()
            .find(|(known, _)| known.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    fn is_compressed(&self) -> bool {
        self.header("Content-Encoding").is_some()
    }
}
