//! `run`: starts a program that calls Sitecore's APIs through a proxy of its own.

use std::{env, ffi::OsStr, io, net::Ipv4Addr, process::ExitStatus};

use tokio::process::Command;

use super::proxy::{BoundProxy, Entrance};
use crate::{
    args::{Common, RunProgram},
    config::Config,
    failure::{Failure, Kind, Result},
    proxy::{Key, Logged},
    signals,
    terminal::{error_line, note},
};

const LOOPBACK: &str = "127.0.0.1";

/// What shells return for a program that cannot be started.
const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Returns the exit code of the program.
pub(crate) async fn run(options: &RunProgram, common: &Common, config: &Config) -> Result<u8> {
    let key = Key::random()?;
    let entrance = Entrance::tcp((Ipv4Addr::LOCALHOST, 0).into(), &[], Some(key.clone())).await?;
    // A full log would be mixed with what the program prints.
    let logged = match (common.quiet, options.log) {
        (true, _) => Logged::None,
        (false, true) => Logged::All,
        (false, false) => Logged::Failures,
    };
    let proxy =
        BoundProxy::new(entrance, &options.selection, options.status, logged, common, config)
            .await?;
    if let Some(url) = &proxy.status_url {
        note(common, &format!("the status page is at {url}"));
    }
    let [program, arguments @ ..] = &options.command[..] else {
        return Err(Failure::usage("a command is missing after `--`"));
    };
    let mut signals = signals::Forwarded::new()?;
    let mut child = Command::new(program);
    child
        .args(arguments)
        .env("SITECORE_PROXY_URL", &proxy.url)
        .env("SITECORE_PROXY_KEY", key.reveal());
    // The program needs none of them, and could bypass the proxy.
    for (variable, _) in env::vars_os().filter(|(variable, _)| is_secret(variable)) {
        child.env_remove(variable);
    }
    for variable in config.secret_variables() {
        child.env_remove(variable);
    }
    // A proxy of the network must not get the key.
    for variable in ["NO_PROXY", "no_proxy"] {
        let mut hosts = env::var_os(variable).unwrap_or_default();
        if !hosts.is_empty() {
            hosts.push(",");
        }
        hosts.push(LOOPBACK);
        child.env(variable, hosts);
    }
    let child = child.spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => {
            let name = program.to_string_lossy();
            let code = match error.kind() {
                io::ErrorKind::NotFound => NOT_FOUND,
                _ => NOT_EXECUTABLE,
            };
            error_line(&format!("sitecore-auth: cannot start {name}: {error}"));
            return Ok(code);
        }
    };
    let id = child.id();
    let program = async {
        loop {
            tokio::select! {
                status = child.wait() => break status,
                signal = signals.next() => signals::forward(signal, id),
            }
        }
    };
    // The proxy ends with the program, whatever is left in flight.
    let records = proxy.records();
    let status = tokio::select! {
        status = program => status,
        never = proxy.serve_forever() => match never {},
    };
    records.flush_log().await;
    let status = status.map_err(|error| {
        Failure::new(Kind::Unexpected, format!("cannot wait for the program: {error}"))
    })?;
    Ok(exit_code(status))
}

/// Returns `true` for the variable of a client secret, such as `SITECORE_EDGE_CLIENT_SECRET`, or of
/// an Edge key.
fn is_secret(variable: &OsStr) -> bool {
    // On Windows, the case of a name does not matter.
    let name = variable.to_string_lossy().to_ascii_uppercase();
    let is_client_secret = name.starts_with("SITECORE") && name.ends_with("CLIENT_SECRET");
    is_client_secret || name == "SITECORE_EDGE_TOKEN"
}

/// Returns a program's exit code, or 128 plus the number of the signal that ended it.
fn exit_code(status: ExitStatus) -> u8 {
    #[cfg(unix)]
    if let Some(signal) = std::os::unix::process::ExitStatusExt::signal(&status) {
        return u8::try_from(128 + signal).unwrap_or(u8::MAX);
    }
    status.code().map_or(1, |code| u8::try_from(code).unwrap_or(1))
}
