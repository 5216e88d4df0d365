//! Crashes and power loss at the worst moment.
