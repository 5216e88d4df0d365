//! The owners of files: what root creates must stay usable for the service's own user.

use std::{
    fmt,
    fs::{self, File},
    io,
    os::unix::{self, fs::MetadataExt},
    path::{Path, PathBuf},
};

use super::folder_of;

/// The user id of root.
pub const ROOT: u32 = 0;

/// The maximum number of files that a message names.
const NAMED_FILES_MAX: usize = 5;

/// Folders that many programs share: no advice gives them to the collector's user.
const SYSTEM_FOLDERS: [&str; 13] = [
    "/", "/etc", "/home", "/mnt", "/opt", "/root", "/run", "/srv", "/tmp", "/usr", "/var", "/var/lib",
    "/var/log",
];

/// Returns whether many programs share this folder.
pub fn is_system_folder(path: &Path) -> bool {
    SYSTEM_FOLDERS.iter().any(|folder| path == Path::new(folder))
}

/// Returns how root gives a path that this process may not use to the process's user: the file, or its folder with all
/// that is in it. `None` if the user owns them, or if the folder is one of the system's.
pub fn hint_to_own(path: &Path) -> Option<String> {
    let (user, group) = (rustix::process::geteuid(), rustix::process::getegid());
    if user.is_root() {
        return None;
    }
    let (user, group) = (user.as_raw(), group.as_raw());
    let is_of_another = |path: &&Path| fs::metadata(path).is_ok_and(|metadata| metadata.uid() != user);
    let is_given = |path: &&Path| !is_system_folder(path);
    // Nothing below a folder that cannot be searched has metadata.
    let mut existing = path.ancestors().skip_while(|path| fs::metadata(path).is_err()).take(2);
    let nearest = existing.next()?;
    let folder = if nearest.is_dir() { Some(nearest) } else { existing.next() };
    let (option, given) = match folder.filter(is_of_another).filter(is_given) {
        Some(folder) => ("-R ", folder),
        None => ("", Some(nearest).filter(|path| !path.is_dir()).filter(is_of_another)?),
    };
    let given = given.display();
    Some(format!(
        "{given} belongs to another user than the collector's, which is {user}; run as root: chown {option}{user}:{group} \
         {given} (for a container: on the host, with the folder that is mounted there)"
    ))
}

/// Gives a new file or folder of root's to the owner of its folder: a pass that root runs by hand must not leave files
/// that the service's own passes cannot write. Does nothing on file systems without owners.
pub fn give_to_owner(new: &File, path: &Path) -> io::Result<()> {
    let (file, folder) = (new.metadata()?, fs::metadata(folder_of(path))?);
    if file.uid() != ROOT || folder.uid() == ROOT {
        return Ok(());
    }
    match unix::fs::fchown(new, Some(folder.uid()), Some(folder.gid())) {
        Err(error)
            if !matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::Unsupported) =>
        {
            Err(error)
        }
        _ => Ok(()),
    }
}

/// The files in a folder that belong to another user than the folder itself. A service that owns the folder cannot write
/// them.
#[derive(Debug)]
pub struct ForeignFiles {
    folder: PathBuf,
    /// The owner of the folder: its user and its group.
    owner: (u32, u32),
    files: Vec<PathBuf>,
}

impl ForeignFiles {
    /// Returns those among the given files of the folder. `None` if root owns the folder or this process is not root's.
    pub fn find(folder: &Path, files: Vec<PathBuf>) -> Option<Self> {
        let metadata = fs::metadata(folder).ok()?;
        if !rustix::process::geteuid().is_root() || metadata.uid() == ROOT {
            return None;
        }
        let is_foreign = |path: &PathBuf| {
            fs::symlink_metadata(path).is_ok_and(|file| !file.is_symlink() && file.uid() != metadata.uid())
        };
        let files = files.into_iter().filter(is_foreign).collect();
        Some(Self { folder: folder.to_owned(), owner: (metadata.uid(), metadata.gid()), files })
    }

    /// Returns those among all files in the folder and in its subfolders.
    pub fn find_all(folder: &Path) -> Option<Self> {
        let entries =
            |folder: &Path| fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let below = entries(folder).filter(|path| path.is_dir()).flat_map(|path| entries(&path));
        Self::find(folder, entries(folder).chain(below).collect())
    }

    /// Returns whether there are any.
    pub fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    /// Returns how to run the program as the owner of the folder.
    pub fn advice(&self) -> String {
        let Self { folder, owner: (user, group), .. } = self;
        format!(
            "{} belongs to user {user}, and this is run as root: run passes as that user, with systemctl start \
             office365-collector or setpriv --reuid={user} --regid={group} --init-groups office_audit_log_collector",
            folder.display()
        )
    }
}

impl fmt::Display for ForeignFiles {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { folder, owner: (user, group), files } = self;
        let named: Vec<_> =
            files.iter().take(NAMED_FILES_MAX).map(|file| file.display().to_string()).collect();
        write!(
            formatter,
            "{} files in {} do not belong to its owner, user {user}, and passes as that user cannot write them; run: \
             chown {user}:{group} {}",
            files.len(),
            folder.display(),
            named.join(" ")
        )?;
        if files.len() > named.len() { formatter.write_str(" and the others") } else { Ok(()) }
    }
}
