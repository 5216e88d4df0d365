//! How fast a backlog is collected against quotas that the client does not know, in virtual time.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, VecDeque},
};

use super::{
    tests::{begin_after, blobs, collect, commit, download_of, error_response, fail, feeds, succeed},
    *,
};
use crate::{config::RequestsPerMinute, feed::ContentType, state::TenantProgress};

const MINUTE: Duration = Duration::from_secs(60);
/// The first tenant of [`feeds`].
const TENANT: &str = "00000000-1111-4111-8111-111111111111";

/// How a server counts requests. Which of these Microsoft uses is not documented.
#[derive(Clone, Copy, Debug)]
enum Counting {
    /// Every minute, from this part of one on after the pass begins, has the whole quota.
    FixedMinutes(Duration),
    /// Accepted requests of the last 60 seconds.
    Sliding,
    /// A minute's quota that refills continuously.
    Bucket,
}

/// A server's quota.
struct Quota {
    counting: Counting,
    per_minute: u32,
    start: Instant,
    /// Requests that count, or the bucket's level with its time.
    recent: VecDeque<Instant>,
    level: (f64, Instant),
}

impl Quota {
    fn new(counting: Counting, per_minute: u32, start: Instant) -> Self {
        Self { counting, per_minute, start, recent: VecDeque::new(), level: (f64::from(per_minute), start) }
    }

    /// Whether a request that arrives now is within the quota.
    fn accepts(&mut self, now: Instant) -> bool {
        let window_start = match self.counting {
            Counting::FixedMinutes(first) => {
                let since = (now + MINUTE).duration_since(self.start + first);
                now.checked_sub(Duration::from_nanos(
                    u64::try_from(since.as_nanos() % MINUTE.as_nanos()).expect("small"),
                ))
            }
            _ => now.checked_sub(MINUTE),
        };
        while self.recent.front().is_some_and(|at| window_start.is_some_and(|start| *at < start)) {
            self.recent.pop_front();
        }
        let is_accepted = if let Counting::Bucket = self.counting {
            let (level, at) = self.level;
            let quota = f64::from(self.per_minute);
            let level = (level + quota * (now - at).as_secs_f64() / 60.0).min(quota);
            self.level = (if level >= 1.0 { level - 1.0 } else { level }, now);
            level >= 1.0
        } else {
            self.recent.len() < self.per_minute as usize
        };
        if is_accepted {
            self.recent.push_back(now);
        }
        is_accepted
    }
}

/// What a pass came to.
#[derive(Debug)]
struct Measured {
    lasted: Duration,
    requests: u32,
    throttled: u32,
    learned: Option<TenantProgress>,
}

/// Collects a backlog with 50 threads and answers that take 50 to 250 ms.
fn run(before: &Progress, backlog: usize, quota: &mut Quota, start: Instant) -> Measured {
    let feeds = feeds(1, &[ContentType::AuditGeneral]);
    let settings = Collect {
        max_requests_per_minute: RequestsPerMinute::Auto,
        retry_delay: Duration::from_secs(1),
        ..collect(50)
    };
    let mut scheduler = begin_after(&feeds, &settings, before, start);
    let mut random = fastrand::Rng::with_seed(7);
    let mut now = start;
    let (mut requests, mut throttled) = (0, 0);
    // Requests on their way to the server, and answers on their way back, by time.
    let mut arriving = BinaryHeap::new();
    let mut answered = BinaryHeap::new();
    let mut jobs: Vec<Option<(Job, bool)>> = Vec::new();
    loop {
        while let Some(job) = scheduler.next(now) {
            let is_login = matches!(job.work, Work::LogIn(_));
            requests += u32::from(!is_login);
            let on_the_way = Duration::from_millis(random.u64(25..125));
            arriving.push(Reverse((now + on_the_way, jobs.len(), on_the_way)));
            jobs.push(Some((job, is_login)));
        }
        if scheduler.is_over() {
            break;
        }
        let arrives = arriving.peek().map(|Reverse((at, ..))| *at);
        let answers = answered.peek().map(|Reverse((at, _))| *at);
        let events = [arrives, answers, scheduler.next_at()];
        now = events.into_iter().flatten().min().expect("something to wait for").max(now);
        if arrives == Some(now) {
            let Some(Reverse((_, place, on_the_way))) = arriving.pop() else { continue };
            if let Some((_, is_accepted)) = &mut jobs[place] {
                *is_accepted = *is_accepted || quota.accepts(now);
            }
            answered.push(Reverse((now + on_the_way, place)));
        } else if answers == Some(now) {
            let Some(Reverse((_, place))) = answered.pop() else { continue };
            let Some((job, is_accepted)) = jobs[place].take() else { continue };
            if is_accepted {
                let downloaded = download_of(&job).map(|(feed, pending)| (feed, pending.clone()));
                succeed(&mut scheduler, &feeds, job, &|_| blobs("a", backlog), now);
                if let Some((feed, pending)) = downloaded {
                    commit(&mut scheduler, feed, &pending);
                }
            } else {
                throttled += 1;
                fail(&mut scheduler, job, error_response(429, None), now);
            }
        }
    }
    let (summary, progress) = scheduler.finish();
    assert_eq!(summary.feeds[0].counts.delivered, backlog as u64);
    let learned = progress.tenants.into_values().next();
    Measured { lasted: now - start, requests, throttled, learned }
}

const COUNTINGS: [Counting; 4] = [
    Counting::FixedMinutes(Duration::from_secs(3)),
    Counting::FixedMinutes(Duration::from_secs(30)),
    Counting::Sliding,
    Counting::Bucket,
];

/// Collects what the quota allows in three minutes, in a pass that knows nothing of the quota and in one after it.
fn three_minutes_of(per_minute: u32, countings: &[Counting]) {
    for &counting in countings {
        let start = Instant::now();
        let backlog = 3 * per_minute as usize;
        let mut quota = Quota::new(counting, per_minute, start);
        let first = run(&Progress::default(), backlog, &mut quota, start);
        let what = format!("{counting:?} of {per_minute}: {first:?}");
        assert!(first.lasted <= 3 * MINUTE * 115 / 100, "{what}");
        assert!(first.throttled * 50 <= first.requests, "{what}");

        let mut before = Progress::default();
        let learned = first.learned.expect("a rate of its own");
        assert!((per_minute * 9 / 10..=per_minute * 2).contains(&learned.requests_per_minute), "{what}");
        before.tenants.insert(TENANT.into(), learned);
        let mut quota = Quota::new(counting, per_minute, start);
        let second = run(&before, per_minute as usize / 2, &mut quota, start);
        assert_eq!(second.throttled, 0, "{what}, then {second:?}");
        assert!(second.lasted < MINUTE, "{what}, then {second:?}");
    }
}

#[test]
fn backlog_below_half_the_quota_is_rarely_throttled() {
    three_minutes_of(1_000, &COUNTINGS);
}

#[test]
fn backlog_within_the_quota_finishes_near_the_minimum() {
    three_minutes_of(2_000, &COUNTINGS);
}

#[test]
fn backlog_above_the_quota_uses_the_whole_quota() {
    three_minutes_of(6_000, &[COUNTINGS[0], COUNTINGS[2]]);
}

#[test]
fn exhausted_quota_is_probed_with_one_request() {
    let start = Instant::now();
    // In the first two minutes nothing is left of it.
    let mut quota = Quota::new(Counting::Sliding, 2_000, start);
    quota.recent = std::iter::repeat_n(start + 2 * MINUTE, 2_000).collect();
    let outcome = run(&Progress::default(), 500, &mut quota, start);
    assert!(outcome.throttled <= 12, "{outcome:?}");
    assert!(outcome.lasted < 5 * MINUTE, "{outcome:?}");
}
