#!/usr/bin/env python3
"""Checks the vectors without any code of this project: `python3 tests/vectors/check.py`.

Needs nothing but Python's standard library, so coins.json (BLAKE3) is left out. Slow and not constant-time: to be read
and compared with, not to be used.
"""

import hashlib
import json
import pathlib
import struct

HERE = pathlib.Path(__file__).parent
CHECKED = 0


def load(name):
    return json.loads((HERE / name).read_text())


def same(found, expected, what):
    global CHECKED
    CHECKED += 1
    if found != expected:
        raise SystemExit(f"{what}: {found} here, {expected} in the file")


# ---- hashes ---------------------------------------------------------------------------------------------------


def sha256(data):
    return hashlib.sha256(data).digest()


def tagged(tag, *parts):
    prefix = sha256(tag.encode())
    return sha256(prefix + prefix + b"".join(parts))


def merkle(leaves):
    def root(hashes):
        if len(hashes) == 1:
            return hashes[0]
        split = 1 << ((len(hashes) - 1).bit_length() - 1)
        return sha256(b"\x01" + root(hashes[:split]) + root(hashes[split:]))

    return root([sha256(b"\x00" + leaf) for leaf in leaves]) if leaves else sha256(b"")


def climb(leaf, index, count, path):
    """The root that an audit path (from the leaf up) leads to."""
    if count == 1:
        assert not path
        return sha256(b"\x00" + leaf)
    split = 1 << ((count - 1).bit_length() - 1)
    if index < split:
        return sha256(b"\x01" + climb(leaf, index, split, path[:-1]) + path[-1])
    return sha256(b"\x01" + path[-1] + climb(leaf, index - split, count - split, path[:-1]))


# ---- Ed25519 (RFC 8032, verified as in ZIP-215) ---------------------------------------------------------------

P = 2**255 - 19
L = 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, P - 2, P) % P


def add(a, b):
    (x1, y1, z1, t1), (x2, y2, z2, t2) = a, b
    e, f = (y1 - x1) * (y2 - x2) % P, (y1 + x1) * (y2 + x2) % P
    c, d = 2 * t1 * t2 * D % P, 2 * z1 * z2 % P
    w, x, y, z = f - e, d - c, d + c, f + e
    return w * x % P, y * z % P, x * y % P, w * z % P


def times(n, point):
    result = (0, 1, 1, 0)
    while n:
        if n & 1:
            result = add(result, point)
        point, n = add(point, point), n >> 1
    return result


def encode(point):
    x, y, z, _ = point
    inverse = pow(z, P - 2, P)
    x, y = x * inverse % P, y * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def decode(data):
    """Also takes encodings that are not canonical, as ZIP-215 wants."""
    number = int.from_bytes(data, "little")
    sign, y = number >> 255, (number & 2**255 - 1) % P
    x2 = (y * y - 1) * pow(D * y * y + 1, P - 2, P) % P
    x = pow(x2, (P + 3) // 8, P)
    if (x * x - x2) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    if (x * x - x2) % P:
        return None
    if x & 1 != sign:
        x = -x % P
    return x, y, 1, x * y % P


BASE = decode((4 * pow(5, P - 2, P) % P).to_bytes(32, "little"))


def sha512_int(*parts):
    return int.from_bytes(hashlib.sha512(b"".join(parts)).digest(), "little")


def sign(seed, message):
    hashed = hashlib.sha512(seed).digest()
    secret = int.from_bytes(hashed[:32], "little") & (1 << 254) - 8 | 1 << 254
    public = encode(times(secret, BASE))
    nonce = sha512_int(hashed[32:], message) % L
    r = encode(times(nonce, BASE))
    s = (nonce + sha512_int(r, public, message) * secret) % L
    return public, r + s.to_bytes(32, "little")


def verify(public, message, signature):
    a, r, s = decode(public), decode(signature[:32]), int.from_bytes(signature[32:], "little")
    if a is None or r is None or s >= L:
        return False
    k = sha512_int(signature[:32], public, message) % L
    minus = lambda point: (-point[0] % P, point[1], point[2], -point[3] % P)
    x, y, z, _ = times(8, add(times(s, BASE), minus(add(r, times(k, a)))))
    return x == 0 and y == z


# ---- bech32m --------------------------------------------------------------------------------------------------


def address(prefix, lock):
    number = int.from_bytes(lock, "big") << 4
    words = [number >> 5 * i & 31 for i in reversed(range(52))]
    check = 1
    spread = [ord(c) >> 5 for c in prefix] + [0] + [ord(c) & 31 for c in prefix]
    for value in spread + words + [0] * 6:
        top = check >> 25
        check = (check & 0x1FFFFFF) << 5 ^ value
        for i, generator in enumerate((0x3B6A57B2, 0x26508E6D, 0x1EA119FA, 0x3D4233DD, 0x2A1462B3)):
            check ^= generator if top >> i & 1 else 0
    check ^= 0x2BC830A3
    words += [check >> 5 * (5 - i) & 31 for i in range(6)]
    return prefix + "1" + "".join("qpzry9x8gf2tvdw0s3jn54khce6mua7l"[word] for word in words)


# ---- the files ------------------------------------------------------------------------------------------------

unhex = bytes.fromhex


def u32(value):
    return struct.pack(">I", int(value))


def u64(value):
    return struct.pack(">Q", int(value))


def check_signed(entry, digest, what):
    same(digest.hex(), entry["digest"], what)
    public, signature = sign(unhex(entry["seed"]), digest)
    same(public.hex(), entry["public_key"], what)
    same(signature.hex(), entry["signature"], what)
    same(verify(public, digest, signature), True, what)


def check_hashes():
    file = load("hashes.json")
    for entry in file["tagged"]:
        same(tagged(entry["tag"], *map(unhex, entry["parts"])).hex(), entry["hash"], "tagged hash")
    for tree in file["merkle"]:
        leaves = [unhex(leaf) for leaf in tree["leaves"]]
        same(merkle(leaves).hex(), tree["root"], "Merkle root")
        for index, path in enumerate(tree["paths"]):
            root = climb(leaves[index], index, len(leaves), [unhex(step) for step in path])
            same(root.hex(), tree["root"], "Merkle path")


def check_keys():
    file = load("keys.json")
    prefixes = ["time", "ttime", "ltime"]
    for entry in file["keys"]:
        lock = tagged("timecoin/key", unhex(entry["public_key"]))
        same(lock.hex(), entry["lock"], "lock of a key")
        same([address(prefix, lock) for prefix in prefixes], entry["addresses"], "addresses")
        for signed in entry["signatures"]:
            same(signed["seed"], entry["seed"], "seed")
            check_signed(signed, unhex(signed["digest"]), "signature")
    for entry in file["multisig"]:
        lock = tagged("timecoin/multisig", unhex(entry["bytes"]))
        same(lock.hex(), entry["lock"], "lock of a policy")
        same([address(prefix, lock) for prefix in prefixes], entry["addresses"], "addresses")


def check_transactions():
    for entry in load("transactions.json")["transactions"]:
        txid = tagged("timecoin/tx", unhex(entry["chain_id"]), unhex(entry["body"]))
        same(txid.hex(), entry["txid"], "txid")
        for witness in entry["witnesses"]:
            check_signed(witness, txid, "witness")


def batch_digest(chain, epoch, validator, sequence, height, count, root):
    numbers = u64(epoch) + u32(validator) + u64(sequence) + u64(height) + u32(count)
    return tagged("timecoin/votes", unhex(chain), numbers, root)


def check_certificate(entry, keys):
    for vote in entry["votes"]:
        leaf = bytes([entry["kind"]]) + unhex(entry["txid"])
        root = climb(leaf, vote["index"], vote["count"], [unhex(step) for step in vote["path"]])
        digest = batch_digest(
            entry["chain_id"], entry["epoch"], vote["validator"], vote["sequence"], vote["height"], vote["count"], root
        )
        valid = verify(keys[vote["validator"]], digest, unhex(vote["signature"]))
        same(valid, True, f"vote of validator {vote['validator']}")


def check_votes():
    file = load("votes.json")
    for batch in file["batches"]:
        leaves = [bytes([vote["kind"]]) + unhex(vote["txid"]) for vote in batch["votes"]]
        same([leaf.hex() for leaf in leaves], [vote["leaf"] for vote in batch["votes"]], "leaves")
        root = merkle(leaves)
        same(root.hex(), batch["root"], "root of a vote batch")
        digest = batch_digest(
            batch["chain_id"], batch["epoch"], batch["validator"], batch["sequence"], batch["height"], len(leaves), root
        )
        check_signed(batch["signed"], digest, "vote batch")
    keys = [unhex(validator["public_key"]) for validator in file["validators"]]
    for name in ("lock_certificate", "receipt", "rejection"):
        check_certificate(file[name], keys)
    return keys


def block_vote_digest(entry):
    numbers = bytes([entry["phase"]]) + u64(entry["height"]) + u32(entry["round"])
    return tagged("timecoin/block-vote", unhex(entry["chain_id"]), numbers, unhex(entry["block_id"]))


def check_blocks(keys):
    file = load("blocks.json")
    for header in file["headers"]:
        name = tagged("timecoin/block", unhex(header["chain_id"]), unhex(header["bytes"]))
        same(name.hex(), header["block_id"], "block id")
    for vote in file["block_votes"]:
        check_signed(vote["signed"], block_vote_digest(vote), "block vote")
    for name in ("prepare_certificate", "commit_certificate"):
        certificate = file[name]
        for part in certificate["signatures"]:
            digest = block_vote_digest(certificate)
            same(verify(keys[part["validator"]], digest, unhex(part["signature"])), True, name)
        same(tagged("timecoin/commit", unhex(certificate["bytes"])).hex(), certificate["hash"], name)
    for change in file["view_changes"]:
        claim = change["prepared"] or {"round": 0, "block_id": "00" * 32}
        numbers = u64(change["height"]) + u32(change["round"])
        claimed = bytes([change["prepared"] is not None]) + u32(claim["round"]) + unhex(claim["block_id"])
        digest = tagged("timecoin/view-change", unhex(change["chain_id"]), numbers, claimed)
        check_signed(change["signed"], digest, "view change")
    for seal in file["seals"]:
        txids = [unhex(txid) for txid in seal["txids"]]
        same(merkle(txids).hex(), seal["txids_root"], "root of a seal")
        numbers = u64(seal["epoch"]) + u32(seal["validator"]) + u32(len(txids))
        check_signed(seal["signed"], tagged("timecoin/seal", unhex(seal["chain_id"]), numbers, merkle(txids)), "seal")
    for reward in file["reward_txids"]:
        txid = tagged("timecoin/reward", unhex(reward["chain_id"]), u64(reward["epoch"]))
        same(txid.hex(), reward["txid"], "reward")


def check_genesis():
    file = load("genesis.json")
    chain = tagged("timecoin/genesis", unhex(file["bytes"]))
    same(chain.hex(), file["chain_id"], "chain id")
    for index, coin in enumerate(file["coins"]):
        name = {"txid": tagged("timecoin/genesis-coins", chain).hex(), "index": index}
        same(coin["outpoint"], name, "first coin")


def check_edge_cases():
    for name in ("zip215.json", "speccheck.json"):
        for index, case in enumerate(load(name)["vectors"]):
            valid = verify(unhex(case["public_key"]), unhex(case["message"]), unhex(case["signature"]))
            same(valid, case["valid"], f"{name} {index}")


if __name__ == "__main__":
    check_hashes()
    check_keys()
    check_transactions()
    check_blocks(check_votes())
    check_genesis()
    check_edge_cases()
    print(f"{CHECKED} values are as they should be")
