//! The actions that the caller may not take in a unit.

/// The reason why the caller may not take an action; none if Consul allows the action or gave no answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Denials {
    /// Deploy and roll back.
    pub(crate) deploy: Option<String>,
    /// Abort the running deploy.
    pub(crate) abort: Option<String>,
    /// Freeze and unfreeze.
    pub(crate) freeze: Option<String>,
    /// Mark builds bad and good.
    pub(crate) mark: Option<String>,
}
