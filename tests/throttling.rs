//! The rate of requests, and what is done about throttling.
