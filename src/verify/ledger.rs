//! What the state knows of each listed blob.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
};

use jiff::Timestamp;

use crate::{
    config::Tenant,
    delivery::PendingBlob,
    feed::{ContentType, ListedBlob},
    state::{BlobKey, FeedId, Snapshot, StateError},
};

/// The blobs that Microsoft lists.
#[derive(Debug, Default)]
pub struct Listing {
    /// Their feeds.
    pub feeds: Vec<ListedFeed>,
    /// The blobs.
    pub blobs: Vec<Listed>,
    indexes: HashMap<FeedId, usize>,
    tenants: HashMap<Arc<str>, usize>,
}

/// A feed that lists blobs.
#[derive(Debug)]
pub struct ListedFeed {
    /// Its name in the state.
    pub id: FeedId,
    /// The index of its tenant.
    pub tenant: usize,
}

/// A blob and the index of its feed.
#[derive(Debug)]
pub struct Listed {
    /// The feed.
    pub feed: usize,
    /// The blob.
    pub blob: ListedBlob,
}

/// What the state knows of a blob.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum BlobState {
    /// Every output has accepted it.
    Known,
    /// A later pass delivers it, for this reason.
    Pending(&'static str),
    /// It could not be fetched any more.
    Gone,
    /// Only a part of it could be read; its body is in quarantine.
    Quarantined,
    /// It became available after the last pass had listed the feed.
    New,
    /// It became available before the feed was collected (`only_future_events`, or the first look-back window).
    NotCollected,
    /// A pass has listed its period, but it is neither known nor pending: a gap.
    Unknown,
}

impl Listing {
    /// Adds a listed blob.
    pub fn add(&mut self, tenant: &Tenant, content_type: ContentType, blob: ListedBlob) {
        let id = (tenant.tenant_id.clone(), content_type);
        let feed = *self.indexes.entry(id).or_insert_with_key(|id| {
            let tenants = self.tenants.len();
            let tenant = *self.tenants.entry(id.0.clone()).or_insert(tenants);
            self.feeds.push(ListedFeed { id: id.clone(), tenant });
            self.feeds.len() - 1
        });
        self.blobs.push(Listed { feed, blob });
    }

    /// Returns the name in the state of the feed of a blob.
    pub fn feed_id(&self, blob: usize) -> FeedId {
        self.feeds[self.blobs[blob].feed].id.clone()
    }

    /// Returns the identity of a blob.
    pub fn key(&self, blob: usize) -> BlobKey {
        let Listed { feed, blob } = &self.blobs[blob];
        let (tenant_id, content_type) = &self.feeds[*feed].id;
        BlobKey::new(tenant_id, *content_type, &blob.content_id)
    }

    /// Looks up each blob in the state: as it was before the blobs were listed, and afterwards, unless the lock was held.
    ///
    /// # Errors
    ///
    /// The known blobs cannot be read.
    pub fn look_up(
        &self,
        before: &Snapshot,
        after: Option<&Snapshot>,
        quarantined: &HashSet<BlobKey>,
    ) -> Result<Vec<BlobState>, StateError> {
        let pending: HashMap<BlobKey, &PendingBlob> = std::iter::once(before)
            .chain(after)
            .flat_map(|snapshot| &snapshot.progress.pending)
            .map(|((tenant_id, content_type), pending)| {
                (BlobKey::new(tenant_id, *content_type, &pending.blob.content_id), pending)
            })
            .collect();
        let nothing = Arc::default();
        let progress: Vec<_> =
            self.feeds.iter().map(|feed| before.progress.feeds.get(&feed.id).unwrap_or(&nothing)).collect();
        let gone: Vec<HashSet<&str>> =
            progress.iter().map(|feed| feed.gone.iter().map(|gone| &*gone.content_id).collect()).collect();
        let look_up = |(index, Listed { feed, blob }): (usize, &Listed)| {
            let (tenant_id, content_type) = &self.feeds[*feed].id;
            let is_known =
                |snapshot: &Snapshot| snapshot.known.contains(tenant_id, *content_type, &blob.content_id);
            let is_before = |time: Option<Timestamp>| time.is_some_and(|time| blob.created < time);
            let progress = progress[*feed];
            Ok(if gone[*feed].contains(&*blob.content_id) {
                BlobState::Gone
            } else if is_known(before)? {
                // A body is in quarantine before its blob is delivered.
                if quarantined.contains(&self.key(index)) { BlobState::Quarantined } else { BlobState::Known }
            } else if let Some(pending) = pending.get(&self.key(index)) {
                BlobState::Pending(reason(pending))
            } else if !is_before(progress.listed_until) {
                BlobState::New
            } else if after.map_or(Ok(false), is_known)? {
                BlobState::Known
            } else if is_before(progress.wanted_from.max(progress.collected_from)) {
                BlobState::NotCollected
            } else {
                BlobState::Unknown
            })
        };
        self.blobs.iter().enumerate().map(look_up).collect()
    }
}

fn reason(pending: &PendingBlob) -> &'static str {
    if !pending.delivered_to.is_empty() {
        "an output has not accepted it"
    } else if pending.has_failed {
        "it could not be downloaded or delivered"
    } else {
        "no pass has tried it"
    }
}
