//! The Debian package: its files, and the effects of its scripts.

use std::{fs, path::PathBuf};

use simulator::NewBlob;

use super::{filled_in, machine::Machine, path, text};
use crate::support::{Installation, hours_ago};

#[test]
fn the_packaged_files_exist_and_include_what_the_scripts_use() {
    let manifest = text("Cargo.toml");
    let assets =
        manifest.split("\nassets = [\n").nth(1).and_then(|rest| rest.split("\n]\n").next()).expect("assets");
    let mut installed = Vec::new();
    for line in assets.lines() {
        let words: Vec<_> = line.split('"').collect();
        let [_, from, _, to, _, mode, _] = words.as_slice() else { panic!("{line}") };
        assert!(["644", "755"].contains(mode), "{line}");
        let folder = from.split('*').next().expect("a path").trim_end_matches(|letter| letter != '/');
        assert!(from.starts_with("target/") || path(from).exists() || path(folder).is_dir(), "no {from}");
        installed.push((*to).to_owned());
    }
    let postinst = text("debian/postinst");
    assert!(postinst.contains("/usr/share/office365-collector/config.yaml"));
    for place in ["usr/share/office365-collector/config.yaml", "usr/lib/sysusers.d/office365-collector.conf"]
    {
        assert!(installed.iter().any(|path| path == place), "the package lacks {place}");
    }
}

/// Returns the package, which `.ci/run` builds with `cargo deb`.
fn package() -> PathBuf {
    let version = env!("CARGO_PKG_VERSION");
    let built = path("target/debian");
    let is_package = |path: &PathBuf| {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        name.starts_with(&format!("office365-collector_{version}-")) && name.ends_with(".deb")
    };
    let files = fs::read_dir(&built).into_iter().flatten().flatten().map(|entry| entry.path());
    files
        .filter(is_package)
        .max()
        .unwrap_or_else(|| panic!("no package in {}: run cargo deb", built.display()))
}

/// A script that installs, upgrades, removes and purges the package. Each line with `STEP` names what the next lines check.
const STEPS: &str = r#"set -eux
config=/etc/office365-collector/config.yaml
known=/var/lib/office365-collector/known_blobs
# Images for containers leave out manuals and examples.
rm -f /etc/dpkg/dpkg.cfg.d/*
: STEP install
dpkg --no-triggers --install PACKAGE
office_audit_log_collector --version
test "$(stat -c '%U %a' $config /var/lib/office365-collector /var/log/office365 | tr '\n' ' ')" = \
    "root 640 office365-collector 700 office365-collector 750 "
test -f /etc/logrotate.d/office365-collector
test -f /usr/share/doc/office365-collector/examples/config.production.template.yaml
man --pager=cat office_audit_log_collector >/dev/null
man --pager=cat office365-collector-run >/dev/null
test -x /usr/sbin/office365-collector-run
test -z "$(systemd-analyze verify /usr/lib/systemd/system/office365-collector.service 2>&1)"
test -z "$(systemd-analyze verify /usr/lib/systemd/system/office365-collector-verify.timer 2>&1)"
cp /usr/lib/systemd/system/office365-collector-failure@.service /run/office365-collector-failure@config.service
test -z "$(systemd-analyze verify /run/office365-collector-failure@config.service 2>&1)"
mkdir /var/lib/office365-collector-failure
: STEP check rejects the placeholders
code=0
CREDENTIALS_DIRECTORY=/etc/office365-collector office_audit_log_collector check || code=$?
test $code = 78
: STEP check and a pass as the user that collects
cp filled-in.yaml $config
cp client_secret /etc/office365-collector/client_secret
chmod 640 /etc/office365-collector/client_secret
chgrp office365-collector /etc/office365-collector/client_secret
as_user="setpriv --reuid=office365-collector --regid=office365-collector --init-groups
    env CREDENTIALS_DIRECTORY=/etc/office365-collector"
$as_user office_audit_log_collector check
$as_user office_audit_log_collector
office_audit_log_collector status
test "$(wc -l <$known)" = 1
: STEP an upgrade keeps configuration, state and records
sum=$(cat $config $known /var/log/office365/* | sha256sum)
dpkg --no-triggers --install PACKAGE
test "$sum" = "$(cat $config $known /var/log/office365/* | sha256sum)"
: STEP an upgrade creates no configuration
mv $config config.away
dpkg --no-triggers --install PACKAGE
test ! -e $config
mv config.away $config
: STEP removing keeps configuration, state and records
dpkg --no-triggers --remove office365-collector
test ! -e /usr/bin/office_audit_log_collector
test "$sum" = "$(cat $config $known /var/log/office365/* | sha256sum)"
: STEP the state is still valid after it is installed again
dpkg --no-triggers --install PACKAGE
$as_user office_audit_log_collector
test "$(wc -l <$known)" = 1
: STEP purging keeps the records and the secret
dpkg --no-triggers --purge office365-collector
test ! -e $config
test ! -e /var/lib/office365-collector
test ! -e /var/lib/office365-collector-failure
test ! -e /etc/logrotate.d/office365-collector
test -f /etc/office365-collector/client_secret
test "$(cat /var/log/office365/* | wc -l)" = 3
"#;

#[test]
#[ignore = "needs dpkg, root, and the package that cargo deb builds: cargo test --test tests -- --ignored packaging::debian"]
fn installing_upgrading_removing_and_purging_lose_nothing() {
    let installation = Installation::new();
    installation.contoso.add_blob("Audit.General", NewBlob::records(3).created(hours_ago(2)));
    let settings = installation.contoso.current_settings();
    let urls = format!("  - login_url: {0}\n    api_url: {0}\n    tenant_id", installation.simulator.url());
    let config = text("config/config.service.yaml").replace("YOUR-CLIENT-ID", &settings.client_id);
    let config = filled_in(&config).replace("  - tenant_id", &urls);
    let steps = STEPS.replace("PACKAGE", &package().display().to_string());
    let mut machine = Machine::bare(&installation)
        .with("steps", &steps)
        .with("filled-in.yaml", &config)
        .with("client_secret", &settings.secret)
        .boot("package");
    assert!(machine.ends_successfully(), "{}", machine.console());
    installation.assert_no_violations();
}
