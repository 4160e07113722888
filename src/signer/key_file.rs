//! Keys in files: a little TOML, readable by its owner only.
//!
//! ```toml
//! kind = "validator"
//! public_key = "64 hex digits"
//! seed = "64 hex digits"
//! ```
//!
//! The public key is written beside the seed so that a damaged file is noticed, and so that people can see whose file
//! it is without a tool.

use crate::primitives::{PublicKey, SecretKey};
use serde::{Deserialize, Serialize};
use std::{
    fmt, fs,
    io::{self, Write},
    os::unix::fs::{OpenOptionsExt, PermissionsExt},
    path::{Path, PathBuf},
    str::FromStr,
};
use thiserror::Error;
use zeroize::{Zeroize, Zeroizing};

/// A key file larger than this is none.
const MAX_BYTES: u64 = 16 * 1024;

/// What a key is for. A key is never used for two things, so each file says what it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum KeyKind {
    /// Signs votes and blocks.
    Validator,
    /// Names a node to its peers; signs handshakes only.
    Node,
    /// Owns coins.
    Wallet,
}

impl KeyKind {
    /// The word in the file.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Validator => "validator",
            Self::Node => "node",
            Self::Wallet => "wallet",
        }
    }
}

impl fmt::Display for KeyKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl FromStr for KeyKind {
    type Err = String;
    fn from_str(text: &str) -> Result<Self, String> {
        [Self::Validator, Self::Node, Self::Wallet]
            .into_iter()
            .find(|kind| kind.name() == text)
            .ok_or_else(|| format!("'{text}' is no kind of key: expected validator, node or wallet"))
    }
}

/// A key and what it is for.
#[derive(Clone, Debug)]
pub struct KeyFile {
    /// What it is for.
    pub kind: KeyKind,
    /// The key.
    pub secret: SecretKey,
}

/// Why a key file cannot be used. Nothing is ever overwritten or repaired.
#[derive(Debug, Error)]
pub enum KeyFileError {
    /// There is no such file.
    #[error("there is no key file at {path}: make one with `timecoin keys new --kind {kind} --out {path}`")]
    Missing {
        /// Where it should be.
        path: PathBuf,
        /// What it should be.
        kind: KeyKind,
    },
    /// There is a file already.
    #[error("{path} is there already and is not overwritten: a key that is lost cannot be made again")]
    Exists {
        /// Where.
        path: PathBuf,
    },
    /// Others on this machine may read it.
    #[error(
        "the key file {path} can be read by others (mode {mode:04o}, expected 0600 or 0400): whoever has read it can \
         sign with it. If that may have happened, make a new key; otherwise `chmod 600 {path}`"
    )]
    Readable {
        /// The file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Not what a key file looks like.
    #[error("{path} is not a key file: {what}. Restore it from a backup")]
    Form {
        /// The file.
        path: PathBuf,
        /// What is wrong, never showing the seed.
        what: String,
    },
    /// The public key is not the seed's.
    #[error(
        "the key file {path} is damaged: its seed belongs to the public key {found}, but it says {stated}. Restore it \
         from a backup"
    )]
    Mismatch {
        /// The file.
        path: PathBuf,
        /// Of the seed.
        found: PublicKey,
        /// As written.
        stated: PublicKey,
    },
    /// A key for something else.
    #[error("the key file {path} holds a {found} key, expected a {expected} key: keys are not shared between purposes")]
    Kind {
        /// The file.
        path: PathBuf,
        /// As written.
        found: KeyKind,
        /// As needed.
        expected: KeyKind,
    },
    /// The operating system refuses.
    #[error("{doing} the key file {path} failed: {source}")]
    Io {
        /// The file.
        path: PathBuf,
        /// What was being done.
        doing: &'static str,
        /// What the operating system says.
        source: io::Error,
    },
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Form {
    kind: KeyKind,
    public_key: PublicKey,
    seed: String,
}

impl Drop for Form {
    fn drop(&mut self) {
        self.seed.zeroize();
    }
}

impl KeyFile {
    /// A new random key from the operating system's generator.
    pub fn generate(kind: KeyKind) -> Self {
        let mut seed: [u8; 32] = rand::random();
        let secret = SecretKey::from_seed(seed);
        seed.zeroize();
        Self { kind, secret }
    }

    /// The public half.
    pub fn public_key(&self) -> PublicKey {
        self.secret.public()
    }

    /// Reads a file of the expected kind. Refuses one that others may read.
    pub fn load(path: &Path, expected: KeyKind) -> Result<Self, KeyFileError> {
        let key = Self::load_any(path).map_err(|error| match error {
            KeyFileError::Missing { path, .. } => KeyFileError::Missing { path, kind: expected },
            other => other,
        })?;
        if key.kind != expected {
            return Err(KeyFileError::Kind {
                path: path.to_owned(),
                found: key.kind,
                expected,
            });
        }
        Ok(key)
    }

    /// Reads a file of any kind.
    pub fn load_any(path: &Path) -> Result<Self, KeyFileError> {
        let form = |what: String| KeyFileError::Form {
            path: path.to_owned(),
            what,
        };
        let text = read_private(path)?;
        // The parser's own words may quote the file, so only the field's name is repeated.
        let parsed: Form = toml::from_str(&text).map_err(|error| form(without_quotes(&error)))?;
        let mut seed = Zeroizing::new([0; 32]);
        hex::decode_to_slice(&parsed.seed, seed.as_mut()).map_err(|_| {
            form(format!(
                "the seed has {} characters, expected 64 hex digits",
                parsed.seed.len()
            ))
        })?;
        let secret = SecretKey::from_seed(*seed);
        if secret.public() != parsed.public_key {
            return Err(KeyFileError::Mismatch {
                path: path.to_owned(),
                found: secret.public(),
                stated: parsed.public_key,
            });
        }
        Ok(Self {
            kind: parsed.kind,
            secret,
        })
    }

    /// Writes a new file with mode 0600; it is on the disk when this returns. Never overwrites.
    pub fn save(&self, path: &Path) -> Result<(), KeyFileError> {
        let io = |doing: &'static str| {
            move |source| KeyFileError::Io {
                path: path.to_owned(),
                doing,
                source,
            }
        };
        let text = Zeroizing::new(self.text());
        let created = fs::OpenOptions::new()
            .write(true)
            .create_new(true)
            .mode(0o600)
            .open(path);
        let mut file = created.map_err(|source| match source.kind() {
            io::ErrorKind::AlreadyExists => KeyFileError::Exists { path: path.to_owned() },
            _ => io("making")(source),
        })?;
        file.write_all(text.as_bytes()).map_err(io("writing"))?;
        file.sync_all().map_err(io("syncing"))?;
        let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
        let directory = fs::File::open(parent.unwrap_or(Path::new(".")));
        directory
            .and_then(|directory| directory.sync_all())
            .map_err(io("syncing the directory of"))
    }

    fn text(&self) -> String {
        let public_key = self.public_key();
        let seed = Zeroizing::new(hex::encode(self.secret.seed()));
        format!(
            "# A TimeCoin {kind} key. Whoever reads the seed can sign as you. Keep a copy where nobody else looks.\n\
             kind = \"{kind}\"\npublic_key = \"{public_key}\"\nseed = \"{seed}\"\n",
            kind = self.kind,
            seed = *seed,
        )
    }
}

fn read_private(path: &Path) -> Result<Zeroizing<String>, KeyFileError> {
    let io = |source: io::Error| match source.kind() {
        io::ErrorKind::NotFound => KeyFileError::Missing {
            path: path.to_owned(),
            kind: KeyKind::Validator,
        },
        _ => KeyFileError::Io {
            path: path.to_owned(),
            doing: "reading",
            source,
        },
    };
    let metadata = fs::metadata(path).map_err(io)?;
    let mode = metadata.permissions().mode() & 0o7777;
    if mode & 0o077 != 0 {
        return Err(KeyFileError::Readable {
            path: path.to_owned(),
            mode,
        });
    }
    if !metadata.is_file() || metadata.len() > MAX_BYTES {
        return Err(KeyFileError::Form {
            path: path.to_owned(),
            what: format!("a key file has at most {MAX_BYTES} bytes, this has {}", metadata.len()),
        });
    }
    fs::read_to_string(path).map(Zeroizing::new).map_err(io)
}

fn without_quotes(error: &toml::de::Error) -> String {
    let message = error.message();
    let safe = [
        "missing field",
        "unknown field",
        "unknown variant",
        "expected 64 hex digits",
    ];
    match safe.iter().any(|start| message.starts_with(start)) {
        true => message.to_owned(),
        false => "it cannot be read as TOML with kind, public_key and seed".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn saved(kind: KeyKind) -> (tempfile::TempDir, PathBuf, KeyFile) {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("a.key");
        let key = KeyFile::generate(kind);
        key.save(&path).expect("saves");
        (dir, path, key)
    }

    #[test]
    fn a_saved_key_comes_back_and_is_private() {
        let (_dir, path, key) = saved(KeyKind::Validator);
        let mode = fs::metadata(&path).expect("there").permissions().mode() & 0o777;
        assert_eq!(mode, 0o600);
        let loaded = KeyFile::load(&path, KeyKind::Validator).expect("loads");
        assert_eq!(loaded.secret.seed(), key.secret.seed());
        assert_ne!(
            KeyFile::generate(KeyKind::Node).public_key(),
            KeyFile::generate(KeyKind::Node).public_key()
        );
    }

    #[test]
    fn nothing_is_overwritten() {
        let (_dir, path, key) = saved(KeyKind::Node);
        let error = KeyFile::generate(KeyKind::Node).save(&path).expect_err("there is one");
        assert!(matches!(error, KeyFileError::Exists { .. }), "{error}");
        let kept = KeyFile::load(&path, KeyKind::Node).expect("loads");
        assert_eq!(kept.public_key(), key.public_key());
    }

    #[test]
    fn what_is_wrong_is_said_and_the_seed_is_not() {
        type Change = fn(&str) -> String;
        let rows: [(&str, Change); 7] = [
            ("its seed belongs to", str::to_owned),
            ("missing field `seed`", |text| {
                text.lines()
                    .filter(|line| !line.starts_with("seed"))
                    .collect::<Vec<_>>()
                    .join("\n")
            }),
            ("unknown field `sead`", |text| text.replace("seed =", "sead =")),
            ("unknown variant `purse`", |text| {
                text.replace("kind = \"wallet\"", "kind = \"purse\"")
            }),
            ("it cannot be read as TOML", |text| text.replace("seed = \"", "seed = ")),
            ("expected 64 hex digits", |text| {
                text.replace("public_key = \"", "public_key = \"zz")
            }),
            ("64 hex digits", |text| text.replace("seed = \"", "seed = \"0")),
        ];
        for (expected, change) in rows {
            let (_dir, path, key) = saved(KeyKind::Wallet);
            let mut text = change(&fs::read_to_string(&path).expect("readable"));
            if expected == "its seed belongs to" {
                let other = KeyFile::generate(KeyKind::Wallet);
                text = key
                    .text()
                    .replace(&key.public_key().to_string(), &other.public_key().to_string());
            }
            fs::write(&path, text).expect("writes");
            let error = KeyFile::load(&path, KeyKind::Wallet).expect_err(expected).to_string();
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(!error.contains(&hex::encode(key.secret.seed())[2..]), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        for mode in [0o640, 0o604, 0o644] {
            let (_dir, path, _) = saved(KeyKind::Validator);
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).expect("changes");
            let error = KeyFile::load(&path, KeyKind::Validator).expect_err("readable by others");
            assert!(
                matches!(error, KeyFileError::Readable { mode: m, .. } if m == mode),
                "{error}"
            );
        }
    }

    #[test]
    fn keys_are_not_shared_between_purposes() {
        let (_dir, path, _) = saved(KeyKind::Wallet);
        let error = KeyFile::load(&path, KeyKind::Validator).expect_err("a wallet's");
        assert!(
            error
                .to_string()
                .contains("holds a wallet key, expected a validator key"),
            "{error}"
        );
    }

    #[test]
    fn a_missing_file_says_how_to_make_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let error = KeyFile::load(&dir.path().join("none"), KeyKind::Node).expect_err("not there");
        assert!(error.to_string().contains("keys new --kind node"), "{error}");
    }
}
