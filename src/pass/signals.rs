//! SIGTERM and SIGINT: the first one ends the pass in order, a second one at once.

use std::{thread, time::Instant};

use crossbeam_channel::Sender;
use signal_hook::{
    consts::{SIGINT, SIGTERM},
    iterator::{Handle, Signals},
};

use super::Event;
use crate::{exit::Exit, limits::STOP_LEAVE_AFTER, output::CancelToken, report::Stop};

/// Listens as long as it lives.
pub struct Listening(Option<Handle>);

impl Drop for Listening {
    fn drop(&mut self) {
        if let Some(handle) = &self.0 {
            handle.close();
        }
    }
}

/// Tells the main thread of signals, and ends the patience with receivers by itself: the main thread may be waiting for
/// the writer, and that for one of them. If the system does not let us listen, signals end the program as they always
/// do, which the state survives.
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
            // The main thread may be past listening; then the pass is over anyway.
            let _ = events.send(Event::Signal(stop));
        }
    });
    Listening(Some(handle))
}
