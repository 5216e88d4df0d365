//! Whose turn it is: what may run now, what has to wait, and what is left when the pass, a tenant or a feed ends.

use std::{cmp::Reverse, sync::Arc, time::Instant};

use super::{Attempt, Download, Later, Scheduler, TenantState, Undelivered, is_of_use, tenant_of};
use crate::{
    api::Token,
    delivery::PendingBlob,
    limits::WAITING_BLOBS_MAX,
    pass::{
        feeds::{FeedIndex, TenantIndex},
        worker::Task,
    },
    report::Stop,
};

impl Scheduler<'_> {
    /// Moves what has come to its time.
    pub(super) fn wake(&mut self, now: Instant) {
        while self.later.peek().is_some_and(|Reverse(later)| later.order.0 <= now) {
            if let Some(Reverse(Later { attempt, .. })) = self.later.pop() {
                self.push(attempt);
            }
        }
        while self.sleeping.peek().is_some_and(|Reverse((at, _))| *at <= now) {
            if let Some(Reverse((_, tenant))) = self.sleeping.pop() {
                self.rouse(tenant);
            }
        }
    }

    /// Puts a tenant into the round, at its end.
    pub(super) fn rouse(&mut self, tenant: TenantIndex) {
        let state = &mut self.tenants[tenant.place()];
        if !state.is_in_round {
            state.is_in_round = true;
            self.round.push_back(tenant);
        }
    }

    /// A tenant's next attempt; without one the tenant leaves the round, until it is roused.
    pub(super) fn next_of(
        &mut self,
        tenant: TenantIndex,
        now: Instant,
    ) -> Option<(Attempt, Option<Arc<Token>>)> {
        let has_room = self.waiting_blobs < WAITING_BLOBS_MAX;
        let state = &mut self.tenants[tenant.place()];
        state.is_in_round = false;
        if state.is_idle() {
            return None;
        }
        if self.has_its_share(tenant) {
            self.rouse(tenant);
            return None;
        }
        let state = &mut self.tenants[tenant.place()];
        let Some(token) = state.token.as_ref().filter(|token| now < token.renew_at) else {
            let (login, at) = state.login.take()?;
            if now < at {
                state.login = Some((login, at));
                self.sleeping.push(Reverse((at, tenant)));
                return None;
            }
            state.is_in_round = true;
            return Some((login, None));
        };
        let token = Arc::clone(&token.token);
        let permit = match state.pace.acquire(now) {
            Ok(permit) => permit,
            Err(at) => {
                // Without a time, the end of a request that runs rouses the tenant.
                self.sleeping.extend(at.map(|at| Reverse((at, tenant))));
                return None;
            }
        };
        let may_list = has_room || state.downloads.is_empty(); // another tenant's backlog is not this one's
        let mut attempt = state
            .first
            .pop_front()
            .or_else(|| if may_list { state.pages.pop_front() } else { None })
            .or_else(|| state.downloads.pop().map(|Reverse(download)| download.attempt))?;
        if matches!(attempt.task, Task::Download(..)) {
            self.waiting_blobs -= 1;
        }
        state.is_in_round = true;
        attempt.permit = Some(permit);
        Some((attempt, Some(token)))
    }

    /// Whether a tenant has as many threads as are left for others that are at work. So one that hangs, or some, leave
    /// threads to the next one.
    pub(super) fn has_its_share(&self, tenant: TenantIndex) -> bool {
        let is_at_work = |other: &TenantState| other.running > 0 || (other.is_in_round && !other.is_idle());
        let others = || self.feeds.tenants().filter(|other| *other != tenant);
        self.tenants[tenant.place()].running >= self.settings.threads - self.running
            && others().any(|other| is_at_work(&self.tenants[other.place()]))
    }

    /// Queues an attempt to be run as soon as its tenant's turn comes.
    pub(super) fn push(&mut self, attempt: Attempt) {
        let tenant = self.tenant_of(&attempt.task);
        if self.stop.is_some()
            || self.tenants[tenant.place()].is_stopped
            || self.is_feed_stopped(&attempt.task)
            || !is_of_use(&attempt.task, self.outputs_left)
        {
            return self.leave(&attempt);
        }
        self.sequence += 1;
        let state = &mut self.tenants[tenant.place()];
        match &attempt.task {
            Task::LogIn(_) => unreachable!("a login waits in its tenant's state"),
            Task::ListSubscriptions(_) | Task::Subscribe(_) => state.first.push_back(attempt),
            Task::ListPage(..) => state.pages.push_back(attempt),
            Task::Download(_, wanted) => {
                self.waiting_blobs += 1;
                let is_repeated = wanted.has_failed || !wanted.delivered_to.is_empty();
                let order = (is_repeated, wanted.blob.created, self.sequence);
                state.downloads.push(Reverse(Download { order, attempt }));
            }
        }
        self.rouse(tenant);
    }

    /// Queues an attempt to be run from then on.
    pub(super) fn push_later(&mut self, attempt: Attempt, at: Instant) {
        if self.stop.is_some() {
            return self.leave(&attempt);
        }
        if let Task::LogIn(tenant) = attempt.task {
            self.tenants[tenant.place()].login = Some((attempt, at));
            return;
        }
        self.sequence += 1;
        self.later.push(Reverse(Later { order: (at, self.sequence), attempt }));
    }

    /// Counts what is not run because the pass, its tenant or its feed has ended.
    pub(super) fn leave(&mut self, attempt: &Attempt) {
        if let Task::Download(feed, wanted) = &attempt.task {
            let is_failed = self.feed_states[feed.place()].is_stopped && self.stop.is_none();
            self.in_flight.remove(&self.key(*feed, wanted));
            if self.stop == Some(Stop::Stragglers) {
                self.report_straggler(*feed, wanted, false);
            }
            self.leave_blob(*feed, wanted, is_failed);
        }
    }

    pub(super) fn leave_blob(&mut self, feed: FeedIndex, wanted: &PendingBlob, is_failed: bool) {
        let counts = &mut self.feed_states[feed.place()].counts;
        if is_failed {
            counts.failed += 1;
        } else {
            counts.left += 1;
        }
        self.undelivered.push(Undelivered { feed, wanted: wanted.clone(), has_failed: is_failed });
    }

    /// Takes a tenant's waiting attempts away, those that `which` names, and counts them.
    pub(super) fn drop_waiting(&mut self, tenant: TenantIndex, which: impl Fn(&Task) -> bool) {
        let mut dropped = Vec::new();
        let mut is_kept = |attempt: &Attempt| {
            let is_kept = !which(&attempt.task);
            if !is_kept {
                dropped.push(attempt.clone());
            }
            is_kept
        };
        let state = &mut self.tenants[tenant.place()];
        let waiting = state.downloads.len();
        state.first.retain(&mut is_kept);
        state.pages.retain(&mut is_kept);
        state.downloads.retain(|Reverse(download)| is_kept(&download.attempt));
        self.waiting_blobs -= waiting - state.downloads.len();
        let feeds = self.feeds;
        self.later.retain(|Reverse(later)| {
            tenant_of(feeds, &later.attempt.task) != tenant || is_kept(&later.attempt)
        });
        for attempt in dropped {
            self.leave(&attempt);
        }
    }

    pub(super) fn tenant_of(&self, task: &Task) -> TenantIndex {
        tenant_of(self.feeds, task)
    }

    pub(super) fn is_feed_stopped(&self, task: &Task) -> bool {
        task.feed().is_some_and(|feed| self.feed_states[feed.place()].is_stopped)
    }
}
