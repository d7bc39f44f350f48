//! Builds packages of the project's workspace, with Cargo.

use std::{
    error::Error,
    io,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;

/// The folder of the workspace.
pub(crate) fn folder() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
}

/// Builds a program of a package in release mode and returns its path.
pub(crate) fn build_release(package: &str, program: &str) -> Result<PathBuf, Box<dyn Error>> {
    let mut command = Command::new("cargo");
    command.args(["build", "--release", "--locked", "--message-format=json", "--package", package]);
    let output = command.current_dir(folder()).output()?;
    let messages = String::from_utf8(output.stdout)?;
    let messages = messages.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
    let built = messages.filter(|message| message["target"]["name"] == program);
    let path = built.filter_map(|message| message["executable"].as_str().map(PathBuf::from)).last();
    Ok(path.ok_or_else(|| io::Error::other(format!("{program} was not built")))?)
}
