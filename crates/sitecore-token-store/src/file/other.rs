//! A folder on systems other than Unix, by its path. Ownership and permissions are not checked.

use std::{
    fs::{self, File, OpenOptions},
    io,
    path::{Path, PathBuf},
};

use super::wrong_type;

pub(super) struct Folder {
    path: PathBuf,
}

impl Folder {
    /// Opens the folder, and creates it if it does not exist.
    pub(super) fn open(path: &Path) -> io::Result<Self> {
        if !path.try_exists()? {
            fs::create_dir_all(path)?;
        }
        if !fs::symlink_metadata(path)?.is_dir() {
            return Err(wrong_type(path));
        }
        Ok(Self { path: path.to_owned() })
    }

    /// Returns `false` if the folder has been deleted.
    pub(super) fn check(&self) -> io::Result<bool> {
        self.path.try_exists()
    }

    /// Opens a file to read it. `None` if it does not exist.
    pub(super) fn open_file(&self, name: &str) -> io::Result<Option<File>> {
        match self.open_with(name, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            result => result.map(Some),
        }
    }

    pub(super) fn open_or_create_file(&self, name: &str) -> io::Result<File> {
        let mut options = OpenOptions::new();
        self.open_with(name, options.read(true).write(true).create(true).truncate(false))
    }

    pub(super) fn create_file(&self, name: &str) -> io::Result<File> {
        self.open_with(name, OpenOptions::new().write(true).create_new(true))
    }

    fn open_with(&self, name: &str, options: &OpenOptions) -> io::Result<File> {
        let path = self.path.join(name);
        let file = options.open(&path)?;
        if file.metadata()?.is_file() { Ok(file) } else { Err(wrong_type(&path)) }
    }

    /// Checks that nothing foreign is at this name.
    pub(super) fn check_replaceable(&self, name: &str) -> io::Result<()> {
        let path = self.path.join(name);
        match fs::symlink_metadata(&path) {
            Ok(metadata) if !metadata.is_file() => Err(wrong_type(&path)),
            _ => Ok(()),
        }
    }

    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        fs::rename(self.path.join(from), self.path.join(to))
    }

    /// Removes a file, if it exists.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::remove_file(self.path.join(name)) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
            _ => Ok(()),
        }
    }

    /// Returns `true` if this open file still has this name, which is not checked here.
    #[expect(clippy::unused_self, clippy::unnecessary_wraps, reason = "the same as on Unix")]
    pub(super) fn is_at(&self, _file: &File, _name: &str) -> io::Result<bool> {
        Ok(true)
    }

    /// Returns the names of this many files at most.
    pub(super) fn names(&self, limit: usize) -> Vec<String> {
        let entries = fs::read_dir(&self.path).into_iter().flatten().take(limit);
        entries.filter_map(|entry| entry.ok()?.file_name().into_string().ok()).collect()
    }
}
