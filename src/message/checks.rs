//! Checks of messages, when they are sent.

use super::Message;
use crate::{
    config::PRIORITY_MAX,
    error::{Error, Result},
    subject,
};

impl Message<'_> {
    /// Checks the priority. `refusal` says why messages at the target have none.
    pub(crate) fn check_priority(&self, refusal: Option<&'static str>) -> Result<()> {
        let priority = self.priority_set();
        if priority > PRIORITY_MAX {
            let what = format!("a priority of {priority}; the highest is {PRIORITY_MAX}");
            return Err(Error::invalid("priority", what));
        }
        match refusal.filter(|_| priority > 0) {
            Some(what) => Err(Error::invalid("priority", what)),
            None => Ok(()),
        }
    }

    /// Checks the names of the headers, and the subject.
    pub(crate) fn check_headers(&self) -> Result<()> {
        if self.headers().any(|(name, _)| name.is_empty()) {
            return Err(Error::invalid("header", "a header without a name"));
        }
        self.check_subject()
    }

    /// Checks the subject. That of a message that is moved was accepted before.
    pub(crate) fn check_subject(&self) -> Result<()> {
        let Some(subject) = self.subject_set().filter(|_| !self.is_moved()) else { return Ok(()) };
        subject::check_subject(subject)
            .map_err(|what| Error::invalid("subject", format!("the subject {subject:?}: {what}")))
    }
}
