"""LN-DDPM's loss and sampling against what the equations say, and its checkpoints."""

import json
import math

import numpy as np
import pytest
import torch
from streams import streams

from LNSynthLib.conditions.encode import encode, scale_hu, unscale_hu
from LNSynthLib.generators import model_folder
from LNSynthLib.generators.protocol import Generator
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.runtime.errors import LNSynthError
from LNSynthLib.runtime.settings import resources

SETTINGS = {
    "form": {"anatomy_channels": 3, "patch": [8, 8, 8]},
    "denoiser": {"channels": [8, 16], "blocks": 1, "groups": 4, "heads": 2, "head_width": 8, "token_width": 8},
    "timesteps": 50,
}


def tiny(**changes):
    """With random weights throughout: as created, the last convolution is zero and the network invisible."""
    torch.manual_seed(0)
    generator = model_folder.create("lnddpm", {**SETTINGS, **changes})
    torch.nn.init.normal_(generator.denoiser.conv_out.weight, std=0.1)
    return generator


def condition(batch=2, seed=0):
    rng = np.random.default_rng(seed)
    return torch.stack([encode(rng.integers(0, 3, (8, 8, 8)), rng.integers(0, 2, (8, 8, 8)), 3)
                        for _ in range(batch)])


def perfect(generator, truth):
    """Puts in place of the denoiser one that knows the clean volume: its noise or velocity, exactly."""
    def predict(x, t, _condition):
        a = generator.process.alpha_bar[t].reshape(-1, 1, 1, 1, 1)
        alpha, sigma = a.sqrt(), (1 - a).sqrt()
        noise = (x - alpha * truth) / sigma
        mean = alpha * 0.25 / (0.25 * a + 1 - a) * x  # of x_0 ~ N(0, 0.5^2) given x_t: product of two Gaussians
        deviation = (1 / (1 / 0.25 + a / (1 - a))).sqrt()
        return {"noise": noise, "velocity": alpha * noise - sigma * truth,
                "preconditioned": (truth - mean) / deviation}[generator.settings.prediction].to(x)
    generator.predict = predict


def test_it_is_a_generator():
    assert isinstance(tiny(), Generator)


@pytest.mark.parametrize("prediction", ["noise", "velocity", "preconditioned"])
def test_loss_of_a_perfect_denoiser_is_zero(prediction):
    generator = tiny(prediction=prediction)
    image = torch.rand(2, 1, 8, 8, 8) * 2 - 1
    perfect(generator, image)
    batch = {"image": image, "condition": condition()}
    assert generator.loss(batch, streams(2))["loss"] < 1e-3


def test_loss_of_an_untrained_denoiser_is_the_mean_absolute_noise():
    # The last convolution starts at zero, so the loss is E|N(0, 1)| = sqrt(2 / pi).
    batch = {"image": torch.zeros(2, 1, 16, 16, 16), "condition": torch.zeros(2, 4, 16, 16, 16)}
    loss = model_folder.create("lnddpm", SETTINGS).loss(batch, streams(2))["loss"].item()
    assert loss == pytest.approx(math.sqrt(2 / math.pi), abs=0.02)


@pytest.mark.parametrize("sampler, steps", [("dpmpp", 10), ("ddim", 10), ("ddpm", 50)])
@pytest.mark.parametrize("prediction", ["noise", "velocity", "preconditioned"])
def test_sampling_with_a_perfect_denoiser_returns_the_truth(sampler, steps, prediction):
    generator = tiny(prediction=prediction)
    truth = torch.rand(2, 1, 8, 8, 8, dtype=torch.float64) * 2 - 1
    perfect(generator, truth)
    result = generator.sample(condition().double(), seeds=[1, 2], sampler=sampler, steps=steps)
    assert torch.allclose(result, truth, atol=1e-3)


def test_a_sample_depends_on_its_own_seed_alone():
    generator, c = tiny(), condition(3)
    together = generator.sample(c, seeds=[5, 6, 7], sampler="ddpm", steps=5)
    alone = generator.sample(c[1:2], seeds=[6], sampler="ddpm", steps=5)
    assert torch.allclose(together[1:2], alone, atol=1e-5)
    assert not torch.allclose(together[1:2], generator.sample(c[1:2], seeds=[8], sampler="ddpm", steps=5), atol=1e-2)


@pytest.mark.parametrize("sampler", ["dpmpp", "ddim", "ddpm"])
def test_kept_voxels_come_back_as_they_were(sampler):
    generator = tiny()
    known = torch.rand(1, 1, 8, 8, 8) * 1.8 - 0.9
    keep = torch.ones(1, 1, 8, 8, 8)
    keep[..., 2:6, 2:6, 2:6] = 0
    result = generator.sample(condition(1), seeds=[1], sampler=sampler, steps=10, known=known, keep=keep)
    assert torch.allclose(result[keep > 0], known[keep > 0], atol=1e-6)
    assert not torch.allclose(result[keep == 0], known[keep == 0], atol=0.05)


def test_kept_voxels_reach_the_denoiser_at_the_noise_level_of_each_step():
    generator = tiny()
    known, keep = torch.zeros(1, 1, 16, 16, 16), torch.ones(1, 1, 16, 16, 16)
    seen = []
    predict = generator.predict
    generator.predict = lambda x, t, c: (seen.append((int(t[0]), x.std().item())), predict(x, t, c))[1]
    generator.sample(torch.zeros(1, 4, 16, 16, 16), seeds=[1], sampler="ddpm", steps=10, known=known, keep=keep)
    for t, std in seen:
        assert std == pytest.approx(math.sqrt(1 - generator.process.alpha_bar[t].item()), rel=0.05)


def test_the_node_only_ablation_ignores_the_anatomy():
    generator = tiny(anatomy=False)
    torch.nn.init.normal_(generator.denoiser.conv_out.weight)
    c = condition(1)
    other = c.clone()
    other[:, :3] = other[:, :3].flip(1)
    x, t = torch.randn(1, 1, 8, 8, 8), torch.tensor([5])
    assert torch.equal(generator.predict(x, t, c), generator.predict(x, t, other))
    other[:, 3] = 1 - other[:, 3]
    assert not torch.equal(generator.predict(x, t, c), generator.predict(x, t, other))


def test_untrained_preconditioned_samples_are_gaussian_about_the_expected_hu():
    # The denoiser starts at zero, so x_0 ~ N(e, s^2) is what it knows; many steps must return just that.
    generator = model_folder.create("lnddpm", {**SETTINGS, "prediction": "preconditioned", "data_std": 0.1,
                                             "timesteps": 300, "form": {**SETTINGS["form"], "expected_hu": True}})
    c = torch.zeros(1, 5, 16, 16, 16)
    c[:, -1] = 0.4
    result = generator.sample(c, seeds=[1], sampler="ddim", steps=300)
    assert result.mean().item() == pytest.approx(0.4, abs=0.01)
    assert result.std().item() == pytest.approx(0.1, rel=0.05)


def test_wrong_patch_and_sampler_are_refused():
    with pytest.raises(LNSynthError, match="multiples of 2"):
        tiny().sample(torch.zeros(1, 4, 7, 8, 8), seeds=[1])
    with pytest.raises(LNSynthError, match="no sampler 'euler'"):
        tiny().sample(condition(1), seeds=[1], sampler="euler")


def test_checkpoint_round_trip(tmp_path):
    generator = tiny()
    model_folder.save(tmp_path / "g", generator, {"note": "phantoms"})
    loaded, facts = model_folder.load(tmp_path / "g")
    assert loaded.settings == generator.settings and facts["note"] == "phantoms" and not loaded.training
    for name, tensor in generator.state_dict().items():
        assert torch.equal(tensor, loaded.state_dict()[name])


def test_checkpoint_in_half_precision_and_from_a_run(tmp_path):
    generator = tiny()
    _, facts = model_folder.load(model_folder.save(tmp_path / "full", generator))
    model_folder.save(tmp_path / "run" / "generator", generator, facts, dtype=torch.float16)  # facts of other weights
    loaded, _ = model_folder.load(tmp_path / "run")
    for name, tensor in generator.state_dict().items():
        assert loaded.state_dict()[name].dtype == torch.float32
        assert torch.allclose(tensor, loaded.state_dict()[name], atol=1e-3)


def test_the_label_table_travels_with_the_generator(tmp_path):
    table = tmp_path / "mine.yaml"
    table.write_text((resources() / "labels" / "abdomen14.yaml").read_text())
    folder = model_folder.save(tmp_path / "g", tiny(form={**SETTINGS["form"], "labels": str(table)}))
    assert str(tmp_path) not in (folder / "model.json").read_text()  # a generator is given away
    assert model_folder.load(folder)[0].form.labels == model_folder.form(folder).labels == str(folder / "labels.yaml")
    table.write_text(table.read_text().replace("hu: 108", "hu: 60"))
    generator, _ = model_folder.load(folder)
    liver = LabelTable.load(generator.form.labels).labels[6]
    assert generator.form.labels == str(folder / "labels.yaml") and (liver.name, liver.hu) == ("liver", 108)
    table.unlink()
    assert model_folder.load(folder)[0].form.labels == str(folder / "labels.yaml")


def test_weights_that_are_no_numbers_make_no_image():
    generator = tiny()
    torch.nn.init.constant_(generator.denoiser.conv_out.bias, float("nan"))
    with pytest.raises(LNSynthError, match="not finite"):
        generator.sample(condition(1), seeds=[1], steps=3)


def test_a_patch_that_cannot_be_halved_is_refused():
    with pytest.raises(LNSynthError, match="multiples of 2"):
        tiny(form={"anatomy_channels": 3, "patch": [9, 8, 8]})


def test_damaged_and_foreign_checkpoints_are_refused(tmp_path):
    with pytest.raises(LNSynthError, match="holds no generator"):
        model_folder.load(tmp_path)
    folder = model_folder.save(tmp_path / "g", tiny())
    weights = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(weights[:-100])
    with pytest.raises(LNSynthError, match="damaged"):
        model_folder.load(folder)
    (folder / "model.safetensors").write_bytes(weights)
    facts = json.loads((folder / "model.json").read_text())
    facts["settings"]["denoiser"]["channels"] = [8, 32]
    (folder / "model.json").write_text(json.dumps(facts))
    with pytest.raises(LNSynthError, match="does not fit"):
        model_folder.load(folder)


def test_unknown_settings_are_refused():
    with pytest.raises(LNSynthError, match="unknown setting 'width'"):
        model_folder.create("lnddpm", {"denoiser": {"width": 3}})
    with pytest.raises(LNSynthError, match="no generator 'vae'"):
        model_folder.create("vae", {})


def test_encode():
    anatomy = np.zeros((2, 2, 2), np.uint8)
    anatomy[1] = 2
    nodes = np.zeros((2, 2, 2), np.uint16)
    nodes[0, 0, 0] = 7
    c = encode(anatomy, nodes, 3, expected=np.array([-1.0, 0.0, 0.5, 0.25]))
    assert c.shape == (5, 2, 2, 2)
    assert torch.equal(c[:3].sum(0), torch.ones(2, 2, 2)) and c[2, 1].all() and c[0, 0].all()
    assert c[3].sum() == 1 and c[3, 0, 0, 0] == 1
    assert c[4, 0, 0, 0] == 0.25 and (c[4, 0].flatten()[1:] == -1).all() and (c[4, 1] == 0.5).all()


def test_hu_scaling_is_the_papers():
    hu = np.array([-1000, -120, 60, 240, 900])
    assert np.allclose(scale_hu(hu, (-120, 240)), [-1, -1, 0, 1, 1])
    assert np.allclose(unscale_hu(scale_hu(hu, (-120, 240)), (-120, 240)), [-120, -120, 60, 240, 240])
