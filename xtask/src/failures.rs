use std::{
    io::{BufRead, BufReader, Write, stdout},
    process::{Command, Stdio},
};

use crate::outcome::{Failure, say};

/// How many lines of one failed test are told again.
const LINES_OF_A_TEST: usize = 16;
/// How many lines are told again in all.
const LINES: usize = 160;

/// Runs test programs, and lets through what they print; tells how many tests have passed. The failure tells what failed once more, without its
/// backtraces: hours of output may come after it, and whoever reads a long log begins at its end.
pub fn told_again(command: &mut Command) -> Result<usize, Failure> {
    say(&format!("$ {}", shown(command)));
    let mut child = command.stdout(Stdio::piped()).spawn()?;
    let mut failed = Failed::default();
    if let Some(output) = child.stdout.take() {
        let mut output = BufReader::new(output);
        let mut line = Vec::new();
        while output.read_until(b'\n', &mut line)? > 0 {
            stdout().write_all(&line)?;
            failed.read(String::from_utf8_lossy(&line).trim_end());
            line.clear();
        }
    }
    let status = child.wait()?;
    if status.success() {
        return Ok(failed.passed);
    }
    Err(Failure::new(format!("the tests ended with {status}{}", failed.told())))
}

fn shown(command: &Command) -> String {
    let words = std::iter::once(command.get_program()).chain(command.get_args());
    words.map(|word| word.to_string_lossy()).collect::<Vec<_>>().join(" ")
}

/// What the test programs say of the tests that failed, as the standard test harness words it.
#[derive(Default)]
struct Failed {
    lines: Vec<String>,
    /// How many lines of the present test were taken; `None` outside of the words about failures.
    taken: Option<usize>,
    /// How many tests have not failed.
    passed: usize,
}

impl Failed {
    fn read(&mut self, line: &str) {
        if line == "failures:" {
            self.taken = Some(0);
        } else if let Some(result) = line.strip_prefix("test result:") {
            self.taken = None;
            let passed = result.split(';').next().and_then(|first| first.split_whitespace().nth_back(1)?.parse().ok());
            self.passed += passed.unwrap_or(0);
        } else if let Some(taken) = &mut self.taken {
            if line.starts_with("---- ") {
                *taken = 0;
            }
            if *taken < LINES_OF_A_TEST && !line.is_empty() && !is_of_a_backtrace(line) {
                *taken += 1;
                self.lines.push(line.to_owned());
            }
        }
    }

    fn told(&self) -> String {
        let left = self.lines.len().saturating_sub(LINES);
        let more = if left > 0 { format!("\n    and {left} lines more above") } else { String::new() };
        self.lines.iter().take(LINES).map(|line| format!("\n    {line}")).collect::<String>() + &more
    }
}

/// `  12: name`, `at path`, and the line above them.
fn is_of_a_backtrace(line: &str) -> bool {
    let line = line.trim_start();
    let number = line.split_once(": ").is_some_and(|(number, _)| !number.is_empty() && number.bytes().all(|byte| byte.is_ascii_digit()));
    number || line.starts_with("at ") || line == "stack backtrace:"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_told_without_what_went_well_and_without_backtraces() {
        let mut failed = Failed::default();
        assert_eq!(failed.passed, 0);
        let output = "test a ... ok\ntest b ... FAILED\n\nfailures:\n\n---- b stdout ----\nthread 'b' panicked at b.rs:1:1:\nno\nstack backtrace:\n   0: f\n             at b.rs:3\n\nfailures:\n    b\n\ntest result: FAILED. 1 passed; 1 failed\n\nrunning 1 test\ntest c ... ok";
        output.lines().for_each(|line| failed.read(line));
        assert_eq!(failed.told(), "\n    ---- b stdout ----\n    thread 'b' panicked at b.rs:1:1:\n    no\n        b");
        assert_eq!(failed.passed, 1);
    }

    #[test]
    fn a_flood_is_cut_per_test_and_in_all() {
        let mut failed = Failed::default();
        failed.read("failures:");
        for test in 0..100 {
            failed.read(&format!("---- {test} stdout ----"));
            (0..1000).for_each(|_| failed.read("words"));
        }
        assert_eq!(failed.lines.len(), 100 * LINES_OF_A_TEST);
        assert!(failed.told().ends_with("and 1440 lines more above") && failed.told().lines().count() == LINES + 2);
    }
}
