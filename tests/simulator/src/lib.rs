//! A simulator of Microsoft's login endpoint and of the Office 365 Management Activity API, on a port of 127.0.0.1.
//!
//! A test starts a [`Simulator`], adds a [`Tenant`] with [`NewBlob`]s, optionally plants a [`Fault`], runs a client against
//! [`Simulator::url`], and compares what the client has collected with [`Tenant::ids`]:
//!
//! ```no_run
//! use simulator::{ApiError, Fault, NewBlob, Operation, Requests, Simulator, TenantSettings};
//!
//! let simulator = Simulator::start();
//! let tenant = simulator.tenant(TenantSettings::new("11111111-2222-4333-8444-555555555555").secret("secret"));
//! tenant.settings(|settings| settings.page_size = 7);
//! tenant.subscribe("Audit.Exchange");
//! let blob = tenant.add_blob("Audit.Exchange", NewBlob::records(100));
//! let fault = simulator.fault(
//!     Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).times(2),
//!     Fault::api_error(ApiError::Internal),
//! );
//! // … run a pass against simulator.url() …
//! assert_eq!(fault.fired(), 2);
//! assert_eq!(blob.served(), 1);
//! assert_eq!(simulator.violations(), [""; 0]);
//! ```
//!
//! # Map
//!
//! `server` reads a request from a `stream`, with or without TLS, and `request` parses it. `world` checks it with `protocol`
//! and looks for a [`Fault`]; then `login`, `managed_identity` or `api` answers with the data of a `tenant` and its `blob`s,
//! whose records `record` generates. `server` sends the [`Answer`] as its [`Delivery`] defines.
//!
//! The simulator is stricter than Microsoft: it records every mistake of a client in [`Simulator::violations`], also those that
//! the real service accepts.

mod answer;
mod api;
mod api_error;
mod base64url;
mod blob;
mod fault;
mod gzip;
mod login;
mod managed_identity;
mod protocol;
mod record;
mod request;
mod server;
mod simulator;
mod stream;
mod sync;
mod tenant;
mod time;
mod world;

pub use answer::{Answer, Delivery};
pub use api_error::ApiError;
pub use blob::{Blob, NewBlob, Window};
pub use fault::{Fault, PlantedFault, Requests, RetryAfter};
pub use login::LoginError;
pub use managed_identity::ManagedIdentities;
pub use record::{id_of, record, reordered};
pub use request::{Operation, Request};
pub use simulator::Simulator;
pub use stream::Identity;
pub use tenant::{ContentIds, Quota, Subscription, Tenant, TenantSettings};
pub use time::Fraction;
pub use world::LoggedRequest;

/// The content types that the API offers.
pub const CONTENT_TYPES: [&str; 5] =
    ["DLP.All", "Audit.Exchange", "Audit.SharePoint", "Audit.AzureActiveDirectory", "Audit.General"];
