//! P11: the program `sitecore-auth`. How long a token from a warm store takes, and how the proxy
//! compares with an nginx that adds a fixed header, and with a direct call.
//!
//! The proxies run on the first core, and are loaded one at a time. Their upstream server and the
//! load generator run on the second core.

use std::{
    error::Error,
    fs, io,
    io::{BufRead as _, BufReader},
    net::{Ipv4Addr, TcpListener, TcpStream},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use serde_json::Value;
use sitecore_sandbox::{Api, Sandbox};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::{
    report::{Figure, Goal, RUNS, Report},
    runtime,
    stats::Spread,
    workspace,
};

/// How long one measurement with `wrk` takes, in seconds.
const SECONDS: u32 = 4;
/// Invocations per run.
const INVOCATIONS: usize = 40;
const TOKEN_BYTES: usize = 1_200;

type Result<T> = std::result::Result<T, Box<dyn Error>>;

pub(crate) fn measure(report: &mut Report) {
    let figures = measured().unwrap_or_else(|error| {
        println!("P11 was not measured: {error}");
        vec![Figure::at_most(15.0, "not measured; it needs nginx, wrk and taskset", Vec::new())]
    });
    report.goal(Goal {
        name: "P11",
        what: "the program: `sitecore-auth token` from a warm store; the proxy on one core, \
               compared with an nginx that adds a fixed header, and with a direct call",
        figures,
    });
}

fn measured() -> Result<Vec<Figure>> {
    let program = workspace::build_release("sitecore-auth-cli", "sitecore-auth")?;
    let place = Place::new(program, Duration::from_secs(86_400))?;
    let token = (0..RUNS).map(|_| place.token_millis()).collect::<Result<Vec<_>>>()?;

    let upstream = Nginx::start(&place, None, 1, "return 200 '{}';")?;
    let header = format!("Bearer {}", "t".repeat(TOKEN_BYTES));
    let forward = format!(
        "proxy_pass http://upstream; proxy_http_version 1.1; proxy_set_header Connection ''; \
         proxy_set_header Authorization '{header}';"
    );
    let nginx = Nginx::start(&place, Some(upstream.port), 0, &forward)?;
    let proxy = place.proxy(&format!("http://127.0.0.1:{}", upstream.port))?;
    let direct = format!("http://127.0.0.1:{}/x", upstream.port);
    let by_nginx = format!("http://127.0.0.1:{}/x", nginx.port);

    let (mut p50, mut p50_direct, mut throughput) = (Vec::new(), Vec::new(), Vec::new());
    let (mut millis, mut rate) = (Vec::new(), Vec::new());
    for _ in 0..RUNS {
        let one = [
            load(&direct, None, 1, SECONDS)?,
            load(&by_nginx, None, 1, SECONDS)?,
            load(&proxy.url, Some(&proxy.key), 1, SECONDS)?,
        ];
        p50.push(one[2].p50_micros / one[1].p50_micros);
        p50_direct.push(one[2].p50_micros / one[0].p50_micros);
        millis.push(one[2].p50_micros);
        let many =
            [load(&by_nginx, None, 32, SECONDS)?, load(&proxy.url, Some(&proxy.key), 32, SECONDS)?];
        throughput.push(many[1].a_second / many[0].a_second);
        rate.push(many[1].a_second);
    }
    let failed = failed_across_lifetimes(&place.program)?;
    Ok(vec![
        Figure::at_most(15.0, "`token` from a warm store, ms", token),
        Figure::at_most(1.5, "proxy, one connection: p50, ratio to nginx", p50),
        Figure::unbounded("the same, ratio to a direct call", p50_direct),
        Figure::unbounded("the same, µs", millis),
        Figure::at_least(0.7, "proxy, 32 connections: throughput, ratio to nginx", throughput),
        Figure::unbounded("the same, calls per second", rate),
        Figure::never_above(0.0, "failed calls across six token lifetimes of 10 s", vec![failed]),
    ])
}

/// Loads a proxy in front of the sandbox's Deploy API while its token is refreshed several
/// times. Returns
/// how many calls failed.
fn failed_across_lifetimes(program: &Path) -> Result<f64> {
    let place = Place::new(program.to_owned(), Duration::from_secs(10))?;
    let proxy = place.proxy(place.sandbox.origin(Api::Deploy).as_str())?;
    let url = proxy.url.replace("/x", "/api/projects/v1");
    let loaded = load(&url, Some(&proxy.key), 4, 60)?;
    if loaded.a_second < 1.0 {
        return Err("the proxy did not respond".into());
    }
    Ok(loaded.failed)
}

/// A sandbox, the built program, and a folder for its files.
struct Place {
    program: PathBuf,
    sandbox: Sandbox,
    folder: TempDir,
    /// Runs the sandbox, on the second core.
    _runtime: Runtime,
}

impl Place {
    fn new(program: PathBuf, lifetime: Duration) -> Result<Self> {
        let mut builder = tokio::runtime::Builder::new_multi_thread();
        builder.worker_threads(1).enable_all().on_thread_start(|| runtime::pin_to_core(1));
        let runtime = builder.build()?;
        let sandbox = Sandbox::builder().token_lifetime(lifetime).start();
        let sandbox = runtime.block_on(sandbox)?;
        Ok(Self { program, sandbox, folder: TempDir::new()?, _runtime: runtime })
    }

    /// Returns the program, on the first core, with the credentials for the Deploy API.
    fn command(&self) -> Command {
        let client = self.sandbox.organization();
        let mut command = Command::new("taskset");
        command
            .args(["--cpu-list", "0"])
            .arg(&self.program)
            .env("HOME", self.folder.path())
            .env("XDG_CACHE_HOME", self.folder.path())
            .env("SITECORE_AUTH_CLIENT_ID", client.id())
            .env("SITECORE_AUTH_CLIENT_SECRET", client.secret())
            .env("SITECORE_AUTH_AUTHORITY", self.sandbox.authority().as_str())
            .env("SITECORE_AUTH_AUDIENCE", self.sandbox.audience())
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Returns the median time of an invocation, in milliseconds.
    fn token_millis(&self) -> Result<f64> {
        let mut times = Vec::new();
        // The first one fills the store.
        for invocation in 0..=INVOCATIONS {
            let started = Instant::now();
            let output = self.command().arg("token").output()?;
            if !output.status.success() || output.stdout.is_empty() {
                return Err("`sitecore-auth token` failed".into());
            }
            if invocation > 0 {
                times.push(started.elapsed().as_secs_f64() * 1_000.0);
            }
        }
        Ok(Spread::of(times).median)
    }

    /// Starts the proxy, with this origin in place of the Deploy API's.
    fn proxy(&self, origin: &str) -> Result<Proxy> {
        let mut command = self.command();
        command.args(["proxy", "--deploy", "--quiet"]).env("SITECORE_DEPLOY_URL", origin);
        let mut child = command.stdout(Stdio::piped()).spawn()?;
        let mut ready = String::new();
        let stdout = child.stdout.as_mut().ok_or("no output")?;
        BufReader::new(stdout).read_line(&mut ready)?;
        let child = Stopped(child);
        let ready: Value = serde_json::from_str(&ready)?;
        let member = |name: &str| ready[name].as_str().ok_or("an unknown ready line");
        let url = format!("{}/deploy/x", member("url")?);
        Ok(Proxy { url, key: member("key")?.to_owned(), _child: child })
    }
}

/// Ends a process when it is dropped.
struct Stopped(Child);

impl Drop for Stopped {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

struct Proxy {
    url: String,
    key: String,
    _child: Stopped,
}

struct Nginx {
    port: u16,
    _child: Stopped,
}

impl Nginx {
    /// Starts an nginx with one process on this core. Its `location` may refer to the server at a
    /// port as `upstream`.
    fn start(place: &Place, upstream: Option<u16>, core: u32, location: &str) -> Result<Self> {
        let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
        let folder = place.folder.path().join(format!("nginx-{port}"));
        fs::create_dir_all(&folder)?;
        let upstream = upstream.map_or_else(String::new, |port| {
            format!("upstream upstream {{ server 127.0.0.1:{port}; keepalive 64; }}")
        });
        let folder = folder.display();
        let settings = format!(
            "worker_processes 1; daemon off; master_process off; pid {folder}/pid; \
             error_log {folder}/error.log; events {{ worker_connections 1024; }} \
             http {{ access_log off; keepalive_requests 1000000000; \
             client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; \
             fastcgi_temp_path {folder}/fastcgi; uwsgi_temp_path {folder}/uwsgi; \
             scgi_temp_path {folder}/scgi; {upstream} \
             server {{ listen 127.0.0.1:{port}; location / {{ {location} }} }} }}"
        );
        let file = format!("{folder}/nginx.conf");
        fs::write(&file, settings)?;
        let mut command = Command::new("taskset");
        command.args(["--cpu-list", &core.to_string(), "nginx", "-c", &file, "-p"]);
        let child = Stopped(command.arg(folder.to_string()).spawn()?);
        for _ in 0..100 {
            if TcpStream::connect((Ipv4Addr::LOCALHOST, port)).is_ok() {
                return Ok(Self { port, _child: child });
            }
            thread::sleep(Duration::from_millis(50));
        }
        Err("nginx did not start".into())
    }
}

struct Loaded {
    p50_micros: f64,
    a_second: f64,
    failed: f64,
}

/// Loads a server with `wrk` from the second core.
fn load(url: &str, key: Option<&str>, connections: u32, seconds: u32) -> Result<Loaded> {
    let mut command = Command::new("taskset");
    command.args(["--cpu-list", "1", "wrk", "--threads", "1", "--latency"]);
    command.args(["--connections", &connections.to_string()]);
    command.args(["--duration", &format!("{seconds}s"), "--timeout", "10s"]);
    if let Some(key) = key {
        command.args(["--header", &format!("X-Sitecore-Auth-Key: {key}")]);
    }
    let output = command.arg(url).output()?;
    let text = String::from_utf8_lossy(&output.stdout);
    if !output.status.success() {
        return Err(io::Error::other(format!("wrk failed: {text}")).into());
    }
    let after = |mark: &str| {
        let line = text.lines().find_map(|line| line.trim().strip_prefix(mark));
        line.map(|line| line.trim().to_owned())
    };
    let p50 = after("50%").ok_or("wrk printed no median")?;
    let a_second = after("Requests/sec:").ok_or("wrk printed no rate")?.parse()?;
    let responses = after("Non-2xx or 3xx responses:").map_or(Ok(0.0), |count| count.parse())?;
    let errors = after("Socket errors:").unwrap_or_default();
    let errors = errors.split(|c: char| !c.is_ascii_digit()).filter(|count| !count.is_empty());
    let errors = errors.map(str::parse::<f64>).sum::<std::result::Result<f64, _>>()?;
    Ok(Loaded { p50_micros: micros(&p50)?, a_second, failed: responses + errors })
}

/// Parses a time as `wrk` prints it.
fn micros(text: &str) -> Result<f64> {
    let unit = text.trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number: f64 = text.trim_end_matches(unit).parse()?;
    Ok(number
        * match unit {
            "us" => 1.0,
            "ms" => 1e3,
            "s" => 1e6,
            _ => return Err(format!("an unknown unit: {unit}").into()),
        })
}
