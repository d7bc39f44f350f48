//! A store in a folder, for the processes of one user on one machine.

use std::{
    fmt,
    fs::{File, TryLockError},
    io::{self, Read as _, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use etcetera::BaseStrategy as _;
use sitecore_auth::{Clock as _, Error, ErrorKind, Result, SystemClock};
use tokio::{
    sync::{OwnedSemaphorePermit, Semaphore},
    task::spawn_blocking,
};

#[cfg_attr(unix, path = "unix.rs")]
#[cfg_attr(not(unix), path = "other.rs")]
mod folder;

use folder::Folder;

use crate::{
    seal::random_id,
    store::{Lease, Stored, TokenStore},
};

/// Entries are shorter. A longer file counts as missing.
const MAX_BYTES: u64 = 128 * 1024;

/// Limits how many of the runtime's threads a hanging disk can block.
static DISK_PERMITS: Semaphore = Semaphore::const_new(16);

/// Limits how many lease files a store and its clones have open. Further leases are granted without
/// a file, and exclude no other caller.
const MAX_LEASE_FILES: usize = 128;

/// A holder that has not extended its lease for this long counts as frozen. `SharedSource` extends
/// leases more often than this.
const FROZEN_AFTER: Duration = Duration::from_secs(5);

/// Partial files older than this belong to writers that were killed.
const STALE_PARTIAL_AGE: Duration = Duration::from_secs(3_600);

/// Lease files that no process has used for this long are removed.
const STALE_LEASE_AGE: Duration = Duration::from_secs(24 * 3_600);

/// How many files of the folder are checked when it is opened, to remove expired ones.
const MAX_SWEPT: usize = 1_000;

/// Allows for a disk that is slow, and for many caches that use it at once.
const CALL_TIMEOUT: Duration = Duration::from_secs(1);

/// Keeps entries as files that only this user can read, in a folder that only this user can open.
///
/// An entry is written to a temporary file and renamed, so readers see either the old entry or the
/// new one. A lease is an operating system lock on a file. It ends when its process ends or is
/// killed, or has been frozen for 5 s. An expired entry is removed when it is read. Opening the
/// folder removes expired entries, abandoned partial files and unused lease files.
///
/// The folder is opened once and then used by its handle. Folders or files that belong to another
/// user, are accessible to others, or are symlinks are not used, and nothing that the store did not
/// create is touched. On non-Unix systems, ownership and permissions are not checked, and each call
/// uses the folder's path; protect the folder yourself.
#[derive(Clone)]
pub struct FileStore {
    path: Option<PathBuf>,
    folder: Arc<Mutex<Option<Arc<Folder>>>>,
    leases: Arc<Semaphore>,
}

/// A locked file. Its modification time shows that the holder is alive.
struct FileLease {
    file: File,
    _permit: OwnedSemaphorePermit,
}

impl FileStore {
    /// Creates a store in the folder `sitecore-auth` inside the platform's cache folder.
    ///
    /// # Errors
    ///
    /// Like [`in_dir`](Self::in_dir).
    pub fn new() -> Result<Self> {
        match etcetera::choose_base_strategy() {
            Ok(strategy) => Self::in_dir(strategy.cache_dir().join("sitecore-auth")),
            Err(_) => Ok(Self::at(None)),
        }
    }

    /// Creates a store in a folder, and the folder if it does not exist.
    ///
    /// If the folder cannot be created, the program works as without a store, and the log says why.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the folder is a symlink, belongs to another user, or is
    /// accessible to others. The error says how to fix it.
    pub fn in_dir(folder: impl Into<PathBuf>) -> Result<Self> {
        // Removes a trailing slash, which would hide a symlink.
        let store = Self::at(Some(folder.into().components().collect()));
        match store.folder() {
            Err(error) if is_insecure(&error) => Err(Error::new(ErrorKind::Config, error)),
            _ => Ok(store),
        }
    }

    fn at(path: Option<PathBuf>) -> Self {
        let leases = Arc::new(Semaphore::new(MAX_LEASE_FILES));
        Self { path, folder: Arc::default(), leases }
    }

    /// Returns the open folder. Opens it the first time, and again if it was deleted.
    fn folder(&self) -> io::Result<Arc<Folder>> {
        let mut open = self.folder.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(folder) = open.as_ref()
            && folder.check()?
        {
            return Ok(Arc::clone(folder));
        }
        let path = self
            .path
            .as_ref()
            .ok_or_else(|| io::Error::other("no home folder found; use FileStore::in_dir"))?;
        let folder = Arc::new(Folder::open(path).map_err(|error| {
            if is_insecure(&error) {
                return error;
            }
            let message = format!(
                "could not open {} ({error}); use FileStore::in_dir with another folder",
                path.display()
            );
            io::Error::new(error.kind(), message)
        })?);
        sweep(&folder);
        *open = Some(Arc::clone(&folder));
        Ok(folder)
    }

    /// Runs blocking file access outside the async worker threads.
    async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Folder) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = DISK_PERMITS.acquire().await.map_err(io::Error::other)?;
        let store = self.clone();
        spawn_blocking(move || {
            let _permit = permit;
            work(&*store.folder()?)
        })
        .await?
    }
}

#[async_trait]
impl TokenStore for FileStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        let name = entry_file(name);
        self.blocking(move |folder| Ok(read(folder, &name)?.map(Stored::new))).await
    }

    async fn save(&self, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
        let (name, entry) = (entry_file(name), entry.to_owned());
        self.blocking(move |folder| write(folder, &name, &entry, keep)).await
    }

    async fn try_lease(&self, name: &str, _duration: Duration) -> io::Result<Option<Lease>> {
        let Ok(permit) = Arc::clone(&self.leases).try_acquire_owned() else {
            return Ok(Some(Lease::new(())));
        };
        let name = lease_file(name);
        self.blocking(move |folder| {
            let file = lock(folder, &name)?;
            Ok(file.map(|file| Lease::new(FileLease { file, _permit: permit })))
        })
        .await
    }

    async fn extend(&self, name: &str, lease: &Lease, _duration: Duration) -> io::Result<bool> {
        let Some(lease) = lease.handle::<FileLease>() else {
            return Ok(true);
        };
        let (name, file) = (lease_file(name), lease.file.try_clone()?);
        self.blocking(move |folder| {
            file.set_modified(now())?;
            folder.is_at(&file, &name)
        })
        .await
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        let Some(held) = lease.handle::<FileLease>() else {
            return Ok(());
        };
        let (name, file) = (lease_file(name), held.file.try_clone()?);
        self.blocking(move |folder| {
            // The others notice that the file they wait for is gone.
            if folder.is_at(&file, &name)? {
                folder.remove(&name)?;
            }
            file.unlock()
        })
        .await
    }

    fn call_timeout(&self) -> Duration {
        CALL_TIMEOUT
    }
}

impl fmt::Debug for FileStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FileStore").field("folder", &self.path).finish_non_exhaustive()
    }
}

fn entry_file(name: &str) -> String {
    format!("{name}.entry")
}

fn lease_file(name: &str) -> String {
    format!("{name}.lock")
}

fn read(folder: &Folder, name: &str) -> io::Result<Option<Vec<u8>>> {
    let Some(file) = folder.open_file(name)? else {
        return Ok(None);
    };
    // An entry is kept until its file's modification time, which is set in the future.
    if age(&file)? > Duration::ZERO {
        if folder.is_at(&file, name)? {
            folder.remove(name)?;
        }
        return Ok(None);
    }
    let mut entry = Vec::new();
    (&file).take(MAX_BYTES + 1).read_to_end(&mut entry)?;
    Ok((entry.len() as u64 <= MAX_BYTES).then_some(entry))
}

fn write(folder: &Folder, name: &str, entry: &[u8], keep: Duration) -> io::Result<()> {
    folder.check_replaceable(name)?;
    let partial = format!("{name}.{:032x}.new", random_id());
    let write = || {
        let mut file = folder.create_file(&partial)?;
        file.write_all(entry)?;
        file.set_modified(now() + keep)?;
        folder.rename(&partial, name)
    };
    let result = write();
    if result.is_err() {
        let _ = folder.remove(&partial);
    }
    result
}

/// Locks a file, or returns `None` if another process has locked it.
fn lock(folder: &Folder, name: &str) -> io::Result<Option<File>> {
    // Once to notice that the file was released or its holder is frozen, and once to use a new one.
    for _ in 0..2 {
        let file = folder.open_or_create_file(name)?;
        let locked = file.try_lock();
        // The previous holder may have removed the file before it was locked.
        let is_current = folder.is_at(&file, name)?;
        match locked {
            Ok(()) if is_current => {
                file.set_modified(now())?;
                return Ok(Some(file));
            }
            Ok(()) => {}
            Err(TryLockError::Error(error)) => return Err(error),
            Err(TryLockError::WouldBlock) if age(&file)? < FROZEN_AFTER => return Ok(None),
            Err(TryLockError::WouldBlock) if is_current => folder.remove(name)?,
            Err(TryLockError::WouldBlock) => {}
        }
    }
    Ok(None)
}

/// Removes expired files of the store, as far as that takes little time.
fn sweep(folder: &Folder) {
    for name in folder.names(MAX_SWEPT) {
        let Some(kept_for) = kept_for(&name) else {
            continue;
        };
        if let Ok(Some(file)) = folder.open_file(&name)
            && age(&file).is_ok_and(|age| age > kept_for)
            && (!name.ends_with(".lock") || file.try_lock().is_ok())
        {
            let _ = folder.remove(&name);
        }
    }
}

/// Returns how long after its modification time a file of the store is removed; `None` if its name
/// is not one that a store gives.
fn kept_for(name: &str) -> Option<Duration> {
    let is_hex = |text: &str| {
        text.len() == 32 && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
    };
    let (_, extension) = name.split_once('.').filter(|(entry, _)| is_hex(entry))?;
    match extension {
        "entry" => Some(Duration::ZERO),
        "lock" => Some(STALE_LEASE_AGE),
        other => {
            let random = other.strip_prefix("entry.")?.strip_suffix(".new")?;
            is_hex(random).then_some(STALE_PARTIAL_AGE)
        }
    }
}

/// Returns the time since the file's modification time; zero if that lies in the future.
fn age(file: &File) -> io::Result<Duration> {
    Ok(now().duration_since(file.metadata()?.modified()?).unwrap_or_default())
}

fn now() -> SystemTime {
    UNIX_EPOCH + SystemClock.now().wall()
}

/// Why a folder or file is not used, and how to fix it.
#[derive(Debug)]
struct Insecure(String);

impl fmt::Display for Insecure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Insecure {}

fn wrong_type(path: &Path) -> io::Error {
    let shown = path.display();
    insecure(format!("{shown} is a symlink or of the wrong type; remove it, or use another folder"))
}

fn insecure(message: String) -> io::Error {
    io::Error::other(Insecure(message))
}

fn is_insecure(error: &io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Insecure>())
}
