//! The requests to one receiver: batches, checks, and requests for acknowledgements.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ureq::http::{HeaderMap, Uri};

use super::{
    batch::HttpBatch,
    cookies::Cookies,
    delivery::{BatchDelivery, DeliveryResult},
    format::Format,
    outcome::{BatchOutcome, HttpError, is_web_page},
};
use crate::{
    config::{self, Secret},
    limits,
    network::{
        agents::{self, Agents},
        alias::with_host,
        backoff,
        error::NetworkError,
    },
    output::{CancelToken, Cancelled, OutputError, compressed},
    redact,
};

/// The maximum number of retries of a batch within `output.http.retryTimeout`.
const RETRIES_MAX: u32 = 20;

/// The delay before the first retry of a batch. It doubles with each retry.
const RETRY_DELAY: Duration = Duration::from_millis(250);

/// The maximum number of records that the receiver rejects in a pass; with more, the output fails. A receiver that
/// rejects everything costs twice as many requests, and one that rejects a few records a day, each of which is sent
/// again for a week, is not stopped.
const REJECTED_RECORDS_MAX: usize = 100;

/// The number of rejected records at which the output fails if the receiver has accepted no record in this pass: the
/// receiver or its configuration is the cause, not the records.
const REJECTED_BEFORE_SUCCESS_MAX: usize = 10;

/// The largest response: it can describe each record of a batch.
const RESPONSE_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The first interval at which Splunk is asked whether events are indexed. It doubles, …
const SPLUNK_ACK_STEP: Duration = Duration::from_millis(200);

/// … up to this.
const SPLUNK_ACK_STEP_MAX: Duration = Duration::from_secs(5);

/// A client of one receiver, shared by all threads that send to it.
pub struct HttpClient {
    agents: Agents,
    format: Arc<dyn Format>,
    /// The scheme, host and port of the receiver.
    origin: String,
    /// The path and query to which batches are sent.
    path: String,
    /// The name of the receiver in messages: host and port, and the proxy. Never the path, which can be a secret.
    name: String,
    headers: Vec<(String, Secret)>,
    gzip: bool,
    retry_timeout: Duration,
    cancel: CancelToken,
    /// The size of the smallest batch that was too large for the receiver, in bytes.
    too_large_bytes: AtomicUsize,
    /// The number of records that the receiver rejected.
    rejected: AtomicUsize,
    /// The number of records that the receiver accepted.
    accepted: AtomicU64,
    /// The cookies of a load balancer in front of the receiver.
    cookies: Mutex<Cookies>,
    /// Whether a response came. Until then requests are made one by one, so that later ones have its cookies.
    has_responded: Mutex<bool>,
    /// Whether no more requests are made, because a batch has failed.
    is_stopped: AtomicBool,
}

/// A response; if its body was cut short, also the reason.
struct HttpResponse {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    cut: Option<HttpError>,
}

impl HttpResponse {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The attempts of one batch.
#[derive(Default)]
pub struct Attempts {
    failed: u32,
    /// The number of the last of these that ended with a cut connection.
    pub cut: u32,
    until: Option<Instant>,
}

impl HttpClient {
    /// Connects to nothing yet.
    pub fn new(
        settings: &config::HttpOutput,
        agents: Agents,
        format: Arc<dyn Format>,
        cancel: &CancelToken,
    ) -> Self {
        let uri: Uri = settings.url.parse().expect("the configuration was checked");
        let mut headers = settings.headers.clone();
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.as_deref());
        let certified = server_name.and_then(|name| with_host(&uri, name));
        let has_host = headers.iter().any(|(name, _)| name.eq_ignore_ascii_case("Host"));
        if let (Some(_), Some(authority), false) = (&certified, uri.authority(), has_host) {
            headers.push(("Host".to_owned(), Secret::new(authority.as_str())));
        }
        let certified = certified.as_ref().unwrap_or(&uri);
        let authority = certified.authority().map_or("", |authority| authority.as_str());
        let origin = format!("{}://{authority}", uri.scheme_str().unwrap_or("https"));
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        let path = if path == "/" { format.default_path() } else { path };
        Self {
            name: agents.peer(&settings.url),
            agents,
            format,
            path: path.to_owned(),
            origin,
            headers,
            gzip: settings.compress,
            retry_timeout: settings.retry_timeout,
            cancel: cancel.clone(),
            too_large_bytes: AtomicUsize::new(usize::MAX),
            rejected: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            cookies: Mutex::default(),
            has_responded: Mutex::new(false),
            is_stopped: AtomicBool::new(false),
        }
    }

    /// Lets no thread begin another request. Requests under way continue.
    pub fn stop(&self) {
        self.is_stopped.store(true, Ordering::Relaxed);
    }

    fn is_stopped(&self) -> bool {
        self.is_stopped.load(Ordering::Relaxed)
    }

    /// Returns the format of the receiver.
    pub fn format(&self) -> &dyn Format {
        self.format.as_ref()
    }

    /// Returns an error if the pass has to end, or if another batch has failed.
    pub fn check(&self) -> Result<(), OutputError> {
        self.cancel.check().map_err(|cancelled| self.cancelled(cancelled))?;
        if self.is_stopped() {
            return Err(
                self.error(HttpError::new("another batch failed", "the next pass sends this one again"))
            );
        }
        Ok(())
    }

    /// Returns whether the receiver has accepted anything in this pass.
    pub fn has_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed) > 0
    }

    /// Cuts all connections, in all threads.
    pub fn shut_down(&self) {
        self.agents.shut_down();
    }

    /// Sends a batch, in parts if necessary, until each record is accepted or rejected.
    pub fn deliver(&self, batch: HttpBatch) -> DeliveryResult {
        BatchDelivery::new(self, batch).run()
    }

    /// Counts records that were accepted.
    pub fn count_accepted(&self, count: usize) {
        self.accepted.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a record that was rejected.
    ///
    /// # Errors
    ///
    /// The receiver rejects more records than can be the cause.
    pub fn count_rejected(&self, error: &HttpError) -> Result<(), OutputError> {
        let rejected = self.rejected.fetch_add(1, Ordering::Relaxed) + 1;
        let is_nothing_accepted = rejected >= REJECTED_BEFORE_SUCCESS_MAX && !self.has_accepted();
        if rejected <= REJECTED_RECORDS_MAX && !is_nothing_accepted {
            return Ok(());
        }
        let hint = format!(
            "{}; with this many, the cause is the receiver or its configuration, not the records",
            error.hint
        );
        let problem = format!("{rejected} records were rejected, the last one with {}", error.problem);
        Err(self.error(HttpError { problem, hint, ..error.clone() }))
    }

    /// Returns whether a batch of this size or a smaller one was too large.
    pub fn is_known_too_large(&self, bytes: usize) -> bool {
        bytes >= self.too_large_bytes.load(Ordering::Relaxed)
    }

    /// Logs that a search for a record begins.
    pub fn warn_of_search(&self, error: &HttpError) {
        let problem = redact::secrets(&error.problem);
        log::warn!("Output http: {}: {problem}; looking for the record that causes it", self.name);
    }

    /// Logs that the receiver has rejected some records of a batch and does not say which.
    pub fn warn_of_undecided(&self, error: &HttpError, count: usize) {
        let problem = redact::secrets(&error.problem);
        log::warn!(
            "Output http: {}: {problem}; all {count} become dead letters, and are not sent again",
            self.name
        );
    }

    /// Notes for this pass that a batch of this size is too large.
    pub fn note_too_large(&self, bytes: usize, problem: &str) {
        if self.too_large_bytes.fetch_min(bytes, Ordering::Relaxed) == usize::MAX {
            let (name, problem) = (&self.name, redact::secrets(problem));
            log::warn!("Output http: {name}: {problem} for {bytes} bytes: sent in halves; lower batchSize");
        }
    }

    /// Requests acknowledgements until all batches have theirs. Returns the ids that were acknowledged, and why the others
    /// were not.
    pub fn wait_for_acks(&self, ids: Vec<u64>, ack_timeout: Duration) -> (Vec<u64>, Result<(), OutputError>) {
        let mut missing = ids.clone();
        let result = self.request_acks(&mut missing, ack_timeout);
        (ids.into_iter().filter(|id| !missing.contains(id)).collect(), result)
    }

    fn request_acks(&self, missing: &mut Vec<u64>, ack_timeout: Duration) -> Result<(), OutputError> {
        let until = Instant::now() + ack_timeout;
        let mut step = SPLUNK_ACK_STEP;
        let mut attempts = Attempts::default();
        while !missing.is_empty() {
            let Some((path, request)) = self.format.ack_request(&self.path, missing) else { break };
            let error = match self.post(&path, "application/json", request.as_bytes(), false) {
                Ok(HttpResponse { status: 200..=299, body, cut: None, .. }) => {
                    let acknowledged = self.format.acknowledged(&body);
                    missing.retain(|id| !acknowledged.contains(id));
                    attempts = Attempts::default();
                    None
                }
                Ok(HttpResponse { cut: Some(error), .. }) | Err(error) => Some(error),
                Ok(response) => Some(self.error_in(&response)),
            };
            if let Some(error) = error
                && let Some(error) = self.wait_before_retry(&mut attempts, error)?
            {
                return Err(self.error(error));
            }
            if missing.is_empty() {
                break;
            }
            if Instant::now() >= until {
                let problem =
                    format!("{} batches are not indexed after {} s", missing.len(), ack_timeout.as_secs());
                return Err(self.error(HttpError::new(
                    problem,
                    "check the indexers and their queues, or raise splunk.ackTimeout; behind a load balancer, turn \
                     sticky sessions on; the next pass sends them again",
                )));
            }
            self.cancel.sleep(step).map_err(|cancelled| self.cancelled(cancelled))?;
            step = (step * 2).min(SPLUNK_ACK_STEP_MAX);
        }
        Ok(())
    }

    /// Sends a request that delivers nothing and is otherwise like a delivery, with the same address, headers and encoding.
    pub fn check_receiver(&self) -> Result<(), OutputError> {
        let probe = self.format.probe();
        let body = if self.gzip { compressed(&[&probe]) } else { probe };
        let mut response = self.post_batch(&body).map_err(|error| self.error(error))?;
        if response.status == 401 && self.format.renew_credentials() {
            response = self.post_batch(&body).map_err(|error| self.error(error))?;
        }
        let HttpResponse { status, headers, body, .. } = &response;
        if response.is_success() {
            self.check_success(*status, headers, body).map_err(|error| self.error(error))?;
        }
        let body = self.format.redacted_body(*status, body);
        match self.format.accepts_probe(*status, &body) {
            Ok(true) => Ok(()),
            Ok(false) if response.is_success() => {
                let problem = format!("HTTP {status} without the answer of this kind of receiver");
                let unknown = HttpError::new(problem, "check url and format");
                let outcome = self.format.outcome_of_success(&HttpBatch::default(), *status, &body);
                Err(self.error(if let BatchOutcome::Failed(error) = outcome { error } else { unknown }))
            }
            Ok(false) => Err(self.error(self.error_in(&response))),
            Err(error) => Err(self.error(error)),
        }
    }

    /// Makes one request with a batch.
    pub fn send(&self, batch: &HttpBatch, has_renewed: &mut bool) -> BatchOutcome {
        let response = match self.post_batch(&self.format.body(batch, self.gzip)) {
            Ok(response) => response,
            Err(error) => return BatchOutcome::Failed(error),
        };
        let HttpResponse { status, headers, body, cut } = &response;
        if response.is_success() {
            if let Err(error) = self.check_success(*status, headers, body) {
                return BatchOutcome::Failed(error);
            }
            return match cut {
                Some(error) if !self.format.accepts_by_status() => BatchOutcome::Failed(error.clone()),
                _ => self.format.outcome_of_success(batch, *status, body),
            };
        }
        let error = self.error_in(&response).without_quotes(*status, batch.text());
        let (status, body) = (*status, self.format.redacted_body(*status, body));
        if let Some(outcome) = self.format.outcome_of_error(batch, status, &body, &error) {
            return outcome;
        }
        match status {
            413 => BatchOutcome::TooLarge(error),
            _ if self.format.is_about_records(status, &body) => BatchOutcome::Rejected(error),
            401 if !*has_renewed && self.format.renew_credentials() => {
                *has_renewed = true;
                self.send(batch, has_renewed)
            }
            _ => BatchOutcome::Failed(error),
        }
    }

    /// Returns the error that an error response describes.
    fn error_in(&self, response: &HttpResponse) -> HttpError {
        let body = self.format.redacted_body(response.status, &response.body);
        let explanation = self.format.explain(response.status, &body);
        let error =
            HttpError::of_response(response.status, &response.headers, &body, explanation, Timestamp::now());
        HttpError { is_transient: self.format.retries(response.status), ..error }
    }

    /// Checks that a response with a status of success is that of this kind of receiver.
    fn check_success(&self, status: u16, headers: &HeaderMap, body: &[u8]) -> Result<(), HttpError> {
        if is_web_page(status, headers, body) {
            return Err(HttpError::of_web_page(status));
        }
        self.format.check_success(status, headers)
    }

    /// Posts the body of a batch. If acknowledgements depend on one of several servers, the first request is made alone, so
    /// that all others have its cookies.
    fn post_batch(&self, body: &[u8]) -> Result<HttpResponse, HttpError> {
        let mut has_responded = self.has_responded.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_responded || !self.format.has_acks() {
            drop(has_responded);
            return self.post(&self.path, self.format.content_type(), body, self.gzip);
        }
        let response = self.post(&self.path, self.format.content_type(), body, self.gzip);
        *has_responded = response.is_ok();
        response
    }

    fn post(
        &self,
        path: &str,
        content_type: &str,
        body: &[u8],
        gzip: bool,
    ) -> Result<HttpResponse, HttpError> {
        let mut own = self.format.headers(&self.agents)?;
        own.push(("Content-Type", Secret::new(content_type)));
        if gzip {
            own.push(("Content-Encoding", Secret::new("gzip")));
        }
        own.extend(self.cookies().header().map(|cookies| ("Cookie", Secret::new(cookies))));
        let url = format!("{}{path}", self.origin);
        let mut request = self.agents.agent_for(&url).post(&url);
        for (name, value) in self.all_headers(&own) {
            request = request.header(name, value);
        }
        let peer = self.agents.peer(&url);
        let failed = |error: &NetworkError| HttpError::of_network_error(&peer, error);
        let first_address = self.agents.first_address();
        let response = agents::read_even_if_cut(&peer, request.send(body), RESPONSE_BYTES_MAX);
        if matches!(response, Err(NetworkError::Unreachable(_))) {
            self.agents.avoid_address(first_address);
        }
        let (status, headers, body, cut) = response.map_err(|error| failed(&error))?;
        self.cookies().read(&headers);
        Ok(HttpResponse { status, headers, body, cut: cut.as_ref().map(failed) })
    }

    fn cookies(&self) -> std::sync::MutexGuard<'_, Cookies> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the configured headers, and those of the format that are not among them.
    fn all_headers<'a>(
        &'a self,
        own: &'a [(&'static str, Secret)],
    ) -> impl Iterator<Item = (&'a str, &'a str)> {
        let is_configured =
            |name: &str| self.headers.iter().any(|(other, _)| other.eq_ignore_ascii_case(name));
        let own = own.iter().filter(move |(name, _)| !is_configured(name));
        let configured = self.headers.iter().map(|(name, value)| (name.as_str(), value.reveal()));
        configured.chain(own.map(|(name, value)| (*name, value.reveal())))
    }

    /// Waits before another attempt. Returns the error if no attempt is left.
    pub fn wait_before_retry(
        &self,
        attempts: &mut Attempts,
        error: HttpError,
    ) -> Result<Option<HttpError>, OutputError> {
        if !error.is_transient || self.is_stopped() {
            return Err(self.error(error));
        }
        let now = Instant::now();
        let until = *attempts.until.get_or_insert(now + self.retry_timeout);
        attempts.failed += 1;
        attempts.cut = if error.is_cut { attempts.cut + 1 } else { 0 };
        let back_off = backoff::delay(RETRY_DELAY, attempts.failed, fastrand::f64());
        let delay = match error.after {
            _ if error.is_cut && attempts.failed == 1 => Duration::ZERO,
            Some(after) => backoff::delay_asked_for(after, fastrand::f64()).max(back_off),
            None => back_off,
        };
        let left = until.saturating_duration_since(now);
        if attempts.failed > RETRIES_MAX || delay > left {
            let asked_delay = match error.after {
                Some(after) => format!(", and asks to wait {} s", after.as_secs()),
                None => String::new(),
            };
            let problem = format!("{}{asked_delay} (attempts: {})", error.problem, attempts.failed);
            return Ok(Some(HttpError { problem, ..error }));
        }
        let problem = redact::secrets(&error.problem);
        let seconds = delay.as_secs_f64();
        log::warn!("Output http: {}: {problem}; trying again in {seconds:.1} s", self.name);
        self.sleep(delay).map_err(|cancelled| self.cancelled(cancelled))?;
        Ok(None)
    }

    /// Sleeps for this time, or until no more requests are made.
    fn sleep(&self, time: Duration) -> Result<(), Cancelled> {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_stopped() {
            let left = until.saturating_duration_since(Instant::now());
            self.cancel.sleep(left.min(limits::CANCEL_POLL_INTERVAL))?;
        }
        Ok(())
    }

    /// Returns the error for a pass that has to end.
    pub fn cancelled(&self, cancelled: Cancelled) -> OutputError {
        let hint = "the next pass continues from here".to_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem: cancelled.to_string(), hint }
    }

    /// Returns the error for batches that were sent too often because their ids were used twice.
    pub fn repeated_ids_error(&self) -> OutputError {
        self.error(HttpError::new(
            "it gives out the same ack id for several batches",
            "behind a load balancer, turn sticky sessions on; the next pass sends them again",
        ))
    }

    /// Returns an error with the name of the receiver and without secrets.
    pub fn error(&self, error: HttpError) -> OutputError {
        let problem = redact::secrets(&error.problem).into_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem, hint: error.hint }
    }
}
