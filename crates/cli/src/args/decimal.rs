/// A number as it was written: `units / 10^digits`, exactly. Binary floating point would make 0.1 G not what was asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Decimal {
    units: u128,
    digits: u32,
}

impl Decimal {
    /// Splits a text into its leading number and what follows; `None` when there is no number.
    pub(super) fn split(text: &str) -> Option<(Self, &str)> {
        let end = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
        let (number, rest) = text.split_at(end);
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = format!("{whole}{fraction}");
        if digits.is_empty() || fraction.contains('.') || digits.len() > 24 {
            return None;
        }
        Some((Self { units: digits.parse().ok()?, digits: u32::try_from(fraction.len()).ok()? }, rest))
    }

    /// The number times `factor`, rounded down; `None` when it does not fit.
    pub(super) fn times(self, factor: u64) -> Option<u64> {
        let scaled = self.units.checked_mul(u128::from(factor))? / 10u128.checked_pow(self.digits)?;
        u64::try_from(scaled).ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_exact() {
        let (number, rest) = Decimal::split("0.1G").unwrap();
        assert_eq!((number.times(1 << 30), rest), (Some(107_374_182), "G"));
        assert_eq!(Decimal::split("1.5").unwrap().0.times(1000), Some(1500));
        assert_eq!(Decimal::split(".5").unwrap().0.times(1000), Some(500));
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for bad in ["", ".", "x", "-1", "1.2.3", "+1", "9999999999999999999999999"] {
            assert!(Decimal::split(bad).is_none(), "{bad}");
        }
        assert_eq!(Decimal::split("99999999999999999999").unwrap().0.times(1 << 40), None);
    }
}
