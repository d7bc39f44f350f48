//! Reads the Sitecore CLI's login from `.sitecore/user.json`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, Read as _},
    path::{Path, PathBuf},
};

use secrecy::SecretString;
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::{
    credentials::ClientCredentials,
    endpoint::{Endpoint, SITECORE_AUTHORITY},
    error::{Error, Result},
    json::without_bom,
};

/// The CLI's name for the login to the cloud, as opposed to a login to one CM.
const CLOUD: &str = "xmCloud";

/// Larger than any file that the CLI writes.
const MAX_BYTES: u64 = 1024 * 1024;

/// The parts of the file that we read. Its tokens are ignored.
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
    /// Reads the Sitecore CLI's cloud login: the endpoint `xmCloud` in the first
    /// `.sitecore/user.json` that is found in `start_dir` or its parent folders. The issuer comes
    /// from the same file.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if there is no such file, if it cannot be read, if it
    /// contains no client credentials, or if it belongs to another user, who could have put their
    /// own credentials there. The error names the file and what to do.
    pub fn from_sitecore_cli(start_dir: impl AsRef<Path>) -> Result<(Self, Endpoint)> {
        let start = start_dir.as_ref();
        let (path, mut file) = find(start)?;
        let place = path.display();
        let unreadable = |error: io::Error| {
            Error::config(format!("cannot read {place}; check its permissions")).with_source(error)
        };
        let metadata = file.metadata().map_err(unreadable)?;
        if !metadata.is_file() {
            return Err(Error::config(format!("{place} is not a regular file")));
        }
        if !is_ours(&metadata) {
            return Err(Error::config(format!(
                "{place} belongs to another user and is not trusted; log in again as yourself, or pass the credentials in another way"
            )));
        }
        let mut text = Zeroizing::new(Vec::new());
        file.by_ref().take(MAX_BYTES).read_to_end(&mut text).map_err(unreadable)?;
        // The error gives the position but not the content, which could be the secret.
        let user: UserFile = serde_json::from_slice(without_bom(&text)).map_err(|error| {
            Error::config(format!(
                "{place} is not a login file of the Sitecore CLI (line {}, column {}); log in again",
                error.line(),
                error.column()
            ))
        })?;
        let login = user.endpoints.get(CLOUD).ok_or_else(|| {
            Error::config(format!(
                "{place} has no endpoint `{CLOUD}`; run `dotnet sitecore cloud login --client-credentials true`"
            ))
        })?;
        let (Some(id), Some(secret)) = (&login.client_id, &login.client_secret) else {
            return Err(Error::config(format!(
                "the endpoint `{CLOUD}` in {place} has no clientId and clientSecret; log in with `--client-credentials true`"
            )));
        };
        let credentials = Self::new(id.as_str(), secret.clone());
        credentials.check().map_err(|error| {
            Error::config(format!("the endpoint `{CLOUD}` in {place} is invalid: {error}"))
        })?;
        let endpoint = match (&login.authority, &login.audience) {
            (None, None) => Endpoint::sitecore_cloud(),
            (authority, audience) => Endpoint::of_authority(
                &format!("`authority` of endpoint `{CLOUD}` in {place}"),
                authority.as_deref().unwrap_or(SITECORE_AUTHORITY),
                audience.as_deref(),
            )?,
        };
        Ok((credentials, endpoint))
    }
}

/// Opens the nearest file. The open file is then checked and read, so it cannot be exchanged in
/// between.
fn find(start: &Path) -> Result<(PathBuf, File)> {
    let start = fs::canonicalize(start).map_err(|error| {
        Error::config(format!("cannot open the folder {}; use an existing one", start.display()))
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
                let message = format!("cannot read {}; check its permissions", path.display());
                return Err(Error::config(message).with_source(error));
            }
        }
    }
    Err(Error::config(format!(
        "there is no .sitecore/user.json in {} or its parent folders; run `dotnet sitecore cloud login --client-credentials true`",
        start.display()
    )))
}

/// Opens without blocking, in case the path is a pipe.
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

/// On other systems, the folder's own permissions must protect the file.
#[cfg(not(unix))]
fn is_ours(_: &fs::Metadata) -> bool {
    true
}
