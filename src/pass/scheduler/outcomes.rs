//! What follows from the outcome of a job: the next step of its tenant or feed. What follows from a failure is in
//! `failures`.

use std::time::{Duration, Instant};

use super::{
    Attempt, Effect, SUBSCRIPTION_START_INTERVAL, Scheduler, Subject, Ticket,
    books::Listed,
    failures::Cause,
    listing::{Next, PageRequest},
};
use crate::{
    api::{ApiError, BlobList, Page, Subscription, Token},
    delivery::PendingBlob,
    limits::{CLOCK_TOLERANCE, EXPIRATION_GRACE},
    pass::{
        Mode,
        feeds::{FeedIndex, TenantIndex},
        plan::{FeedPlan, Window},
        worker::{Outcome, Task},
    },
    report::Stop,
};

impl Scheduler<'_> {
    /// Takes the next step after an outcome.
    pub(super) fn proceed(&mut self, outcome: Outcome, ticket: Ticket, now: Instant) {
        match outcome {
            Outcome::LoggedIn(tenant, token) => self.logged_in(tenant, token, now),
            Outcome::LoginFailed(tenant, error) => self.login_failed(tenant, &error, ticket.history, now),
            Outcome::SubscriptionsListed(tenant, listed) => self.subscriptions_listed(tenant, &listed, now),
            Outcome::Subscribed(feed) => {
                self.log_subscription("Subscribed", feed);
                self.subscribed(feed, now);
            }
            Outcome::PageListed(feed, request, Page { is_blank: true, .. })
                if ticket.history.failed < self.settings.retries =>
            {
                let attempt = Attempt { task: Task::ListPage(feed, request), history: ticket.history };
                self.retry(attempt, &ApiError::Malformed("empty".to_owned()), now);
            }
            Outcome::PageListed(feed, request, page) => self.page_listed(feed, request, page, now),
            Outcome::Downloaded(feed, pending, bytes) => {
                let ((tenant, name), blob) = (self.feeds.names(feed), pending.blob.content_id.as_str());
                log::debug!(tenant, feed = name, blob; "Downloaded blob {blob} of {}", self.feeds.label(feed));
                self.books.downloaded(feed, &pending, bytes);
            }
            Outcome::WriterClosed(_) => self.stop(Stop::Writer),
            Outcome::Failed(task, error) => self.failed(task, &error, ticket, now),
        }
    }

    fn logged_in(&mut self, tenant: TenantIndex, token: Token, now: Instant) {
        let (suffix, name) = (self.feeds.suffix(tenant), self.feeds.tenant(tenant).label());
        if self.tenants[tenant.place()].session.logged_in(token, now) {
            log::info!(tenant = name; "Successfully logged in to Office Management API{suffix}");
        } else {
            log::debug!(tenant = name; "Renewed the token{suffix}");
        }
    }

    /// Warns of a clock that is wrong, once.
    pub(super) fn report_clock(&mut self, tenant: TenantIndex) {
        if self.is_clock_reported {
            return;
        }
        let ahead = self.clock.ahead(&self.feeds.tenant(tenant).tenant_id);
        if let Some(ahead) = ahead.filter(|ahead| ahead.abs() > CLOCK_TOLERANCE) {
            self.is_clock_reported = true;
            let side = if ahead.is_positive() { "behind" } else { "ahead of" };
            log::warn!(
                "This machine's clock is {} {side} Microsoft's; what is listed is corrected by that, but set the \
                 clock (timedatectl set-ntp true)",
                in_words(ahead.unsigned_abs())
            );
        }
    }

    fn subscriptions_listed(&mut self, tenant: TenantIndex, listed: &[Subscription], now: Instant) {
        let (suffix, their_now) = (self.feeds.suffix(tenant), self.microsoft_time(tenant, now));
        for feed in self.feeds.feeds_of(tenant) {
            let (tenant, content_type) = self.feeds.feed(feed);
            let (tenant, name) = (tenant.label(), content_type.name().to_ascii_lowercase());
            let subscription = &mut self.feed_states[feed.place()].subscription;
            if listed.iter().any(|entry| entry.enabled && entry.content_type == Some(content_type)) {
                self.log_subscription("Already subscribed", feed);
                self.list(feed, now);
            } else if self.mode != Mode::Collect {
                let feed_name = content_type.name();
                log::warn!(
                    tenant, feed = feed_name;
                    "No subscription to feed {name}{suffix}: a pass would start it"
                );
                self.feed_states[feed.place()].listing.begin(FeedPlan::default()); // nothing to list
            } else if let Some(started) = subscription.within(SUBSCRIPTION_START_INTERVAL, their_now) {
                let feed_name = content_type.name();
                log::info!(
                    tenant, feed = feed_name;
                    "Subscription to feed {name}{suffix} was started at {started:.0}: not started again yet"
                );
                self.list(feed, now);
            } else {
                subscription.begin();
                self.enqueue(Attempt::first(Task::Subscribe(feed)));
            }
        }
    }

    /// Logs the state of a subscription. The messages are fixed.
    pub(super) fn log_subscription(&self, state: &str, feed: FeedIndex) {
        let (suffix, (tenant, name)) =
            (self.feeds.suffix(self.feeds.tenant_of(feed)), self.feeds.names(feed));
        log::info!(tenant, feed = name; "{state} to feed {}{suffix}", name.to_ascii_lowercase());
    }

    /// Remembers the start of a subscription, and lists the pages that waited for it, or else the feed from its beginning.
    pub(super) fn subscribed(&mut self, feed: FeedIndex, now: Instant) {
        let started = self.microsoft_time(self.feeds.tenant_of(feed), now);
        self.effects.push(Effect::RememberStart(feed, started));
        let pages = self.feed_states[feed.place()].subscription.started(started);
        if pages.is_empty() {
            self.list(feed, now);
        }
        for page in pages {
            self.enqueue(page);
        }
    }

    /// Plans the windows of a feed by Microsoft's clock, and begins to list them.
    fn list(&mut self, feed: FeedIndex, now: Instant) {
        let tenant = self.feeds.tenant_of(feed);
        let their_now = self.microsoft_time(tenant, now);
        if self.clock.ahead(&self.feeds.tenant(tenant).tenant_id).is_some() {
            let is_expired = |pending: &PendingBlob| {
                pending.blob.expires().is_some_and(|expires| expires < their_now - EXPIRATION_GRACE)
            };
            for pending in self.books.expire(feed, is_expired) {
                let ((tenant, name), blob) = (self.feeds.names(feed), pending.blob.content_id.as_str());
                log::error!(
                    tenant, feed = name, blob;
                    "Blob gone for {} blob {blob}: it expired at {} before it could be collected; its records are lost",
                    self.feeds.label(feed),
                    pending.blob.expiration
                );
                self.remember_gone(feed, pending);
            }
        }
        let listing = &mut self.feed_states[feed.place()].listing;
        let plan = FeedPlan::new(their_now, self.look_back, listing.progress());
        if let Some(missed) = plan.missed {
            let (tenant, name) = self.feeds.names(feed);
            log::error!(
                tenant, feed = name;
                "Content lost for {}: what became available from {} to {} was not listed in time, and the API lists \
                 only 7 days; run the collector more often",
                self.feeds.label(feed),
                missed.start,
                missed.end
            );
        }
        let windows = plan.windows.clone();
        listing.begin(plan);
        for (window, &period) in windows.iter().enumerate() {
            self.list_part(feed, window, period, false);
        }
        if windows.is_empty() {
            self.end_listing(feed);
            let carried_over = self.books.list_carried_over(feed);
            self.enqueue_downloads(feed, carried_over);
        }
    }

    fn list_part(&mut self, feed: FeedIndex, window: usize, period: Window, is_split: bool) {
        let page = self.feed_states[feed.place()].listing.begin_part(window, period, is_split);
        self.enqueue(Attempt::first(Task::ListPage(feed, page)));
    }

    /// Downloads the blobs that the end of a part has listed. After the last part these include the blobs that were
    /// carried over and not listed again, as they were listed then.
    pub(super) fn end_part(&mut self, feed: FeedIndex, mut blobs: Vec<PendingBlob>) {
        let listing = &mut self.feed_states[feed.place()].listing;
        if listing.end_part() {
            if listing.is_complete() {
                self.end_listing(feed);
            }
            blobs.extend(self.books.list_carried_over(feed));
        }
        self.enqueue_downloads(feed, blobs);
    }

    fn page_listed(&mut self, feed: FeedIndex, mut request: PageRequest, page: Page, now: Instant) {
        let listed_before = self.books.listed_len();
        let (blobs, is_whole) = self.accept_blobs(feed, &page.blobs);
        let label = request.label();
        if !is_whole {
            match request.for_the_rest() {
                Some(rest) => {
                    let (label, (tenant, name)) = (self.feeds.label(feed), self.feeds.names(feed));
                    log::debug!(tenant, feed = name; "A page for {label} has more blobs than may be pending");
                    self.enqueue(Attempt::first(Task::ListPage(feed, rest)));
                    self.enqueue_downloads(feed, blobs);
                }
                None => self.abandon_part(feed, &label, "its pages have too many blobs", blobs),
            }
            return;
        }
        if let Some(id) = &page.unreadable {
            // The other blobs are accepted, but the window does not count as listed, so the next pass finds out again.
            request.mark_unreadable();
            self.report_unreadable_entry(feed, id);
        }
        let (number, news) = (request.number(), self.books.listed_len() - listed_before);
        match self.feed_states[feed.place()].listing.follow(
            self.feeds.feed(feed),
            request,
            page.next,
            news,
            now,
        ) {
            Next::Page(next) => {
                self.enqueue(Attempt::first(Task::ListPage(feed, next)));
                self.enqueue_downloads(feed, blobs);
            }
            Next::Again(first) => {
                let (tenant, name) = self.feeds.names(feed);
                log::warn!(
                    tenant, feed = name;
                    "Listing for {}: after page {number} the API names a page that was listed already; the window is \
                     listed again",
                    self.feeds.label(feed)
                );
                self.enqueue(Attempt::first(Task::ListPage(feed, first)));
                self.enqueue_downloads(feed, blobs);
            }
            Next::Split { window, parts } => {
                for part in parts {
                    self.list_part(feed, window, part, true);
                }
                self.end_part(feed, blobs);
            }
            Next::End => self.end_part(feed, blobs),
            Next::Endless(reason) => self.abandon_part(feed, &label, &reason, blobs),
        }
    }

    /// Accepts the blobs of a page, as many as may wait. Returns those that are to be downloaded, and whether the page has
    /// no more.
    fn accept_blobs(&mut self, feed: FeedIndex, page: &BlobList) -> (Vec<PendingBlob>, bool) {
        let listing = &mut self.feed_states[feed.place()].listing;
        let mut room = self.queue.page_room();
        let mut blobs = Vec::new();
        for blob in page.iter() {
            if room.is_used_up() {
                return (blobs, false);
            }
            let created = blob.created;
            match self.books.list(feed, blob, listing.wants(created)) {
                Ok(Listed::Before | Listed::Unwanted) => {}
                Ok(Listed::Known) => listing.note_blob(created),
                Ok(Listed::Pending(pending)) => {
                    listing.note_blob(created);
                    room.accept(&pending);
                    blobs.push(pending);
                }
                Err(error) => {
                    self.state_failed(error);
                    return (blobs, false); // the next pass lists the rest
                }
            }
        }
        (blobs, true)
    }

    fn report_unreadable_entry(&mut self, feed: FeedIndex, id: &str) {
        let (tenant, name) = self.feeds.names(feed);
        log::error!(
            tenant, feed = name;
            "Listing failed for {}: blob {id:?} has an unreadable id or URI; the others are collected, and the next \
             pass lists them again",
            self.feeds.label(feed)
        );
        self.feed_states[feed.place()].last_error = Some(format!("blob {id:?} has an unreadable id or time"));
    }

    /// Abandons a part that cannot be listed to its end in this pass.
    fn abandon_part(&mut self, feed: FeedIndex, page: &str, reason: &str, blobs: Vec<PendingBlob>) {
        let advice = format!(
            "{reason}, seen after {page}; what was listed is collected, and the next pass lists the period again"
        );
        let cause = Cause { advice, kind: reason.to_owned() };
        self.report_failure("Listing failed", Subject::Feed(feed), None, "", &cause);
        self.end_part(feed, blobs);
    }
}

/// Formats a duration: `2 h 3 min`, or `75 s`.
fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
