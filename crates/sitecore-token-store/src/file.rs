//! A store in a folder, for the processes of one machine and one user.

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

use crate::{Lease, Stored, TokenStore};

/// No entry is longer.
const MAX_BYTES: u64 = 128 * 1024;

/// A disk that hangs takes no more of the runtime's threads than this.
static AT_ONCE: Semaphore = Semaphore::const_new(16);

/// What a writer that was killed has left is removed after this.
const LEFT: Duration = Duration::from_secs(3_600);

/// Keeps entries as files that only this user can read, in a folder that only this user can open.
///
/// An entry is written beside the old one and renamed: at any moment there is the old one or the new one, whole.
/// A lease is a lock of the operating system on a file: it ends with the process that has it, however that ends.
/// A folder or file that belongs to another user, is open to others or is a link, is not used. On other systems than
/// Unix neither owner nor rights are looked at: there the folder's own must keep others out.
#[derive(Clone, Debug)]
pub struct FileStore {
    folder: PathBuf,
}

impl FileStore {
    /// Uses the folder `sitecore-auth` where this platform has its caches.
    ///
    /// # Errors
    ///
    /// As [`at`](Self::at); also if the platform's folder cannot be found out.
    pub fn new() -> Result<Self> {
        let strategy = etcetera::choose_base_strategy().map_err(|error| {
            config(format!("there is no home folder ({error}): use FileStore::at"))
        })?;
        Self::in_dir(strategy.cache_dir().join("sitecore-auth"))
    }

    /// Uses a folder, which is made if it is not there.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if the folder cannot be made, is a link, belongs to another user or is open to
    /// others. The error says how to mend it. A disk that is full or read-only is no error: nothing is shared then.
    pub fn in_dir(folder: impl Into<PathBuf>) -> Result<Self> {
        // Without a slash at its end, which would hide a link.
        let folder: PathBuf = folder.into().components().collect();
        match prepare(&folder) {
            Err(error) if !is_missing_store(&error) => Err(config(error.to_string())),
            _ => Ok(Self { folder }),
        }
    }

    fn path(&self, name: &str, ending: &str) -> PathBuf {
        self.folder.join(format!("{name}.{ending}"))
    }

    /// Runs what waits for a disk where that hurts nobody.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&Self) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let permit = AT_ONCE.acquire().await.map_err(io::Error::other)?;
        let store = self.clone();
        spawn_blocking(move || {
            let _permit = permit;
            prepare(&store.folder)?;
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
        let beside = self.path(name, &format!("{:016x}.new", fastrand::u64(..)));
        let written = (|| {
            let mut file = open(&beside, OpenOptions::new().write(true).create_new(true))?;
            file.write_all(entry)?;
            file.sync_all()?;
            fs::rename(&beside, self.path(name, "entry"))?;
            // So that the name too survives a power cut.
            #[cfg(unix)]
            File::open(&self.folder)?.sync_all()?;
            Ok(())
        })();
        if written.is_err() {
            let _ = fs::remove_file(&beside);
        }
        let _ = self.sweep();
        written
    }

    /// Removes what writers have left that were killed.
    fn sweep(&self) -> io::Result<()> {
        for file in fs::read_dir(&self.folder)? {
            let file = file?;
            let is_new = file.path().extension().is_some_and(|ending| ending == "new");
            let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
            if is_new && age > LEFT {
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
                // Where nothing can be written nobody would save what the others wait for.
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
        self.run(move |store| store.read(&name)).await
    }

    async fn save(&self, name: &str, entry: &[u8], _keep: Duration) -> io::Result<()> {
        let (name, entry) = (name.to_owned(), entry.to_owned());
        self.run(move |store| store.write(&name, &entry)).await
    }

    async fn try_lease(&self, name: &str, _life: Duration) -> io::Result<Option<Lease>> {
        let name = name.to_owned();
        self.run(move |store| store.lock(&name)).await
    }
}

/// Opens a file that only this user can read, and never by way of a link.
fn open(path: &Path, options: &mut OpenOptions) -> io::Result<File> {
    #[cfg(unix)]
    {
        use rustix::fs::OFlags;
        use std::os::unix::fs::OpenOptionsExt as _;
        // What is no file, such as a pipe, is not waited for.
        let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
        options.mode(0o600).custom_flags(flags.bits().cast_signed());
    }
    let file = options.open(path)?;
    let metadata = file.metadata()?;
    check(path, &metadata, metadata.is_file())?;
    Ok(file)
}

/// Makes the folder, if it is not there, and looks at whose it is.
fn prepare(folder: &Path) -> io::Result<()> {
    let made = || {
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
    let metadata = made().map_err(|error| {
        let shown = folder.display();
        let message =
            format!("{shown} cannot be made ({error}): use FileStore::at with another folder");
        io::Error::new(error.kind(), message)
    })?;
    check(folder, &metadata, metadata.is_dir())
}

/// Refuses what others could read or change, and says how to mend it.
fn check(path: &Path, metadata: &fs::Metadata, is_kind: bool) -> io::Result<()> {
    let shown = path.display();
    let refused = |message| Err(io::Error::other(message));
    if !is_kind {
        return refused(format!(
            "{shown} is a link, or something else than was expected here: use another folder"
        ));
    }
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt as _;
        let (user, owner) = (rustix::process::geteuid().as_raw(), metadata.uid());
        if owner != user {
            return refused(format!(
                "{shown} belongs to user {owner}, and this process runs as user {user}: use another folder, for it serves one user"
            ));
        }
        if metadata.mode() & 0o077 != 0 {
            return refused(match metadata.is_dir() {
                true => format!(
                    "{shown} is open to others: use a folder within it, or chmod 700 it if it is for this alone"
                ),
                false => format!("{shown} is open to others: chmod 600 it"),
            });
        }
    }
    #[cfg(not(unix))]
    let _ = metadata;
    Ok(())
}

/// Tells what is nobody's mistake.
fn is_missing_store(error: &io::Error) -> bool {
    use io::ErrorKind::{QuotaExceeded, ReadOnlyFilesystem, StorageFull};
    matches!(error.kind(), QuotaExceeded | ReadOnlyFilesystem | StorageFull)
}

fn config(message: String) -> Error {
    Error::new(ErrorKind::Config, message)
}
