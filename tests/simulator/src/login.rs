//! The login endpoint: it issues tokens, or answers with an error of Microsoft Entra.

use jiff::Timestamp;
use ring::signature::{self, UnparsedPublicKey};

use crate::{
    answer::Answer,
    api_error::quoted,
    base64url,
    record::push_guid,
    request::Request,
    tenant::{SharedTenant, TenantSettings},
    time,
};

/// An error of the login endpoint.
///
/// Source: "Microsoft Entra authentication and authorization error codes".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum LoginError {
    /// 7000215
    WrongSecret,
    /// 7000222
    ExpiredSecret,
    /// 700016
    UnknownClient,
    /// 90002
    UnknownTenant,
    /// 700027
    WrongAssertion,
    /// 50034
    NoSuchAccount,
    /// 53003
    ConditionalAccess,
    /// 70011
    WrongScope,
    /// 70003
    WrongGrant,
    /// 7000218
    NoCredential,
}

impl LoginError {
    /// All errors.
    pub const ALL: [Self; 10] = [
        Self::WrongSecret,
        Self::ExpiredSecret,
        Self::UnknownClient,
        Self::UnknownTenant,
        Self::WrongAssertion,
        Self::NoSuchAccount,
        Self::ConditionalAccess,
        Self::WrongScope,
        Self::WrongGrant,
        Self::NoCredential,
    ];

    /// The number after `AADSTS`.
    pub fn code(self) -> u32 {
        match self {
            Self::WrongSecret => 7_000_215,
            Self::ExpiredSecret => 7_000_222,
            Self::UnknownClient => 700_016,
            Self::UnknownTenant => 90_002,
            Self::WrongAssertion => 700_027,
            Self::NoSuchAccount => 50_034,
            Self::ConditionalAccess => 53_003,
            Self::WrongScope => 70_011,
            Self::WrongGrant => 70_003,
            Self::NoCredential => 7_000_218,
        }
    }

    /// The HTTP status, and the name of the error in OAuth.
    fn kind(self) -> (u16, &'static str) {
        match self {
            Self::WrongSecret | Self::ExpiredSecret | Self::WrongAssertion | Self::NoCredential => {
                (401, "invalid_client")
            }
            Self::UnknownClient => (400, "unauthorized_client"),
            Self::UnknownTenant => (400, "invalid_request"),
            Self::NoSuchAccount => (400, "invalid_grant"),
            Self::ConditionalAccess => (400, "access_denied"),
            Self::WrongScope => (400, "invalid_scope"),
            Self::WrongGrant => (400, "unsupported_grant_type"),
        }
    }

    fn description(self, request: &Request) -> String {
        let tenant = request.tenant.as_deref().unwrap_or_default();
        match self {
            Self::WrongSecret => "Invalid client secret provided. Ensure the secret being sent in the request is the \
                                  client secret value, not the client secret ID, for a secret added to the app."
                .into(),
            Self::ExpiredSecret => "The provided client secret keys are expired. Visit the Azure portal to create new \
                                    keys for your app, or consider using certificate credentials for added security."
                .into(),
            Self::UnknownClient => format!(
                "Application with identifier '{}' was not found in the directory '{tenant}'. This can happen if the \
                 application has not been installed by the administrator of the tenant.",
                field(&request.form(), "client_id").unwrap_or_default()
            ),
            Self::UnknownTenant => format!(
                "Tenant '{tenant}' not found. Check to make sure you have the correct tenant ID and are signing into \
                 the correct cloud."
            ),
            Self::WrongAssertion => "Client assertion failed signature validation.".into(),
            Self::NoSuchAccount => format!("The user account does not exist in the {tenant} directory."),
            Self::ConditionalAccess => "Access has been blocked by Conditional Access policies. The access policy \
                                        does not allow token issuance."
                .into(),
            Self::WrongScope => "The provided request must include a 'scope' input parameter that ends in \
                                 '/.default'."
                .into(),
            Self::WrongGrant => "The app requested an unsupported grant type.".into(),
            Self::NoCredential => "The request body must contain the following parameter: 'client_assertion' or \
                                   'client_secret'."
                .into(),
        }
    }

    /// The answer to a request with this error. Its description has several lines, as that of Microsoft.
    pub fn answer(self, request: &Request) -> Answer {
        let (status, error) = self.kind();
        let (mut trace, mut correlation) = (String::new(), String::new());
        push_guid(&mut trace, &mut fastrand::Rng::new());
        push_guid(&mut correlation, &mut fastrand::Rng::new());
        let at = time::without_zone(request.at).replace('T', " ");
        let description = format!(
            "AADSTS{}: {}\r\nTrace ID: {trace}\r\nCorrelation ID: {correlation}\r\nTimestamp: {at}Z",
            self.code(),
            self.description(request)
        );
        let body = format!(
            r#"{{"error":"{error}","error_description":{},"error_codes":[{code}],"timestamp":"{at}Z","trace_id":"{trace}","correlation_id":"{correlation}","error_uri":"https://login.microsoftonline.com/error?code={code}"}}"#,
            quoted(&description),
            code = self.code(),
        );
        Answer::json(status, body)
    }
}

/// Answers a login. `tenant` is that of the path, if it exists.
pub(crate) fn log_in(tenant: Option<&SharedTenant>, request: &Request, url: &str) -> Answer {
    let Some(tenant) = tenant else { return LoginError::UnknownTenant.answer(request) };
    let settings = tenant.settings();
    match settings.login_error.map_or_else(|| check_credentials(&settings, request, url), Err) {
        Ok(()) => {}
        Err(error) => return error.answer(request),
    }
    let form = request.form();
    let audience = field(&form, "scope").or_else(|| field(&form, "resource")).unwrap_or_default();
    let token = tenant.issue_token(audience.trim_end_matches("/.default"));
    let seconds = settings.token_lifetime.as_secs();
    let body = if settings.expires_in_as_text {
        format!(
            r#"{{"token_type":"Bearer","expires_in":"{seconds}","ext_expires_in":"{seconds}","access_token":"{token}"}}"#
        )
    } else {
        format!(
            r#"{{"token_type":"Bearer","expires_in":{seconds},"ext_expires_in":{seconds},"access_token":"{token}"}}"#
        )
    };
    Answer::json(200, body)
}

fn check_credentials(settings: &TenantSettings, request: &Request, url: &str) -> Result<(), LoginError> {
    let form = request.form();
    let field = |name| field(&form, name);
    if field("grant_type") != Some("client_credentials") {
        return Err(LoginError::WrongGrant);
    }
    if !field("client_id").is_some_and(|id| id.eq_ignore_ascii_case(&settings.client_id)) {
        return Err(LoginError::UnknownClient);
    }
    let version_two = request.target.contains("/oauth2/v2.0/");
    let scope = if version_two { field("scope") } else { field("resource") };
    if !scope.is_some_and(|scope| !version_two || scope.ends_with("/.default")) {
        return Err(LoginError::WrongScope);
    }
    match (field("client_secret"), field("client_assertion")) {
        (Some(secret), None) if secret == settings.secret => Ok(()),
        (Some(_), None) => Err(LoginError::WrongSecret),
        (None, Some(assertion)) if settings.federated_token.as_deref() == Some(assertion) => Ok(()),
        (None, Some(assertion)) => {
            let kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";
            let address = format!("{url}{}", request.target);
            let is_valid = field("client_assertion_type") == Some(kind)
                && is_valid_assertion(assertion, settings, &address).unwrap_or(false);
            if is_valid { Ok(()) } else { Err(LoginError::WrongAssertion) }
        }
        _ => Err(LoginError::NoCredential),
    }
}

fn field<'a>(form: &'a [(String, String)], name: &str) -> Option<&'a str> {
    form.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
}

/// Returns whether a client assertion has the required claims and a signature of the tenant's key.
fn is_valid_assertion(assertion: &str, settings: &TenantSettings, address: &str) -> Option<bool> {
    let mut parts = assertion.split('.').map(base64url::decode);
    let header: serde_json::Value = serde_json::from_slice(&parts.next()??).ok()?;
    let claims: serde_json::Value = serde_json::from_slice(&parts.next()??).ok()?;
    let signature = parts.next()??;
    let (from, to) = (claims["nbf"].as_i64()?, claims["exp"].as_i64()?);
    let now = Timestamp::now().as_second();
    let thumbprint = settings.certificate_thumbprint.as_deref()?;
    Some(
        matches!(header["alg"].as_str()?, "PS256" | "RS256")
            && header["x5t#S256"].as_str()? == thumbprint
            && claims["aud"].as_str()? == address
            && claims["iss"].as_str()? == settings.client_id
            && claims["sub"].as_str()? == settings.client_id
            && !claims["jti"].as_str()?.is_empty()
            && (from - 300..to).contains(&now)
            && to - from <= 600
            && is_signed(assertion, &signature, header["alg"].as_str()?, settings)?,
    )
}

fn is_signed(assertion: &str, signature: &[u8], algorithm: &str, settings: &TenantSettings) -> Option<bool> {
    let Some(key) = &settings.certificate_key else { return Some(!signature.is_empty()) };
    let (message, _) = assertion.rsplit_once('.')?;
    let parameters = match algorithm {
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        _ => &signature::RSA_PKCS1_2048_8192_SHA256,
    };
    let key = UnparsedPublicKey::new(parameters, key);
    Some(key.verify(message.as_bytes(), signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn assertion_needs_the_claims_that_microsoft_requires() {
        let mut settings = TenantSettings::new("11111111-2222-4333-8444-555555555555").client_id("app");
        settings.certificate_thumbprint = Some("print".into());
        let now = Timestamp::now().as_second();
        let is_valid = |alg: &str, aud: &str, sub: &str, seconds: i64| {
            let header = format!(r#"{{"alg":"{alg}","typ":"JWT","x5t#S256":"print"}}"#);
            let claims = format!(
                r#"{{"aud":"{aud}","iss":"app","sub":"{sub}","jti":"1","nbf":{now},"exp":{}}}"#,
                now + seconds
            );
            let assertion =
                [header.as_bytes(), claims.as_bytes(), b"signature"].map(base64url::encode).join(".");
            is_valid_assertion(&assertion, &settings, "http://login")
        };
        assert_eq!(is_valid("PS256", "http://login", "app", 600), Some(true));
        assert_eq!(is_valid("none", "http://login", "app", 600), Some(false));
        assert_eq!(is_valid("PS256", "http://elsewhere", "app", 600), Some(false));
        assert_eq!(is_valid("PS256", "http://login", "another", 600), Some(false));
        assert_eq!(is_valid("PS256", "http://login", "app", 601), Some(false));
        assert_eq!(is_valid("PS256", "http://login", "app", -1), Some(false));
    }
}
