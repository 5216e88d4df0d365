//! The container images, and the files for Compose and Kubernetes.

use std::{
    fs,
    path::Path,
    process::{self, Stdio},
};

use office_audit_log_collector::{
    cli::{self, Command, Parsed},
    config::{Config, Credential},
    units::{Credentials, Schedule, Scheduler},
};
use rustix::process::Signal;
use serde_yaml::Value;
use simulator::{Fault, NewBlob, Operation, Requests};

use super::{filled_in, load, path, path_text, text, tool};
use crate::support::{
    Installation, Run,
    documents::shell,
    hours_ago,
    process::{signal, wait_until},
    set_mode,
};

/// The `CronJob`s of the collector.
pub const MANIFESTS: [&str; 2] = ["docker/kubernetes/cronjob.yaml", "docker/kubernetes/sharded.yaml"];
/// What maintains their volumes.
const MAINTENANCE: [&str; 2] = ["docker/kubernetes/reshard.yaml", "docker/kubernetes/rotate.yaml"];
const ANOTHER_TENANT: &str = "33333333-3333-4333-8333-333333333333";

pub fn documents(file: &str) -> Vec<Value> {
    use serde::Deserialize;
    let text = text(file);
    let documents = serde_yaml::Deserializer::from_str(&text);
    documents
        .map(|document| Value::deserialize(document).unwrap_or_else(|error| panic!("{file}: {error}")))
        .collect()
}

/// Returns the value at a path such as `a.b.0.c`.
#[track_caller]
pub fn at<'a>(value: &'a Value, path: &str) -> &'a Value {
    path.split('.').fold(value, |value, key| {
        let found = match key.parse::<usize>() {
            Ok(index) => value.get(index),
            Err(_) => value.get(key),
        };
        found.unwrap_or_else(|| panic!("no {path}"))
    })
}

#[track_caller]
pub fn of_kind<'a>(documents: &'a [Value], kind: &str) -> &'a Value {
    documents.iter().find(|document| document["kind"] == kind).unwrap_or_else(|| panic!("no {kind}"))
}

/// Loads a configuration whose secrets are files of these names in `CREDENTIALS_DIRECTORY`.
fn load_with_secrets(config: &str, secrets: &[&str]) -> Config {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("config.yaml");
    let config = filled_in(config)
        .replace("ANOTHER-TENANT-ID", ANOTHER_TENANT)
        .replace("ANOTHER-CLIENT-ID", ANOTHER_TENANT);
    fs::write(&file, config).expect("a file");
    for name in secrets {
        fs::write(folder.path().join(name), "a-secret").expect("a file");
        set_mode(&folder.path().join(name), 0o400);
    }
    let loaded = load(&file, &[("CREDENTIALS_DIRECTORY", &folder.path().display().to_string())]);
    assert_eq!(loaded.warnings, [""; 0]);
    loaded.config
}

#[test]
fn the_images_run_the_program_as_a_user_without_a_name_and_keep_its_folders() {
    let dockerfile = text("docker/Dockerfile");
    let stages: Vec<_> = dockerfile.split("\nFROM ").skip(1).collect();
    let [_, pass, cadence] = stages.as_slice() else { panic!("{} stages", stages.len()) };
    assert!(pass.lines().next().is_some_and(|line| line.ends_with(" AS pass")), "{pass}");
    for (stage, program) in [(pass, "/usr/bin/office_audit_log_collector"), (cadence, "/usr/bin/cadence")] {
        assert!(stage.contains("\nUSER 65532:65532\n"), "{stage}");
        assert!(stage.contains(&format!("\nENTRYPOINT [\"{program}\"]")), "{stage}");
        for folder in ["/var/lib/office365-collector", "/var/log/office365"] {
            assert!(stage.contains(&format!("\"{folder}\"")), "no volume {folder}");
        }
    }
    let check =
        cadence.split("HEALTHCHECK ").nth(1).and_then(|rest| rest.split(']').next()).expect("a check");
    let words = check.split('"').skip(1).step_by(2).map(str::to_owned);
    let Parsed::Run(arguments) = cli::parse(words) else { panic!("{check}") };
    assert!(matches!(arguments.command, Some(Command::Status(_))), "{check}");
}

/// The cadence with a clock that stands and a `sleep` that prints its argument and fails, so that it ends there.
#[test]
fn the_cadence_waits_for_the_next_multiple_of_the_interval_and_passes_its_options_on() {
    for (interval, seconds) in
        [("1m", 60), ("5m", 300), ("1h", 3600), ("6h", 6 * 3600), ("1d", 24 * 3600), ("7d", 7 * 24 * 3600)]
    {
        let installation = Installation::new().setting(&format!("interval: {interval}"));
        let now = 1_000_000_000_u64;
        let bin = installation.path("bin");
        fs::create_dir(&bin).expect("a folder");
        for (name, script) in [
            ("date", format!("echo {now}")),
            ("sleep", "echo \"$1\" >slept; kill -TERM $PPID; exec cat /dev/zero >/dev/null".to_owned()),
        ] {
            fs::write(bin.join(name), format!("#!/bin/sh\n{script}\n")).expect("a file");
            set_mode(&bin.join(name), 0o755);
        }
        let config = installation.config_file().display().to_string();
        let run = Run::from(shell(
            &installation,
            &format!(
                "PATH=bin:$PATH exec sh {} --config {config} --tenant contoso",
                path("docker/cadence").display()
            ),
        ));
        run.assert_code(0).assert_line("[INFO] Starting Office365 collector: 1 tenant(s), 5 subscription(s)");
        let slept = fs::read_to_string(installation.path("slept")).expect("a time");
        assert_eq!(slept.trim().parse::<u64>(), Ok(seconds - now % seconds), "{interval}");
    }
}

#[test]
fn the_cadence_ends_a_running_pass_in_order_when_it_is_stopped() {
    let installation = Installation::new();
    let (first, second) =
        (NewBlob::records(3).created(hours_ago(3)), NewBlob::records(3).created(hours_ago(2)));
    installation.contoso.add_blob("Audit.General", first);
    let blob = installation.contoso.add_blob("Audit.General", second);
    let never = Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always();
    installation.simulator.fault(never, Fault::stall(None));
    let program = Path::new(env!("CARGO_BIN_EXE_office_audit_log_collector"));
    let mut cadence = process::Command::new("sh");
    cadence.arg(path("docker/cadence")).arg("--config").arg(installation.config_file());
    cadence.env("PATH", format!("{}:/usr/bin:/bin", program.parent().expect("a folder").display()));
    let cadence = cadence.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("a shell");
    wait_until("the first blob is known", || installation.known_blobs().len() == 1);
    signal(&cadence, Signal::TERM);
    Run::finish(cadence).assert_code(0);
    installation.simulator.remove_faults();
    installation.run(&[]).assert_code(0);
    installation.assert_delivered_once([(&installation.contoso, "Audit.General")]);
}

#[test]
fn the_cadence_runs_another_command_and_reports_what_is_wrong_with_its_options() {
    let installation = Installation::new();
    let config = installation.config_file().display().to_string();
    let cadence = |arguments: &str| {
        Run::from(shell(&installation, &format!("exec sh {} {arguments}", path("docker/cadence").display())))
    };
    assert!(cadence("--version").assert_code(0).stdout.starts_with("office_audit_log_collector "));
    let dry_run = format!("office_audit_log_collector --dry-run --config {config}");
    assert!(cadence(&dry_run).assert_code(0).stderr.contains("No new blobs found"));
    assert!(
        cadence(&format!("--config {config} --hours 6")).assert_code(64).stderr.contains("options of a pass")
    );
    cadence("--config missing.yaml").assert_code(78);
}

#[test]
fn the_build_context_contains_everything_that_the_build_reads() {
    let folder = tempfile::tempdir().expect("a folder");
    let ignore = text(".dockerignore");
    for name in ignore.lines().filter_map(|line| line.strip_prefix('!')) {
        let copy = folder.path().join(name);
        fs::create_dir_all(copy.parent().expect("a folder")).expect("a folder");
        let (from, to) = (path(name).display().to_string(), copy.display().to_string());
        tool("cp", &["--recursive", &from, &to]).assert_code(0);
    }
    // Offline, the command can fail because crates are missing. Before that it fails if the manifest names a file that is not
    // there.
    let manifest = folder.path().join("Cargo.toml").display().to_string();
    let run = tool(env!("CARGO"), &["fetch", "--offline", "--locked", "--manifest-path", &manifest]);
    assert!(!run.stderr.contains("failed to parse manifest"), "{run}");
    let units = text("src/units.rs");
    let included: Vec<_> =
        units.split("include_str!(\"../").skip(1).filter_map(|rest| rest.split('"').next()).collect();
    assert!(
        included.len() == 3 && included.iter().all(|name| folder.path().join(name).exists()),
        "{included:?}"
    );
    assert!(folder.path().join("docker/cadence").exists());
}

#[test]
fn compose_gives_the_collector_what_its_configuration_needs() {
    let compose = &documents("docker/docker-compose.yml")[0];
    let collector = at(compose, "services.collector");
    assert!(
        at(collector, "build").get("target").is_none(),
        "the default image is the one that keeps running"
    );
    assert!(
        path("docker")
            .join(at(collector, "build.context").as_str().expect("text"))
            .join("docker/Dockerfile")
            .exists()
    );
    assert_eq!((at(collector, "read_only"), at(collector, "cap_drop.0")), (&true.into(), &"ALL".into()));
    for (volume, place) in [(1, "/var/lib/office365-collector"), (2, "/var/log/office365")] {
        let mounted = at(collector, &format!("volumes.{volume}")).as_str().expect("text");
        let (name, folder) = mounted.split_once(':').expect("a name and a folder");
        assert!(compose["volumes"].get(name).is_some() && folder == place, "{mounted}");
    }
    let secret = at(collector, "secrets.0").as_str().expect("text");
    let config = load_with_secrets(&text("docker/config.yaml"), &[secret]);
    assert_eq!(config.collect.working_dir, Path::new("/var/lib/office365-collector"));
    assert_eq!(config.output.file.expect("a file").path.parent(), Some(Path::new("/var/log/office365")));

    let fluentd = config.output.fluentd.expect("a receiver");
    assert!(compose["services"].get(fluentd.address.as_str()).is_some(), "{fluentd:?}");
    let receiver = text("docker/fluentd.conf");
    assert!(receiver.contains("@type forward") && receiver.contains(&format!("\n  port {}\n", fluentd.port)));
    assert!(receiver.contains("<match office365.**>") && fluentd.tag.starts_with("office365."));
    let buffers =
        at(compose, "services.fluentd.volumes.1").as_str().and_then(|volume| volume.split(':').nth(1));
    assert!(receiver.contains(&format!("path {}/buffer", buffers.expect("a folder"))));
}

#[test]
fn kubernetes_runs_one_pass_at_a_time_and_without_privileges() {
    for file in MANIFESTS {
        let documents = documents(file);
        let job = at(of_kind(&documents, "CronJob"), "spec");
        assert_eq!(
            (&job["concurrencyPolicy"], job["startingDeadlineSeconds"].is_u64()),
            (&"Forbid".into(), true)
        );
        let pod = at(job, "jobTemplate.spec.template.spec");
        assert_eq!(at(pod, "securityContext.runAsNonRoot"), &Value::from(true), "{file}");
        let container = at(pod, "containers.0");
        for (key, value) in [("allowPrivilegeEscalation", false), ("readOnlyRootFilesystem", true)] {
            assert_eq!(
                at(container, &format!("securityContext.{key}")),
                &Value::from(value),
                "{file}: {key}"
            );
        }
        assert_eq!(at(container, "securityContext.capabilities.drop.0"), "ALL");
        assert!(at(container, "resources.limits.memory").is_string());
        assert!(
            at(pod, "terminationGracePeriodSeconds").as_u64() > Some(5),
            "a signal ends a pass within five seconds"
        );
    }
}

#[test]
fn the_manifests_match_their_configurations() {
    for file in MANIFESTS {
        let documents = documents(file);
        let secrets = at(of_kind(&documents, "Secret"), "stringData").as_mapping().expect("secrets").keys();
        let secrets: Vec<_> = secrets.map(|name| name.as_str().expect("a name")).collect();
        let config = at(of_kind(&documents, "ConfigMap"), "data").get("config.yaml").and_then(Value::as_str);
        let config = load_with_secrets(config.expect("a configuration"), &secrets);
        assert_eq!(config.tenants.len(), secrets.len(), "{file}");
        assert!(
            config.tenants.iter().all(|tenant| matches!(tenant.credential, Credential::Secret(_))),
            "{file}"
        );

        let job = at(of_kind(&documents, "CronJob"), "spec");
        let (program, paths) =
            (Path::new("/usr/bin/office_audit_log_collector"), Path::new("/etc/config.yaml"));
        let schedule = Schedule {
            program,
            config: paths,
            interval: config.interval,
            options: &[],
            credentials: Credentials { folder: Path::new("/run/secrets"), names: &[] },
            writable: &[],
            preparation: &[],
        };
        let crontab = schedule.text(Scheduler::Cron).expect("an interval that cron can keep");
        let times = job["schedule"].as_str().expect("times");
        assert!(crontab.lines().any(|line| line.starts_with(&format!("{times} "))), "{file}: {times}");

        let container = at(job, "jobTemplate.spec.template.spec.containers.0");
        let mounts = at(container, "volumeMounts").as_sequence().expect("mounts");
        let folders: Vec<_> =
            mounts.iter().map(|mount| mount["mountPath"].as_str().expect("a folder")).collect();
        let written = [config.collect.working_dir, config.output.file.expect("an output").path];
        assert!(written.iter().all(|path| folders.iter().any(|folder| path.starts_with(folder))), "{file}");
        let variables = at(container, "env").as_sequence().expect("variables");
        let credentials = variables
            .iter()
            .find(|variable| variable["name"] == "CREDENTIALS_DIRECTORY")
            .expect("the variable");
        assert!(folders.contains(&credentials["value"].as_str().expect("a folder")), "{file}");
    }
}

#[test]
fn each_pod_of_the_indexed_job_has_its_own_shard_and_folder() {
    let documents = documents(MANIFESTS[1]);
    let job = at(of_kind(&documents, "CronJob"), "spec.jobTemplate.spec");
    assert_eq!((&job["completionMode"], &job["completions"]), (&"Indexed".into(), &job["parallelism"]));
    let container = at(job, "template.spec.containers.0");
    let argument = at(container, "args.1").as_str().expect("an argument");
    let pods = job["completions"].as_u64().expect("a number");
    assert!(argument.ends_with(&format!("/{pods}")), "{argument}");
    for index in 0..pods {
        let argument = argument.replace("$(SHARD)", &index.to_string());
        assert!(matches!(cli::parse(["collector".to_owned(), argument]), Parsed::Run(_)));
    }
    let mounts = at(container, "volumeMounts").as_sequence().expect("mounts");
    assert!(mounts.iter().any(|mount| mount["subPathExpr"] == "shard-$(SHARD)"));
}

#[test]
#[ignore = "needs hadolint, kubernetes-validate and docker-compose: cargo test --test tests -- --ignored packaging::containers"]
fn hadolint_kubernetes_validate_and_compose_report_no_mistake() {
    let run = tool("hadolint", &[&path_text("docker/Dockerfile")]);
    assert_eq!((run.code, run.stdout.as_str()), (Some(0), ""), "{run}");
    // The oldest version that knows every field used, and the newest.
    for version in ["1.29", "1.37"] {
        for manifest in MANIFESTS.into_iter().chain(MAINTENANCE) {
            let arguments = ["--strict", "--quiet", "--kubernetes-version", version, &path_text(manifest)];
            let run = tool("kubernetes-validate", &arguments);
            assert_eq!((run.code, run.stdout.as_str(), run.stderr.as_str()), (Some(0), "", ""), "{run}");
        }
    }
    let folder = tempfile::tempdir().expect("a folder");
    let compose = folder.path().join("docker-compose.yml");
    fs::copy(path("docker/docker-compose.yml"), &compose).expect("a copy");
    fs::write(folder.path().join("client_secret"), "a-secret").expect("a file");
    tool("docker-compose", &["--file", &compose.display().to_string(), "config", "--quiet"]).assert_code(0);
}
