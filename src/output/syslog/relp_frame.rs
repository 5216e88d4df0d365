//! Frames of RELP: commands of the client, and what a server sends.
//!
//! Source: "RELP - The Reliable Event Logging Protocol", `doc/relp.md` of rsyslog/librelp, section "RELP FRAME".

/// The number after the highest one of a transaction is 1.
const TRANSACTION_MAX: u32 = 999_999_999;

/// The most digits of a number.
const NUMBER_DIGITS_MAX: usize = 9;

/// The longest name of a command.
const COMMAND_BYTES_MAX: usize = 32;

/// The largest data of a server that are accepted: a status and a few words, or the offers of a session.
const SERVER_DATA_BYTES_MAX: usize = 64 * 1024;

/// The code of a response to a command that was carried out.
const OK: &str = "200";

/// What a server sends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ServerFrame {
    /// The response to a command.
    Response {
        /// The number of the command.
        transaction: u32,
        /// Whether the command was carried out.
        is_ok: bool,
        /// The code and the text after it, such as `200 OK`.
        status: String,
        /// What follows the first line, such as the offers of a session.
        data: String,
    },
    /// The server closes the connection.
    Close,
    /// Any other hint, which has no consequence.
    Hint,
}

/// Why the start of a text is not a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameError {
    /// The rest has not arrived yet.
    Incomplete,
    /// It is something else.
    Invalid,
}

/// Returns the number of the next command.
pub fn next_transaction(transaction: u32) -> u32 {
    if transaction >= TRANSACTION_MAX { 1 } else { transaction + 1 }
}

/// Appends a command.
pub fn append(transaction: u32, command: &str, data: &[u8], to: &mut Vec<u8>) {
    to.extend_from_slice(format!("{transaction} {command} {}", data.len()).as_bytes());
    if !data.is_empty() {
        to.push(b' ');
        to.extend_from_slice(data);
    }
    to.push(b'\n');
}

/// Reads the frame at the start of what was received. Returns it and its length.
pub fn read(received: &[u8]) -> Result<(ServerFrame, usize), FrameError> {
    let mut rest = received;
    let transaction = number(&mut rest)?;
    expect(b' ', &mut rest)?;
    let command = word(&mut rest)?;
    expect(b' ', &mut rest)?;
    let length = usize::try_from(number(&mut rest)?).map_err(|_| FrameError::Invalid)?;
    if length > SERVER_DATA_BYTES_MAX {
        return Err(FrameError::Invalid);
    }
    let data = match length {
        // A space may precede the line break: librelp sends none, other servers do.
        0 if rest.first() == Some(&b' ') => {
            rest = &rest[1..];
            &[][..]
        }
        0 => &[],
        _ => {
            expect(b' ', &mut rest)?;
            let (data, after) = rest.split_at_checked(length).ok_or(FrameError::Incomplete)?;
            rest = after;
            data
        }
    };
    expect(b'\n', &mut rest)?;
    let frame = match (command, transaction) {
        (b"rsp", _) => response(transaction, data)?,
        (b"serverclose", _) => ServerFrame::Close,
        (_, 0) => ServerFrame::Hint,
        _ => return Err(FrameError::Invalid),
    };
    Ok((frame, received.len() - rest.len()))
}

/// Reads a code of three digits, a text up to the line break, and what follows. librelp responds to `close` without any of
/// these.
fn response(transaction: u32, data: &[u8]) -> Result<ServerFrame, FrameError> {
    if data.is_empty() {
        let (status, data) = ("no code".to_owned(), String::new());
        return Ok(ServerFrame::Response { transaction, is_ok: false, status, data });
    }
    let text = String::from_utf8_lossy(data);
    let (status, data) = text.split_once('\n').unwrap_or((&text, ""));
    let code = status.get(..OK.len()).filter(|code| code.bytes().all(|byte| byte.is_ascii_digit()));
    let is_ok = code.ok_or(FrameError::Invalid)? == OK;
    Ok(ServerFrame::Response { transaction, is_ok, status: status.to_owned(), data: data.to_owned() })
}

fn number(rest: &mut &[u8]) -> Result<u32, FrameError> {
    let digits = leading(rest, NUMBER_DIGITS_MAX, u8::is_ascii_digit)?;
    Ok(digits.iter().fold(0, |number, digit| number * 10 + u32::from(digit - b'0')))
}

fn word<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], FrameError> {
    leading(rest, COMMAND_BYTES_MAX, u8::is_ascii_alphabetic)
}

/// Returns the bytes at the start that are of this kind, one or more, and what follows them.
fn leading<'a>(
    rest: &mut &'a [u8],
    bytes_max: usize,
    is_kind: fn(&u8) -> bool,
) -> Result<&'a [u8], FrameError> {
    let count = rest.iter().take_while(|byte| is_kind(byte)).count();
    if count > bytes_max || (count == 0 && !rest.is_empty()) {
        return Err(FrameError::Invalid);
    }
    let (found, after) = rest.split_at(count);
    *rest = after;
    if after.is_empty() { Err(FrameError::Incomplete) } else { Ok(found) }
}

fn expect(byte: u8, rest: &mut &[u8]) -> Result<(), FrameError> {
    let (first, after) = rest.split_first().ok_or(FrameError::Incomplete)?;
    *rest = after;
    if *first == byte { Ok(()) } else { Err(FrameError::Invalid) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn writes_commands() {
        let mut bytes = Vec::new();
        append(1, "open", b"relp_version=0", &mut bytes);
        append(999_999_999, "syslog", "ä\n".as_bytes(), &mut bytes);
        append(next_transaction(999_999_999), "close", b"", &mut bytes);
        assert_eq!(
            String::from_utf8_lossy(&bytes),
            "1 open 14 relp_version=0\n999999999 syslog 3 ä\n\n1 close 0\n"
        );
    }

    #[test]
    fn reads_what_servers_send() {
        // What librelp 1.11 sends.
        let open = b"1 rsp 93 200 OK\nrelp_version=0\nrelp_software=librelp,1.11.0,http://librelp.adiscon.com\ncommands=syslog\n";
        let (frame, length) = read(open).expect("a frame");
        assert_eq!(length, open.len());
        let ServerFrame::Response { transaction: 1, is_ok: true, status, data } = frame else {
            panic!("{frame:?}")
        };
        assert_eq!(status, "200 OK");
        assert!(data.ends_with("\ncommands=syslog"), "{data}");

        let rejected = |status: &str| ServerFrame::Response {
            transaction: 7,
            is_ok: false,
            status: status.to_owned(),
            data: String::new(),
        };
        for (bytes, expected) in [
            ("0 serverclose 0\n", Ok(ServerFrame::Close)),
            ("0 serverclose 0 \n", Ok(ServerFrame::Close)),
            ("0 hello 2 ab\n", Ok(ServerFrame::Hint)),
            ("7 rsp 20 500 command disabled\n", Ok(rejected("500 command disabled"))),
            ("7 rsp 3 500\n", Ok(rejected("500"))),
            ("7 rsp 6 200 OK", Err(FrameError::Incomplete)),
            ("7 rsp 6 200 O", Err(FrameError::Incomplete)),
            ("7 rsp 6", Err(FrameError::Incomplete)),
            ("7 rs", Err(FrameError::Incomplete)),
            ("7", Err(FrameError::Incomplete)),
            ("", Err(FrameError::Incomplete)),
            ("7 rsp 6 200 OK!", Err(FrameError::Invalid)),
            ("7 rsp 0\n", Ok(rejected("no code"))),
            ("7 rsp 2 ok\n", Err(FrameError::Invalid)),
            ("7 syslog 2 ok\n", Err(FrameError::Invalid)),
            ("7 rsp 99999 x", Err(FrameError::Invalid)),
            ("1234567890 rsp", Err(FrameError::Invalid)),
            ("HTTP/1.1 400 Bad Request\r\n", Err(FrameError::Invalid)),
            ("\u{15}\u{3}\u{3}", Err(FrameError::Invalid)),
        ] {
            assert_eq!(read(bytes.as_bytes()).map(|(frame, _)| frame), expected, "{bytes:?}");
        }
        let two = b"3 rsp 6 200 OK\n4 rsp 6 200 OK\n";
        assert_eq!(read(two).map(|(_, length)| length), Ok(two.len() / 2));
    }
}
