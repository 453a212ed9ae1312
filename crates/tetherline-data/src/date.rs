//! A calendar date, for templates that print one. It is given, never read from a clock.

/// A day of the Gregorian calendar.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Date {
    /// Year, e.g. 2025.
    pub year: i32,
    /// Month, 1–12.
    pub month: u8,
    /// Day of the month, 1–31.
    pub day: u8,
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

impl Date {
    /// 0 is Sunday (Sakamoto's method).
    fn weekday(self) -> usize {
        const SHIFT: [i32; 12] = [0, 3, 2, 5, 0, 3, 5, 1, 4, 6, 2, 4];
        let y = self.year - i32::from(self.month < 3);
        let n = y + y.div_euclid(4) - y.div_euclid(100) + y.div_euclid(400);
        (n + SHIFT[usize::from(self.month - 1)] + i32::from(self.day)).rem_euclid(7) as usize
    }

    /// Python's `strftime` at midnight, for the codes that chat templates use.
    pub(crate) fn strftime(self, format: &str) -> Result<String, String> {
        if !(1..=12).contains(&self.month) || !(1..=31).contains(&self.day) {
            return Err(format!("{self:?} is not a date: expected month 1-12, day 1-31"));
        }
        let month = MONTHS[usize::from(self.month - 1)];
        let mut out = String::new();
        let mut chars = format.chars();
        while let Some(c) = chars.next() {
            if c != '%' {
                out.push(c);
                continue;
            }
            let code = match chars.next() {
                Some('-') => chars.next().map_or_else(|| "-".to_owned(), |c| format!("-{c}")),
                other => other.map(String::from).unwrap_or_default(),
            };
            out.push_str(&match code.as_str() {
                "Y" => self.year.to_string(),
                "y" => format!("{:02}", self.year.rem_euclid(100)),
                "m" => format!("{:02}", self.month),
                "-m" => self.month.to_string(),
                "d" => format!("{:02}", self.day),
                "-d" => self.day.to_string(),
                "B" => month.to_owned(),
                "b" => month[..3].to_owned(),
                "A" => DAYS[self.weekday()].to_owned(),
                "a" => DAYS[self.weekday()][..3].to_owned(),
                "H" | "M" | "S" => "00".to_owned(),
                "%" => "%".to_owned(),
                other => {
                    return Err(format!(
                        "strftime_now: the code `%{other}` is not supported; expected one of %Y %y %m %-m %d %-d \
                         %B %b %A %a %H %M %S"
                    ));
                }
            });
        }
        Ok(out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_print_as_in_python() {
        // python3 -c "import datetime as d; print(d.date(Y,M,D).strftime('%a %A, %d/%-d %b %B %m/%-m %y %Y %%'))"
        let f = |year, month, day| {
            Date { year, month, day }.strftime("%a %A, %d/%-d %b %B %m/%-m %y %Y %%").unwrap()
        };
        assert_eq!(f(2024, 2, 29), "Thu Thursday, 29/29 Feb February 02/2 24 2024 %");
        assert_eq!(f(2026, 11, 1), "Sun Sunday, 01/1 Nov November 11/11 26 2026 %");
        assert_eq!(f(2000, 1, 3), "Mon Monday, 03/3 Jan January 01/1 00 2000 %");
    }

    #[test]
    fn unknown_codes_and_impossible_dates_are_refused() {
        let day = Date { year: 2024, month: 1, day: 1 };
        assert!(day.strftime("%Q").unwrap_err().contains("`%Q`"));
        assert!(day.strftime("%").is_err());
        assert!(Date { month: 13, ..day }.strftime("%Y").unwrap_err().contains("month 1-12"));
    }
}
