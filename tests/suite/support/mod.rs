//! What the tests share.

pub(crate) mod browser;
pub(crate) mod collector;
pub(crate) mod daemon;
pub(crate) mod ending;
pub(crate) mod flaky;
pub(crate) mod frames;
pub(crate) mod frontend;
pub(crate) mod health;
pub(crate) mod markdown;
pub(crate) mod metrics;
pub(crate) mod papers;
pub(crate) mod program;
pub(crate) mod redis;
pub(crate) mod sled;

/// Runs each test over every store: `over_every_store!(a, b)` makes the tests `memory::a`,
/// `sled::a`, `redis::a` and so on from the functions `a` and `b`.
///
/// With SESSIOND_TEST_BACKEND=redis every daemon of the suite has a redis store.
#[macro_export]
macro_rules! over_every_store {
    ($($name:ident),+ $(,)?) => {
        mod memory {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(sessiond::server::config::Backend::Memory).await;
            })+
        }
        mod sled {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                super::$name(sessiond::server::config::Backend::Sled).await;
            })+
        }
        mod redis {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                if !$crate::support::redis::is_missing() {
                    super::$name(sessiond::server::config::Backend::Redis).await;
                }
            })+
        }
    };
}
