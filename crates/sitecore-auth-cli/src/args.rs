//! The command line.

mod proxy;

use std::{path::PathBuf, time::Duration};

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;

pub(crate) use self::proxy::{Guards, RunProgram, Selection, StartProxy, Wait};

/// Tokens for Sitecore's APIs in scripts and CI jobs, and calls to these APIs.
///
/// Credentials are looked up in this order: --credentials NAME in sitecore-auth.toml, --client-id
/// with --secret-file, the credentials that sitecore-auth.toml assigns to the API (or its only
/// ones, if it assigns none), the variables SITECORE_AUTH_CLIENT_ID and SITECORE_AUTH_CLIENT_SECRET
/// (or SITECORE_CLIENT_ID and _SECRET), and .sitecore/user.json.
///
/// Exit codes: 0 success, 1 unexpected error, 2 wrong usage, 3 credentials or configuration, 4 the
/// issuer refuses the client, 5 try again later, 6 an API reported a failure. `run` returns the
/// program's.
#[derive(Debug, Parser)]
#[command(name = "sitecore-auth", version, max_term_width = 100)]
pub(crate) struct Arguments {
    #[command(flatten)]
    pub(crate) common: Common,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Options of all commands.
#[derive(Args, Clone, Debug)]
pub(crate) struct Common {
    /// Use the credentials with this name in sitecore-auth.toml
    #[arg(long, global = true, value_name = "NAME", conflicts_with = "client_id")]
    pub(crate) credentials: Option<String>,
    /// Use this client, with --secret-file
    #[arg(long, global = true, value_name = "ID", requires = "secret_file")]
    pub(crate) client_id: Option<String>,
    /// Read the client secret from this file (`-`: from standard input)
    #[arg(long, global = true, value_name = "PATH", requires = "client_id")]
    pub(crate) secret_file: Option<PathBuf>,
    /// Use this configuration file instead of searching for sitecore-auth.toml
    #[arg(long, global = true, value_name = "PATH")]
    pub(crate) config: Option<PathBuf>,
    /// Do not share tokens with other invocations
    #[arg(long, global = true)]
    pub(crate) no_store: bool,
    /// Give up after this time, such as 30s or 2m; `proxy` and `run` ignore it
    #[arg(long, global = true, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub(crate) timeout: Duration,
    /// Print errors and results only
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Print a token
    Token(Token),
    /// Show the client, scopes and expiry of the token, but not the token
    Inspect(Inspect),
    /// Make one read-only call per API, and report what is wrong
    Check(Check),
    /// Send a GraphQL query to Authoring or to the Delivery API, and print `data`
    Graphql(Graphql),
    /// Make an authenticated call, and print the body
    Request(Request),
    /// Get, create, list, rename or revoke keys for the Delivery API
    EdgeKey {
        #[command(subcommand)]
        command: EdgeKey,
        #[command(flatten)]
        output: Output,
    },
    /// Print the schema of the Authoring API
    Schema(Schema),
    /// Show or clear the stored token
    Store {
        #[command(subcommand)]
        command: Store,
        #[command(flatten)]
        output: Output,
    },
    /// Start a program that calls the APIs through a proxy of its own
    ///
    /// The program finds the proxy in SITECORE_PROXY_URL and the key for the header
    /// X-Sitecore-Auth-Key in SITECORE_PROXY_KEY. The exit code is that of the program; 126 or 127
    /// if it cannot be started, and 128 plus the signal's number if a signal ended it.
    Run(RunProgram),
    /// Forward other programs' calls to the APIs, with a token
    ///
    /// Callers send the key from the ready line in the header X-Sitecore-Auth-Key. They send no
    /// credential. The APIs are at /authoring/…, /deploy/…, /edge/… and /delivery/…. If
    /// none of --authoring, --deploy, --edge and --delivery is given, the proxy serves Deploy and
    /// Edge, and Authoring if its host is known.
    Proxy(StartProxy),
    /// Wait until a URL, such as a proxy's /healthz/ready, returns a 2xx status
    Wait(Wait),
    /// Print a completion script for a shell
    Completions {
        /// The shell
        shell: Shell,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Format {
    /// For people
    Text,
    /// For scripts
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct Output {
    /// How to print the result and errors
    #[arg(long, value_enum, default_value_t = Format::Text, global = true)]
    pub(crate) format: Format,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum TokenFormat {
    /// The token alone
    Token,
    /// A request header, for `curl -H @-`
    Header,
    /// An object with the token and its expiry
    Json,
    /// Assignments for a POSIX shell, for `eval`
    Env,
    /// Assignments for PowerShell, for Invoke-Expression
    Powershell,
}

#[derive(Args, Debug)]
pub(crate) struct Token {
    /// How to print the token
    #[arg(long, value_enum, default_value_t = TokenFormat::Token)]
    pub(crate) format: TokenFormat,
    /// The time that the token must have left [default: 5m, but at most half of its lifetime]
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub(crate) min_validity: Option<Duration>,
    /// Request a new token even if there is one
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Args, Debug)]
pub(crate) struct Inspect {
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Api {
    Authoring,
    Deploy,
    Edge,
    Delivery,
}

#[derive(Args, Debug)]
pub(crate) struct Check {
    /// The APIs to check [default: those that these credentials are for]
    pub(crate) apis: Vec<Api>,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct Host {
    /// The CM, as a host name or as the URL of its GraphQL endpoint
    #[arg(long, value_name = "HOST")]
    pub(crate) host: Option<String>,
}

#[derive(Args, Debug)]
pub(crate) struct Graphql {
    /// The query; without it and without --file, it is read from standard input
    #[arg(conflicts_with = "file")]
    pub(crate) query: Option<String>,
    /// Read the query from this file (`-`: from standard input)
    #[arg(long, short, value_name = "PATH")]
    pub(crate) file: Option<PathBuf>,
    /// A variable: name=text, or name:=json for other types
    #[arg(long = "var", value_name = "NAME=VALUE")]
    pub(crate) variables: Vec<String>,
    /// The operation to run, if the query has several
    #[arg(long, value_name = "NAME")]
    pub(crate) operation: Option<String>,
    #[command(flatten)]
    pub(crate) host: Host,
    /// Query the Delivery API, with the key in SITECORE_EDGE_TOKEN
    #[arg(long, conflicts_with = "host")]
    pub(crate) delivery: bool,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Args, Debug)]
pub(crate) struct Request {
    /// The method, such as GET
    pub(crate) method: String,
    /// A URL, or a path such as deploy:/api/projects/v1, edge:/… or authoring:/…
    pub(crate) url: String,
    /// The body, or @file (`@-`: from standard input)
    #[arg(long, short, value_name = "BODY")]
    pub(crate) data: Option<String>,
    /// A header, such as 'Content-Type: application/json'
    #[arg(long = "header", short = 'H', value_name = "HEADER")]
    pub(crate) headers: Vec<String>,
    /// Print the status and the headers too
    #[arg(long, short)]
    pub(crate) include: bool,
    /// Get all pages of a list of Deploy or of the Token API, as one array
    #[arg(long, conflicts_with_all = ["include", "data"])]
    pub(crate) paginate: bool,
    #[command(flatten)]
    pub(crate) host: Host,
    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Debug, Subcommand)]
pub(crate) enum EdgeKey {
    /// Get a key for an environment from the Deploy API (organization automation client)
    Get {
        /// The environment's id
        environment: String,
    },
    /// Create a key and print it (Edge administration client)
    Create {
        /// Its label, which should be unique
        label: String,
    },
    /// List the keys that have not been revoked
    List {
        /// Only those whose label contains this text
        label: Option<String>,
    },
    /// Change a key's label
    Rename {
        /// The key's hash, from `list`
        hash: String,
        /// The new label
        label: String,
    },
    /// Revoke a key for good
    Revoke {
        /// The key's hash, from `list`
        hash: String,
        /// Do not ask for confirmation
        #[arg(long)]
        yes: bool,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum SchemaFormat {
    /// The schema definition language
    Sdl,
    /// The result of the introspection query
    Json,
}

#[derive(Args, Debug)]
pub(crate) struct Schema {
    #[command(flatten)]
    pub(crate) host: Host,
    /// Write to this file instead of standard output
    #[arg(long, short, value_name = "FILE")]
    pub(crate) output: Option<PathBuf>,
    /// How to print the schema
    #[arg(long, value_enum, default_value_t = SchemaFormat::Sdl)]
    pub(crate) format: SchemaFormat,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Store {
    /// Show the stored token's age, time left and fingerprint
    Status,
    /// Remove the stored token of these credentials
    Clear,
}

impl Command {
    /// Returns `true` if errors are to be printed as JSON.
    pub(crate) fn is_json(&self) -> bool {
        match self {
            Self::Token(token) => token.format == TokenFormat::Json,
            Self::Schema(schema) => schema.format == SchemaFormat::Json,
            Self::Inspect(Inspect { output })
            | Self::Check(Check { output, .. })
            | Self::Graphql(Graphql { output, .. })
            | Self::Request(Request { output, .. })
            | Self::EdgeKey { output, .. }
            | Self::Store { output, .. } => output.format == Format::Json,
            Self::Run(_) | Self::Proxy(_) | Self::Wait(_) | Self::Completions { .. } => false,
        }
    }
}

fn time(text: &str) -> Result<Duration, String> {
    match humantime::parse_duration(text) {
        Ok(time) if !time.is_zero() => Ok(time),
        _ => Err("expected a time such as 30s, 5m or 1h".to_owned()),
    }
}
