//! The rate of requests, and the waits after throttled requests.
//!
//! The unit tests of the scheduler check in virtual time how fast a backlog is collected against a quota, because a real
//! minute is too long for a test and the client's minute cannot be configured. Here the simulator shortens the minute of the
//! quota.

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

/// Contoso with a subscription to one feed of this number of blobs.
fn installation(blobs: usize) -> Installation {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED);
    for _ in 0..blobs {
        installation.contoso.add_blob(FEED, NewBlob::records(1).created(hours_ago(3)));
    }
    installation
}

/// Returns the time from the first throttled request to the one after it.
fn wait_after_throttling(seen: &[LoggedRequest]) -> SignedDuration {
    let throttled = seen.iter().position(|seen| seen.status == Some(429)).expect("a throttled request");
    seen[throttled + 1].request.at.duration_since(seen[throttled].request.at)
}

fn throttle_once(installation: &Installation, retry_after: Option<RetryAfter>) {
    let fault = Fault::throttled(429, retry_after);
    installation.simulator.fault(Requests::to(Operation::ListSubscriptions).times(1), fault);
}

/// Returns contoso's learned rate of requests from the state.
fn learned_rate(installation: &Installation) -> Option<Value> {
    let progress = fs::read_to_string(installation.path("state/progress")).expect("a file");
    let lines = progress.lines().map(|line| serde_json::from_str::<Value>(line).expect("a line of JSON"));
    let mut tenant = lines.filter_map(|mut line| line.get_mut("tenant").map(Value::take));
    tenant.find(|tenant| tenant["tenantId"] == CONTOSO)
}

#[test]
fn waits_a_second_if_retry_after_is_not_positive() {
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
fn reads_a_retry_after_date_by_the_clock_of_its_response() {
    let installation = installation(2);
    let skew = SignedDuration::from_hours(2);
    installation.simulator.set_clock_skew(skew);
    throttle_once(&installation, Some(RetryAfter::Date(skew + SignedDuration::from_secs(2))));
    installation.run(&[]).assert_code(0); // a pass that waits two hours exceeds the bound of a test
    let waited = wait_after_throttling(&installation.simulator.requests());
    assert!(waited >= SignedDuration::from_millis(990), "{waited}");
}

#[test]
fn waits_a_second_if_a_receiver_sends_retry_after_zero() {
    let times = Arc::new(Mutex::new(Vec::new()));
    let arrivals = Arc::clone(&times);
    let receiver = HttpReceiver::start(move |_, place| {
        arrivals.lock().expect("no thread panics with the lock").push(Instant::now());
        if place == 0 { Reply::retry_after(503, "0") } else { Reply::status(200) }
    });
    let url = receiver.url("/");
    let installation = installation(1).with_output(&format!("  http:\n    url: {url}\n    connections: 1"));
    installation.run(&[]).assert_code(0);
    let times = times.lock().expect("no thread panics with the lock");
    assert!(times[1] - times[0] >= Duration::from_secs(1), "{:?}", times[1] - times[0]);
}

#[test]
fn limits_throttled_requests_to_one_per_thread_and_burst() {
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
fn remembers_the_learned_request_rate() {
    let installation = installation(2);
    installation.run(&[]).assert_code(0);
    assert_eq!(learned_rate(&installation), None, "a pass without throttling learns nothing");
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
fn does_not_learn_a_rate_if_one_is_configured() {
    let installation = installation(2).collect("maxRequestsPerMinute: 700");
    throttle_once(&installation, None);
    let run = installation.run(&[]);
    run.assert_code(0).assert_line_with(&["[WARN] Throttled: contoso", "then at most 700 a minute"]);
    assert_eq!(learned_rate(&installation), None);
}
