//! A token that is stale but still usable, with a slow issuer and with a failing one; and a cache
//! whose runtime has shut down.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::{
    contender::{Contender, Issuing},
    issuer::Issuer,
    report::Report,
    rivals::Rival,
    runtime,
};

const DELAY: Duration = Duration::from_millis(500);
const LIMIT: Duration = Duration::from_secs(5);

/// Asks for a header a hundred times within a second. Returns how many calls failed, how long the
/// slowest took, and the number of token requests.
pub(crate) fn stale<R: Rival>(issuer: &Issuer, issuing: Issuing) -> Result<String, String> {
    issuer.restore();
    let (lifetime, wait) = R::STALE?;
    issuer.set_lifetime(lifetime);
    let home = runtime::multi_thread(2);
    let summary = home.block_on(async {
        let rival = R::start(issuer).await?;
        rival.header().await?;
        sleep(wait).await;
        issuer.reset();
        // Tokens that are granted from now on are fresh.
        issuer.set_lifetime(Duration::from_secs(3_600));
        issuer.set_delay(DELAY);
        issuer.set_fails(matches!(issuing, Issuing::Failing));
        let (started, mut calls, mut failed) = (Instant::now(), 0, 0);
        let mut longest = Duration::ZERO;
        for number in 0..100 {
            sleep_until(started + Duration::from_millis(10) * number).await;
            let call = Instant::now();
            let header = timeout(LIMIT, rival.header()).await;
            calls += 1;
            failed += u32::from(!matches!(header, Ok(Ok(_))));
            longest = longest.max(call.elapsed());
            if started.elapsed() > LIMIT {
                break;
            }
        }
        let requests = issuer.token_requests();
        Ok(format!(
            "{failed} of {calls} failed, ≤ {} ms, {requests} token request{}",
            longest.as_millis(),
            if requests == 1 { "" } else { "s" }
        ))
    });
    home.shutdown_background();
    summary
}

/// Returns what a caller in another runtime gets after the rival's runtime has shut down and its
/// token has expired.
pub(crate) fn runtime_gone<R: Rival>(issuer: &Issuer) -> Result<String, String> {
    issuer.restore();
    issuer.set_lifetime(Duration::from_secs(2));
    let home = runtime::multi_thread(2);
    let rival = home.block_on(async {
        let rival = Arc::new(R::start(issuer).await?);
        rival.header().await?;
        Ok::<_, String>(rival)
    })?;
    home.shutdown_timeout(Duration::from_secs(1));
    issuer.reset();
    let other = runtime::multi_thread(2);
    let summary = other.block_on(async {
        sleep(Duration::from_millis(2_100)).await;
        let call = tokio::spawn(async move { timeout(LIMIT, rival.header()).await });
        match call.await {
            Err(_) => "panics".to_owned(),
            Ok(Err(_)) => "hangs".to_owned(),
            Ok(Ok(Err(error))) => format!("fails: {}", error.lines().next().unwrap_or_default()),
            // Without a token request since the reset, this token has expired.
            Ok(Ok(Ok(_))) if issuer.token_requests() == 0 => {
                "**sends an expired token**".to_owned()
            }
            Ok(Ok(Ok(_))) => "gets a new token".to_owned(),
        }
    });
    other.shutdown_background();
    Ok(summary)
}

pub(crate) fn measure(issuer: &Issuer, contenders: &[Contender], report: &mut Report) {
    let cell = |result: Result<String, String>| result.unwrap_or_else(|error| error);
    let rows = contenders[Contender::OURS..].iter().map(|contender| {
        vec![
            contender.name.to_owned(),
            cell((contender.stale)(issuer, Issuing::Slowly)),
            cell((contender.stale)(issuer, Issuing::Failing)),
            cell((contender.runtime_gone)(issuer)),
        ]
    });
    let rows = rows.collect();
    report.table(
        "A stale token, and a runtime that has shut down",
        "In the first two columns, each cache has a token that is stale by the cache's own rule \
         but usable for longer than the test takes. A caller asks for a hundred headers within \
         one second, or for as many as it gets in five seconds. Meanwhile the issuer takes 0.5 s, \
         or fails after 0.5 s; the tokens that it grants are fresh. In the last column, the \
         runtime in which the cache was started shuts down, its token expires after 2 s, and a \
         caller in another runtime asks for a header.",
        &["", "slow issuer", "failing issuer", "runtime shut down"],
        rows,
    );
}
