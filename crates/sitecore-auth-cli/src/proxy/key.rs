//! The proxy's own key, which callers send with each request.

use std::{
    fmt, fs,
    io::{self, Write as _},
    path::Path,
};

use secrecy::ExposeSecret as _;

use crate::failure::{Failure, Kind, Result};

/// A random key. It is compared in constant time and never logged.
#[derive(Clone)]
pub(crate) struct Key(String);

impl Key {
    pub(crate) fn random() -> Result<Self> {
        let mut bytes = [0_u8; 32];
        getrandom::fill(&mut bytes).map_err(|error| {
            Failure::new(Kind::Unexpected, format!("cannot generate a key: {error}"))
        })?;
        Ok(Self(bytes.iter().map(|byte| format!("{byte:02x}")).collect()))
    }

    /// Reads the key from a file, or creates the file with a new key.
    pub(crate) fn in_file(path: &Path) -> Result<Self> {
        if !path.exists() {
            Self::random()?.save(path).map_err(|error| {
                Failure::config(format!("cannot write the key to {}: {error}", path.display()))
            })?;
        }
        Self::read(path)
    }

    /// Creates the file with this key, unless another process has just created it.
    fn save(&self, path: &Path) -> io::Result<()> {
        let create = |path: &Path| {
            let mut options = fs::OpenOptions::new();
            options.write(true).create_new(true);
            #[cfg(unix)]
            std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
            options.open(path).and_then(|mut file| file.write_all(self.0.as_bytes()))
        };
        let random = getrandom::u64().map_err(|error| io::Error::other(error.to_string()))?;
        // Another process never sees a part of the key.
        let mut new = path.as_os_str().to_owned();
        new.push(format!(".{:016x}.new", random));
        let new = Path::new(&new);
        create(new)?;
        let linked = fs::hard_link(new, path);
        let _ = fs::remove_file(new);
        match linked {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            // Some file systems have no hard links.
            Err(_) => create(path),
            Ok(()) => Ok(()),
        }
    }

    fn read(path: &Path) -> Result<Self> {
        let shown = path.display();
        #[cfg(unix)]
        if is_open(path)? {
            return Err(Failure::config(format!("other users have access to the key in {shown}"))
                .hint(format!("run chmod 600 {shown}")));
        }
        let key = sitecore_token::read_credential(path)?;
        if key.expose_secret().len() < 32 {
            return Err(Failure::config(format!("the key in {shown} is too short"))
                .hint("remove the file, and the proxy will create a new one"));
        }
        Ok(Self(key.expose_secret().to_owned()))
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the key, to pass to callers.
    pub(crate) fn reveal(&self) -> &str {
        &self.0
    }
}

/// Returns `true` if others can read the file, or the group can write it, or it belongs to a user
/// other than this one and root. The group may read it, as in a volume of Kubernetes.
#[cfg(unix)]
fn is_open(path: &Path) -> Result<bool> {
    use std::os::unix::fs::MetadataExt as _;

    let metadata = fs::metadata(path)?;
    let own = rustix::process::geteuid().as_raw();
    Ok(metadata.mode() & 0o027 != 0 || ![own, 0].contains(&metadata.uid()))
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Key(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn proxies_that_start_together_use_one_key() {
        for _ in 0..20 {
            let folder = tempfile::tempdir().unwrap();
            let path = &folder.path().join("key");
            let keys: Vec<_> = std::thread::scope(|scope| {
                let threads: Vec<_> =
                    (0..8).map(|_| scope.spawn(|| Key::in_file(path).unwrap().0)).collect();
                threads.into_iter().map(|thread| thread.join().unwrap()).collect()
            });
            assert!(keys.iter().all(|key| *key == keys[0]), "{keys:?}");
            assert_eq!(fs::read_dir(folder.path()).unwrap().count(), 1);
        }
    }
}
