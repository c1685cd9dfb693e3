//! Headers of every kind against the specification, and arbitrary bytes against the `ppp` crate.

use super::*;
use ppp::{HeaderResult, v1, v2};
use proptest::prelude::*;
use tokio::io::AsyncWriteExt;
use tokio::net::TcpListener;

fn v2_header(version_command: u8, family_protocol: u8, length: usize, block: &[u8]) -> Vec<u8> {
    let mut header = SIGNATURE.to_vec();
    header.extend([version_command, family_protocol]);
    header.extend((length as u16).to_be_bytes());
    header.extend(block);
    header
}

fn whole(version_command: u8, family_protocol: u8, block: &[u8]) -> Vec<u8> {
    v2_header(version_command, family_protocol, block.len(), block)
}

const IPV4: [u8; 12] = [203, 0, 113, 7, 192, 0, 2, 1, 0xde, 0xad, 0, 80];

fn ipv6(source: &str) -> Vec<u8> {
    let source: Ipv6Addr = source.parse().unwrap();
    [&source.octets()[..], &Ipv6Addr::LOCALHOST.octets(), &[0xde, 0xad, 1, 0xbb]].concat()
}

/// The source of a header with a request behind it; checks that the header ends where that begins.
fn source(header: &[u8]) -> Result<Option<String>, ProxyHeaderError> {
    let request = b"GET / HTTP/1.1\r\n\r\n";
    let parsed = parse(&[header, request].concat())?.expect("it is whole");
    assert_eq!(parsed.length, header.len());
    Ok(parsed.source.map(|ip| ip.to_string()))
}

#[test]
fn headers_of_both_versions_name_the_client() {
    let all_ones = "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff";
    let longest = format!("PROXY TCP6 {all_ones} {all_ones} 65535 65535\r\n");
    let longest_unknown = format!("PROXY UNKNOWN {all_ones} {all_ones} 65535 65535\r\n");
    assert_eq!(longest_unknown.len(), V1_BYTES_MAX);
    for (line, wanted) in [
        ("PROXY TCP4 203.0.113.7 192.0.2.1 56324 80\r\n", Some("203.0.113.7")),
        ("PROXY TCP4 255.255.255.255 255.255.255.255 65535 0\r\n", Some("255.255.255.255")),
        ("PROXY TCP6 2001:db8::7 ::1 56324 80\r\n", Some("2001:db8::7")),
        ("PROXY TCP6 2001:DB8:0:0:0:0:0:7 ::1 56324 80\r\n", Some("2001:db8::7")),
        // An IPv4-mapped address is IPv4, or no configured network would contain it.
        ("PROXY TCP6 ::ffff:203.0.113.7 ::1 56324 80\r\n", Some("203.0.113.7")),
        (&longest, Some(all_ones)),
        ("PROXY UNKNOWN\r\n", None),
        ("PROXY UNKNOWN 203.0.113.7 192.0.2.1 1 2 and \u{fffd} more\r\n", None),
        (&longest_unknown, None),
    ] {
        assert_eq!(source(line.as_bytes()), Ok(wanted.map(str::to_string)), "{line:?}");
    }
    let tlvs = [&IPV4[..], &[0x04, 0, 2, 0, 0, 0x20, 0, 1, 0xff, 0x99]].concat();
    let mapped = ipv6("::ffff:203.0.113.7");
    for (header, wanted) in [
        (whole(0x21, 0x11, &IPV4), Some("203.0.113.7")),
        (whole(0x21, 0x12, &IPV4), Some("203.0.113.7")),
        (whole(0x21, 0x21, &ipv6("2001:db8::7")), Some("2001:db8::7")),
        (whole(0x21, 0x21, &mapped), Some("203.0.113.7")),
        // TLVs, and bytes that are not a valid TLV, are skipped.
        (whole(0x21, 0x11, &tlvs), Some("203.0.113.7")),
        (whole(0x21, 0x11, &[&IPV4[..], &[7; V2_BYTES_MAX - 16 - 12]].concat()), Some("203.0.113.7")),
        // LOCAL: the proxy's own connection; its addresses and its "family which is ignored"
        // (§2.2).
        (whole(0x20, 0x00, &[]), None),
        (whole(0x20, 0x11, &IPV4), None),
        (whole(0x20, 0x11, &[]), None),
        (whole(0x20, 0xff, &[1, 2, 3]), None),
        // Unspecified family or protocol, and UNIX sockets.
        (whole(0x21, 0x00, &[]), None),
        (whole(0x21, 0x10, &IPV4), None),
        (whole(0x21, 0x01, &[1, 2, 3]), None),
        (whole(0x21, 0x31, &[b'/'; 216]), None),
    ] {
        assert_eq!(source(&header), Ok(wanted.map(str::to_string)), "{header:02x?}");
    }
}

#[test]
fn what_is_no_header_is_refused_by_its_cause() {
    use ProxyHeaderError::{Absent, Malformed, TooLong};
    let endless = format!("PROXY UNKNOWN {}", "x".repeat(200));
    let one_too_long = format!("PROXY UNKNOWN {}\r\n", "x".repeat(92));
    assert_eq!(one_too_long.len(), V1_BYTES_MAX + 1);
    for (bytes, refusal) in [
        ("GET / HTTP/1.1\r\n\r\n", Absent),
        ("PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", Absent),
        ("\u{16}\u{3}\u{1}", Absent),
        ("proxy TCP4 203.0.113.7 192.0.2.1 1 2\r\n", Absent),
        ("\r\nPROXY UNKNOWN\r\n", Absent),
        (" PROXY UNKNOWN\r\n", Absent),
        ("PROXY\r\n", Absent),
        ("PROXYTCP4 203.0.113.7 192.0.2.1 1 2\r\n", Absent),
        ("PROXY \r\n", Malformed),
        ("PROXY TCP4\r\n", Malformed),
        ("PROXY TCP5 203.0.113.7 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY tcp4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY UNKNOWNX\r\n", Malformed),
        ("PROXY  TCP4 203.0.113.7 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY TCP4  203.0.113.7 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2 \r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2 3\r\n", Malformed),
        ("PROXY TCP4 203.0.113.07 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY TCP4 2001:db8::7 ::1 1 2\r\n", Malformed),
        ("PROXY TCP6 203.0.113.7 192.0.2.1 1 2\r\n", Malformed),
        ("PROXY TCP6 fe80::1%eth0 ::1 1 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 65536 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 01 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 +1 2\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 \r\n", Malformed),
        // A CR or an LF alone does not end the line.
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1 2\n\r\n", Malformed),
        ("PROXY TCP4 203.0.113.7 192.0.2.1 1\r2\r\n", Malformed),
        (&endless, TooLong),
        (&one_too_long, TooLong),
    ] {
        assert_eq!(parse(bytes.as_bytes()), Err(refusal), "{bytes:?}");
    }
    for (header, refusal) in [
        (whole(0x11, 0x11, &IPV4), Malformed),
        (whole(0x31, 0x11, &IPV4), Malformed),
        (whole(0x22, 0x11, &IPV4), Malformed),
        (whole(0x21, 0x13, &IPV4), Malformed),
        (whole(0x21, 0x41, &[0; 300]), Malformed),
        (whole(0x21, 0x11, &IPV4[..11]), Malformed),
        (whole(0x21, 0x21, &IPV4), Malformed),
        (whole(0x21, 0x31, &[0; 215]), Malformed),
        (v2_header(0x21, 0x11, V2_BYTES_MAX - 15, &[]), TooLong),
        (v2_header(0x20, 0x00, 65535, &[]), TooLong),
    ] {
        assert_eq!(parse(&header), Err(refusal), "{header:02x?}");
    }
}

fn some_header() -> impl Strategy<Value = Vec<u8>> {
    let line = "PROXY (TCP4 [12]\\.0\\.0\\.[0-9]{1,3} 127\\.0\\.0\\.1|TCP6 ::[a-f]{1,4} ::1|UNKNOWN) [1-9][0-9]{0,4} 80\r\n";
    let block = (any::<[u8; 12]>(), proptest::collection::vec(any::<u8>(), 0..40));
    let binary =
        (prop_oneof![Just(0x20u8), Just(0x21)], prop_oneof![Just(0x11u8), Just(0x21), any::<u8>()], block)
            .prop_map(|(command, family, (address, more))| {
                whole(command, family, &[&address[..], &more].concat())
            });
    prop_oneof![line.prop_map(String::into_bytes), binary]
}

fn damaged_header() -> impl Strategy<Value = Vec<u8>> {
    let seeds = [
        b"PROXY TCP4 203.0.113.7 192.0.2.1 56324 80\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY TCP6 2001:db8::7 ::1 56324 80\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        b"PROXY UNKNOWN\r\nGET / HTTP/1.1\r\n\r\n".to_vec(),
        whole(0x21, 0x11, &[&IPV4[..], &[4, 0, 2, 0, 0]].concat()),
        whole(0x21, 0x21, &ipv6("2001:db8::7")),
        whole(0x20, 0x00, &[]),
        whole(0x21, 0x31, &[b'/'; 216]),
    ];
    let words = [
        &b"PROXY "[..],
        b"TCP4",
        b"TCP6",
        b"UNKNOWN",
        b" ",
        b"\r\n",
        b"\r",
        b"\n",
        b"65535",
        b"65536",
        b"0",
        b"+1",
        b"255.255.255.255",
        b"::ffff:1.2.3.4",
        b"::",
        SIGNATURE,
        &[0x20],
        &[0x21],
        &[0x11],
        &[0x12],
        &[0x31],
        &[0xff, 0xff],
        &[0x0f, 0xf0],
        &[0x0f, 0xf1],
    ];
    crate::mutate::damaged(seeds, words)
}

proptest! {
    #![proptest_config(crate::mutate::cases(512))]

    #[test]
    fn a_damaged_header_is_read_alike_however_it_is_cut_and_never_beyond_its_end(bytes in damaged_header()) {
        let of_all = parse(&bytes);
        if let Ok(Some(header)) = of_all {
            prop_assert!(header.length <= bytes.len() && header.length <= V2_BYTES_MAX);
            // The bytes behind it have no influence.
            prop_assert_eq!(parse(&bytes[..header.length]), of_all);
            prop_assert_eq!(parse(&[&bytes[..header.length], b"\r\nx"].concat()), of_all);
            prop_assert_eq!(parse(&bytes[..header.length - 1]), Ok(None));
            prop_assert!(header.source.is_none_or(|ip| ip == ip.to_canonical()));
        }
        for length in 0..bytes.len() {
            let of_part = parse(&bytes[..length]);
            prop_assert!(of_part == Ok(None) || of_part == of_all, "{length}: {of_part:?}, {of_all:?}");
        }
        if let HeaderResult::V1(Ok(theirs)) = HeaderResult::parse(&bytes) {
            // It is laxer in one thing: a port may have a plus.
            if !theirs.header.contains('+') {
                prop_assert!(matches!(of_all, Ok(Some(h)) if h.length == theirs.header.len()), "{of_all:?}");
            }
        }
    }

    #[test]
    fn a_header_cut_anywhere_is_half_a_header_until_it_is_whole(header in some_header(), behind: Vec<u8>) {
        let bytes = [&header[..], &behind].concat();
        let of_all = parse(&bytes);
        if let Ok(Some(parsed)) = of_all {
            prop_assert_eq!(parsed.length, header.len(), "a byte more or less than the header was taken");
        }
        // Once decided, further bytes change nothing.
        let mut decided = false;
        for length in 0..bytes.len() {
            let of_part = parse(&bytes[..length]);
            prop_assert!(of_part == Ok(None) && !decided || of_part == of_all, "{length}: {of_part:?}, {of_all:?}");
            decided |= of_part != Ok(None);
            if length < header.len() {
                prop_assert!(!matches!(of_part, Ok(Some(_))));
            }
        }
    }

    #[test]
    fn what_another_parser_takes_it_takes_alike(header in some_header()) {
        let ours = parse(&header);
        match HeaderResult::parse(&header) {
            HeaderResult::V1(Ok(theirs)) => {
                let source = match theirs.addresses {
                    v1::Addresses::Tcp4(a) => Some(IpAddr::from(a.source_address)),
                    v1::Addresses::Tcp6(a) => Some(IpAddr::from(a.source_address).to_canonical()),
                    v1::Addresses::Unknown => None,
                };
                prop_assert_eq!(ours, Ok(Some(ProxyHeader { length: theirs.header.len(), source })));
            }
            HeaderResult::V2(Ok(theirs)) => {
                let source = match (theirs.command, theirs.protocol, theirs.addresses) {
                    (v2::Command::Local, ..) | (_, v2::Protocol::Unspecified, _) => None,
                    (_, _, v2::Addresses::IPv4(a)) => Some(IpAddr::from(a.source_address)),
                    (_, _, v2::Addresses::IPv6(a)) => Some(IpAddr::from(a.source_address).to_canonical()),
                    (_, _, v2::Addresses::Unix(_) | v2::Addresses::Unspecified) => None,
                };
                prop_assert_eq!(ours, Ok(Some(ProxyHeader { length: theirs.len(), source })));
            }
            HeaderResult::V1(Err(_)) | HeaderResult::V2(Err(_)) => {
                // `ppp` is stricter only for LOCAL, whose family §2.2 says to ignore.
                let is_local = header.get(12) == Some(&0x20);
                prop_assert!(is_local || ours.is_err(), "{:?}", ours);
            }
        }
    }
}

/// Sends each piece once the one before was peeked. Returns the result, and all that is left.
fn taken(pieces: &[&[u8]], timeouts: Duration) -> (Result<ProxyHeader, ProxyHeaderError>, Vec<u8>) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let pieces: Vec<Vec<u8>> = pieces.iter().map(|p| p.to_vec()).collect();
    runtime.block_on(async move {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut client = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        client.set_nodelay(true).unwrap();
        let (mut stream, _) = listener.accept().await.unwrap();
        let sender = tokio::spawn(async move {
            for piece in pieces {
                client.write_all(&piece).await.unwrap();
                tokio::time::sleep(Duration::from_millis(3)).await;
            }
            client.shutdown().await.unwrap();
            client
        });
        let header = take(&mut stream, timeouts).await;
        let mut rest = Vec::new();
        if header.is_ok() {
            stream.read_to_end(&mut rest).await.unwrap();
        }
        drop(sender.await);
        (header, rest)
    })
}

#[test]
fn a_stream_gives_up_its_header_and_not_a_byte_more() {
    let request = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let timeouts = Duration::from_secs(10);
    let big = whole(0x21, 0x11, &[&IPV4[..], &[0; 3000]].concat());
    for header in [b"PROXY TCP4 203.0.113.7 192.0.2.1 1 2\r\n".to_vec(), whole(0x21, 0x11, &IPV4), big] {
        let client = Some("203.0.113.7".parse().unwrap());
        let expected = (Ok(ProxyHeader { length: header.len(), source: client }), request.to_vec());
        assert_eq!(taken(&[&[&header[..], request].concat()], timeouts), expected);
        assert_eq!(taken(&[&header, request], timeouts), expected);
        // Byte by byte, as far as that is quick.
        let (first, last) = header.split_at(header.len().min(60));
        let mut pieces: Vec<&[u8]> = first.chunks(1).collect();
        let end = [last, request].concat();
        pieces.push(&end);
        assert_eq!(taken(&pieces, timeouts), expected);
    }
}

#[test]
fn a_stream_that_ends_or_stalls_in_its_header_has_none() {
    let timeouts = Duration::from_secs(10);
    for half in [&b""[..], b"P", b"PROXY TCP4 1.2.3.4", SIGNATURE, &whole(0x21, 0x11, &IPV4)[..20]] {
        assert_eq!(taken(&[half], timeouts).0, Err(ProxyHeaderError::Cut), "{half:?}");
    }
    // It lasts a fifth of a second at least, and is never complete.
    let mut slow = vec![b"PROXY UNKNOWN ".as_slice()];
    slow.extend([b"x".as_slice(); 80]);
    assert_eq!(taken(&slow, Duration::from_millis(20)).0, Err(ProxyHeaderError::Slow));
}
