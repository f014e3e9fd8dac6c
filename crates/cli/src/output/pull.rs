use std::{
    collections::BTreeMap,
    io::{IsTerminal, stderr},
    sync::{Arc, Mutex, PoisonError},
};

use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use sandbar_runtime::image::{Progress, ProgressCallback, Stage};

use super::{bytes, note};

/// How far a pull is, on standard error: bars where a person looks, a line for each thing that happened otherwise.
#[derive(Clone)]
pub(crate) struct PullProgress {
    shared: Arc<Shared>,
}

struct Shared {
    bars: Option<MultiProgress>,
    layers: Mutex<BTreeMap<String, Layer>>,
}

struct Layer {
    stage: Stage,
    bar: Option<ProgressBar>,
}

impl PullProgress {
    pub(crate) fn new() -> Self {
        let bars = stderr().is_terminal().then(MultiProgress::new);
        Self { shared: Arc::new(Shared { bars, layers: Mutex::default() }) }
    }

    /// What the pull calls.
    pub(crate) fn callback(&self) -> ProgressCallback {
        let shared = Arc::clone(&self.shared);
        Arc::new(move |progress| shared.told(&progress))
    }

    /// Leaves the bars as they are, and the cursor below them.
    pub(crate) fn finish(&self) {
        for layer in self.shared.layers.lock().unwrap_or_else(PoisonError::into_inner).values() {
            if let Some(bar) = &layer.bar {
                bar.abandon();
            }
        }
    }
}

impl Shared {
    fn told(&self, progress: &Progress) {
        let name = short(&progress.layer.to_string());
        let mut layers = self.layers.lock().unwrap_or_else(PoisonError::into_inner);
        let known = layers.get(&name).map(|layer| layer.stage);
        let layer = layers.entry(name.clone()).or_insert_with(|| {
            let bar = self.bars.as_ref().map(|bars| bars.add(bar(&name, progress)));
            Layer { stage: progress.stage, bar }
        });
        layer.stage = progress.stage;
        match &layer.bar {
            Some(bar) => {
                bar.set_length(progress.total);
                bar.set_position(if matches!(progress.stage, Stage::Done | Stage::Exists) { progress.total } else { progress.done });
                bar.set_message(message(&name, progress.stage));
            }
            None if known != Some(progress.stage) => note(&format!("{name}: {} ({})", word(progress.stage), bytes(progress.total))),
            None => {}
        }
    }
}

fn bar(name: &str, progress: &Progress) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} [{bar:30}] {bytes:>10} / {total_bytes:<10} {bytes_per_sec}");
    // The template is a constant; if it were wrong, the default style would do.
    let style = style.map(|style| style.progress_chars("=> ")).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::with_draw_target(Some(progress.total), ProgressDrawTarget::hidden())
        .with_style(style)
        .with_message(message(name, progress.stage))
}

fn message(name: &str, stage: Stage) -> String {
    format!("{name} {:<9}", word(stage))
}

fn word(stage: Stage) -> &'static str {
    match stage {
        Stage::Waiting => "waiting",
        Stage::Fetching => "fetching",
        Stage::Unpacking => "unpacking",
        Stage::Done => "done",
        Stage::Exists => "is here",
    }
}

fn short(digest: &str) -> String {
    digest.strip_prefix("sha256:").unwrap_or(digest).chars().take(12).collect()
}
