//! How many extra app instances may live: a number, or a share of the slots.

use core::fmt;
use core::str::FromStr;

use alloc::string::String;
use serde::{Deserialize, Serialize};

/// `--surge`: `2`, or `25%` of the slots, rounded up (as Kubernetes' `maxSurge` is).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Surge {
    /// So many.
    Count(u32),
    /// So many of a hundred slots, from 0 to 100.
    Percent(u32),
}

impl Surge {
    /// How many that are among `workers` slots: never more than there are.
    #[must_use]
    pub fn of(self, workers: u32) -> u32 {
        let wanted = match self {
            Self::Count(n) => u64::from(n),
            Self::Percent(share) => (u64::from(workers) * u64::from(share)).div_ceil(100),
        };
        u32::try_from(wanted).unwrap_or(u32::MAX).min(workers)
    }

    /// Whether it is none at all, however many slots there are.
    #[must_use]
    pub fn is_zero(self) -> bool {
        matches!(self, Self::Count(0) | Self::Percent(0))
    }
}

impl fmt::Display for Surge {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Count(n) => write!(f, "{n}"),
            Self::Percent(share) => write!(f, "{share}%"),
        }
    }
}

impl FromStr for Surge {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || String::from("a number (2) or a share of the workers (25%) is wanted");
        let (digits, share) = text.strip_suffix('%').map_or((text, false), |digits| (digits, true));
        // `parse` itself would take a sign.
        if !digits.starts_with(|c: char| c.is_ascii_digit()) {
            return Err(wrong());
        }
        let number = digits.parse().map_err(|_| wrong())?;
        match share {
            true if number > 100 => Err(String::from("at most 100%")),
            true => Ok(Self::Percent(number)),
            false => Ok(Self::Count(number)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloc::string::ToString;

    #[test]
    fn a_share_is_rounded_up() {
        let of = |text: &str, workers| text.parse::<Surge>().unwrap().of(workers);
        assert_eq!([of("25%", 4), of("25%", 5), of("1%", 3), of("0%", 9), of("100%", 7)], [1, 2, 1, 0, 7]);
        assert_eq!([of("2", 4), of("9", 4), of("0", 4)], [2, 4, 0]);
        assert_eq!(of("100%", u32::MAX), u32::MAX);
    }

    #[test]
    fn words_are_read_as_they_are_written() {
        for text in ["0", "7", "25%", "0%"] {
            assert_eq!(text.parse::<Surge>().unwrap().to_string(), text);
        }
        for bad in ["", "%", "-1", "+1", "101%", "1.5", "2 %", "many"] {
            assert!(bad.parse::<Surge>().is_err(), "{bad}");
        }
        assert!("0%".parse::<Surge>().unwrap().is_zero() && !"1%".parse::<Surge>().unwrap().is_zero());
    }
}
