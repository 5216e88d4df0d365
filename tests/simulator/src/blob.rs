//! Blobs: what a listing names and what can be fetched.

use std::{
    fmt,
    sync::{
        Arc, Mutex, OnceLock,
        atomic::{AtomicUsize, Ordering},
    },
};

use jiff::Timestamp;

use crate::{
    gzip,
    record::{self, Source},
    sync::lock,
};

/// The period that a listing asks for: from `start`, up to but without `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// The first instant inside.
    pub start: Timestamp,
    /// The first instant after it.
    pub end: Timestamp,
}

type Visibility = dyn Fn(Window) -> bool + Send + Sync;

/// A blob to be put into a tenant. Without further words it was created at the time it is added and lives seven days.
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
    pub(crate) visible: Option<Arc<Visibility>>,
}

#[derive(Clone)]
pub(crate) enum NewContent {
    Generated(usize),
    Given { body: Vec<u8>, ids: Vec<String> },
}

impl NewBlob {
    /// So many records, realistic for the feed's workload, distinct from those of every other blob.
    pub fn records(count: usize) -> Self {
        Self::new(NewContent::Generated(count))
    }

    /// These records, so that one can be in several blobs. Their `Id`s are read from the texts.
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

    /// This body, whatever it is: with a byte order mark, pretty-printed, malformed. It counts as holding no `Id`.
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
            visible: None,
        }
    }

    /// The `Id`s that a client must find in a body given as bytes.
    #[must_use]
    pub fn holding(mut self, record_ids: impl IntoIterator<Item = impl Into<String>>) -> Self {
        if let NewContent::Given { ids, .. } = &mut self.content {
            *ids = record_ids.into_iter().map(Into::into).collect();
        }
        self
    }

    /// Without the oddities that one record in sixteen carries.
    #[must_use]
    pub fn plain(mut self) -> Self {
        self.plain = true;
        self
    }

    /// Its `contentCreated`.
    #[must_use]
    pub fn created(mut self, created: Timestamp) -> Self {
        self.created = Some(created);
        self
    }

    /// Its `contentExpiration`: fetching it later answers `AF20051`.
    #[must_use]
    pub fn expiring(mut self, expiration: Timestamp) -> Self {
        self.expiration = Some(expiration);
        self
    }

    /// Its `contentId`, instead of a fresh one.
    #[must_use]
    pub fn content_id(mut self, content_id: impl Into<String>) -> Self {
        self.content_id = Some(content_id.into());
        self
    }

    /// Its `contentUri`, instead of the simulator's own.
    #[must_use]
    pub fn uri(mut self, uri: impl Into<String>) -> Self {
        self.uri = Some(uri.into());
        self
    }

    /// The `Content-Type` of its body, instead of JSON's.
    #[must_use]
    pub fn mime(mut self, mime: impl Into<String>) -> Self {
        self.mime = Some(mime.into());
        self
    }

    /// It is listed once more, in the window that holds this time. With its own `contentCreated`: twice in one window.
    #[must_use]
    pub fn listed_also(mut self, at: Timestamp) -> Self {
        self.listed_also.push(at);
        self
    }

    /// It is listed only in the windows for which this holds.
    #[must_use]
    pub fn listed_when(mut self, visible: impl Fn(Window) -> bool + Send + Sync + 'static) -> Self {
        self.visible = Some(Arc::new(visible));
        self
    }
}

/// A blob in a tenant.
pub(crate) struct Stored {
    pub(crate) content_type: String,
    pub(crate) content_id: String,
    pub(crate) uri: String,
    pub(crate) mime: Option<String>,
    pub(crate) created: Timestamp,
    pub(crate) content: Content,
    pub(crate) visible: Option<Arc<Visibility>>,
    pub(crate) state: Mutex<State>,
    pub(crate) served: AtomicUsize,
    /// The compressed body, once someone asked to keep it.
    pub(crate) kept: OnceLock<Vec<u8>>,
}

/// What a test can change about a blob afterwards.
pub(crate) struct State {
    pub(crate) expiration: Timestamp,
    pub(crate) vanished: bool,
}

pub(crate) enum Content {
    Generated(Source),
    Given { body: Vec<u8>, ids: Vec<String> },
}

impl Stored {
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
        self.kept.get().cloned().unwrap_or_else(|| gzip::compress(&self.body()))
    }

    pub(crate) fn ids(&self) -> Vec<String> {
        match &self.content {
            Content::Given { ids, .. } => ids.clone(),
            Content::Generated(source) => (0..source.count).map(|index| source.id(index)).collect(),
        }
    }
}

impl fmt::Debug for Stored {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Blob").field("content_id", &self.content_id).finish_non_exhaustive()
    }
}

/// A blob that a tenant holds, as a test sees it.
#[derive(Clone, Debug)]
pub struct Blob {
    pub(crate) stored: Arc<Stored>,
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

    /// The texts of its generated records, in order; none for a body that was given.
    pub fn records(&self) -> Vec<String> {
        let Content::Generated(source) = &self.stored.content else { return Vec::new() };
        let text = |index| {
            let mut text = String::new();
            source.write(index, &mut text);
            text
        };
        (0..source.count).map(text).collect()
    }

    /// How many times a client got it whole.
    pub fn served(&self) -> usize {
        self.stored.served.load(Ordering::SeqCst)
    }

    /// From now on it is listed but gone: fetching it answers `AF20050`.
    pub fn vanish(&self) {
        lock(&self.stored.state).vanished = true;
    }

    /// From now on it is listed but expired: fetching it answers `AF20051`.
    pub fn expire(&self) {
        lock(&self.stored.state).expiration = self.stored.created;
    }
}
