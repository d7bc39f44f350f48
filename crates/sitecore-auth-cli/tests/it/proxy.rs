//! The local proxy, with real callers, the sandbox, and an API that shows what it gets.

use std::{
    fs,
    io::{BufRead as _, BufReader, Read as _, Write as _},
    net::{SocketAddr, TcpStream},
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::PathBuf,
    process::{Child, Command, Stdio},
    sync::atomic::Ordering,
    time::Duration,
};

use reqwest::{
    Client, Method, RequestBuilder, Response, StatusCode,
    header::{HOST, LOCATION},
};
use serde_json::{Value, json};
use sitecore_sandbox::{Api, Fault};
use tokio::{runtime::Runtime, time::Instant};

use crate::{
    support::{Place, assert_fails, pause, stderr},
    upstream::EchoApi,
};

const KEY: &str = "x-sitecore-auth-key";

/// A proxy that runs, and is killed in the end.
pub(crate) struct Running {
    child: Child,
    ready: Value,
    runtime: Runtime,
    http: Client,
}

impl Running {
    /// Starts a proxy that leads to the sandbox, with the credentials that this API requires.
    fn start(place: &Place, api: Api, arguments: &[&str]) -> Self {
        let arguments = [&["proxy"], arguments].concat();
        Self::spawn(place.command(api, &arguments))
    }

    /// Starts a proxy whose Deploy API is the one that shows what it gets.
    fn echo(place: &Place, api: &EchoApi, arguments: &[&str]) -> Self {
        let arguments = [&["proxy", "--deploy"], arguments].concat();
        let mut command = place.command(Api::Deploy, &arguments);
        command.env("SITECORE_DEPLOY_URL", format!("http://{}", api.address));
        Self::spawn(command)
    }

    fn spawn(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.as_mut().unwrap()).read_line(&mut line).unwrap();
        if line.is_empty() {
            let output = child.wait_with_output().unwrap();
            panic!("the proxy did not start: {}", stderr(&output));
        }
        let ready = serde_json::from_str(&line).unwrap();
        let http = Client::builder().redirect(reqwest::redirect::Policy::none()).no_proxy();
        Self { child, ready, runtime: Runtime::new().unwrap(), http: http.build().unwrap() }
    }

    fn url(&self, path: &str) -> String {
        format!("{}{path}", self.ready["url"].as_str().unwrap())
    }

    fn address(&self) -> SocketAddr {
        self.ready["url"].as_str().unwrap().trim_start_matches("http://").parse().unwrap()
    }

    fn key(&self) -> &str {
        self.ready["key"].as_str().unwrap()
    }

    /// A request with the key.
    fn request(&self, method: Method, path: &str) -> RequestBuilder {
        let request = self.http.request(method, self.url(path));
        match self.ready["key"].as_str() {
            Some(key) => request.header(KEY, key),
            None => request,
        }
    }

    fn get(&self, path: &str) -> RequestBuilder {
        self.request(Method::GET, path)
    }

    fn send(&self, request: RequestBuilder) -> Response {
        self.runtime.block_on(request.send()).unwrap()
    }

    fn json(&self, request: RequestBuilder) -> Value {
        let response = self.send(request);
        assert!(response.status().is_success(), "{}", response.status());
        self.runtime.block_on(response.json()).unwrap()
    }

    fn graphql(&self, path: &str, query: &str) -> Value {
        self.json(self.request(Method::POST, path).json(&json!({ "query": query })))
    }

    /// Asserts that the proxy itself refuses a request, for this reason.
    #[track_caller]
    fn assert_refused(&self, request: RequestBuilder, status: u16, kind: &str) {
        let response = self.send(request);
        assert_eq!(response.status().as_u16(), status, "{response:?}");
        assert_eq!(response.headers()["x-sitecore-auth-error"], kind);
        assert_eq!(response.headers()["content-type"], "application/problem+json");
        let body: Value = self.runtime.block_on(response.json()).unwrap();
        assert_eq!((&body["status"], &body["kind"]), (&status.into(), &kind.into()));
        assert!(!body["detail"].as_str().unwrap().is_empty());
    }

    /// Sends bytes and returns what comes back until the connection is closed.
    fn raw(&self, request: &str) -> String {
        let mut stream = TcpStream::connect(self.address()).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(30))).unwrap();
        let request =
            request.replace("HOST", &self.address().to_string()).replace("KEY", self.key());
        stream.write_all(request.as_bytes()).unwrap();
        let mut response = Vec::new();
        let _ = stream.read_to_end(&mut response);
        String::from_utf8_lossy(&response).into_owned()
    }

    fn signal(&self, name: &str) {
        let id = self.child.id().to_string();
        assert!(Command::new("kill").args([name, &id]).status().unwrap().success());
    }

    /// The most memory that the process has used, in kB.
    fn peak_memory(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.child.id())).unwrap();
        let line = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
        line.split_whitespace().nth(1).unwrap().parse().unwrap()
    }

    /// Ends the proxy and returns its exit code and its log.
    fn end(mut self) -> (Option<i32>, String) {
        self.signal("-TERM");
        self.wait()
    }

    fn wait(&mut self) -> (Option<i32>, String) {
        let mut log = String::new();
        self.child.stderr.as_mut().unwrap().read_to_string(&mut log).unwrap();
        (self.child.wait().unwrap().code(), log)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Waits until this is true, for half a minute at most.
fn until(is_true: impl Fn() -> bool) {
    let started = Instant::now();
    while !is_true() {
        assert!(started.elapsed() < Duration::from_secs(30), "it did not happen");
        pause(Duration::from_millis(10));
    }
}

/// A place with an API that shows what it gets, and a proxy that leads there.
fn echo(arguments: &[&str]) -> (Place, EchoApi, Running) {
    let place = Place::new();
    let api = EchoApi::start(place.runtime());
    let proxy = Running::echo(&place, &api, arguments);
    (place, api, proxy)
}

#[test]
fn each_api_is_at_its_own_path_or_alone_at_the_root() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &[]);
    assert_eq!(proxy.ready["version"], 1);
    let upstreams = proxy.ready["upstreams"].as_object().unwrap();
    assert_eq!(upstreams.keys().collect::<Vec<_>>(), ["authoring", "deploy", "edge"]);
    let projects = proxy.json(proxy.get("/deploy/api/projects/v1"));
    assert_eq!(projects[0]["name"], "acme-site");
    proxy.assert_refused(proxy.get("/elsewhere/x"), 404, "no_such_upstream");
    proxy.assert_refused(proxy.get("/deployment/api"), 404, "no_such_upstream");
    // Outside the API there is no token.
    proxy.assert_refused(proxy.get("/deploy/swagger"), 403, "outside_api");

    let proxy = Running::start(&place, Api::Authoring, &["--only", "authoring"]);
    for path in ["/", "/sitecore/api/authoring/graphql/v1/", "/sitecore/api/authoring/graphql/v1"] {
        assert_eq!(proxy.graphql(path, "{ sites { name } }")["data"]["sites"][0]["name"], "acme");
    }
    let proxy = Running::start(&place, Api::Edge, &["--only", "edge"]);
    assert!(proxy.json(proxy.get("/api/admin/v1/settings"))["contentCacheTtl"].is_string());
    let arguments = ["--delivery", "2zYj6uPbNq0sWq0Nc9rU1d"];
    let proxy = Running::start(&place, Api::Deploy, &arguments);
    let sites = proxy.graphql("/delivery/", "{ site { siteInfoCollection { name } } }");
    assert!(sites["data"]["site"].is_object(), "{sites}");
    // APIs with the same credentials share a token.
    let place = Place::new();
    let arguments = [&["--no-store", "--deploy"], &arguments[..]].concat();
    let proxy = Running::start(&place, Api::Deploy, &arguments);
    proxy.graphql("/delivery/", "{ site { siteInfoCollection { name } } }");
    proxy.json(proxy.get("/deploy/api/projects/v1"));
    assert_eq!(place.sandbox.tokens_granted(), 1);
}

#[test]
fn a_call_without_the_key_is_refused() {
    let (_place, api, proxy) = echo(&[]);
    let bare = || proxy.http.get(proxy.url("/deploy/api/x"));
    proxy.assert_refused(bare(), 403, "wrong_key");
    proxy.assert_refused(bare().header(KEY, "wrong"), 403, "wrong_key");
    proxy.assert_refused(bare().header(KEY, &proxy.key()[1..]), 403, "wrong_key");
    proxy.assert_refused(proxy.get("/deploy/api/x").header(KEY, proxy.key()), 403, "wrong_key");
    assert_eq!(api.count(), 0);
    assert!(proxy.key().len() >= 32);
    // Each run has another key.
    let (_place, _api, other) = echo(&[]);
    assert_ne!(other.key(), proxy.key());
    let (_place, _api, open) = echo(&["--no-key"]);
    assert_eq!(open.ready["key"], Value::Null);
    assert!(open.send(open.get("/deploy/api/x")).status().is_success());
}

#[test]
fn a_log_that_is_not_read_holds_up_no_call() {
    let place = Place::new();
    let api = EchoApi::start(place.runtime());
    // Stderr is a pipe that is not read.
    let mut proxy = Running::echo(&place, &api, &[]);
    let path = format!("/deploy/api/{}", "x".repeat(500));
    for _ in 0..300 {
        let call = async { proxy.get(&path).timeout(Duration::from_secs(60)).send().await };
        assert_eq!(proxy.runtime.block_on(call).unwrap().status(), StatusCode::OK);
    }
    proxy.signal("-TERM");
    let (sender, ended) = std::sync::mpsc::channel();
    std::thread::scope(|scope| {
        scope.spawn(|| sender.send(proxy.child.wait().unwrap()).unwrap());
        let status = ended.recv_timeout(Duration::from_secs(60)).expect("it ends");
        assert_eq!(status.code(), Some(0));
    });
}

#[test]
fn a_caller_that_uploads_a_lot_still_learns_why_it_is_refused() {
    let place = Place::new();
    let api = EchoApi::start(place.runtime());
    let proxy = Running::echo(&place, &api, &["--read-only"]);
    // Like many clients, it reads no response before it has sent everything.
    let upload = |path: &str, key: &str| {
        let head = format!(
            "POST {path} HTTP/1.1\r\nHost: HOST\r\nX-Sitecore-Auth-Key: {key}\r\nConnection: close\r\nContent-Length: 20000000\r\n\r\n"
        );
        proxy.raw(&(head + &"x".repeat(20_000_000)))
    };
    for (path, key, expected) in [
        ("/nope", "KEY", "no_such_upstream"),
        ("/deploy/api/x", "KEY", "read_only"),
        ("/deploy/api/x", "wrong", "wrong_key"),
    ] {
        let response = upload(path, key);
        assert!(response.contains(expected), "{path}: {response}");
    }
}

#[test]
fn the_key_can_be_in_a_private_file() {
    let place = Place::new();
    let api = EchoApi::start(place.runtime());
    let file = place.folder.path().join("key");
    let arguments = ["--key-file", file.to_str().unwrap()];
    let proxy = Running::echo(&place, &api, &arguments);
    assert_eq!(proxy.ready["key"], Value::Null);
    assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
    let key = fs::read_to_string(&file).unwrap();
    let call = |proxy: &Running| {
        let request = proxy.get("/deploy/api/x").header(KEY, key.trim());
        proxy.send(request).status()
    };
    assert_eq!(call(&proxy), StatusCode::OK);
    // The next run uses the same file.
    drop(proxy);
    assert_eq!(call(&Running::echo(&place, &api, &arguments)), StatusCode::OK);
    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = place.run(Api::Deploy, &[&["proxy"], &arguments[..]].concat());
    assert_fails(&output, 3, "key");
}

#[test]
fn other_machines_can_call_only_with_a_key_from_a_file() {
    let place = Place::new();
    let run = |arguments: &[&str]| place.run(Api::Deploy, arguments);
    assert_fails(&run(&["proxy", "--listen", "0.0.0.0:0"]), 2, "--key-file");
    let key = ["--key-file", "key"];
    assert_fails(
        &run(&[&["proxy", "--listen", "0.0.0.0:0"], &key[..]].concat()),
        2,
        "--allow-host",
    );
    assert_fails(&run(&["proxy", "--status", "0.0.0.0:0"]), 2, "127.0.0.1:0");
    let api = EchoApi::start(place.runtime());
    let arguments = ["--listen", "0.0.0.0:0", "--key-file", "key", "--allow-host", "proxy:8080"];
    let proxy = Running::echo(&place, &api, &arguments);
    let port = proxy.address().port();
    let key = fs::read_to_string(place.folder.path().join("key")).unwrap();
    let call = |host: &str| {
        let request = proxy.http.get(format!("http://127.0.0.1:{port}/deploy/api/x"));
        proxy.send(request.header(HOST, host).header(KEY, key.trim())).status().as_u16()
    };
    assert_eq!((call("proxy:8080"), call("other:8080")), (200, 421));
}

#[test]
fn a_foreign_missing_or_duplicate_host_is_misdirected() {
    let (_place, api, proxy) = echo(&[]);
    let port = proxy.address().port();
    for host in [
        // A name that an attacker lets point to 127.0.0.1.
        "attacker.example",
        &format!("attacker.example:{port}"),
        &format!("localhost:{port}"),
        "127.0.0.1",
        "127.0.0.1:1",
        "169.254.169.254",
        "",
    ] {
        proxy.assert_refused(proxy.get("/deploy/api/x").header(HOST, host), 421, "wrong_host");
    }
    for headers in ["", "Host: HOST\r\nHost: HOST\r\n", "Host: HOST\r\nHost: evil\r\n"] {
        let request = format!(
            "GET /deploy/api/x HTTP/1.1\r\n{headers}X-Sitecore-Auth-Key: KEY\r\nConnection: close\r\n\r\n"
        );
        let response = proxy.raw(&request);
        assert!(response.starts_with("HTTP/1.1 421"), "{headers}: {response}");
    }
    assert_eq!(api.count(), 0);
}

#[test]
fn web_pages_get_nothing() {
    let (_place, api, proxy) = echo(&["--no-key"]);
    let own = format!("http://{}", proxy.address());
    let refused = |name: &str, value: &str| {
        let request = proxy.get("/deploy/api/x").header(name, value);
        proxy.assert_refused(request, 403, "foreign_origin");
    };
    refused("origin", "https://attacker.example");
    refused("origin", "null");
    refused("origin", "http://127.0.0.1:1");
    refused("sec-fetch-site", "cross-site");
    // A page at another port of this machine.
    refused("sec-fetch-site", "same-site");
    let form = proxy.request(Method::POST, "/deploy/api/x").header("origin", "https://a.example");
    let form = form.header("content-type", "application/x-www-form-urlencoded").body("a=1");
    proxy.assert_refused(form, 403, "foreign_origin");
    let preflight = proxy.request(Method::OPTIONS, "/deploy/api/x").header("origin", &own);
    let preflight = preflight.header("access-control-request-method", "PUT");
    proxy.assert_refused(preflight, 403, "preflight");
    assert_eq!(api.count(), 0);
    let response = proxy.send(proxy.get("/deploy/api/x").header("origin", &own));
    assert_eq!(response.status(), 200);
    assert!(response.headers().keys().all(|name| !name.as_str().starts_with("access-control")));
}

#[test]
fn only_headers_for_the_api_are_passed_on() {
    let (_place, _api, proxy) = echo(&[]);
    let mut request = proxy.request(Method::POST, "/deploy/api/x?a=%20b").body("hello");
    for (name, value) in [
        ("cookie", "a=1"),
        ("forwarded", "for=1.2.3.4"),
        ("x-forwarded-for", "1.2.3.4"),
        ("x-forwarded-anything", "1"),
        ("connection", "x-named, close"),
        ("x-named", "1"),
        ("keep-alive", "timeout=5"),
        ("te", "trailers"),
        ("upgrade", "h2c"),
        ("proxy-authorization", "Basic eA=="),
        ("accept-encoding", "gzip"),
        ("x-http-method-override", "DELETE"),
        ("x_http_method_override", "DELETE"),
        ("x-original-url", "/api/other"),
        ("x_forwarded_host", "a.example"),
        ("x-kept", "1"),
        ("user-agent", "mine"),
    ] {
        request = request.header(name, value);
    }
    let response = proxy.send(request);
    let headers = response.headers().clone();
    let seen: Value = proxy.runtime.block_on(response.json()).unwrap();
    assert_eq!((&seen["method"], &seen["body"]), (&json!("POST"), &json!("hello")));
    assert_eq!(seen["target"], "/api/x?a=%20b");
    let mut names: Vec<_> = seen["headers"].as_object().unwrap().keys().collect();
    names.sort();
    assert_eq!(
        names,
        ["accept", "authorization", "content-length", "host", "user-agent", "x-kept"]
    );
    assert!(seen["headers"]["authorization"].as_str().unwrap().starts_with("Bearer ey"));
    assert_eq!(seen["headers"]["user-agent"], "mine");
    for name in ["set-cookie", "access-control-allow-origin", "x-internal"] {
        assert!(!headers.contains_key(name), "{name}");
    }
    assert_eq!(headers["x-kept"], "1");
}

#[test]
fn a_credential_of_the_callers_own_is_rejected() {
    let (_place, api, proxy) = echo(&[]);
    for name in ["Authorization", "sc_apikey", "X-GQL-Token", "x-sitecore-contextid"] {
        let request = proxy.get("/deploy/api/x").header(name, "Bearer x");
        proxy.assert_refused(request, 400, "own_credential");
    }
    for query in ["sc_apikey=x", "a=1&SC_APIKEY=x", "sitecoreContextId=x", "%73c_apikey=x"] {
        let request = proxy.get(&format!("/deploy/api/x?{query}"));
        proxy.assert_refused(request, 400, "own_credential");
    }
    assert_eq!(api.count(), 0);
}

#[test]
fn a_target_that_is_not_a_plain_path_is_refused() {
    let (_place, api, proxy) = echo(&[]);
    let status = |line: &str| {
        let request = format!(
            "{line}\r\nHost: HOST\r\nX-Sitecore-Auth-Key: KEY\r\nConnection: close\r\n\r\n"
        );
        let response = proxy.raw(&request);
        response.split_whitespace().nth(1).unwrap_or("closed").to_owned()
    };
    for target in [
        "/deploy/../edge/api",
        "/deploy/api/%2e%2e/x",
        "/deploy/api/..%2fx",
        "/deploy/api/a%2Fb",
        "/deploy/api/a%5cb",
        "/deploy/./api",
        // Nothing in a request names an upstream.
        "http://169.254.169.254/latest/meta-data/",
        "http://HOST/deploy/api/x",
        "https://HOST/deploy/api/x",
    ] {
        assert_eq!(status(&format!("GET {target} HTTP/1.1")), "400", "{target}");
    }
    assert_ne!(status("CONNECT 169.254.169.254:80 HTTP/1.1"), "200");
    assert_ne!(status("OPTIONS * HTTP/1.1"), "200");
    assert_eq!(api.count(), 0);
    assert_eq!(status("GET /deploy/api/x HTTP/1.1"), "200");
}

#[test]
fn only_common_methods_are_passed_on() {
    let (_place, api, proxy) = echo(&[]);
    // TRACE would return the token.
    for method in ["TRACE", "delete", "Post", "PROPFIND"] {
        let method = Method::from_bytes(method.as_bytes()).unwrap();
        proxy.assert_refused(proxy.request(method, "/deploy/api/x"), 400, "method");
    }
    assert_eq!(api.count(), 0);
    for method in [Method::PUT, Method::PATCH, Method::DELETE, Method::OPTIONS] {
        let seen = proxy.json(proxy.request(method.clone(), "/deploy/api/x"));
        assert_eq!(seen["method"], method.as_str());
    }
}

#[test]
fn a_bodys_length_is_passed_on() {
    let (_place, _api, proxy) = echo(&[]);
    for length in [0, 1, 3_000_000] {
        let request = proxy.request(Method::POST, "/deploy/api/x").body(vec![b'a'; length]);
        let seen = proxy.json(request);
        assert_eq!(
            (&seen["length"], &seen["headers"]["content-length"]),
            (&json!(length), &json!(length.to_string()))
        );
    }
    assert_eq!(proxy.json(proxy.get("/deploy/api/x"))["headers"]["content-length"], Value::Null);
}

/// Starts an API that sends these bytes in response to every request.
fn canned(bytes: &'static str) -> SocketAddr {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut request = [0; 4_096];
            let _ = stream.read(&mut request);
            let _ = stream.write_all(bytes.as_bytes());
        }
    });
    address
}

#[test]
fn odd_responses_of_an_api_do_not_mislead_the_caller() {
    let place = Place::new();
    let raw = |response| {
        let mut command = place.command(Api::Deploy, &["proxy", "--deploy"]);
        command.env("SITECORE_DEPLOY_URL", format!("http://{}", canned(response)));
        let proxy = Running::spawn(command);
        proxy.raw("GET /deploy/api/x HTTP/1.1\r\nHost: HOST\r\nX-Sitecore-Auth-Key: KEY\r\nConnection: close\r\n\r\n")
    };
    // Without a length, a cut would look like the end.
    let old = raw("HTTP/1.0 200 OK\r\n\r\n[1,2,3]");
    assert!(old.starts_with("HTTP/1.1 200") && old.contains("transfer-encoding: chunked"), "{old}");
    let both = raw(
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nContent-Length: 3\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
    );
    assert!(both.contains("hello") && !both.contains("content-length"), "{both}");
    let cut = raw("HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nabc");
    // The cut may be noticed before anything has been sent to the caller.
    assert!(
        cut.is_empty() || cut.contains("content-length: 10") && cut.ends_with("\r\n\r\nabc"),
        "{cut}"
    );
    let upgrade =
        raw("HTTP/1.1 101 Switching Protocols\r\nUpgrade: x\r\nConnection: upgrade\r\n\r\n");
    assert!(upgrade.starts_with("HTTP/1.1 502"), "{upgrade}");
    let marked = raw(
        "HTTP/1.1 403 Forbidden\r\nX-Sitecore-Auth-Error: wrong_key\r\nContent-Length: 0\r\n\r\n",
    );
    assert!(marked.starts_with("HTTP/1.1 403") && !marked.contains("wrong_key"), "{marked}");
}

#[test]
fn no_request_is_smuggled() {
    let (_place, api, proxy) = echo(&[]);
    // A complete request of its own, if what comes before it is read in another way.
    let inner =
        "GET /deploy/api/smuggled HTTP/1.1\r\nHost: HOST\r\nX-Sitecore-Auth-Key: KEY\r\n\r\n";
    for (headers, body) in [
        ("Content-Length: 0\r\nContent-Length: 60\r\n", ""),
        ("Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n", ""),
        ("Transfer-Encoding: xchunked\r\n", "0\r\n\r\n"),
        ("Content-Length: +4\r\n", "abcd"),
        ("Content-Length: 4, 4\r\n", "abcd"),
        ("Content-Length : 4\r\n", "abcd"),
    ] {
        let response = proxy.raw(&format!(
            "POST /deploy/api/first HTTP/1.1\r\nHost: HOST\r\nX-Sitecore-Auth-Key: KEY\r\n{headers}\r\n{body}{inner}"
        ));
        assert!(
            response.is_empty() || response.starts_with("HTTP/1.1 400"),
            "{headers}: {response}"
        );
    }
    assert_eq!(api.count(), 0);
    // With a length and chunks, the chunks count, and the connection is closed (RFC 9112, 6.3).
    let both = "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n";
    let response = proxy.raw(&format!(
        "POST /deploy/api/first HTTP/1.1\r\nHost: HOST\r\nX-Sitecore-Auth-Key: KEY\r\n{both}\r\n0\r\n\r\n{inner}"
    ));
    assert!(response.starts_with("HTTP/1.1 200") && !response.contains("smuggled"), "{response}");
    assert_eq!(api.count(), 1);
}

#[test]
fn urls_that_would_lead_past_the_proxy_are_rewritten() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Authoring, &[]);
    let query = "mutation { a: uploadMedia(input: { itemPath: \"Default Website/Logo\" }) { url: presignedUploadUrl } }";
    let body = proxy.graphql("/authoring/", query);
    let url = body["data"]["a"]["url"].as_str().unwrap();
    assert!(url.starts_with(&proxy.url("/authoring/sitecore/api/")), "{url}");
    let path = url.strip_prefix(&proxy.url("")).unwrap();
    let form = "--b\r\nContent-Disposition: form-data; name=\"\"; filename=\"a.png\"\r\n\r\nabc\r\n--b--\r\n";
    let upload = proxy.request(Method::POST, path).body(form);
    let upload = upload.header("content-type", "multipart/form-data; boundary=b");
    let item = proxy.json(upload);
    assert!(item["Id"].is_string(), "{item}");

    let environment = "2zYj6uPbNq0sWq0Nc9rU1d";
    let path = format!("/deploy/api/environments/v1/{environment}/obtain-edge-token");
    let proxy = Running::start(&place, Api::Deploy, &["--deploy", "--delivery", environment]);
    let obtained = proxy.json(proxy.get(&path));
    assert_eq!(obtained["edgeUrl"], proxy.url("/delivery"));
    assert!(obtained["apiKey"].is_string());
    // Without the Delivery API at this proxy, the URL stays.
    let proxy = Running::start(&place, Api::Deploy, &["--deploy"]);
    let edge = place.sandbox.origin(Api::Edge).as_str().trim_end_matches('/').to_owned();
    assert_eq!(
        proxy.json(proxy.get(&path))["edgeUrl"].as_str().unwrap().trim_end_matches('/'),
        edge
    );

    let (_place, _api, proxy) = echo(&[]);
    let location = |path: &str| {
        let response = proxy.send(proxy.get(path));
        assert_eq!(response.status(), 302);
        response.headers()[LOCATION].to_str().unwrap().to_owned()
    };
    assert_eq!(location("/deploy/api/redirect"), proxy.url("/deploy/api/target?a=1"));
    assert_eq!(location("/deploy/api/redirect?relative"), proxy.url("/deploy/api/other"));
    assert_eq!(location("/deploy/api/redirect?elsewhere"), "https://elsewhere.example/x");
}

#[test]
fn a_rejected_token_is_replaced_and_the_call_replayed() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &["--status", "127.0.0.1:0"]);
    let projects = "/deploy/api/projects/v1";
    assert_eq!(proxy.send(proxy.get(projects)).status(), 200);
    place.sandbox.revoke_tokens();
    assert_eq!(proxy.send(proxy.get(projects)).status(), 200);
    assert_eq!(place.sandbox.tokens_granted(), 2);
    let status = format!("{}status.json", proxy.ready["status_url"].as_str().unwrap());
    let status = proxy.json(proxy.http.get(status));
    let replayed: Vec<_> =
        status["requests"].as_array().unwrap().iter().map(|it| &it["is_replayed"]).collect();
    assert_eq!(replayed, [&json!(true), &json!(false)]);
    let authoring = Running::start(&place, Api::Authoring, &["--only", "authoring"]);
    authoring.graphql("/", "{ sites { name } }");
    place.sandbox.revoke_tokens();
    assert!(authoring.graphql("/", "{ sites { name } }")["data"]["sites"].is_array());
}

#[test]
fn two_hundred_calls_at_a_tokens_expiry_cost_one_token_request() {
    let place = Place::with_lifetime(Duration::from_secs(6));
    let proxy = Running::start(&place, Api::Deploy, &["--deploy"]);
    assert_eq!(proxy.send(proxy.get("/deploy/api/projects/v1")).status(), 200);
    place.sandbox.set_token_lifetime(Duration::from_secs(86_400));
    pause(Duration::from_secs(7));
    let calls = (0..200).map(|_| proxy.get("/deploy/api/projects/v1").send());
    let responses = proxy.runtime.block_on(futures_util::future::join_all(calls));
    assert!(responses.into_iter().all(|response| response.unwrap().status() == 200));
    assert_eq!(place.sandbox.tokens_granted(), 2);
}

#[test]
fn streams_pass_unbuffered() {
    let (_place, _api, proxy) = echo(&[]);
    let started = Instant::now();
    let (first, rest) = proxy.runtime.block_on(async {
        let mut response = proxy.get("/deploy/api/events").send().await.unwrap();
        let first = response.chunk().await.unwrap().unwrap();
        let at = started.elapsed();
        let mut rest = Vec::new();
        while let Some(chunk) = response.chunk().await.unwrap() {
            rest.extend_from_slice(&chunk);
        }
        ((first, at), (rest, started.elapsed()))
    });
    assert_eq!(&first.0[..], b"data: 0\n\n");
    // The API sends the rest a second later.
    assert!(rest.1 >= first.1 + Duration::from_millis(900), "{:?} {:?}", first.1, rest.1);
    assert_eq!(rest.0, b"data: 1\n\ndata: 2\n\n");
}

#[test]
fn two_hundred_megabytes_pass_in_bounded_memory() {
    let (_place, api, proxy) = echo(&[]);
    assert_eq!(proxy.send(proxy.get("/deploy/api/x")).status(), 200);
    let before = proxy.peak_memory();
    let length = proxy.runtime.block_on(async {
        let mut response = proxy.get("/deploy/api/download").send().await.unwrap();
        let mut length = 0;
        while let Some(chunk) = response.chunk().await.unwrap() {
            length += chunk.len();
        }
        length
    });
    assert_eq!(length, 200_000_000);
    let chunks = futures_util::stream::iter(
        (0..200).map(|_| Ok::<_, std::convert::Infallible>(vec![1_u8; 1_000_000])),
    );
    let upload = proxy.request(Method::POST, "/deploy/api/upload");
    let upload = upload.body(reqwest::Body::wrap_stream(chunks));
    assert_eq!(proxy.json(upload)["length"], 200_000_000);
    assert_eq!(api.received.load(Ordering::SeqCst), 200_000_000);
    let used = proxy.peak_memory() - before;
    assert!(used < 30_000, "{used} kB");
}

#[test]
fn read_only_lets_no_mutation_through() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Authoring, &["--only", "authoring", "--read-only"]);
    let send = |body: Value| proxy.request(Method::POST, "/").json(&body);
    assert_eq!(proxy.graphql("/", "{ sites { name } }")["data"]["sites"][0]["name"], "acme");
    let query = "query mutation { sites { name } }";
    assert!(proxy.graphql("/", query)["data"].is_object());
    let mutation =
        "mutation { deleteItem(input: { path: \"/sitecore/content/x\" }) { successful } }";
    proxy.assert_refused(send(json!({ "query": mutation })), 403, "read_only");
    let batch = json!([{ "query": "{ sites { name } }" }, { "query": mutation }]);
    proxy.assert_refused(send(batch), 403, "read_only");
    proxy.assert_refused(proxy.request(Method::DELETE, "/sitecore/api/x"), 403, "read_only");
    // Neither a compressed body nor one of two types is known to be a query.
    let query = || send(json!({ "query": "{ sites { name } }" }));
    assert!(proxy.send(query()).status().is_success());
    proxy.assert_refused(query().header("content-encoding", "deflate"), 403, "read_only");
    proxy.assert_refused(query().header("content-type", "application/xml"), 403, "read_only");
}

#[test]
fn content_is_deleted_and_clients_are_created_only_if_allowed() {
    let place = Place::new();
    let content = "/edge/api/admin/v1/content";
    let client = "/deploy/api/clients/v1/deploy";
    let body = json!({ "name": "for-tests" });
    let proxy = Running::start(&place, Api::Edge, &[]);
    for path in [content, "/edge/api/admin/v1/Content/", "/edge//api/admin/v1/%63ontent"] {
        proxy.assert_refused(proxy.request(Method::DELETE, path), 403, "deletes_content");
    }
    proxy.assert_refused(proxy.request(Method::POST, client).json(&body), 403, "creates_client");
    let proxy = Running::start(&place, Api::Edge, &["--allow-delete-content"]);
    assert_eq!(proxy.send(proxy.request(Method::DELETE, content)).status(), 202);
    proxy.assert_refused(proxy.request(Method::POST, client).json(&body), 403, "creates_client");
    let proxy = Running::start(&place, Api::Deploy, &["--allow-create-clients"]);
    assert_eq!(proxy.send(proxy.request(Method::POST, client).json(&body)).status(), 201);
}

#[test]
fn errors_of_the_proxy_differ_from_those_of_the_apis() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &["--deploy"]);
    // Sitecore's own error is passed on as it is.
    let response = proxy.send(proxy.get("/deploy/api/projects/v1/unknown"));
    assert_eq!(response.status(), 404);
    assert!(!response.headers().contains_key("x-sitecore-auth-error"));
    place.sandbox.break_down(Api::Deploy, Fault::cut());
    proxy.assert_refused(proxy.get("/deploy/api/projects/v1"), 502, "upstream");
    let cut = proxy.send(proxy.get("/deploy/api/projects/v1"));
    let cut: Value = proxy.runtime.block_on(cut.json()).unwrap();
    assert!(cut["detail"].as_str().unwrap().contains("may have been carried out"), "{cut}");

    let refused = Place::new();
    let fault = Fault::status(429).header("retry-after", "77");
    refused.sandbox.break_down(Api::Token, fault);
    let proxy = Running::start(&refused, Api::Deploy, &["--deploy"]);
    let response = proxy.send(proxy.get("/deploy/api/projects/v1"));
    assert_eq!(response.status(), 503);
    assert_eq!(response.headers()["x-sitecore-auth-error"], "rate_limited");
    let wait: u64 = response.headers()["retry-after"].to_str().unwrap().parse().unwrap();
    // The proxy waits a little longer than the issuer asks for.
    assert!((60..=100).contains(&wait), "{wait}");
    // Without a token, nothing is sent to the API.
    assert_eq!(refused.sandbox.calls(Api::Deploy), 0);
}

#[test]
fn calls_in_flight_are_completed_before_the_proxy_ends() {
    let (_place, api, proxy) = echo(&[]);
    let (sender, receiver) = tokio::sync::mpsc::channel::<Result<Vec<u8>, std::io::Error>>(1);
    let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
        Some((receiver.recv().await?, receiver))
    });
    let upload = proxy.request(Method::POST, "/deploy/api/upload");
    let upload = upload.body(reqwest::Body::wrap_stream(stream)).send();
    let upload = proxy.runtime.spawn(upload);
    let send = |length| proxy.runtime.block_on(sender.send(Ok(vec![1; length]))).unwrap();
    send(2_000_000);
    until(|| api.received.load(Ordering::SeqCst) > 0);
    proxy.signal("-TERM");
    // It accepts no other calls.
    until(|| TcpStream::connect(proxy.address()).is_err());
    send(2_000_000);
    drop(sender);
    let response = proxy.runtime.block_on(upload).unwrap().unwrap();
    let body: Value = proxy.runtime.block_on(response.json()).unwrap();
    assert_eq!(body["length"], 4_000_000);
    let mut proxy = proxy;
    assert_eq!(proxy.wait().0, Some(0));
}

#[test]
fn a_second_signal_ends_the_proxy_at_once() {
    let (_place, api, mut proxy) = echo(&[]);
    let call = proxy.runtime.spawn(proxy.get("/deploy/api/hang").send());
    until(|| api.count() == 1);
    let started = Instant::now();
    proxy.signal("-TERM");
    until(|| TcpStream::connect(proxy.address()).is_err());
    proxy.signal("-TERM");
    let (code, log) = proxy.wait();
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
    assert_eq!(code, Some(1));
    assert!(log.contains("ended with 1 calls in flight"), "{log}");
    assert!(proxy.runtime.block_on(call).unwrap().is_err());
    // A connection without a call does not delay the end.
    let (_place, _api, proxy) = echo(&[]);
    let mut silent = TcpStream::connect(proxy.address()).unwrap();
    silent.write_all(b"GET /deploy HTTP/1.1\r\nHost").unwrap();
    let started = Instant::now();
    assert_eq!(proxy.end().0, Some(0));
    assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
}

#[test]
fn a_proxy_that_stood_still_goes_on() {
    let place = Place::with_lifetime(Duration::from_secs(5));
    let proxy = Running::start(&place, Api::Deploy, &["--deploy"]);
    assert_eq!(proxy.send(proxy.get("/deploy/api/projects/v1")).status(), 200);
    proxy.signal("-STOP");
    pause(Duration::from_secs(6));
    proxy.signal("-CONT");
    assert_eq!(proxy.send(proxy.get("/deploy/api/projects/v1")).status(), 200);
    assert_eq!(place.sandbox.rejections(Api::Deploy), 0, "an expired token was sent");
}

#[test]
fn an_idle_proxy_exits_if_idle_exit_is_set() {
    let (_place, _api, mut proxy) = echo(&["--idle-exit", "1s"]);
    for _ in 0..3 {
        assert_eq!(proxy.send(proxy.get("/deploy/api/x")).status(), 200);
        pause(Duration::from_millis(500));
    }
    assert_eq!(proxy.wait().0, Some(0));
    // Calls that are refused do not keep it alive.
    let (_place, _api, mut proxy) = echo(&["--idle-exit", "1s"]);
    let refused = proxy.runtime.spawn({
        let request = proxy.http.get(proxy.url("/deploy/api/x"));
        async move {
            while request.try_clone().unwrap().send().await.is_ok() {
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    });
    assert_eq!(proxy.wait().0, Some(0));
    refused.abort();
}

#[test]
fn the_log_shows_no_query_header_or_body() {
    let (_place, _api, proxy) = echo(&[]);
    let key = proxy.key().to_owned();
    let request = proxy.request(Method::POST, "/deploy/api/x?secret-in-query=1");
    proxy.send(request.header("x-mine", "secret-in-header").body("secret-in-body"));
    // A control sequence of a terminal, from a caller without the key.
    proxy.raw("GET /x\u{9b}31m HTTP/1.1\r\nHost: HOST\r\nConnection: close\r\n\r\n");
    let (code, log) = proxy.end();
    assert_eq!(code, Some(0));
    assert!(!log.contains('\u{9b}'), "{log}");
    let line = log.lines().find(|line| line.contains(" POST ")).unwrap();
    let words: Vec<_> = line.split(' ').skip(1).take(4).collect();
    assert_eq!(words, ["POST", "deploy", "/deploy/api/x", "200"], "{log}");
    assert!(line.ends_with(" ms"), "{line}");
    assert!(!log.contains("secret-in") && !log.contains(&key), "{log}");
    let (_place, _api, proxy) = echo(&["--quiet"]);
    proxy.send(proxy.get("/deploy/api/x"));
    assert_eq!(proxy.end().1, "");
}

fn unix(place: &Place) -> (Running, PathBuf) {
    let socket = place.folder.path().join("private/socket");
    let arguments = ["--deploy", "--unix", socket.to_str().unwrap()];
    (Running::start(place, Api::Deploy, &arguments), socket)
}

fn curl(socket: &PathBuf, url: &str) -> Command {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--max-time", "20", "--unix-socket"])
        .arg(socket)
        .arg(url);
    curl
}

#[test]
fn a_unix_socket_is_for_its_owner_only() {
    let place = Place::new();
    let (proxy, socket) = unix(&place);
    assert_eq!(fs::metadata(&socket).unwrap().mode() & 0o777, 0o600);
    assert_eq!(fs::metadata(socket.parent().unwrap()).unwrap().mode() & 0o777, 0o700);
    let url = "http://localhost/deploy/api/projects/v1";
    let output = curl(&socket, url).output().unwrap();
    assert!(String::from_utf8_lossy(&output.stdout).contains("acme-site"), "{output:?}");
    let foreign = curl(&socket, "http://attacker.example/deploy/api/projects/v1").output().unwrap();
    assert!(String::from_utf8_lossy(&foreign.stdout).contains("wrong_host"), "{foreign:?}");
    // Root can act as another user, who must not get in even if the folder is opened later.
    if rustix::process::geteuid().is_root() {
        for folder in [place.folder.path(), socket.parent().unwrap()] {
            fs::set_permissions(folder, fs::Permissions::from_mode(0o755)).unwrap();
        }
        fs::set_permissions(&socket, fs::Permissions::from_mode(0o666)).unwrap();
        let mut other = Command::new("setpriv");
        other.args(["--reuid=65534", "--regid=65534", "--clear-groups", "curl"]);
        let curl = curl(&socket, url);
        let output = other.args(curl.get_args()).output().unwrap();
        assert!(output.stdout.is_empty(), "{output:?}");
        assert!(stderr(&output).contains("curl"), "{output:?}");
    }
    assert_eq!(proxy.end().0, Some(0));
    assert!(!socket.exists());
}

#[test]
fn a_socket_in_an_open_folder_is_refused_and_a_stale_one_replaced() {
    let place = Place::new();
    let open = place.folder.path().join("open");
    fs::create_dir(&open).unwrap();
    fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
    let run = |path: &PathBuf| place.run(Api::Deploy, &["proxy", "--unix", path.to_str().unwrap()]);
    assert_fails(&run(&open.join("socket")), 3, "0700");
    let (proxy, socket) = unix(&place);
    assert_fails(&run(&socket), 3, "another program listens");
    proxy.signal("-KILL");
    drop(proxy);
    assert!(socket.exists());
    let (proxy, _) = unix(&place);
    drop(proxy);
    fs::remove_file(&socket).unwrap();
    fs::write(&socket, "mine").unwrap();
    assert_fails(&run(&socket), 3, "not a socket");
    assert_eq!(fs::read_to_string(&socket).unwrap(), "mine");
}

#[test]
fn the_status_page_shows_facts_and_no_secret() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &["--deploy", "--status", "127.0.0.1:0"]);
    let page = |path: &str| {
        let url = format!("{}{path}", proxy.ready["status_url"].as_str().unwrap());
        let response = proxy.send(proxy.http.get(url));
        let headers = response.headers().clone();
        (response.status().as_u16(), headers, proxy.runtime.block_on(response.text()).unwrap())
    };
    assert!(page("").2.contains("not used yet"));
    proxy.send(proxy.get("/deploy/api/projects/v1?secret-in-query=1"));
    proxy.send(proxy.get("/deploy/api/<script>alert(1)</script>"));
    let token = place.stdout(Api::Deploy, &["token"]);
    let secret = place.client(Api::Deploy).secret().to_owned();
    for path in ["", "main", "status.json"] {
        let (status, headers, text) = page(path);
        assert_eq!(status, 200);
        assert!(text.contains("organization") && text.contains("acme"), "{text}");
        assert!(text.contains("/deploy/api/projects/v1") && text.contains("fresh"), "{text}");
        for hidden in [token.trim(), &secret, proxy.key(), "secret-in-query", "<script>alert"] {
            assert!(!text.contains(hidden), "{path} shows {hidden}");
        }
        let policy = headers["content-security-policy"].to_str().unwrap();
        assert!(policy.starts_with("default-src 'none';") && !policy.contains("unsafe"));
        assert!(!text.contains("https://") && !text.contains("http://"), "{text}");
    }
    for (path, expected) in [("page.css", 200), ("page.js", 200), ("icon.svg", 200), ("x", 404)] {
        assert_eq!(page(path).0, expected, "{path}");
    }
    let status = proxy.ready["status_url"].as_str().unwrap();
    proxy.assert_refused(
        proxy.http.get(status).header(HOST, "attacker.example"),
        421,
        "wrong_host",
    );
    let foreign = proxy.http.get(status).header("origin", "https://attacker.example");
    proxy.assert_refused(foreign, 403, "foreign_origin");
    assert_eq!(proxy.send(proxy.http.post(status)).status(), 405);
}

#[test]
fn health_checks_follow_the_tokens() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &["--deploy", "--status", "127.0.0.1:0"]);
    let status = proxy.ready["status_url"].as_str().unwrap();
    let check = |path: &str| proxy.send(proxy.http.get(format!("{status}healthz/{path}"))).status();
    assert_eq!(check("live"), 200);
    assert_eq!(check("ready"), 200);
    let place = Place::new();
    place.sandbox.break_down(Api::Token, Fault::status(401).body("{\"error\":\"access_denied\"}"));
    let proxy = Running::start(&place, Api::Deploy, &["--deploy", "--status", "127.0.0.1:0"]);
    proxy.send(proxy.get("/deploy/api/projects/v1"));
    let status = proxy.ready["status_url"].as_str().unwrap();
    let check = |path: &str| proxy.send(proxy.http.get(format!("{status}healthz/{path}"))).status();
    assert_eq!((check("live").as_u16(), check("ready").as_u16()), (200, 503));
    let waited = place.bare(&["wait", status, "--timeout", "1s"]).output().unwrap();
    assert_fails(&waited, 5, "deploy: no token is available: ");
    place.sandbox.heal(Api::Token);
}

#[test]
fn wait_ends_when_the_server_is_ready() {
    let place = Place::new();
    let address = {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.local_addr().unwrap().to_string()
    };
    let url = format!("http://{address}");
    let output = place.bare(&["wait", &url, "--timeout", "1s"]).output().unwrap();
    assert_fails(&output, 5, "was not ready within 1s");
    assert_fails(&place.bare(&["wait", "ftp://x"]).output().unwrap(), 2, "http");
    let waiting = place.bare(&["wait", &url]).stderr(Stdio::piped()).spawn().unwrap();
    pause(Duration::from_millis(500));
    let _proxy = Running::start(&place, Api::Deploy, &["--deploy", "--status", &address]);
    let output = waiting.wait_with_output().unwrap();
    assert!(output.status.success(), "{}", stderr(&output));
}

#[test]
fn wrong_use_of_the_proxy_is_explained() {
    let place = Place::new();
    let run = |arguments: &[&str]| place.run(Api::Deploy, &[&["proxy"], arguments].concat());
    assert_fails(&run(&["--listen", "localhost"]), 2, "such as 127.0.0.1:8080");
    assert_fails(&run(&["--no-key", "--key-file", "key"]), 2, "--key-file");
    assert_fails(&run(&["--only", "everything"]), 2, "everything");
    assert_fails(&run(&["--unix", "a/b", "--no-key"]), 2, "--no-key");
    assert_fails(&run(&["--only", "deploy", "--edge"]), 2, "--only");
    let output = run(&["--authoring", "https://u:password@cm.example"]);
    assert_fails(&output, 2, "the host of the CM");
    assert!(!stderr(&output).contains("password"), "{}", stderr(&output));
    assert_fails(&run(&["--delivery"]), 3, "SITECORE_EDGE_TOKEN");
    let bare = place.bare(&["proxy", "--deploy"]).output().unwrap();
    assert_fails(&bare, 3, "no credentials found");
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = taken.local_addr().unwrap().to_string();
    let listener = std::net::TcpListener::bind(&taken);
    assert_fails(&run(&["--listen", &taken]), 3, "cannot listen");
    drop(listener);
}

#[test]
fn other_languages_need_nothing_but_the_url_and_the_key() {
    let place = Place::new();
    let proxy = Running::start(&place, Api::Deploy, &["--deploy"]);
    let url = proxy.url("/deploy/api/projects/v1");
    let python = "import os, urllib.request as u; r = u.Request(os.environ['URL'], headers={'X-Sitecore-Auth-Key': os.environ['KEY']}); print(u.urlopen(r).read().decode())";
    let node = "fetch(process.env.URL, { headers: { 'X-Sitecore-Auth-Key': process.env.KEY } }).then((r) => r.text()).then(console.log)";
    let curl = "curl --silent --fail -H \"X-Sitecore-Auth-Key: $KEY\" \"$URL\"";
    for (program, arguments) in
        [("python3", ["-c", python]), ("node", ["-e", node]), ("sh", ["-c", curl])]
    {
        let output =
            Command::new(program).args(arguments).env("URL", &url).env("KEY", proxy.key()).output();
        let output = output.unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains("acme-site"), "{program}: {text} {}", stderr(&output));
    }
    assert_eq!(place.sandbox.tokens_granted(), 1);
}
