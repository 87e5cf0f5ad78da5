//! Errors of leases that have ended.

use crate::error::{Error, ErrorKind};

pub fn lease_lost() -> Error {
    let what = "the lease of this delivery has run out, or the delivery was settled before; \
                the message may have been delivered again. For slow handlers: a longer lease, \
                Delivery::extend or Delivery::hold";
    Error::new(ErrorKind::LeaseLost, what)
}

pub fn settled_before() -> Error {
    Error::new(ErrorKind::LeaseLost, "this delivery was already acked or nacked")
}
