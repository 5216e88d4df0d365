//! A failure → what to do about it. Pure, and exhaustive: every failure has one verdict.
//!
//! Source of the codes: "Office 365 Management Activity API reference", section "Errors", and what was observed beyond.

use std::time::Duration;

use super::Failure;
use crate::network::trouble::Trouble;

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
    /// Another try within this pass cannot help this item.
    GiveUp,
    /// The times asked for are not acceptable: correct them by the server's clock, once.
    CorrectTimes,
    /// Nothing of this feed can work in this pass.
    StopFeed,
    /// Nothing of this tenant can work in this pass.
    StopTenant,
}

/// Judges a failed request to the API.
pub fn judge(failure: &Failure) -> Verdict {
    if failure.is_auditing_off() {
        return Verdict::StopTenant;
    }
    match failure {
        Failure::Refused { status, code, retry_after, .. } => judge_code(code, *status, *retry_after),
        Failure::Network(trouble) if trouble.is_passing() => Verdict::TryAgain,
        Failure::Malformed(_) => Verdict::TryAgain,
        Failure::TooLarge { .. } | Failure::ForeignUrl { .. } | Failure::Redirected { .. } => Verdict::GiveUp,
        Failure::Credential(_) | Failure::Network(_) => Verdict::StopTenant,
    }
}

fn judge_code(code: &str, status: u16, retry_after: Option<Duration>) -> Verdict {
    match code {
        "AF429" => Verdict::Throttled { after: retry_after },
        "AF20024" => Verdict::Done,
        "AF20022" | "AF20023" => Verdict::Subscribe,
        "AF20031" => Verdict::ListAgain,
        "AF20050" | "AF20051" | "AF20052" => Verdict::Gone,
        "AF10001" | "AF20010" | "AF20011" | "AF20012" | "AF20013" => Verdict::StopTenant,
        "AF20030" | "AF20055" => Verdict::CorrectTimes,
        "AF20020" | "AF20001" | "AF20002" | "AF20003" => Verdict::StopFeed,
        "AF50000" | "AF50005" | "AF50006" => Verdict::TryAgain,
        _ => match status {
            401 => Verdict::RenewToken,
            429 => Verdict::Throttled { after: retry_after },
            // A success that is none: of a proxy's sign-in page, or of an error without a code.
            200..300 | 408 | 500.. => Verdict::TryAgain,
            _ => Verdict::GiveUp,
        },
    }
}

/// Judges a failed login: worth another try, or not.
pub fn judge_login(failure: &Failure) -> Verdict {
    match failure {
        Failure::Refused { status: 429, retry_after, .. } => Verdict::Throttled { after: *retry_after },
        Failure::Refused { status: 408 | 500.., .. } | Failure::Malformed(_) => Verdict::TryAgain,
        Failure::Refused { status: 200..300, .. } if failure.is_page() => Verdict::TryAgain,
        Failure::Network(trouble) if trouble.is_passing() => Verdict::TryAgain,
        _ => Verdict::StopTenant,
    }
}

/// Whether a request that failed for so many `tries` is best made again without any wait. A connection kept for the
/// next request may have been closed while it was idle, which says nothing about the request nor about the other side.
pub fn is_due_at_once(failure: &Failure, tries: u32) -> bool {
    tries == 1 && matches!(failure, Failure::Network(Trouble::Disconnected(_)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(status: u16, code: &str) -> Failure {
        Failure::Refused {
            status,
            code: code.to_owned(),
            message: String::new(),
            retry_after: None,
            server_time: None,
        }
    }

    fn silent() -> Failure {
        Failure::Network(Trouble::Silent("no answer".to_owned()))
    }

    #[test]
    fn each_documented_error_has_its_verdict() {
        for (status, code, verdict) in [
            (403, "AF10001", Verdict::StopTenant),
            (400, "AF20001", Verdict::StopFeed),
            (400, "AF20010", Verdict::StopTenant),
            (400, "AF20020", Verdict::StopFeed),
            (400, "AF20022", Verdict::Subscribe),
            (400, "AF20023", Verdict::Subscribe),
            (400, "AF20024", Verdict::Done),
            (400, "AF20030", Verdict::CorrectTimes),
            (400, "AF20055", Verdict::CorrectTimes),
            (400, "AF20031", Verdict::ListAgain),
            (404, "AF20050", Verdict::Gone),
            (400, "AF20051", Verdict::Gone),
            (400, "AF20052", Verdict::Gone),
            (403, "AF429", Verdict::Throttled { after: None }),
            (429, "", Verdict::Throttled { after: None }),
            (500, "AF50000", Verdict::TryAgain),
            (503, "", Verdict::TryAgain),
            (408, "", Verdict::TryAgain),
            (200, "", Verdict::TryAgain),
            (200, "AF20022", Verdict::Subscribe),
            (401, "", Verdict::RenewToken),
            (403, "", Verdict::GiveUp),
            (404, "", Verdict::GiveUp),
        ] {
            assert_eq!(judge(&refused(status, code)), verdict, "HTTP {status} {code}");
        }
    }

    #[test]
    fn wrong_credentials_are_not_tried_again() {
        assert_eq!(judge_login(&refused(401, "AADSTS7000215")), Verdict::StopTenant);
        assert_eq!(judge_login(&refused(503, "")), Verdict::TryAgain);
        assert_eq!(judge_login(&silent()), Verdict::TryAgain);
    }

    #[test]
    fn who_cannot_be_trusted_is_not_asked_again() {
        let untrusted = Failure::Network(Trouble::Untrusted("expired".to_owned()));
        let no_passage = Failure::Network(Trouble::NoPassage("407".to_owned()));
        for failure in [&untrusted, &no_passage] {
            assert_eq!((judge(failure), judge_login(failure)), (Verdict::StopTenant, Verdict::StopTenant));
        }
    }

    #[test]
    fn a_connection_that_was_gone_is_made_anew_at_once_and_once_only() {
        let gone = Failure::Network(Trouble::Disconnected("reset".to_owned()));
        assert_eq!((judge(&gone), judge_login(&gone)), (Verdict::TryAgain, Verdict::TryAgain));
        assert!(is_due_at_once(&gone, 1) && !is_due_at_once(&gone, 2));
        assert!(!is_due_at_once(&silent(), 1));
    }
}
