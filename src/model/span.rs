//! Lengths of time in words.

use std::time::Duration;

/// A length of time as people say it, by its two largest units: `9m12s`, `41s`, `3h05m`, `2d04h`, `850ms`.
pub fn span(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 => format!("{}ms", duration.as_millis()),
        1..=9 => format!("{}.{}s", seconds, duration.subsec_millis() / 100),
        10..=59 => format!("{seconds}s"),
        60..=3599 => format!("{}m{:02}s", seconds / 60, seconds % 60),
        3600..=86_399 => format!("{}h{:02}m", seconds / 3600, seconds / 60 % 60),
        _ => format!("{}d{:02}h", seconds / 86_400, seconds / 3600 % 24),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_units_at_most() {
        let cases = [
            (0, "0ms"),
            (850, "850ms"),
            (1_250, "1.2s"),
            (41_900, "41s"),
            (552_000, "9m12s"),
            (11_100_000, "3h05m"),
            (187_200_000, "2d04h"),
        ];
        for (milliseconds, text) in cases {
            assert_eq!(span(Duration::from_millis(milliseconds)), text);
        }
    }
}
