//! The mounts of an older tool's container image.

use std::{
    fs,
    process::{Command, Stdio},
};

use simulator::NewBlob;

use crate::support::{Installation, Run, hours_ago, whole_lines};

/// Runs the program in the root of an older image: an overlay over this machine's, with `/app`.
const OLDER_IMAGE: &str = "set -eux
mkdir -p upper work root
mount -t overlay -o lowerdir=/,upperdir=upper,workdir=work overlay root
mount --rbind /proc root/proc
mkdir -p root/app/state
cp older.yaml root/app/config.yaml
chmod 600 root/app/config.yaml
cp \"$1\" root/usr/local/bin/office_audit_log_collector
chroot root /usr/local/bin/office_audit_log_collector schedule cron
chroot root /usr/local/bin/office_audit_log_collector
ls root/app/state
";

#[test]
#[ignore = "needs overlayfs and root: cargo test --test tests -- --ignored packaging::older_image"]
fn the_configuration_and_the_state_of_an_older_image_are_used() {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(3)));
    let place = |name| installation.path(name).display().to_string();
    let config = installation
        .config()
        .replace(&place("state"), "/app/state")
        .replace(&place("output"), "/var/log/office365");
    fs::write(installation.path("older.yaml"), config).expect("a file");
    let mut command = Command::new("unshare");
    command.args([
        "--mount",
        "sh",
        "-c",
        OLDER_IMAGE,
        "sh",
        env!("CARGO_BIN_EXE_office_audit_log_collector"),
    ]);
    command.current_dir(installation.path("")).stdin(Stdio::null());
    let run = Run::of(command.stdout(Stdio::piped()).stderr(Stdio::piped()));
    assert_eq!(run.code, Some(0), "{run}");
    assert!(
        run.stdout.contains(" --config /app/config.yaml\n") && run.stdout.contains("known_blobs"),
        "{run}"
    );
    assert_eq!(whole_lines(&installation.path("upper/var/log/office365/AuditGeneral.json")).len(), 3);
    installation.assert_no_violations();
}
