//! Configurations of the older tool.

use super::*;

/// As the older tool's documentation shows it, shortened.
const OLDER: &str = "\
log:
  path: 'collector.log'
  debug: False
collect:
  workingDir: ./
  contentTypes:
    Audit.General: True
    Audit.AzureActiveDirectory: False
    Audit.Exchange: True
    DLP.All:
  cacheSize: 1000
  maxThreads: 20
  globalTimeout: 1
  retries: 5
  skipKnownLogs: True
  hoursToCollect: 12
  filter:
    Audit.General:
      Policy: Spoof
    Audit.Exchange:
output:
  file:
    enabled: True
    separateByContentType: True
    path: 'output.csv'
    separator: ','
  graylog:
    enabled: False
    address:
    port:
";

fn with_environment(text: &str) -> Trial {
    Trial::new(text).set("TENANT_ID", TENANT).set("CLIENT_ID", CLIENT).set("CLIENT_SECRET", "hunter2~")
}

#[test]
fn accepts_older_keys_that_still_have_a_meaning() {
    let config = with_environment(OLDER).config();
    assert_eq!(*config.tenants[0].subscriptions, [ContentType::AuditExchange, ContentType::AuditGeneral]);
    assert_eq!(config.log.path.as_deref(), Some(Path::new("collector.log")));
    assert_eq!(config.collect.global_timeout, Some(Duration::from_secs(60)));
    let conditions = vec![("Policy".to_owned(), vec!["Spoof".to_owned()])];
    assert_eq!(config.collect.filter, [(ContentType::AuditGeneral, Filter { conditions })]);
    let file = config.output.file.unwrap();
    assert_eq!((file.path.to_str(), file.separator), (Some("output.csv"), ','));
}

#[test]
fn warns_of_older_keys_without_a_meaning() {
    let trial = with_environment(
        "\
filter:
  DLP.All: { Policy: x }
collect:
  duplicate: 3
  schedule: 0 1 0
  autoSubscribe: True
  resume: False
  rustEngine: True
  retryCooldown: 3
output:
  file: { path: output, separator: ';', cacheSize: 500000 }
  azureLogAnalytics: { workspaceId: x, maxThreads: 50 }
  logAnalytics: { workspaceId: x }
  sql: { enabled: False, chunkSize: 2000 }
  prtg: { enabled: True, channels: [ { name: a } ] }
",
    );
    assert_eq!(
        trial.warnings(),
        [
            "config.yaml:4:3: collect.duplicate: has no meaning any more: it fetched each blob several times to measure \
             speed; each record is now delivered once; remove it",
            "config.yaml:5:3: collect.schedule: has no meaning any more: run the collector from a systemd \
             timer or from cron; remove it",
            "config.yaml:6:3: collect.autoSubscribe: has no meaning any more: missing subscriptions are always started; remove it",
            "config.yaml:7:3: collect.resume: has no meaning any more: each feed is resumed where it was last listed \
             completely; remove it",
            "config.yaml:8:3: collect.rustEngine: has no meaning any more: there is only one engine; remove it",
            "config.yaml:11:41: output.file.cacheSize: has no meaning any more: `collect.cacheSize` holds for all \
             outputs; remove it",
            "config.yaml:12:3: output.azureLogAnalytics: has no meaning any more: use output.http with `format: \
             azure-logs-ingestion`; remove it",
            "config.yaml:13:3: output.logAnalytics: has no meaning any more: use output.http with `format: \
             azure-logs-ingestion`; remove it",
            "config.yaml:15:3: output.prtg: has no meaning any more: use `metrics.path`, or count in the system that \
             receives the records; remove it",
            "config.yaml:11:25: output.file.separator: has no effect: records are written as JSON lines unless the path \
             ends in .csv",
        ]
    );
    let config = trial.load().unwrap().config;
    assert_eq!(config.collect.retry_delay, Duration::from_secs(3));
    assert_eq!(config.collect.filter.len(), 1);
}

#[test]
fn rejects_an_older_key_next_to_its_successor() {
    assert_mistakes(
        &whole(
            "subscriptions: [ DLP.All ]\nfilter: { DLP.All: { A: b } }\n\
             collect: { contentTypes: { DLP.All: true }, filter: { DLP.All: { A: b } } }",
        ),
        &[
            "config.yaml:6:1: filter: has the same meaning as collect.filter; keep only that",
            "config.yaml:7:12: collect.contentTypes: has the same meaning as subscriptions; keep only that",
        ],
    );
}

#[test]
fn reports_mistakes_within_older_keys() {
    assert_mistakes(
        &whole("collect: { contentTypes: { Audit.Generl: true, DLP.All: no } }"),
        &[
            "config.yaml:5:12: collect.contentTypes: sets no content type to true; set one of them, or remove the key \
             for all five",
            "config.yaml:5:28: collect.contentTypes.Audit.Generl: unknown content type \"Audit.Generl\"; did you mean \"Audit.General\"?",
            "config.yaml:5:48: collect.contentTypes.DLP.All: \"no\" is not true or false; write one of them without quotes",
        ],
    );
}

#[test]
fn rejects_a_configuration_with_only_removed_outputs() {
    let mistakes = with_environment("output: { sql: { cacheSize: 5 } }\n").mistakes();
    assert_eq!(mistakes, [no_output!("config.yaml:1:1")]);
}

#[test]
fn an_output_that_no_longer_exists_is_named_also_when_mistakes_remain() {
    let trial = with_environment(
        "output: { azureBlob: {}, azureTable: {}, sql: {}, prtg: {}, logAnalytics: {} }\ncollect: { maxThread: 5 }\n",
    );
    let error = trial.load().expect_err("mistakes were expected");
    let warnings = trial.shorten(&error.warnings().join("\n"));
    for (output, instead) in [
        ("azureBlob", "write with output.file and upload the rotated files"),
        ("azureTable", "use output.file or output.http"),
        ("sql", "use output.http or output.fluentd with a receiver that writes to the database"),
        ("prtg", "use `metrics.path`, or count in the system that receives the records"),
        ("logAnalytics", "use output.http with `format: azure-logs-ingestion`"),
    ] {
        let line = format!(": output.{output}: has no meaning any more: {instead}; remove it");
        assert!(warnings.lines().any(|warning| warning.ends_with(&line)), "{line}: {warnings}");
    }
    assert_eq!(trial.mistakes().len(), 2);
}

#[test]
fn an_empty_path_of_the_log_is_standard_error() {
    for path in ["\"\"", "''", "\" \"", "'${NOTHING}'"] {
        let text = format!("log: {{ path: {path}, debug: False }}\n{END}");
        assert_eq!(with_environment(&text).set("NOTHING", "").config().log.path, None, "{path}");
    }
}

#[test]
fn the_folder_of_the_state_can_be_at_the_top_level() {
    assert_eq!(
        config("workingDir: /var/lib/office365-collector").collect.working_dir,
        Path::new("/var/lib/office365-collector")
    );
    assert_mistakes(
        &whole("workingDir: a\ncollect: { workingDir: b }"),
        &["config.yaml:5:1: workingDir: has the same meaning as collect.workingDir; keep only that"],
    );
}

#[test]
fn the_file_of_a_secret_can_have_its_older_name() {
    let settings = BEGIN.replace("client_secret: hunter2~", "client_secret_path: 'FOLDER/secret'") + END;
    let trial = Trial::new("");
    trial.file("secret", "hunter2~\n", 0o600);
    trial.file("config.yaml", settings.replace("FOLDER", &trial.folder.path().display().to_string()), 0o600);
    assert_eq!(secret(&trial.config().tenants[0]), "hunter2~");
    assert_mistakes(
        &whole("    client_secret_path: /etc/secrets/contoso.txt")
            .replace("/etc/secrets/contoso.txt", "nowhere.txt"),
        &[
            "config.yaml:5:5: tenants[0].client_secret_path: is a second credential; keep either it or tenants[0].client_secret",
            "config.yaml:5:5: tenants[0].client_secret_path: the file cannot be read: No such file or directory (os error 2); check the path",
        ],
    );
}

#[test]
fn a_separator_matters_for_csv_only() {
    let file = |path: &str, separator: &str| {
        format!("{BEGIN}output: {{ file: {{ path: {path}, separator: {separator} }} }}\n")
    };
    assert_eq!(
        Trial::new(&file("audit.json", "\"\\n\"")).warnings(),
        [
            "config.yaml:5:37: output.file.separator: has no effect: records are written as JSON lines unless the path ends in .csv"
        ]
    );
    assert_mistakes(
        &file("audit.csv", "\"\\n\""),
        &[
            "config.yaml:5:36: output.file.separator: \"\" is not one character other than a quote or a line end; write one, such as ;",
        ],
    );
}
