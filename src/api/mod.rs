//! Microsoft: the login endpoint and the Office 365 Management Activity API.
//!
//! One call here is one HTTP request. What to do about a failure is decided by [`retry`], and when the next request
//! may be made by [`pace`]; both are pure. Which way it takes is [`crate::network`]'s. Nothing here knows of outputs or state.

pub mod client;
pub mod error;
pub mod pace;
pub mod retry;

pub use client::{Client, Page, Subscription, Token};
pub use error::Failure;
