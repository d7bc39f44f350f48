//! One token for many processes: this program starts forty workers in two rounds, which together
//! need only one token request.
//!
//! They share the token through a folder or, if `REDIS_URL` is set, through Redis or Valkey. The
//! token is sealed with a key that is derived from the client secret. Without the secret it cannot
//! be read.

use std::{env, error::Error};

use futures_util::future::try_join_all;
use serde_json::Value;
use sitecore_auth::{AuthMiddleware, ClientCredentials, Endpoint, Target, TokenCache, TokenClient};
use sitecore_sandbox::Sandbox;
use sitecore_token_store::{FileStore, RedisStore, SharedSource};
use tempfile::TempDir;
use tokio::process::Command;
use url::Url;

type Result<T, E = Box<dyn Error>> = std::result::Result<T, E>;

#[tokio::main]
async fn main() -> Result<()> {
    match env::args().nth(1).as_deref() {
        None => run().await,
        Some("worker") => work().await,
        Some(_) => Err("this example takes no arguments".into()),
    }
}

/// The work of one worker. Only `shared` differs from the usual setup.
async fn work() -> Result<()> {
    let tokens = TokenClient::builder(ClientCredentials::from_env()?);
    let tokens = tokens.endpoint(Endpoint::from_env()?).build()?;
    let shared = match env::var("REDIS_URL") {
        Ok(url) => SharedSource::new(tokens, RedisStore::new(url)?)?,
        Err(_) => SharedSource::new(tokens, FileStore::new()?)?,
    };
    let cache = TokenCache::new(shared);
    let deploy: Url = env::var("SITECORE_DEPLOY_URL")?.parse()?;
    let auth = AuthMiddleware::builder(cache.clone())
        .target(Target::deploy().with_origin(deploy.clone())?);
    let client = auth.build()?.into_client(reqwest::Client::builder())?;
    let projects = client.get(deploy.join("/api/projects/v1")?).send().await?;
    let projects: Value = projects.error_for_status()?.json().await?;
    let project = projects[0]["name"].as_str().ok_or("no project")?;
    println!("{project} with token {}", cache.token().await?.fingerprint());
    Ok(())
}

/// Starts the workers and a sandbox for them.
async fn run() -> Result<()> {
    let sandbox = Sandbox::start().await?;
    let folder = TempDir::new()?;
    for _ in 0..2 {
        let workers = (0..20).map(|_| {
            let mut worker = Command::new(env::current_exe()?);
            worker.arg("worker").env("XDG_CACHE_HOME", folder.path());
            worker.envs(sandbox.variables());
            worker.kill_on_drop(true).spawn()
        });
        let mut workers = workers.collect::<std::io::Result<Vec<_>>>()?;
        let ends = try_join_all(workers.iter_mut().map(|worker| worker.wait())).await?;
        let succeeded = ends.iter().filter(|end| end.success()).count();
        let granted = sandbox.tokens_granted();
        println!("{succeeded} workers done; tokens granted so far: {granted}");
        if succeeded < workers.len() {
            return Err("a worker failed".into());
        }
    }
    Ok(())
}
