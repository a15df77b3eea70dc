//! Dates, as Python's `strftime` writes them.

use std::time::{SystemTime, UNIX_EPOCH};

/// Today's date in the template's format, in coordinated universal time.
pub fn strftime_now(format: &str) -> String {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    Date::of(now.as_secs(), now.subsec_micros()).written(format)
}

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
const DAYS: [&str; 7] = ["Sunday", "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday"];

/// The year of a day since 1970, and the days of the year before it.
fn year_and_day(mut day: u64) -> (u64, u64) {
    let mut year = 1970;
    while day >= 365 + u64::from(leap(year)) {
        day -= 365 + u64::from(leap(year));
        year += 1;
    }
    (year, day)
}

fn leap(year: u64) -> bool {
    year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400))
}

/// A time, as C's `strftime` sees it.
struct Date {
    seconds: u64,
    micros: u32,
    year: u64,
    /// Days before it, in the year.
    of_year: u64,
    /// From 0 on.
    month: usize,
    /// From 1 on.
    day: u64,
    /// From Sunday on.
    weekday: u64,
}

impl Date {
    /// Of a time since 1970.
    fn of(seconds: u64, micros: u32) -> Date {
        let (year, of_year) = year_and_day(seconds / 86400);
        let (mut month, mut day) = (0, of_year);
        let lengths = [31, 28 + u64::from(leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
        while day >= lengths[month] {
            day -= lengths[month];
            month += 1;
        }
        Date { seconds, micros, year, of_year, month, day: day + 1, weekday: (seconds / 86400 + 4) % 7 }
    }

    fn hour(&self) -> u64 {
        self.seconds % 86400 / 3600
    }

    /// The year and the number of the week, which belongs to the year of its Thursday.
    fn week(&self) -> (u64, u64) {
        let (year, thursday) = year_and_day(self.seconds / 86400 + 3 - (self.weekday + 6) % 7);
        (year, thursday / 7 + 1)
    }

    /// A number, its digits, and what fills them.
    fn number(&self, letter: char) -> Option<(u64, usize, char)> {
        Some(match letter {
            'Y' => (self.year, 1, '0'),
            'C' => (self.year / 100, 2, '0'),
            'y' => (self.year % 100, 2, '0'),
            'G' => (self.week().0, 1, '0'),
            'g' => (self.week().0 % 100, 2, '0'),
            'V' => (self.week().1, 2, '0'),
            'U' => ((self.of_year + 7 - self.weekday) / 7, 2, '0'),
            'W' => ((self.of_year + 7 - (self.weekday + 6) % 7) / 7, 2, '0'),
            'u' => ((self.weekday + 6) % 7 + 1, 1, '0'),
            'w' => (self.weekday, 1, '0'),
            'm' => (self.month as u64 + 1, 2, '0'),
            'd' => (self.day, 2, '0'),
            'e' => (self.day, 2, ' '),
            'j' => (self.of_year + 1, 3, '0'),
            'H' => (self.hour(), 2, '0'),
            'k' => (self.hour(), 2, ' '),
            'I' => ((self.hour() + 11) % 12 + 1, 2, '0'),
            'l' => ((self.hour() + 11) % 12 + 1, 2, ' '),
            'M' => (self.seconds / 60 % 60, 2, '0'),
            'S' => (self.seconds % 60, 2, '0'),
            's' => (self.seconds, 1, '0'),
            'f' => (self.micros.into(), 6, '0'),
            _ => return None,
        })
    }

    fn text(&self, letter: char) -> Option<String> {
        let half = if self.hour() < 12 { "AM" } else { "PM" };
        Some(match letter {
            'B' => MONTHS[self.month].into(),
            'b' | 'h' => MONTHS[self.month][..3].into(),
            'A' => DAYS[self.weekday as usize].into(),
            'a' => DAYS[self.weekday as usize][..3].into(),
            'p' => half.into(),
            'P' => half.to_ascii_lowercase(),
            'Z' => "UTC".into(),
            'z' => "+0000".into(),
            'n' => "\n".into(),
            't' => "\t".into(),
            '%' => "%".into(),
            'F' => self.written("%Y-%m-%d"),
            'T' | 'X' => self.written("%H:%M:%S"),
            'R' => self.written("%H:%M"),
            'r' => self.written("%I:%M:%S %p"),
            'D' | 'x' => self.written("%m/%d/%y"),
            'c' => self.written("%a %b %e %H:%M:%S %Y"),
            _ => return None,
        })
    }

    /// What stands for a letter after `%`, with a flag of the C library of Linux.
    fn part(&self, flag: Option<char>, letter: char) -> Option<String> {
        let Some((number, digits, fill)) = self.number(letter) else {
            let text = self.text(letter);
            return if flag == Some('^') { text.map(|text| text.to_uppercase()) } else { text };
        };
        Some(match (flag, fill) {
            (Some('-'), _) => number.to_string(),
            (Some('_'), _) | (None | Some('^'), ' ') => format!("{number:digits$}"),
            _ => format!("{number:0digits$}"),
        })
    }

    /// In a format.
    fn written(&self, format: &str) -> String {
        let mut out = String::new();
        let mut rest = format;
        while let Some((before, after)) = rest.split_once('%') {
            out.push_str(before);
            let mut letters = after.chars();
            let mut letter = letters.next();
            let flag = letter.filter(|letter| "-_0^".contains(*letter));
            if flag.is_some() {
                letter = letters.next();
            }
            match letter.and_then(|letter| self.part(flag, letter)) {
                Some(part) => {
                    out.push_str(&part);
                    rest = letters.as_str();
                }
                None => {
                    out.push('%');
                    rest = after;
                }
            }
        }
        out + rest
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        // As `date -u -d @N` writes them.
        let strftime = |format: &str, seconds| Date::of(seconds, 7).written(format);
        assert_eq!(strftime("%d %B %Y %H:%M:%S %a %j %I %p", 0), "01 January 1970 00:00:00 Thu 001 12 AM");
        assert_eq!(strftime("%Y-%m-%d %A %%", 951_782_400), "2000-02-29 Tuesday %");
        assert_eq!(strftime("%e %b %y %F %T", 1_767_225_599), "31 Dec 25 2025-12-31 23:59:59");
        assert_eq!(
            strftime("%-d/%-m/%_H %^a %k %l %P %x %D %c", 7_200),
            "1/1/ 2 THU  2  2 am 01/01/70 01/01/70 Thu Jan  1 02:00:00 1970"
        );
        assert_eq!(strftime("%R %s %f %C %r %é %", 951_782_460), "00:01 951782460 000007 20 12:01:00 AM %é %");
        // A Saturday of the last week of the year before, a Monday, and a Thursday of week 53.
        assert_eq!(strftime("%G %g %V %U %W %u %w", 1_640_995_200), "2021 21 52 00 00 6 6");
        assert_eq!(strftime("%G %V %U %W %u %w", 1_735_516_800), "2025 01 52 53 1 1");
        assert_eq!(strftime("%G %V %U %W %u %w", 1_609_372_800), "2020 53 52 52 4 4");
    }
}
