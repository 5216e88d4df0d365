//! `status --html`: one page for a browser that needs nothing else: no script, no font, no picture, no request.
//!
//! `html!` escapes every text, and a policy in the page forbids requests, so that an error that looks like HTML stays a text.

use std::{
    collections::HashSet,
    fs::File,
    io::{self, Read},
    path::Path,
};

use jiff::{SignedDuration, Timestamp};
use maud::{DOCTYPE, Markup, PreEscaped, html};

use super::{
    history::{HOURS, LastPass},
    number::{amount, grouped},
    status::{FeedStatus, in_words},
};
use crate::{
    config::{Credential, Tenant},
    disk::{self, FileContext, FileError},
    limits::EXPIRY_NOTICE,
    login,
};

/// Allows the style of the page, and nothing from elsewhere.
const POLICY: &str =
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; base-uri 'none'; form-action 'none'";

/// The beginning of each page.
const DOCTYPE_BYTES: &[u8] = b"<!DOCTYPE html>";

/// The maximum number of feeds with a chart. Those with problems come first; each of the others has a line of a table.
const CHARTS_MAX: usize = 200;

/// The maximum number of problems that are listed at the top.
const PROBLEMS_MAX: usize = 20;

/// The height of the bars in a chart.
const BARS_HEIGHT: u64 = 48;
/// The distance between the left edges of two bars.
const BAR_STEP: usize = 10;
const BAR_WIDTH: usize = 8;
/// The width of the line that represents an hour without a pass.
const LINE_WIDTH: usize = 2;
/// The top of the squares that mark failures.
const MARKS_TOP: u64 = BARS_HEIGHT + 3;
const MARK_SIZE: u64 = 5;

/// What the page shows.
#[derive(Clone, Copy, Debug)]
pub struct Page<'a> {
    /// When it is written.
    pub now: Timestamp,
    /// A feed whose last success is older is late.
    pub late: Timestamp,
    /// The feeds, those of one tenant next to each other.
    pub feeds: &'a [FeedStatus],
    /// The last pass of the history.
    pub last: Option<LastPass>,
    /// The expiry of each tenant's credential, in the order of the tenants.
    pub credentials: &'a [CredentialStatus],
}

/// When the credential of a tenant expires.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CredentialStatus {
    /// The tenant's id.
    pub tenant_id: String,
    /// The tenant's name, else its id.
    pub tenant: String,
    /// When it expires, if that is known.
    pub expiry: Option<Timestamp>,
    /// What it is, e.g. `client secret`.
    pub kind: &'static str,
}

impl CredentialStatus {
    /// Reads the expiry of a tenant's credential.
    pub fn of(tenant: &Tenant) -> Self {
        let kind = match &tenant.credential {
            Credential::Secret(_) => "client secret",
            Credential::Certificate { .. } => "certificate",
            Credential::FederatedTokenFile(_) => "federated token",
            Credential::ManagedIdentity(_) => "managed identity",
        };
        let expiry = login::expiry(&tenant.credential);
        Self { tenant_id: tenant.tenant_id.to_string(), tenant: tenant.label().to_owned(), expiry, kind }
    }
}

/// How a feed is, the worst first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Health {
    /// It has had no success for several intervals.
    Late,
    /// It is collected, but the last pass had a problem.
    Attention,
    /// Everything is collected.
    Fine,
}

impl Health {
    fn class(self) -> &'static str {
        match self {
            Self::Late => "bad",
            Self::Attention => "warn",
            Self::Fine => "good",
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Late => "late",
            Self::Attention => "needs attention",
            Self::Fine => "up to date",
        }
    }
}

impl Page<'_> {
    /// Replaces a file by the page, atomically.
    ///
    /// # Errors
    ///
    /// The file cannot be written, or it is not a page: a mistyped path must not cost a configuration or a state.
    pub fn write(self, path: &Path) -> Result<(), FileError> {
        require_page(path)
            .and_then(|()| disk::replace_with(path, 0o640, self.to_html().as_bytes()))
            .map(drop)
            .context("write", path)
    }

    /// Returns the page.
    pub fn to_html(self) -> String {
        let headline = self.headline();
        let charted = self.charted();
        let page = html! {
            (DOCTYPE)
            html lang="en" {
                head {
                    meta charset="utf-8";
                    meta http-equiv="Content-Security-Policy" content=(POLICY);
                    meta name="viewport" content="width=device-width, initial-scale=1";
                    meta name="referrer" content="no-referrer";
                    link rel="icon" href="data:,";
                    title { (headline) }
                    style { (PreEscaped(include_str!("page.css"))) }
                }
                body {
                    header {
                        p.muted.small { "Microsoft 365 audit records" }
                        h1 { (headline) }
                        p.muted { (self.last_pass()) }
                    }
                    main {
                        (self.totals())
                        (self.problems())
                        @for credential in self.credentials { (self.tenant(credential, &charted)) }
                    }
                    footer {
                        p { "Written on " (day(self.now)) " at " (time(self.now)) " UTC. All times are UTC." }
                        p {
                            "Records are counted in the hour in which their pass started. A grey line is an hour without a \
                             pass, and a red square is an hour with failures. The usual lag is the median at the ends of the \
                             passes of the last 30 days; between two passes, the lag grows by the interval."
                        }
                    }
                }
            }
        };
        page.into_string()
    }

    fn health(self, feed: &FeedStatus) -> Health {
        let is_late = feed.last_success.is_none_or(|success| success < self.late);
        match (is_late, feed.last_error.is_some() || feed.blobs_failed > 0) {
            (true, _) => Health::Late,
            (false, true) => Health::Attention,
            (false, false) => Health::Fine,
        }
    }

    /// Returns one sentence: `5 feeds of 1 tenant: all collected up to 10:15`.
    fn headline(self) -> String {
        let (feeds, tenants) = (self.feeds.len(), self.credentials.len());
        let of = format!("{} of {}", amount(feeds as u64, "feed"), amount(tenants as u64, "tenant"));
        if feeds == 0 {
            return "No feeds".to_owned();
        }
        let mut parts = Vec::new();
        for health in [Health::Fine, Health::Attention, Health::Late] {
            let alike = || self.feeds.iter().filter(|feed| self.health(feed) == health);
            let count = alike().count();
            let how = match (health, alike().filter_map(|feed| feed.listed_until).min()) {
                (Health::Fine, Some(until)) => format!("collected up to {}", self.short(until)),
                (Health::Attention, _) if count == 1 => "needs attention".to_owned(),
                (Health::Attention, _) => "need attention".to_owned(),
                (Health::Late, _) => "late".to_owned(),
                (Health::Fine, None) => "up to date".to_owned(),
            };
            if count == feeds {
                return if feeds == 1 { format!("{of}: {how}") } else { format!("{of}: all {how}") };
            }
            if count > 0 {
                parts.push(format!("{} {how}", grouped(count as u64)));
            }
        }
        format!("{of}: {}", parts.join(", "))
    }

    fn last_pass(self) -> String {
        self.last.map_or_else(
            || "The history contains no pass yet.".to_owned(),
            |LastPass { start, seconds, exit }| {
                let result = if exit == 0 { "complete".to_owned() } else { format!("exit code {exit}") };
                format!("Last pass: started at {}, took {seconds:.1} s, {result}.", self.short(start))
            },
        )
    }

    fn totals(self) -> Markup {
        let sum = |count: fn(&FeedStatus) -> u64| self.feeds.iter().map(count).sum::<u64>();
        let totals = [
            ("Records, 24 h", sum(FeedStatus::records), false),
            ("Failures, 24 h", sum(FeedStatus::failures), true),
            ("Blobs pending", sum(FeedStatus::pending), false),
            ("Blobs in quarantine", sum(|feed| feed.quarantined.len() as u64), true),
            ("Dead letters", sum(|feed| feed.dead_letters as u64), true),
        ];
        html! {
            dl.totals {
                @for (name, count, is_problem) in totals {
                    div { dt { (name) } dd.alarm[is_problem && count > 0] { (grouped(count)) } }
                }
            }
        }
    }

    /// The problems, the worst first.
    fn problems(self) -> Markup {
        let with_health = self.feeds.iter().map(|feed| (self.health(feed), feed));
        let mut feeds: Vec<_> = with_health.filter(|(health, _)| *health != Health::Fine).collect();
        feeds.sort_by_key(|(health, _)| *health);
        let expiring: Vec<_> = self.credentials.iter().filter(|tenant| self.expires_soon(tenant)).collect();
        let more = (feeds.len() + expiring.len()).saturating_sub(PROBLEMS_MAX);
        let expiring = &expiring[..expiring.len().min(PROBLEMS_MAX)];
        html! {
            @if !feeds.is_empty() || !expiring.is_empty() {
                ul.problems {
                    @for credential in expiring {
                        li.warn { b { (credential.tenant) } ": " (self.expiry(credential)) }
                    }
                    @for (health, feed) in feeds.iter().take(PROBLEMS_MAX - expiring.len()) {
                        li class=(health.class()) {
                            b { (feed.tenant) " " (feed.content_type) }
                            ": " (health.word()) ", last success " (self.when(feed.last_success))
                            @if let Some(error) = &feed.last_error { p.small { (error) } }
                        }
                    }
                    @if more > 0 { li.warn { "… and " (more) " more" } }
                }
            }
        }
    }

    fn expires_soon(self, credential: &CredentialStatus) -> bool {
        credential.expiry.is_some_and(|expiry| expiry.duration_since(self.now) < EXPIRY_NOTICE)
    }

    fn expiry(self, CredentialStatus { expiry, kind, .. }: &CredentialStatus) -> String {
        match expiry {
            None => format!("{kind}, expiry not known here"),
            Some(at) if *at <= self.now => format!("{kind} expired on {}", day(*at)),
            Some(at) => {
                let days = at.duration_since(self.now).as_hours() / 24;
                format!(
                    "{kind} valid until {}, {} left",
                    day(*at),
                    amount(days.try_into().unwrap_or(0), "day")
                )
            }
        }
    }

    /// Returns the places of the feeds that get a chart.
    fn charted(self) -> HashSet<usize> {
        let mut places: Vec<_> = (0..self.feeds.len()).collect();
        places.sort_by_key(|place| self.health(&self.feeds[*place]));
        places.into_iter().take(CHARTS_MAX).collect()
    }

    fn tenant(self, credential: &CredentialStatus, charted: &HashSet<usize>) -> Markup {
        let feeds = self.feeds.iter().enumerate();
        let own = feeds.filter(|(_, feed)| feed.tenant_id == credential.tenant_id);
        let (cards, rows): (Vec<_>, Vec<_>) = own.partition(|(place, _)| charted.contains(place));
        html! {
            section.tenant {
                header {
                    h2 { (credential.tenant) }
                    p.small.muted.alarm[self.expires_soon(credential)] { (self.expiry(credential)) }
                }
                @if !cards.is_empty() {
                    div.feeds { @for (_, feed) in cards { (self.card(feed)) } }
                }
                @if !rows.is_empty() {
                    ul.rows {
                        @for (_, feed) in rows {
                            li {
                                b { (feed.content_type) } " "
                                (grouped(feed.records())) " records in 24 hours, lag " (lag(feed.lag_seconds))
                            }
                        }
                    }
                }
            }
        }
    }

    fn card(self, feed: &FeedStatus) -> Markup {
        let health = self.health(feed);
        html! {
            article class=(health.class()) {
                header { h3 { (feed.content_type) } span.badge { (health.word()) } }
                (chart(feed))
                dl.facts {
                    div {
                        dt { "Lag" }
                        dd.alarm[self.is_lag_unusual(feed)] { (lag(feed.lag_seconds)) small { "usually " (lag(feed.usual_lag_seconds)) } }
                    }
                    div { dt { "Last success" } dd { (self.when(feed.last_success)) } }
                    (count("Failures, 24 h", feed.failures(), true))
                    (count("Pending blobs", feed.pending(), false))
                    (count("In quarantine", feed.quarantined.len() as u64, true))
                    (count("Dead letters", feed.dead_letters as u64, true))
                }
                @if let Some(error) = &feed.last_error { p.error { (error) } }
            }
        }
    }

    /// Returns whether the lag exceeds the usual one by more than a lag that makes a feed late.
    fn is_lag_unusual(self, feed: &FeedStatus) -> bool {
        let excess = |(lag, usual): (i64, i64)| lag - usual;
        let lags = feed.lag_seconds.zip(feed.usual_lag_seconds);
        lags.map(excess).is_some_and(|excess| excess > self.now.duration_since(self.late).as_secs())
    }

    fn when(self, at: Option<Timestamp>) -> String {
        at.map_or_else(|| "never".to_owned(), |at| self.short(at))
    }

    /// Returns a time without its day, if that is today.
    fn short(self, at: Timestamp) -> String {
        if day(at) == day(self.now) { time(at) } else { format!("{}, {}", day(at), time(at)) }
    }
}

/// Returns an error if there is a file that does not begin like a page.
fn require_page(path: &Path) -> io::Result<()> {
    disk::require_regular(path)?;
    let mut beginning = Vec::new();
    if let Some(file) = disk::none_if_missing(File::open(path))? {
        file.take(DOCTYPE_BYTES.len() as u64).read_to_end(&mut beginning)?;
    }
    if beginning.is_empty() || beginning == DOCTYPE_BYTES {
        return Ok(());
    }
    Err(io::Error::new(io::ErrorKind::AlreadyExists, "it is not a page of status"))
}

fn count(name: &str, count: u64, is_problem: bool) -> Markup {
    html! { div { dt { (name) } dd.alarm[is_problem && count > 0] { (grouped(count)) } } }
}

/// The chart of the records and failures of a feed by hour.
fn chart(feed: &FeedStatus) -> Markup {
    let highest = feed.records_by_hour.iter().flatten().copied().max().unwrap_or_default();
    let hour = |place: usize| {
        let hours = i64::try_from(place).unwrap_or_default();
        time(feed.hours_from + SignedDuration::from_hours(hours))
    };
    let height = |records: u64| {
        let scaled = u128::from(records) * u128::from(BARS_HEIGHT) / u128::from(highest.max(1));
        u64::try_from(scaled).unwrap_or(BARS_HEIGHT).max(2)
    };
    let (width, total_height) = (HOURS * BAR_STEP - (BAR_STEP - BAR_WIDTH), MARKS_TOP + MARK_SIZE);
    let said = format!("Records by hour: {} in 24 hours, at most {}", feed.records(), highest);
    html! {
        figure {
            figcaption {
                span { b { (grouped(feed.records())) } " records in 24 h" }
                @if highest > 0 { span { "peak " (grouped(highest)) "/h" } }
            }
            svg viewBox={ "0 0 " (width) " " (total_height) } role="img" aria-label=(said) {
                @for (place, records) in feed.records_by_hour.iter().enumerate() {
                    g {
                        title {
                            (hour(place)) ": "
                            @match records {
                                None => { "no pass" },
                                Some(records) => { (grouped(*records)) " records" },
                            }
                            @if feed.failures_by_hour[place] > 0 {
                                ", " (grouped(feed.failures_by_hour[place])) " failures"
                            }
                        }
                        @match records {
                            Some(records) if *records > 0 => {
                                rect.bar x=(place * BAR_STEP) y=(BARS_HEIGHT - height(*records)) width=(BAR_WIDTH)
                                    height=(height(*records)) rx="1.5" {}
                            },
                            Some(_) => {
                                rect.zero x=(place * BAR_STEP) y=(BARS_HEIGHT - 1) width=(BAR_WIDTH) height="1" {}
                            },
                            None => {
                                rect.none x=(place * BAR_STEP + (BAR_WIDTH - LINE_WIDTH) / 2) y="0"
                                    width=(LINE_WIDTH) height=(BARS_HEIGHT) {}
                            },
                        }
                        @if feed.failures_by_hour[place] > 0 {
                            rect.fail x=(place * BAR_STEP + 1) y=(MARKS_TOP) width=(MARK_SIZE + 1) height=(MARK_SIZE)
                                rx="1" {}
                        }
                    }
                }
            }
            p.axis { span { (hour(0)) } span { (hour(HOURS / 2)) } span { (hour(HOURS - 1)) } }
        }
    }
}

fn lag(seconds: Option<i64>) -> String {
    seconds.map_or_else(|| "unknown".to_owned(), in_words)
}

fn time(at: Timestamp) -> String {
    at.strftime("%H:%M").to_string()
}

fn day(at: Timestamp) -> String {
    at.strftime("%-d %b %Y").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of the test")
    }

    fn feed(last_success: &str) -> FeedStatus {
        FeedStatus {
            tenant: "contoso".to_owned(),
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            content_type: "Audit.Exchange",
            last_success: Some(at(last_success)),
            listed_until: Some(at("2026-11-22T10:14:55Z")),
            lag_seconds: Some(65),
            usual_lag_seconds: Some(7),
            hours_from: at("2026-11-21T11:00:00Z"),
            records_by_hour: [Some(1_000); HOURS],
            failures_by_hour: [0; HOURS],
            blobs_waiting: 0,
            blobs_failed: 0,
            dead_letters: 0,
            last_error: None,
            quarantined: Vec::new(),
        }
    }

    fn html(feeds: &[FeedStatus], expiry: Option<Timestamp>) -> String {
        let credential = CredentialStatus {
            tenant_id: feeds.first().map(|feed| feed.tenant_id.clone()).unwrap_or_default(),
            tenant: "contoso".to_owned(),
            expiry,
            kind: "certificate",
        };
        let (now, late) = (at("2026-11-22T10:16:00Z"), at("2026-11-22T10:01:00Z"));
        Page { now, late, feeds, last: None, credentials: &[credential] }.to_html()
    }

    #[test]
    fn the_headline_counts_the_feeds_by_their_health() {
        let fine = feed("2026-11-22T10:15:00Z");
        let late = feed("2026-11-22T09:15:00Z");
        let troubled = FeedStatus { last_error: Some("HTTP 503".to_owned()), ..fine.clone() };
        for (feeds, headline) in [
            (vec![fine.clone()], "1 feed of 1 tenant: collected up to 10:14"),
            (vec![fine.clone(), fine.clone()], "2 feeds of 1 tenant: all collected up to 10:14"),
            (vec![late.clone(), late.clone()], "2 feeds of 1 tenant: all late"),
            (
                vec![late, fine, troubled],
                "3 feeds of 1 tenant: 1 collected up to 10:14, 1 needs attention, 1 late",
            ),
            (Vec::new(), "No feeds"),
        ] {
            let page = html(&feeds, None);
            assert!(page.contains(&format!("<h1>{headline}</h1>")), "no {headline} in {page}");
        }
    }

    #[test]
    fn a_lag_far_above_the_usual_one_is_marked() {
        let usual = FeedStatus { lag_seconds: Some(7 + 15 * 60), ..feed("2026-11-22T10:15:00Z") };
        let unusual = FeedStatus { lag_seconds: Some(8 + 15 * 60), ..usual.clone() };
        assert!(!html(&[usual], None).contains("alarm\">15m"));
        assert!(html(&[unusual], None).contains("alarm\">15m"));
    }

    #[test]
    fn a_certificate_that_expires_soon_is_a_problem() {
        let feeds = [feed("2026-11-22T10:15:00Z")];
        for (expiry, text, is_problem) in [
            ("2026-12-06T10:16:00Z", "certificate valid until 6 Dec 2026, 14 days left", false),
            ("2026-12-06T10:15:59Z", "certificate valid until 6 Dec 2026, 13 days left", true),
            ("2026-11-22T10:16:00Z", "certificate expired on 22 Nov 2026", true),
        ] {
            let page = html(&feeds, Some(at(expiry)));
            assert!(page.contains(text), "no {text} in {page}");
            assert_eq!(page.contains("<ul class=\"problems\">"), is_problem, "{expiry}");
        }
    }
}
