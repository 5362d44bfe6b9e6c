//! Points in time and the two text forms that the programs exchange: ISO 8601 in UTC, and the form
//! in which OpenSSL prints certificate dates.

use std::fmt;
use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
/// Seconds of a day.
pub const DAY: i64 = 86_400;

/// A point in time, in seconds since 1970-01-01T00:00:00Z.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub struct Utc(pub i64);

impl Utc {
    /// The system clock. A clock before 1970 reads as 1970.
    pub fn now() -> Self {
        Self::from(SystemTime::now())
    }

    /// `YYYY-MM-DDTHH:MM:SSZ`.
    pub fn iso(self) -> String {
        let c = Civil::from(self);
        format!(
            "{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z",
            c.year, c.month, c.day, c.hour, c.minute, c.second
        )
    }

    /// `Mon DD HH:MM:SS YYYY GMT`, the day padded with a blank to two columns.
    pub fn openssl(self) -> String {
        let c = Civil::from(self);
        let month = usize::from(c.month - 1);
        format!(
            "{} {:>2} {:02}:{:02}:{:02} {:04} GMT",
            MONTHS[month], c.day, c.hour, c.minute, c.second, c.year
        )
    }

    /// Reads what [`Utc::iso`] writes; `None` for anything else.
    pub fn parse_iso(text: &str) -> Option<Self> {
        let bytes = text.as_bytes();
        if bytes.len() != 20 || !text.is_ascii() {
            return None;
        }
        for (at, byte) in [
            (4, b'-'),
            (7, b'-'),
            (10, b'T'),
            (13, b':'),
            (16, b':'),
            (19, b'Z'),
        ] {
            if bytes[at] != byte {
                return None;
            }
        }
        Civil {
            year: number(&text[0..4])?,
            month: u8::try_from(number(&text[5..7])?).ok()?,
            day: u8::try_from(number(&text[8..10])?).ok()?,
            hour: u8::try_from(number(&text[11..13])?).ok()?,
            minute: u8::try_from(number(&text[14..16])?).ok()?,
            second: u8::try_from(number(&text[17..19])?).ok()?,
        }
        .to_utc()
    }

    /// Reads what [`Utc::openssl`] writes (blanks between the words may differ); `None` for
    /// anything else, `unknown` included.
    pub fn parse_openssl(text: &str) -> Option<Self> {
        let mut words = text.split_ascii_whitespace();
        let month = words.next()?;
        let month = MONTHS.iter().position(|m| *m == month)? + 1;
        let day = u8::try_from(number(words.next()?)?).ok()?;
        let mut clock = words.next()?.split(':');
        let hour = u8::try_from(number(clock.next()?)?).ok()?;
        let minute = u8::try_from(number(clock.next()?)?).ok()?;
        let second = u8::try_from(number(clock.next()?)?).ok()?;
        let year = number(words.next()?)?;
        if words.next() != Some("GMT") || words.next().is_some() || clock.next().is_some() {
            return None;
        }
        Civil {
            year,
            month: u8::try_from(month).ok()?,
            day,
            hour,
            minute,
            second,
        }
        .to_utc()
    }
}

impl From<SystemTime> for Utc {
    fn from(time: SystemTime) -> Self {
        let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs());
        Self(i64::try_from(seconds).unwrap_or(i64::MAX))
    }
}

impl fmt::Display for Utc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.iso())
    }
}

/// A date and time of the proleptic Gregorian calendar.
struct Civil {
    year: u32,
    month: u8,
    day: u8,
    hour: u8,
    minute: u8,
    second: u8,
}

impl Civil {
    fn to_utc(&self) -> Option<Utc> {
        if !(1..=12).contains(&self.month)
            || self.day == 0
            || self.day > days_in_month(self.year, self.month)
            || self.hour > 23
            || self.minute > 59
            || self.second > 60
        {
            return None;
        }
        // Days from civil, after Howard Hinnant's public-domain description.
        let year = i64::from(self.year) - i64::from(self.month <= 2);
        let era = year.div_euclid(400);
        let year_of_era = year.rem_euclid(400);
        let month = (i64::from(self.month) + 9) % 12;
        let day_of_year = (153 * month + 2) / 5 + i64::from(self.day) - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        let days = era * 146_097 + day_of_era - 719_468;
        Some(Utc(days * DAY
            + i64::from(self.hour) * 3600
            + i64::from(self.minute) * 60
            + i64::from(self.second)))
    }
}

impl From<Utc> for Civil {
    fn from(utc: Utc) -> Self {
        // Years beyond 9999 have no place in either text form.
        let seconds = utc.0.clamp(-62_135_596_800, 253_402_300_799);
        let days = seconds.div_euclid(DAY) + 719_468;
        let clock = seconds.rem_euclid(DAY);
        let era = days.div_euclid(146_097);
        let day_of_era = days.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted + 2) / 5 + 1;
        let month = if shifted < 10 {
            shifted + 3
        } else {
            shifted - 9
        };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self {
            year: small(year),
            month: small(month),
            day: small(day),
            hour: small(clock / 3600),
            minute: small(clock / 60 % 60),
            second: small(clock % 60),
        }
    }
}

/// Narrows a number that the calendar arithmetic keeps in range.
fn small<T: TryFrom<i64> + Default>(value: i64) -> T {
    T::try_from(value).unwrap_or_default()
}

fn number(digits: &str) -> Option<u32> {
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    digits.parse().ok()
}

fn days_in_month(year: u32, month: u8) -> u8 {
    match month {
        4 | 6 | 9 | 11 => 30,
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        _ => 31,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn known_points() {
        assert_eq!(Utc(0).iso(), "1970-01-01T00:00:00Z");
        assert_eq!(Utc(1_844_008_080).openssl(), "Jun  7 16:28:00 2028 GMT");
        assert_eq!(
            Utc::parse_openssl("Jun  7 16:28:00 2028 GMT"),
            Some(Utc(1_844_008_080))
        );
        assert_eq!(
            Utc::parse_iso("2038-01-19T03:14:08Z"),
            Some(Utc(2_147_483_648))
        );
        assert_eq!(
            Utc::parse_iso("2000-02-29T00:00:00Z")
                .map(Utc::iso)
                .as_deref(),
            Some("2000-02-29T00:00:00Z")
        );
    }

    #[test]
    fn refuses_what_is_no_date() {
        for bad in [
            "",
            "unknown",
            "Jun 7 2028",
            "Foo  7 16:28:00 2028 GMT",
            "Jun 31 16:28:00 2028 GMT",
            "Jun  7 16:28:00 2028 CET",
            "Jun  7 16:28:00:00 2028 GMT",
        ] {
            assert_eq!(Utc::parse_openssl(bad), None, "{bad}");
        }
        for bad in [
            "",
            "2028-13-01T00:00:00Z",
            "2027-02-29T00:00:00Z",
            "2028-01-01 00:00:00Z",
            "2028-01-01T24:00:00Z",
            "é028-01-01T00:00:0Z",
        ] {
            assert_eq!(Utc::parse_iso(bad), None, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn both_forms_round_trip(seconds in 0i64..253_402_300_799) {
            let utc = Utc(seconds);
            prop_assert_eq!(Utc::parse_iso(&utc.iso()), Some(utc));
            prop_assert_eq!(Utc::parse_openssl(&utc.openssl()), Some(utc));
        }

        #[test]
        fn parsers_never_panic(text in ".{0,40}") {
            let _ = (Utc::parse_iso(&text), Utc::parse_openssl(&text));
        }
    }
}
