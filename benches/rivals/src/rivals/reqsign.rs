//! `reqsign-core`: a signer that loads a credential, caches it while it is valid, and signs
//! requests.

use std::{fmt, time::Duration};

use http::{HeaderValue, Request, header::AUTHORIZATION, request::Parts};
use reqsign_core::{
    Context, Error, ProvideCredential, Result as Signed, SignRequest, Signer, SigningCredential,
    time::Timestamp,
};

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

/// How long before expiry a token is refreshed: the value of reqsign's own Google service.
const BUFFER: Duration = Duration::from_secs(120);

pub struct Reqsign(Signer<Bearer>);

impl Rival for Reqsign {
    const NAME: &'static str = "reqsign-core 3.3.2";
    const SETUP: &'static str = "In process: a `Signer` with a `ProvideCredential`, and a \
                                 `SignRequest` that clones the header.";

    // Within the buffer before expiry.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(127_000), Duration::from_millis(7_200)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let loader = Loader(issuer.clone());
        Ok(Self(Signer::new(Context::new(), loader, Attach)))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // Not part of the rival: the smallest request head, which allocates nothing.
        let (mut head, ()) = Request::new(()).into_parts();
        self.0.sign(&mut head, None).await.map_err(text_of)?;
        let header = head.headers.remove(AUTHORIZATION);
        header.ok_or_else(|| "no authorization".to_owned())
    }
}

/// Not part of the rival, which leaves the credential to its users. This one contains the finished
/// header, so that neither the signer's clone of it nor the signing copies the token.
#[derive(Clone)]
struct Bearer {
    header: HeaderValue,
    expires_at: Timestamp,
}

impl fmt::Debug for Bearer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Bearer")
    }
}

impl SigningCredential for Bearer {
    fn is_valid(&self) -> bool {
        Timestamp::now() + BUFFER < self.expires_at
    }

    fn is_valid_at(&self, timestamp: Timestamp) -> bool {
        timestamp < self.expires_at
    }
}

#[derive(Debug)]
struct Loader(Issuer);

impl ProvideCredential for Loader {
    type Credential = Bearer;

    async fn provide_credential(&self, _ctx: &Context) -> Signed<Option<Bearer>> {
        let granted = self.0.request_token().await;
        let granted = granted.map_err(|failed| Error::unexpected(failed.to_string()))?;
        Ok(Some(Bearer {
            header: bearer(&granted.token).map_err(Error::unexpected)?,
            expires_at: Timestamp::now() + granted.lifetime,
        }))
    }
}

#[derive(Debug)]
struct Attach;

impl SignRequest for Attach {
    type Credential = Bearer;

    async fn sign_request(
        &self,
        _ctx: &Context,
        head: &mut Parts,
        credential: Option<&Bearer>,
        _expires_in: Option<Duration>,
    ) -> Signed<()> {
        let credential = credential.ok_or_else(|| Error::credential_invalid("no token"))?;
        head.headers.insert(AUTHORIZATION, credential.header.clone());
        Ok(())
    }
}
