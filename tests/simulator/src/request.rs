//! Parsed requests.

use jiff::Timestamp;

/// The operations of the login endpoint and of the Activity API.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Operation {
    /// `POST /{tenant}/oauth2/v2.0/token`, or the older `/{tenant}/oauth2/token`
    Login,
    /// `GET subscriptions/list`
    ListSubscriptions,
    /// `POST subscriptions/start`
    StartSubscription,
    /// `POST subscriptions/stop`
    StopSubscription,
    /// `GET subscriptions/content`: the first page and every other
    ListContent,
    /// `GET audit/{contentId}`
    FetchBlob,
    /// `GET resources/dlpSensitiveTypes`
    ListSensitiveTypes,
    /// `GET /metadata/identity/oauth2/token` of a virtual machine or of Azure Arc, or `GET /msi/token` of App Service
    ManagedIdentity,
    /// `GET /`: a test of the connection
    Root,
    /// Any other path.
    Unknown,
}

/// One request.
#[derive(Clone, Debug)]
pub struct Request {
    /// The time at which it had arrived completely, by this machine's clock.
    pub at: Timestamp,
    /// The number of its connection, counted from 1.
    pub connection: usize,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query as sent.
    pub target: String,
    /// The query's parameters, decoded, in order.
    pub query: Vec<(String, String)>,
    /// The headers in order, as sent. [`Request::header`] finds one.
    pub headers: Vec<(String, String)>,
    /// The body; a login's form.
    pub body: Vec<u8>,
    /// The operation, from the path.
    pub operation: Operation,
    /// The tenant in the path, in lower case.
    pub tenant: Option<String>,
    /// The content type in the query, or that of the requested blob.
    pub content_type: Option<String>,
    /// The requested blob.
    pub content_id: Option<String>,
}

impl Request {
    /// Parses a request line, and adds the headers and the body.
    pub(crate) fn new(
        connection: usize,
        method: &str,
        target: &str,
        headers: Vec<(String, String)>,
        body: Vec<u8>,
    ) -> Self {
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let query = parameters(query);
        let (operation, tenant, content_id) = parse_path(path);
        let mut request = Self {
            at: Timestamp::now(),
            connection,
            method: method.to_owned(),
            target: target.to_owned(),
            query,
            headers,
            body,
            operation,
            tenant: tenant.map(|tenant| tenant.to_ascii_lowercase()),
            content_type: None,
            content_id,
        };
        request.content_type = request.parameter("contentType").map(str::to_owned);
        request
    }

    /// The first header of this name, in any letter case.
    pub fn header(&self, name: &str) -> Option<&str> {
        find(&self.headers, name)
    }

    /// The first parameter of this name in the query, in any letter case, decoded.
    pub fn parameter(&self, name: &str) -> Option<&str> {
        find(&self.query, name)
    }

    /// The fields of a form, decoded.
    pub fn form(&self) -> Vec<(String, String)> {
        parameters(&String::from_utf8_lossy(&self.body))
    }

    /// Whether this is for a page after the first.
    pub fn is_next_page(&self) -> bool {
        self.parameter("nextPage").is_some()
    }

    /// The bearer token, if there is one.
    pub(crate) fn token(&self) -> Option<&str> {
        self.header("Authorization")?.strip_prefix("Bearer ")
    }

    /// Whether the answer may be compressed.
    pub(crate) fn accepts_gzip(&self) -> bool {
        self.header("Accept-Encoding").is_some_and(|accepted| accepted.contains("gzip"))
    }

    /// The target without `PublisherIdentifier`, as in the URL of a next page.
    pub fn target_without_publisher(&self) -> String {
        let (path, query) = self.target.split_once('?').unwrap_or((&self.target, ""));
        let kept: Vec<&str> = query
            .split('&')
            .filter(|pair| !pair.to_ascii_lowercase().starts_with("publisheridentifier="))
            .collect();
        format!("{path}?{}", kept.join("&"))
    }
}

fn find<'a>(pairs: &'a [(String, String)], name: &str) -> Option<&'a str> {
    pairs.iter().find(|(key, _)| key.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Returns the operation of a path, its tenant and its blob.
fn parse_path(path: &str) -> (Operation, Option<String>, Option<String>) {
    let segments: Vec<String> =
        path.trim_start_matches('/').split('/').map(|segment| decode(segment, false)).collect();
    let segments: Vec<&str> = segments.iter().map(String::as_str).collect();
    let (tenant, operation, content_id) = match segments[..] {
        [tenant, "oauth2", "v2.0", "token"] | [tenant, "oauth2", "token"] => (tenant, Operation::Login, None),
        ["api", "v1.0" | "v1", tenant, "activity", "feed", ref rest @ ..] => match *rest {
            ["subscriptions", "list"] => (tenant, Operation::ListSubscriptions, None),
            ["subscriptions", "start"] => (tenant, Operation::StartSubscription, None),
            ["subscriptions", "stop"] => (tenant, Operation::StopSubscription, None),
            ["subscriptions", "content"] => (tenant, Operation::ListContent, None),
            ["audit", content_id] => (tenant, Operation::FetchBlob, Some(content_id.to_owned())),
            ["resources", "dlpSensitiveTypes"] => (tenant, Operation::ListSensitiveTypes, None),
            _ => (tenant, Operation::Unknown, None),
        },
        ["metadata", "identity", "oauth2", "token"] | ["msi", "token"] => {
            return (Operation::ManagedIdentity, None, None);
        }
        [""] => return (Operation::Root, None, None),
        _ => return (Operation::Unknown, None, None),
    };
    (operation, Some(tenant.to_owned()), content_id)
}

/// Returns the decoded pairs of a query or a form.
pub(crate) fn parameters(text: &str) -> Vec<(String, String)> {
    text.split('&')
        .filter(|pair| !pair.is_empty())
        .map(|pair| pair.split_once('=').unwrap_or((pair, "")))
        .map(|(key, value)| (decode(key, true), decode(value, true)))
        .collect()
}

/// Decodes percent-encoding. In a query, a plus is a blank.
pub(crate) fn decode(text: &str, plus_is_blank: bool) -> String {
    let mut decoded = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        rest = after;
        let escaped = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match (first, escaped.and_then(|digits| u8::from_str_radix(digits, 16).ok())) {
            (b'%', Some(byte)) => {
                decoded.push(byte);
                rest = &after[2..];
            }
            (b'+', _) if plus_is_blank => decoded.push(b' '),
            (byte, _) => decoded.push(*byte),
        }
    }
    String::from_utf8_lossy(&decoded).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parses_url_of_next_page() {
        let target = "/api/v1/Ab/activity/feed/subscriptions/content?contenttype=Audit.Exchange&nextpage=1$2$na&PublisherIdentifier=x";
        let request =
            Request::new(1, "GET", target, vec![("ACCEPT-encoding".into(), "gzip".into())], Vec::new());
        assert_eq!(request.operation, Operation::ListContent);
        assert_eq!(request.tenant.as_deref(), Some("ab"));
        assert_eq!(request.content_type.as_deref(), Some("Audit.Exchange"));
        assert!(request.is_next_page() && request.accepts_gzip());
        assert_eq!(format!("{}&PublisherIdentifier=x", request.target_without_publisher()), target);
    }

    #[test]
    fn plus_is_a_blank_only_in_a_query() {
        assert_eq!(decode("a+b%24%2B%zz", true), "a b$+%zz");
        assert_eq!(decode("a+b%24", false), "a+b$");
    }
}
