//! A folder on Unix. It is opened once, and its files are reached through that handle, so the
//! folder cannot be swapped for a link in between.

use std::{
    fs::{self, DirBuilder, File},
    io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Mode, OFlags, Stat},
    io::Errno,
};

use super::{insecure, wrong_type};

/// Never follows a symlink, and does not wait for the other end of a named pipe.
const FLAGS: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);

const PRIVATE_FILE: Mode = Mode::RUSR.union(Mode::WUSR);

pub(super) struct Folder {
    handle: OwnedFd,
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, and creates it if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        let open = || rustix::fs::open(path, FLAGS | OFlags::DIRECTORY, Mode::empty());
        let handle = match open() {
            Err(Errno::NOENT) => {
                DirBuilder::new().recursive(true).mode(0o700).create(path)?;
                open()
            }
            result => result,
        };
        let handle = handle.map_err(|error| match error {
            // If there is nothing at the path, a folder above it is a file.
            Errno::LOOP | Errno::NOTDIR if fs::symlink_metadata(path).is_ok() => wrong_type(path),
            error => error.into(),
        })?;
        let folder = Self { handle, path: path.to_owned() };
        folder.check()?;
        Ok(folder)
    }

    /// Checks that only this user can access the folder. Returns `false` if it has been deleted.
    pub(super) fn check(&self) -> io::Result<bool> {
        let stat = rustix::fs::fstat(&self.handle)?;
        check_private(&self.path, &stat, FileType::Directory)?;
        Ok(stat.st_nlink > 0)
    }

    /// Opens a file to read it. `None` if it does not exist.
    pub(super) fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        match self.open_at(name, OFlags::RDONLY) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    pub(super) fn open_or_create_file(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDWR | OFlags::CREATE)
    }

    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        self.open_at(name, OFlags::RDWR | OFlags::CREATE | OFlags::EXCL)
    }

    fn open_at(&self, name: &str, flags: OFlags) -> io::Result<File> {
        let path = self.path.join(name);
        let file = rustix::fs::openat(&self.handle, name, flags | FLAGS, PRIVATE_FILE);
        let file = file.map_err(|error| match error {
            // `NXIO`: a named pipe without a reader, or a socket.
            Errno::LOOP | Errno::ISDIR | Errno::NXIO => wrong_type(&path),
            error => error.into(),
        })?;
        check_private(&path, &rustix::fs::fstat(&file)?, FileType::RegularFile)?;
        Ok(file.into())
    }

    /// Checks that nothing foreign is at this name.
    pub(super) fn check_replaceable(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
            Ok(stat) if file_type(&stat) == FileType::RegularFile => check_owner(&path, &stat),
            Ok(_) => Err(wrong_type(&path)),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(rustix::fs::renameat(&self.handle, from, &self.handle, to)?)
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match rustix::fs::unlinkat(&self.handle, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns `true` if this open file still has this name.
    pub(super) fn is_at(&self, file: &File, name: &str) -> io::Result<bool> {
        let metadata = file.metadata()?;
        match rustix::fs::statat(&self.handle, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok((stat.st_dev, stat.st_ino) == (metadata.dev(), metadata.ino())),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Returns the names of this many files at most.
    pub(super) fn names(&self, limit: usize) -> Vec<String> {
        let entries = Dir::read_from(self.handle.as_fd()).into_iter().flatten();
        let names = entries
            .take(limit)
            .filter_map(|entry| Some(entry.ok()?.file_name().to_str().ok()?.to_owned()));
        names.collect()
    }
}

/// Checks that others can neither read nor change the folder or file.
fn check_private(path: &Path, stat: &Stat, expected: FileType) -> io::Result<()> {
    if file_type(stat) != expected {
        return Err(wrong_type(path));
    }
    check_owner(path, stat)?;
    if stat.st_mode & 0o077 == 0 {
        return Ok(());
    }
    let shown = path.display();
    Err(insecure(match expected {
        FileType::Directory => format!(
            "{shown} is accessible to other users; use a subfolder, or chmod 700 it if nothing else uses it"
        ),
        _ => format!("{shown} is accessible to other users; chmod 600 it"),
    }))
}

fn check_owner(path: &Path, stat: &Stat) -> io::Result<()> {
    let (user, owner) = (rustix::process::geteuid().as_raw(), stat.st_uid);
    if owner == user {
        return Ok(());
    }
    let shown = path.display();
    Err(insecure(format!(
        "{shown} belongs to user {owner}, but this process runs as user {user}; use a separate folder for each user"
    )))
}

fn file_type(stat: &Stat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}
