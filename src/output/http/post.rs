//! One batch, until its receiver has accepted all of it or it is clear that it will not.

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
    answer::{Outcome, Refusal, is_web_page},
    batch::{Batch, compressed},
    cookies::Cookies,
    format::Format,
    sending::{Delivery, Sending},
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
    output::{CancelToken, Cancelled, OutputError},
    redact,
};

/// A receiver, and how it is spoken to. Shared by all who send to it.
pub struct Post {
    agents: Agents,
    format: Arc<dyn Format>,
    /// Its scheme, host and port.
    origin: String,
    /// Where batches go: path and query.
    path: String,
    /// What it is called in messages: host and port, and the proxy. Never the path, which can be as good as a password.
    name: String,
    headers: Vec<(String, Secret)>,
    gzip: bool,
    retry_timeout: Duration,
    cancel: CancelToken,
    /// The size of the smallest batch that was too large for the receiver, in bytes.
    too_large_bytes: AtomicUsize,
    /// How many records were left out because the receiver refuses them.
    left_out: AtomicUsize,
    /// How many records were accepted.
    accepted: AtomicU64,
    /// Those of a load balancer in front of the receiver.
    cookies: Mutex<Cookies>,
    /// Whether a response came. Until then requests are made one by one, so that all of them have its cookies.
    has_answered: Mutex<bool>,
    /// Whether nothing more is to be sent, because a batch has failed.
    is_given_up: AtomicBool,
}

/// A response, and why its body could not be read to its end.
struct HttpResponse {
    status: u16,
    headers: HeaderMap,
    body: Vec<u8>,
    cut: Option<Refusal>,
}

impl HttpResponse {
    fn is_success(&self) -> bool {
        (200..300).contains(&self.status)
    }
}

/// The tries of one batch.
#[derive(Default)]
pub struct Tries {
    failed: u32,
    /// Of these the last ones that ended with a cut connection.
    pub cut: u32,
    until: Option<Instant>,
}

impl Post {
    /// Connects to nobody yet.
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
        let path = if path == "/" { format.usual_path() } else { path };
        Self {
            name: agents.peer(&settings.url),
            agents,
            format,
            path: path.to_owned(),
            origin,
            headers,
            gzip: settings.gzip,
            retry_timeout: settings.retry_timeout,
            cancel: cancel.clone(),
            too_large_bytes: AtomicUsize::new(usize::MAX),
            left_out: AtomicUsize::new(0),
            accepted: AtomicU64::new(0),
            cookies: Mutex::default(),
            has_answered: Mutex::new(false),
            is_given_up: AtomicBool::new(false),
        }
    }

    /// Lets nobody begin with another request: what is under way is the last.
    pub fn give_up(&self) {
        self.is_given_up.store(true, Ordering::Relaxed);
    }

    fn is_given_up(&self) -> bool {
        self.is_given_up.load(Ordering::Relaxed)
    }

    /// How the receiver wants records.
    pub fn format(&self) -> &dyn Format {
        self.format.as_ref()
    }

    /// An error once the pass has to end, or once another batch has failed.
    pub fn check(&self) -> Result<(), OutputError> {
        self.cancel.check().map_err(|over| self.over(over))?;
        if self.is_given_up() {
            return Err(
                self.error(Refusal::new("another batch failed", "the next pass sends this one again"))
            );
        }
        Ok(())
    }

    /// Whether the receiver has accepted anything in this pass.
    pub fn has_accepted(&self) -> bool {
        self.accepted.load(Ordering::Relaxed) > 0
    }

    /// Cuts every connection, in all threads.
    pub fn shut_down(&self) {
        self.agents.shut_down();
    }

    /// Sends a batch until all of it is accepted, in parts if need be, but for single records that the receiver refuses.
    pub fn deliver(&self, batch: Batch) -> Delivery {
        Sending::new(self, batch).run()
    }

    /// Counts records that were accepted.
    pub fn count_accepted(&self, count: usize) {
        self.accepted.fetch_add(count as u64, Ordering::Relaxed);
    }

    /// Counts a record that was refused. The error is that the receiver refuses too many for the records to be at fault.
    pub fn count_refused(&self, refusal: &Refusal) -> Result<(), OutputError> {
        let left_out = self.left_out.fetch_add(1, Ordering::Relaxed) + 1;
        let is_nothing_accepted = left_out >= limits::HTTP_REFUSED_BEFORE_SUCCESS_MAX && !self.has_accepted();
        if left_out <= limits::HTTP_REFUSED_RECORDS_MAX && !is_nothing_accepted {
            return Ok(());
        }
        let hint = format!(
            "{}; that many records are not at fault, but the receiver or how it is configured",
            refusal.hint
        );
        let problem = format!("{left_out} records were refused, the last one with {}", refusal.problem);
        Err(self.error(Refusal { problem, hint, ..refusal.clone() }))
    }

    /// Whether no batch of this size is to be sent as a whole.
    pub fn is_known_too_large(&self, bytes: usize) -> bool {
        bytes >= self.too_large_bytes.load(Ordering::Relaxed)
    }

    /// Writes down that a search for a record begins.
    pub fn warn_of_search(&self, refusal: &Refusal) {
        let problem = redact::secrets(&refusal.problem);
        log::warn!("Output http: {}: {problem}; looking for the record that causes it", self.name);
    }

    /// Remembers for this pass that no such batch is to be sent as a whole.
    pub fn is_too_large(&self, bytes: usize, problem: &str) {
        if self.too_large_bytes.fetch_min(bytes, Ordering::Relaxed) == usize::MAX {
            let (name, problem) = (&self.name, redact::secrets(problem));
            log::warn!("Output http: {name}: {problem} for {bytes} bytes: sent in halves; lower batchSize");
        }
    }

    /// Asks until everything with a receipt is safe. Returns the receipts of what is, and why the others are not.
    pub fn confirm(&self, receipts: Vec<u64>, ack_timeout: Duration) -> (Vec<u64>, Result<(), OutputError>) {
        let mut unconfirmed = receipts.clone();
        let result = self.ask(&mut unconfirmed, ack_timeout);
        let confirmed = receipts.into_iter().filter(|receipt| !unconfirmed.contains(receipt));
        (confirmed.collect(), result)
    }

    fn ask(&self, receipts: &mut Vec<u64>, ack_timeout: Duration) -> Result<(), OutputError> {
        let until = Instant::now() + ack_timeout;
        let mut step = limits::SPLUNK_ACK_STEP;
        let mut tries = Tries::default();
        while !receipts.is_empty() {
            let Some((path, question)) = self.format.question(&self.path, receipts) else { break };
            let refusal = match self.post(&path, "application/json", question.as_bytes(), false) {
                Ok(HttpResponse { status: 200..=299, body, cut: None, .. }) => {
                    let safe = self.format.safe(&body);
                    receipts.retain(|receipt| !safe.contains(receipt));
                    tries = Tries::default();
                    None
                }
                Ok(HttpResponse { cut: Some(refusal), .. }) | Err(refusal) => Some(refusal),
                Ok(response) => Some(self.refusal_of(&response)),
            };
            if let Some(refusal) = refusal
                && let Some(refusal) = self.wait(&mut tries, refusal)?
            {
                return Err(self.error(refusal));
            }
            if receipts.is_empty() {
                break;
            }
            if Instant::now() >= until {
                let problem =
                    format!("{} batches are not indexed after {} s", receipts.len(), ack_timeout.as_secs());
                return Err(self.error(Refusal::new(
                    problem,
                    "look at the indexers and their queues, or raise splunk.ackTimeout; behind a load balancer, turn \
                     sticky sessions on; the next pass sends them again",
                )));
            }
            self.cancel.sleep(step).map_err(|over| self.over(over))?;
            step = (step * 2).min(limits::SPLUNK_ACK_STEP_MAX);
        }
        Ok(())
    }

    /// Sends a request that delivers nothing and that is otherwise like a delivery: same address, headers and encoding.
    pub fn check_receiver(&self) -> Result<(), OutputError> {
        let probe = self.format.probe();
        let body = if self.gzip { compressed(&[&probe]) } else { probe };
        let mut response = self.post_batch(&body).map_err(|refusal| self.error(refusal))?;
        if response.status == 401 && self.format.renew() {
            response = self.post_batch(&body).map_err(|refusal| self.error(refusal))?;
        }
        let HttpResponse { status, headers, body, .. } = &response;
        if response.is_success() && is_web_page(*status, headers, body) {
            return Err(self.error(Refusal::of_web_page(*status)));
        }
        let body = redact::body(body);
        match self.format.passes_probe(*status, &body) {
            Ok(true) => Ok(()),
            Ok(false) if response.is_success() => {
                let problem = format!("HTTP {status} without what this kind of receiver answers");
                let unknown = Refusal::new(problem, "check url and format");
                let outcome = self.format.settle(&Batch::default(), *status, &body);
                Err(self.error(if let Outcome::Failed(refusal) = outcome { refusal } else { unknown }))
            }
            Ok(false) => Err(self.error(self.refusal_of(&response))),
            Err(refusal) => Err(self.error(refusal)),
        }
    }

    /// One request with a batch.
    pub fn send(&self, batch: &Batch, has_renewed: &mut bool) -> Outcome {
        let response = match self.post_batch(&batch.body(self.format.frame(), self.gzip)) {
            Ok(response) => response,
            Err(refusal) => return Outcome::Failed(refusal),
        };
        let HttpResponse { status, headers, body, cut } = &response;
        if response.is_success() {
            return match cut {
                _ if is_web_page(*status, headers, body) => Outcome::Failed(Refusal::of_web_page(*status)),
                Some(refusal) if !self.format.accepts_by_status() => Outcome::Failed(refusal.clone()),
                _ => self.format.settle(batch, *status, body),
            };
        }
        let refusal = self.refusal_of(&response).without_quotes(*status, batch.text());
        let (status, body) = (*status, redact::body(body));
        if let Some(outcome) = self.format.sort(batch, status, &body, &refusal) {
            return outcome;
        }
        match status {
            413 => Outcome::TooLarge(refusal),
            _ if self.format.blames_records(status, &body) => Outcome::Refused(refusal),
            401 if !*has_renewed && self.format.renew() => {
                *has_renewed = true;
                self.send(batch, has_renewed)
            }
            _ => Outcome::Failed(refusal),
        }
    }

    /// What a response without success means.
    fn refusal_of(&self, response: &HttpResponse) -> Refusal {
        let body = redact::body(&response.body);
        let words = self.format.explain(response.status, &body);
        Refusal::of_answer(response.status, &response.headers, &body, words, Timestamp::now())
    }

    /// Posts a body to where batches go. Where receipts hang on one server of several, the first request is made alone,
    /// so that all others have its cookies.
    fn post_batch(&self, body: &[u8]) -> Result<HttpResponse, Refusal> {
        let mut has_answered = self.has_answered.lock().unwrap_or_else(PoisonError::into_inner);
        if *has_answered || !self.format.has_receipts() {
            drop(has_answered);
            return self.post(&self.path, self.format.content_type(), body, self.gzip);
        }
        let response = self.post(&self.path, self.format.content_type(), body, self.gzip);
        *has_answered = response.is_ok();
        response
    }

    fn post(&self, path: &str, content_type: &str, body: &[u8], gzip: bool) -> Result<HttpResponse, Refusal> {
        let mut own = self.format.headers(&self.agents)?;
        own.push(("Content-Type", Secret::new(content_type)));
        if gzip {
            own.push(("Content-Encoding", Secret::new("gzip")));
        }
        own.extend(self.cookies().header().map(|cookies| ("Cookie", Secret::new(&cookies))));
        let url = format!("{}{path}", self.origin);
        let mut request = self.agents.agent_for(&url).post(&url);
        for (name, value) in self.all_headers(&own) {
            request = request.header(name, value);
        }
        let peer = self.agents.peer(&url);
        let refusal = |error: &NetworkError| Refusal::of_network_error(&peer, error);
        let first_address = self.agents.first_address();
        let response = agents::read_even_if_cut(&peer, request.send(body), limits::HTTP_ANSWER_BYTES_MAX);
        if matches!(response, Err(NetworkError::Unreachable(_))) {
            self.agents.avoid_address(first_address);
        }
        let (status, headers, body, cut) = response.map_err(|error| refusal(&error))?;
        self.cookies().read(&headers);
        Ok(HttpResponse { status, headers, body, cut: cut.as_ref().map(refusal) })
    }

    fn cookies(&self) -> std::sync::MutexGuard<'_, Cookies> {
        self.cookies.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The configured headers, and those of the format that are not among them.
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

    /// Waits before another try. Returns the refusal if no try is left.
    pub fn wait(&self, tries: &mut Tries, refusal: Refusal) -> Result<Option<Refusal>, OutputError> {
        if !refusal.is_transient || self.is_given_up() {
            return Err(self.error(refusal));
        }
        let now = Instant::now();
        let until = *tries.until.get_or_insert(now + self.retry_timeout);
        tries.failed += 1;
        tries.cut = if refusal.is_cut { tries.cut + 1 } else { 0 };
        let back_off = backoff::delay(limits::HTTP_RETRY_DELAY, tries.failed, fastrand::f64());
        let delay = match refusal.after {
            _ if refusal.is_cut && tries.failed == 1 => Duration::ZERO,
            Some(after) => backoff::delay_asked_for(after, fastrand::f64()).max(back_off),
            None => back_off,
        };
        let left = until.saturating_duration_since(now);
        if tries.failed > limits::HTTP_RETRIES_MAX || delay > left {
            let wish = match refusal.after {
                Some(after) => format!(", and asks to wait {} s", after.as_secs()),
                None => String::new(),
            };
            let problem = format!("{}{wish} (tries: {})", refusal.problem, tries.failed);
            return Ok(Some(Refusal { problem, ..refusal }));
        }
        let problem = redact::secrets(&refusal.problem);
        let seconds = delay.as_secs_f64();
        log::warn!("Output http: {}: {problem}; trying again in {seconds:.1} s", self.name);
        self.rest(delay).map_err(|over| self.over(over))?;
        Ok(None)
    }

    /// Sleeps for so long, or until there is nothing to wait for any more.
    fn rest(&self, time: Duration) -> Result<(), Cancelled> {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_given_up() {
            let left = until.saturating_duration_since(Instant::now());
            self.cancel.sleep(left.min(limits::CANCEL_POLL_INTERVAL))?;
        }
        Ok(())
    }

    /// That the pass had to end.
    pub fn over(&self, over: Cancelled) -> OutputError {
        let hint = "the next pass goes on from here".to_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem: over.to_string(), hint }
    }

    /// That batches have been sent too often because their receipts were given out twice.
    pub fn receipts_repeat(&self) -> OutputError {
        self.error(Refusal::new(
            "it gives out the same ack id for several batches",
            "behind a load balancer, turn sticky sessions on; the next pass sends them again",
        ))
    }

    pub fn error(&self, refusal: Refusal) -> OutputError {
        let problem = redact::secrets(&refusal.problem).into_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem, hint: refusal.hint }
    }
}
