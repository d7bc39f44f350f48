//! The configuration file, `sitecore-auth.toml`.

use std::{
    collections::BTreeMap,
    env, fs, io,
    path::{Path, PathBuf},
};

use etcetera::BaseStrategy as _;
use serde::Deserialize;

use crate::failure::{Failure, Result};

const NAME: &str = "sitecore-auth.toml";

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
struct Contents {
    #[serde(default)]
    credentials: BTreeMap<String, Credentials>,
    #[serde(default)]
    hosts: Hosts,
    /// Which credentials belong to which API.
    #[serde(default)]
    apis: Apis,
}

/// A client. The secret itself is never in this file.
#[derive(Debug, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Credentials {
    pub(crate) client_id: String,
    /// Relative to the configuration file.
    pub(crate) secret_file: Option<PathBuf>,
    pub(crate) secret_variable: Option<String>,
    pub(crate) authority: Option<String>,
    pub(crate) audience: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Hosts {
    pub(crate) authoring: Option<String>,
    pub(crate) deploy: Option<String>,
    pub(crate) edge: Option<String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Apis {
    pub(crate) authoring: Option<String>,
    pub(crate) deploy: Option<String>,
    pub(crate) edge: Option<String>,
}

/// A configuration file, or none.
#[derive(Debug, Default)]
pub(crate) struct Config {
    path: Option<PathBuf>,
    contents: Contents,
}

impl Config {
    /// Reads the given file; or the nearest one, from the working directory upwards; or the one in
    /// the user's configuration folder.
    pub(crate) fn load(given: Option<&Path>) -> Result<Self> {
        let Some(path) = given.map(Path::to_owned).or_else(find) else {
            return Ok(Self::default());
        };
        let shown = path.display();
        // A file that was not named could have been planted to redirect the secret.
        if given.is_none()
            && let Ok(metadata) = fs::symlink_metadata(&path)
        {
            let reason = if metadata.is_symlink() { Some("is a symbolic link") } else { None };
            if let Some(reason) = reason.or_else(|| sitecore_token::distrust(&metadata)) {
                let reason = reason.split(';').next().unwrap_or(reason);
                return Err(Failure::config(format!("{shown} {reason}"))
                    .hint("if you trust it, name it with --config"));
            }
        }
        let text = fs::read_to_string(&path).map_err(|error| {
            let failure = Failure::config(format!("cannot read {shown}: {error}"));
            failure.hint(match error.kind() {
                io::ErrorKind::InvalidData => "save it as UTF-8",
                _ => "check the path and its permissions",
            })
        })?;
        let text = text.trim_start_matches('\u{feff}');
        let contents = toml::from_str(text).map_err(|error| {
            let before = error.span().and_then(|span| text.get(..span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            // A value could be a secret.
            let message = match error.message().split_once(", expected") {
                Some((what, expected)) if what.starts_with("invalid") => {
                    let what = what.split(':').next().unwrap_or(what);
                    format!("{what}, expected{expected}")
                }
                _ => error.message().to_owned(),
            };
            let failure = Failure::config(format!("{shown}, line {line}: {message}"));
            if error.message().contains("secret") {
                return failure
                    .hint("name a file with secret_file, or a variable with secret_variable");
            }
            failure
        })?;
        Ok(Self { path: Some(path), contents })
    }

    pub(crate) fn hosts(&self) -> &Hosts {
        &self.contents.hosts
    }

    pub(crate) fn apis(&self) -> &Apis {
        &self.contents.apis
    }

    /// Returns named credentials, and where they come from.
    pub(crate) fn credentials(&self, name: &str) -> Result<(&Credentials, String)> {
        let Some(path) = &self.path else {
            return Err(Failure::config(format!("there is no {NAME} with credentials `{name}`"))
                .hint("create one in this folder, or name it with --config"));
        };
        let shown = path.display();
        let known = self.contents.credentials.get(name);
        let credentials = known.ok_or_else(|| {
            let names = self.names().unwrap_or_else(|| "none".to_owned());
            Failure::config(format!("{shown} has no credentials `{name}` (it has: {names})"))
        })?;
        Ok((credentials, format!("[credentials.{name}] in {shown}")))
    }

    /// Returns the name of the credentials if there are no others.
    pub(crate) fn only_credentials(&self) -> Option<&str> {
        let mut names = self.contents.credentials.keys();
        names.next().filter(|_| names.next().is_none()).map(String::as_str)
    }

    /// Returns `true` if the file says which credentials belong to which API.
    pub(crate) fn assigns_credentials(&self) -> bool {
        let Apis { authoring, deploy, edge } = &self.contents.apis;
        [authoring, deploy, edge].into_iter().any(Option::is_some)
    }

    /// Returns the variables that contain secrets.
    pub(crate) fn secret_variables(&self) -> impl Iterator<Item = &str> {
        self.contents.credentials.values().filter_map(|it| it.secret_variable.as_deref())
    }

    /// Returns a list of the credentials for a hint.
    pub(crate) fn names(&self) -> Option<String> {
        let names: Vec<_> = self.contents.credentials.keys().map(String::as_str).collect();
        (!names.is_empty()).then(|| names.join(", "))
    }

    /// Returns a path that the file names, relative to its folder.
    pub(crate) fn resolve(&self, path: &Path) -> PathBuf {
        let folder = self.path.as_deref().and_then(Path::parent).unwrap_or_else(|| Path::new(""));
        folder.join(path)
    }
}

fn find() -> Option<PathBuf> {
    let exists = |path: &PathBuf| {
        // A file that cannot be accessed is reported when it is read.
        !matches!(fs::metadata(path), Err(error) if error.kind() == io::ErrorKind::NotFound)
    };
    let here = env::current_dir().ok()?;
    let project = here.ancestors().map(|folder| folder.join(NAME)).find(|path| path.is_file());
    let user = || {
        let strategy = etcetera::choose_base_strategy().ok()?;
        Some(strategy.config_dir().join(NAME)).filter(exists)
    };
    project.or_else(user)
}
