//! Describe: what a client has to know of the daemon.

use std::time::Duration;

use sessiond::{
    grpc::pb::{CookieFormat, DescribeRequest, DescribeResponse, WriteRequest},
    server::config::{Backend, Config, SpanOrNone},
    session::cookie,
};
use tonic::Code;

use crate::support::{
    browser::cookie_header,
    daemon::{Daemon, assert_fault, set},
};

async fn describe(daemon: &Daemon) -> DescribeResponse {
    let described = daemon.client.clone().describe(DescribeRequest {}).await;
    described.expect("it is described").into_inner()
}

fn seconds(duration: Option<prost_types::Duration>) -> Option<i64> {
    duration.map(|duration| duration.seconds)
}

#[tokio::test]
async fn engines_are_described_as_they_are_configured() {
    let daemon = Daemon::with(Backend::Memory, |config: &mut Config| {
        let default = config.engine.get_mut("default").expect("the default engine");
        default.duration = "30m".parse().expect("a time");
        default.absolute_duration = SpanOrNone(Some(Duration::from_secs(12 * 3600)));
        default.automatic_touch = false;
        let mut shop = default.clone();
        shop.cookie.name = "shop".to_owned();
        shop.cookie.format = cookie::CookieFormat::Express;
        shop.cookie.persistent = false;
        shop.absolute_duration = SpanOrNone(None);
        shop.automatic_touch = true;
        config.engine.insert("shop".to_owned(), shop);
    })
    .await;
    let described = describe(&daemon).await;
    assert_eq!(described.version, env!("CARGO_PKG_VERSION"));
    let [default, shop] = described.engines.as_slice() else {
        panic!("expected two engines, found {described:?}");
    };
    assert_eq!((default.name.as_str(), shop.name.as_str()), ("default", "shop"));
    assert_eq!(default.cookie_format(), CookieFormat::Plain);
    assert_eq!((shop.cookie_name.as_str(), shop.cookie_format()), ("shop", CookieFormat::Express));
    assert_eq!((shop.persistent, shop.automatic_touch), (false, true));
    assert!(!default.automatic_touch);
    assert_eq!(seconds(default.duration), Some(1800));
    assert_eq!(seconds(default.absolute_duration), Some(12 * 3600));
    assert_eq!(seconds(shop.absolute_duration), None, "expected nothing where there is no limit");
    // A 64th of the duration.
    let granularity = default.touch_granularity.expect("a granularity");
    assert_eq!((granularity.seconds, granularity.nanos), (28, 125_000_000));
    // The cookie is the one that is set.
    let visitor = daemon.visitor("{}").await;
    assert!(visitor.header().starts_with(&format!("{}=", default.cookie_name)));
}

/// Each limit is the last value that is taken.
#[tokio::test]
async fn limits_are_those_that_are_enforced() {
    let daemon = Daemon::start(Backend::Memory).await;
    let described = describe(&daemon).await;
    let limits = described.limits.expect("limits");
    let write = async |request: WriteRequest| daemon.try_write(request).await;
    let of = |count: u32| "x".repeat(count as usize);

    for (extra, taken) in [(0, true), (1, false)] {
        let principal = Some(of(limits.max_principal_bytes + extra).into());
        let answer = write(WriteRequest { principal, ..set("{}") }).await;
        assert_eq!(answer.is_ok(), taken, "a principal of {extra} bytes more");
        let label = Some(of(limits.max_label_bytes + extra).into());
        let answer = write(WriteRequest { label, ..set("{}") }).await;
        assert_eq!(answer.is_ok(), taken, "a label of {extra} bytes more");
        let unset = vec!["k".into(); (limits.max_unset + extra) as usize];
        let answer = write(WriteRequest { unset, ..set("{}") }).await;
        assert_eq!(answer.is_ok(), taken, "{extra} keys more to unset");
        let keys: Vec<_> = (0..limits.max_keys + extra).map(|n| format!("\"{n}\":0")).collect();
        let answer = write(set(&format!("{{{}}}", keys.join(",")))).await;
        assert_eq!(answer.is_ok(), taken, "{extra} top-level keys more");
        let mut duration = limits.max_duration.expect("a longest duration");
        duration.seconds += i64::from(extra);
        let answer = write(WriteRequest { duration: Some(duration), ..set("{}") }).await;
        assert_eq!(answer.is_ok(), taken, "{extra} s more");
    }
    let max = described.engines[0].max_data_bytes;
    let data = |len: u32| format!("{{\"a\":\"{}\"}}", of(len - 8));
    write(set(&data(max))).await.expect("as much as an engine takes");
    let error = write(set(&data(max + 1))).await.expect_err("one byte more");
    assert_fault(&error, Code::InvalidArgument, "DATA_TOO_LARGE", Some("set"));

    let header = cookie_header(of(limits.max_cookie_header_bytes));
    let request =
        |credential| sessiond::grpc::pb::ResolveRequest { credential, ..Default::default() };
    let answer = daemon.resolve_with(request(header)).await;
    assert_eq!(answer.state(), sessiond::grpc::pb::SessionState::None);
    let header = cookie_header(of(limits.max_cookie_header_bytes + 1));
    let answer = daemon.resolve_with(request(header)).await;
    assert_eq!(answer.state(), sessiond::grpc::pb::SessionState::Invalid);
    assert_eq!((limits.max_message_bytes, limits.pipeline_in_flight), (1 << 20, 256));
}
