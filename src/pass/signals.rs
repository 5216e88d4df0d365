//! SIGTERM and SIGINT: the first signal ends the pass in order, the second one ends the program at once.

use std::{thread, time::Instant};

use crossbeam_channel::Sender;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};

use super::{Event, STOP_LEAVE_AFTER};
use crate::{exit::Exit, output::CancelToken, report::Stop};

/// Handles signals until it is dropped.
pub struct Listening(Option<Handle>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}

/// Sends signals to the main thread, and cancels the waits for receivers: the main thread may be waiting for the writer, and
/// the writer for a receiver. If the handlers cannot be installed, a signal ends the program at once, which the state
/// survives.
pub fn listen(events: Sender<Event>, cancel: CancelToken) -> Listening {
    let mut signals = match Signals::new([SIGINT, SIGTERM]) {
        Ok(signals) => signals,
        Err(error) => {
            log::warn!("Cannot listen for signals ({error}): they end the pass at once");
            return Listening(None);
        }
    };
    let handle = signals.handle();
    thread::spawn(move || {
        for (number, signal) in signals.forever().enumerate() {
            let stop = if signal == SIGINT { Stop::Interrupted } else { Stop::Terminated };
            if number > 0 {
                std::process::exit(Exit::from(stop).code().into());
            }
            cancel.cancel_at(Instant::now() + STOP_LEAVE_AFTER);
            // If the main thread no longer receives events, the pass is over.
            let _ = events.send(Event::Signal(stop));
        }
    });
    Listening(Some(handle))
}
