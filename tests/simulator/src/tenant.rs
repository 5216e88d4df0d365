//! A tenant: its settings, subscriptions and blobs.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap, VecDeque},
    fmt,
    ops::Range,
    sync::{Arc, Mutex, atomic::AtomicUsize},
    time::{Duration, Instant},
};

use jiff::{RoundMode, SignedDuration, Timestamp, TimestampRound, Unit};

use crate::{
    api_error::quoted,
    base64url,
    blob::{Blob, Content, NewBlob, NewContent, State, StoredBlob, Window},
    login::LoginError,
    record::{Source, hash},
    sync::lock,
    time::{self, Clock, Fraction},
};

/// The settings of a tenant.
#[derive(Clone, Debug)]
pub struct TenantSettings {
    /// The tenant's GUID, in lower case.
    pub id: String,
    /// The app's GUID.
    pub client_id: String,
    /// The client secret.
    pub secret: String,
    /// The `x5t#S256` of the certificate that an assertion may use instead of the secret.
    pub certificate_thumbprint: Option<String>,
    /// The RSA key of this certificate, as modulus and exponent in DER, with which the signature of an assertion is verified.
    /// Without it every signature is valid.
    pub certificate_key: Option<Vec<u8>>,
    /// A token of another issuer that is a valid assertion.
    pub federated_token: Option<String>,
    /// The error of every login.
    pub login_error: Option<LoginError>,
    /// The application permissions in the claims of a token. If `None`, tokens are opaque texts instead of JWTs.
    pub roles: Option<Vec<String>>,
    /// The lifetime of a token.
    pub token_lifetime: Duration,
    /// Whether `expires_in` is a string.
    pub expires_in_as_text: bool,
    /// The number of entries on a page of a listing.
    pub page_size: usize,
    /// The name of the header with the URL of the next page.
    pub next_page_header: String,
    /// The version in the URL of the next page: `v1.0` or `v1`.
    pub next_page_version: String,
    /// The fractions of seconds in listings.
    pub fraction: Fraction,
    /// The format of content ids.
    pub content_ids: ContentIds,
    /// Whether answers are compressed if the client accepts that.
    pub gzip: bool,
    /// Whether blobs are sent in chunks instead of with a `Content-Length`.
    pub chunked: bool,
    /// The quota. Further requests are answered with `AF429`.
    pub quota: Option<Quota>,
}

/// The maximum number of requests for a tenant in any period. Requests over the quota count too.
#[derive(Clone, Copy, Debug)]
pub struct Quota {
    /// The maximum number.
    pub requests: usize,
    /// The length of the period: a minute, as at Microsoft, or less.
    pub minute: Duration,
}

impl TenantSettings {
    /// The settings of a tenant with this GUID, without errors.
    pub fn new(id: &str) -> Self {
        Self {
            id: id.to_ascii_lowercase(),
            client_id: "c11e0000-0000-4000-8000-00000000c11e".into(),
            secret: "s3cr3t~with+signs/&=%".into(),
            certificate_thumbprint: None,
            certificate_key: None,
            federated_token: None,
            login_error: None,
            roles: Some(vec!["ActivityFeed.Read".into(), "ActivityFeed.ReadDlp".into()]),
            token_lifetime: Duration::from_secs(3599),
            expires_in_as_text: false,
            page_size: 200,
            next_page_header: "NextPageUri".into(),
            next_page_version: "v1.0".into(),
            fraction: Fraction::Three,
            content_ids: ContentIds::Mixed,
            gzip: true,
            chunked: false,
            quota: None,
        }
    }

    /// Returns the claims of a token.
    fn claims(&self, audience: &str, now: Timestamp) -> Option<String> {
        let Self { id, client_id, token_lifetime, .. } = self;
        let roles: Vec<String> = self.roles.as_ref()?.iter().map(|role| quoted(role)).collect();
        let (from, to) = (now.as_second(), now.as_second().saturating_add_unsigned(token_lifetime.as_secs()));
        Some(format!(
            r#"{{"aud":{},"iss":"https://sts.windows.net/{id}/","iat":{from},"nbf":{from},"exp":{to},"appid":"{client_id}","roles":[{}],"tid":"{id}","ver":"1.0"}}"#,
            quoted(audience),
            roles.join(",")
        ))
    }

    /// Sets the client secret.
    #[must_use]
    pub fn secret(mut self, secret: &str) -> Self {
        secret.clone_into(&mut self.secret);
        self
    }

    /// Sets the app's GUID.
    #[must_use]
    pub fn client_id(mut self, client_id: &str) -> Self {
        client_id.clone_into(&mut self.client_id);
        self
    }
}

/// The format of content ids.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ContentIds {
    /// `20171014180051748005825$20171014180051748005825$audit_sharepoint$Audit_SharePoint$emea0036`
    Dated,
    /// `492638008028$492638008028$f28ab78ad40140608012736e373933ebspo2015043022$4a81a7c3…$04`
    Numbered,
    /// One of the two, from blob to blob.
    Mixed,
}

/// A tenant's subscription to a content type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Subscription {
    /// Enabled.
    Enabled,
    /// Disabled by an administrator.
    Disabled,
    /// Enabled, but its entry in the list has no `status`.
    WithoutStatus,
}

/// A handle to a tenant. Clones are handles to the same tenant.
#[derive(Clone)]
pub struct Tenant {
    pub(crate) held: Arc<SharedTenant>,
}

impl fmt::Debug for Tenant {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_tuple("Tenant").field(&self.id()).finish()
    }
}

impl Tenant {
    /// Its GUID.
    pub fn id(&self) -> String {
        self.current_settings().id
    }

    /// Its current settings.
    pub fn current_settings(&self) -> TenantSettings {
        self.held.settings()
    }

    /// Changes its settings.
    pub fn settings(&self, change: impl FnOnce(&mut TenantSettings)) {
        change(&mut lock(&self.held.state).settings);
    }

    /// Enables a subscription. The list spells the content type as it is spelled here.
    pub fn subscribe(&self, content_type: &str) {
        self.set_subscription(content_type, Some(Subscription::Enabled));
    }

    /// Sets or removes a subscription.
    pub fn set_subscription(&self, content_type: &str, subscription: Option<Subscription>) {
        let mut state = lock(&self.held.state);
        let feed = state.feed(content_type);
        content_type.clone_into(&mut feed.name);
        feed.subscription = subscription;
    }

    /// The subscription to a content type.
    pub fn subscription(&self, content_type: &str) -> Option<Subscription> {
        lock(&self.held.state).feed(content_type).subscription
    }

    /// Adds a blob to a feed.
    pub fn add_blob(&self, content_type: &str, blob: NewBlob) -> Blob {
        self.held.add(content_type, blob)
    }

    /// Adds blobs with generated records to a feed, at regular intervals over a period.
    pub fn add_blobs(
        &self,
        content_type: &str,
        count: usize,
        records_each: usize,
        created: Range<Timestamp>,
    ) -> Vec<Blob> {
        let length = created.end.duration_since(created.start);
        let step = length / i32::try_from(count.max(1)).expect("fewer than 2^31 blobs");
        let time = |number| created.start + step * i32::try_from(number).expect("fewer than 2^31 blobs");
        (0..count)
            .map(|number| self.add_blob(content_type, NewBlob::records(records_each).created(time(number))))
            .collect()
    }

    /// The blobs of a feed, in the order of their creation.
    pub fn blobs(&self, content_type: &str) -> Vec<Blob> {
        let mut state = lock(&self.held.state);
        let mut seen = BTreeSet::new();
        let listed = state.feed(content_type).listed.values();
        let once = listed.filter(|blob| seen.insert(blob.content_id.clone()));
        let mut blobs: Vec<Blob> = once.map(|stored| Blob { stored: Arc::clone(stored) }).collect();
        blobs.sort_by_key(Blob::created);
        blobs
    }

    /// The `Id`s of all records in a feed. A collector must deliver each once.
    pub fn ids(&self, content_type: &str) -> BTreeSet<String> {
        self.blobs(content_type).iter().flat_map(Blob::ids).collect()
    }

    /// Revokes every token that was issued.
    pub fn revoke_tokens(&self) {
        lock(&self.held.state).tokens.clear();
    }
}

/// A tenant, shared by the threads of the server.
pub(crate) struct SharedTenant {
    url: String,
    clock: Arc<Clock>,
    pub(crate) state: Mutex<TenantState>,
}

pub(crate) struct TenantState {
    pub(crate) settings: TenantSettings,
    feeds: BTreeMap<String, Feed>,
    blobs: HashMap<String, Arc<StoredBlob>>,
    pages: HashMap<String, NextPage>,
    tokens: HashMap<String, Instant>,
    recent: VecDeque<Instant>,
    /// The number of blobs that were added, for their seeds.
    added: u64,
    /// A counter that makes content ids and page tokens unique, and orders equal times.
    sequence: u64,
}

/// One content type of a tenant.
pub(crate) struct Feed {
    /// The name in the list of subscriptions.
    pub(crate) name: String,
    pub(crate) subscription: Option<Subscription>,
    /// The time at which a client started it and received the answer.
    pub(crate) started: Option<Instant>,
    /// The blobs, by the time at which they are listed and a number for equal times.
    listed: BTreeMap<(Timestamp, u64), Arc<StoredBlob>>,
}

/// A page whose URL was sent.
#[derive(Clone)]
pub(crate) struct NextPage {
    /// Its URL, without the origin.
    pub(crate) target: String,
    pub(crate) listing: Listing,
}

/// The remaining entries of a listing.
#[derive(Clone)]
pub(crate) struct Listing {
    content_type: String,
    window: Window,
    blobs: Arc<[Arc<StoredBlob>]>,
    offset: usize,
}

impl TenantState {
    pub(crate) fn feed(&mut self, content_type: &str) -> &mut Feed {
        self.feeds.entry(content_type.to_ascii_lowercase()).or_insert_with(|| Feed {
            name: content_type.to_owned(),
            subscription: None,
            started: None,
            listed: BTreeMap::new(),
        })
    }

    pub(crate) fn feeds(&self) -> impl Iterator<Item = &Feed> {
        self.feeds.values()
    }

    pub(crate) fn blob(&self, content_id: &str) -> Option<Arc<StoredBlob>> {
        self.blobs.get(content_id).cloned()
    }

    pub(crate) fn next_page(&self, token: &str) -> Option<NextPage> {
        self.pages.get(token).cloned()
    }

    /// Counts a request, and returns whether it is over the quota.
    pub(crate) fn is_over_quota(&mut self) -> bool {
        let Some(quota) = self.settings.quota else { return false };
        let now = Instant::now();
        while self.recent.front().is_some_and(|at| now.duration_since(*at) >= quota.minute) {
            self.recent.pop_front();
        }
        self.recent.push_back(now);
        self.recent.len() > quota.requests
    }

    /// Returns the listing of a window.
    pub(crate) fn listing(&mut self, content_type: &str, window: Window) -> Listing {
        let listed = &self.feed(content_type).listed;
        let blobs = listed.range((window.start, 0)..(window.end, 0)).map(|(_, blob)| blob);
        Listing { content_type: content_type.to_owned(), window, blobs: blobs.cloned().collect(), offset: 0 }
    }

    /// Returns one page of a listing, in random order, and the target of the next one.
    pub(crate) fn page(&mut self, mut listing: Listing) -> (Vec<Arc<StoredBlob>>, Option<String>) {
        let rest = &listing.blobs[listing.offset..];
        let mut page = rest[..rest.len().min(self.settings.page_size.max(1))].to_vec();
        fastrand::Rng::with_seed(listing.offset as u64).shuffle(&mut page);
        listing.offset += page.len();
        let Some(next) = listing.blobs.get(listing.offset) else { return (page, None) };

        self.sequence += 1;
        let token = format!(
            "{}{:06}${}000000$na0022",
            time::digits(next.created),
            self.sequence % 1_000_000,
            time::digits(listing.window.start)
        );
        let target = format!(
            "/api/{}/{}/activity/feed/subscriptions/content?contenttype={}&endtime={}&starttime={}&nextpage={token}",
            self.settings.next_page_version,
            self.settings.id,
            listing.content_type,
            time::with_zone(listing.window.end, Fraction::Seven, 0),
            time::with_zone(listing.window.start, Fraction::Seven, 0),
        );
        self.pages.insert(token, NextPage { target: target.clone(), listing });
        (page, Some(target))
    }

    fn new_content_id(&mut self, content_type: &str, created: Timestamp, seed: u64) -> String {
        self.sequence += 1;
        let number = self.sequence;
        let dated = match self.settings.content_ids {
            ContentIds::Dated => true,
            ContentIds::Numbered => false,
            ContentIds::Mixed => number.is_multiple_of(2),
        };
        if dated {
            let key = format!("{}{:06}", time::digits(created), number);
            let name = content_type.replace('.', "_");
            format!("{key}${key}${}${name}$emea0036", name.to_ascii_lowercase())
        } else {
            let key = 492_638_000_000 + number;
            let origin = seed.rotate_left(17);
            format!("{key}${key}${seed:016x}{origin:016x}spo2015043022${origin:016x}{seed:016x}$04")
        }
    }
}

impl SharedTenant {
    pub(crate) fn new(settings: TenantSettings, url: String, clock: Arc<Clock>) -> Self {
        let state = TenantState {
            settings,
            feeds: BTreeMap::new(),
            blobs: HashMap::new(),
            pages: HashMap::new(),
            tokens: HashMap::new(),
            recent: VecDeque::new(),
            added: 0,
            sequence: 0,
        };
        Self { url, clock, state: Mutex::new(state) }
    }

    pub(crate) fn settings(&self) -> TenantSettings {
        lock(&self.state).settings.clone()
    }

    /// Issues a token for this audience, without a valid signature.
    pub(crate) fn issue_token(&self, audience: &str) -> String {
        let random: String = (0..256).map(|_| fastrand::alphanumeric()).collect();
        let mut state = lock(&self.state);
        let token = match state.settings.claims(audience, self.clock.now()) {
            None => random,
            Some(claims) => {
                let header = br#"{"typ":"JWT","alg":"RS256"}"#;
                [base64url::encode(header), base64url::encode(claims.as_bytes()), random].join(".")
            }
        };
        let until = Instant::now() + state.settings.token_lifetime;
        state.tokens.insert(token.clone(), until);
        token
    }

    /// Returns whether this tenant issued the token, and whether it is valid.
    pub(crate) fn knows_token(&self, token: &str) -> (bool, bool) {
        let until = lock(&self.state).tokens.get(token).copied();
        (until.is_some(), until.is_some_and(|until| Instant::now() < until))
    }

    /// Notes that a client has started this subscription and receives the answer.
    pub(crate) fn note_start(&self, content_type: &str) {
        lock(&self.state).feed(content_type).started = Some(Instant::now());
    }

    fn add(&self, content_type: &str, blob: NewBlob) -> Blob {
        let created = blob.created.unwrap_or_else(|| self.clock.now());
        // Rounded down, because a blob must not be created after the current time of the clock.
        let to_milliseconds = TimestampRound::new().smallest(Unit::Millisecond).mode(RoundMode::Floor);
        let created = created.round(to_milliseconds).unwrap_or(created);
        let mut state = lock(&self.state);
        state.added += 1;
        let tenant = state.settings.id.clone();
        let seed = hash(&format!("{tenant} {} {}", content_type.to_ascii_lowercase(), state.added));
        let content_id = match blob.content_id {
            Some(content_id) => content_id,
            None => state.new_content_id(content_type, created, seed),
        };
        let own_uri = || format!("{}/api/v1.0/{tenant}/activity/feed/audit/{content_id}", self.url);
        let stored = Arc::new(StoredBlob {
            content_type: content_type.to_owned(),
            uri: blob.uri.unwrap_or_else(own_uri),
            mime: blob.mime,
            created,
            content: match blob.content {
                NewContent::Given { body, ids } => Content::Given { body, ids },
                NewContent::Generated(count) => Content::Generated(Source {
                    content_type: content_type.to_owned(),
                    tenant,
                    created,
                    seed,
                    count,
                    plain: blob.plain,
                }),
            },
            state: Mutex::new(State {
                expiration: blob.expiration.unwrap_or(created + SignedDuration::from_hours(7 * 24)),
                vanished: false,
            }),
            served: AtomicUsize::new(0),
            content_id,
        });
        state.blobs.insert(stored.content_id.clone(), Arc::clone(&stored));
        for at in blob.listed_also.into_iter().chain([created]) {
            state.sequence += 1;
            let key = (at, state.sequence);
            state.feed(content_type).listed.insert(key, Arc::clone(&stored));
        }
        Blob { stored }
    }
}
