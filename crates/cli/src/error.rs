use std::{io, process::ExitCode};

use sandbar_core::{Error, ErrorKind};

use crate::output;

/// What a command gives: nothing, or the status to exit with.
pub(crate) type Outcome<T = ()> = Result<T, Failure>;

/// Why a command stopped.
#[derive(Debug)]
pub(crate) enum Failure {
    /// Sandbar failed.
    Sandbar(Error),
    /// Some of several things failed; the others were done.
    Several(Vec<Error>),
    /// Nobody reads our output any more, which is no failure of anybody's (`sandbar ls | head -1`).
    OutputClosed,
}

impl Failure {
    /// The status of a process that was ended by SIGPIPE, as a shell tells it.
    pub(crate) const OUTPUT_CLOSED: u8 = 128 + 13;

    /// From a write to standard output.
    pub(crate) fn output(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            Self::OutputClosed
        } else {
            Self::Sandbar(Error::io("output", "cannot write to standard output", error))
        }
    }

    /// Nothing, one, or several.
    pub(crate) fn from_all(mut errors: Vec<Error>) -> Outcome {
        match errors.len() {
            0 => Ok(()),
            1 => Err(Self::Sandbar(errors.remove(0))),
            _ => Err(Self::Several(errors)),
        }
    }

    /// Says it, and gives the status to exit with.
    pub(crate) fn report(&self) -> u8 {
        match self {
            Self::Sandbar(error) => output::error(error),
            Self::Several(errors) => errors.iter().for_each(output::error),
            Self::OutputClosed => {}
        }
        self.status()
    }

    fn status(&self) -> u8 {
        match self {
            Self::Sandbar(error) => error.kind().exit_code(),
            Self::Several(_) => ErrorKind::Internal.exit_code(),
            Self::OutputClosed => Self::OUTPUT_CLOSED,
        }
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        Self::Sandbar(error)
    }
}

/// A request that makes no sense, found before anything was done.
pub(crate) fn usage(message: impl Into<String>) -> Failure {
    Failure::Sandbar(Error::new(ErrorKind::InvalidInput, "usage", message))
}

/// Says what is wrong with the command line, or gives the help that was asked for. A wrong command line is 125 and not clap's 2, which
/// could be the status of the command that `run` was to run.
pub(crate) fn report_usage(error: &clap::Error) -> u8 {
    match output::usage(error) {
        Err(failure) => failure.report(),
        Ok(()) if error.use_stderr() => ErrorKind::InvalidInput.exit_code(),
        Ok(()) => 0,
    }
}

/// The status as the process's own.
pub(crate) fn exit(status: u8) -> ExitCode {
    ExitCode::from(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_closed_output_is_told_by_the_status_alone() {
        assert!(matches!(Failure::output(io::ErrorKind::BrokenPipe.into()), Failure::OutputClosed));
        assert_eq!(Failure::OutputClosed.status(), 141);
    }

    #[test]
    fn one_failure_of_many_keeps_its_own_status() {
        assert!(Failure::from_all(vec![]).is_ok());
        let one = Failure::from_all(vec![Error::new(ErrorKind::TimedOut, "stop", "took too long")]);
        assert_eq!(one.unwrap_err().status(), 124);
    }
}
