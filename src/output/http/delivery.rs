//! The delivery of one batch: what is sent next after each response, until the receiver has accepted or rejected each
//! record of the batch.

use std::{collections::HashSet, mem};

use super::{
    batch::HttpBatch,
    client::{Attempts, HttpClient},
    outcome::{BatchOutcome, HttpError, RecordOutcomes},
};
use crate::{
    output::{OutputError, RejectedRecord},
    redact,
};

/// The number of records with a server error, such as HTTP 500, at which the output fails if the receiver has accepted
/// none.
const SUSPECTS_MAX: usize = 3;

/// A receiver can cut the connection on a body that is too large, before its response says so. The first cut means
/// nothing: a connection that was kept may have been closed while it was idle.
const CUTS_BEFORE_HALVES: u32 = 2;

/// The result of the delivery of a batch.
#[derive(Debug, Default)]
pub struct DeliveryResult {
    /// The parts that are accepted, and safe only when the receiver acknowledges them.
    pub pending: Vec<PendingAck>,
    /// The identities of the other records that were accepted.
    pub accepted: Vec<u128>,
    /// The records that the receiver rejected.
    pub rejected: Rejections,
    /// The records of batches of which the receiver rejected some without saying which.
    pub undecided: Rejections,
    /// Why not all others were accepted.
    pub error: Option<OutputError>,
}

/// Records that a receiver rejected, or may have rejected.
#[derive(Debug, Default)]
pub struct Rejections {
    /// The records.
    pub records: Vec<RejectedRecord>,
    /// The answer of the receiver to one of them; `None` without records.
    pub reason: Option<OutputError>,
}

impl Rejections {
    /// Adds others.
    pub fn extend(&mut self, others: Self) {
        self.records.extend(others.records);
        self.reason = self.reason.take().or(others.reason);
    }
}

/// A batch that a receiver accepted and has not acknowledged yet.
#[derive(Debug)]
pub struct PendingAck {
    /// The id under which the receiver is asked for the acknowledgement.
    pub id: u64,
    /// The batch.
    pub batch: HttpBatch,
}

/// A batch that is being delivered, in parts if necessary.
pub struct BatchDelivery<'a> {
    client: &'a HttpClient,
    /// The parts that are not sent yet; the next one is the last.
    waiting: Vec<HttpBatch>,
    attempts: Attempts,
    has_renewed: bool,
    /// The size at which connections were cut, which may be the reason.
    cut_bytes: Option<usize>,
    search: Option<Search>,
    result: DeliveryResult,
}

/// A search for the records that cause an internal error of the receiver, begun after many attempts. A receiver that
/// accepts nothing can return such an error too. So a record is the cause only if others were accepted after it had failed,
/// and it fails once more.
struct Search {
    /// The error with which it began.
    first: HttpError,
    suspects: Vec<HttpBatch>,
    has_success: bool,
    is_last_round: bool,
}

impl<'a> BatchDelivery<'a> {
    /// Returns the delivery of a batch, of which nothing is sent yet.
    pub fn new(client: &'a HttpClient, batch: HttpBatch) -> Self {
        Self {
            client,
            waiting: vec![batch],
            attempts: Attempts::default(),
            has_renewed: false,
            cut_bytes: None,
            search: None,
            result: DeliveryResult::default(),
        }
    }

    /// Sends all parts, until each is accepted or rejected, or until the output fails.
    pub fn run(mut self) -> DeliveryResult {
        self.result.error = self.send_parts().err();
        self.result
    }

    fn send_parts(&mut self) -> Result<(), OutputError> {
        while let Some(batch) = self.next()? {
            self.client.check()?;
            let batch = if self.client.is_known_too_large(batch.bytes()) {
                let Err(single) = self.halve(batch) else { continue };
                single
            } else {
                batch
            };
            let outcome = self.client.send(&batch, &mut self.has_renewed);
            self.handle(batch, outcome)?;
        }
        Ok(())
    }

    /// Returns the next part: when all others are sent, the suspected records.
    fn next(&mut self) -> Result<Option<HttpBatch>, OutputError> {
        if let Some(search) = self.search.as_mut().filter(|_| self.waiting.is_empty())
            && !search.suspects.is_empty()
        {
            if !search.has_success {
                return Err(self.client.error(search.first.clone()));
            }
            search.is_last_round = true;
            self.waiting = mem::take(&mut search.suspects);
        }
        Ok(self.waiting.pop())
    }

    /// Replaces a batch by its halves. A batch of a single record is returned as an error.
    fn halve(&mut self, batch: HttpBatch) -> Result<(), HttpBatch> {
        let (first, second) = batch.halves()?;
        self.waiting.extend([second, first]);
        Ok(())
    }

    fn handle(&mut self, batch: HttpBatch, outcome: BatchOutcome) -> Result<(), OutputError> {
        match outcome {
            BatchOutcome::Accepted(ack_id) => {
                self.count_accepted(batch.len());
                match ack_id {
                    Some(id) => self.result.pending.push(PendingAck { id, batch }),
                    None => self.result.accepted.extend(batch.ids()),
                }
                self.attempts = Attempts::default();
                if let Some(bytes) = self.cut_bytes.take() {
                    self.client.note_too_large(bytes, "the connection is cut");
                }
                Ok(())
            }
            BatchOutcome::Mixed(outcomes) => self.handle_mixed(&batch, outcomes),
            BatchOutcome::Undecided(count, error) => {
                self.count_accepted(batch.len().saturating_sub(count));
                self.attempts = Attempts::default();
                self.client.warn_of_undecided(&error, batch.len());
                let rejections = self.rejections(&batch, &error);
                self.result.undecided.extend(rejections);
                (0..count).try_for_each(|_| self.client.count_rejected(&error))
            }
            BatchOutcome::TooLarge(error) => {
                let bytes = batch.bytes();
                match self.halve(batch) {
                    Ok(()) => self.client.note_too_large(bytes, &error.problem),
                    Err(single) => {
                        let problem = format!("{} for a single record of {bytes} bytes", error.problem);
                        let hint = self.client.format().too_large_hint().to_owned();
                        self.reject(&single, &HttpError { problem, hint, ..error })?;
                    }
                }
                Ok(())
            }
            BatchOutcome::Rejected(error) => {
                self.attempts = Attempts::default();
                self.halve(batch).or_else(|single| self.reject(&single, &error))
            }
            BatchOutcome::Failed(error) => self.handle_failure(batch, error),
        }
    }

    fn handle_mixed(&mut self, batch: &HttpBatch, outcomes: RecordOutcomes) -> Result<(), OutputError> {
        let RecordOutcomes { rest, rejected, error } = outcomes;
        let rejected_ids = rejected.iter().flat_map(|(single, _)| single.ids());
        let not_accepted: HashSet<_> = rest.ids().chain(rejected_ids).collect();
        self.result.accepted.extend(batch.ids().filter(|id| !not_accepted.contains(id)));
        let accepted = batch.len() - rest.len() - rejected.len();
        self.count_accepted(accepted);
        if accepted > 0 {
            self.attempts = Attempts::default();
        }
        if !rest.is_empty() {
            self.waiting.push(rest);
        }
        for (single, error) in rejected {
            self.reject(&single, &error)?;
        }
        if let Some(error) = error
            && let Some(error) = self.client.wait_before_retry(&mut self.attempts, error)?
        {
            return Err(self.client.error(error));
        }
        Ok(())
    }

    /// Sends a batch again after a failure, halves it, or looks for the record that causes it.
    fn handle_failure(&mut self, batch: HttpBatch, error: HttpError) -> Result<(), OutputError> {
        if self.search.is_some() && error.may_be_caused_by_a_record() {
            return self.halve(batch).or_else(|single| self.suspect(single, &error));
        }
        let last_error = if error.is_internal && !error.is_transient {
            Some(error)
        } else {
            self.client.wait_before_retry(&mut self.attempts, error)?
        };
        if let Some(error) = last_error {
            let is_alone = batch.len() == 1 && self.waiting.is_empty();
            if !error.may_be_caused_by_a_record() || is_alone {
                return Err(self.client.error(error));
            }
            self.client.warn_of_search(&error);
            self.search =
                Some(Search { first: error, suspects: Vec::new(), has_success: false, is_last_round: false });
            self.attempts = Attempts::default();
            self.waiting.push(batch);
            return Ok(());
        }
        if self.attempts.cut < CUTS_BEFORE_HALVES {
            self.waiting.push(batch);
            return Ok(());
        }
        self.cut_bytes = Some(batch.bytes());
        if let Err(single) = self.halve(batch) {
            self.waiting.push(single);
        }
        Ok(())
    }

    /// Notes a single record that has failed in a search.
    fn suspect(&mut self, single: HttpBatch, error: &HttpError) -> Result<(), OutputError> {
        let Some(search) = self.search.as_mut().filter(|search| !search.is_last_round) else {
            return self.reject(&single, error);
        };
        search.suspects.push(single);
        if !search.has_success && search.suspects.len() >= SUSPECTS_MAX {
            return Err(self.client.error(search.first.clone()));
        }
        Ok(())
    }

    fn count_accepted(&mut self, count: usize) {
        if count > 0 {
            self.client.count_accepted(count);
            if let Some(search) = &mut self.search {
                search.has_success = true;
            }
        }
    }

    /// Continues without a record that is rejected. Fails when too many are rejected: then the records are not the cause.
    fn reject(&mut self, single: &HttpBatch, error: &HttpError) -> Result<(), OutputError> {
        self.client.count_rejected(error)?;
        let rejections = self.rejections(single, error);
        self.result.rejected.extend(rejections);
        Ok(())
    }

    /// Returns the records of a batch as rejected with this error.
    fn rejections(&self, batch: &HttpBatch, error: &HttpError) -> Rejections {
        let format = self.client.format();
        let records = batch.records(format.framing()).map(|rejected| {
            let text = format.record_in(rejected.text);
            let line = text[..text.len().min(rejected.line_bytes).saturating_sub(1)].to_owned() + "}";
            let reason = redact::secrets(&error.problem).into_owned();
            RejectedRecord { record: rejected.record, line, reason }
        });
        Rejections { records: records.collect(), reason: Some(self.client.error(error.clone())) }
    }
}
