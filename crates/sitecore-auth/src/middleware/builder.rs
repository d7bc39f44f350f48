//! The builder of the middleware.

use std::sync::Arc;

use super::{
    AuthMiddleware, Counted, api::Api, rejection::Rejections, unauthenticated::WarnedHosts,
};
use crate::{
    cache::TokenCache,
    error::{Error, ErrorKind, Result},
    target::Target,
};

/// Builder for an [`AuthMiddleware`].
#[derive(Debug)]
#[must_use = "a builder does nothing until `build` is called"]
pub struct AuthMiddlewareBuilder {
    cache: TokenCache,
    targets: Vec<Target>,
    rejections: Rejections,
    replay: bool,
    require_target: bool,
}

impl AuthMiddlewareBuilder {
    pub(super) fn new(cache: TokenCache) -> Self {
        Self {
            cache,
            targets: Vec::new(),
            rejections: Rejections::default(),
            replay: true,
            require_target: false,
        }
    }

    /// Adds a target. At least one is needed.
    pub fn target(mut self, target: Target) -> Self {
        self.targets.push(target);
        self
    }

    /// Adds several targets.
    pub fn targets(mut self, targets: impl IntoIterator<Item = Target>) -> Self {
        self.targets.extend(targets);
        self
    }

    /// Sets whether a request that matches no target fails with a [`Config`](ErrorKind::Config)
    /// error, instead of being sent without a token; `false` by default. Requests with
    /// [`NoAuth`](crate::NoAuth) or a credential of their own are sent in any case. If a client has
    /// several middlewares, set it only on the last.
    pub fn require_target(mut self, require_target: bool) -> Self {
        self.require_target = require_target;
        self
    }

    /// Sets which responses count as rejecting the token.
    pub fn rejections(mut self, rejections: Rejections) -> Self {
        self.rejections = rejections;
        self
    }

    /// Sets whether a request is replayed if its token is rejected; `true` by default. The rejected
    /// token is replaced in any case. `false` avoids a copy of each request.
    pub fn replay(mut self, replay: bool) -> Self {
        self.replay = replay;
        self
    }

    /// Builds the middleware.
    ///
    /// # Errors
    ///
    /// [`Config`](ErrorKind::Config) if there is no target, or if a target would send the token in
    /// clear text.
    pub fn build(self) -> Result<AuthMiddleware> {
        let Self { cache, targets, rejections, replay, require_target } = self;
        if targets.is_empty() {
            return Err(Error::new(
                ErrorKind::Config,
                "no target configured; add one, for example Target::authoring(host)",
            ));
        }
        let rules = targets.into_iter().map(Target::into_rules).collect::<Result<Vec<_>>>()?;
        let apis = rules.into_iter().flatten().map(Api::new).collect();
        let (rejections, warned) = (rejections.into(), WarnedHosts::default());
        let _counted = Arc::new(Counted::new());
        Ok(AuthMiddleware { cache, apis, rejections, replay, require_target, warned, _counted })
    }
}
