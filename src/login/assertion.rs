//! Client assertions, with which an app without a client secret proves its identity to the login endpoint: a token
//! signed with the certificate of the app, or one that another identity provider signed.
//!
//! Source: "Microsoft identity platform application authentication certificate credentials" and "Microsoft identity
//! platform and the OAuth 2.0 client credentials flow", third case.

use std::path::Path;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use jiff::{SignedDuration, Timestamp};
use ring::rand::{SecureRandom, SystemRandom};
use serde::{Deserialize, Serialize};

use super::{
    certificate::Certificate,
    credential_file::{CredentialError, CredentialFile, CredentialProblem},
};
use crate::{config::Secret, records::text_of_guid};

/// The lifetime of a client assertion. At most ten minutes are allowed.
///
/// Source: "Microsoft identity platform application authentication certificate credentials", claim `exp`.
const LIFETIME_SECONDS: i64 = 5 * 60;

const _: () = assert!(LIFETIME_SECONDS <= 10 * 60);

/// The form's `client_assertion_type` (RFC 7523, section 2.2).
pub const TYPE: &str = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer";

#[derive(Serialize)]
struct Header<'a> {
    alg: &'a str,
    typ: &'a str,
    #[serde(rename = "x5t#S256")]
    thumbprint: String,
}

#[derive(Serialize)]
struct Claims<'a> {
    aud: &'a str,
    iss: &'a str,
    sub: &'a str,
    jti: String,
    nbf: i64,
    exp: i64,
}

/// Returns a JWT for this app and this login endpoint, valid for `LIFETIME_SECONDS` from `now`.
pub fn signed(certificate: &Certificate, client_id: &str, token_url: &str, now: Timestamp) -> Secret {
    let header =
        Header { alg: "PS256", typ: "JWT", thumbprint: URL_SAFE_NO_PAD.encode(certificate.thumbprint()) };
    let claims = Claims {
        aud: token_url,
        iss: client_id,
        sub: client_id,
        jti: random_guid(),
        nbf: now.as_second(),
        exp: now.as_second() + LIFETIME_SECONDS,
    };
    let message = format!("{}.{}", encoded(&header), encoded(&claims));
    let signature = URL_SAFE_NO_PAD.encode(certificate.sign(message.as_bytes()));
    Secret::new(format!("{message}.{signature}"))
}

/// Returns when the federated token in a file expires. `None` if it is not a JWT that says so.
pub fn expiry(path: &Path) -> Option<Timestamp> {
    #[derive(Deserialize)]
    struct Expiry {
        exp: f64, // RFC 7519, section 2: NumericDate
    }
    let token = federated(path).ok()?;
    let payload = URL_SAFE_NO_PAD.decode(token.reveal().split('.').nth(1)?).ok()?;
    let Expiry { exp } = serde_json::from_slice(&payload).ok()?;
    Timestamp::from_duration(SignedDuration::try_from_secs_f64(exp).ok()?).ok()
}

/// Reads the federated token from a file that its issuer renews from time to time.
pub fn federated(path: &Path) -> Result<Secret, CredentialError> {
    let file = CredentialFile::new("federated_token_file", path);
    let bytes = file.read()?;
    let token = str::from_utf8(&bytes).unwrap_or_default().trim();
    let is_token = !token.is_empty() && token.bytes().all(|byte| byte.is_ascii_graphic());
    if is_token { Ok(Secret::new(token)) } else { Err(file.error(CredentialProblem::NoToken)) }
}

fn encoded(json: &impl Serialize) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(json).expect("texts and numbers are JSON"))
}

/// Returns a random GUID (version 4; RFC 9562, section 5.4).
fn random_guid() -> String {
    let mut bytes = [0; 16];
    SystemRandom::new().fill(&mut bytes).expect("the system has random numbers");
    bytes[6] = bytes[6] & 0x0f | 0x40; // version 4
    bytes[8] = bytes[8] & 0x3f | 0x80; // and its variant
    text_of_guid(u128::from_be_bytes(bytes))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn random_guids_have_version_four() {
        let guid = random_guid();
        let groups: Vec<_> = guid.split('-').map(str::len).collect();
        assert_eq!(groups, [8, 4, 4, 4, 12]);
        assert_eq!(&guid[14..15], "4");
        assert!(["8", "9", "a", "b"].contains(&&guid[19..20]), "{guid}");
        assert_ne!(guid, random_guid());
    }
}
