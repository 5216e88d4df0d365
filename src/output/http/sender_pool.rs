//! The threads that send batches: several batches are under way at one time, because a distant receiver answers late. All
//! threads end when the pool is dropped.

use std::{
    collections::HashSet,
    mem, panic,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use super::{
    batch::HttpBatch,
    client::HttpClient,
    delivery::{DeliveryResult, PendingAck, Rejections},
};
use crate::{
    limits::CANCEL_POLL_INTERVAL,
    output::{CancelToken, OutputError},
};

/// The threads that send, and the results that they have reported.
pub struct SenderPool {
    client: Arc<HttpClient>,
    batches: Sender<HttpBatch>,
    results: Receiver<DeliveryResult>,
    /// The number of batches whose result is still to come.
    in_flight: usize,
    /// The batches that are accepted but not acknowledged.
    pending: Vec<PendingAck>,
    /// The batches to be sent again because another one got the same acknowledgement id. Responses can arrive in another
    /// order than the receiver sent them, so it is unknown which of these batches an acknowledgement would be for.
    to_resend: Vec<HttpBatch>,
    /// The acknowledgement ids of these batches.
    repeated_ids: HashSet<u64>,
    /// The identities of the records that are safe since the last flush.
    accepted: Vec<u128>,
    /// The records that the receiver rejected.
    rejected: Rejections,
    /// The records of batches of which the receiver rejected some without saying which.
    undecided: Rejections,
    threads: Vec<JoinHandle<()>>,
    cancel: CancelToken,
}

impl SenderPool {
    /// Starts this number of threads.
    pub fn new(client: &Arc<HttpClient>, threads: usize, cancel: &CancelToken) -> Self {
        let (batches, to_send) = crossbeam_channel::bounded::<HttpBatch>(0);
        let (sent, results) = crossbeam_channel::unbounded();
        let start = |_| {
            let (client, to_send, sent) = (Arc::clone(client), to_send.clone(), sent.clone());
            thread::spawn(move || {
                for batch in to_send {
                    // At the end of the pass no thread receives the result.
                    let _ = sent.send(client.deliver(batch));
                }
            })
        };
        Self {
            client: Arc::clone(client),
            batches,
            results,
            in_flight: 0,
            pending: Vec::new(),
            to_resend: Vec::new(),
            repeated_ids: HashSet::new(),
            accepted: Vec::new(),
            rejected: Rejections::default(),
            undecided: Rejections::default(),
            threads: (0..threads).map(start).collect(),
            cancel: cancel.clone(),
        }
    }

    /// Gives a batch to the first thread that is free.
    pub fn send(&mut self, mut batch: HttpBatch) -> Result<(), OutputError> {
        loop {
            while let Ok(result) = self.results.try_recv() {
                self.receive(result)?;
            }
            match self.batches.send_timeout(batch, CANCEL_POLL_INTERVAL) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back) | SendTimeoutError::Disconnected(back)) => batch = back,
            }
            self.check()?;
        }
        self.in_flight += 1;
        Ok(())
    }

    /// Waits for the results of all batches.
    ///
    /// # Errors
    ///
    /// A batch failed, or the pass has to end.
    pub fn wait(&mut self) -> Result<(), OutputError> {
        while self.in_flight > 0 {
            match self.results.recv_timeout(CANCEL_POLL_INTERVAL) {
                Ok(result) => self.receive(result)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.check()?,
            }
        }
        Ok(())
    }

    /// Waits, after an error, for the results of all batches that are under way.
    pub fn wait_after_error(&mut self) {
        while self.in_flight > 0 {
            match self.results.recv_timeout(CANCEL_POLL_INTERVAL) {
                Ok(result) => drop(self.receive(result)), // the first error was reported
                Err(_) if self.check().is_err() => break,
                Err(_) => {}
            }
        }
    }

    /// Removes and returns the batches that are accepted but not acknowledged.
    pub fn drain_pending(&mut self) -> Vec<PendingAck> {
        mem::take(&mut self.pending)
    }

    /// Removes and returns the batches that have to be sent again. No batch is in flight, so no further response has one of
    /// their ids.
    pub fn drain_to_resend(&mut self) -> Vec<HttpBatch> {
        self.repeated_ids.clear();
        mem::take(&mut self.to_resend)
    }

    /// Returns the identities of the records that are safe since the last call.
    pub fn drain_accepted(&mut self) -> Vec<u128> {
        mem::take(&mut self.accepted)
    }

    /// Notes that the records of a batch are acknowledged.
    pub fn acknowledged(&mut self, batch: &HttpBatch) {
        self.accepted.extend(batch.ids());
    }

    /// Removes and returns the records that were rejected.
    pub fn drain_rejected(&mut self) -> Rejections {
        mem::take(&mut self.rejected)
    }

    /// Removes and returns the records of batches of which the receiver rejected some without saying which.
    pub fn drain_undecided(&mut self) -> Rejections {
        mem::take(&mut self.undecided)
    }

    fn receive(&mut self, result: DeliveryResult) -> Result<(), OutputError> {
        self.in_flight -= 1;
        for pending in result.pending {
            let earlier = self.pending.iter().position(|earlier| earlier.id == pending.id);
            if let Some(place) = earlier {
                let PendingAck { id, batch } = self.pending.swap_remove(place);
                log::warn!(
                    "Output http: ack id {id} was given out for two batches, as after a restart of Splunk or by two indexers \
                     behind a load balancer without sticky sessions; both are sent again"
                );
                self.to_resend.push(batch);
                self.repeated_ids.insert(id);
            }
            if self.repeated_ids.contains(&pending.id) {
                self.to_resend.push(pending.batch);
            } else {
                self.pending.push(pending);
            }
        }
        self.accepted.extend(result.accepted);
        self.rejected.extend(result.rejected);
        self.undecided.extend(result.undecided);
        result.error.map_or(Ok(()), |error| {
            self.client.stop();
            Err(error)
        })
    }

    /// Returns an error if the pass has to end. Panics if a thread has panicked.
    fn check(&mut self) -> Result<(), OutputError> {
        if let Some(place) = self.threads.iter().position(JoinHandle::is_finished) {
            let ended = self.threads.swap_remove(place).join();
            panic::resume_unwind(ended.expect_err("a thread ends only with the pool, or by a panic"));
        }
        self.cancel.check().map_err(|cancelled| self.client.cancelled(cancelled))
    }
}

impl Drop for SenderPool {
    /// Cuts off what is still under way: its result is not needed any more.
    fn drop(&mut self) {
        if self.in_flight > 0 {
            self.client.shut_down();
        }
    }
}
