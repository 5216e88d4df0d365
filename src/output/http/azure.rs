//! `azure-logs-ingestion`: Azure Monitor's Logs Ingestion API, which has replaced the HTTP Data Collector API.
//!
//! The URL is that of a stream of a data collection rule:
//! `https://ENDPOINT/dataCollectionRules/RULE/streams/STREAM?api-version=2023-01-01`. A batch is a JSON array of at
//! most 1 MB. A record is sent as it is, with `TimeGenerated` added at its end from `CreationTime` unless it has one. The
//! stream declaration of the rule names the fields that become columns, and its transformation changes them.
//!
//! Each request has a token that the app in `azure` gets from Entra ID by the client credentials grant. The app needs the
//! role Monitoring Metrics Publisher on the rule. A token that is rejected is replaced once.
//!
//! Source: "Logs Ingestion API in Azure Monitor" and "Azure Monitor service limits", section "Logs Ingestion API".

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    batch::{Framing, HttpBatch},
    format::{Format, append_with_time},
    outcome::{BatchOutcome, HttpError},
};
use crate::{
    config::{AzureLogs, Secret},
    limits,
    login::{self, App, LoginRequest, managed_identity},
    network::{
        agents::{self, Agents},
        page,
    },
    output::Source,
    records::{Record, TimeField},
    redact::one_line,
};

/// The format of Azure Monitor, as configured.
#[derive(Debug)]
pub struct Azure {
    settings: AzureLogs,
    /// Shared by all threads: while one of them logs in, the others wait for its token.
    token: Mutex<Option<Token>>,
}

#[derive(Debug)]
struct Token {
    authorization: Secret,
    good_until: Instant,
}

impl Azure {
    /// Returns the format for this app.
    pub fn new(settings: &AzureLogs) -> Self {
        Self { settings: settings.clone(), token: Mutex::default() }
    }

    fn log_in(&self, agents: &Agents) -> Result<Token, HttpError> {
        let AzureLogs { tenant_id, client_id, credential, resource, login_url } = &self.settings;
        let app = App { login_url, tenant_id, client_id, credential };
        let url = app.token_url();
        let request = app.request(resource).map_err(|unusable| {
            HttpError::new(format!("the login of output.http.azure: {unusable}"), unusable.hint())
        })?;
        let form = match request {
            LoginRequest::Form(form) => form,
            LoginRequest::ManagedIdentity(identity) => {
                let answer = managed_identity::request_token(agents, identity, resource);
                return answer.map(|answer| Token::of(&answer)).map_err(|error| HttpError {
                    is_transient: error.is_transient(),
                    ..HttpError::new(format!("the login of output.http.azure: {error}"), error.hint())
                });
            }
        };
        let answer = agents.agent_for(&url).post(&url).send_form(form.fields());
        let (status, _, body) =
            agents::read_response(&agents.peer(&url), answer, limits::ERROR_BODY_BYTES_MAX)
                .map_err(|error| HttpError::of_network_error(&agents.peer(&url), &error))?;
        if status != 200 {
            let page = || (String::new(), page::described(&body).unwrap_or_default());
            let (code, message) = login::error_in_body(&body).unwrap_or_else(page);
            let hint = match login::hint(&code) {
                "" => "check tenant_id, client_id and credential in output.http.azure",
                hint => hint,
            };
            let (code, message) = (one_line(&code), one_line(&message));
            let problem = format!("the login of output.http.azure: HTTP {status} {code} {message}");
            return Err(HttpError {
                is_transient: matches!(status, 408 | 429 | 500..),
                ..HttpError::new(problem.trim_end(), hint)
            });
        }
        let answer: login::TokenResponse = serde_json::from_slice(&body).map_err(|_| {
            HttpError::new(
                "the answer to the login of output.http.azure is not a token",
                "check azure.login_url",
            )
        })?;
        Ok(Token::of(&answer))
    }
}

impl Token {
    fn of(answer: &login::TokenResponse) -> Self {
        let lifetime =
            answer.lifetime().clamp(*limits::TOKEN_LIFETIME.start(), *limits::TOKEN_LIFETIME.end());
        let good_for = lifetime.saturating_sub(limits::TOKEN_MARGIN).max(Duration::from_secs(1));
        Self { authorization: answer.authorization(), good_until: Instant::now() + good_for }
    }
}

impl Format for Azure {
    fn append(&self, _: &Source<'_>, record: Record<'_>, to: &mut String) {
        append_with_time(record, TimeField::TimeGenerated, to);
    }

    fn framing(&self) -> Framing {
        Framing { open: "[", between: ",", close: "]" }
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn headers(&self, agents: &Agents) -> Result<Vec<(&'static str, Secret)>, HttpError> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.as_ref().is_none_or(|token| Instant::now() >= token.good_until) {
            *token = Some(self.log_in(agents)?);
        }
        let token = token.as_ref().expect("there is one by now");
        Ok(vec![("Authorization", token.authorization.clone())])
    }

    fn renew_credentials(&self) -> bool {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        let Error { code, message } = error_of(body)?;
        let hint = match status {
            401 => "the token is not for this cloud: check url, and azure.tenant_id",
            403 => {
                "give the app the role Monitoring Metrics Publisher on the data collection rule, and half an hour"
            }
            404 => "check the rule's immutable id and the stream's name in url",
            400 if is_about_the_rule(&code) => {
                "check the rule's immutable id, the stream's name and the api-version in url, and the rule itself"
            }
            413 => TOO_LARGE,
            429 => "lower connections; a rule accepts 12,000 requests and 2 GB a minute",
            _ => "compare the stream's declaration in the data collection rule with what is sent",
        };
        Some((format!("HTTP {status}: {code} {message}"), hint))
    }

    fn too_large_hint(&self) -> &'static str {
        TOO_LARGE
    }

    fn is_about_records(&self, status: u16, body: &[u8]) -> bool {
        matches!(status, 400 | 422) && error_of(body).is_none_or(|error| !is_about_the_rule(&error.code))
    }

    fn outcome_of_success(&self, _: &HttpBatch, status: u16, _: &[u8]) -> BatchOutcome {
        if status == 204 {
            return BatchOutcome::Accepted(None);
        }
        let problem = format!("HTTP {status}, where the Logs Ingestion API answers 204");
        BatchOutcome::Failed(HttpError::new(problem, "check url"))
    }

    fn probe(&self) -> Vec<u8> {
        b"[]".to_vec()
    }

    fn accepts_probe(&self, status: u16, body: &[u8]) -> Result<bool, HttpError> {
        // Azure checks the body last: an error about the empty array shows that everything else is right.
        Ok(status == 204 || (error_of(body).is_some() && self.is_about_records(status, body)))
    }
}

const TOO_LARGE: &str =
    "the Logs Ingestion API accepts at most 1 MB (1,000,000 bytes) in one request, and so in one record";

#[derive(Deserialize)]
struct Error {
    code: String,
    #[serde(default)]
    message: String,
}

/// Returns the error in an error response.
fn error_of(body: &[u8]) -> Option<Error> {
    #[derive(Deserialize)]
    struct Response {
        error: Error,
    }
    serde_json::from_slice(body).ok().map(|Response { error }| error)
}

/// Returns whether an error code is about the address of the request or the rule, such as `InvalidStream`, and so not about
/// a record.
fn is_about_the_rule(code: &str) -> bool {
    let code = code.to_ascii_lowercase();
    [
        "stream",
        "rule",
        "dcr",
        "dce",
        "endpoint",
        "apiversion",
        "api-version",
        "table",
        "configuration",
        "resource",
    ]
    .iter()
    .any(|part| code.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_rule_errors_to_no_record() {
        for (code, is_about) in [
            ("InvalidStream", true),
            ("InvalidDcrImmutableId", true),
            ("InvalidApiVersion", true),
            ("InvalidRecord", false),
            ("InvalidPayload", false),
        ] {
            assert_eq!(is_about_the_rule(code), is_about, "{code}");
        }
    }
}
