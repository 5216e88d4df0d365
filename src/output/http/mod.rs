//! Records to a receiver over HTTP, in batches.
//!
//! A batch is sent as soon as it has `batchSize` bytes or `batchRecords` records, several of them side by side, over
//! connections that are kept; a record that is larger than a batch goes alone. What counts as taken, how a batch looks
//! and what an answer says is the format's: [`lines`] (`ndjson`, `array`), [`splunk`], [`elastic`], [`azure`]. A batch
//! is tried again after 408, 429 and 5xx, after silence and after a connection that was cut, for `retryTimeout` at the
//! most and not before `Retry-After`; one that is too large (413, or cut off twice in a row) or of which the receiver
//! does not like a record (400, 422) is halved, and a single record that is refused is left out and told of. After any
//! other answer the output fails: nothing more is sent, what is under way is waited for, and a later pass sends again
//! what was not taken.
//!
//! When [`Output::make_durable`] returns, everything was answered with a status of success, and acknowledged where the
//! format has more than that. An answer that is lost on the way makes its batch come twice. Batches may arrive in
//! another order than that in which they were made.

mod answer;
mod azure;
mod batch;
mod elastic;
mod facts;
mod format;
mod lanes;
mod lines;
mod mask;
mod post;
mod splunk;

use std::{fmt, fs, path::Path, sync::Arc, time::Duration};

use ureq::{
    http::Uri,
    tls::{ClientCert, PemItem, TlsConfig},
};

use super::{Mark, Output, OutputError, Patience, Refused, Source};
use crate::{
    config::{self, HttpFormat, Network, Tls},
    delivery::OutputName,
    network::{
        self,
        agents::{Agents, Manner},
        alias::Alias,
    },
    records::Record,
};
use azure::Azure;
use batch::Batch;
use elastic::Elastic;
use format::Format;
use lanes::{Lanes, Stuck};
use lines::Lines;
use post::Post;
use splunk::Splunk;

/// `output.http`.
pub struct HttpOutput {
    settings: config::HttpOutput,
    network: Network,
    patience: Patience,
    format: Arc<dyn Format>,
    /// Records that are not on their way yet.
    batch: Batch,
    /// One record as the format writes it.
    record: Vec<u8>,
    /// Made when they are first needed.
    post: Option<Arc<Post>>,
    lanes: Option<Lanes>,
}

impl HttpOutput {
    /// Connects to nobody yet. Nobody waits for this receiver when `patience` is over.
    pub fn new(settings: &config::HttpOutput, network: &Network, patience: &Patience) -> Self {
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
            patience: patience.clone(),
            format,
            batch: Batch::default(),
            record: Vec::new(),
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
            mend: "nothing was sent".to_owned(),
        };
        let uri: Uri = settings.url.parse().expect("the configuration was checked");
        let server_name = settings.tls.as_ref().and_then(|tls| tls.server_name.clone());
        let alias = server_name.zip(uri.host()).map(|(name, host)| Alias { name, host: host.to_owned() });
        let manner = Manner {
            at_once: settings.connections,
            silence_max: settings.timeout,
            tls: tls_config(network, settings.tls.as_ref()).map_err(unusable)?,
            alias: alias.clone(),
        };
        let agents = Agents::new(network, &manner).map_err(|error| unusable(error.to_string()))?;
        if alias.is_some() && agents.is_proxied(&settings.url) {
            let problem =
                "tls.server_name has no effect through a proxy, which looks up the name of url itself";
            return Err(unusable(problem.to_owned()));
        }
        let post = Arc::new(Post::new(settings, agents, Arc::clone(&self.format), &self.patience));
        self.post = Some(Arc::clone(&post));
        Ok(post)
    }

    /// Puts what was collected on its way.
    fn send(&mut self) -> Result<(), OutputError> {
        if self.batch.is_empty() {
            return Ok(());
        }
        let post = self.post()?;
        let (connections, patience) = (self.settings.connections, &self.patience);
        let lanes = self.lanes.get_or_insert_with(|| Lanes::new(&post, connections, patience));
        lanes.put(std::mem::take(&mut self.batch)).map_err(|stuck| error_of(stuck, &post))
    }

    /// Waits until what these receipts stand for is safe.
    fn confirm(&self, post: &Arc<Post>, receipts: Vec<u64>) -> Result<(), OutputError> {
        if receipts.is_empty() {
            return Ok(());
        }
        let (asking, ack_timeout) = (Arc::clone(post), self.ack_timeout());
        let confirmed = self.patience.attempt(move || asking.confirm(receipts, ack_timeout));
        confirmed.unwrap_or_else(|over| Err(post.over(over)))
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
        Stuck::Over(over) => post.over(over),
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

    fn write(&mut self, from: &Source<'_>, records: &[Record<'_>]) -> Result<(), OutputError> {
        for record in records {
            self.record.clear();
            self.format.append(from, record, &mut self.record);
            let frame = self.format.frame();
            let bytes = frame.open.len() + self.batch.bytes() + self.record.len() + frame.close.len();
            if bytes > self.settings.batch_bytes_max || self.batch.len() >= self.settings.batch_records_max {
                self.send()?;
            }
            self.batch.push(Mark { blob: from.blob, id: record.id }, &self.record, frame);
        }
        Ok(())
    }

    fn make_durable(&mut self) -> Result<(), OutputError> {
        self.send()?;
        let (Some(lanes), Some(post)) = (&mut self.lanes, &self.post) else { return Ok(()) };
        let post = Arc::clone(post);
        let receipts = lanes.settle().map_err(|stuck| error_of(stuck, &post))?;
        self.confirm(&post, receipts)
    }

    fn take_refused(&mut self) -> Option<Refused> {
        self.lanes.as_mut().and_then(Lanes::take_refused)
    }

    fn take_safe_ids(&mut self) -> Vec<u128> {
        let (Some(lanes), Some(post)) = (&mut self.lanes, &self.post) else { return Vec::new() };
        let post = Arc::clone(post);
        let (taken, receipts) = lanes.take_taken();
        // Where a receipt is what counts, nothing is safe before all receipts are.
        self.confirm(&post, receipts).map_or_else(|_| Vec::new(), |()| taken)
    }

    fn try_out(&mut self) -> Result<(), OutputError> {
        self.post()?.try_out()
    }
}

/// The system's roots, the configured ones beside them, and the client's certificate if there is one.
fn tls_config(network: &Network, tls: Option<&Tls>) -> Result<TlsConfig, String> {
    let own_roots = tls.and_then(|tls| tls.ca_file.as_ref());
    let roots = network::roots(network.ca_file.iter().chain(own_roots)).map_err(|error| error.to_string())?;
    let certificate = tls.and_then(|tls| {
        let cert_file = tls.cert_file.as_deref()?;
        Some(client_certificate(cert_file, tls.key_file.as_deref().unwrap_or(cert_file)))
    });
    Ok(TlsConfig::builder().root_certs(roots).client_cert(certificate.transpose()?).build())
}

fn client_certificate(cert_file: &Path, key_file: &Path) -> Result<ClientCert, String> {
    let items = |key: &str, path: &Path| {
        let named = |problem: &str| format!("tls.{key} {}: {problem}", path.display());
        let pem = fs::read(path).map_err(|error| named(&error.to_string()))?;
        let items: Result<Vec<_>, _> = ureq::tls::parse_pem(&pem).collect();
        items.map_err(|_| named("is no PEM file"))
    };
    let certificates: Vec<_> = items("cert_file", cert_file)?
        .into_iter()
        .filter_map(|item| match item {
            PemItem::Certificate(certificate) => Some(certificate),
            _ => None,
        })
        .collect();
    if certificates.is_empty() {
        return Err(format!("tls.cert_file {}: holds no PEM certificate", cert_file.display()));
    }
    let key = items("key_file", key_file)?.into_iter().find_map(|item| match item {
        PemItem::PrivateKey(key) => Some(key),
        _ => None,
    });
    let key = key.ok_or_else(|| format!("tls.key_file {}: holds no PEM private key", key_file.display()))?;
    Ok(ClientCert::new_with_certs(&certificates, key))
}
