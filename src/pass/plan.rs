//! The plan of a pass: the windows of each feed that it lists. Pure.
//!
//! The edges of windows are whole hours UTC where possible, because the service was seen to answer *other* blobs with parts
//! of the same records when the same period is listed with another start. So the edges are the same in every pass, and only
//! the end of the newest window moves. One start is not a whole hour: if the oldest hour within the seven days was never
//! listed, this pass is the last one that can list it, and it lists what is left of that hour.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::{
    limits::{CLOCK_TOLERANCE, RETENTION},
    state::FeedProgress,
};

/// The longest window: for a longer one the API would return only a part of the content.
///
/// Source: "Office 365 Management Activity API reference", section "List available content".
const WINDOW_MAX: Duration = Duration::from_secs(24 * 60 * 60);

/// The shortest window: shorter ones were seen to be answered with errors.
const WINDOW_MIN: Duration = Duration::from_secs(60);

/// The distance that windows keep from the edge of [`RETENTION`], beyond which the API returns an error. Content within
/// it is lost after a long downtime, so it is short.
const RETENTION_MARGIN: Duration = Duration::from_secs(4 * 60);

/// The distance that windows keep from the present: the newest seconds of a listing are not stable yet.
const SETTLING: Duration = Duration::from_secs(5);

const _: () = {
    assert!(WINDOW_MIN.as_secs() < WINDOW_MAX.as_secs());
    assert!(WINDOW_MAX.as_secs() <= RETENTION.as_secs());
    assert!(SETTLING.as_secs() < WINDOW_MIN.as_secs(), "a window does not end before it starts");
    assert!(RETENTION_MARGIN.as_secs() > SETTLING.as_secs());
    assert!(RETENTION_MARGIN.as_secs() > 2 * CLOCK_TOLERANCE.as_secs().cast_unsigned());
};

/// The period of one listing: `start` ≤ time of a blob < `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Inclusive.
    pub start: Timestamp,
    /// Exclusive.
    pub end: Timestamp,
}

/// The look-back window of a pass.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LookBack {
    /// `hoursToCollect`, or the option of this pass.
    pub duration: Duration,
    /// Whether the whole window is listed, even if that needs more than one request.
    pub is_whole: bool,
    /// `only_future_events`
    pub only_future: bool,
}

/// What a pass lists of one feed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct FeedPlan {
    /// The oldest first, each starting at the end of the one before. Empty if nothing is to be listed yet.
    pub windows: Vec<Window>,
    /// Blobs that became available before this time are not collected.
    pub wanted_from: Option<Timestamp>,
    /// The period that no pass has listed and that the API does not list any more, after a long downtime.
    pub missed: Option<Window>,
    /// The time up to which earlier passes have listed the feed.
    pub listed_until: Option<Timestamp>,
}

impl FeedPlan {
    /// Returns the plan for a feed at this time of Microsoft's clock. It starts where earlier passes have ended or at the start
    /// of the look-back window, whichever is earlier. With `only_future_events` the first pass of a feed that no older tool
    /// has collected lists nothing.
    ///
    /// The look-back window starts within an hour, and that hour is listed as a whole. If one request cannot list all of
    /// that, only one pass in each hour lists the first hour, so that a quiet feed costs one request.
    pub fn new(now: Timestamp, look_back: LookBack, before: Option<&FeedProgress>) -> Self {
        let oldest = oldest(now);
        // A time in the future comes from a clock that was ahead. It does not show how far the feed is listed.
        let listed_until = before.and_then(|before| before.listed_until);
        let is_wrong = |until: Timestamp| until.duration_since(now) > CLOCK_TOLERANCE * 2;
        let listed_until = listed_until.map(|until| if is_wrong(until) { oldest } else { until.min(now) });
        // An older tool has collected the feed, and it is not known until when.
        let resumed_from = before.and_then(|before| before.wanted_from).filter(|_| listed_until.is_none());
        let has_begun = listed_until.is_some() || resumed_from.is_some();
        let wanted_from = look_back.only_future.then(|| match before {
            Some(before) if has_begun => before.wanted_from.unwrap_or(Timestamp::MIN).min(now),
            _ => now,
        });
        let back = now - look_back.duration;
        let listed_from = before.and_then(|before| before.listed_from);
        let is_looked_at = listed_until.is_some_and(|until| whole_hour(until) == whole_hour(now))
            && listed_from.is_some_and(|from| from <= whole_hour(back));
        let is_one_request = look_back.duration + HOUR <= WINDOW_MAX;
        let is_whole = is_one_request || !is_looked_at || look_back.is_whole;
        let edge = if is_whole { whole_hour(back) } else { whole_hour_after(back) };
        let start = listed_until.or(resumed_from).map_or(edge, |until| whole_hour(until).min(edge));
        let is_oldest_listed = listed_until.is_some_and(|until| until >= whole_hour_after(oldest));
        let oldest_start = if is_oldest_listed { whole_hour_after(oldest) } else { oldest };
        let start = start.max(wanted_from.map_or(Timestamp::MIN, whole_hour)).max(oldest_start);
        let missed =
            listed_until.filter(|&until| until < oldest).map(|until| Window { start: until, end: oldest });
        let is_first = look_back.only_future && !has_begun;
        let windows = if is_first { Vec::new() } else { windows(start, now) };
        Self { windows, wanted_from, missed, listed_until }
    }

    /// Returns the time up to which the feed is listed without a gap when these of its windows are listed. `None` if
    /// there is no window and no earlier pass has listed the feed.
    pub fn listed_until(&self, now: Timestamp, is_listed: impl Fn(usize) -> bool) -> Option<Timestamp> {
        if self.windows.is_empty() {
            return self.listed_until.or(self.wanted_from.map(|_| now));
        }
        let listed = (0..self.windows.len()).take_while(|&window| is_listed(window)).last();
        listed.map(|last| self.windows[last].end).max(self.listed_until)
    }

    /// Returns the time from which this pass and earlier ones of the same hour have listed the feed, when these of its
    /// windows are listed.
    pub fn listed_from(
        &self,
        before: &FeedProgress,
        listed_until: Option<Timestamp>,
        is_listed: impl Fn(usize) -> bool,
    ) -> Option<Timestamp> {
        let start = self.windows.first().filter(|_| is_listed(0)).map(|window| window.start);
        let is_same_hour = before.listed_until.map(whole_hour) == listed_until.map(whole_hour);
        match (start, before.listed_from) {
            (Some(start), Some(from)) if is_same_hour => Some(from.min(start)),
            (start, from) => start.or(from),
        }
    }
}

/// Returns the windows from `start` to shortly before now, the oldest first.
fn windows(mut start: Timestamp, now: Timestamp) -> Vec<Window> {
    let newest = now - SETTLING;
    let mut windows = Vec::new();
    while start + WINDOW_MIN <= newest {
        let end = whole_hour(start + WINDOW_MAX).min(newest);
        windows.push(Window { start, end });
        start = end;
    }
    windows.shrink_to_fit(); // a pass has those of every feed
    windows
}

/// Returns the oldest time that can be listed, in whole seconds, as in requests.
fn oldest(now: Timestamp) -> Timestamp {
    let oldest = now - RETENTION + RETENTION_MARGIN;
    Timestamp::from_second(oldest.as_second()).unwrap_or(oldest)
}

/// Returns the whole hour at or after a time.
fn whole_hour_after(time: Timestamp) -> Timestamp {
    let before = whole_hour(time);
    if before == time { time } else { before + HOUR }
}

impl Window {
    /// Returns the part of the window that the API accepts when its clock shows `now`. `None` if that is too short.
    pub fn as_of(self, now: Timestamp) -> Option<Self> {
        let start = self.start.max(oldest(now));
        let end = self.end.min(now - SETTLING);
        (start + WINDOW_MIN <= end).then_some(Self { start, end })
    }

    /// Splits the window into hours, so that they can be listed concurrently. The edges are whole hours, except those of the
    /// window. A rest that is too short for a request belongs to the hour before it.
    pub fn hours(self) -> Vec<Self> {
        let mut hours = Vec::new();
        let mut start = self.start;
        while start < self.end {
            let end = whole_hour(start + WINDOW_MIN) + HOUR;
            let end = if end + WINDOW_MIN > self.end { self.end } else { end };
            hours.push(Self { start, end });
            start = end;
        }
        hours
    }
}

const HOUR: Duration = Duration::from_secs(60 * 60);

/// Returns the whole hour at or before a time, or the earliest possible time.
fn whole_hour(time: Timestamp) -> Timestamp {
    let into_the_hour = time.as_nanosecond().rem_euclid(SignedDuration::from_hours(1).as_nanos());
    time.checked_sub(SignedDuration::from_nanos_i128(into_the_hour)).unwrap_or(Timestamp::MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time of the test")
    }

    fn hours(hours: u32) -> Duration {
        HOUR * hours
    }

    fn within(duration: Duration) -> LookBack {
        LookBack { duration, is_whole: false, only_future: false }
    }

    /// Returns the windows of a feed's first pass.
    fn first(now: Timestamp, duration: Duration) -> Vec<Window> {
        FeedPlan::new(now, within(duration), None).windows
    }

    fn listed_until(text: &str) -> FeedProgress {
        FeedProgress { listed_until: Some(at(text)), ..FeedProgress::default() }
    }

    fn shown(windows: &[Window]) -> Vec<String> {
        windows.iter().map(|window| format!("{} {}", window.start, window.end)).collect()
    }

    #[test]
    fn covers_a_day_from_a_whole_hour() {
        assert_eq!(
            shown(&first(at("2026-11-22T10:15:30Z"), hours(24))),
            ["2026-11-21T10:00:00Z 2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z 2026-11-22T10:15:25Z"]
        );
    }

    #[test]
    fn leaves_a_rest_below_a_minute_to_the_next_pass() {
        assert_eq!(
            shown(&first(at("2026-11-22T10:00:30Z"), hours(24))),
            ["2026-11-21T10:00:00Z 2026-11-22T10:00:00Z"]
        );
    }

    #[test]
    fn catches_up_after_downtime_and_reports_lost_content() {
        let now = at("2026-11-22T10:15:30Z");
        let plan = FeedPlan::new(now, within(hours(24)), Some(&listed_until("2026-11-19T07:31:00Z")));
        assert_eq!(plan.windows[0].start, at("2026-11-19T07:00:00Z"));
        assert_eq!((plan.windows.len(), plan.missed), (4, None));
        let plan = FeedPlan::new(now, within(hours(24)), Some(&listed_until("2026-11-12T07:31:00Z")));
        assert_eq!(plan.windows[0].start, at("2026-11-15T10:19:30Z"));
        assert_eq!(
            plan.missed,
            Some(Window { start: at("2026-11-12T07:31:00Z"), end: at("2026-11-15T10:19:30Z") })
        );
    }

    #[test]
    fn lists_the_oldest_hour_once() {
        let now = at("2026-11-22T10:15:30Z");
        let whole_week =
            ["2026-11-15T10:19:30Z 2026-11-16T10:00:00Z", "2026-11-16T10:00:00Z 2026-11-17T10:00:00Z"];
        assert_eq!(shown(&first(now, hours(168)))[..2], whole_week);
        let behind = FeedPlan::new(now, within(hours(24)), Some(&listed_until("2026-11-14T00:00:00Z")));
        assert_eq!(shown(&behind.windows)[..2], whole_week);
        let listed = FeedPlan::new(now, within(hours(168)), Some(&listed_until("2026-11-22T10:10:30Z")));
        assert_eq!(shown(&listed.windows)[0], "2026-11-15T11:00:00Z 2026-11-16T11:00:00Z");
        let barely = FeedPlan::new(now, within(hours(24)), Some(&listed_until("2026-11-15T10:50:00Z")));
        assert_eq!(shown(&barely.windows)[..2], whole_week);
    }

    #[test]
    fn lists_a_quiet_feed_with_one_request() {
        let now = at("2026-11-22T10:15:30Z");
        let before =
            |from: &str| FeedProgress { listed_from: Some(at(from)), ..listed_until("2026-11-22T10:10:25Z") };
        let plan = FeedPlan::new(now, within(hours(24)), Some(&before("2026-11-21T10:00:00Z")));
        assert_eq!(shown(&plan.windows), ["2026-11-21T11:00:00Z 2026-11-22T10:15:25Z"]);
        let again =
            plan.listed_from(&before("2026-11-21T10:00:00Z"), Some(at("2026-11-22T10:15:25Z")), |_| true);
        assert_eq!(again, Some(at("2026-11-21T10:00:00Z")));
        let plan = FeedPlan::new(now, within(hours(24)), Some(&before("2026-11-21T10:15:00Z")));
        assert_eq!(plan.windows, first(now, hours(24)), "the earlier pass looked back less far");
        let plan = FeedPlan::new(now, within(hours(24)), Some(&listed_until("2026-11-22T09:58:25Z")));
        assert_eq!(plan.windows, first(now, hours(24)));
        let plan = FeedPlan::new(now, within(hours(1)), Some(&listed_until("2026-11-22T10:10:25Z")));
        assert_eq!(plan.windows, first(now, hours(1)), "an hour back is an hour back at every pass");
        let whole = LookBack { is_whole: true, ..within(hours(24)) };
        let plan = FeedPlan::new(now, whole, Some(&listed_until("2026-11-22T10:10:25Z")));
        assert_eq!(plan.windows, first(now, hours(24)));
    }

    #[test]
    fn collects_only_future_content_if_configured() {
        let now = at("2026-11-22T10:15:30Z");
        let future = LookBack { only_future: true, ..within(hours(24)) };
        let plan = FeedPlan::new(now, future, None);
        assert_eq!((plan.windows.len(), plan.wanted_from), (0, Some(now)));
        assert_eq!(plan.listed_until(now, |_| true), Some(now));
        let before =
            FeedProgress { listed_until: Some(now), wanted_from: Some(now), ..FeedProgress::default() };
        let plan = FeedPlan::new(at("2026-11-22T12:20:00Z"), future, Some(&before));
        assert_eq!(shown(&plan.windows), ["2026-11-22T10:00:00Z 2026-11-22T12:19:55Z"]);
        assert_eq!(plan.wanted_from, Some(now));
    }

    #[test]
    fn a_feed_that_an_older_tool_has_collected_is_not_on_its_first_pass() {
        let now = at("2026-11-22T10:15:30Z");
        let future = LookBack { only_future: true, ..within(hours(24)) };
        let stopped = |listed_until: Option<&str>, wanted_from: &str| FeedProgress {
            listed_until: listed_until.map(at),
            wanted_from: Some(at(wanted_from)),
            ..FeedProgress::default()
        };
        let before = stopped(Some("2026-11-20T09:20:00Z"), "2026-11-20T09:05:00Z");
        let plan = FeedPlan::new(now, future, Some(&before));
        assert_eq!((plan.windows[0].start, plan.missed), (at("2026-11-20T09:00:00Z"), None));
        assert_eq!(plan.wanted_from, Some(at("2026-11-20T09:05:00Z")));

        let before = stopped(Some("2026-11-12T07:31:00Z"), "2026-11-12T07:16:00Z");
        let plan = FeedPlan::new(now, future, Some(&before));
        assert_eq!(plan.windows[0].start, at("2026-11-15T10:19:30Z"));
        assert_eq!(plan.missed.map(|missed| missed.start), Some(at("2026-11-12T07:31:00Z")));

        let plan = FeedPlan::new(now, future, Some(&stopped(None, "1970-01-01T00:00:00Z")));
        assert_eq!((plan.windows[0].start, plan.missed), (at("2026-11-15T10:19:30Z"), None));
        assert_eq!(plan.wanted_from, Some(Timestamp::UNIX_EPOCH));
        assert_eq!(
            plan.listed_until(now, |_| false),
            None,
            "it continues from there until a window is listed"
        );
        assert_eq!(plan.listed_until(now, |_| true), Some(at("2026-11-22T10:15:25Z")));
    }

    #[test]
    fn clips_a_window_to_the_clock_of_the_api() {
        let window = Window { start: at("2026-11-15T08:00:00Z"), end: at("2026-11-16T08:00:00Z") };
        assert_eq!(window.as_of(at("2026-11-16T12:00:00Z")), Some(window));
        let cut = window.as_of(at("2026-11-22T10:15:30Z")).expect("a part of it");
        assert_eq!(cut, Window { start: at("2026-11-15T10:19:30Z"), ..window });
        let cut = window.as_of(at("2026-11-16T07:00:00Z")).expect("a part of it");
        assert_eq!(cut, Window { end: at("2026-11-16T06:59:55Z"), ..window });
        assert_eq!(window.as_of(at("2026-11-25T00:00:00Z")), None);
        assert_eq!(window.as_of(at("2026-11-15T08:00:30Z")), None);
    }

    #[test]
    fn splits_a_window_into_hours() {
        let window = Window { start: at("2026-11-22T08:00:00Z"), end: at("2026-11-22T10:15:25Z") };
        assert_eq!(
            shown(&window.hours()),
            [
                "2026-11-22T08:00:00Z 2026-11-22T09:00:00Z",
                "2026-11-22T09:00:00Z 2026-11-22T10:00:00Z",
                "2026-11-22T10:00:00Z 2026-11-22T10:15:25Z"
            ]
        );
        let odd = Window { start: at("2026-11-22T07:59:30Z"), end: at("2026-11-22T10:00:25Z") };
        assert_eq!(
            shown(&odd.hours()),
            ["2026-11-22T07:59:30Z 2026-11-22T09:00:00Z", "2026-11-22T09:00:00Z 2026-11-22T10:00:25Z"]
        );
    }

    #[test]
    fn listed_until_ends_at_the_first_gap() {
        let now = at("2026-11-22T10:15:30Z");
        let plan = FeedPlan::new(now, within(hours(72)), None);
        assert_eq!(plan.windows.len(), 4);
        assert_eq!(plan.listed_until(now, |_| false), None);
        assert_eq!(plan.listed_until(now, |window| window != 2), Some(plan.windows[1].end));
        assert_eq!(plan.listed_until(now, |_| true), Some(plan.windows[3].end));
        let plan = FeedPlan::new(now, within(hours(72)), Some(&listed_until("2026-11-21T00:00:00Z")));
        assert_eq!(plan.listed_until(now, |window| window < 1), Some(at("2026-11-21T00:00:00Z")));
    }

    #[test]
    fn windows_are_contiguous_and_valid() {
        let start = at("2026-11-22T00:00:00Z");
        for second in (0..2 * 86_400).step_by(997) {
            for look_back in [1, 2, 23, 24, 25, 48, 167, 168] {
                let now = start + Duration::from_secs(second);
                let windows = first(now, hours(look_back));
                assert!(windows[0].start >= now - RETENTION + RETENTION_MARGIN, "too old at {now}");
                let five_minutes = Duration::from_secs(5 * 60);
                assert!(windows[0].start <= (now - hours(look_back)).max(now - RETENTION + five_minutes));
                assert!(windows.last().expect("a window").end >= now - SETTLING - WINDOW_MIN);
                for pair in windows.windows(2) {
                    assert_eq!(pair[0].end, pair[1].start, "a gap at {now}");
                }
                for window in &windows {
                    let length = window.end.duration_since(window.start);
                    assert!(length >= WINDOW_MIN.try_into().expect("a minute"), "too short at {now}");
                    assert!(length <= WINDOW_MAX.try_into().expect("a day"), "too long at {now}");
                }
            }
        }
    }

    #[test]
    fn ignores_progress_in_the_future() {
        let now = at("2026-11-22T10:15:30Z");
        for until in ["2026-11-22T13:00:00Z", "2027-11-22T10:15:30Z", "9999-12-30T22:00:00Z"] {
            let plan = FeedPlan::new(now, within(hours(1)), Some(&listed_until(until)));
            assert_eq!(
                plan.windows[0].start,
                at("2026-11-15T10:19:30Z"),
                "how far it really came is unknown"
            );
            let last = plan.windows.last().expect("windows").end;
            assert_eq!(plan.listed_until(now, |_| true), Some(last));
            assert!(plan.listed_until(now, |_| false) <= Some(now));
        }
        let later = Some(now + hours(9));
        let before = FeedProgress { listed_until: later, wanted_from: later, ..FeedProgress::default() };
        let future = LookBack { only_future: true, ..within(hours(1)) };
        let plan = FeedPlan::new(now, future, Some(&before));
        assert_eq!(plan.wanted_from, Some(now), "what comes from now on is wanted");
    }

    #[test]
    fn accepts_the_earliest_timestamp() {
        let earliest = Some(Timestamp::MIN);
        let before =
            FeedProgress { listed_until: earliest, wanted_from: earliest, ..FeedProgress::default() };
        let future = LookBack { only_future: true, ..within(hours(1)) };
        let plan = FeedPlan::new(at("2026-11-22T10:15:30Z"), future, Some(&before));
        assert_eq!(plan.windows[0].start, at("2026-11-15T10:19:30Z"));
    }
}
