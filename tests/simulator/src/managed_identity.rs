//! The endpoints of managed identities: IMDS of a virtual machine, App Service, and Azure Arc.
//!
//! Source: "How to use managed identities for Azure resources on an Azure VM to acquire an access token", "How to use
//! managed identities for App Service and Azure Functions", section "REST endpoint reference", and "Authenticate against
//! Azure resources with Azure Arc-enabled servers".

use std::path::PathBuf;

use jiff::Timestamp;

use crate::{
    answer::Answer,
    api_error::quoted,
    protocol::{Violation, violation},
    request::Request,
    sync::lock,
    world::World,
};

/// The managed identities of the simulated machine, none at first.
#[derive(Clone, Debug, Default)]
pub struct ManagedIdentities {
    /// The tenant that issues the tokens.
    pub tenant: String,
    /// Whether there is a system-assigned identity.
    pub has_system: bool,
    /// The client ids of the user-assigned identities.
    pub user_assigned: Vec<String>,
    /// The value of `IDENTITY_HEADER` in App Service.
    pub app_service_header: String,
    /// The file of Azure Arc's challenge, and its content.
    pub arc_challenge: Option<(PathBuf, String)>,
}

/// The API versions of the three endpoints.
const IMDS: &str = "2018-02-01";
const APP_SERVICE: &str = "2019-08-01";
const ARC: &str = "2020-06-01";

/// Checks a request, without regard to the identities.
pub(crate) fn check(request: &Request) -> Result<(), Violation> {
    let version = request.parameter("api-version").unwrap_or_default();
    let is_app_service = request.target.starts_with("/msi/");
    if is_app_service != (version == APP_SERVICE) || ![IMDS, APP_SERVICE, ARC].contains(&version) {
        return violation(format!("the api-version {version:?}"), error(400, "bad_request", "api-version"));
    }
    if !is_app_service && request.header("Metadata") != Some("true") {
        let text = "Required metadata header not specified";
        return violation("no Metadata header", error(400, "bad_request_102", text));
    }
    if request.header("X-Forwarded-For").is_some() || request.header("Via").is_some() {
        return violation("a request through a proxy", error(400, "bad_request", "forwarded"));
    }
    if request.parameter("resource").is_none() {
        return violation("no resource", error(400, "invalid_request", "resource"));
    }
    Ok(())
}

/// Answers a request for a token.
pub(crate) fn answer(world: &World, request: &Request) -> Answer {
    let identities = lock(&world.identities).clone();
    let version = request.parameter("api-version").unwrap_or_default();
    if version == APP_SERVICE && request.header("X-IDENTITY-HEADER") != Some(&identities.app_service_header) {
        return Answer::json(401, r#"{"statusCode":401,"message":"Unauthorized"}"#);
    }
    if let (ARC, Some((file, key))) = (version, &identities.arc_challenge)
        && request.header("Authorization") != Some(&format!("Basic {key}"))
    {
        return Answer::status(401)
            .with_header("WWW-Authenticate", format!("Basic realm={}", file.display()));
    }
    let is_known = match request.parameter("client_id") {
        None => identities.has_system,
        Some(id) => identities.user_assigned.iter().any(|known| known == id),
    };
    let tenant = lock(&world.tenants).get(&identities.tenant).cloned().filter(|_| is_known);
    let Some(tenant) = tenant else {
        return match version {
            APP_SERVICE => Answer::json(
                400,
                r#"{"statusCode":400,"message":"No User Assigned or Delegated Managed Identity found for specified ClientId/ResourceId/PrincipalId."}"#,
            ),
            _ => error(400, "invalid_request", "Identity not found"),
        };
    };
    let resource = request.parameter("resource").unwrap_or_default();
    let token = tenant.issue_token(resource);
    let seconds = i64::try_from(tenant.settings().token_lifetime.as_secs()).unwrap_or(i64::MAX);
    let until = Timestamp::now().as_second().saturating_add(seconds);
    let resource = quoted(resource);
    Answer::json(
        200,
        match version {
            APP_SERVICE => format!(
                r#"{{"access_token":"{token}","expires_on":"{until}","resource":{resource},"token_type":"Bearer"}}"#
            ),
            _ => format!(
                r#"{{"access_token":"{token}","refresh_token":"","expires_in":"{seconds}","expires_on":"{until}","not_before":"0","resource":{resource},"token_type":"Bearer"}}"#
            ),
        },
    )
}

fn error(status: u16, error: &str, description: &str) -> Answer {
    Answer::json(status, format!(r#"{{"error":"{error}","error_description":{}}}"#, quoted(description)))
}
