//! What comes of a success: the next step of its tenant or feed.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

use super::{Attempt, CurrentToken, Scheduler, feed_name};
use crate::{
    api::{ApiError, Client, Page, Subscription, Token},
    delivery::{OutputSet, PendingBlob},
    feed::ListedBlob,
    limits::{
        CLOCK_TOLERANCE, EXPIRATION_GRACE, PAGE_BLOBS_MIN, PAGES_BEFORE_SPLIT, PAGES_MAX, PARTS_MAX,
        SUBSCRIPTION_START_INTERVAL, THIN_PAGE_BLOBS_MAX, TOKEN_LIFETIME, TOKEN_MARGIN, WAITING_BLOBS_MAX,
    },
    pass::{
        Mode,
        feeds::{FeedIndex, TenantIndex},
        plan::{FeedPlan, Window},
        worker::{Outcome, PageOf, Task},
    },
    report::Stop,
    state::BlobKey,
};

impl Scheduler<'_> {
    pub(super) fn succeeded(
        &mut self,
        attempt: Attempt,
        answer: Outcome,
        now: Instant,
    ) -> Vec<(FeedIndex, ListedBlob)> {
        if let Outcome::Page(Page { is_blank: true, .. }) = answer
            && attempt.tries < self.settings.retries
        {
            self.try_again(attempt, &ApiError::Malformed("empty".to_owned()), now);
            return Vec::new();
        }
        match (attempt.task, answer) {
            (Task::LogIn(tenant), Outcome::Token(token)) => self.logged_in(tenant, token, now),
            (Task::ListSubscriptions(tenant), Outcome::Subscriptions(running)) => {
                self.subscriptions_listed(tenant, &running, now);
            }
            (Task::Subscribe(feed), Outcome::Subscribed) => {
                let suffix = self.feeds.suffix(self.feeds.tenant_of(feed));
                log::info!("Subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                self.subscribed(feed, now);
            }
            (Task::ListPage(feed, page_of), Outcome::Page(page)) => {
                return self.page_listed(feed, page_of, page, now);
            }
            (Task::Download(feed, wanted), Outcome::Handed(bytes)) => {
                self.feed_states[feed.place()].counts.bytes += bytes as u64;
                log::debug!("Downloaded blob {} of {}", wanted.blob.content_id, self.feeds.label(feed));
                let key = self.key(feed, &wanted);
                if let Some(in_flight) = self.in_flight.get_mut(&key) {
                    in_flight.is_downloaded = true;
                }
            }
            (Task::Download(..), Outcome::WriterGone) => self.stop(Stop::Writer),
            (task, answer) => unreachable!("{answer:?} does not answer {task:?}"),
        }
        Vec::new()
    }

    pub(super) fn logged_in(&mut self, tenant: TenantIndex, token: Token, now: Instant) {
        let suffix = self.feeds.suffix(tenant);
        let state = &mut self.tenants[tenant.place()];
        if state.has_logged_in {
            log::debug!("Renewed the token{suffix}");
        } else {
            log::info!("Successfully logged in to Office Management API{suffix}");
        }
        state.has_logged_in = true;
        state.login = Some((Attempt::new(Task::LogIn(tenant)), now));
        let generation = state.token.as_ref().map_or(1, |token| token.generation + 1);
        let lifetime = token.lifetime.clamp(*TOKEN_LIFETIME.start(), *TOKEN_LIFETIME.end());
        let renew_at = now + lifetime.saturating_sub(TOKEN_MARGIN.min(lifetime / 4));
        state.token = Some(CurrentToken { token: Arc::new(token), renew_at, generation });
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

    pub(super) fn subscriptions_listed(
        &mut self,
        tenant: TenantIndex,
        running: &[Subscription],
        now: Instant,
    ) {
        let suffix = self.feeds.suffix(tenant);
        for feed in self.feeds.feeds_of(tenant) {
            let (_, content_type) = self.feeds.feed(feed);
            if running.iter().any(|entry| entry.enabled && entry.content_type == Some(content_type)) {
                log::info!("Already subscribed to feed {}{suffix}", feed_name(self.feeds, feed));
                self.list(feed, now);
            } else if self.mode != Mode::Collect {
                log::warn!(
                    "No subscription to feed {}{suffix}: a pass would start it",
                    feed_name(self.feeds, feed)
                );
                self.feed_states[feed.place()].is_begun = true; // with nothing to list
            } else if let Some(started) = self.recent_start(feed, now) {
                let name = feed_name(self.feeds, feed);
                log::info!(
                    "Subscription to feed {name}{suffix} was started at {started:.0}: not started again yet"
                );
                self.list(feed, now);
            } else {
                self.feed_states[feed.place()].is_starting = true;
                self.push(Attempt::new(Task::Subscribe(feed)));
            }
        }
    }

    /// When the feed's subscription was started, if that is too recent for another start.
    pub(super) fn recent_start(&self, feed: FeedIndex, now: Instant) -> Option<Timestamp> {
        let their_now = self.microsoft_now(self.feeds.tenant_of(feed), now);
        let started = self.feed_states[feed.place()].subscription_started?;
        let since = their_now.duration_since(started).unsigned_abs(); // in the future: by a clock that was wrong
        (since < SUBSCRIPTION_START_INTERVAL).then_some(started)
    }

    /// Remembers the start of a subscription, and lists its pages, from the first or from the one that had met the
    /// missing subscription.
    pub(super) fn subscribed(&mut self, feed: FeedIndex, now: Instant) {
        let started = self.microsoft_now(self.feeds.tenant_of(feed), now);
        self.started.push((feed, started));
        let state = &mut self.feed_states[feed.place()];
        state.is_starting = false;
        state.subscription_started = Some(started);
        let pages = std::mem::take(&mut state.pages);
        if pages.is_empty() {
            self.list(feed, now);
        }
        for page in pages {
            self.push(page);
        }
    }

    /// Plans what is to be listed, by Microsoft's clock, and begins with it.
    pub(super) fn list(&mut self, feed: FeedIndex, now: Instant) {
        let tenant_id = &self.feeds.feed(feed).0.tenant_id;
        let their_now = self.clock.at(tenant_id, now);
        if self.clock.ahead(tenant_id).is_some() {
            self.give_up_expired(feed, their_now);
        }
        let state = &mut self.feed_states[feed.place()];
        let plan = FeedPlan::new(their_now, self.look_back, state.before.as_ref());
        if let Some(missed) = plan.missed {
            log::error!(
                "Content lost for {}: what became available from {} to {} was not listed in time, and the API lists \
                 only 7 days; run the collector more often",
                self.feeds.label(feed),
                missed.start,
                missed.end
            );
        }
        state.is_begun = true;
        state.open_parts = vec![1; plan.windows.len()];
        state.plan = plan.clone();
        for (window, &period) in plan.windows.iter().enumerate() {
            self.list_part(feed, window, period, false);
        }
        if plan.windows.is_empty() && self.mode != Mode::DryRun {
            let waiting = self.take_waiting(feed).collect();
            self.want(feed, waiting);
        }
    }

    /// Gives up the blobs that wait and have expired by Microsoft's clock.
    fn give_up_expired(&mut self, feed: FeedIndex, their_now: Timestamp) {
        let is_expired = |wanted: &PendingBlob| {
            wanted.blob.expires().is_some_and(|expires| expires < their_now - EXPIRATION_GRACE)
        };
        let state = &mut self.feed_states[feed.place()];
        let expired: Vec<_> = state.waiting.extract_if(|_, wanted| is_expired(wanted)).collect();
        state.counts.listed += expired.len() as u64;
        state.counts.gone += expired.len() as u64;
        for (key, wanted) in expired {
            log::error!(
                "Blob gone for {} blob {}: it expired at {} before it could be collected; its records are lost",
                self.feeds.label(feed),
                wanted.blob.content_id,
                wanted.blob.expiration
            );
            self.listed.insert(key);
            self.gone.push((feed, wanted));
        }
    }

    pub(super) fn list_part(&mut self, feed: FeedIndex, window: usize, period: Window, is_part: bool) {
        let (tenant, content_type) = self.feeds.feed(feed);
        let url = Client::first_page(tenant, content_type, period.start, period.end);
        let page = PageOf {
            first_url: url.clone(),
            url,
            window,
            is_part,
            period,
            is_corrected: false,
            number: 1,
            restarts: 0,
            is_readable: true,
            seen: Vec::new(),
            loops: 0,
            parts: 0,
            pages_before: 0,
        };
        self.feed_states[feed.place()].running_parts += 1;
        self.push(Attempt::new(Task::ListPage(feed, page)));
    }

    /// A part is listed to its end, or given up. After the last one, what waits from earlier passes and was not listed
    /// is wanted as it was listed then.
    pub(super) fn part_ended(&mut self, feed: FeedIndex) -> Vec<PendingBlob> {
        let state = &mut self.feed_states[feed.place()];
        state.running_parts -= 1;
        if state.running_parts == 0 { self.take_waiting(feed).collect() } else { Vec::new() }
    }

    pub(super) fn page_listed(
        &mut self,
        feed: FeedIndex,
        mut page_of: PageOf,
        page: Page,
        now: Instant,
    ) -> Vec<(FeedIndex, ListedBlob)> {
        let listed_before = self.listed.len();
        let (mut wanted, is_whole) = self.accept_blobs(feed, page.blobs);
        if !is_whole {
            page_of.parts += 1;
            if page_of.parts > PARTS_MAX {
                wanted.extend(self.pages_never_end(feed, &page_of, "its pages have too many blobs"));
            } else {
                log::debug!("A page for {} has more blobs than may wait", self.feeds.label(feed));
                self.push(Attempt::new(Task::ListPage(feed, page_of)));
            }
            return self.want(feed, wanted);
        }
        if let Some(id) = &page.unreadable {
            // The other blobs are taken; but the window is not listed, so that the next pass finds out again.
            page_of.is_readable = false;
            self.report_unreadable_entry(feed, id);
        }
        let is_new = page_of.number > page_of.pages_before;
        let is_thin =
            is_new && page.next.is_some() && self.listed.len() <= listed_before + THIN_PAGE_BLOBS_MAX;
        let thin_pages = &mut self.feed_states[feed.place()].thin_pages;
        let was_endless = thin_pages.is_endless;
        if is_thin {
            thin_pages.add(now);
        } else if is_new {
            thin_pages.end_row();
        }
        let is_endless = is_thin && thin_pages.is_endless;
        let row = thin_pages.number;
        page_of.seen.push(xxh3_64(page_of.url.as_bytes()));
        let is_loop = page.next.as_ref().is_some_and(|next| page_of.seen.contains(&xxh3_64(next.as_bytes())));
        match page.next {
            Some(_) if is_loop && page_of.loops == 0 => {
                log::warn!(
                    "Listing for {}: after page {} the API names a page that was listed already; the window is listed \
                     again",
                    self.feeds.label(feed),
                    page_of.number
                );
                let first = PageOf {
                    url: page_of.first_url.clone(),
                    number: 1,
                    is_readable: true,
                    seen: Vec::new(),
                    loops: 1,
                    pages_before: page_of.number,
                    ..page_of
                };
                self.push(Attempt::new(Task::ListPage(feed, first)));
            }
            Some(_) if is_loop => {
                wanted.extend(self.pages_never_end(feed, &page_of, "the pages of the listing form a loop"));
            }
            Some(_) if is_endless && was_endless => {
                wanted.extend(self.part_ended(feed)); // the cause was reported
            }
            Some(_) if is_endless => {
                let why = format!("{row} pages in a row brought next to nothing new");
                wanted.extend(self.pages_never_end(feed, &page_of, &why));
            }
            Some(_) if page_of.number == PAGES_BEFORE_SPLIT && !page_of.is_part => {
                let hours = self.feed_states[feed.place()].plan.windows[page_of.window].hours();
                self.feed_states[feed.place()].open_parts[page_of.window] = hours.len();
                for hour in hours {
                    self.list_part(feed, page_of.window, hour, true);
                }
                wanted.extend(self.part_ended(feed));
            }
            Some(url) if page_of.number < PAGES_MAX => {
                let next = PageOf { url, number: page_of.number + 1, parts: 0, ..page_of };
                self.push(Attempt::new(Task::ListPage(feed, next)));
            }
            Some(_) => {
                wanted.extend(self.pages_never_end(feed, &page_of, "the listing has too many pages"));
            }
            None => {
                let state = &mut self.feed_states[feed.place()];
                state.open_parts[page_of.window] -= usize::from(page_of.is_readable);
                wanted.extend(self.part_ended(feed));
            }
        }
        self.want(feed, wanted)
    }

    /// Takes over the blobs of a page, as many as may wait. Returns those that are wanted, and whether the page has no
    /// more.
    fn accept_blobs(&mut self, feed: FeedIndex, blobs: Vec<ListedBlob>) -> (Vec<PendingBlob>, bool) {
        let (tenant, content_type) = self.feeds.feed(feed);
        let state = &mut self.feed_states[feed.place()];
        let wanted_from = state.plan.wanted_from.unwrap_or(Timestamp::MIN);
        let room = WAITING_BLOBS_MAX.saturating_sub(self.waiting_blobs).max(PAGE_BLOBS_MIN);
        let mut wanted = Vec::new();
        for blob in blobs {
            if wanted.len() >= room {
                return (wanted, false);
            }
            let key = BlobKey::new(&tenant.tenant_id, content_type, &blob.content_id);
            if !self.listed.insert(key) || blob.created < wanted_from {
                continue;
            }
            let waiting = state.waiting.remove(&key);
            let (delivered_to, has_failed, failed_passes) = waiting
                .map_or((OutputSet::EMPTY, false, 0), |waiting| {
                    (waiting.delivered_to, waiting.has_failed, waiting.failed_passes)
                });
            state.last_blob = state.last_blob.max(Some(blob.created));
            if self.known.contains(&tenant.tenant_id, content_type, &blob.content_id) {
                state.counts.listed += 1;
                state.counts.known += 1;
            } else {
                wanted.push(PendingBlob { blob, delivered_to, has_failed, failed_passes });
            }
        }
        (wanted, true)
    }

    fn report_unreadable_entry(&mut self, feed: FeedIndex, id: &str) {
        log::error!(
            "Listing failed for {}: blob {id:?} has an unreadable id or URI; the others are collected, and the next \
             pass lists them again",
            self.feeds.label(feed)
        );
        self.feed_states[feed.place()].last_error = Some(format!("blob {id:?} has an unreadable id or time"));
    }

    /// A window that cannot be listed to its end is given up in this pass. Returns what [`Self::part_ended`] does.
    fn pages_never_end(&mut self, feed: FeedIndex, page_of: &PageOf, why: &str) -> Vec<PendingBlob> {
        let advice = format!(
            "{why}, seen after page {} of the period from {} to {}; what was listed is collected, and the next pass lists \
             the period again",
            page_of.number, page_of.period.start, page_of.period.end
        );
        self.report_failure(&Task::ListPage(feed, page_of.clone()), &advice, why.to_owned());
        self.part_ended(feed)
    }

    /// The blobs that wait for a feed and were not listed; from now on they count as listed.
    pub(super) fn take_waiting(&mut self, feed: FeedIndex) -> impl Iterator<Item = PendingBlob> + use<> {
        let waiting = std::mem::take(&mut self.feed_states[feed.place()].waiting);
        self.listed.extend(waiting.keys());
        waiting.into_values()
    }

    /// Queues blobs for their download. In a dry run they are returned instead.
    pub(super) fn want(&mut self, feed: FeedIndex, wanted: Vec<PendingBlob>) -> Vec<(FeedIndex, ListedBlob)> {
        let counts = &mut self.feed_states[feed.place()].counts;
        counts.listed += wanted.len() as u64;
        if self.mode == Mode::DryRun {
            counts.left += wanted.len() as u64;
            return wanted.into_iter().map(|wanted| (feed, wanted.blob)).collect();
        }
        for wanted in wanted {
            self.push(Attempt::new(Task::Download(feed, wanted)));
        }
        Vec::new()
    }
}

/// `2 h 3 min`, or `75 s` if that is more fitting.
fn in_words(duration: Duration) -> String {
    match duration.as_secs() {
        seconds if seconds < 120 => format!("{seconds} s"),
        seconds if seconds < 7200 => format!("{} min", seconds / 60),
        seconds => format!("{} h {} min", seconds / 3600, seconds % 3600 / 60),
    }
}
