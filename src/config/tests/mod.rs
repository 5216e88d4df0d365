//! The configuration as its user meets it: files in, meaning or messages out.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    time::Duration,
};

use super::*;
use crate::feed::ContentType;

/// The message for a configuration without an output.
macro_rules! no_output {
    ($place:literal) => {
        concat!(
            $place,
            ": output: has no enabled output; add one of file, fluentd, graylog, syslog, http, kafka, stdout"
        )
    };
}

mod credentials;
mod environment;
mod kafka;
mod meaning;
mod mistakes;
mod older;
mod secrets;
mod shipped;

const TENANT: &str = "0a1b2c3d-0000-4000-8000-00000000000a";
const OTHER: &str = "0a1b2c3d-0000-4000-8000-00000000000b";
const CLIENT: &str = "0a1b2c3d-0000-4000-8000-0000000000c1";

/// Lines 1 to 4: a tenant, to which a test may append; then whatever a test is about.
const BEGIN: &str = "\
tenants:
  - tenant_id: 0a1b2c3d-0000-4000-8000-00000000000a
    client_id: 0a1b2c3d-0000-4000-8000-0000000000c1
    client_secret: hunter2~
";

/// Makes the lines before it a whole configuration.
const END: &str = "output: { stdout: { enabled: true } }\n";

/// A folder with files, and an environment.
struct Trial {
    folder: tempfile::TempDir,
    environment: Vec<(String, String)>,
    has_credentials: bool,
    with_secrets: bool,
}

impl Trial {
    fn new(config: &str) -> Self {
        let trial = Self {
            folder: tempfile::tempdir().unwrap(),
            environment: Vec::new(),
            has_credentials: false,
            with_secrets: true,
        };
        trial.file("config.yaml", config, 0o600);
        trial
    }

    fn file(&self, name: &str, content: impl AsRef<[u8]>, mode: u32) -> PathBuf {
        let path = self.folder.path().join(name);
        fs::write(&path, content).unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        path
    }

    fn set(mut self, name: &str, value: &str) -> Self {
        self.environment.push((name.to_owned(), value.to_owned()));
        self
    }

    fn credentials(mut self, text: &str) -> Self {
        self.file("credentials.yaml", text, 0o600);
        self.has_credentials = true;
        self
    }

    fn without_secrets(mut self) -> Self {
        self.with_secrets = false;
        self
    }

    fn load(&self) -> Result<Loaded, ConfigError> {
        let credentials = self.folder.path().join("credentials.yaml");
        let find =
            |name: &str| self.environment.iter().find(|(key, _)| key == name).map(|(_, value)| value.clone());
        load(&Sources {
            file: &self.folder.path().join("config.yaml"),
            credentials: self.has_credentials.then_some(credentials.as_path()),
            environment: &find,
            with_secrets: self.with_secrets,
        })
    }

    fn config(&self) -> Config {
        match self.load() {
            Ok(loaded) => {
                assert_eq!(loaded.warnings, [""; 0], "no warning was expected");
                loaded.config
            }
            Err(error) => panic!("{error}"),
        }
    }

    /// Without the folder's path, which differs from run to run.
    fn warnings(&self) -> Vec<String> {
        let loaded = self.load().unwrap_or_else(|error| panic!("{error}"));
        loaded.warnings.iter().map(|warning| self.shorten(warning)).collect()
    }

    fn mistakes(&self) -> Vec<String> {
        let error = self.load().expect_err("mistakes were expected");
        self.shorten(&error.to_string()).lines().map(str::to_owned).collect()
    }

    fn shorten(&self, text: &str) -> String {
        text.replace(&format!("{}/", self.folder.path().display()), "")
    }
}

fn whole(lines: &str) -> String {
    format!("{BEGIN}{lines}\n{END}")
}

fn config(lines: &str) -> Config {
    Trial::new(&whole(lines)).config()
}

/// A tenant's own lines.
fn tenant(lines: &str) -> Tenant {
    config(lines).tenants.remove(0)
}

fn assert_mistakes(text: &str, expected: &[&str]) {
    assert_eq!(Trial::new(text).mistakes(), expected, "{text}");
}

fn secret(tenant: &Tenant) -> &str {
    match &tenant.credential {
        Credential::Secret(secret) => secret.reveal(),
        other => panic!("{other:?}"),
    }
}
