use std::fmt;

/// How much may pass, of all connections of a sandbox together. Written among the rules: `max-connections=50`, `max-bytes=10G`, `max-rate=2M`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct NetworkLimits {
    /// Connections at the same time, those that are being made included.
    pub connections: Option<u32>,
    /// Bytes, those that go out and those that come in together, over the sandbox's whole life.
    pub bytes: Option<u64>,
    /// Bytes a second, both ways together. At least [`SLOWEST`](Self::SLOWEST).
    pub rate: Option<u64>,
}

impl NetworkLimits {
    /// The lowest rate: below it connections would only run into the time that their ends are willing to wait.
    pub const SLOWEST: u64 = 1024;

    /// Reads one of them; `None` when the word before `=` is none of theirs.
    pub(super) fn read(&mut self, word: &str, value: &str) -> Option<Result<(), &'static str>> {
        let (connections, bytes, rate) = (&mut self.connections, &mut self.bytes, &mut self.rate);
        Some(match word {
            "max-connections" if connections.is_some() => Err("max-connections is given twice"),
            "max-connections" => {
                digits(value).and_then(|number| u32::try_from(number).ok()).map_or(Err("max-connections takes a number"), |number| {
                    *connections = Some(number);
                    Ok(())
                })
            }
            "max-bytes" if bytes.is_some() => Err("max-bytes is given twice"),
            "max-bytes" => size(value).map_or(Err("max-bytes takes bytes, such as 500M or 10G"), |number| {
                *bytes = Some(number);
                Ok(())
            }),
            "max-rate" if rate.is_some() => Err("max-rate is given twice"),
            "max-rate" => match size(value) {
                Some(number) if number >= Self::SLOWEST => {
                    *rate = Some(number);
                    Ok(())
                }
                Some(_) => Err("max-rate is at least 1K a second"),
                None => Err("max-rate takes bytes a second, such as 2M"),
            },
            _ => return None,
        })
    }
}

impl fmt::Display for NetworkLimits {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let connections = self.connections.map(|number| format!("max-connections={number}"));
        let bytes = self.bytes.map(|number| format!("max-bytes={number}"));
        let rate = self.rate.map(|number| format!("max-rate={number}"));
        let parts: Vec<String> = [connections, bytes, rate].into_iter().flatten().collect();
        f.write_str(&parts.join(","))
    }
}

fn digits(text: &str) -> Option<u64> {
    // Only digits: `parse` would take a sign as well.
    text.bytes().all(|byte| byte.is_ascii_digit()).then(|| text.parse().ok()).flatten()
}

/// Whole numbers; the letter counts in 1024s.
fn size(text: &str) -> Option<u64> {
    let (number, shift) = match text.as_bytes().last()?.to_ascii_uppercase() {
        b'K' => (&text[..text.len() - 1], 10),
        b'M' => (&text[..text.len() - 1], 20),
        b'G' => (&text[..text.len() - 1], 30),
        b'T' => (&text[..text.len() - 1], 40),
        _ => (text, 0),
    };
    digits(number)?.checked_mul(1 << shift)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_whole_numbers_of_1024s() {
        for (text, bytes) in [("0", 0), ("17", 17), ("2k", 2048), ("5M", 5 << 20), ("1G", 1 << 30), ("3T", 3 << 40)] {
            assert_eq!(size(text), Some(bytes), "{text}");
        }
        for text in ["", "M", "-1", "+1M", "1.5G", "1 M", "99999999999T", "1MB", "ö"] {
            assert_eq!(size(text), None, "{text}");
        }
    }
}
