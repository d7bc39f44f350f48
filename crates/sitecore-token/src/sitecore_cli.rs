//! Reads the Sitecore CLI's login from `.sitecore/user.json`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io,
    path::{Path, PathBuf},
};

use secrecy::{ExposeSecret, SecretString};
use serde::Deserialize;

use crate::{
    credentials::ClientCredentials,
    endpoint::{Endpoint, SITECORE_AUTHORITY},
    error::{Error, Result},
    file,
    json::without_bom,
    text,
};

/// The CLI's name for the login to the cloud, as opposed to a login to one CM.
const CLOUD: &str = "xmCloud";

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
    /// [`Config`](crate::ErrorKind::Config) if there is no such file, if it cannot be read, or if
    /// its credentials or its issuer are missing or invalid. A file that others could have changed
    /// is not used either: one that belongs to another user, that others can write to, or that is a
    /// symbolic link or in a `.sitecore` folder that is one. The error names the file and what to
    /// do.
    pub fn from_sitecore_cli(start_dir: impl AsRef<Path>) -> Result<(Self, Endpoint)> {
        let start = start_dir.as_ref();
        let (path, file) = find(start)?;
        let place = path.display().to_string();
        let metadata = file.metadata().map_err(|error| unreadable(&path, error))?;
        if metadata.is_file()
            && let Some(reason) = file::distrust(&metadata)
        {
            return Err(Error::config(format!(
                "{place} {reason}, or pass the credentials in another way"
            )));
        }
        let bytes = file::read(file, &place)?;
        // The error gives the position but not the content, which could be the secret.
        let user: UserFile = serde_json::from_slice(without_bom(&bytes)).map_err(|error| {
            Error::config(format!(
                "{place} is not a login file of the Sitecore CLI (line {}, column {}); run `dotnet sitecore cloud login --client-credentials true`",
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
                "the endpoint `{CLOUD}` in {place} has no clientId and clientSecret; run `dotnet sitecore cloud login --client-credentials true`"
            )));
        };
        let member = |name| format!("`{name}` of endpoint `{CLOUD}` in {place}");
        let credentials = Self::new(
            text::check(&member("clientId"), id)?,
            text::check(&member("clientSecret"), secret.expose_secret())?,
        );
        let audience = login.audience.as_deref();
        let audience = audience.map(|text| text::check(&member("audience"), text)).transpose()?;
        let endpoint = Endpoint::of_authority(
            &member("authority"),
            login.authority.as_deref().unwrap_or(SITECORE_AUTHORITY),
            audience,
        )?;
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
        let folder = folder.join(".sitecore");
        let path = folder.join("user.json");
        let is_symlink = |path: &Path| path.symlink_metadata().is_ok_and(|data| data.is_symlink());
        if let Some(link) = [&folder, &path].into_iter().find(|path| is_symlink(path)) {
            return Err(Error::config(format!(
                "{} is a symbolic link and is not trusted; replace it with a copy of its target",
                link.display()
            )));
        }
        match file::open(&path, false) {
            Ok(file) => return Ok((path, file)),
            Err(error)
                if matches!(
                    error.kind(),
                    io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
                ) => {}
            Err(error) => return Err(unreadable(&path, error)),
        }
    }
    Err(Error::config(format!(
        "there is no .sitecore/user.json in {} or its parent folders; run `dotnet sitecore cloud login --client-credentials true`",
        start.display()
    )))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let path = path.display();
    Error::config(format!("cannot read {path}; check its permissions")).with_source(error)
}
