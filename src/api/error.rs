//! Errors of requests to Microsoft. Two decisions depend on them: whether to retry ([`super::retry`]) and what to advise
//! the administrator ([`ApiError::hint`]).

use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use ureq::http::HeaderMap;

use crate::{
    limits::ERROR_BODY_BYTES_MAX,
    login::{self, credential_file::CredentialError, managed_identity::IdentityError},
    network::{error::NetworkError, page},
    redact::one_line,
    time,
};

/// An error returned when a request has no usable response.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ApiError {
    /// An error response.
    #[error("{}", status_and_code(*.status, .code, .message))]
    Response {
        /// The HTTP status.
        status: u16,
        /// `AF20022`, `AADSTS7000215`, or empty if the response has no code.
        code: String,
        /// The message of the response: one line of bounded length, redacted.
        message: String,
        /// The delay that `Retry-After` asks for.
        retry_after: Option<Duration>,
        /// The server's clock, from the `Date` of the response.
        server_time: Option<Timestamp>,
    },
    /// No complete response arrived.
    #[error(transparent)]
    Network(#[from] NetworkError),
    /// A response of another form than this request has.
    #[error("the answer is {0}")]
    Malformed(String),
    /// A body larger than `curl_max_size`.
    #[error("the body is larger than curl_max_size ({limit_bytes} bytes)")]
    TooLarge {
        /// The limit in bytes.
        limit_bytes: usize,
    },
    /// A URL on another host than the API: the token is not sent there.
    #[error("{what} {url} is not on the API's host {api_url}: no token was sent there")]
    ForeignUrl {
        /// `contentUri` or `NextPageUri`.
        what: &'static str,
        /// The URL without its query.
        url: String,
        /// The configured origin.
        api_url: String,
    },
    /// A redirect. It is not followed because the token would be sent along.
    #[error("HTTP {status}: the API redirects to {location}, which is not followed")]
    Redirected {
        /// The HTTP status.
        status: u16,
        /// Its target, without the query.
        location: String,
    },
    /// The file of the tenant's credential cannot be used; no request was sent.
    #[error(transparent)]
    Credential(#[from] CredentialError),
    /// The tenant's managed identity has no token.
    #[error(transparent)]
    ManagedIdentity(#[from] IdentityError),
}

fn status_and_code(status: u16, code: &str, message: &str) -> String {
    let mut words = Vec::new();
    if !code.starts_with(ENTRA) {
        words.push(format!("HTTP {status}"));
    }
    words.extend([code, message].into_iter().filter(|text| !text.is_empty()).map(str::to_owned));
    words.join(" ")
}

/// The prefix of codes of the login endpoint.
const ENTRA: &str = "AADSTS";

/// The end of the sentence that Microsoft returns in place of a code while auditing is off in the tenant.
const AUDITING_OFF: &str = "does not exist";

impl ApiError {
    /// Returns Microsoft's error code; empty if there is none.
    pub fn code(&self) -> &str {
        match self {
            Self::Response { code, .. } => code,
            _ => "",
        }
    }

    /// Returns what errors of the same cause have in common, whatever blob or connection they concern: `HTTP 503`.
    pub fn kind(&self) -> String {
        match self {
            Self::Response { status, code, .. } => status_and_code(*status, code, ""),
            Self::Network(error) => error.kind().to_owned(),
            Self::Malformed(_) => "an unreadable body".to_owned(),
            Self::ForeignUrl { what, .. } => format!("{what} on another host"),
            Self::Redirected { status, .. } => format!("HTTP {status}"),
            Self::TooLarge { .. } | Self::Credential(_) | Self::ManagedIdentity(_) => self.to_string(),
        }
    }

    /// Returns whether a body arrived that is damaged or of another form, so that a part of it may be readable.
    pub fn is_unreadable_body(&self) -> bool {
        matches!(self, Self::Malformed(_) | Self::Network(NetworkError::Malformed(_)))
    }

    /// Returns whether the unified audit log of the tenant is off.
    ///
    /// Source: "Office 365 Management APIs troubleshooting": a `DataServiceException` "Tenant … does not exist"; the
    /// sentence can be in `code`, with a stack trace in `message`.
    pub fn is_auditing_off(&self) -> bool {
        matches!(self, Self::Response { message, .. } if message.contains("Tenant") && message.contains(AUDITING_OFF))
    }

    /// Returns whether a proxy or gateway responded with an HTML page.
    pub fn is_page(&self) -> bool {
        matches!(self, Self::Response { code, message, .. } if code.is_empty() && message.starts_with(page::ANSWERED))
    }

    /// Returns what the administrator can do about it; empty where only waiting helps.
    ///
    /// Source of the codes: "Microsoft Entra authentication and authorization error codes" and "Office 365 Management
    /// Activity API reference", section "Errors".
    pub fn hint(&self) -> &'static str {
        if self.is_auditing_off() {
            return "turn auditing on: Set-AdminAuditLogConfig -UnifiedAuditLogIngestionEnabled $true in Exchange \
                    Online PowerShell; it takes up to 60 minutes, and earlier events are not collected";
        }
        if self.is_page() {
            return "check the proxy, firewall or network sign-in page between this machine and Microsoft";
        }
        match self {
            Self::Response { status, code, .. } => hint_for_code(code, *status),
            Self::Network(error) => error.hint(),
            Self::TooLarge { .. } => "raise curl_max_size",
            Self::ForeignUrl { .. } | Self::Redirected { .. } => {
                "check api_type, login_url and api_url of the tenant, and the proxy if there is one"
            }
            Self::Credential(error) => error.hint(),
            Self::ManagedIdentity(error) => error.hint(),
            Self::Malformed(_) => "",
        }
    }

    /// Returns the whole message for the administrator: what happened, and what to do. For a login error that is known,
    /// the hint replaces Microsoft's sentence.
    pub fn advice(&self) -> String {
        match (self.code(), self.hint()) {
            (code, "") if code.starts_with(ENTRA) => {
                let number = &code[ENTRA.len()..];
                format!(
                    "{self}; see https://login.microsoftonline.com/error?code={number}; the next pass tries again"
                )
            }
            (_, "") => format!("{self}; the next pass tries again"),
            (code, hint) if code.starts_with(ENTRA) => format!("{code} {hint}"),
            (_, hint) => format!("{self}; {hint}"),
        }
    }

    /// Reads a response with an error status. The body can be an error of the API or of the login endpoint in any shape,
    /// an HTML page, plain text, or empty.
    pub(super) fn from_response(status: u16, headers: &HeaderMap, body: &[u8], now: Timestamp) -> Self {
        let location = headers.get("location").and_then(|value| value.to_str().ok());
        if (300..400).contains(&status) {
            let location = without_query(location.unwrap_or("nowhere"));
            return Self::Redirected { status, location };
        }
        let error = error_in_body(body).unwrap_or_else(|| match body.trim_ascii() {
            [] => (String::new(), "without a body".to_owned()),
            text if is_plain(text) => {
                (String::new(), format!("{:?}", one_line(&String::from_utf8_lossy(text))))
            }
            _ => (
                String::new(),
                format!("with a body of {} bytes that is not an error of the API", body.len()),
            ),
        });
        Self::response(status, headers, error, now)
    }

    /// Reads an error from a response with a success status: errors of the API, of the login endpoint or of a gateway can
    /// arrive with HTTP 200. `None` if the body is not an error.
    pub(super) fn from_success(
        status: u16,
        headers: &HeaderMap,
        body: &[u8],
        now: Timestamp,
    ) -> Option<Self> {
        let text = without_byte_order_mark(body).trim_ascii_start();
        let is_short = body.len() <= ERROR_BODY_BYTES_MAX;
        let error = match text.first()? {
            b'<' => error_in_body(body),
            b'{' if is_short => error_in(&serde_json::from_slice(text).ok()?),
            _ => None,
        };
        Some(Self::response(status, headers, error?, now))
    }

    fn response(status: u16, headers: &HeaderMap, (code, message): (String, String), now: Timestamp) -> Self {
        let retry_after = time::retry_after(headers, now);
        let date = headers.get("date").and_then(|value| value.to_str().ok());
        let (code, message) = (one_line(&code), one_line(&message));
        Self::Response { status, code, message, retry_after, server_time: date.and_then(time::http_date) }
    }
}

/// Returns the code and the message of a body that is an error of the API, of the login endpoint or of a gateway.
fn error_in_body(body: &[u8]) -> Option<(String, String)> {
    if let Some(page) = page::described(body) {
        return Some((String::new(), page));
    }
    let text = without_byte_order_mark(body);
    match serde_json::from_slice(text) {
        Ok(value) => error_in(&value),
        // XML, or truncated JSON: the code still counts.
        Err(_) => code_in(&String::from_utf8_lossy(text)).map(|code| (code, String::new())),
    }
}

fn error_in(value: &Value) -> Option<(String, String)> {
    let is_of_login = ["error_description", "error_codes"].iter().any(|name| field(value, name).is_some());
    if is_of_login { login::error_in(value) } else { api_error_in(value) }
}

/// Returns the code and the message of an error of the API: `{"error":{"code":"AF20022","message":"…"}}`.
///
/// Other forms were seen too: the object under `Error` or `odata.error`, or at top level; a `message` that is null, missing,
/// or an object with the text in `value`; a `code` that is a number, or a sentence.
fn api_error_in(value: &Value) -> Option<(String, String)> {
    let value = match value {
        Value::String(quoted) => &serde_json::from_str(quoted).ok()?,
        Value::Array(_) => return None,
        value => value,
    };
    let error = ["error", "odata.error"].iter().find_map(|name| field(value, name));
    let error = error.filter(|error| !error.is_null());
    let (code, message) = match error {
        Some(Value::String(text)) => (Some(text.clone()), field(value, "message").map(text_of)),
        Some(error) => (field(error, "code").map(text_of), field(error, "message").map(text_of)),
        // A record has an Id, and can have a Message.
        None if field(value, "id").is_some() => return None,
        None => (field(value, "code").map(text_of), field(value, "message").map(text_of)),
    };
    if code.is_none() && message.is_none() && error.is_none() {
        return None;
    }
    Some(code_and_message(&code.unwrap_or_default(), &message.unwrap_or_default()))
}

/// Returns a field of an object; the letter case of its name does not matter.
fn field<'a>(value: &'a Value, name: &str) -> Option<&'a Value> {
    value.as_object()?.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value)
}

/// Returns the text of a value that should be a string.
fn text_of(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.trim().to_owned(),
        Value::Object(_) => {
            field(value, "value").or_else(|| field(value, "message")).map(text_of).unwrap_or_default()
        }
        other => other.to_string(),
    }
}

/// Separates the code from the sentence, whichever field contains which.
fn code_and_message(code: &str, message: &str) -> (String, String) {
    let is_number = !code.is_empty() && code.bytes().all(|digit| digit.is_ascii_digit());
    // A number below a thousand is the HTTP status again; only 429 is also a code.
    if is_number && (code == "429" || code.len() > 3) {
        return (format!("AF{code}"), message.to_owned());
    }
    if is_number || code.is_empty() {
        let found = code_in(message).filter(|found| message.to_ascii_uppercase().starts_with(found.as_str()));
        return match found {
            Some(found) => {
                let rest = message[found.len()..].trim_start_matches([':', ' ', '-']).to_owned();
                (found, rest)
            }
            None => (String::new(), message.to_owned()),
        };
    }
    if code.len() <= CODE_BYTES_MAX && !code.contains(char::is_whitespace) {
        return (code_in(code).unwrap_or_else(|| code.to_owned()), message.to_owned());
    }
    let (found, sentence) = code_and_message("", &one_line(code));
    let message = if message.is_empty() { sentence } else { format!("{sentence} {}", one_line(message)) };
    (if found.is_empty() { code_in(code).unwrap_or_default() } else { found }, message)
}

/// The maximum length of a code, in bytes; anything longer is a sentence.
const CODE_BYTES_MAX: usize = 64;

/// Returns the first code of the API in a text: `AF` and two to six digits as a word of its own, in any letter case.
fn code_in(text: &str) -> Option<String> {
    let is_part_of_word = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    let mut place = 0;
    while let Some(found) = bytes[place..].windows(2).position(|pair| pair.eq_ignore_ascii_case(b"AF")) {
        let start = place + found;
        let digits = bytes[start + 2..].iter().take_while(|byte| byte.is_ascii_digit()).count();
        let before = start.checked_sub(1).and_then(|before| bytes.get(before));
        if (2..=6).contains(&digits)
            && !is_part_of_word(before)
            && !is_part_of_word(bytes.get(start + 2 + digits))
        {
            return Some(text[start..start + 2 + digits].to_ascii_uppercase());
        }
        place = start + 2;
    }
    None
}

/// Returns whether the text is neither markup nor JSON nor binary.
fn is_plain(text: &[u8]) -> bool {
    !matches!(text.first(), Some(b'<' | b'{' | b'[')) && str::from_utf8(text).is_ok()
}

fn without_byte_order_mark(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

fn hint_for_code(code: &str, status: u16) -> &'static str {
    match code {
        "AADSTS500011" | "AADSTS650052" => {
            "the tenant does not know Office 365 Management APIs: add ActivityFeed.Read of that API to the app under API \
             permissions, then Grant admin consent; if it is not offered there, run New-MgServicePrincipal -AppId \
             c5393580-f805-4401-95e8-94b7a6ef2fc2"
        }
        "AADSTS500014" => "enable Office 365 Management APIs under Enterprise applications",
        "AADSTS65001" | "AADSTS501051" => {
            "grant the application permission ActivityFeed.Read of Office 365 Management APIs under API permissions, then \
             Grant admin consent"
        }
        _ if code.starts_with(ENTRA) => login::hint(code),
        "AF10001" => {
            "grant the application permission ActivityFeed.Read (for DLP.All also ActivityFeed.ReadDlp) of Office 365 \
             Management APIs under API permissions, then Grant admin consent; to a managed identity, assign this app role \
             as docs/CREDENTIALS-CHECKLIST.md shows"
        }
        "AF20010" | "AF20011" | "AF20012" | "AF20013" => "check tenant_id and api_type",
        "AF20020" => "remove this content type from subscriptions",
        "AF20001" | "AF20002" | "AF20003" => "this is a bug of this program: please report it",
        "AF20030" | "AF20055" => "check this machine's clock",
        "AF20050" | "AF20051" | "AF20052" => "it cannot be fetched any more",
        "AF429" => {
            "another program may use the same quota: set a lower maxRequestsPerMinute if this persists"
        }
        _ if status == 401 => "the token was not accepted: check api_type and the app's permissions",
        _ if status == 403 => {
            "check the app's permission ActivityFeed.Read and its admin consent, and the proxy if there is one"
        }
        _ => "",
    }
}

/// Returns a URL without its query and fragment, which may contain secrets.
pub(super) fn without_query(url: &str) -> String {
    one_line(url.split(['?', '#']).next().unwrap_or_default())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(status: u16, body: &str) -> ApiError {
        ApiError::from_response(status, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH)
    }

    #[test]
    fn finds_the_code_in_every_body_format() {
        for (body, code, message) in [
            (r#"{"error":{"code":"AF20022","message":"No subscription."}}"#, "AF20022", "No subscription."),
            (r#"{"error":{"code":"AF20024"}}"#, "AF20024", ""),
            (r#"{"error":{"code":"AF429","message":null}}"#, "AF429", ""),
            (r#"{"error":{"code":"AF20022","message":{"lang":"en","value":"None."}}}"#, "AF20022", "None."),
            (r#"{"error":{"code":"AF20022","message":{"other":1}}}"#, "AF20022", ""),
            (r#"{"error":{"code":"AF20022","message":["x"]}}"#, "AF20022", "[\"x\"]"),
            ("\u{feff}{\"error\":{\"code\":\"AF20022\"}}", "AF20022", ""),
            (r#"{"Error":{"Code":"af20022","Message":"None."}}"#, "AF20022", "None."),
            (r#"{"odata.error":{"code":"AF20022","message":{"value":"None."}}}"#, "AF20022", "None."),
            (r#"{"code":"AF20022","message":"None."}"#, "AF20022", "None."),
            (r#"{"error":null,"code":"AF20022"}"#, "AF20022", ""),
            (r#"{"error":"AF20022","message":"None."}"#, "AF20022", "None."),
            (r#""{\"error\":{\"code\":\"AF20022\"}}""#, "AF20022", ""),
            (r#"{"error":{"code":20022,"message":"None."}}"#, "AF20022", "None."),
            (r#"{"error":{"code":"20022"}}"#, "AF20022", ""),
            (r#"{"error":{"code":429}}"#, "AF429", ""),
            (r#"{"error":{"code":400,"message":"AF20022: None."}}"#, "AF20022", "None."),
            (r#"{"error":{"code":500,"message":"Oops"}}"#, "", "Oops"),
            (r#"{"Message":"AF20022 - None."}"#, "AF20022", "None."),
            (r#"{"error":{"code":"AF20022: No subscription found."}}"#, "AF20022", "No subscription found."),
            (
                r#"{"error":{"code":"Tenant x does not exist.","message":"at A.B()\n"}}"#,
                "",
                "Tenant x does not exist. at A.B()",
            ),
            ("<m:error><m:code>AF20022</m:code></m:error>", "AF20022", ""),
            (r#"{"error":{"code":"AF20022","message":"cut of"#, "AF20022", ""),
            (r#"{"Message":"Authorization has been denied."}"#, "", "Authorization has been denied."),
            ("upstream connect error\nmore", "", "\"upstream connect error\""),
            ("", "", "without a body"),
            ("[1]", "", "with a body of 3 bytes that is not an error of the API"),
            ("{}", "", "with a body of 2 bytes that is not an error of the API"),
        ] {
            let ApiError::Response { code: found, message: said, .. } = read(400, body) else {
                panic!("{body} is not read as an error")
            };
            assert_eq!((found.as_str(), said.as_str()), (code, message), "{body}");
        }
    }

    #[test]
    fn recognizes_disabled_auditing() {
        for body in [
            r#"{"error":{"code":"StartSubscription [CorrelationId=1]","message":"DataServiceException: Tenant x does not exist.\r\n at A"}}"#,
            r#"{"error":{"code":"Microsoft.Office.Compliance.Audit.DataServiceException: Tenant x does not exist.\r\n at A","message":"at B"}}"#,
            r#"{"error":{"code":"Tenant x does not exist."}}"#,
        ] {
            let failure = read(400, body);
            assert!(failure.is_auditing_off(), "{failure:?}");
            assert!(failure.advice().contains("60 minutes"), "{}", failure.advice());
        }
    }

    #[test]
    fn recognizes_an_error_with_a_success_status() {
        let from_success = |body: &str| {
            ApiError::from_success(200, &HeaderMap::new(), body.as_bytes(), Timestamp::UNIX_EPOCH)
        };
        for body in [
            "",
            "[]",
            r#"[{"error":{"code":"AF20022"}}]"#,
            r#"{"contentType":"Audit.General","status":"enabled","webhook":null}"#,
            r#"{"token_type":"Bearer","expires_in":3599,"access_token":"x"}"#,
            r#"{"Id":"1","Message":"a record, not an error"}"#,
        ] {
            assert_eq!(from_success(body), None, "{body}");
        }
        for (body, code) in [
            (r#" {"error":{"code":"AF20022"}}"#, "AF20022"),
            (r#"{"error":"invalid_client","error_codes":[7000215]}"#, "AADSTS7000215"),
            (r#"{"Message":"Authorization has been denied."}"#, ""),
            ("<html><title>Sign in</title>", ""),
        ] {
            assert_eq!(from_success(body).expect(body).code(), code);
        }
        assert!(from_success("<html>").expect("a page").is_page());
    }

    #[test]
    fn quotes_the_message_of_an_unknown_login_code() {
        let failure =
            read(400, r#"{"error":"x","error_description":"AADSTS9999999: Something new.\r\nTrace ID: 1"}"#);
        let advice = failure.advice();
        assert!(advice.starts_with("AADSTS9999999 Something new.; see https://login"), "{advice}");
        assert!(advice.contains("error?code=9999999"), "{advice}");
    }
}
