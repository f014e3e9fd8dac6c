use std::time::Duration;

use crate::sample::Samples;

/// Prints a paragraph of Markdown.
#[expect(clippy::print_stdout, reason = "the one place where the benchmark prints")]
pub fn paragraph(text: &str) {
    println!("{text}\n");
}

/// Prints a heading.
pub fn heading(text: &str) {
    paragraph(&format!("### {text}"));
}

/// Milliseconds with three digits.
pub fn milliseconds(time: Duration) -> String {
    format!("{:.3}", time.as_secs_f64() * 1e3)
}

/// Prints rows of any columns.
pub fn rows(header: &[&str], rows: &[Vec<String>]) {
    let line = |cells: Vec<String>| format!("| {} |\n", cells.join(" | "));
    let mut text = line(header.iter().map(ToString::to_string).collect());
    text.push_str(&line(header.iter().map(|_| "---".to_owned()).collect()));
    for row in rows {
        text.push_str(&line(row.clone()));
    }
    paragraph(text.trim_end());
}

/// Prints times with the ratio to the first row, which is the measure.
pub fn ratios(measured: &[(String, Samples)]) {
    let base = measured.first().map_or(0.0, |(_, samples)| samples.p50().as_secs_f64());
    let cells = |(name, samples): &(String, Samples)| {
        let ratio = if base > 0.0 { format!("{:.2}", samples.p50().as_secs_f64() / base) } else { String::new() };
        vec![name.clone(), milliseconds(samples.p50()), milliseconds(samples.p99()), ratio, samples.count().to_string()]
    };
    rows(&["", "p50 ms", "p99 ms", "ratio of p50 to the first row", "samples"], &measured.iter().map(cells).collect::<Vec<_>>());
}
