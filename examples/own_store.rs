//! A store of your own: entries and leases in object storage with conditional writes, such as S3
//! (`If-None-Match` and `If-Match`).
//!
//! The object storage is in memory here. Replace `Bucket` with your client.

use std::{
    collections::HashMap,
    error::Error,
    io,
    sync::{Arc, Mutex},
    time::Duration,
};

use futures_util::future::try_join_all;
use sitecore_auth::{
    ClientCredentials, Clock as _, Endpoint, SystemClock, TokenCache, TokenClient,
};
use sitecore_sandbox::Sandbox;
use sitecore_token_store::{Lease, SharedSource, Stored, TokenStore};

/// The ETag and the body. Each write gives an object a new ETag.
type Object = (u64, Vec<u8>);

/// Stands in for object storage.
#[derive(Clone, Default)]
struct Bucket(Arc<Mutex<HashMap<String, Object>>>);

impl Bucket {
    async fn get(&self, key: &str) -> io::Result<Option<Object>> {
        let objects = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        Ok(objects.get(key).cloned())
    }

    /// Writes an object unconditionally.
    async fn put(&self, key: &str, body: &[u8]) -> io::Result<()> {
        let mut objects = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        let new = objects.get(key).map_or(1, |(etag, _)| etag + 1);
        objects.insert(key.to_owned(), (new, body.to_owned()));
        Ok(())
    }

    /// Writes an object if it still has this ETag; `None` if it must not exist. Returns its new
    /// ETag, or `None` if another write came first (412).
    async fn put_if(&self, key: &str, body: &[u8], etag: Option<u64>) -> io::Result<Option<u64>> {
        let mut objects = self.0.lock().map_err(|_| io::ErrorKind::Other)?;
        let found = objects.get(key).map(|(etag, _)| *etag);
        if found != etag {
            return Ok(None);
        }
        let new = found.unwrap_or_default() + 1;
        objects.insert(key.to_owned(), (new, body.to_owned()));
        Ok(Some(new))
    }
}

/// A lease is an object that contains the time when it ends.
#[derive(Clone, Default)]
struct BucketStore(Bucket);

impl BucketStore {
    /// Writes the end of a lease, if the object has not changed in the meantime.
    async fn write_lease(
        &self,
        name: &str,
        duration: Duration,
        etag: Option<u64>,
    ) -> io::Result<Option<u64>> {
        let end = (now() + duration).as_millis().to_string();
        self.0.put_if(&format!("{name}.lease"), end.as_bytes(), etag).await
    }
}

#[async_trait::async_trait]
impl TokenStore for BucketStore {
    async fn load(&self, name: &str) -> io::Result<Option<Stored>> {
        Ok(self.0.get(name).await?.map(|(_, entry)| Stored::new(entry)))
    }

    async fn save(&self, name: &str, entry: &[u8], _keep: Duration) -> io::Result<()> {
        // A lifecycle rule of the bucket removes old objects.
        self.0.put(name, entry).await
    }

    async fn try_lease(&self, name: &str, duration: Duration) -> io::Result<Option<Lease>> {
        let found = self.0.get(&format!("{name}.lease")).await?;
        let end = found.as_ref().and_then(|(_, end)| str::from_utf8(end).ok()?.parse().ok());
        if end.is_some_and(|end| now() < Duration::from_millis(end)) {
            return Ok(None);
        }
        let etag = self.write_lease(name, duration, found.map(|(etag, _)| etag)).await?;
        // The lease remembers its ETag, behind a lock because extending changes it.
        Ok(etag.map(|etag| Lease::new(Mutex::new(etag))))
    }

    async fn extend(&self, name: &str, lease: &Lease, duration: Duration) -> io::Result<bool> {
        let Some(held) = lease.handle::<Mutex<u64>>() else { return Ok(false) };
        let etag = *held.lock().map_err(|_| io::ErrorKind::Other)?;
        let extended = self.write_lease(name, duration, Some(etag)).await?;
        if let Some(etag) = extended {
            *held.lock().map_err(|_| io::ErrorKind::Other)? = etag;
        }
        Ok(extended.is_some())
    }

    async fn release(&self, name: &str, lease: Lease) -> io::Result<()> {
        // Ends now.
        self.extend(name, &lease, Duration::ZERO).await.map(drop)
    }

    fn call_timeout(&self) -> Duration {
        // Object storage is slower than Redis.
        Duration::from_secs(2)
    }
}

/// Returns the time since the UNIX epoch.
fn now() -> Duration {
    SystemClock.now().wall()
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let sandbox = Sandbox::start().await?;
    let (id, secret) = (sandbox.organization().id(), sandbox.organization().secret());
    let endpoint = Endpoint::new(sandbox.token_url(), sandbox.audience())?;
    let store = BucketStore::default();
    // Each cache stands for a process.
    let caches = (0..20).map(|_| {
        let tokens = TokenClient::builder(ClientCredentials::new(id, secret));
        let tokens = tokens.endpoint(endpoint.clone()).build()?;
        SharedSource::new(tokens, store.clone())
    });
    let sources = caches.collect::<Result<Vec<_>, _>>()?;
    sources[0].check().await?;
    let caches: Vec<_> = sources.into_iter().map(TokenCache::new).collect();
    try_join_all(caches.iter().map(TokenCache::token)).await?;
    println!("{} processes, {} token granted", caches.len(), sandbox.tokens_granted());
    Ok(())
}
