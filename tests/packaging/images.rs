//! The images of `docker/Dockerfile`, built and run by a real engine: the script `engine`. `.ci/run` builds them, from base
//! images of the same names that are made of Debian's packages, and with the release that it has compiled.
//!
//! podman 4.3 is not Kubernetes: it runs a pod with its `ConfigMap`, Secret and volume, but ignores `subPathExpr`, `fsGroup`
//! and the mode of a Secret, and expands no variable in arguments. A named volume gets its owner from the image instead.

use std::{
    env, fs,
    os::unix::fs::chown,
    path::PathBuf,
    process::{Command, Stdio},
};

use office_audit_log_collector::cli::Shard;
use serde_yaml::{Mapping, Value};
use simulator::{Fault, LoginError, NewBlob, Operation, Requests, TenantSettings};

use super::{
    containers::{MANIFESTS, at, documents, of_kind},
    path, text, until,
};
use crate::support::{
    CONTOSO, FABRIKAM, Installation, Run,
    documents::{Page, shell},
    hours_ago, set_mode, whole_lines,
};

/// The user of the images.
const USER: u32 = 65532;
const FEED: &str = "Audit.General";
const PASS: &str = "localhost/office365-collector:pass";
const CADENCE: &str = "localhost/office365-collector";
const CONFIG: &str = "/etc/office365-collector/config.yaml";
/// What `docker-compose.yml` gives and takes from a container.
const CONFINED: [&str; 6] = [
    "--read-only",
    "--cap-drop=ALL",
    "--security-opt=no-new-privileges",
    "--memory=512m",
    "--pids-limit=256",
    "--detach",
];

/// The engine's folder, which `.ci/run` names.
fn engine_folder() -> String {
    env::var("CONTAINERS")
        .expect("CONTAINERS is the folder of tests/packaging/engine; .ci/run says how to build the images")
}

/// Runs podman.
fn engine(arguments: &[&str]) -> Run {
    let mut command = Command::new(path("tests/packaging/engine"));
    command
        .arg(engine_folder())
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    Run::of(&mut command)
}

/// A container that is removed, with its volumes, when the test ends.
struct Container {
    name: String,
}

impl Container {
    /// Runs an image. With `--detach` it keeps running.
    fn run(installation: &Installation, name: &str, options: &[&str], command: &[&str]) -> (Self, Run) {
        // The simulator's port makes the name one of this test only.
        let port = installation.simulator.url().rsplit(':').next().expect("a port").to_owned();
        let container = Self { name: format!("{name}-{port}") };
        let first = ["run", "--network=host", "--name", &container.name];
        let run = engine(&[&first, options, command].concat());
        (container, run)
    }

    /// The end of its log.
    fn log(&self) -> String {
        let run = engine(&["logs", "--tail=100", &self.name]);
        run.stdout + &run.stderr
    }

    /// Waits until the container has ended. Returns its exit code.
    fn exit_code(&self) -> String {
        engine(&["wait", &self.name]).stdout.trim().to_owned()
    }

    fn is_healthy(&self) -> bool {
        engine(&["healthcheck", "run", &self.name]).code == Some(0)
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        engine(&["rm", "--force", "--volumes", "--time=0", &self.name]);
    }
}

/// Contoso with a blob.
fn installation() -> Installation {
    let installation = Installation::new().setting("interval: 1m");
    add_blob(&installation);
    for folder in ["state", "output"] {
        fs::create_dir(installation.path(folder)).expect("a folder");
        chown(installation.path(folder), Some(USER), Some(USER)).expect("root");
    }
    let secret = installation.path("client_secret");
    fs::write(&secret, installation.contoso.current_settings().secret).expect("a file");
    set_mode(&secret, 0o400);
    chown(&secret, Some(USER), Some(USER)).expect("root");
    installation
}

fn add_blob(installation: &Installation) {
    installation.contoso.add_blob(FEED, NewBlob::records(3).created(hours_ago(3)));
}

/// The configuration, with the paths of a container, written to a file for its user.
fn config(installation: &Installation, state: &str, output: &str) -> PathBuf {
    let place = |name| installation.path(name).display().to_string();
    let config = installation
        .config_with_credential("client_secret_file: \"${CREDENTIALS_DIRECTORY}/client_secret\"")
        .replace(&place("state"), state)
        .replace(&place("output"), output);
    let file = installation.path("container.yaml");
    fs::write(&file, config).expect("a file");
    set_mode(&file, 0o644);
    file
}

/// The options that mount what a container needs.
fn mounts(installation: &Installation, config: &str, state: &str, output: &str) -> Vec<String> {
    let file = self::config(installation, state, output);
    let place = |name| installation.path(name).display().to_string();
    vec![
        format!("--volume={}:{config}:ro", file.display()),
        format!("--volume={}:/run/secrets/client_secret:ro", place("client_secret")),
        format!("--volume={}:{state}", place("state")),
        format!("--volume={}:{output}", place("output")),
    ]
}

fn usual_mounts(installation: &Installation) -> Vec<String> {
    mounts(installation, CONFIG, "/var/lib/office365-collector", "/var/log/office365")
}

fn borrowed(options: &[String]) -> Vec<&str> {
    options.iter().map(String::as_str).collect()
}

#[track_caller]
fn assert_delivered_once(installation: &Installation) {
    installation.assert_delivered_once([(&installation.contoso, FEED)]);
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn one_pass_runs_as_the_page_prints_it() {
    let page = Page::read("docs/DOCKER-DEPLOYMENT.md");
    let is_of_one_pass =
        |block: &&&str| block.contains("docker run") && block.contains("office365-collector:pass");
    let block =
        page.blocks("sh").into_iter().find(|block| is_of_one_pass(&block)).expect("the commands").to_owned();
    assert!(block.starts_with("docker build"), "{block}");
    let installation = Installation::new();
    add_blob(&installation);
    let url = installation.simulator.url().to_owned();
    let simulated = format!("tenants:\n  - login_url: {url}\n    api_url: {url}\n    ");
    let config = text("config/config.service.yaml").replace("tenants:\n  - ", &simulated);
    let client_id = installation.contoso.current_settings().client_id;
    let config = config.replace("YOUR-TENANT-ID", CONTOSO).replace("YOUR-CLIENT-ID", &client_id);
    for folder in ["config", "docker"] {
        fs::create_dir(installation.path(folder)).expect("a folder");
    }
    fs::write(installation.path("config/config.service.yaml"), config).expect("a file");
    fs::write(installation.path("docker/client_secret"), installation.contoso.current_settings().secret)
        .expect("a file");
    // The images are built already. The volumes get names of this test.
    let volume = format!("office365-{}-", url.rsplit(':').next().expect("a port"));
    let script = format!(
        "docker() {{ [ \"$1\" = build ] || PATH=$PATH:/usr/sbin:/sbin {engine} {folder} \"$@\"; }}\n{block}",
        engine = path("tests/packaging/engine").display(),
        folder = engine_folder(),
    );
    let script = script.replace("office365-state", &format!("{volume}state"));
    let script = script.replace("office365-records", &format!("{volume}records"));
    let run = Run::from(shell(&installation, &script));
    run.assert_code(0).assert_line("[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3");
    let records = format!("{volume}records");
    let place = engine(&["volume", "inspect", "--format={{.Mountpoint}}", &records]).stdout;
    assert_eq!(whole_lines(&PathBuf::from(place.trim()).join("AuditGeneral.json")).len(), 3);
    engine(&["volume", "rm", &records, &format!("{volume}state")]).assert_code(0);
    installation.assert_no_violations();
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn the_image_of_one_pass_ends_in_order_when_it_is_stopped_and_names_the_owner_that_a_folder_needs() {
    let installation = installation();
    let options = usual_mounts(&installation);
    let options = borrowed(&options);
    chown(installation.path("output"), Some(0), Some(0)).expect("root");
    let (_denied, run) = Container::run(&installation, "denied", &options, &[PASS]);
    run.assert_code(74).assert_line_with(&[
        "[ERROR] Output file failed",
        "/var/log/office365 belongs to another user",
        &format!("chown -R {USER}:{USER} /var/log/office365 (for a container: on the host"),
    ]);
    chown(installation.path("output"), Some(USER), Some(USER)).expect("root");

    // A blob that never arrives keeps the pass running.
    let blob = installation.contoso.add_blob(FEED, NewBlob::records(2).created(hours_ago(2)));
    installation
        .simulator
        .fault(Requests::to(Operation::FetchBlob).of_blob(blob.content_id()).always(), Fault::stall(None));
    let confined = [&CONFINED, options.as_slice()].concat();
    let (stopped, run) = Container::run(&installation, "stopped", &confined, &[PASS]);
    run.assert_code(0);
    until("the first blob is delivered", || installation.known_blobs().len() == 1, || stopped.log());
    engine(&["stop", "--time=10", &stopped.name]).assert_code(0);
    assert_eq!(stopped.exit_code(), "143", "{}", stopped.log());

    installation.simulator.remove_faults();
    let (_next, run) = Container::run(&installation, "next", &options, &[PASS, "--skip-if-locked"]);
    run.assert_code(0);
    assert_delivered_once(&installation);
    installation.assert_no_violations();
}

#[test]
#[ignore = "needs root, the images and a minute: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn the_cadence_makes_a_pass_at_once_and_at_each_interval_and_ends_in_order() {
    let installation = installation();
    let options = usual_mounts(&installation);
    let options = [&CONFINED, borrowed(&options).as_slice()].concat();
    let (container, run) = Container::run(&installation, "cadence", &options, &[CADENCE]);
    run.assert_code(0);
    let done = "[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3\n";
    until("the log has the first pass", || container.log().contains(done), || container.log());
    assert!(container.is_healthy(), "{}", container.log());
    add_blob(&installation);
    let has_second = || container.log().matches("Logs saved: 3\n").count() == 2;
    until("the log has the pass of the next interval", has_second, || container.log());
    engine(&["stop", "--time=10", &container.name]).assert_code(0);
    assert_eq!(container.exit_code(), "0", "{}", container.log());
    assert_delivered_once(&installation);
    installation.assert_no_violations();
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn a_container_becomes_unhealthy_when_passes_fail_for_three_intervals_and_healthy_again() {
    let installation = installation();
    let options = usual_mounts(&installation);
    // Shorter than cron's shortest, so that three intervals pass quickly.
    let file = installation.path("container.yaml");
    let config = fs::read_to_string(&file).expect("a file").replace("interval: 1m", "interval: 2s");
    fs::write(&file, config).expect("a file");
    let options = [&CONFINED, borrowed(&options).as_slice()].concat();
    let passes = "while :; do office_audit_log_collector --quiet; sleep 1; done";
    let (container, run) = Container::run(&installation, "health", &options, &[CADENCE, "sh", "-c", passes]);
    run.assert_code(0);
    until("it is healthy", || container.is_healthy(), || container.log());
    installation.contoso.settings(|settings| settings.login_error = Some(LoginError::WrongSecret));
    until("it is unhealthy", || !container.is_healthy(), || container.log());
    assert!(container.log().contains("[ERROR] Authentication failed"), "{}", container.log());
    installation.contoso.settings(|settings| settings.login_error = None);
    until("it is healthy again", || container.is_healthy(), || container.log());
    assert_delivered_once(&installation);
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn the_mounts_of_the_older_tools_work() {
    let installation = installation();
    let options = mounts(&installation, "/app/config.yaml", "/app/state", "/var/log/office365");
    let options = [&["--detach", "--restart=unless-stopped"], borrowed(&options).as_slice()].concat();
    let (container, run) = Container::run(&installation, "older", &options, &[CADENCE]);
    run.assert_code(0);
    until("the blob is known", || installation.known_blobs().len() == 1, || container.log());
    engine(&["stop", "--time=10", &container.name]).assert_code(0);
    assert_eq!(container.exit_code(), "0", "{}", container.log());
    let restarts = engine(&["inspect", "--format={{.RestartCount}}", &container.name]).stdout;
    assert_eq!(restarts.trim(), "0", "{}", container.log());
    assert_delivered_once(&installation);
}

/// A pod of a `CronJob`'s pod template, with the objects that it mounts. They are removed when the test ends.
struct Pod {
    name: String,
    /// Of the `ConfigMap`, the Secret and the volume.
    objects: String,
    file: PathBuf,
}

impl Pod {
    /// Starts the pod with this index of an Indexed Job next to the simulator. What a reader fills in is filled in.
    fn start(manifest: &str, installation: &Installation, index: u64) -> Self {
        let documents = documents(manifest);
        let url = installation.simulator.url();
        let port = url.rsplit(':').next().expect("a port");
        let name = format!("pod-{port}");
        let objects = format!("objects-{port}");
        let settings = installation.contoso.current_settings();

        let config_map = of_kind(&documents, "ConfigMap");
        let own_name = at(config_map, "metadata.name").as_str().expect("a name");
        let config = config_map["data"]["config.yaml"].as_str().expect("a configuration");
        let config = config
            .replace("tenant_id:", &format!("login_url: {url}\n    api_url: {url}\n    tenant_id:"))
            .replace("YOUR-TENANT-ID", CONTOSO)
            .replace("YOUR-CLIENT-ID", &settings.client_id)
            .replace("ANOTHER-TENANT-ID", FABRIKAM)
            .replace("ANOTHER-CLIENT-ID", &TenantSettings::new(FABRIKAM).client_id);
        let mut config_map = config_map.clone();
        config_map["data"]["config.yaml"] = config.into();

        // podman 4.3 does not decode what a Secret contains, and does not know `stringData`.
        let secrets = at(of_kind(&documents, "Secret"), "stringData").as_mapping().expect("secrets");
        let secrets = secrets.keys().map(|key| (key.clone(), settings.secret.clone().into()));
        let secrets = Mapping::from_iter([("data".into(), secrets.collect::<Mapping>().into())]);
        let secrets_file = installation.path("secret.yaml");
        fs::write(&secrets_file, serde_yaml::to_string(&secrets).expect("YAML")).expect("a file");

        let template = at(of_kind(&documents, "CronJob"), "spec.jobTemplate.spec.template");
        let annotation = [("batch.kubernetes.io/job-completion-index".into(), index.to_string().into())];
        let mut metadata = template["metadata"].as_mapping().expect("labels").clone();
        metadata.extend([("name".into(), name.clone().into())]);
        metadata.extend([("annotations".into(), Mapping::from_iter(annotation).into())]);
        let mut spec = template["spec"].clone();
        spec.as_mapping_mut().expect("a mapping").insert("hostNetwork".into(), true.into());
        spec["containers"][0]["image"] = PASS.into();
        spec["volumes"][1]["secret"]
            .as_mapping_mut()
            .expect("a Secret")
            .insert("optional".into(), false.into());
        let pod = [
            ("apiVersion", "v1".into()),
            ("kind", "Pod".into()),
            ("metadata", metadata.into()),
            ("spec", spec),
        ];
        let pod = Value::from(Mapping::from_iter(pod.map(|(key, value)| (key.into(), value))));

        let documents = [config_map, of_kind(&documents, "PersistentVolumeClaim").clone(), pod];
        let documents = documents.map(|document| serde_yaml::to_string(&document).expect("YAML"));
        let mut text = documents.join("---\n").replace("$(SHARD)", &index.to_string());
        for key in ["name", "claimName", "secretName"] {
            text = text.replace(&format!("{key}: {own_name}\n"), &format!("{key}: {objects}\n"));
        }
        let file = installation.path("pod.yaml");
        fs::write(&file, text).expect("a file");
        let pod = Self { name, objects, file };
        engine(&["secret", "create", &pod.objects, &secrets_file.display().to_string()]).assert_code(0);
        engine(&["kube", "play", &pod.file.display().to_string()]).assert_code(0);
        pod
    }

    /// Waits until the pass has ended. Returns its exit code and its log.
    fn end(&self) -> (String, String) {
        let container = format!("{}-pass", self.name);
        let code = engine(&["wait", &container]).stdout;
        let log = engine(&["logs", &container]);
        (code.trim().to_owned(), log.stdout + &log.stderr)
    }

    /// A folder on its volume.
    fn volume(&self, folder: &str) -> PathBuf {
        let place = engine(&["volume", "inspect", "--format={{.Mountpoint}}", &self.objects]).stdout;
        PathBuf::from(place.trim()).join(folder)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        engine(&["kube", "down", &self.file.display().to_string()]);
        engine(&["volume", "rm", "--force", &self.objects]);
        engine(&["secret", "rm", &self.objects]);
    }
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn the_pod_of_the_cron_job_makes_a_pass() {
    let installation = installation();
    let pod = Pod::start(MANIFESTS[0], &installation, 0);
    let (code, log) = pod.end();
    assert_eq!(code, "0", "{log}");
    assert!(log.contains("[INFO] Done! Blobs found: 1 | Blobs successful: 1 | Logs saved: 3\n"), "{log}");
    assert_eq!(whole_lines(&pod.volume("records/AuditGeneral.json")).len(), 3);
    installation.assert_no_violations();
}

#[test]
#[ignore = "needs root and the images: .ci/run builds them; CONTAINERS=FOLDER cargo test --test tests -- --ignored packaging::images"]
fn the_pod_of_a_shard_makes_a_pass() {
    let (installation, _fabrikam) = Installation::with_fabrikam();
    add_blob(&installation);
    let shard = |index: u64| format!("{index}/4").parse::<Shard>().expect("a shard");
    let index = (0..4).find(|index| shard(*index).has(CONTOSO)).expect("contoso has a shard");
    let pod = Pod::start(MANIFESTS[1], &installation, index);
    let (code, log) = pod.end();
    assert_eq!(code, "0", "{log}");
    assert!(log.contains("| Logs saved: 3\n"), "{log}");
    assert_eq!(whole_lines(&pod.volume("records/AuditGeneral.json")).len(), 3);
    installation.assert_no_violations();
}
