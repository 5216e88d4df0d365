//! A failure → what to do about it. Pure, and exhaustive: every failure has one verdict.
//!
//! Source of the codes: "Office 365 Management Activity API reference", section "Errors", and what was observed beyond.

use std::time::Duration;

use super::ApiError;
use crate::network::error::NetworkError;

/// What to do about a failed request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It may work the next time: try again after a while, a bounded number of times.
    TryAgain,
    /// Too many requests: all of this tenant's wait, and the request does not count as a try.
    Throttled {
        /// What the answer asked for.
        after: Option<Duration>,
    },
    /// The token is no longer accepted: log in again, once, then try again.
    RenewToken,
    /// The feed has no subscription: start it, once, then try again.
    Subscribe,
    /// The page's token is invalid: list its window again from the start.
    ListAgain,
    /// What was asked for is done already.
    Done,
    /// The blob is gone for good.
    Gone,
    /// Another try within this pass cannot help what the request was for.
    GiveUp,
    /// The times asked for are not acceptable: correct them by the server's clock, once.
    CorrectTimes,
    /// Nothing of the feed can work in this pass; nothing of the tenant, if the request was about all of it.
    Stop,
}

/// What a request is about. **A failure stops what its request was about, and nothing else**: a request for one feed
/// says nothing about the tenant's other feeds, whatever its error code claims.
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
/// | failure | verdict | what stops |
/// | --- | --- | --- |
/// | AF10001 (permission), auditing off | [`Verdict::Stop`] | the feed; the tenant if its subscriptions were listed |
/// | AF20001–AF20003, AF20010–AF20013, AF20020 | [`Verdict::Stop`], for a blob [`Verdict::GiveUp`] | the same; for a blob, that blob: its URL came from the API and can be the only odd one |
/// | AF20022, AF20023 | [`Verdict::Subscribe`] | the feed, if it was started within the last 15 minutes |
/// | AF20024 | [`Verdict::Done`] | nothing |
/// | AF20030, AF20055 | [`Verdict::CorrectTimes`] | the feed, if the correction does not help |
/// | AF20031 | [`Verdict::ListAgain`] | the window, after `retries` |
/// | AF20050–AF20052 | [`Verdict::Gone`] | the blob, for good |
/// | AF429, HTTP 429 | [`Verdict::Throttled`] | all of the tenant's requests wait, because the quota is the tenant's |
/// | HTTP 401 | [`Verdict::RenewToken`] | the item; the feed if fresh tokens are refused too |
/// | AF50000 and others, HTTP 408 and 5xx, network, unreadable bodies | [`Verdict::TryAgain`] | the item, after `retries` |
/// | everything else | [`Verdict::GiveUp`] | the item |
///
/// An *item* is what the request was for: a blob, a window, a subscription, or a tenant's list of subscriptions.
pub fn judge(failure: &ApiError, request: RequestKind) -> Verdict {
    if request == RequestKind::Login {
        return judge_login(failure);
    }
    let stop = if request == RequestKind::FetchBlob { Verdict::GiveUp } else { Verdict::Stop };
    if failure.is_auditing_off() {
        return stop;
    }
    match failure {
        ApiError::Refused { status, code, retry_after, .. } => match &**code {
            "AF429" => Verdict::Throttled { after: *retry_after },
            "AF10001" => Verdict::Stop,
            "AF20024" => Verdict::Done,
            "AF20022" | "AF20023" => Verdict::Subscribe,
            "AF20031" => Verdict::ListAgain,
            "AF20050" | "AF20051" | "AF20052" => Verdict::Gone,
            "AF20001" | "AF20002" | "AF20003" | "AF20010" | "AF20011" | "AF20012" | "AF20013" | "AF20020" => {
                stop
            }
            "AF20030" | "AF20055" => Verdict::CorrectTimes,
            "AF50000" | "AF50005" | "AF50006" => Verdict::TryAgain,
            _ => judge_status(*status, *retry_after),
        },
        ApiError::Network(error) if error.is_transient() => Verdict::TryAgain,
        ApiError::Malformed(_) => Verdict::TryAgain,
        ApiError::TooLarge { .. } | ApiError::ForeignUrl { .. } | ApiError::Redirected { .. } => {
            Verdict::GiveUp
        }
        ApiError::Credential(_) | ApiError::Network(_) => stop,
    }
}

fn judge_status(status: u16, retry_after: Option<Duration>) -> Verdict {
    match status {
        401 => Verdict::RenewToken,
        429 => Verdict::Throttled { after: retry_after },
        // A success that is none: of a proxy's sign-in page, or of an error without a code.
        200..300 | 408 | 500.. => Verdict::TryAgain,
        _ => Verdict::GiveUp,
    }
}

/// A login is worth another try, or not.
fn judge_login(failure: &ApiError) -> Verdict {
    match failure {
        ApiError::Refused { status: 429, retry_after, .. } => Verdict::Throttled { after: *retry_after },
        ApiError::Refused { status: 408 | 500.., .. } | ApiError::Malformed(_) => Verdict::TryAgain,
        ApiError::Refused { status: 200..300, .. } if failure.is_page() => Verdict::TryAgain,
        ApiError::Network(error) if error.is_transient() => Verdict::TryAgain,
        _ => Verdict::GiveUp,
    }
}

/// Whether a request that failed for so many `tries` is best made again without any wait. A connection kept for the
/// next request may have been closed while it was idle, which says nothing about the request nor about the other side.
pub fn is_due_at_once(failure: &ApiError, tries: u32) -> bool {
    tries == 1 && matches!(failure, ApiError::Network(NetworkError::Disconnected(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> ApiError {
        ApiError::Refused {
            status,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
            server_time: None,
        }
    }

    fn silent() -> ApiError {
        ApiError::Network(NetworkError::Unreachable("no answer".to_owned()))
    }

    #[test]
    fn each_documented_error_has_its_verdict_for_each_kind_of_request() {
        use RequestKind::{FetchBlob, ListContent, ListSubscriptions, StartSubscription};
        for (status, code, verdict, for_a_blob) in [
            (403, "AF10001", Verdict::Stop, Verdict::Stop),
            (400, "AF20001", Verdict::Stop, Verdict::GiveUp),
            (400, "AF20010", Verdict::Stop, Verdict::GiveUp),
            (400, "AF20020", Verdict::Stop, Verdict::GiveUp),
            (400, "AF20022", Verdict::Subscribe, Verdict::Subscribe),
            (400, "AF20023", Verdict::Subscribe, Verdict::Subscribe),
            (400, "AF20024", Verdict::Done, Verdict::Done),
            (400, "AF20030", Verdict::CorrectTimes, Verdict::CorrectTimes),
            (400, "AF20055", Verdict::CorrectTimes, Verdict::CorrectTimes),
            (400, "AF20031", Verdict::ListAgain, Verdict::ListAgain),
            (404, "AF20050", Verdict::Gone, Verdict::Gone),
            (400, "AF20051", Verdict::Gone, Verdict::Gone),
            (400, "AF20052", Verdict::Gone, Verdict::Gone),
            (403, "AF429", Verdict::Throttled { after: None }, Verdict::Throttled { after: None }),
            (429, "", Verdict::Throttled { after: None }, Verdict::Throttled { after: None }),
            (500, "AF50000", Verdict::TryAgain, Verdict::TryAgain),
            (503, "", Verdict::TryAgain, Verdict::TryAgain),
            (408, "", Verdict::TryAgain, Verdict::TryAgain),
            (200, "", Verdict::TryAgain, Verdict::TryAgain),
            (200, "AF20022", Verdict::Subscribe, Verdict::Subscribe),
            (401, "", Verdict::RenewToken, Verdict::RenewToken),
            (403, "", Verdict::GiveUp, Verdict::GiveUp),
            (404, "", Verdict::GiveUp, Verdict::GiveUp),
        ] {
            for request in [ListSubscriptions, StartSubscription, ListContent] {
                assert_eq!(
                    judge(&refused(status, code), request),
                    verdict,
                    "HTTP {status} {code}, {request:?}"
                );
            }
            assert_eq!(judge(&refused(status, code), FetchBlob), for_a_blob, "HTTP {status} {code}");
        }
    }

    #[test]
    fn wrong_credentials_are_not_tried_again() {
        let login = |failure: &ApiError| judge(failure, RequestKind::Login);
        assert_eq!(login(&refused(401, "AADSTS7000215")), Verdict::GiveUp);
        assert_eq!(login(&refused(503, "")), Verdict::TryAgain);
        assert_eq!(login(&silent()), Verdict::TryAgain);
    }

    #[test]
    fn a_server_that_cannot_be_trusted_is_not_asked_again() {
        let untrusted = ApiError::Network(NetworkError::UntrustedCertificate("expired".to_owned()));
        let no_passage = ApiError::Network(NetworkError::ProxyRefused("407".to_owned()));
        for failure in [&untrusted, &no_passage] {
            assert_eq!(judge(failure, RequestKind::Login), Verdict::GiveUp);
            assert_eq!(judge(failure, RequestKind::ListContent), Verdict::Stop);
            assert_eq!(judge(failure, RequestKind::FetchBlob), Verdict::GiveUp);
        }
    }

    #[test]
    fn a_connection_that_was_gone_is_made_anew_at_once_and_once_only() {
        let gone = ApiError::Network(NetworkError::Disconnected("reset".to_owned()));
        for request in [RequestKind::Login, RequestKind::FetchBlob] {
            assert_eq!(judge(&gone, request), Verdict::TryAgain);
        }
        assert!(is_due_at_once(&gone, 1) && !is_due_at_once(&gone, 2));
        assert!(!is_due_at_once(&silent(), 1));
    }
}
