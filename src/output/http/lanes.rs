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
    post::{Delivery, Post},
};
use crate::{
    limits::PATIENCE_STEP,
    output::{OutputError, Over, Patience, Refused},
};

/// The threads that send, and what is on its way.
pub struct Lanes {
    post: Arc<Post>,
    batches: Sender<Batch>,
    results: Receiver<Delivery>,
    /// Batches given to the lanes of which no result was taken yet.
    under_way: usize,
    /// What is to be asked for until it is safe.
    receipts: Vec<u64>,
    /// The Ids of the records that were taken since everything was last settled.
    taken: Vec<u128>,
    /// The records that were left out.
    refused: Option<Refused>,
    threads: Vec<JoinHandle<()>>,
    patience: Patience,
}

/// Why a batch cannot be given, or waited for.
pub enum Stuck {
    /// A batch was not taken.
    Failed(OutputError),
    /// The pass has to end.
    Over(Over),
}

impl Lanes {
    /// Starts so many threads.
    pub fn new(post: &Arc<Post>, count: usize, patience: &Patience) -> Self {
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
            taken: Vec::new(),
            refused: None,
            threads,
            patience: patience.clone(),
        }
    }

    /// Gives a batch to the first thread that is free.
    pub fn put(&mut self, mut batch: Batch) -> Result<(), Stuck> {
        loop {
            while let Ok(delivery) = self.results.try_recv() {
                self.take(delivery)?;
            }
            match self.batches.send_timeout(batch, PATIENCE_STEP) {
                Ok(()) => break,
                Err(SendTimeoutError::Timeout(back) | SendTimeoutError::Disconnected(back)) => batch = back,
            }
            self.look_around()?;
        }
        self.under_way += 1;
        Ok(())
    }

    /// Waits until all is taken that the receiver does not refuse record by record. Returns the receipts of what was
    /// taken since the last time.
    pub fn settle(&mut self) -> Result<Vec<u64>, Stuck> {
        while self.under_way > 0 {
            match self.results.recv_timeout(PATIENCE_STEP) {
                Ok(delivery) => self.take(delivery)?,
                Err(RecvTimeoutError::Timeout | RecvTimeoutError::Disconnected) => self.look_around()?,
            }
        }
        self.taken.clear();
        Ok(std::mem::take(&mut self.receipts))
    }

    /// After a failure: waits for what is under way, and returns the Ids of the records that were taken all the same,
    /// and their receipts.
    pub fn take_taken(&mut self) -> (Vec<u128>, Vec<u64>) {
        while self.under_way > 0 {
            match self.results.recv_timeout(PATIENCE_STEP) {
                Ok(delivery) => drop(self.take(delivery)), // one failure was told already
                Err(_) if self.look_around().is_err() => break,
                Err(_) => {}
            }
        }
        (std::mem::take(&mut self.taken), std::mem::take(&mut self.receipts))
    }

    /// The records that were left out since this was last asked.
    pub fn take_refused(&mut self) -> Option<Refused> {
        self.refused.take()
    }

    fn take(&mut self, delivery: Delivery) -> Result<(), Stuck> {
        self.under_way -= 1;
        self.receipts.extend(delivery.receipts);
        self.taken.extend(delivery.taken);
        if let Some(refused) = delivery.refused {
            refused.join(&mut self.refused);
        }
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
        self.patience.check().map_err(Stuck::Over)
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
