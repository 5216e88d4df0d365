//! The field's words that everything here is about: a **tenant** has one **feed** for each **content type**, and a
//! feed brings **blobs**, each of them an array of **records**.

use std::fmt;

use jiff::Timestamp;

use crate::time;

/// One of the five kinds of content that the Office 365 Management Activity API offers.
///
/// Source: "Office 365 Management Activity API reference", section "Start a subscription".
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
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
    /// All of them, in the order in which a pass names them.
    pub const ALL: [Self; 5] = [
        Self::DlpAll,
        Self::AuditExchange,
        Self::AuditSharePoint,
        Self::AuditAzureActiveDirectory,
        Self::AuditGeneral,
    ];

    /// The name that the API uses, e.g. `Audit.Exchange`.
    pub fn name(self) -> &'static str {
        match self {
            Self::DlpAll => "DLP.All",
            Self::AuditExchange => "Audit.Exchange",
            Self::AuditSharePoint => "Audit.SharePoint",
            Self::AuditAzureActiveDirectory => "Audit.AzureActiveDirectory",
            Self::AuditGeneral => "Audit.General",
        }
    }

    /// As files are named after it: `DLPAll`.
    pub fn file_stem(self) -> String {
        self.name().replace('.', "")
    }

    /// The content type of that name, whatever its letter case: the API itself answers `Audit.Sharepoint` at times.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|content_type| content_type.name().eq_ignore_ascii_case(name))
    }
}

impl fmt::Display for ContentType {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.name())
    }
}

/// A blob as a listing names it: not yet downloaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedBlob {
    /// Opaque; unique within its tenant's feed, and nothing says that it is unique beyond.
    pub content_id: String,
    /// Where to fetch it: a full URL, on the API's own host if all is well.
    pub content_uri: String,
    /// When the blob became available. Its records can be much older.
    pub created: Timestamp,
    /// Until when it can be fetched, as the API wrote it; empty if it wrote nothing.
    pub expiration: String,
}

impl ListedBlob {
    /// When it can no longer be fetched. `None` if the API does not say so, or says a time before the blob was created.
    pub fn expires(&self) -> Option<Timestamp> {
        time::expiration(&self.expiration).filter(|expires| *expires > self.created)
    }
}
