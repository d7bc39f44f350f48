//! Where a token goes, and where it never goes.

use proptest::prelude::*;
use reqwest::Method;
use reqwest_middleware::{ClientBuilder, Middleware, Next};
use sitecore_auth::{AuthMiddleware, ErrorKind, Target, Token, TokenCache, source_fn};
use url::Url;

/// Responds to every request: with 200 if it carries a token, otherwise with 204.
struct Probe;

#[async_trait::async_trait]
impl Middleware for Probe {
    async fn handle(
        &self,
        request: reqwest::Request,
        _: &mut http::Extensions,
        _: Next<'_>,
    ) -> reqwest_middleware::Result<reqwest::Response> {
        let status = if request.headers().contains_key("authorization") { 200 } else { 204 };
        Ok(http::Response::builder().status(status).body("").unwrap().into())
    }
}

/// Returns `true` if a request for `url` gets a token with these targets.
async fn gets_token(targets: &[Target], url: &str) -> bool {
    let cache = TokenCache::new(source_fn(|_| async {
        Token::bearer("token", std::time::Duration::from_secs(900))
    }));
    let builder = targets
        .iter()
        .cloned()
        .fold(AuthMiddleware::builder(cache), |builder, target| builder.target(target));
    let client = ClientBuilder::new(reqwest::Client::new())
        .with(builder.build().unwrap())
        .with(Probe)
        .build();
    let request = reqwest::Request::new(Method::GET, url.parse().unwrap());
    client.execute(request).await.unwrap().status() == 200
}

fn url(text: &str) -> Url {
    text.parse().unwrap()
}

const CM: &str = "xmc-acme-site-prod.sitecorecloud.io";

#[tokio::test]
async fn the_authoring_target_covers_one_host_and_one_folder() {
    let targets = [Target::authoring(CM).unwrap()];
    for good in [
        "/sitecore/api/authoring/graphql/v1/",
        "/sitecore/api/authoring/graphql/v1",
        "/sitecore/api/management",
        "/sitecore/api",
        "/sitecore/api/?a=b",
    ] {
        assert!(gets_token(&targets, &format!("https://{CM}{good}")).await, "{good}");
    }
    for same_host in [
        "XMC-ACME-site-prod.SitecoreCloud.io",
        "xmc-acme-site-prod.sitecorecloud.io.",
        "xmc-acme-site-prod.sitecorecloud.io:443",
    ] {
        assert!(
            gets_token(&targets, &format!("https://{same_host}/sitecore/api/x")).await,
            "{same_host}"
        );
    }
    for good in [
        "/sitecore/api/a%20b",
        "/sitecore/api/x;v=1",
        "/sitecore/api/..x%2f..y",
        "/sitecore/api/100%25",
    ] {
        assert!(gets_token(&targets, &format!("https://{CM}{good}")).await, "{good}");
    }
    for bad in [
        "/",
        "/sitecore",
        "/sitecore/apix",
        "/sitecore/shell",
        "/x/sitecore/api/",
        "/sitecore/api/../shell",
        "/sitecore/api/%2e%2e/shell",
        "/sitecore/api/..%2f..%2fshell",
        "/sitecore/api/..%252f..%252fshell",
        "/sitecore/api/%252e%252e/shell",
        "/sitecore/api/..;/shell",
        "/sitecore/api/..%3ba=b/shell",
        "/sitecore/api/x%5C..%5c..%5Cshell",
        "/sitecore/api/%2e.%2Fshell",
    ] {
        assert!(!gets_token(&targets, &format!("https://{CM}{bad}")).await, "{bad}");
    }
}

#[tokio::test]
async fn look_alike_hosts_get_no_token() {
    let targets = [Target::authoring(CM).unwrap(), Target::sitecore_cloud()];
    for host in [
        "xmc-acme-site-prod.sitecorecloud.io.evil.com",
        "evil-xmc-acme-site-prod.sitecorecloud.io",
        "evil-sitecorecloud.io",
        "sitecorecloud.io.attacker.com",
        "notsitecore-staging.cloud",
        "xmc-acme-site-prod.sitecorecloud.io@evil.com",
        "xmc-other-site-prod.sitecorecloud.io",
        "a.xmc-acme-site-prod.sitecorecloud.io",
        "sitecorecloud.io",
        "xmc-acme-site-prod.sitecorecloud.io:8443",
        "xmc-acme-site-prod.sitecorecloud.io:80",
        "xmc-acme-site-prod.sitecorecloud.io..",
        "xmc-acme-site-prod.sitecoreсloud.io", // a Cyrillic letter
        "xn--sitecorecloud-xyz.io",
    ] {
        assert!(!gets_token(&targets, &format!("https://{host}/sitecore/api/x")).await, "{host}");
        assert!(!gets_token(&targets, &format!("https://{host}/api/projects/v1")).await, "{host}");
    }
    assert!(!gets_token(&targets, &format!("http://{CM}/sitecore/api/x")).await);
    assert!(!gets_token(&targets, &format!("http://{CM}:443/sitecore/api/x")).await);
}

#[tokio::test]
async fn the_sitecore_cloud_target_is_a_list_of_hosts_and_paths() {
    let cloud = [Target::sitecore_cloud()];
    for good in [
        "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1",
        "https://xmclouddeploy-api.sitecorecloud.io/api/environments/v1/x/obtain-edge-token",
        "https://xmcloud-monitoring-api.sitecorecloud.io/api/logs/v1",
        "https://edge.sitecorecloud.io/api/admin/v1/cache",
        "https://edge.sitecorecloud.io/api/apikey/v1",
        "https://xmapps-api.sitecorecloud.io/api/v1/sites",
        "https://edge-platform.sitecorecloud.io/anything",
    ] {
        assert!(gets_token(&cloud, good).await, "{good}");
    }
    for bad in [
        "https://edge.sitecorecloud.io/api/graphql/v1",
        "https://edge.sitecorecloud.io/api/adminx",
        "https://edge.sitecorecloud.io/",
        "https://auth.sitecorecloud.io/oauth/token",
        "https://xmc-acme-site-prod.sitecorecloud.io/sitecore/api/authoring/graphql/v1/",
        "https://xmclouddeploy-api.sitecorecloud.io/other",
        "https://pages.sitecorecloud.io/api/v1",
    ] {
        assert!(!gets_token(&cloud, bad).await, "{bad}");
    }
    assert!(
        gets_token(
            &[Target::deploy()],
            "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1"
        )
        .await
    );
    assert!(
        !gets_token(&[Target::deploy()], "https://edge.sitecorecloud.io/api/admin/v1/cache").await
    );
    assert!(
        gets_token(&[Target::edge_admin()], "https://edge.sitecorecloud.io/api/apikey/v1").await
    );
    assert!(
        !gets_token(&[Target::edge_admin()], "https://edge.sitecorecloud.io/api/graphql/v1").await
    );
    assert!(
        gets_token(&[Target::edge_delivery()], "https://edge.sitecorecloud.io/api/graphql/v1")
            .await
    );
    assert!(
        !gets_token(&[Target::edge_delivery()], "https://edge.sitecorecloud.io/api/admin/v1").await
    );
}

#[tokio::test]
async fn a_targets_paths_can_be_on_another_origin() {
    let moved = [Target::deploy().with_origin(url("http://127.0.0.1:8080")).unwrap()];
    assert!(gets_token(&moved, "http://127.0.0.1:8080/api/projects/v1").await);
    for bad in [
        "http://127.0.0.1:8080/other",
        "http://127.0.0.1:8081/api/projects/v1",
        "http://localhost:8080/api/projects/v1",
        "https://xmclouddeploy-api.sitecorecloud.io/api/projects/v1",
    ] {
        assert!(!gets_token(&moved, bad).await, "{bad}");
    }
    let all = [
        Target::origin(url("http://localhost:1")).unwrap(),
        Target::origin(url("https://api.example")).unwrap(),
    ];
    for good in [
        "http://localhost:1/a/b",
        "http://LOCALHOST:1/",
        "https://api.example/x",
        "https://API.example.:443/",
    ] {
        assert!(gets_token(&all, good).await, "{good}");
    }
    for bad in [
        "https://localhost:1/",
        "http://localhost:2/",
        "http://localhost.:1/",
        "http://api.example/",
    ] {
        assert!(!gets_token(&all, bad).await, "{bad}");
    }
}

#[test]
fn an_invalid_target_is_a_config_error() {
    let cause = |error: sitecore_auth::Error| {
        assert_eq!(error.kind(), ErrorKind::Config);
        std::error::Error::source(&error).expect("a cause").to_string()
    };
    for bad in [
        "http://api.example",
        "http://10.0.0.1",
        "http://localhost.example",
        "http://localhost./",
        "ftp://localhost",
    ] {
        let message = cause(Target::origin(url(bad)).expect_err(bad));
        assert!(message.contains("https"), "{message}");
        assert!(Target::deploy().with_origin(url(bad)).is_err(), "{bad}");
    }
    for bad in [
        "https://api.example/path",
        "https://api.example/?q",
        "https://api.example/#f",
        "https://user@api.example",
        "https://:pw@api.example",
    ] {
        let message = cause(Target::origin(url(bad)).expect_err(bad));
        assert!(message.contains("origin") && !message.contains("pw"), "{message}");
    }
    for bad in [
        "",
        "*",
        ".",
        "..",
        "1",
        "127.0.0.1",
        "[::1]",
        "%65vil.com",
        "*.sitecorecloud.io",
        // Parsing drops this letter, which leaves an empty name.
        "\u{3164}.",
        "u@cm.example",
        "https://cm.example",
        "cm.example/path",
        "cm.example:443",
        "a b",
    ] {
        let message = cause(Target::authoring(bad).expect_err(bad));
        assert!(message.contains("host"), "{message}");
    }
}

proptest! {
    /// Compares with a second implementation that looks at the parsed URL.
    #[test]
    fn a_random_url_gets_a_token_if_and_only_if_a_target_covers_it(
        scheme in prop_oneof!["https", "http", "ftp"],
        user in prop_oneof![Just(String::new()), Just("xmc-acme-site-prod.sitecorecloud.io@".to_owned()), Just("u:p@".to_owned())],
        host in prop_oneof![
            Just(CM.to_owned()), Just(CM.to_uppercase()), Just(format!("{CM}.")), Just(format!("{CM}.evil.com")),
            Just("edge.sitecorecloud.io".to_owned()), Just("127.0.0.1".to_owned()), "[a-z.-]{0,12}sitecorecloud\\.io", "[a-z0-9.-]{1,20}",
        ],
        port in prop_oneof![Just(String::new()), Just(":443".to_owned()), Just(":80".to_owned()), ":[0-9]{1,5}"],
        path in prop_oneof![Just("/sitecore/api/x".to_owned()), Just("/api/admin/v1".to_owned()), "(/[a-z.%2eF]{0,8}){0,4}"],
    ) {
        let text = format!("{scheme}://{user}{host}{port}{path}");
        let Ok(url) = Url::parse(&text) else { return Ok(()) };
        if url.scheme() == "ftp" { return Ok(()) }
        let targets = [Target::authoring(CM).unwrap(), Target::edge_admin()];
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let attached = runtime.block_on(gets_token(&targets, &text));
        let host = url.host_str().unwrap_or_default();
        let host = host.strip_suffix('.').unwrap_or(host);
        let expected = url.scheme() == "https" && url.port_or_known_default() == Some(443) && match host {
            _ if url.path().contains('%') && url.path().contains("..") => attached,
            CM => url.path() == "/sitecore/api" || url.path().starts_with("/sitecore/api/"),
            "edge.sitecorecloud.io" => ["/api/admin", "/api/apikey"].iter().any(|folder| url.path() == *folder || url.path().starts_with(&format!("{folder}/"))),
            _ => false,
        };
        prop_assert_eq!(attached, expected, "{}", text);
    }
}
