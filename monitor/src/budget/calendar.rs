//! Windows of money, on the wall clock.

use jiff::{SignedDuration, Span, Timestamp, tz::TimeZone};

/// A stretch of time that a sum of money is limited in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Window {
    /// For ever: it never starts again.
    Total,
    Hour,
    Day,
    /// From Monday, as ISO 8601 has it.
    Week,
    Month,
}

impl Window {
    pub const ALL: [Self; 5] = [Self::Total, Self::Hour, Self::Day, Self::Week, Self::Month];

    pub const fn name(self) -> &'static str {
        match self {
            Self::Total => "total",
            Self::Hour => "hour",
            Self::Day => "day",
            Self::Week => "week",
            Self::Month => "month",
        }
    }

    /// Where it stands in [`Window::ALL`].
    pub(super) const fn index(self) -> usize {
        match self {
            Self::Total => 0,
            Self::Hour => 1,
            Self::Day => 2,
            Self::Week => 3,
            Self::Month => 4,
        }
    }
}

/// One turn of a window: from its start until just before its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Period {
    pub start: Timestamp,
    pub end: Timestamp,
}

const ALWAYS: Period = Period { start: Timestamp::MIN, end: Timestamp::MAX };

/// The present periods of all windows.
///
/// Its time never goes back: a wall clock that is set back stays in the period that has begun until it has caught up, so that nobody
/// gets the money of a period twice.
#[derive(Debug, Clone)]
pub(super) struct Calendar {
    zone: TimeZone,
    now: Timestamp,
    periods: [Period; 5],
}

impl Calendar {
    pub fn new(zone: TimeZone, now: Timestamp) -> Self {
        let periods = Window::ALL.map(|window| period(&zone, window, now));
        Self { zone, now, periods }
    }

    pub const fn now(&self) -> Timestamp {
        self.now
    }

    pub const fn period(&self, window: Window) -> Period {
        self.periods[window.index()]
    }

    /// Says whether a period has ended.
    pub fn advance(&mut self, now: Timestamp) -> bool {
        if now <= self.now {
            return false;
        }
        self.now = now;
        let mut has_turned = false;
        for window in Window::ALL {
            let present = &mut self.periods[window.index()];
            if now >= present.end && window != Window::Total {
                *present = period(&self.zone, window, now);
                has_turned = true;
            }
        }
        has_turned
    }
}

/// The period of a window that a moment lies in.
pub fn period(zone: &TimeZone, window: Window, at: Timestamp) -> Period {
    // The ends of jiff's time, where a day may have no tomorrow, are thousands of years away.
    turn(zone, window, at).unwrap_or(ALWAYS)
}

fn turn(zone: &TimeZone, window: Window, at: Timestamp) -> Result<Period, jiff::Error> {
    let local = at.to_zoned_datetime(zone.clone());
    let days = |start: jiff::civil::Date, length: Span| -> Result<Period, jiff::Error> {
        let midnight = |date: jiff::civil::Date| date.to_zoned_datetime(zone.clone()).map(|day| day.timestamp());
        Ok(Period { start: midnight(start)?, end: midnight(start.checked_add(length)?)? })
    };
    match window {
        Window::Total => Ok(ALWAYS),
        Window::Hour => {
            let time = local.time();
            let seconds = i64::from(time.minute()) * 60 + i64::from(time.second());
            let start = at.checked_sub(SignedDuration::new(seconds, time.subsec_nanosecond()))?;
            Ok(Period { start, end: start.checked_add(SignedDuration::from_hours(1))? })
        }
        Window::Day => days(local.date(), Span::new().days(1)),
        Window::Week => {
            let gone = local.date().weekday().to_monday_zero_offset();
            days(local.date().checked_sub(Span::new().days(i64::from(gone)))?, Span::new().days(7))
        }
        Window::Month => days(local.date().first_of_month(), Span::new().months(1)),
    }
}

#[cfg(test)]
mod tests {
    use jiff::{Timestamp, tz::TimeZone};

    use super::{Calendar, Period, Window, period};

    fn at(text: &str) -> Timestamp {
        text.parse().expect("a time")
    }

    fn span(start: &str, end: &str) -> Period {
        Period { start: at(start), end: at(end) }
    }

    #[test]
    fn windows_follow_the_wall_clock_of_their_zone() {
        let berlin = TimeZone::posix("CET-1CEST,M3.5.0,M10.5.0/3").expect("a zone");
        let now = at("2026-10-25T10:20:30.5Z");
        // The clocks went back in this night: the day has 25 hours.
        assert_eq!(period(&berlin, Window::Day, now), span("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"));
        assert_eq!(period(&berlin, Window::Hour, now), span("2026-10-25T10:00:00Z", "2026-10-25T11:00:00Z"));
        assert_eq!(period(&berlin, Window::Week, now), span("2026-10-18T22:00:00Z", "2026-10-25T23:00:00Z"));
        assert_eq!(period(&berlin, Window::Month, now), span("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"));
        let india = TimeZone::posix("IST-5:30").expect("a zone");
        assert_eq!(period(&india, Window::Hour, now), span("2026-10-25T09:30:00Z", "2026-10-25T10:30:00Z"));
    }

    #[test]
    fn a_clock_that_is_set_back_opens_nothing_twice() {
        let mut calendar = Calendar::new(TimeZone::UTC, at("2026-01-31T23:59:59Z"));
        assert!(calendar.advance(at("2026-02-01T00:00:00Z")));
        let month = calendar.period(Window::Month);
        assert_eq!(month, span("2026-02-01T00:00:00Z", "2026-03-01T00:00:00Z"));
        assert!(!calendar.advance(at("2026-01-15T00:00:00Z")));
        assert_eq!(calendar.period(Window::Month), month);
        assert_eq!(calendar.now(), at("2026-02-01T00:00:00Z"));
        assert!(!calendar.advance(at("2026-02-01T00:30:00Z")));
    }

    #[test]
    fn the_ends_of_time_are_no_trouble() {
        for moment in [Timestamp::MIN, Timestamp::MAX] {
            for window in Window::ALL {
                let period = period(&TimeZone::UTC, window, moment);
                assert!(period.start <= moment && moment <= period.end);
            }
        }
    }
}
