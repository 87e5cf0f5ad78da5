//! Filters of subscriptions: patterns for subjects, and conditions on headers. `docs/FORMAT.md` has the table under
//! "Entities".

use serde::{Deserialize, Serialize};

use super::record::Headers;
use crate::subject::check_pattern;

/// The most patterns of a subscription.
pub const PATTERNS_MAX: usize = 64;
/// The most conditions on headers of a subscription.
pub const HEADER_FILTERS_MAX: usize = 16;
/// The longest name, and the longest value, in a condition on a header, in bytes.
pub const HEADER_FILTER_BYTES_MAX: usize = 1024;

/// Which messages a subscription gets: those whose subject matches one of the patterns, and whose headers meet all
/// conditions. Without patterns every subject matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Filter {
    pub patterns: Vec<String>,
    pub headers: Vec<HeaderFilter>,
}

/// A condition on the headers of a message. It holds if one header with the name meets it.
///
/// [`DeliverySettings::header_filters`](crate::DeliverySettings::header_filters) has those of a subscription.
/// [`header_equals`](crate::SubscriptionBuilder::header_equals),
/// [`header_exists`](crate::SubscriptionBuilder::header_exists) and
/// [`header_prefix`](crate::SubscriptionBuilder::header_prefix) set them.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[non_exhaustive]
pub enum HeaderFilter {
    /// The header has this value.
    Equals {
        /// The name of the header.
        name: String,
        /// Its value.
        value: Vec<u8>,
    },
    /// The header is there, whatever its value.
    Exists {
        /// The name of the header.
        name: String,
    },
    /// The value of the header begins with these bytes.
    Prefix {
        /// The name of the header.
        name: String,
        /// What its value begins with.
        prefix: Vec<u8>,
    },
}

impl HeaderFilter {
    fn parts(&self) -> (&str, &[u8]) {
        match self {
            HeaderFilter::Equals { name, value: bytes }
            | HeaderFilter::Prefix { name, prefix: bytes } => (name, bytes),
            HeaderFilter::Exists { name } => (name, &[]),
        }
    }

    fn is_met(&self, (name, value): (&str, &[u8])) -> bool {
        match self {
            HeaderFilter::Equals { name: wanted, value: equal } => name == wanted && value == equal,
            HeaderFilter::Exists { name: wanted } => name == wanted,
            HeaderFilter::Prefix { name: wanted, prefix } => {
                name == wanted && value.starts_with(prefix)
            }
        }
    }
}

/// What is wrong with a filter: the setting, and why.
pub type FilterFault = (&'static str, String);

impl Filter {
    /// These patterns and conditions in the one order that they are stored in. `None` if there are none.
    pub fn of(mut patterns: Vec<String>, mut headers: Vec<HeaderFilter>) -> Option<Filter> {
        patterns.sort_unstable();
        patterns.dedup();
        headers.sort_unstable();
        headers.dedup();
        (!patterns.is_empty() || !headers.is_empty()).then_some(Filter { patterns, headers })
    }

    /// Checks the patterns and the conditions.
    pub fn check(&self) -> Result<(), FilterFault> {
        if self.patterns.len() > PATTERNS_MAX {
            let what = format!("{} patterns; a subscription has at most 64", self.patterns.len());
            return Err(("pattern", what));
        }
        for pattern in &self.patterns {
            check_pattern(pattern)
                .map_err(|what| ("pattern", format!("the pattern {pattern:?}: {what}")))?;
        }
        if self.headers.len() > HEADER_FILTERS_MAX {
            let count = self.headers.len();
            let what = format!("{count} conditions on headers; a subscription has at most 16");
            return Err(("header_filter", what));
        }
        for (name, bytes) in self.headers.iter().map(HeaderFilter::parts) {
            if name.is_empty() {
                let what = "a condition on a header without a name: no header has an empty name";
                return Err(("header_filter", what.to_owned()));
            }
            if name.len().max(bytes.len()) > HEADER_FILTER_BYTES_MAX {
                let what = "a condition on a header has a name and a value of at most 1,024 bytes";
                return Err(("header_filter", what.to_owned()));
            }
        }
        Ok(())
    }

    /// The patterns to look subjects up by.
    pub fn patterns(&self) -> impl Iterator<Item = &str> {
        const EVERY: &str = ">";
        let every = self.patterns.is_empty().then_some(EVERY);
        every.into_iter().chain(self.patterns.iter().map(String::as_str))
    }

    /// Whether the headers of a message meet all conditions.
    pub fn admits(&self, headers: Headers<'_>) -> bool {
        self.headers.iter().all(|filter| headers.into_iter().any(|header| filter.is_met(header)))
    }

    /// Whether it is as an engine stores it.
    pub(super) fn is_stored_form(&self) -> bool {
        let is_any = !self.patterns.is_empty() || !self.headers.is_empty();
        is_any
            && self.patterns.is_sorted_by(|a, b| a < b)
            && self.headers.is_sorted_by(|a, b| a < b)
            && self.check().is_ok()
    }
}
