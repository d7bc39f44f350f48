//! `wait`: waits until a server responds, such as a proxy that was started in the background.

use std::time::Duration;

use tokio::time::{sleep, timeout};
use url::Url;

use crate::{
    api::{is_html, start_of},
    args::{Common, Wait},
    failure::{Failure, Kind, Result},
    terminal::printable,
};

const INTERVAL: Duration = Duration::from_millis(100);

/// How long one attempt may take.
const ATTEMPT_TIME: Duration = Duration::from_secs(5);

pub(crate) async fn run(options: &Wait, common: &Common) -> Result<()> {
    let invalid = |reason: &str| {
        Failure::usage(format!("cannot wait for this URL: {reason}"))
            .hint("expected a URL such as http://127.0.0.1:9901/healthz/ready")
    };
    let mut url = Url::parse(&options.url).map_err(|error| invalid(&error.to_string()))?;
    if !["http", "https"].contains(&url.scheme()) {
        return Err(invalid("the scheme is neither http nor https"));
    }
    if !url.username().is_empty() || url.password().is_some() {
        return Err(invalid("it contains a user name or a password"));
    }
    if url.path() == "/" {
        url.set_path("/healthz/ready");
    }
    let http = reqwest::Client::builder().no_proxy().timeout(ATTEMPT_TIME).build()?;
    let mut last = "there was no response".to_owned();
    let wait = async {
        loop {
            match http.get(url.clone()).send().await {
                Ok(response) if response.status().is_success() => return,
                Ok(response) => {
                    last = format!("the last response had status {}", response.status());
                    let is_html = is_html(&response);
                    let body = if is_html { String::new() } else { start_of(response).await };
                    if !body.trim().is_empty() {
                        last = format!("{last}: {}", printable(body.trim()));
                    }
                }
                Err(error) => last = Failure::from(error).to_string(),
            }
            sleep(INTERVAL).await;
        }
    };
    let waited = timeout(common.timeout, wait).await;
    waited.map_err(|_| {
        let limit = humantime::format_duration(common.timeout);
        let shown = &url[..url::Position::AfterPath];
        let message = format!("{shown} was not ready within {limit}: {last}");
        Failure::new(Kind::Unavailable, message)
            .hint("allow more time with --timeout; if this is a proxy, use the address of its status page (--status)")
    })
}
