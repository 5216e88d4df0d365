//! The claims of an access token (RFC 7519), read without verification to explain why the API rejects the token.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// The claims that decide whether the API accepts a token.
///
/// Source: "Access token claims reference", Microsoft identity platform.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The application permissions that were granted.
    #[serde(default)]
    pub roles: Vec<String>,
    /// The API that the token is for: a URL or an application id.
    #[serde(rename = "aud")]
    pub audience: Option<String>,
    /// The tenant that issued it.
    #[serde(rename = "tid")]
    pub tenant_id: Option<String>,
}

impl Claims {
    /// Reads the claims of a signed JWT. `None` for any other token: the format of a token is not guaranteed.
    pub(super) fn of(token: &str) -> Option<Self> {
        let parts: Vec<_> = token.split('.').collect();
        let [_, payload, _] = parts[..] else { return None };
        let payload = URL_SAFE_NO_PAD.decode(payload).ok()?;
        serde_json::from_slice(&payload).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(payload: &str) -> String {
        format!("e30.{}.c2lnbmF0dXJl", URL_SAFE_NO_PAD.encode(payload))
    }

    #[test]
    fn reads_claims_from_the_second_part() {
        let claims = Claims::of(&token(r#"{"aud":"a","tid":"t","roles":["r"],"exp":1}"#)).expect("a JWT");
        let expected =
            Claims { roles: vec!["r".to_owned()], audience: Some("a".into()), tenant_id: Some("t".into()) };
        assert_eq!(claims, expected);
        assert_eq!(Claims::of(&token("{}")).expect("a JWT").roles, [""; 0]);
    }

    #[test]
    fn returns_no_claims_of_other_tokens() {
        for token in ["", "opaque", "a.b", "a.%.c", "e30.e30.a.b.c", &token("[]"), &token(r#"{"roles":7}"#)] {
            assert_eq!(Claims::of(token), None, "{token}");
        }
    }
}
