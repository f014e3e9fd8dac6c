use bytes::Bytes;
use sandbar_core::{ExecInput, PtySize};
use tokio::sync::{mpsc, watch};

use super::detach::DetachKeys;

/// What goes into a command.
pub(super) struct Feed {
    pub(super) input: Box<dyn ExecInput>,
    /// Bytes of standard input; `None` when it is not passed on.
    pub(super) stdin: Option<mpsc::Receiver<Bytes>>,
    /// Sizes of the terminal; `None` when the command has none.
    pub(super) sizes: Option<watch::Receiver<Option<PtySize>>>,
    /// Whether the keys that detach are looked for.
    pub(super) keys: Option<DetachKeys>,
}

impl Feed {
    /// Passes everything on; returns when the keys that detach were typed, and never otherwise.
    ///
    /// A command that closed its stdin, or ended, is no error here: its output tells the end.
    pub(super) async fn run(mut self) {
        loop {
            tokio::select! {
                biased;
                size = changed(&mut self.sizes) => {
                    let _ = self.input.resize(size).await;
                }
                data = receive(&mut self.stdin) => match data {
                    Some(data) => {
                        let (data, detach) = match &mut self.keys {
                            Some(keys) => {
                                let (data, detach) = keys.filter(&data);
                                (Bytes::from(data), detach)
                            }
                            None => (data, false),
                        };
                        if !data.is_empty() && self.input.write(data).await.is_err() {
                            self.stdin = None;
                        }
                        if detach {
                            return;
                        }
                    }
                    None => {
                        self.stdin = None;
                        let _ = self.input.close().await;
                    }
                },
            }
        }
    }
}

async fn receive(stdin: &mut Option<mpsc::Receiver<Bytes>>) -> Option<Bytes> {
    match stdin {
        Some(stdin) => stdin.recv().await,
        None => std::future::pending().await,
    }
}

async fn changed(sizes: &mut Option<watch::Receiver<Option<PtySize>>>) -> PtySize {
    while let Some(receiver) = sizes {
        if receiver.changed().await.is_err() {
            *sizes = None;
        } else if let Some(size) = *receiver.borrow_and_update() {
            return size;
        }
    }
    std::future::pending().await
}
