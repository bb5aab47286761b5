//! Days of the week and times of day.

use std::fmt;

/// A day of the week, Monday first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weekday {
    /// Monday
    Monday,
    /// Tuesday
    Tuesday,
    /// Wednesday
    Wednesday,
    /// Thursday
    Thursday,
    /// Friday
    Friday,
    /// Saturday
    Saturday,
    /// Sunday
    Sunday,
}

impl fmt::Display for Weekday {
    /// Writes the day as iptables does: `Mon`.
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Monday => "Mon",
            Self::Tuesday => "Tue",
            Self::Wednesday => "Wed",
            Self::Thursday => "Thu",
            Self::Friday => "Fri",
            Self::Saturday => "Sat",
            Self::Sunday => "Sun",
        })
    }
}

/// A time of day in hours and minutes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TimeOfDay {
    /// The hour, 0 to 23.
    hour: u8,
    /// The minute, 0 to 59.
    minute: u8,
}

impl TimeOfDay {
    /// Parses `00:00` to `23:59`, with two digits each.
    pub fn parse(text: &str) -> Option<Self> {
        let two = |text: &str, most: u8| {
            let plain = text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit());
            text.parse().ok().filter(|number| plain && *number <= most)
        };
        let (hour, minute) = text.split_once(':')?;
        Some(Self {
            hour: two(hour, 23)?,
            minute: two(minute, 59)?,
        })
    }
}

impl fmt::Display for TimeOfDay {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{:02}:{:02}", self.hour, self.minute)
    }
}

#[cfg(test)]
mod tests {
    use super::TimeOfDay;

    #[test]
    fn times_of_day() {
        let shown = TimeOfDay::parse("08:05").map(|time| time.to_string());
        assert_eq!(shown.as_deref(), Some("08:05"));
        for bad in [
            "", "8:00", "24:00", "25:00", "10:60", "1000", "10:0", "+1:00", "10:00:00",
        ] {
            assert_eq!(TimeOfDay::parse(bad), None, "{bad}");
        }
    }
}
