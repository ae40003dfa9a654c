//! The page that Prometheus reads.

use std::fmt::Display;

/// The metrics of the daemon whose `listen.metrics` is at this address. Blocks.
pub(crate) fn page(address: impl Display) -> String {
    let mut answer = ureq::get(format!("http://{address}/metrics")).call().expect("a page");
    answer.body_mut().read_to_string().expect("text")
}

/// The same, for a task.
pub(crate) async fn scrape(address: impl Display + Send + 'static) -> String {
    tokio::task::spawn_blocking(move || page(address)).await.expect("a scrape")
}

/// Fails unless the page has all these lines.
#[track_caller]
pub(crate) fn expect_lines(page: &str, lines: impl IntoIterator<Item = &'static str>) {
    for line in lines {
        assert!(page.lines().any(|found| found == line), "expected {line} in:\n{page}");
    }
}
