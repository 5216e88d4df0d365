//! What a pass will list: each feed's windows. Pure.
//!
//! Edges are whole hours UTC where they can be, because the service was seen to answer *other* blobs with parts of the
//! same records when the same period is listed with another start. So the edges stay the same from pass to pass, and
//! only the newest window's end moves.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};

use crate::limits::{RETENTION, RETENTION_MARGIN, SETTLING, WINDOW_MAX, WINDOW_MIN};

/// A period that one listing covers: `start` ≤ a blob's time < `end`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Window {
    /// Included.
    pub start: Timestamp,
    /// Not included.
    pub end: Timestamp,
}

/// The windows that cover the last `look_back`, oldest first, edge to edge.
pub fn windows(now: Timestamp, look_back: Duration) -> Vec<Window> {
    let oldest = whole_hour(now - RETENTION + RETENTION_MARGIN) + HOUR;
    let newest = now - SETTLING;
    let mut windows = Vec::new();
    let mut start = whole_hour(now - look_back).max(oldest);
    while start + WINDOW_MIN <= newest {
        let end = (start + WINDOW_MAX).min(newest);
        windows.push(Window { start, end });
        start = end;
    }
    windows
}

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The whole hour at or before a time.
fn whole_hour(time: Timestamp) -> Timestamp {
    let into_the_hour = time.as_nanosecond().rem_euclid(SignedDuration::from_hours(1).as_nanos());
    time - SignedDuration::from_nanos_i128(into_the_hour)
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

    fn shown(windows: &[Window]) -> Vec<String> {
        windows.iter().map(|window| format!("{} {}", window.start, window.end)).collect()
    }

    #[test]
    fn a_day_is_covered_from_a_whole_hour_to_seconds_before_now() {
        assert_eq!(
            shown(&windows(at("2026-11-22T10:15:30Z"), hours(24))),
            ["2026-11-21T10:00:00Z 2026-11-22T10:00:00Z", "2026-11-22T10:00:00Z 2026-11-22T10:15:25Z"]
        );
    }

    #[test]
    fn a_rest_shorter_than_a_minute_is_left_to_the_next_pass() {
        assert_eq!(
            shown(&windows(at("2026-11-22T10:00:30Z"), hours(24))),
            ["2026-11-21T10:00:00Z 2026-11-22T10:00:00Z"]
        );
    }

    #[test]
    fn windows_lie_edge_to_edge_within_what_the_api_accepts_whatever_the_time() {
        let start = at("2026-11-22T00:00:00Z");
        for second in (0..2 * 86_400).step_by(997) {
            for look_back in [1, 2, 23, 24, 25, 48, 167, 168] {
                let now = start + Duration::from_secs(second);
                let windows = windows(now, hours(look_back));
                assert!(windows[0].start > now - RETENTION + RETENTION_MARGIN, "too old at {now}");
                assert!(windows[0].start <= (now - hours(look_back)).max(now - RETENTION + 2 * HOUR));
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
}
