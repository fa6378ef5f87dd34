"""A data set from a hospital's own folders: pair CTs with their node masks, check them, bring them to one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from ..images import synthetic
from ..images.checks import check_ct, check_nodes
from ..images.volume import canonical, is_volume_file, read, stem
from ..masks.nodes import instances
from ..masks.plausibility import check_plausible, doubts
from ..masks.read import Tell, read_anatomy, read_nodes, telling
from ..masks.segments import is_seg
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Progress, ignore
from ..runtime.names import below, check_id
from ..runtime.pseudonyms import pseudonym
from ..runtime.tables import read_table
from .dataset import SPLITS, Case, Dataset
from .sides import add_apart, members, person
from .splits import PAPER, split_by_patient

COLUMNS = ("image", "nodes", "id", "anatomy", "patient", "split", "source")  # of a table; the first two are needed


@dataclass(frozen=True)
class Item:
    """What is to become one case. Paths are files that `volume.read` knows, DICOM folders, or (nodes) a DICOM SEG."""

    id: str
    image: Path
    nodes: Path
    anatomy: Path | None = None
    patient: str = ""  # "" means the id
    split: str = ""    # "" leaves it to the seeded split by patient
    source: str = ""


def import_folder(
    images: Path,
    nodes: Path,
    out: Path,
    anatomy: Path | None = None,
    *,
    table: Path | None = None,
    name: str = "",
    source: str = "",
    anatomy_version: int = 2,
    segments: Sequence[str] = (),
    anyway: bool = False,
    anonymous: bool = False,
    shares: tuple = PAPER,
    seed: int = 0,
    callback: Callback = ignore,
) -> Dataset:
    """Make (or add to) a data set of CTs and their node masks.

    images, nodes, anatomy  folders; an image belongs to the masks of the same stem (nnU-Net's _0000 is ignored)
    table            a CSV that pairs them instead: columns image, nodes and, where wanted, id, anatomy, patient, split,
                     source; paths count from the three folders
    source           where the images come from; default: the name of the images folder
    anatomy_version  TotalSegmentator version of the anatomy masks' ids
    segments         of SEGs and .seg.nrrd files that are nodes; default: those that are called lymph node
    anyway           take nodes that are doubted (`plausibility`)
    anonymous        pseudonyms (`runtime.pseudonyms`) for the ids of cases and patients and for the sources
    shares           of train, val and test for the patients whose split the table does not name
    Raises LNSynthError when images and masks do not match up (before any work), or at the end when cases were refused,
    and why; the others are in the data set then.
    """
    items = pair_by_table(table, images, nodes, anatomy) if table else pair_by_stem(images, nodes, anatomy)
    source = source or Path(images).resolve().name
    if anonymous:
        items, source = [_anonymous(item) for item in items], pseudonym("source", source)
    there = members([out]) if (Path(out) / "dataset.json").exists() else []
    splits = _splits(items, source, shares, seed, {member.person: member.side for member in there})
    dataset = Dataset.open_or_create(out, name)
    refused = {}
    with Progress("importing", len(items), callback) as progress:
        for item in items:
            try:
                case = read_item(item, telling(callback), anatomy_version, segments, anyway)
                case.entry |= {
                    "patient": item.patient or item.id,
                    "split": splits[item.id],
                    "source": item.source or source,
                }
                add_apart(dataset, case, item.image, there)
                message = f"{item.id}: {case.node_count()} nodes"
            except LNSynthError as error:
                refused[item.id] = message = str(error)
            progress.step(message=message)
    check_refused(refused, f"{len(items)} cases")
    return dataset


def check_refused(refused: dict[str, str], asked: str) -> None:
    """Raises LNSynthError where some were refused: {id: why}, out of `asked`, such as "3 cases"."""
    if refused:
        raise LNSynthError(f"{len(refused)} of {asked} were refused ({', '.join(refused)}), the first because "
                           f"{next(iter(refused.values()))}")


def _anonymous(item: Item) -> Item:
    return replace(item, id=pseudonym("case", item.id), patient=pseudonym("patient", person(item.patient or item.id)),
                   source=pseudonym("source", item.source))


def pair_by_stem(images: Path, nodes: Path, anatomy: Path | None = None) -> list[Item]:
    """Each image with the masks of its stem. Raises LNSynthError when one has no partner or two share a stem."""
    images_of, nodes_of = _by_stem(images), _by_stem(nodes)
    anatomy_of = _by_stem(anatomy) if anatomy else {}
    if not images_of:
        raise LNSynthError(f"{images}: there is no image here; give a folder of NIfTI, NRRD, MHA or DICOM folders.")
    for folder, masks in ((nodes, nodes_of), (anatomy, anatomy_of)):
        if folder is None:
            continue
        _match(folder, "mask", images_of, masks)
        _match(images, "image", masks, images_of)
    for id, path in images_of.items():
        check_id(id, path, "the id (the image's name, unless a CSV of pairs gives one in its column id)")
    return [Item(id, path, nodes_of[id], anatomy_of.get(id)) for id, path in sorted(images_of.items())]


def _id(image: Path) -> str:
    """What an image's name calls its case: without nnU-Net's channel number and the suffix."""
    return stem(image).removesuffix("_0000")


def _match(folder: Path, what: str, wanted: dict, found: dict) -> None:
    alone = sorted(set(wanted) - set(found))
    if alone:
        some = ", ".join(alone[:5]) + (f" and {len(alone) - 5} more" if len(alone) > 5 else "")
        raise LNSynthError(f"{folder}: there is no {what} for {some}; name the files alike, or give a CSV of pairs.")


def _by_stem(folder: Path) -> dict[str, Path]:
    """Volume files, DICOM SEG files and DICOM folders directly in a folder, by stem."""
    folder = Path(folder)
    if not folder.is_dir():
        raise LNSynthError(f"{folder}: there is no such folder; check the path.")
    found: dict[str, Path] = {}
    for path in sorted(p for p in folder.iterdir() if not p.name.startswith(".")):
        if path.is_dir():
            key = path.name
        elif is_volume_file(path):
            key = _id(path)
        elif path.suffix.lower() == ".dcm" and is_seg(path):
            key = path.stem
        else:
            continue
        if key in found:
            raise LNSynthError(f"{path}: {found[key].name} has the same stem; keep one, or list the pairs in a CSV.")
        found[key] = path
    return found


def pair_by_table(table: Path, images: Path, nodes: Path, anatomy: Path | None = None) -> list[Item]:
    """The pairs that a CSV lists. Raises LNSynthError for unknown columns, missing files, doubled ids, wrong splits."""
    content = read_table(table, ("image", "nodes"))
    if unknown := [name for name in content.columns if name not in COLUMNS]:
        raise LNSynthError(f"{table}: it has a column {', '.join(map(repr, unknown))}; a table of pairs needs image "
                           f"and nodes and may have {', '.join(COLUMNS[2:])}.")
    items: list[Item] = []
    for line, row in content.rows:
        row = {key: value.strip() for key, value in row.items()}
        where = f"{table}, line {line}"
        paths = {}
        for column, folder in (("image", images), ("nodes", nodes), ("anatomy", anatomy)):
            if not row.get(column):
                continue
            paths[column] = below(Path(folder or images), row[column], where, column)
            if not paths[column].exists():
                raise LNSynthError(f"{where}: {paths[column]} does not exist; correct the path.")
        if not {"image", "nodes"} <= set(paths):
            raise LNSynthError(f"{where}: image or nodes is empty; name both files.")
        if row.get("split") and row["split"] not in SPLITS:
            raise LNSynthError(f"{where}: the split is one of {', '.join(SPLITS)}, not {row['split']!r}.")
        id = row.get("id") or _id(paths["image"])
        check_id(id, where, "the id (column id; without it, the image's name)")
        if any(id == item.id for item in items):
            raise LNSynthError(f"{where}: the id {id} appears twice; give each case its own.")
        about = {key: row.get(key, "") for key in ("patient", "split", "source")}
        items.append(Item(id, paths["image"], paths["nodes"], paths.get("anatomy"), **about))
    if not items:
        raise LNSynthError(f"{table}: the CSV lists no case; add a line for each.")
    return items


def _splits(items: list[Item], source: str, shares: tuple, seed: int, there: dict[str, str]) -> dict[str, str]:
    """Each item's split: that of the patient's cases that the data set has (`there`: person to split), else the
    table's where it names one, else drawn by patient."""
    named, spelt = dict(there), dict[str, str]()
    for item in items:
        who = person(patient := item.patient or item.id)
        spelt.setdefault(who, patient)
        if item.split and named.setdefault(who, item.split) != item.split:
            where = f"is of split {there[who]} in this data set" if who in there else "is listed in two splits"
            raise LNSynthError(f"Patient {patient} {where}; keep all cases of a patient in one.")
    free = {spelt[who]: item.source or source for item in items
            if (who := person(item.patient or item.id)) not in named}
    drawn = named | {person(p): split for p, split in split_by_patient(free, shares, seed).items()}
    return {item.id: drawn[person(item.patient or item.id)] for item in items}


def read_item(item: Item, tell: Tell, version: int = 2, names: Sequence[str] = (), anyway: bool = False) -> Case:
    """Read and check one case: canonical axes, nodes as instances, every mask exactly on the CT's grid.

    version: of the anatomy's ids; the entry's "anatomy_version" says what they are now. tell, names: as for
    `masks.read.read_nodes`. anyway: take nodes that are doubted (`plausibility`).
    """
    ct = read(item.image)
    check_ct(ct, str(item.image))
    cure = "leave it out, or train with it as a sample (`lnsynth segment train --synthetic`)"
    synthetic.check_real(item.image, ct, cure)
    ct, anatomy = canonical(ct), None
    nodes = read_nodes(item.nodes, ct, tell, source=item.image, names=names)
    synthetic.check_real(item.nodes, nodes, cure)
    check_nodes(nodes, str(item.nodes))
    nodes.array = instances(nodes.array)
    if item.anatomy:
        anatomy, version = read_anatomy(item.anatomy, ct, version, tell, source=item.image)
    check_plausible(doubts(nodes, ct, organs=anatomy), str(item.nodes), anyway, tell)
    return Case(id=item.id, ct=ct, nodes=nodes, anatomy=anatomy, entry={"anatomy_version": version})
