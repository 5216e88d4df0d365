//! What this machine lacks for passes that a scheduler starts: the user, and what it may read, run and write.
//!
//! Access is decided by owners and permission bits; access control lists and security modules are not considered. Nothing is
//! changed.

use std::{
    fmt, fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use crate::disk;

const READ: u32 = 0o4;
const WRITE: u32 = 0o2;
const EXECUTE: u32 = 0o1;

/// A user of this machine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    name: String,
    /// Its id and those of its groups. `None` if the user does not exist.
    ids: Option<(u32, Vec<u32>)>,
}

/// What a user needs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Need {
    /// To read a file.
    Read,
    /// To read and run a program.
    Run,
    /// To create files in a folder. The user can create the folder itself where it may.
    Fill,
    /// To append to a file, which may be created in an existing folder.
    Append,
    /// To replace files in an existing folder, which other programs may use too.
    Replace,
}

/// What is missing, and the command that provides it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing {
    /// What is missing.
    pub what: String,
    /// The command, for root. `None`: what to do is in the text.
    pub command: Option<String>,
}

impl fmt::Display for Missing {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.what)?;
        self.command.as_ref().map_or(Ok(()), |command| write!(formatter, "; run: {command}"))
    }
}

/// Why a user has no access.
enum Obstacle {
    Absent,
    /// This file or folder denies it.
    Denied(PathBuf),
    /// The user cannot pass this folder on the way.
    Closed(PathBuf),
    /// This process may not look.
    Hidden(PathBuf),
}

impl Account {
    /// Returns the account of that name in `/etc/passwd` and `/etc/group`.
    ///
    /// # Errors
    ///
    /// One of these files cannot be read.
    pub fn find(name: &str) -> io::Result<Self> {
        Ok(Self::parse(name, &fs::read_to_string("/etc/passwd")?, &fs::read_to_string("/etc/group")?))
    }

    /// Source: passwd(5) and group(5).
    fn parse(name: &str, passwd: &str, group: &str) -> Self {
        let entry = |text: &str| -> Option<(u32, u32)> {
            let fields: Vec<_> = text.lines().map(|line| line.split(':').collect::<Vec<_>>()).collect();
            let fields = fields.into_iter().find(|fields| fields.first() == Some(&name))?;
            Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
        };
        let ids = entry(passwd).map(|(user, primary)| {
            let has_member = |fields: &Vec<&str>| {
                fields.get(3).is_some_and(|members| members.split(',').any(|member| member == name))
            };
            let lines = group.lines().map(|line| line.split(':').collect::<Vec<_>>());
            let further = lines.filter(has_member).filter_map(|fields| fields.get(2)?.parse().ok());
            (user, [primary].into_iter().chain(further).collect())
        });
        Self { name: name.to_owned(), ids }
    }

    /// Returns the command that creates the user, if it does not exist.
    pub fn missing(&self) -> Option<Missing> {
        let name = &self.name;
        self.ids.is_none().then(|| Missing {
            what: format!("There is no user {name}, who is to run the passes"),
            command: Some(format!("useradd --system --user-group --shell /usr/sbin/nologin {name}")),
        })
    }

    /// Returns what keeps the user from what it needs of a path: the folders on the way to it, then the path itself. `key`:
    /// what names the path, such as `output.file.path`.
    pub fn lacks(&self, need: Need, key: &str, path: &Path) -> Vec<Missing> {
        self.obstacles(need, path)
            .into_iter()
            .map(|obstacle| self.missing_for(need, key, path, obstacle))
            .collect()
    }

    fn missing_for(&self, need: Need, key: &str, path: &Path, obstacle: Obstacle) -> Missing {
        let (name, shown) = (&self.name, path.display());
        let verb = match need {
            Need::Read => "read",
            Need::Run => "run",
            Need::Fill | Need::Append | Need::Replace => "write",
        };
        let is_written = !matches!(need, Need::Read | Need::Run);
        let what = format!("{key}: {name} cannot {verb} {shown}");
        match obstacle {
            Obstacle::Hidden(at) => {
                let what = format!("{key}: whether {name} can {verb} {shown} is not known");
                let what = format!("{what}: {} is hidden from you; run this command as root", at.display());
                Missing { what, command: None }
            }
            Obstacle::Absent if is_written => {
                let folder = if need == Need::Append { disk::folder_of(path) } else { path }.display();
                let command = format!("install -d -o {name} -g {name} -m 0750 {folder}");
                Missing { what: format!("{key}: {folder} does not exist"), command: Some(command) }
            }
            Obstacle::Absent => Missing { what: format!("{key}: {shown} does not exist"), command: None },
            Obstacle::Denied(at) if is_written && disk::is_system_folder(&at) => {
                let what = format!("{what}, because {} is shared; choose a folder of its own", at.display());
                Missing { what, command: None }
            }
            Obstacle::Closed(at) => {
                let what = format!("{what}, because {} is closed to it", at.display());
                if disk::is_system_folder(&at) {
                    return Missing { what: format!("{what}; move it"), command: None };
                }
                let command = format!("chgrp {name} {0} && chmod g+x {0}", at.display());
                Missing { what, command: Some(command) }
            }
            Obstacle::Denied(at) if need == Need::Replace => {
                let command = format!("chgrp {name} {0} && chmod g+w {0}", at.display());
                Missing { what, command: Some(command) }
            }
            Obstacle::Denied(at) if is_written => {
                Missing { what, command: Some(format!("chown {name}:{name} {}", at.display())) }
            }
            Obstacle::Denied(_) if need == Need::Run => {
                Missing { what, command: Some(format!("chmod a+rx {shown}")) }
            }
            Obstacle::Denied(_) => {
                Missing { what, command: Some(format!("chgrp {name} {shown} && chmod g+r {shown}")) }
            }
        }
    }

    fn obstacles(&self, need: Need, path: &Path) -> Vec<Obstacle> {
        let target = disk::resolve_links(path).unwrap_or_else(|_| path.to_owned());
        let mut above: Vec<_> =
            target.ancestors().skip(1).filter(|folder| !folder.as_os_str().is_empty()).collect();
        above.reverse();
        let (mut obstacles, mut nearest) = (Vec::new(), Path::new("/"));
        for folder in above {
            match self.rights(folder) {
                Ok(Some(rights)) => {
                    nearest = folder;
                    if rights & EXECUTE == 0 {
                        obstacles.push(Obstacle::Closed(folder.to_owned()));
                    }
                }
                // A folder is created in the nearest one that exists.
                Ok(None) if need == Need::Fill => break,
                Ok(None) => {
                    obstacles.push(Obstacle::Absent);
                    return obstacles;
                }
                Err(_) => {
                    obstacles.push(Obstacle::Hidden(nearest.to_owned()));
                    return obstacles;
                }
            }
        }
        let needed = match need {
            Need::Read => READ,
            Need::Run => READ | EXECUTE,
            Need::Fill | Need::Replace => WRITE | EXECUTE,
            Need::Append => WRITE,
        };
        let lacks = |rights: u32, needed: u32| rights & needed != needed;
        let is_nearest_closed = || {
            let rights = self.rights(nearest).ok().flatten().unwrap_or_default();
            lacks(rights, WRITE | EXECUTE)
        };
        let at_target = match (self.rights(&target), need) {
            (Ok(Some(rights)), _) => lacks(rights, needed).then(|| Obstacle::Denied(target.clone())),
            (Err(_), _) => Some(Obstacle::Hidden(nearest.to_owned())),
            (Ok(None), Need::Read | Need::Run | Need::Replace) => Some(Obstacle::Absent),
            (Ok(None), Need::Fill) => is_nearest_closed().then_some(Obstacle::Absent),
            (Ok(None), Need::Append) => is_nearest_closed().then(|| Obstacle::Denied(nearest.to_owned())),
        };
        obstacles.extend(at_target);
        obstacles
    }

    /// Returns the permissions of the user on a path, in the bits of a mode's last digit. `None`: it does not exist.
    fn rights(&self, path: &Path) -> io::Result<Option<u32>> {
        let Some(metadata) = disk::none_if_missing(fs::metadata(path))? else { return Ok(None) };
        let mode = metadata.mode();
        Ok(Some(match &self.ids {
            Some((0, _)) => READ | WRITE | EXECUTE,
            Some((user, _)) if *user == metadata.uid() => mode >> 6 & 0o7,
            Some((_, groups)) if groups.contains(&metadata.gid()) => mode >> 3 & 0o7,
            _ => mode & 0o7,
        }))
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::{PermissionsExt, chown};

    use super::*;

    const PASSWD: &str =
        "root:x:0:0:root:/root:/bin/sh\noffice365-collector:x:990:980::/:/usr/sbin/nologin\n";
    const GROUP: &str = "office365-collector:x:980:\nadm:x:4:syslog,office365-collector\nssl:x:101:other\n";

    fn collector() -> Account {
        Account::parse("office365-collector", PASSWD, GROUP)
    }

    #[test]
    fn an_account_has_its_groups() {
        assert_eq!(collector().ids, Some((990, vec![980, 4])));
        assert_eq!(collector().missing(), None);
        let absent = Account::parse("absent", PASSWD, GROUP);
        assert!(absent.missing().expect("a command").to_string().contains("; run: useradd --system"));
    }

    fn set_mode(path: &Path, mode: u32) {
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("a file of our own");
    }

    #[test]
    fn what_a_user_cannot_reach_is_named_with_the_command() {
        let folder = tempfile::tempdir().expect("a folder");
        let path = |name: &str| folder.path().join(name);
        set_mode(folder.path(), 0o711);
        fs::write(path("config.yaml"), "").expect("a file");
        let lacks = |need, name: &str| {
            let missing = collector().lacks(need, "key", &path(name));
            missing.iter().map(Missing::to_string).collect::<Vec<_>>()
        };
        let shown = |name: &str| path(name).display().to_string();
        let only = |need, name: &str| {
            let [missing] = <[String; 1]>::try_from(lacks(need, name)).expect("one obstacle");
            missing
        };

        set_mode(&path("config.yaml"), 0o604);
        assert_eq!(lacks(Need::Read, "config.yaml"), [""; 0]);
        set_mode(&path("config.yaml"), 0o600);
        let at = shown("config.yaml");
        let unreadable = format!(
            "key: office365-collector cannot read {at}; run: chgrp office365-collector {at} && chmod g+r {at}"
        );
        assert_eq!(only(Need::Read, "config.yaml"), unreadable);
        assert!(only(Need::Run, "config.yaml").ends_with(&format!("; run: chmod a+rx {at}")));
        assert_eq!(only(Need::Read, "secret"), format!("key: {} does not exist", shown("secret")));

        let at = shown("records");
        let command = format!("install -d -o office365-collector -g office365-collector -m 0750 {at}");
        assert_eq!(only(Need::Fill, "records"), format!("key: {at} does not exist; run: {command}"));
        fs::create_dir(path("records")).expect("a folder");
        set_mode(&path("records"), 0o755);
        let command = format!("; run: chown office365-collector:office365-collector {at}");
        assert!(only(Need::Fill, "records").ends_with(&command));
        let command = format!("; run: chgrp office365-collector {at} && chmod g+w {at}");
        assert!(only(Need::Replace, "records").ends_with(&command));
        assert!(only(Need::Replace, "records/new").contains("; run: install -d"));
        set_mode(&path("records"), 0o757);
        for (need, name) in
            [(Need::Fill, "records"), (Need::Fill, "records/new"), (Need::Append, "records/log")]
        {
            assert_eq!(lacks(need, name), [""; 0], "{name}");
        }
        assert!(lacks(Need::Append, "nowhere/log")[0].contains("; run: install -d"));

        set_mode(folder.path(), 0o700);
        let at = folder.path().display();
        let closed =
            format!("because {at} is closed to it; run: chgrp office365-collector {at} && chmod g+x {at}");
        let both = lacks(Need::Read, "config.yaml");
        assert!(both[0].ends_with(&closed) && both[1..] == [unreadable], "{both:?}");
        assert!(only(Need::Fill, "records").ends_with(&closed));
    }

    #[test]
    fn a_folder_that_many_programs_share_keeps_its_owner() {
        let missing = collector().lacks(Need::Append, "log.path", Path::new("/var/log/collector.log"));
        assert_eq!(missing.len(), 1);
        assert_eq!(missing[0].command, None);
        assert!(missing[0].what.contains("choose a folder of its own"), "{missing:?}");
    }

    #[test]
    fn owners_and_groups_count() {
        let folder = tempfile::tempdir().expect("a folder");
        set_mode(folder.path(), 0o711);
        let file = folder.path().join("secret");
        fs::write(&file, "").expect("a file");
        set_mode(&file, 0o640);
        if chown(&file, Some(0), Some(4)).is_err() {
            return; // only root can give files away
        }
        assert_eq!(collector().lacks(Need::Read, "key", &file), [], "a further group");
        chown(&file, Some(990), Some(0)).expect("root");
        assert_eq!(collector().lacks(Need::Read, "key", &file), [], "the owner");
        chown(&file, Some(991), Some(0)).expect("root");
        assert_eq!(collector().lacks(Need::Read, "key", &file).len(), 1);
    }
}
