//! The end of a pass: the blobs that are in flight, the causes of what is left undone, the report, and what the state
//! remembers.

use std::{mem, sync::Arc};

use jiff::{SignedDuration, Timestamp};

use super::{FeedState, Mode, Scheduler, Subject, failures::Cause};
use crate::{
    delivery::PendingBlob,
    limits::RETENTION,
    pass::feeds::FeedIndex,
    report::{FeedReport, Stop, Summary},
    state::{GONE_MAX, Progress},
};

/// A feed that had content before and has had none for this duration is reported, once in each such duration.
const QUIET_FEED_AGE: SignedDuration = SignedDuration::from_hours(24);

impl Scheduler<'_> {
    /// Ends the pass: a blob that a thread or the writer still has was not delivered. Returns the report, and what the
    /// state has to remember: up to when each feed is listed, and the blobs that are not delivered everywhere.
    pub fn finish(mut self) -> (Summary, Progress) {
        self.settle_in_flight();
        for feed in self.feeds.feeds() {
            self.end_listing(feed);
        }
        self.blame_output();
        self.name_causes();
        let (mut reports, mut progress) = (Vec::with_capacity(self.feed_states.len()), Progress::default());
        for tenant in self.feeds.tenants() {
            let learned = self.tenants[tenant.place()].session.learned(|at| self.microsoft_time(tenant, at));
            let tenant_id = &self.feeds.tenant(tenant).tenant_id;
            progress.tenants.extend(learned.map(|learned| (tenant_id.clone(), learned)));
        }
        let any_login = self.tenants.iter().any(|tenant| tenant.session.has_logged_in());
        self.tenants = Vec::new(); // so that the reports take no memory in addition to theirs
        for (feed, state) in self.feeds.feeds().zip(mem::take(&mut self.feed_states)) {
            let report = self.report(feed, state);
            progress.feeds.insert(self.feeds.id(feed), Arc::clone(&report.progress));
            reports.push(report);
        }
        let pending = self.books.close();
        progress.pending =
            pending.into_iter().map(|(feed, pending)| (self.feeds.id(feed), pending)).collect();
        self.line_limit.sum_up();
        (Summary { feeds: reports, any_login, stop: self.stop }, progress)
    }

    /// Returns whether a blob that is in flight at the end of the pass has failed. A pass that was stopped leaves it
    /// for later.
    fn is_in_flight_failed(&self) -> bool {
        matches!(self.stop, None | Some(Stop::Writer | Stop::State))
    }

    fn settle_in_flight(&mut self) {
        for in_flight in self.books.drain_in_flight() {
            let (feed, pending) = (in_flight.feed, in_flight.pending);
            if self.stop == Some(Stop::Stragglers) {
                self.report_straggler(feed, &pending, in_flight.is_downloaded);
            }
            if self.is_in_flight_failed() {
                self.books.fail(feed, pending);
            } else {
                self.books.leave(feed, pending);
            }
        }
    }

    /// Makes the failure of an output the cause for the feeds whose blobs are not delivered, unless a deadline or a signal
    /// is the cause.
    fn blame_output(&mut self) {
        let Some(reason) = &self.output_failure else { return };
        let is_in_flight_failed = self.is_in_flight_failed();
        for (feed, pending) in self.books.undelivered() {
            if is_in_flight_failed || pending.has_failed {
                self.feed_states[feed.place()].last_error.get_or_insert_with(|| reason.clone());
            }
        }
    }

    /// Names a cause for each feed that the end of the pass left unfinished.
    fn name_causes(&mut self) {
        for feed in self.feeds.feeds() {
            let counts = self.books.counts(feed);
            let state = &mut self.feed_states[feed.place()];
            let is_listed = state.listing.is_complete();
            let is_undone = !is_listed || counts.failed > 0 || counts.left > 0;
            if !is_undone || state.last_error.is_some() || self.mode == Mode::DryRun && is_listed {
                continue;
            }
            let cause = match (self.stop, &self.output_failure) {
                (Some(Stop::Writer | Stop::State) | None, Some(reason)) => reason.clone(),
                (Some(stop), _) => format!("{}: the pass ended before this feed was done", reason_of(stop)),
                (None, None) => "its listing did not come to an end; please report this".to_owned(),
            };
            if matches!(self.stop, None | Some(Stop::Stragglers)) {
                let phrase = if is_listed { "Blob download failed" } else { "Listing failed" };
                let (label, (tenant, name)) = (self.feeds.label(feed), self.feeds.names(feed));
                log::error!(tenant, feed = name; "{phrase} for {label}: {cause}; the next pass continues from here");
            }
            state.last_error = Some(cause);
        }
    }

    /// Reports a blob that kept the pass from ending.
    pub(super) fn report_straggler(&mut self, feed: FeedIndex, pending: &PendingBlob, is_downloaded: bool) {
        let what =
            if is_downloaded { "its output has not confirmed it" } else { "its download is not finished" };
        let advice = format!(
            "{what} {} s after the rest of the pass; the next pass tries it again",
            self.settings.straggler_wait.as_secs()
        );
        let cause = Cause { advice, kind: what.to_owned() };
        let id = Some(pending.blob.content_id.as_str());
        self.report_failure("Blob download failed", Subject::Feed(feed), id, "", &cause);
    }

    /// Ends the listing of a feed, unless it has ended.
    pub(super) fn end_listing(&mut self, feed: FeedIndex) {
        let now = self.microsoft_time(self.feeds.tenant_of(feed), self.clock.began());
        let listing = &mut self.feed_states[feed.place()].listing;
        if !listing.is_open() {
            return;
        }
        let before = listing.progress().and_then(|before| before.listed_until);
        listing.end(now);
        if listing.is_complete() {
            let last_blob = listing.progress().and_then(|progress| progress.last_blob);
            self.warn_if_quiet(feed, last_blob, before, now);
        }
    }

    /// Returns the report on a feed, and what the state remembers of it.
    fn report(&self, feed: FeedIndex, state: FeedState) -> FeedReport {
        let (tenant, content_type) = self.feeds.feed(feed);
        let now = self.clock.at(&tenant.tenant_id, self.clock.began());
        let counts = self.books.counts(feed);
        assert!(counts.is_balanced(), "every listed blob is in exactly one count: {counts:?}");
        let is_listed = state.listing.is_complete();
        assert!(
            (is_listed && counts.failed == 0) || state.last_error.is_some(),
            "what a pass leaves undone has a logged cause: {counts:?}"
        );
        let mut remembered = state.listing.into_progress();
        let progress = Arc::make_mut(&mut remembered);
        if is_listed && counts.failed == 0 && counts.left == 0 {
            progress.last_success = Some(now);
        }
        progress.last_error = state.last_error;
        let filter = self.settings.filters.get(&content_type).copied();
        if progress.filter.is_some() && progress.filter != filter {
            progress.filter_changed = Some(now);
        }
        progress.filter = filter;
        progress.gone.retain(|gone| gone.at + RETENTION > now);
        progress.gone.drain(..progress.gone.len().saturating_sub(GONE_MAX));
        progress.subscription_started = state.subscription.at();
        progress.totals = progress.totals.plus(counts.totals());
        FeedReport {
            tenant: Arc::clone(tenant.name.as_ref().unwrap_or(&tenant.tenant_id)),
            tenant_id: tenant.tenant_id.clone(),
            content_type,
            counts,
            is_listed,
            progress: remembered,
        }
    }

    /// Warns of a feed that had content before and has none any more: once a day, not at each pass.
    fn warn_if_quiet(
        &self,
        feed: FeedIndex,
        last_blob: Option<Timestamp>,
        before: Option<Timestamp>,
        now: Timestamp,
    ) {
        let days = |until: Timestamp, from: Timestamp| {
            until.duration_since(from).as_secs().div_euclid(QUIET_FEED_AGE.as_secs())
        };
        let (Some(last), Some(before)) = (last_blob, before) else { return };
        if days(now, last) > days(before.max(last), last) {
            let (label, (tenant, name)) = (self.feeds.label(feed), self.feeds.names(feed));
            log::warn!(
                tenant, feed = name;
                "No content for {label} since {last:.0}: if people still work there, check that auditing is on and that \
                 the subscription is enabled"
            );
        }
    }
}

/// Returns why a pass ends early.
pub(super) fn reason_of(stop: Stop) -> &'static str {
    match stop {
        Stop::Deadline => "globalTimeout has passed",
        Stop::Interrupted => "SIGINT",
        Stop::Terminated => "SIGTERM",
        Stop::Stragglers => "Only unfinished requests have been left for an interval",
        Stop::Writer => "No output is left",
        Stop::State => "The state failed",
    }
}
