//! `reqsign-core`: a signer that loads a credential, keeps it while it is valid, and signs request heads.

use std::{fmt, time::Duration};

use http::{HeaderValue, Request, header::AUTHORIZATION, request::Parts};
use reqsign_core::{
    Context, Error, ProvideCredential, Result as Signed, SignRequest, Signer, SigningCredential,
    time::Timestamp,
};

use super::{Rival, bearer, text_of};
use crate::issuer::Issuer;

/// How early a token is renewed: what reqsign's own service for Google's bearer tokens takes.
const BUFFER: Duration = Duration::from_secs(120);

pub struct Reqsign(Signer<Bearer>);

impl Rival for Reqsign {
    const NAME: &'static str = "reqsign-core 3.3.2";
    const FED: &'static str = "In process: a `ProvideCredential`, and a `SignRequest` that clones the ready header, in a `Signer`.";

    // Within the buffer.
    const STALE: Result<(Duration, Duration), &'static str> =
        Ok((Duration::from_millis(127_000), Duration::from_millis(7_200)));

    async fn start(issuer: &Issuer) -> Result<Self, String> {
        let loader = Loader(issuer.clone());
        Ok(Self(Signer::new(Context::new(), loader, Attach)))
    }

    async fn header(&self) -> Result<HeaderValue, String> {
        // Not the rival's: the least of all request heads, which allocates nothing.
        let (mut head, ()) = Request::new(()).into_parts();
        self.0.sign(&mut head, None).await.map_err(text_of)?;
        let header = head.headers.remove(AUTHORIZATION);
        header.ok_or_else(|| "no authorization".to_owned())
    }
}

/// Not the rival's: it leaves the credential to its users. This one holds the header ready, so that
/// neither the signer's clone of it nor the signing copies the token.
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
        let granted = self.0.grant().await;
        let granted = granted.map_err(|failed| Error::unexpected(failed.to_string()))?;
        Ok(Some(Bearer {
            header: bearer(&granted.token).map_err(Error::unexpected)?,
            expires_at: Timestamp::now() + granted.life,
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
