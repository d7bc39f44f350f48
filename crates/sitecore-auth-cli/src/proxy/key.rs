//! The proxy's own key, which callers send with each request.

use std::{fmt, fs, io::Write as _, path::Path};

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
        let shown = path.display();
        if path.exists() {
            #[cfg(unix)]
            if is_open(path)? {
                return Err(Failure::config(format!(
                    "other users have access to the key in {shown}"
                ))
                .hint(format!("run chmod 600 {shown}")));
            }
            let key = sitecore_token::read_credential(path)?;
            if key.expose_secret().len() < 32 {
                return Err(Failure::config(format!("the key in {shown} is too short"))
                    .hint("remove the file, and the proxy will create a new one"));
            }
            return Ok(Self(key.expose_secret().to_owned()));
        }
        let key = Self::random()?;
        let mut options = fs::OpenOptions::new();
        options.write(true).create_new(true);
        #[cfg(unix)]
        std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
        let written = options.open(path).and_then(|mut file| file.write_all(key.0.as_bytes()));
        written.map_err(|error| {
            Failure::config(format!("cannot write the key to {shown}: {error}"))
        })?;
        Ok(key)
    }

    pub(crate) fn as_bytes(&self) -> &[u8] {
        self.0.as_bytes()
    }

    /// Returns the key for those who are to call the proxy.
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
