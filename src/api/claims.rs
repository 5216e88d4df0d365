//! What a token says of itself (RFC 7519). Read for whoever wants to know why the API refuses it, and not verified:
//! that is for the API to do.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use serde::Deserialize;

/// The claims that tell what a token is good for.
///
/// Source: "Access token claims reference", Microsoft identity platform.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct Claims {
    /// The application permissions that were granted.
    #[serde(default)]
    pub roles: Vec<String>,
    /// Whom it is for: a URL or an application's id.
    #[serde(rename = "aud")]
    pub audience: Option<String>,
    /// Whose it is.
    #[serde(rename = "tid")]
    pub tenant_id: Option<String>,
}

impl Claims {
    /// Those of a signed JWT. A token is free to be anything else, or encrypted.
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
    fn the_claims_stand_in_the_second_part() {
        let claims = Claims::of(&token(r#"{"aud":"a","tid":"t","roles":["r"],"exp":1}"#)).expect("a JWT");
        let expected =
            Claims { roles: vec!["r".to_owned()], audience: Some("a".into()), tenant_id: Some("t".into()) };
        assert_eq!(claims, expected);
        assert_eq!(Claims::of(&token("{}")).expect("a JWT").roles, [""; 0]);
    }

    #[test]
    fn what_is_no_jwt_says_nothing() {
        for token in ["", "opaque", "a.b", "a.%.c", "e30.e30.a.b.c", &token("[]"), &token(r#"{"roles":7}"#)] {
            assert_eq!(Claims::of(token), None, "{token}");
        }
    }
}
