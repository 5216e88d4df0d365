//! The rate of requests, and what is done about throttling.
//!
//! How fast a backlog is collected against a quota is tested in virtual time, next to the scheduler: a real minute is too
//! long for a test, and the client's minute is not configurable. The quotas here are of a minute that the simulator
//! shortens.

use std::{
    fs,
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use jiff::SignedDuration;
use serde_json::Value;
use simulator::{Fault, LoggedRequest, NewBlob, Operation, Quota, Requests, RetryAfter};

use crate::support::{
    CONTOSO, Installation, hours_ago,
    http::{HttpReceiver, Reply},
    process::in_parallel,
};

const FEED: &str = "Audit.General";

/// Contoso, subscribed to one feed with this number of blobs.
fn installation(blobs: usize) -> Installation {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED);
    for _ in 0..blobs {
        installation.contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(3)));
    }
    installation
}

/// The time from the first throttled request to the one after it.
fn wait_after_throttling(seen: &[LoggedRequest]) -> SignedDuration {
    let throttled = seen.iter().position(|seen| seen.status == Some(429)).expect("a throttled request");
    seen[throttled + 1].request.at.duration_since(seen[throttled].request.at)
}

fn throttle_once(installation: &Installation, retry_after: Option<RetryAfter>) {
    let fault = Fault::throttled(429, retry_after);
    installation.simulator.fault(Requests::to(Operation::ListSubscriptions).times(1), fault);
}

/// What `progress` says of contoso's rate of requests.
fn learned_rate(installation: &Installation) -> Option<Value> {
    let progress = fs::read_to_string(installation.path("state/progress")).expect("a file");
    let lines = progress.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let mut tenant = lines.filter_map(|mut line| line.get_mut("tenant").map(Value::take));
    tenant.find(|tenant| tenant["tenantId"] == CONTOSO)
}

#[test]
fn a_wait_of_no_time_is_a_second() {
    let past = RetryAfter::Date(SignedDuration::from_hours(-1));
    in_parallel(
        [Some(RetryAfter::Seconds(0)), Some(RetryAfter::Text("-5")), Some(past), None],
        |retry_after| {
            let installation = installation(2);
            throttle_once(&installation, retry_after);
            installation.run(&[]).assert_code(0);
            let waited = wait_after_throttling(&installation.simulator.requests());
            assert!(waited >= SignedDuration::from_millis(990), "{retry_after:?}: {waited}");
            installation.assert_delivered_once([(&installation.contoso, FEED)]);
        },
    );
}

#[test]
fn a_date_to_wait_for_is_read_by_the_clock_of_its_answer() {
    let installation = installation(2);
    let skew = SignedDuration::from_hours(2);
    installation.simulator.set_clock_skew(skew);
    throttle_once(&installation, Some(RetryAfter::Date(skew + SignedDuration::from_secs(2))));
    installation.run(&[]).assert_code(0); // a run that waits for two hours fails
    let waited = wait_after_throttling(&installation.simulator.requests());
    assert!(waited >= SignedDuration::from_millis(990), "{waited}");
}

#[test]
fn a_receiver_that_asks_for_no_wait_gets_a_second() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let noted = Arc::clone(&times);
    let receiver = HttpReceiver::start(move |_, place| {
        noted.lock().expect("no panic").push(Instant::now());
        if place == 0 { Reply::retry_after(503, "0") } else { Reply::status(200) }
    });
    let url = receiver.url("/");
    let installation = installation(1).with_output(&format!("  http:\n    url: {url}\n    connections: 1"));
    installation.run(&[]).assert_code(0);
    let times = times.lock().expect("no panic");
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
}

#[test]
fn a_quota_in_use_is_met_once_and_not_by_every_thread() {
    let installation = installation(80).collect("maxThreads: 8");
    let minute = Duration::from_millis(500);
    installation.contoso.settings(|settings| settings.quota = Some(Quota { requests: 60, minute }));
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&[
        "[WARN] Throttled: contoso makes no request for",
        "then at most 1000 a minute: HTTP 403 AF429",
    ]);
    let seen = installation.simulator.requests();
    let throttled = seen.iter().filter(|seen| seen.status == Some(403)).count();
    let bursts = run.log().iter().filter(|line| line.contains("Throttled: ")).count();
    assert!(throttled <= 8 * bursts, "{throttled} of {} requests in {bursts} bursts", seen.len());
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn the_rate_that_was_learned_is_remembered() {
    let installation = installation(2);
    installation.run(&[]).assert_code(0);
    assert_eq!(learned_rate(&installation), None, "nothing was learned");
    for expected in [1000, 500] {
        throttle_once(&installation, Some(RetryAfter::Seconds(1)));
        let rate = format!("then at most {expected} a minute");
        installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] Throttled: contoso", &rate]);
        let learned = learned_rate(&installation).expect("a rate");
        assert_eq!(learned["requestsPerMinute"], expected);
        assert!(learned["throttledAt"].is_string(), "{learned}");
    }
    installation.run(&[]).assert_code(0);
    let learned = learned_rate(&installation).expect("a rate");
    assert_eq!(learned["requestsPerMinute"], 500, "a pass without throttling or backlog changes nothing");
}

#[test]
fn a_fixed_rate_learns_nothing() {
    let installation = installation(2).collect("maxRequestsPerMinute: 700");
    throttle_once(&installation, None);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Throttled: contoso", "then at most 700 a minute"]);
    assert_eq!(learned_rate(&installation), None);
}
