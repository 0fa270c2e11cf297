import hashlib

import numpy as np

from pmal_tf.data.hashing import GOLDEN_GAMMA, hash_ids, splitmix64

MASK = 2**64 - 1


def splitmix64_output(z):
    z = ((z ^ (z >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    z = ((z ^ (z >> 27)) * 0x94D049BB133111EB) & MASK
    return z ^ (z >> 31)


def random_words():
    generator = np.random.default_rng(0)
    words = generator.integers(0, 2**64, 1000, dtype=np.uint64)
    edges = np.array([0, 1, 2**63 - 1, 2**63, MASK], np.uint64)
    return np.concatenate([edges, words])


def test_splitmix64_is_that_of_plain_integers_and_gives_the_published_stream():
    # The first output of SplitMix64 seeded with 0, from its authors' reference code.
    assert splitmix64(np.array([GOLDEN_GAMMA], np.uint64)) == 0xE220A8397B1DCDAF
    words = random_words()
    expected = [splitmix64_output(word) for word in words.tolist()]
    assert splitmix64(words).numpy().tolist() == expected


def test_hashes_of_ids_never_change():
    hashed = hash_ids(np.array(["a", "train_0"]), "order", 0)
    assert hashed.dtype == np.uint64
    assert hashed.tolist() == [9178430854624318737, 9939066893694025729]


def test_a_hash_is_keyed_blake2b_of_the_name():
    key = hashlib.blake2b(b"('order', 0)", digest_size=16).digest()
    digest = hashlib.blake2b("bild_ä".encode(), digest_size=8, key=key).digest()
    hashed = hash_ids(np.array(["bild_ä"]), "order", 0)
    assert hashed.tolist() == [int.from_bytes(digest, "little")]


def test_hashes_differ_by_id_purpose_and_seed():
    names = np.array([f"train_{n}" for n in range(200)])
    purposes = [("order", 0), ("order", 1), ("calibration", 0), ("order",)]
    hashed = np.concatenate([hash_ids(names, *purpose) for purpose in purposes])
    assert len(np.unique(hashed)) == 4 * 200


def test_no_ids_have_no_hashes():
    hashed = hash_ids(np.array([], str), "order", 0)
    assert hashed.shape == (0,)
    assert hashed.dtype == np.uint64
