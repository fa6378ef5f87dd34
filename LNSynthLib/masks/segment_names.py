"""What the segments of a mask are, by their names and codes: lymph nodes, or structures that TotalSegmentator knows."""

from __future__ import annotations

import csv
import re
import unicodedata
from functools import cache

from ..runtime.settings import resources

# As people call lymph nodes: whole words, and beginnings or parts of longer ones (Lymphknoten, adénopathies).
WORDS = ("ln", "lns", "lk", "lks", "lnn", "node", "nodes", "ganglion", "ganglions", "ganglio", "ganglios", "adp", "лу")
STEMS = (
    "lymph node", "lymph gland", "lymphnode", "lymphonod", "lymphadenopath", "lymph knoten", "lymphknoten",   # en, de
    "lymphatic node", "nodal", "adenopath", "ganglion lymphatique", "ganglions lymphatiques",                   # fr
    "ganglio linfatico", "adenopat", "linfadenopat", "linfoadenopat",  "linfonod", "linfoghiandol",
    "lymfeklier", "lymfe klier", "lymfeknoop", "lymfknut", "lymfkortel", "lymfeknut", "lymfeknud", "lymfadenopat",
    "wezel chlonn", "wezly chlonn", "uzlin", "imusolmu", "nyirokcsomo", "ganglion limfatic", "limfadenopat",
    "lenf nod", "lenf bez", "lenf dugum", "lenfadenopat", "λεμφαδεν",
    "лимфоуз", "лимфатический уз", "лимфатические уз", "лимфаденопат",
    "リンパ節", "淋巴结", "淋巴結", "림프절", "임파선", "عقدة لمف", "عقد لمف", "عقدة ليمف", "عقد ليمف", "عقدة اللمف",
    "קשר לימפה", "קשרי לימפה", "קשריות לימפה", "בלוטות לימפה", "בלוטת לימפה",
)
NOT_NODES = (
    r"\b(av|sa|sinus|sinoatrial|sinuatrial|atrioventricular|thyroid|heberden) nodes?\b",
    r"\b(celiac|coeliac|stellate|spinal|dorsal root|trigeminal|basal|nerve) ganglions?\b",
    r"\b(no|non|not|without|kein|keine|ohne|sans|sin|senza) [\w ]*",  # "no lymph node", "non-LN tissue"
    r"\blymphatic (vessel|duct)s?\b",
)
CODES = {("SCT", "59441001"), ("SRT", "T-C4000"), ("SCT", "30746006"), ("FMA", "5034")}  # and those that DICOM lists
NAMED_NODE = re.compile(r"LymphNode|Lymphadenopathy")
NO_STRUCTURE = re.compile(r"Biopsy|Syndrome|Metasta|Examination|OE[A-Z]|^PN|^Pn")
FILLING = {"and", "of", "the", "structure", "organ", "left and right"}
ALSO = {"ivc": "inferior_vena_cava", "vena cava": "inferior_vena_cava", "portal vein": "portal_vein_and_splenic_vein",
        "splenic vein": "portal_vein_and_splenic_vein", "bladder": "urinary_bladder", "bowel": "small_bowel",
        "small intestine": "small_bowel", "large intestine": "colon", "adrenal left": "adrenal_gland_left",
        "adrenal right": "adrenal_gland_right", "oesophagus": "esophagus", "abdominal aorta": "aorta",
        "gall bladder": "gallbladder"}  # fmt: skip


def is_lymph_node(label: str, meaning: str = "", codes: tuple[tuple[str, str], ...] = ()) -> bool:
    """Whether a segment is a lymph node: by a code (scheme, value), what its codes mean in words, or its label."""
    if any(code in CODES or code in dicom_codes() for code in codes):
        return True
    return any(_names_nodes(fold(text)) for text in (label, meaning))


def _names_nodes(text: str) -> bool:
    for other in _folded(NOT_NODES):
        text = re.sub(other, " ", text)
    return bool(set(text.split()) & set(WORDS)) or any(stem in text for stem in _folded(STEMS))


@cache
def _folded(texts: tuple[str, ...]) -> tuple[str, ...]:
    return texts if texts is NOT_NODES else tuple(fold(text) for text in texts)


@cache
def dicom_codes() -> frozenset[tuple[str, str]]:
    """(scheme, value) of every lymph node among the SNOMED CT codes that DICOM lists (pydicom's copy)."""
    from pydicom.sr._concepts_dict import concepts

    codes: dict = concepts["SCT"]
    return frozenset(("SCT", value) for keyword, values in codes.items()
                     if NAMED_NODE.search(keyword) and not NO_STRUCTURE.search(keyword) for value in values)


def fold(text: str) -> str:
    """Lower case without accents; words and numbers apart, one blank between them: "LymphNode_2" is "lymph node 2"."""
    text = re.sub(r"(?<=[a-z])(?=[A-Z])", " ", text)
    text = unicodedata.normalize("NFKD", text.translate(str.maketrans("łŁøØđĐı", "lLoOdDi")))
    text = "".join(c for c in text if not unicodedata.combining(c)).casefold()
    text = re.sub(r"(?<=\d)(?=[^\W\d_])|(?<=[^\W\d_])(?=\d)", " ", text)
    return re.sub(r"[\W_]+", " ", text).strip()


def structure_id(name: str, codes: tuple[tuple[str, str], ...] = ()) -> int | None:
    """The TotalSegmentator v2 id (task `total`) of a structure, by its name in any order of words, else by its codes
    (type, then side); None where it is none."""
    names = _structures()
    words = _words(name)
    if words in names:
        return names[words]
    return _coded().get(tuple(value for scheme, value in codes if scheme == "SCT"))


@cache
def _structures() -> dict[frozenset, int]:
    with open(resources() / "labels" / "totalsegmentator.csv", encoding="utf-8", newline="") as stream:
        ids = {row["name"]: int(row["id"]) for row in csv.DictReader(stream)}
    return {_words(name): ids[known] for name, known in ALSO.items()} | {_words(name): id for name, id in ids.items()}


@cache
def _coded() -> dict[tuple, int]:
    with open(resources() / "labels" / "terminology.csv", encoding="utf-8", newline="") as stream:
        return {tuple(filter(None, (row["code"], row["modifier_code"]))): int(row["id"])
                for row in csv.DictReader(stream)}


def _words(name: str) -> frozenset:
    return frozenset(fold(name).split()) - FILLING
