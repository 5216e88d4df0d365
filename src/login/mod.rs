//! Logins to Microsoft as an app: the form that asks for a token, and how the response is read. The callers, the API client
//! and the output to Azure Monitor, send the form. Only a managed identity's token is requested here, from an endpoint of
//! this machine. This module retries nothing.
//!
//! Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow".

pub mod assertion;
pub mod certificate;
pub mod credential_file;
pub mod managed_identity;

use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;

use crate::{
    config::{Credential, ManagedIdentity, Secret},
    redact,
};
use certificate::Certificate;
use credential_file::CredentialError;

/// The assumed lifetime of a token if the login endpoint does not return one.
const TOKEN_LIFETIME_ASSUMED_SECONDS: u64 = 60 * 60;

/// Returns when a credential expires. Only a certificate contains its expiry; a federated token is renewed by the
/// program that mounts it.
pub fn expiry(credential: &Credential) -> Option<Timestamp> {
    match credential {
        Credential::Certificate { file, key_file } => Certificate::expiry(file, key_file.as_deref()),
        Credential::Secret(_) | Credential::FederatedTokenFile(_) | Credential::ManagedIdentity(_) => None,
    }
}

/// An app that logs in to a tenant.
#[derive(Clone, Copy, Debug)]
pub struct App<'a> {
    /// Without a slash at the end, e.g. `https://login.microsoftonline.com`.
    pub login_url: &'a str,
    /// The tenant's GUID.
    pub tenant_id: &'a str,
    /// The app registration's GUID.
    pub client_id: &'a str,
    /// The credential that proves the identity of the app.
    pub credential: &'a Credential,
}

impl App<'_> {
    /// Returns the URL of the token endpoint.
    pub fn token_url(&self) -> String {
        format!("{}/{}/oauth2/v2.0/token", self.login_url, self.tenant_id)
    }

    /// Returns how to ask for a token for this resource, such as `https://manage.office.com`. Reads the file of a
    /// certificate or of a federated token.
    ///
    /// # Errors
    ///
    /// The file of the credential cannot be used.
    pub fn request(&self, resource: &str) -> Result<LoginRequest<'_>, CredentialError> {
        let open = |text: &str| Secret::new(text);
        let mut fields = vec![
            ("grant_type", open("client_credentials")),
            ("client_id", open(self.client_id)),
            ("scope", Secret::new(format!("{resource}/.default"))),
        ];
        let assertion = match self.credential {
            Credential::Secret(secret) => {
                fields.push(("client_secret", secret.clone()));
                return Ok(LoginRequest::Form(Form(fields)));
            }
            Credential::Certificate { file, key_file } => {
                let now = Timestamp::now();
                let certificate = Certificate::read(file, key_file.as_deref(), now)?;
                assertion::signed(&certificate, self.client_id, &self.token_url(), now)
            }
            Credential::FederatedTokenFile(path) => assertion::federated(path)?,
            Credential::ManagedIdentity(identity) => return Ok(LoginRequest::ManagedIdentity(identity)),
        };
        redact::register(assertion.reveal());
        fields.extend([("client_assertion_type", open(assertion::TYPE)), ("client_assertion", assertion)]);
        Ok(LoginRequest::Form(Form(fields)))
    }
}

/// How to ask for a token.
#[derive(Clone, Debug)]
pub enum LoginRequest<'a> {
    /// This form, sent to [`App::token_url`].
    Form(Form),
    /// [`managed_identity::request_token`].
    ManagedIdentity(&'a ManagedIdentity),
}

/// The body of a login request.
#[derive(Clone, Debug)]
pub struct Form(Vec<(&'static str, Secret)>);

impl Form {
    /// Returns the names and values of its fields. The values contain secrets.
    pub fn fields(&self) -> impl Iterator<Item = (&'static str, &str)> {
        self.0.iter().map(|(name, value)| (*name, value.reveal()))
    }
}

/// The response of the login endpoint.
#[derive(Deserialize)]
pub struct TokenResponse {
    access_token: String,
    expires_in: Option<Seconds>,
    /// The time of expiry in seconds since 1970. App Service returns it instead of `expires_in`.
    expires_on: Option<serde_json::Value>,
}

impl TokenResponse {
    /// Returns the value of the `Authorization` header, and registers the token as a secret.
    pub fn authorization(&self) -> Secret {
        redact::register(&self.access_token);
        Secret::new(format!("Bearer {}", self.access_token))
    }

    /// Returns how long the token is accepted, counted from its arrival.
    pub fn lifetime(&self) -> Duration {
        let until = self.expires_on.as_ref().filter(|_| self.expires_in.is_none()).and_then(number);
        let left = until.map(|until| until.saturating_sub(Timestamp::now().as_second().unsigned_abs()));
        let seconds = self.expires_in.as_ref().map(|Seconds(seconds)| *seconds).or(left);
        Duration::from_secs(seconds.unwrap_or(TOKEN_LIFETIME_ASSUMED_SECONDS))
    }
}

/// Seconds as a number or, from the older endpoint, as a string of digits.
#[derive(Deserialize)]
#[serde(from = "serde_json::Value")]
struct Seconds(u64);

impl From<serde_json::Value> for Seconds {
    fn from(value: serde_json::Value) -> Self {
        Self(number(&value).unwrap_or(TOKEN_LIFETIME_ASSUMED_SECONDS))
    }
}

fn number(value: &serde_json::Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// Returns the code and the message of an error response: `AADSTS7000215` and Microsoft's sentence, or the OAuth error
/// and its description. `None` if the body is not an error response.
pub fn error_in_body(body: &[u8]) -> Option<(String, String)> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    error_in(&serde_json::from_slice(text).ok()?)
}

/// Does the same with a parsed body.
pub fn error_in(body: &serde_json::Value) -> Option<(String, String)> {
    let text_of = |name: &str| body.get(name)?.as_str().map(|text| text.trim().to_owned());
    let error = text_of("error");
    let description = text_of("error_description");
    let codes = body.get("error_codes");
    let number = codes.and_then(|codes| codes.get(0).unwrap_or(codes).as_u64());
    if error.is_none() && description.is_none() && number.is_none() {
        return None;
    }
    let description = description.unwrap_or_default();
    let (code, message) = match description.split_once(':') {
        Some((code, message)) if is_code(code) => (Some(code.to_owned()), message.trim().to_owned()),
        _ => (number.map(|number| format!("AADSTS{number}")), description),
    };
    Some((code.or(error).unwrap_or_default(), message))
}

/// Returns whether the text is `AADSTS` and digits.
fn is_code(text: &str) -> bool {
    text.strip_prefix("AADSTS")
        .is_some_and(|digits| !digits.is_empty() && digits.bytes().all(|digit| digit.is_ascii_digit()))
}

/// Returns what an administrator can do about an error with this code; empty if nothing is known.
///
/// Source: "Microsoft Entra authentication and authorization error codes"; for 900439 also "Azure Government AAD
/// authority endpoint update".
pub fn hint(code: &str) -> &'static str {
    match code {
        "AADSTS7000215" => {
            "the client secret is wrong: copy the secret's Value (not its Secret ID) from Certificates & secrets"
        }
        "AADSTS7000222" => "the client secret has expired; create a new one under Certificates & secrets",
        "AADSTS700016" | "AADSTS70001" => "no such app in this tenant: check client_id and tenant_id",
        "AADSTS700038" => "client_id is not an application's id: copy the Application (client) ID of the app",
        "AADSTS7000229" => {
            "the app has no service principal in this tenant: have an administrator of the tenant grant admin consent to it"
        }
        "AADSTS90002" | "AADSTS900023" | "AADSTS50059" => "no such tenant: check tenant_id and api_type",
        "AADSTS900439" => "the tenant is in a US government cloud: set api_type to gcc-high or dod",
        "AADSTS90038" | "AADSTS900382" => {
            "the tenant is in another cloud: set api_type to the tenant's (commercial, gcc, gcc-high or dod)"
        }
        "AADSTS7000218" => "the app sent neither a secret nor an assertion: check the tenant's credential",
        "AADSTS700025" => {
            "the app is registered as a public client: under Authentication, set Allow public client flows to No"
        }
        "AADSTS70011" | "AADSTS1002012" => "the scope is not valid: check api_type and api_url",
        "AADSTS700027" | "AADSTS50012" | "AADSTS50013" => {
            "the certificate is not the one registered with the app, or it has expired: upload it under Certificates & \
             secrets, Certificates"
        }
        "AADSTS700023" => {
            "the assertion is for another login endpoint: check login_url, tenant_id and api_type"
        }
        "AADSTS700024" => {
            "the certificate's or token's time is not valid: check this machine's clock, and that the token in \
             federated_token_file is renewed"
        }
        "AADSTS70021" | "AADSTS700211" | "AADSTS700212" | "AADSTS700213" => {
            "no federated credential of the app has this token's issuer, subject and audience: compare them under \
             Certificates & secrets, Federated credentials"
        }
        "AADSTS50034" => "the account does not exist in this directory: check tenant_id and client_id",
        "AADSTS53003" => "a Conditional Access policy blocks the app: exclude its service principal",
        "AADSTS50196" => {
            "the app requested too many tokens: find out what else logs in as this app, and wait some minutes"
        }
        "AADSTS7000112" => "the app is disabled: enable it under Enterprise applications",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_every_format_of_error_response() {
        for (body, code, message) in [
            (
                r#"{"error":"invalid_client","error_description":"AADSTS7000215: Invalid secret.\r\nTrace ID: x","error_codes":[7000215]}"#,
                "AADSTS7000215",
                "Invalid secret.\r\nTrace ID: x",
            ),
            (
                r#"{"error":"invalid_client","error_description":null,"error_codes":[7000222]}"#,
                "AADSTS7000222",
                "",
            ),
            ("\u{feff}{\"error_codes\":[90002],\"error_description\":\"gone\"}", "AADSTS90002", "gone"),
            (r#"{"error":"temporarily_unavailable"}"#, "temporarily_unavailable", ""),
            (r#"{"error":"x","error_description":"AADSTS: no digits"}"#, "x", "AADSTS: no digits"),
        ] {
            assert_eq!(error_in_body(body.as_bytes()), Some((code.to_owned(), message.to_owned())), "{body}");
        }
        for body in ["", "[]", "{}", r#"{"error":{"code":"AF20022"}}"#, r#"{"access_token":"x"}"#, "<html>"] {
            assert_eq!(error_in_body(body.as_bytes()), None, "{body}");
        }
    }

    #[test]
    fn reads_the_lifetime_from_every_format_of_response() {
        let lifetime = |fields: &str| {
            let response = format!(r#"{{"access_token":"t"{fields}}}"#);
            serde_json::from_str::<TokenResponse>(&response).expect(fields).lifetime().as_secs()
        };
        assert_eq!(lifetime(""), TOKEN_LIFETIME_ASSUMED_SECONDS);
        assert_eq!(lifetime(r#","expires_in":3599"#), 3599);
        assert_eq!(lifetime(r#","expires_in":"86399","expires_on":"1""#), 86399);
        assert_eq!(lifetime(r#","expires_on":"1586984735""#), 0);
        let until = Timestamp::now().as_second() + 1000;
        for until in [format!("{until}"), format!("\"{until}\"")] {
            assert!((900..=1000).contains(&lifetime(&format!(r#","expires_on":{until}"#))));
        }
    }
}
