use std::time::{Duration, Instant};

use sandbar_core::Signal;

/// Ctrl-C again within this time is meant more seriously than the first.
const MOMENT: Duration = Duration::from_secs(2);

/// What to do about a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    /// Pass it, or a stronger one, to the command.
    Pass(Signal),
    /// Pass it, and if the command has not ended after the grace, end it.
    PassAndEnd(Signal),
    /// End it now.
    End,
}

/// Counts how often somebody asked.
#[derive(Debug, Default)]
pub(super) struct Escalation {
    interrupts: u32,
    last: Option<Instant>,
    ending: bool,
}

impl Escalation {
    /// Ctrl-C: `INT`, then `TERM`, then the end. `TERM` and `HUP`: with a grace, then the end. Others are only passed on.
    pub(super) fn on(&mut self, signal: Signal, now: Instant) -> Step {
        match signal {
            Signal::INT => {
                let soon = self.last.is_some_and(|last| now.duration_since(last) <= MOMENT);
                self.interrupts = if soon { self.interrupts + 1 } else { 1 };
                self.last = Some(now);
                match self.interrupts {
                    1 => Step::Pass(Signal::INT),
                    2 => Step::Pass(Signal::TERM),
                    _ => Step::End,
                }
            }
            Signal::TERM | Signal::HUP if self.ending => Step::End,
            Signal::TERM | Signal::HUP => {
                self.ending = true;
                Step::PassAndEnd(signal)
            }
            other => Step::Pass(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn three_interrupts_within_a_moment_end_it() {
        let (mut escalation, now) = (Escalation::default(), Instant::now());
        let steps = [0, 1, 2].map(|second| escalation.on(Signal::INT, now + Duration::from_secs(second)));
        assert_eq!(steps, [Step::Pass(Signal::INT), Step::Pass(Signal::TERM), Step::End]);
    }

    #[test]
    fn interrupts_far_apart_stay_interrupts() {
        let (mut escalation, now) = (Escalation::default(), Instant::now());
        for second in [0, 10, 20] {
            assert_eq!(escalation.on(Signal::INT, now + Duration::from_secs(second)), Step::Pass(Signal::INT));
        }
    }

    #[test]
    fn a_second_term_does_not_wait() {
        let (mut escalation, now) = (Escalation::default(), Instant::now());
        assert_eq!(escalation.on(Signal::TERM, now), Step::PassAndEnd(Signal::TERM));
        assert_eq!(escalation.on(Signal(10), now), Step::Pass(Signal(10)));
        assert_eq!(escalation.on(Signal::HUP, now), Step::End);
    }
}
