use std::sync::{Arc, Mutex, PoisonError, Weak};

use hyper::rt::Executor;
use tokio::task::JoinSet;

/// What goes on beside a connection; it is ended when this is dropped, so that nothing outlives a connection that was cut off.
#[derive(Default)]
pub(super) struct Tasks(Arc<Mutex<JoinSet<()>>>);

/// Begins tasks; what it begins must not keep them alive.
#[derive(Clone)]
pub(super) struct Beside(Weak<Mutex<JoinSet<()>>>);

impl Tasks {
    pub(super) fn beside(&self) -> Beside {
        Beside(Arc::downgrade(&self.0))
    }

    /// Waits until all have ended, those included that they began.
    pub(super) async fn ended(&self) {
        loop {
            let mut tasks = std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner));
            if tasks.is_empty() {
                return;
            }
            while tasks.join_next().await.is_some() {}
        }
    }
}

impl Beside {
    pub(super) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        let Some(tasks) = self.0.upgrade() else { return };
        let mut tasks = tasks.lock().unwrap_or_else(PoisonError::into_inner);
        // Those that have ended need no place.
        while tasks.try_join_next().is_some() {}
        tasks.spawn(task);
    }
}

impl<F: Future<Output = ()> + Send + 'static> Executor<F> for Beside {
    fn execute(&self, future: F) {
        self.spawn(future);
    }
}

#[cfg(test)]
mod tests {
    use tokio::sync::oneshot;

    use super::*;

    #[tokio::test]
    async fn they_end_with_the_connection_and_are_waited_for() {
        let tasks = Tasks::default();
        let beside = tasks.beside();
        let (go, gone) = oneshot::channel::<()>();
        let (inner, done) = (beside.clone(), Arc::new(Mutex::new(false)));
        let told = Arc::clone(&done);
        beside.spawn(async move {
            let _ = gone.await;
            inner.spawn(async move { *told.lock().unwrap() = true });
        });
        go.send(()).unwrap();
        tasks.ended().await;
        assert!(*done.lock().unwrap());
        let (kept, ended) = oneshot::channel::<()>();
        let inner = beside.clone();
        beside.spawn(async move {
            let _hold = (kept, inner);
            std::future::pending::<()>().await;
        });
        drop(tasks);
        assert!(ended.await.is_err());
        beside.spawn(async {});
    }
}
