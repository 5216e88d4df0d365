//! What the simulator answers, and how it gets onto the wire: whole, or in one of the ways in which networks fail.

use std::{sync::Arc, time::Duration};

use crate::{blob::Stored, gzip};

/// An HTTP answer and the manner of its delivery.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status code.
    pub status: u16,
    /// Headers beside `Date` and those that frame the body. One that is named `Date` replaces the clock's.
    pub headers: Vec<(String, String)>,
    /// The body as it is sent: compressed if a `Content-Encoding` says so.
    pub body: Vec<u8>,
    /// Whether the body comes in chunks instead of with a `Content-Length`.
    pub chunked: bool,
    /// Time that passes before the first byte, beside the simulator's latency.
    pub delay: Duration,
    /// How far the answer gets.
    pub delivery: Delivery,
    /// The blob whose records this holds, if it holds them all.
    pub(crate) serves: Option<Arc<Stored>>,
}

/// How an answer's bytes get onto the wire. All but the first end the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Delivery {
    /// As it should.
    Whole,
    /// Whole; then the connection is closed without having been announced so.
    WholeThenClosed,
    /// The connection is closed after that many bytes of the body; a chunked body never gets its last chunk.
    CutAfter(usize),
    /// The connection is reset (a TCP RST) after that many bytes of the body.
    ResetAfter(usize),
    /// The connection is closed without an answer.
    Unanswered,
    /// The connection is reset without an answer.
    ResetUnanswered,
    /// Nothing is sent for that time, or until the simulator stops; then the whole answer.
    Stalled(Option<Duration>),
    /// Nothing more is sent after that many bytes of the body for that time, or until the simulator stops; then the
    /// rest.
    StalledAfter(usize, Option<Duration>),
    /// So many bytes at a time, header included, with a pause between.
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

    /// The same answer with a header in place of any of that name.
    #[must_use]
    pub fn with_header(mut self, name: &str, value: impl Into<String>) -> Self {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
        self.headers.push((name.to_owned(), value.into()));
        self
    }

    /// The same answer with another body, not compressed.
    #[must_use]
    pub fn with_body(mut self, body: impl Into<Vec<u8>>) -> Self {
        self.headers.retain(|(name, _)| !name.eq_ignore_ascii_case("Content-Encoding"));
        self.body = body.into();
        self
    }

    /// The same answer with its body compressed, unless it is so already.
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

    /// The same answer, later.
    #[must_use]
    pub fn delayed(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// The same answer, delivered in that manner.
    #[must_use]
    pub fn delivered(mut self, delivery: Delivery) -> Self {
        self.delivery = delivery;
        self
    }

    /// The body as the client is meant to read it.
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
