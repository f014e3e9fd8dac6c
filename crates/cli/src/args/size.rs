use super::decimal::Decimal;

/// Bytes: `4096`, `512M`, `1.5G`, `2GiB`. Suffixes count in 1024s, as `docker run --memory` and `truncate` do.
pub(crate) fn size(text: &str) -> Result<u64, String> {
    let bad = || format!("expected a size such as 512M or 2G, not {text:?}");
    let (number, suffix) = Decimal::split(text).ok_or_else(bad)?;
    let shift = match suffix.to_ascii_lowercase().as_str() {
        "" | "b" => 0,
        "k" | "kb" | "kib" => 10,
        "m" | "mb" | "mib" => 20,
        "g" | "gb" | "gib" => 30,
        "t" | "tb" | "tib" => 40,
        _ => return Err(bad()),
    };
    number.times(1 << shift).ok_or_else(|| format!("{text} is larger than any size"))
}

/// CPUs in thousandths: `2` is 2000, `1.5` is 1500.
pub(crate) fn cpus(text: &str) -> Result<u32, String> {
    let bad = || format!("expected a number of CPUs such as 2 or 1.5, not {text:?}");
    let (number, rest) = Decimal::split(text).ok_or_else(bad)?;
    let millis = number.times(1000).and_then(|millis| u32::try_from(millis).ok()).filter(|_| rest.is_empty()).ok_or_else(bad)?;
    if millis == 0 { Err(format!("{text} CPUs is less than a thousandth of one")) } else { Ok(millis) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_count_in_1024s() {
        for (text, bytes) in [("0", 0), ("4096", 4096), ("512M", 512 << 20), ("2g", 2 << 30), ("1.5GiB", 3 << 29), ("1kb", 1024), ("7b", 7)]
        {
            assert_eq!(size(text), Ok(bytes), "{text}");
        }
    }

    #[test]
    fn sizes_that_mean_nothing_are_refused() {
        for text in ["", "M", "-1M", "1X", "1 M", "1e9", "0x10", "99999999999T"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn cpus_are_thousandths() {
        for (text, millis) in [("1", 1000), ("1.5", 1500), ("0.25", 250), (".5", 500), ("0.001", 1)] {
            assert_eq!(cpus(text), Ok(millis), "{text}");
        }
        for text in ["", "0", "0.0001", "-1", "two", "1.5x", "9999999999"] {
            assert!(cpus(text).is_err(), "{text}");
        }
    }
}
