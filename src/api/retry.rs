//! The verdict on a failed request. Pure and exhaustive: each error has one verdict for each kind of request.
//!
//! Source of the codes: "Office 365 Management Activity API reference", section "Errors", and what was observed beyond.

use std::time::Duration;

use super::ApiError;
use crate::network::error::NetworkError;

/// What the scheduler does about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The error may be transient: retry after a delay, at most `retries` times.
    Retry,
    /// Too many requests: all requests of the tenant wait, and this one does not count as an attempt.
    Throttled {
        /// The delay that the response asks for.
        after: Option<Duration>,
    },
    /// The token is no longer accepted: log in again and retry, once.
    RenewToken,
    /// The feed has no subscription: start one and retry, once.
    Subscribe,
    /// The token of the page is invalid: list its window again from the first page.
    RestartListing,
    /// The requested state holds already.
    AlreadyDone,
    /// The blob has expired or was removed permanently.
    Gone,
    /// Another attempt in this pass cannot help this item.
    FailItem,
    /// The requested times are not acceptable: correct them by the server's clock and retry, once.
    CorrectTimes,
    /// No request of the same scope can succeed in this pass: stop the feed, or the tenant where the request was about the
    /// whole tenant.
    StopScope,
}

/// The kind of a request, which determines its scope. **A failure affects the scope of its request and nothing else**: a
/// request for one feed says nothing about the other feeds of the tenant, whatever the error code claims.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RequestKind {
    /// A login: the tenant.
    Login,
    /// `subscriptions/list`: the tenant.
    ListSubscriptions,
    /// `subscriptions/start`: one feed.
    StartSubscription,
    /// A page of `subscriptions/content`: one window of one feed.
    ListContent,
    /// A blob.
    FetchBlob,
}

/// Returns what to do about a failed request.
///
/// | error | verdict | what stops |
/// | --- | --- | --- |
/// | AF10001 (permission), auditing off | [`Verdict::StopScope`] | the feed; the tenant if its subscriptions were listed |
/// | AF20001–AF20003, AF20010–AF20013, AF20020 | [`Verdict::StopScope`], for a blob [`Verdict::FailItem`] | the same, or the blob |
/// | AF20022, AF20023 | [`Verdict::Subscribe`] | the feed, if it was started within the last 15 minutes |
/// | AF20024 | [`Verdict::AlreadyDone`] | nothing |
/// | AF20030, AF20055 | [`Verdict::CorrectTimes`] | the feed, if the correction does not help |
/// | AF20031 | [`Verdict::RestartListing`] | the window, after `retries` |
/// | AF20050–AF20052 | [`Verdict::Gone`] | the blob, permanently |
/// | AF429, HTTP 429 | [`Verdict::Throttled`] | nothing; all requests of the tenant wait, because the quota is per tenant |
/// | HTTP 401 | [`Verdict::RenewToken`] | the item; the feed if fresh tokens are rejected too |
/// | AF50000 and others, HTTP 408 and 5xx, network, unreadable bodies | [`Verdict::Retry`] | the item, after `retries` |
/// | everything else | [`Verdict::FailItem`] | the item |
///
/// An *item* is a blob, a window, a subscription, or the list of a tenant's subscriptions. A blob with a wrong URL stops
/// nothing else, because that URL came from the API and may be the only wrong one.
pub fn judge(error: &ApiError, request: RequestKind) -> Verdict {
    if request == RequestKind::Login {
        return judge_login(error);
    }
    let stop_scope = if request == RequestKind::FetchBlob { Verdict::FailItem } else { Verdict::StopScope };
    if error.is_auditing_off() {
        return stop_scope;
    }
    match error {
        ApiError::Response { status, code, retry_after, .. } => match &**code {
            "AF429" => Verdict::Throttled { after: *retry_after },
            "AF10001" => Verdict::StopScope,
            "AF20024" => Verdict::AlreadyDone,
            "AF20022" | "AF20023" => Verdict::Subscribe,
            "AF20031" => Verdict::RestartListing,
            "AF20050" | "AF20051" | "AF20052" => Verdict::Gone,
            "AF20001" | "AF20002" | "AF20003" | "AF20010" | "AF20011" | "AF20012" | "AF20013" | "AF20020" => {
                stop_scope
            }
            "AF20030" | "AF20055" => Verdict::CorrectTimes,
            "AF50000" | "AF50005" | "AF50006" => Verdict::Retry,
            _ => judge_status(*status, *retry_after),
        },
        ApiError::Network(network) if network.is_transient() => Verdict::Retry,
        ApiError::Malformed(_) => Verdict::Retry,
        ApiError::TooLarge { .. } | ApiError::ForeignUrl { .. } | ApiError::Redirected { .. } => {
            Verdict::FailItem
        }
        ApiError::Credential(_) | ApiError::ManagedIdentity(_) | ApiError::Network(_) => stop_scope,
    }
}

fn judge_status(status: u16, retry_after: Option<Duration>) -> Verdict {
    match status {
        401 => Verdict::RenewToken,
        429 => Verdict::Throttled { after: retry_after },
        // Not a real success: a sign-in page of a proxy, or an error without a code.
        200..300 | 408 | 500.. => Verdict::Retry,
        _ => Verdict::FailItem,
    }
}

/// A login is either retried or not: it affects the whole tenant.
fn judge_login(error: &ApiError) -> Verdict {
    match error {
        ApiError::Response { status: 429, retry_after, .. } => Verdict::Throttled { after: *retry_after },
        ApiError::Response { status: 408 | 500.., .. } | ApiError::Malformed(_) => Verdict::Retry,
        ApiError::Response { status: 200..300, .. } if error.is_page() => Verdict::Retry,
        ApiError::Network(network) if network.is_transient() => Verdict::Retry,
        ApiError::ManagedIdentity(error) if error.is_transient() => Verdict::Retry,
        _ => Verdict::FailItem,
    }
}

/// Returns whether a request that failed `failures` times is retried without a delay. An idle connection may have been
/// closed by the peer, which says nothing about the request or the server.
pub fn retries_without_delay(error: &ApiError, failures: u32) -> bool {
    failures == 1 && matches!(error, ApiError::Network(NetworkError::Disconnected(_)))
}

/// Returns the shortest delay before a retry. A service that is being updated says how long that takes.
pub fn delay_min(error: &ApiError) -> Duration {
    match error {
        ApiError::ManagedIdentity(error) => error.delay_min(),
        _ => Duration::ZERO,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error_response(status: u16, code: &str) -> ApiError {
        ApiError::Response {
            status,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
            server_time: None,
        }
    }

    fn no_answer() -> ApiError {
        ApiError::Network(NetworkError::Unreachable("no answer".to_owned()))
    }

    #[test]
    fn each_documented_error_has_a_verdict_per_request_kind() {
        use RequestKind::{FetchBlob, ListContent, ListSubscriptions, StartSubscription};
        for (status, code, verdict, for_a_blob) in [
            (403, "AF10001", Verdict::StopScope, Verdict::StopScope),
            (400, "AF20001", Verdict::StopScope, Verdict::FailItem),
            (400, "AF20010", Verdict::StopScope, Verdict::FailItem),
            (400, "AF20020", Verdict::StopScope, Verdict::FailItem),
            (400, "AF20022", Verdict::Subscribe, Verdict::Subscribe),
            (400, "AF20023", Verdict::Subscribe, Verdict::Subscribe),
            (400, "AF20024", Verdict::AlreadyDone, Verdict::AlreadyDone),
            (400, "AF20030", Verdict::CorrectTimes, Verdict::CorrectTimes),
            (400, "AF20055", Verdict::CorrectTimes, Verdict::CorrectTimes),
            (400, "AF20031", Verdict::RestartListing, Verdict::RestartListing),
            (404, "AF20050", Verdict::Gone, Verdict::Gone),
            (400, "AF20051", Verdict::Gone, Verdict::Gone),
            (400, "AF20052", Verdict::Gone, Verdict::Gone),
            (403, "AF429", Verdict::Throttled { after: None }, Verdict::Throttled { after: None }),
            (429, "", Verdict::Throttled { after: None }, Verdict::Throttled { after: None }),
            (500, "AF50000", Verdict::Retry, Verdict::Retry),
            (503, "", Verdict::Retry, Verdict::Retry),
            (408, "", Verdict::Retry, Verdict::Retry),
            (200, "", Verdict::Retry, Verdict::Retry),
            (200, "AF20022", Verdict::Subscribe, Verdict::Subscribe),
            (401, "", Verdict::RenewToken, Verdict::RenewToken),
            (403, "", Verdict::FailItem, Verdict::FailItem),
            (404, "", Verdict::FailItem, Verdict::FailItem),
        ] {
            for request in [ListSubscriptions, StartSubscription, ListContent] {
                assert_eq!(
                    judge(&error_response(status, code), request),
                    verdict,
                    "HTTP {status} {code}, {request:?}"
                );
            }
            assert_eq!(judge(&error_response(status, code), FetchBlob), for_a_blob, "HTTP {status} {code}");
        }
    }

    #[test]
    fn does_not_retry_wrong_credentials() {
        let login = |error: &ApiError| judge(error, RequestKind::Login);
        assert_eq!(login(&error_response(401, "AADSTS7000215")), Verdict::FailItem);
        assert_eq!(login(&error_response(503, "")), Verdict::Retry);
        assert_eq!(login(&no_answer()), Verdict::Retry);
    }

    #[test]
    fn does_not_retry_an_untrusted_server() {
        let untrusted = ApiError::Network(NetworkError::UntrustedCertificate("expired".to_owned()));
        let rejected_by_proxy = ApiError::Network(NetworkError::ProxyRejected("407".to_owned()));
        for failure in [&untrusted, &rejected_by_proxy] {
            assert_eq!(judge(failure, RequestKind::Login), Verdict::FailItem);
            assert_eq!(judge(failure, RequestKind::ListContent), Verdict::StopScope);
            assert_eq!(judge(failure, RequestKind::FetchBlob), Verdict::FailItem);
        }
    }

    #[test]
    fn retries_once_without_delay_after_a_closed_connection() {
        let closed = ApiError::Network(NetworkError::Disconnected("reset".to_owned()));
        for request in [RequestKind::Login, RequestKind::FetchBlob] {
            assert_eq!(judge(&closed, request), Verdict::Retry);
        }
        assert!(retries_without_delay(&closed, 1) && !retries_without_delay(&closed, 2));
        assert!(!retries_without_delay(&no_answer(), 1));
    }
}
