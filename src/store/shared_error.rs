//! An error that is kept: cloned to several readers, and compared with an earlier one.
//!
//! Invariants: its text and its source are those of the error inside. Two are equal if their texts
//! are equal.

use std::error::Error;
use std::fmt;
use std::sync::Arc;

/// An error of a type that can be neither cloned nor compared, as [`std::io::Error`].
#[derive(Debug)]
pub struct SharedError<E>(Arc<E>);

impl<E> From<E> for SharedError<E> {
    fn from(error: E) -> Self {
        SharedError(Arc::new(error))
    }
}

impl<E> Clone for SharedError<E> {
    fn clone(&self) -> Self {
        SharedError(self.0.clone())
    }
}

impl<E: fmt::Display> PartialEq for SharedError<E> {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0) || self.0.to_string() == other.0.to_string()
    }
}

impl<E: fmt::Display> Eq for SharedError<E> {}

impl<E: fmt::Display> fmt::Display for SharedError<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<E: Error + 'static> Error for SharedError<E> {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.0.source()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io;

    #[test]
    fn kept_errors_are_equal_by_their_texts() {
        let of = |text: &str| SharedError::from(io::Error::other(text.to_owned()));
        assert!(of("disk full") == of("disk full") && of("disk full") != of("read only"));
        assert_eq!(of("disk full").clone().to_string(), "disk full");
    }
}
