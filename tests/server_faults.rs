//! Faults of Microsoft's servers and of the network: no blob is delivered in part, no record is lost, and other feeds and
//! tenants are collected.

use std::time::Duration;

use simulator::{ApiError, CONTENT_TYPES, Fault, LoginError, NewBlob, Operation, Requests};

use crate::support::{Installation, hours_ago, process::in_parallel};

/// Contoso with some blobs of Audit.General.
fn one_feed() -> Installation {
    let installation = Installation::new();
    installation.contoso.add_blobs("Audit.General", 6, 4, hours_ago(20)..hours_ago(2));
    installation
}

#[test]
fn retries_each_transient_fault() {
    in_parallel(Fault::transient(), |fault| {
        let name = fault.name().to_owned();
        let installation = one_feed();
        let mut operations = vec![Operation::ListSubscriptions, Operation::ListContent, Operation::FetchBlob];
        if !name.to_lowercase().contains("throttled") {
            operations.push(Operation::Login); // the login endpoint does not return the API's error codes
        }
        for operation in operations {
            installation.simulator.fault(Requests::to(operation).times(1), fault.clone());
        }
        let run = installation.run(&[]);
        assert_eq!(run.code, Some(0), "{name}: {run}");
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
        if name.to_lowercase().contains("throttled") {
            run.assert_line_with(&["[WARN] Throttled: contoso makes no request for"]);
            return;
        }
        run.assert_line_with(&[
            "[WARN] Retrying blob download for contoso audit.general blob",
            "(attempt 2 of 4)",
        ]);
        run.assert_line_with(&["Blobs successful: 6 |", "Blobs retried: 1 |"]);
    });
}

#[test]
fn reports_a_failing_blob_and_delivers_it_in_a_later_pass() {
    for fault in [
        Fault::malformed_json(),
        Fault::cut_body(),
        Fault::cut_gzip(),
        Fault::unfinished_chunks(),
        Fault::html(200),
        Fault::empty_body(),
        Fault::status(503),
        Fault::gzip_bomb(16),
        Fault::redirect(302, "http://192.0.2.1/"),
        Fault::close(),
        Fault::reset(),
    ] {
        let name = fault.name().to_owned();
        let installation = one_feed();
        let blob = installation.contoso.blobs("Audit.General").remove(2);
        installation
            .simulator
            .fault(Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always(), fault);
        let run = installation.run(&[]);
        assert_eq!(run.code, Some(1), "{name}: {run}");
        run.assert_line_with(&[
            "[ERROR] Blob download failed for contoso audit.general blob",
            blob.content_id(),
        ]);
        run.assert_line_with(&["Blobs found: 6 | Blobs successful: 5 | Blobs failed: 1 |", "Logs saved: 20"]);
        let delivered = installation.delivered_ids();
        assert!(
            blob.ids().iter().all(|id| !delivered.contains_key(id)),
            "{name}: a part of the blob is delivered"
        );

        installation.simulator.remove_faults();
        installation.run(&[]).assert_code(0).assert_line_with(&["Blobs found: 1 | Blobs successful: 1"]);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    }
}

#[test]
fn rejects_a_gzip_bomb_with_a_hint() {
    let installation = one_feed();
    installation.simulator.fault(Requests::to(Operation::FetchBlob).times(1), Fault::gzip_bomb(16));
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Blob download failed",
        "larger than curl_max_size (10485760 bytes)",
        "raise curl_max_size",
    ]);
}

#[test]
fn sends_the_token_only_to_the_api() {
    let other_origin = simulator::Simulator::start();
    let installation = one_feed();
    let simulator = &installation.simulator;
    simulator
        .fault(Requests::to(Operation::ListContent).always(), Fault::foreign_content_uri(other_origin.url()));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Blob download failed",
        "contentUri",
        "no token was sent there",
    ]);

    simulator.remove_faults();
    let next = format!("{}/api/v1.0/next", other_origin.url());
    simulator.fault(Requests::to(Operation::ListContent).always(), Fault::next_page(&next));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&[
        "[ERROR] Listing failed",
        "NextPageUri",
        "no token was sent there",
    ]);

    simulator.remove_faults();
    simulator.fault(
        Requests::to(Operation::ListContent).times(1),
        Fault::redirect(302, &format!("{}/redirected", other_origin.url())),
    );
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR] Listing failed", "redirects to"]);
    assert_eq!(other_origin.connections(), 0);

    simulator.remove_faults();
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn counts_a_gone_blob_and_collects_the_rest() {
    for error in [ApiError::ContentMissing, ApiError::ContentExpired] {
        let installation = one_feed();
        let blob = installation.contoso.blobs("Audit.General").remove(0);
        installation.simulator.fault(
            Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always(),
            Fault::api_error(error),
        );
        let run = installation.run(&[]);
        run.assert_code(0)
            .assert_line_with(&["[ERROR] Blob gone for contoso audit.general blob", blob.content_id()]);
        run.assert_line_with(&["Blobs successful: 5 |", "| Blobs gone: 1"]);
    }
}

#[test]
fn renews_a_token_that_is_rejected_during_a_pass() {
    let installation = Installation::new().collect("maxThreads: 8");
    let contoso = &installation.contoso;
    contoso.add_blobs("Audit.General", 40, 2, hours_ago(20)..hours_ago(2));
    let requests = Requests::to(Operation::FetchBlob).after(10).times(1);
    installation.simulator.fault(requests, Fault::unauthorized());
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, "Audit.General")]);
    assert_eq!(installation.simulator.count(Operation::Login), 2);
}

#[test]
fn renews_each_token_before_it_expires() {
    let installation =
        Installation::new().setting("subscriptions: [ Audit.General ]").collect("maxThreads: 4");
    let contoso = &installation.contoso;
    contoso.settings(|settings| settings.token_lifetime = Duration::from_secs(3));
    // The last of these is requested at least 3.6 s after the first login.
    contoso.add_blobs("Audit.General", 28, 1, hours_ago(20)..hours_ago(2));
    installation.simulator.set_latency(Duration::from_millis(400));
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(contoso, "Audit.General")]);
    let logins = installation.simulator.count(Operation::Login);
    assert!((2..=40).contains(&logins), "{logins} logins");
    installation.assert_no_violations();
}

#[test]
fn gives_up_a_tenant_whose_tokens_are_rejected_after_a_few_logins() {
    let installation = one_feed();
    for content_type in CONTENT_TYPES {
        installation.contoso.subscribe(content_type); // a start would be accepted, and reset the count
    }
    installation.simulator.fault(Requests::to(Operation::FetchBlob).always(), Fault::unauthorized());
    installation.simulator.fault(Requests::to(Operation::ListContent).always(), Fault::unauthorized());
    installation.run(&[]).assert_code(1).assert_line_with(&["[ERROR]", "401"]);
    let logins = installation.simulator.count(Operation::Login);
    assert!(logins <= 5, "{logins} logins");
}

#[test]
fn continues_with_a_throttled_tenant_after_the_wait() {
    in_parallel([403, 429], |status| {
        let installation = one_feed();
        let fault = installation
            .simulator
            .fault(Requests::to(Operation::FetchBlob).after(1).times(2), Fault::throttled(status, None));
        installation.run(&[]).assert_code(0).assert_line_with(&["[WARN] Throttled: contoso"]);
        assert_eq!(fault.fired(), 2);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
    });
}

#[test]
fn restarts_a_subscription_that_vanished() {
    for error in [ApiError::NoSubscription, ApiError::SubscriptionDisabled] {
        let installation = one_feed();
        for content_type in CONTENT_TYPES {
            installation.contoso.subscribe(content_type);
        }
        installation.simulator.fault(
            Requests::to(Operation::ListContent).of_content_type("Audit.General").times(1),
            Fault::api_error(error),
        );
        installation.run(&[]).assert_code(0);
        installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
        assert_eq!(installation.simulator.count(Operation::StartSubscription), 1);
    }
}

#[test]
fn accepts_a_subscription_that_is_already_enabled() {
    let installation = one_feed();
    let fault = installation.simulator.fault(
        Requests::to(Operation::StartSubscription).of_content_type("Audit.General").times(1),
        Fault::api_error(ApiError::AlreadyEnabled),
    );
    installation.contoso.subscribe("Audit.General");
    installation.simulator.fault(
        Requests::to(Operation::ListSubscriptions).times(1),
        Fault::instead("no subscriptions", |_| simulator::Answer::json(200, "[]")),
    );
    installation.run(&[]).assert_code(0).assert_line("[INFO] Already subscribed to feed audit.general");
    assert_eq!(fault.fired(), 1);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn lists_a_window_again_if_its_page_token_becomes_invalid() {
    let installation = one_feed();
    installation.contoso.settings(|settings| settings.page_size = 2);
    let fault = installation.simulator.fault(
        Requests::to(Operation::ListContent).of_next_pages().times(1),
        Fault::api_error(ApiError::PageTokenInvalid),
    );
    installation.run(&[]).assert_code(0);
    assert_eq!(fault.fired(), 1);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn follows_next_pages_in_every_spelling_of_their_header() {
    for header in ["NextPageUri", "nextpageuri", "NEXTPAGEURI", "NextPageUrl"] {
        for version in ["v1.0", "v1"] {
            let installation = one_feed();
            installation.contoso.settings(|settings| {
                settings.page_size = 2;
                settings.next_page_header = header.to_owned();
                settings.next_page_version = version.to_owned();
            });
            installation.run(&[]).assert_code(0);
            installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
            installation.assert_no_violations();
        }
    }
}

#[test]
fn keeps_collecting_if_one_tenant_or_feed_fails() {
    let (installation, fabrikam) = Installation::with_fabrikam();
    for content_type in ["Audit.General", "Audit.Exchange"] {
        for tenant in [&installation.contoso, &fabrikam] {
            tenant.add_blobs(content_type, 3, 2, hours_ago(20)..hours_ago(2));
        }
    }
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    installation.simulator.fault(
        Requests::to(Operation::ListContent).of_content_type("Audit.Exchange").always(),
        Fault::status(500),
    );
    let run = installation.run(&[]);
    run.assert_code(1)
        .assert_line_with(&["[ERROR] Authentication failed for contoso: AADSTS7000222", "create a new one"])
        .assert_line_with(&["[ERROR] Listing failed for fabrikam audit.exchange: HTTP 500"]);
    installation.assert_delivered_once([(&fabrikam, "Audit.General")]);
}

#[test]
fn gives_up_a_stalled_blob_after_the_request_timeout() {
    let installation = Installation::new().collect("requestTimeout: 1s\n  retries: 1");
    installation.contoso.add_blobs("Audit.General", 3, 2, hours_ago(20)..hours_ago(2));
    let blob = installation.contoso.blobs("Audit.General").remove(1);
    installation.simulator.fault(
        Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always(),
        Fault::stall_in_body(None),
    );
    installation.run(&[]).assert_code(1).assert_line_with(&[
        "[ERROR] Blob download failed",
        blob.content_id(),
        "time",
    ]);
    assert_eq!(installation.delivered_ids().len(), 4);
}

#[test]
fn accepts_a_body_that_arrives_slowly_but_steadily() {
    let installation = Installation::new().collect("requestTimeout: 1s");
    installation.contoso.settings(|settings| settings.gzip = false);
    let blob = installation.contoso.add_blob("Audit.General", NewBlob::records(12).created(hours_ago(2)));
    // Eight pieces, with a pause after each: longer than the timeout altogether, and much faster than 1 KB/s.
    let drip = Fault::drip(blob.body().len() / 7, Duration::from_millis(200));
    installation.simulator.fault(Requests::to(Operation::FetchBlob).times(1), drip);
    installation.run(&[]).assert_code(0);
    assert_eq!(installation.simulator.count(Operation::FetchBlob), 1);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn stops_following_endless_pages() {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(1).created(hours_ago(2)));
    installation.simulator.fault(
        Requests::to(Operation::ListContent).of_content_type("Audit.General").always(),
        Fault::endless_paging(),
    );
    installation
        .run(&[])
        .assert_code(1)
        .assert_line_with(&["[ERROR] Listing failed for contoso audit.general"]);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}
