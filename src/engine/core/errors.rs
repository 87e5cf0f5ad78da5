//! Errors of leases that have ended.

use crate::{
    error::{Error, ErrorKind},
    ids::Offset,
};

/// How many lost leases an error names.
const LOST_NAMED: usize = 10;

pub fn lease_lost() -> Error {
    let what = "nothing was changed: the delivery was settled before, by a transaction for example, or its lease \
                has run out, and the message may have been delivered again. A handler that takes longer needs a \
                longer lease, Delivery::extend or Delivery::hold";
    Error::new(ErrorKind::LeaseLost, what)
}

pub fn settled_before() -> Error {
    Error::new(ErrorKind::LeaseLost, "this delivery was already acked or nacked")
}

/// The error of a commit of `all` deliveries that was not made because of `lost` leases. Names their messages and where they
/// come from. `then` says what became of the commit.
pub fn leases_lost<'a>(
    lost: impl ExactSizeIterator<Item = (Offset, Option<&'a str>)>,
    all: usize,
    then: &str,
) -> Error {
    let count = lost.len();
    let name = |(offset, from): (Offset, Option<&str>)| match from {
        Some(from) => format!("{offset} of {from:?}"),
        None => offset.to_string(),
    };
    let named: Vec<String> = lost.take(LOST_NAMED).map(name).collect();
    let more = if count > LOST_NAMED { ", ..." } else { "" };
    let named = named.join(", ");
    let what = format!("{count} of {all} leases are lost: of message {named}{more}. {then}");
    Error::new(ErrorKind::LeaseLost, what)
}
