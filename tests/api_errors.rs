//! The errors that the API documents and rejected logins: what a pass does and logs. Also throttling, wrong clocks, and the
//! number of requests.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicUsize, Ordering},
};

use simulator::{ApiError, Fault, LoginError, NewBlob, Operation, Requests, RetryAfter};

use crate::support::{Installation, Run, hours_ago, process::in_parallel};

const FEED: &str = "Audit.General";

/// Contoso with a subscription to one feed of two blobs.
fn installation() -> Installation {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED);
    for hours in [3, 2] {
        installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(hours)));
    }
    installation
}

/// The reaction of a pass to an error that each request of one kind gets.
struct Reaction {
    error: ApiError,
    /// The requests that get the error.
    operation: Operation,
    exit_code: i32,
    /// One line of the log contains all of these.
    line: &'static [&'static str],
    /// The number of requests for one listing or one blob.
    attempts: usize,
}

fn reaction(
    error: ApiError,
    operation: Operation,
    exit_code: i32,
    attempts: usize,
    line: &'static [&'static str],
) -> Reaction {
    Reaction { error, operation, exit_code, line, attempts }
}

/// The reaction to each error of Microsoft's table that every request gets.
fn reactions() -> Vec<Reaction> {
    use ApiError::{
        AuditingOff, ContentExpired, ContentIdInvalid, ContentMissing, ContentTypeInvalid, Internal,
        InternalDatabase, InternalStorage, ParameterInvalid, ParameterMissing, ParameterTypeWrong,
        PermissionMissing, TenantMisconfigured, TenantMismatch, TenantNotGuid, TenantUnknown, TimesInvalid,
        TimesOutOfRange,
    };
    use Operation::{FetchBlob, ListContent, ListSubscriptions};
    let stops_tenant = |error, line| reaction(error, ListSubscriptions, 1, 1, line);
    let mut rows = vec![
        stops_tenant(
            PermissionMissing,
            &["Subscription failed for contoso", "AF10001", "ActivityFeed.Read ", "Grant admin consent"],
        ),
        stops_tenant(TenantMismatch, &["AF20010", "check tenant_id and api_type"]),
        stops_tenant(TenantUnknown, &["AF20011", "check tenant_id and api_type"]),
        stops_tenant(TenantMisconfigured, &["AF20012", "check tenant_id and api_type"]),
        stops_tenant(TenantNotGuid, &["AF20013", "check tenant_id and api_type"]),
        stops_tenant(AuditingOff, &["turn auditing on: Set-AdminAuditLogConfig"]),
        reaction(ContentTypeInvalid, ListContent, 1, 1, &["Listing failed", "AF20020", "from subscriptions"]),
        reaction(
            TimesInvalid,
            ListContent,
            1,
            2,
            &["Listing failed", "AF20030", "check this machine's clock"],
        ),
        reaction(
            TimesOutOfRange,
            ListContent,
            1,
            2,
            &["Listing failed", "AF20055", "check this machine's clock"],
        ),
        reaction(ContentMissing, FetchBlob, 0, 1, &["Blob gone", "AF20050", "its records are lost"]),
        reaction(ContentExpired, FetchBlob, 0, 1, &["Blob gone", "AF20051", "its records are lost"]),
        reaction(ContentIdInvalid, FetchBlob, 0, 1, &["Blob gone", "AF20052", "its records are lost"]),
    ];
    for error in [ParameterMissing, ParameterTypeWrong, ParameterInvalid] {
        rows.push(reaction(error, ListContent, 1, 1, &["Listing failed", "AF2000", "please report it"]));
    }
    for error in [Internal, InternalDatabase, InternalStorage] {
        rows.push(reaction(
            error,
            FetchBlob,
            1,
            4,
            &["Blob download failed", "AF5000", "the next pass tries again"],
        ));
    }
    rows
}

#[test]
fn handles_each_documented_error_and_logs_what_to_do() {
    for Reaction { error, operation, exit_code, line, attempts } in reactions() {
        let installation = installation();
        let mut requests = Requests::to(operation).always();
        if operation == Operation::FetchBlob {
            requests = requests.of_blob(installation.contoso.blobs(FEED)[0].content_id());
        }
        let fault = installation.simulator.fault(requests, Fault::api_error(error));
        let config = installation.config() + "subscriptions: [ Audit.General ]\n";
        std::fs::write(installation.path("one-feed.yaml"), config).expect("a file");
        let run = installation.run_bare(&["-c", "one-feed.yaml"]);
        assert_eq!(run.code, Some(exit_code), "{error:?}: {run}");
        let contains_parts =
            |logged: &&str| logged.starts_with("[ERROR]") && line.iter().all(|part| logged.contains(part));
        assert!(run.log().iter().any(contains_parts), "{error:?}: no line with {line:?} in {run}");
        // The look-back window is listed in one or two parts.
        let requests = fault.fired();
        assert!((attempts..=attempts * 2).contains(&requests), "{error:?}: {requests} requests");

        installation.simulator.remove_faults();
        let run = installation.run_bare(&["-c", "one-feed.yaml"]);
        assert_eq!(run.code, Some(0), "the pass after {error:?}: {run}");
        let gone = usize::from(exit_code == 0);
        assert_eq!(installation.delivered_ids().len(), (2 - gone) * 2, "{error:?}");
    }
}

#[test]
fn explains_each_rejected_login() {
    for (error, line) in [
        (LoginError::WrongSecret, "AADSTS7000215 the client secret is wrong: copy the secret's Value"),
        (LoginError::ExpiredSecret, "AADSTS7000222 the client secret has expired; create a new one"),
        (LoginError::UnknownClient, "AADSTS700016 no such app in this tenant: check client_id and tenant_id"),
        (LoginError::UnknownTenant, "AADSTS90002 no such tenant: check tenant_id and api_type"),
        (LoginError::WrongAssertion, "AADSTS700027 the certificate is not the one registered with the app"),
        (LoginError::NoSuchAccount, "AADSTS50034 the account does not exist in this directory"),
        (LoginError::ConditionalAccess, "AADSTS53003 a Conditional Access policy blocks the app"),
    ] {
        let installation = installation();
        installation.contoso.settings(|settings| settings.login_error = Some(error));
        let run = installation.run(&[]);
        run.assert_code(77).assert_line_with(&["[ERROR] Authentication failed for contoso: ", line]);
        assert_eq!(installation.simulator.count(Operation::Login), 1, "{error:?} is not retried");
        assert!(!run.stderr.contains("No new blobs found"), "the pass lists nothing: {run}");
    }
}

#[test]
fn waits_as_long_as_retry_after_says() {
    in_parallel(
        [RetryAfter::Seconds(2), RetryAfter::Date(jiff::SignedDuration::from_secs(2))],
        |retry_after| {
            let installation = installation();
            let fault = Fault::throttled(429, Some(retry_after));
            installation.simulator.fault(Requests::to(Operation::ListSubscriptions).times(1), fault);
            let run = installation.run(&[]);
            run.assert_code(0).assert_line_with(&["[WARN] Throttled: contoso makes no request for"]);
            let seen = installation.simulator.requests();
            let throttled =
                seen.iter().position(|seen| seen.status == Some(429)).expect("the throttled request");
            let waited = seen[throttled + 1].request.at.duration_since(seen[throttled].request.at);
            // A date has whole seconds, so that up to a second of the two is lost.
            assert!(waited >= jiff::SignedDuration::from_millis(900), "the next request came after {waited}");
        },
    );
}

#[test]
fn keeps_collecting_other_tenants_while_one_is_throttled() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blobs(FEED, 5, 2, hours_ago(20)..hours_ago(2));
    }
    // Contoso is throttled once at least, and until all blobs of fabrikam are served.
    let served = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&served);
    let serve_and_count = Fault::alter("counted", move |_, answer| {
        count.fetch_add(1, Ordering::SeqCst);
        answer
    });
    let of_fabrikam = Requests::to(Operation::FetchBlob).of_tenant(&fabrikam.id());
    installation.simulator.fault(of_fabrikam.always(), serve_and_count);
    let of_contoso = Requests::to(Operation::ListSubscriptions).of_tenant(&installation.contoso.id());
    let was_throttled = AtomicBool::new(false);
    let is_throttled =
        move |_: &_| !was_throttled.swap(true, Ordering::SeqCst) || served.load(Ordering::SeqCst) < 5;
    let throttled = installation.simulator.fault(
        of_contoso.matching(is_throttled).always(),
        Fault::throttled(403, Some(RetryAfter::Seconds(1))),
    );
    installation.run(&[]).assert_code(0);
    assert!(throttled.fired() > 0, "contoso is throttled");
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}

#[test]
fn reports_and_corrects_a_wrong_local_clock() {
    for skew in [-5, 5] {
        let installation = Installation::new();
        installation.simulator.set_clock_skew(jiff::SignedDuration::from_hours(skew));
        let contoso = &installation.contoso;
        let newest = installation.simulator.now() - jiff::SignedDuration::from_mins(2);
        contoso.add_blob(FEED, NewBlob::records(1).created(newest));
        contoso.add_blob(FEED, NewBlob::records(1).created(newest - jiff::SignedDuration::from_hours(23)));
        let run = installation.run(&["--hours", "168"]);
        let side = if skew > 0 { "behind" } else { "ahead of" };
        run.assert_code(0).assert_line_with(&[
            "[WARN] This machine's clock is",
            side,
            "Microsoft's",
            "timedatectl",
        ]);
        installation.assert_delivered_once([(contoso, FEED)]);
        installation.assert_no_violations();
    }
}

#[test]
fn ignores_an_absurd_date_in_a_response() {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.General", 3, 2, hours_ago(20)..hours_ago(2));
    let date = "9999-12-30T21:59:59Z".parse().expect("a time");
    installation.simulator.fault(Requests::to(Operation::Login).always(), Fault::date(date));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn lists_again_by_the_servers_clock_if_it_rejects_the_times() {
    for error in [ApiError::TimesInvalid, ApiError::TimesOutOfRange] {
        let installation = installation();
        let requests = Requests::to(Operation::ListContent).of_content_type(FEED).times(1);
        installation.simulator.fault(requests, Fault::api_error(error));
        let run = installation.run(&[]);
        run.assert_code(0)
            .assert_line_with(&["[WARN] Listing for contoso audit.general corrected by Microsoft's clock"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn makes_one_request_per_feed_and_two_per_tenant_if_nothing_is_new() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    installation.simulator.forget_requests();
    installation.run(&[]).assert_code(0);
    let requests = installation.simulator.requests().len();
    // A login, a list of subscriptions and five listings. If a new hour has just begun, each listing has two parts.
    assert!(requests == 7 || requests == 12, "{requests} requests");
}

#[test]
fn lists_a_busy_feed_by_the_hour_and_fetches_each_blob_once() {
    let installation = Installation::new();
    let contoso = &installation.contoso;
    contoso.settings(|settings| settings.page_size = 10);
    contoso.add_blobs(FEED, 300, 1, hours_ago(23)..hours_ago(1));
    installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 300 | Blobs successful: 300"]);
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 300);
    installation.assert_delivered_once([(contoso, FEED)]);
    installation.assert_no_violations();
    let listings = installation.simulator.requests_to(Operation::ListContent);
    let of_feed = listings.iter().filter(|seen| seen.request.content_type.as_deref() == Some(FEED));
    let starts: std::collections::BTreeSet<_> =
        of_feed.filter_map(|seen| seen.request.parameter("startTime").map(str::to_owned)).collect();
    assert!(starts.len() >= 20, "the parts have one hour each: {starts:?}");
    assert!(starts.iter().all(|start| start.ends_with(":00:00") || start.contains(":00:00.")), "{starts:?}");
}

/// Runs a pass over this number of tenants with two blobs each.
fn collect_from_tenants(count: usize) -> (Run, Installation) {
    let mut installation = Installation::new().collect("maxThreads: 16");
    let mut tenants = Vec::new();
    for number in 0..count {
        tenants.push(installation.add_tenant(&format!("{number:08}-0000-4000-8000-000000000000")));
    }
    for tenant in &tenants {
        tenant.settings(|settings| settings.gzip = false);
        for feed in simulator::CONTENT_TYPES {
            tenant.subscribe(feed);
        }
        tenant.add_blob(FEED, NewBlob::records(1).created(hours_ago(2)));
        tenant.add_blob("DLP.All", NewBlob::records(1).created(hours_ago(2)));
    }
    let run = installation.run(&["-q"]);
    (run, installation)
}

#[test]
fn collects_a_hundred_tenants_in_one_pass() {
    let (run, installation) = collect_from_tenants(100);
    run.assert_code(0);
    assert_eq!(installation.delivered_ids().len(), 200);
    assert_eq!(installation.simulator.count(Operation::Login), 101, "one for each tenant, with contoso");
    assert!(installation.simulator.in_flight_max() <= 16, "at most maxThreads requests at once");
    installation.assert_no_violations();
}

#[test]
#[ignore = "takes half a minute: cargo test --test tests -- --ignored a_thousand_tenants"]
fn collects_a_thousand_tenants_in_one_pass() {
    let (run, installation) = collect_from_tenants(1000);
    run.assert_code(0);
    assert_eq!(installation.delivered_ids().len(), 2000);
    installation.assert_no_violations();
}
