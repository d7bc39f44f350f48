//! `proxy`: passes calls of programs in any language on to Sitecore's APIs.

use std::{convert::Infallible, future::pending, net::SocketAddr, sync::Arc, time::Duration};

use serde_json::{Map, Value, json};
use sitecore_auth::{TokenCache, edge::EdgeKeySource};
use tokio::{sync::watch, time::sleep};

use crate::{
    api::{self, origin},
    args::{Api, Common, Selection, StartProxy},
    config::Config,
    failure::{Failure, Kind, Result},
    login::{Caches, Login},
    proxy::{Access, Key, Listener, Logged, Proxy, Records, StatusPage, Upstream, serve},
    signals,
    terminal::print,
};

/// A proxy whose listeners are open, but which does not serve calls yet.
pub(crate) struct BoundProxy {
    listener: Listener,
    proxy: Arc<Proxy>,
    status: Option<(Listener, Arc<StatusPage>)>,
    pub(crate) url: String,
    pub(crate) status_url: Option<String>,
}

/// Where callers find a proxy, and who may call.
pub(crate) struct Entrance {
    listener: Listener,
    access: Access,
    url: String,
}

impl Entrance {
    /// Listens at this address. Callers may also use these hosts.
    pub(crate) async fn tcp(
        address: SocketAddr,
        hosts: &[String],
        key: Option<Key>,
    ) -> Result<Self> {
        let (listener, address) = Listener::tcp(address).await?;
        let access = Access::tcp(address, hosts, key);
        Ok(Self { listener, access, url: format!("http://{address}") })
    }
}

pub(crate) async fn run(options: &StartProxy, common: &Common, config: &Config) -> Result<()> {
    let end = signals::End::new()?;
    let mut ready = Map::new();
    let entrance = entrance(options, &mut ready).await?;
    let logged = if common.quiet { Logged::None } else { Logged::All };
    let proxy =
        BoundProxy::new(entrance, &options.selection, options.status, logged, common, config)
            .await?;
    ready.insert("version".to_owned(), json!(1));
    ready.insert("event".to_owned(), json!("ready"));
    ready.insert("url".to_owned(), json!(proxy.url));
    ready.insert("upstreams".to_owned(), proxy.upstreams());
    ready.insert("status_url".to_owned(), json!(proxy.status_url));
    ready.insert("pid".to_owned(), json!(std::process::id()));
    print(format!("{}\n", Value::Object(ready)).as_bytes()).map_err(|error| {
        Failure::new(Kind::Unexpected, format!("cannot write the ready line to stdout: {error}"))
    })?;
    match proxy.run(end, options.idle_exit).await {
        0 => Ok(()),
        calls => Err(Failure::new(Kind::Unexpected, format!("ended with {calls} calls in flight"))),
    }
}

/// Listens, and adds to the ready line how callers get in.
async fn entrance(options: &StartProxy, ready: &mut Map<String, Value>) -> Result<Entrance> {
    #[cfg(unix)]
    if let Some(path) = &options.unix {
        let (listener, access) = (Listener::unix(path)?, Access::unix());
        ready.insert("socket".to_owned(), json!(path));
        return Ok(Entrance { listener, access, url: "http://localhost".to_owned() });
    }
    let address = options.listen;
    if !address.ip().is_loopback() && options.key_file.is_none() {
        let message = format!("{address} can be reached from other machines");
        return Err(
            Failure::usage(message).hint("listen on 127.0.0.1, or set a key with --key-file")
        );
    }
    if address.ip().is_unspecified() && options.allow_host.is_empty() {
        let message = format!("callers cannot use {address} as the proxy's address");
        return Err(Failure::usage(message)
            .hint("name the host and port that they use with --allow-host, such as proxy:8080"));
    }
    let key = match (&options.key_file, options.no_key) {
        (Some(file), _) => {
            ready.insert("key_file".to_owned(), json!(file));
            Some(Key::in_file(file)?)
        }
        (None, true) => None,
        (None, false) => {
            let key = Key::random()?;
            ready.insert("key".to_owned(), json!(key.reveal()));
            Some(key)
        }
    };
    Entrance::tcp(address, &options.allow_host, key).await
}

impl BoundProxy {
    pub(crate) async fn new(
        entrance: Entrance,
        selection: &Selection,
        status: Option<SocketAddr>,
        logged: Logged,
        common: &Common,
        config: &Config,
    ) -> Result<Self> {
        let Entrance { listener, access, url } = entrance;
        let upstreams: Arc<[Upstream]> = upstreams(selection, common, config).await?.into();
        let records = Records::new(logged);
        let (status, status_url) = match status {
            Some(address) => {
                if !address.ip().is_loopback() {
                    let message =
                        format!("the status page can only listen on loopback, not on {address}");
                    return Err(Failure::usage(message).hint("use an address such as 127.0.0.1:0"));
                }
                let Entrance { listener, access, url } = Entrance::tcp(address, &[], None).await?;
                let page = StatusPage::new(access, Arc::clone(&upstreams), records.clone());
                (Some((listener, Arc::new(page))), Some(format!("{url}/")))
            }
            None => (None, None),
        };
        let guards = selection.guards.clone();
        let proxy = Arc::new(Proxy { access, upstreams, guards, records });
        Ok(Self { listener, proxy, status, url, status_url })
    }

    /// Returns the URL of each API at the proxy.
    fn upstreams(&self) -> Value {
        let upstreams = self.proxy.upstreams.iter();
        upstreams.map(|it| (it.api.name(), format!("{}{}/", self.url, it.prefix))).collect()
    }

    /// Serves calls until the first signal, or until there have been none for a while. Calls in
    /// flight then have some time to finish. A second signal ends them at once: returns how many it
    /// cut off.
    async fn run(self, mut signals: signals::End, idle_exit: Option<Duration>) -> usize {
        let records = self.proxy.records.clone();
        let (stop, stopped) = watch::channel(false);
        let end = async {
            tokio::select! {
                () = signals.next() => {}
                () = until_idle(&records, idle_exit) => {}
            }
            let _ = stop.send(true);
            signals.next().await;
            records.in_flight()
        };
        let log = self.records();
        let calls = tokio::select! {
            () = self.serve(stopped) => 0,
            calls = end => calls,
        };
        log.flush_log().await;
        calls
    }

    pub(crate) fn records(&self) -> Records {
        self.proxy.records.clone()
    }

    /// Serves calls until it is dropped.
    pub(crate) async fn serve_forever(self) -> Infallible {
        let (_stop, stopped) = watch::channel(false);
        self.serve(stopped).await;
        pending().await
    }

    /// Serves calls until it is stopped, and completes those in flight.
    async fn serve(self, stopped: watch::Receiver<bool>) {
        let Self { listener, proxy, status, .. } = self;
        let records = proxy.records.clone();
        let until_stopped = |mut stopped: watch::Receiver<bool>| async move {
            let _ = stopped.wait_for(|is_stopped| *is_stopped).await;
        };
        let respond = move |request| {
            let proxy = Arc::clone(&proxy);
            async move { proxy.respond(request).await }
        };
        let is_busy = || records.in_flight() > 0;
        let calls = serve(listener, Arc::new(respond), until_stopped(stopped.clone()), is_busy);
        let page = async {
            if let Some((listener, page)) = status {
                let respond = move |request| {
                    let response = page.respond(request);
                    async move { response }
                };
                serve(listener, Arc::new(respond), until_stopped(stopped), || false).await;
            }
        };
        tokio::join!(calls, page);
    }
}

async fn until_idle(records: &Records, limit: Option<Duration>) {
    let Some(limit) = limit else { return pending().await };
    while let Some(left) = limit.checked_sub(records.idle_time()).filter(|left| !left.is_zero()) {
        sleep(left.max(Duration::from_millis(10))).await;
    }
}

/// Prepares the selected APIs or, if none is selected, Deploy, Edge, and Authoring if its host is
/// known.
async fn upstreams(
    selection: &Selection,
    common: &Common,
    config: &Config,
) -> Result<Vec<Upstream>> {
    let mut apis = selection.apis()?;
    if apis.is_empty() {
        apis = vec![Api::Deploy, Api::Edge];
        if !Api::Authoring.url(None, config).is_err_and(|failure| failure.is_usage()) {
            apis.insert(0, Api::Authoring);
        }
        // The configuration file can leave one out.
        let has_credentials = |api: &Api| Login::find(common, config, Some(*api)).is_ok();
        apis.retain(|api| !config.assigns_credentials() || has_credentials(api));
    }
    // `--timeout` does not limit how long callers wait.
    let common = &Common { timeout: Duration::MAX, ..common.clone() };
    let mut caches = Caches::new(common, config);
    let mut upstreams = Vec::new();
    for api in apis {
        let url = api.url(selection.authoring.as_deref(), config)?;
        let (cache, source) = match (api, &selection.delivery) {
            (Api::Delivery, Some(Some(environment))) => {
                let deploy = Api::Deploy.url(None, config)?;
                let (cache, _) = caches.get(Api::Deploy).await?;
                let client = api::ready(Api::Deploy, deploy.clone(), cache)?.client;
                let key = EdgeKeySource::deploy_api(client, environment);
                let key = key.with_origin(origin(&deploy))?;
                (TokenCache::new(key), format!("the key of environment {environment}"))
            }
            _ => caches.get(api).await?,
        };
        upstreams.push(Upstream::new(api, &url, cache, source, selection.only.is_some())?);
    }
    Ok(upstreams)
}
