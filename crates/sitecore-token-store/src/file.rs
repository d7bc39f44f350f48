//! A store in a folder, for the processes of one user on one machine.

use std::{
    fs::{self, DirBuilder, File, OpenOptions, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    time::Duration,
};

use async_trait::async_trait;
use etcetera::BaseStrategy as _;
use sitecore_auth::{Error, ErrorKind, Result};
use tokio::{sync::Semaphore, task::spawn_blocking};

use crate::store::{Lease, Stored, TokenStore};

/// Only this much of a file is read. Entries are shorter.
const MAX_BYTES: u64 = 128 * 1024;

/// Limits how many of the runtime's threads a hanging disk can block.
static DISK_PERMITS: Semaphore = Semaphore::const_new(16);

/// Temporary files older than this belong to writers that were killed.
const STALE_TEMP_AGE: Duration = Duration::from_secs(3_600);

/// Keeps entries as files that only this user can read, in a folder that only this user can open.
///
/// An entry is written to a temporary file and renamed, so readers see either the old entry or the
/// new one. A lease is an operating system lock on a file. It ends with its process, even if that
/// is killed.
///
/// Folders or files that belong to another user, are accessible to others, or are symlinks are not
/// used. On non-Unix systems, ownership and permissions are not checked; protect the folder
/// yourself.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
}

impl FileStore {
    /// Creates a store in the folder `sitecore-auth` inside the platform's cache folder.
    ///
    /// # Errors
    ///
    /// Like [`in_dir`](Self::in_dir), and also if the platform's folder cannot be determined.
    pub fn new() -> Result<Self> {
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            config(format!("no home folder found ({error}); use FileStore::in_dir"))
        })?;
        Self::in_dir(strategy.cache_dir().join("sitecore-auth"))
    }

    /// Creates a store in a folder, and the folder if it does not exist.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the folder cannot be created, is a symlink, belongs to
    /// another user, or is accessible to others. The error says how to fix it. A disk that is full
    /// or read-only is not an error, but nothing is shared then.
    pub fn in_dir(folder: impl Into<PathBuf>) -> Result<Self> {
        // Removes a trailing slash, which would hide a symlink.
        let folder: PathBuf = folder.into().components().collect();
        match ensure_private_dir(&folder) {
            Err(error) if !is_full_or_read_only(&error) => Err(config(error.to_string())),
            _ => Ok(Self { folder }),
        }
    }

    fn path(&self, name: &str, extension: &str) -> PathBuf {
        self.folder.join(format!("{name}.{extension}"))
    }

    fn temp_path(&self, name: &str) -> PathBuf {
        self.path(name, &format!("{:016x}.new", fastrand::u64(..)))
    }

    /// Runs blocking file access outside the async worker threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = DISK_PERMITS.acquire().await.map_err(io::Error::other)?;
        let store = self.clone();
        spawn_blocking(move || {
            let _permit = permit;
            ensure_private_dir(&store.folder)?;
            work(&store)
        })
        .await?
    }

    fn read(&self, name: &str) -> io::Result<Option<Stored>> {
        let path = self.path(name, "entry");
        let file = match open(&path, OpenOptions::new().read(true)) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file?,
        };
        let mut entry = Vec::new();
        file.take(MAX_BYTES).read_to_end(&mut entry)?;
        Ok(Some(Stored::new(entry)))
    }

    fn write(&self, name: &str, entry: &[u8]) -> io::Result<()> {
        let temp_path = self.temp_path(name);
        let result = (|| {
            let mut file = open(&temp_path, OpenOptions::new().write(true).create_new(true))?;
            file.write_all(entry)?;
            file.sync_all()?;
            fs::rename(&temp_path, self.path(name, "entry"))?;
            // Makes the rename survive a power failure too.
            #[cfg(unix)]
            File::open(&self.folder)?.sync_all()?;
            Ok(())
        })();
        if result.is_err() {
            let _ = fs::remove_file(&temp_path);
        }
        let _ = self.remove_stale_temp_files();
        result
    }

    fn remove_stale_temp_files(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let is_temp = file.path().extension().is_some_and(|extension| extension == "new");
            let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_temp && age > STALE_TEMP_AGE {
                fs::remove_file(file.path())?;
            }
        }
        Ok(())
    }

    fn lock(&self, name: &str) -> io::Result<Option<Lease>> {
        let path = self.path(name, "lock");
        let file = open(&path, OpenOptions::new().write(true).create(true).truncate(false))?;
        match file.try_lock() {
            Ok(()) => {
                // Shows that this process can write. If it cannot, the others would wait in vain
                // for it to save a token.
                file.set_len(0)?;
                (&file).write_all(std::process::id().to_string().as_bytes())?;
                Ok(Some(Lease::new(file)))
            }
            Err(TryLockError::WouldBlock) => Ok(None),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }
}

#[async_trait]
impl TokenStore for FileStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        let name = name.to_owned();
        self.blocking(move |store| store.read(&name)).await
    }

    async fn save(&self, name: &str, entry: &[u8], _keep: Duration) -> io::Result<()> {
        let (name, entry) = (name.to_owned(), entry.to_owned());
        self.blocking(move |store| store.write(&name, &entry)).await
    }

    async fn try_lease(&self, name: &str, _duration: Duration) -> io::Result<Option<Lease>> {
        let name = name.to_owned();
        self.blocking(move |store| store.lock(&name)).await
    }
}

/// Opens a file that only this user can read, and never follows a symlink.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // Without `NONBLOCK`, opening a named pipe would block.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    check_private(path, &metadata, metadata.is_file())?;
    Ok(file)
}

/// Creates the folder if it does not exist, and checks that only this user can access it.
fn ensure_private_dir(folder: &Path) -> io::Result<()> {
    let create = || {
        if fs::symlink_metadata(folder).is_err_and(|error| error.kind() == io::ErrorKind::NotFound)
        {
            let mut builder = DirBuilder::new();
            builder.recursive(true);
            #[cfg(unix)]
            std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
            builder.create(folder)?;
        }
        fs::symlink_metadata(folder)
    };
    let metadata = create().map_err(|error| {
        let shown = folder.display();
        let message = format!(
            "could not create {shown} ({error}); use FileStore::in_dir with another folder"
        );
        io::Error::new(error.kind(), message)
    })?;
    check_private(folder, &metadata, metadata.is_dir())
}

/// Checks that others can neither read nor change the file or folder. The error says how to fix it.
fn check_private(path: &Path, metadata: &fs::Metadata, is_expected_type: bool) -> io::Result<()> {
    let shown = path.display();
    let fail = |message| Err(io::Error::other(message));
    if !is_expected_type {
        return fail(format!(
            "{shown} is a symlink or of the wrong type; remove it, or use another folder"
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (user, owner) = (rustix::process::geteuid().as_raw(), metadata.uid());
        if owner != user {
            return fail(format!(
                "{shown} belongs to user {owner}, but this process runs as user {user}; use a separate folder for each user"
            ));
        }
        if metadata.mode() & 0o077 != 0 {
            return fail(match metadata.is_dir() {
                true => format!(
                    "{shown} is accessible to other users; use a subfolder, or chmod 700 it if nothing else uses it"
                ),
                false => format!("{shown} is accessible to other users; chmod 600 it"),
            });
        }
    }
    #[cfg(not(unix))]
    let _ = metadata;
    Ok(())
}

/// Returns `true` if the disk is full or read-only. This is not a configuration error.
fn is_full_or_read_only(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
