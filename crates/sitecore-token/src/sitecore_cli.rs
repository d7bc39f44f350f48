//! The login that the Sitecore CLI left behind in `.sitecore/user.json`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{ClientCredentials, Endpoint, Error, Result};

/// The name under which the CLI keeps the login to the cloud, rather than to one CM.
const CLOUD: &str = "xmCloud";

/// More than the CLI ever writes.
const MAX_BYTES: u64 = 1024 * 1024;

/// What of the file is read; the tokens in it are not.
#[derive(Deserialize)]
struct UserFile {
    #[serde(default)]
    endpoints: BTreeMap<String, Login>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Login {
    authority: Option<String>,
    audience: Option<String>,
    client_id: Option<String>,
    client_secret: Option<SecretString>,
}

impl ClientCredentials {
    /// Reads the cloud login of the Sitecore CLI: the first `.sitecore/user.json` found in `start_dir`
    /// or a folder above it, endpoint `xmCloud`. The issuer comes from the same file.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config), naming the file and what to do, if there is no such file,
    /// if it belongs to another user (who could have put credentials of their own there), if it cannot
    /// be read, or if it holds no client credentials.
    pub fn from_sitecore_cli(start_dir: impl AsRef<Path>) -> Result<(Self, Endpoint)> {
        let start = start_dir.as_ref();
        let (path, mut file) = find(start)?;
        let place = path.display();
        let unreadable = |error: io::Error| {
            Error::config(format!("{place} cannot be read: check its permissions"))
                .with_source(error)
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Error::config(format!("{place} cannot be read: it is no ordinary file")));
        }
        if !is_ours(&metadata) {
            return Err(Error::config(format!(
                "{place} belongs to another user and is not trusted: log in again as yourself, or pass the credentials"
            )));
        }
        let mut text = Zeroizing::new(Vec::new());
        file.by_ref().take(MAX_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        // Where parsing stopped is told, what stood there is not: it could be the secret.
        let user: UserFile = serde_json::from_slice(without_bom(&text)).map_err(|error| {
            Error::config(format!(
                "{place} is not what the Sitecore CLI writes (line {}, column {}): log in again",
                error.line(),
                error.column()
            ))
        })?;
        let login = user.endpoints.get(CLOUD).ok_or_else(|| {
            Error::config(format!(
                "{place} has no endpoint `{CLOUD}`: run `dotnet sitecore cloud login --client-credentials`"
            ))
        })?;
        let (Some(id), Some(secret)) = (&login.client_id, &login.client_secret) else {
            return Err(Error::config(format!(
                "endpoint `{CLOUD}` in {place} has no clientId and clientSecret: log in with `--client-credentials`"
            )));
        };
        let credentials = Self::new(id.as_str(), secret.clone());
        credentials
            .check()
            .map_err(|error| Error::config(format!("endpoint `{CLOUD}` in {place}: {error}")))?;
        let endpoint = match (&login.authority, &login.audience) {
            (None, None) => Endpoint::sitecore_cloud(),
            (authority, audience) => Endpoint::of_authority(
                &format!("`authority` of endpoint `{CLOUD}` in {place}"),
                authority.as_deref().unwrap_or(crate::endpoint::SITECORE_AUTHORITY),
                audience.as_deref(),
            )?,
        };
        Ok((credentials, endpoint))
    }
}

/// Opens the nearest file, so that what is checked afterwards is what is read.
fn find(start: &Path) -> Result<(PathBuf, File)> {
    let start = fs::canonicalize(start).map_err(|error| {
        Error::config(format!(
            "the folder {} cannot be opened: give one that exists",
            start.display()
        ))
        .with_source(error)
    })?;
    for folder in start.ancestors() {
        let path = folder.join(".sitecore").join("user.json");
        match open(&path) {
            Ok(file) => return Ok((path, file)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => {
                let message = format!("{} cannot be read: check its permissions", path.display());
                return Err(Error::config(message).with_source(error));
            }
        }
    }
    Err(Error::config(format!(
        "no .sitecore/user.json in {} or a folder above it: run `dotnet sitecore cloud login --client-credentials`",
        start.display()
    )))
}

/// Opens without waiting, should somebody have put a pipe there.
#[cfg(unix)]
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt as _;
    let nonblocking = rustix::fs::OFlags::NONBLOCK.bits().cast_signed();
    File::options().read(true).custom_flags(nonblocking).open(path)
}

#[cfg(not(unix))]
fn open(path: &Path) -> io::Result<File> {
    File::open(path)
}

#[cfg(unix)]
fn is_ours(metadata: &fs::Metadata) -> bool {
    use std::os::unix::fs::MetadataExt as _;
    metadata.uid() == rustix::process::geteuid().as_raw()
}

/// Elsewhere the folders' own permissions are the protection.
#[cfg(not(unix))]
fn is_ours(_: &fs::Metadata) -> bool {
    true
}

/// .NET writes a byte order mark in front of UTF-8.
pub(crate) fn without_bom(text: &[u8]) -> &[u8] {
    text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text)
}
