"""Med-DDPM: what its network is given, and that it is the authors' U-Net."""

import torch
from monai.networks.nets.diffusion_model_unet import DiffusionUNetResnetBlock

from LNSynthLib.generators import model_folder
from LNSynthLib.masks.labels import LabelTable
from LNSynthLib.training.cost import parameters
from LNSynthLib.training.settings import load_preset, make_generator

FORM = {"anatomy_channels": 3, "patch": [8, 8, 8]}


def test_the_network_sees_the_noised_volume_nodes_and_body_and_no_organ():
    generator = model_folder.create("medddpm", {"form": FORM, "denoiser": {"channels": [8, 16], "groups": 4,
                                                                         "attention": []}})
    seen = []
    generator.denoiser.forward = lambda h, t: (seen.append(h), h[:, :1])[1]
    labels = torch.randint(0, 3, (2, 8, 8, 8), generator=torch.Generator().manual_seed(0))
    nodes = (labels == 2) & (torch.rand(2, 8, 8, 8, generator=torch.Generator().manual_seed(1)) < 0.5)
    condition = torch.stack([labels == 0, labels == 1, labels == 2, nodes], dim=1).float()
    x = torch.randn(2, 1, 8, 8, 8)
    generator.predict(x, torch.tensor([3, 9]), condition)
    condition[:, 1:3] = condition[:, 1:3].flip(1)  # organs change, the body does not
    generator.predict(x, torch.tensor([3, 9]), condition)
    h, same = seen
    assert torch.equal(h[:, :1], x) and h.shape[1] == 3 and torch.equal(h, same)
    assert torch.equal(h[:, 1] > 0, nodes) and torch.equal(h[:, 2] > 0, labels > 0)
    assert set(h[:, 1:].unique().tolist()) == {-1.0, 1.0}


def test_the_first_channel_of_the_label_table_is_air():
    assert LabelTable.load("abdomen14").labels[0].name == "air"


def test_the_papers_network_is_the_authors():
    """Of `create_model(128, 64, 1)` in their code: widths, blocks, attention; one halving fewer than levels."""
    generator = make_generator(load_preset("paper", kind="medddpm"))
    assert generator.stride == 16 and generator.settings.loss == "l1" and generator.settings.schedule == "cosine"
    net = generator.denoiser
    blocks = [m for m in net.modules() if isinstance(m, DiffusionUNetResnetBlock)]
    assert len(blocks) == 5 + 2 + 2 * 5  # down, middle, up
    assert [len(block.resnets) for block in net.down_blocks] == [1] * 5
    attended = [[bool(len(getattr(b, "attentions", []))) for b in part] for part in (net.down_blocks, net.up_blocks)]
    assert attended == [[False, False, False, True, False], [False, True, False, False, False]]
    assert not net.out[-1].conv.weight.any()
    # Counted by hand from their layers, three input channels: see the sum below.
    assert parameters(generator) == by_hand()


def by_hand(widths=(64, 64, 128, 192, 256), time=256):
    """Parameters of guided-diffusion's U-Net, one residual block a level, without scale and shift."""
    def conv(a, b, kernel=27):
        return kernel * a * b + b

    def block(a, b):
        return 2 * a + conv(a, b) + (time * b + b) + 2 * b + conv(b, b) + (conv(a, b, 1) if a != b else 0)

    def attention(w):
        return 2 * w + 3 * (w * w + w) + (w * w + w)

    total = (64 * time + time) + (time * time + time) + conv(3, widths[0])
    skips, width = [widths[0]], widths[0]
    for level, w in enumerate(widths):
        total += block(width, w) + (attention(w) if level == 3 else 0)
        width = w
        skips.append(w)
        if level < 4:
            total += conv(w, w)
            skips.append(w)
    total += 2 * block(width, width) + attention(width)
    for level, w in reversed(list(enumerate(widths))):
        for _ in range(2):
            total += block(width + skips.pop(), w) + (attention(w) if level == 3 else 0)
            width = w
        total += conv(w, w) if level else 0
    return total + 2 * width + conv(width, 1)
