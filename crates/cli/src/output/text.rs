use std::{
    fmt::Write as _,
    io::{IsTerminal, Write as _, stderr, stdout},
};

use sandbar_core::Error;

use crate::error::{Failure, Outcome};

/// Prints one line of data.
///
/// # Errors
/// [`Failure::OutputClosed`] when nobody reads it any more.
pub(crate) fn line(text: &str) -> Outcome {
    raw(format!("{text}\n").as_bytes())
}

/// Prints data as it is.
///
/// # Errors
/// As [`line()`].
pub(crate) fn raw(data: &[u8]) -> Outcome {
    let mut out = stdout().lock();
    out.write_all(data).and_then(|()| out.flush()).map_err(Failure::output)
}

/// Prints help, or what is wrong with the command line, each to its own stream.
///
/// # Errors
/// As [`line()`].
pub(crate) fn usage(error: &clap::Error) -> Outcome {
    error.print().map_err(Failure::output)
}

/// Says something to the person; a standard error that is closed is no reason to stop.
pub(crate) fn note(text: &str) {
    let _ = writeln!(stderr().lock(), "{}", escape(text));
}

/// Says that something is not as one might expect.
pub(crate) fn warning(text: &str) {
    label("warning", "33", text);
}

/// Says what went wrong, with its causes once, and what to do about it.
pub(crate) fn error(error: &Error) {
    label("error", "31", &error.chain());
    let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
    while let Some(error) = cause {
        if let Some(hint) = error.downcast_ref::<Error>().and_then(Error::hint) {
            hint.lines().for_each(|hint| label("hint", "36", hint));
        }
        cause = error.source();
    }
}

fn label(label: &str, colour: &str, text: &str) {
    let text = escape(text);
    // The word says it; the colour only helps the eye.
    let _ = if is_coloured() {
        writeln!(stderr().lock(), "\x1b[1;{colour}m{label}:\x1b[0m {text}")
    } else {
        writeln!(stderr().lock(), "{label}: {text}")
    };
}

/// Whether what is said may have colours: to a terminal, unless its owner asks for none, <https://no-color.org>.
pub(crate) fn is_coloured() -> bool {
    stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
}

/// The text with control characters, and those that turn the direction of writing, made visible.
pub(crate) fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' => {
                let _ = write!(escaped, "{}", c.escape_unicode());
            }
            c if c.is_control() => {
                let _ = write!(escaped, "{}", c.escape_default());
            }
            c => escaped.push(c),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_from_inside_cannot_drive_the_terminal() {
        assert_eq!(escape("a\x1b[31mb\nc\u{9b}d\u{202e}e ä"), "a\\u{1b}[31mb\\nc\\u{9b}d\\u{202e}e ä");
    }
}
