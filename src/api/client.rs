//! The client: each method makes one HTTP request, validates the response and returns it typed.
//!
//! It never retries, waits or logs; the pass decides about that. Its invariant is that **the token goes to the configured
//! origin only**: it checks every URL from a response before it uses it, and follows no redirect.

use std::{
    io::{self, Read},
    time::{Duration, Instant},
};

use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use ureq::{
    http::{HeaderMap, Response, Uri, response::Parts},
    tls::TlsConfig,
};

use super::{ApiError, BlobList, Claims, error::without_query, list_elements};
use crate::{
    body::Body,
    chunks::{ChunkPool, Chunks},
    clock::Clock,
    config::{Collect, Network, Secret, Tenant},
    feed::{ContentType, ListedBlob},
    json, limits,
    login::{self, App, LoginRequest, managed_identity},
    network::{
        self, SetupError,
        agents::{self, AgentOptions, Agents, TlsChoice},
        encoding,
        error::NetworkError,
    },
    redact, time,
};

/// The largest credible distance between a blob's creation time and the window that it is listed for.
const CREATED_DISTANCE_MAX: SignedDuration = SignedDuration::from_hours(60 * 24);

/// The largest response body to a login or about subscriptions. Real ones have a few kilobytes.
const SMALL_BODY_BYTES_MAX: usize = 1024 * 1024;

/// The largest step in which memory for a body is allocated. Steps begin with [`limits::BODY_STEP_BYTES`] and double.
const BODY_GROWTH_BYTES_MAX: usize = 16 * 1024 * 1024;

/// The size of the steps in which a broken compressed body is decompressed: at most one step before the break is lost.
const SALVAGE_READ_BYTES: usize = 256;

/// The size of each buffer of a connection: there are as many connections as threads, and larger buffers make a pass no
/// faster.
const CONNECTION_BUFFER_BYTES: usize = 32 * 1024;

const _: () = {
    assert!(limits::BODY_STEP_BYTES <= BODY_GROWTH_BYTES_MAX);
    assert!(limits::CONTENT_URI_BYTES_MAX < CONNECTION_BUFFER_BYTES);
};

const BYTE_ORDER_MARK: &[u8] = b"\xef\xbb\xbf";

/// A client for any number of tenants, which reuses connections.
#[derive(Clone, Debug)]
pub struct Client {
    pub(super) agents: Agents,
    body_bytes_max: usize,
    chunks: ChunkPool,
    /// Microsoft's time, which the `Date` of each response sets.
    clock: Clock,
}

/// An access token. It is removed from texts of servers until it is forgotten.
#[derive(Debug)]
pub struct Token {
    /// The value of the `Authorization` header.
    authorization: Secret,
    /// How long it is accepted, counted from its arrival.
    pub lifetime: Duration,
}

impl Token {
    fn of(response: &login::TokenResponse) -> Self {
        Self { authorization: response.authorization(), lifetime: response.lifetime() }
    }

    /// Ends its removal from texts of servers: none that can contain it is left.
    pub fn forget(&self) {
        redact::unregister(self.authorization.reveal().trim_start_matches("Bearer "));
    }

    /// Returns its claims; `None` if the token is not a readable JWT.
    pub fn claims(&self) -> Option<Claims> {
        Claims::of(self.authorization.reveal().strip_prefix("Bearer ")?)
    }
}

#[cfg(test)]
impl Token {
    /// Returns a token for tests, of a usual size.
    pub fn of_a_test(lifetime: Duration) -> Self {
        Self { authorization: Secret::new(format!("Bearer {}", "t".repeat(2_000))), lifetime }
    }
}

/// An entry of the list of subscriptions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subscription {
    /// `None` for a content type that this program does not know.
    pub content_type: Option<ContentType>,
    /// Whether it is enabled. An entry without a status is.
    pub enabled: bool,
}

/// One page of a listing.
#[derive(Debug)]
pub struct Page {
    /// The blobs in the order of the response.
    pub blobs: BlobList,
    /// The full URL of the next page; `None` at the end of the listing.
    pub next: Option<String>,
    /// Whether the response had no body at all. That was seen to mean "no blobs", and to be a transient fault.
    pub is_blank: bool,
    /// The id of a blob that is left out because its URI is missing or too long; of the first, if there are any.
    pub unreadable: Option<String>,
}

impl Client {
    /// Creates the client without connecting.
    ///
    /// # Errors
    ///
    /// `ca_file` or the proxy is not usable.
    pub fn new(network: &Network, collect: &Collect, clock: Clock) -> Result<Self, SetupError> {
        let options = AgentOptions {
            requests_max: collect.max_threads,
            io_timeout: collect.request_timeout,
            tls: TlsChoice::Resuming(
                TlsConfig::builder().root_certs(network::roots(network.ca_file.as_deref())?).build(),
            ),
            alias: None,
            buffer_bytes: CONNECTION_BUFFER_BYTES,
        };
        Ok(Self {
            agents: Agents::new(network, &options)?,
            body_bytes_max: collect.curl_max_size,
            chunks: ChunkPool::default(),
            clock,
        })
    }

    /// Closes every connection in all threads: running and later requests fail at once.
    pub fn shut_down(&self) {
        self.agents.shut_down();
    }

    /// Logs in with the client credentials grant of the v2 endpoint, or as a managed identity. Reads a certificate or a
    /// federated token from its file.
    ///
    /// Source: "Microsoft identity platform and the OAuth 2.0 client credentials flow".
    pub fn log_in(&self, tenant: &Tenant, mut room: impl FnMut(usize)) -> Result<Token, ApiError> {
        let (app, resource) = (app_of(tenant), tenant.cloud.api_url());
        let form = match app.request(resource)? {
            LoginRequest::Form(form) => form,
            LoginRequest::ManagedIdentity(identity) => {
                room(limits::ERROR_BODY_BYTES_MAX);
                let response = managed_identity::request_token(&self.agents, identity, resource)?;
                return Ok(Token::of(&response));
            }
        };
        let url = app.token_url();
        let response = self.agents.agent_for(&url).post(&url).send_form(form.fields());
        let mut body = Body::default();
        self.read_body(tenant, &url, response, &mut body, self.small_body_bytes_max(), room)?;
        let response: login::TokenResponse = parse(body.bytes(), "a token")?;
        Ok(Token::of(&response))
    }

    /// Lists the subscriptions of a tenant.
    pub fn subscriptions(
        &self,
        tenant: &Tenant,
        token: &Token,
        room: impl FnMut(usize),
    ) -> Result<Vec<Subscription>, ApiError> {
        #[derive(Deserialize)]
        #[serde(rename_all = "camelCase")]
        struct Entry {
            content_type: String,
            status: Option<String>,
        }
        let url = operation(tenant, "subscriptions/list?");
        let mut body = Body::default();
        self.get(tenant, &url, token, &mut body, self.small_body_bytes_max(), room)?;
        let entries: Vec<Entry> = parse_list(body.bytes(), "a list of subscriptions")?;
        Ok(entries
            .into_iter()
            .map(|entry| Subscription {
                content_type: ContentType::from_name(&entry.content_type),
                enabled: entry.status.is_none_or(|status| status.eq_ignore_ascii_case("enabled")),
            })
            .collect())
    }

    /// Starts a subscription.
    ///
    /// # Errors
    ///
    /// Among others, code `AF20024` if the subscription is already enabled.
    pub fn start_subscription(
        &self,
        tenant: &Tenant,
        token: &Token,
        content_type: ContentType,
        room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        let url = operation(tenant, &format!("subscriptions/start?contentType={content_type}&"));
        let request =
            self.agents.agent_for(&url).post(&url).header("Authorization", token.authorization.reveal());
        let (response, mut body) = (request.send_empty(), Body::default());
        self.read_body(tenant, &url, response, &mut body, self.small_body_bytes_max(), room).map(drop)
    }

    /// Returns the URL of the first page of a window.
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

    /// Lists one page: the first one of a window, or the next one that an earlier page names.
    ///
    /// `end` is the end of the listed window, which replaces an unreadable creation time of a blob. `room` is called
    /// with the number of bytes before memory is allocated for the body and for the blobs.
    pub fn list_page(
        &self,
        tenant: &Tenant,
        token: &Token,
        url: &str,
        end: Timestamp,
        mut room: impl FnMut(usize),
    ) -> Result<Page, ApiError> {
        check_origin(tenant, "NextPageUri", url)?;
        let url = with_publisher(url, tenant);
        let (head, sent) = self.accept(tenant, &url, self.request(&url, token), self.body_bytes_max)?;
        let mut reader = encoding::reader(&head.headers, sent.into_reader())?;
        let mut body = self.chunks.bytes();
        loop {
            let read = body.fill(&mut room, |rest| reader.read(rest));
            if read.map_err(|error| NetworkError::from_body(&self.agents.peer(&url), error))? == 0 {
                break;
            }
            if body.len() > self.body_bytes_max {
                return Err(ApiError::TooLarge { limit_bytes: self.body_bytes_max });
            }
        }
        check_success(&head, body.first())?;
        let (mut blobs, mut unreadable) = (BlobList::new(&self.chunks), None);
        each_element(&body, "a list of blobs", |entry| {
            let blob = read_entry(entry, end);
            let is_fetchable = (1..=limits::CONTENT_URI_BYTES_MAX).contains(&blob.content_uri.len());
            if blob.content_id.is_empty() || !is_fetchable {
                unreadable.get_or_insert(blob.content_id);
            } else {
                blobs.push(&blob, &mut room);
            }
        })?;
        let next = ["nextpageuri", "nextpageurl"].iter().find_map(|name| head.headers.get(*name));
        let next = next.filter(|url| !url.as_bytes().trim_ascii().is_empty()); // an empty value was seen at the end
        let next = next.map(|url| url.to_str().map(str::to_owned)).transpose();
        Ok(Page {
            blobs,
            unreadable,
            next: next.map_err(|_| ApiError::Malformed("a page whose NextPageUri is not text".to_owned()))?,
            is_blank: body.is_empty(),
        })
    }

    /// Downloads a blob and decompresses its body. Calls `room` with the number of bytes before it uses further memory;
    /// `room` may block until they are available.
    ///
    /// # Errors
    ///
    /// The response is not a complete body.
    pub fn download(
        &self,
        tenant: &Tenant,
        token: &Token,
        blob: &ListedBlob,
        body: &mut Body,
        room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        check_origin(tenant, "contentUri", &blob.content_uri)?;
        let url = with_publisher(&blob.content_uri, tenant);
        self.get(tenant, &url, token, body, self.body_bytes_max, room).map(drop)
    }

    /// Does the same for a blob that earlier attempts could not read. If its compressed body cannot be read to the end,
    /// `encoded` holds what arrived, and `body` what could be decompressed of it. Each has at most `curl_max_size` bytes.
    ///
    /// # Errors
    ///
    /// The response is not a complete body.
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
        let (head, sent) = self.accept(tenant, &url, self.request(&url, token), self.body_bytes_max)?;
        if !encoding::is_encoded(&head.headers) {
            self.fill(&url, &mut sent.into_reader(), body, self.body_bytes_max, room)?;
            return check_success(&head, body.bytes());
        }
        let arrived = self.fill(&url, &mut sent.into_reader(), encoded, self.body_bytes_max, &mut room);
        if arrived.as_ref().is_err_and(|failure| !failure.is_unreadable_body()) {
            return arrived;
        }
        let mut reader = SmallReads(encoding::reader(&head.headers, encoded.bytes())?);
        let decoded = self.fill(&url, &mut reader, body, self.body_bytes_max, &mut room);
        drop(reader);
        arrived.and(decoded)?;
        *encoded = Body::default();
        check_success(&head, body.bytes())
    }

    /// Returns the maximum size of an answer to a login or about subscriptions.
    fn small_body_bytes_max(&self) -> usize {
        SMALL_BODY_BYTES_MAX.min(self.body_bytes_max)
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
        bytes_max: usize,
        room: impl FnMut(usize),
    ) -> Result<HeaderMap, ApiError> {
        self.read_body(tenant, url, self.request(url, token), body, bytes_max, room)
    }

    /// Reads the whole body of a response, or returns the error that the response contains.
    fn read_body(
        &self,
        tenant: &Tenant,
        url: &str,
        response: Result<Response<ureq::Body>, ureq::Error>,
        body: &mut Body,
        bytes_max: usize,
        room: impl FnMut(usize),
    ) -> Result<HeaderMap, ApiError> {
        let (head, sent) = self.accept(tenant, url, response, bytes_max)?;
        let mut reader = encoding::reader(&head.headers, sent.into_reader())?;
        self.fill(url, &mut reader, body, bytes_max, room)?;
        check_success(&head, body.bytes())?;
        Ok(head.headers)
    }

    /// Returns the head and the unread body of a response with a success status that announces at most `bytes_max` bytes.
    fn accept(
        &self,
        tenant: &Tenant,
        url: &str,
        response: Result<Response<ureq::Body>, ureq::Error>,
        bytes_max: usize,
    ) -> Result<(Parts, ureq::Body), ApiError> {
        let response = response.map_err(|error| NetworkError::from_ureq(&self.agents.peer(url), error))?;
        let (head, sent) = response.into_parts();
        if let Some(date) = date(&head.headers) {
            self.clock.note(&tenant.tenant_id, date, Instant::now());
        }
        if !head.status.is_success() {
            let reason = agents::read_error_body(&head.headers, sent);
            let status = head.status.as_u16();
            return Err(ApiError::from_response(status, &head.headers, &reason, Timestamp::now()));
        }
        if sent.content_length().is_some_and(|length| length > bytes_max as u64) {
            return Err(ApiError::TooLarge { limit_bytes: bytes_max });
        }
        Ok((head, sent))
    }

    /// Reads to the end, at most `bytes_max` bytes.
    fn fill(
        &self,
        url: &str,
        reader: &mut dyn Read,
        body: &mut Body,
        bytes_max: usize,
        mut room: impl FnMut(usize),
    ) -> Result<(), ApiError> {
        loop {
            if body.len() == body.capacity() {
                let step = body.capacity().clamp(limits::BODY_STEP_BYTES, BODY_GROWTH_BYTES_MAX);
                room(step);
                body.grow(step);
            }
            let read = body.fill(|rest| reader.read(rest));
            if read.map_err(|error| NetworkError::from_body(&self.agents.peer(url), error))? == 0 {
                return Ok(());
            }
            if body.len() > bytes_max {
                return Err(ApiError::TooLarge { limit_bytes: bytes_max });
            }
        }
    }
}

/// Checks that the body of a response with a success status is not an error.
fn check_success(head: &Parts, body: &[u8]) -> Result<(), ApiError> {
    let failure = ApiError::from_success(head.status.as_u16(), &head.headers, body, Timestamp::now());
    failure.map_or(Ok(()), Err)
}

/// A reader in small steps: a decoder discards what it has decoded in the step in which it meets broken data.
struct SmallReads<R>(R);

impl<R: Read> Read for SmallReads<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let length = buffer.len().min(SALVAGE_READ_BYTES);
        self.0.read(&mut buffer[..length])
    }
}

/// Reads an entry of a listing field by field, so that one unreadable field leaves the others readable.
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
            "contentExpiration" => blob.expiration = redact::one_line(&text()),
            "contentCreated" => {
                let is_possible =
                    |created: &Timestamp| created.duration_since(end).abs() <= CREATED_DISTANCE_MAX;
                blob.created = time::parse(&text()).filter(is_possible).unwrap_or(end);
            }
            _ => {}
        }
    });
    // Without an id, the URI identifies the blob.
    let id = if blob.content_id.is_empty() { blob.content_uri.clone() } else { blob.content_id };
    blob.content_id = redact::content_id(id);
    blob
}

/// Reads the credential that a login would send, and sends nothing.
pub fn read_credential(tenant: &Tenant) -> Result<(), ApiError> {
    if let LoginRequest::ManagedIdentity(identity) = app_of(tenant).request(tenant.cloud.api_url())? {
        managed_identity::check(identity)?;
    }
    Ok(())
}

fn app_of(tenant: &Tenant) -> App<'_> {
    let Tenant { login_url, tenant_id, client_id, credential, .. } = tenant;
    App { login_url, tenant_id, client_id, credential }
}

/// Returns how far the clock of the server is ahead of this machine's, by the `Date` of a response.
pub(super) fn clock_ahead(headers: &HeaderMap) -> Option<SignedDuration> {
    Some(date(headers)?.duration_since(Timestamp::now()))
}

/// Returns the `Date` of a response.
fn date(headers: &HeaderMap) -> Option<Timestamp> {
    time::http_date(headers.get("date")?.to_str().ok()?)
}

/// Returns the URL of an operation on the activity feed of a tenant, with the publisher at its end. `query` ends with `?`
/// or `&`.
fn operation(tenant: &Tenant, query: &str) -> String {
    let Tenant { api_url, tenant_id, publisher_id, .. } = tenant;
    format!("{api_url}/api/v1.0/{tenant_id}/activity/feed/{query}PublisherIdentifier={publisher_id}")
}

/// Adds the publisher to a URL from the API unless it has one: all callers without a publisher share one quota.
fn with_publisher(url: &str, tenant: &Tenant) -> String {
    const PARAMETER: &[u8] = b"PublisherIdentifier=";
    if url.as_bytes().windows(PARAMETER.len()).any(|part| part.eq_ignore_ascii_case(PARAMETER)) {
        return url.to_owned();
    }
    let joint = if url.contains('?') { '&' } else { '?' };
    format!("{url}{joint}PublisherIdentifier={}", tenant.publisher_id)
}

/// Checks that a URL has the API origin of the tenant (scheme, host and port) and contains no user.
///
/// # Errors
///
/// [`ApiError::ForeignUrl`].
fn check_origin(tenant: &Tenant, what: &'static str, url: &str) -> Result<(), ApiError> {
    fn origin(url: &str) -> Option<(String, String, u16)> {
        let uri: Uri = url.parse().ok()?;
        let scheme = uri.scheme_str()?.to_ascii_lowercase();
        let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?;
        let port = authority.port_u16().unwrap_or(if scheme == "https" { 443 } else { 80 });
        Some((scheme, authority.host().to_ascii_lowercase(), port))
    }
    // Almost every URL begins like this, and need not be parsed.
    if url.strip_prefix(&*tenant.api_url).is_some_and(|path| path.starts_with('/')) {
        return Ok(());
    }
    let ours = origin(&tenant.api_url);
    if ours.is_some() && origin(url) == ours {
        return Ok(());
    }
    Err(ApiError::ForeignUrl { what, url: without_query(url), api_url: tenant.api_url.to_string() })
}

/// Parses the JSON of a response. The error quotes nothing: the body can contain a token.
fn parse<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<T, ApiError> {
    let text = body.strip_prefix(BYTE_ORDER_MARK).unwrap_or(body);
    serde_json::from_slice(text).map_err(|error| malformed(&error, what, body.len()))
}

fn malformed(error: &serde_json::Error, what: &str, length: usize) -> ApiError {
    let place = format!("line {}, column {}", error.line(), error.column());
    ApiError::Malformed(format!("not {what} (JSON breaks at {place} of {length} bytes)"))
}

/// Calls a function with each element of a response that is a list. An empty body was seen in place of an empty list.
fn each_element(body: &Chunks, what: &str, read: impl FnMut(&str)) -> Result<(), ApiError> {
    if body.parts().all(|part| part.trim_ascii().is_empty()) {
        return Ok(());
    }
    list_elements::each_element(body, read).map_err(|at| {
        let place = format!("byte {at} of {}", body.len());
        ApiError::Malformed(format!("not {what} (JSON breaks at {place})"))
    })
}

/// Parses a response that is a list. An empty body was seen in place of an empty list.
fn parse_list<'a, T: Deserialize<'a>>(body: &'a [u8], what: &str) -> Result<Vec<T>, ApiError> {
    if body.trim_ascii().is_empty() { Ok(Vec::new()) } else { parse(body, what) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Cloud, Credential};

    fn tenant() -> Tenant {
        Tenant {
            tenant_id: "11111111-1111-4111-8111-111111111111".into(),
            client_id: "22222222-2222-4222-8222-222222222222".into(),
            credential: Credential::Secret(Secret::new("s")),
            name: None,
            publisher_id: "33333333-3333-4333-8333-333333333333".into(),
            cloud: Cloud::Commercial,
            login_url: Cloud::Commercial.login_url().into(),
            api_url: Cloud::Commercial.api_url().into(),
            subscriptions: ContentType::ALL.into(),
        }
    }

    #[test]
    fn sends_the_token_to_the_api_origin_only() {
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
            let error = check_origin(&tenant(), "contentUri", url);
            assert!(matches!(error, Err(ApiError::ForeignUrl { .. })), "{url}");
        }
    }

    #[test]
    fn adds_a_missing_publisher_to_the_url() {
        let next = "https://manage.office.com/a?contenttype=Audit.Exchange&nextpage=2020$2020$na0022";
        let publisher = "PublisherIdentifier=33333333-3333-4333-8333-333333333333";
        assert_eq!(with_publisher(next, &tenant()), format!("{next}&{publisher}"));
        assert_eq!(with_publisher("https://a/b", &tenant()), format!("https://a/b?{publisher}"));
        let named = format!("https://a/b?publisherIdentifier={}", tenant().tenant_id);
        assert_eq!(with_publisher(&named, &tenant()), named);
    }
}
