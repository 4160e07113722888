"""A client of TimeCoin's peer-to-peer protocol, written from docs/wire.md and proto/ alone.

| file | what |
|---|---|
| `rules.py` | hashes, signatures, certificates, coins, transactions: no network |
| `envelope.py` | the wrapper around every payload |
| `ledger.py` | a chain followed block by block, and its coins read by pages |
| `peer.py` | one connection to one node: requests and gossip over py-libp2p |

The section numbers in comments are those of docs/wire.md.
"""
