//! Keeps docs/wire.md true: its table of limits is that of the code, and its worked bytes are what the code makes.
//! Whether a stranger gets along with it is for `tests/python/run`.

use sha2::{Digest, Sha256};
use std::fs;
use timecoin::{
    network::envelope::Envelope,
    primitives::{
        Address, Amount, ChainId, Gossip, Hash, Height, LockHash, OutPoint, Output, Request, SecretKey, Transaction,
        TransactionBody, TxId,
        kinds::{Channel, Kind, Topic},
    },
};

fn page() -> String {
    fs::read_to_string("docs/wire.md").expect("docs/wire.md is there")
}

/// `1,032,000` back to a number; nothing for an empty cell.
fn number(cell: &str) -> Option<usize> {
    let digits: String = cell.chars().filter(char::is_ascii_digit).collect();
    digits.parse().ok()
}

/// A name, then field, bytes, messages a second, and at once.
type Row = (String, [Option<usize>; 4]);

/// What the table says.
fn rows() -> Vec<Row> {
    let row = |line: &str| {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        match cells[..] {
            ["", name, field, bytes, rate, burst, ""] if name.contains('/') => Some((
                name.to_owned(),
                [number(field), number(bytes), number(rate), number(burst)],
            )),
            _ => None,
        }
    };
    page().lines().filter_map(row).collect()
}

#[test]
fn the_limits_on_the_page_are_those_of_the_code() {
    // A field number tells the type, whatever is in it.
    let field = |kind: Kind| (1..=15).find(|field| Kind::of(kind.channel(), &[field << 3 | 2, 0], 2) == Ok(kind));
    let expected: Vec<_> = Kind::all()
        .map(|kind| {
            let rate = kind.rate();
            let numbers = [
                field(kind).map(usize::from),
                Some(kind.max_bytes()),
                rate.map(|rate| rate.per_second as usize),
                rate.map(|rate| rate.burst as usize),
            ];
            (kind.name().to_owned(), numbers)
        })
        .collect();
    assert_eq!(rows(), expected);
}

#[test]
fn every_topic_and_every_tag_is_on_the_page() {
    let page = page();
    for topic in Topic::ALL {
        assert!(
            page.contains(&format!("/timecoin/<chain>/{}/1", topic.name())),
            "{topic:?}"
        );
    }
    let hashed = fs::read_to_string("docs/protocol.md").expect("docs/protocol.md is there");
    let tags: Vec<&str> = hashed
        .lines()
        .filter_map(|line| line.strip_prefix("| `timecoin/")?.split('`').next())
        .collect();
    assert!(tags.len() > 10, "the table of protocol.md is found");
    for tag in tags {
        assert!(page.contains(&format!("| `timecoin/{tag}` |")), "{tag}");
    }
}

/// Bytes of the page's last section, as they are written there: all hex digits of it in a row.
fn worked() -> String {
    let page = page();
    let (_, section) = page.split_once("## 13. Worked bytes").expect("the section is there");
    // Words with other letters in them are explanations.
    let words = section.split_whitespace();
    let hex = words.filter(|word| word.len() % 2 == 0 && word.bytes().all(|byte| byte.is_ascii_hexdigit()));
    hex.collect()
}

#[test]
fn the_worked_bytes_are_what_the_code_makes() {
    let parse = |hex: &str| -> [u8; 32] { hex::decode(hex).expect("hex").try_into().expect("32 bytes") };
    let chain = ChainId(parse(
        "7ddc4c4937344358e5a372392c1f33cc32096bf8e259f24d84668b910cdd398e",
    ));
    let key = SecretKey::from_seed([1; 32]);
    let body = TransactionBody {
        inputs: vec![OutPoint {
            txid: TxId(parse(
                "2e9ad863de47eb9b44a7dc686096f7c234e6e352732ccd995dcec48491368af6",
            )),
            index: 0,
        }],
        outputs: vec![Output {
            value: Amount(4_999_999_000),
            lock: LockHash(parse(
                "121d4a56f23fdf0f14b833ee8c4f1de34166623b1263dea08544f16ef0e94f29",
            )),
        }],
        memo: Vec::new(),
    };
    let transaction = Transaction::sign(&chain, &body, &[&key], &[]).expect("valid");
    let (bytes, body) = (transaction.bytes(), body.encode());
    assert_eq!((body.len(), bytes.len()), (80, 184));
    let (page, worked) = (page(), worked());
    let witness = &bytes[2 + body.len()..];
    for (name, expected) in [
        ("key", key.public().0.to_vec()),
        ("lock", key.public().lock().0.to_vec()),
        ("body", body.clone()),
        ("txid", transaction.txid().0.to_vec()),
        ("witness", witness.to_vec()),
        ("what is before the body", bytes[..2].to_vec()),
    ] {
        assert!(worked.contains(&hex::encode(expected)), "{name}");
    }
    assert!(page.contains(&Address::new("ltime", key.public().lock()).to_string()));

    let gossip = Gossip::Transactions(vec![bytes.to_vec()]).encode();
    let envelope = Envelope::wrap(gossip.clone()).expect("small").encode(0);
    assert_eq!((gossip.len(), envelope.len()), (190, 196));
    assert!(worked.contains(&hex::encode(&gossip[..6])) && worked.contains(&hex::encode(&envelope[..6])));
    let topic = format!("/timecoin/{}/transactions/1", hex::encode(&chain.0[..8]));
    let name = Hash(Sha256::digest([topic.as_bytes(), &[0], &envelope].concat()).into());
    assert!(page.contains(&topic) && worked.contains(&hex::encode(name.0)));

    let request = Request::Blocks {
        from: Height(1),
        max_count: 100,
    };
    let request = request.encode();
    assert!(Kind::check(Channel::Request, &request).is_ok());
    let envelope = Envelope::wrap(request).expect("small").encode(0);
    assert!(worked.contains(&hex::encode([&[envelope.len() as u8][..], &envelope].concat())));
}
