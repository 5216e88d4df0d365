//! The simulator as a client sees it, over plain sockets.

use std::{
    collections::{BTreeMap, BTreeSet},
    io::{self, BufRead, BufReader, ErrorKind, Read, Write},
    net::TcpStream,
    sync::mpsc,
    thread,
    time::Duration,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::Value;
use simulator::{
    Answer, ApiError, Delivery, Fault, Fraction, LoginError, NewBlob, Operation, Quota, Requests, Simulator,
    Subscription, Tenant, TenantSettings, id_of, record, reordered,
};

/// The maximum time that a test waits for anything.
const WAIT_MAX: Duration = Duration::from_mins(1);

const TENANT: &str = "11111111-2222-4333-8444-555555555555";
const FEED: &str = "Audit.Exchange";

#[test]
fn only_a_valid_token_gives_access() {
    let (simulator, tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);

    let reply = client.get("/subscriptions/list", "wrong");
    assert_eq!(reply.status, 401);
    assert_eq!(reply.text(), r#"{"Message":"Authorization has been denied for this request."}"#);

    let token = client.log_in("s3cret");
    let list = client.get("/subscriptions/list", &token);
    assert_eq!(list.text(), r#"[{"contentType":"Audit.Exchange","status":"enabled","webhook":null}]"#);
    assert!(list.headers["date"].ends_with(" GMT"));

    tenant.revoke_tokens();
    assert_eq!(client.get("/subscriptions/list", &token).status, 401);
    assert_eq!(simulator.connections(), 1);
    assert_eq!(simulator.violations(), [""; 0]);
    let statuses: Vec<_> = simulator.requests().iter().map(|seen| seen.status).collect();
    assert_eq!(statuses, [Some(401), Some(200), Some(200), Some(401)]);
}

#[test]
fn login_errors_have_a_code_and_a_description_of_several_lines() {
    let (simulator, tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);
    let code = |reply: &Reply| reply.json()["error_codes"][0].as_u64().unwrap();

    let reply = client.post_login(TENANT, "wrong");
    assert_eq!((reply.status, code(&reply)), (401, 7_000_215));
    let description = reply.json()["error_description"].as_str().unwrap().to_owned();
    assert!(description.starts_with("AADSTS7000215: Invalid client secret"), "{description}");
    assert!(description.contains("\r\nTrace ID: "), "{description}");

    assert_eq!(code(&client.post_login("99999999-2222-4333-8444-555555555555", "s3cret")), 90_002);
    tenant.settings(|settings| settings.login_error = Some(LoginError::ExpiredSecret));
    assert_eq!(code(&client.post_login(TENANT, "s3cret")), 7_000_222);
}

#[test]
fn windows_include_their_start_and_exclude_their_end() {
    let (simulator, tenant) = simulator_and_tenant();
    let middle = now_in_seconds() - SignedDuration::from_hours(2);
    let hour = SignedDuration::from_hours(1);
    let at = |time| tenant.add_blob(FEED, NewBlob::records(1).created(time)).content_id().to_owned();
    let (first, edge, last) = (at(middle - hour), at(middle), at(middle + hour));

    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let mut listed = |start, end| ids_of(&client.get(&window(start, end), &token));
    assert_eq!(listed(middle - hour, middle), [first.as_str()]);
    assert_eq!(listed(middle, middle + hour), [edge.as_str()]);
    assert_eq!(listed(middle + hour, middle + hour * 2), [last.as_str()]);
}

#[test]
fn pages_list_every_blob_once_in_random_order() {
    let (simulator, tenant) = simulator_and_tenant();
    tenant.settings(|settings| {
        settings.page_size = 7;
        settings.next_page_header = "NEXTPAGEURI".into();
        settings.next_page_version = "v1".into();
        settings.fraction = Fraction::Mixed;
    });
    let end = now_in_seconds();
    let blobs = tenant.add_blobs(FEED, 100, 1, end - SignedDuration::from_hours(3)..end);

    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let mut reply = client.get(&window(end - SignedDuration::from_hours(24), end), &token);
    let (mut found, mut pages) = (ids_of(&reply), 1);
    while let Some(uri) = reply.headers.get("nextpageuri") {
        let target = uri.strip_prefix(simulator.url()).unwrap().to_owned();
        assert!(
            target.starts_with("/api/v1/") && target.contains(".0000000Z&") && target.contains("$na0022")
        );
        assert!(!target.contains("PublisherIdentifier"));
        reply = client.send("GET", &format!("{target}&PublisherIdentifier={TENANT}"), &[bearer(&token)], "");
        found.extend(ids_of(&reply));
        pages += 1;
    }
    let expected: Vec<_> = blobs.iter().map(|blob| blob.content_id().to_owned()).collect();
    assert_eq!(pages, 15);
    assert_ne!(found, expected);
    assert_eq!(found.len(), 100);
    assert_eq!(BTreeSet::from_iter(found), BTreeSet::from_iter(expected));
    assert_eq!(simulator.violations(), [""; 0]);
}

#[test]
fn changed_url_of_next_page_is_a_violation() {
    let (simulator, tenant) = simulator_and_tenant();
    tenant.settings(|settings| settings.page_size = 1);
    let end = now_in_seconds();
    let start = end - SignedDuration::from_hours(1);
    tenant.add_blobs(FEED, 2, 1, start..end);
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let first = client.get(&window(start, end), &token);
    let target = first.headers["nextpageuri"].strip_prefix(simulator.url()).unwrap().to_owned();
    let mut next = |target: String| {
        let reply =
            client.send("GET", &format!("{target}&PublisherIdentifier={TENANT}"), &[bearer(&token)], "");
        (reply.status, simulator.violations().len())
    };
    assert_eq!(next(target.clone()), (200, 0));
    assert_eq!(next(target.replace('$', "%24")), (200, 0));
    assert_eq!(next(target.replace("contenttype", "contentType")), (200, 1));
    assert_eq!(next(target.replace("$na0022", "$na0023")), (400, 1));
}

#[test]
fn body_is_the_same_in_every_encoding() {
    let (simulator, tenant) = simulator_and_tenant();
    let blob = tenant.add_blob(FEED, NewBlob::records(40));
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let target = blob.uri().strip_prefix(simulator.url()).unwrap().to_owned();
    let target = format!("{target}?PublisherIdentifier={TENANT}");

    let plain = client.send("GET", &target, &[bearer(&token)], "");
    assert_eq!(plain.body, blob.body());
    tenant.settings(|settings| settings.chunked = true);
    for encoding in ["gzip", "identity"] {
        let headers = [bearer(&token), format!("Accept-Encoding: {encoding}")];
        let reply = client.send("GET", &target, &headers, "");
        assert_eq!(reply.headers["transfer-encoding"], "chunked");
        assert_eq!(reply.decompressed_body(), blob.body());
    }
    assert_eq!(blob.served(), 3);
    let records: Vec<&serde_json::value::RawValue> = serde_json::from_slice(&plain.body).unwrap();
    let ids: Vec<_> = records.iter().map(|record| id_of(record.get()).unwrap()).collect();
    assert_eq!(ids, blob.ids());
    assert_eq!(records.iter().map(|record| record.get().to_owned()).collect::<Vec<_>>(), blob.records());
}

#[test]
fn records_repeat_in_blobs_and_blobs_in_windows() {
    let (simulator, tenant) = simulator_and_tenant();
    let created = now_in_seconds() - SignedDuration::from_hours(1);
    let earlier = created - SignedDuration::from_mins(30);
    let text = record(FEED, TENANT, created, 1);
    let new = |text: &str| NewBlob::texts([text]).created(created);
    let twice = tenant.add_blob(FEED, new(&text).listed_also(created).listed_also(earlier));
    let copy = tenant.add_blob(FEED, new(&reordered(&text)));
    assert_eq!(twice.ids(), copy.ids());
    assert_eq!(tenant.ids(FEED).len(), 1);

    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    assert_eq!(ids_of(&client.get(&window(earlier, created), &token)), [twice.content_id()]);
    let mut listed = ids_of(&client.get(&window(created, created + SignedDuration::from_mins(1)), &token));
    listed.sort_unstable();
    let mut expected = [twice.content_id(), twice.content_id(), copy.content_id()];
    expected.sort_unstable();
    assert_eq!(listed, expected);
}

#[test]
fn expired_and_missing_blobs_have_their_error_codes() {
    let (simulator, tenant) = simulator_and_tenant();
    let blob = tenant.add_blob(FEED, NewBlob::records(1));
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let target = format!("/audit/{}", blob.content_id());
    assert_eq!(client.get(&target, &token).status, 200);
    blob.expire();
    assert_eq!(client.get(&target, &token).error(), "AF20051");
    blob.vanish();
    let gone = client.get(&target, &token);
    assert_eq!((gone.status, gone.error().as_str()), (404, "AF20050"));
}

#[test]
fn creation_time_of_a_blob_is_rounded_down() {
    let (_simulator, tenant) = simulator_and_tenant();
    let time = |text: &str| text.parse::<Timestamp>().unwrap();
    let blob = tenant.add_blob(FEED, NewBlob::records(1).created(time("2026-11-22T10:15:00.0019Z")));
    assert_eq!(
        blob.created(),
        time("2026-11-22T10:15:00.001Z"),
        "rounded up, it can be after the current time"
    );
}

#[test]
fn second_start_of_a_subscription_is_a_violation() {
    let (simulator, tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let now = now_in_seconds();
    let listing = window(now - SignedDuration::from_mins(5), now).replace(FEED, "dlp.ALL");
    assert_eq!(client.get(&listing, &token).error(), "AF20022");

    let start = format!(
        "/api/v1.0/{TENANT}/activity/feed/subscriptions/start?contentType=dlp.all&PublisherIdentifier={TENANT}"
    );
    assert_eq!(client.send("POST", &start, &[bearer(&token)], "").status, 411);
    let headers = [bearer(&token), "Content-Length: 0".to_owned()];
    assert_eq!(client.send("POST", &start, &headers, "").status, 200);
    assert_eq!(tenant.subscription("DLP.All"), Some(Subscription::Enabled));
    assert_eq!(client.get(&listing, &token).text(), "[]");
    assert_eq!(client.send("POST", &start, &headers, "").error(), "AF20024");

    let violations = simulator.violations();
    assert_eq!(violations.len(), 2, "{violations:?}");
    assert!(violations[0].ends_with("a POST without Content-Length"));
    assert!(violations[1].ends_with("a subscription started twice within 15 minutes"));
}

#[test]
fn start_without_an_answer_may_be_repeated() {
    let (simulator, _tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    simulator.fault(Requests::to(Operation::StartSubscription), Fault::close());
    let start = with_root("/subscriptions/start?contentType=DLP.All");
    let headers = [bearer(&token), "Content-Length: 0".to_owned()];
    assert!(client.try_send("POST", &start, &headers, "").is_err());
    assert_eq!(Client::connect(&simulator).send("POST", &start, &headers, "").error(), "AF20024");
    assert_eq!(simulator.violations(), [""; 0]);
}

#[test]
fn violations_are_answered_and_recorded() {
    let (simulator, tenant) = simulator_and_tenant();
    drop(tenant);
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let now = now_in_seconds();
    let hour = SignedDuration::from_hours(1);
    let content = format!("/api/v1.0/{TENANT}/activity/feed/subscriptions/content");
    let violations = [
        (format!("{content}?contentType={FEED}"), "AF20003"),
        (format!("{content}?contentType={FEED}&PublisherIdentifier=me"), "AF20003"),
        (with_root(&window(now - hour, now).replace(FEED, "Audit.Everything")), "AF20020"),
        (with_root(&window(now - hour * 25, now)), "AF20030"),
        (with_root(&window(now, now - hour)), "AF20055"),
        (with_root(&window(now - hour, now).replace("&endTime", "&end")), "AF20030"),
        (with_root(&window(now - hour, now).replace("&endTime=20", "&endTime=+20")), "AF20030"),
    ];
    for (target, code) in &violations {
        assert_eq!(client.send("GET", target, &[bearer(&token)], "").error(), *code, "{target}");
    }
    assert_eq!(simulator.violations().len(), violations.len());

    // A listing that is too old is not a violation, because the client's clock may be wrong.
    let old = client.get(&window(now - hour * 169, now - hour * 168), &token);
    assert_eq!(old.error(), "AF20055");
    simulator.set_clock_skew(-hour * 2);
    assert_eq!(client.get(&window(now - hour * 169, now - hour * 168), &token).status, 200);
    assert_eq!(simulator.violations().len(), violations.len());
}

#[test]
fn token_of_another_tenant_is_rejected() {
    let (simulator, _tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let other = "22222222-2222-4333-8444-555555555555";
    simulator.tenant(TenantSettings::new(other));
    let target = format!("/api/v1.0/{other}/activity/feed/subscriptions/list?PublisherIdentifier={other}");
    assert_eq!(client.send("GET", &target, &[bearer(&token)], "").status, 401);
    assert!(simulator.violations()[0].ends_with("the token is another tenant's"));
}

#[test]
fn faults_occur_in_order_and_are_counted() {
    let (simulator, _tenant) = simulator_and_tenant();
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let lists = Requests::to(Operation::ListSubscriptions);
    let first = simulator.fault(lists.clone().after(1).times(2), Fault::status(503));
    let second = simulator.fault(lists.clone(), Fault::api_error(ApiError::Throttled));
    let never = simulator.fault(lists.of_tenant("22222222-2222-4333-8444-555555555555"), Fault::reset());
    let statuses: Vec<_> = (0..5).map(|_| client.get("/subscriptions/list", &token).status).collect();
    assert_eq!(statuses, [403, 503, 503, 200, 200]);
    assert_eq!((first.fired(), second.fired(), never.fired()), (2, 1, 0));
}

#[test]
fn each_fault_has_its_effect_on_the_client() {
    let (simulator, tenant) = simulator_and_tenant();
    let blob = tenant.add_blob(FEED, NewBlob::records(20));
    let token = Client::connect(&simulator).log_in("s3cret");
    let target = format!("/audit/{}", blob.content_id());
    let half = blob.body().len() / 2;
    let fetch = |fault: Fault| {
        simulator.fault(Requests::to(Operation::FetchBlob), fault);
        Client::connect(&simulator).try_get(&target, &token)
    };

    assert_eq!(fetch(Fault::cut_body()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(fetch(Fault::unfinished_chunks()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(fetch(Fault::close()).unwrap_err().kind(), ErrorKind::UnexpectedEof);
    assert_eq!(fetch(Fault::reset()).unwrap_err().kind(), ErrorKind::ConnectionReset);
    assert_eq!(
        fetch(Fault::delivery(Delivery::ResetAfter(9))).unwrap_err().kind(),
        ErrorKind::ConnectionReset
    );
    assert_eq!(fetch(Fault::malformed_json()).unwrap().body, blob.body()[..half]);
    assert_eq!(fetch(Fault::empty_body()).unwrap().body, b"");
    assert!(fetch(Fault::cut_gzip()).unwrap().body.starts_with(&[0x1f, 0x8b]));
    assert_eq!(
        fetch(Fault::redirect(302, "http://127.0.0.2/")).unwrap().headers["location"],
        "http://127.0.0.2/"
    );
    assert_eq!(blob.served(), 0);

    let date: Timestamp = "2001-02-03T04:05:06Z".parse().unwrap();
    assert_eq!(fetch(Fault::date(date)).unwrap().headers["date"], "Sat, 03 Feb 2001 04:05:06 GMT");
    assert_eq!(fetch(Fault::drip(4096, Duration::from_millis(1))).unwrap().body, blob.body());
    let pause = Duration::from_millis(30);
    for slow in [Fault::delay(pause), Fault::stall(Some(pause)), Fault::stall_in_body(Some(pause))] {
        assert_eq!(fetch(slow).unwrap().body, blob.body());
    }
    assert_eq!(blob.served(), 5);

    let hour = Duration::from_hours(1);
    for slow in [Fault::delay(hour), Fault::stall(Some(hour)), Fault::stall_in_body(Some(hour))] {
        simulator.fault(Requests::to(Operation::FetchBlob), slow);
        let mut client = Client::connect(&simulator);
        client.stream.get_ref().set_read_timeout(Some(Duration::from_millis(50))).unwrap();
        assert_eq!(client.try_get(&target, &token).unwrap_err().kind(), ErrorKind::WouldBlock);
    }
    assert_eq!(blob.served(), 5, "a stalled answer counts as served");

    assert_eq!(fetch(Fault::instead("teapot", |_| Answer::status(418))).unwrap().status, 418);
}

#[test]
fn listings_can_have_foreign_uris_and_endless_pages() {
    let (simulator, tenant) = simulator_and_tenant();
    tenant.add_blob(FEED, NewBlob::records(1));
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let end = now_in_seconds() + SignedDuration::from_secs(2);
    let window = window(end - SignedDuration::from_hours(1), end);
    let requests = Requests::to(Operation::ListContent);

    simulator.fault(requests.clone(), Fault::foreign_content_uri("http://127.0.0.2:9"));
    let uri = client.get(&window, &token).json()[0]["contentUri"].as_str().unwrap().to_owned();
    assert!(uri.starts_with("http://127.0.0.2:9/api/v1.0/"), "{uri}");

    simulator.fault(requests.always(), Fault::endless_paging());
    let next = client.get(&window, &token).headers["nextpageuri"].clone();
    assert_eq!(
        format!("{next}&PublisherIdentifier={TENANT}"),
        simulator.url().to_owned() + &with_root(&window)
    );
}

#[test]
fn requests_over_the_quota_are_throttled() {
    let (simulator, tenant) = simulator_and_tenant();
    tenant.settings(|settings| settings.quota = Some(Quota { requests: 2, minute: Duration::from_mins(1) }));
    let mut client = Client::connect(&simulator);
    let token = client.log_in("s3cret");
    let statuses: Vec<_> = (0..3).map(|_| client.get("/subscriptions/list", &token).status).collect();
    assert_eq!(statuses, [200, 200, 403]);
}

#[test]
fn stalled_answers_end_when_the_simulator_stops() {
    let (simulator, _tenant) = simulator_and_tenant();
    let token = Client::connect(&simulator).log_in("s3cret");
    simulator.fault(Requests::any(), Fault::stall(None));
    let mut client = Client::connect(&simulator);
    let reply = thread::spawn(move || client.try_get("/subscriptions/list", &token));
    let is_received = simulator.wait_for(1, Operation::ListSubscriptions, WAIT_MAX);
    assert!(is_received, "the simulator has not received the request");

    let (sender, stopped) = mpsc::channel();
    thread::spawn(move || {
        drop(simulator);
        sender.send(())
    });
    stopped.recv_timeout(WAIT_MAX).expect("the simulator stops while an answer is stalled");
    let error = reply.join().unwrap().unwrap_err();
    assert_ne!(error.kind(), ErrorKind::WouldBlock, "the connection is still open");
}

fn simulator_and_tenant() -> (Simulator, Tenant) {
    let simulator = Simulator::start();
    let tenant = simulator.tenant(TenantSettings::new(TENANT).secret("s3cret").client_id("app"));
    tenant.subscribe(FEED);
    (simulator, tenant)
}

fn now_in_seconds() -> Timestamp {
    Timestamp::from_second(Timestamp::now().as_second()).unwrap()
}

/// The path of a listing of [`FEED`], without the root of the API.
fn window(start: Timestamp, end: Timestamp) -> String {
    let text = |time: Timestamp| time.to_string().trim_end_matches('Z').to_owned();
    format!("/subscriptions/content?contentType={FEED}&startTime={}&endTime={}", text(start), text(end))
}

/// Adds the root of the API and the `PublisherIdentifier` to a path.
fn with_root(path: &str) -> String {
    let mark = if path.contains('?') { '&' } else { '?' };
    format!("/api/v1.0/{TENANT}/activity/feed{path}{mark}PublisherIdentifier={TENANT}")
}

fn bearer(token: &str) -> String {
    format!("Authorization: Bearer {token}")
}

/// The content ids in a listing.
fn ids_of(reply: &Reply) -> Vec<String> {
    let listing = reply.json();
    let entries = listing.as_array().unwrap_or_else(|| panic!("{}", reply.text()));
    entries.iter().map(|entry| entry["contentId"].as_str().unwrap().to_owned()).collect()
}

/// A client that sends exactly what a test gives it.
struct Client {
    host: String,
    stream: BufReader<TcpStream>,
}

#[derive(Debug)]
struct Reply {
    status: u16,
    headers: BTreeMap<String, String>,
    body: Vec<u8>,
}

impl Client {
    fn connect(simulator: &Simulator) -> Self {
        let host = simulator.url().trim_start_matches("http://").to_owned();
        let stream = TcpStream::connect(&host).unwrap();
        stream.set_read_timeout(Some(WAIT_MAX)).unwrap();
        Self { host, stream: BufReader::new(stream) }
    }

    fn log_in(&mut self, secret: &str) -> String {
        self.post_login(TENANT, secret).json()["access_token"].as_str().unwrap().to_owned()
    }

    fn post_login(&mut self, tenant: &str, secret: &str) -> Reply {
        let form = format!(
            "grant_type=client_credentials&client_id=app&client_secret={secret}\
             &scope=https%3A%2F%2Fmanage.office.com%2F.default"
        );
        let headers = [
            "Content-Type: application/x-www-form-urlencoded".into(),
            format!("Content-Length: {}", form.len()),
        ];
        self.send("POST", &format!("/{tenant}/oauth2/v2.0/token"), &headers, &form)
    }

    fn get(&mut self, path: &str, token: &str) -> Reply {
        self.try_get(path, token).unwrap()
    }

    fn try_get(&mut self, path: &str, token: &str) -> io::Result<Reply> {
        self.try_send("GET", &with_root(path), &[bearer(token)], "")
    }

    fn send(&mut self, method: &str, target: &str, headers: &[String], body: &str) -> Reply {
        self.try_send(method, target, headers, body).unwrap()
    }

    fn try_send(&mut self, method: &str, target: &str, headers: &[String], body: &str) -> io::Result<Reply> {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: {}\r\n{}", self.host, headers.join("\r\n"));
        self.stream.get_mut().write_all(format!("{head}\r\n\r\n{body}").as_bytes())?;
        let status_line = self.read_line()?;
        let status = status_line.split(' ').nth(1).unwrap().parse().unwrap();
        let mut headers = BTreeMap::new();
        loop {
            let line = self.read_line()?;
            let Some((name, value)) = line.split_once(": ") else { break };
            headers.insert(name.to_ascii_lowercase(), value.to_owned());
        }
        let body = match headers.get("content-length") {
            Some(length) => self.read_exactly(length.parse().unwrap())?,
            None => self.read_chunks()?,
        };
        Ok(Reply { status, headers, body })
    }

    fn read_line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(ErrorKind::UnexpectedEof.into()),
            _ => Ok(line.trim_end().to_owned()),
        }
    }

    fn read_exactly(&mut self, length: usize) -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; length];
        self.stream.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn read_chunks(&mut self) -> io::Result<Vec<u8>> {
        let mut body = Vec::new();
        loop {
            let length = usize::from_str_radix(&self.read_line()?, 16).unwrap();
            body.extend(self.read_exactly(length)?);
            self.read_line()?;
            if length == 0 {
                return Ok(body);
            }
        }
    }
}

impl Reply {
    fn text(&self) -> &str {
        std::str::from_utf8(&self.body).unwrap()
    }

    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The code of an error of the Activity API.
    ///
    /// # Panics
    ///
    /// Panics if the status is one of success.
    fn error(&self) -> String {
        assert!(self.status >= 400, "{}: {}", self.status, self.text());
        self.json()["error"]["code"].as_str().unwrap().to_owned()
    }

    fn decompressed_body(&self) -> Vec<u8> {
        if !self.headers.contains_key("content-encoding") {
            return self.body.clone();
        }
        let mut body = Vec::new();
        flate2::read::GzDecoder::new(&self.body[..]).read_to_end(&mut body).unwrap();
        body
    }
}
