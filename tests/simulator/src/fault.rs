//! Faults: [`Requests`] selects the requests, [`Fault`] defines what happens to them.

use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};

use crate::{
    answer::{Answer, Delivery},
    api_error::ApiError,
    gzip,
    login::LoginError,
    protocol::unauthorized,
    request::{Operation, Request},
    time,
};

type Matches = dyn Fn(&Request) -> bool + Send + Sync;
type Answers = dyn Fn(&Request) -> Answer + Send + Sync;
type Alters = dyn Fn(&Request, Answer) -> Answer + Send + Sync;

/// A selection of requests; by default the first one that matches.
#[derive(Clone)]
pub struct Requests {
    conditions: Vec<Arc<Matches>>,
    skipped: usize,
    count: usize,
}

impl Requests {
    /// Requests of any kind.
    pub fn any() -> Self {
        Self { conditions: Vec::new(), skipped: 0, count: 1 }
    }

    /// Requests of one operation.
    pub fn to(operation: Operation) -> Self {
        Self::any().matching(move |request| request.operation == operation)
    }

    /// Only those of this tenant.
    #[must_use]
    pub fn of_tenant(self, id: &str) -> Self {
        let id = id.to_ascii_lowercase();
        self.matching(move |request| request.tenant.as_ref() == Some(&id))
    }

    /// Only those about this content type, including those for its blobs.
    #[must_use]
    pub fn of_content_type(self, name: &str) -> Self {
        let name = name.to_owned();
        self.matching(move |request| {
            request.content_type.as_ref().is_some_and(|known| known.eq_ignore_ascii_case(&name))
        })
    }

    /// Only those for this blob.
    #[must_use]
    pub fn of_blob(self, content_id: &str) -> Self {
        let content_id = content_id.to_owned();
        self.matching(move |request| request.content_id.as_ref() == Some(&content_id))
    }

    /// Only those for a page after the first.
    #[must_use]
    pub fn of_next_pages(self) -> Self {
        self.matching(Request::is_next_page)
    }

    /// Only those for which this holds.
    #[must_use]
    pub fn matching(mut self, condition: impl Fn(&Request) -> bool + Send + Sync + 'static) -> Self {
        self.conditions.push(Arc::new(condition));
        self
    }

    /// Without the first ones, this number.
    #[must_use]
    pub fn after(mut self, skipped: usize) -> Self {
        self.skipped = skipped;
        self
    }

    /// This number of them.
    #[must_use]
    pub fn times(mut self, count: usize) -> Self {
        self.count = count;
        self
    }

    /// All of them.
    #[must_use]
    pub fn always(self) -> Self {
        self.times(usize::MAX)
    }
}

impl fmt::Debug for Requests {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Requests")
            .field("conditions", &self.conditions.len())
            .field("skipped", &self.skipped)
            .field("count", &self.count)
            .finish()
    }
}

/// What happens to a request.
#[derive(Clone)]
pub struct Fault {
    name: String,
    pub(crate) effect: Effect,
}

#[derive(Clone)]
pub(crate) enum Effect {
    /// Another answer, without the effect of the request.
    Instead(Arc<Answers>),
    /// The effect of the request, with a changed answer.
    Alter(Arc<Alters>),
}

impl fmt::Debug for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.name)
    }
}

/// Constructors for any fault.
impl Fault {
    /// Answers a request without its effect.
    pub fn instead(name: &str, answer: impl Fn(&Request) -> Answer + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), effect: Effect::Instead(Arc::new(answer)) }
    }

    /// Changes the answer.
    pub fn alter(name: &str, alter: impl Fn(&Request, Answer) -> Answer + Send + Sync + 'static) -> Self {
        Self { name: name.to_owned(), effect: Effect::Alter(Arc::new(alter)) }
    }

    /// Sends the answer in this way.
    pub fn delivery(delivery: Delivery) -> Self {
        Self::alter(&format!("{delivery:?}"), move |_, answer| answer.delivered(delivery))
    }

    /// Its name, for the messages of assertions.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// One fault of each kind after which a retry succeeds. None has a long delay.
    pub fn transient() -> Vec<Self> {
        let errors =
            [ApiError::Internal, ApiError::InternalDatabase, ApiError::InternalStorage, ApiError::Throttled];
        errors
            .map(Self::api_error)
            .into_iter()
            .chain([408, 500, 502, 503, 504].map(Self::html))
            .chain([
                Self::throttled(429, Some(RetryAfter::Seconds(1))),
                Self::throttled(403, Some(RetryAfter::Date(SignedDuration::from_secs(1)))),
                Self::empty_body(),
                Self::malformed_json(),
                Self::cut_body(),
                Self::unfinished_chunks(),
                Self::cut_gzip(),
                Self::delivery(Delivery::ResetAfter(10)),
                Self::delivery(Delivery::ResetUnanswered),
                Self::delivery(Delivery::Unanswered),
            ])
            .collect()
    }
}

/// The value of a `Retry-After` header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryAfter {
    /// A number of seconds.
    Seconds(u64),
    /// Any text.
    Text(&'static str),
    /// A date, as the difference from the time of the answer.
    Date(SignedDuration),
}

/// Error responses.
impl Fault {
    /// An error of the Activity API.
    pub fn api_error(error: ApiError) -> Self {
        Self::instead(&format!("{error:?}"), move |request| error.answer(request))
    }

    /// An error of the login endpoint.
    pub fn login_error(error: LoginError) -> Self {
        Self::instead(&format!("{error:?}"), move |request| error.answer(request))
    }

    /// An answer without a body.
    pub fn status(status: u16) -> Self {
        Self::instead(&format!("status {status}"), move |_| Answer::status(status))
    }

    /// HTTP 401, as for an invalid token.
    pub fn unauthorized() -> Self {
        Self::instead("unauthorized", |_| unauthorized())
    }

    /// `AF429` with HTTP 403 or 429.
    pub fn throttled(status: u16, retry_after: Option<RetryAfter>) -> Self {
        Self::instead(&format!("throttled with {status}, {retry_after:?}"), move |request| {
            let answer = ApiError::Throttled.answer(request).with_status(status);
            match retry_after {
                None => answer,
                Some(RetryAfter::Seconds(seconds)) => answer.with_header("Retry-After", seconds.to_string()),
                Some(RetryAfter::Text(text)) => answer.with_header("Retry-After", text),
                Some(RetryAfter::Date(wait)) => {
                    answer.with_header("Retry-After", time::http_date(Timestamp::now() + wait))
                }
            }
        })
    }

    /// This JSON, with this status.
    pub fn json(status: u16, body: &str) -> Self {
        let body = body.to_owned();
        Self::instead(&format!("JSON with {status}"), move |_| Answer::json(status, body.clone()))
    }

    /// The HTML page of a gateway.
    pub fn html(status: u16) -> Self {
        Self::instead(&format!("HTML with {status}"), move |_| {
            Answer::status(status).with_header("Content-Type", "text/html").with_body(format!(
                "<!DOCTYPE html>\r\n<html><head><title>{status}</title></head>\
                 <body><h2>Our services aren't available right now</h2></body></html>\r\n"
            ))
        })
    }

    /// A redirect: 301, 302, 307 or 308.
    pub fn redirect(status: u16, location: &str) -> Self {
        let location = location.to_owned();
        Self::instead(&format!("redirect to {location}"), move |_| {
            Answer::status(status).with_header("Location", location.clone())
        })
    }
}

/// Wrong bodies.
impl Fault {
    /// HTTP 200 with an empty body.
    pub fn empty_body() -> Self {
        Self::instead("empty body", |_| Answer::json(200, ""))
    }

    /// The first half of the JSON, with its correct `Content-Length`.
    pub fn malformed_json() -> Self {
        Self::alter("malformed JSON", |_, answer| {
            let body = answer.plain_body();
            let half = body.len() / 2;
            answer.with_body(&body[..half])
        })
    }

    /// The first half of the compressed body, with its correct `Content-Length`.
    pub fn cut_gzip() -> Self {
        Self::alter("cut gzip", |_, answer| {
            let answer = answer.compressed();
            let half = answer.body.len() / 2;
            let body = answer.body[..half].to_vec();
            answer.with_compressed_body(body)
        })
    }

    /// A small compressed body of this number of MiB of valid JSON.
    pub fn gzip_bomb(mebibytes: usize) -> Self {
        let bomb = gzip::bomb(mebibytes);
        Self::instead(&format!("gzip bomb of {mebibytes} MiB"), move |_| {
            Answer::json(200, "").with_compressed_body(bomb.clone())
        })
    }

    /// Every `contentUri` of a listing has this origin, for example `http://127.0.0.1:9`.
    pub fn foreign_content_uri(origin: &str) -> Self {
        let origin = origin.to_owned();
        Self::alter(&format!("content at {origin}"), move |_, answer| {
            let body = String::from_utf8_lossy(&answer.plain_body()).into_owned();
            let mut parts = body.split("\"contentUri\":\"");
            let mut moved = parts.next().unwrap_or_default().to_owned();
            for part in parts {
                let path = part.find("/api/").unwrap_or(0);
                moved = format!("{moved}\"contentUri\":\"{origin}{}", &part[path..]);
            }
            answer.with_body(moved)
        })
    }
}

/// Wrong next pages.
impl Fault {
    /// The next page has this URL.
    pub fn next_page(uri: &str) -> Self {
        let uri = uri.to_owned();
        Self::alter(&format!("next page at {uri}"), move |_, answer| with_next_page(answer, uri.clone()))
    }

    /// The next page is this page again.
    pub fn endless_paging() -> Self {
        Self::alter("endless paging", |request, answer| {
            let host = request.header("Host").unwrap_or_default();
            let uri = format!("http://{host}{}", request.target_without_publisher());
            with_next_page(answer, uri)
        })
    }
}

/// The same answer with this next page, instead of any other.
fn with_next_page(mut answer: Answer, uri: String) -> Answer {
    answer.headers.retain(|(name, _)| !name.to_ascii_lowercase().starts_with("nextpage"));
    answer.with_header("NextPageUri", uri)
}

/// Connection errors and slow answers.
impl Fault {
    /// The connection is closed in the middle of the body.
    pub fn cut_body() -> Self {
        Self::alter("cut body", |_, answer| {
            let half = answer.body.len() / 2;
            answer.delivered(Delivery::CutAfter(half))
        })
    }

    /// The body is sent in chunks, without the last, empty one.
    pub fn unfinished_chunks() -> Self {
        Self::alter("unfinished chunks", |_, mut answer| {
            answer.chunked = true;
            answer.delivered(Delivery::CutAfter(usize::MAX))
        })
    }

    /// The connection is reset instead of an answer.
    pub fn reset() -> Self {
        Self::delivery(Delivery::ResetUnanswered)
    }

    /// The connection is closed instead of an answer.
    pub fn close() -> Self {
        Self::delivery(Delivery::Unanswered)
    }

    /// Nothing is sent for this duration, or until the simulator stops.
    pub fn stall(time: Option<Duration>) -> Self {
        Self::delivery(Delivery::Stalled(time))
    }

    /// Half of the body is sent, and then nothing for this duration, or until the simulator stops.
    pub fn stall_in_body(time: Option<Duration>) -> Self {
        Self::alter("stall in body", move |_, answer| {
            let half = answer.body.len() / 2;
            answer.delivered(Delivery::StalledAfter(half, time))
        })
    }

    /// This number of bytes is sent at a time, with a pause after each.
    pub fn drip(bytes: usize, pause: Duration) -> Self {
        Self::delivery(Delivery::Dripping(bytes, pause))
    }

    /// The answer is sent after a delay.
    pub fn delay(delay: Duration) -> Self {
        Self::alter(&format!("delay of {delay:?}"), move |_, answer| answer.delayed(delay))
    }

    /// The answer has this `Date`.
    pub fn date(date: Timestamp) -> Self {
        Self::alter(&format!("date {date}"), move |_, answer| {
            answer.with_header("Date", time::http_date(date))
        })
    }
}

/// A fault that was planted with [`crate::Simulator::fault`].
#[derive(Clone, Debug)]
pub struct PlantedFault {
    requests: Requests,
    fault: Fault,
    matched: Arc<AtomicUsize>,
    fired: Arc<AtomicUsize>,
}

impl PlantedFault {
    pub(crate) fn new(requests: Requests, fault: Fault) -> Self {
        Self { requests, fault, matched: Arc::default(), fired: Arc::default() }
    }

    /// The number of times that it occurred.
    pub fn fired(&self) -> usize {
        self.fired.load(Ordering::SeqCst)
    }

    /// Returns the fault if it occurs for this request, and counts it.
    ///
    /// Only one thread at a time may call this, because two counts decide together.
    pub(crate) fn occur(&self, request: &Request) -> Option<&Fault> {
        let spent = self.fired() >= self.requests.count;
        if spent || !self.requests.conditions.iter().all(|condition| condition(request)) {
            return None;
        }
        if self.matched.fetch_add(1, Ordering::SeqCst) < self.requests.skipped {
            return None;
        }
        self.fired.fetch_add(1, Ordering::SeqCst);
        Some(&self.fault)
    }
}
