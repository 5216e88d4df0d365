//! A batch and its parts: what is sent next after each response.

use std::{collections::HashSet, mem};

use super::{
    answer::{Outcome, Refusal, Sorted},
    batch::Batch,
    post::{Post, Tries},
};
use crate::{
    limits,
    output::{OutputError, RejectedRecord},
    redact,
};

/// A receiver may cut the connection on a body that is too large before its answer says so. The first cut says nothing:
/// a connection that was kept may have been closed while it was idle.
const CUTS_UNTIL_HALVED: u32 = 2;

/// What became of a batch.
#[derive(Debug, Default)]
pub struct Delivery {
    /// What is accepted and safe only when it is asked for by its receipt, where the receiver gives any.
    pub receipts: Vec<Receipt>,
    /// The Ids of the other records that were accepted.
    pub accepted: Vec<u128>,
    /// Those that were left out because the receiver refuses them.
    pub refused: Vec<RejectedRecord>,
    /// What the receiver answered to one of these.
    pub refusal: Option<OutputError>,
    /// Why not all others were accepted.
    pub failure: Option<OutputError>,
}

/// What a receiver accepted without saying yet that it is safe.
#[derive(Debug)]
pub struct Receipt {
    /// By this is asked.
    pub id: u64,
    /// What it is for.
    pub batch: Batch,
}

/// A batch on its way, in parts if need be.
pub struct Sending<'a> {
    post: &'a Post,
    /// The parts that are not sent yet, the next one last.
    waiting: Vec<Batch>,
    tries: Tries,
    has_renewed: bool,
    /// The size at which connections were cut, which may be the reason.
    cut_bytes: Option<usize>,
    search: Option<Search>,
    delivery: Delivery,
}

/// Looks for the records to which a receiver answers with an error of its own, after many tries. Such an error can as
/// well be that of a receiver that accepts nothing. So a record is at fault only if others were accepted after it had
/// failed, and it fails once more.
struct Search {
    /// The error with which it began.
    first: Refusal,
    suspects: Vec<Batch>,
    has_success: bool,
    is_last_round: bool,
}

impl<'a> Sending<'a> {
    /// Sends this batch.
    pub fn new(post: &'a Post, batch: Batch) -> Self {
        Self {
            post,
            waiting: vec![batch],
            tries: Tries::default(),
            has_renewed: false,
            cut_bytes: None,
            search: None,
            delivery: Delivery::default(),
        }
    }

    /// Sends all parts, until each is accepted or refused, or until the output fails.
    pub fn run(mut self) -> Delivery {
        self.delivery.failure = self.send_parts().err();
        self.delivery
    }

    fn send_parts(&mut self) -> Result<(), OutputError> {
        while let Some(batch) = self.next()? {
            self.post.check()?;
            let batch = if self.post.is_known_too_large(batch.bytes()) {
                let Err(single) = self.halve(batch) else { continue };
                single
            } else {
                batch
            };
            let outcome = self.post.send(&batch, &mut self.has_renewed);
            self.take(batch, outcome)?;
        }
        Ok(())
    }

    /// The next part: when all others are sent, the records that are suspected.
    fn next(&mut self) -> Result<Option<Batch>, OutputError> {
        if let Some(search) = self.search.as_mut().filter(|_| self.waiting.is_empty())
            && !search.suspects.is_empty()
        {
            if !search.has_success {
                return Err(self.post.error(search.first.clone()));
            }
            search.is_last_round = true;
            self.waiting = mem::take(&mut search.suspects);
        }
        Ok(self.waiting.pop())
    }

    /// Has both halves sent instead; or returns what is a single record.
    fn halve(&mut self, batch: Batch) -> Result<(), Batch> {
        let (first, second) = batch.halves()?;
        self.waiting.extend([second, first]);
        Ok(())
    }

    fn take(&mut self, batch: Batch, outcome: Outcome) -> Result<(), OutputError> {
        match outcome {
            Outcome::Accepted(receipt) => {
                self.accepted(batch.len());
                match receipt {
                    Some(id) => self.delivery.receipts.push(Receipt { id, batch }),
                    None => self.delivery.accepted.extend(batch.ids()),
                }
                self.tries = Tries::default();
                if let Some(bytes) = self.cut_bytes.take() {
                    self.post.is_too_large(bytes, "the connection is cut");
                }
                Ok(())
            }
            Outcome::Sorted(sorted) => self.sorted(&batch, sorted),
            Outcome::TooLarge(refusal) => {
                let bytes = batch.bytes();
                match self.halve(batch) {
                    Ok(()) => self.post.is_too_large(bytes, &refusal.problem),
                    Err(single) => {
                        let problem = format!("{} for a single record of {bytes} bytes", refusal.problem);
                        let hint = self.post.format().too_large().to_owned();
                        self.leave_out(&single, Refusal { problem, hint, ..refusal })?;
                    }
                }
                Ok(())
            }
            Outcome::Refused(refusal) => {
                self.tries = Tries::default();
                self.halve(batch).or_else(|single| self.leave_out(&single, refusal))
            }
            Outcome::Failed(refusal) => self.failed(batch, refusal),
        }
    }

    fn sorted(&mut self, batch: &Batch, sorted: Sorted) -> Result<(), OutputError> {
        let Sorted { rest, refused, failure } = sorted;
        let refused_ids = refused.iter().flat_map(|(single, _)| single.ids());
        let not_accepted: HashSet<_> = rest.ids().chain(refused_ids).collect();
        self.delivery.accepted.extend(batch.ids().filter(|id| !not_accepted.contains(id)));
        self.accepted(batch.len() - rest.len() - refused.len());
        if !rest.is_empty() {
            self.waiting.push(rest);
        }
        for (single, refusal) in refused {
            self.leave_out(&single, refusal)?;
        }
        if let Some(refusal) = failure
            && let Some(refusal) = self.post.wait(&mut self.tries, refusal)?
        {
            return Err(self.post.error(refusal));
        }
        Ok(())
    }

    fn failed(&mut self, batch: Batch, refusal: Refusal) -> Result<(), OutputError> {
        if self.search.is_some() && refusal.may_blame_a_record() {
            return self.halve(batch).or_else(|single| self.suspect(single, refusal));
        }
        if let Some(refusal) = self.post.wait(&mut self.tries, refusal)? {
            let is_alone = batch.len() == 1 && self.waiting.is_empty();
            if !refusal.may_blame_a_record() || is_alone {
                return Err(self.post.error(refusal));
            }
            self.post.warn_of_search(&refusal);
            self.search = Some(Search {
                first: refusal,
                suspects: Vec::new(),
                has_success: false,
                is_last_round: false,
            });
            self.tries = Tries::default();
            self.waiting.push(batch);
            return Ok(());
        }
        if self.tries.cut < CUTS_UNTIL_HALVED {
            self.waiting.push(batch);
            return Ok(());
        }
        self.cut_bytes = Some(batch.bytes());
        if let Err(single) = self.halve(batch) {
            self.waiting.push(single);
        }
        Ok(())
    }

    /// A single record that has failed in a search.
    fn suspect(&mut self, single: Batch, refusal: Refusal) -> Result<(), OutputError> {
        let Some(search) = self.search.as_mut().filter(|search| !search.is_last_round) else {
            return self.leave_out(&single, refusal);
        };
        search.suspects.push(single);
        if !search.has_success && search.suspects.len() >= limits::HTTP_SUSPECTS_MAX {
            return Err(self.post.error(search.first.clone()));
        }
        Ok(())
    }

    fn accepted(&mut self, count: usize) {
        if count > 0 {
            self.post.count_accepted(count);
            if let Some(search) = &mut self.search {
                search.has_success = true;
            }
        }
    }

    /// Continues without a record that is refused, unless so many are that the records are not at fault.
    fn leave_out(&mut self, single: &Batch, refusal: Refusal) -> Result<(), OutputError> {
        self.post.count_refused(&refusal)?;
        let format = self.post.format();
        for entry in single.entries(format.frame()) {
            let text = format.record_in(entry.text);
            let line = text[..text.len().min(entry.record_bytes).saturating_sub(1)].to_owned() + "}";
            let reason = redact::secrets(&refusal.problem).into_owned();
            self.delivery.refused.push(RejectedRecord { record: entry.record, line, reason });
        }
        self.delivery.refusal.get_or_insert_with(|| self.post.error(refusal));
        Ok(())
    }
}
