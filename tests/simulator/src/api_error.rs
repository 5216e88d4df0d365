//! The errors of the Activity API, with their HTTP status and body.

use crate::{answer::Answer, request::Request};

/// An error of the Activity API.
///
/// Source: "Office 365 Management Activity API reference", section "Errors"; `AF20024` and [`Self::AuditingOff`] are
/// only in reports of users.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ApiError {
    /// `AF10001`: the app lacks a permission.
    PermissionMissing,
    /// `AF20001`
    ParameterMissing,
    /// `AF20002`
    ParameterTypeWrong,
    /// `AF20003`
    ParameterInvalid,
    /// `AF20010`: the token is another tenant's.
    TenantMismatch,
    /// `AF20011`
    TenantUnknown,
    /// `AF20012`
    TenantMisconfigured,
    /// `AF20013`
    TenantNotGuid,
    /// `AF20020`
    ContentTypeInvalid,
    /// `AF20022`
    NoSubscription,
    /// `AF20023`
    SubscriptionDisabled,
    /// `AF20024`
    AlreadyEnabled,
    /// `AF20030`: the times are invalid.
    TimesInvalid,
    /// `AF20031`
    PageTokenInvalid,
    /// `AF20050`: the blob does not exist.
    ContentMissing,
    /// `AF20051`
    ContentExpired,
    /// `AF20052`
    ContentIdInvalid,
    /// `AF20055`: the times are invalid, as newer versions of the API report it.
    TimesOutOfRange,
    /// `AF429` with HTTP 403, as the API usually answers.
    Throttled,
    /// `AF50000`
    Internal,
    /// `AF50005`
    InternalDatabase,
    /// `AF50006`
    InternalStorage,
    /// Auditing is not turned on in the tenant. Instead of a code, the API sends an internal text.
    AuditingOff,
}

impl ApiError {
    /// All errors.
    pub const ALL: [Self; 23] = [
        Self::PermissionMissing,
        Self::ParameterMissing,
        Self::ParameterTypeWrong,
        Self::ParameterInvalid,
        Self::TenantMismatch,
        Self::TenantUnknown,
        Self::TenantMisconfigured,
        Self::TenantNotGuid,
        Self::ContentTypeInvalid,
        Self::NoSubscription,
        Self::SubscriptionDisabled,
        Self::AlreadyEnabled,
        Self::TimesInvalid,
        Self::PageTokenInvalid,
        Self::ContentMissing,
        Self::ContentExpired,
        Self::ContentIdInvalid,
        Self::TimesOutOfRange,
        Self::Throttled,
        Self::Internal,
        Self::InternalDatabase,
        Self::InternalStorage,
        Self::AuditingOff,
    ];

    /// The code in the body, e.g. `AF20022`.
    pub fn code(self) -> &'static str {
        match self {
            Self::PermissionMissing => "AF10001",
            Self::ParameterMissing => "AF20001",
            Self::ParameterTypeWrong => "AF20002",
            Self::ParameterInvalid => "AF20003",
            Self::TenantMismatch => "AF20010",
            Self::TenantUnknown => "AF20011",
            Self::TenantMisconfigured => "AF20012",
            Self::TenantNotGuid => "AF20013",
            Self::ContentTypeInvalid => "AF20020",
            Self::NoSubscription => "AF20022",
            Self::SubscriptionDisabled => "AF20023",
            Self::AlreadyEnabled => "AF20024",
            Self::TimesInvalid => "AF20030",
            Self::PageTokenInvalid => "AF20031",
            Self::ContentMissing => "AF20050",
            Self::ContentExpired => "AF20051",
            Self::ContentIdInvalid => "AF20052",
            Self::TimesOutOfRange => "AF20055",
            Self::Throttled => "AF429",
            Self::Internal => "AF50000",
            Self::InternalDatabase => "AF50005",
            Self::InternalStorage => "AF50006",
            Self::AuditingOff => "StartSubscription [CorrelationId=0fe7ea3c-0f51-4d57-9ec3-6d3a1f5ac2ae]",
        }
    }

    /// The HTTP status.
    pub fn status(self) -> u16 {
        match self {
            Self::PermissionMissing => 401,
            Self::TenantMismatch | Self::Throttled => 403,
            Self::ContentMissing => 404,
            Self::Internal | Self::InternalDatabase | Self::InternalStorage => 500,
            _ => 400,
        }
    }

    /// The answer to such a request.
    pub fn answer(self, request: &Request) -> Answer {
        let body = format!(
            r#"{{"error":{{"code":{},"message":{}}}}}"#,
            quoted(self.code()),
            quoted(&self.message(request))
        );
        Answer::json(self.status(), body)
    }

    fn message(self, request: &Request) -> String {
        let tenant = request.tenant.as_deref().unwrap_or_default();
        let content = request.content_id.as_deref().unwrap_or_default();
        match self {
            Self::PermissionMissing => {
                "The permission set () sent in the request did not include the expected permission \
                 ActivityFeed.Read."
                    .into()
            }
            Self::ParameterMissing => "Missing parameter: contentType.".into(),
            Self::ParameterTypeWrong => "Invalid parameter type: startTime. Expected type: DateTime".into(),
            Self::ParameterInvalid => "Invalid parameter: PublisherIdentifier.".into(),
            Self::TenantMismatch => format!(
                "The tenant ID passed in the URL ({tenant}) does not match the tenant ID passed in the access token."
            ),
            Self::TenantUnknown => {
                format!("Specified tenant ID ({tenant}) does not exist in the system or has been deleted.")
            }
            Self::TenantMisconfigured => {
                format!("Specified tenant ID ({tenant}) is incorrectly configured in the system.")
            }
            Self::TenantNotGuid => format!("The tenant ID passed in the URL ({tenant}) is not a valid GUID."),
            Self::ContentTypeInvalid => "The specified content type is not valid.".into(),
            Self::NoSubscription => "No subscription found for the specified content type.".into(),
            Self::SubscriptionDisabled => "The subscription was disabled by a tenant admin.".into(),
            Self::AlreadyEnabled => "The subscription is already enabled. No property change.".into(),
            Self::TimesInvalid => "Start time and end time must both be specified (or both omitted) and must be less \
                                   than or equal to 24 hours apart, with the start time no more than 7 days in the past."
                .into(),
            Self::PageTokenInvalid => {
                format!("Invalid nextPage Input: {}.", request.parameter("nextPage").unwrap_or_default())
            }
            Self::ContentMissing => format!("The specified content ({content}) does not exist."),
            Self::ContentExpired => format!(
                "Content requested with the key {content} has already expired. Content older than 7 days cannot be \
                 retrieved."
            ),
            Self::ContentIdInvalid => format!("Content ID {content} in the URL is invalid."),
            Self::TimesOutOfRange => "Start time and end time must both be specified (or both omitted) and must be \
                                      less than or equal to 24 hours apart, with the start time prior to end time and \
                                      start time no more than 7 days in the past."
                .into(),
            Self::Throttled => format!(
                "Too many requests. Method={}, PublisherId={}",
                request.method,
                request.parameter("PublisherIdentifier").unwrap_or("00000000-0000-0000-0000-000000000000")
            ),
            Self::Internal => "An internal error occurred. Retry the request.".into(),
            Self::InternalDatabase => "An internal database error occurred. Retry the request.".into(),
            Self::InternalStorage => "An internal storage error occurred. Retry the request.".into(),
            Self::AuditingOff => format!(
                "Microsoft.Office.Compliance.Audit.DataServiceException: Tenant {tenant} does not exist.\r\n   at \
                 Microsoft.Office.Compliance.Audit.API.AzureManager.<GetSubscriptionTableClientForTenantAsync>"
            ),
        }
    }
}

/// A JSON string.
pub(crate) fn quoted(text: &str) -> String {
    serde_json::to_string(text).expect("every text is a JSON string")
}
