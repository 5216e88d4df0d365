//! Microsoft: the login endpoint and the Office 365 Management Activity API.
//!
//! One call here is one HTTP request. What to do about a failure is decided by [`retry`], and when the next request may
//! be made by [`pace`]; both are pure. Which way it takes is [`crate::network`]'s. Nothing here knows of outputs or
//! state.

mod claims;
pub mod client;
pub mod error;
pub mod pace;
mod reach;
pub mod retry;

pub use claims::Claims;
pub use client::{Client, Page, Subscription, Token, read_credential};
pub use error::ApiError;
