//! All records of an engine, by SCAN, one server after another.
//!
//! SCAN returns each key that exists from the first call to the last. This
//! holds only while its cursors go back to the process that issued them, and in
//! a cluster only if no slot changes its holder meanwhile. A [`Place`]
//! therefore names both. If the process is another one, the scan starts again
//! with that server; if the map is another one, with the first server. While
//! keys of a slot are moving, nobody can say where they are, and the scan
//! waits.

use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use futures_util::{StreamExt, TryStreamExt, stream};
use redis::{Value, from_redis_value};
use sha2::{Digest, Sha256};

use super::{Found, READ_AT_ONCE, RedisStore, SCAN, failure::Failure, server::Server};
use crate::session::{
    id::PublicId,
    store::{Certainty, Cursor, Result, Scanned},
};

/// The servers that hold keys, in a stable order.
pub(super) struct Holders {
    /// Changes when a slot gets another holder.
    pub map: u64,
    pub servers: Vec<Arc<Server>>,
    pub are_cluster: bool,
}

/// The position of a scan. 28 octets, integers big-endian, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Place {
    /// The map of the [`Holders`].
    map: u64,
    /// The number of the server.
    server: u32,
    /// The server's process.
    process: u64,
    /// The cursor that SCAN returned; 0 starts a scan.
    cursor: u64,
}

impl Place {
    const LEN: usize = 3 * 8 + 4;

    fn start(map: u64) -> Self {
        Self { map, server: 0, process: 0, cursor: 0 }
    }

    fn encode(self) -> Cursor {
        let mut bytes = Vec::with_capacity(Self::LEN);
        bytes.put_u64(self.map);
        bytes.put_u32(self.server);
        bytes.put_u64(self.process);
        bytes.put_u64(self.cursor);
        Cursor(bytes.into())
    }

    /// `None` if it is from another store.
    fn decode(Cursor(mut bytes): Cursor) -> Option<Self> {
        (bytes.len() == Self::LEN).then(|| Self {
            map: bytes.get_u64(),
            server: bytes.get_u32(),
            process: bytes.get_u64(),
            cursor: bytes.get_u64(),
        })
    }
}

/// A number for a text. It stays the same after the daemon restarts.
pub(super) fn number_of(text: &[u8]) -> u64 {
    Sha256::digest(text).as_slice().get_u64()
}

impl RedisStore {
    /// See [`Store::scan`](crate::session::store::Store::scan).
    pub(super) async fn scan_in_slice(
        &self,
        from: Option<Cursor>,
        limit: usize,
    ) -> Result<Scanned> {
        let failed = |why: Failure| why.while_doing(SCAN, &self.prefix);
        let Holders { map, servers, are_cluster } =
            self.shared.servers.holders().map_err(failed)?;
        let place = from.and_then(Place::decode).filter(|place| place.map == map);
        let place = place.unwrap_or(Place::start(map));
        let Some(server) = servers.get(place.server as usize) else {
            return Ok(Scanned::default());
        };
        if are_cluster {
            is_settled(server).await.map_err(failed)?;
        }
        let (process, next, keys) =
            self.slice(server, place.cursor, limit).await.map_err(failed)?;
        if place.cursor != 0 && place.process != process {
            let anew = Place { process, cursor: 0, ..place };
            return Ok(Scanned { next: Some(anew.encode()), ..Scanned::default() });
        }
        let next = match next {
            0 if place.server as usize + 1 < servers.len() => {
                Some(Place { server: place.server + 1, process: 0, cursor: 0, ..place })
            }
            // Keys that moved meanwhile may have been missed.
            0 => {
                let anew = self.shared.servers.holders_now().await.map_err(failed)?;
                (anew.map != map).then(|| Place::start(anew.map))
            }
            cursor => Some(Place { process, cursor, ..place }),
        };
        let mut scanned = Scanned { next: next.map(Place::encode), ..Scanned::default() };
        let ids: Vec<_> = keys.iter().filter_map(|key| self.id_of(key)).collect();
        let found = stream::iter(ids)
            .map(|id| async move { Ok((id, self.found(SCAN, id, Certainty::Current).await?)) })
            .buffered(READ_AT_ONCE);
        let found: Vec<(PublicId, Found)> = found.try_collect().await?;
        for (id, found) in found {
            match found {
                Found::Record(record) => scanned.records.push((id, record)),
                Found::Nothing => {}
                Found::Unreadable(error) => {
                    let cause = std::error::Error::source(&error).map(ToString::to_string);
                    tracing::error!(%id, cause, "a record cannot be read and is skipped");
                    scanned.unreadable += 1;
                }
            }
        }
        Ok(scanned)
    }

    /// The server's process, the next cursor, and some keys.
    async fn slice(
        &self,
        server: &Server,
        cursor: u64,
        limit: usize,
    ) -> std::result::Result<(u64, u64, Vec<Bytes>), Failure> {
        let mut commands = redis::pipe();
        commands.cmd("INFO").arg("server");
        let scan = commands.cmd("SCAN").arg(cursor);
        scan.arg("MATCH").arg(self.pattern()).arg("COUNT").arg(limit);
        let mut answers = server.ask_all(&commands).await?.into_iter();
        let mut next = || answers.next().unwrap_or(Err(Failure::Absurd));
        let (info, scanned) = (next()?, next()?);
        let info: String = from_redis_value(info).map_err(|_| Failure::Absurd)?;
        let process = info.lines().find_map(|line| line.strip_prefix("run_id:"));
        let process = number_of(process.ok_or(Failure::Absurd)?.as_bytes());
        let (next, keys) = pair(scanned).ok_or(Failure::Absurd)?;
        Ok((process, next, keys))
    }

    /// Matches all keys of records. It matches no key of an index, because
    /// those are longer.
    fn pattern(&self) -> String {
        let mut pattern = String::new();
        for character in self.prefix.chars() {
            if matches!(character, '*' | '?' | '[' | ']' | '\\' | '^' | '-') {
                pattern.push('\\');
            }
            pattern.push(character);
        }
        pattern + &"?".repeat(PublicId::TEXT_LEN)
    }

    /// `None` if it is not the key of a record.
    fn id_of(&self, key: &[u8]) -> Option<PublicId> {
        key.strip_prefix(self.prefix.as_bytes()).and_then(PublicId::from_text)
    }
}

/// Fails while a slot moves to or from this server.
async fn is_settled(server: &Server) -> std::result::Result<(), Failure> {
    let mut command = redis::cmd("CLUSTER");
    command.arg("NODES");
    let nodes: String =
        from_redis_value(server.ask(&command).await?).map_err(|_| Failure::Absurd)?;
    let own = nodes.lines().find(|line| line.contains("myself")).ok_or(Failure::Absurd)?;
    match own.contains("->-") || own.contains("-<-") {
        false => Ok(()),
        true => Err(Failure::Moving),
    }
}

/// The answer of SCAN: the next cursor, and keys.
fn pair(scanned: Value) -> Option<(u64, Vec<Bytes>)> {
    let (cursor, keys): (String, Vec<Vec<u8>>) = from_redis_value(scanned).ok()?;
    Some((cursor.parse().ok()?, keys.into_iter().map(Bytes::from).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_is_found_again() {
        let place = Place { map: 1, server: 2, process: 3, cursor: u64::MAX };
        assert_eq!(Place::decode(place.encode()), Some(place));
        let of_sled = Cursor::after(PublicId::from_bytes([7; 12]));
        assert_eq!(Place::decode(of_sled), None);
    }
}
