use super::{Result, StoreError};

/// Runs `work`, which takes long, on another thread, so that it holds nobody up.
///
/// Fails if the process stops before it is done. A panic of `work` goes on here.
pub async fn run_blocking<T: Send + 'static>(
    doing: &'static str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => Ok(done),
        Err(ended) => match ended.try_into_panic() {
            Ok(panic) => std::panic::resume_unwind(panic),
            Err(_) => Err(StoreError::unavailable(doing, "the daemon has stopped")),
        },
    }
}
