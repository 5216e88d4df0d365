//! Records to a receiver over HTTP, in batches.
//!
//! A batch is sent as soon as it has `batchSize` bytes or `batchRecords` records, several of them at the same time, over
//! connections that are kept; a record that is larger than a batch goes alone. How a batch looks, which response accepts
//! it and what an error says is the format's: [`lines`] (`ndjson`, `array`), [`splunk`], [`elastic`], [`azure`].
//!
//! - After 408, 429 and 5xx, after silence and after a connection that was cut, a batch is tried again, for `retryTimeout`
//!   at the most and not before `Retry-After`.
//! - A batch that is too large (413, or cut off twice in a row) or of which the receiver does not accept a record (400,
//!   422) is halved. So is one that still gets an error of the receiver's own (5xx but 503) after the last try, because
//!   one record can cause it.
//! - A single record that is refused in every form is left out and becomes a dead letter, provided that the receiver has
//!   accepted other records in this pass: otherwise the receiver or its configuration is at fault.
//! - After any other response the output fails: nothing more is sent, what is under way is waited for, and a later pass
//!   sends again what was not accepted.
//!
//! When [`Output::flush`] returns, everything was answered as a receiver of this kind answers, and acknowledged
//! where the format has more than that. A response that is lost on the way makes its batch come twice. Batches may arrive
//! in another order than that in which they were made. The cookies of a load balancer are sent back ([`cookies`]).

mod answer;
mod azure;
mod batch;
mod cookies;
mod elastic;
mod format;
mod lanes;
mod lines;
mod mask;
mod post;
mod sending;
mod splunk;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use ureq::http::Uri;

use super::{BlobRecord, CancelToken, DeliveryError, Flushed, OnOpen, Output, OutputError, Rejected, Source};
use crate::{
    config::{self, HttpFormat, Network},
    delivery::OutputName,
    limits,
    network::{
        agents::{AgentOptions, Agents, TlsChoice},
        alias::Alias,
        tls::TlsSettings,
    },
    records::RecordBatch,
};
use azure::Azure;
use batch::{Batch, Entry};
use elastic::Elastic;
use format::Format;
use lanes::{Lanes, Stuck};
use lines::Lines;
use post::Post;
use sending::Receipt;
use splunk::Splunk;

/// `output.http`.
pub struct HttpOutput {
    settings: config::HttpOutput,
    network: Network,
    cancel: CancelToken,
    format: Arc<dyn Format>,
    /// Records that are not on their way yet.
    batch: Batch,
    /// One record as the format writes it.
    record: String,
    /// Made when they are first needed.
    post: Option<Arc<Post>>,
    lanes: Option<Lanes>,
}

impl HttpOutput {
    /// Connects to nobody yet. Nobody waits for this receiver when `patience` is over.
    pub fn new(settings: &config::HttpOutput, network: &Network, cancel: &CancelToken) -> Self {
        let format: Arc<dyn Format> = match &settings.format {
            HttpFormat::Ndjson => Arc::new(Lines::Ndjson),
            HttpFormat::Array => Arc::new(Lines::Array),
            HttpFormat::SplunkHec(options) => Arc::new(Splunk::new(options)),
            HttpFormat::ElasticBulk { index } => Arc::new(Elastic::new(index.clone())),
            HttpFormat::AzureLogs(app) => Arc::new(Azure::new(app)),
        };
        Self {
            settings: settings.clone(),
            network: network.clone(),
            cancel: cancel.clone(),
            format,
            batch: Batch::default(),
            record: String::new(),
            post: None,
            lanes: None,
        }
    }

    /// The receiver, once the files that the configuration names are read.
    fn post(&mut self) -> Result<Arc<Post>, OutputError> {
        if let Some(post) = &self.post {
            return Ok(Arc::clone(post));
        }
        let (settings, network) = (&self.settings, &self.network);
        let unusable = |problem: String| OutputError::Receiver {
            receiver: "output.http".to_owned(),
            problem,
            hint: "nothing was sent".to_owned(),
        };
        let uri: Uri = settings.url.parse().expect("the configuration was checked");
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let alias = server_name.zip(uri.host()).map(|(name, host)| Alias { name, host: host.to_owned() });
        let options = AgentOptions {
            requests_max: settings.connections,
            io_timeout: settings.timeout,
            tls: TlsChoice::Receiver(TlsSettings {
                shared_roots: network.ca_file.clone(),
                tls: settings.tls.clone().unwrap_or_default(),
            }),
            alias: alias.clone(),
        };
        let agents = Agents::new(network, &options).map_err(|error| unusable(error.to_string()))?;
        if alias.is_some() && agents.is_proxied(&settings.url) {
            let problem =
                "tls.server_name has no effect through a proxy, which looks up the name of url itself";
            return Err(unusable(problem.to_owned()));
        }
        let post = Arc::new(Post::new(settings, agents, Arc::clone(&self.format), &self.cancel));
        self.post = Some(Arc::clone(&post));
        Ok(post)
    }

    /// Adds records to the batch, and sends it whenever it is full.
    fn collect(&mut self, source: &Source<'_>, records: &RecordBatch) -> Result<(), OutputError> {
        let frame = self.format.frame();
        for record in records.iter() {
            self.record.clear();
            self.format.append(source, record, &mut self.record);
            let bytes = frame.open.len() + self.batch.bytes() + self.record.len() + frame.close.len();
            if bytes > self.settings.batch_bytes_max || self.batch.len() >= self.settings.batch_records_max {
                self.send()?;
            }
            let (text, record_bytes) = (self.record.as_str(), record.line().len());
            let record = BlobRecord { blob: source.blob, id: record.id() };
            self.batch.push(Entry { record, text, record_bytes }, frame);
        }
        Ok(())
    }

    /// Sends everything, and waits until it is safe. Forgets what was accepted.
    fn send_all(&mut self) -> Result<(), OutputError> {
        self.send()?;
        let Some(post) = self.post.clone() else { return Ok(()) };
        self.settle(&post)?;
        if let Some(lanes) = &mut self.lanes {
            lanes.take_accepted();
        }
        Ok(())
    }

    fn take_rejected(&mut self) -> Option<Rejected> {
        let (records, reason) = self.lanes.as_mut()?.take_refused()?;
        // A receiver that has accepted nothing may be the wrong one, or wrongly configured.
        let has_accepted = self.post.as_ref().is_some_and(|post| post.has_accepted());
        Some(Rejected { records, reason, are_dead_letters: self.settings.dead_letters && has_accepted })
    }

    /// Waits for what is under way when the output fails. Returns the error, with the records that were accepted.
    fn failed(&mut self, error: OutputError) -> DeliveryError {
        let mut failed = DeliveryError::from(error);
        if let (Some(lanes), Some(post)) = (&mut self.lanes, self.post.clone()) {
            lanes.settle_rest();
            if let Err(error) = self.confirm(&post) {
                log::debug!("Output http: not all that was accepted is safe: {error}");
            }
            failed.accepted_ids = self.lanes.as_mut().map_or_else(Vec::new, Lanes::take_accepted);
        }
        failed
    }

    /// Puts what was collected on its way.
    fn send(&mut self) -> Result<(), OutputError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let post = self.post()?;
        let (connections, cancel) = (self.settings.connections, &self.cancel);
        let lanes = self.lanes.get_or_insert_with(|| Lanes::new(&post, connections, cancel));
        lanes.put(std::mem::take(&mut self.batch)).map_err(|stuck| error_of(stuck, &post))
    }

    /// Waits until what has a receipt is safe. What is so all the same is remembered where not everything is.
    fn confirm(&mut self, post: &Arc<Post>) -> Result<(), OutputError> {
        let Some(lanes) = &mut self.lanes else { return Ok(()) };
        let receipts = lanes.take_receipts();
        if receipts.is_empty() {
            return Ok(());
        }
        let ids = receipts.iter().map(|receipt| receipt.id).collect();
        let (asking, ack_timeout) = (Arc::clone(post), self.ack_timeout());
        let answered = self.cancel.attempt(move || asking.confirm(ids, ack_timeout));
        let (confirmed, result) = answered.unwrap_or_else(|over| (Vec::new(), Err(post.over(over))));
        let confirmed: HashSet<_> = confirmed.into_iter().collect();
        let lanes = self.lanes.as_mut().expect("they gave the receipts");
        for Receipt { batch, .. } in receipts.iter().filter(|receipt| confirmed.contains(&receipt.id)) {
            lanes.confirm(batch);
        }
        result
    }

    /// Waits until everything is accepted and safe. What lost its receipt is sent again.
    fn settle(&mut self, post: &Arc<Post>) -> Result<(), OutputError> {
        for _ in 0..=limits::SPLUNK_RESENDS_MAX {
            let Some(lanes) = &mut self.lanes else { return Ok(()) };
            lanes.settle().map_err(|stuck| error_of(stuck, post))?;
            self.confirm(post)?;
            let Some(lanes) = &mut self.lanes else { return Ok(()) };
            let void = lanes.take_void();
            if void.is_empty() {
                return Ok(());
            }
            for batch in void {
                lanes.put(batch).map_err(|stuck| error_of(stuck, post))?;
            }
        }
        Err(post.receipts_repeat())
    }

    fn ack_timeout(&self) -> Duration {
        match &self.settings.format {
            HttpFormat::SplunkHec(options) => options.ack_timeout,
            _ => Duration::ZERO,
        }
    }
}

fn error_of(stuck: Stuck, post: &Post) -> OutputError {
    match stuck {
        Stuck::Failed(error) => error,
        Stuck::Cancelled(over) => post.over(over),
    }
}

impl fmt::Debug for HttpOutput {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("HttpOutput").field("batch", &self.batch.len()).finish_non_exhaustive()
    }
}

impl Output for HttpOutput {
    fn name(&self) -> OutputName {
        OutputName::Http
    }

    fn write(
        &mut self,
        source: &Source<'_>,
        records: &RecordBatch,
        _: &mut OnOpen<'_>,
    ) -> Result<(), DeliveryError> {
        self.collect(source, records).map_err(|error| self.failed(error))
    }

    fn flush(&mut self, _: &mut OnOpen<'_>) -> Result<Flushed, DeliveryError> {
        self.send_all().map_err(|error| self.failed(error))?;
        Ok(Flushed { rejected: self.take_rejected(), positions: Vec::new() })
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        self.post()?.check_receiver()?;
        Ok("can be reached")
    }
}
