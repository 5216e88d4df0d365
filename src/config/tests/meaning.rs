//! What a configuration without mistakes means.

use super::*;

#[test]
fn missing_keys_have_their_defaults() {
    let config = config("");
    assert!(config.enabled);
    assert_eq!(config.interval, Duration::from_secs(300));
    assert!(!config.only_future_events);
    let [tenant] = config.tenants.as_slice() else { panic!() };
    assert_eq!(&*tenant.tenant_id, TENANT);
    assert_eq!(&*tenant.client_id, CLIENT);
    assert_eq!(&*tenant.publisher_id, TENANT);
    assert_eq!(tenant.name, None);
    assert_eq!(tenant.label(), TENANT);
    assert_eq!(tenant.cloud, Cloud::Commercial);
    assert_eq!(&*tenant.login_url, "https://login.microsoftonline.com");
    assert_eq!(&*tenant.api_url, "https://manage.office.com");
    assert_eq!(*tenant.subscriptions, ContentType::ALL);
    assert_eq!(secret(tenant), "hunter2~");
    let collect = config.collect;
    assert_eq!(collect.working_dir, Path::new("."));
    assert_eq!(collect.cache_size, 500_000);
    assert_eq!(collect.max_memory, 64 << 20);
    assert_eq!(collect.curl_max_size, 10 << 20);
    assert_eq!(collect.max_threads, 50);
    assert_eq!(collect.max_requests_per_minute, RequestsPerMinute::Auto);
    assert_eq!(collect.retries, 3);
    assert_eq!(collect.retry_delay, Duration::from_secs(1));
    assert_eq!(collect.request_timeout, Duration::from_secs(60));
    assert!(collect.skip_known_logs);
    assert_eq!(collect.dedup_hours, Duration::from_secs(24 * 3600));
    assert_eq!(collect.hours_to_collect, Duration::from_secs(24 * 3600));
    assert_eq!(collect.global_timeout, None);
    assert_eq!(collect.filter, []);
    assert!(config.output.stdout);
    assert!(config.output.file.is_none() && config.output.fluentd.is_none());
    assert!(config.output.graylog.is_none() && config.output.http.is_none());
    assert_eq!(config.log.path, None);
    assert!(!config.log.debug);
    assert_eq!(config.metrics_path, None);
    assert!(config.network.proxy.is_none() && config.network.ca_file.is_none());
}

#[test]
fn outputs_have_defaults() {
    let output = Trial::new(&format!(
            "{BEGIN}output:\n  file: {{ path: a.json }}\n  fluentd: {{ address: '[::1]' }}\n  graylog: {{ address: g }}\n  \
             http: {{ url: 'https://h/x?y=z' }}\n  stdout: {{}}\n"
        ))
        .config()
        .output;
    let file = output.file.unwrap();
    assert_eq!(
        (file.path.to_str(), file.separate_by_content_type, file.separator),
        (Some("a.json"), false, ';')
    );
    let fluentd = output.fluentd.unwrap();
    assert_eq!((&*fluentd.address, fluentd.port), ("::1", 24224));
    assert_eq!(fluentd.tag, "office365.{tenant}.{contentType}");
    assert_eq!(
        (fluentd.ack_timeout, fluentd.retry_timeout),
        (Duration::from_secs(190), Duration::from_secs(60))
    );
    assert!(!fluentd.compress && fluentd.tls.is_none() && fluentd.shared_key.is_none());
    assert!(fluentd.username.is_none() && fluentd.password.is_none() && fluentd.tenant_name.is_none());
    let graylog = output.graylog.unwrap();
    assert_eq!((&*graylog.address, graylog.port), ("g", 12201));
    assert!(graylog.tls.is_none() && graylog.confirm);
    assert_eq!(graylog.retry_timeout, Duration::from_secs(60));
    let http = output.http.unwrap();
    assert_eq!((&*http.url, http.compress), ("https://h/x?y=z", false));
    assert!(matches!(http.format, HttpFormat::Ndjson));
    assert_eq!((http.batch_size, http.batch_records, http.connections), (1 << 20, 5_000, 4));
    assert_eq!((http.timeout, http.retry_timeout), (Duration::from_secs(60), Duration::from_secs(60)));
    assert!(http.headers.is_empty() && http.tls.is_none());
    assert!(output.stdout);
}

/// Everything but defaults. Files named are in a folder that is gone when this returns.
fn written() -> Config {
    let trial = Trial::new("");
    let pem = trial.file("app.pem", "pem", 0o600);
    let pem = pem.display();
    trial.file(
        "config.yaml",
        format!(
            "\
enabled: false
interval: 1h
only_future_events: true
curl_max_size: 1M
proxy: http://proxy:3128
ca_file: {pem}
subscriptions: [audit.general, DLP.ALL, Audit.General]
tenants:
  - tenant_id: {TENANT}
    client_id: {CLIENT}
    certificate: {{ file: {pem} }}
    name: contoso
    api_type: GCC-High
    publisher_id: {OTHER}
  - tenant_id: {OTHER}
    client_id: {CLIENT}
    federated_token_file: /var/run/token
    api_type: dod
    login_url: https://login.example/
    api_url: http://127.0.0.1:8080
    subscriptions: [Audit.Exchange]
collect:
  workingDir: state
  cacheSize: 10
  maxMemory: 1048576
  maxThreads: '8'
  maxRequestsPerMinute: 100
  retries: 0
  retryDelay: 0s
  requestTimeout: 5s
  skipKnownLogs: false
  dedupHours: 48
  hoursToCollect: 168
  globalTimeout: 4
  filter:
    Audit.General: {{ Item.Id: [a, 1, true], Operation: Send }}
    audit.exchange: {{ UserId: x }}
    DLP.All:
output:
  fluentd:
    address: logs.example
    port: 1234
    tag: 'a.{{workload}}'
    tenantName: My Company
    sharedKey: key
    username: me
    password: pass
    compress: gzip
    ackTimeout: 10s
    retryTimeout: 5m
    tls: {{ ca_file: {pem}, cert_file: {pem}, key_file: {pem}, server_name: logs }}
  http:
    url: https://h
    format: splunk-hec
    headers: {{ Authorization: Splunk 123 }}
    header_files: {{ X-Key: {pem} }}
    compress: none
    batchSize: 512K
    batchRecords: 100
    connections: 1
    timeout: 5s
    retryTimeout: 0s
    deadLetters: false
    splunk: {{ index: o365, source: s, sourcetype: t, host: here, channel: {OTHER}, ackTimeout: 3s }}
  graylog: {{ enabled: false, address: g }}
log: {{ path: a.log, debug: true }}
metrics: {{ path: a.prom }}
"
        ),
        0o600,
    );
    trial.config()
}

#[test]
fn reads_top_level_keys() {
    let config = written();
    assert!(!config.enabled && config.only_future_events);
    assert_eq!(config.interval, Duration::from_secs(3600));
    assert_eq!(config.network.proxy.unwrap().reveal(), "http://proxy:3128");
    assert!(config.network.ca_file.unwrap().ends_with("app.pem"));
    assert_eq!(config.log.path.as_deref(), Some(Path::new("a.log")));
    assert!(config.log.debug);
    assert_eq!(config.metrics_path.as_deref(), Some(Path::new("a.prom")));
}

#[test]
fn reads_tenants() {
    let config = written();
    let [first, second] = config.tenants.as_slice() else { panic!() };
    assert_eq!(first.label(), "contoso");
    assert_eq!(&*first.publisher_id, OTHER);
    assert_eq!(&*first.api_url, "https://manage.office365.us");
    assert_eq!(&*first.login_url, "https://login.microsoftonline.us");
    assert_eq!(*first.subscriptions, [ContentType::DlpAll, ContentType::AuditGeneral]);
    assert!(matches!(&first.credential, Credential::Certificate { key_file: None, .. }));
    assert_eq!((&*second.login_url, &*second.api_url), ("https://login.example", "http://127.0.0.1:8080"));
    assert_eq!(*second.subscriptions, [ContentType::AuditExchange]);
    assert!(matches!(&second.credential, Credential::FederatedTokenFile(path) if path.ends_with("token")));
}

#[test]
fn reads_collect() {
    let collect = written().collect;
    assert_eq!(collect.working_dir, Path::new("state"));
    assert_eq!((collect.cache_size, collect.max_memory, collect.curl_max_size), (10, 1 << 20, 1 << 20));
    assert_eq!((collect.max_threads, collect.retries), (8, 0));
    assert_eq!(collect.max_requests_per_minute, RequestsPerMinute::Fixed(100));
    assert_eq!((collect.retry_delay, collect.request_timeout), (Duration::ZERO, Duration::from_secs(5)));
    assert!(!collect.skip_known_logs);
    assert_eq!(
        collect.dedup_hours,
        Duration::ZERO,
        "delivering again and dropping doubles exclude each other"
    );
    assert_eq!(collect.hours_to_collect, Duration::from_secs(168 * 3600));
    assert_eq!(collect.global_timeout, Some(Duration::from_secs(240)));
    let condition = |field: &str, texts: &[&str]| {
        (field.to_owned(), texts.iter().map(|text| (*text).to_owned()).collect::<Vec<_>>())
    };
    assert_eq!(
        collect.filter,
        [
            (ContentType::AuditExchange, Filter { conditions: vec![condition("UserId", &["x"])] }),
            (
                ContentType::AuditGeneral,
                Filter {
                    conditions: vec![
                        condition("Item.Id", &["a", "1", "true"]),
                        condition("Operation", &["Send"])
                    ]
                }
            ),
        ]
    );
}

#[test]
fn reads_syslog() {
    let read = |keys: &str| {
        let output = format!("{BEGIN}output:\n  syslog: {{ address: s{keys} }}\n");
        Trial::new(&output).config().output.syslog.unwrap()
    };
    let defaults = read("");
    assert_eq!((&*defaults.address, defaults.port, defaults.protocol), ("s", 6514, SyslogProtocol::Tls));
    assert_eq!((defaults.facility, defaults.severity), (16, 6));
    assert_eq!((defaults.enterprise_number, defaults.bom, defaults.hostname), (32473, false, None));
    assert_eq!((defaults.max_message_size, defaults.oversize), (8000, Oversize::Split));
    assert!(defaults.dead_letters && defaults.confirm && defaults.tls.is_none());
    assert_eq!(defaults.ack_timeout, Duration::from_secs(90));
    let relp = read(", protocol: RELP, facility: audit, severity: warning, oversize: dead-letter, tls: {}");
    assert_eq!((relp.protocol, relp.oversize), (SyslogProtocol::Relp, Oversize::DeadLetter));
    assert_eq!((relp.facility, relp.severity), (13, 4));
    assert!(relp.tls.is_some());
    assert_eq!(read(", oversize: truncate").oversize, Oversize::Truncate);
}

#[test]
fn reads_graylog_without_confirmation() {
    let graylog = "output:\n  graylog: { address: g, confirm: false, retryTimeout: 0s }\n";
    let graylog = Trial::new(&format!("{BEGIN}{graylog}")).config().output.graylog.unwrap();
    assert_eq!((graylog.confirm, graylog.retry_timeout), (false, Duration::ZERO));
}

#[test]
fn reads_outputs() {
    let output = written().output;
    let fluentd = output.fluentd.unwrap();
    assert_eq!((&*fluentd.address, fluentd.port, &*fluentd.tag), ("logs.example", 1234, "a.{workload}"));
    assert_eq!(fluentd.tenant_name.as_deref(), Some("My Company"));
    assert_eq!(fluentd.shared_key.unwrap().reveal(), "key");
    assert_eq!((fluentd.username.as_deref(), fluentd.password.unwrap().reveal()), (Some("me"), "pass"));
    assert_eq!((fluentd.compress, fluentd.ack_timeout), (true, Duration::from_secs(10)));
    assert_eq!(fluentd.retry_timeout, Duration::from_secs(300));
    let tls = fluentd.tls.unwrap();
    assert!(tls.ca_file.is_some() && tls.cert_file.is_some() && tls.key_file.is_some());
    assert_eq!(tls.server_name.as_deref(), Some("logs"));
    let http = output.http.unwrap();
    assert_eq!((http.compress, http.batch_size, http.batch_records), (false, 512 << 10, 100));
    assert_eq!(
        (http.connections, http.timeout, http.retry_timeout),
        (1, Duration::from_secs(5), Duration::ZERO)
    );
    let HttpFormat::SplunkHec(splunk) = http.format else { panic!() };
    assert_eq!((splunk.index.as_deref(), &*splunk.source, &*splunk.sourcetype), (Some("o365"), "s", "t"));
    assert_eq!((splunk.host.as_deref(), splunk.channel.as_deref()), (Some("here"), Some(OTHER)));
    assert_eq!(splunk.ack_timeout, Duration::from_secs(3));
    let headers: Vec<_> = http.headers.iter().map(|(name, value)| (&**name, value.reveal())).collect();
    assert_eq!(headers, [("Authorization", "Splunk 123"), ("X-Key", "pem")]);
    assert!(output.graylog.is_none(), "it is switched off");
}

#[test]
fn azure_uses_the_app_of_the_single_tenant_by_default() {
    let azure = |tenants: &str, host: &str, section: &str| {
        let http = format!("http: {{ url: 'https://{host}/x', format: azure-logs-ingestion{section} }}");
        let http =
            Trial::new(&format!("{BEGIN}{tenants}output: {{ {http} }}\n")).config().output.http.unwrap();
        assert_eq!(http.batch_size, 1_000_000);
        let HttpFormat::AzureLogs(app) = http.format else { panic!() };
        app
    };
    let app = azure("", "a.ingest.monitor.azure.com", "");
    assert_eq!((&*app.tenant_id, &*app.client_id), (TENANT, CLIENT));
    assert!(matches!(app.credential, Credential::Secret(secret) if secret.reveal() == "hunter2~"));
    assert_eq!(
        (&*app.resource, &*app.login_url),
        ("https://monitor.azure.com", "https://login.microsoftonline.com")
    );
    let app = azure("", "a.ingest.monitor.azure.us:443", ", azure: { login_url: 'https://login.example' }");
    assert_eq!((&*app.resource, &*app.login_url), ("https://monitor.azure.us", "https://login.example"));
    let second = format!("  - {{ tenant_id: {OTHER}, client_id: {CLIENT}, client_secret: a }}\n");
    let own = format!(", azure: {{ tenant_id: {OTHER}, client_id: {CLIENT}, federated_token_file: t }}");
    let app = azure(&second, "a.example", &own);
    assert_eq!(app.tenant_id, OTHER);
    assert!(matches!(app.credential, Credential::FederatedTokenFile(path) if path.ends_with("t")));
    let http = "output: { http: { url: 'https://a', format: azure-logs-ingestion } }\n";
    assert_mistakes(
        &format!("{BEGIN}{second}{http}"),
        &[
            "config.yaml:6:11: output.http.azure: is missing; with several tenants, name the app that sends: tenant_id, client_id \
           and a credential",
        ],
    );
}

#[test]
fn warns_of_headers_without_tls() {
    let warnings = |url: &str| {
        let http = format!("http: {{ url: '{url}', headers: {{ a: '${{B}}' }} }}");
        Trial::new(&format!("{BEGIN}output: {{ {http} }}\n")).set("B", "c").warnings()
    };
    let expected = "config.yaml:5:19: output.http.url: begins with http://, so that the headers are sent unencrypted; use https://";
    assert_eq!(warnings("http://logs.example/"), [expected]);
    for url in ["https://logs.example/", "http://localhost/", "http://[::1]:80/"] {
        assert_eq!(warnings(url), [""; 0], "{url}");
    }
}

#[test]
fn working_dir_defaults_to_the_state_directory() {
    let trial = Trial::new(&whole("")).set("STATE_DIRECTORY", "/var/lib/a:/var/lib/b");
    assert_eq!(trial.config().collect.working_dir, Path::new("/var/lib/a"));
    let trial = Trial::new(&whole("")).set("STATE_DIRECTORY", "");
    assert_eq!(trial.config().collect.working_dir, Path::new("."));
    let trial = Trial::new(&whole("collect: { workingDir: here }")).set("STATE_DIRECTORY", "/var/lib/a");
    assert_eq!(trial.config().collect.working_dir, Path::new("here"));
}

#[test]
fn reads_every_form_of_yaml() {
    let text = whole("collect: { maxThreads: 9 }\nlog: { path: ~, debug: True }");
    for text in [
        format!("\u{feff}{text}"),
        format!("%YAML 1.2\n---\n{text}...\n"),
        text.replace('\n', "\r\n"),
        text.replace("{ maxThreads: 9 }", "{\n\t\"maxThreads\": 0x9,\n}"),
        text.replace("collect:", "collect: &anchor"),
    ] {
        let config = Trial::new(&text).config();
        assert_eq!(
            (config.collect.max_threads, config.log.path, config.log.debug),
            (9, None, true),
            "{text}"
        );
    }
}

#[test]
fn resolves_aliases() {
    let tenants = config(&format!(
        "    subscriptions: &two [ DLP.All, Audit.General ]\n  - tenant_id: {OTHER}\n    client_id: {CLIENT}\n    \
         client_secret: hunter2~\n    subscriptions: *two"
    ))
    .tenants;
    assert_eq!(*tenants[1].subscriptions, [ContentType::DlpAll, ContentType::AuditGeneral]);
}

#[test]
fn compares_ids_in_lower_case() {
    let text =
        whole("").replace("0a1b2c3d-0000-4000-8000-00000000000a", "0A1B2C3D-0000-4000-8000-00000000000A");
    assert_eq!(&*Trial::new(&text).config().tenants[0].tenant_id, TENANT);
}

#[test]
fn accepts_a_trailing_slash_and_http_for_localhost() {
    for (written, expected) in [
        ("https://gateway.example/", "https://gateway.example"),
        ("https://gateway.example:8443", "https://gateway.example:8443"),
        ("http://localhost:1", "http://localhost:1"),
        ("http://127.8.8.8/", "http://127.8.8.8"),
        ("http://[::1]:80", "http://[::1]:80"),
    ] {
        assert_eq!(&*tenant(&format!("    api_url: '{written}'")).api_url, expected);
    }
}

#[test]
fn managed_identity_needs_no_app() {
    let of = |identity: &str| {
        let text = format!("tenants:\n  - tenant_id: {TENANT}\n    managed_identity: {identity}\n{END}");
        match Trial::new(&text).config().tenants.remove(0) {
            Tenant { credential: Credential::ManagedIdentity(identity), client_id, .. }
                if client_id.is_empty() =>
            {
                identity
            }
            other => panic!("another credential: {other:?}"),
        }
    };
    assert_eq!(of("System"), ManagedIdentity::System);
    let client_id = CLIENT.to_ascii_lowercase();
    assert_eq!(of(&format!("{{ client_id: {CLIENT} }}")), ManagedIdentity::User { client_id });

    let http = "http: { url: https://a.example/dataCollectionRules/b/streams/c, format: azure-logs-ingestion, \
                azure: { managed_identity: system } }";
    let trial = Trial::new(&whole("").replacen("output: {", &format!("output: {{ {http},"), 1));
    let http = trial.config().output.http.expect("an output");
    let HttpFormat::AzureLogs(app) = http.format else { panic!("another format") };
    assert!(matches!(app.credential, Credential::ManagedIdentity(ManagedIdentity::System)));
}

#[test]
fn managed_identity_names_no_app() {
    let mistakes = |lines: &str| {
        let text = format!("tenants:\n  - tenant_id: {TENANT}\n{lines}{END}");
        Trial::new(&text).mistakes()
    };
    let app = format!("    client_id: {CLIENT}\n    managed_identity: system\n");
    assert_eq!(
        mistakes(&app),
        [
            "config.yaml:3:5: tenants[0].client_id: has no effect with managed_identity; remove it, or name a user-assigned \
          identity as managed_identity: { client_id: … }"
        ]
    );
    let hint = "write system for the system-assigned identity, or { client_id: … } with the Client ID of a user-assigned one";
    for (value, place, mistake) in [
        ("sytem", "3:5: tenants[0].managed_identity", "\"sytem\" is not an identity; "),
        ("{}", "3:5: tenants[0].managed_identity", "has no client_id; "),
        ("{ client_id: me }", "3:25: tenants[0].managed_identity.client_id", "is not a GUID"),
    ] {
        let found = mistakes(&format!("    managed_identity: {value}\n"));
        assert_eq!(found.len(), 1, "{found:?}");
        let line = &found[0];
        assert!(line.starts_with(&format!("config.yaml:{place}: ")), "{line}");
        assert!(line.contains(mistake) && line.ends_with(hint), "{line}");
    }
}
