//! Every error that the API documents: what a pass does about it, and what it says.

use simulator::{ApiError, Fault, LoginError, NewBlob, Operation, Requests, RetryAfter};

use crate::support::{Installation, Run, hours_ago, process::in_parallel};

const FEED: &str = "Audit.General";

/// Contoso, subscribed to one feed, with two blobs in it.
fn installation() -> Installation {
    let installation = Installation::new();
    installation.contoso.subscribe(FEED);
    for hours in [3, 2] {
        installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(hours)));
    }
    installation
}

/// What a pass makes of an error that never passes.
struct Reaction {
    error: ApiError,
    /// Where it strikes.
    operation: Operation,
    code: i32,
    /// One line of the log holds all of these.
    line: &'static [&'static str],
    /// How often the request is made that meets it: for one listing or one blob.
    tries: usize,
}

fn reaction(
    error: ApiError,
    operation: Operation,
    code: i32,
    tries: usize,
    line: &'static [&'static str],
) -> Reaction {
    Reaction { error, operation, code, line, tries }
}

/// A row for each row of the API's table of errors.
fn reactions() -> Vec<Reaction> {
    use ApiError::{
        AuditingOff, ContentExpired, ContentIdInvalid, ContentMissing, ContentTypeInvalid, Internal,
        InternalDatabase, InternalStorage, ParameterInvalid, ParameterMissing, ParameterTypeWrong,
        PermissionMissing, TenantMisconfigured, TenantMismatch, TenantNotGuid, TenantUnknown, TimesInvalid,
        TimesOutOfRange,
    };
    use Operation::{FetchBlob, ListContent, ListSubscriptions};
    let stopped = |error, line| reaction(error, ListSubscriptions, 1, 1, line);
    let mut rows = vec![
        stopped(
            PermissionMissing,
            &["Subscription failed for contoso", "AF10001", "ActivityFeed.Read ", "Grant admin consent"],
        ),
        stopped(TenantMismatch, &["AF20010", "check tenant_id and api_type"]),
        stopped(TenantUnknown, &["AF20011", "check tenant_id and api_type"]),
        stopped(TenantMisconfigured, &["AF20012", "check tenant_id and api_type"]),
        stopped(TenantNotGuid, &["AF20013", "check tenant_id and api_type"]),
        stopped(AuditingOff, &["turn auditing on: Set-AdminAuditLogConfig"]),
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
fn each_documented_error_has_its_reaction_and_a_message_to_act_on() {
    for Reaction { error, operation, code, line, tries } in reactions() {
        let installation = installation();
        let mut requests = Requests::to(operation).always();
        if operation == Operation::FetchBlob {
            requests = requests.of_blob(installation.contoso.blobs(FEED)[0].content_id());
        }
        let fault = installation.simulator.fault(requests, Fault::api_error(error));
        let config = installation.config() + "subscriptions: [ Audit.General ]\n";
        std::fs::write(installation.path("one-feed.yaml"), config).expect("a file");
        let run = installation.run_bare(&["-c", "one-feed.yaml"]);
        assert_eq!(run.code, Some(code), "{error:?}: {run}");
        let holds =
            |logged: &&str| logged.starts_with("[ERROR]") && line.iter().all(|part| logged.contains(part));
        assert!(run.log().iter().any(holds), "{error:?}: no line with {line:?} in {run}");
        // A listing is cut into two windows at the most.
        let asked = fault.fired();
        assert!((tries..=tries * 2).contains(&asked), "{error:?}: asked {asked} times");

        installation.simulator.remove_faults();
        let run = installation.run_bare(&["-c", "one-feed.yaml"]);
        assert_eq!(run.code, Some(0), "the pass after {error:?}: {run}");
        let gone = u64::from(code == 0);
        let blobs = 2 - gone;
        assert_eq!(installation.delivered_ids().len() as u64, blobs * 2, "{error:?}");
    }
}

#[test]
fn each_refused_login_says_what_it_means() {
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
        assert_eq!(installation.simulator.count(Operation::Login), 1, "{error:?} is not tried again");
        assert!(!run.stderr.contains("No new blobs found"), "nothing was listed: {run}");
    }
}

#[test]
fn a_throttled_tenant_waits_as_long_as_it_is_told() {
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
            assert!(waited >= jiff::SignedDuration::from_millis(900), "the next request came after {waited}");
        },
    );
}

#[test]
fn a_throttled_tenant_holds_up_no_other() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for tenant in [&installation.contoso, &fabrikam] {
        tenant.add_blobs(FEED, 5, 2, hours_ago(20)..hours_ago(2));
    }
    let fault = Fault::throttled(403, Some(RetryAfter::Seconds(5)));
    let requests = Requests::to(Operation::ListSubscriptions).of_tenant(&installation.contoso.id());
    installation.simulator.fault(requests.times(1), fault);
    installation.run(&[]).assert_code(0);
    let seen = installation.simulator.requests_to(Operation::FetchBlob);
    let tenants: Vec<_> = seen.iter().map(|seen| seen.request.tenant.clone().expect("a tenant")).collect();
    assert!(tenants[..5].iter().all(|tenant| *tenant == fabrikam.id()), "{tenants:?}");
    installation.assert_delivered_once([(&installation.contoso, FEED), (&fabrikam, FEED)]);
}

#[test]
fn a_clock_that_is_wrong_is_reported_and_corrected_for() {
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
fn an_absurd_date_of_an_answer_is_not_believed() {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.General", 3, 2, hours_ago(20)..hours_ago(2));
    let date = "9999-12-30T21:59:59Z".parse().expect("a time");
    installation.simulator.fault(Requests::to(Operation::Login).always(), Fault::date(date));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn times_that_are_not_acceptable_are_corrected_once_by_the_servers_clock() {
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
fn a_quiet_tenant_costs_a_request_a_feed_and_two() {
    let installation = Installation::new();
    installation.run(&[]).assert_code(0);
    installation.simulator.forget_requests();
    installation.run(&[]).assert_code(0);
    let requests = installation.simulator.requests().len();
    // Twelve if a new hour has just begun.
    assert!(requests == 7 || requests == 12, "{requests} requests");
}

#[test]
fn a_busy_feed_is_listed_by_the_hour_and_each_blob_is_fetched_once() {
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
    assert!(starts.len() >= 20, "parts of an hour: {starts:?}");
    assert!(starts.iter().all(|start| start.ends_with(":00:00") || start.contains(":00:00.")), "{starts:?}");
}

/// A pass over many tenants with a handful of blobs each; returns the run and the simulator's requests.
fn many_tenants(count: usize) -> (Run, Installation) {
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
fn a_hundred_tenants_are_collected_in_one_pass() {
    let (run, installation) = many_tenants(100);
    run.assert_code(0);
    assert_eq!(installation.delivered_ids().len(), 200);
    assert_eq!(installation.simulator.count(Operation::Login), 101);
    assert!(installation.simulator.in_flight_max() <= 16);
    installation.assert_no_violations();
}

/// Run with `cargo test --release -- --ignored thousand_tenants`.
#[test]
#[ignore = "takes half a minute: cargo test --test tests -- --ignored a_thousand_tenants"]
fn a_thousand_tenants_are_collected_in_one_pass() {
    let (run, installation) = many_tenants(1000);
    run.assert_code(0);
    assert_eq!(installation.delivered_ids().len(), 2000);
    installation.assert_no_violations();
}
