//! The command line of `run`, `proxy` and `wait`.

use std::{ffi::OsString, net::SocketAddr, path::PathBuf, time::Duration};

use clap::Args;

use super::{Api, time};
use crate::failure::Failure;

/// Which APIs a proxy serves.
#[derive(Args, Clone, Debug)]
pub(crate) struct Selection {
    /// Serve the Authoring API of this CM, at /authoring/
    #[arg(long, value_name = "HOST")]
    pub(crate) authoring: Option<String>,
    /// Serve the Deploy API, at /deploy/
    #[arg(long)]
    pub(crate) deploy: bool,
    /// Serve the Admin API and the Token API of Edge, at /edge/
    #[arg(long)]
    pub(crate) edge: bool,
    /// Serve the Delivery API, at /delivery/, with the key of this environment; without a value,
    /// with the key in SITECORE_EDGE_TOKEN
    #[arg(long, value_name = "ENVIRONMENT", num_args = 0..=1)]
    pub(crate) delivery: Option<Option<String>>,
    /// Serve only this API, at /
    #[arg(long, value_enum, value_name = "API")]
    pub(crate) only: Option<Api>,
    #[command(flatten)]
    pub(crate) guards: Guards,
}

impl Selection {
    /// Returns the APIs that were selected.
    pub(crate) fn apis(&self) -> Result<Vec<Api>, Failure> {
        let selected = [
            (self.authoring.is_some(), Api::Authoring),
            (self.deploy, Api::Deploy),
            (self.edge, Api::Edge),
            (self.delivery.is_some(), Api::Delivery),
        ];
        let selected: Vec<_> = selected
            .into_iter()
            .filter(|(is_selected, _)| *is_selected)
            .map(|(_, api)| api)
            .collect();
        match self.only {
            Some(only) if selected.iter().any(|api| *api != only) => {
                let message = format!("--only {} excludes the other APIs", only.name());
                Err(Failure::usage(message).hint("leave out --only or the others"))
            }
            Some(only) => Ok(vec![only]),
            None => Ok(selected),
        }
    }
}

/// What callers of a proxy may do.
#[derive(Args, Clone, Debug, Default)]
pub(crate) struct Guards {
    /// Allow only GET, HEAD, and GraphQL documents without a mutation
    #[arg(long)]
    pub(crate) read_only: bool,
    /// Allow DELETE /api/admin/v1/content of Edge, which deletes the tenant's content
    #[arg(long)]
    pub(crate) allow_delete_content: bool,
    /// Allow the creation of clients, which returns their secrets
    #[arg(long)]
    pub(crate) allow_create_clients: bool,
}

#[derive(Args, Debug)]
pub(crate) struct RunProgram {
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Show a status page at this address, such as 127.0.0.1:0
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) status: Option<SocketAddr>,
    /// Log each call on stderr
    #[arg(long)]
    pub(crate) log: bool,
    /// The program and its arguments
    #[arg(last = true, required = true, value_name = "COMMAND")]
    pub(crate) command: Vec<OsString>,
}

#[derive(Args, Debug)]
pub(crate) struct StartProxy {
    /// Listen on this address; port 0 stands for any free one
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1:0", value_parser = address)]
    pub(crate) listen: SocketAddr,
    /// Listen on a Unix socket instead, in a folder that no other user can enter
    #[cfg(unix)]
    #[arg(long, value_name = "PATH", conflicts_with_all = ["listen", "key_file", "no_key", "allow_host"])]
    pub(crate) unix: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) selection: Selection,
    /// Read the key from this file, or create it there (mode 0600)
    #[arg(long, value_name = "PATH", conflicts_with = "no_key")]
    pub(crate) key_file: Option<PathBuf>,
    /// Let every program on this machine call, including other users' programs
    #[arg(long)]
    pub(crate) no_key: bool,
    /// A host and port by which callers reach the proxy, in a container network
    #[arg(long, value_name = "HOST:PORT", requires = "key_file")]
    pub(crate) allow_host: Vec<String>,
    /// Show a status page at this address, such as 127.0.0.1:9901
    #[arg(long, value_name = "ADDRESS", value_parser = address)]
    pub(crate) status: Option<SocketAddr>,
    /// Exit after this time without a call, such as 15m
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) idle_exit: Option<Duration>,
}

#[derive(Args, Debug)]
pub(crate) struct Wait {
    /// The URL; without a path, /healthz/ready of that server
    pub(crate) url: String,
}

fn address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:8080".to_owned())
}
