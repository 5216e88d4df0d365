//! What a pool thread does: one request to Microsoft, and for a blob the way from its body to the writer. A function from
//! work to an outcome: it has no policy, does not sleep, and remembers nothing.

use std::{collections::HashMap, sync::Arc};

use crossbeam_channel::Sender;

use super::{
    FeedIndex, Feeds, TenantIndex,
    memory::{Memory, Share},
    scheduler::PageRequest,
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

/// A request of a pass to the API, made with the tenant's token.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Task {
    /// List the tenant's subscriptions.
    ListSubscriptions(TenantIndex),
    /// Start a feed's subscription.
    Subscribe(FeedIndex),
    /// List one page of a window.
    ListPage(FeedIndex, PageRequest),
    /// Download a blob and send its records to the writer.
    Download(FeedIndex, PendingBlob),
}

impl Task {
    /// Returns the feed that the task is about, if it is about one.
    pub fn feed(&self) -> Option<FeedIndex> {
        match self {
            Self::ListSubscriptions(_) => None,
            Self::Subscribe(feed) | Self::ListPage(feed, _) | Self::Download(feed, _) => Some(*feed),
        }
    }

    /// Returns the tenant that the task is about.
    pub fn tenant(&self, feeds: &Feeds) -> TenantIndex {
        match self {
            Self::ListSubscriptions(tenant) => *tenant,
            Self::Subscribe(feed) | Self::ListPage(feed, _) | Self::Download(feed, _) => {
                feeds.tenant_of(*feed)
            }
        }
    }
}

/// The work of a pool thread.
#[derive(Debug)]
pub enum Work {
    /// Get a token.
    LogIn(TenantIndex),
    /// Make a request.
    Request {
        /// Which one.
        task: Task,
        /// The tenant's token.
        token: Arc<Token>,
        /// Whether a blob that cannot be read as a whole is delivered as far as it can be.
        salvages: bool,
    },
}

/// What came of work, together with what it was about.
#[derive(Debug)]
pub enum Outcome {
    /// The tenant has a token.
    LoggedIn(TenantIndex, Token),
    /// The tenant has no token.
    LoginFailed(TenantIndex, ApiError),
    /// The tenant has these subscriptions.
    SubscriptionsListed(TenantIndex, Vec<Subscription>),
    /// The feed's subscription is enabled.
    Subscribed(FeedIndex),
    /// The feed's page is listed.
    PageListed(FeedIndex, PageRequest, Page),
    /// The writer has the blob's records, this number of bytes, and reports when they are committed.
    Downloaded(FeedIndex, PendingBlob, usize),
    /// The writer accepts no more, and the blob is not delivered.
    WriterClosed(FeedIndex),
    /// The request failed.
    Failed(Task, ApiError),
}

impl Outcome {
    /// Returns the feed that the work was about, if it was about one.
    pub fn feed(&self) -> Option<FeedIndex> {
        match self {
            Self::LoggedIn(..) | Self::LoginFailed(..) | Self::SubscriptionsListed(..) => None,
            Self::Subscribed(feed)
            | Self::PageListed(feed, ..)
            | Self::Downloaded(feed, ..)
            | Self::WriterClosed(feed) => Some(*feed),
            Self::Failed(task, _) => task.feed(),
        }
    }

    /// Returns the tenant that the work was about.
    pub fn tenant(&self, feeds: &Feeds) -> TenantIndex {
        match self {
            Self::LoggedIn(tenant, _)
            | Self::LoginFailed(tenant, _)
            | Self::SubscriptionsListed(tenant, _) => *tenant,
            Self::Subscribed(feed)
            | Self::PageListed(feed, ..)
            | Self::Downloaded(feed, ..)
            | Self::WriterClosed(feed) => feeds.tenant_of(*feed),
            Self::Failed(task, _) => task.tenant(feeds),
        }
    }

    /// Returns whether the API returned an error or did not answer.
    pub fn is_failure(&self) -> bool {
        matches!(self, Self::LoginFailed(..) | Self::Failed(..))
    }
}

/// What the threads of the pool share. All of it is read only.
pub struct Worker {
    /// The client of the API.
    pub client: Client,
    /// The tenants and feeds of the pass.
    pub feeds: Arc<Feeds>,
    /// The filters of the content types that have one.
    pub filters: HashMap<ContentType, Filter>,
    /// The channel to the writer.
    pub blobs: Sender<WriterMessage>,
    /// The memory for blobs between download and output.
    pub memory: Arc<Memory>,
}

impl Worker {
    /// Does the work, in one request. `share` gets the memory of every outcome but a download's, which the writer gets.
    pub fn run(&self, work: Work, share: &mut Share) -> Outcome {
        let reserve = |bytes| share.grow_bytes(bytes);
        match work {
            Work::LogIn(tenant) => match self.client.log_in(self.feeds.tenant(tenant), reserve) {
                Ok(token) => Outcome::LoggedIn(tenant, token),
                Err(error) => Outcome::LoginFailed(tenant, error),
            },
            Work::Request { task, token, salvages } => self.request(task, &token, salvages, reserve),
        }
    }

    fn request(&self, task: Task, token: &Token, salvages: bool, reserve: impl FnMut(usize)) -> Outcome {
        match task {
            Task::ListSubscriptions(tenant) => {
                match self.client.subscriptions(self.feeds.tenant(tenant), token, reserve) {
                    Ok(listed) => Outcome::SubscriptionsListed(tenant, listed),
                    Err(error) => Outcome::Failed(task, error),
                }
            }
            Task::Subscribe(feed) => {
                let (tenant, content_type) = self.feeds.feed(feed);
                match self.client.start_subscription(tenant, token, content_type, reserve) {
                    Ok(()) => Outcome::Subscribed(feed),
                    Err(error) => Outcome::Failed(task, error),
                }
            }
            Task::ListPage(feed, request) => {
                let (tenant, content_type) = self.feeds.feed(feed);
                let end = request.period_end();
                let page =
                    self.client.list_page(tenant, token, &request.url(tenant, content_type), end, reserve);
                match page {
                    Ok(page) => Outcome::PageListed(feed, request, page),
                    Err(error) => Outcome::Failed(Task::ListPage(feed, request), error),
                }
            }
            Task::Download(feed, pending) => match self.download(feed, &pending, token, salvages) {
                Ok(Some(bytes)) => Outcome::Downloaded(feed, pending, bytes),
                Ok(None) => Outcome::WriterClosed(feed),
                Err(error) => Outcome::Failed(Task::Download(feed, pending), error),
            },
        }
    }

    /// Downloads a blob and sends its records to the writer. Returns their size in bytes, or `None` if the writer accepts
    /// no more.
    fn download(
        &self,
        feed: FeedIndex,
        pending: &PendingBlob,
        token: &Token,
        in_part: bool,
    ) -> Result<Option<usize>, ApiError> {
        let (tenant, content_type) = self.feeds.feed(feed);
        let origin = self.feeds.origin(feed);
        let mut share = self.memory.share();
        let mut body = Body::new(share.buffer());
        let mut encoded = Body::default();
        let mut reserve = |bytes| share.grow_bytes(bytes);
        let read = if in_part {
            self.client.download_in_part(tenant, token, &pending.blob, &mut body, &mut encoded, &mut reserve)
        } else {
            self.client.download(tenant, token, &pending.blob, &mut body, &mut reserve)
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
        let fetched = FetchedBlob { feed, pending: pending.clone(), records, filtered, share, salvaged };
        let sent = self.blobs.send(WriterMessage::FetchedBlob(fetched));
        Ok(sent.is_ok().then_some(bytes))
    }
}
