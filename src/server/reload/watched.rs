//! The files that a configuration names, and whether they have changed.

use std::{fs, os::unix::fs::MetadataExt, path::PathBuf};

use super::super::config::{AdoptFrom, Backend, Config, RedisTlsConfig};

/// What the system says of each file. A file that is replaced, or written to, looks different.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Looks(Vec<(PathBuf, Option<Look>)>);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Look {
    device: u64,
    inode: u64,
    len: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Looks {
    /// Looks at the files that a reload reads. May wait for the disk.
    pub(super) fn at(config: &Config) -> Self {
        let look = |path: PathBuf| {
            let found = fs::metadata(&path).ok().map(|found| Look {
                device: found.dev(),
                inode: found.ino(),
                len: found.len(),
                modified: (found.mtime(), found.mtime_nsec()),
                changed: (found.ctime(), found.ctime_nsec()),
            });
            (path, found)
        };
        Self(files(config).into_iter().map(look).collect())
    }
}

/// Secrets, tokens, passwords and certificates, but not the configuration itself.
fn files(config: &Config) -> Vec<PathBuf> {
    let (tls, auth) = (&config.listen.tls, &config.listen.auth);
    let mut files = vec![&tls.cert_file, &tls.key_file, &tls.client_ca_file, &auth.token_file];
    if config.store.backend == Backend::Redis {
        let redis = &config.store.redis;
        files.extend([&redis.password_file, &redis.sentinel_password_file]);
        files.extend(of_tls(&redis.tls));
    }
    for engine in config.engine.values() {
        files.push(&engine.cookie.secret_file);
        if engine.adopt.from != AdoptFrom::Off {
            let adopt = &engine.adopt;
            files.extend([&adopt.password_file, &adopt.sentinel_password_file]);
            files.extend(of_tls(&adopt.tls));
        }
    }
    files.retain(|path| !path.as_os_str().is_empty());
    files.into_iter().cloned().collect()
}

fn of_tls(tls: &RedisTlsConfig) -> [&PathBuf; 3] {
    let RedisTlsConfig { ca_file, cert_file, key_file } = tls;
    [ca_file, cert_file, key_file]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_that_is_written_replaced_or_removed_looks_different() {
        let directory = tempfile::tempdir().expect("a scratch folder");
        let (path, next) = (directory.path().join("secrets"), directory.path().join("next"));
        let mut config = Config::defaults();
        for engine in config.engine.values_mut() {
            engine.cookie.secret_file.clone_from(&path);
        }
        let mut before = Looks::at(&config);
        let mut differs = |what: &str| {
            let now = Looks::at(&config);
            assert_ne!(std::mem::replace(&mut before, now), before, "{what}");
            assert_eq!(Looks::at(&config), before, "nothing has changed since");
        };
        fs::write(&path, "one").expect("a file");
        differs("a file that was missing");
        fs::write(&path, "one more").expect("a file");
        differs("another length");
        fs::write(&next, "one more").expect("a file");
        fs::rename(&next, &path).expect("it can be renamed");
        differs("another file of the same length");
        fs::remove_file(&path).expect("it is there");
        differs("no file");
    }
}
