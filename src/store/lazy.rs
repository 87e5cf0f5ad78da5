//! State that most logs and cursors do not have: it takes memory once it changes.

use std::ops::{Deref, DerefMut};

/// A state that may be absent.
pub trait Absent: Sized + 'static {
    const ABSENT: Self;

    /// What is read while it is absent.
    fn absent() -> &'static Self;
}

/// A state that takes no memory until it changes.
#[derive(Clone, Debug)]
pub struct Lazy<T>(Option<Box<T>>);

impl<T> Default for Lazy<T> {
    fn default() -> Lazy<T> {
        Lazy(None)
    }
}

impl<T> Lazy<T> {
    #[inline]
    pub fn is_absent(&self) -> bool {
        self.0.is_none()
    }

    /// The state, if it is there.
    #[inline]
    pub fn get(&self) -> Option<&T> {
        self.0.as_deref()
    }
}

impl<T: Absent> Deref for Lazy<T> {
    type Target = T;

    #[inline]
    fn deref(&self) -> &T {
        self.0.as_deref().unwrap_or(T::absent())
    }
}

impl<T: Absent> DerefMut for Lazy<T> {
    #[inline]
    fn deref_mut(&mut self) -> &mut T {
        self.0.get_or_insert_with(|| Box::new(T::ABSENT))
    }
}
