//! `azure-logs-ingestion`: Azure Monitor's Logs Ingestion API, which has replaced the HTTP Data Collector API.
//!
//! The URL is that of a stream of a data collection rule:
//! `https://ENDPOINT/dataCollectionRules/RULE/streams/STREAM?api-version=2023-01-01`. A batch is a JSON array of at
//! most 1 MB. A record is sent as it is, with `TimeGenerated` added at its end from `CreationTime` unless it has one;
//! the rule's stream declaration says which fields are taken over as columns, and its transformation what becomes of
//! them.
//!
//! Each request has a token that the app in `azure` gets from Entra ID by the client credentials grant; the app needs
//! the role Monitoring Metrics Publisher on the rule. A token that is refused is replaced once.
//!
//! Source: "Logs Ingestion API in Azure Monitor" and "Azure Monitor service limits", section "Logs Ingestion API".

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use serde::Deserialize;

use super::{
    answer::Refusal,
    batch::Frame,
    facts::{self, Facts},
    format::{Format, Probe},
};
use crate::{
    config::{AzureLogs, Secret},
    limits,
    log::one_line,
    login::{self, App},
    network::{
        agents::{self, Agents},
        page,
    },
    output::Source,
    records::Record,
};

/// Azure Monitor, as configured.
#[derive(Debug)]
pub struct Azure {
    settings: AzureLogs,
    /// One for all threads: while one of them logs in, the others wait for what it brings.
    token: Mutex<Option<Token>>,
}

#[derive(Debug)]
struct Token {
    authorization: Secret,
    good_until: Instant,
}

impl Azure {
    /// Sends as this app.
    pub fn new(settings: &AzureLogs) -> Self {
        Self { settings: settings.clone(), token: Mutex::default() }
    }

    fn log_in(&self, agents: &Agents) -> Result<Token, Refusal> {
        let AzureLogs { tenant_id, client_id, credential, resource, login_url } = &self.settings;
        let app = App { login_url, tenant_id, client_id, credential };
        let url = app.token_url();
        let form = app.form(resource).map_err(|unusable| {
            Refusal::new(format!("the login of output.http.azure: {unusable}"), unusable.fault.mend())
        })?;
        let answer = agents.agent_for(&url).post(&url).send_form(form.fields());
        let (status, _, body) = agents::read_answer(&agents.peer(&url), answer, limits::ERROR_BODY_BYTES_MAX)
            .map_err(|trouble| Refusal::of_trouble(&agents.peer(&url), &trouble))?;
        if status != 200 {
            let page = || (String::new(), page::described(&body).unwrap_or_default());
            let (code, message) = login::refusal(&body).unwrap_or_else(page);
            let mend = match login::mend(&code) {
                "" => "check tenant_id, client_id and credential in output.http.azure",
                mend => mend,
            };
            let (code, message) = (one_line(&code), one_line(&message));
            let problem = format!("the login of output.http.azure: HTTP {status} {code} {message}");
            return Err(Refusal {
                is_passing: matches!(status, 408 | 429 | 500..),
                ..Refusal::new(problem.trim_end(), mend)
            });
        }
        let answer: login::Answer = serde_json::from_slice(&body).map_err(|_| {
            Refusal::new("the answer to the login of output.http.azure is no token", "check azure.login_url")
        })?;
        let lifetime =
            answer.lifetime().clamp(*limits::TOKEN_LIFETIME.start(), *limits::TOKEN_LIFETIME.end());
        let good_for = lifetime.saturating_sub(limits::TOKEN_MARGIN).max(Duration::from_secs(1));
        Ok(Token { authorization: answer.authorization(), good_until: Instant::now() + good_for })
    }
}

impl Format for Azure {
    fn append(&self, _: &Source<'_>, record: &Record<'_>, to: &mut Vec<u8>) {
        facts::append_with_time(record, &Facts::of(record, "TimeGenerated"), "TimeGenerated", to);
    }

    fn frame(&self) -> Frame {
        Frame { open: "[", between: ",", close: "]" }
    }

    fn content_type(&self) -> &'static str {
        "application/json"
    }

    fn headers(&self, agents: &Agents) -> Result<Vec<(&'static str, Secret)>, Refusal> {
        let mut token = self.token.lock().unwrap_or_else(PoisonError::into_inner);
        if token.as_ref().is_none_or(|token| Instant::now() >= token.good_until) {
            *token = Some(self.log_in(agents)?);
        }
        let token = token.as_ref().expect("there is one by now");
        Ok(vec![("Authorization", token.authorization.clone())])
    }

    fn renew(&self) -> bool {
        self.token.lock().unwrap_or_else(PoisonError::into_inner).take().is_some()
    }

    fn explain(&self, status: u16, body: &[u8]) -> Option<(String, &'static str)> {
        #[derive(Deserialize)]
        struct Answer {
            error: Error,
        }
        #[derive(Deserialize)]
        struct Error {
            code: String,
            #[serde(default)]
            message: String,
        }
        let Answer { error: Error { code, message } } = serde_json::from_slice(body).ok()?;
        let mend = match status {
            401 => "the token is not for this cloud: check url, and azure.tenant_id",
            403 => {
                "give the app the role Monitoring Metrics Publisher on the data collection rule, and half an hour"
            }
            404 => "check the rule's immutable id and the stream's name in url",
            429 => "lower connections; a rule takes 12,000 requests and 2 GB a minute",
            _ => "compare the stream's declaration in the data collection rule with what is sent",
        };
        Some((format!("HTTP {status}: {code} {message}"), mend))
    }

    fn probe(&self) -> Probe {
        Probe { path: None, refusals: &[401] }
    }
}
