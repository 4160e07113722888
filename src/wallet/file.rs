//! The wallet file: keys and multisig policies, readable by its owner only.

use crate::primitives::{Address, LockHash, Multisig, SecretKey};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::{self, Write},
    path::{Path, PathBuf},
};
use thiserror::Error;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

/// Keys and policies of one owner on one network.
#[derive(Debug)]
pub struct Wallet {
    path: PathBuf,
    network: String,
    keys: Vec<Key>,
    policies: Vec<Policy>,
}

/// A key with the owner's name for it.
#[derive(Debug)]
pub struct Key {
    /// The owner's name for it.
    pub label: String,
    /// The key.
    pub secret: SecretKey,
    /// What it opens.
    pub lock: LockHash,
}

/// A multisig policy with the owner's name for it.
#[derive(Clone, Debug)]
pub struct Policy {
    /// The owner's name for it.
    pub label: String,
    /// The policy.
    pub policy: Multisig,
}

/// Why a wallet file cannot be used.
#[derive(Debug, Error)]
pub enum WalletError {
    /// The file system says no.
    #[error("wallet {path}: {error}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the system says.
        error: io::Error,
    },
    /// There is one already; keys are never overwritten.
    #[error("wallet {0} exists already: choose another path, or add a key to it with `wallet new-key`")]
    Exists(PathBuf),
    /// It is not a wallet file.
    #[error("wallet {path} cannot be read: {reason}")]
    Form {
        /// Which file.
        path: PathBuf,
        /// What is wrong, and where.
        reason: String,
    },
    /// Others may read the keys.
    #[error("wallet {path} can be read by others (mode {mode:o}): make it private with `chmod 600 {path}`")]
    Exposed {
        /// Which file.
        path: PathBuf,
        /// Its permissions.
        mode: u32,
    },
}

const VERSION: u32 = 1;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct FileForm {
    version: u32,
    network: String,
    keys: Vec<KeyForm>,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    policies: Vec<PolicyForm>,
}

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct KeyForm {
    label: String,
    seed: SeedText,
}

/// A seed in hex; wiped from memory when dropped.
#[derive(Serialize, Deserialize, Zeroize, ZeroizeOnDrop)]
#[serde(transparent)]
struct SeedText(String);

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct PolicyForm {
    label: String,
    policy: String,
}

impl Key {
    /// A key under a name.
    pub fn new(label: &str, secret: SecretKey) -> Self {
        Self {
            label: label.to_owned(),
            lock: secret.public().lock(),
            secret,
        }
    }

    /// A new random key.
    pub fn random(label: &str) -> Self {
        let mut seed = Zeroizing::new([0; 32]);
        rand::fill(seed.as_mut_slice());
        Self::new(label, SecretKey::from_seed(*seed))
    }
}

impl Wallet {
    /// Writes a new wallet file with these keys. An existing file is left alone.
    pub fn create(path: &Path, network: &str, keys: Vec<Key>) -> Result<Self, WalletError> {
        let wallet = Self {
            path: path.to_owned(),
            network: network.to_owned(),
            keys,
            policies: Vec::new(),
        };
        if path.exists() {
            return Err(WalletError::Exists(path.to_owned()));
        }
        if let Some(parent) = path.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            fs::create_dir_all(parent).map_err(|error| wallet.io(error))?;
        }
        wallet.save()?;
        Ok(wallet)
    }

    /// Opens a wallet file. One that others may read is refused.
    pub fn open(path: &Path) -> Result<Self, WalletError> {
        let io = |error| WalletError::Io {
            path: path.to_owned(),
            error,
        };
        let mode = mode_of(&fs::metadata(path).map_err(io)?);
        if mode & 0o077 != 0 {
            return Err(WalletError::Exposed {
                path: path.to_owned(),
                mode,
            });
        }
        let text = Zeroizing::new(fs::read_to_string(path).map_err(io)?);
        Self::parse(path, &text).map_err(|reason| WalletError::Form {
            path: path.to_owned(),
            reason,
        })
    }

    fn parse(path: &Path, text: &str) -> Result<Self, String> {
        let form: FileForm = serde_json::from_str(text).map_err(|error| error.to_string())?;
        if form.version != VERSION {
            return Err(format!(
                "version {}, this program knows version {VERSION}",
                form.version
            ));
        }
        let key = |form: &KeyForm| {
            let mut seed = Zeroizing::new([0; 32]);
            hex::decode_to_slice(form.seed.0.as_bytes(), seed.as_mut_slice())
                .map_err(|error| format!("the seed of key '{}' is not 64 hex digits: {error}", form.label))?;
            Ok(Key::new(&form.label, SecretKey::from_seed(*seed)))
        };
        let policy = |form: &PolicyForm| {
            let bytes = hex::decode(&form.policy).map_err(|error| format!("policy '{}': {error}", form.label))?;
            Ok(Policy {
                label: form.label.clone(),
                policy: Multisig::decode(&bytes).map_err(|error| format!("policy '{}': {error}", form.label))?,
            })
        };
        let keys: Vec<Key> = form.keys.iter().map(key).collect::<Result<_, String>>()?;
        if keys.is_empty() {
            return Err("it has no keys".to_owned());
        }
        Ok(Self {
            path: path.to_owned(),
            network: form.network,
            keys,
            policies: form.policies.iter().map(policy).collect::<Result<_, String>>()?,
        })
    }

    /// Writes the file anew: a private temporary file, synced, then renamed over the old one.
    fn save(&self) -> Result<(), WalletError> {
        let form = FileForm {
            version: VERSION,
            network: self.network.clone(),
            keys: self
                .keys
                .iter()
                .map(|key| KeyForm {
                    label: key.label.clone(),
                    seed: SeedText(hex::encode(key.secret.seed())),
                })
                .collect(),
            policies: self
                .policies
                .iter()
                .map(|policy| PolicyForm {
                    label: policy.label.clone(),
                    policy: hex::encode(policy.policy.encode()),
                })
                .collect(),
        };
        let text = serde_json::to_string_pretty(&form).map_err(|error| WalletError::Form {
            path: self.path.clone(),
            reason: error.to_string(),
        })?;
        write_private(&self.path, Zeroizing::new(text).as_bytes()).map_err(|error| self.io(error))
    }

    fn io(&self, error: io::Error) -> WalletError {
        WalletError::Io {
            path: self.path.clone(),
            error,
        }
    }

    /// Adds a key, and writes it to disk before its address is shown to anybody.
    pub fn add_key(&mut self, key: Key) -> Result<Address, WalletError> {
        let address = Address::new(&self.network, key.lock);
        self.keys.push(key);
        self.save()?;
        Ok(address)
    }

    /// Adds a multisig policy; coins paid to its address can be spent if enough of its keys are in this wallet.
    pub fn add_policy(&mut self, label: &str, policy: Multisig) -> Result<Address, WalletError> {
        let address = Address::new(&self.network, policy.lock());
        self.policies.push(Policy {
            label: label.to_owned(),
            policy,
        });
        self.save()?;
        Ok(address)
    }

    /// Where the file is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Address prefix of its network.
    pub fn network(&self) -> &str {
        &self.network
    }

    /// Keys in the order they were added; at least one.
    pub fn keys(&self) -> &[Key] {
        &self.keys
    }

    /// Policies in the order they were added.
    pub fn policies(&self) -> &[Policy] {
        &self.policies
    }

    /// The policy behind a lock.
    pub fn policy_of(&self, lock: &LockHash) -> Option<&Multisig> {
        self.policies
            .iter()
            .map(|policy| &policy.policy)
            .find(|policy| policy.lock() == *lock)
    }

    /// Whether a lock is one of its own, of a key or of a policy.
    pub fn owns(&self, lock: &LockHash) -> bool {
        self.keys.iter().any(|key| key.lock == *lock) || self.policy_of(lock).is_some()
    }
}

#[cfg(unix)]
fn mode_of(metadata: &fs::Metadata) -> u32 {
    use std::os::unix::fs::PermissionsExt;
    metadata.permissions().mode() & 0o777
}

#[cfg(not(unix))]
fn mode_of(_: &fs::Metadata) -> u32 {
    0
}

/// Replaces a file in one step by one that only its owner can read.
fn write_private(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}.new", std::process::id()));
    let temporary = path.with_file_name(name);
    let mut options = fs::OpenOptions::new();
    options.write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = options.open(&temporary)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&temporary, path)?;
    let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
    // So that the new name survives a power failure too.
    fs::File::open(parent.unwrap_or(Path::new(".")))?.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_written_is_read_back() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("sub/wallet.json");
        let mut wallet = Wallet::create(&path, "ltime", vec![Key::random("main")]).expect("creates");
        let second = wallet.add_key(Key::random("second")).expect("adds");
        let policy = Multisig::new(2, wallet.keys().iter().map(|key| key.lock).collect()).expect("a valid policy");
        let shared = wallet.add_policy("shared", policy.clone()).expect("adds");
        let opened = Wallet::open(&path).expect("opens");
        assert_eq!(opened.network(), "ltime");
        assert_eq!(opened.keys()[1].lock, second.lock);
        assert_eq!(opened.keys()[0].secret.seed(), wallet.keys()[0].secret.seed());
        assert_eq!(opened.policy_of(&shared.lock), Some(&policy));
        assert!(opened.owns(&second.lock) && opened.owns(&shared.lock) && !opened.owns(&LockHash([1; 32])));
        let left: Vec<_> = fs::read_dir(dir.path().join("sub")).expect("a directory").collect();
        assert_eq!(left.len(), 1, "no temporary file stays behind");
    }

    #[test]
    fn an_existing_wallet_is_never_overwritten() {
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wallet.json");
        Wallet::create(&path, "ltime", vec![Key::random("main")]).expect("creates");
        let before = fs::read(&path).expect("reads");
        let again = Wallet::create(&path, "ltime", vec![Key::random("main")]);
        assert!(matches!(again, Err(WalletError::Exists(_))));
        assert_eq!(fs::read(&path).expect("reads"), before);
    }

    #[cfg(unix)]
    #[test]
    fn a_wallet_that_others_can_read_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().expect("a directory");
        let path = dir.path().join("wallet.json");
        Wallet::create(&path, "ltime", vec![Key::random("main")]).expect("creates");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644)).expect("sets");
        assert!(matches!(
            Wallet::open(&path),
            Err(WalletError::Exposed { mode: 0o644, .. })
        ));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let path = Path::new("w");
        let rows = [
            ("{", "EOF"),
            (r#"{"version":9,"network":"ltime","keys":[]}"#, "version 9"),
            (r#"{"version":1,"network":"ltime","keys":[]}"#, "no keys"),
            (
                r#"{"version":1,"network":"ltime","keys":[{"label":"a","seed":"zz"}]}"#,
                "key 'a'",
            ),
            (
                r#"{"version":1,"network":"ltime","keys":[],"more":1}"#,
                "unknown field `more`",
            ),
        ];
        for (text, expected) in rows {
            let reason = Wallet::parse(path, text).expect_err("wrong");
            assert!(reason.contains(expected), "{reason}");
        }
    }
}
