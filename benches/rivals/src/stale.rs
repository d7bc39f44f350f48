//! A token that should be renewed and is still good: with a slow issuer, with a dead one; and a runtime that is gone.

use std::{sync::Arc, time::Duration};

use tokio::time::{Instant, sleep, timeout};

use crate::{
    issuer::Issuer,
    report::Report,
    rivals::{Rival, Subject},
};

const SLOW: Duration = Duration::from_millis(500);
const PATIENCE: Duration = Duration::from_secs(5);

/// How the issuer is while the token is stale.
#[derive(Clone, Copy)]
pub(crate) enum Issuing {
    Slowly,
    Never,
}

/// Asks for a header a hundred times within a second: which part failed, how long one took at most, and how
/// often the issuer was asked.
pub(crate) fn stale<R: Rival>(issuer: &Issuer, issuing: Issuing) -> Result<String, String> {
    issuer.restore();
    let (life, wait) = R::STALE?;
    issuer.set_life(life);
    let runtime = crate::runtime(2);
    let said = runtime.block_on(async {
        let rival = R::start(issuer).await?;
        rival.header().await?;
        sleep(wait).await;
        issuer.reset();
        // What is granted from now on is young.
        issuer.set_life(Duration::from_secs(3_600));
        issuer.set_delay(SLOW);
        issuer.set_fails(matches!(issuing, Issuing::Never));
        let (begun, mut asked, mut failed) = (Instant::now(), 0, 0);
        let mut longest = Duration::ZERO;
        for number in 0..100 {
            tokio::time::sleep_until(begun + Duration::from_millis(10) * number).await;
            let call = Instant::now();
            let header = timeout(PATIENCE, rival.header()).await;
            asked += 1;
            failed += u32::from(!matches!(header, Ok(Ok(_))));
            longest = longest.max(call.elapsed());
            if begun.elapsed() > PATIENCE {
                break;
            }
        }
        Ok(format!(
            "{failed} of {asked} failed, ≤ {} ms, {} grants tried",
            longest.as_millis(),
            issuer.calls()
        ))
    });
    runtime.shutdown_background();
    said
}

/// What a header is from another runtime, when the one is gone in which the rival was started, and its token over.
pub(crate) fn gone<R: Rival>(issuer: &Issuer) -> Result<String, String> {
    issuer.restore();
    issuer.set_life(Duration::from_secs(2));
    let runtime = crate::runtime(2);
    let rival = runtime.block_on(async {
        let rival = Arc::new(R::start(issuer).await?);
        rival.header().await?;
        Ok::<_, String>(rival)
    })?;
    runtime.shutdown_timeout(Duration::from_secs(1));
    issuer.reset();
    let other = crate::runtime(2);
    let said = other.block_on(async {
        sleep(Duration::from_millis(2_100)).await;
        let call = tokio::spawn(async move { timeout(PATIENCE, rival.header()).await });
        match call.await {
            Err(_) => "panics".to_owned(),
            Ok(Err(_)) => "waits for ever".to_owned(),
            Ok(Ok(Err(error))) => format!("fails: {}", error.lines().next().unwrap_or_default()),
            // Nobody was asked since, and all that was granted before is over.
            Ok(Ok(Ok(_))) if issuer.calls() == 0 => "**sends an expired token**".to_owned(),
            Ok(Ok(Ok(_))) => "token refreshed".to_owned(),
        }
    });
    other.shutdown_background();
    Ok(said)
}

pub(crate) fn measure(issuer: &Issuer, subjects: &[Subject], report: &mut Report) {
    let said = |said: Result<String, String>| said.unwrap_or_else(|error| error);
    let rows = subjects[Subject::OURS..].iter().map(|subject| {
        vec![
            subject.name.to_owned(),
            said((subject.stale)(issuer, Issuing::Slowly)),
            said((subject.stale)(issuer, Issuing::Never)),
            said((subject.gone)(issuer)),
        ]
    });
    let rows = rows.collect();
    report.table(
        "A stale token, and a runtime that is gone",
        "A token that each would renew by now and that is good for longer than this lasts; a hundred headers in a second, or as many as five seconds \
         are enough for; the issuer takes 0.5 s, or fails after 0.5 s. What is granted then is young. Then: the runtime in which the cache was started is \
         dropped, its token of 2 s is over, and a header is asked for from another runtime.",
        &["", "slow issuer", "dead issuer", "runtime gone"],
        rows,
    );
}
