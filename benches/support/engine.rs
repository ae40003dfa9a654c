//! An engine with the rules that a daemon has by default.

use std::time::Duration;

use sessiond::session::{
    cookie::{Cookie, CookieAttributes, CookieFormat, SameSite},
    lifetime::{Granularity, Lifetime},
    token::{Keyring, Secret},
};

/// Any will do: nobody else sees the sessions.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub const COOKIE: &str = "__Host-session";
pub const LIFETIME: Lifetime = Lifetime {
    duration: Duration::from_secs(30 * 60),
    granularity: Granularity::Auto,
    absolute: None,
};

pub fn keyring() -> Keyring {
    Keyring::new(&[Secret::new(SECRET)]).expect("it is long enough")
}

pub fn cookie() -> Cookie {
    Cookie::new(CookieAttributes {
        name: COOKIE.to_owned(),
        domain: String::new(),
        path: "/".to_owned(),
        secure: true,
        http_only: true,
        same_site: SameSite::Lax,
        partitioned: false,
        persistent: true,
        format: CookieFormat::Plain,
    })
    .expect("the default cookie")
}
