//! A receiver of OTLP over HTTP. It declares the messages itself, with all fields, so that a mistake in the program's
//! declarations is not repeated here.
//!
//! Source: `logs_service.proto`, `logs.proto`, `common.proto` and `resource.proto` in open-telemetry/opentelemetry-proto 1.10.

use std::collections::BTreeMap;

use jiff::Timestamp;
use prost::Message;
use serde_json::{Map, Value, json};

use super::http::{HttpReceiver, ReceivedRequest, Reply};

/// A log record, whatever its encoding was.
#[derive(Clone, Debug)]
pub struct LogRecord {
    /// The attributes of its resource.
    pub resource: BTreeMap<String, Value>,
    pub scope: String,
    pub time: Option<Timestamp>,
    pub observed: Timestamp,
    pub severity: i64,
    pub event_name: String,
    pub body: Value,
    pub attributes: Map<String, Value>,
}

impl LogRecord {
    /// The `Id` of the audit record.
    pub fn id(&self) -> &str {
        self.attributes["log.record.uid"].as_str().expect("an Id")
    }
}

/// The encodings, by the word in the configuration.
pub const ENCODINGS: [(&str, &str); 2] =
    [("protobuf", "application/x-protobuf"), ("json", "application/json")];

/// Returns the log records of a request in the encoding of its `Content-Type`.
pub fn log_records(request: &ReceivedRequest) -> Vec<LogRecord> {
    let request = match request.headers["content-type"].as_str() {
        "application/json" => serde_json::from_slice(&request.bytes).expect("JSON"),
        _ => json_of_request(&Request::decode(request.bytes.as_slice()).expect("Protobuf")),
    };
    log_records_of(&request)
}

/// Returns the log records of a request in JSON.
pub fn log_records_of(request: &Value) -> Vec<LogRecord> {
    let mut records = Vec::new();
    for group in each(request, "resourceLogs") {
        let resource = fields(&group["resource"]["attributes"]).into_iter().collect::<BTreeMap<_, _>>();
        for scope_logs in each(group, "scopeLogs") {
            let scope = scope_logs["scope"]["name"].as_str().expect("a name");
            for record in each(scope_logs, "logRecords") {
                records.push(log_record(record, &resource, scope));
            }
        }
    }
    records
}

/// Returns the response that accepts everything.
pub fn accepted(request: &ReceivedRequest) -> Reply {
    response(request, 200, if is_json(request) { "{}".to_owned() } else { String::new() })
}

/// Returns the response that this number of records is rejected.
pub fn partial(request: &ReceivedRequest, rejected: i64, message: &str) -> Reply {
    let body = if is_json(request) {
        let partial = json!({ "rejectedLogRecords": rejected.to_string(), "errorMessage": message });
        json!({ "partialSuccess": partial }).to_string()
    } else {
        let partial = PartialSuccess { rejected_log_records: rejected, error_message: message.to_owned() };
        text_of(&Response { partial_success: Some(partial) })
    };
    response(request, 200, body)
}

/// Returns an error response with a `Status`.
pub fn error(request: &ReceivedRequest, status: u16, message: &str) -> Reply {
    let body = if is_json(request) {
        json!({ "code": 3, "message": message }).to_string()
    } else {
        text_of(&Status { code: 3, message: message.to_owned() })
    };
    response(request, status, body)
}

/// Starts a receiver that accepts everything.
pub fn receiver() -> HttpReceiver {
    HttpReceiver::start(|request, _| accepted(request))
}

/// Returns whether a request is in JSON.
pub fn is_json(request: &ReceivedRequest) -> bool {
    request.headers["content-type"] == "application/json"
}

/// Returns a response with the content type of the request.
fn response(request: &ReceivedRequest, status: u16, body: String) -> Reply {
    Reply::Response(status, vec![("Content-Type", request.headers["content-type"].clone())], body)
}

/// A response is a text in these tests, which short messages are in Protobuf too.
fn text_of(message: &impl Message) -> String {
    String::from_utf8(message.encode_to_vec()).expect("lengths below 128")
}

fn each<'a>(value: &'a Value, name: &str) -> &'a [Value] {
    value[name].as_array().map_or(&[], Vec::as_slice)
}

fn log_record(record: &Value, resource: &BTreeMap<String, Value>, scope: &str) -> LogRecord {
    let time = |name: &str| {
        let nanoseconds = record[name].as_str().unwrap_or("0").parse().expect("a number");
        Some(nanoseconds)
            .filter(|time| *time != 0)
            .map(|time| Timestamp::from_nanosecond(time).expect("a time"))
    };
    LogRecord {
        resource: resource.clone(),
        scope: scope.to_owned(),
        time: time("timeUnixNano"),
        observed: time("observedTimeUnixNano").expect("a time"),
        severity: record["severityNumber"].as_i64().expect("a number"),
        event_name: record["eventName"].as_str().unwrap_or_default().to_owned(),
        body: record.get("body").map_or(Value::Null, plain),
        attributes: fields(&record["attributes"]),
    }
}

/// Returns named values as an object. Each name must occur once.
fn fields(values: &Value) -> Map<String, Value> {
    let mut fields = Map::new();
    for field in values.as_array().into_iter().flatten() {
        let name = field["key"].as_str().expect("a name");
        let repeated = fields.insert(name.to_owned(), field.get("value").map_or(Value::Null, plain));
        assert!(!name.is_empty() && repeated.is_none(), "the name {name:?} is empty or occurs twice");
    }
    fields
}

/// Returns an `AnyValue` as plain JSON.
fn plain(value: &Value) -> Value {
    let fields_of_value = value.as_object().expect("an AnyValue");
    assert!(fields_of_value.len() <= 1, "{value}");
    let Some((kind, content)) = fields_of_value.iter().next() else { return Value::Null };
    match kind.as_str() {
        "stringValue" => content.as_str().expect("a text").into(),
        "boolValue" => content.as_bool().expect("a truth value").into(),
        "doubleValue" => content.as_f64().expect("a number").into(),
        "intValue" => content.as_str().expect("a text").parse::<i64>().expect("an integer").into(),
        "arrayValue" => each(content, "values").iter().map(plain).collect(),
        "kvlistValue" => fields(&content["values"]).into(),
        _ => panic!("an unknown kind of value: {kind}"),
    }
}

fn json_of_request(request: &Request) -> Value {
    let resource_logs = request.resource_logs.iter().map(|group| {
        let resource = group.resource.as_ref().expect("a resource");
        let scope_logs = group.scope_logs.iter().map(|scope_logs| {
            let records: Vec<_> = scope_logs.log_records.iter().map(json_of_record).collect();
            let scope = scope_logs.scope.as_ref().expect("a scope");
            json!({ "scope": { "name": scope.name }, "logRecords": records })
        });
        let scope_logs: Vec<_> = scope_logs.collect();
        json!({ "resource": { "attributes": json_of_fields(&resource.attributes) }, "scopeLogs": scope_logs })
    });
    json!({ "resourceLogs": resource_logs.collect::<Vec<_>>() })
}

fn json_of_record(record: &Record) -> Value {
    let mut json = json!({
        "timeUnixNano": record.time_unix_nano.to_string(),
        "observedTimeUnixNano": record.observed_time_unix_nano.to_string(),
        "severityNumber": record.severity_number,
        "eventName": record.event_name,
        "attributes": json_of_fields(&record.attributes),
    });
    if let Some(body) = &record.body {
        json["body"] = json_of_value(body);
    }
    json
}

fn json_of_fields(fields: &[KeyValue]) -> Value {
    let value = |field: &KeyValue| field.value.as_ref().map_or_else(|| json!({}), json_of_value);
    fields.iter().map(|field| json!({ "key": field.key, "value": value(field) })).collect()
}

fn json_of_value(value: &AnyValue) -> Value {
    match &value.value {
        None => json!({}),
        Some(AnyKind::StringValue(text)) => json!({ "stringValue": text }),
        Some(AnyKind::BoolValue(truth)) => json!({ "boolValue": truth }),
        Some(AnyKind::IntValue(number)) => json!({ "intValue": number.to_string() }),
        Some(AnyKind::DoubleValue(number)) => json!({ "doubleValue": number }),
        Some(AnyKind::ArrayValue(array)) => {
            let values: Vec<_> = array.values.iter().map(json_of_value).collect();
            json!({ "arrayValue": { "values": values } })
        }
        Some(AnyKind::KvlistValue(list)) => {
            json!({ "kvlistValue": { "values": json_of_fields(&list.values) } })
        }
        Some(AnyKind::BytesValue(_)) => panic!("bytes, which JSON does not have"),
    }
}

#[derive(Clone, PartialEq, Message)]
struct Request {
    #[prost(message, repeated, tag = "1")]
    resource_logs: Vec<ResourceLogs>,
}

#[derive(Clone, PartialEq, Message)]
struct ResourceLogs {
    #[prost(message, optional, tag = "1")]
    resource: Option<Resource>,
    #[prost(message, repeated, tag = "2")]
    scope_logs: Vec<ScopeLogs>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Resource {
    #[prost(message, repeated, tag = "1")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "2")]
    dropped_attributes_count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct ScopeLogs {
    #[prost(message, optional, tag = "1")]
    scope: Option<Scope>,
    #[prost(message, repeated, tag = "2")]
    log_records: Vec<Record>,
    #[prost(string, tag = "3")]
    schema_url: String,
}

#[derive(Clone, PartialEq, Message)]
struct Scope {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    version: String,
    #[prost(message, repeated, tag = "3")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "4")]
    dropped_attributes_count: u32,
}

#[derive(Clone, PartialEq, Message)]
struct Record {
    #[prost(fixed64, tag = "1")]
    time_unix_nano: u64,
    #[prost(int32, tag = "2")]
    severity_number: i32,
    #[prost(string, tag = "3")]
    severity_text: String,
    #[prost(message, optional, tag = "5")]
    body: Option<AnyValue>,
    #[prost(message, repeated, tag = "6")]
    attributes: Vec<KeyValue>,
    #[prost(uint32, tag = "7")]
    dropped_attributes_count: u32,
    #[prost(fixed32, tag = "8")]
    flags: u32,
    #[prost(bytes = "vec", tag = "9")]
    trace_id: Vec<u8>,
    #[prost(bytes = "vec", tag = "10")]
    span_id: Vec<u8>,
    #[prost(fixed64, tag = "11")]
    observed_time_unix_nano: u64,
    #[prost(string, tag = "12")]
    event_name: String,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValue {
    #[prost(string, tag = "1")]
    key: String,
    #[prost(message, optional, tag = "2")]
    value: Option<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct AnyValue {
    #[prost(oneof = "AnyKind", tags = "1, 2, 3, 4, 5, 6, 7")]
    value: Option<AnyKind>,
}

#[derive(Clone, PartialEq, prost::Oneof)]
#[expect(clippy::enum_variant_names, reason = "the names of common.proto")]
enum AnyKind {
    #[prost(string, tag = "1")]
    StringValue(String),
    #[prost(bool, tag = "2")]
    BoolValue(bool),
    #[prost(int64, tag = "3")]
    IntValue(i64),
    #[prost(double, tag = "4")]
    DoubleValue(f64),
    #[prost(message, tag = "5")]
    ArrayValue(ArrayValue),
    #[prost(message, tag = "6")]
    KvlistValue(KeyValueList),
    #[prost(bytes = "vec", tag = "7")]
    BytesValue(Vec<u8>),
}

#[derive(Clone, PartialEq, Message)]
struct ArrayValue {
    #[prost(message, repeated, tag = "1")]
    values: Vec<AnyValue>,
}

#[derive(Clone, PartialEq, Message)]
struct KeyValueList {
    #[prost(message, repeated, tag = "1")]
    values: Vec<KeyValue>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Response {
    #[prost(message, optional, tag = "1")]
    partial_success: Option<PartialSuccess>,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct PartialSuccess {
    #[prost(int64, tag = "1")]
    rejected_log_records: i64,
    #[prost(string, tag = "2")]
    error_message: String,
}

#[derive(Clone, PartialEq, Eq, Message)]
struct Status {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}
