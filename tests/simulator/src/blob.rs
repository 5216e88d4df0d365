//! Blobs: the entries of listings, which can be fetched.

use std::{
    fmt,
    sync::{
        Arc, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;

use crate::{
    gzip,
    record::{self, Source},
    sync::lock,
};

/// The period of a listing: from `start`, inclusive, to `end`, exclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first instant of the period.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

/// A blob to add to a tenant. By default it is created when it is added, and expires after seven days.
#[derive(Clone)]
pub struct NewBlob {
    pub(crate) content: NewContent,
    pub(crate) plain: bool,
    pub(crate) created: Option<Timestamp>,
    pub(crate) expiration: Option<Timestamp>,
    pub(crate) content_id: Option<String>,
    pub(crate) uri: Option<String>,
    pub(crate) mime: Option<String>,
    pub(crate) listed_also: Vec<Timestamp>,
}

#[derive(Clone)]
pub(crate) enum NewContent {
    Generated(usize),
    Given { body: Vec<u8>, ids: Vec<String> },
}

impl NewBlob {
    /// A blob with this number of generated records. They look like those of the feed, and differ from those of every other
    /// blob.
    pub fn records(count: usize) -> Self {
        Self::new(NewContent::Generated(count))
    }

    /// A blob with these records, which can be in several blobs. Their `Id`s are read from the texts.
    pub fn texts<Text: AsRef<str>>(records: impl IntoIterator<Item = Text>) -> Self {
        let mut ids = Vec::new();
        let mut body = String::from("[");
        for text in records {
            if body.len() > 1 {
                body.push(',');
            }
            body.push_str(text.as_ref());
            ids.extend(record::id_of(text.as_ref()));
        }
        body.push(']');
        Self::new(NewContent::Given { body: body.into_bytes(), ids })
    }

    /// A blob with any body, for example with a byte order mark or malformed JSON. It
    /// counts as a blob without `Id`s.
    pub fn body(bytes: impl Into<Vec<u8>>) -> Self {
        Self::new(NewContent::Given { body: bytes.into(), ids: Vec::new() })
    }

    fn new(content: NewContent) -> Self {
        Self {
            content,
            plain: false,
            created: None,
            expiration: None,
            content_id: None,
            uri: None,
            mime: None,
            listed_also: Vec::new(),
        }
    }

    /// Generates no unusual fields, which otherwise one record in sixteen has.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Sets its `contentCreated`.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }

    /// Sets its `contentExpiration`. A later request is answered with `AF20051`.
    #[must_use]
    pub fn expiring(mut self, expiration: Timestamp) -> Self {
        self.expiration = Some(expiration);
        self
    }

    /// Sets its `contentId`, instead of a new one.
    #[must_use]
    pub fn content_id(mut self, content_id: impl Into<String>) -> Self {
        self.content_id = Some(content_id.into());
        self
    }

    /// Sets its `contentUri`, instead of a URL of the simulator.
    #[must_use]
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// Sets the `Content-Type` of its body, instead of that of JSON.
    #[must_use]
    pub fn mime(mut self, mime: impl Into<String>) -> Self {
        self.mime = Some(mime.into());
        self
    }

    /// Lists it once more, in the window with this time. With its own `contentCreated` it is twice in one window.
    #[must_use]
    pub fn listed_also(mut self, at: Timestamp) -> Self {
        self.listed_also.push(at);
        self
    }
}

/// A blob in a tenant.
pub(crate) struct StoredBlob {
    pub(crate) content_type: String,
    pub(crate) content_id: String,
    pub(crate) uri: String,
    pub(crate) mime: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) content: Content,
    pub(crate) state: Mutex<State>,
    pub(crate) served: AtomicUsize,
}

/// What a test can change after a blob was added.
pub(crate) struct State {
    pub(crate) expiration: Timestamp,
    pub(crate) vanished: bool,
}

pub(crate) enum Content {
    Generated(Source),
    Given { body: Vec<u8>, ids: Vec<String> },
}

impl StoredBlob {
    pub(crate) fn body(&self) -> Vec<u8> {
        match &self.content {
            Content::Given { body, .. } => body.clone(),
            Content::Generated(source) => {
                let mut text = String::with_capacity(source.count * 2048 + 2);
                text.push('[');
                for index in 0..source.count {
                    if index > 0 {
                        text.push(',');
                    }
                    source.write(index, &mut text);
                }
                text.push(']');
                text.into_bytes()
            }
        }
    }

    pub(crate) fn compressed_body(&self) -> Vec<u8> {
        gzip::compress(&self.body())
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        match &self.content {
            Content::Given { ids, .. } => ids.clone(),
            Content::Generated(source) => (0..source.count).map(|index| source.id(index)).collect(),
        }
    }
}

impl fmt::Debug for StoredBlob {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Blob").field("content_id", &self.content_id).finish_non_exhaustive()
    }
}

/// A handle to a blob of a tenant.
#[derive(Clone, Debug)]
pub struct Blob {
    pub(crate) stored: Arc<StoredBlob>,
}

impl Blob {
    /// Its `contentId`.
    pub fn content_id(&self) -> &str {
        &self.stored.content_id
    }

    /// Its `contentUri`.
    pub fn uri(&self) -> &str {
        &self.stored.uri
    }

    /// Its `contentCreated`.
    pub fn created(&self) -> Timestamp {
        self.stored.created
    }

    /// Its `contentExpiration`.
    pub fn expiration(&self) -> Timestamp {
        lock(&self.stored.state).expiration
    }

    /// The content type of its feed.
    pub fn content_type(&self) -> &str {
        &self.stored.content_type
    }

    /// The `Id`s of its records, in order.
    pub fn ids(&self) -> Vec<String> {
        self.stored.ids()
    }

    /// Its body, not compressed.
    pub fn body(&self) -> Vec<u8> {
        self.stored.body()
    }

    /// The texts of its generated records, in order. Empty for a given body.
    pub fn records(&self) -> Vec<String> {
        let Content::Generated(source) = &self.stored.content else { return Vec::new() };
        let text = |index| {
            let mut text = String::new();
            source.write(index, &mut text);
            text
        };
        (0..source.count).map(text).collect()
    }

    /// The number of times that it was sent completely.
    pub fn served(&self) -> usize {
        self.stored.served.load(Ordering::SeqCst)
    }

    /// Removes it, although it is still listed: requests are answered with `AF20050`.
    pub fn vanish(&self) {
        lock(&self.stored.state).vanished = true;
    }

    /// Lets it expire, although it is still listed: requests are answered with `AF20051`.
    pub fn expire(&self) {
        lock(&self.stored.state).expiration = self.stored.created;
    }
}
