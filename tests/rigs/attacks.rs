//! What hostile peers do, against the built program: frames by hand, over loopback.
//!
//! | module | attacks |
//! |---|---|
//! | [`small_frames`] | an octet in each frame; an honest Pipeline of 2,000 Writes must work |
//! | [`resets`] | rapid reset, made-you-reset, calls cancelled while the daemon stands still, late calls |
//! | [`health`] | Health/Check with many headers and no message, thousands of Health/Watch |
//! | [`held`] | half messages, answers that are not read, 200 connections with both |
//! | [`heavy`] | a megabyte of `unset`, duplicate keys, deep JSON, Cookie header; a session of 7,200 keys |
//! | [`windows`] | windows that are opened and closed all the time |
//! | [`places`] | all connections are taken and kept |
//! | [`metrics`] | the metrics are flooded, or all their places idle |
//! | [`headers`] | header blocks that are slow, endless, or long from a few octets |
//! | [`control`] | PING, SETTINGS, empty DATA, streams beyond what is allowed |
//!
//! Beside each attack a bystander resolves a hot session at a steady pace, over a
//! connection of its own: [`judge`] holds it to its own noise, which is measured between
//! the rounds of the attack. While the attack goes on, somebody new comes in at each door.
//! Resident memory is read before, throughout and after. Each attack has a daemon of its
//! own; the peers come from another loopback address than the bystander.
//!
//! ```sh
//! cargo test --locked --test rigs attacks::            # the short form
//! cargo test --locked --test rigs attacks::unset       # one attack
//! tests/rigs/run long attacks                          # strict, and prints the table
//! ```

mod caller;
mod control;
mod headers;
mod health;
mod heavy;
mod held;
mod judge;
mod metrics;
mod peer;
mod places;
mod resets;
mod small_frames;
mod stage;
mod windows;
mod wire;

/// A test for each attack, so that each fails by itself.
macro_rules! attacks {
    ($($name:ident: $attack:expr,)+) => {
        $(#[test]
        fn $name() {
            let attack = $attack;
            assert_eq!(attack.name, stringify!($name), "the name of a row is that of its test");
            stage::play(&attack);
        })+
    };
}

attacks! {
    small_frames: small_frames::ATTACK,
    rapid_reset: resets::RAPID,
    made_you_reset: resets::MADE_YOU,
    cancelled_calls: resets::CANCELLED,
    late_calls: resets::LATE,
    health_headers: health::HEADERS,
    health_watches: health::WATCHES,
    half_messages: held::HALF_MESSAGES,
    unread_answers: held::UNREAD_ANSWERS,
    unread_pipelines: held::UNREAD_PIPELINES,
    crowd: held::CROWD,
    unset: heavy::UNSET,
    duplicate_keys: heavy::DUPLICATE_KEYS,
    deep_json: heavy::DEEP_JSON,
    cookie_header: heavy::COOKIE_HEADER,
    many_keys: heavy::MANY_KEYS,
    window_flipping: windows::FLIPPING,
    places_pings: places::PINGS,
    places_spread: places::SPREAD,
    places_half_preface: places::HALF_PREFACE,
    metrics_flood: metrics::FLOOD,
    metrics_idle: metrics::IDLE,
    slow_headers: headers::SLOW,
    continuation_flood: headers::CONTINUATIONS,
    hpack_bombs: headers::BOMBS,
    ping_flood: control::PINGS,
    settings_flood: control::SETTINGS,
    zero_length_data: control::EMPTY_DATA,
    too_many_streams: control::STREAMS,
}
