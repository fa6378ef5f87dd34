"""Public collections of CTs with annotated lymph nodes, from the Imaging Data Commons (idc-index), as data sets."""

from __future__ import annotations

import logging
import threading
import urllib.error
import urllib.request
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ..masks.dicom_seg import find_seg
from ..masks.read import EVERY, telling
from ..runtime.errors import LNSynthError
from ..runtime.events import Callback, Event, Progress, ignore
from ..runtime.temporary import scratch
from .dataset import Dataset
from .importers import Item, check_refused, read_item
from .sides import add_apart, members, person
from .splits import PAPER, split_by_patient

REACH_S = 5.0  # what answers at all answers within that


@dataclass(frozen=True)
class Collection:
    """What is known of a collection before its index is asked."""

    name: str                 # its id at the Imaging Data Commons
    regions: dict[str, str]   # region: how the ids of its patients begin
    licence: str
    cite: str


COLLECTIONS = {
    "ct_lymph_nodes": Collection(
        "ct_lymph_nodes",
        {"abdomen": "ABD_LYMPH", "mediastinum": "MED_LYMPH"},
        "CC BY 3.0",
        "Roth et al., A new 2.5D representation for lymph node detection in CT, doi:10.7937/K9/TCIA.2015.AQIIDCNM",
    ),
    "mediastinal_lymph_node_seg": Collection(
        "mediastinal_lymph_node_seg",
        {"mediastinum": "case_"},
        "CC BY 4.0",
        "Idris et al., Mediastinal Lymph Node Quantification (LNQ), doi:10.7937/QVAZ-JA09",
    ),
}


@dataclass(frozen=True)
class Study:
    """One patient's CT series and the SEG series drawn on it (SeriesInstanceUIDs)."""

    patient: str
    ct: str
    seg: str
    annotation: str = ""  # the SEG's description: LNQ tells fully from partially annotated patients
    slices: int = 0       # of the CT; 0 where unknown


def fetch_collection(
    name: str,
    out: Path,
    *,
    region: str = "",
    limit: int | None = None,
    shares: tuple = PAPER,
    seed: int = 0,
    callback: Callback = ignore,
    studies: Callable[[str], list[Study]] | None = None,
    download: Callable[[list[str], Path], None] | None = None,
) -> Dataset:
    """Download a collection, patient by patient, and make a data set of it; what is there already is not fetched again.

    region    abdomen or mediastinum; default: the first the collection has
    limit     at most so many patients, in order of id. Splits are drawn over all patients of the region all the same,
              so that a patient's split does not depend on how many were fetched. One whom the data set has already
              keeps that split
    studies   lists the collection (default: idc-index's own index)
    download  download(uids, folder) puts the files of each series into folder/<SeriesInstanceUID>/ (default: idc-index)
    The DICOM files of a patient are removed once its case is written. Raises LNSynthError at the end when patients were
    refused, and why; the others are in the data set then.
    """
    if name not in COLLECTIONS:
        raise LNSynthError(f"The collection {name!r} is unknown; choose one of {', '.join(COLLECTIONS)}.")
    collection = COLLECTIONS[name]
    region = region or next(iter(collection.regions))
    if region not in collection.regions:
        raise LNSynthError(f"{name} has no region {region!r}; choose one of {', '.join(collection.regions)}.")
    callback(Event("fetching", message=f"looking up {name}"))
    everyone = sorted((studies or idc_studies)(name), key=lambda s: s.patient)
    listed = [s for s in everyone if s.patient.startswith(collection.regions[region])]
    if not listed:
        raise LNSynthError(f"{name}: its index lists no {region} patient with a CT and a SEG; update idc-index.")
    splits = split_by_patient({s.patient: name for s in listed}, shares, seed)
    dataset = Dataset.open_or_create(out, name, note=f"{collection.cite}; {collection.licence}; {region}")
    there = members([dataset])
    known, sides = {member.case for member in there}, {member.person: member.side for member in there}
    wanted = [s for s in listed[:limit] if s.patient not in known]
    refused = {}
    if wanted and download is None:
        callback(Event("fetching", message="is the Imaging Data Commons within reach?"))
        check_reachable(idc_address())
    with Progress("fetching", len(wanted), callback) as progress:
        for study in wanted:
            callback(Event("fetching", progress.done, progress.total, message=f"{study.patient}: downloading"))
            with scratch(dataset.folder) as folder:
                ct, seg = _arrived(study, folder, download or idc_download)  # a broken network ends it all
                try:
                    # A collection of lymph nodes: every segment is a node, however it is called.
                    case = read_item(Item(study.patient, ct, find_seg(seg)), telling(callback), names=EVERY,
                                     anyway=True)
                    case.entry |= {
                        "patient": study.patient,
                        "split": sides.get(person(study.patient), splits[study.patient]),
                        "source": name,
                        "licence": collection.licence,
                        "annotation": study.annotation,
                        "series": {"ct": study.ct, "seg": study.seg},
                    }
                    add_apart(dataset, case, ct.name, there)
                    message = f"{study.patient}: {case.node_count()} nodes"
                except LNSynthError as error:
                    refused[study.patient] = message = str(error)
            progress.step(message=message)
    check_refused(refused, f"{len(wanted)} patients")
    return dataset


def _arrived(study: Study, folder: Path, download: Callable) -> tuple[Path, Path]:
    """The folders of the CT and the SEG, downloaded and counted: missing end slices leave no gap that shows."""
    download([study.ct, study.seg], folder)
    ct, seg = folder / study.ct, folder / study.seg
    arrived = len([p for p in ct.iterdir() if p.is_file()]) if ct.is_dir() else 0
    if not arrived or not seg.is_dir() or (study.slices and arrived != study.slices):
        raise LNSynthError(
            f"{study.patient}: {arrived} of {study.slices or 'its'} slices and {'a' if seg.is_dir() else 'no'} SEG "
            "arrived; check the network and fetch again."
        )
    return ct, seg


def idc_studies(collection: str) -> list[Study]:
    """Patients of a collection with exactly one CT and one SEG in a study, from the index file inside idc-index."""
    try:
        import duckdb
        from idc_index_data import IDC_INDEX_PARQUET_FILEPATH
    except ImportError:
        raise _not_installed() from None
    rows = duckdb.execute(
        "SELECT PatientID, StudyInstanceUID, Modality, SeriesInstanceUID, SeriesDescription, instanceCount "
        "FROM read_parquet(?) WHERE collection_id = ? AND Modality IN ('CT', 'SEG')",
        [str(IDC_INDEX_PARQUET_FILEPATH), collection],
    ).fetchall()
    series: dict[tuple, dict[str, list]] = defaultdict(lambda: {"CT": [], "SEG": []})
    for patient, study, modality, *about in rows:
        series[patient, study][modality].append(about)
    studies = []
    for (patient, _), found in series.items():
        if len(found["CT"]) == len(found["SEG"]) == 1:
            (ct, _, slices), (seg, annotation, _) = found["CT"][0], found["SEG"][0]
            studies.append(Study(patient, ct, seg, annotation or "", int(slices)))
    return studies


def idc_address() -> str:
    """Where idc-index downloads from."""
    try:
        from idc_index.index import aws_endpoint_url
    except ImportError:
        raise _not_installed() from None
    return aws_endpoint_url


def check_reachable(address: str, patience_s: float = REACH_S) -> None:
    """Raises LNSynthError where nothing answers at a web address, through the proxy that the environment names, if any.

    Whatever answers will do, an error of the server too. A thread looks the name up, since that may take minutes.
    """
    problem: list[str] = []
    done = threading.Event()

    def ask() -> None:
        try:
            urllib.request.urlopen(urllib.request.Request(address, method="HEAD"), timeout=patience_s).close()
        except urllib.error.HTTPError:
            pass
        except (OSError, ValueError) as error:
            problem.append(str(getattr(error, "reason", error)))
        done.set()

    threading.Thread(target=ask, daemon=True).start()
    if not done.wait(2 * patience_s):
        problem.append("no answer")
    if problem:
        raise LNSynthError(f"{address} cannot be reached ({problem[0]}); check the network, and behind a proxy the "
                           "variable https_proxy, then fetch again.")


def idc_download(uids: list[str], folder: Path) -> None:
    """Download series, each into folder/<SeriesInstanceUID>/. A failed transfer may only show in what is missing."""
    try:
        from idc_index import IDCClient
    except ImportError:
        raise _not_installed() from None
    logging.getLogger("idc_index").setLevel(logging.ERROR)  # it tells every step
    try:
        IDCClient.client().download_from_selection(
            downloadDir=str(folder), seriesInstanceUID=uids, dirTemplate="%SeriesInstanceUID", show_progress_bar=False
        )
    except Exception as error:  # idc-index passes on whatever the network, the disk or s5cmd raise
        raise LNSynthError(f"The download failed ({error}); check the network and the free disk space.") from error


def _not_installed() -> LNSynthError:
    return LNSynthError("idc-index, which downloads the collections, is not installed; run `pip install idc-index`.")
