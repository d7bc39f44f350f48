//! The environments, which do not change, and their variables.

use std::collections::BTreeMap;

/// The id of the production environment.
pub(crate) const PRODUCTION: &str = "2zYj6uPbNq0sWq0Nc9rU1d";

pub(crate) const ENVIRONMENTS: [Environment; 2] = [
    Environment { id: PRODUCTION, name: "prod", is_production: true },
    Environment { id: "6hTq8LmVx3aRk5Zs7wE2yF", name: "test", is_production: false },
];

/// An environment.
#[derive(Clone, Copy)]
pub(crate) struct Environment {
    pub(crate) id: &'static str,
    pub(crate) name: &'static str,
    pub(crate) is_production: bool,
}

/// The variables of the environments, by environment and name.
pub(crate) type Variables = BTreeMap<(String, String), Variable>;

/// A variable of an environment.
#[derive(Clone, Debug)]
pub(crate) struct Variable {
    pub(crate) value: Option<String>,
    pub(crate) is_secret: bool,
    pub(crate) target: Option<String>,
}

impl Environment {
    pub(crate) fn preview_context(&self) -> String {
        format!("sandbox-{}-preview-context", self.name)
    }

    pub(crate) fn live_context(&self) -> String {
        format!("sandbox-{}-live-context", self.name)
    }
}

/// Returns the environment with this id.
pub(crate) fn environment(id: &str) -> Option<Environment> {
    ENVIRONMENTS.into_iter().find(|environment| environment.id == id)
}

/// Returns `true` if an environment has this context id.
pub(crate) fn is_context_id(id: &str) -> bool {
    ENVIRONMENTS.iter().any(|it| it.live_context() == id || it.preview_context() == id)
}
