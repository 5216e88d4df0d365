//! The tenants and feeds of a pass, each with an index.

use std::{ops::Range, sync::OnceLock};

use crate::{
    config::Tenant,
    feed::{ContentType, ListedBlob},
    records::Origin,
    state::{BlobKey, FeedId},
};

/// The index of a tenant in [`Feeds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TenantIndex(usize);

/// The index of a feed in [`Feeds`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FeedIndex(usize);

impl TenantIndex {
    /// Returns the index into a list with an entry for each tenant.
    pub fn place(self) -> usize {
        self.0
    }
}

impl FeedIndex {
    /// Returns the index into a list with an entry for each feed.
    pub fn place(self) -> usize {
        self.0
    }
}

/// The tenants and feeds of a pass.
#[derive(Debug)]
pub struct Feeds {
    tenants: Vec<Tenant>,
    all: Vec<Feed>,
    /// The range of each tenant's feeds in `all`.
    ranges: Vec<Range<usize>>,
}

#[derive(Debug)]
struct Feed {
    tenant: TenantIndex,
    content_type: ContentType,
    /// Made when a record needs it: most feeds have no new ones.
    origin: OnceLock<Box<Origin>>,
}

impl Feeds {
    /// Returns the feeds of these tenants, in the order of their subscriptions.
    pub fn new(tenants: Vec<Tenant>) -> Self {
        let mut feeds = Vec::new();
        let mut ranges = Vec::new();
        for (index, tenant) in tenants.iter().enumerate() {
            feeds.extend(tenant.subscriptions.iter().map(|&content_type| Feed {
                tenant: TenantIndex(index),
                content_type,
                origin: OnceLock::new(),
            }));
            ranges.push(feeds.len() - tenant.subscriptions.len()..feeds.len());
        }
        Self { tenants, all: feeds, ranges }
    }

    /// Returns all tenants.
    pub fn tenants(&self) -> impl Iterator<Item = TenantIndex> + use<> {
        (0..self.tenants.len()).map(TenantIndex)
    }

    /// Returns all feeds.
    pub fn feeds(&self) -> impl Iterator<Item = FeedIndex> + use<> {
        (0..self.all.len()).map(FeedIndex)
    }

    /// Returns the feeds of one tenant.
    pub fn feeds_of(&self, tenant: TenantIndex) -> impl Iterator<Item = FeedIndex> + use<> {
        self.ranges[tenant.0].clone().map(FeedIndex)
    }

    /// Returns a tenant's settings.
    pub fn tenant(&self, tenant: TenantIndex) -> &Tenant {
        &self.tenants[tenant.0]
    }

    /// Returns the tenant that a feed belongs to.
    pub fn tenant_of(&self, feed: FeedIndex) -> TenantIndex {
        self.all[feed.0].tenant
    }

    /// Returns a feed's tenant and content type.
    pub fn feed(&self, feed: FeedIndex) -> (&Tenant, ContentType) {
        let Feed { tenant, content_type, .. } = self.all[feed.0];
        (self.tenant(tenant), content_type)
    }

    /// Returns a feed's name in the state.
    pub fn id(&self, feed: FeedIndex) -> FeedId {
        let (tenant, content_type) = self.feed(feed);
        (tenant.tenant_id.clone(), content_type)
    }

    /// Returns the identity of a feed's blob.
    pub fn key(&self, feed: FeedIndex, blob: &ListedBlob) -> BlobKey {
        let (tenant, content_type) = self.feed(feed);
        BlobKey::new(&tenant.tenant_id, content_type, &blob.content_id)
    }

    /// Returns what is added to a feed's records.
    pub fn origin(&self, feed: FeedIndex) -> &Origin {
        self.all[feed.0].origin.get_or_init(|| {
            let (tenant, content_type) = self.feed(feed);
            let origin = Origin::new(content_type.name(), tenant.name.as_deref());
            Box::new(origin.of_tenant(&tenant.tenant_id))
        })
    }

    /// Returns the name of a feed in the log: `contoso audit.exchange`.
    pub fn label(&self, feed: FeedIndex) -> String {
        let (tenant, content_type) = self.feed(feed);
        format!("{} {}", tenant.label(), content_type.name().to_ascii_lowercase())
    }

    /// Returns the names of a feed's tenant and content type: the fields `tenant` and `feed` of a log line.
    pub fn names(&self, feed: FeedIndex) -> (&str, &'static str) {
        let (tenant, content_type) = self.feed(feed);
        (tenant.label(), content_type.name())
    }

    /// Returns the end of a message about a tenant: ` for contoso` if there are several tenants, otherwise nothing.
    pub fn suffix(&self, tenant: TenantIndex) -> String {
        if self.tenants.len() > 1 { format!(" for {}", self.tenant(tenant).label()) } else { String::new() }
    }
}
