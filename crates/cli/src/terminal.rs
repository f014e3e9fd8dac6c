//! The terminal that the person sits at.

use std::{
    panic,
    sync::{Mutex, PoisonError},
};

use rustix::{
    stdio::{stderr, stdin, stdout},
    termios::{OptionalActions, Termios, isatty, tcgetattr, tcgetwinsize, tcsetattr},
};
use sandbar_core::{Context, PtySize, Result};

/// How the terminal was before raw mode, for whoever has to put it back: the guard, a panic, or the end of the process.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// The size of a terminal that does not tell one: that of a VT100.
const FALLBACK: PtySize = PtySize { rows: 24, columns: 80 };

/// Whether standard input is a terminal.
pub(crate) fn stdin_is_terminal() -> bool {
    isatty(stdin())
}

/// Whether standard output is a terminal.
pub(crate) fn stdout_is_terminal() -> bool {
    isatty(stdout())
}

/// Whether there is anything to be read from standard input that is worth passing on: it is neither a terminal nor `/dev/null`.
pub(crate) fn stdin_has_data() -> bool {
    use rustix::fs::{FileType, fstat, major, minor};
    let Ok(stat) = fstat(stdin()) else { return false };
    let is_null =
        FileType::from_raw_mode(stat.st_mode) == FileType::CharacterDevice && (major(stat.st_rdev), minor(stat.st_rdev)) == (1, 3);
    !is_null && !stdin_is_terminal()
}

/// The size of the terminal that any of our streams is connected to.
pub(crate) fn size() -> Option<PtySize> {
    [stdin(), stdout(), stderr()]
        .into_iter()
        .find_map(|fd| tcgetwinsize(fd).ok())
        .map(|size| PtySize { rows: size.ws_row, columns: size.ws_col })
        .filter(|size| size.rows > 0 && size.columns > 0)
}

/// The size to ask for where there is none.
pub(crate) fn size_or_default() -> PtySize {
    size().unwrap_or(FALLBACK)
}

/// Raw mode of standard input, as long as it lives: every key goes to the sandbox, Ctrl-C as well.
pub(crate) struct RawMode(());

impl RawMode {
    /// Enters raw mode; `None` when standard input is no terminal.
    ///
    /// # Errors
    /// When the terminal refuses.
    pub(crate) fn enter() -> Result<Option<Self>> {
        if !stdin_is_terminal() {
            return Ok(None);
        }
        let before = tcgetattr(stdin()).map_err(Into::into).context("terminal", || "cannot read its settings".to_owned())?;
        let mut raw = before.clone();
        raw.make_raw();
        *lock() = Some(before);
        let guard = Self(());
        tcsetattr(stdin(), OptionalActions::Now, &raw).map_err(Into::into).context("terminal", || "cannot enter raw mode".to_owned())?;
        Ok(Some(guard))
    }

    /// Raw mode again, after a shell took the terminal back while we were stopped.
    pub(crate) fn renew(&self) {
        if let Some(before) = lock().as_ref() {
            let mut raw = before.clone();
            raw.make_raw();
            let _ = tcsetattr(stdin(), OptionalActions::Now, &raw);
        }
    }
}

impl Drop for RawMode {
    fn drop(&mut self) {
        restore();
    }
}

/// Puts the terminal back as it was, if it was changed.
pub(crate) fn restore() {
    if let Some(before) = lock().take() {
        let _ = tcsetattr(stdin(), OptionalActions::Now, &before);
    }
}

/// Lets a panic, in whatever thread, put the terminal back before it is told.
pub(crate) fn restore_on_panic() {
    let tell = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        restore();
        tell(info);
    }));
}

fn lock() -> std::sync::MutexGuard<'static, Option<Termios>> {
    BEFORE.lock().unwrap_or_else(PoisonError::into_inner)
}
