//! One call, one HTTP request: asks, checks that the answer is what it must be, and gives it back typed.
//!
//! Never tries again, never waits, never logs: those are decisions of the pass. What is kept here is that **the token
//! goes to the configured origin only**: every URL that came in an answer is checked before it is used, and no redirect
//! is followed.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::value::RawValue;
use ureq::{
    http::{HeaderMap, Response, Uri, response::Parts},
    tls::TlsConfig,
};

use super::{ApiError, Claims, error::without_query};
use crate::{
    body::Body,
    clock::Clock,
    config::{Collect, Network, Secret, Tenant},
    feed::{ContentType, ListedBlob},
    json, limits,
    login::{self, App},
    network::{
        self, SetupError,
        agents::{self, Agents, Manner, TlsChoice},
        encoding,
        error::NetworkError,
    },
    redact, time,
};

/// Speaks to Microsoft for any number of tenants, over connections that are used again.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) agents: Agents,
    body_bytes_max: usize,
    /// Learns the time from the answers.
    clock: Clock,
}

/// What a login brings.
#[derive(Clone, Debug)]
pub struct Token {
    /// The whole value of the `Authorization` header.
    authorization: Secret,
    /// How long it is accepted, from its coming on.
    pub lifetime: Duration,
}

impl Token {
    /// What it says of itself; `None` if it is not of the form that can be read.
    pub fn claims(&self) -> Option<Claims> {
        Claims::of(self.authorization.reveal().strip_prefix("Bearer ")?)
    }
}

#[cfg(test)]
impl Token {
    /// One that a test hands around.
    pub fn of_a_test(lifetime: Duration) -> Self {
        Self { authorization: Secret::new("Bearer t"), lifetime }
    }
}

/// An entry of the list of subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// `None` for a content type that this program does not know.
    pub content_type: Option<ContentType>,
    /// Whether it runs. An entry without a status does.
    pub enabled: bool,
}

/// One page of a listing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    /// Unsorted, as they came.
    pub blobs: Vec<ListedBlob>,
    /// Where the listing goes on: the next page's full URL.
    pub next: Option<String>,
    /// Whether the answer had no body at all. That was seen to stand for "no blobs", and to be a passing fault.
    pub is_blank: bool,
    /// The id of a blob that is left out because its URI is missing or too long; of the first, if there are any.
    pub unreadable: Option<String>,
}

impl Client {
    /// Makes the client; connects to nothing yet.
    pub fn new(network: &Network, collect: &Collect, clock: Clock) -> Result<Self, SetupError> {
        let manner = Manner {
            at_once: collect.threads,
            silence_max: collect.request_timeout,
            tls: TlsChoice::Resuming(
                TlsConfig::builder().root_certs(network::roots(network.ca_file.as_deref())?).build(),
            ),
            alias: None,
        };
        Ok(Self { agents: Agents::new(network, &manner)?, body_bytes_max: collect.body_bytes_max, clock })
    }

    /// Cuts every connection, in all threads: requests that run fail at once, and so does each one after.
    pub fn shut_down(&self) {
        self.agents.shut_down();
    }

    /// Asks the login endpoint for a token, by the client credentials grant of its v2 endpoint. A certificate or a
    /// federated token is read from its file for that.
    ///
    /// Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow".
    pub fn log_in(&self, tenant: &Tenant) -> Result<Token, ApiError> {
        let app = app_of(tenant);
        let (url, form) = (app.token_url(), app.form(tenant.cloud.api_url())?);
        let response = self.agents.agent_for(&url).post(&url).send_form(form.fields());
        let mut body = Body::default();
        self.read_body(tenant, &url, response, &mut body, |_| ())?;
        let answer: login::TokenResponse = parse(body.bytes(), "a token")?;
        Ok(Token { authorization: answer.authorization(), lifetime: answer.lifetime() })
    }

    /// Lists the tenant's subscriptions.
    pub fn subscriptions(&self, tenant: &Tenant, token: &Token) -> Result<Vec<Subscription>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            content_type: String,
            status: Option<String>,
        }
        let url = operation(tenant, "subscriptions/list?");
        let mut body = Body::default();
        self.get(tenant, &url, token, &mut body, |_| ())?;
        let entries: Vec<Entry> = parse_list(body.bytes(), "a list of subscriptions")?;
        Ok(entries
            .into_iter()
            .map(|entry| Subscription {
                content_type: ContentType::from_name(&entry.content_type),
                enabled: entry.status.is_none_or(|status| status.eq_ignore_ascii_case("enabled")),
            })
            .collect())
    }

    /// Starts a subscription. One that runs already is an [`ApiError`] with the code `AF20024`.
    pub fn start_subscription(
        &self,
        tenant: &Tenant,
        token: &Token,
        content_type: ContentType,
    ) -> Result<(), ApiError> {
        let url = operation(tenant, &format!("subscriptions/start?contentType={content_type}&"));
        let request =
            self.agents.agent_for(&url).post(&url).header("Authorization", token.authorization.reveal());
        self.read_body(tenant, &url, request.send_empty(), &mut Body::default(), |_| ()).map(drop)
    }

    /// The URL of a window's first page.
    pub fn first_page(
        tenant: &Tenant,
        content_type: ContentType,
        start: Timestamp,
        end: Timestamp,
    ) -> String {
        let (start, end) = (time::parameter(start), time::parameter(end));
        let query = format!("contentType={content_type}&startTime={start}&endTime={end}");
        operation(tenant, &format!("subscriptions/content?{query}&"))
    }

    /// Lists one page: a window's first one, or one that an earlier page named as its next.
    ///
    /// `end` is where the listed period ends. A blob whose creation time cannot be read counts as created then.
    pub fn list_page(
        &self,
        tenant: &Tenant,
        token: &Token,
        url: &str,
        end: Timestamp,
    ) -> Result<Page, ApiError> {
        check_origin(tenant, "NextPageUri", url)?;
        let mut body = Body::default();
        let headers = self.get(tenant, &with_publisher(url, tenant), token, &mut body, |_| ())?;
        let entries: Vec<&RawValue> = parse_list(body.bytes(), "a list of blobs")?;
        let (mut blobs, mut unreadable) = (Vec::with_capacity(entries.len()), None);
        for entry in entries {
            let blob = read_entry(entry.get(), end);
            let is_fetchable = (1..=limits::CONTENT_URI_BYTES_MAX).contains(&blob.content_uri.len());
            if blob.content_id.is_empty() || !is_fetchable {
                unreadable.get_or_insert(blob.content_id);
            } else {
                blobs.push(blob);
            }
        }
        let next = ["nextpageuri", "nextpageurl"].iter().find_map(|name| headers.get(*name));
        let next = next.filter(|url| !url.as_bytes().trim_ascii().is_empty()); // was seen to stand for the end
        let next = next.map(|url| url.to_str().map(str::to_owned)).transpose();
        Ok(Page {
            blobs,
            unreadable,
            next: next.map_err(|_| ApiError::Malformed("a page whose NextPageUri is no text".to_owned()))?,
            is_blank: body.is_empty(),
        })
    }

    /// Downloads a blob's body, decompressed. `room` is asked for each further stretch of memory, in bytes, before it is
    /// filled, and may take its time to answer.
    ///
    /// # Errors
    ///
    /// The answer is not a whole body.
    pub fn download(
        &self,
        tenant: &Tenant,
        token: &Token,
        blob: &ListedBlob,
        body: &mut Body,
        room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        check_origin(tenant, "contentUri", &blob.content_uri)?;
        self.get(tenant, &with_publisher(&blob.content_uri, tenant), token, body, room).map(drop)
    }

    /// The same for a blob that other attempts could not read: of a compressed body that cannot be read to its end,
    /// `encoded` is what arrived, and `body` what could be decompressed of it.
    ///
    /// Both bodies together take at most twice the limit of one.
    ///
    /// # Errors
    ///
    /// The answer is not a whole body.
    pub fn download_in_part(
        &self,
        tenant: &Tenant,
        token: &Token,
        blob: &ListedBlob,
        body: &mut Body,
        encoded: &mut Body,
        mut room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        check_origin(tenant, "contentUri", &blob.content_uri)?;
        let url = with_publisher(&blob.content_uri, tenant);
        let (head, sent) = self.accept(tenant, &url, self.request(&url, token))?;
        if !encoding::is_encoded(&head.headers) {
            self.fill(&url, &mut sent.into_reader(), body, room)?;
            return check_success(&head, body);
        }
        let arrived = self.fill(&url, &mut sent.into_reader(), encoded, &mut room);
        if arrived.as_ref().is_err_and(|failure| !failure.is_unreadable_body()) {
            return arrived;
        }
        let mut reader = SmallReads(encoding::reader(&head.headers, encoded.bytes())?);
        let decoded = self.fill(&url, &mut reader, body, &mut room);
        drop(reader);
        arrived.and(decoded)?;
        *encoded = Body::default();
        check_success(&head, body)
    }

    fn request(&self, url: &str, token: &Token) -> Result<Response<ureq::Body>, ureq::Error> {
        self.agents.agent_for(url).get(url).header("Authorization", token.authorization.reveal()).call()
    }

    fn get(
        &self,
        tenant: &Tenant,
        url: &str,
        token: &Token,
        body: &mut Body,
        room: impl FnMut(usize),
    ) -> Result<HeaderMap, ApiError> {
        self.read_body(tenant, url, self.request(url, token), body, room)
    }

    /// Reads an answer's body whole, or fails with what the answer says. The connection goes back to the pool only if
    /// the body was read to its end, so an error's is read too, within bounds.
    fn read_body(
        &self,
        tenant: &Tenant,
        url: &str,
        response: Result<Response<ureq::Body>, ureq::Error>,
        body: &mut Body,
        room: impl FnMut(usize),
    ) -> Result<HeaderMap, ApiError> {
        let (head, sent) = self.accept(tenant, url, response)?;
        let mut reader = encoding::reader(&head.headers, sent.into_reader())?;
        self.fill(url, &mut reader, body, room)?;
        check_success(&head, body)?;
        Ok(head.headers)
    }

    /// Returns the answer if its status is one of success.
    fn accept(
        &self,
        tenant: &Tenant,
        url: &str,
        response: Result<Response<ureq::Body>, ureq::Error>,
    ) -> Result<(Parts, ureq::Body), ApiError> {
        let response = response.map_err(|error| NetworkError::from_ureq(&self.agents.peer(url), error))?;
        let (head, sent) = response.into_parts();
        if let Some(date) = date(&head.headers) {
            self.clock.note(&tenant.tenant_id, date, Instant::now());
        }
        if !head.status.is_success() {
            let reason = agents::read_refusal(&head.headers, sent);
            let status = head.status.as_u16();
            return Err(ApiError::from_response(status, &head.headers, &reason, Timestamp::now()));
        }
        if sent.content_length().is_some_and(|length| length > self.body_bytes_max as u64) {
            return Err(ApiError::TooLarge { limit_bytes: self.body_bytes_max });
        }
        Ok((head, sent))
    }

    /// Reads to the end, within the limit.
    fn fill(
        &self,
        url: &str,
        reader: &mut dyn Read,
        body: &mut Body,
        mut room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        loop {
            if body.len() == body.capacity() {
                let step = body.capacity().clamp(limits::BODY_STEP_BYTES, limits::BODY_GROWTH_BYTES_MAX);
                room(step);
                body.grow(step);
            }
            let read = body.fill(|rest| reader.read(rest));
            if read.map_err(|error| NetworkError::from_body(&self.agents.peer(url), error))? == 0 {
                return Ok(());
            }
            if body.len() > self.body_bytes_max {
                return Err(ApiError::TooLarge { limit_bytes: self.body_bytes_max });
            }
        }
    }
}

/// Checks that a body is not an error in spite of the answer's status.
fn check_success(head: &Parts, body: &Body) -> Result<(), ApiError> {
    let failure = ApiError::from_success(head.status.as_u16(), &head.headers, body.bytes(), Timestamp::now());
    failure.map_or(Ok(()), Err)
}

/// Reads in small steps. A decoder that meets broken data discards what it has decoded in the same step.
struct SmallReads<R>(R);

impl<R: Read> Read for SmallReads<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(limits::SALVAGE_READ_BYTES);
        self.0.read(&mut buffer[..length])
    }
}

/// Reads an entry of a listing field by field, so that one that cannot be read leaves the others readable.
fn read_entry(entry: &str, end: Timestamp) -> ListedBlob {
    let (content_id, content_uri, expiration) = Default::default();
    let mut blob = ListedBlob { content_id, content_uri, created: end, expiration };
    json::each_field(entry, |name, value| {
        let text = || match value.as_bytes().first() {
            Some(b'"' | b'-' | b'0'..=b'9') => json::text_of(value).into_owned(),
            _ => String::new(),
        };
        match &*name {
            "contentId" => blob.content_id = text(),
            "contentUri" => blob.content_uri = text(),
            "contentExpiration" => blob.expiration = redact::line(&text()),
            "contentCreated" => {
                let is_possible = |created: &Timestamp| {
                    created.duration_since(end).abs() <= limits::LISTED_CREATED_DISTANCE_MAX
                };
                blob.created = time::parse(&text()).filter(is_possible).unwrap_or(end);
            }
            _ => {}
        }
    });
    // Without an id the URI tells the blob from others.
    let id = if blob.content_id.is_empty() { blob.content_uri.clone() } else { blob.content_id };
    blob.content_id = redact::content_id(id);
    blob
}

/// Reads what a login would send as its proof, and does not send it.
pub fn read_credential(tenant: &Tenant) -> Result<(), ApiError> {
    app_of(tenant).form(tenant.cloud.api_url())?;
    Ok(())
}

fn app_of(tenant: &Tenant) -> App<'_> {
    let Tenant { login_url, tenant_id, client_id, credential, .. } = tenant;
    App { login_url, tenant_id, client_id, credential }
}

/// How far the clock of whoever sent these headers is ahead of this machine's.
pub(super) fn clock_ahead(headers: &HeaderMap) -> Option<SignedDuration> {
    Some(date(headers)?.duration_since(Timestamp::now()))
}

/// When an answer was sent, by the clock of its server.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    time::http_date(headers.get("date")?.to_str().ok()?)
}

/// The URL of an operation on the tenant's feed, ending in the publisher. `query` ends in `?` or `&`.
fn operation(tenant: &Tenant, query: &str) -> String {
    let Tenant { api_url, tenant_id, publisher_id, .. } = tenant;
    format!("{api_url}/api/v1.0/{tenant_id}/activity/feed/{query}PublisherIdentifier={publisher_id}")
}

/// A URL that the API gave, used as it is, with the publisher where it lacks: without one, all callers of the world
/// share a quota.
fn with_publisher(url: &str, tenant: &Tenant) -> String {
    if url.to_ascii_lowercase().contains("publisheridentifier=") {
        return url.to_owned();
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}PublisherIdentifier={}", tenant.publisher_id)
}

/// Whether a URL is on the tenant's API origin: scheme, host and port the same, and no user before the host.
fn check_origin(tenant: &Tenant, what: &'static str, url: &str) -> Result<(), ApiError> {
    fn origin(url: &str) -> Option<(String, String, u16)> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, authority.host().to_ascii_lowercase(), port))
    }
    let ours = origin(&tenant.api_url);
    if ours.is_some() && origin(url) == ours {
        return Ok(());
    }
    Err(ApiError::ForeignUrl { what, url: without_query(url), api_url: tenant.api_url.clone() })
}

/// Reads an answer's JSON. Where it fails says so without quoting: the body can hold a token.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ApiError> {
    let text = body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body);
    serde_json::from_slice(text).map_err(|error| {
        let place = format!("line {}, column {}", error.line(), error.column());
        ApiError::Malformed(format!("not {what} (JSON breaks at {place} of {} bytes)", body.len()))
    })
}

/// Reads an answer that is a list. An empty body was seen to stand for an empty one.
fn parse_list<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<Vec<T>, ApiError> {
    if body.trim_ascii().is_empty() { Ok(Vec::new()) } else { parse(body, what) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cloud, Credential};

    fn tenant() -> Tenant {
        Tenant {
            tenant_id: "11111111-1111-4111-8111-111111111111".to_owned(),
            client_id: "22222222-2222-4222-8222-222222222222".to_owned(),
            credential: Credential::Secret(Secret::new("s")),
            name: None,
            publisher_id: "33333333-3333-4333-8333-333333333333".to_owned(),
            cloud: Cloud::Commercial,
            login_url: Cloud::Commercial.login_url().to_owned(),
            api_url: Cloud::Commercial.api_url().to_owned(),
            subscriptions: ContentType::ALL.to_vec(),
        }
    }

    #[test]
    fn only_the_apis_own_origin_gets_the_token() {
        for url in [
            "https://manage.office.com/api/v1.0/x",
            "https://MANAGE.office.com:443/api",
            "HTTPS://manage.office.com/a$b$c?x=1",
        ] {
            assert_eq!(check_origin(&tenant(), "contentUri", url), Ok(()), "{url}");
        }
        for url in [
            "http://manage.office.com/api",
            "https://manage.office.com:8443/api",
            "https://manage.office.com.example/api",
            "https://manage.office.com@192.0.2.1/api",
            "https://192.0.2.1/manage.office.com",
            "//manage.office.com/api",
            "/api/v1.0/x",
            "",
        ] {
            let refused = check_origin(&tenant(), "contentUri", url);
            assert!(matches!(refused, Err(ApiError::ForeignUrl { .. })), "{url}");
        }
    }

    #[test]
    fn the_publisher_is_added_where_it_lacks_and_the_url_kept_as_it_is() {
        let next = "https://manage.office.com/a?contenttype=Audit.Exchange&nextpage=2020$2020$na0022";
        let publisher = "PublisherIdentifier=33333333-3333-4333-8333-333333333333";
        assert_eq!(with_publisher(next, &tenant()), format!("{next}&{publisher}"));
        assert_eq!(with_publisher("https://a/b", &tenant()), format!("https://a/b?{publisher}"));
        let named = format!("https://a/b?publisherIdentifier={}", tenant().tenant_id);
        assert_eq!(with_publisher(&named, &tenant()), named);
    }
}
