//! The server name that a TLS client asks for, read from its first bytes.
//!
//! Pure, and only for whoever wants to know: nothing is answered, and the bytes stay where they are.

use rustls::server::Acceptor;

/// The longest hello that is waited for, in bytes. One with post-quantum keys has about 2,000.
pub const LIMIT: usize = 16 * 1024;

/// What first bytes say.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Hello {
    /// A whole ClientHello, and the name it asks for (RFC 6066, section 3).
    Complete(Option<String>),
    /// The beginning of one.
    More,
    /// Something else.
    Other,
}

/// Reads the beginning of a connection.
pub fn read(mut bytes: &[u8]) -> Hello {
    let mut acceptor = Acceptor::default();
    while !bytes.is_empty() {
        match acceptor.read_tls(&mut bytes) {
            Ok(0) | Err(_) => return Hello::Other,
            Ok(_) => {}
        }
        match acceptor.accept() {
            Ok(Some(accepted)) => {
                let name = accepted.client_hello().server_name().map(str::to_owned);
                return Hello::Complete(name);
            }
            Ok(None) => {}
            Err(_) => return Hello::Other,
        }
    }
    Hello::More
}

/// Whom a connection asks for, for those who must not be deceived about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asked {
    /// A server by its name, in lower case.
    For(String),
    /// No server by name: it is not TLS, or its hello has no name.
    ForNobody,
    /// It is TLS, and whom it asks for can't be told: what is no hello to us may be one to others.
    Unclear,
    /// That is not known yet.
    More,
}

/// Reads the beginning of a connection. `ended`: no more will come.
pub fn asked(bytes: &[u8], ended: bool) -> Asked {
    match bytes {
        [] | [20..=24] if !ended => Asked::More,
        [22, 3, ..] => match read(bytes) {
            Hello::Complete(Some(name)) => Asked::For(name),
            Hello::Complete(None) => Asked::ForNobody,
            Hello::More if !ended && bytes.len() < LIMIT => Asked::More,
            Hello::More | Hello::Other => Asked::Unclear,
        },
        // Other records of TLS, after which some servers still take a hello.
        [20..=24, 3, ..] => Asked::Unclear,
        _ => Asked::ForNobody,
    }
}

/// The name in the ClientHello at the beginning of `bytes`. `None` where there is none, or not all
/// of the hello.
pub fn server_name(bytes: &[u8]) -> Option<String> {
    match read(bytes) {
        Hello::Complete(name) => name,
        Hello::More | Hello::Other => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A ClientHello of TLS 1.2 with `extensions`, in one record.
    fn hello(extensions: &[u8]) -> Vec<u8> {
        let mut body = vec![3, 3];
        body.extend([7; 32]);
        body.push(0);
        body.extend([0, 2, 0x13, 0x01, 1, 0]);
        body.extend(
            u16::try_from(extensions.len())
                .expect("short")
                .to_be_bytes(),
        );
        body.extend(extensions);
        let length = u16::try_from(body.len()).expect("short");
        let mut record = vec![22, 3, 1];
        record.extend((length + 4).to_be_bytes());
        record.extend([1, 0]);
        record.extend(length.to_be_bytes());
        record.extend(body);
        record
    }

    fn name_extension(name: &str) -> Vec<u8> {
        let length = u16::try_from(name.len()).expect("short");
        let mut extension = vec![0, 0];
        extension.extend((length + 5).to_be_bytes());
        extension.extend((length + 3).to_be_bytes());
        extension.push(0);
        extension.extend(length.to_be_bytes());
        extension.extend(name.bytes());
        // signature_algorithms, without which a hello is refused.
        extension.extend([0, 13, 0, 4, 0, 2, 4, 3]);
        extension
    }

    #[test]
    fn a_whole_hello_tells_its_name() {
        let whole = hello(&name_extension("db.example.com"));
        assert_eq!(server_name(&whole).as_deref(), Some("db.example.com"));
        for end in 0..whole.len() {
            assert_eq!(server_name(&whole[..end]), None, "{end}");
        }
    }

    #[test]
    fn whoever_is_asked_for_is_told_or_that_nobody_can_tell() {
        let named = |name: &str| hello(&name_extension(name));
        let whole = named("db.example.com");
        for end in 0..whole.len() {
            assert_eq!(asked(&whole[..end], false), Asked::More, "{end}");
            let cut = if end < 2 {
                Asked::ForNobody
            } else {
                Asked::Unclear
            };
            assert_eq!(asked(&whole[..end], true), cut, "{end}");
        }
        let mut long = vec![22, 3, 1, 0x3f, 0xff, 1, 0, 0xff, 0xff];
        long.resize(LIMIT, 0);
        for (bytes, expected) in [
            (named("DB.Example.com"), Asked::For("db.example.com".into())),
            (named("a_b.test"), Asked::For("a_b.test".into())),
            (named("a.test."), Asked::For("a.test.".into())),
            (hello(&[0, 13, 0, 4, 0, 2, 4, 3]), Asked::ForNobody),
            (b"GET / HTTP/1.1\r\n\r\n".to_vec(), Asked::ForNobody),
            (vec![22, 4], Asked::ForNobody),
            // What others may take for a name, or for a hello.
            (named("a b"), Asked::Unclear),
            (
                vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff, 0xff],
                Asked::Unclear,
            ),
            (vec![22, 3, 1, 0, 4, 2, 0, 0, 0], Asked::Unclear),
            (vec![21, 3, 1, 0, 2, 1, 0], Asked::Unclear),
            (long, Asked::Unclear),
        ] {
            let found = asked(&bytes, false);
            assert_eq!(found, expected, "{:?}", String::from_utf8_lossy(&bytes));
        }
    }

    #[test]
    fn what_has_no_name_has_none() {
        for bytes in [
            hello(&[0, 13, 0, 4, 0, 2, 4, 3]),
            b"GET / HTTP/1.1\r\n\r\n".to_vec(),
            vec![22, 3, 1, 0xff, 0xff, 1, 2, 3],
            vec![22, 3, 1, 0, 4, 1, 0xff, 0xff, 0xff],
        ] {
            assert_eq!(server_name(&bytes), None, "{bytes:?}");
        }
    }
}
