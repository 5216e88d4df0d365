//! The operations of the Activity API, for requests that `protocol` accepts.

use std::{sync::Arc, time::Duration};

use jiff::{SignedDuration, Timestamp};

use crate::{
    answer::Answer,
    api_error::{ApiError, quoted},
    blob::{StoredBlob, Window},
    protocol::{DAY, window},
    request::{Operation, Request, decode},
    sync::lock,
    tenant::{Feed, SharedTenant, Subscription},
    time::{self, Fraction},
    world::World,
};

/// The time that a client must wait before it starts the same subscription again.
const START_AGAIN_AFTER: Duration = Duration::from_mins(15);
/// The maximum age of the start of a listing.
const LISTING_AGE_MAX: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Answers a request with a valid token of the tenant.
pub(crate) fn answer(world: &World, tenant: &SharedTenant, request: &Request) -> Answer {
    if lock(&tenant.state).is_over_quota() {
        return ApiError::Throttled.answer(request);
    }
    let permits = |roles: Vec<String>| roles.iter().any(|role| role == "ActivityFeed.Read");
    if !tenant.settings().roles.is_none_or(permits) {
        return ApiError::PermissionMissing.answer(request);
    }
    let outcome = match request.operation {
        Operation::ListSubscriptions => Ok(list_subscriptions(tenant)),
        Operation::StartSubscription => start_subscription(world, tenant, request),
        Operation::StopSubscription => stop_subscription(tenant, request),
        Operation::ListContent => list_content(world, tenant, request),
        Operation::FetchBlob => fetch_blob(world, tenant, request),
        Operation::ListSensitiveTypes => Ok(Answer::json(200, SENSITIVE_TYPES)),
        Operation::Login | Operation::ManagedIdentity | Operation::Root | Operation::Unknown => {
            Ok(Answer::status(404))
        }
    };
    let answer = outcome.unwrap_or_else(|error| error.answer(request));
    if request.accepts_gzip() && tenant.settings().gzip { answer.compressed() } else { answer }
}

fn list_subscriptions(tenant: &SharedTenant) -> Answer {
    let state = lock(&tenant.state);
    let entries: Vec<String> =
        state.feeds().filter_map(|feed| Some(subscription_entry(feed, feed.subscription?))).collect();
    Answer::json(200, format!("[{}]", entries.join(",")))
}

fn subscription_entry(feed: &Feed, subscription: Subscription) -> String {
    let name = quoted(&feed.name);
    match subscription {
        Subscription::Enabled => format!(r#"{{"contentType":{name},"status":"enabled","webhook":null}}"#),
        Subscription::Disabled => format!(r#"{{"contentType":{name},"status":"disabled","webhook":null}}"#),
        Subscription::WithoutStatus => format!(r#"{{"contentType":{name},"webhook":null}}"#),
    }
}

fn start_subscription(world: &World, tenant: &SharedTenant, request: &Request) -> Result<Answer, ApiError> {
    let mut state = lock(&tenant.state);
    let feed = state.feed(content_type(request)?);
    match feed.subscription {
        Some(Subscription::Enabled | Subscription::WithoutStatus) => {
            if feed.started.is_some_and(|started| started.elapsed() < START_AGAIN_AFTER) {
                world.note_violation(request, "a subscription started twice within 15 minutes");
            }
            Err(ApiError::AlreadyEnabled)
        }
        Some(Subscription::Disabled) | None => {
            feed.subscription = Some(Subscription::Enabled);
            Ok(Answer::json(200, subscription_entry(feed, Subscription::Enabled)))
        }
    }
}

fn stop_subscription(tenant: &SharedTenant, request: &Request) -> Result<Answer, ApiError> {
    let mut state = lock(&tenant.state);
    let feed = state.feed(content_type(request)?);
    feed.subscription.take().map(|_| Answer::status(200)).ok_or(ApiError::NoSubscription)
}

fn list_content(world: &World, tenant: &SharedTenant, request: &Request) -> Result<Answer, ApiError> {
    let mut state = lock(&tenant.state);
    let content_type = content_type(request)?;
    match state.feed(content_type).subscription {
        None => return Err(ApiError::NoSubscription),
        Some(Subscription::Disabled) => return Err(ApiError::SubscriptionDisabled),
        Some(Subscription::Enabled | Subscription::WithoutStatus) => {}
    }
    let listing = if let Some(token) = request.parameter("nextPage") {
        let page = state.next_page(token).ok_or(ApiError::PageTokenInvalid)?;
        if decode(&page.target, false) != decode(&request.target_without_publisher(), false) {
            world.note_violation(request, "the next page's URL was rebuilt instead of used as it came");
        }
        page.listing
    } else {
        let now = world.clock.now();
        let window = window(request).unwrap_or(Window { start: now - DAY, end: now });
        if now.duration_since(window.start) > LISTING_AGE_MAX {
            return Err(ApiError::TimesOutOfRange);
        }
        state.listing(content_type, window)
    };
    let (page, next) = state.page(listing);
    let entries: Vec<String> = page
        .iter()
        .enumerate()
        .map(|(turn, blob)| listing_entry(blob, state.settings.fraction, turn))
        .collect();
    let answer = Answer::json(200, format!("[{}]", entries.join(",")));
    Ok(match next {
        Some(target) => {
            answer.with_header(&state.settings.next_page_header, format!("{}{target}", world.url))
        }
        None => answer,
    })
}

fn listing_entry(blob: &StoredBlob, fraction: Fraction, turn: usize) -> String {
    let expiration: Timestamp = lock(&blob.state).expiration;
    format!(
        r#"{{"contentUri":{},"contentId":{},"contentType":{},"contentCreated":"{}","contentExpiration":"{}"}}"#,
        quoted(&blob.uri),
        quoted(&blob.content_id),
        quoted(&blob.content_type),
        time::with_zone(blob.created, fraction, turn),
        time::with_zone(expiration, fraction, turn),
    )
}

fn fetch_blob(world: &World, tenant: &SharedTenant, request: &Request) -> Result<Answer, ApiError> {
    let content_id = request.content_id.as_deref().unwrap_or_default();
    if content_id.is_empty() || !content_id.is_ascii() {
        return Err(ApiError::ContentIdInvalid);
    }
    let blob: Arc<StoredBlob> = lock(&tenant.state).blob(content_id).ok_or(ApiError::ContentMissing)?;
    {
        let state = lock(&blob.state);
        if state.vanished {
            return Err(ApiError::ContentMissing);
        }
        if state.expiration <= world.clock.now() {
            return Err(ApiError::ContentExpired);
        }
    }
    let settings = tenant.settings();
    let answer = if settings.gzip && request.accepts_gzip() {
        Answer::json(200, "").with_compressed_body(blob.compressed_body())
    } else {
        Answer::json(200, blob.body())
    };
    let mut answer = match &blob.mime {
        Some(mime) => answer.with_header("Content-Type", mime),
        None => answer,
    };
    answer.chunked = settings.chunked;
    answer.serves = Some(blob);
    Ok(answer)
}

fn content_type(request: &Request) -> Result<&str, ApiError> {
    request.content_type.as_deref().ok_or(ApiError::ParameterMissing)
}

const SENSITIVE_TYPES: &str = r#"[{"id":"50842eb7-edc8-4019-85dd-5a5c1f2bb085","name":"Credit Card Number"},{"id":"e7dc4711-11b7-4cb0-b88b-2c394a771f0e","name":"International Banking Account Number (IBAN)"}]"#;
