//! One batch, until its receiver has taken all of it or it is clear that it will not.

use std::{
    collections::HashSet,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use jiff::Timestamp;
use ureq::http::Uri;

use super::{
    answer::{Outcome, Refusal},
    batch::Batch,
    format::{Format, Probe},
};
use crate::{
    config::{self, Secret},
    limits,
    network::{
        agents::{self, Agents},
        alias::with_host,
        trouble,
    },
    output::{OutputError, Over, Patience, Refused},
    redact,
};

/// A receiver, and how it is spoken to. Shared by all who send to it.
pub struct Post {
    agents: Agents,
    format: Arc<dyn Format>,
    /// Where batches go.
    url: String,
    /// Its scheme, host and port.
    origin: String,
    /// What it is called in messages: host and port, and the proxy. Never the path, which can be as good as a password.
    name: String,
    headers: Vec<(String, Secret)>,
    gzip: bool,
    retry_timeout: Duration,
    patience: Patience,
    /// The size of the smallest batch that was too large for the receiver, in bytes.
    too_large_bytes: AtomicUsize,
    /// How many records were left out because the receiver refuses them.
    left_out: AtomicUsize,
    /// Whether nothing more is to be sent, because a batch has failed.
    is_given_up: AtomicBool,
}

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Delivery {
    /// By these is asked whether what was taken is safe, where the receiver gives any.
    pub receipts: Vec<u64>,
    /// The Ids of the records that were taken.
    pub taken: Vec<u128>,
    /// Those that were left out because the receiver refuses them.
    pub refused: Option<Refused>,
    /// Why not all others were taken.
    pub failure: Option<OutputError>,
}

impl Delivery {
    fn takes_all_but(&mut self, batch: &Batch, rest: &Batch) {
        let rest: HashSet<_> = rest.ids().collect();
        self.taken.extend(batch.ids().filter(|id| !rest.contains(id)));
    }
}

/// The tries of one batch.
#[derive(Default)]
struct Tries {
    failed: u32,
    /// Of these the last ones that ended with a cut connection.
    cut: u32,
    until: Option<Instant>,
}

/// A receiver may cut the connection on a body that is too large before its answer says so. The first cut says nothing:
/// a connection that was kept may have been closed while it was idle.
const CUTS_UNTIL_HALVED: u32 = 2;

impl Post {
    /// Connects to nobody yet.
    pub fn new(
        settings: &config::HttpOutput,
        agents: Agents,
        format: Arc<dyn Format>,
        patience: &Patience,
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
            url: format!("{origin}{path}"),
            origin,
            headers,
            gzip: settings.gzip,
            retry_timeout: settings.retry_timeout,
            patience: patience.clone(),
            too_large_bytes: AtomicUsize::new(usize::MAX),
            left_out: AtomicUsize::new(0),
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

    /// Cuts every connection, in all threads.
    pub fn shut_down(&self) {
        self.agents.shut_down();
    }

    /// Sends a batch until all of it is taken, in parts if need be, but for single records that the receiver refuses.
    pub fn deliver(&self, batch: Batch) -> Delivery {
        let mut delivery = Delivery::default();
        delivery.failure = self.send_parts(batch, &mut delivery).err();
        delivery
    }

    fn send_parts(&self, batch: Batch, delivery: &mut Delivery) -> Result<(), OutputError> {
        let mut waiting = vec![batch];
        let (mut tries, mut has_renewed) = (Tries::default(), false);
        // The size at which connections were cut, which may be the reason.
        let mut cut_bytes = None;
        while let Some(batch) = waiting.pop() {
            self.patience.check().map_err(|over| self.over(over))?;
            if self.is_given_up() {
                return Err(
                    self.error(Refusal::new("another batch failed", "the next pass sends this one again"))
                );
            }
            let bytes = batch.bytes();
            let mut in_halves =
                |batch: Batch| batch.halves().map(|(first, second)| waiting.extend([second, first]));
            let batch = if bytes >= self.too_large_bytes.load(Ordering::Relaxed) {
                let Err(single) = in_halves(batch) else { continue };
                single
            } else {
                batch
            };
            match self.send(&batch, &mut has_renewed) {
                Outcome::Taken(receipt) => {
                    delivery.receipts.extend(receipt);
                    delivery.taken.extend(batch.ids());
                    tries = Tries::default();
                    if let Some(bytes) = cut_bytes.take() {
                        self.is_too_large(bytes, "the connection is cut");
                    }
                }
                Outcome::Next(rest) => {
                    delivery.takes_all_but(&batch, &rest);
                    waiting.push(rest);
                }
                Outcome::TooLarge(refusal) => match in_halves(batch) {
                    Ok(()) => self.is_too_large(bytes, &refusal.problem),
                    Err(single) => {
                        let problem = format!("{} for a single record of {bytes} bytes", refusal.problem);
                        let mend = "let the receiver take larger bodies".to_owned();
                        self.leave_out(single, Refusal { problem, mend, ..refusal }, delivery)?;
                    }
                },
                Outcome::Refused(refusal) => {
                    tries = Tries::default();
                    if let Err(single) = in_halves(batch) {
                        self.leave_out(single, refusal, delivery)?;
                    }
                }
                Outcome::Failed(refusal, rest) => {
                    if let Some(rest) = &rest {
                        delivery.takes_all_but(&batch, rest);
                    }
                    self.wait(&mut tries, refusal)?;
                    let rest = rest.unwrap_or(batch);
                    if tries.cut < CUTS_UNTIL_HALVED {
                        waiting.push(rest);
                        continue;
                    }
                    cut_bytes = Some(bytes);
                    if let Err(single) = in_halves(rest) {
                        waiting.push(single);
                    }
                }
            }
        }
        Ok(())
    }

    /// Does without a record that is refused, unless these are so many that it is not the records' fault.
    fn leave_out(&self, single: Batch, refusal: Refusal, delivery: &mut Delivery) -> Result<(), OutputError> {
        if self.left_out.fetch_add(1, Ordering::Relaxed) >= limits::HTTP_REFUSED_RECORDS_MAX {
            return Err(self.error(refusal));
        }
        let mend = format!("{}; the next pass sends it again", refusal.mend);
        let why = self.error(Refusal { mend, ..refusal });
        Refused { records: single.into_marks(), why }.join(&mut delivery.refused);
        Ok(())
    }

    /// Remembers for this pass that no such batch is to be sent as a whole.
    fn is_too_large(&self, bytes: usize, problem: &str) {
        if self.too_large_bytes.fetch_min(bytes, Ordering::Relaxed) == usize::MAX {
            let (name, problem) = (&self.name, redact::secrets(problem));
            log::warn!("Output http: {name}: {problem} for {bytes} bytes: sent in halves; lower batchSize");
        }
    }

    /// Asks until everything with a receipt is safe.
    pub fn confirm(&self, mut receipts: Vec<u64>, ack_timeout: Duration) -> Result<(), OutputError> {
        let until = Instant::now() + ack_timeout;
        let mut step = limits::SPLUNK_ACK_STEP;
        let mut tries = Tries::default();
        while !receipts.is_empty() {
            let Some((path, question)) = self.format.question(&receipts) else { break };
            let url = format!("{}{path}", self.origin);
            match self.post(&url, "application/json", question.as_bytes(), false) {
                Ok((200..=299, _, body)) => {
                    let safe = self.format.safe(&body);
                    receipts.retain(|receipt| !safe.contains(receipt));
                    tries = Tries::default();
                }
                Ok((status, headers, body)) => {
                    // Before anything is cut off: half a secret is not recognised.
                    let body = redact::body(&body);
                    let words = self.format.explain(status, &body);
                    let refusal = Refusal::of_answer(status, &headers, &body, words, Timestamp::now());
                    self.wait(&mut tries, refusal)?;
                }
                Err(refusal) => self.wait(&mut tries, refusal)?,
            }
            if receipts.is_empty() {
                break;
            }
            if Instant::now() >= until {
                let problem =
                    format!("{} batches are not indexed after {} s", receipts.len(), ack_timeout.as_secs());
                return Err(self.error(Refusal::new(
                    problem,
                    "look at the indexers and their queues, or raise splunk.ackTimeout; the next pass sends them again",
                )));
            }
            self.patience.sleep(step).map_err(|over| self.over(over))?;
            step = (step * 2).min(limits::SPLUNK_ACK_STEP_MAX);
        }
        Ok(())
    }

    /// Whether somebody is there who lets us in.
    pub fn try_out(&self) -> Result<(), OutputError> {
        let Probe { path, refusals } = self.format.probe();
        let url = path.map_or_else(|| self.url.clone(), |path| format!("{}{path}", self.origin));
        let own = self.format.headers(&self.agents).map_err(|refusal| self.error(refusal))?;
        let agent = self.agents.agent_for(&url);
        let mut request = if path.is_some() { agent.get(&url) } else { agent.head(&url) };
        for (name, value) in self.all_headers(&own) {
            request = request.header(name, value);
        }
        let peer = self.agents.peer(&url);
        let (status, headers, body) =
            agents::read_answer(&peer, request.call(), limits::ERROR_BODY_BYTES_MAX)
                .map_err(|trouble| self.error(Refusal::of_trouble(&peer, &trouble)))?;
        if refusals.contains(&status) || (300..400).contains(&status) {
            let body = redact::body(&body);
            let words = self.format.explain(status, &body);
            return Err(self.error(Refusal::of_answer(status, &headers, &body, words, Timestamp::now())));
        }
        Ok(())
    }

    /// One request with a batch.
    fn send(&self, batch: &Batch, has_renewed: &mut bool) -> Outcome {
        let body = batch.body(self.format.frame(), self.gzip);
        let answer = self.post(&self.url, self.format.content_type(), &body, self.gzip);
        let (status, headers, body) = match answer {
            Ok(answer) => answer,
            Err(refusal) => return Outcome::Failed(refusal, None),
        };
        if (200..300).contains(&status) {
            return self.format.settle(batch, &body);
        }
        let body = redact::body(&body);
        let words = self.format.explain(status, &body);
        let refusal = Refusal::of_answer(status, &headers, &body, words, Timestamp::now());
        let refusal = refusal.without_quotes(status, batch.text());
        match status {
            413 => Outcome::TooLarge(refusal),
            _ if self.format.blames_records(status, &body) => Outcome::Refused(refusal),
            401 if !*has_renewed && self.format.renew() => {
                *has_renewed = true;
                self.send(batch, has_renewed)
            }
            _ => Outcome::Failed(refusal, None),
        }
    }

    fn post(
        &self,
        url: &str,
        content_type: &str,
        body: &[u8],
        gzip: bool,
    ) -> Result<(u16, ureq::http::HeaderMap, Vec<u8>), Refusal> {
        let mut own = self.format.headers(&self.agents)?;
        own.push(("Content-Type", Secret::new(content_type)));
        if gzip {
            own.push(("Content-Encoding", Secret::new("gzip")));
        }
        let mut request = self.agents.agent_for(url).post(url);
        for (name, value) in self.all_headers(&own) {
            request = request.header(name, value);
        }
        let peer = self.agents.peer(url);
        agents::read_answer(&peer, request.send(body), limits::HTTP_ANSWER_BYTES_MAX)
            .map_err(|trouble| Refusal::of_trouble(&peer, &trouble))
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

    /// Waits before another try, or says that there is none.
    fn wait(&self, tries: &mut Tries, refusal: Refusal) -> Result<(), OutputError> {
        if !refusal.is_passing || self.is_given_up() {
            return Err(self.error(refusal));
        }
        let now = Instant::now();
        let until = *tries.until.get_or_insert(now + self.retry_timeout);
        tries.failed += 1;
        tries.cut = if refusal.is_cut { tries.cut + 1 } else { 0 };
        let back_off = trouble::delay(limits::HTTP_RETRY_DELAY, tries.failed, fastrand::f64());
        let delay = match refusal.after {
            _ if refusal.is_cut && tries.failed == 1 => Duration::ZERO,
            Some(after) => trouble::delay_as_asked(after, fastrand::f64()).max(back_off),
            None => back_off,
        };
        let left = until.saturating_duration_since(now);
        if tries.failed > limits::HTTP_RETRIES_MAX || delay > left {
            let wish = match refusal.after {
                Some(after) => format!(", and asks to wait {} s", after.as_secs()),
                None => String::new(),
            };
            let problem = format!("{}{wish} (tries: {})", refusal.problem, tries.failed);
            return Err(self.error(Refusal { problem, ..refusal }));
        }
        let problem = redact::secrets(&refusal.problem);
        let seconds = delay.as_secs_f64();
        log::warn!("Output http: {}: {problem}; trying again in {seconds:.1} s", self.name);
        self.rest(delay).map_err(|over| self.over(over))
    }

    /// Sleeps for so long, or until there is nothing to wait for any more.
    fn rest(&self, time: Duration) -> Result<(), Over> {
        let until = Instant::now() + time;
        while Instant::now() < until && !self.is_given_up() {
            let left = until.saturating_duration_since(Instant::now());
            self.patience.sleep(left.min(limits::PATIENCE_STEP))?;
        }
        Ok(())
    }

    /// That the pass had to end.
    pub fn over(&self, over: Over) -> OutputError {
        let mend = "the next pass goes on from here".to_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem: over.to_string(), mend }
    }

    fn error(&self, refusal: Refusal) -> OutputError {
        let problem = redact::secrets(&refusal.problem).into_owned();
        OutputError::Receiver { receiver: self.name.clone(), problem, mend: refusal.mend }
    }
}
