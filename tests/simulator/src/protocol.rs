//! What every client must do, whatever the tenant holds. Who does not is answered as Microsoft would, and remembered.

use jiff::SignedDuration;

use crate::{
    CONTENT_TYPES,
    answer::Answer,
    api_error::ApiError,
    blob::Window,
    request::{Operation, Request},
    time,
};

/// A client's mistake.
pub(crate) struct Breach {
    /// What it did.
    pub(crate) text: String,
    /// What it gets for it.
    pub(crate) answer: Box<Answer>,
}

fn breach<T>(text: impl Into<String>, answer: Answer) -> Result<T, Breach> {
    Err(Breach { text: text.into(), answer: Box::new(answer) })
}

/// Looks for what is wrong with a request on its face.
pub(crate) fn check(request: &Request) -> Result<(), Breach> {
    if request.header("Host").is_none() {
        return breach("no Host header", Answer::status(400));
    }
    let method = match request.operation {
        Operation::Login | Operation::StartSubscription | Operation::StopSubscription => "POST",
        Operation::Unknown => return breach("no such operation", Answer::status(404)),
        _ => "GET",
    };
    if request.method != method {
        return breach(format!("this takes {method}"), Answer::status(405).with_header("Allow", method));
    }
    match request.operation {
        Operation::Login => check_login(request),
        Operation::Root => check_anonymous(request),
        _ => check_api(request),
    }
}

fn check_login(request: &Request) -> Result<(), Breach> {
    if request.header("Authorization").is_some() {
        return breach("an Authorization header at the login endpoint", Answer::status(400));
    }
    if !request.query.is_empty() {
        return breach("a login with parameters in its URL", Answer::status(400));
    }
    let mime = request.header("Content-Type").unwrap_or_default();
    if !mime.starts_with("application/x-www-form-urlencoded") {
        return breach(format!("a login as {mime:?} instead of as a form"), Answer::status(400));
    }
    Ok(())
}

fn check_anonymous(request: &Request) -> Result<(), Breach> {
    if request.header("Authorization").is_some() {
        return breach("a token that was not requested", Answer::status(400));
    }
    Ok(())
}

fn check_api(request: &Request) -> Result<(), Breach> {
    if request.token().is_none() {
        return breach("no bearer token", unauthorized());
    }
    let publishers: Vec<&str> = request
        .query
        .iter()
        .filter(|(name, _)| name.eq_ignore_ascii_case("PublisherIdentifier"))
        .map(|(_, value)| value.as_str())
        .collect();
    let wrong = match publishers[..] {
        [publisher] if is_guid(publisher) => None,
        [publisher] => Some(format!("the PublisherIdentifier {publisher:?} is no GUID")),
        [] => Some("no PublisherIdentifier".to_owned()),
        _ => Some("PublisherIdentifier more than once".to_owned()),
    };
    if let Some(text) = wrong {
        return breach(text, ApiError::ParameterInvalid.answer(request));
    }
    if request.method == "GET" && !request.body.is_empty() {
        return breach("a GET with a body", Answer::status(400));
    }
    if request.method == "POST" && request.header("Content-Length").is_none() {
        return breach("a POST without Content-Length", Answer::status(411));
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

fn check_content_type(request: &Request) -> Result<(), Breach> {
    match &request.content_type {
        None => breach("no contentType", ApiError::ParameterMissing.answer(request)),
        Some(name) if CONTENT_TYPES.iter().any(|known| known.eq_ignore_ascii_case(name)) => Ok(()),
        Some(name) => {
            breach(format!("{name:?} is no content type"), ApiError::ContentTypeInvalid.answer(request))
        }
    }
}

fn check_times(request: &Request) -> Result<(), Breach> {
    let times_invalid = |text: String| breach(text, ApiError::TimesInvalid.answer(request));
    match (request.parameter("startTime"), request.parameter("endTime"), window(request)) {
        (Some(start), Some(end), None) => times_invalid(format!("times in a wrong form: {start} and {end}")),
        (Some(_), Some(_), Some(window)) if window.start >= window.end => {
            breach("a window that ends before it starts", ApiError::TimesOutOfRange.answer(request))
        }
        (Some(_), Some(_), Some(window)) if window.end.duration_since(window.start) > DAY => {
            times_invalid("a window of more than 24 hours".into())
        }
        (None, None, _) | (Some(_), Some(_), Some(_)) => Ok(()),
        _ => times_invalid("one of startTime and endTime without the other".into()),
    }
}

/// The longest window.
pub(crate) const DAY: SignedDuration = SignedDuration::from_hours(24);

/// The window that a listing asks for, if it names one in the right form. Only a next page's URL may have digits after
/// the second.
pub(crate) fn window(request: &Request) -> Option<Window> {
    let read = if request.is_next_page() { time::read_in_page_url } else { time::read_documented };
    Some(Window { start: read(request.parameter("startTime")?)?, end: read(request.parameter("endTime")?)? })
}

/// The answer to a token that is not good.
pub(crate) fn unauthorized() -> Answer {
    Answer::json(401, r#"{"Message":"Authorization has been denied for this request."}"#)
}

/// Whether a text is a GUID in the form with four hyphens.
pub(crate) fn is_guid(text: &str) -> bool {
    let shape = |(position, byte): (usize, u8)| match position {
        8 | 13 | 18 | 23 => byte == b'-',
        _ => byte.is_ascii_hexdigit(),
    };
    text.len() == 36 && text.bytes().enumerate().all(shape)
}
