//! Durations as JSON has them: whole milliseconds.

use std::time::Duration;

use serde::{Serialize, Serializer};

/// Serializes a duration in whole milliseconds.
pub(super) fn milliseconds<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration.map(whole_milliseconds).serialize(serializer)
}

/// The same where it is known whether there is one.
pub(super) fn known_milliseconds<S: Serializer>(
    known: &Option<Option<Duration>>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    milliseconds(&known.flatten(), serializer)
}

/// Serializes a duration that is known in whole milliseconds.
pub(super) fn plain_milliseconds<S: Serializer>(
    duration: &Duration,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    whole_milliseconds(*duration).serialize(serializer)
}

/// A duration in whole milliseconds, at most what JSON's consumers can hold.
pub fn whole_milliseconds(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
