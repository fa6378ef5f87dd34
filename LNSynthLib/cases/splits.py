"""Training, validation and test cases: split by patient, stratified by source, the same for the same seed."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Mapping

from ..runtime import seeds
from ..runtime.errors import LNSynthError
from .dataset import SPLITS

PAPER = (88, 23, 27)  # the paper's 138 patients; stratified, its 86 ABD-LN and 52 CRC-LNM give a test set of 17 + 10


def parse_shares(text: str) -> tuple[float, float, float]:
    """Shares of train, val and test: from "paper" (88:23:27), a split's name, or three numbers such as 70:15:15."""
    if text == "paper":
        return PAPER
    if text in SPLITS:
        train, val, test = (float(text == name) for name in SPLITS)
        return train, val, test
    if re.fullmatch(r"\d+(\.\d+)?(:\d+(\.\d+)?){2}", text):
        train, val, test = (float(part) for part in text.split(":"))
        if train + val + test > 0:
            return train, val, test
    raise LNSynthError(f"The split {text!r} is unknown; give paper, train, val, test or three shares such as 70:15:15.")


def split_by_patient(patients: Mapping[str, str], shares: tuple = PAPER, seed: int = 0) -> dict[str, str]:
    """Each patient's split.

    patients  patient: source (collection or hospital); every source is split in the same proportions
    shares    of train, val and test, in any unit; counts follow by largest remainder within each source
    seed      with the patients and their sources, decides who goes where; the order of the mapping does not
    """
    by_source = defaultdict(list)
    for patient in sorted(patients):
        by_source[patients[patient]].append(patient)
    result: dict[str, str] = {}
    for source, members in sorted(by_source.items()):
        names = (name for name, count in zip(SPLITS, _counts(len(members), shares), strict=True) for _ in range(count))
        order = seeds.rng(seed, "split", source).permutation(len(members))
        result |= {members[n]: name for n, name in zip(order, names, strict=True)}
    return result


def split_in_turn(count: int, shares: tuple = PAPER) -> list[str]:
    """Splits of `count` cases in the order in which they are made, of which more may follow: each case goes to the
    split that has least of what its share is, the first of several. A few cases have all splits."""
    made, result = [0, 0, 0], []
    wanted = [n for n, share in enumerate(shares) if share > 0]
    for _ in range(count):
        n = min(wanted, key=lambda n: made[n] / shares[n])
        made[n] += 1
        result.append(SPLITS[n])
    return result


def _counts(total: int, shares: tuple) -> list[int]:
    """Whole numbers that add up to `total`, in proportion to the shares (largest remainder; in a tie, the first)."""
    exact = [total * share / sum(shares) for share in shares]
    counts = [int(number) for number in exact]
    by_remainder = sorted(range(len(shares)), key=lambda n: counts[n] - exact[n])
    for n in by_remainder[: total - sum(counts)]:
        counts[n] += 1
    return counts
