//! `nodes/<node>` as this agent holds it: its session, what stands there, and who is about to write it.

/// `nodes/<node>` as this agent holds it.
#[derive(Clone, Debug)]
pub(super) struct OwnRecord<S> {
    /// The node's session, while it has one.
    pub(super) session: Option<S>,
    /// What stands there by our own last write, as [`presence::said`](super::presence::said) has it; none: not known.
    pub(super) written: Option<String>,
    writer: Option<Writer>,
}

/// Who is about to write the record.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Writer {
    Outbox,
    Presence,
}

impl<S> OwnRecord<S> {
    pub(super) const fn new() -> Self {
        Self { session: None, written: None, writer: None }
    }

    pub(super) const fn writer(&self) -> Option<Writer> {
        self.writer
    }

    /// Whether `writer` may write now; it keeps that right until it releases it.
    pub(super) fn claim(&mut self, writer: Writer) -> bool {
        *self.writer.get_or_insert(writer) == writer
    }

    pub(super) fn release(&mut self, writer: Writer) {
        if self.writer == Some(writer) {
            self.writer = None;
        }
    }
}
