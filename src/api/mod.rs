//! The client for Microsoft's login endpoint and the Office 365 Management Activity API.
//!
//! Each method of [`Client`] makes one HTTP request. [`retry`] decides what to do about a failure, and [`pace`] when the
//! next request may be made; both are pure. [`crate::network`] chooses the route. This module knows neither outputs nor
//! state.

mod blob_list;
mod claims;
pub mod client;
pub mod error;
mod list_elements;
pub mod pace;
mod reach;
pub mod retry;

pub use blob_list::BlobList;
pub use claims::Claims;
pub use client::{Client, Page, Subscription, Token, read_credential};
pub use error::ApiError;
