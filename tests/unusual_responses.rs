//! Responses of the API and the login endpoint that differ from the documentation.

use std::sync::{Arc, Mutex};

use simulator::{Answer, Fault, NewBlob, Operation, Request, Requests, Subscription};

use crate::support::{Installation, hours_ago, process::in_parallel};

const FEED: &str = "Audit.General";
const OTHER_FEED: &str = "Audit.Exchange";

/// Contoso with a subscription to one feed of three blobs.
fn installation() -> Installation {
    let installation = Installation::new().setting("subscriptions: [ Audit.General ]");
    installation.contoso.subscribe(FEED);
    for hours in [4, 3, 2] {
        installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(hours)));
    }
    installation
}

/// A response with this status and JSON body instead of the API's own.
fn respond(status: u16, body: &str) -> Fault {
    let body = body.to_owned();
    Fault::instead(&format!("{status} {body}"), move |_| Answer::json(status, body.clone()))
}

#[test]
fn reads_the_error_code_from_every_form_of_body() {
    for body in [
        r#"{"error":{"code":"AF20024"}}"#,
        r#"{"error":{"code":"AF20024","message":null}}"#,
        r#"{"error":{"code":"AF20024","message":{"lang":"en","value":"It is enabled."}}}"#,
        "\u{feff}{\"Error\":{\"Code\":20024,\"Message\":\"It runs.\"}}",
        r#"{"odata.error":{"code":"AF20024: The subscription is already enabled.","message":""}}"#,
        r#"{"code":"af20024","message":"It is enabled."}"#,
    ] {
        let installation = installation();
        // The list lacks the subscription, and the start fails because it is enabled.
        installation.simulator.fault(Requests::to(Operation::ListSubscriptions).always(), respond(200, "[]"));
        installation.simulator.fault(Requests::to(Operation::StartSubscription).always(), respond(400, body));
        let run = installation.run(&[]);
        run.assert_code(0).assert_line("[INFO] Already subscribed to feed audit.general");
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
    let throttled =
        [(403, r#"{"error":{"code":"AF429","message":null}}"#), (400, r#"{"error":{"code":429}}"#)];
    in_parallel(throttled, |(status, body)| {
        let installation = installation();
        installation.simulator.fault(Requests::to(Operation::FetchBlob), respond(status, body));
        let run = installation.run(&[]);
        run.assert_code(0).assert_line_with(&["[WARN] Throttled: contoso", "AF429"]);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    });
}

#[test]
fn recognizes_disabled_auditing_in_the_error_code() {
    let installation = installation();
    let body = r#"{"error":{"code":"Microsoft.Office.Compliance.Audit.DataServiceException: Tenant 11111111-1111-4111-8111-111111111111 does not exist.\r\n   at Microsoft","message":"at Microsoft.Office.Compliance.Audit.API"}}"#;
    installation.simulator.fault(Requests::to(Operation::ListSubscriptions).always(), respond(400, body));
    let run = installation.run(&[]);
    run.assert_code(1).assert_line_with(&["[ERROR] Subscription failed", "turn auditing on", "60 minutes"]);
    assert_eq!(installation.simulator.count(Operation::ListSubscriptions), 1, "the request is not retried");
}

#[test]
fn treats_an_error_body_with_http_200_as_that_error() {
    let installation = installation();
    installation.contoso.set_subscription(FEED, Some(Subscription::Enabled));
    let none = respond(200, r#"{"error":{"code":"AF20022","message":"No subscription found."}}"#);
    installation.simulator.fault(Requests::to(Operation::ListContent), none);
    let gone = respond(200, r#"{"error":{"code":"AF20050","message":"It does not exist."}}"#);
    let blob = &installation.contoso.blobs(FEED)[0];
    installation
        .simulator
        .fault(Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always(), gone);
    let throttled = respond(200, r#"{"error":{"code":"AF429"}}"#);
    installation.simulator.fault(Requests::to(Operation::ListSubscriptions), throttled);
    let denied = respond(200, r#"{"Message":"Authorization has been denied for this request."}"#);
    installation.simulator.fault(Requests::to(Operation::FetchBlob), denied);
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line_with(&["[ERROR] Blob gone", "HTTP 200 AF20050"])
        .assert_line_with(&["[WARN] Throttled: contoso", "HTTP 200 AF429"])
        .assert_line_with(&["[WARN] Retrying blob download", "HTTP 200 Authorization has been denied"]);
    assert_eq!(installation.simulator.count(Operation::StartSubscription), 1);
    assert_eq!(installation.delivered_ids().len(), 4);

    let refused =
        r#"{"error":"invalid_client","error_description":"AADSTS7000215: Wrong.","error_codes":[7000215]}"#;
    installation.simulator.fault(Requests::to(Operation::Login).always(), respond(200, refused));
    installation.run(&[]).assert_code(77).assert_line_with(&["AADSTS7000215 the client secret is wrong"]);
}

#[test]
fn reports_a_gateways_page_by_its_title() {
    let page = |status| {
        Fault::instead("a sign-in page", move |_| {
            // Gateways do not always declare that the page is HTML.
            let body = "\u{feff}\r\n<!DOCTYPE html><html><head><title>Guest\r\n Wi-Fi &amp; you</title></head></html>";
            Answer::json(status, body)
        })
    };
    for (operation, status, code) in [
        (Operation::Login, 200, 77),
        (Operation::Login, 403, 77),
        (Operation::ListSubscriptions, 200, 1),
        (Operation::ListContent, 502, 1),
        (Operation::FetchBlob, 200, 1),
        (Operation::FetchBlob, 403, 1),
    ] {
        let installation = installation().collect("retries: 1");
        installation.simulator.fault(Requests::to(operation).always(), page(status));
        let run = installation.run(&[]);
        run.assert_code(code).assert_line_with(&[
            "[ERROR]",
            &format!("HTTP {status} a proxy or gateway answered with the page \"Guest Wi-Fi & you\""),
            "check the proxy, firewall or network sign-in page between this machine and Microsoft",
        ]);
        installation.simulator.remove_faults();
        installation.run(&[]).assert_code(0);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

#[test]
fn an_empty_next_page_uri_ends_the_listing() {
    for uri in ["", "  "] {
        let installation = installation();
        installation.simulator.fault(Requests::to(Operation::ListContent).always(), Fault::next_page(uri));
        installation.run(&[]).assert_code(0);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
}

/// Makes each second page name the first page of its window as the next.
fn loop_of_two_pages() -> Fault {
    let first = Arc::new(Mutex::new(String::new()));
    Fault::alter("loop of two pages", move |request: &Request, answer: Answer| {
        let mut first = first.lock().expect("no thread panics with the lock");
        let host = request.header("Host").unwrap_or_default();
        if !request.is_next_page() {
            *first = format!("http://{host}{}", request.target);
            return answer;
        }
        let next = first.clone();
        answer.with_header("NextPageUri", next)
    })
}

#[test]
fn a_loop_of_pages_fails_only_its_feed() {
    for fault in [Fault::endless_paging(), loop_of_two_pages()] {
        let installation = Installation::new().setting("subscriptions: [ Audit.General, Audit.Exchange ]");
        let contoso = &installation.contoso;
        contoso.settings(|settings| settings.page_size = 1);
        for feed in [FEED, OTHER_FEED] {
            for minutes in [20, 18] {
                let created = jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes);
                contoso.add_blob(feed, NewBlob::records(2).created(created));
            }
        }
        let name = fault.name().to_owned();
        let listings = Requests::to(Operation::ListContent).of_content_type(FEED);
        let looping = installation.simulator.fault(listings.always(), fault);
        let run = installation.run(&["--hours", "1"]);
        run.assert_code(1)
            .assert_line_with(&["[WARN] Listing for contoso audit.general", "listed again"])
            .assert_line_with(&["[ERROR] Listing failed for contoso audit.general", "form a loop"]);
        // Two pages, listed twice, in one or two windows.
        assert!(looping.fired() <= 8, "{name}: {} requests", looping.fired());
        assert!(
            installation.simulator.count(Operation::FetchBlob) >= 2,
            "{name}: the other feed is collected"
        );
        let status = installation.run(&["status"]);
        assert!(status.stdout.contains("form a loop"), "{name}: {status}");

        installation.simulator.remove_faults();
        installation.run(&["--hours", "1"]).assert_code(0);
        installation.assert_delivered_once([(contoso, FEED), (contoso, OTHER_FEED)]);
    }
}

#[test]
fn recovers_if_a_loop_of_pages_ends_when_listed_again() {
    let installation = installation();
    let listings = Requests::to(Operation::ListContent).of_content_type(FEED);
    installation.simulator.fault(listings, Fault::endless_paging());
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn decompresses_gzip_by_any_of_its_names() {
    for coding in ["GZIP", "x-gzip", "X-GZip , identity"] {
        let installation = installation();
        let compressed = Fault::alter(coding, move |_, answer| {
            if answer.body.is_empty() {
                answer
            } else {
                answer.compressed().with_header("Content-Encoding", coding)
            }
        });
        installation.simulator.fault(Requests::any().always(), compressed);
        installation.run(&[]).assert_code(0);
        installation.assert_delivered_once([(&installation.contoso, FEED)]);
    }
    let installation = installation();
    let error = Fault::instead("compressed error", |_| {
        let answer = Answer::json(400, r#"{"error":{"code":"AF20051"}}"#).compressed();
        answer.with_header("Content-Encoding", "X-GZIP")
    });
    let blob = &installation.contoso.blobs(FEED)[0];
    installation.simulator.fault(Requests::to(Operation::FetchBlob).of_blob(blob.content_id()), error);
    let plain = Fault::alter("identity", |_, answer| {
        let body = answer.plain_body();
        answer.with_body(body).with_header("Content-Encoding", "Identity")
    });
    installation.simulator.fault(Requests::any().always(), plain);
    installation.run(&[]).assert_code(0).assert_line_with(&["[ERROR] Blob gone", "AF20051"]);
    assert_eq!(installation.delivered_ids().len(), 4);
}

#[test]
fn retries_a_broken_gzip_body_by_any_of_its_names() {
    let installation = installation();
    let broken = Fault::alter("broken x-gzip", |_, answer| {
        let answer = answer.compressed();
        let half = answer.body[..answer.body.len() / 2].to_vec();
        answer.with_compressed_body(half).with_header("Content-Encoding", "x-gzip")
    });
    installation.simulator.fault(Requests::to(Operation::FetchBlob), broken);
    let never_gzip = Fault::alter("no gzip", |_, answer| {
        answer.with_body("nothing of gzip").with_header("Content-Encoding", "GZIP")
    });
    installation.simulator.fault(Requests::to(Operation::FetchBlob), never_gzip);
    let run = installation.run(&[]);
    run.assert_code(0)
        .assert_line_with(&["[WARN] Retrying blob download", "not the gzip data that its header declares"]);
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
fn reads_plain_text_that_claims_to_be_gzip() {
    let installation = installation();
    let claim = || {
        Fault::alter("text that claims to be gzip", |_, answer| {
            let body = answer.plain_body();
            answer.with_body(body).with_header("Content-Encoding", "gzip")
        })
    };
    installation.simulator.fault(Requests::any().always(), claim());
    let run = installation.run(&[]);
    run.assert_code(0);
    assert!(!run.stderr.contains("Retrying"), "{run}");
    installation.assert_delivered_once([(&installation.contoso, FEED)]);

    let page = Fault::instead("a page that claims to be gzip", |_| {
        let page = "<!DOCTYPE html><html><head><title>Guest Wi-Fi</title></head></html>";
        Answer::json(200, page).with_header("Content-Encoding", "gzip")
    });
    installation.simulator.remove_faults();
    installation.simulator.fault(Requests::to(Operation::Login).always(), page);
    installation.run(&[]).assert_code(77).assert_line_with(&["answered with the page \"Guest Wi-Fi\""]);
}

#[test]
fn gives_a_hint_for_each_login_error_of_a_first_setup() {
    let codes = [
        (500_011, "the tenant does not know Office 365 Management APIs"),
        (650_052, "the tenant does not know Office 365 Management APIs"),
        (500_014, "enable Office 365 Management APIs"),
        (900_439, "set api_type to gcc-high or dod"),
        (90_038, "the tenant is in another cloud"),
        (7_000_229, "the app has no service principal in this tenant"),
        (700_025, "public client"),
        (
            9_999_999,
            "A sentence of Microsoft's. See instructions.; see https://login.microsoftonline.com/error?code=9999999",
        ),
    ];
    let mut installation = Installation::new();
    let mut tenants = vec![installation.contoso.id()];
    for number in 1..codes.len() {
        tenants.push(installation.add_tenant(&format!("{number:08}-0000-4000-8000-000000000000")).id());
    }
    for ((code, _), tenant) in codes.iter().zip(&tenants) {
        let body = format!(
            r#"{{"error":"invalid_request","error_description":"AADSTS{code}: A sentence of Microsoft's. See instructions.\r\nTrace ID: x","error_codes":[{code}]}}"#
        );
        let logins = Requests::to(Operation::Login).of_tenant(tenant);
        installation.simulator.fault(logins.always(), respond(400, &body));
    }
    let run = installation.run(&[]);
    run.assert_code(77);
    for (code, hint) in codes {
        run.assert_line_with(&["[ERROR] Authentication failed", &format!("AADSTS{code} "), hint]);
    }
}
