//! The scope of a failure: it stops the blob, the feed, the tenant or the output of its request, and nothing else.

use std::{collections::BTreeSet, fs, time::Duration};

use simulator::{ApiError, CONTENT_TYPES, Fault, NewBlob, Operation, PlantedFault, Requests, Tenant};

use crate::support::{
    FABRIKAM, Installation, hours_ago,
    process::{kill, wait_until},
};

/// The feed that fails. The other four are collected.
const FEED: &str = "Audit.Exchange";

const OPERATIONS: [Operation; 4] = [
    Operation::ListSubscriptions,
    Operation::StartSubscription,
    Operation::ListContent,
    Operation::FetchBlob,
];

/// An error of one kind of request, with its own tenant.
struct Case {
    error: String,
    operation: Operation,
    tenant: Tenant,
    fault: PlantedFault,
}

impl Case {
    fn name(&self) -> String {
        format!("{} at {:?} ({})", self.error, self.operation, self.tenant.id())
    }

    /// Returns whether the error stops this feed. A failed list of subscriptions stops all feeds of the tenant.
    fn stops(&self, content_type: &str) -> bool {
        content_type == FEED || self.operation == Operation::ListSubscriptions
    }
}

/// Returns whether the error means that nothing is left to do for the request: the subscription is enabled already, or the
/// blob is gone.
fn is_no_failure(error: &str, operation: Operation) -> bool {
    matches!(
        (error, operation),
        ("AlreadyEnabled", Operation::StartSubscription)
            | ("ContentMissing" | "ContentExpired" | "ContentIdInvalid", Operation::FetchBlob)
    )
}

#[test]
fn each_error_stops_only_the_scope_of_its_request() {
    let mut installation = Installation::new();
    let mut faults: Vec<(String, Fault)> = ApiError::ALL
        .into_iter()
        .filter(|error| *error != ApiError::Throttled) // it concerns the tenant, and has its own tests
        .map(|error| (format!("{error:?}"), Fault::api_error(error)))
        .collect();
    faults.push(("401".to_owned(), Fault::unauthorized()));
    faults.push(("403".to_owned(), Fault::status(403)));
    faults.push(("404".to_owned(), Fault::status(404)));
    faults.push(("503".to_owned(), Fault::status(503)));
    faults.push(("reset".to_owned(), Fault::reset()));
    faults.push(("redirect".to_owned(), Fault::redirect(302, "http://192.0.2.1/")));
    let mut cases = Vec::new();
    for (error, fault) in faults {
        for operation in OPERATIONS {
            let id = format!("{:08}-1111-4111-8111-222222222222", cases.len());
            let tenant = installation.add_tenant(&id);
            for content_type in CONTENT_TYPES {
                if operation != Operation::StartSubscription || content_type != FEED {
                    tenant.subscribe(content_type);
                }
                tenant.add_blob(content_type, NewBlob::records(1).created(hours_ago(2)));
            }
            let requests = Requests::to(operation).of_tenant(&id).always();
            let requests = match operation {
                Operation::ListSubscriptions => requests,
                _ => requests.of_content_type(FEED),
            };
            let fault = installation.simulator.fault(requests, fault.clone());
            cases.push(Case { error: error.clone(), operation, tenant, fault });
        }
    }
    let installation = installation.collect("retries: 1").collect("hoursToCollect: 4");
    let run = installation.run(&[]);
    run.assert_code(1);
    let delivered: BTreeSet<String> = installation.delivered_ids().into_keys().collect();
    let status = installation.run(&["status", "--json"]);
    let status: serde_json::Value = serde_json::from_str(&status.stdout).expect("JSON");
    let last_error = |tenant: &str, content_type: &str| {
        let mut feeds = status.as_array().expect("feeds").iter();
        let feed = feeds.find(|feed| feed["tenant_id"] == tenant && feed["content_type"] == content_type);
        feed.expect("the feed").get("last_error").and_then(|error| error.as_str()).map(str::to_owned)
    };
    for case in &cases {
        let (name, id) = (case.name(), case.tenant.id());
        assert!(case.fault.fired() > 0, "{name}: no request got the error");
        for content_type in CONTENT_TYPES {
            let error = last_error(&id, content_type);
            let is_delivered = case.tenant.ids(content_type).is_subset(&delivered);
            if !case.stops(content_type) {
                assert!(is_delivered, "{name}: {content_type} is not delivered: {error:?}");
                assert_eq!(error, None, "{name}: {content_type} has an error");
            } else if !is_no_failure(&case.error, case.operation) {
                assert!(!is_delivered, "{name}: {content_type} is delivered");
                let error = error.unwrap_or_else(|| panic!("{name}: no last error for {content_type}"));
                let line = run.log().into_iter().find(|line| {
                    line.starts_with("[ERROR]") && line.contains(&*id) && line.contains(error.trim_end())
                });
                assert!(line.is_some(), "{name}: no line of the log contains the cause {error:?}");
            }
        }
    }
    installation.simulator.remove_faults();
    installation.run(&[]);
    let delivered: BTreeSet<String> = installation.delivered_ids().into_keys().collect();
    for case in cases.iter().filter(|case| !is_no_failure(&case.error, case.operation)) {
        for content_type in CONTENT_TYPES {
            assert!(
                case.tenant.ids(content_type).is_subset(&delivered),
                "{}: {content_type} is not delivered by the next pass",
                case.name()
            );
        }
    }
}

#[test]
fn keeps_collecting_if_one_feed_lacks_permission() {
    let installation = Installation::new();
    let tenant = &installation.contoso;
    for content_type in CONTENT_TYPES {
        tenant.add_blobs(content_type, 4, 3, hours_ago(20)..hours_ago(1));
    }
    installation.simulator.fault(
        Requests::any()
            .matching(|request| request.operation != Operation::ListSubscriptions)
            .of_content_type("DLP.All")
            .always(),
        Fault::api_error(ApiError::PermissionMissing),
    );
    for _ in 0..2 {
        let run = installation.run(&[]);
        run.assert_code(1).assert_line_with(&[
            "[ERROR] Subscription failed for contoso dlp.all: HTTP 401 AF10001",
            "ActivityFeed.ReadDlp",
            "Grant admin consent",
        ]);
        assert!(!run.stderr.contains("Blobs failed"), "{run}");
        let others = CONTENT_TYPES.into_iter().filter(|content_type| *content_type != "DLP.All");
        installation.assert_delivered_once(others.map(|content_type| (tenant, content_type)));
    }
}

#[test]
fn reports_the_cause_for_each_feed_whose_listing_gets_401() {
    for _ in 0..5 {
        let installation = Installation::new().collect("maxThreads: 5");
        for content_type in CONTENT_TYPES {
            installation.contoso.subscribe(content_type);
        }
        installation.simulator.fault(Requests::to(Operation::ListContent).always(), Fault::unauthorized());
        let run = installation.run(&[]);
        run.assert_code(1);
        for content_type in CONTENT_TYPES {
            let label = format!("Listing failed for contoso {}:", content_type.to_lowercase());
            run.assert_line_with(&["[ERROR]", &label, "HTTP 401"]);
        }
        let status = installation.run(&["status", "--json"]);
        assert_eq!(status.stdout.matches("HTTP 401").count(), 5, "{status}");
        let logins = installation.simulator.count(Operation::Login);
        assert!(logins <= 5, "{logins} logins");
    }
}

#[test]
fn stops_a_feed_after_a_few_blobs_get_401() {
    let installation = Installation::new().collect("maxThreads: 1");
    installation.contoso.add_blobs(FEED, 50, 1, hours_ago(20)..hours_ago(1));
    installation.contoso.add_blobs("Audit.General", 50, 1, hours_ago(20)..hours_ago(1));
    installation
        .simulator
        .fault(Requests::to(Operation::FetchBlob).of_content_type(FEED).always(), Fault::unauthorized());
    installation.run(&[]).assert_code(1).assert_line_with(&["Blobs successful: 50 | Blobs failed: 50"]);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    let logins = installation.simulator.count(Operation::Login);
    assert!(logins <= 8, "{logins} logins");
}

#[test]
fn starts_a_subscription_at_most_once_in_15_minutes() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    // The start succeeds, and the feed stays disabled all the same.
    installation.simulator.fault(Requests::to(Operation::ListSubscriptions).always(), Fault::json(200, "[]"));
    installation.simulator.fault(
        Requests::to(Operation::ListContent).of_content_type(FEED).always(),
        Fault::api_error(ApiError::SubscriptionDisabled),
    );
    let config = installation.config() + "subscriptions: [ Audit.Exchange ]\n";
    fs::write(installation.path("one-feed.yaml"), config).expect("a file");
    for _ in 0..3 {
        let run = installation.run_bare(&["-c", "one-feed.yaml"]);
        run.assert_code(1).assert_line_with(&[
            "[ERROR] Listing failed for contoso audit.exchange: HTTP 400 AF20023",
            "although the subscription was started at",
            "check that auditing is on",
        ]);
    }
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 1);
    // Sixteen minutes later by Microsoft's clock.
    installation.simulator.set_clock_skew(jiff::SignedDuration::from_mins(16));
    installation.run_bare(&["-c", "one-feed.yaml"]).assert_code(1);
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 2);
}

#[test]
fn remembers_subscription_starts_of_a_killed_pass() {
    let installation = Installation::new();
    // The pass is killed while it lists.
    installation.simulator.fault(Requests::to(Operation::ListContent).always(), Fault::stall(None));
    let child = installation.pass().spawn().expect("the program starts");
    let journal = installation.path("state/journal");
    wait_until("the journal contains the five starts", || {
        fs::read_to_string(&journal).is_ok_and(|text| text.matches("tarted").count() == 5)
    });
    kill(child);
    installation.simulator.remove_faults();
    for content_type in CONTENT_TYPES {
        installation.contoso.set_subscription(content_type, None);
    }
    installation.run(&[]);
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 5);
}

#[test]
fn logs_five_lines_and_a_count_if_many_blobs_fail_for_one_reason() {
    let installation = Installation::new().collect("retries: 1");
    installation.contoso.add_blobs(FEED, 300, 1, hours_ago(20)..hours_ago(1));
    installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), Fault::status(503));
    let run = installation.run(&[]);
    run.assert_code(1);
    let count_lines = |phrase: &str| run.log().iter().filter(|line| line.contains(phrase)).count();
    assert_eq!(count_lines("[ERROR] Blob download failed for contoso audit.exchange blob"), 5, "{run}");
    assert_eq!(count_lines("[WARN] Retrying blob download for contoso audit.exchange"), 6, "{run}");
    run.assert_line("[ERROR] Blob download failed for contoso audit.exchange: … and 295 more: HTTP 503");
    run.assert_line("[WARN] Retrying blob download for contoso audit.exchange: … and 295 more: HTTP 503");
}

#[test]
fn reports_a_feed_once_if_it_has_had_no_content_for_a_day() {
    let installation = Installation::new();
    installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(3)));
    let first = installation.run(&[]);
    assert!(!first.assert_code(0).stderr.contains("No content for"), "{first}");
    installation.simulator.set_clock_skew(jiff::SignedDuration::from_hours(25));
    installation
        .run(&[])
        .assert_code(0)
        .assert_line_with(&["[WARN] No content for contoso audit.exchange since"]);
    let next = installation.run(&[]);
    assert!(!next.assert_code(0).stderr.contains("No content for"), "{next}");
}

#[test]
fn gives_up_a_dripping_body_and_collects_the_rest() {
    let installation = Installation::new().collect("retries: 0").collect("requestTimeout: 2s");
    installation.contoso.add_blobs(FEED, 3, 100, hours_ago(20)..hours_ago(1));
    let slow = installation.contoso.blobs(FEED).remove(1);
    installation.simulator.fault(
        Requests::to(Operation::FetchBlob).of_blob(slow.content_id()).times(1),
        Fault::drip(300, Duration::from_millis(400)), // 750 bytes a second, with headers of about 300 bytes
    );
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Blob download failed for contoso audit.exchange blob",
        slow.content_id(),
        "the answer came at less than 1 KB/s for 2 s",
    ]);
    assert_eq!(installation.delivered_ids().len(), 200);
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn ends_a_pass_an_interval_after_everything_but_stragglers_is_done() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let installation = installation.setting("interval: 2s").collect("retries: 0");
    installation.contoso.add_blobs(FEED, 3, 5, hours_ago(20)..hours_ago(1));
    fabrikam.add_blobs(FEED, 3, 5, hours_ago(20)..hours_ago(1));
    fabrikam.subscribe("Audit.General");
    let slow = installation.contoso.blobs(FEED).remove(1);
    installation.simulator.fault(
        Requests::to(Operation::FetchBlob).of_blob(slow.content_id()).times(1),
        Fault::stall(None), // longer than requestTimeout, which is a minute
    );
    installation.simulator.fault(
        Requests::to(Operation::ListContent).of_tenant(FABRIKAM).of_content_type("Audit.General").times(1),
        Fault::stall(None),
    );
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&[
            "[ERROR] Blob download failed for contoso audit.exchange blob",
            slow.content_id(),
            "its download is not finished 2 s after the rest of the pass",
        ])
        .assert_line_with(&["[ERROR] Listing failed for fabrikam audit.general:", "for an interval"]);
    assert_eq!(installation.delivered_ids().len(), 25);
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}

#[test]
fn a_tenant_throttled_for_long_does_not_hold_the_lock() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    let installation = installation.setting("interval: 2s");
    installation.contoso.add_blobs(FEED, 3, 5, hours_ago(20)..hours_ago(1));
    fabrikam.add_blobs(FEED, 3, 5, hours_ago(20)..hours_ago(1));
    installation.simulator.fault(
        Requests::to(Operation::FetchBlob).of_tenant(FABRIKAM).always(),
        Fault::throttled(429, Some(simulator::RetryAfter::Seconds(600))),
    );
    installation.run(&[]).assert_code(1);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
    let status = installation.run(&["status"]);
    assert!(
        status.stdout.contains("fabrikam") && status.stdout.contains("2 s after the rest of the pass"),
        "{status}"
    );
    installation.simulator.remove_faults();
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}
