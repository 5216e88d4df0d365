//! How a receiver wants records, and what it says of them.

use super::{
    answer::{Outcome, Refusal},
    batch::{Batch, Frame},
};
use crate::{config::Secret, network::agents::Agents, output::Source, records::Record};

/// The manners of one kind of receiver. What they have in common is in [`super::post`].
pub trait Format: Send + Sync {
    /// Appends one record, without what the frame has between two of them.
    fn append(&self, from: &Source<'_>, record: &Record<'_>, to: &mut Vec<u8>);

    /// What stands around and between records.
    fn frame(&self) -> Frame;

    /// The body's `Content-Type`.
    fn content_type(&self) -> &'static str;

    /// What is posted to if the configured URL has no path; `/` if that is as good as any.
    fn usual_path(&self) -> &'static str {
        "/"
    }

    /// Headers beside the configured ones.
    fn headers(&self, _agents: &Agents) -> Result<Vec<(&'static str, Secret)>, Refusal> {
        Ok(Vec::new())
    }

    /// The credentials of [`Format::headers`] were refused: gets others the next time. Whether it can.
    fn renew(&self) -> bool {
        false
    }

    /// What the receiver says of why it takes nothing, and what can be done about that, if its words are known.
    fn explain(&self, _status: u16, _body: &[u8]) -> Option<(String, &'static str)> {
        None
    }

    /// Whether an answer may be about one record of a batch, and another batch of the same kind may be taken.
    fn blames_records(&self, status: u16, _body: &[u8]) -> bool {
        matches!(status, 400 | 422)
    }

    /// What became of a batch to which the receiver answered with a status of success.
    fn settle(&self, _batch: &Batch, _body: &[u8]) -> Outcome {
        Outcome::Taken(None)
    }

    /// Where and how is asked whether records that were taken are safe: the path of the question and its body. `None`
    /// if an answer of success already says so.
    fn question(&self, _receipts: &[u64]) -> Option<(String, String)> {
        None
    }

    /// The receipts that the answer to the question calls safe.
    fn safe(&self, _body: &[u8]) -> Vec<u64> {
        Vec::new()
    }

    /// What is asked, without delivering anything, to try out the receiver.
    fn probe(&self) -> Probe {
        Probe { path: None, refusals: &[401, 403] }
    }
}

/// A harmless request.
#[derive(Clone, Copy, Debug)]
pub struct Probe {
    /// Asked for with GET; `None`: the configured URL with HEAD.
    pub path: Option<&'static str>,
    /// What says that we are not let in. Whatever else is answered, somebody is there.
    pub refusals: &'static [u16],
}
