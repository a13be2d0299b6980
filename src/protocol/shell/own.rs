//! `nodes/<node>` as this agent holds it: the session, the content, and the one machine that may write it now.

#[derive(Clone, Debug)]
pub(super) struct OwnRecord<S> {
    /// The node's session, while it has one.
    pub(super) session: Option<S>,
    /// The content by our own last write, as [`presence::report_content`](super::presence::report_content) has it; none: not known.
    pub(super) written: Option<String>,
    writer: Option<Writer>,
}

/// The machine that may write the record.
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

    /// Whether `writer` may write now. It keeps that right until it releases it.
    pub(super) fn claim(&mut self, writer: Writer) -> bool {
        *self.writer.get_or_insert(writer) == writer
    }

    pub(super) fn release(&mut self, writer: Writer) {
        if self.writer == Some(writer) {
            self.writer = None;
        }
    }
}
