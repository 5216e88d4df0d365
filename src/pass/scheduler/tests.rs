//! The scheduler with a clock of the test.

use std::{
    cell::Cell,
    collections::{HashSet, VecDeque},
    path::PathBuf,
    sync::Arc,
};

use proptest::prelude::*;

use super::{
    listing::{
        PAGES_BEFORE_SPLIT, PAGES_MAX, PARTS_MAX, THIN_PAGES_DURATION_MAX, THIN_PAGES_MAX,
        THIN_PAGES_TIMED_MIN,
    },
    queue::{FIRST_TURN_ATTEMPTS, PAGE_BLOBS_MIN, PAGE_BYTES_MIN, PENDING_BLOBS_MAX, PENDING_BYTES_MAX},
    session::{REJECTED_TOKENS_MAX, THROTTLED_MAX},
    *,
};
use crate::{
    api::{ApiError, Page, Subscription, Token},
    config::{Cloud, Credential, RequestsPerMinute, Secret, Tenant},
    delivery::{OutputName, OutputSet},
    exit::Exit,
    feed::ContentType,
    limits::CONTENT_URI_BYTES_MAX,
    output::OutputError,
    report::{Counts, Summary},
    state::{BlobKey, FeedProgress},
};

const HOUR: Duration = Duration::from_secs(60 * 60);

pub(super) fn pass_start() -> Timestamp {
    "2026-11-22T10:30:00Z".parse().expect("a time of the test")
}

/// This number of tenants, each with these feeds.
pub(super) fn feeds(tenants: usize, subscriptions: &[ContentType]) -> Feeds {
    let tenant = |number| Tenant {
        tenant_id: format!("{number:08}-1111-4111-8111-111111111111").into(),
        client_id: "".into(),
        credential: Credential::Secret(Secret::new("s")),
        name: None,
        publisher_id: "".into(),
        cloud: Cloud::Commercial,
        login_url: "".into(),
        api_url: "".into(),
        subscriptions: subscriptions.into(),
    };
    Feeds::new((0..tenants).map(tenant).collect())
}

/// A pass that looks back an hour: one window a feed.
fn begin<'a>(feeds: &'a Feeds, settings: &Collect, now: Instant) -> Scheduler<'a> {
    begin_after(feeds, settings, &Progress::default(), now)
}

/// The same, after what earlier passes have learned.
pub(super) fn begin_after<'a>(
    feeds: &'a Feeds,
    settings: &Collect,
    before: &Progress,
    now: Instant,
) -> Scheduler<'a> {
    begin_with(feeds, settings, KnownBlobs::default(), before, now)
}

/// The same, with these known blobs.
fn begin_with<'a>(
    feeds: &'a Feeds,
    settings: &Collect,
    known: KnownBlobs,
    before: &Progress,
    now: Instant,
) -> Scheduler<'a> {
    let look_back = LookBack { duration: HOUR, is_whole: true, only_future: false };
    let clock = Clock::begun(now, pass_start());
    Scheduler::new(feeds, Mode::Collect, look_back, settings, known, &mut before.clone(), clock)
}

pub(super) fn collect(max_threads: usize) -> Collect {
    Collect {
        working_dir: PathBuf::new(),
        cache_size: 1,
        max_memory: 1,
        curl_max_size: 1,
        max_threads,
        max_requests_per_minute: RequestsPerMinute::Fixed(1_000_000),
        retries: 3,
        retry_delay: Duration::from_secs(2),
        request_timeout: Duration::from_secs(60),
        skip_known_logs: true,
        dedup_hours: HOUR,
        hours_to_collect: HOUR,
        global_timeout: None,
        interval: HOUR,
        filter: Vec::new(),
    }
}

pub(super) fn blobs(name: &str, count: usize) -> Vec<ListedBlob> {
    let blob = |number| ListedBlob {
        content_id: format!("{name}${number}"),
        content_uri: String::new(),
        created: pass_start(),
        expiration: "2026-11-29T10:30:00Z".to_owned(),
    };
    (0..count).map(blob).collect()
}

pub(super) fn error_response(status: u16, retry_after: Option<Duration>) -> ApiError {
    ApiError::Response { status, code: String::new(), message: String::new(), retry_after, server_time: None }
}

fn tenant(job: &Job, feeds: &Feeds) -> usize {
    match &job.work {
        Work::LogIn(tenant) => tenant.place(),
        Work::Request { task, .. } => task.tenant(feeds).place(),
    }
}

fn is_login(job: &Job) -> bool {
    matches!(job.work, Work::LogIn(_))
}

/// The blob that a job downloads, if it downloads one.
pub(super) fn download_of(job: &Job) -> Option<(FeedIndex, &PendingBlob)> {
    match &job.work {
        Work::Request { task: Task::Download(feed, pending), .. } => Some((*feed, pending)),
        _ => None,
    }
}

/// The page that a job lists, if it lists one.
fn page_of(job: &Job) -> Option<(FeedIndex, &PageRequest)> {
    match &job.work {
        Work::Request { task: Task::ListPage(feed, page), .. } => Some((*feed, page)),
        _ => None,
    }
}

fn page(blobs: Vec<ListedBlob>, next: Option<&str>) -> Page {
    Page {
        blobs: blobs.into_iter().collect(),
        next: next.map(str::to_owned),
        unreadable: None,
        is_blank: false,
    }
}

/// The outcome when all is well: each feed has these blobs, on one page.
pub(super) fn good_outcome(
    feeds: &Feeds,
    work: Work,
    blobs: &dyn Fn(FeedIndex) -> Vec<ListedBlob>,
) -> Outcome {
    match work {
        Work::LogIn(tenant) => Outcome::LoggedIn(tenant, Token::of_a_test(HOUR)),
        Work::Request { task, .. } => match task {
            Task::ListSubscriptions(tenant) => {
                let enabled = |feed| Subscription { content_type: Some(feeds.feed(feed).1), enabled: true };
                Outcome::SubscriptionsListed(tenant, feeds.feeds_of(tenant).map(enabled).collect())
            }
            Task::Subscribe(feed) => Outcome::Subscribed(feed),
            Task::ListPage(feed, request) => Outcome::PageListed(feed, request, page(blobs(feed), None)),
            Task::Download(feed, pending) => Outcome::Downloaded(feed, pending, 1),
        },
    }
}

fn failed(work: Work, error: ApiError) -> Outcome {
    match work {
        Work::LogIn(tenant) => Outcome::LoginFailed(tenant, error),
        Work::Request { task, .. } => Outcome::Failed(task, error),
    }
}

pub(super) fn succeed(
    scheduler: &mut Scheduler<'_>,
    feeds: &Feeds,
    job: Job,
    blobs: &dyn Fn(FeedIndex) -> Vec<ListedBlob>,
    now: Instant,
) {
    scheduler.done(job.ticket, good_outcome(feeds, job.work, blobs), now);
}

pub(super) fn fail(scheduler: &mut Scheduler<'_>, job: Job, error: ApiError, now: Instant) {
    scheduler.done(job.ticket, failed(job.work, error), now);
}

fn log_in(scheduler: &mut Scheduler<'_>, job: &Job, lifetime: Duration, now: Instant) {
    let Work::LogIn(tenant) = job.work else { panic!("not a login: {job:?}") };
    scheduler.done(job.ticket, Outcome::LoggedIn(tenant, Token::of_a_test(lifetime)), now);
}

/// Lets the writer commit a blob.
pub(super) fn commit(scheduler: &mut Scheduler<'_>, feed: FeedIndex, pending: &PendingBlob) {
    let key = scheduler.feeds.key(feed, &pending.blob);
    let has = OutputSet::EMPTY;
    let committed = CommittedBlob {
        key,
        feed,
        has,
        is_complete: true,
        records: 1,
        duplicates: 0,
        filtered: 0,
        dead_letters: 0,
        salvaged: None,
    };
    scheduler.committed(&[committed]);
}

/// Lets every job succeed until only downloads are left, and returns those that run.
fn until_downloads(
    scheduler: &mut Scheduler<'_>,
    feeds: &Feeds,
    now: Instant,
    blobs: &dyn Fn(FeedIndex) -> Vec<ListedBlob>,
) -> Vec<Job> {
    let mut downloads = Vec::new();
    while let Some(job) = scheduler.next(now) {
        if download_of(&job).is_some() {
            downloads.push(job);
        } else {
            succeed(scheduler, feeds, job, blobs, now);
        }
    }
    downloads
}

fn download_well(scheduler: &mut Scheduler<'_>, job: Job, now: Instant) {
    let Work::Request { task: Task::Download(feed, pending), .. } = job.work else {
        panic!("not a download: {job:?}")
    };
    scheduler.done(job.ticket, Outcome::Downloaded(feed, pending.clone(), 1), now);
    commit(scheduler, feed, &pending);
}

fn total(summary: &Summary) -> Counts {
    assert_eq!(summary.feeds.len(), 1);
    summary.feeds[0].counts
}

#[test]
fn counts_blobs_left_at_the_deadline() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let settings = Collect { global_timeout: Some(Duration::from_secs(60)), ..collect(2) };
    let mut scheduler = begin(&feeds, &settings, start);
    let mut running = until_downloads(&mut scheduler, &feeds, start, &|_| blobs("a", 5));
    assert_eq!(running.len(), 2);
    let deadline = start + Duration::from_secs(60);
    download_well(&mut scheduler, running.pop().expect("two"), deadline);
    assert!(scheduler.next(deadline).is_none() && !scheduler.is_over());
    assert_eq!(scheduler.stopped(), Some(Stop::Deadline));
    download_well(&mut scheduler, running.pop().expect("two"), deadline);
    assert!(scheduler.is_over());
    let (summary, progress) = scheduler.finish();
    let counts = total(&summary);
    assert_eq!((counts.listed, counts.delivered, counts.left), (5, 2, 3));
    assert_eq!(progress.pending.len(), 3);
}

#[test]
fn throttled_tenant_does_not_delay_another() {
    let (feeds, start) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(2), start);
    let running = until_downloads(&mut scheduler, &feeds, start, &|_| blobs("a", 20));
    let pause = Duration::from_secs(30);
    for job in running {
        if tenant(&job, &feeds) == 0 {
            fail(&mut scheduler, job, error_response(429, Some(pause)), start);
        } else {
            download_well(&mut scheduler, job, start);
        }
    }
    let mut others = 0;
    while let Some(job) = scheduler.next(start + pause / 2) {
        assert_eq!(tenant(&job, &feeds), 1, "the throttled tenant waits");
        others += 1;
        download_well(&mut scheduler, job, start + pause / 2);
    }
    assert!(others >= 18, "the other one goes on");
    let after = scheduler.next_at().expect("the end of the pause");
    assert!((start + pause..=start + pause * 5 / 4).contains(&after), "{:?}", after - start);
    let mut throttled = 0;
    while let Some(job) = scheduler.next(after) {
        throttled += usize::from(tenant(&job, &feeds) == 0);
        download_well(&mut scheduler, job, after);
    }
    assert!(throttled >= 18 && scheduler.is_over());
}

#[test]
fn throttling_burst_causes_one_pause() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(20), start);
    let running = until_downloads(&mut scheduler, &feeds, start, &|_| blobs("a", 40));
    assert_eq!(running.len(), 20);
    for job in running {
        fail(&mut scheduler, job, error_response(429, None), start);
    }
    let pause = scheduler.next_at().expect("a pause") - start;
    assert!(pause <= Duration::from_secs(4), "{pause:?} after one burst, for delays of 2 s at first");
    let after = start + pause;
    let mut again = 0;
    while let Some(job) = scheduler.next(after) {
        again += 1;
        download_well(&mut scheduler, job, after);
    }
    assert_eq!(again, 40);
}

#[test]
fn leaves_an_endlessly_throttled_tenant_to_the_next_pass() {
    for retry_after in [None, Some(Duration::from_secs(60)), Some(Duration::from_secs(3600))] {
        let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
        let mut scheduler = begin(&feeds, &collect(5), start);
        let mut now = start;
        for job in until_downloads(&mut scheduler, &feeds, now, &|_| blobs("a", 20)) {
            fail(&mut scheduler, job, error_response(429, retry_after), now);
        }
        while !scheduler.is_over() {
            now = scheduler.next_at().expect("something to wait for").max(now);
            while let Some(job) = scheduler.next(now) {
                fail(&mut scheduler, job, error_response(429, retry_after), now);
            }
        }
        assert!(now - start <= THROTTLED_MAX, "{:?}", now - start);
        let (summary, progress) = scheduler.finish();
        assert_eq!(total(&summary).failed, 20, "{retry_after:?}");
        assert_eq!(progress.pending.len(), 20);
    }
}

#[test]
fn downloads_only_blobs_that_an_output_lacks() {
    let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(1), now);
    let feed = feeds.feeds().next().expect("a feed");
    let file = OutputSet::EMPTY.with(OutputName::File);
    for blob in blobs("waiting", 3) {
        scheduler
            .carry_over(feed, PendingBlob { blob, delivered_to: file, has_failed: true, failed_passes: 0 });
    }
    let both = || blobs("waiting", 3).into_iter().chain(blobs("new", 3)).collect();
    let mut order = Vec::new();
    let mut running = until_downloads(&mut scheduler, &feeds, now, &|_| both());
    while let Some(job) = running.pop().or_else(|| scheduler.next(now)) {
        let (_, pending) = download_of(&job).expect("a download");
        order.push(pending.blob.content_id.clone());
        download_well(&mut scheduler, job, now);
        if order.len() == 4 {
            scheduler.outputs_left(file);
        }
    }
    assert_eq!(order, ["new$0", "new$1", "new$2", "waiting$0"]);
    assert!(scheduler.is_over());
    let (summary, progress) = scheduler.finish();
    assert_eq!(total(&summary).left, 2);
    assert!(progress.pending.iter().all(|(_, pending)| pending.delivered_to == file), "{progress:?}");
}

#[test]
fn output_failure_is_reported_for_affected_feeds_only() {
    let why = OutputError::Receiver {
        receiver: "logs.example:1".to_owned(),
        problem: "it is down".to_owned(),
        hint: "start it".to_owned(),
    };
    for (stop, affected) in [(None, 1), (Some(Stop::Writer), 2), (Some(Stop::Deadline), 0)] {
        let (feeds, now) = (feeds(1, &[ContentType::DlpAll, ContentType::AuditGeneral]), Instant::now());
        let mut scheduler = begin(&feeds, &collect(1), now);
        let [first, second] = [0, 1].map(|place| feeds.feeds().nth(place).expect("two feeds"));
        let of_both = |feed| blobs(if feed == first { "a" } else { "b" }, 1);
        let mut running = until_downloads(&mut scheduler, &feeds, now, &of_both);
        while let Some(job) = running.pop() {
            let (feed, pending) = download_of(&job).expect("a download");
            let pending = pending.clone();
            succeed(&mut scheduler, &feeds, job, &of_both, now);
            if stop.is_none() {
                running.extend(scheduler.next(now));
                if feed == second {
                    commit(&mut scheduler, feed, &pending);
                }
            }
        }
        if let Some(stop) = stop {
            scheduler.stop(stop);
        }
        scheduler.output_failed(why.to_string());
        let (_, progress) = scheduler.finish();
        let errors: Vec<_> = progress.feeds.values().filter_map(|feed| feed.last_error.as_ref()).collect();
        let of_the_output = errors.iter().filter(|error| error.contains("it is down")).count();
        assert_eq!(of_the_output, affected, "{stop:?}: {errors:?}");
    }
}

/// How many attempts of tenant 0 are handed out before the first download of tenant 1, if tenant 1 logs in only
/// when this number of blobs of tenant 0 waits. `None` if that never comes.
fn attempts_before_a_newcomer(backlog: usize) -> Option<usize> {
    let (feeds, now) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(4), now);
    let has = |feed: FeedIndex| if feed.place() == 0 { blobs("a", backlog) } else { blobs("b", 1) };
    let mut newcomer = None;
    let mut running = Vec::new();
    while let Some(job) = scheduler.next(now) {
        if is_login(&job) && tenant(&job, &feeds) == 1 {
            newcomer = Some(job);
        } else if download_of(&job).is_some() {
            running.push(job);
        } else {
            succeed(&mut scheduler, &feeds, job, &has, now);
        }
    }
    log_in(&mut scheduler, &newcomer?, HOUR, now);
    let mut before = 0;
    while before < 100 {
        while let Some(job) = scheduler.next(now) {
            if tenant(&job, &feeds) == 0 {
                before += 1;
            } else if download_of(&job).is_some() {
                return Some(before);
            }
            running.push(job);
        }
        let job = running.remove(0);
        if download_of(&job).is_some() {
            download_well(&mut scheduler, job, now);
        } else {
            succeed(&mut scheduler, &feeds, job, &has, now);
        }
    }
    None
}

#[test]
fn large_tenant_does_not_delay_a_small_one() {
    let before = attempts_before_a_newcomer(1_000).expect("the newcomer's turn comes");
    assert!(before <= 12, "{before}");
}

#[test]
fn few_idle_tenants_are_at_work_at_the_same_time() {
    const THREADS: usize = 8;
    let (feeds, now) = (feeds(500, &ContentType::ALL), Instant::now());
    let mut scheduler = begin(&feeds, &collect(THREADS), now);
    let mut attempts = vec![0; 500];
    let mut running = VecDeque::new();
    while !scheduler.is_over() {
        running.extend(std::iter::from_fn(|| scheduler.next(now)));
        let job = running.pop_front().expect("a job runs");
        attempts[tenant(&job, &feeds)] += 1;
        succeed(&mut scheduler, &feeds, job, &|_| Vec::new(), now);
        let at_work = attempts.iter().filter(|attempts| (1..2 + ContentType::ALL.len()).contains(*attempts));
        assert!(at_work.count() <= THREADS, "{attempts:?}");
    }
    assert!(attempts.iter().all(|attempts| *attempts == 2 + ContentType::ALL.len()), "{attempts:?}");
}

#[test]
fn idle_tenants_take_little_memory() {
    const TENANTS: usize = 1_000;
    let (feeds, now) = (feeds(TENANTS, &ContentType::ALL), Instant::now());
    let mut before = Progress::default();
    for feed in feeds.feeds() {
        before.feeds.insert(feeds.id(feed), Arc::default());
    }
    let measured = allocation_counter::measure(|| {
        let mut scheduler = begin_after(&feeds, &collect(8), &before, now);
        while let Some(job) = scheduler.next(now) {
            succeed(&mut scheduler, &feeds, job, &|_| Vec::new(), now);
        }
        let (summary, progress) = scheduler.finish();
        assert_eq!((summary.feeds.len(), progress.feeds.len()), (before.feeds.len(), before.feeds.len()));
    });
    let bytes = measured.bytes_max / TENANTS as u64;
    assert!(bytes < 6_000, "{bytes} bytes for a tenant with five feeds");
}

#[test]
fn every_tenant_has_its_first_turn_before_another_has_a_long_one() {
    let (feeds, now) = (feeds(20, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(1), now);
    let mut attempts = [0; 20];
    let many = |feed: FeedIndex| blobs(&feed.place().to_string(), 100);
    while attempts.contains(&0) {
        let job = scheduler.next(now).expect("a job");
        attempts[tenant(&job, &feeds)] += 1;
        if download_of(&job).is_some() {
            download_well(&mut scheduler, job, now);
        } else {
            succeed(&mut scheduler, &feeds, job, &many, now);
        }
    }
    assert_eq!(attempts.iter().max(), Some(&FIRST_TURN_ATTEMPTS), "{attempts:?}");
}

#[test]
fn tenants_that_an_earlier_pass_did_not_reach_come_first() {
    let (feeds, now) = (feeds(3, &[ContentType::DlpAll]), Instant::now());
    let mut before = Progress::default();
    for (feed, hours) in feeds.feeds().zip([1, 2]) {
        let listed_until = Some(pass_start() - HOUR * hours);
        let progress = FeedProgress { listed_until, ..FeedProgress::default() };
        before.feeds.insert(feeds.id(feed), Arc::new(progress));
    }
    let mut scheduler = begin_after(&feeds, &collect(8), &before, now);
    let jobs: Vec<_> = std::iter::from_fn(|| scheduler.next(now)).collect();
    let order: Vec<_> = jobs.iter().map(|job| tenant(job, &feeds)).collect();
    assert_eq!(order, [2, 1, 0]);
}

#[test]
fn renews_a_token_once_for_many_tasks() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(10), start);
    let running = until_downloads(&mut scheduler, &feeds, start, &|_| blobs("a", 100));
    assert_eq!(running.len(), 10);
    let later = start + HOUR;
    for job in running {
        fail(&mut scheduler, job, error_response(401, None), later);
    }
    let login = scheduler.next(later).expect("a login");
    assert!(is_login(&login));
    assert!(scheduler.next(later).is_none(), "everything else waits for it");
    log_in(&mut scheduler, &login, HOUR, later);
    let mut downloads = 0;
    while let Some(job) = scheduler.next(later) {
        downloads += 1;
        download_well(&mut scheduler, job, later);
    }
    assert_eq!(downloads, 100);
}

#[test]
fn retries_a_login_after_a_transient_failure() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(10), start);
    let mut now = start;
    for failures in 0..3_u32 {
        let login = scheduler.next(now).expect("a login");
        assert!(is_login(&login), "{failures} failures");
        assert!(scheduler.next(now).is_none());
        fail(&mut scheduler, login, error_response(503, None), now);
        assert!(scheduler.next(now).is_none() && !scheduler.is_over());
        let at = scheduler.next_at().expect("another try");
        assert!(at >= now + Duration::from_secs(1 << failures), "the wait doubles");
        now = at;
    }
    assert_eq!(until_downloads(&mut scheduler, &feeds, now, &|_| blobs("a", 3)).len(), 3);
}

#[test]
fn gives_up_a_tenant_after_several_rejected_tokens() {
    let (feeds, now) = (feeds(1, &ContentType::ALL), Instant::now());
    for accepted in [0, 1, 6] {
        let mut scheduler = begin(&feeds, &collect(10), now);
        let (mut logins, mut requests) = (0, 0);
        while let Some(job) = scheduler.next(now) {
            if is_login(&job) {
                logins += 1;
                log_in(&mut scheduler, &job, HOUR, now);
                continue;
            }
            requests += 1;
            if requests <= accepted {
                let hundred = |feed: FeedIndex| blobs(&feed.place().to_string(), 100);
                succeed(&mut scheduler, &feeds, job, &hundred, now);
            } else {
                fail(&mut scheduler, job, error_response(401, None), now);
            }
        }
        assert!(scheduler.is_over());
        assert!(logins <= 1 + REJECTED_TOKENS_MAX, "{logins} logins");
        assert!(requests <= accepted + 10, "{requests} requests");
        scheduler.finish();
    }
}

fn failure(random: &mut fastrand::Rng) -> ApiError {
    let code = |status, code: &str| ApiError::Response {
        status,
        code: code.to_owned(),
        message: String::new(),
        retry_after: None,
        server_time: None,
    };
    match random.u8(..16) {
        0 => error_response(401, None),
        1 => error_response(429, Some(Duration::from_secs(random.u64(..3000)))),
        2 => code(403, "AF429"),
        3 => code(400, "AF20022"),
        4 => code(400, "AF20024"),
        5 => code(400, "AF20031"),
        6 => code(404, "AF20050"),
        7 => code(400, "AF20020"),
        8 => code(403, "AF10001"),
        9 => error_response(403, None),
        10 => ApiError::Malformed("cut short".to_owned()),
        _ => error_response(503, None),
    }
}

/// Runs a pass in which everything may fail, and compares the books with what was seen.
fn any_pass(seed: u64) {
    let mut random = fastrand::Rng::with_seed(seed);
    let random = &mut random;
    let types = &ContentType::ALL[..random.usize(1..=3)];
    let (feeds, start) = (feeds(random.usize(1..4), types), Instant::now());
    let settings = Collect {
        global_timeout: (random.u8(..4) == 0).then(|| Duration::from_secs(random.u64(1..90))),
        max_requests_per_minute: match random.u8(..3) {
            0 => RequestsPerMinute::Fixed(30),
            1 => RequestsPerMinute::Fixed(1_000_000),
            _ => RequestsPerMinute::Auto,
        },
        ..collect(random.usize(1..6))
    };
    let failures_of_hundred = [0, 5, 50, 100][random.usize(..4)];
    let mut scheduler = begin(&feeds, &settings, start);
    let pages = Cell::new(0_usize);
    let mut running: Vec<Job> = Vec::new();
    let mut with_writer = Vec::new();
    let (mut listed, mut safe, mut gone) = (HashSet::new(), HashSet::new(), HashSet::new());
    let mut now = start;
    let mut steps = 0;
    loop {
        steps += 1;
        assert!(steps < 20_000, "the pass never ends");
        while let Some(job) = scheduler.next(now) {
            assert!(running.iter().all(|other| !is_same(other, &job)), "{job:?} runs twice");
            if let Some((feed, pending)) = download_of(&job) {
                let key = feeds.key(feed, &pending.blob);
                assert!(!safe.contains(&key) && !gone.contains(&key), "{job:?} comes again");
            }
            running.push(job);
            assert!(running.len() <= settings.max_threads);
        }
        if scheduler.is_over() {
            break;
        }
        if running.is_empty() {
            now = scheduler.next_at().expect("something to wait for").max(now);
            continue;
        }
        now += Duration::from_millis(random.u64(..2000));
        let Job { work, ticket } = running.swap_remove(random.usize(..running.len()));
        let outcome = if random.u8(..100) < failures_of_hundred {
            failed(work, failure(random))
        } else {
            let fresh = |_| {
                pages.set(pages.get() + 1);
                blobs(&format!("page {}", pages.get() / 2), 7) // some are listed again
            };
            let mut outcome = good_outcome(&feeds, work, &fresh);
            match &mut outcome {
                Outcome::PageListed(feed, request, page) => {
                    listed.extend(page.blobs.iter().map(|blob| feeds.key(*feed, &blob)));
                    let has_next = random.u8(..3) > 0 && request.number() < 5;
                    page.next = has_next.then(|| format!("{}", pages.get()));
                }
                Outcome::LoggedIn(_, token) if random.bool() => {
                    *token = Token::of_a_test(Duration::from_secs(random.u64(60..100)));
                }
                Outcome::Downloaded(feed, pending, _) => with_writer.push((*feed, pending.clone())),
                _ => {}
            }
            outcome
        };
        scheduler.done(ticket, outcome, now);
        for effect in scheduler.drain_effects() {
            if let Effect::RememberGone(feed, pending) = effect {
                assert!(gone.insert(feeds.key(feed, &pending.blob)), "gone twice");
            }
        }
        if random.u8(..3) == 0 {
            for (feed, pending) in std::mem::take(&mut with_writer) {
                assert!(safe.insert(feeds.key(feed, &pending.blob)), "delivered twice");
                commit(&mut scheduler, feed, &pending);
            }
        }
    }
    let (_, Progress { pending, .. }) = scheduler.finish(); // which asserts the balance
    let mut accounted: HashSet<_> = safe.union(&gone).copied().collect();
    assert_eq!(accounted.len(), safe.len() + gone.len());
    for ((tenant_id, content_type), pending) in pending {
        let key = BlobKey::new(&tenant_id, content_type, &pending.blob.content_id);
        assert!(accounted.insert(key), "{pending:?} is accounted for twice");
    }
    assert!(accounted == listed, "{} of {} listed blobs are accounted for", accounted.len(), listed.len());
}

fn is_same(one: &Job, other: &Job) -> bool {
    match (&one.work, &other.work) {
        (Work::LogIn(one), Work::LogIn(other)) => one == other,
        (Work::Request { task: one, .. }, Work::Request { task: other, .. }) => one == other,
        _ => false,
    }
}

#[test]
fn meets_the_deadline_while_requests_hang() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let settings = Collect { global_timeout: Some(Duration::from_secs(60)), ..collect(2) };
    let mut scheduler = begin(&feeds, &settings, start);
    until_downloads(&mut scheduler, &feeds, start, &|_| blobs("a", 5));
    assert_eq!(scheduler.next_at(), Some(start + Duration::from_secs(60)));
    assert!(scheduler.next(start + Duration::from_secs(60)).is_none());
    assert_eq!((scheduler.stopped(), scheduler.next_at()), (Some(Stop::Deadline), None));
}

#[test]
fn invalid_page_token_does_not_cause_endless_listing() {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(2), start);
    let (mut now, mut pages) = (start, 0);
    while !scheduler.is_over() {
        assert!(pages < 50, "the window is listed for ever");
        let Some(job) = scheduler.next(now) else {
            now = scheduler.next_at().expect("something to wait for");
            continue;
        };
        pages += u32::from(page_of(&job).is_some());
        let invalid_token = ApiError::Response {
            status: 400,
            code: "AF20031".to_owned(),
            message: String::new(),
            retry_after: None,
            server_time: None,
        };
        let outcome = match job.work {
            Work::Request { task: Task::ListPage(feed, request), .. } if request.number() == 2 => {
                Outcome::Failed(Task::ListPage(feed, request), invalid_token)
            }
            Work::Request { task: Task::ListPage(feed, request), .. } => {
                Outcome::PageListed(feed, request, page(Vec::new(), Some("2")))
            }
            work => good_outcome(&feeds, work, &|_| Vec::new()),
        };
        scheduler.done(job.ticket, outcome, now);
    }
    let (summary, _) = scheduler.finish();
    assert!(!summary.feeds[0].is_listed);
}

/// Lists a feed whose pages all name a next one. `blobs` are those of the page with that number, and each page takes
/// `latency`. Returns the number of pages, how long they took, and the feed's error.
fn list_without_end(
    latency: Duration,
    blobs: impl Fn(u32) -> Vec<ListedBlob>,
) -> (u32, Duration, Option<String>) {
    let (feeds, start) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(1), start);
    let (mut now, mut pages) = (start, 0);
    while let Some(job) = scheduler.next(now) {
        if download_of(&job).is_some() {
            download_well(&mut scheduler, job, now);
            continue;
        }
        let outcome = match job.work {
            Work::Request { task: Task::ListPage(feed, request), .. } => {
                now += latency;
                pages += 1;
                Outcome::PageListed(feed, request, page(blobs(pages), Some(&format!("page {pages}"))))
            }
            work => good_outcome(&feeds, work, &|_| Vec::new()),
        };
        scheduler.done(job.ticket, outcome, now);
    }
    assert!(scheduler.is_over());
    let (summary, progress) = scheduler.finish();
    assert!(!summary.feeds[0].is_listed, "what was not listed to its end is listed again");
    assert_eq!(total(&summary).delivered, total(&summary).listed, "what was listed is collected");
    let error = progress.feeds.values().next().and_then(|feed| feed.last_error.clone());
    (pages, now - start, error)
}

#[test]
fn stops_an_endless_listing_of_thin_pages_by_number() {
    let (none, one) = (|_| Vec::new(), |page| blobs(&format!("page {page}"), 1));
    let cases: [&dyn Fn(u32) -> Vec<ListedBlob>; 2] = [&none, &one];
    for blobs in cases {
        let (pages, _, error) = list_without_end(Duration::ZERO, blobs);
        assert_eq!(pages, THIN_PAGES_MAX + 1, "the other part of the window ends at its next page");
        let error = error.expect("a cause");
        assert!(error.contains("200 consecutive pages brought almost nothing new"), "{error}");
    }
}

#[test]
fn stops_an_endless_listing_of_thin_pages_by_time() {
    let (pages, lasted, error) = list_without_end(Duration::from_secs(10), |_| Vec::new());
    let latencies = Duration::from_secs(10 + 10); // of the first page, and of the other part's next one
    assert_eq!((pages, lasted), (8, THIN_PAGES_DURATION_MAX + latencies));
    assert!(error.is_some_and(|error| error.contains("7 consecutive pages")));
    let (pages, ..) = list_without_end(Duration::from_secs(10 * 60), |_| Vec::new());
    assert_eq!(pages, THIN_PAGES_TIMED_MIN + 1, "a single page can be slow because of its tenant");
}

#[test]
fn stops_an_endless_listing_of_full_pages() {
    let (pages, lasted, error) =
        list_without_end(Duration::from_millis(500), |page| blobs(&format!("page {page}"), 2));
    assert_eq!(
        pages,
        PAGES_BEFORE_SPLIT + 2 * PAGES_MAX,
        "the window is listed in two parts, by whole hours"
    );
    assert!(lasted > THIN_PAGES_DURATION_MAX, "full pages may take their time");
    let error = error.expect("a cause");
    assert!(error.contains("too many pages, seen after page 2000 of the period from 2026-11-22T"), "{error}");
}

#[test]
fn continues_a_listing_with_occasional_full_pages() {
    let news =
        |page: u32| if page.is_multiple_of(150) { blobs(&format!("page {page}"), 2) } else { Vec::new() };
    let (pages, ..) = list_without_end(Duration::ZERO, news);
    assert_eq!(pages, PAGES_BEFORE_SPLIT + 2 * PAGES_MAX);
}

#[test]
fn stops_listing_a_page_with_endless_new_blobs() {
    let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(1), now);
    let mut pages = 0;
    while let Some(mut job) = scheduler.next(now) {
        if download_of(&job).is_some() {
            download_well(&mut scheduler, job, now);
            continue;
        }
        if let Work::Request { task: Task::ListPage(_, page), .. } = &mut job.work {
            pages += 1;
            page.was_accepted_in_part(PARTS_MAX - 2);
        }
        let count = if pages == 1 { PENDING_BLOBS_MAX + 1 } else { PAGE_BLOBS_MIN + 1 };
        succeed(&mut scheduler, &feeds, job, &|_| blobs(&format!("answer {pages}"), count), now);
        assert!(scheduler.queue.waiting_downloads().0 <= PENDING_BLOBS_MAX + PAGE_BLOBS_MIN);
    }
    assert!(scheduler.is_over());
    assert_eq!(pages, 3);
    let (summary, progress) = scheduler.finish();
    assert!(!summary.feeds[0].is_listed && progress.feeds.values().all(|feed| feed.last_error.is_some()));
}

#[test]
fn lists_a_page_of_long_urls_in_parts() {
    const BLOBS: usize = 1_200;
    let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(1), now);
    let listed = |_| {
        let long = |blob| ListedBlob { content_uri: "u".repeat(CONTENT_URI_BYTES_MAX), ..blob };
        blobs("a", BLOBS).into_iter().map(long).collect()
    };
    let mut pages = 0;
    while let Some(job) = scheduler.next(now) {
        pages += u32::from(matches!(job.work, Work::Request { task: Task::ListPage(..), .. }));
        if download_of(&job).is_some() {
            download_well(&mut scheduler, job, now);
        } else {
            succeed(&mut scheduler, &feeds, job, &listed, now);
        }
        let (_, bytes) = scheduler.queue.waiting_downloads();
        assert!(bytes < PENDING_BYTES_MAX + PAGE_BYTES_MIN + 2 * CONTENT_URI_BYTES_MAX, "{bytes} bytes wait");
    }
    assert!(scheduler.is_over() && scheduler.queue.waiting_downloads() == (0, 0));
    assert!(pages > 1, "{pages} pages");
    let (summary, _) = scheduler.finish();
    assert_eq!(total(&summary).delivered, BLOBS as u64);
    assert!(summary.feeds[0].is_listed);
}

#[test]
fn token_of_any_lifetime_is_used_without_repeated_logins() {
    let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    for lifetime in [Duration::ZERO, Duration::from_nanos(1), Duration::MAX] {
        let mut scheduler = begin(&feeds, &collect(2), now);
        for _ in 0..2 {
            let Some(job) = scheduler.next(now) else { break };
            if is_login(&job) {
                log_in(&mut scheduler, &job, lifetime, now);
            } else {
                succeed(&mut scheduler, &feeds, job, &|_| Vec::new(), now);
            }
        }
        let job = scheduler.next(now).expect("the listing");
        assert!(!is_login(&job), "{lifetime:?}");
    }
}

#[test]
fn backlog_does_not_delay_listings_of_another_tenant() {
    let before = attempts_before_a_newcomer(2 * PENDING_BLOBS_MAX).expect("the newcomer's turn comes");
    assert!(before <= 12, "{before}");
}

#[test]
fn hanging_tenant_leaves_threads_to_another() {
    let (feeds, now) = (feeds(2, &[ContentType::DlpAll]), Instant::now());
    let mut scheduler = begin(&feeds, &collect(8), now);
    let mut running =
        until_downloads(&mut scheduler, &feeds, now, &|feed| blobs(&feed.place().to_string(), 100));
    let mut of_the_other = 0;
    while let Some(place) = running.iter().position(|job| tenant(job, &feeds) == 1) {
        let job = running.swap_remove(place); // those of tenant 0 never come back
        of_the_other += 1;
        download_well(&mut scheduler, job, now);
        while let Some(job) = scheduler.next(now) {
            running.push(job);
        }
    }
    assert_eq!(of_the_other, 100);
    assert_eq!(running.len(), 8, "alone it may have them all");
}

#[test]
fn known_blobs_that_cannot_be_read_end_the_pass() {
    let (feeds, now) = (feeds(1, &[ContentType::DlpAll]), Instant::now());
    let known = KnownBlobs::unreadable_for_test();
    let mut scheduler = begin_with(&feeds, &collect(8), known, &Progress::default(), now);
    let downloads = until_downloads(&mut scheduler, &feeds, now, &|_| blobs("a", 3));
    assert!(downloads.is_empty(), "a known blob would be delivered again: {downloads:?}");
    let error = scheduler.take_state_error().expect("the error of the state");
    assert_eq!(Exit::from(&error), Exit::Storage);
    let (summary, progress) = scheduler.finish();
    assert_eq!(total(&summary).found(), 0);
    assert!(
        progress.feeds.values().all(|feed| feed.listed_until.is_none()),
        "the next pass lists the page again"
    );
}

#[test]
fn same_content_id_in_two_feeds_is_two_blobs() {
    for listed_first in [0, 1] {
        let (feeds, now) = (feeds(1, &[ContentType::AuditGeneral, ContentType::DlpAll]), Instant::now());
        let mut scheduler = begin(&feeds, &collect(8), now);
        let [waits, lists] = [0, 1].map(|place| feeds.feeds().nth(place).expect("two feeds"));
        let blob = blobs("a", 1).remove(0);
        let delivered_to = OutputSet::EMPTY.with(OutputName::File);
        scheduler.carry_over(
            waits,
            PendingBlob { blob: blob.clone(), delivered_to, has_failed: false, failed_passes: 0 },
        );
        let mut pages = Vec::new();
        let mut downloads = Vec::new();
        while let Some(job) = scheduler.next(now) {
            if page_of(&job).is_some() {
                pages.push(job);
            } else {
                succeed(&mut scheduler, &feeds, job, &|_| Vec::new(), now);
            }
        }
        let first = feeds.feeds().nth(listed_first);
        pages.sort_by_key(|job| page_of(job).map(|(feed, _)| feed) != first);
        let listed = |feed| if feed == lists { vec![blob.clone()] } else { Vec::new() };
        for job in pages {
            succeed(&mut scheduler, &feeds, job, &listed, now);
            downloads.extend(std::iter::from_fn(|| scheduler.next(now)));
        }
        assert_eq!(downloads.len(), 2, "{downloads:?}");
        for job in downloads {
            let (feed, pending) = download_of(&job).expect("a download");
            let expected = if feed == waits { delivered_to } else { OutputSet::EMPTY };
            assert_eq!(pending.delivered_to, expected, "an output has one of them only");
            download_well(&mut scheduler, job, now);
        }
        scheduler.finish();
    }
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn every_pass_ends_with_balanced_counts(seed in any::<u64>()) {
        any_pass(seed);
    }
}
