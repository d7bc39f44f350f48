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

/// The audience of tokens that only CMs accept, and that last 15 min. The CLI uses it for its own
/// purposes.
const CM_AUDIENCE: &str = "https://xmcloud-cm.sitecorecloud.io";

const LOGIN: &str = "run `dotnet sitecore cloud login --client-credentials true`";

/// The parts of the file that we read.
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
    access_token: Option<SecretString>,
}

impl ClientCredentials {
    /// Reads the Sitecore CLI's cloud login: the endpoint `xmCloud` in the first
    /// `.sitecore/user.json` that is found in `start_dir` or its parent folders. The issuer comes
    /// from the same file.
    ///
    /// The CLI may have saved the audience `https://xmcloud-cm.sitecorecloud.io`, whose tokens last
    /// 15 min and are rejected by the REST APIs. It is replaced by Sitecore Cloud's usual one.
    ///
    /// # Errors
    ///
    /// [`Config`](crate::ErrorKind::Config) if there is no such file, if it cannot be read, or if
    /// its credentials or its issuer are missing or invalid. A file that others could have changed
    /// is not used either: one that belongs to another user, that others can write to, or that is a
    /// symbolic link or in a `.sitecore` folder that is one. An interactive login has no client
    /// secret. The error names the file and what to do.
    pub fn from_sitecore_cli(start_dir: impl AsRef<Path>) -> Result<(Self, Endpoint)> {
        let (place, login) = Login::read(start_dir.as_ref())?;
        let (Some(id), Some(secret)) = (&login.client_id, &login.client_secret) else {
            let kind = if login.access_token.is_some() { " (an interactive login)" } else { "" };
            return Err(Error::config(format!(
                "the endpoint `{CLOUD}` in {place} does not have both clientId and clientSecret{kind}; {LOGIN}"
            )));
        };
        let member = |name| format!("`{name}` of endpoint `{CLOUD}` in {place}");
        let credentials = Self::new(
            text::check(&member("clientId"), id)?,
            text::check(&member("clientSecret"), secret.expose_secret())?,
        );
        let audience = login.audience.as_deref();
        let audience = audience.map(|text| text::check(&member("audience"), text)).transpose()?;
        let audience = audience.filter(|audience| *audience != CM_AUDIENCE);
        let endpoint = Endpoint::of_authority(
            &member("authority"),
            login.authority.as_deref().unwrap_or(SITECORE_AUTHORITY),
            audience,
        )?;
        Ok((credentials, endpoint))
    }
}

impl Login {
    /// Reads the nearest file. Returns its path too, for messages.
    fn read(start: &Path) -> Result<(String, Self)> {
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
        let mut user: UserFile = serde_json::from_slice(without_bom(&bytes)).map_err(|error| {
            Error::config(format!(
                "{place} is not a login file of the Sitecore CLI (line {}, column {}); {LOGIN}",
                error.line(),
                error.column()
            ))
        })?;
        let login = user
            .endpoints
            .remove(CLOUD)
            .ok_or_else(|| Error::config(format!("{place} has no endpoint `{CLOUD}`; {LOGIN}")))?;
        Ok((place, login))
    }
}

/// Reads the access token of an interactive login with the Sitecore CLI, from the same file as
/// [`ClientCredentials::from_sitecore_cli`].
///
/// # Errors
///
/// [`Config`](crate::ErrorKind::Config) as there, or if the file contains no access token or the
/// login of a client.
#[doc(hidden)]
pub fn access_token_from_sitecore_cli(start_dir: impl AsRef<Path>) -> Result<SecretString> {
    let (place, login) = Login::read(start_dir.as_ref())?;
    if login.client_secret.is_some() {
        return Err(Error::config(format!(
            "the endpoint `{CLOUD}` in {place} is not an interactive login, because it has a clientSecret"
        )));
    }
    let token = login.access_token.ok_or_else(|| {
        Error::config(format!(
            "the endpoint `{CLOUD}` in {place} has no accessToken; run `dotnet sitecore cloud login`"
        ))
    })?;
    let member = format!("`accessToken` of endpoint `{CLOUD}` in {place}");
    Ok(text::check(&member, token.expose_secret())?.into())
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
        "there is no .sitecore/user.json in {} or its parent folders; {LOGIN}",
        start.display()
    )))
}

fn unreadable(path: &Path, error: io::Error) -> Error {
    let path = path.display();
    Error::config(format!("cannot read {path}; check its permissions")).with_source(error)
}
