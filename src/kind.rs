//! What every error of this crate has: its kind, for logs, metrics and programs. People read its text.

/// Names the kind of an error.
pub trait HasKind {
    /// One word of a small fixed set, in `snake_case`: fit for a label of a metric. It never contains what a user gave.
    fn kind(&self) -> &'static str;
}
