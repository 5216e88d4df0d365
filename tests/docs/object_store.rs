//! The script of `docs/RECEIVERS.md` that moves the files to an object store, run as printed.

use std::{
    collections::BTreeMap,
    env,
    fs::{self, File},
    io::Read,
    path::Path,
    process::{Command, Stdio},
};

use flate2::read::GzDecoder;
use fs2::FileExt;

use crate::support::{Installation, Run, documents::Page, hours_ago, process::disk_steps, set_mode};

const FEED: &str = "Audit.General";

/// An installation with a script and a bucket, which is a folder.
struct Bucket {
    installation: Installation,
    script: String,
    /// The folder of the program `rclone`.
    tools: String,
}

impl Bucket {
    /// `rclone` is the text of a script that replaces rclone; `None` for rclone itself.
    fn new(rclone: Option<&str>) -> Self {
        let installation = Installation::new();
        let page = Page::read("docs/RECEIVERS.md");
        let mut script = page.blocks("sh title=bucket")[0].to_owned();
        for (documented, name) in
            [("/var/log/office365", "output"), ("/var/lib/office365-collector", "state")]
        {
            script = script.replace(documented, &installation.path(name).display().to_string());
        }
        let tools = installation.path("tools");
        fs::create_dir(&tools).expect("a writable folder");
        let bucket = Self { installation, script, tools: tools.display().to_string() };
        if let Some(text) = rclone {
            bucket.replace_rclone(text);
        }
        bucket
    }

    fn replace_rclone(&self, text: &str) {
        let path = Path::new(&self.tools).join("rclone");
        fs::write(&path, format!("#!/bin/sh\nset -eu\n{text}")).expect("a writable folder");
        set_mode(&path, 0o755);
    }

    /// Runs a pass with this number of new blobs.
    fn collect(&self, blobs: usize) {
        self.installation.contoso.add_blobs(FEED, blobs, 10, hours_ago(20)..hours_ago(2));
        self.installation.contoso.add_blobs("Audit.Exchange", blobs, 10, hours_ago(20)..hours_ago(2));
        self.installation.run(&[]).assert_code(0);
    }

    /// Runs the script. The remote `records` is a folder.
    fn upload(&self) -> Run {
        let mut command = Command::new("sh");
        command.args(["-c", &self.script]).env_clear();
        command.env("PATH", format!("{}:{}", self.tools, env::var("PATH").expect("a path")));
        command.env("HOME", self.installation.path("")).env("BUCKET", self.installation.path("bucket"));
        command.env("RCLONE_CONFIG_RECORDS_TYPE", "alias");
        command.env("RCLONE_CONFIG_RECORDS_REMOTE", self.installation.path("bucket"));
        Run::of(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()))
    }

    /// The objects in the bucket, by name.
    fn objects(&self) -> BTreeMap<String, String> {
        let folder = self.installation.path("bucket/contoso-audit/office365");
        let entries =
            fs::read_dir(folder).into_iter().flatten().map(|entry| entry.expect("a readable folder"));
        let read = |path: &Path| {
            let mut text = String::new();
            GzDecoder::new(File::open(path).expect("a file")).read_to_string(&mut text).expect("gzip");
            text
        };
        entries.map(|entry| (entry.file_name().display().to_string(), read(&entry.path()))).collect()
    }

    fn assert_each_record_once(&self) {
        let mut ids = BTreeMap::new();
        for line in self.objects().values().flat_map(|text| text.lines()) {
            *ids.entry(simulator::id_of(line).expect("an Id")).or_insert(0) += 1;
        }
        let served =
            [FEED, "Audit.Exchange"].into_iter().flat_map(|feed| self.installation.contoso.ids(feed));
        assert_eq!(ids, served.map(|id| (id, 1)).collect());
    }

    /// The names of the files that wait for the upload.
    fn waiting(&self) -> usize {
        let entries = fs::read_dir(self.installation.path("output/upload")).expect("a folder");
        entries.filter(|entry| entry.as_ref().is_ok_and(|entry| entry.file_name() != ".lock")).count()
    }
}

/// Copies as `rclone copy --immutable --no-traverse --include '*.json.gz' SOURCE records:TARGET` does.
const COPY: &str = r#"target="$BUCKET/${7#records:}"
mkdir -p "$target"
for file in "$6"/*.json.gz; do
    [ -e "$file" ] || continue
    object="$target/${file##*/}"
    if [ -e "$object" ]; then cmp "$file" "$object"; else cp "$file" "$object"; fi
    if [ -n "${FAIL:-}" ]; then exit 1; fi
done
"#;

#[test]
fn each_record_is_in_the_bucket_once_despite_failures() {
    let bucket = Bucket::new(Some("exit 1"));
    bucket.collect(2);
    bucket.upload().assert_code(1);
    assert_eq!((bucket.waiting(), bucket.objects().len()), (2, 0));
    // The machine fails after the upload of an object.
    bucket.replace_rclone(&format!("FAIL=1\n{COPY}"));
    bucket.upload().assert_code(1);
    assert_eq!((bucket.waiting(), bucket.objects().len()), (2, 1));
    bucket.collect(1);
    bucket.replace_rclone(COPY);
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();
    assert_eq!((bucket.waiting(), bucket.objects().len()), (0, 4));
    // Nothing is new.
    bucket.installation.run(&[]).assert_code(0);
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();

    // A file that gzip has not finished is compressed again.
    bucket.collect(1);
    bucket.replace_rclone("exit 1");
    bucket.upload().assert_code(1);
    for entry in fs::read_dir(bucket.installation.path("output/upload")).expect("a folder") {
        let path = entry.expect("a readable folder").path();
        if path.extension().is_some_and(|extension| extension == "gz") {
            let mut text = Vec::new();
            GzDecoder::new(File::open(&path).expect("a file")).read_to_end(&mut text).expect("gzip");
            fs::write(path.with_extension(""), text).expect("a writable folder");
            fs::write(path, "half").expect("a writable folder");
        }
    }
    bucket.replace_rclone(COPY);
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();

    let files = |name: &str| bucket.installation.path(name).display().to_string();
    let (open, moved) = (files("output/*.json"), files("output/upload*/*"));
    let verify = ["verify", "--content", "--files", &open, "--files", &moved];
    bucket.installation.run(&verify).assert_code(0);
}

#[test]
fn renames_no_file_during_a_pass_or_after_an_interrupted_one() {
    let mut bucket = Bucket::new(Some(COPY));
    bucket.script = bucket.script.replace("--timeout 300", "--timeout 0");
    bucket.collect(1);
    let known_blobs = File::open(bucket.installation.path("state/known_blobs")).expect("a file");
    FileExt::lock_exclusive(&known_blobs).expect("the lock");
    bucket.upload().assert_code(0);
    assert!(bucket.objects().is_empty());
    FileExt::unlock(&known_blobs).expect("the lock");

    // A pass is killed after it has written records.
    bucket.installation.contoso.add_blobs(FEED, 3, 10, hours_ago(20)..hours_ago(2));
    let file = bucket.installation.path("output/AuditGeneral.json");
    let length = || fs::metadata(&file).expect("a file").len();
    let before = length();
    for step in disk_steps() {
        bucket.installation.run_with_fault(&format!("{step}:kill-before"));
        if length() > before {
            break;
        }
    }
    bucket.upload().assert_code(0);
    assert!(bucket.objects().is_empty());
    bucket.installation.run(&[]).assert_code(0);
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();
}

#[test]
#[ignore = "needs rclone: cargo test --test tests -- --ignored interop_rclone"]
fn interop_rclone_uploads_each_record_once() {
    let bucket = Bucket::new(None);
    bucket.collect(2);
    bucket.upload().assert_code(0);
    bucket.collect(1);
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();
    // An upload that is repeated changes nothing; another content under the same name is refused.
    let (name, _) = bucket.objects().pop_first().expect("an object");
    let [uploaded, upload] =
        ["uploaded", "upload"].map(|folder| bucket.installation.path(&format!("output/{folder}/{name}")));
    fs::rename(&uploaded, &upload).expect("a file");
    bucket.upload().assert_code(0);
    bucket.assert_each_record_once();
    fs::write(&upload, "other").expect("a file");
    let run = bucket.upload();
    assert!(run.code != Some(0) && run.stderr.contains("immutable"), "{run}");
    bucket.assert_each_record_once();
    assert_eq!(bucket.waiting(), 1);
}
