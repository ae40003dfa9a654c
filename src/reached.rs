//! What listens at an address that does not answer as a daemon should.

use std::{
    io::{self, Read, Write},
    net::{TcpStream, ToSocketAddrs},
    os::unix::net::UnixStream,
    time::Duration,
};

use sessiond::server::config::ListenAddr;

/// How long each step may take. This is only for a better message.
const PATIENCE: Duration = Duration::from_secs(1);

/// A request that every kind of server answers with something of its own.
const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: sessiond\r\nconnection: close\r\n\r\n";

/// A sentence about what listens there, if that can be told. Call it after a failure: it makes a
/// connection and sends something.
pub(crate) fn found_at(address: &ListenAddr) -> Option<String> {
    let answer = match address {
        ListenAddr::Unix(path) => UnixStream::connect(path).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }),
        tcp => connect(&tcp.to_string()).and_then(|stream| {
            stream.set_read_timeout(Some(PATIENCE))?;
            stream.set_write_timeout(Some(PATIENCE))?;
            ask(stream)
        }),
    };
    recognize(&answer.ok()?).map(str::to_owned)
}

fn connect(address: &str) -> io::Result<TcpStream> {
    let mut outcome = Err(io::ErrorKind::AddrNotAvailable.into());
    for resolved in address.to_socket_addrs()? {
        outcome = TcpStream::connect_timeout(&resolved, PATIENCE);
        if outcome.is_ok() {
            break;
        }
    }
    outcome
}

fn ask(mut stream: impl Read + Write) -> io::Result<Vec<u8>> {
    stream.write_all(REQUEST)?;
    let mut answer = Vec::new();
    // What came before a silence or a reset is enough.
    let _ = stream.take(4096).read_to_end(&mut answer);
    Ok(answer)
}

/// Who answers like that.
fn recognize(answer: &[u8]) -> Option<&'static str> {
    let has = |text: &str| answer.windows(text.len()).any(|part| part == text.as_bytes());
    // A TLS alert or handshake record (RFC 8446, section 5.1).
    let is_tls = matches!(answer, [21 | 22, 3, ..]);
    // A SETTINGS frame, with which a server of HTTP/2 begins (RFC 9113, section 3.4).
    let is_http2 = matches!(answer, [0, _, _, 4, 0, 0, 0, 0, 0, ..]);
    Some(match answer {
        _ if is_tls => "it speaks TLS: give its CA with --ca-file",
        _ if is_http2 => "it speaks HTTP/2 without TLS: leave out --ca-file and listen.tls",
        _ if has("a gRPC listener of sessiond") => {
            "it is a daemon that speaks no TLS there: leave out --ca-file and listen.tls"
        }
        _ if has("the metrics are at /metrics") => {
            "it is listen.metrics of a daemon, which speaks HTTP/1: give an address of \
             listen.grpc, or of listen.admin for the commands of operators"
        }
        _ if answer.starts_with(b"HTTP/1.") => {
            "a server of HTTP/1 listens there, which is none of gRPC"
        }
        _ if answer.starts_with(b"-ERR") || answer.starts_with(b"-NOAUTH") => {
            "a Redis listens there"
        }
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_told_apart() {
        for (answer, said) in [
            (&b"\x15\x03\x03\x00\x02\x02\x32"[..], "it speaks TLS"),
            (b"\0\0\x06\x04\0\0\0\0\0\0\x03", "it speaks HTTP/2 without TLS"),
            (b"HTTP/1.1 505 x\r\n\r\nThis is a gRPC listener of sessiond.", "it is a daemon"),
            (b"HTTP/1.1 404 x\r\n\r\nthe metrics are at /metrics\n", "it is listen.metrics"),
            (b"HTTP/1.1 200 OK\r\n\r\n", "a server of HTTP/1"),
            (b"-ERR unknown command 'GET'", "a Redis"),
        ] {
            let found = recognize(answer).unwrap_or_default();
            assert!(found.starts_with(said), "expected {said:?}, found {found:?}");
        }
        for unknown in [&b""[..], b"SSH-2.0-x"] {
            assert_eq!(recognize(unknown), None);
        }
    }
}
