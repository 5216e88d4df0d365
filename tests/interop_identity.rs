//! Managed identities against azure-identity, Microsoft's library for Python: it gets its token from the same endpoints, by the
//! same variables, and both send the same requests. Install it as `tests/interop.rs` says.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use simulator::{Operation, Request};

use crate::{
    managed_identity::{IDENTITY, app_service, arc, imds, with_identities},
    support::{Installation, Run, set_mode},
};

const RESOURCE: &str = "https://manage.office.com";

/// The file of Azure Arc's challenge.
const CHALLENGE: &str = "/var/opt/azcmagent/tokens/challenge.key";

/// Runs a command with an empty folder in place of `/var/opt`, which has only the file of the challenge.
const WITH_CHALLENGE: &str = "mount -t tmpfs tmpfs /var/opt && mkdir -p /var/opt/azcmagent/tokens && \
                              printf 'the key' > \"$CHALLENGE\" && exec \"$@\"";

/// Returns the library's command for this identity.
fn library(client_id: Option<&str>) -> Command {
    let installed = env::var_os("INTEROP").expect("INTEROP names the folder of tests/interop/install");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/interop/managed_identity.py");
    let mut command = Command::new("python3");
    command.arg(script).arg(RESOURCE).args(client_id);
    command.env_clear().env("PYTHONPATH", PathBuf::from(installed).join("python"));
    command.envs(env::var_os("PATH").map(|path| ("PATH", path)));
    piped(&mut command);
    command
}

fn piped(command: &mut Command) {
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
}

/// Returns the same command in a mount namespace with the challenge of Azure Arc.
fn with_challenge(command: &Command) -> Command {
    let mut wrapped = Command::new("unshare");
    wrapped.args(["--map-root-user", "--mount", "sh", "-c", WITH_CHALLENGE, "sh"]);
    wrapped.arg(command.get_program()).args(command.get_args()).env_clear();
    wrapped.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    wrapped.env("CHALLENGE", CHALLENGE).envs(env::var_os("PATH").map(|path| ("PATH", path)));
    if let Some(folder) = command.get_current_dir() {
        wrapped.current_dir(folder);
    }
    piped(&mut wrapped);
    wrapped
}

/// Returns what a request asks for, and how it shows that it may.
fn essence(request: &Request) -> Vec<Option<String>> {
    let parameters = ["api-version", "resource", "client_id"].map(|name| request.parameter(name));
    let headers = ["Metadata", "X-IDENTITY-HEADER", "Authorization"].map(|name| request.header(name));
    let path = request.target.split('?').next();
    [path].into_iter().chain(parameters).chain(headers).map(|text| text.map(str::to_owned)).collect()
}

/// Runs a command, and returns its requests for a token.
fn requests_of(installation: &Installation, mut command: Command) -> (Run, Vec<Vec<Option<String>>>) {
    installation.simulator.forget_requests();
    let run = Run::of(&mut command);
    run.assert_code(0);
    let requests = installation.simulator.requests_to(Operation::ManagedIdentity);
    (run, requests.iter().map(|seen| essence(&seen.request)).collect())
}

#[test]
#[ignore = "needs azure-identity and a mount namespace: INTEROP=FOLDER cargo test --test tests -- --ignored interop"]
fn interop_azure_identity_sends_the_same_requests() {
    let user = format!("{{ client_id: {IDENTITY} }}");
    let (system, user) = (("system", None), (user.as_str(), Some(IDENTITY)));
    for (variables, (identity, client_id), is_arc) in [
        (imds as fn(&Installation) -> _, system, false),
        (imds, user, false),
        (app_service, system, false),
        (app_service, user, false),
        (arc, system, true),
    ] {
        let installation = with_identities();
        let challenge = Some((CHALLENGE.into(), "the key".to_owned()));
        installation.simulator.identities(|identities| identities.arc_challenge = challenge);
        let path = installation.path("identity.yaml");
        fs::write(&path, installation.config_with_identity(identity)).expect("a file");
        set_mode(&path, 0o600);
        let prepared = |mut command: Command| {
            command.envs(variables(&installation));
            if is_arc { with_challenge(&command) } else { command }
        };
        let own = prepared(installation.command(&["--config", "identity.yaml", "check"]));
        let (run, own) = requests_of(&installation, own);
        assert!(run.stdout.contains("✓ contoso: logged in"), "{run}");
        let (run, of_library) = requests_of(&installation, prepared(library(client_id)));
        assert!(run.stdout.starts_with("eyJ"), "{run}");
        assert_eq!(own, of_library, "{identity}, {is_arc}");
        assert_eq!(own.len(), if is_arc { 2 } else { 1 });
        installation.assert_no_violations();
    }
}
