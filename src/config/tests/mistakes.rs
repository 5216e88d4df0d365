//! Every kind of mistake: its whole line, place included.

use proptest::prelude::*;

use super::*;

/// `BEGIN` has four lines, so what a test adds begins in line 5.
fn assert_lines(cases: &[(&str, &str)]) {
    for (lines, expected) in cases {
        assert_mistakes(&whole(lines), &[expected]);
    }
}

#[test]
fn rejects_unknown_and_misplaced_keys() {
    assert_lines(&[
        (
            "intervall: 5m",
            "config.yaml:5:1: intervall: unknown key \"intervall\"; did you mean \"interval\"?",
        ),
        (
            "collect: { max_threads: 5 }",
            "config.yaml:5:12: collect.max_threads: unknown key \"max_threads\"; it is spelled \"maxThreads\"",
        ),
        (
            "maxThreads: 5",
            "config.yaml:5:1: maxThreads: unknown key \"maxThreads\"; it belongs under \"collect\"",
        ),
        (
            "collect: { interval: 5m }",
            "config.yaml:5:12: collect.interval: unknown key \"interval\"; it belongs at the top level",
        ),
        (
            "confirm: false",
            "config.yaml:5:1: confirm: unknown key \"confirm\"; it belongs under \"output.graylog\" or under \
             \"output.syslog\"",
        ),
        (
            "client_id: 5",
            "config.yaml:5:1: client_id: unknown key \"client_id\"; it belongs under \"tenants[]\"",
        ),
        (
            "log: { colour: red }",
            "config.yaml:5:8: log.colour: unknown key \"colour\"; known keys here: path, debug, format",
        ),
        ("log: { debug:true }", "config.yaml:5:8: log.…: unknown key \"…\"; write a space after \"debug:\""),
        (
            "log: { debug: true, debug: false }",
            "config.yaml:5:21: log.debug: repeats a key, first in line 5; keep one of them",
        ),
        (
            "log: { 1: true }",
            "config.yaml:5:8: log.1: unknown key \"1\"; known keys here: path, debug, format",
        ),
        (
            "log: { ~: true }",
            "config.yaml:5:8: log.…: unknown key \"…\"; known keys here: path, debug, format",
        ),
        (
            "log: &l { path: a }\nmetrics: { <<: *l }",
            "config.yaml:6:12: metrics.<<: merge keys (\"<<\") are not supported; write the keys out",
        ),
        (
            "    loginurl: x",
            "config.yaml:5:5: tenants[0].loginurl: unknown key \"loginurl\"; it is spelled \"login_url\"",
        ),
    ]);
}

#[test]
fn rejects_wrong_types() {
    assert_lines(&[
        (
            "enabled: yes",
            "config.yaml:5:1: enabled: \"yes\" is not true or false; write one of them without quotes",
        ),
        ("enabled: 1", "config.yaml:5:1: enabled: 1 is not true or false; write one of them without quotes"),
        (
            "    name: 7",
            "config.yaml:5:5: tenants[0].name: must be a text, but is a number; put it in quotes",
        ),
        (
            "    name: true",
            "config.yaml:5:5: tenants[0].name: must be a text, but is true or false; put it in quotes",
        ),
        (
            "    name: [a]",
            "config.yaml:5:5: tenants[0].name: must be a text, but is a list; write it after the colon",
        ),
        ("metrics: { path: '' }", "config.yaml:5:12: metrics.path: is empty; fill it in or remove the line"),
        (
            "log: a.log",
            "config.yaml:5:1: log: must be a map of keys, but is a text; write the keys below it, indented by two spaces",
        ),
        (
            "collect: [1]",
            "config.yaml:5:1: collect: must be a map of keys, but is a list; write the keys below it, indented by two spaces",
        ),
        (
            "subscriptions: DLP.All",
            "config.yaml:5:1: subscriptions: must be a list, but is a text; write [ \"Audit.General\", … ]",
        ),
        (
            "proxy: 'not a url'",
            "config.yaml:5:1: proxy: is not an HTTP proxy's URL; write it as http://host:port or \
             http://user:password@host:port, a special character in user or password as %XX",
        ),
        (
            "log: { path: '${HOME' }",
            "config.yaml:5:8: log.path: `${` must be followed by a variable's name and `}`; write `$${` for a literal `${`",
        ),
    ]);
    assert_mistakes(
        &format!("tenants: {{ tenant_id: {TENANT} }}\n{END}"),
        &["config.yaml:1:1: tenants: must be a list, but is a map of keys; begin each of them with `- `"],
    );
    assert_mistakes(
        &format!("tenants: [ contoso ]\n{END}"),
        &["config.yaml:1:12: tenants[0]: must be a map of keys, but is a text; write them as `key: value`"],
    );
}

#[test]
fn rejects_wrong_numbers_sizes_and_durations() {
    let range = |key: &str, least: u64, most: u64| {
        for value in
            [least.wrapping_sub(1).to_string(), (most + 1).to_string(), "x".into(), "1.5".into(), "[]".into()]
        {
            let range = format!("a whole number from {least} to {most}");
            let what = match value.as_str() {
                "[]" => format!("must be {range}, but is a list"),
                "x" => format!("\"x\" is not {range}"),
                number => format!("{number} is not {range}"),
            };
            let expected = format!("config.yaml:5:12: collect.{key}: {what}");
            assert_mistakes(&whole(&format!("collect: {{ {key}: {value} }}")), &[&expected]);
        }
        for value in [least, most] {
            config(&format!("collect: {{ {key}: {value} }}"));
        }
    };
    for value in ["0", "1000001", "-1", "1.5", "many", "[]"] {
        let range = "auto or a whole number from 1 to 1000000";
        let what = match value {
            "[]" => format!("must be {range}, but is a list"),
            "many" => format!("\"many\" is not {range}"),
            number => format!("{number} is not {range}"),
        };
        let expected = format!("config.yaml:5:12: collect.maxRequestsPerMinute: {what}");
        assert_mistakes(&whole(&format!("collect: {{ maxRequestsPerMinute: {value} }}")), &[&expected]);
    }
    for value in ["1", "1000000", "'2000'", "auto", "Auto", "\"auto\""] {
        config(&format!("collect: {{ maxRequestsPerMinute: {value} }}"));
    }
    range("hoursToCollect", 1, 168);
    range("maxThreads", 1, 512);
    range("retries", 0, 20);
    range("dedupHours", 0, 168);
    range("globalTimeout", 0, 10080);
    range("cacheSize", 1, 1_000_000_000);
    assert_lines(&[
        (
            "interval: 300",
            "config.yaml:5:1: interval: 300 has no unit; write seconds as 30s, minutes as 5m, hours as 1h",
        ),
        (
            "interval: '300'",
            "config.yaml:5:1: interval: \"300\" has no unit; write seconds as 30s, minutes as 5m, hours as 1h",
        ),
        (
            "interval: 0s",
            "config.yaml:5:1: interval: \"0s\" is not a duration from 1s to 7d; write 30s, 5m, 1h or 1d",
        ),
        (
            "interval: 8d",
            "config.yaml:5:1: interval: \"8d\" is not a duration from 1s to 7d; write 30s, 5m, 1h or 1d",
        ),
        (
            "interval: 5 minutes",
            "config.yaml:5:1: interval: \"5 minutes\" is not a duration from 1s to 7d; write 30s, 5m, 1h or 1d",
        ),
        (
            "interval: {}",
            "config.yaml:5:1: interval: must be a duration from 1s to 7d, but is a map of keys; write 30s, 5m, 1h or 1d",
        ),
        (
            "collect: { requestTimeout: 2h }",
            "config.yaml:5:12: collect.requestTimeout: \"2h\" is not a duration from 1s to 1h; write 30s, 5m, 1h or 1d",
        ),
        (
            "curl_max_size: 1",
            "config.yaml:5:1: curl_max_size: 1 is not a size from 1K to 2G; write 512K, 10M, 1G or bytes",
        ),
        (
            "curl_max_size: 3G",
            "config.yaml:5:1: curl_max_size: \"3G\" is not a size from 1K to 2G; write 512K, 10M, 1G or bytes",
        ),
        (
            "curl_max_size: -1",
            "config.yaml:5:1: curl_max_size: -1 is not a size from 1K to 2G; write 512K, 10M, 1G or bytes",
        ),
        (
            "curl_max_size: 10MB",
            "config.yaml:5:1: curl_max_size: \"10MB\" is not a size from 1K to 2G; write 512K, 10M, 1G or bytes",
        ),
        (
            "collect: { maxMemory: 3G }",
            "config.yaml:5:12: collect.maxMemory: \"3G\" is not a size from 1K to 2G; write 512K, 10M, 1G or bytes",
        ),
    ]);
}

#[test]
fn rejects_wrong_tenants() {
    assert_lines(&[
        (
            "    api_type: gcchigh",
            "config.yaml:5:5: tenants[0].api_type: \"gcchigh\" is not one of commercial, gcc, gcc-high, dod; did you mean \"gcc-high\"?",
        ),
        (
            "    api_type: moon",
            "config.yaml:5:5: tenants[0].api_type: \"moon\" is not one of commercial, gcc, gcc-high, dod",
        ),
        (
            "    publisher_id: contoso",
            "config.yaml:5:5: tenants[0].publisher_id: is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; fill \
             in the publisher_id or remove the line for the tenant's own",
        ),
        (
            "    name: \"a\\nb\"",
            "config.yaml:5:5: tenants[0].name: \"a\\nb\" must have at most 64 characters on one line; it appears in tags and in the log",
        ),
        (
            "    login_url: login.example",
            "config.yaml:5:5: tenants[0].login_url: \"login.example\" is not a URL; write https://host or https://host:port",
        ),
        (
            "    login_url: 'ftp://host'",
            "config.yaml:5:5: tenants[0].login_url: \"ftp://host\" is not a URL; write https://host or https://host:port",
        ),
        (
            "    api_url: http://manage.example",
            "config.yaml:5:5: tenants[0].api_url: \"http://manage.example\" must begin with https://; http:// is for localhost only",
        ),
        (
            "    api_url: http://localhost.example",
            "config.yaml:5:5: tenants[0].api_url: \"http://localhost.example\" must begin with https://; http:// is for localhost only",
        ),
        (
            "    api_url: https://manage.example/api?x=y",
            "config.yaml:5:5: tenants[0].api_url: \"https://manage.example/api?…\" must be the root of a server; remove what follows the host",
        ),
        (
            "    api_url: https://me:pass@manage.example",
            "config.yaml:5:5: tenants[0].api_url: must not have a user or password; remove what precedes the @",
        ),
        (
            "    federated_token_file: /a",
            "config.yaml:5:5: tenants[0].federated_token_file: is a second credential; keep either it or \
             tenants[0].client_secret",
        ),
        (
            "    managed_identity: system",
            "config.yaml:5:5: tenants[0].managed_identity: is a second credential; keep either it or \
             tenants[0].client_secret",
        ),
        (
            "    subscriptions: []",
            "config.yaml:5:5: tenants[0].subscriptions: is empty; name at least one content type, or remove the line for all five",
        ),
        (
            "  - tenant_id: 0A1B2C3D-0000-4000-8000-00000000000A\n    client_id: 0a1b2c3d-0000-4000-8000-0000000000c1\n    \
             client_secret: x",
            "config.yaml:5:5: tenants[1].tenant_id: is the same tenant as tenants[0]; keep one of them",
        ),
    ]);
    assert_mistakes(
        "tenants:\n  - name: contoso\n  - tenant_id:\n    client_id: <the client>\n    client_secret: a\n    name: contoso\noutput: {}\n",
        &[
            "config.yaml:2:5: tenants[0]: has no credential; add one of client_secret, client_secret_file, certificate, \
             federated_token_file, managed_identity",
            "config.yaml:2:5: tenants[0].client_id: is missing; fill in the client_id: App registrations, your app, \
             Application (client) ID",
            "config.yaml:2:5: tenants[0].tenant_id: is missing; fill in the tenant_id: Entra admin center, Overview, Tenant ID",
            "config.yaml:3:5: tenants[1].tenant_id: is missing; fill in the tenant_id: Entra admin center, Overview, Tenant ID",
            "config.yaml:4:5: tenants[1].client_id: is still a placeholder; fill in the client_id: App registrations, \
             your app, Application (client) ID",
            "config.yaml:6:5: tenants[1].name: is also the name of tenants[0]; give each tenant its own",
            no_output!("config.yaml:7:1"),
        ],
    );
    let second = format!(
        "    name: a\n  - tenant_id: {OTHER}\n    client_id: {CLIENT}\n    client_secret: x\n    name: a"
    );
    assert_lines(&[(
        &second,
        "config.yaml:9:5: tenants[1].name: is also the name of tenants[0]; give each tenant its own",
    )]);
}

#[test]
fn rejects_a_configuration_without_tenants() {
    assert_mistakes(
        &format!("client_id: x\n{END}"),
        &[
            "config.yaml:1:1: client_id: unknown key \"client_id\"; it belongs under \"tenants[]\"",
            "config.yaml:1:1: tenants: is missing; list a tenant, or set TENANT_ID, CLIENT_ID, CLIENT_SECRET in the \
             environment",
        ],
    );
}

#[test]
fn rejects_unusable_root_certificates() {
    for (path, expected) in [
        (
            "/nowhere/ca.pem",
            "config.yaml:5:1: ca_file: the file \"/nowhere/ca.pem\" cannot be read: No such file or directory (os error 2); check the path",
        ),
        (
            "/",
            "config.yaml:5:1: ca_file: the file \"/\" cannot be read: it is not a regular file; choose another path",
        ),
    ] {
        assert_mistakes(&whole(&format!("ca_file: {path}")), &[expected]);
    }
}

#[test]
fn rejects_wrong_certificates() {
    let begin = BEGIN.replace("    client_secret: hunter2~\n", "");
    for (certificate, expected) in [
        ("{}", "config.yaml:4:5: tenants[0].certificate.file: is missing; name the certificate's PEM file"),
        (
            "{ file: app.PFX }",
            "config.yaml:4:20: tenants[0].certificate.file: is a PFX file, but PEM is needed; convert it: openssl pkcs12 \
             -in app.pfx -out app.pem -nodes",
        ),
        (
            "{ file: app.pem, key_file: app.p12 }",
            "config.yaml:4:35: tenants[0].certificate.key_file: is a PFX file, but PEM is needed; convert it: openssl \
             pkcs12 -in app.pfx -out app.pem -nodes",
        ),
        (
            "app.pem",
            "config.yaml:4:5: tenants[0].certificate: must be a map of keys, but is a text; write the keys below it, indented by two spaces",
        ),
    ] {
        assert_mistakes(&format!("{begin}    certificate: {certificate}\n{END}"), &[expected]);
    }
}

#[test]
fn rejects_wrong_subscriptions_and_filters() {
    assert_lines(&[
        (
            "subscriptions: [ Audit.Exchnge ]",
            "config.yaml:5:18: subscriptions[0]: unknown content type \"Audit.Exchnge\"; did you mean \"Audit.Exchange\"?",
        ),
        (
            "subscriptions: [ DLP.All, x ]",
            "config.yaml:5:27: subscriptions[1]: unknown content type \"x\"; known are DLP.All, Audit.Exchange, Audit.SharePoint, Audit.AzureActiveDirectory, Audit.General",
        ),
        (
            "subscriptions: [ 1 ]",
            "config.yaml:5:18: subscriptions[0]: must be a text, but is a number; put it in quotes",
        ),
        (
            "collect: { filter: { Audit.Genral: { A: b } } }",
            "config.yaml:5:22: collect.filter.Audit.Genral: unknown content type \"Audit.Genral\"; did you mean \"Audit.General\"?",
        ),
        (
            "collect: { filter: { DLP.All: { A: b }, dlp.all: { A: c } } }",
            "config.yaml:5:41: collect.filter.dlp.all: repeats a content type; write all fields under one of them",
        ),
        (
            "collect: { filter: { DLP.All: { A: [] } } }",
            "config.yaml:5:33: collect.filter.DLP.All.A: is empty, so that no record would be delivered; name at least one value",
        ),
        (
            "collect: { filter: { DLP.All: { A..b: c } } }",
            "config.yaml:5:33: collect.filter.DLP.All.A..b: is not the name of a field; write Field or Outer.Inner",
        ),
        (
            "collect: { filter: { DLP.All: { A: [ { b: c } ] } } }",
            "config.yaml:5:38: collect.filter.DLP.All.A[0]: must be a single value, but is a map of keys",
        ),
        ("collect: { filter: [] }", "config.yaml:5:12: collect.filter: must be a map of keys, but is a list"),
    ]);
}

/// Each case is an output, which stands in line 6, and the lines that it leads to.
fn assert_output_lines(cases: &[(&str, &str)]) {
    for (output, expected) in cases {
        let expected: Vec<_> = expected.lines().collect();
        assert_mistakes(&format!("{BEGIN}output:\n  {output}\n"), &expected);
    }
}

#[test]
fn rejects_wrong_file_and_fluentd_outputs() {
    assert_output_lines(&[
        ("file: {}", "config.yaml:6:3: output.file.path: is missing; name the file to append to"),
        (
            "file: { path: logs/ }",
            "config.yaml:6:11: output.file.path: \"logs/\" names a folder; add a file name, such as audit.json",
        ),
        (
            "file: { path: a.csv, separator: ;; }",
            "config.yaml:6:24: output.file.separator: \";;\" is not one character other than a quote or a line end; write one, such as ;",
        ),
        (
            "fluentd: { port: 1 }",
            "config.yaml:6:3: output.fluentd.address: is missing; name the receiver's host",
        ),
        (
            "fluentd: { address: a, port: 0 }",
            "config.yaml:6:26: output.fluentd.port: 0 is not a whole number from 1 to 65535",
        ),
        (
            "fluentd: { address: 'a:24224' }",
            "config.yaml:6:14: output.fluentd.address: \"a:24224\" is not a host name or address; the port has its own key",
        ),
        (
            "fluentd: { address: a, tag: '{tenannt}' }",
            "config.yaml:6:26: output.fluentd.tag: \"{tenannt}\" must not have spaces, or braces other than {tenant}, {contentType}, {workload}",
        ),
        (
            "fluentd: { address: a, username: b }",
            "config.yaml:6:26: output.fluentd.username: requires password; add it",
        ),
        (
            "fluentd: { address: a, password: b }",
            "config.yaml:6:26: output.fluentd.password: requires username; add it",
        ),
        (
            "fluentd: { address: a, tls: }",
            "config.yaml:6:26: output.fluentd.tls: is empty; write `tls: {}` for TLS with the system's roots, or remove the line",
        ),
        (
            "fluentd: { address: a, tls: true }",
            "config.yaml:6:26: output.fluentd.tls: must be a map of keys, but is true or false; write the keys below it, indented by two spaces",
        ),
        (
            "fluentd: { address: a, compress: zip }",
            "config.yaml:6:26: output.fluentd.compress: \"zip\" is not one of gzip, none; did you mean \"gzip\"?",
        ),
        (
            "fluentd: { address: a, retryTimeout: 2h }",
            "config.yaml:6:26: output.fluentd.retryTimeout: \"2h\" is not a duration from 0s to 1h; write 30s, 5m, 1h or 1d",
        ),
        (
            "graylog: { address: a, confirm: maybe, retryTimeout: 2h }",
            "config.yaml:6:26: output.graylog.confirm: \"maybe\" is not true or false; write one of them without quotes\n\
             config.yaml:6:42: output.graylog.retryTimeout: \"2h\" is not a duration from 0s to 1h; write 30s, 5m, 1h or 1d",
        ),
        (
            "fluentd: { address: a, ackTimeout: 190 }",
            "config.yaml:6:26: output.fluentd.ackTimeout: 190 has no unit; write seconds as 30s, minutes as 5m, hours as 1h",
        ),
    ]);
}

#[test]
fn rejects_the_raw_splunk_endpoint_and_wrong_dead_letters() {
    assert_output_lines(&[
        (
            "http: { url: 'https://a/b/services/collector/raw', format: splunk-hec }",
            "config.yaml:6:11: output.http.url: is the raw endpoint, which splits records at line ends and cannot say what \
             it accepted; use /services/collector/event",
        ),
        (
            "http: { url: 'https://a', deadLetters: maybe }",
            "config.yaml:6:29: output.http.deadLetters: \"maybe\" is not true or false; write one of them without quotes",
        ),
    ]);
}

#[test]
fn rejects_wrong_otlp_outputs() {
    assert_output_lines(&[
        (
            "http: { url: 'https://a', format: otlp, otlp: { recordAs: body } }",
            "config.yaml:6:51: output.http.otlp.recordAs: \"body\" is not one of text, map, attributes",
        ),
        (
            "http: { url: 'https://a', format: otlp, deadLetters: false }",
            "config.yaml:6:43: output.http.deadLetters: cannot be false with format: otlp, whose receivers do not say which \
             records of a batch they reject; remove it",
        ),
    ]);
}

#[test]
fn rejects_wrong_syslog_outputs() {
    assert_output_lines(&[
        (
            "syslog: { protocol: udp, hostname: a b }",
            "config.yaml:6:3: output.syslog.address: is missing; name the receiver's host\n\
             config.yaml:6:13: output.syslog.protocol: \"udp\" is not one of tls, tcp, relp\n\
             config.yaml:6:28: output.syslog.hostname: \"a b\" must be 1 to 255 ASCII characters without spaces",
        ),
        (
            "syslog: { address: a, protocol: tcp, tls: {}, ackTimeout: 1s, facility: local8 }",
            "config.yaml:6:40: output.syslog.tls: is for protocol: tls or relp only; set that protocol, or remove tls\n\
             config.yaml:6:49: output.syslog.ackTimeout: is for protocol: relp only; set that protocol, or remove ackTimeout\n\
             config.yaml:6:65: output.syslog.facility: \"local8\" is not one of kern, user, mail, daemon, auth, syslog, lpr, \
             news, uucp, cron, authpriv, ftp, ntp, audit, alert, clock, local0, local1, local2, local3, local4, local5, \
             local6, local7; did you mean \"local7\"?",
        ),
        (
            "syslog: { address: a, protocol: relp, confirm: false, oversize: dead-letter, deadLetters: false }",
            "config.yaml:6:41: output.syslog.confirm: is for protocol: tls or tcp only; set that protocol, or remove confirm\n\
             config.yaml:6:57: output.syslog.oversize: requires deadLetters: true; set that, or choose split or truncate",
        ),
        (
            "syslog: { address: a, maxMessageSize: 1K, tls: { key_file: /nowhere } }",
            "config.yaml:6:25: output.syslog.maxMessageSize: \"1K\" is not a size from 2K to 100M; write 512K, 10M, 1G or bytes\n\
             config.yaml:6:52: output.syslog.tls.key_file: requires cert_file; add it\n\
             config.yaml:6:52: output.syslog.tls.key_file: the file \"/nowhere\" cannot be read: No such file or directory (os error 2); check the path",
        ),
    ]);
}

#[test]
fn rejects_wrong_graylog_and_http_outputs() {
    assert_output_lines(&[
        (
            "graylog: { enabled: true }",
            "config.yaml:6:3: output.graylog.address: is missing; name the receiver's host",
        ),
        (
            "graylog: { address: a, tls: { key_file: /nowhere } }",
            "config.yaml:6:33: output.graylog.tls.key_file: requires cert_file; add it\n\
             config.yaml:6:33: output.graylog.tls.key_file: the file \"/nowhere\" cannot be read: No such file or directory (os error 2); check the path",
        ),
        ("http: {}", "config.yaml:6:3: output.http.url: is missing; name the receiver's URL"),
        (
            "http: { url: logs.example }",
            "config.yaml:6:11: output.http.url: \"logs.example\" is not a URL; write https://host or https://host:port",
        ),
        (
            "http: { url: 'https://a:b@c' }",
            "config.yaml:6:11: output.http.url: must not have a user or password; remove what precedes the @",
        ),
        (
            "http: { url: 'http://a', tls: {} }",
            "config.yaml:6:28: output.http.tls: requires a url that begins with https://; change the url or remove tls",
        ),
        (
            "http: { url: 'https://a', format: json }",
            "config.yaml:6:29: output.http.format: \"json\" is not one of ndjson, array, splunk-hec, elastic-bulk, azure-logs-ingestion, otlp",
        ),
        (
            "http: { url: 'https://a', format: array, splunk: { index: a } }",
            "config.yaml:6:44: output.http.splunk: is for format: splunk-hec only; set that format, or remove splunk",
        ),
        (
            "http: { url: 'https://a', format: splunk-hec, splunk: { ackTimeout: 5s } }",
            "config.yaml:6:59: output.http.splunk.ackTimeout: requires channel; add the GUID of one, made with \
             uuidgen",
        ),
        (
            "http: { url: 'https://a', format: splunk-hec, splunk: { channel: mine } }",
            "config.yaml:6:59: output.http.splunk.channel: is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; \
             make one with uuidgen",
        ),
        (
            "http: { url: 'https://a', format: azure-logs-ingestion, batchSize: 1M }",
            "config.yaml:6:59: output.http.batchSize: 1048576 bytes are more than azure-logs-ingestion accepts; write at most 1000000",
        ),
        (
            "http: { url: 'http://a', format: azure-logs-ingestion }",
            "config.yaml:6:11: output.http.url: must begin with https://; http:// is for localhost only",
        ),
        (
            "http: { url: 'https://a', format: azure-logs-ingestion, azure: { client_secret: a } }",
            "config.yaml:6:59: output.http.azure.client_id: is missing; fill in the client_id: App registrations, your app, \
             Application (client) ID\n\
             config.yaml:6:59: output.http.azure.tenant_id: is missing; fill in the tenant_id: Entra admin center, \
             Overview, Tenant ID",
        ),
        (
            "http: { url: 'https://a', batchRecords: 0, connections: 99, timeout: 1h, retryTimeout: 2h }",
            "config.yaml:6:29: output.http.batchRecords: 0 is not a whole number from 1 to 1000000\n\
             config.yaml:6:46: output.http.connections: 99 is not a whole number from 1 to 64\n\
             config.yaml:6:63: output.http.timeout: \"1h\" is not a duration from 1s to 10m; write 30s, 5m, 1h or 1d\n\
             config.yaml:6:76: output.http.retryTimeout: \"2h\" is not a duration from 0s to 1h; write 30s, 5m, 1h or 1d",
        ),
        (
            "http: { url: 'https://a', headers: { 'a b': c } }",
            "config.yaml:6:40: output.http.headers.…: is not the name of a header; use letters, digits and -",
        ),
        (
            "http: { url: 'https://a', headers: { a: c, A: d } }",
            "config.yaml:6:46: output.http.headers.A: repeats a header; keep one of them",
        ),
        (
            "http: { url: 'https://a', headers: { a: \"b\\nc\" } }",
            "config.yaml:6:40: output.http.headers.a: has a character that a header cannot have; write one line of ASCII text",
        ),
        (
            "http: { url: 'https://a', header_files: { a: /nowhere } }",
            "config.yaml:6:45: output.http.header_files.a: the file \"/nowhere\" cannot be read: No such file or directory (os error 2); check the path",
        ),
        ("stdout: { enabled: false }", no_output!("config.yaml:5:1")),
        (
            "stdot: {}",
            concat!(
                no_output!("config.yaml:5:1"),
                "\nconfig.yaml:6:3: output.stdot: unknown key \"stdot\"; did you mean \"stdout\"?"
            ),
        ),
    ]);
    assert_mistakes(BEGIN, &[no_output!("config.yaml:1:1")]);
}

#[test]
fn checks_disabled_outputs() {
    assert_mistakes(
        &whole("enabled: false\nlog: { debug: maybe }"),
        &["config.yaml:6:8: log.debug: \"maybe\" is not true or false; write one of them without quotes"],
    );
    assert_mistakes(
        &format!(
            "{BEGIN}output: {{ stdout: {{ enabled: true }}, graylog: {{ enabled: false, port: x }} }}\n"
        ),
        &["config.yaml:5:65: output.graylog.port: \"x\" is not a whole number from 1 to 65535"],
    );
}

#[test]
fn reports_every_mistake() {
    assert_mistakes(
        "\
enabled: maybe
tenants:
  - tenant_id: contoso
    cleint_id: 0a1b2c3d-0000-4000-8000-0000000000c1
    client_secret: ''
maxThreads: 5
collect:
  retries: 99
  retries: 3
output:
  file: { path: ~ }
",
        &[
            "config.yaml:1:1: enabled: \"maybe\" is not true or false; write one of them without quotes",
            "config.yaml:3:5: tenants[0].client_id: is missing; fill in the client_id: App registrations, your app, \
             Application (client) ID",
            "config.yaml:3:5: tenants[0].tenant_id: is not a GUID such as 0a1b2c3d-4e5f-6789-abcd-ef0123456789; fill in \
             the tenant_id: Entra admin center, Overview, Tenant ID",
            "config.yaml:4:5: tenants[0].cleint_id: unknown key \"cleint_id\"; did you mean \"client_id\"?",
            "config.yaml:5:5: tenants[0].client_secret: is empty; fill it in or remove the line",
            "config.yaml:6:1: maxThreads: unknown key \"maxThreads\"; it belongs under \"collect\"",
            "config.yaml:8:3: collect.retries: 99 is not a whole number from 0 to 20",
            "config.yaml:9:3: collect.retries: repeats a key, first in line 8; keep one of them",
            "config.yaml:11:11: output.file.path: is missing; name the file to append to",
        ],
    );
}

#[test]
fn counts_mistakes_beyond_fifty() {
    let many: Vec<_> = (0..80).map(|number| format!("k{number}: x")).collect();
    let mistakes = Trial::new(&whole(&many.join("\n"))).mistakes();
    assert_eq!(mistakes.len(), 51);
    assert_eq!(mistakes[50], "and 30 more; fix these first");
}

#[test]
fn rejects_files_that_are_not_a_configuration() {
    for (content, expected) in [
        ("", "config.yaml: is empty; begin with config/config.yaml"),
        ("# only this\n", "config.yaml: is empty; begin with config/config.yaml"),
        ("- a\n", "config.yaml:1:1: must be a map of keys, such as `enabled: true`, but is a list"),
        ("hello\n", "config.yaml:1:1: must be a map of keys, such as `enabled: true`, but is a text"),
        (
            "enabled: true\n---\nenabled: false\n",
            "config.yaml: has more than one document; keep one, and remove the line `---` before the next",
        ),
        ("log:\n\tdebug: true\n", "config.yaml:2:1: YAML is not indented by tabs; use spaces"),
        (
            "log:\n  debug: true\n path: a\n",
            "config.yaml:3:2: is not valid YAML: did not find expected key, while parsing a block mapping; check indentation, quotes and colons here and in the line above",
        ),
        (
            "log: { path: \"a }\n",
            "config.yaml:2:1: is not valid YAML: found unexpected end of stream, while scanning a quoted scalar at line 1 \
             column 14; check indentation, quotes and colons here and in the line above",
        ),
        (
            "log: *other\n",
            "config.yaml:1:6: an alias (`*name`) has no anchor (`&name`) above it; a text that begins with * needs quotes",
        ),
        (
            "log: !env PATH\n",
            "config.yaml:1:6: tags such as `!name` are not supported; put a text that begins with ! in quotes, or remove the tag",
        ),
        (
            "client_secret: !!int hunter2\n",
            "config.yaml:1:16: a value does not match its tag; remove the tag",
        ),
        ("[a]: b\n", "config.yaml:1:1: a key must be a plain text; check the brackets"),
        (
            "log: &l [ *l ]\n",
            "config.yaml:1:6: is nested too deeply; look for an alias within its own anchor",
        ),
        (
            "a: 340282366920938463463374607431768211455\n",
            "config.yaml:1:4: a number is too large; put it in quotes if it is a text",
        ),
    ] {
        assert_mistakes(content, &[expected]);
    }
    let bomb = format!("a: &a [{}]\nb: [{}]\n", "x,".repeat(1000), "*a,".repeat(1000));
    assert_mistakes(
        &bomb,
        &[
            "config.yaml:1:4: there are too many values, aliases resolved; use fewer aliases, or a file for fewer tenants",
        ],
    );
    let trial = Trial::new("");
    trial.file("config.yaml", b"enabled: \xff\xfe", 0o600);
    assert_eq!(trial.mistakes(), ["config.yaml: is not UTF-8 text; save it as UTF-8"]);
    trial.file("config.yaml", vec![b'#'; (16 << 20) + 1], 0o600);
    assert_eq!(
        trial.mistakes(),
        [
            "config.yaml: cannot be read: it is larger than 16M, the maximum size of a configuration; check the path, \
             or divide the tenants among several configurations"
        ]
    );
    fs::remove_file(trial.folder.path().join("config.yaml")).unwrap();
    assert_eq!(
        trial.mistakes(),
        ["config.yaml: cannot be read: No such file or directory (os error 2); check the path"]
    );
    fs::create_dir(trial.folder.path().join("config.yaml")).unwrap();
    assert_eq!(
        trial.mistakes(),
        ["config.yaml: cannot be read: Is a directory (os error 21); name a YAML file"]
    );
}

/// Returns the mistakes of a configuration, and the number of allocations for finding them.
fn mistakes_and_allocations(text: &str) -> (Vec<String>, u64) {
    let trial = Trial::new(text);
    let mut mistakes = Vec::new();
    let allocations = allocation_counter::measure(|| mistakes = trial.mistakes()).count_total;
    (mistakes, allocations)
}

#[test]
fn reads_a_file_full_of_mistakes_in_linear_time() {
    let texts: [fn(usize) -> String; 4] = [
        |count| (0..count).map(|number| format!("mistaken{number}: x\n")).collect::<Vec<_>>().concat(),
        |count| "enabled: x\n".repeat(count),
        |count| format!("subscriptions: [{}]\n", "x, ".repeat(count)),
        |count| format!("{}: x\n", "x".repeat(1000)).repeat(count / 5),
    ];
    for text in texts {
        let [few, many] = [300, 1_200].map(|count| {
            let (mistakes, allocations) = mistakes_and_allocations(&text(count));
            assert!(mistakes.len() <= 51, "{} mistakes", mistakes.len());
            allocations
        });
        // Four times as many lines. Sixteen times as many allocations would mean that each line is compared with all others.
        assert!(many < 5 * few, "{few} allocations for 300 lines, {many} for 1,200");
    }
}

/// Pieces of YAML that are likely to meet in a configuration.
fn yaml() -> impl Strategy<Value = String> {
    let piece = prop_oneof![
        Just("tenants:\n  - "),
        Just("output:\n"),
        Just("  file: "),
        Just("collect: {"),
        Just("filter: "),
        Just("subscriptions: ["),
        Just("&a "),
        Just("*a"),
        Just("<<: "),
        Just("!!int "),
        Just("!x "),
        Just("${A}"),
        Just("? "),
        Just(": "),
        Just("- "),
        Just("\n"),
        Just("\t"),
        Just("}"),
        Just("]"),
        Just("\""),
        Just("'"),
        Just("|\n "),
        Just("---\n"),
        Just("~"),
        Just("-1"),
        Just("1e999"),
        Just("%TAG ! a\n"),
        Just("é…"),
    ];
    prop_oneof![proptest::collection::vec(piece, 0..40).prop_map(|pieces| pieces.concat()), any::<String>(),]
}

proptest! {
    #![proptest_config(crate::proptest_config())]

    #[test]
    fn arbitrary_text_does_not_panic(text in yaml()) {
        let result = Trial::new(&text).credentials(&text).load();
        prop_assert!(result.is_err());
    }

    #[test]
    fn mutated_template_does_not_panic(
        cut in 0_usize..10_000,
        length in 0_usize..200,
        insert in yaml(),
    ) {
        let mut text: Vec<char> = include_str!("../../../config/config.production.template.yaml").chars().collect();
        let start = cut.min(text.len());
        let end = (start + length).min(text.len());
        text.splice(start..end, insert.chars());
        let text: String = text.into_iter().collect();
        let result = Trial::new(&text.replace("\n#", "\n")).load();
        prop_assert!(result.is_err(), "at least the three placeholders are wrong, or gone");
        drop(Trial::new(&text).load());
    }
}

#[test]
fn rejects_outputs_that_write_the_same_file() {
    let with = |file: &str, rest: &str| {
        format!("{BEGIN}output:\n  file: {{ {file} }}\ncollect: {{ workingDir: /s }}\n{rest}\n")
    };
    for (file, rest, part) in [
        (
            "path: /o/a.json",
            "metrics: { path: /o/a.json }",
            "metrics.path: /o/a.json is also a file of output.file",
        ),
        (
            "path: /o/a.json",
            "log: { path: /o/./a.json }",
            "log.path: /o/a.json is also a file of output.file",
        ),
        ("path: /s/journal", "", "output.file.path: /s/journal is also a file of the state"),
        (
            "path: /o/a.json",
            "log: { path: /s/known_blobs }",
            "log.path: /s/known_blobs is also a file of the state",
        ),
        (
            "path: /o/a.json, separateByContentType: true",
            "metrics: { path: /o/AuditExchange.json }",
            "metrics.path: /o/AuditExchange.json is also a file of output.file",
        ),
        ("path: /o/a", "log: { path: /x }\nmetrics: { path: /x }", "metrics.path: /x is also a file of log"),
    ] {
        let mistakes = Trial::new(&with(file, rest)).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].contains(part), "{file} {rest}: {mistakes:?}");
        assert!(mistakes[0].ends_with("; give each its own"), "{mistakes:?}");
    }
    Trial::new(&with("path: /o/a.json, separateByContentType: true", "log: { path: /o/a.json }")).config();
    Trial::new(&with("path: /dev/null", "log: { path: /dev/null }")).config();
}

/// The parser's time grows with the square of the depth: 500 KB of `[` took minutes.
#[test]
fn rejects_deep_nesting_before_parsing() {
    for (text, place) in [
        ("[".repeat(500_000), "1:101"),
        ("a: [".repeat(100_000), "1:404"),
        ("- ".repeat(250_000), "1:201"),
        ("{a: ".repeat(100_000), "1:401"),
        (format!("log:\n{}", " [\n".repeat(100_000)), "102:2"),
    ] {
        let (mistakes, allocations) = mistakes_and_allocations(&text);
        let place = format!("config.yaml:{place}: is nested more than 100 levels deep; check the brackets");
        assert_eq!(mistakes, [place]);
        // The parser would allocate for each of the 100,000 brackets or more.
        assert!(allocations < 1_000, "{allocations} allocations");
    }
    // Brackets within texts and comments are none.
    let texts =
        "# [[[[ {{{{ a: [\n".repeat(100) + &whole("    name: 'a [[[ b'\nlog: { path: \"/x-[[[/a.log\" }");
    Trial::new(&texts).config();
}

#[test]
#[allow(clippy::format_push_string, reason = "a test may allocate")]
fn reads_twenty_thousand_tenants() {
    let mut text = String::from("output: { stdout: { enabled: true } }\ntenants:\n");
    let mut credentials = String::from("tenants:\n");
    for number in 0..20_000 {
        let id = format!("0a1b2c3d-0000-4000-8000-{number:012x}");
        text += &format!(
            "  - tenant_id: {id}\n    client_id: {CLIENT}\n    name: tenant-{number}\n    api_type: gcc\n    \
             publisher_id: {id}\n    subscriptions: [ DLP.All, Audit.General ]\n"
        );
        credentials += &format!("  - tenant_id: {id}\n    client_secret: {OTHER}\n");
    }
    let trial = Trial::new(&text).credentials(&credentials);
    let mut loaded = None;
    let memory = allocation_counter::measure(|| loaded = trial.load().ok());
    let loaded = loaded.expect("a configuration without mistakes");
    assert_eq!(loaded.config.tenants.len(), 20_000);
    let (while_read, kept) = (memory.bytes_max / 20_000, memory.bytes_current / 20_000);
    assert!(while_read < 5_000 && kept < 500, "{while_read} bytes for a tenant, and {kept} when it is read");
    // The secret of each looks like an id.
    assert_eq!(loaded.warnings.len(), 51);
    assert_eq!(loaded.warnings[50], "… and 19950 more warnings about the configuration");
}

#[test]
fn rejects_paths_with_shell_syntax() {
    assert_lines(&[
        (
            "log: { path: ~/collector.log }",
            "config.yaml:5:8: log.path: \"~/collector.log\" begins with ~, which only a shell replaces; write the whole path, or use ${HOME}",
        ),
        (
            "metrics: { path: /srv/$HOST/a.prom }",
            "config.yaml:5:12: metrics.path: \"/srv/$HOST/a.prom\" contains $HOST, which only a shell replaces; write the value, or use ${HOST}",
        ),
        (
            "collect: { workingDir: $STATE_DIRECTORY }",
            "config.yaml:5:12: collect.workingDir: \"$STATE_DIRECTORY\" contains $STATE_DIRECTORY, which only a shell replaces; write the value, or use ${STATE_DIRECTORY}",
        ),
        (
            "ca_file: ~me/ca.pem",
            "config.yaml:5:1: ca_file: \"~me/ca.pem\" begins with ~, which only a shell replaces; write the whole path, \
             or use ${HOME}",
        ),
    ]);
    for credential in [
        "client_secret_file: ~/secret",
        "certificate: { file: ~/app.pem }",
        "certificate: { file: a.pem, key_file: ~/app.pem }",
        "federated_token_file: ~/token",
    ] {
        let mistakes = Trial::new(&whole("").replace("client_secret: hunter2~", credential)).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].contains("begins with ~"), "{credential}: {mistakes:?}");
    }
    for output in ["file: { path: ~/a.json }", "http: { url: 'https://a', header_files: { A: ~/a } }"] {
        let mistakes = Trial::new(&format!("{BEGIN}output: {{ {output} }}\n")).mistakes();
        assert!(mistakes.len() == 1 && mistakes[0].contains("begins with ~"), "{output}: {mistakes:?}");
    }
    let trial = Trial::new(&whole("log: { path: '${HOME}/$-~.log' }")).set("HOME", "/home/$me");
    assert_eq!(trial.config().log.path, Some("/home/$me/$-~.log".into()), "what a variable holds is text");
}

#[test]
fn rejects_writing_to_input_and_state_files() {
    let trial = Trial::new("").credentials(&format!("tenants: [ {{ tenant_id: {TENANT} }} ]"));
    let folder = trial.folder.path().display().to_string();
    let file = |name: &str| trial.file(name, "a-secret", 0o600).display().to_string();
    let (secret, pem, header) = (file("secret"), file("ca.pem"), file("header"));
    std::os::unix::fs::symlink(&secret, trial.folder.path().join("link")).unwrap();
    fs::hard_link(&secret, trial.folder.path().join("hard")).unwrap();
    std::os::unix::fs::symlink(trial.folder.path(), trial.folder.path().join("folder")).unwrap();
    let tenant = BEGIN.replace("client_secret: hunter2~", &format!("client_secret_file: {secret}"));
    for (path, owner) in [
        ("config.yaml", "the configuration itself"),
        ("folder/config.yaml", "the configuration itself"),
        ("credentials.yaml", "the configuration itself"),
        ("secret", "tenants[0].client_secret_file"),
        ("link", "tenants[0].client_secret_file"),
        ("hard", "tenants[0].client_secret_file"),
        ("folder/secret", "tenants[0].client_secret_file"),
        ("ca.pem", "ca_file"),
        ("header", "output.http.header_files.A"),
        ("known_blobs", "the state"),
        ("known_blobs_index", "the state"),
        ("journal.new", "the state"),
        ("progress.unreadable", "the state"),
        ("known_blobs.rewrite", "the state"),
    ] {
        for key in ["metrics", "log"] {
            let text = format!(
                "{tenant}ca_file: {pem}\ncollect: {{ workingDir: {folder} }}\noutput: {{ http: {{ url: 'https://a', \
                 header_files: {{ A: {header} }} }} }}\n{key}: {{ path: {folder}/{path} }}\n"
            );
            trial.file("config.yaml", text, 0o600);
            let mistakes = trial.mistakes();
            let expected = format!("is also a file of {owner}; give each its own");
            assert!(mistakes.len() == 1 && mistakes[0].ends_with(&expected), "{key} {path}: {mistakes:?}");
        }
    }
}

#[test]
fn rejects_special_files_where_unsupported() {
    let trial = Trial::new("");
    let folder = trial.folder.path().to_owned();
    let fifo = folder.join("fifo");
    assert!(std::process::Command::new("mkfifo").arg(&fifo).status().expect("coreutils").success());
    let _socket = std::os::unix::net::UnixListener::bind(folder.join("socket")).unwrap();
    std::os::unix::fs::symlink("/dev/null", folder.join("link")).unwrap();
    let fifo = fifo.display().to_string();
    let socket = folder.join("socket").display().to_string();
    let link = folder.join("link").display().to_string();
    let folder = folder.display().to_string();
    for (path, kind) in [
        ("/dev/null", "a device"),
        ("/dev/zero", "a device"),
        (&fifo, "a FIFO"),
        (&socket, "a socket"),
        (&folder, "a folder"),
        (&link, "a device"),
    ] {
        let metrics = Trial::new(&whole(&format!("metrics: {{ path: {path} }}"))).mistakes();
        assert_eq!(
            metrics,
            [format!(
                "config.yaml:5:12: metrics.path: {path} is {kind}, but must be a regular file, because it is replaced \
                 after each pass; choose another path"
            )]
        );
        let streams = "a regular file, a FIFO, /dev/stdout, /dev/stderr or /dev/null; choose another path";
        for (lines, place) in [
            (whole(&format!("log: {{ path: {path} }}")), "config.yaml:5:8: log.path"),
            (
                format!("{BEGIN}output: {{ file: {{ path: {path} }} }}\n"),
                "config.yaml:5:19: output.file.path",
            ),
        ] {
            let trial = Trial::new(&lines);
            if ["/dev/null", &fifo].contains(&path) {
                trial.config();
            } else {
                assert_eq!(trial.mistakes(), [format!("{place}: {path} is {kind}, but must be {streams}")]);
            }
        }
    }
    for path in ["/dev/stdout", "/dev/stderr", "/dev/fd/1", "/proc/self/fd/2"] {
        config(&format!("log: {{ path: {path} }}"));
        Trial::new(&format!("{BEGIN}output: {{ file: {{ path: {path} }} }}\n")).config();
    }
}
