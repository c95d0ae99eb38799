//! Durations (`500ms`, `30s`, `5m`, `24h`) and sizes (`64KiB`, `256MiB`, `1GiB`) as manifests write them.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// What a duration looks like, for a fault.
pub const DURATION_FORM: &str = "expected a duration such as 500ms, 30s, 5m or 24h";
/// What a size looks like, for a fault.
pub const SIZE_FORM: &str = "expected a size such as 64KiB, 256MiB or 1GiB";

/// Longest duration that is understood: 366 days.
pub const DURATION_MAX: Duration = Duration::from_secs(366 * 24 * 3600);
/// Largest size that is understood: 1 PiB.
pub const SIZE_MAX: u64 = 1 << 50;

const DURATIONS: [(&str, u64); 5] = [
    ("ms", 1),
    ("s", 1_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];
const SIZES: [(&str, u64); 7] = [
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("Ki", 1 << 10),
    ("Mi", 1 << 20),
    ("Gi", 1 << 30),
    ("B", 1),
];

/// Splits `1h30m` into (1, "h"), (30, "m"). `None`: not of that form.
fn pairs(text: &str) -> Option<Vec<(u64, &str)>> {
    let mut rest = text;
    let mut found = Vec::new();
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let (number, tail) = rest.split_at(digits);
        let letters = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(letters);
        found.push((number.parse().ok()?, unit));
        rest = tail;
    }
    (!found.is_empty()).then_some(found)
}

/// Reads a duration: digits and one of `ms`, `s`, `m`, `h`, `d`, possibly several of those (`1h30m`).
///
/// # Errors
/// A text for a person when it is of another form or over [`DURATION_MAX`].
pub fn parse_duration(text: &str) -> Result<Duration, String> {
    let wrong = || format!("{DURATION_FORM}, is {text:?}");
    let mut total: u64 = 0;
    for (number, unit) in pairs(text).ok_or_else(wrong)? {
        let (_, factor) = DURATIONS
            .iter()
            .find(|(name, _)| *name == unit)
            .ok_or_else(wrong)?;
        total = number
            .checked_mul(*factor)
            .and_then(|ms| total.checked_add(ms))
            .ok_or_else(wrong)?;
    }
    let value = Duration::from_millis(total);
    if value > DURATION_MAX {
        Err(format!("must be at most 366d, is {text}"))
    } else {
        Ok(value)
    }
}

/// Writes a duration in the largest unit that is exact. Parts below a millisecond are cut off.
pub fn duration(value: Duration) -> String {
    let ms = u64::try_from(value.as_millis()).unwrap_or(u64::MAX);
    match ms {
        0 => "0s".to_owned(),
        _ if ms.is_multiple_of(3_600_000) => format!("{}h", ms / 3_600_000),
        _ if ms.is_multiple_of(60_000) => format!("{}m", ms / 60_000),
        _ if ms.is_multiple_of(1_000) => format!("{}s", ms / 1_000),
        _ => format!("{ms}ms"),
    }
}

/// Reads a size in bytes: digits and `B`, `KiB`, `MiB`, `GiB` (`Ki`, `Mi`, `Gi` too), or digits alone for bytes.
///
/// # Errors
/// A text for a person when it is of another form or over [`SIZE_MAX`].
pub fn parse_size(text: &str) -> Result<u64, String> {
    let wrong = || format!("{SIZE_FORM}, is {text:?}");
    let (number, unit) = match pairs(text).ok_or_else(wrong)?.as_slice() {
        [(number, unit)] => (*number, *unit),
        _ => return Err(wrong()),
    };
    let factor = match unit {
        "" => 1,
        unit => SIZES
            .iter()
            .find(|(name, _)| *name == unit)
            .map(|(_, f)| *f)
            .ok_or_else(wrong)?,
    };
    let value = number.checked_mul(factor).ok_or_else(wrong)?;
    if value > SIZE_MAX {
        Err(format!("must be at most {}, is {text}", size(SIZE_MAX)))
    } else {
        Ok(value)
    }
}

/// Writes a size in the largest unit that is exact.
pub fn size(bytes: u64) -> String {
    match bytes {
        0 => "0".to_owned(),
        _ if bytes.is_multiple_of(1 << 30) => format!("{}GiB", bytes >> 30),
        _ if bytes.is_multiple_of(1 << 20) => format!("{}MiB", bytes >> 20),
        _ if bytes.is_multiple_of(1 << 10) => format!("{}KiB", bytes >> 10),
        _ => bytes.to_string(),
    }
}

/// Writes a time as RFC 3339 in UTC with milliseconds: `2026-11-21T10:00:00.250Z`. Times before 1970 are 1970.
pub fn rfc3339(time: SystemTime) -> String {
    let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days since 0000-03-01 in eras of 400 years, as in Howard Hinnant's "chrono-compatible low-level date algorithms".
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!(
        "{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z",
        since.subsec_millis()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_written_as_rfc_3339() {
        let table = [
            (0, "1970-01-01T00:00:00.000Z"),
            (951_782_400_123, "2000-02-29T00:00:00.123Z"),
            (1_795_255_200_250, "2026-11-21T10:00:00.250Z"),
            (4_107_542_399_999, "2100-02-28T23:59:59.999Z"),
        ];
        for (ms, text) in table {
            assert_eq!(rfc3339(UNIX_EPOCH + Duration::from_millis(ms)), text);
        }
    }

    #[test]
    fn durations_are_read_in_every_unit() {
        let table = [
            ("0s", 0),
            ("500ms", 500),
            ("30s", 30_000),
            ("5m", 300_000),
            ("24h", 86_400_000),
            ("1d", 86_400_000),
            ("1h30m", 5_400_000),
        ];
        for (text, ms) in table {
            assert_eq!(parse_duration(text), Ok(Duration::from_millis(ms)), "{text}");
        }
    }

    #[test]
    fn what_is_no_duration_is_refused() {
        for text in [
            "",
            "s",
            "5",
            "-5s",
            "5 s",
            "5S",
            "1.5s",
            "5sec",
            "99999999999999999999s",
            "367d",
            "٣s",
        ] {
            assert!(parse_duration(text).is_err(), "{text}");
        }
    }

    #[test]
    fn sizes_are_read_in_every_unit() {
        let table = [
            ("0", 0),
            ("17", 17),
            ("1B", 1),
            ("64KiB", 65_536),
            ("64Ki", 65_536),
            ("1GiB", 1 << 30),
        ];
        for (text, bytes) in table {
            assert_eq!(parse_size(text), Ok(bytes), "{text}");
        }
        for text in [
            "",
            "KiB",
            "64KB",
            "64 KiB",
            "1KiB1B",
            "-1",
            "99999999999999GiB",
            "1.5MiB",
        ] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }
}
