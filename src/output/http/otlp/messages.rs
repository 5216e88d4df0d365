//! The messages of OTLP, with the fields that are used here, in both encodings.
//!
//! The declarations are written by hand: they are few, and generating them would need `protoc` for each build. The encodings
//! of a message and of its bytes are the same, so log records are encoded one by one, and a request holds their bytes.
//!
//! In JSON, names are in camel case and 64-bit integers are texts.
//!
//! Source: `logs_service.proto`, `logs.proto`, `common.proto` and `resource.proto` in open-telemetry/opentelemetry-proto
//! 1.10, `status.proto` in googleapis/googleapis; "OTLP Specification", section "JSON Protobuf Encoding".

use std::borrow::Cow;

use prost::Message;
use serde::{Serialize, Serializer, ser::SerializeMap};
use serde_json::{Map, Value as JsonValue, json};

use crate::config::OtlpEncoding;

/// A log record.
#[derive(Clone, PartialEq, Message, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct LogRecord {
    /// When the event occurred, in nanoseconds since 1970; 0 if unknown.
    #[prost(fixed64, tag = "1")]
    #[serde(serialize_with = "as_text")]
    pub time_unix_nano: u64,
    /// When it was collected, in nanoseconds since 1970.
    #[prost(fixed64, tag = "11")]
    #[serde(serialize_with = "as_text")]
    pub observed_time_unix_nano: u64,
    /// From 1 to 24.
    #[prost(int32, tag = "2")]
    pub severity_number: i32,
    /// The kind of event.
    #[prost(string, tag = "12")]
    #[serde(skip_serializing_if = "String::is_empty")]
    pub event_name: String,
    /// What happened.
    #[prost(message, optional, tag = "5")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub body: Option<AnyValue>,
    /// Further fields. Each name occurs once.
    #[prost(message, repeated, tag = "6")]
    pub attributes: Vec<KeyValue>,
}

/// A field with its name.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct KeyValue {
    /// The name.
    #[prost(string, tag = "1")]
    pub key: String,
    /// The value; `None` is `null`.
    #[prost(message, optional, tag = "2")]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub value: Option<AnyValue>,
}

/// A value of any kind; `None` is a `null` in an array. Some decoders of JSON reject it elsewhere.
#[derive(Clone, PartialEq, Message)]
pub struct AnyValue {
    /// The value.
    #[prost(oneof = "Value", tags = "1, 2, 3, 4, 5, 6")]
    pub value: Option<Value>,
}

/// A value that is not `null`.
#[derive(Clone, PartialEq, prost::Oneof)]
pub enum Value {
    /// A text.
    #[prost(string, tag = "1")]
    Text(String),
    /// `true` or `false`.
    #[prost(bool, tag = "2")]
    Bool(bool),
    /// An integer.
    #[prost(int64, tag = "3")]
    Integer(i64),
    /// Another number.
    #[prost(double, tag = "4")]
    Double(f64),
    /// An array.
    #[prost(message, tag = "5")]
    Array(Array),
    /// An object.
    #[prost(message, tag = "6")]
    Map(KeyValueList),
}

/// An array.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Array {
    /// The elements.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<AnyValue>,
}

/// An object.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct KeyValueList {
    /// The fields. Each name occurs once.
    #[prost(message, repeated, tag = "1")]
    pub values: Vec<KeyValue>,
}

/// Where log records come from.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Resource {
    /// What is known about it.
    #[prost(message, repeated, tag = "1")]
    pub attributes: Vec<KeyValue>,
}

/// What log records have in common besides their resource.
#[derive(Clone, PartialEq, Message, Serialize)]
pub struct Scope {
    /// Its name.
    #[prost(string, tag = "1")]
    pub name: String,
}

/// The log records of one scope, each encoded.
#[derive(Clone, PartialEq, Message)]
pub struct ScopeLogs {
    /// The scope.
    #[prost(message, optional, tag = "1")]
    pub scope: Option<Scope>,
    /// The records.
    #[prost(bytes = "vec", repeated, tag = "2")]
    pub log_records: Vec<Vec<u8>>,
}

/// The log records of one resource and one scope.
#[derive(Clone, PartialEq, Message)]
pub struct ResourceLogs {
    /// The resource.
    #[prost(message, optional, tag = "1")]
    pub resource: Option<Resource>,
    /// The records. OTLP allows several scopes, which nothing here has.
    #[prost(message, optional, tag = "2")]
    pub scope_logs: Option<ScopeLogs>,
}

/// `ExportLogsServiceRequest`.
#[derive(Clone, PartialEq, Message)]
struct ExportRequest {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

/// `ExportLogsServiceResponse`.
#[derive(Clone, PartialEq, Message)]
struct ExportResponse {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

/// What the receiver did not accept of a request. All zero and empty if it accepted everything.
#[derive(Clone, PartialEq, Eq, Message)]
pub struct PartialSuccess {
    /// The number of log records that were rejected.
    #[prost(int64, tag = "1")]
    pub rejected_log_records: i64,
    /// The reason; a warning if none was rejected.
    #[prost(string, tag = "2")]
    pub error_message: String,
}

/// `google.rpc.Status`, the body of an error response.
#[derive(Clone, PartialEq, Eq, Message)]
struct Status {
    #[prost(string, tag = "2")]
    message: String,
}

impl From<Value> for AnyValue {
    fn from(value: Value) -> Self {
        Self { value: Some(value) }
    }
}

impl KeyValue {
    /// Returns a field with a text.
    pub fn text(key: &str, text: impl Into<String>) -> Self {
        Self { key: key.to_owned(), value: Some(Value::Text(text.into()).into()) }
    }
}

impl Serialize for AnyValue {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match &self.value {
            None => {}
            Some(Value::Text(text)) => map.serialize_entry("stringValue", text)?,
            Some(Value::Bool(value)) => map.serialize_entry("boolValue", value)?,
            Some(Value::Integer(number)) => map.serialize_entry("intValue", &number.to_string())?,
            Some(Value::Double(number)) => map.serialize_entry("doubleValue", number)?,
            Some(Value::Array(array)) => map.serialize_entry("arrayValue", array)?,
            Some(Value::Map(fields)) => map.serialize_entry("kvlistValue", fields)?,
        }
        map.end()
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "the signature that serde requires")]
fn as_text<S: Serializer>(number: &u64, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(number)
}

impl OtlpEncoding {
    /// Returns the `Content-Type` of requests and responses.
    pub fn content_type(self) -> &'static str {
        match self {
            Self::Protobuf => "application/x-protobuf",
            Self::Json => "application/json",
        }
    }

    /// Returns a log record in this encoding.
    pub fn log_record(self, record: &LogRecord) -> Vec<u8> {
        match self {
            Self::Protobuf => record.encode_to_vec(),
            Self::Json => {
                serde_json::to_vec(record).expect("texts and finite numbers can be written as JSON")
            }
        }
    }

    /// Returns a request with log records that have this encoding.
    pub fn request(self, resource_logs: Vec<ResourceLogs>) -> Vec<u8> {
        match self {
            Self::Protobuf => ExportRequest { resource_logs }.encode_to_vec(),
            Self::Json => {
                let groups: Vec<_> = resource_logs.iter().map(json_group).collect();
                [b"{\"resourceLogs\":[".as_slice(), &groups.join(&b','), b"]}"].concat()
            }
        }
    }

    /// Returns what the body of a successful response says; `None` if it is not that of a receiver of log records.
    pub fn partial_success(self, body: &[u8]) -> Option<PartialSuccess> {
        match self {
            Self::Protobuf => ExportResponse::decode(body).ok()?.partial_success.unwrap_or_default().into(),
            Self::Json => {
                let response: Map<String, JsonValue> = serde_json::from_slice(body).ok()?;
                let Some(partial) = response.get("partialSuccess") else {
                    return response.is_empty().then(PartialSuccess::default);
                };
                let rejected = match &partial["rejectedLogRecords"] {
                    JsonValue::Null => 0,
                    JsonValue::String(digits) => digits.parse().ok()?,
                    number => number.as_i64()?,
                };
                let message = partial["errorMessage"].as_str().unwrap_or_default();
                Some(PartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() })
            }
        }
    }

    /// Returns the body of an error response as JSON, if it is a `Status` in Protobuf. Otherwise, returns it unchanged.
    pub fn json_of_status(self, body: &[u8]) -> Cow<'_, [u8]> {
        let status = Some(self).filter(|encoding| *encoding == Self::Protobuf);
        match status.and_then(|_| Status::decode(body).ok()).filter(|status| !status.message.is_empty()) {
            Some(Status { message }) => json!({ "message": message }).to_string().into_bytes().into(),
            None => body.into(),
        }
    }
}

/// Returns the message in an error response, given as JSON; `None` if it is not a `Status` with a message.
pub fn message_of_status(json: &[u8]) -> Option<String> {
    let status: JsonValue = serde_json::from_slice(json).ok()?;
    let message = status.get("message")?.as_str()?;
    (!message.is_empty()).then(|| message.to_owned())
}

fn json_group(ResourceLogs { resource, scope_logs }: &ResourceLogs) -> Vec<u8> {
    let json = |part: Result<Vec<u8>, _>| part.expect("texts can be written as JSON");
    let scope_logs = scope_logs.as_ref().expect("a group has records");
    let (resource, scope) = (json(serde_json::to_vec(resource)), json(serde_json::to_vec(&scope_logs.scope)));
    let records = scope_logs.log_records.join(&b',');
    [
        b"{\"resource\":".as_slice(),
        &resource,
        b",\"scopeLogs\":[{\"scope\":",
        &scope,
        b",\"logRecords\":[",
        &records,
        b"]}]}",
    ]
    .concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_the_response_to_a_request() {
        let partial = |rejected_log_records, error_message: &str| {
            Some(PartialSuccess { rejected_log_records, error_message: error_message.to_owned() })
        };
        let protobuf = |partial_success| ExportResponse { partial_success }.encode_to_vec();
        for (encoding, body, expected) in [
            (OtlpEncoding::Protobuf, Vec::new(), partial(0, "")),
            (OtlpEncoding::Protobuf, protobuf(partial(300, &"é".repeat(99))), partial(300, &"é".repeat(99))),
            (OtlpEncoding::Protobuf, b"{}".to_vec(), None),
            (OtlpEncoding::Protobuf, b"not found".to_vec(), None),
            (OtlpEncoding::Json, b"{}".to_vec(), partial(0, "")),
            (
                OtlpEncoding::Json,
                br#"{"partialSuccess":{"rejectedLogRecords":"3"}}"#.to_vec(),
                partial(3, ""),
            ),
            (
                OtlpEncoding::Json,
                br#"{"partialSuccess":{"rejectedLogRecords":3,"errorMessage":"no"},"new":1}"#.to_vec(),
                partial(3, "no"),
            ),
            (OtlpEncoding::Json, br#"{"partialSuccess":{"rejectedLogRecords":"many"}}"#.to_vec(), None),
            (OtlpEncoding::Json, br#"{"message":"not found"}"#.to_vec(), None),
            (OtlpEncoding::Json, Vec::new(), None),
        ] {
            assert_eq!(encoding.partial_success(&body), expected, "{}", String::from_utf8_lossy(&body));
        }
    }

    #[test]
    fn reads_the_message_of_an_error() {
        let message = "é".repeat(99);
        let status = Status { message: message.clone() }.encode_to_vec();
        let json = json!({ "code": 3, "message": message }).to_string().into_bytes();
        for (encoding, body, expected) in [
            (OtlpEncoding::Protobuf, status, Some(message.clone())),
            (OtlpEncoding::Json, json, Some(message)),
            (OtlpEncoding::Protobuf, b"Bad Request".to_vec(), None),
            (OtlpEncoding::Protobuf, Vec::new(), None),
            (OtlpEncoding::Json, br#"{"message":""}"#.to_vec(), None),
            (OtlpEncoding::Json, b"[]".to_vec(), None),
        ] {
            assert_eq!(message_of_status(&encoding.json_of_status(&body)), expected);
        }
    }
}
