//! What a pool thread does with one task: one request to Microsoft, and for a blob the way from its body to the
//! writer. A function from a task to an outcome: no policy, no sleeping, nothing remembered.

use std::{collections::HashMap, sync::Arc};

use crossbeam_channel::Sender;

use super::{
    FeedIndex, Feeds, TenantIndex,
    memory::Memory,
    plan::Window,
    writer::{FetchedBlob, Salvaged, WriterMessage},
};
use crate::{
    api::{ApiError, Client, Page, Subscription, Token},
    body::Body,
    delivery::PendingBlob,
    feed::ContentType,
    filter::Filter,
    records::BlobRecords,
};

/// One request to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// Get a token.
    LogIn(TenantIndex),
    /// Ask which subscriptions run.
    ListSubscriptions(TenantIndex),
    /// Start a feed's subscription.
    Subscribe(FeedIndex),
    /// List one page of a window.
    ListPage(FeedIndex, PageOf),
    /// Fetch a blob and hand its records to the writer.
    Download(FeedIndex, PendingBlob),
}

impl Task {
    /// The feed that it is about, if it is about one.
    pub fn feed(&self) -> Option<FeedIndex> {
        match self {
            Self::LogIn(_) | Self::ListSubscriptions(_) => None,
            Self::Subscribe(feed) | Self::ListPage(feed, _) | Self::Download(feed, _) => Some(*feed),
        }
    }
}

/// A page of a window.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageOf {
    /// The page's URL.
    pub url: String,
    /// The URL of the window's first page, from which it is listed again if need be.
    pub first_url: String,
    /// The window's place among its feed's.
    pub window: usize,
    /// Whether the page is of a part of the window, which is listed side by side with the others.
    pub is_part: bool,
    /// What is listed by it and the pages that follow.
    pub period: Window,
    /// Whether the period was corrected by the server's clock.
    pub is_corrected: bool,
    /// From 1.
    pub number: u32,
    /// How often its window was begun anew. Each page is an attempt of its own, so none of them could count that.
    pub restarts: u32,
    /// Whether every entry of its window could be read so far.
    pub is_readable: bool,
    /// Hashes of the URLs of the pages before it, by which a loop of pages is noticed.
    pub seen: Vec<u64>,
    /// How many times its window was listed again because of a loop.
    pub loops: u32,
    /// The number of times that it was accepted only in part, and is listed again.
    pub parts: u32,
    /// The highest number of a page before its window was listed again: the pages up to it bring nothing new.
    pub pages_before: u32,
}

/// What came of a task.
#[derive(Debug)]
pub enum Outcome {
    /// A token.
    Token(Token),
    /// The tenant's subscriptions.
    Subscriptions(Vec<Subscription>),
    /// The feed's subscription runs.
    Subscribed,
    /// A page.
    Page(Page),
    /// The blob's records, so many bytes of them, are with the writer, which will say when they are safe.
    Handed(usize),
    /// The writer takes no more: it has failed, and says so itself.
    WriterGone,
}

/// What the threads of the pool share, all of it read only.
pub struct Worker {
    /// The way to Microsoft.
    pub client: Client,
    /// Who is collected from.
    pub feeds: Arc<Feeds>,
    /// Which records are wanted, where not all of them are.
    pub filters: HashMap<ContentType, Filter>,
    /// The way to the writer.
    pub blobs: Sender<WriterMessage>,
    /// The room for blobs on their way.
    pub memory: Arc<Memory>,
}

impl Worker {
    /// Does one task. `token` is the tenant's; only a login goes without. With `in_part`, a blob that cannot be read as
    /// a whole is delivered as far as it can be.
    pub fn run(&self, task: &Task, token: Option<&Token>, in_part: bool) -> Result<Outcome, ApiError> {
        let mut share = self.memory.share(); // given back when the answer is parsed
        let room = |bytes| share.grow_bytes(bytes);
        if let Task::LogIn(tenant) = task {
            return self.client.log_in(self.feeds.tenant(*tenant), room).map(Outcome::Token);
        }
        let token = token.expect("the schedule hands out nothing but logins before there is a token");
        match task {
            Task::LogIn(_) => unreachable!("done above"),
            Task::ListSubscriptions(tenant) => {
                self.client.subscriptions(self.feeds.tenant(*tenant), token, room).map(Outcome::Subscriptions)
            }
            Task::Subscribe(feed) => {
                let (tenant, content_type) = self.feeds.feed(*feed);
                self.client
                    .start_subscription(tenant, token, content_type, room)
                    .map(|()| Outcome::Subscribed)
            }
            Task::ListPage(feed, page) => {
                let (tenant, _) = self.feeds.feed(*feed);
                self.client.list_page(tenant, token, &page.url, page.period.end, room).map(Outcome::Page)
            }
            Task::Download(feed, wanted) => self.download(*feed, wanted, token, in_part),
        }
    }

    /// Fetches a blob, finds and filters its records, and sends them to the writer.
    fn download(
        &self,
        feed: FeedIndex,
        wanted: &PendingBlob,
        token: &Token,
        in_part: bool,
    ) -> Result<Outcome, ApiError> {
        let (tenant, content_type) = self.feeds.feed(feed);
        let origin = self.feeds.origin(feed);
        let mut share = self.memory.share();
        let mut body = Body::new(share.buffer());
        let mut encoded = Body::default();
        let mut reserve = |bytes| share.grow_bytes(bytes);
        let read = if in_part {
            self.client.download_in_part(tenant, token, &wanted.blob, &mut body, &mut encoded, &mut reserve)
        } else {
            self.client.download(tenant, token, &wanted.blob, &mut body, &mut reserve)
        };
        let parsed = match read {
            Ok(()) => BlobRecords::parse_within(body, origin, &mut reserve)
                .map_err(|(error, body)| (ApiError::Malformed(error.to_string()), body)),
            Err(error) => Err((error, body)),
        };
        let has_arrived = |body: &Body| !body.is_empty() || !encoded.is_empty();
        let (mut records, salvaged) = match parsed {
            Ok(records) => (records, None),
            Err((error, body)) if in_part && error.is_unreadable_body() && has_arrived(&body) => {
                reserve(body.len());
                let (records, unreadable) = BlobRecords::salvage(body.bytes(), origin, &mut reserve);
                let raw = body.into_bytes();
                let encoded = Some(encoded).filter(|encoded| !encoded.is_empty());
                (records, Some(Box::new(Salvaged { raw, encoded, cause: error.to_string(), unreadable })))
            }
            Err((error, _)) => return Err(error),
        };
        let filtered = self.filters.get(&content_type).map_or(0, |filter| filter.apply(&mut records));
        share.grow_records(records.len());
        let bytes = records.bytes();
        let fetched = FetchedBlob { feed, wanted: wanted.clone(), records, filtered, share, salvaged };
        let sent = self.blobs.send(WriterMessage::FetchedBlob(fetched));
        Ok(if sent.is_ok() { Outcome::Handed(bytes) } else { Outcome::WriterGone })
    }
}
