//! Receivers that take everything, acknowledge it at once and keep nothing. Each listens on a port of its own for as
//! long as the benchmark runs.

use std::{
    io::{self, BufRead, BufReader, Read, Write},
    net::{Ipv4Addr, TcpListener, TcpStream},
    thread,
};

use rmpv::Value;

/// Starts a thread for each connection; gives the port.
fn listen(serve: impl Fn(TcpStream) -> io::Result<()> + Copy + Send + 'static) -> io::Result<u16> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let port = listener.local_addr()?.port();
    thread::spawn(move || {
        for connection in listener.incoming().flatten() {
            // Whoever hangs up has its reasons.
            thread::spawn(move || serve(connection));
        }
    });
    Ok(port)
}

/// The forward protocol: a message is acknowledged by the name of its chunk.
pub fn forward() -> io::Result<u16> {
    listen(|connection| {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, &connection);
        while !reader.fill_buf()?.is_empty() {
            let message = rmpv::decode::read_value(&mut reader).map_err(io::Error::other)?;
            let options = message.as_array().and_then(|parts| parts.last()?.as_map());
            let chunk =
                options.and_then(|options| options.iter().find(|(key, _)| key.as_str() == Some("chunk")));
            if let Some((_, chunk)) = chunk {
                let answer = Value::Map(vec![("ack".into(), chunk.clone())]);
                rmpv::encode::write_value(&mut &connection, &answer).map_err(io::Error::other)?;
            }
        }
        Ok(())
    })
}

/// GELF: everything is read until the sender has no more.
pub fn gelf() -> io::Result<u16> {
    listen(|mut connection| io::copy(&mut connection, &mut io::sink()).map(drop))
}

/// HTTP: every request is answered by 200.
pub fn http() -> io::Result<u16> {
    listen(|connection| {
        connection.set_nodelay(true)?;
        let mut reader = BufReader::with_capacity(1 << 20, &connection);
        loop {
            let mut length = 0;
            loop {
                let mut line = String::new();
                if reader.read_line(&mut line)? == 0 {
                    return Ok(());
                }
                let line = line.trim_end().to_ascii_lowercase();
                if let Some(value) = line.strip_prefix("content-length:") {
                    length = value.trim().parse().map_err(io::Error::other)?;
                }
                if line.is_empty() {
                    break;
                }
            }
            io::copy(&mut reader.by_ref().take(length), &mut io::sink())?;
            (&connection).write_all(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n")?;
        }
    })
}
