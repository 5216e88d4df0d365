//! Feeds and blobs: a **tenant** has one **feed** for each **content type**, and a feed delivers **blobs**, each of them an
//! array of **records**.

use std::fmt;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};

use crate::time;

/// One of the five content types of the Office 365 Management Activity API.
///
/// Source: "Office 365 Management Activity API reference", section "Start a subscription".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "&'static str")]
pub enum ContentType {
    /// Data loss prevention, all workloads.
    DlpAll,
    /// Exchange.
    AuditExchange,
    /// SharePoint and OneDrive.
    AuditSharePoint,
    /// Entra ID, under its former name.
    AuditAzureActiveDirectory,
    /// Every workload that has no content type of its own, Teams among them.
    AuditGeneral,
}

impl ContentType {
    /// All content types, in the order in which a pass names them.
    pub const ALL: [Self; 5] = [
        Self::DlpAll,
        Self::AuditExchange,
        Self::AuditSharePoint,
        Self::AuditAzureActiveDirectory,
        Self::AuditGeneral,
    ];

    /// Returns the API's name, e.g. `Audit.Exchange`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DlpAll => "DLP.All",
            Self::AuditExchange => "Audit.Exchange",
            Self::AuditSharePoint => "Audit.SharePoint",
            Self::AuditAzureActiveDirectory => "Audit.AzureActiveDirectory",
            Self::AuditGeneral => "Audit.General",
        }
    }

    /// Returns the name that output files begin with, e.g. `DLPAll`.
    pub fn file_stem(self) -> String {
        self.name().replace('.', "")
    }

    /// Returns the content type of a name in any letter case: the API itself returns `Audit.Sharepoint` at times.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|content_type| content_type.name().eq_ignore_ascii_case(name))
    }
}

impl TryFrom<String> for ContentType {
    type Error = String;

    fn try_from(name: String) -> Result<Self, String> {
        Self::from_name(&name).ok_or_else(|| format!("{name} is not a content type"))
    }
}

impl From<ContentType> for &'static str {
    fn from(content_type: ContentType) -> Self {
        content_type.name()
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A blob in a listing, not downloaded yet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBlob {
    /// Opaque, and unique within its feed; not documented as unique across feeds.
    pub content_id: String,
    /// The URL of the blob, which must be on the API's host.
    pub content_uri: String,
    /// When the blob became available. Its records can be much older.
    pub created: Timestamp,
    /// Until when the blob can be fetched, as the API wrote it; empty if missing.
    pub expiration: String,
}

impl ListedBlob {
    /// Returns its size in memory, in bytes.
    pub fn bytes(&self) -> usize {
        size_of::<Self>() + self.content_id.len() + self.content_uri.len() + self.expiration.len()
    }

    /// Returns when the blob can no longer be fetched. `None` if the API gives no time, or one before the blob was created.
    pub fn expires(&self) -> Option<Timestamp> {
        time::expiration(&self.expiration).filter(|expires| *expires > self.created)
    }
}
