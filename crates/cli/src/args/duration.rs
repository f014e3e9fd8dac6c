use std::time::Duration;

use super::decimal::Decimal;

/// A time: `90` and `90s` are seconds, and there are `500ms`, `5m`, `2h`, `1d`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    let bad = || format!("expected seconds, or a time such as 500ms, 5m or 2h, not {text:?}");
    let (number, unit) = Decimal::split(text).ok_or_else(bad)?;
    let millis = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        _ => return Err(bad()),
    };
    match number.times(millis) {
        Some(0) => Err("a time must be more than zero".to_owned()),
        Some(millis) => Ok(Duration::from_millis(millis)),
        None => Err(bad()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn plain_numbers_are_seconds() {
        for (text, millis) in
            [("1", 1000), ("0.5", 500), ("90s", 90_000), ("500ms", 500), ("5m", 300_000), ("2h", 7_200_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text), Ok(Duration::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn zero_and_nonsense_are_refused() {
        for text in ["", "0", "0.0001", "-1", "1w", "soon", "1m30s"] {
            assert!(duration(text).is_err(), "{text}");
        }
    }
}
