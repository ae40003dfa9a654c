//! What the tests have in common.

pub mod browser;
pub mod daemon;
pub mod ending;
pub mod flaky;
pub mod frontend;
pub mod health;
pub mod markdown;
pub mod papers;
pub mod program;
pub mod redis;
pub mod sled;

/// Runs each test over every store: `over_every_store!(a, b)` makes the tests
/// `memory::a`, `sled::a`, `redis::a` and so on of the functions `a` and `b`.
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
