"""The report of an experiment: its numbers are those of the measures, and what is not done is never a number."""

import csv
import re
import shutil

import numpy as np
import pytest
from made_experiment import CASES, TESTED, finish, forget, make_experiment

from LNSynthLib.evaluation.froc import froc
from LNSynthLib.evaluation.segmentation import METRICS, CaseScore, intervals, pool, score_case
from LNSynthLib.evaluation.statistics import compare, mean_interval
from LNSynthLib.experiment.report import figures, findings, tables, tables_html
from LNSynthLib.experiment.report.results import Results
from LNSynthLib.experiment.report.write import write_report
from LNSynthLib.images.pictures import PAPER, WARNING
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.files import read_json, write_json

ROWS = ["Real", "GAN", "LN-DDPM", "Both"]
SCALES = {"assd_mm": "positive", "false_positives": "positive"}  # else unit


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = make_experiment(tmp_path_factory.mktemp("experiment"), seeds=(0, 1))
    write_report(made.out)
    return made


@pytest.fixture(scope="module")
def half(made, tmp_path_factory):
    """The same with pieces missing: all that comes of GAN but its generator, and one seed of Both."""
    out = tmp_path_factory.mktemp("half") / "out"
    shutil.copytree(made.out, out)
    gone = [cell for cell in made.layout.cells if cell.kind != "generator" and "gan" in cell.name]
    both = made.layout.tables["main"][3]
    forget(out, *gone, both.scores[1], *made.layout.filters["lnddpm"])
    result = write_report(out)
    assert (result["cells"] - result["done"], result["page"]) == (len(gone) + 3, str(out / "report.html"))
    return out


def read_csv(path):
    with open(path, newline="") as stream:
        return list(csv.DictReader(stream))


def scores(made, label):
    """Straight from the predictions, without the experiment's cells: [(seed, case, score)]."""
    found = []
    for seed in made.plan.seeds:
        for name in TESTED:
            nodes, chance = made.predicted[label, seed][name]
            found.append((seed, name, score_case(nodes, made.cases[name].nodes(), made.cases[name].spacing,
                                                 made.plan.score, chance)))
    return found


def patients(found):
    return [CASES[case][2] for _, case, _ in found]


def near(value):
    return pytest.approx(value, rel=1e-9, abs=1e-12)


def body(out):
    return (out / "report.html").read_text(encoding="utf-8")


def table_rows(page, title):
    """Texts of the cells of the table after a heading, by the first cell."""
    part = page[page.index(f"<h3>{title}</h3>"):]
    part = part[part.index("<table"):part.index("</table>")]
    cells = [[re.sub("<[^>]*>", " ", cell).split() for cell in re.split("<td[^>]*>|<th>", row)[1:]]
             for row in part.split("<tr")[1:]]
    return {" ".join(row[0]): [" ".join(cell) for cell in row[1:]] for row in cells if row}


def test_means_and_intervals_are_those_of_the_measures(made):
    rows = {row["row"]: row for row in read_csv(made.out / "report" / "main.csv")}
    assert list(rows) == ROWS
    for label, row in rows.items():
        found = scores(made, label)
        those = [score for *_, score in found]
        pooled, spreads = pool(those, made.plan.score), intervals(those, patients(found), made.plan.score)
        for metric in METRICS:
            assert float(row[metric]) == near(pooled[metric])
            assert float(row[f"{metric}_low"]) == near(spreads[metric].low)
            assert float(row[f"{metric}_high"]) == near(spreads[metric].high)
        assert (row["seeds"], row["cases"], row["patients"]) == ("2", "5", "4")
    assert (rows["Real"]["paper_dsc"], rows["GAN"]["paper_dsc"]) == ("0.5273", "")
    strata = {(row["row"], row["short_axis_mm"]): row for row in
              read_csv(made.out / "report" / "main_by_short_axis.csv")}
    wanted = pool([score for *_, score in scores(made, "Both")])["node_recall_by_short_axis"]
    assert {name: (int(strata["Both", name]["nodes"]), int(strata["Both", name]["found"])) for name in wanted} == {
        name: (stratum["nodes"], stratum["found"]) for name, stratum in wanted.items()}
    assert sum(stratum["nodes"] for stratum in wanted.values()) == 3 * 5 * 2  # three nodes, five cases, two seeds


def test_few_patients_are_shown_one_by_one_beside_their_intervals(made, monkeypatch):
    results = Results(made.out)
    lines = tables.lines(results, "main")
    shown = tables_html.segmentation(results, "main", lines)
    owners = sorted({CASES[case][2] for case in TESTED})
    assert f"Patient by patient: {', '.join(owners)}" in shown and "Resources/confidence_intervals.md" in shown
    found = scores(made, "Real")
    means = [np.mean([score.dsc for (*_, score), owner in zip(found, patients(found), strict=True) if owner == one])
             for one in owners]
    part = shown[shown.index("Patient by patient"):]
    assert " &nbsp; ".join(f"{mean:.3f}" for mean in means) in part
    monkeypatch.setattr(tables, "FEW", len(owners))
    enough = tables_html.segmentation(results, "main", lines)
    assert "Patient by patient" not in enough and "confidence_intervals" not in enough


def test_several_seeds_count_as_their_mean_case_by_case(made):
    """What the tables compute on all (seed, case) equals averaging a case's scores over seeds first."""
    line = tables.lines(Results(made.out), "main")[1]
    found = scores(made, "GAN")
    means = {metric: [float(np.mean([getattr(s, metric) for _, name, s in found if name == case])) for case in TESTED]
             for metric in METRICS}
    owners = [CASES[case][2] for case in TESTED]
    reference = scores(made, "Both")
    for metric in METRICS:
        assert line.pooled[metric] == near(np.mean(means[metric]))
        one = mean_interval(means[metric], SCALES.get(metric, "unit"), patients=owners)
        assert (line.intervals[metric].low, line.intervals[metric].high) == (near(one.low), near(one.high))
        base = [float(np.mean([getattr(s, metric) for _, name, s in reference if name == case])) for case in TESTED]
        alone = compare(base, {"GAN": means[metric]}, owners)["GAN"]
        assert (line.versus[metric].p, line.versus[metric].patients) == (near(alone.p), 4)
        assert line.versus[metric].difference == near(alone.difference)


def test_comparisons_are_with_the_reference_and_corrected_within_the_table(made):
    rows = read_csv(made.out / "report" / "comparisons.csv")
    found = {label: scores(made, label) for label in ROWS}
    for metric in METRICS:
        values = {label: [getattr(s, metric) for *_, s in those] for label, those in found.items()}
        wanted = compare(values.pop("Both"), values, patients(found["Both"]))
        got = {row["row"]: row for row in rows if row["measure"] == metric}
        assert list(got) == ROWS[:3] and {row["reference"] for row in got.values()} == {"Both"}
        for label, test in wanted.items():
            assert float(got[label]["p"]) == near(test.p) and float(got[label]["p_holm"]) == near(test.p_holm)
            assert float(got[label]["reference_minus_row"]) == near(test.difference)
    shown = table_rows(body(made.out), "Table 2. Segmentation")
    assert shown["Both"][-2:] == ["reference"] * 2
    assert shown["Real"][-2] == tables_html.p_value(float(next(r["p_holm"] for r in rows if r["row"] == "Real"
                                                          and r["measure"] == "dsc")))


def test_a_difference_is_paired_and_has_its_interval(made):
    lines = {line.row.label: line for line in tables.lines(Results(made.out), "main")}
    found = tables.difference(lines["Both"], lines["Real"], "dsc")
    both, real = scores(made, "Both"), scores(made, "Real")
    apart = [a.dsc - b.dsc for (*_, a), (*_, b) in zip(both, real, strict=True)]
    assert found == mean_interval(apart, patients=patients(both))
    assert tables.difference(lines["Both"], lines["Both"], "dsc").mean == 0


def test_image_measures_are_those_of_the_samples(made):
    rows = {row["row"]: row for row in read_csv(made.out / "report" / "images.csv")}
    for method, label in (("gan", "GAN"), ("lnddpm", "LN-DDPM")):
        cells = made.layout.images[method]
        told = [read_json(cell.folder(made.out) / "cell.json")["result"] for cell in cells]
        for name in ("mse_01", "mse", "psnr", "ms_ssim", "organ_error_hu", "contrast_hu"):
            means = [result["summary"]["metrics"][name]["mean"] for result in told]
            assert float(rows[label][name]) == near(np.mean(means))
        assert rows[label]["lpips"] == rows[label]["fid"] == ""  # no features were given
        nodes = [CaseScore.from_dict(node["score"]) for result in told for node in result["nodes"]]
        assert float(rows[label]["node_recall_synt"]) == near(pool(nodes, made.plan.score)["node_recall"])
    assert float(rows["GAN"]["node_recall_synt"]) < float(rows["LN-DDPM"]["node_recall_synt"])
    samples = read_csv(made.out / "report" / "per_sample.csv")
    assert float(rows["GAN"]["mse"]) == near(np.mean([float(s["mse"]) for s in samples if s["row"] == "GAN"]))
    shown = table_rows(body(made.out), "Table 1. Images")
    assert shown["GAN"][0].startswith(f"{float(rows['GAN']['mse_01']):.4f}")
    assert shown["GAN"][0].endswith("paper 0.0421") and rows["GAN"]["paper_mse_01"] == "0.0421"
    assert float(rows["GAN"]["mse_01"]) == near(float(rows["GAN"]["mse"]) / 4)
    assert "images in [0, 1]" in body(made.out) and "paper" not in shown["LN-DDPM"][0]
    assert shown["the real patches"][9].startswith(f"{np.mean([float(s['real_contrast_hu']) for s in samples]):.1f}")
    assert "LPIPS, FID and MMD are empty: no MedicalNet weights" in body(made.out)


def test_one_seed_s_images_have_the_intervals_of_their_cell(half, made):
    """The interval of the table is that of `evaluate_samples`."""
    results = Results(half)
    cell = made.layout.images["lnddpm"][1]
    forget(half, cell)
    line = tables.image_lines(Results(half), "images")[1]
    told = results.result(made.layout.images["lnddpm"][0])["summary"]["metrics"]["psnr"]
    assert line.seeds == 1 and line.intervals["psnr"].mean == near(told["mean"])
    assert (line.intervals["psnr"].low, line.intervals["psnr"].high) == (near(told["low"]), near(told["high"]))
    shutil.copy(cell.folder(made.out) / "cell.json", cell.folder(half) / "cell.json")


def test_samples_measured_by_an_older_version_have_the_papers_mse_too(half):
    for path in half.glob("cells/images/*/images.json"):
        told = read_json(path)
        write_json(path, {**told, "samples": [{name: value for name, value in row.items() if name != "mse_01"}
                                              for row in told["samples"]]})
    line = tables.image_lines(Results(half), "images")[1]
    assert line.intervals["mse_01"].mean == near(line.intervals["mse"].mean / 4)


def test_what_is_not_done_is_said_and_never_a_number(half):
    page = body(half)
    assert "Not finished:" in page
    shown = table_rows(page, "Table 2. Segmentation")
    assert shown["GAN"] == ["not yet"] * 9  # seven measures, two p values
    assert all(re.search(r"\d", cell) for cell in shown["LN-DDPM"])
    assert shown["Real"][0].endswith("paper 0.527") and "Both: 1 of 2 seeds so far" in page
    assert set(table_rows(page, "Table 1. Images")["GAN"]) == {"not yet", "not yet paper 0.0421"}
    assert table_rows(page, "NodeRecall by short axis (Table 2)")["GAN"] == ["not yet"] * 4
    rows = {row["row"]: row for row in read_csv(half / "report" / "main.csv")}
    assert rows["GAN"]["dsc"] == rows["GAN"]["dsc_low"] == "" and rows["GAN"]["seeds"] == "0"
    assert {row["row"] for row in read_csv(half / "report" / "comparisons.csv")} == {"Real", "LN-DDPM"}
    assert {row["row"] for row in read_csv(half / "report" / "per_case.csv")} == {"Real", "LN-DDPM", "Both"}


def test_a_row_of_fewer_seeds_is_compared_where_both_have_one(half, made):
    """Of the reference (Both) one seed is left."""
    line = next(line for line in tables.lines(Results(half), "main") if line.row.label == "Real")
    base, other = ([s.dsc for seed, _, s in scores(made, label) if seed == 0] for label in ("Both", "Real"))
    alone = compare(base, {"Real": other, "LN-DDPM": [s.dsc for seed, _, s in scores(made, "LN-DDPM") if seed == 0]},
                    [CASES[case][2] for case in TESTED])["Real"]
    assert (line.versus["dsc"].difference, line.versus["dsc"].p_holm) == (near(alone.difference), near(alone.p_holm))


def test_an_experiment_that_has_hardly_begun_has_a_report(made, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    shutil.copy(made.out / "plan.json", out)
    result = write_report(out)
    page = body(out)
    assert result["done"] == 0 and result["cells"] == len(made.layout.cells)
    assert set(table_rows(page, "Table 2. Segmentation")["Both"]) <= {"not yet", "not yet paper 0.566", "reference"}
    assert "Too little is done yet" in page and "data:image" not in page
    assert "NOT PATIENTS&#x27; LYMPH NODES" in page  # the plan tells that already
    with pytest.raises(LNSynthError, match="no experiment"):
        write_report(tmp_path)


def test_the_page_needs_nothing_from_elsewhere(made):
    page = body(made.out)
    assert not re.search(r"https?:|href=|<script|<link|@import|url\(", page)
    sources = re.findall(r"src='([^']{0,30})", page)
    assert len(sources) > 20 and all(source.startswith("data:image/") for source in sources)
    assert "a made-up experiment &lt;of tests&gt;" in page and "<of tests>" not in page


def test_the_head_says_what_kind_of_data_it_was_run_on(made, tmp_path):
    page = body(made.out)
    banner = page[page.index("<div class=banner>"):page.index("<h1>")]
    assert "phantoms (procedural drawings" in banner and "painted" in banner and "how well a method does on" in banner
    assert "note of pseudo" in page and "Left out, because its files were not there: <b>elsewhere</b>" in page
    assert re.search(r"<td>phantoms<td>[^<]*<td>1 \(1\)<td>0<td>3 \(3\)<td>", page)
    assert re.search(r"<td>painted<td>[^<]*<td>1 \(1\)<td>0<td>2 \(1\)<td>", page)  # two cases of one patient
    assert "nnunetv2 2.0.test" in page and "<b>Seeds</b>: 0, 1." in page and "40 training steps" in page
    real = tmp_path / "real"
    shutil.copytree(made.out, real)
    for cell in made.layout.data:
        finish(real, cell, read_json(cell.folder(made.out) / "cell.json")["result"] | {"kind": "real"})
    write_report(real)
    assert "class=banner>" not in body(real) and "CTs of patients with their own nodes" in body(real)


def test_cells_of_other_settings_are_not_shown_but_mentioned(made, tmp_path):
    out, plan = tmp_path / "out", read_json(made.out / "plan.json")
    shutil.copytree(made.out / "cells", out / "cells")
    plan["plan"]["score"] = {"found_dsc": 0.2}  # touches scores and images
    write_json(out / "plan.json", plan)
    result = write_report(out)
    gone = [cell for cell in made.layout.cells if cell.kind in ("scores", "images")]
    assert result["cells"] - result["done"] == len(gone)
    assert f"also holds {len(gone)} finished cells of other settings" in body(out)
    assert "of other settings" not in body(made.out)


def test_the_report_s_plan_runs_the_same_experiment(made):
    from LNSynthLib.experiment.plan import load_plan

    assert load_plan(made.out / "report" / "plan.yaml") == made.plan


def red(picture):
    return np.argwhere((picture[..., 0] > 200) & (picture[..., 1] < 90) & (picture[..., 2] < 90))


def green(picture):
    return np.argwhere((picture == figures.TRUTH).all(-1))


def test_figure_4_has_the_condition_the_real_patch_and_a_column_a_method(made, half):
    examples = figures.figure4(Results(made.out))
    assert [example.title.split(",")[0] for example in examples] == ["painted-1", "phantom-1", "painted-2"]  # in turns
    for example, source in zip(examples, ("real CT, painted nodes", "phantom", "real CT, painted nodes"), strict=True):
        (line,) = example.lines
        assert [tile.title for tile in line] == ["condition", source, "GAN", "LN-DDPM"]
        assert all(tile.picture.shape == (figures.PIXELS + figures.BAR, figures.PIXELS, 3) for tile in line)
    missing = figures.figure4(Results(half))[0].lines[0]
    assert [tile.picture is None for tile in missing] == [False, False, True, False]


def test_figure_4_shows_the_same_slice_of_the_samples(made):
    """Without its mark, the LN-DDPM tile is the sample's own slice through the largest node."""
    from LNSynthLib.images.volume import read

    results = Results(made.out)
    tile = figures.figure4(results)[0].lines[0][3]
    sample = made.layout.twins["lnddpm"][0].folder(made.out) / "samples" / "painted-1-000"
    hu, nodes = read(sample / "ct.nii.gz"), read(sample / "nodes.nii.gz")
    frame = figures.Frame.around(nodes.array, hu.spacing, (-120, 240))
    largest = nodes.array == np.bincount(nodes.array.ravel())[1:].argmax() + 1
    assert largest[:, :, frame.index].sum() == largest.sum((0, 1)).max()
    np.testing.assert_array_equal(frame.show(hu.array)[:-figures.BAR], tile.picture[:-figures.BAR])
    assert (frame.show(hu.array)[-figures.BAR:] == PAPER).all()
    assert (tile.picture[-figures.BAR:] == WARNING).all(-1).mean() > 0.7  # SYNTHETIC is written on it


def test_figure_5_has_truth_and_a_picture_a_row(made, half):
    examples = figures.figure5(Results(made.out), "main")
    assert [example.title for example in examples] == ["painted-1", "phantom-1", "painted-2"]
    for example in examples:
        first, second = ([tile.title for tile in line] for line in example.lines)
        assert first == ["truth", "Real", "GAN", "LN-DDPM"] and second == ["truth", "Both"]
        case = made.cases[example.title]
        frame = figures.Frame.around(case.nodes(), case.spacing, (-120, 240))
        for tile in (tile for line in example.lines for tile in line):
            above = tile.picture[:-figures.BAR]  # the bar is red too
            assert len(green(above)) > 50
            if tile.title == "truth":
                assert not len(red(above))
                continue
            found = made.predicted[tile.title, 0][example.title][0][(*frame.box, frame.index)]
            assert (len(red(above)) > 0) == (found > 0).any()
            score = next(s for seed, name, s in scores(made, tile.title) if (seed, name) == (0, example.title))
            assert tile.note == f"DSC {score.dsc:.2f}"
    assert [tile.picture is None for tile in figures.figure5(Results(half), "main")[0].lines[0]] == [
        False, False, True, False]


def test_the_froc_file_has_the_pooled_curves(made):
    rows = [row for row in read_csv(made.out / "report" / "froc.csv") if row["row"] == "LN-DDPM"]
    curve = froc([score for *_, score in scores(made, "LN-DDPM")])
    assert [float(row["sensitivity"]) for row in rows] == near(list(curve.sensitivity))
    assert [float(row["false_positives_a_case"]) for row in rows] == near(list(curve.false_positives))


def test_the_side_files_say_what_was_spent_kept_and_copied(made, half):
    page = body(made.out)
    (cost,) = [row for row in read_csv(made.out / "report" / "cost.csv") if row["generator"] == "lnddpm-seed0"]
    assert (cost["parameters"], cost["training_tflop"], cost["training_seconds"]) == ("1500000", "3.0", "20.0")
    assert (cost["samples"], cost["seconds_per_sample"]) == ("2", "4.0")  # 8 s for two pairs
    filtered = read_json(made.layout.filters["lnddpm"][0].folder(made.out) / "cell.json")["result"]
    assert f"<td>{filtered['samples']}<td>{filtered['kept']}<td>" in page and "0.7" in page
    copies = read_json(made.layout.memorisation["lnddpm"][0].folder(made.out) / "cell.json")["result"]
    copies = copies["summary"]["memorisation"]
    assert f"LN-DDPM, lnddpm-seed0<td>{len(copies['flagged'])} of {copies['judged']}" in page
    assert re.search(r"<td>lnddpm-seed0<td><span class=missing>not yet", body(half))  # the filter of the other
    learning = [row for row in read_csv(made.out / "report" / "learning_segmenters.csv") if row["row"] == "Real"]
    assert [row["epoch"] for row in learning] == ["1", "2", "3"] * 2 and learning[1]["pseudo_dice"] == "0.2"
    loss = [float(row["loss"]) for row in read_csv(made.out / "report" / "learning_generators.csv")
            if (row["method"], row["run"]) == ("GAN", "0")]
    assert loss == near([1 / (i + 1) for i in range(40)])
    data = read_csv(made.out / "report" / "data.csv")
    assert [row["id"] for row in data] == list(CASES) and data[0]["sha256_ct"] == "ct-phantom-0"
    assert all(row["id"] in page and row["sha256_nodes"] in page for row in data)
    assert all(cell.key[:16] in page for cell in made.layout.cells)


def test_the_findings_follow_from_the_numbers(made):
    results = Results(made.out)
    lines, images = tables.lines(results, "main"), tables.image_lines(results, "images")
    by_label = {line.row.label: line for line in lines}
    rank = findings.shows(results, lines, images)[0]
    first = max(("GAN", "LN-DDPM"), key=lambda label: by_label[label].pooled["dsc"])
    assert f"LN-DDPM has the {'highest' if first == 'LN-DDPM' else 'second highest'} DSC of 2 generators" in rank
    assert f"{by_label['LN-DDPM'].pooled['dsc']:.3f}" in rank
    apart = tables.difference(by_label["LN-DDPM"], by_label["GAN"], "dsc")
    assert f"{abs(apart.mean):.3f}" in rank and findings.verdict(apart) in rank
    both = next(words for words in findings.shows(results, lines, images) if words.startswith("Both against Real, DSC"))
    assert findings.verdict(tables.difference(by_label["Both"], by_label["Real"], "dsc")) in both
    ours = next(line for line in images if line.row.label == "LN-DDPM")
    real = np.mean([row["real_contrast_hu"] for row in ours.samples])
    contrast = findings.shows(results, lines, images)[-1]
    assert f"by {ours.intervals['contrast_hu'].mean:.0f} HU, where" in contrast and f"by {real:.0f} HU. Of" in contrast
    assert "Of 2 methods LN-DDPM comes nearest" in contrast
    limits = " ".join(findings.limits(results, lines))
    assert "4 test patients" in limits and "40 steps" in limits and "4 mm" in limits and "lymph nodes." in limits
    assert "trained once" not in limits  # two seeds
