//! The rules that every request must follow. A request that violates one is answered as Microsoft would, and recorded.

use jiff::SignedDuration;

use crate::{
    CONTENT_TYPES,
    answer::Answer,
    api_error::ApiError,
    blob::Window,
    managed_identity,
    request::{Operation, Request},
    time,
};

/// A rule that a request violates.
pub(crate) struct Violation {
    /// What the client did.
    pub(crate) text: String,
    /// The answer.
    pub(crate) answer: Box<Answer>,
}

pub(crate) fn violation<T>(text: impl Into<String>, answer: Answer) -> Result<T, Violation> {
    Err(Violation { text: text.into(), answer: Box::new(answer) })
}

/// Checks a request, without regard to the tenant's data.
pub(crate) fn check(request: &Request) -> Result<(), Violation> {
    if request.header("Host").is_none() {
        return violation("no Host header", Answer::status(400));
    }
    let method = match request.operation {
        Operation::Login | Operation::StartSubscription | Operation::StopSubscription => "POST",
        Operation::Unknown => return violation("no such operation", Answer::status(404)),
        _ => "GET",
    };
    if request.method != method {
        return violation(
            format!("the method is not {method}"),
            Answer::status(405).with_header("Allow", method),
        );
    }
    match request.operation {
        Operation::Login => check_login(request),
        Operation::Root => check_anonymous(request),
        Operation::ManagedIdentity => managed_identity::check(request),
        _ => check_api(request),
    }
}

fn check_login(request: &Request) -> Result<(), Violation> {
    if request.header("Authorization").is_some() {
        return violation("an Authorization header at the login endpoint", Answer::status(400));
    }
    if !request.query.is_empty() {
        return violation("a login with parameters in its URL", Answer::status(400));
    }
    let mime = request.header("Content-Type").unwrap_or_default();
    if !mime.starts_with("application/x-www-form-urlencoded") {
        return violation(format!("a login as {mime:?} instead of as a form"), Answer::status(400));
    }
    Ok(())
}

fn check_anonymous(request: &Request) -> Result<(), Violation> {
    if request.header("Authorization").is_some() {
        return violation("an Authorization header where none is expected", Answer::status(400));
    }
    Ok(())
}

fn check_api(request: &Request) -> Result<(), Violation> {
    if request.token().is_none() {
        return violation("no bearer token", unauthorized());
    }
    let publishers: Vec<&str> = request
        .query
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("PublisherIdentifier"))
        .map(|(_, value)| value.as_str())
        .collect();
    let wrong = match publishers[..] {
        [publisher] if is_guid(publisher) => None,
        [publisher] => Some(format!("the PublisherIdentifier {publisher:?} is not a GUID")),
        [] => Some("no PublisherIdentifier".to_owned()),
        _ => Some("PublisherIdentifier more than once".to_owned()),
    };
    if let Some(text) = wrong {
        return violation(text, ApiError::ParameterInvalid.answer(request));
    }
    if request.method == "GET" && !request.body.is_empty() {
        return violation("a GET with a body", Answer::status(400));
    }
    if request.method == "POST" && request.header("Content-Length").is_none() {
        return violation("a POST without Content-Length", Answer::status(411));
    }
    match request.operation {
        Operation::StartSubscription | Operation::StopSubscription => check_content_type(request),
        Operation::ListContent => {
            check_content_type(request)?;
            check_times(request)
        }
        _ => Ok(()),
    }
}

fn check_content_type(request: &Request) -> Result<(), Violation> {
    match &request.content_type {
        None => violation("no contentType", ApiError::ParameterMissing.answer(request)),
        Some(name) if CONTENT_TYPES.iter().any(|known| known.eq_ignore_ascii_case(name)) => Ok(()),
        Some(name) => {
            violation(format!("{name:?} is not a content type"), ApiError::ContentTypeInvalid.answer(request))
        }
    }
}

fn check_times(request: &Request) -> Result<(), Violation> {
    let times_invalid = |text: String| violation(text, ApiError::TimesInvalid.answer(request));
    match (request.parameter("startTime"), request.parameter("endTime"), window(request)) {
        (Some(start), Some(end), None) => {
            times_invalid(format!("times in another format: {start} and {end}"))
        }
        (Some(_), Some(_), Some(window)) if window.start >= window.end => {
            violation("a window that ends before it starts", ApiError::TimesOutOfRange.answer(request))
        }
        (Some(_), Some(_), Some(window)) if window.end.duration_since(window.start) > DAY => {
            times_invalid("a window of more than 24 hours".into())
        }
        (None, None, _) | (Some(_), Some(_), Some(_)) => Ok(()),
        _ => times_invalid("one of startTime and endTime without the other".into()),
    }
}

/// The maximum length of a window.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// Returns the window of a listing, if it has one in the documented format. Only the URL of a next page may have fractions of
/// seconds.
pub(crate) fn window(request: &Request) -> Option<Window> {
    let parse = if request.is_next_page() { time::parse_in_page_url } else { time::parse_documented };
    Some(Window {
        start: parse(request.parameter("startTime")?)?,
        end: parse(request.parameter("endTime")?)?,
    })
}

/// The answer to an invalid token.
pub(crate) fn unauthorized() -> Answer {
    Answer::json(401, r#"{"Message":"Authorization has been denied for this request."}"#)
}

/// Returns whether a text is a GUID with four hyphens.
pub(crate) fn is_guid(text: &str) -> bool {
    let shape = |(position, byte): (usize, u8)| match position {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}
