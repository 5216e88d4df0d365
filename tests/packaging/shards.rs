//! The scripts of the Jobs that maintain the volumes, run by a shell over folders as those of the pods.

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    process::{Command, Stdio},
};

use simulator::{NewBlob, Tenant};

use super::containers::{at, documents, of_kind};
use crate::support::{Installation, Run, hours_ago, set_mode, whole_lines};

const FEED: &str = "Audit.General";

/// Runs the script of a Job's container in this folder, with these variables.
fn run_script(manifest: &str, kind: &str, pod: &str, folder: &Path, environment: &[(&str, &str)]) -> Run {
    let documents = documents(manifest);
    let container =
        at(of_kind(&documents, kind), pod).get("containers").and_then(|all| all.get(0)).expect("one");
    let command = container["command"].as_sequence().expect("a command").iter();
    let command: Vec<_> = command.map(|word| word.as_str().expect("text")).collect();
    Run::of(
        Command::new(command[0])
            .args(&command[1..])
            .current_dir(folder)
            .envs(environment.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped()),
    )
}

fn reshard(volume: &Path, shards: usize) -> Run {
    let pod = "spec.template.spec";
    run_script("docker/kubernetes/reshard.yaml", "Job", pod, volume, &[("SHARDS", &shards.to_string())])
}

/// The shards of some tenants, each with a folder of its own on one volume, as the pods of `sharded.yaml`.
struct Shards {
    installation: Installation,
    tenants: Vec<Tenant>,
}

impl Shards {
    fn new(tenants: u32) -> Self {
        let mut installation = Installation::new().collect("dedupHours: 24");
        let id =
            |number: u32| format!("{:08x}-4444-4444-8444-444444444444", number.wrapping_mul(2_654_435_761));
        let mut all: Vec<_> = (1..tenants).map(|number| installation.add_tenant(&id(number))).collect();
        all.push(installation.contoso.clone());
        fs::create_dir(installation.path("volume")).expect("a folder");
        Self { installation, tenants: all }
    }

    fn shard(&self, shard: usize, shards: usize) -> Run {
        let folder = self.installation.path("volume").join(format!("shard-{shard}"));
        fs::create_dir_all(&folder).expect("a folder"); // as `subPathExpr` does
        let place = |name| self.installation.path(name).display().to_string();
        let config = self.installation.config();
        let config = config.replace(&place("state"), &folder.display().to_string());
        let config = config.replace(&place("output"), &folder.join("records").display().to_string());
        let file = self.installation.path(&format!("shard-{shard}.yaml"));
        fs::write(&file, config).expect("a file");
        set_mode(&file, 0o600);
        let shard = format!("--shard={shard}/{shards}");
        self.installation.run_bare(&["--config", file.to_str().expect("text"), &shard])
    }

    /// Makes the pass of each shard.
    fn pass(&self, shards: usize) {
        for shard in 0..shards {
            self.shard(shard, shards).assert_code(0);
        }
    }

    /// Adds a blob with new records, and one that repeats the records of the tenant's oldest blob.
    fn add_blobs(&self) {
        for tenant in &self.tenants {
            let oldest = tenant.blobs(FEED).first().map(simulator::Blob::records);
            tenant.add_blob(FEED, NewBlob::records(2).plain().created(hours_ago(2)));
            if let Some(records) = oldest {
                tenant.add_blob(FEED, NewBlob::texts(records).created(hours_ago(1)));
            }
        }
    }

    /// Holds the files of all shards together against the records of all tenants.
    #[track_caller]
    fn assert_delivered_once(&self) {
        let mut delivered = BTreeMap::new();
        for entry in fs::read_dir(self.installation.path("volume")).expect("a folder") {
            let records = entry.expect("an entry").path().join("records");
            for file in fs::read_dir(records).into_iter().flatten() {
                for line in whole_lines(&file.expect("an entry").path()) {
                    *delivered.entry(simulator::id_of(&line).expect("an Id")).or_insert(0) += 1;
                }
            }
        }
        let ids = self.tenants.iter().flat_map(|tenant| tenant.ids(FEED));
        let expected: BTreeMap<_, _> = ids.map(|id| (id, 1)).collect();
        assert_eq!(delivered, expected);
        let blobs = self.tenants.iter().flat_map(|tenant| tenant.blobs(FEED));
        assert!(blobs.into_iter().all(|blob| blob.served() == 1), "a blob was collected again");
    }
}

#[test]
fn after_a_change_of_the_number_of_shards_nothing_is_delivered_again() {
    let shards = Shards::new(6);
    let volume = shards.installation.path("volume");
    shards.add_blobs();
    shards.pass(4);
    shards.assert_delivered_once();
    // Fewer shards, with the Job run twice, and then more.
    for (number, times) in [(3, 2), (5, 1)] {
        for _ in 0..times {
            reshard(&volume, number).assert_code(0);
        }
        shards.pass(number);
        shards.assert_delivered_once();
        shards.add_blobs();
        shards.pass(number);
        shards.assert_delivered_once();
    }
    shards.installation.assert_no_violations();
}

#[test]
fn the_number_of_shards_is_not_changed_while_a_pass_runs_or_after_one_that_was_cut_off() {
    use fs2::FileExt;
    let shards = Shards::new(2);
    let volume = shards.installation.path("volume");
    shards.add_blobs();
    shards.pass(2);
    let shard = (0..2)
        .find(|shard| volume.join(format!("shard-{shard}/journal")).exists())
        .expect("a shard with a tenant");
    let folder = volume.join(format!("shard-{shard}"));
    let before = fs::read(folder.join("known_blobs")).expect("a file");

    let lock = fs::File::open(folder.join("known_blobs")).expect("a file");
    lock.lock_exclusive().expect("a free lock");
    let run = reshard(&volume, 3);
    assert!(run.stdout.contains(&format!("A pass is running in shard-{shard}")), "{run}");
    run.assert_code(1);
    drop(lock);

    let journal = fs::read_to_string(folder.join("journal")).expect("a file");
    fs::write(folder.join("journal"), format!("{journal}{{\"committed\":\n")).expect("a file");
    let run = reshard(&volume, 3);
    assert!(run.stdout.contains(&format!("The last pass in shard-{shard} was cut off")), "{run}");
    run.assert_code(1);
    assert_eq!(fs::read(folder.join("known_blobs")).expect("a file"), before);
    fs::write(folder.join("journal"), journal).expect("a file");
    reshard(&volume, 3).assert_code(0);
}

#[test]
fn the_rotation_renames_then_compresses_then_deletes() {
    let folder = tempfile::tempdir().expect("a folder");
    let rotate = |days: &str| {
        let pod = "spec.jobTemplate.spec.template.spec";
        let run =
            run_script("docker/kubernetes/rotate.yaml", "CronJob", pod, folder.path(), &[("DAYS", days)]);
        run.assert_code(0);
    };
    let names = || {
        let entries = fs::read_dir(folder.path()).expect("a folder");
        let mut names: Vec<_> =
            entries.map(|entry| entry.expect("an entry").file_name().into_string().expect("text")).collect();
        names.sort();
        names
    };
    fs::write(folder.path().join("AuditGeneral.json"), "{}\n").expect("a file");
    fs::write(folder.path().join("DLPAll.json"), "").expect("a file");
    rotate("30");
    let [rotated, empty] = &names()[..] else { panic!("{:?}", names()) };
    assert_eq!(empty, "DLPAll.json");
    assert!(rotated.starts_with("AuditGeneral.json.2") && !rotated.contains(".gz"), "{rotated}");
    let compressed = format!("{rotated}.gz");
    rotate("30");
    assert_eq!(names(), [compressed.as_str(), "DLPAll.json"]);
    let file = folder.path().join(&compressed);
    assert!(
        Command::new("touch")
            .args(["--date", "2 days ago"])
            .arg(&file)
            .status()
            .expect("coreutils")
            .success()
    );
    rotate("30");
    assert_eq!(names().len(), 2);
    rotate("1");
    assert_eq!(names(), ["DLPAll.json"]);
}
