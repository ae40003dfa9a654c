//! Single requests that are much work: as large as max_message_bytes allows, and made of
//! what takes longest.

use std::{fmt::Write as _, sync::Arc};

use sessiond::grpc::pb::{
    Credential, ResolveRequest, WriteRequest, WriteResponse, credential::Kind,
};

use super::{
    peer::{PAUSE, Peer},
    stage::{Attack, RESOLVE, Target, WRITE},
    wire::{Block, Frames, message, stream, unframed},
};

/// max_message_bytes, less what stands around it.
const LARGE_BYTES: usize = (1 << 20) - 4096;

/// Connections that ask, each for one thing at a time: two for each worker.
const CONNECTIONS: usize = 4;

/// Calls again and again, on connections of their own.
async fn ask(target: &Target, path: &str, body: &[u8]) {
    let headers = Block::call(path, Some(&target.token));
    let one = async |_| {
        loop {
            let asking = async {
                let mut peer = Peer::open(target.connect().await?, Frames::opening(&[])).await?;
                for number in 0.. {
                    // What was refused before all was sent is work as well.
                    peer.call(stream(number), &headers, body, true).await?;
                    peer.answer(stream(number)).await?;
                    target.did(1);
                }
                std::io::Result::Ok(())
            };
            if asking.await.is_err() {
                tokio::time::sleep(PAUSE).await;
            }
        }
    };
    futures_util::future::join_all((0..CONNECTIONS).map(one)).await;
}

/// A megabyte of keys to remove.
pub(super) const UNSET: Attack = Attack::with_token("unset", |target| Box::pin(unset(target)));

async fn unset(target: Arc<Target>) {
    // Each is a tag, a length and the key.
    let unset: Vec<_> = (0..LARGE_BYTES / 9).map(|number| format!("k{number:06}").into()).collect();
    let write = WriteRequest { credential: target.credential(), unset, ..Default::default() };
    ask(&target, WRITE, &message(&write)).await;
}

/// A megabyte of one key, set again and again.
pub(super) const DUPLICATE_KEYS: Attack =
    Attack::with_token("duplicate_keys", |target| Box::pin(duplicate_keys(target)));

async fn duplicate_keys(target: Arc<Target>) {
    let members = r#""a":1,"#.repeat(LARGE_BYTES / 6);
    set(&target, format!("{{{}}}", members.trim_end_matches(','))).await;
}

/// A megabyte of arrays, as deep as they may be.
pub(super) const DEEP_JSON: Attack =
    Attack::with_token("deep_json", |target| Box::pin(deep_json(target)));

async fn deep_json(target: Arc<Target>) {
    const DEPTH: usize = 60;
    let deep = format!("{}{},", "[".repeat(DEPTH), "]".repeat(DEPTH));
    let all = deep.repeat(LARGE_BYTES / deep.len());
    set(&target, format!(r#"{{"a":[{}]}}"#, all.trim_end_matches(','))).await;
}

async fn set(target: &Target, set: String) {
    let credential = target.credential();
    let write = WriteRequest { credential, set: set.into(), ..Default::default() };
    ask(target, WRITE, &message(&write)).await;
}

/// A megabyte of a Cookie header, with cookies of the session's name.
pub(super) const COOKIE_HEADER: Attack =
    Attack::with_token("cookie_header", |target| Box::pin(cookie_header(target)));

async fn cookie_header(target: Arc<Target>) {
    let (name, _) = target.cookie.split_once('=').expect("a cookie is a pair");
    let some = format!("a=b; {name}=; {name}x=%41; =; ");
    let header = some.repeat(LARGE_BYTES / some.len()) + &target.cookie;
    let credential = Some(Credential { kind: Some(Kind::CookieHeader(header.into())) });
    let resolve = ResolveRequest { credential, ..Default::default() };
    ask(&target, RESOLVE, &message(&resolve)).await;
}

/// Small Writes to a session of as many keys as it may have.
pub(super) const MANY_KEYS: Attack =
    Attack::with_token("many_keys", |target| Box::pin(many_keys(target)));

async fn many_keys(target: Arc<Target>) {
    let cookie = loop {
        match create(&target, 7_200).await {
            Some(cookie) => break cookie,
            None => tokio::time::sleep(PAUSE).await,
        }
    };
    let credential = Some(Credential { kind: Some(Kind::CookieHeader(cookie.into())) });
    let set = format!(r#"{{"k0000":"{}"}}"#, "x".repeat(88));
    let write = WriteRequest { credential, set: set.into(), ..Default::default() };
    ask(&target, WRITE, &message(&write)).await;
}

/// A session of so many keys, or of half of that if it may not have as many.
async fn create(target: &Target, mut keys: usize) -> Option<String> {
    let mut peer = Peer::open(target.connect().await.ok()?, Frames::opening(&[])).await.ok()?;
    let headers = Block::call(WRITE, Some(&target.token));
    for number in 0.. {
        let mut members = String::new();
        for key in 0..keys {
            write!(members, r#""k{key:04}":1,"#).expect("a text can be written to");
        }
        let set = format!("{{{}}}", members.trim_end_matches(','));
        let write = WriteRequest { set: set.into(), ..Default::default() };
        peer.call(stream(number), &headers, &message(&write), true).await.ok()?;
        let answer = peer.answer(stream(number)).await.ok()?;
        if let Some((message, _)) = unframed(&answer) {
            let answer: WriteResponse = prost::Message::decode(message).ok()?;
            return Some(answer.set_cookie.first()?.split(';').next()?.to_owned());
        }
        keys = (keys / 2).max(1);
    }
    None
}
