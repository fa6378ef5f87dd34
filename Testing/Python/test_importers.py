"""Own folders and public collections become data sets: paired, checked, on one grid, split by patient."""

import re
import socket
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, HTTPServer

import numpy as np
import pydicom
import pytest
from pydicom.uid import CTImageStorage, generate_uid

from LNSynthLib import cli
from LNSynthLib.cases.dataset import Dataset
from LNSynthLib.cases.fetch import COLLECTIONS, Study, check_reachable, fetch_collection, idc_download, idc_studies
from LNSynthLib.cases.importers import import_folder, pair_by_table
from LNSynthLib.cases.splits import split_by_patient
from LNSynthLib.images import volume
from LNSynthLib.images.volume import Volume, canonical, same_grid
from LNSynthLib.masks.dicom_seg import write_seg
from LNSynthLib.runtime.errors import Cancelled, LNSynthError

SHAPE = (20, 18, 12)
LPS_GRID = np.array([[-0.8, 0, 0, 8], [0, -0.8, 0, 9], [0, 0, 3.0, -20], [0, 0, 0, 1]])


def make_ct(seed=0, affine=LPS_GRID) -> Volume:
    """Noise, but for soft tissue where `two_nodes` are."""
    rng = np.random.default_rng(seed)
    hu = rng.integers(-1000, 500, SHAPE).astype(np.int16)
    nodes = two_nodes().array > 0
    hu[nodes] = rng.integers(20, 90, np.count_nonzero(nodes))
    return Volume(hu, affine)


def two_nodes(values=(1, 1), affine=LPS_GRID, dtype=np.uint8) -> Volume:
    mask = np.zeros(SHAPE, dtype)
    mask[2:5, 3:6, 4:6], mask[10:14, 9:12, 7:9] = values
    return Volume(mask, affine)


def organs() -> Volume:
    """A liver and an aorta beside the nodes."""
    return Volume(np.roll(two_nodes((5, 52)).array, 6, axis=0), LPS_GRID)


@pytest.fixture
def folders(tmp_path):
    """Three cases, each in another format; masks named alike."""
    images, nodes, anatomy = (tmp_path / name for name in ("images", "nodes", "anatomy"))
    for n, (id, suffix, mask_suffix) in enumerate((("a", "_0000.nii.gz", ".nrrd"), ("b", ".nrrd", ".nii"),
                                                   ("c", ".mha", ".seg.nrrd"))):
        volume.write(images / f"{id}{suffix}", make_ct(n))
        volume.write(nodes / f"{id}{mask_suffix}", two_nodes())
        volume.write(anatomy / f"{id}.nii.gz", organs())
    (images / "readme.txt").write_text("ours")
    return images, nodes, anatomy, tmp_path / "out"


def test_folders_become_a_data_set(folders):
    images, nodes, anatomy, out = folders
    dataset = import_folder(images, nodes, out, anatomy, name="mine", source="a hospital")
    assert (dataset.name, dataset.kind) == ("mine", "real")
    for n, entry in enumerate(Dataset.open(out).cases()):
        assert entry["id"] == entry["patient"] == "abc"[n] and entry["source"] == "a hospital"
        case = dataset.load(entry["id"])
        np.testing.assert_array_equal(case.ct.array, canonical(make_ct(n)).array)
        np.testing.assert_allclose(case.ct.affine, canonical(make_ct(n)).affine, atol=1e-5)
        np.testing.assert_array_equal(case.nodes.array > 0, canonical(two_nodes()).array > 0)
        assert sorted(np.unique(case.nodes.array)) == [0, 1, 2]  # one value, two components
        np.testing.assert_array_equal(case.anatomy.array, canonical(organs()).array)
        assert np.array_equal(case.ct.affine, case.nodes.affine) and entry["anatomy_version"] == 2
    expected = split_by_patient(dict.fromkeys("abc", "a hospital"))
    assert {e["id"]: e["split"] for e in dataset.cases()} == expected


def test_a_mask_with_several_values_holds_instances(folders):
    images, nodes, _, out = folders
    volume.write(nodes / "b.nii", two_nodes((7, 3)))
    case = import_folder(images, nodes, out).load("b")
    mask = canonical(two_nodes((7, 3))).array
    assert (case.nodes.array[mask == 3] == 1).all() and (case.nodes.array[mask == 7] == 2).all()


def test_masks_may_count_their_axes_otherwise(folders):
    images, nodes, _, out = folders
    volume.write(nodes / "b.nii", canonical(two_nodes()))
    turned = Volume(canonical(two_nodes()).array.transpose(2, 0, 1), canonical(two_nodes()).affine[:, [2, 0, 1, 3]])
    volume.write(nodes / "c.seg.nrrd", turned)
    dataset = import_folder(images, nodes, out)
    for id in "bc":
        np.testing.assert_array_equal(dataset.load(id).nodes.array > 0, canonical(two_nodes()).array > 0)


def test_bad_cases_are_refused_and_the_others_kept(folders):
    images, nodes, _, out = folders
    volume.write(nodes / "b.nii", two_nodes((0, 0)))
    volume.write(images / "c.mha", Volume(make_ct().array + np.int16(1100), LPS_GRID))
    with pytest.raises(LNSynthError, match=r"2 of 3 cases were refused \(b, c\), the first because .*b.nii: .*empty"):
        import_folder(images, nodes, out)
    assert [e["id"] for e in Dataset.open(out).cases()] == ["a"]
    volume.write(nodes / "b.nii", two_nodes())
    volume.write(images / "c.mha", make_ct())
    assert len(import_folder(images, nodes, out).cases()) == 3  # mended, the second call completes it


def test_what_has_no_partner_is_named(folders):
    images, nodes, anatomy, out = folders
    (nodes / "b.nii").unlink()
    with pytest.raises(LNSynthError, match="nodes: there is no mask for b; name the files alike"):
        import_folder(images, nodes, out)
    volume.write(nodes / "b.nii", two_nodes())
    volume.write(nodes / "d.nii", two_nodes())
    with pytest.raises(LNSynthError, match="images: there is no image for d"):
        import_folder(images, nodes, out)
    (nodes / "d.nii").unlink()
    (anatomy / "a.nii.gz").unlink()
    with pytest.raises(LNSynthError, match="anatomy: there is no mask for a"):
        import_folder(images, nodes, out, anatomy)
    volume.write(images / "b.nii.gz", make_ct())
    with pytest.raises(LNSynthError, match="has the same stem"):
        import_folder(images, nodes, out)
    with pytest.raises(LNSynthError, match="absent: there is no such folder"):
        import_folder(images / "absent", nodes, out)
    with pytest.raises(LNSynthError, match="there is no image here"):
        (out.parent / "empty").mkdir()
        import_folder(out.parent / "empty", nodes, out)
    assert not out.exists()


def write_table(path, *lines):
    path.write_text("\n".join(lines), encoding="utf-8")
    return path


def test_a_table_pairs_files(folders, tmp_path):
    images, nodes, anatomy, out = folders
    table = write_table(
        tmp_path / "pairs.csv", "id,image,nodes,anatomy,patient,split,source",
        "x1,a_0000.nii.gz,b.nii,a.nii.gz,p1,,north", "x2,b.nrrd,a.nrrd,,p1,,north",
        "x3,c.mha,c.seg.nrrd,,p2,test,south")
    dataset = import_folder(images, nodes, out, anatomy, table=table)
    entries = {e["id"]: e for e in dataset.cases()}
    assert [entries[id]["patient"] for id in ("x1", "x2", "x3")] == ["p1", "p1", "p2"]
    assert entries["x1"]["split"] == entries["x2"]["split"]  # a patient is never divided
    assert (entries["x3"]["split"], entries["x3"]["source"]) == ("test", "south")
    assert dataset.load("x1").anatomy is not None and dataset.load("x2").anatomy is None


@pytest.mark.parametrize("dialect", [
    lambda text: text.replace(",", ";").encode(),
    lambda text: text.replace(",", "\t").encode("utf-16"),  # a spreadsheet's "Unicode text"
    lambda text: b"\xef\xbb\xbf" + text.replace("\n", "\r\n").replace(",", ";").encode(),
    lambda text: "".join(line + ",,\n" for line in text.splitlines()).encode() + b",,,,,\n\n",
    lambda text: b"sep=|\r\n" + text.replace(",", "|").encode(),
    lambda text: text.replace("id,image", " ID ,Image").encode(),
])
def test_a_table_as_spreadsheets_save_it(folders, tmp_path, dialect):
    images, nodes, anatomy, _ = folders
    lines = "id,image,nodes,patient\nu1,b.nrrd,b.nii,Müller\n"
    (tmp_path / "pairs.csv").write_bytes(dialect(lines))
    (item,) = pair_by_table(tmp_path / "pairs.csv", images, nodes)
    assert (item.id, item.patient, item.image, item.nodes) == ("u1", "Müller", images / "b.nrrd", nodes / "b.nii")


def test_an_id_that_cannot_name_a_folder_is_told_before_any_work(folders):
    images, nodes, _, out = folders
    (images / "b.nrrd").rename(images / "b 1.nrrd")
    (nodes / "b.nii").rename(nodes / "b 1.nii")
    with pytest.raises(LNSynthError, match=r"b 1.nrrd: the id \(the image's name, unless .*column id\) 'b 1' cannot"):
        import_folder(images, nodes, out)
    assert not out.exists()


@pytest.mark.parametrize("lines, why", [
    (["image,mask", "a,b"], "line 1: there is no column nodes; the columns are image, mask"),
    (["image,nodes,sex", "a,b,f"], "it has a column 'sex'; a table of pairs needs image and nodes and"),
    (["image,nodes"], "lists no case"),
    (["image,nodes", "q.nii,b.nii"], "line 2: .*q.nii does not exist"),
    (["image,nodes", "b.nrrd,"], "line 2: image or nodes is empty"),
    (["image,nodes,split", "b.nrrd,b.nii,dev"], "line 2: the split is one of"),
    (["image,nodes", "b.nrrd,b.nii", "b.nrrd,a.nrrd"], "line 3: the id b appears twice"),
    (["image,nodes,id", "b.nrrd,b.nii,", "b.nrrd,b.nii,x y"], r"line 3: the id \(column id; .* 'x y' cannot name"),
    (["id,image,nodes,patient,split", "x,b.nrrd,b.nii,p,train", "y,c.mha,b.nii,p,test"], "Patient p is listed in two"),
])
def test_wrong_tables_are_refused(folders, tmp_path, lines, why):
    images, nodes, _, out = folders
    with pytest.raises(LNSynthError, match=why):
        import_folder(images, nodes, out, table=write_table(tmp_path / "pairs.csv", *lines))
    assert not out.exists()


def test_real_cases_stay_among_themselves(folders):
    images, nodes, _, out = folders
    Dataset.create(out, kind="phantom")
    with pytest.raises(LNSynthError, match="holds phantom cases; choose another folder for real ones"):
        import_folder(images, nodes, out)


def test_three_imports_at_once_keep_every_case(tmp_path, repository):
    running = []
    for who in "abc":
        for n in range(3):
            volume.write(tmp_path / who / "images" / f"{who}{n}.nii.gz", make_ct(ord(who) * 3 + n))
            volume.write(tmp_path / who / "nodes" / f"{who}{n}.nii.gz", two_nodes())
        running.append(subprocess.Popen([sys.executable, "-m", "LNSynthLib", "import", "--images",
                                         tmp_path / who / "images", "--nodes", tmp_path / who / "nodes", "--out",
                                         tmp_path / "out"], cwd=repository, stdout=subprocess.DEVNULL))
    assert [process.wait(120) for process in running] == [0, 0, 0]
    dataset = Dataset.open(tmp_path / "out")
    assert [dataset.load(e["id"]).id for e in dataset.cases()] == [f"{who}{n}" for who in "abc" for n in range(3)]


def test_an_anonymous_import_names_nobody(folders, tmp_path, monkeypatch):
    """Nor does what is made of it; a second import finds the patient again under his pseudonym."""
    images, nodes, *_ = folders
    monkeypatch.setenv("LNSYNTH_HOME", str(tmp_path / "home"))
    arguments = ["import", "--images", str(images), "--nodes", str(nodes), "--out", str(tmp_path / "shared"),
                 "--anonymous", "--name", "shared", "--source", "St. Elsewhere"]
    assert cli.main(arguments) == 0
    entries = Dataset.open(tmp_path / "shared").cases()
    assert len(entries) >= 2 and all(re.fullmatch(r"case-[0-9a-f]{10}", entry["id"]) for entry in entries)
    assert all(entry["patient"].startswith("patient-") and entry["source"].startswith("source-") for entry in entries)
    assert not re.search(r"Elsewhere|a_0000|\"[abc]\"", (tmp_path / "shared" / "dataset.json").read_text())
    assert cli.main(arguments) == 0
    assert Dataset.open(tmp_path / "shared").cases() == entries


def test_import_by_its_verb(folders, capsys):
    images, nodes, anatomy, out = folders
    arguments = ["--images", images, "--nodes", nodes, "--anatomy", anatomy, "--out", out, "--split", "test"]
    assert cli.main(["import", *map(str, arguments)]) == 0
    assert "3 cases, 0 train, 0 val, 3 test" in capsys.readouterr().out
    assert cli.main(["import", *map(str, arguments[:-1]), "most"]) == 2
    assert "give paper, train" in capsys.readouterr().err


# --- DICOM ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def downloads(shared_data, tmp_path_factory):
    """A real DICOM CT and a SEG of two nodes drawn on it, as a download leaves them: one folder a series."""
    folder, ct, seg, study = tmp_path_factory.mktemp("idc"), generate_uid(), generate_uid(), generate_uid()
    (folder / ct).mkdir()
    for file in (shared_data / "ts_slab_dicom").iterdir():
        data = pydicom.dcmread(file)
        data.SOPClassUID, data.SOPInstanceUID = CTImageStorage, generate_uid()
        data.file_meta.MediaStorageSOPInstanceUID = data.SOPInstanceUID
        data.SeriesInstanceUID, data.StudyInstanceUID, data.PatientID = ct, study, "slab"
        data.save_as(folder / ct / file.name)
    image = volume.read(folder / ct)
    mask = np.zeros(image.shape, np.uint16)
    mask[240:252, 250:260, 5:10], mask[300:308, 240:250, 3:6] = 1, 2
    (folder / seg).mkdir()
    write_seg(folder / seg / "1.dcm", Volume(mask, image.affine), folder / ct)
    return folder, Study("ABD_LYMPH_002", ct, seg, "Lymph node segmentations", 20), Volume(mask, image.affine)


def linked(folder):
    """A download that needs no network: the series appear where they were asked for."""
    def download(uids, target):
        for uid in set(uids):
            (target / uid).symlink_to(folder / uid)
    return download


def test_dicom_folders_are_imported_with_their_seg(downloads, tmp_path):
    folder, study, mask = downloads
    for role, uid in (("images", study.ct), ("nodes", study.seg)):
        (tmp_path / role).mkdir()
        (tmp_path / role / "case").symlink_to(folder / uid)
    case = import_folder(tmp_path / "images", tmp_path / "nodes", tmp_path / "out").load("case")
    np.testing.assert_array_equal(case.nodes.array, canonical(mask).array)
    np.testing.assert_array_equal(case.ct.array, canonical(volume.read(folder / study.ct)).array)


def test_a_collection_becomes_a_data_set(downloads, tmp_path):
    folder, study, mask = downloads
    patients = [Study(f"ABD_LYMPH_{n:03d}", study.ct, study.seg, study.annotation, 20) for n in (3, 1, 2)]
    chest = [Study("MED_LYMPH_001", study.ct, study.seg, study.annotation, 20)]
    asked = []

    def download(uids, target):
        asked.append(uids)
        linked(folder)(uids, target)

    def fetch(limit):
        return fetch_collection("ct_lymph_nodes", tmp_path / "d", limit=limit, download=download, shares=(1, 0, 0),
                                studies=lambda name: patients + chest)

    first = {e["id"]: e for e in fetch(limit=1).cases()}
    assert list(first) == ["ABD_LYMPH_001"] and asked == [[study.ct, study.seg]]
    dataset = fetch(limit=None)
    assert [e["id"] for e in dataset.cases()] == [f"ABD_LYMPH_{n:03d}" for n in (1, 2, 3)]  # the chest stays away
    assert len(asked) == 3  # what was there was not fetched again
    assert dataset.entry("ABD_LYMPH_001")["split"] == first["ABD_LYMPH_001"]["split"]
    entry = dataset.entry("ABD_LYMPH_002")
    assert entry["licence"] == "CC BY 3.0" and entry["series"] == {"ct": study.ct, "seg": study.seg}
    assert "CC BY 3.0" in dataset.manifest["note"] and "10.7937" in dataset.manifest["note"]
    case = dataset.load("ABD_LYMPH_002")
    assert same_grid(case.ct, case.nodes)[0]
    np.testing.assert_array_equal(case.nodes.array, canonical(mask).array)
    assert sorted(p.name for p in (tmp_path / "d").iterdir()) == ["cases", "dataset.json"]  # no DICOM is left


@pytest.mark.parametrize("present, why", [(("ct",), "20 of 20 slices and no SEG arrived"),
                                          (("seg",), "0 of 20 slices and a SEG arrived")])
def test_a_download_that_stayed_incomplete_ends_the_fetch(downloads, tmp_path, present, why):
    """idc-index reports a broken network in its log alone; only the files tell."""
    folder, study, _ = downloads

    def download(uids, target):
        linked(folder)([getattr(study, name) for name in present], target)

    with pytest.raises(LNSynthError, match=f"ABD_LYMPH_002: {why}; check the network and fetch again"):
        fetch_collection("ct_lymph_nodes", tmp_path / "d", studies=lambda name: [study], download=download)
    assert Dataset.open(tmp_path / "d").cases() == []


def test_missing_end_slices_are_noticed(downloads, tmp_path):
    folder, study, _ = downloads
    longer = Study(study.patient, study.ct, study.seg, "", 21)
    with pytest.raises(LNSynthError, match="20 of 21 slices"):
        fetch_collection("ct_lymph_nodes", tmp_path / "d", studies=lambda name: [longer], download=linked(folder))


def test_a_patient_that_cannot_be_used_does_not_stop_the_others(downloads, tmp_path):
    folder, study, _ = downloads
    odd = Study("ABD_LYMPH_001", study.ct, study.ct, "", 20)  # its "SEG" is a CT
    with pytest.raises(LNSynthError, match=r"1 of 2 patients were refused \(ABD_LYMPH_001\).*holds 0 DICOM SEG"):
        fetch_collection("ct_lymph_nodes", tmp_path / "d", studies=lambda name: [odd, study], download=linked(folder))
    assert [e["id"] for e in Dataset.open(tmp_path / "d").cases()] == ["ABD_LYMPH_002"]


def test_cancelling_a_fetch_leaves_nothing_half_done(downloads, tmp_path):
    folder, study, _ = downloads

    def download(uids, target):
        linked(folder)(uids[:1], target)
        raise Cancelled("stopped")

    with pytest.raises(Cancelled):
        fetch_collection("ct_lymph_nodes", tmp_path / "d", studies=lambda name: [study], download=download)
    assert [p.name for p in (tmp_path / "d").iterdir()] == ["dataset.json"]


@pytest.mark.parametrize("raised, told", [(Cancelled("stopped"), Cancelled), (OSError("no route"), LNSynthError)])
def test_cancelling_a_download_is_no_failed_download(tmp_path, monkeypatch, raised, told):
    idc_index = pytest.importorskip("idc_index")

    def client():
        raise raised

    monkeypatch.setattr(idc_index.IDCClient, "client", client)
    with pytest.raises(told, match="stopped" if told is Cancelled else "The download failed .no route.; check"):
        idc_download(["1.2"], tmp_path)


def test_unknown_collections_and_regions_are_refused(tmp_path):
    with pytest.raises(LNSynthError, match="'lidc' is unknown; choose one of ct_lymph_nodes"):
        fetch_collection("lidc", tmp_path)
    with pytest.raises(LNSynthError, match="has no region 'abdomen'; choose one of mediastinum"):
        fetch_collection("mediastinal_lymph_node_seg", tmp_path, region="abdomen")
    with pytest.raises(LNSynthError, match="lists no abdomen patient"):
        fetch_collection("ct_lymph_nodes", tmp_path, studies=lambda name: [])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name, regions", [("ct_lymph_nodes", {"abdomen": 86, "mediastinum": 90}),
                                           ("mediastinal_lymph_node_seg", {"mediastinum": 513})])
def test_the_index_inside_idc_index_lists_the_collections(name, regions):
    """The real index, which comes with the package, without a network: as many CT and SEG pairs as published."""
    pytest.importorskip("idc_index")
    studies = idc_studies(name)
    for region, count in regions.items():
        prefix = COLLECTIONS[name].regions[region]
        assert sum(s.patient.startswith(prefix) for s in studies) == count
    assert len(studies) == sum(regions.values()) == len({s.patient for s in studies})
    assert all(s.ct != s.seg and s.slices > 30 and s.annotation for s in studies)


def test_what_cannot_be_reached_is_told_in_seconds():
    """Offline, s5cmd tried for two minutes and printed lines of its own."""
    with socket.socket() as taken:  # bound but not listening: refuses at once
        taken.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(LNSynthError, match=f"^{address} cannot be reached .*refused.*; check the network"):
            check_reachable(address)
    with socket.socket() as mute:  # takes the call and says nothing
        mute.bind(("127.0.0.1", 0))
        mute.listen()
        with pytest.raises(LNSynthError, match="cannot be reached .*(timed out|no answer)"):
            check_reachable(f"http://127.0.0.1:{mute.getsockname()[1]}", patience_s=0.2)


def test_a_server_that_refuses_is_within_reach():
    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.send_error(403)

        def log_message(self, *_):
            pass

    with HTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        check_reachable(f"http://127.0.0.1:{server.server_port}")


def test_fetch_asks_first_whether_there_is_a_network(tmp_path, monkeypatch):
    monkeypatch.setattr("LNSynthLib.cases.fetch.idc_address", lambda: "http://127.0.0.1:9")
    began, study = time.monotonic(), Study("ABD_LYMPH_001", "1.2", "1.3", "", 20)
    with pytest.raises(LNSynthError, match="cannot be reached"):
        fetch_collection("ct_lymph_nodes", tmp_path / "d", studies=lambda name: [study])
    assert time.monotonic() - began < 20
