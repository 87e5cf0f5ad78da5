//! What can be a payload, a key or the value of a header.

use std::borrow::Cow;

use super::Message;

/// Types that can be a payload, a key or the value of a header: bytes and text, borrowed or owned.
pub trait IntoBytes<'a> {
    /// Converts into bytes, without a copy.
    fn into_bytes(self) -> Cow<'a, [u8]>;
}

macro_rules! bytes_from {
    ($($from:ty, $this:ident => $bytes:expr;)*) => {$(
        impl<'a> IntoBytes<'a> for $from {
            fn into_bytes(self) -> Cow<'a, [u8]> {
                let $this = self;
                $bytes
            }
        }
        impl<'a> From<$from> for Message<'a> {
            fn from(payload: $from) -> Message<'a> {
                Message::new(payload)
            }
        }
    )*};
}
bytes_from! {
    &'a [u8], this => Cow::Borrowed(this);
    &'a str, this => Cow::Borrowed(this.as_bytes());
    &'a Vec<u8>, this => Cow::Borrowed(this);
    &'a String, this => Cow::Borrowed(this.as_bytes());
    Vec<u8>, this => Cow::Owned(this);
    String, this => Cow::Owned(this.into_bytes());
    Cow<'a, [u8]>, this => this;
}

impl<'a, const N: usize> IntoBytes<'a> for &'a [u8; N] {
    fn into_bytes(self) -> Cow<'a, [u8]> {
        Cow::Borrowed(self)
    }
}

impl<'a, const N: usize> From<&'a [u8; N]> for Message<'a> {
    fn from(payload: &'a [u8; N]) -> Message<'a> {
        Message::new(payload)
    }
}
