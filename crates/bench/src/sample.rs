use std::time::{Duration, Instant};

use crate::Result;

/// Times of one row, sorted.
#[derive(Debug, Clone)]
pub struct Samples(Vec<Duration>);

impl Samples {
    /// From times in any order; must not be empty.
    pub fn new(mut times: Vec<Duration>) -> Self {
        times.sort_unstable();
        Self(times)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.0.len()
    }

    /// The median.
    pub fn p50(&self) -> Duration {
        self.at(50)
    }

    /// The 99th percentile.
    pub fn p99(&self) -> Duration {
        self.at(99)
    }

    fn at(&self, percent: usize) -> Duration {
        let index = (self.0.len().saturating_sub(1) * percent).div_ceil(100);
        self.0.get(index).copied().unwrap_or_default()
    }
}

/// Something to measure; returns the time that counts.
pub type Once<'a> = Box<dyn AsyncOnce + 'a>;

/// One repetition of something.
pub trait AsyncOnce {
    /// Does it once.
    fn once(&mut self) -> std::pin::Pin<Box<dyn Future<Output = Result> + '_>>;
}

impl<F> AsyncOnce for F
where
    F: AsyncFnMut() -> Result,
{
    fn once(&mut self) -> std::pin::Pin<Box<dyn Future<Output = Result> + '_>> {
        Box::pin(self())
    }
}

/// What the rows of one table may take: rounds that are not begun by then are left out.
const BUDGET: Duration = Duration::from_secs(25);
/// Rounds that warm caches.
const WARM: usize = 3;
/// Rounds that are measured whatever they take: fewer say nothing.
const LEAST: usize = 5;

/// Measures several things in turns (one of each, again and again), so that what the machine does meanwhile meets all of them. As many rounds as
/// `samples`, or as fit into a budget.
pub async fn in_turns(samples: usize, rows: &mut [(String, Once<'_>)]) -> Result<Vec<(String, Samples)>> {
    let mut times = vec![Vec::with_capacity(samples); rows.len()];
    let begun = Instant::now();
    for round in 0..samples + WARM {
        if round >= WARM + LEAST && begun.elapsed() > BUDGET {
            break;
        }
        for (row, (_, work)) in rows.iter_mut().enumerate() {
            let begin = Instant::now();
            work.once().await?;
            if round >= WARM {
                times[row].push(begin.elapsed());
            }
        }
    }
    Ok(rows.iter().zip(times).map(|((name, _), times)| (name.clone(), Samples::new(times))).collect())
}
