//! The year of `reqsign-core`, by the wall clock. It has no way to report a rejected token.

use std::{sync::Arc, time::Duration};

use http::{HeaderValue, Request, header::AUTHORIZATION, request::Parts};
use reqsign_core::{
    Context, Error, ProvideCredential, Result, SignRequest, Signer, SigningCredential,
    time::Timestamp,
};

use super::world::{self, DAY, World, Year};

/// How long before expiry a token is refreshed: the value of reqsign's own Google service.
const BUFFER: Duration = Duration::from_secs(120);

pub(super) async fn year(world: Arc<World>) -> Year {
    let loader = Loader(Arc::clone(&world));
    let signer = Signer::new(Context::new(), loader, Attach(Arc::clone(&world)));
    world::run(&world, async |url: &str| {
        let (mut head, ()) = Request::new(()).into_parts();
        let signed = signer.sign(&mut head, None).await;
        let header = head.headers.get(AUTHORIZATION);
        let header = header.and_then(|header| header.to_str().ok());
        signed.is_ok() && header.is_some_and(|header| world.accepts(url, header))
    })
    .await
}

/// Users write this type and the next two themselves. They follow reqsign's own services, except
/// for the clock.
#[derive(Clone, Debug)]
struct Bearer {
    token: String,
    expires_at: Timestamp,
    world: Arc<World>,
}

impl SigningCredential for Bearer {
    fn is_valid(&self) -> bool {
        now(&self.world) + BUFFER < self.expires_at
    }

    fn is_valid_at(&self, timestamp: Timestamp) -> bool {
        timestamp < self.expires_at
    }
}

#[derive(Debug)]
struct Loader(Arc<World>);

impl ProvideCredential for Loader {
    type Credential = Bearer;

    async fn provide_credential(&self, _ctx: &Context) -> Result<Option<Bearer>> {
        let world = Arc::clone(&self.0);
        Ok(Some(Bearer {
            token: world.request_token().await.map_err(Error::unexpected)?,
            expires_at: now(&world) + Duration::from_secs(DAY),
            world,
        }))
    }
}

#[derive(Debug)]
struct Attach(Arc<World>);

impl SignRequest for Attach {
    type Credential = Bearer;

    fn required_valid_until(&self, _: &Bearer, expires_in: Option<Duration>) -> Timestamp {
        now(&self.0) + expires_in.unwrap_or_default()
    }

    async fn sign_request(
        &self,
        _ctx: &Context,
        head: &mut Parts,
        credential: Option<&Bearer>,
        _expires_in: Option<Duration>,
    ) -> Result<()> {
        let credential = credential.ok_or_else(|| Error::credential_invalid("no token"))?;
        let header = HeaderValue::try_from(format!("Bearer {}", credential.token));
        head.headers.insert(AUTHORIZATION, header.expect("a header"));
        Ok(())
    }
}

fn now(world: &World) -> Timestamp {
    let millis = i64::try_from(world.wall().as_millis()).expect("a valid timestamp");
    Timestamp::from_millisecond(millis).expect("a valid timestamp")
}
