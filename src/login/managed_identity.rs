//! Managed identities: Azure gives a machine or an app an identity, and a token for it at an endpoint that only this
//! machine or app can reach. No secret is configured.
//!
//! Which endpoint there is, the environment says, in the order of Microsoft's libraries. None of these requests uses a
//! proxy, and no token is kept longer than a pass.
//!
//! Source: "How to use managed identities for Azure resources on an Azure VM to acquire an access token" (IMDS), "How to
//! use managed identities for App Service and Azure Functions", section "REST endpoint reference", and "Authenticate
//! against Azure resources with Azure Arc-enabled servers"; for what these leave open, MSAL for Python,
//! `managed_identity.py`.

use std::{
    env, fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::TokenResponse;
use crate::{
    config::{ManagedIdentity, Secret},
    limits,
    network::{
        agents::{self, Agents},
        error::NetworkError,
        pem::{self, PemError},
    },
    redact::{self, one_line},
};

/// The address of Azure's Instance Metadata Service (IMDS).
const IMDS: &str = "http://169.254.169.254";

/// The path of a token in IMDS.
const IMDS_PATH: &str = "/metadata/identity/oauth2/token";

/// The program of Azure Arc whose endpoint is [`ARC`]. A scheduler such as cron starts a pass without Arc's variables.
///
/// Source: MSAL for Python, `_get_arc_endpoint`.
const ARC_PROGRAM: &str = "/opt/azcmagent/bin/himds";

/// The endpoint of Azure Arc if no variable names it.
const ARC: &str = "http://localhost:40342/metadata/identity/oauth2/token";

/// The only folder in which Azure Arc writes challenges. Another one would let the endpoint read any file of this program.
const ARC_FOLDER: &str = "/var/opt/azcmagent/tokens";

/// The largest file of a challenge.
///
/// Source: azure-identity for Python, `_validate_key_file` of `azure_arc.py`.
const ARC_KEY_BYTES_MAX: u64 = 4096;

/// The shortest delay after HTTP 410. IMDS answers so while it is updated, for at most 70 seconds: three retries outlast
/// that.
const UPDATE_DELAY: Duration = Duration::from_secs(25);

/// The beginning of the codes for a resource that Entra does not know: `AADSTS50001` and `AADSTS500011`.
const UNKNOWN_RESOURCE: &str = "AADSTS5000";

/// An error returned when a managed identity has no token.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Nothing answers at the endpoint.
    #[error("no managed identity on this machine: {endpoint} does not answer: {error}")]
    NoEndpoint {
        /// Where the endpoint is.
        endpoint: Endpoint,
        /// Why it does not answer.
        error: NetworkError,
    },
    /// A variable that names the endpoint has another form.
    #[error("{name} of the environment is not a URL")]
    Variable {
        /// The variable.
        name: &'static str,
    },
    /// The endpoint of Service Fabric, whose certificate no authority has signed.
    #[error("the managed identities of Service Fabric are not supported")]
    ServiceFabric,
    /// Azure Arc with a user-assigned identity.
    #[error("a server with Azure Arc has only a system-assigned managed identity")]
    UserAssignedOnArc,
    /// The endpoint has no system-assigned identity.
    #[error("no system-assigned managed identity on this machine: HTTP 400 {0}")]
    NoSystemIdentity(String),
    /// The endpoint has no identity with this client id.
    #[error("the managed identity {client_id} is not assigned to this machine: HTTP 400 {message}")]
    UnknownClientId {
        /// As configured.
        client_id: String,
        /// The message of the response.
        message: String,
    },
    /// Entra does not know the API.
    #[error("the managed identity gets no token for {resource}: HTTP 400 {message}")]
    UnknownResource {
        /// The root of the API.
        resource: String,
        /// The message of the response.
        message: String,
    },
    /// A challenge of Azure Arc that is not a file in its folder.
    #[error("Azure Arc asks for a file that is not in {ARC_FOLDER}: {0}; it was not read")]
    ForeignChallenge(String),
    /// A challenge of Azure Arc that cannot be read.
    #[error("the challenge of Azure Arc, {path}: {error}")]
    Challenge {
        /// The file.
        path: String,
        /// What is wrong with it.
        error: PemError,
    },
    /// Another error response.
    #[error("{endpoint} answers HTTP {status} {message}")]
    Response {
        /// Where the endpoint is.
        endpoint: Endpoint,
        /// The HTTP status.
        status: u16,
        /// The message of the response; empty if there is none.
        message: String,
    },
    /// A response of another form.
    #[error("{0} does not answer with a token")]
    NoToken(Endpoint),
}

/// The kind of an endpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Endpoint {
    /// The Instance Metadata Service of a virtual machine.
    Imds,
    /// App Service, Functions or Container Apps.
    AppService,
    /// The agent of Azure Arc.
    Arc,
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Imds => "the metadata service of Azure (IMDS)",
            Self::AppService => "the identity endpoint of App Service or Container Apps",
            Self::Arc => "the agent of Azure Arc",
        })
    }
}

impl IdentityError {
    /// Returns whether another attempt can succeed without a change. A new machine answers 404 until its identity exists.
    ///
    /// Source: "How to use managed identities for Azure resources on an Azure VM to acquire an access token", section
    /// "Retry guidance": 404, 410, 429 and 5xx; 408 is from MSAL for .NET, `docs/imds_retry_based_on_errors.md`.
    pub fn is_transient(&self) -> bool {
        match self {
            Self::NoEndpoint { error, .. } => error.is_transient(),
            Self::Response { status, .. } => matches!(status, 404 | 408 | 410 | 429 | 500..),
            Self::NoToken(_) => true,
            _ => false,
        }
    }

    /// Returns the shortest delay before another attempt.
    pub fn delay_min(&self) -> Duration {
        match self {
            Self::Response { status: 410, .. } => UPDATE_DELAY,
            _ => Duration::ZERO,
        }
    }

    /// Returns what the administrator can do about it; empty where only waiting helps.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoEndpoint { .. } => {
                "run the collector in Azure or with the agent of Azure Arc, let it reach that endpoint, or configure \
                 another credential"
            }
            Self::Variable { .. } => "unset it, or set it as Azure does",
            Self::ServiceFabric => "configure a certificate",
            Self::UserAssignedOnArc => "write managed_identity: system",
            Self::NoSystemIdentity(_) => {
                "turn it on in the Azure portal under Identity, System assigned, or name a user-assigned one as \
                 managed_identity: { client_id: … }"
            }
            Self::UnknownClientId { .. } => {
                "copy the Client ID of the managed identity, and assign it in the Azure portal under Identity, User assigned"
            }
            Self::UnknownResource { .. } => {
                "check api_type; if the tenant does not know Office 365 Management APIs, run New-MgServicePrincipal -AppId \
                 c5393580-f805-4401-95e8-94b7a6ef2fc2"
            }
            Self::ForeignChallenge(_) => "check what listens at IDENTITY_ENDPOINT",
            Self::Challenge { .. } => "add the collector's user to the group himds",
            Self::Response { status: 404, .. } => {
                "if this persists, the machine is not in Azure: configure another credential"
            }
            Self::Response { status: 401 | 403, .. } => {
                "check that no proxy or firewall answers instead, and that the variables of the environment are Azure's"
            }
            Self::Response { .. } | Self::NoToken(_) => "",
        }
    }
}

/// The endpoint of this process.
#[derive(Debug)]
struct Host {
    endpoint: Endpoint,
    /// With its path.
    url: String,
    /// The value of `X-IDENTITY-HEADER`, which shows that the request comes from the app.
    header: Option<Secret>,
}

impl Host {
    /// Finds the endpoint by the environment.
    ///
    /// `AZURE_POD_IDENTITY_AUTHORITY_HOST` replaces the address of IMDS, as in azure-identity.
    fn find(environment: impl Fn(&str) -> Option<String>, has_arc: bool) -> Result<Self, IdentityError> {
        let value = |name: &'static str| environment(name).filter(|value| !value.trim().is_empty());
        let url = |name: &'static str, value: String| {
            let is_url = ["http://", "https://"].iter().any(|scheme| value.starts_with(scheme));
            if is_url { Ok(value) } else { Err(IdentityError::Variable { name }) }
        };
        let host = |endpoint, url| Self { endpoint, url, header: None };
        if let Some(endpoint) = value("IDENTITY_ENDPOINT") {
            let endpoint = url("IDENTITY_ENDPOINT", endpoint)?;
            match (value("IDENTITY_HEADER"), value("IMDS_ENDPOINT")) {
                (Some(_), _) if value("IDENTITY_SERVER_THUMBPRINT").is_some() => {
                    return Err(IdentityError::ServiceFabric);
                }
                (Some(header), _) => {
                    redact::register(&header);
                    return Ok(Self {
                        header: Some(Secret::new(header)),
                        ..host(Endpoint::AppService, endpoint)
                    });
                }
                (None, Some(_)) => return Ok(host(Endpoint::Arc, endpoint)),
                (None, None) => {}
            }
        }
        let name = "AZURE_POD_IDENTITY_AUTHORITY_HOST";
        match value(name) {
            Some(authority) => {
                let authority = url(name, authority)?;
                Ok(host(Endpoint::Imds, format!("{}{IMDS_PATH}", authority.trim_end_matches('/'))))
            }
            None if has_arc => Ok(host(Endpoint::Arc, ARC.to_owned())),
            None => Ok(host(Endpoint::Imds, format!("{IMDS}{IMDS_PATH}"))),
        }
    }

    /// Finds the endpoint of this process for an identity.
    fn of(identity: &ManagedIdentity) -> Result<Self, IdentityError> {
        let host = Self::find(|name| env::var(name).ok(), Path::new(ARC_PROGRAM).exists())?;
        match (host.endpoint, identity) {
            (Endpoint::Arc, ManagedIdentity::User { .. }) => Err(IdentityError::UserAssignedOnArc),
            _ => Ok(host),
        }
    }

    /// Returns the URL that asks for a token.
    fn token_url(&self, identity: &ManagedIdentity, resource: &str) -> String {
        let version = match self.endpoint {
            Endpoint::Imds => "2018-02-01",
            Endpoint::AppService => "2019-08-01",
            Endpoint::Arc => "2020-06-01",
        };
        let resource = resource.replace(':', "%3A").replace('/', "%2F");
        let mark = if self.url.contains('?') { '&' } else { '?' };
        let url = format!("{}{mark}api-version={version}&resource={resource}", self.url);
        match identity {
            ManagedIdentity::System => url,
            ManagedIdentity::User { client_id } => format!("{url}&client_id={client_id}"),
        }
    }

    /// Returns the headers of a request; the first two keep it from being forged by another program that a browser or a
    /// server of this machine can be made to send requests to.
    fn headers(&self) -> Vec<(&'static str, Secret)> {
        let metadata = ("Metadata", Secret::new("true"));
        let header = self.header.clone().map(|header| ("X-IDENTITY-HEADER", header));
        [metadata].into_iter().chain(header).collect()
    }

    /// Returns the error of a response.
    fn error(&self, identity: &ManagedIdentity, resource: &str, status: u16, body: &[u8]) -> IdentityError {
        let (code, message) = error_in(body);
        let is_about_resource = code == "invalid_resource"
            || [&code, &message].iter().any(|text| text.contains(UNKNOWN_RESOURCE));
        let message = one_line(&format!("{code} {message}"));
        match (status, identity) {
            (400, _) if is_about_resource => {
                IdentityError::UnknownResource { resource: resource.to_owned(), message }
            }
            (400, ManagedIdentity::System) => IdentityError::NoSystemIdentity(message),
            (400, ManagedIdentity::User { client_id }) => {
                IdentityError::UnknownClientId { client_id: client_id.clone(), message }
            }
            _ => IdentityError::Response { endpoint: self.endpoint, status, message },
        }
    }
}

/// Checks, without the network, that the environment is one in which this identity can exist.
///
/// # Errors
///
/// It is not.
pub fn check(identity: &ManagedIdentity) -> Result<(), IdentityError> {
    Host::of(identity).map(drop)
}

/// Requests a token for an API, such as `https://manage.office.com`.
///
/// # Errors
///
/// There is no endpoint, no such identity, or no token.
pub fn request_token(
    agents: &Agents,
    identity: &ManagedIdentity,
    resource: &str,
) -> Result<TokenResponse, IdentityError> {
    let host = Host::of(identity)?;
    let url = host.token_url(identity, resource);
    let peer = url.split('/').nth(2).unwrap_or_default();
    let send = |headers: &[(&'static str, Secret)]| {
        let request = headers
            .iter()
            .fold(agents.local().get(&url), |request, (name, value)| request.header(*name, value.reveal()));
        agents::read_response(peer, request.call(), limits::ERROR_BODY_BYTES_MAX)
            .map_err(|error| IdentityError::NoEndpoint { endpoint: host.endpoint, error })
    };
    let mut headers = host.headers();
    let (mut status, answered, mut body) = send(&headers)?;
    if host.endpoint == Endpoint::Arc && status == 401 {
        let challenge = answered.get("www-authenticate").and_then(|value| value.to_str().ok());
        let key = challenge_key(challenge.unwrap_or_default(), Path::new(ARC_FOLDER))?;
        redact::register(&key);
        headers.push(("Authorization", Secret::new(format!("Basic {key}"))));
        (status, _, body) = send(&headers)?;
    }
    if status != 200 {
        return Err(host.error(identity, resource, status, &body));
    }
    serde_json::from_slice(&body).map_err(|_| IdentityError::NoToken(host.endpoint))
}

/// Reads the file that a challenge of Azure Arc names: `Basic realm=/var/opt/azcmagent/tokens/….key`. Only a user of the
/// group `himds` can read it, which is what it proves.
fn challenge_key(challenge: &str, folder: &Path) -> Result<String, IdentityError> {
    let path = match challenge.split_once('=') {
        Some((scheme, path)) if scheme.trim().eq_ignore_ascii_case("basic realm") => path.trim(),
        _ => challenge,
    };
    let path = PathBuf::from(path.trim_matches('"'));
    let shown = one_line(&path.display().to_string());
    let is_key = path.extension().is_some_and(|extension| extension == "key");
    if path.parent() != Some(folder) || !is_key {
        return Err(IdentityError::ForeignChallenge(shown));
    }
    let key = pem::read(&path, ARC_KEY_BYTES_MAX)
        .map_err(|error| IdentityError::Challenge { path: shown, error })?;
    Ok(String::from_utf8_lossy(&key).trim().to_owned())
}

/// Returns the code and the message of an error response: OAuth's from IMDS and Arc, `message` from App Service.
fn error_in(body: &[u8]) -> (String, String) {
    let Ok(json) = serde_json::from_slice::<serde_json::Value>(body) else {
        return Default::default();
    };
    let message = || json.get("message").and_then(|message| message.as_str()).unwrap_or_default().to_owned();
    super::error_in(&json).unwrap_or_else(|| (String::new(), message()))
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    fn host(variables: &[(&str, &str)], has_arc: bool) -> Result<(Endpoint, String), IdentityError> {
        let value = |name: &str| {
            variables.iter().find(|(known, _)| *known == name).map(|(_, value)| (*value).to_owned())
        };
        Host::find(value, has_arc).map(|host| (host.endpoint, host.url))
    }

    #[test]
    fn finds_the_endpoint_in_the_order_of_microsofts_libraries() {
        let endpoint = ("IDENTITY_ENDPOINT", "http://localhost:1/token");
        let (header, arc) =
            (("IDENTITY_HEADER", "secret of the app"), ("IMDS_ENDPOINT", "http://localhost:1"));
        let pod = ("AZURE_POD_IDENTITY_AUTHORITY_HOST", "http://localhost:2/");
        let imds = "http://169.254.169.254/metadata/identity/oauth2/token";
        for (variables, has_arc, endpoint, url) in [
            (&[][..], false, Endpoint::Imds, imds),
            (&[], true, Endpoint::Arc, ARC),
            (&[pod], true, Endpoint::Imds, "http://localhost:2/metadata/identity/oauth2/token"),
            (&[endpoint], false, Endpoint::Imds, imds),
            (&[endpoint, header, arc, pod], true, Endpoint::AppService, endpoint.1),
            (&[endpoint, arc, pod], false, Endpoint::Arc, endpoint.1),
            (&[endpoint, ("IDENTITY_HEADER", " "), arc], false, Endpoint::Arc, endpoint.1),
        ] {
            assert_eq!(host(variables, has_arc), Ok((endpoint, url.to_owned())), "{variables:?}");
        }
    }

    #[test]
    fn builds_the_documented_urls() {
        let url = |endpoint, identity: &ManagedIdentity| {
            let host = Host { endpoint, url: "http://localhost:1/token".to_owned(), header: None };
            host.token_url(identity, "https://manage.office.com")
        };
        let resource = "resource=https%3A%2F%2Fmanage.office.com";
        for (endpoint, version) in [
            (Endpoint::Imds, "2018-02-01"),
            (Endpoint::AppService, "2019-08-01"),
            (Endpoint::Arc, "2020-06-01"),
        ] {
            let expected = format!("http://localhost:1/token?api-version={version}&{resource}");
            assert_eq!(url(endpoint, &ManagedIdentity::System), expected);
        }
        let user = ManagedIdentity::User { client_id: "an-id".to_owned() };
        assert!(url(Endpoint::Imds, &user).ends_with(&format!("{resource}&client_id=an-id")));
    }

    #[test]
    fn reads_a_challenge_only_from_its_folder_and_size() {
        let folder = tempfile::tempdir().expect("a folder");
        let challenge = |name: &str| format!("Basic realm={}", folder.path().join(name).display());
        let read = |challenge: &str| challenge_key(challenge, folder.path());
        for (name, length) in [("good.key", 4096), ("large.key", 4097), ("other.txt", 3)] {
            fs::write(folder.path().join(name), "k".repeat(length)).expect("a file");
        }
        assert_eq!(read(&challenge("good.key")), Ok("k".repeat(4096)));
        assert_eq!(read(&challenge("good.key").replace("Basic", "basic")), Ok("k".repeat(4096)));
        for (challenge, expected) in [
            (challenge("large.key"), "the file is too large"),
            (challenge("missing.key"), "there is no such file"),
            (challenge("other.txt"), "it was not read"),
            (challenge("below/good.key"), "it was not read"),
            (challenge("../good.key"), "it was not read"),
            ("Basic realm=/etc/shadow.key".to_owned(), "it was not read"),
            ("Bearer".to_owned(), "it was not read"),
            (String::new(), "it was not read"),
        ] {
            let error = read(&challenge).expect_err(&challenge).to_string();
            assert!(error.contains(expected), "{challenge}: {error}");
        }
    }

    #[test]
    fn three_retries_outlast_an_update_of_imds() {
        let response =
            |status| IdentityError::Response { endpoint: Endpoint::Imds, status, message: String::new() };
        assert!(response(410).is_transient());
        assert!(response(410).delay_min() * 3 >= Duration::from_secs(70));
        assert_eq!(response(429).delay_min(), Duration::ZERO);
        assert!(!response(401).is_transient());
    }
}
