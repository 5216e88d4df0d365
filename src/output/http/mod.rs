//! Records to a receiver over HTTP, in batches.
//!
//! A batch is sent as soon as it has `batchSize` bytes or `batchRecords` records. Several batches are under way at the same
//! time, over connections that are kept. A record that is larger than a batch is sent alone. The format decides how a batch
//! looks and what a response means: [`plain`] (`ndjson`, `array`), [`splunk`], [`elastic`], [`azure`], [`otlp`].
//!
//! - After 408, 429 and 5xx, after a timeout and after a connection that was cut, a batch is sent again, for at most
//!   `retryTimeout` and not before `Retry-After`.
//! - A batch that is too large (413, or cut off twice in a row) or of which the receiver does not accept a record (400,
//!   422) is halved. So is a batch that still gets an internal error of the receiver (5xx except for 503) after the last
//!   attempt, because one record can cause it.
//! - A single record that is rejected in every form becomes a dead letter if the receiver has accepted other records in this
//!   pass. Otherwise the cause is the receiver or its configuration. If a receiver rejects some records of a batch without
//!   saying which, all of them become dead letters, because the others would be there twice if they were sent again.
//! - After any other response the output fails: it sends nothing more and waits for what is under way. A later pass sends
//!   again what was not accepted.
//!
//! When [`Output::flush`] returns, the receiver has accepted everything with a response of its kind and, if the format has
//! acknowledgements, has acknowledged it. A batch whose response is lost is sent twice. Batches can arrive in another order
//! than that in which they were created. The cookies of a load balancer are sent back ([`cookies`]).

mod azure;
mod batch;
mod client;
mod cookies;
mod delivery;
mod elastic;
mod format;
mod otlp;
mod outcome;
mod plain;
mod quotes;
mod sender_pool;
mod splunk;

use std::{collections::HashSet, fmt, sync::Arc, time::Duration};

use ureq::http::Uri;

use super::{BlobRecord, CancelToken, DeliveryError, Flushed, OnOpen, Output, OutputError, Rejected, Source};
use crate::{
    config::{self, HttpFormat, Network},
    delivery::OutputName,
    error::Explain,
    network::{
        agents::{AgentOptions, Agents, TlsChoice},
        alias::Alias,
        tls::{self, TlsProblem, TlsSettings},
    },
    records::RecordBatch,
};
use azure::Azure;
use batch::HttpBatch;
use client::HttpClient;
use delivery::{PendingAck, Rejections};
use elastic::Elastic;
use format::Format;
use otlp::Otlp;
use plain::Plain;
use sender_pool::SenderPool;
use splunk::Splunk;

/// The maximum number of times in one commit that batches are sent again because Splunk gave out an ack id twice.
const SPLUNK_RESENDS_MAX: usize = 10;

/// The size of each buffer of a connection: batches have megabytes.
const CONNECTION_BUFFER_BYTES: usize = 128 * 1024;

/// `output.http`.
pub struct HttpOutput {
    settings: config::HttpOutput,
    network: Network,
    cancel: CancelToken,
    format: Arc<dyn Format>,
    /// The records that are not sent yet.
    batch: HttpBatch,
    /// Created when it is first needed.
    client: Option<Arc<HttpClient>>,
    senders: Option<SenderPool>,
}

impl HttpOutput {
    /// Connects to nothing yet. Stops waiting for the receiver when `cancel` says so.
    pub fn new(settings: &config::HttpOutput, network: &Network, cancel: &CancelToken) -> Self {
        let format: Arc<dyn Format> = match &settings.format {
            HttpFormat::Ndjson => Arc::new(Plain::Ndjson),
            HttpFormat::Array => Arc::new(Plain::Array),
            HttpFormat::SplunkHec(options) => Arc::new(Splunk::new(options)),
            HttpFormat::ElasticBulk { index } => Arc::new(Elastic::new(index.clone())),
            HttpFormat::AzureLogs(app) => Arc::new(Azure::new(app)),
            HttpFormat::Otlp(options) => Arc::new(Otlp::new(options)),
        };
        Self {
            settings: settings.clone(),
            network: network.clone(),
            cancel: cancel.clone(),
            format,
            batch: HttpBatch::default(),
            client: None,
            senders: None,
        }
    }

    /// Returns the client, for which the files that the configuration names are read.
    fn client(&mut self) -> Result<Arc<HttpClient>, OutputError> {
        if let Some(client) = &self.client {
            return Ok(Arc::clone(client));
        }
        let (settings, network) = (&self.settings, &self.network);
        let unusable = |problem: String| unusable(problem, "nothing was sent".to_owned());
        let uri: Uri = settings.url.parse().expect("the configuration was checked");
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let alias = server_name.zip(uri.host()).map(|(name, host)| Alias { name, host: host.to_owned() });
        let options = AgentOptions {
            requests_max: settings.connections,
            io_timeout: settings.timeout,
            tls: TlsChoice::Receiver(self.tls_settings()),
            alias: alias.clone(),
            buffer_bytes: CONNECTION_BUFFER_BYTES,
        };
        let agents = Agents::new(network, &options).map_err(|error| unusable(error.to_string()))?;
        if alias.is_some() && agents.is_proxied(&settings.url) {
            let problem =
                "tls.server_name has no effect through a proxy, which looks up the name of url itself";
            return Err(unusable(problem.to_owned()));
        }
        let client = Arc::new(HttpClient::new(settings, agents, Arc::clone(&self.format), &self.cancel));
        self.client = Some(Arc::clone(&client));
        Ok(client)
    }

    fn tls_settings(&self) -> TlsSettings {
        TlsSettings {
            shared_roots: self.network.ca_file.clone(),
            tls: self.settings.tls.clone().unwrap_or_default(),
        }
    }

    /// Adds records to the batch, and sends it whenever it is full.
    fn collect(&mut self, source: &Source<'_>, records: &RecordBatch) -> Result<(), OutputError> {
        let framing = self.format.framing();
        let around = framing.open.len() + framing.close.len();
        for record in records.iter() {
            let id = BlobRecord { blob: source.blob, id: record.id() };
            let write = |to: &mut String| self.format.append(source, record, to);
            self.batch.push_with(id, record.line().len(), framing, write);
            let bytes = around + self.batch.bytes() - framing.between.len();
            let is_over = bytes > self.settings.batch_size || self.batch.len() > self.settings.batch_records;
            if is_over && self.batch.len() > 1 {
                let count = self.batch.len() - 1;
                let (full, last) = std::mem::take(&mut self.batch).split_at(count);
                self.batch = full;
                self.send()?;
                self.batch = last;
            }
        }
        Ok(())
    }

    /// Sends everything, and waits until it is safe. Batches whose acknowledgement is lost are sent again.
    fn send_all(&mut self) -> Result<(), OutputError> {
        self.send()?;
        let Some(client) = self.client.clone() else { return Ok(()) };
        for _ in 0..=SPLUNK_RESENDS_MAX {
            let Some(senders) = &mut self.senders else { return Ok(()) };
            senders.wait()?;
            self.wait_for_acks(&client)?;
            let Some(senders) = &mut self.senders else { return Ok(()) };
            let to_resend = senders.drain_to_resend();
            if to_resend.is_empty() {
                senders.drain_accepted();
                return Ok(());
            }
            to_resend.into_iter().try_for_each(|batch| senders.send(batch))?;
        }
        Err(client.repeated_ids_error())
    }

    fn drain_rejected(&mut self) -> Option<Rejected> {
        let senders = self.senders.as_mut()?;
        let mut rejections = senders.drain_rejected();
        rejections.extend(senders.drain_undecided());
        self.rejected(rejections)
    }

    fn rejected(&self, Rejections { records, reason }: Rejections) -> Option<Rejected> {
        // A receiver that has accepted nothing may be the wrong one, or wrongly configured.
        let has_accepted = self.client.as_ref().is_some_and(|client| client.has_accepted());
        let are_dead_letters = self.settings.dead_letters && has_accepted;
        Some(Rejected { records, reason: reason?, are_dead_letters })
    }

    /// Waits for what is under way when the output fails. Returns the error, with the records that were accepted.
    fn failed(&mut self, error: OutputError) -> DeliveryError {
        let mut failed = DeliveryError::from(error);
        if let (Some(senders), Some(client)) = (&mut self.senders, self.client.clone()) {
            senders.wait_after_error();
            if let Err(error) = self.wait_for_acks(&client) {
                log::debug!("Output http: some accepted records are not confirmed: {}", error.explain());
            }
            if let Some(senders) = &mut self.senders {
                failed.accepted_ids = senders.drain_accepted();
                let undecided = senders.drain_undecided();
                failed.undecided = self.rejected(undecided).map(Box::new);
            }
        }
        failed
    }

    /// Sends the batch.
    fn send(&mut self) -> Result<(), OutputError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let client = self.client()?;
        let (connections, cancel) = (self.settings.connections, &self.cancel);
        let senders = self.senders.get_or_insert_with(|| SenderPool::new(&client, connections, cancel));
        senders.send(std::mem::take(&mut self.batch))
    }

    /// Waits until the receiver has acknowledged the batches that it has accepted. Notes those that it has acknowledged, also
    /// after an error.
    fn wait_for_acks(&mut self, client: &Arc<HttpClient>) -> Result<(), OutputError> {
        let Some(senders) = &mut self.senders else { return Ok(()) };
        let pending = senders.drain_pending();
        if pending.is_empty() {
            return Ok(());
        }
        let ids = pending.iter().map(|pending| pending.id).collect();
        let (asking, ack_timeout) = (Arc::clone(client), ack_timeout(&self.settings));
        let waited = self.cancel.attempt(move || asking.wait_for_acks(ids, ack_timeout));
        let (acknowledged, result) =
            waited.unwrap_or_else(|cancelled| (Vec::new(), Err(client.cancelled(cancelled))));
        let acknowledged: HashSet<_> = acknowledged.into_iter().collect();
        for PendingAck { batch, .. } in pending.iter().filter(|pending| acknowledged.contains(&pending.id)) {
            senders.acknowledged(batch);
        }
        result
    }
}

fn ack_timeout(settings: &config::HttpOutput) -> Duration {
    match &settings.format {
        HttpFormat::SplunkHec(options) => options.ack_timeout,
        _ => Duration::ZERO,
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
        Ok(Flushed { rejected: self.drain_rejected(), positions: Vec::new() })
    }

    fn check(&mut self) -> Result<&'static str, OutputError> {
        self.client()?.check_receiver()?;
        Ok("can be reached")
    }

    fn check_offline(&mut self) -> Result<Option<&'static str>, OutputError> {
        self.client()?;
        if self.settings.url.starts_with("https:") {
            let checked = tls::client_config(&self.tls_settings());
            checked.map_err(|TlsProblem { problem, hint, .. }| unusable(problem, hint))?;
        }
        Ok(None)
    }
}

/// Returns the error of an output whose files or settings cannot be used.
fn unusable(problem: String, hint: String) -> OutputError {
    OutputError::Receiver { receiver: "output.http".to_owned(), problem, hint }
}
