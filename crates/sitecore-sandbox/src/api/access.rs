//! Who may use the Authoring API.

use async_graphql::{Context, Error, Guard, Result};

/// The prefix of the scopes that give access.
pub(crate) const SCOPE: &str = "xmcloud.cm:";

/// The access that a call's bearer token gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Access {
    Granted,
    NotAuthorized,
    NotAuthenticated,
}

/// Denies access to a field, like HotChocolate's `@authorize`.
pub(super) struct SignedIn;

impl Guard for SignedIn {
    async fn check(&self, context: &Context<'_>) -> Result<()> {
        match context.data::<Access>()? {
            Access::Granted => Ok(()),
            _ => Err(Error::new("The current user is not authorized to access this resource.")),
        }
    }
}
