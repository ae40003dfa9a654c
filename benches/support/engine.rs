//! An engine with the default rules of a daemon.

use std::time::Duration;

use sessiond::session::{
    cookie::{Cookie, CookieAttributes},
    lifetime::{Granularity, Lifetime},
    token::{Keyring, Secret},
};

/// Any secret will do, because these sessions stay in the measurement.
pub(crate) const SECRET: &str = "0123456789abcdef0123456789abcdef";
pub(crate) const COOKIE: &str = CookieAttributes::DEFAULT_NAME;
pub(crate) const LIFETIME: Lifetime = Lifetime {
    duration: Duration::from_secs(30 * 60),
    granularity: Granularity::Auto,
    absolute: None,
};

pub(crate) fn keyring() -> Keyring {
    Keyring::new(&[Secret::new(SECRET)]).expect("it is long enough")
}

pub(crate) fn cookie() -> Cookie {
    Cookie::new(CookieAttributes::default()).expect("the default cookie")
}
