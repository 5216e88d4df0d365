//! A fake of Microsoft's login endpoint and of the whole Office 365 Management Activity API, on a loopback port.
//!
//! A test starts a [`Simulator`], gives it a [`Tenant`] with [`NewBlob`]s, perhaps plants a [`Fault`], lets a client
//! loose on [`Simulator::url`], and compares what the client has got with [`Tenant::ids`]:
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
//! // … a pass against simulator.url() …
//! assert_eq!(fault.fired(), 2);
//! assert_eq!(tenant.served_ids("Audit.Exchange"), tenant.ids("Audit.Exchange"));
//! assert_eq!(simulator.violations(), [""; 0]);
//! ```
//!
//! # Map
//!
//! A request comes in through `server`, over a plain `stream` or one under TLS, and is understood by `request`; `world`
//! takes it by `protocol` (is it in good form?) and [`Fault`] (shall it fail?) to `login` or `api`, which answer from a
//! `tenant` and its `blob`s, filled by `record`. The [`Answer`] goes out through `server` again, in whatever manner its
//! [`Delivery`] says.
//!
//! The simulator is stricter than Microsoft: whatever a client does that would be a mistake is kept in
//! [`Simulator::violations`], even where the real service would let it pass.

mod answer;
mod api;
mod api_error;
mod base64url;
mod blob;
mod fault;
mod gzip;
mod login;
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
pub use fault::{Fault, Planted, Requests, RetryAfter};
pub use login::LoginError;
pub use record::{id_of, record, reordered};
pub use request::{Operation, Request};
pub use simulator::Simulator;
pub use stream::Identity;
pub use tenant::{ContentIds, Quota, Subscription, Tenant, TenantSettings};
pub use time::Fraction;
pub use world::Seen;

/// The content types that the API offers.
pub const CONTENT_TYPES: [&str; 5] =
    ["DLP.All", "Audit.Exchange", "Audit.SharePoint", "Audit.AzureActiveDirectory", "Audit.General"];
