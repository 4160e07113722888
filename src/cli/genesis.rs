//! `timecoin genesis`: makes, shows and checks the start of a chain.
//!
//! The file that nodes read is canonical Protobuf, since its hash names the chain. The form for people is TOML or JSON:
//!
//! ```toml
//! network = "ltime"
//! time_ms = 1700000000000
//!
//! [params]                 # every parameter that is left out has its default
//! block_interval_ms = 1000
//!
//! [[validators]]
//! public_key = "64 hex digits"
//! power = 1                # 1 when left out
//! payout = "an address"    # the key's own when left out
//!
//! [[coins]]
//! address = "an address"
//! amount = "1000.5"        # in TIME
//! ```

use super::say;
use crate::{
    node::{self, clock},
    primitives::{
        Address, Amount, Genesis, LockHash, Output, Params, PublicKey, Time, Validator, ValidatorSet, address::PREFIXES,
    },
};
use anyhow::{Context as _, bail, ensure};
use serde::{Deserialize, Serialize};
use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::ExitCode,
};

/// Make, show and check the start of a chain.
#[derive(clap::Args, Debug)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand, Debug)]
enum Command {
    /// Make a genesis file from a form, from flags, or from both.
    New {
        /// A form in TOML, or in JSON if its name ends in .json.
        #[arg(long, value_name = "FILE")]
        from: Option<PathBuf>,
        /// time, ttime or ltime.
        #[arg(long)]
        network: Option<String>,
        /// A validator: PUBLICKEY, PUBLICKEY:POWER or PUBLICKEY:POWER:PAYOUT. May be given more than once.
        #[arg(long, value_name = "VALIDATOR")]
        validator: Vec<String>,
        /// A coin: ADDRESS=AMOUNT, in TIME. May be given more than once.
        #[arg(long, value_name = "COIN")]
        coin: Vec<String>,
        /// When the chain starts, in milliseconds since 1970; now when it is left out.
        #[arg(long)]
        time_ms: Option<u64>,
        /// The new file.
        #[arg(long, short, value_name = "FILE")]
        out: PathBuf,
    },
    /// Show a genesis file as a form that `new --from` takes.
    Show {
        /// The genesis file.
        file: PathBuf,
        /// JSON instead of TOML.
        #[arg(long)]
        json: bool,
    },
    /// Check a genesis file and print its chain id.
    Check {
        /// The genesis file.
        file: PathBuf,
        /// The chain id that it must have.
        #[arg(long, value_name = "HEX")]
        chain_id: Option<String>,
    },
}

/// A genesis as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Form {
    /// `time`, `ttime` or `ltime`.
    pub network: String,
    /// When the chain starts; now when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub time_ms: Option<u64>,
    /// Its rules.
    #[serde(default)]
    pub params: Params,
    /// The first validators.
    #[serde(default)]
    pub validators: Vec<ValidatorForm>,
    /// The first coins.
    #[serde(default)]
    pub coins: Vec<CoinForm>,
}

/// A validator as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ValidatorForm {
    /// Votes are signed with it.
    pub public_key: PublicKey,
    /// Voting power.
    #[serde(default = "one")]
    pub power: u64,
    /// Where its rewards go: an address, or 64 hex digits of a lock; the key's own when it is left out.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub payout: Option<String>,
}

/// A coin as people write it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CoinForm {
    /// Who owns it.
    pub address: String,
    /// In TIME, with up to 8 decimals.
    pub amount: String,
}

const fn one() -> u64 {
    1
}

impl Args {
    /// Runs the command.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self.command {
            Command::New {
                from,
                network,
                validator,
                coin,
                time_ms,
                out,
            } => {
                let mut form = from.as_deref().map_or_else(|| Ok(Form::empty()), Form::read)?;
                form.network = network.unwrap_or(form.network);
                form.time_ms = time_ms.or(form.time_ms);
                for text in &validator {
                    form.validators.push(ValidatorForm::parse(text)?);
                }
                for text in &coin {
                    form.coins.push(CoinForm::parse(text)?);
                }
                let genesis = form.genesis()?;
                write_new(&out, &genesis.encode())?;
                summary(&genesis)?;
                say!("written to {}", out.display())?;
            }
            Command::Show { file, json } => {
                let form = Form::of(&node::read_genesis(&file)?);
                let text = match json {
                    true => serde_json::to_string_pretty(&form)?,
                    false => toml::to_string(&form)?,
                };
                say!("{}", text.trim_end())?;
            }
            Command::Check { file, chain_id } => {
                let genesis = node::read_genesis(&file)?;
                if let Some(expected) = chain_id {
                    let found = genesis.chain_id().to_string();
                    ensure!(
                        found == expected.to_lowercase(),
                        "the chain id is {found}, expected {expected}"
                    );
                }
                summary(&genesis)?;
            }
        }
        Ok(ExitCode::SUCCESS)
    }
}

fn summary(genesis: &Genesis) -> anyhow::Result<()> {
    let supply = genesis.supply().unwrap_or_default();
    say!("chain id    {}", genesis.chain_id())?;
    say!("network     {}", genesis.network)?;
    say!("time        {}", genesis.time)?;
    say!(
        "validators  {} with power {}",
        genesis.validators.len(),
        genesis.validators.total_power()
    )?;
    say!("coins       {} worth {supply} TIME", genesis.coins.len())?;
    Ok(())
}

/// A genesis is never overwritten: the old one may be all that a store can be read with.
fn write_new(path: &Path, bytes: &[u8]) -> anyhow::Result<()> {
    let file = fs::OpenOptions::new().write(true).create_new(true).open(path);
    let mut file = file.with_context(|| {
        format!(
            "{} cannot be made (a file that exists is not overwritten)",
            path.display()
        )
    })?;
    file.write_all(bytes)
        .and_then(|()| file.sync_all())
        .with_context(|| format!("{} cannot be written", path.display()))
}

impl Form {
    fn empty() -> Self {
        Self {
            network: "ltime".into(),
            time_ms: None,
            params: Params::default(),
            validators: Vec::new(),
            coins: Vec::new(),
        }
    }

    fn read(path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path).with_context(|| format!("{} cannot be read", path.display()))?;
        let parsed = match path.extension().is_some_and(|extension| extension == "json") {
            true => serde_json::from_str(&text).map_err(anyhow::Error::from),
            // The parser's words name the line and show it.
            false => toml::from_str(&text).map_err(anyhow::Error::from),
        };
        parsed.with_context(|| format!("{} is no genesis form", path.display()))
    }

    /// The form of a genesis; giving it back to [`Form::genesis`] makes the same bytes.
    pub fn of(genesis: &Genesis) -> Self {
        let address = |lock: &LockHash| Address::new(&genesis.network, *lock).to_string();
        let validator = |validator: &Validator| ValidatorForm {
            public_key: validator.public_key,
            power: validator.power,
            payout: Some(address(&validator.payout)),
        };
        let coin = |coin: &Output| CoinForm {
            address: address(&coin.lock),
            amount: coin.value.to_string(),
        };
        Self {
            network: genesis.network.clone(),
            time_ms: Some(genesis.time.0),
            params: genesis.params.clone(),
            validators: genesis.validators.iter().map(|(_, member)| validator(member)).collect(),
            coins: genesis.coins.iter().map(coin).collect(),
        }
    }

    /// The genesis that the form describes.
    pub fn genesis(&self) -> anyhow::Result<Genesis> {
        let networks = PREFIXES.join(", ");
        ensure!(
            PREFIXES.contains(&self.network.as_str()),
            "network '{}', expected one of {networks}",
            self.network
        );
        ensure!(
            !self.validators.is_empty(),
            "no validator is given: a chain needs at least one"
        );
        let validators = self.validators.iter().enumerate().map(|(index, validator)| {
            validator
                .validator(&self.network)
                .with_context(|| format!("validator {}", index + 1))
        });
        let coins = self.coins.iter().enumerate().map(|(index, coin)| {
            coin.output(&self.network)
                .with_context(|| format!("coin {}", index + 1))
        });
        let genesis = Genesis {
            network: self.network.clone(),
            time: self.time_ms.map_or_else(clock::wall, Time),
            params: self.params.clone(),
            validators: ValidatorSet::new(validators.collect::<anyhow::Result<_>>()?)
                .context("the validators make no set: is a key given twice, or a power 0?")?,
            coins: coins.collect::<anyhow::Result<_>>()?,
        };
        genesis.check()?;
        Ok(genesis)
    }
}

impl ValidatorForm {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let mut parts = text.splitn(3, ':');
        let key = parts.next().unwrap_or_default();
        let public_key = key
            .parse()
            .with_context(|| format!("--validator {text}: '{key}' is no key of 64 hex digits"))?;
        let power = parts
            .next()
            .map_or(Ok(1), str::parse)
            .with_context(|| format!("--validator {text}: no power"))?;
        Ok(Self {
            public_key,
            power,
            payout: parts.next().map(str::to_owned),
        })
    }

    fn validator(&self, network: &str) -> anyhow::Result<Validator> {
        let payout = match &self.payout {
            None => self.public_key.lock(),
            Some(text) => match text.parse() {
                Ok(lock) => lock,
                Err(_) => Address::parse(text, network).context("payout")?.lock,
            },
        };
        Ok(Validator {
            public_key: self.public_key,
            power: self.power,
            payout,
        })
    }
}

impl CoinForm {
    fn parse(text: &str) -> anyhow::Result<Self> {
        let Some((address, amount)) = text.split_once('=') else {
            bail!("--coin {text}: expected ADDRESS=AMOUNT");
        };
        Ok(Self {
            address: address.to_owned(),
            amount: amount.to_owned(),
        })
    }

    fn output(&self, network: &str) -> anyhow::Result<Output> {
        let value: Amount = self.amount.parse()?;
        ensure!(value > Amount::ZERO, "the amount is 0");
        let lock = Address::parse(&self.address, network)?.lock;
        Ok(Output { value, lock })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::primitives::SecretKey;

    fn key(number: u8) -> PublicKey {
        SecretKey::from_seed([number; 32]).public()
    }

    fn form() -> Form {
        let address = Address::new("ltime", key(9).lock()).to_string();
        let text = format!(
            "network = \"ltime\"\ntime_ms = 5\n[params]\nblock_interval_ms = 200\n\
             [[validators]]\npublic_key = \"{}\"\n[[validators]]\npublic_key = \"{}\"\npower = 3\npayout = \"{address}\"\n\
             [[coins]]\naddress = \"{address}\"\namount = \"12.5\"\n",
            key(1),
            key(2)
        );
        toml::from_str(&text).expect("a form")
    }

    #[test]
    fn a_form_becomes_a_genesis_and_comes_back() {
        let genesis = form().genesis().expect("a genesis");
        assert_eq!((genesis.time, genesis.params.block_interval_ms), (Time(5), 200));
        assert_eq!(genesis.coins[0].value, Amount(1_250_000_000));
        let member = |number| {
            genesis
                .validators
                .get(genesis.validators.index_of(&key(number)).expect("there"))
        };
        assert_eq!(member(1).expect("there").payout, key(1).lock());
        assert_eq!(
            (member(2).expect("there").power, member(2).expect("there").payout),
            (3, key(9).lock())
        );
        let shown = Form::of(&Genesis::decode(&genesis.encode()).expect("decodes"));
        let toml: Form = toml::from_str(&toml::to_string(&shown).expect("writes")).expect("reads");
        let json: Form = serde_json::from_str(&serde_json::to_string(&shown).expect("writes")).expect("reads");
        assert_eq!(toml.genesis().expect("a genesis").chain_id(), genesis.chain_id());
        assert_eq!(json.genesis().expect("a genesis").chain_id(), genesis.chain_id());
    }

    #[test]
    fn what_is_wrong_is_said() {
        type Change = fn(&mut Form);
        let rows: [(&str, Change); 8] = [
            ("network 'xtime', expected one of time, ttime, ltime", |form| {
                form.network = "xtime".into()
            }),
            ("is of network 'ltime', expected 'time'", |form| {
                form.network = "time".into()
            }),
            ("no validator is given", |form| form.validators.clear()),
            ("the validators make no set", |form| {
                form.validators[1].public_key = form.validators[0].public_key
            }),
            ("validator 2: payout", |form| {
                form.validators[1].payout = Some("nowhere".into())
            }),
            ("coin 1: '1,5' is not an amount", |form| {
                form.coins[0].amount = "1,5".into()
            }),
            ("coin 1: the amount is 0", |form| form.coins[0].amount = "0".into()),
            ("epoch_length is 1, expected at least 3", |form| {
                form.params.epoch_length = 1
            }),
        ];
        for (expected, change) in rows {
            let mut form = form();
            change(&mut form);
            let error = format!("{:#}", form.genesis().expect_err(expected));
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
