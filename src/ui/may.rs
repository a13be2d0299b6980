//! What the caller is not allowed to do in a unit.

/// For each action: why the caller may not do it; none where Consul allows it, or does not say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct May {
    /// Write a deploy request.
    pub(crate) deploy: Option<String>,
    /// Abort the running deploy.
    pub(crate) abort: Option<String>,
    /// Freeze and unfreeze.
    pub(crate) freeze: Option<String>,
    /// Mark builds bad and good.
    pub(crate) mark: Option<String>,
}
