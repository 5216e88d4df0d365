//! The listing of one feed: its windows, the parts that they are listed in, and the pages of each part.
//!
//! A listing decides what follows a page, and knows how far the feed is listed. It neither makes requests nor logs.

use std::{
    borrow::Cow,
    mem,
    sync::Arc,
    time::{Duration, Instant},
};

use jiff::Timestamp;
use xxhash_rust::xxh3::xxh3_64;

use crate::{
    api::Client,
    config::Tenant,
    feed::ContentType,
    pass::plan::{FeedPlan, Window},
    state::{FeedProgress, GoneBlob},
};

/// The maximum number of pages of one listing. It bounds a listing whose pages always name a next one.
pub(super) const PAGES_MAX: u32 = 2_000;

/// The maximum number of new blobs of a thin page, which names a next page. Real pages have about 200.
const THIN_PAGE_BLOBS_MAX: usize = 1;

/// The number of consecutive thin pages after which a feed's listings count as endless.
pub(super) const THIN_PAGES_MAX: u32 = 200;

/// The duration after which listings that bring only thin pages count as endless.
pub(super) const THIN_PAGES_DURATION_MAX: Duration = Duration::from_secs(60);

/// The minimum number of thin pages for [`THIN_PAGES_DURATION_MAX`]: a throttled tenant's single page can take as long.
pub(super) const THIN_PAGES_TIMED_MIN: u32 = 5;

/// The number of pages after which the rest of a window is listed in parts of an hour, concurrently.
pub(super) const PAGES_BEFORE_SPLIT: u32 = 4;

/// The maximum number of times that a page is listed again because it has more blobs than may be pending.
pub(super) const PARTS_MAX: u32 = 100;

const _: () = assert!(PAGES_BEFORE_SPLIT < PAGES_MAX && THIN_PAGES_MAX < PAGES_MAX);

/// A request for one page of a part of a window, and what is known of the pages before it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// The URL that the page before it names. `None` for a first page, whose URL follows from the period.
    named_url: Option<String>,
    /// The index of the window among its feed's.
    window: usize,
    /// Whether the window is listed in several parts.
    is_split: bool,
    /// The period that this page and the pages that follow it list.
    period: Window,
    /// Whether the period was corrected by the server's clock.
    is_corrected: bool,
    /// From 1.
    number: u32,
    /// How often the part was listed again because a page's token was invalid. Each page is an attempt of its own, so no
    /// attempt can count this.
    restarts: u32,
    /// Whether every entry of the part could be read so far.
    is_readable: bool,
    /// Hashes of the URLs of the pages before it, to detect a loop of pages.
    seen: Vec<u64>,
    /// How often the part was listed again because of a loop.
    loops: u32,
    /// The number of times that the page was accepted only in part, and is listed again.
    accepted_in_part: u32,
    /// The highest number of a page before the part was listed again: the pages up to it name nothing new.
    pages_before: u32,
}

impl PageRequest {
    /// Returns the request for the first page of a part.
    fn first(window: usize, period: Window, is_split: bool) -> Self {
        Self {
            named_url: None,
            window,
            is_split,
            period,
            is_corrected: false,
            number: 1,
            restarts: 0,
            is_readable: true,
            seen: Vec::new(),
            loops: 0,
            accepted_in_part: 0,
            pages_before: 0,
        }
    }

    /// Returns the URL of this page of the feed.
    pub fn url(&self, tenant: &Tenant, content_type: ContentType) -> Cow<'_, str> {
        match &self.named_url {
            Some(url) => url.into(),
            None => Client::first_page(tenant, content_type, self.period.start, self.period.end).into(),
        }
    }

    /// Returns the end of the period that is listed.
    pub fn period_end(&self) -> Timestamp {
        self.period.end
    }

    /// Returns the page's name in the log.
    pub(super) fn label(&self) -> String {
        format!("page {} of the period from {} to {}", self.number, self.period.start, self.period.end)
    }

    /// Returns the page's number in its part, from 1.
    pub fn number(&self) -> u32 {
        self.number
    }

    /// Returns how often the part was listed again because a page's token was invalid.
    pub(super) fn restarts(&self) -> u32 {
        self.restarts
    }

    /// Returns the request for the first page of the same part, because this page's token is invalid.
    pub(super) fn restarted(self) -> Self {
        Self { restarts: self.restarts + 1, ..self.at_first_page() }
    }

    fn at_first_page(self) -> Self {
        Self {
            named_url: None,
            pages_before: self.pages_before.max(self.number),
            number: 1,
            is_readable: true,
            seen: Vec::new(),
            ..self
        }
    }

    /// Returns what of the period the server accepts when its clock says `now`. `None` if that is too little, or if the
    /// period was corrected before.
    pub(super) fn period_as_of(&self, now: Timestamp) -> Option<Window> {
        self.period.as_of(now).filter(|_| !self.is_corrected)
    }

    /// Returns the request for the first page of a corrected period.
    pub(super) fn corrected(self, period: Window) -> Self {
        Self { period, is_corrected: true, named_url: None, number: 1, seen: Vec::new(), ..self }
    }

    /// Returns the request for the same page, because it has more blobs than may be pending. `None` if it was accepted
    /// in part too often.
    pub(super) fn for_the_rest(mut self) -> Option<Self> {
        self.accepted_in_part += 1;
        (self.accepted_in_part <= PARTS_MAX).then_some(self)
    }

    /// Records an entry that could not be read: the part does not count as listed.
    pub(super) fn mark_unreadable(&mut self) {
        self.is_readable = false;
    }
}

#[cfg(test)]
impl PageRequest {
    /// As if the page had been accepted in part this many times.
    pub(super) fn was_accepted_in_part(&mut self, times: u32) {
        self.accepted_in_part = self.accepted_in_part.max(times);
    }
}

/// Pages in a row, of all parts of a feed, that name a next page and at most one blob that was not listed before.
///
/// A part that comes to its end, and a page with more blobs, end the row.
#[derive(Default)]
struct ThinPages {
    number: u32,
    since: Option<Instant>,
    /// Whether there were too many of them in this pass.
    is_endless: bool,
}

impl ThinPages {
    fn add(&mut self, now: Instant) {
        self.number += 1;
        let lasts = now.saturating_duration_since(*self.since.get_or_insert(now));
        self.is_endless |= self.number >= THIN_PAGES_MAX
            || self.number >= THIN_PAGES_TIMED_MIN && lasts >= THIN_PAGES_DURATION_MAX;
    }

    fn end_row(&mut self) {
        self.number = 0;
        self.since = None;
    }
}

/// What follows a page.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Next {
    /// The next page.
    Page(PageRequest),
    /// The part is listed again from its first page, because its pages form a loop.
    Again(PageRequest),
    /// The window is listed in parts of an hour instead.
    Split { window: usize, parts: Vec<Window> },
    /// Nothing: the part has ended.
    End,
    /// Nothing: the part does not end, for this reason.
    Endless(String),
}

/// The listing of one feed, and what the state remembers of the feed.
pub(super) struct Listing {
    /// Until the listing ends, what earlier passes have recorded.
    progress: Arc<FeedProgress>,
    /// Whether earlier passes have recorded anything.
    is_known: bool,
    stage: Stage,
}

enum Stage {
    /// The listing has not begun.
    Waiting,
    Open(Box<OpenListing>),
    /// The progress contains what was listed.
    Ended {
        is_complete: bool,
    },
}

/// A listing that has begun and not ended. A pass has few of them at a time.
struct OpenListing {
    plan: FeedPlan,
    /// For each window: the number of its parts that are not listed to their end.
    open_parts: Vec<usize>,
    /// Parts that are being listed, of all windows.
    running_parts: usize,
    thin_pages: ThinPages,
}

impl Listing {
    pub(super) fn new(before: Option<Arc<FeedProgress>>) -> Self {
        Self { is_known: before.is_some(), progress: before.unwrap_or_default(), stage: Stage::Waiting }
    }

    /// Returns what the state remembers of the feed; `None` if it is new.
    pub(super) fn progress(&self) -> Option<&FeedProgress> {
        self.is_known.then_some(&self.progress)
    }

    /// Begins the listing of these windows.
    pub(super) fn begin(&mut self, plan: FeedPlan) {
        let open_parts = vec![1; plan.windows.len()];
        let open = OpenListing { plan, open_parts, running_parts: 0, thin_pages: ThinPages::default() };
        self.stage = Stage::Open(Box::new(open));
    }

    fn open(&mut self) -> &mut OpenListing {
        match &mut self.stage {
            Stage::Open(open) => open,
            _ => panic!("pages are listed between the beginning and the end of a listing"),
        }
    }

    /// Returns the request for the first page of a window, or of one of the parts that it is split into, and counts the
    /// part as running.
    pub(super) fn begin_part(&mut self, window: usize, period: Window, is_split: bool) -> PageRequest {
        self.open().running_parts += 1;
        PageRequest::first(window, period, is_split)
    }

    /// Returns whether a blob of this age is collected.
    pub(super) fn wants(&self, created: Timestamp) -> bool {
        match &self.stage {
            Stage::Open(open) => open.plan.wanted_from.is_none_or(|from| created >= from),
            _ => true,
        }
    }

    /// Records a blob that is collected.
    pub(super) fn note_blob(&mut self, created: Timestamp) {
        let progress = Arc::make_mut(&mut self.progress);
        progress.last_blob = progress.last_blob.max(Some(created));
    }

    /// Records a blob that cannot be fetched any more.
    pub(super) fn note_gone(&mut self, blob: GoneBlob) {
        Arc::make_mut(&mut self.progress).gone.push(blob);
    }

    /// Returns what follows a page of the feed. `next_url` is the URL of the next page, and `news` the number of blobs that
    /// the page named and that were not listed before.
    pub(super) fn follow(
        &mut self,
        (tenant, content_type): (&Tenant, ContentType),
        mut page: PageRequest,
        next_url: Option<String>,
        news: usize,
        now: Instant,
    ) -> Next {
        let open = self.open();
        let was_endless = open.thin_pages.is_endless;
        let is_new = page.number > page.pages_before;
        let is_thin = is_new && next_url.is_some() && news <= THIN_PAGE_BLOBS_MAX;
        if is_thin {
            open.thin_pages.add(now);
        } else if is_new {
            open.thin_pages.end_row();
        }
        let Some(url) = next_url else {
            open.open_parts[page.window] -= usize::from(page.is_readable);
            return Next::End;
        };
        let hash = xxh3_64(page.url(tenant, content_type).as_bytes());
        page.seen.push(hash);
        if page.seen.contains(&xxh3_64(url.as_bytes())) {
            if page.loops > 0 {
                return Next::Endless("the pages of the listing form a loop".to_owned());
            }
            return Next::Again(PageRequest { loops: 1, ..page.at_first_page() });
        }
        if is_thin && was_endless {
            return Next::End; // the reason was reported for another page
        }
        if is_thin && open.thin_pages.is_endless {
            let pages = open.thin_pages.number;
            return Next::Endless(format!("{pages} consecutive pages brought almost nothing new"));
        }
        if page.number == PAGES_BEFORE_SPLIT && !page.is_split {
            let window = page.window;
            let parts = open.plan.windows[window].hours();
            open.open_parts[window] = parts.len();
            return Next::Split { window, parts };
        }
        if page.number >= PAGES_MAX {
            return Next::Endless("the listing has too many pages".to_owned());
        }
        let (named_url, number) = (Some(url), page.number + 1);
        Next::Page(PageRequest { named_url, number, accepted_in_part: 0, ..page })
    }

    /// Counts a part that is listed to its end, or given up. Returns whether no other part is being listed.
    pub(super) fn end_part(&mut self) -> bool {
        let open = self.open();
        open.running_parts -= 1;
        open.running_parts == 0
    }

    /// Returns whether the listing has begun and not ended.
    pub(super) fn is_open(&self) -> bool {
        matches!(self.stage, Stage::Open(_))
    }

    /// Returns whether every window is listed to its end.
    pub(super) fn is_complete(&self) -> bool {
        match &self.stage {
            Stage::Waiting => false,
            Stage::Open(open) => open.open_parts.iter().all(|parts| *parts == 0),
            Stage::Ended { is_complete } => *is_complete,
        }
    }

    /// Returns the earliest time of content that a pass was to list.
    fn collected_from(&self, plan: &FeedPlan, is_first_listed: bool) -> Option<Timestamp> {
        let start = plan.windows.first().map(|window| window.start).or(plan.wanted_from);
        match (self.progress.collected_from, start) {
            (Some(from), Some(start)) if is_first_listed => Some(from.min(start)),
            (None, start) if !self.is_known => start,
            (from, _) => from,
        }
    }

    /// Ends the listing at Microsoft's time `now`: the progress contains what was listed.
    pub(super) fn end(&mut self, now: Timestamp) {
        let is_complete = self.is_complete();
        let Stage::Open(open) = mem::replace(&mut self.stage, Stage::Ended { is_complete }) else { return };
        let OpenListing { plan, open_parts, .. } = *open;
        let is_listed = |window: usize| open_parts.get(window) == Some(&0);
        let collected_from = self.collected_from(&plan, is_listed(0));
        let progress = Arc::make_mut(&mut self.progress);
        let listed_until = plan.listed_until(now, is_listed).or(progress.listed_until);
        progress.listed_from = plan.listed_from(progress, listed_until, is_listed);
        // Until something is listed, the feed continues what an older tool began.
        progress.wanted_from = plan.wanted_from.or(progress.wanted_from.filter(|_| listed_until.is_none()));
        progress.listed_until = listed_until;
        progress.collected_from = collected_from;
    }

    /// Returns what the state remembers of the feed.
    pub(super) fn into_progress(self) -> Arc<FeedProgress> {
        self.progress
    }
}
