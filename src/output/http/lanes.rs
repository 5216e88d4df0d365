//! Several batches on their way at one time, because a receiver that is far away takes its time to answer: a thread for
//! each, all of which end with the last handle to them.

use std::{
    panic,
    sync::Arc,
    thread::{self, JoinHandle},
};

use crossbeam_channel::{Receiver, RecvTimeoutError, SendTimeoutError, Sender};

use super::{
    batch::Batch,
    post::Post,
    sending::{Delivery, Receipt},
};
use crate::{
    limits::CANCEL_POLL_INTERVAL,
    output::{CancelToken, Cancelled, OutputError, RejectedRecord},
};

/// The threads that send, and what is on its way.
pub struct Lanes {
    post: Arc<Post>,
    batches: Sender<Batch>,
    results: Receiver<Delivery>,
    /// Batches given to the lanes of which no result was taken yet.
    under_way: usize,
    /// What is to be asked for until it is safe.
    receipts: Vec<Receipt>,
    /// What is to be sent again, because its receipt was given out a second time.
    void: Vec<Batch>,
    /// The Ids of the records that are safe since everything last was.
    accepted: Vec<u128>,
    /// The records that were left out.
    refused: Vec<RejectedRecord>,
    /// What the receiver answered to one of them.
    refusal: Option<OutputError>,
    threads: Vec<JoinHandle<()>>,
    cancel: CancelToken,
}

/// Why a batch cannot be given, or waited for.
pub enum Stuck {
    /// A batch was not taken.
    Failed(OutputError),
    /// The pass has to end.
    Cancelled(Cancelled),
}

impl Lanes {
    /// Starts so many threads.
    pub fn new(post: &Arc<Post>, count: usize, cancel: &CancelToken) -> Self {
        let (batches, to_send) = crossbeam_channel::bounded::<Batch>(0);
        let (sent, results) = crossbeam_channel::unbounded();
        let lane = || {
            let (post, to_send, sent) = (Arc::clone(post), to_send.clone(), sent.clone());
            thread::spawn(move || {
                for batch in to_send {
                    // Nobody waits for it when the pass ends.
                    let _ = sent.send(post.deliver(batch));
                }
            })
        };
        let threads = (0..count).map(|_| lane()).collect();
        Self {
            post: Arc::clone(post),
            batches,
            results,
            under_way: 0,
            receipts: Vec::new(),
            void: Vec::new(),
            accepted: Vec::new(),
            refused: Vec::new(),
            refusal: None,
            threads,
            cancel: cancel.clone(),
        }
    }

    /// Gives a batch to the first thread that is free.
    pub fn put(&mut self, mut batch: Batch) -> Result<(), Stuck> {
        loop {
            while let Ok(delivery) = self.results.try_recv() {
                self.take(delivery)?;
            }
            match self.batches.send_timeout(batch, CANCEL_POLL_INTERVAL) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back) | SendTimeoutError::Disconnected(back)) => batch = back,
            }
            self.look_around()?;
        }
        self.under_way += 1;
        Ok(())
    }

    /// Waits until all is accepted that the receiver does not refuse record by record.
    pub fn settle(&mut self) -> Result<(), Stuck> {
        while self.under_way > 0 {
            match self.results.recv_timeout(CANCEL_POLL_INTERVAL) {
                Ok(delivery) => self.take(delivery)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.look_around()?,
            }
        }
        Ok(())
    }

    /// After a failure: waits for what is under way.
    pub fn settle_rest(&mut self) {
        while self.under_way > 0 {
            match self.results.recv_timeout(CANCEL_POLL_INTERVAL) {
                Ok(delivery) => drop(self.take(delivery)), // the first failure was reported
                Err(_) if self.look_around().is_err() => break,
                Err(_) => {}
            }
        }
    }

    /// What was accepted and has to be asked for until it is safe.
    pub fn take_receipts(&mut self) -> Vec<Receipt> {
        std::mem::take(&mut self.receipts)
    }

    /// What has to be sent again.
    pub fn take_void(&mut self) -> Vec<Batch> {
        std::mem::take(&mut self.void)
    }

    /// The Ids of the records that are safe since this was last asked.
    pub fn take_accepted(&mut self) -> Vec<u128> {
        std::mem::take(&mut self.accepted)
    }

    /// These records are safe too.
    pub fn confirm(&mut self, batch: &Batch) {
        self.accepted.extend(batch.ids());
    }

    /// The records that were left out since this was last asked, and what the receiver answered to one of them.
    pub fn take_refused(&mut self) -> Option<(Vec<RejectedRecord>, OutputError)> {
        let why = self.refusal.take()?;
        Some((std::mem::take(&mut self.refused), why))
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), Stuck> {
        self.under_way -= 1;
        for receipt in delivery.receipts {
            if let Some(place) = self.receipts.iter().position(|other| other.id == receipt.id) {
                let Receipt { id, batch } = self.receipts.swap_remove(place);
                log::warn!(
                    "Output http: ack id {id} was given out for two batches, as after a restart of Splunk or by two indexers \
                     behind a load balancer without sticky sessions; the first of them is sent again"
                );
                self.void.push(batch);
            }
            self.receipts.push(receipt);
        }
        self.accepted.extend(delivery.accepted);
        self.refused.extend(delivery.refused);
        self.refusal = self.refusal.take().or(delivery.refusal);
        delivery.failure.map_or(Ok(()), |failure| {
            self.post.give_up();
            Err(Stuck::Failed(failure))
        })
    }

    /// Whether there is still something to wait for.
    fn look_around(&mut self) -> Result<(), Stuck> {
        if let Some(place) = self.threads.iter().position(JoinHandle::is_finished) {
            let ended = self.threads.swap_remove(place).join();
            panic::resume_unwind(ended.expect_err("a lane ends only with its sender, or by a panic"));
        }
        self.cancel.check().map_err(Stuck::Cancelled)
    }
}

impl Drop for Lanes {
    /// What is still on its way is cut off: nobody waits for it any more.
    fn drop(&mut self) {
        if self.under_way > 0 {
            self.post.shut_down();
        }
    }
}
